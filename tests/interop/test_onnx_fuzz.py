"""Legal ONNX graphs, changed: refused by an error of ours, or the numbers that others compute.

Memory has a bound: while a graph is read, the process may not ask for much more than it has.
"""

import collections
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from networks import apply  # noqa: E402

import gatedrnn as gr  # noqa: E402
from interop import onnx_graphs, onnx_oracle  # noqa: E402
from interop.common import bounded  # noqa: E402

MORE = 3 * 2**29  # bytes that reading may ask for
COUNTS = collections.Counter()


def read(data):
    """The network of a model; None where it is refused as it should be."""
    refusal = None
    with bounded(MORE):
        try:
            return gr.interop.from_onnx(data)
        except (TypeError, ValueError) as error:
            refusal = error
    said = str(refusal)
    assert type(refusal) in (TypeError, ValueError), repr(refusal)
    assert said.startswith("model"), said
    assert "\n" not in said, said
    assert len(said) < 1000, said
    return None


def close(got, want):
    scale = max(1.0, float(np.nanmax(np.abs(want), initial=0)))
    return got.shape == want.shape and np.allclose(got, want, 1e-4, 2e-5 * scale, equal_nan=True)


def alike(ys, want):
    """The same numbers, up to an order of axes and directions apart or side by side."""
    shapes = [ys.shape]
    if ys.shape and ys.shape[-1] % 2 == 0:
        shapes.append((*ys.shape[:-1], 2, ys.shape[-1] // 2))
    for shape in shapes:
        whole = ys.reshape([n for n in shape if n != 1])
        for order in itertools.permutations(range(whole.ndim)):
            turned = whole.transpose(order)
            if turned.size == want.size and close(turned.reshape(want.shape), want):
                return True
    return False


def contains(leaves, want):
    """Every number of a state is one of a carry."""
    known = np.concatenate([np.ravel(leaf) for leaf in leaves])
    return all(np.any(close_to(known, n)) for n in np.ravel(want))


def close_to(known, n):
    return np.isclose(known, n, 1e-4, 2e-5, equal_nan=True)


def agrees(network, feeds, x, wanted):
    """Return whether one of the outputs is that of the network, and all others are in its carry."""
    layer, params = network
    floating = feeds[x].dtype.kind == "f"
    axes = range(feeds[x].ndim - floating)
    lengths = [None, *(f for f in feeds.values() if f.dtype.kind == "i" and f.ndim == 1)]
    for order, valid in itertools.product(itertools.permutations(axes), lengths):
        xs = feeds[x].transpose(*order, *([len(axes)] if floating else []))
        if valid is not None and valid.shape != xs.shape[1 : 2 + (xs.ndim == 1)][:1]:
            continue
        own = None if valid is None else jnp.asarray(np.minimum(valid, len(xs)))
        carry, ys = apply(layer, params, jnp.asarray(xs), lengths=own)
        leaves = [np.asarray(leaf) for leaf in flat(carry)]
        matched = [alike(np.asarray(ys), want) for want in wanted]
        states = [bool(leaves) and contains(leaves, want) for want in wanted]
        if any(matched) and all(a or b for a, b in zip(matched, states, strict=True)):
            return True
    return False


def flat(carry):
    return [leaf for leaf in jax.tree.leaves(carry) if jnp.issubdtype(leaf.dtype, jnp.floating)]


def moderate(params):
    """Return whether no weight is so large that sums in another order are other sums."""
    return all(bool(np.all(np.abs(leaf) < 100)) for leaf in jax.tree.leaves(params))


def check(oracle, data):
    """The one property."""
    COUNTS["tried"] += 1
    network = read(data)
    if network is None:
        COUNTS["refused"] += 1
        return
    layer, params = network
    model = onnx.load_from_string(data)
    kind = "i" if layer.reads_tokens else "f"
    said = []
    for info in model.graph.input:
        feeds = onnx_oracle.feeds_of(model, info.name, np.random.default_rng(0))
        if feeds is None or info.name not in feeds or feeds[info.name].dtype.kind != kind:
            continue
        if feeds[info.name].ndim == 0 + (kind == "f"):
            continue
        wanted = oracle(data, feeds)
        if isinstance(wanted, str):
            said.append(wanted)
            continue
        if not moderate(params) or any(np.asarray(want).size == 0 for want in wanted.values()):
            said.append("too large to compare")
            continue
        if agrees(network, feeds, info.name, list(wanted.values())):
            COUNTS["equal"] += 1
            return
        said.append("other numbers")
    if "other numbers" in said:
        raise AssertionError(f"other numbers: {layer!r}\n{onnx.printer.to_text(model)[:6000]}")
    COUNTS["read, not run by others"] += 1
    COUNTS[f"  {(said or ['no input'])[0][:120]}"] += 1


@pytest.fixture(scope="module")
def oracle():
    made = onnx_oracle.Oracle()
    yield made
    made.close()


@pytest.mark.parametrize("name", onnx_graphs.NAMES)
def test_the_graphs_themselves_are_read(name, oracle):
    if name in onnx_graphs.TORCH:
        pytest.importorskip("torch")
    COUNTS.clear()
    check(oracle, onnx_graphs.graph(name))
    assert COUNTS["equal"] == 1, COUNTS


def test_a_changed_graph_is_refused_or_computes_the_same(oracle):
    """A thousand of them; many are read, and run by others as well."""
    COUNTS.clear()

    @given(data=onnx_graphs.models())
    @settings(
        max_examples=1000,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    def changed(data):
        check(oracle, data)

    changed()
    print(dict(COUNTS))
    assert COUNTS["equal"] >= 50, COUNTS
    assert COUNTS["refused"] >= 500, COUNTS
