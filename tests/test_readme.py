"""What the README shows runs as it is printed, and what CI runs is what it prints."""

import re
from pathlib import Path

import gatedrnn as gr
from gatedrnn._registry import readme

ROOT = Path(__file__).parent.parent


def test_examples_run(tmp_path, monkeypatch):
    """The Python blocks, one after another, in one namespace, in default precision."""
    import jax

    text = (ROOT / "README.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) >= 6
    namespace = {"__name__": "readme"}
    monkeypatch.chdir(tmp_path)
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        for block in blocks:
            exec(compile(block, "README.md", "exec"), namespace)
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
