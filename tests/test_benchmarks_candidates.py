"""Every rival that is timed computes what we compute, from the same weights."""

import dataclasses
import functools
import importlib.util
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import agreement, candidates
from benchmarks.problem import Problem, cells

T, B, I, H = 7, 3, 4, 5

NAMES = [candidate.name for candidate in candidates.CANDIDATES]
HAVE = {  # the cells of each library; cuDNN is there on a GPU only
    "lax.scan": set(cells()),
    "flax linen": {"LSTM", "GRU after", "Elman"},
    "flax linen, optimised": {"LSTM"},
    "flax nnx": {"LSTM", "GRU after", "Elman"},
    "flax nnx, optimised": {"LSTM"},
    "equinox": {"LSTM", "GRU after"},
    "haiku": {"LSTM", "GRU before"},
    "keras": {"LSTM", "GRU after", "GRU before", "Elman"},
    "torch": {"LSTM", "GRU after", "Elman"},
}

every_cell = pytest.mark.parametrize("cell", cells())


@pytest.fixture(autouse=True)
def standard():
    """The libraries are neither made for strict promotion nor free of warnings."""
    with (
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        yield


def built(name, cell):
    """The programs of a candidate, by kind of task, or None."""
    builders, missing = candidates.available([name])
    if missing:
        pytest.skip(f"{missing} not installed")
    return builders[name](Problem(cell, T, B, I, H))


@functools.cache
def ours(cell):
    return {task: make() for task, make in built("gatedrnn", cell).items()}


@every_cell
@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("gatedrnn", "cuDNN", "floor")])
def test_candidates_agree(name, cell):
    programs = built(name, cell)
    if cell not in HAVE[name]:
        assert programs is None
        return
    for task, make in programs.items():
        program = make()
        assert program.name == name
        assert agreement.check([ours(cell)[task], program], 1e-4)  # not exempt
        program.run()


@every_cell
def test_floor_has_the_shapes_of_the_training_step(cell):
    forward, train = (built("floor", cell)[task]() for task in ("forward", "train"))
    assert agreement.check([ours(cell)["train"], train], 0) == {}
    assert forward.run().shape == (T, B, H)
    loss, gradients = train.run()
    weights = Problem(cell, T, B, I, H).weights()
    want = [weights.kernel.shape, weights.recurrent_kernel.shape, (T, B, I)]
    assert [gradient.shape for gradient in gradients] == want
    assert np.isfinite(loss)
    assert all(np.all(np.isfinite(g)) and np.any(g != 0) for g in gradients)


def test_cudnn_weights_are_packed_as_its_reference_unpacks_them():
    """The library itself is on GPUs only."""
    from jax.experimental import rnn

    from benchmarks.candidates import cudnn

    problem = Problem("LSTM", T, B, I, H)
    packed = jnp.asarray(cudnn.packed(problem.weights()))
    assert packed.shape == (rnn.get_num_params_in_lstm(I, H, 1, False),)
    xs = problem.inputs().swapaxes(0, 1)
    start = jnp.zeros((1, B, H), "float32")
    lengths = jnp.full(B, T, "int32")
    parts = rnn.unpack_lstm_weights(packed, I, H, 1, False)
    ys, *_ = rnn.lstm_ref(xs, start, start, *parts, lengths, I, H, 1, 0.0, False)
    want = ours("LSTM")["forward"].answer()["outputs"]
    np.testing.assert_allclose(ys.swapaxes(0, 1), want, atol=1e-6)


def test_cudnn_is_absent_without_a_gpu():
    if jax.default_backend() == "gpu":
        pytest.skip("there is one")
    assert built("cuDNN", "LSTM") is None


def test_disagreement_names_candidate_and_quantity():
    train = ours("LSTM")["train"]

    def wrong(change):
        answer = train.answer()
        answer["gradient of the inputs"] = change(answer["gradient of the inputs"])
        return dataclasses.replace(train, name="rival", answer=lambda: answer)

    for change, message in (
        (lambda g: 1.01 * g, "rival: gradient of the inputs is off by 1.0e-02"),
        (lambda g: g * np.nan, "rival: gradient of the inputs is off by nan"),
        (lambda g: g[:-1], "rival: gradient of the inputs of shape"),
    ):
        with pytest.raises(ValueError, match=message):
            agreement.check([train, wrong(change)], 1e-3)


def test_missing_libraries_are_reported_by_package(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(candidates, "find_spec", lambda n: None if n == "haiku" else find(n))
    builders, missing = candidates.available(["gatedrnn", "haiku"])
    assert list(builders) == ["gatedrnn"]
    assert missing == ["dm-haiku"]


def test_unknown_candidates_are_refused():
    with pytest.raises(ValueError, match="no such candidate"):
        candidates.available(["numpy"])
