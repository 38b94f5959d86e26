"""Every cell and option: the hand-derived rule is autodiff, to second order."""

import functools

import chex
import jax
import jax.numpy as jnp
import pytest
from jax.test_util import check_grads
from reference import ALL_CELLS, FEW, SAMPLE, TREE_CELLS, random_carry, random_params

import gatedrnn as gr
from gatedrnn._app import check

I, T, B = 3, 3, 2


def cases(cells, first):
    """A case for each cell, those that are not among the first in the long part."""
    return [
        pytest.param(cell, id=name, marks=() if name in first else pytest.mark.long)
        for name, cell in cells.items()
    ]


@pytest.mark.parametrize("cell", cases(ALL_CELLS, SAMPLE))
def test_rule_is_autodiff_and_finite_differences(cell):
    """To 1e-10 for parameters, inputs and initial carry, whatever the loss looks at."""
    report = gr.check_rule(cell, in_features=I, steps=3)
    assert report.largest <= 1e-10, report
    assert report.largest_difference <= 1e-7, report
    names = [name.split(".")[0] for name in report.autodiff]
    assert set(names) == {"params", "xs", "carry"}


def primals_of(cell):
    """Parameters, an initial carry and inputs, all random."""
    xs = jax.random.normal(jax.random.key(0), (T, B, I))
    return random_params(cell, I), random_carry(cell, (B,)), xs


def outputs(cell, rule, *primals):
    """A leaf of the final carry, and a function of the outputs."""
    params, carry, xs = primals
    final, ys = gr.unroll(cell, params, xs, carry, bptt=gr.BPTT(rule))
    return jax.tree.leaves(final)[-1], jnp.sin(ys)


@pytest.mark.parametrize("cell", cases(SAMPLE, FEW))
def test_reverse_over_reverse_is_finite_differences(cell):
    # a normalisation of few units may be so curved that a step of 1e-4 is too long
    of_rule = functools.partial(outputs, cell, "hand")
    check_grads(of_rule, primals_of(cell), order=2, modes=["rev"], eps=1e-5)


@pytest.mark.parametrize("cell", SAMPLE.values(), ids=SAMPLE)
def test_forward_over_reverse_is_autodiff(cell):
    """The Hessian of a loss, times the point itself."""

    def product(rule):
        def loss(*primals):
            return sum(jnp.sum(jnp.square(leaf)) for leaf in outputs(cell, rule, *primals))

        return jax.jit(lambda p: jax.jvp(jax.grad(loss, argnums=(0, 1, 2)), p, p)[1])

    primals = primals_of(cell)
    got, want = (product(rule)(primals) for rule in ("hand", "autodiff"))
    chex.assert_trees_all_close(got, want, rtol=1e-9, atol=1e-12)


def test_check_rule_finds_a_wrong_rule():
    """A rule that is wrong in one term is reported, in the leaves that it spoils."""

    class Wrong(gr.GRU):
        """The gate's own derivative left out, as some lecture notes print it."""

        rule = gr.GRU.rule._replace(
            linearize=lambda cell, params, record: gr.GRU.rule.linearize(
                cell, params, record
            )._replace(z=record.before.h - record.gates.n)
        )

    report = gr.check_rule(Wrong(4))
    assert report.largest > 1e-2
    assert report.largest_difference > 1e-2
    assert "params.kernel" in str(report)


def test_check_rule_sees_nan():
    """A gradient that is not a number is no small error."""

    class Broken(gr.GRU):
        """NaN in one gradient of several."""

        rule = gr.GRU.rule._replace(contract=lambda *args: spoil(*gr.GRU.rule.contract(*args)))

    def spoil(dparams, dxs):
        return dparams._replace(recurrent_kernel=dparams.recurrent_kernel * jnp.nan), dxs

    report = gr.check_rule(Broken(4))
    assert jnp.isnan(report.largest)
    assert jnp.isnan(report.largest_difference)


def test_check_rule_sees_a_step_of_another_function():
    """What streams must be what unrolls."""

    class Doubled(gr.GRU):
        """Its step is not what its rule computes."""

        def step(self, params, carry, x):
            carry, y = super().step(params, carry, x)
            return gr.GRUCarry(2 * carry.h), y

    assert gr.check_rule(Doubled(4)).largest > 1e-2


def test_check_rule_where_the_gradient_is_not_exact():
    """Against autodiff all the same; finite differences have nothing to say there."""
    report = gr.check_rule(gr.LSTM(3), bptt=gr.BPTT(truncate=2, cell_path_only=True, clip=0.5))
    assert report.largest <= 1e-10
    assert report.differences is None
    assert report.largest_difference is None


def test_check_rule_needs_a_rule():
    """A cell without a rule has nothing to check."""

    class Plain:
        features, use_bias, reset = 2, True, "before"
        init, carry, step = gr.GRU.init, gr.GRU.carry, gr.GRU.step

    with pytest.raises(ValueError, match=r"cell: got .*Plain.*, expected a cell with a rule"):
        gr.check_rule(Plain())


def test_the_command_covers_every_cell_and_option():
    """What `gatedrnn check` runs over is what the tests call supported, and every cell of trees."""
    assert {*ALL_CELLS.values(), *TREE_CELLS.values()} <= set(check.cells())


@pytest.mark.parametrize("cell", [gr.LSTM(3), gr.LSTM(3, peephole="full"), gr.GRU(3)], ids=repr)
def test_what_prepare_returns_is_what_steps_take(cell):
    """And a tree of arrays, of which a rule around it makes another."""
    params, carry, x = random_params(cell, I), random_carry(cell, (B,)), jnp.ones((B, I))
    forward, reverse = cell.rule.prepare(cell, params)
    want = cell.rule.recur(cell, params, carry, cell.rule.project(cell, params, x))
    got = cell.rule.recur(cell, forward, carry, cell.rule.project(cell, forward, x))
    chex.assert_trees_all_close(got, want)
    doubled = jax.tree.map(lambda v: 2 * v, reverse)
    assert jax.tree.structure(doubled) == jax.tree.structure(reverse)
