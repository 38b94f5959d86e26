import os
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
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
    checkpoints.save(tmp_path / "best", 3, tree(1))
    assert_equal(checkpoints.restore(tmp_path / "best", jax.eval_shape(lambda: tree(0))), tree(1))


def test_one_checkpoint_is_kept_the_last(tmp_path):
    folder = tmp_path / "latest"
    assert checkpoints.latest_step(folder) is None
    for step, scale in ((9, 1), (10, 2), (10, 3)):  # the last step again, after a resumption
        checkpoints.save(folder, step, tree(scale))
    assert os.listdir(folder) == ["10"]
    assert checkpoints.latest_step(folder) == 10
    assert_equal(checkpoints.restore(folder, tree(0)), tree(3))


def test_what_a_crash_leaves_does_not_count(tmp_path):
    checkpoints.save(tmp_path, 3, tree(1))
    for name in ("4.new", "4.new.orbax-checkpoint-tmp"):
        (tmp_path / name).mkdir()
    assert checkpoints.latest_step(tmp_path) == 3
    checkpoints.save(tmp_path, 4, tree(2))
    assert os.listdir(tmp_path) == ["4"]


def test_a_failure_while_saving_keeps_the_last(tmp_path, monkeypatch):
    checkpoints.save(tmp_path, 3, tree(1))

    real = os.rename

    def rename(source, target):
        if os.path.basename(target) == "4":
            raise OSError(28, "No space left on device")
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", rename)
        with pytest.raises(CommandError, match=r"No space left on device$") as caught:
            checkpoints.save(tmp_path, 4, tree(2))
    assert caught.value.exit_code == 1
    assert os.listdir(tmp_path) == ["3"]
    assert_equal(checkpoints.restore(tmp_path, tree(0)), tree(1))


def test_a_newer_checkpoint_that_comes_while_one_is_read(tmp_path, monkeypatch):
    checkpoints.save(tmp_path, 3, tree(1))
    real = ocp.StandardCheckpointer.restore

    def restore(self, directory, *args):
        if directory.name == "3":
            checkpoints.save(tmp_path, 4, tree(2))
        return real(self, directory, *args)

    monkeypatch.setattr(ocp.StandardCheckpointer, "restore", restore)
    assert_equal(checkpoints.restore(tmp_path, tree(0)), tree(2))


@pytest.mark.parametrize("name", ["a\0b", "n" * 300])
def test_folders_that_cannot_be(tmp_path, name):
    with pytest.raises(CommandError, match="cannot read"):
        checkpoints.latest_step(tmp_path / name)


@pytest.mark.parametrize(
    ("like", "message"),
    [
        ({"b": jnp.zeros(3)}, "cannot read the checkpoint .*Structure mismatch"),
        ({"a": jnp.zeros(4)}, r"an array of shape \(3,\) where its configuration makes one of"),
    ],
)
def test_checkpoints_of_something_else(tmp_path, like, message):
    checkpoints.save(tmp_path, 3, {"a": jnp.zeros(3)})
    with pytest.raises(CommandError, match=message):
        checkpoints.restore(tmp_path, like)
