"""Conventions of other libraries: a row for each of their cells, ours first.

`layouts` turns parameters by a row of this table, in both directions, and `supported` refuses what
no row has; no converter states such a fact again.

Axes: `I` input features, `H` features, `n` gates.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from gatedrnn._src.cells.elman import Elman
from gatedrnn._src.cells.gru import GRU
from gatedrnn._src.cells.lstm import LSTM

Names = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class CellConvention:
    """The arrays and the step of one cell of a library.

    Gates have our letters: `i, f, g, o` of an LSTM (`g` is also called `c`), `r, z, n` of a GRU
    (`n` is also called `h`, `s` or `a`), `h` of a simple cell. Arrays have names, with slashes
    where they are nested: one name for an array of all gates, several for an array of each gate, in
    the order of `gates`. A name that stands in two fields is one array that holds both.

    Attributes:
      cell: our class for it.
      modules: the library's classes that have these arrays.
      gates: the order in which gates are stacked.
      gate_axis: `"columns"` for kernels `[I, nH]`, `"rows"` for `[nH, I]`.
      kernel: the array that multiplies the input.
      recurrent_kernel: the array that multiplies the state; in one that holds both kernels, below
        the input's.
      bias: the bias, or the input's where there are two.
      recurrent_bias: the second bias, which is the state's; without names where there is none.
      recurrent_bias_gates: the gates that have a second bias, where not all do.
      bias_pair: the shape of one array with both biases: `"rows"` for `[2, nH]`, `"halves"` for
        `[2nH]`.
      bias_optional: whether a cell may be without biases; else zeros stand for them.
      forget_shift: a constant that every step adds to the pre-activation of `f`.
      updates: of a GRU, what its update gate may do: `"writes"`, `h' = (1−z) h + z n`, or
        `"keeps"`, `h' = z h + (1−z) n`, which is the other one with the sign of `z` turned.
      resets: of a GRU, where its reset gate may act: `"before"` the recurrent product, `(r h) U`,
        or `"after"`, `r (h U + d)`, where `d` is the second bias of `n`.
      activations: of a simple cell, the library's names by ours.
      peephole: diagonal peepholes: the order of the gates in each array, by the array's name.
      projection: the array of the recurrent projection.
      coupled: whether the forget gate may be `1 − i`.
      carry: the order of the states.
    """

    cell: type[Elman] | type[LSTM] | type[GRU]
    modules: Names
    gates: str
    gate_axis: Literal["columns", "rows"]
    kernel: Names
    recurrent_kernel: Names
    bias: Names
    recurrent_bias: Names = ()
    recurrent_bias_gates: str = ""
    bias_pair: Literal["rows", "halves"] | None = None
    bias_optional: bool = True
    forget_shift: int = 0
    updates: tuple[Literal["writes", "keeps"], ...] = ()
    resets: tuple[Literal["before", "after"], ...] = ()
    activations: Mapping[str, str] = dataclasses.field(default_factory=dict)
    peephole: Mapping[str, str] = dataclasses.field(default_factory=dict)
    projection: str = ""
    coupled: bool = False
    carry: Names = ("h",)


@dataclasses.dataclass(frozen=True)
class LibraryConvention:
    """A library, or one of its interfaces, with all that it has of our networks.

    Attributes:
      name: in `gr.interop.from_NAME` and `to_NAME`.
      module: the module that Python imports.
      target: words for a network of it, in errors.
      cells: a row for each cell; where several fit, the first is taken.
      merges: the ways in which its layers of two directions join both, by ours; none where it has
        no such layers.
      dense: whether it has layers `y = x W + b` between recurrent ones.
    """

    name: str
    module: str
    target: str
    cells: tuple[CellConvention, ...]
    merges: Mapping[str, str] = dataclasses.field(default_factory=lambda: {"concat": "concat"})
    dense: bool = False

    def row(self, module: str) -> CellConvention:
        """Return the row of one of the library's classes."""
        return next(row for row in self.cells if module in row.modules)


def _arrays(gate_axis: str, **names: str) -> Any:
    """Return the fields of a row that say where arrays are; spaces part the names of gates."""
    return {"gate_axis": gate_axis} | {field: tuple(own.split()) for field, own in names.items()}


_ACTIVATIONS = {name: name for name in ("tanh", "relu", "sigmoid", "identity")}
_AFTER: Any = {"resets": ("after",), "updates": ("keeps",)}  # cuDNN's GRU, and most others'

# Ours --------------------------------------------------------------------------------------------

_FUSED = _arrays("columns", kernel="kernel", recurrent_kernel="recurrent_kernel", bias="bias")
OURS = LibraryConvention(
    name="gatedrnn",
    module="gatedrnn",
    target="a network of ours",
    merges={name: name for name in ("concat", "sum", "mean", "mul")},
    dense=True,
    cells=(
        CellConvention(Elman, ("Elman",), gates="h", activations=_ACTIVATIONS, **_FUSED),
        CellConvention(
            LSTM,
            ("LSTM",),
            gates="ifgo",
            peephole={"peephole": "if", "output_peephole": "o"},
            projection="projection_kernel",
            coupled=True,
            carry=("h", "c"),
            **_FUSED,
        ),
        CellConvention(
            GRU,
            ("GRU",),
            gates="rzn",
            recurrent_bias=("recurrent_bias",),
            recurrent_bias_gates="n",
            updates=("writes", "keeps"),
            resets=("before", "after"),
            **_FUSED,
        ),
    ),
)

# torch -------------------------------------------------------------------------------------------

_TORCH = _arrays(
    "rows",
    kernel="weight_ih",
    recurrent_kernel="weight_hh",
    bias="bias_ih",
    recurrent_bias="bias_hh",
)
_TORCH_LSTM = CellConvention(LSTM, ("LSTMCell",), gates="ifgo", carry=("h", "c"), **_TORCH)
TORCH = LibraryConvention(
    name="torch",
    module="torch",
    target="a torch module",
    cells=(
        CellConvention(
            Elman,
            ("RNN", "RNNCell"),
            gates="h",
            activations={"tanh": "tanh", "relu": "relu"},
            **_TORCH,
        ),
        dataclasses.replace(_TORCH_LSTM, modules=("LSTM",), projection="weight_hr"),
        _TORCH_LSTM,
        CellConvention(GRU, ("GRU", "GRUCell"), gates="rzn", **_AFTER, **_TORCH),
    ),
)

# keras: its gates are `i, f, c, o` and `z, r, h` --------------------------------------------------

_KERAS_GRU = CellConvention(
    GRU,
    ("GRU(reset_after=False)",),
    gates="zrn",
    updates=("keeps",),
    resets=("before",),
    **_FUSED,
)
KERAS = LibraryConvention(
    name="keras",
    module="keras",
    target="a keras model",
    merges={"concat": "concat", "sum": "sum", "mean": "ave", "mul": "mul"},
    dense=True,
    cells=(
        CellConvention(
            Elman,
            ("SimpleRNN", "SimpleRNNCell"),
            gates="h",
            activations=_ACTIVATIONS | {"identity": "linear"},
            **_FUSED,
        ),
        CellConvention(LSTM, ("LSTM", "LSTMCell"), gates="ifgo", carry=("h", "c"), **_FUSED),
        dataclasses.replace(
            _KERAS_GRU,
            modules=("GRU", "GRUCell"),
            resets=("after",),
            recurrent_bias=_KERAS_GRU.bias,
            bias_pair="rows",
        ),
        _KERAS_GRU,
    ),
)

# flax --------------------------------------------------------------------------------------------

_LINEN_LSTM = CellConvention(
    LSTM,
    ("LSTMCell", "OptimizedLSTMCell"),
    gates="ifgo",
    bias_optional=False,
    carry=("c", "h"),
    **_arrays(
        "columns",
        kernel="ii/kernel if/kernel ig/kernel io/kernel",
        recurrent_kernel="hi/kernel hf/kernel hg/kernel ho/kernel",
        bias="hi/bias hf/bias hg/bias ho/bias",
    ),
)
LINEN = LibraryConvention(
    name="linen",
    module="flax.linen",
    target="a linen module",
    dense=True,
    cells=(
        CellConvention(
            Elman,
            ("SimpleCell",),
            gates="h",
            bias_optional=False,
            activations=_ACTIVATIONS,
            **_arrays("columns", kernel="i/kernel", recurrent_kernel="h/kernel", bias="i/bias"),
        ),
        _LINEN_LSTM,
        CellConvention(
            GRU,
            ("GRUCell",),
            gates="rzn",
            bias_optional=False,
            recurrent_bias_gates="n",
            **_AFTER,
            **_arrays(
                "columns",
                kernel="ir/kernel iz/kernel in/kernel",
                recurrent_kernel="hr/kernel hz/kernel hn/kernel",
                bias="ir/bias iz/bias in/bias",
                recurrent_bias="hn/bias",
            ),
        ),
    ),
)

_NNX = _arrays(
    "columns",
    kernel="dense_i/kernel",
    recurrent_kernel="dense_h/kernel",
    bias="dense_i/bias",
)
NNX = LibraryConvention(
    name="nnx",
    module="flax.nnx",
    target="an nnx module",
    dense=True,
    cells=(
        CellConvention(
            Elman,
            ("SimpleCell",),
            gates="h",
            bias_optional=False,
            activations=_ACTIVATIONS,
            **_NNX,
        ),
        dataclasses.replace(
            _LINEN_LSTM,
            modules=("LSTMCell",),
            kernel=("ii/kernel", "if_/kernel", "ig/kernel", "io/kernel"),
        ),
        CellConvention(
            LSTM,
            ("OptimizedLSTMCell",),
            gates="ifgo",
            bias_optional=False,
            carry=("c", "h"),
            **_NNX | {"bias": ("dense_h/bias",)},
        ),
        CellConvention(GRU, ("GRUCell",), gates="rzn", bias_optional=False, **_AFTER, **_NNX),
    ),
)

# equinox -----------------------------------------------------------------------------------------

_EQUINOX = _arrays("rows", kernel="weight_ih", recurrent_kernel="weight_hh", bias="bias")
EQUINOX = LibraryConvention(
    name="equinox",
    module="equinox",
    target="an equinox cell",
    merges={},
    cells=(
        CellConvention(LSTM, ("LSTMCell",), gates="ifgo", carry=("h", "c"), **_EQUINOX),
        CellConvention(
            GRU,
            ("GRUCell",),
            gates="rzn",
            recurrent_bias=("bias_n",),
            recurrent_bias_gates="n",
            **_AFTER,
            **_EQUINOX,
        ),
    ),
)

# haiku: the gates of its GRU are `z, r, a` --------------------------------------------------------

_HAIKU_SIMPLE = CellConvention(
    Elman,
    ("VanillaRNN(double_bias=False)",),
    gates="h",
    bias_optional=False,
    activations={"relu": "relu"},
    **_arrays("columns", kernel="linear/w", recurrent_kernel="linear_1/w", bias="linear/b"),
)
HAIKU = LibraryConvention(
    name="haiku",
    module="haiku",
    target="a haiku core",
    merges={},
    cells=(
        dataclasses.replace(_HAIKU_SIMPLE, modules=("VanillaRNN",), recurrent_bias=("linear_1/b",)),
        _HAIKU_SIMPLE,
        CellConvention(
            LSTM,
            ("LSTM",),
            gates="igfo",
            bias_optional=False,
            forget_shift=1,
            carry=("h", "c"),
            **_arrays("columns", kernel="linear/w", recurrent_kernel="linear/w", bias="linear/b"),
        ),
        CellConvention(
            GRU,
            ("GRU",),
            gates="zrn",
            bias_optional=False,
            updates=("writes",),
            resets=("before",),
            **_arrays("columns", kernel="w_i", recurrent_kernel="w_h", bias="b"),
        ),
    ),
)

# cuDNN, as `jax.experimental.rnn` has it: one vector, in which no array has a name ----------------

CUDNN = LibraryConvention(
    name="cudnn",
    module="jax.experimental.rnn",
    target="cuDNN's LSTM",
    cells=(
        CellConvention(
            LSTM,
            ("lstm",),
            gates="ifgo",
            bias_optional=False,
            carry=("h", "c"),
            **_arrays(
                "rows", kernel="W_ih", recurrent_kernel="W_hh", bias="b_ih", recurrent_bias="b_hh"
            ),
        ),
    ),
)

# ONNX: its gates are `i, o, f, c` and `z, r, h` ---------------------------------------------------

_ONNX = _arrays("rows", kernel="W", recurrent_kernel="R", bias="B", recurrent_bias="B")
_ONNX["bias_pair"] = "halves"
ONNX = LibraryConvention(
    name="onnx",
    module="onnx",
    target="an ONNX graph",
    merges={"concat": "Concat", "sum": "ReduceSum", "mean": "ReduceMean", "mul": "ReduceProd"},
    dense=True,
    cells=(
        CellConvention(
            Elman,
            ("RNN",),
            gates="h",
            activations={
                "tanh": "Tanh",
                "relu": "Relu",
                "sigmoid": "Sigmoid",
                "identity": "Affine",
            },
            **_ONNX,
        ),
        CellConvention(
            LSTM,
            ("LSTM",),
            gates="iofg",
            peephole={"P": "iof"},
            coupled=True,
            carry=("h", "c"),
            **_ONNX,
        ),
        CellConvention(
            GRU,
            ("GRU",),
            gates="zrn",
            updates=("keeps",),
            resets=("before", "after"),
            **_ONNX,
        ),
    ),
)

LIBRARIES = (OURS, TORCH, KERAS, LINEN, NNX, EQUINOX, HAIKU, CUDNN, ONNX)
