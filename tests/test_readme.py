"""What the README shows runs as it is printed, and what CI runs is what it prints."""

import re
from pathlib import Path

import jax
import numpy as np
from networks import assert_trees_close

import gatedrnn as gr
from gatedrnn._app import shipped
from gatedrnn._registry import readme

RECIPES = ("params", "xs", "labels", "lengths")  # of the recipes for several devices
ROOT = Path(__file__).parent.parent


def several_devices_equal_one(namespace):
    """The recipes' gradients and outputs, computed once more on one device."""
    arguments = jax.tree.map(np.asarray, [namespace[n] for n in RECIPES])
    expected = jax.grad(namespace["tagging_loss"])(*arguments)
    for gradient in (namespace["gradient"], namespace["divided"]):
        assert_trees_close(jax.tree.map(np.asarray, gradient), expected, rtol=1e-4, atol=1e-6)
    repeated = gr.repeat(namespace["layer"], namespace["stages"])
    weights, batches = jax.tree.map(np.asarray, (namespace["weights"], namespace["batches"]))
    _, one_by_one = repeated.apply(weights, batches[0])
    np.testing.assert_allclose(namespace["outputs"][0], one_by_one, rtol=1e-5)


def test_examples_run(tmp_path, monkeypatch):
    """The Python blocks, one after another, in one namespace, in default precision."""
    text = (ROOT / "README.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) >= 6
    namespace = {"__name__": "readme"}
    monkeypatch.chdir(tmp_path)
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        for block in blocks:
            exec(compile(block, "README.md", "exec"), namespace)
            if "jax.shard_map(pipeline" in block:
                several_devices_equal_one(namespace)
    assert namespace["tags"].shape == (50, 16, 5)
    assert not namespace["tags"][20:, 8:].any()
    assert namespace["warm"][0].h.shape == (4, 32)
    assert namespace["values"].shape == (8, 4, 4)
    assert namespace["layer"] == namespace["served"]


def test_the_table_of_cells_is_that_of_the_registry():
    """`python -m gatedrnn._registry.readme` writes it."""
    text = (ROOT / "README.md").read_text()
    assert readme.replaced(text) == text


def test_readme_names_every_way_through_time():
    text = (ROOT / "README.md").read_text()
    for field in gr.BPTT.__dataclass_fields__:
        assert f"`{field}`" in text, field


def test_readme_has_a_row_for_every_configuration_that_is_shipped():
    text = (ROOT / "README.md").read_text()
    for name in shipped.names():
        assert f"\n| `{name}` | " in text, name
