"""Parameters of cells in the arrays of another library, and back, by a row of `conventions`.

Every array, ours too, is put together from blocks: a part of a kernel, a bias or a peephole that
belongs to one gate. A row says where each block is; a conversion takes one layout apart and puts
the other together, in either direction.

Axes: `I` input features, `H` features, `R` recurrent features, `n` gates.
"""

from collections.abc import Container, Mapping
from typing import Any

import jax.numpy as jnp
from jax import Array

from gatedrnn._interop.arrays import Arrays
from gatedrnn._interop.conventions import OURS, CellConvention, LibraryConvention
from gatedrnn._interop.supported import cannot, row_of
from gatedrnn._src import validation
from gatedrnn._src.base import Params
from gatedrnn._src.cells.elman import Elman, ElmanParams
from gatedrnn._src.cells.gru import GRU, GRUParams, Update
from gatedrnn._src.cells.lstm import LSTM, LSTMParams

Block = tuple[str, str]  # a field of `CellConvention` and a gate
Shape = tuple[int | None, ...]  # None for an axis of any size

PARAMS: dict[type, Any] = {Elman: ElmanParams, LSTM: LSTMParams, GRU: GRUParams}


def cell_of(row: CellConvention, features: int, use_bias: bool = True, **options: Any) -> Any:
    """Return our cell for a row, in the form that the row has unless the options say otherwise."""
    if row.cell is GRU:
        options = {"reset": row.resets[0], "update": row.updates[0], **options}
    return row.cell(features, use_bias=use_bias, **options)


# Blocks in arrays --------------------------------------------------------------------------------


def _blocks_of(row: CellConvention, cell: Any) -> dict[str, list[list[Block]]]:
    """The blocks of each array, by its name, in rows and columns."""
    ours = row in OURS.cells
    absent = "f" if ours and getattr(cell, "coupled", False) else ""
    found: dict[str, list[list[Block]]] = {}

    def add(field: str, names: tuple[str, ...], gates: str) -> None:
        blocks = [(field, gate) for gate in gates if gate not in absent]
        each = [blocks] if len(names) == 1 else [[block] for block in blocks]
        for name, own in zip(names, each, strict=False):
            found.setdefault(name, []).append(own)  # below what is there already

    add("kernel", row.kernel, row.gates)
    add("recurrent_kernel", row.recurrent_kernel, row.gates)
    if cell.use_bias or not row.bias_optional:
        add("bias", row.bias, row.gates)
        if not (ours and getattr(cell, "reset", None) == "before"):
            add("recurrent_bias", row.recurrent_bias, row.recurrent_bias_gates or row.gates)
    if getattr(cell, "peephole", None) is not None:
        for name, gates in row.peephole.items():
            add("peephole", (name,), gates)
    if getattr(cell, "projection", None) is not None:
        add("projection", (row.projection,), "r")  # one block, of no gate
    return found


def _sizes(cell: Any, in_features: int | None) -> dict[str, Shape]:
    """The shape of a block of each field."""
    features = cell.features
    recurrent = getattr(cell, "projection", None) or features
    vectors = dict.fromkeys(("bias", "recurrent_bias", "peephole"), (features,))
    return vectors | {
        "kernel": (in_features, features),
        "recurrent_kernel": (recurrent, features),
        "projection": (features, recurrent),
    }


def shapes_of(row: CellConvention, cell: Any, in_features: int | None) -> dict[str, Shape]:
    """The shapes of the arrays that hold the parameters of `cell`, by name."""
    sizes, shapes = _sizes(cell, in_features), {}
    for name, rows in _blocks_of(row, cell).items():
        *inputs, features = zip(*(sizes[own[0][0]] for own in rows), strict=True)
        width = len(rows[0]) * (features[0] or 0)
        if not inputs and len(rows) > 1:
            shape: Shape = (2, width) if row.bias_pair == "rows" else (2 * width,)
        elif not inputs:
            shape = (width,)
        else:
            shape = (None if None in inputs[0] else sum(inputs[0]), width)
            shape = shape[::-1] if row.gate_axis == "rows" else shape
        shapes[name] = shape
    return shapes


def _together(row: CellConvention, cell: Any, blocks: Mapping[Block, Array]) -> dict[str, Array]:
    """The arrays of a row, by name, from blocks."""
    arrays = {}
    for name, rows in _blocks_of(row, cell).items():
        each = [jnp.concatenate([blocks[block] for block in own], axis=-1) for own in rows]
        if each[0].ndim == 1 and len(each) > 1 and row.bias_pair == "rows":
            arrays[name] = jnp.stack(each)
        else:
            array = jnp.concatenate(each)
            arrays[name] = array.T if row.gate_axis == "rows" else array
    return arrays


def _apart(row: CellConvention, cell: Any, arrays: Mapping[str, Array]) -> dict[Block, Array]:
    """The blocks of the arrays of a row; `_together` undone."""
    blocks: dict[Block, Array] = {}
    for name, rows in _blocks_of(row, cell).items():
        array = arrays[name]
        if rows[0][0][0] in ("kernel", "recurrent_kernel", "projection"):
            array = array.T if row.gate_axis == "rows" else array
            recurrent = _sizes(cell, None)["recurrent_kernel"][0] or 0
            each = [array[:-recurrent], array[-recurrent:]] if len(rows) > 1 else [array]
        else:
            each = list(array.reshape(len(rows), -1))
        for own, part in zip(rows, each, strict=True):
            blocks |= zip(own, jnp.split(part, len(own), axis=-1), strict=True)
    return blocks


# The same function -------------------------------------------------------------------------------


def take_params(
    row: CellConvention, cell: Any, arrays: Arrays, in_features: int | None, path: str = "{}"
) -> Params:
    """The parameters of `cell`, whose arrays have the row's names in a `path` as `"rnn/{}"`.

    Raises:
      TypeError: arrays that are not floating, or of several dtypes.
      ValueError: arrays that are missing or have other shapes.
    """
    found: dict[str, Array] = {}
    for name, shape in shapes_of(row, cell, in_features).items():
        if name in row.kernel[1:]:  # the first one tells how many inputs there are
            shape = found[row.kernel[0]].shape
        found[name] = arrays.take(path.format(name), shape)
    return from_arrays(row, cell, found)


def from_arrays(row: CellConvention, cell: Any, arrays: Mapping[str, Array]) -> Params:
    """The parameters of `cell` from the arrays of a row, by name.

    Two biases are added where only their sum acts.
    """
    blocks = _apart(row, cell, arrays)
    inside = "n" if getattr(cell, "reset", None) == "after" else ""
    for gate in row.gates if cell.use_bias else "":
        second = blocks.get(("recurrent_bias", gate))
        if gate == inside and second is None:
            blocks["recurrent_bias", gate] = jnp.zeros_like(blocks["bias", gate])
        elif gate != inside and second is not None:
            blocks["bias", gate] = blocks["bias", gate] + second
    if row.forget_shift:
        blocks["bias", "f"] = blocks["bias", "f"] + row.forget_shift
    kind = PARAMS[type(cell)]
    found = _together(OURS.row(type(cell).__name__), cell, blocks)
    return kind(**{field: found.get(field) for field in kind._fields})


def to_arrays(
    library: LibraryConvention, cell: Any, params: Any, modules: Container[str] | None = None
) -> dict[str, Array]:
    """The arrays of a library by name, in which `from_arrays` finds the same function.

    Of two biases ours is the first, and the second is zero but for what a GRU adds inside the
    product.

    Args:
      library: it has a row of this form of `cell`.
      cell: one of ours.
      params: its parameters.
      modules: the classes to choose from; None: any.

    Raises:
      ValueError: no row has this form, or a place for a bias of it.
    """
    row = row_of(library, cell, modules)
    if isinstance(cell, GRU) and cell.update not in row.updates:
        params = with_update(params, cell.update, row.updates[0])
    blocks = _apart(OURS.row(type(cell).__name__), cell, params._asdict())
    wanted = {block for rows in _blocks_of(row, cell).values() for own in rows for block in own}
    if ("recurrent_bias", "n") in blocks and ("recurrent_bias", "n") not in wanted:
        _check_zero(library, cell, blocks["recurrent_bias", "n"])
    sizes: Any = _sizes(cell, params.kernel.shape[0])
    for field, gate in wanted - blocks.keys():
        blocks[field, gate] = jnp.zeros(sizes[field], params.kernel.dtype)
    if row.forget_shift:
        blocks["bias", "f"] = blocks["bias", "f"] - row.forget_shift
    return _together(row, cell, blocks)


def with_update(params: GRUParams, update: Update, to: Update) -> GRUParams:
    """The parameters of the same function whose update gate writes, or keeps: `1−σ(a) = σ(−a)`."""
    if update == to:
        return params

    def turned(array: Array) -> Array:
        r, z, n = jnp.split(array, 3, axis=-1)
        return jnp.concatenate([r, -z, n], axis=-1)

    return params._replace(
        kernel=turned(params.kernel),
        recurrent_kernel=turned(params.recurrent_kernel),
        bias=None if params.bias is None else turned(params.bias),
    )


def _check_zero(library: LibraryConvention, cell: GRU, inside: Array) -> None:
    """Raise unless what a GRU adds inside its product is known to be zero."""
    known = validation.concrete(inside)
    why = "its GRU adds no bias inside the recurrent product"
    if known is None:
        raise cannot(cell, library, f"{why}, and recurrent_bias is traced, so maybe not 0")
    if known.any():
        raise cannot(cell, library, f"{why}, and recurrent_bias is not 0")
