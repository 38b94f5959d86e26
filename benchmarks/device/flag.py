"""XLA's flag by which a loop is one command of a GPU, instead of launches from the host."""

import os

POINTS = ("speech", "long-small")
WITHOUT = "without"
WHILE = "--xla_gpu_enable_command_buffer=+WHILE"
VARIANTS = {
    WITHOUT: "",
    "+WHILE": WHILE,
    "+WHILE, of any size": f"{WHILE},+CONDITIONAL,+DYNAMIC_SLICE_FUSION"
    " --xla_gpu_graph_min_graph_size=1",
    "+WHILE, unrolled": f"{WHILE} --xla_gpu_command_buffer_unroll_loops=true",
}
"""Flags of XLA by name; they are read once, when a process begins."""


def environment(added: str) -> dict[str, str]:
    """The environment with these flags beside those that are set."""
    return {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {added}".strip()}
