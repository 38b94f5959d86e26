"""Networks, options and places that are drawn: a mesh with explicit axes equals one device."""

import jax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import PartitionSpec as P
from meshes import equals_one_device
from networks import Leaky, normal, random_params
from test_meshes import KEY, RESETS, B, H, I, T, outputs_and_gradients

import gatedrnn as gr


@st.composite
def cases(draw):
    """A network, what goes with its inputs, the shape of a mesh and the places of all of it."""
    cells = [gr.GRU(H), gr.LSTM(H, projection=3), gr.Zoneout(gr.Elman(H), 0.3), Leaky(H, 3)]
    layers = draw(
        st.lists(
            st.one_of(
                st.sampled_from(cells).map(gr.recurrent),
                st.sampled_from(cells[:2]).map(lambda c: gr.recurrent(c, initial="learned")),
                st.sampled_from(cells[:2]).map(lambda c: gr.recurrent(c, reverse=True)),
                st.sampled_from(cells[:2]).map(gr.bidirectional),
                st.sampled_from([gr.dropout(0.3), gr.dense(4)]),
            ),
            min_size=1,
            max_size=3,
        )
    )
    shape = draw(st.sampled_from([(4,), (2, 2)]))
    axes = [None, *("data", "model")[: len(shape)]] + [("data", "model")] * (len(shape) - 1)
    of_rows = {name: draw(st.sampled_from(axes)) for name in ("xs", "mask", "resets")}
    options = draw(st.sets(st.sampled_from(["mask", "resets", "key"])))
    kind = draw(st.sampled_from(["explicit", "mixed"][: len(shape)]))
    return gr.stack(*layers), shape, kind, of_rows, options, draw(st.sampled_from(axes))


@pytest.mark.long
@settings(max_examples=60, deadline=None)
@given(case=cases(), context=st.booleans())
def test_drawn_networks(case, context):
    """Values and gradients of one device, wherever the arguments lie."""
    layer, shape, kind, of_rows, options, of_params = case
    names = ("data", "model")[: len(shape)]
    types = [jax.sharding.AxisType.Explicit] * len(shape)
    if kind == "mixed":
        types[-1] = jax.sharding.AxisType.Auto
    mesh = jax.make_mesh(shape, names, axis_types=tuple(types))

    def run(params, xs, mask, resets):
        values = {"mask": mask, "resets": resets, "key": KEY}
        return layer.apply(params, xs, **{name: values[name] for name in options})

    params = random_params(layer, I)

    def place(leaf):
        return P(of_params) if leaf.ndim and leaf.shape[0] % 4 == 0 else P()

    arguments = params, normal(T, B, I), ~RESETS[::-1], RESETS
    rows = tuple(P(None, of_rows[name]) for name in ("xs", "mask", "resets"))
    specs = (jax.tree.map(place, params), *rows)
    equals_one_device(
        mesh, outputs_and_gradients(run), arguments, specs, context=context, rtol=1e-8
    )
