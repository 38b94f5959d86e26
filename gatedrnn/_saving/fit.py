"""Parameters held against the layer that they are said to belong to."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from gatedrnn._saving.classes import known
from gatedrnn._src import validation
from gatedrnn._src.base import Params, is_bound, unbound
from gatedrnn._src.describe import shown
from gatedrnn._src.seq2seq import Seq2Seq, Seq2SeqParams

SPARE = 1000  # repeated layers that may have no parameters


def check_fit(layer: Any, params: Params, name: str = "params") -> None:
    """Raise unless `params` are those of `layer` for inputs of some number of features.

    The layer is made of classes of ours, each row of whose kernels belongs to one feature. Errors
    call the parameters by `name`.

    Raises:
      ValueError: parameters of another structure or of other shapes.
    """
    _check_repeats(layer, params, name)
    if isinstance(layer, Seq2Seq):
        return _check_seq2seq(layer, params)
    _check_bound(params, name)
    wanted = validation.params_template(layer, _features(layer, params))
    return validation.check_shapes(name, _shapes_alone(params), wanted, layer)


def _check_repeats(layer: Any, params: Params, name: str) -> None:
    """Raise where `layer` repeats more layers than `params` can be of.

    `init` makes them one by one, which would take without end what a few bytes ask for.
    """
    sizes = sum(np.size(leaf) for leaf in jax.tree.leaves(params))
    if (copies := _repeated(layer)) > sizes + SPARE:
        raise ValueError(
            f"{name}: got {sizes:,} numbers, expected those of the {copies:,} layers that gr.repeat"
            " makes"
        )


def _repeated(value: Any) -> int:
    """The layers inside a layer that repeats them, and inside what holds such layers."""
    if isinstance(value, tuple):
        return sum(map(_repeated, value))
    kind: Any = type(value)
    if not dataclasses.is_dataclass(kind):
        return 0
    inside = sum(_repeated(getattr(value, field.name)) for field in dataclasses.fields(kind))
    return value.n * max(inside, 1) if kind is known(())["gatedrnn.Repeat"] else inside


def _check_seq2seq(model: Seq2Seq, params: Params) -> None:
    """Raise unless both parts of `params` fit, and the bridge between them."""
    if not isinstance(params, Seq2SeqParams):
        raise ValueError(f"params: got {shown(params)}, expected those of {model!r}")
    _check_bound(params, "params")
    check_fit(model.encoder, params.encoder, "params.encoder")
    check_fit(model.decoder, params.decoder, "params.decoder")
    reads = _features(model.encoder, params.encoder), _features(model.decoder, params.decoder)
    make = lambda: model.init(jax.random.key(0), reads[0], reads[1])  # noqa: E731
    wanted = unbound(jax.eval_shape(make))
    validation.check_shapes("params", _shapes_alone(params), wanted, model)


def _check_bound(params: Params, name: str) -> None:
    for path, node in jax.tree.leaves_with_path(params, is_leaf=is_bound):
        if is_bound(node):
            node.check(name + jax.tree_util.keystr(path))


def _shapes_alone(params: Params) -> Params:
    """The parameters as `init` makes them, without values."""
    return jax.tree.map(lambda v: jax.ShapeDtypeStruct(np.shape(v), np.float32), unbound(params))


def _features(layer: Any, params: Params) -> int | None:
    """The features that `layer` reads with `params`; the likeliest where none fit; None: tokens.

    One number that the layer takes tells how far another is that fits: each feature more is a row
    more in some kernels.
    """
    if getattr(layer, "reads_tokens", False):
        return None
    shapes = [leaf.shape for leaf in jax.tree.leaves(_shapes_alone(params))]
    sizes = dict.fromkeys(size for shape in shapes for size in shape if size > 0)
    start = next((n for n in (1, *sizes) if _takes(layer, n)), 1)
    near = dict.fromkeys((*_corrected(layer, start, shapes), start))
    return next((n for n in near if _shapes(layer, n) == shapes), next(iter(near)))


def _corrected(layer: Any, start: int, shapes: list[tuple[int, ...]]) -> Iterator[int]:
    """The numbers of features by which an axis of a parameter is as long as that in `shapes`."""
    for shape, got in zip(shapes, _shapes(layer, start), strict=False):
        for size, of_start in zip(shape, got, strict=False):
            n = start + size - of_start
            if n > 0 and n != start and _takes(layer, n):
                yield n


def _shapes(layer: Any, in_features: int) -> list[tuple[int, ...]]:
    template = validation.params_template(layer, in_features)
    return [leaf.shape for leaf in jax.tree.leaves(template)]


def _takes(layer: Any, in_features: int) -> bool:
    """True of a layer that reads so many features, as a residual one does of one number."""
    try:
        validation.params_template(layer, in_features)
    except ValueError:
        return False
    return True
