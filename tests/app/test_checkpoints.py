import os
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gatedrnn._app import checkpoints
from gatedrnn._app.errors import CommandError


class Leaves(NamedTuple):
    kernel: jax.Array
    nothing: tuple[()]
    scalar: jax.Array


def tree(scale):
    kernel = scale * jnp.arange(6, dtype=jnp.float32).reshape(2, 3)
    return (Leaves(kernel, (), jnp.int32(7)), jnp.ones(2, jnp.bfloat16))


def assert_equal(got, expected):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def test_round_trip_keeps_structure_shapes_and_dtypes(tmp_path):
    checkpoints.save(tmp_path / "best" / "3", tree(1))
    assert_equal(
        checkpoints.restore(tmp_path / "best" / "3", jax.eval_shape(lambda: tree(0))), tree(1)
    )


def test_a_failure_while_saving_leaves_nothing_and_keeps_the_others(tmp_path, monkeypatch):
    for step in ("3", "40"):
        checkpoints.save(tmp_path / step, tree(1))

    real = os.rename

    def rename(source, target):
        if os.path.basename(target) == "4":
            raise OSError(28, "No space left on device")
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", rename)
        with pytest.raises(CommandError, match=r"No space left on device$") as caught:
            checkpoints.save(tmp_path / "4", tree(2))
    assert caught.value.exit_code == 1
    assert sorted(os.listdir(tmp_path)) == ["3", "40"]
    assert_equal(checkpoints.restore(tmp_path / "3", tree(0)), tree(1))


def test_what_an_earlier_attempt_left_is_replaced(tmp_path):
    (tmp_path / "4").mkdir()
    (tmp_path / "4.orbax-checkpoint-tmp").mkdir()
    checkpoints.save(tmp_path / "4", tree(2))
    assert os.listdir(tmp_path) == ["4"]
    assert_equal(checkpoints.restore(tmp_path / "4", tree(0)), tree(2))


@pytest.mark.parametrize(
    ("like", "message"),
    [
        ({"b": jnp.zeros(3)}, "cannot read the checkpoint .*Structure mismatch"),
        ({"a": jnp.zeros(4)}, r"an array of shape \(3,\) where its configuration makes one of"),
    ],
)
def test_checkpoints_of_something_else(tmp_path, like, message):
    checkpoints.save(tmp_path / "3", {"a": jnp.zeros(3)})
    with pytest.raises(CommandError, match=message):
        checkpoints.restore(tmp_path / "3", like)
