"""What the README shows runs as it is printed, and what CI runs is what it prints."""

import re
from pathlib import Path

import gatedrnn as gr

ROOT = Path(__file__).parent.parent


def test_examples_run():
    """The Python blocks, one after another, in one namespace, in default precision."""
    import jax

    text = (ROOT / "README.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) >= 6
    namespace = {"__name__": "readme"}
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        for block in blocks:
            exec(compile(block, "README.md", "exec"), namespace)
    assert namespace["tags"].shape == (50, 16, 5)
    assert not namespace["tags"][20:, 8:].any()
    assert namespace["warm"][0].h.shape == (4, 32)
    assert namespace["values"].shape == (8, 4, 4)


def test_readme_names_every_public_cell_and_option():
    """The table of cells is complete."""
    text = (ROOT / "README.md").read_text()
    cells = [gr.Elman, gr.Jordan, gr.LSTM, gr.GRU, gr.LayerNormLSTM, gr.LayerNormGRU]
    cells += [gr.TreeRNN, gr.TreeLSTM, gr.Attention, gr.Zoneout, gr.RecurrentDropout]
    for cell in cells:
        assert f"`gr.{cell.__name__}`" in text, cell
        for field in cell.__dataclass_fields__:
            if field not in ("features", "out_features", "cell"):
                assert f"`{field}`" in text, field
    for field in gr.BPTT.__dataclass_fields__:
        assert f"`{field}`" in text, field
