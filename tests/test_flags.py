"""Everything in the suite's tables once more under each of JAX's flags: the same numbers.

Under `jax_numpy_rank_promotion="raise"` the whole suite runs: `conftest.py` sets it.
"""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import test_decoding
import test_layers
import test_regularisation
import test_rows
import test_streaming
from flag_cases import CASES, CHECKS
from networks import assert_trees_close
from reference import FEW

import gatedrnn as gr

pytestmark = pytest.mark.long


@pytest.fixture(autouse=True)
def forget_programs():
    """Each test compiles programs of its own, which no other test needs."""
    yield
    jax.clear_caches()


# The same numbers ---------------------------------------------------------------------------------

FLAGS = {
    "disable_jit": jax.disable_jit,
    "enable_checks": functools.partial(jax.enable_checks, True),
    "debug_nans": functools.partial(jax.debug_nans, True),
}


@pytest.mark.parametrize("name", CASES)
def test_the_numbers_are_the_same(name):
    """Values and gradients, under each flag; wherever there is padding, it holds NaN."""
    case = CASES[name](jnp.float64)
    want = case.run()
    for flag, switched_on in FLAGS.items():
        try:
            with switched_on():
                got = case.run()
            assert_trees_close(got, want)
        except Exception as error:
            error.add_note(f"under jax_{flag}")
            raise


MODES = {
    "enable_checks": FLAGS["enable_checks"],
    "debug_nans": FLAGS["debug_nans"],
    "x64": functools.partial(jax.enable_x64, False),
}
EACH = [(name, mode) for name in CHECKS for mode in MODES]
WITHOUT_JIT = [("check Elman", "disable_jit"), ("check TreeRNN children=1", "disable_jit")]


@pytest.mark.parametrize(("name", "flag"), [*EACH, *WITHOUT_JIT])
def test_rules_are_exact(name, flag):
    """`gr.check_rule` finds no error, and compares in float64 in either mode."""
    with (FLAGS | MODES)[flag]():
        CHECKS[name](jnp.float64).run()


def test_debug_nans_finds_what_is_not_padding():
    """A NaN of a valid step raises."""
    cell, xs = gr.GRU(3), jnp.ones((4, 2, 3)).at[1, 0, 0].set(np.nan)
    params = cell.init(jax.random.key(0), 3, jnp.float64)
    with jax.debug_nans(True), pytest.raises(FloatingPointError):
        gr.unroll(cell, params, xs)
    with jax.debug_nans(True):
        gr.unroll(cell, params, xs, lengths=np.array([1, 4]))
        with pytest.raises(FloatingPointError):  # JAX's own: padding must be on the device before
            jnp.asarray(np.nan)


# float32 in 64-bit mode ---------------------------------------------------------------------------


def dtypes_of(tree):
    return jax.tree.map(lambda leaf: np.dtype(leaf.dtype).name, tree)


@pytest.mark.parametrize("name", CASES)
def test_float32_stays_float32_in_64_bit_mode(name):
    """Dtypes and numbers are those of 32-bit mode, and no array of float64 is in the program."""
    case = CASES[name](jnp.float32)
    wide = case.run()
    program = str(jax.make_jaxpr(case.run)())
    assert set(re.findall(r"\bf64\[([\d,]*)\]", program)) <= {""}  # a Python number
    with jax.enable_x64(False):
        narrow = CASES[name](jnp.float32).run()
    assert dtypes_of(wide) == dtypes_of(narrow)
    assert_trees_close(wide, narrow, rtol=1e-4, atol=1e-5)


# Random masks by another generator ----------------------------------------------------------------

DRAWING = {
    "a key is all": test_regularisation.test_a_key_is_all_that_is_random,
    "dropout follows its key": functools.partial(
        test_layers.test_dropout_follows_its_key, shared=False
    ),
    "shares": test_layers.test_dropout_keeps_the_right_share_and_scale,
    "steps": test_layers.test_dropout_per_step_and_shared_in_time,
    "rows": test_rows.test_an_episodes_dropout_is_that_of_its_row_alone,
    "rows that decode": test_decoding.test_rows_do_not_depend_on_their_batch,
    **{
        f"{function.__name__} {reverse}": functools.partial(function, reverse=reverse)
        for function in (
            test_regularisation.test_padding_changes_no_mask,
            test_regularisation.test_an_episode_sees_the_masks_that_it_would_see_alone,
        )
        for reverse in (False, True)
    },
    **{
        f"streaming {name}": functools.partial(
            test_streaming.test_streaming_is_the_whole_sequence, name, jax.random.key(3)
        )
        for name in test_streaming.NETWORKS
    },
}


@pytest.mark.parametrize("name", DRAWING)
def test_masks_follow_from_key_row_and_step_by_either_generator(name):
    """The draws are others than with `jax_threefry_partitionable`, their properties are not."""
    with jax.threefry_partitionable(False):
        DRAWING[name]()


def test_the_generators_draw_differently():
    """So that the tests above show something."""
    drop = gr.dropout(0.5)
    xs, key = jnp.ones((4, 2, 8)), jax.random.key(0)
    _, ys = drop.apply((), xs, key=key)
    with jax.threefry_partitionable(False):
        _, others = drop.apply((), xs, key=key)
    assert np.any(ys != others)


# Leaks and transfers ------------------------------------------------------------------------------


# the cells that show every equation: options are branches of one and the same function
TRACED = [n for n in CASES if not n.startswith("cell ") or n.removeprefix("cell ") in FEW]


@pytest.mark.parametrize("name", TRACED)
def test_no_tracer_leaks(name):
    """Nothing that a trace made is held when the trace is over."""
    case = CASES[name](jnp.float64)
    with jax.checking_leaks():
        jax.eval_shape(case.run)


# A guard refuses what is not said to go from the host to the device. JAX's own operations with a
# Python number are refused outside `jit`, for example:
#
#   with jax.transfer_guard("disallow"):
#       jnp.zeros(3)               # refused, as are x + 1, x[0], jax.random.fold_in(key, 1)
#       jax.jit(lambda: jnp.zeros(3))()                                       # allowed
#       jax.grad(lambda x: x @ x)(x)      # refused: it starts from the number 1
#
# So outside `jit` steps, networks with a key and diagnostics are refused; under `jit` nothing is.


def guarded():
    """By name, calls outside `jit`, whose arguments are on the device already."""
    key, lengths = jax.random.key(0), jnp.array([3, 1])
    flags = jnp.array([[True, False], [True, True], [False, True]])
    xs, tokens = jnp.ones((3, 2, 4)), jnp.ones((3, 2), int)
    cell, zoned, tree = gr.LSTM(3), gr.Zoneout(gr.LSTM(3), 0.1, 0.2), gr.TreeLSTM(3)
    net = gr.stack(gr.embed(7, 4), gr.bidirectional(gr.GRU(3)), gr.LSTM(3), gr.dense(7))
    writer = gr.stack(gr.embed(7, 4), gr.LSTM(3), gr.dense(7))
    params, dense = cell.init(key, 4, jnp.float64), gr.dense(5).init(key, 4, jnp.float64)
    of_net, of_tree = net.init(key, None), tree.init(key, 4, jnp.float64)
    step = jax.tree_util.Partial(writer.step, writer.init(key, None))
    carry, token = writer.carry((2,)), tokens[0]
    forest = jax.device_put(gr.forest([(0, (1, 2)), (0, 1)]))
    nodes = jnp.ones((8, 4))
    decoding = {"max_length": 3, "end": 1}
    unroll = functools.partial(gr.unroll, cell, params, xs)
    return {
        "unroll": unroll,
        "lengths": functools.partial(unroll, lengths=lengths),
        "mask": functools.partial(unroll, mask=flags, resets=flags, reverse=True),
        "truncate": functools.partial(unroll, bptt=gr.BPTT(truncate=2)),
        "key": lambda: gr.unroll(zoned, params, xs, lengths=lengths, key=key),
        "trajectory": lambda: gr.trajectory(cell, params, xs, lengths=lengths),
        "apply": lambda: net.apply(of_net, tokens, lengths=lengths),
        "final": lambda: gr.final(net).apply(of_net, tokens, lengths=lengths),
        "greedy": lambda: gr.greedy(step, carry, token, **decoding),
        "sample": lambda: gr.sample(step, carry, token, key, **decoding, top_k=3, top_p=0.5),
        "beam_search": lambda: gr.beam_search(step, carry, token, beams=2, **decoding),
        "generate": lambda: gr.generate(lambda carry, y: (carry, y), carry, token, steps=3),
        "loss": lambda: gr.softmax_cross_entropy(dense, xs, tokens, flags),
        "fold_tree": lambda: gr.fold_tree(tree, of_tree, nodes, forest),
    }


def test_nothing_is_sent_to_the_device_unasked():
    """Outside `jit`, with all arguments on the device."""
    for name, call in guarded().items():
        try:
            with jax.transfer_guard("disallow"):
                call()
        except Exception as error:
            error.add_note(name)
            raise
