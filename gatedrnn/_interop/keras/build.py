"""What a network of ours is in keras: the weights in their order, and the model without values."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from gatedrnn._interop.forms import cannot
from gatedrnn._interop.keras.cells import FORMS, check_cell, make, weights_of_cell
from gatedrnn._interop.keras.layers import layer_to
from gatedrnn._interop.parts import check_params, is_cell, row, row_with_params, runs
from gatedrnn._src import validation
from gatedrnn._src.layers.bidirectional import Bidirectional
from gatedrnn._src.layers.many_to_one import Final
from gatedrnn._src.layers.pointwise import Dense, Dropout, Embed
from gatedrnn._src.layers.recurrent import Recurrent


def sequence(layer: Any) -> Any:
    """The layer that makes sequences."""
    return layer.layer if isinstance(layer, Final) else layer


def keras_weights(layer: Any, params: Any) -> list[Array]:
    """The weights of `to_keras(layer, params)` in their order, as its `stateless_call` takes them.

    A pure function, which JAX can differentiate.

    Raises:
      ValueError: keras has no such network, and why; or `params` are those of another.
    """
    weights: list[Array] = []
    for part, p in _checked(layer, params):
        if isinstance(part, Recurrent | Bidirectional):
            for run in runs(part, p):
                weights += weights_of_cell(run.cell, run.params)
        else:
            weights += jax.tree.leaves(p)
    return weights


def _checked(layer: Any, params: Any) -> list[tuple[Any, Any]]:
    """The layers in a row, which keras has, and their parameters; a bare cell as its layer."""
    inside = sequence(layer)
    parts = row_with_params(inside, params)
    for part, p in parts:
        if isinstance(part, Recurrent | Bidirectional):
            for run in runs(part, p):
                check_cell(run.cell, run.params)
                if run.initial is not None:
                    raise cannot(
                        layer, FORMS.target, "its initial state is an input, never learned"
                    )
        elif isinstance(part, Dense):
            check_params(part, p)
        elif not isinstance(part, Embed | Dropout):
            raise cannot(layer, FORMS.target, f"it has no place for {part!r}")
    dtypes = sorted({jnp.result_type(leaf).name for leaf in jax.tree.leaves(params)})
    if not dtypes:
        raise cannot(layer, FORMS.target, "nothing in it says how many features it reads")
    if len(dtypes) > 1:
        raise ValueError(f"params: got dtype {' and '.join(dtypes)}, expected the same in all")
    in_features = _in_features(layer, params)
    expected = jax.eval_shape(lambda: inside.init(jax.random.key(0), in_features))
    validation.check_shapes("params", params, expected, layer)
    return parts


def _in_features(layer: Any, params: Any) -> int | None:
    """How many features the network reads; None for tokens."""
    inside = sequence(layer)
    for part, p in row_with_params(inside, params):
        if isinstance(part, Recurrent | Bidirectional):
            return int(runs(part, p)[0].params.kernel.shape[0])
        if isinstance(part, Dense):
            return int(p.kernel.shape[0])
        if isinstance(part, Embed):
            return None
    return None


def model_of(keras: Any, layer: Any, params: Any, return_state: bool) -> Any:
    """The cell, layer or `Sequential` model of a network and its `params`, built, without values.

    Raises:
      ValueError: keras has no such network, and why; or it cannot return states.
    """
    parts = row(sequence(layer))
    recurrent = [k for k, part in enumerate(parts) if isinstance(part, Recurrent | Bidirectional)]
    if return_state and (is_cell(layer) or len(parts) > 1 or not recurrent):
        raise ValueError(
            f"return_state: got True for {layer!r}, expected False: only a recurrent layer alone is"
            " asked for its states"
        )
    if isinstance(layer, Final) and not recurrent:
        raise cannot(layer, FORMS.target, "only recurrent layers make one output of a sequence")
    for k, part in enumerate(parts):
        # its static shape is twice the forward one's, and what stands above is built for that
        above = any(not isinstance(later, Dropout) for later in parts[k + 1 :])
        if above and not _of_one_size(part):
            raise cannot(
                layer, FORMS.target, "below other layers its two directions are of one size"
            )
    end = recurrent[-1] if isinstance(layer, Final) else len(parts)
    in_features = _in_features(layer, params)
    dtype = jnp.result_type(jax.tree.leaves(params)[0]).name
    if is_cell(layer):
        cell = make(keras, layer, "Cell", dtype)
        cell.build((None, in_features))
        return cell
    made = [layer_to(keras, part, dtype, k >= end, return_state) for k, part in enumerate(parts)]
    shape = (None,) if in_features is None else (None, in_features)
    if len(made) == 1:
        made[0].build((None, *shape))
        return made[0]
    start = keras.Input(shape, dtype="int32" if in_features is None else dtype)
    return keras.Sequential([start, *made])


def _of_one_size(part: Any) -> bool:
    """Whether both directions, if there are two, make as many features."""
    if not isinstance(part, Bidirectional):
        return True
    return part.forward.out_features(1) == part.backward.out_features(1)
