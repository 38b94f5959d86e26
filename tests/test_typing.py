"""The types that a user's script sees: mypy infers carries and finds mistakes where they are."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import gatedrnn as gr

ROOT = Path(gr.__file__).parent.parent
pytest.importorskip("mypy")

# In each script a comment says what mypy reports of the line: `# error`, or `# reveals` and a type.

CARRIES = '''
import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

import gatedrnn as gr

key, xs = jax.random.key(0), jnp.ones((5, 2, 4))
lstm, gru = gr.LSTM(3), gr.GRU(3, reset="after")
of_lstm, of_gru = lstm.init(key, 4), gru.init(key, 4)

reveal_type(of_lstm.kernel)  # reveals Array
reveal_type(gr.unroll(gr.LSTM(3), of_lstm, xs)[0].h)  # reveals Array
reveal_type(gr.trajectory(gru, of_gru, xs, lengths=jnp.array([5, 2]))[0].h)  # reveals Array
carry, ys = gr.unroll(lstm, of_lstm, xs, lstm.carry((2,)), bptt=gr.BPTT(truncate=3))
carry, ys = gr.unroll(lstm, of_lstm, xs, carry)
gr.unroll(gru, of_gru, xs)[0].c  # error
gr.unroll(lstm, of_lstm, xs, gru.carry((2,)))  # error
gr.unroll(lstm, of_gru, xs)  # error
gr.unroll(lstm, of_lstm, xs, resets=ys > 0, reset_carry=gru.carry((2,)))  # error
gr.unroll(gr.stack, of_lstm, xs)  # error

forest = gr.forest([(0, 1)])
tree_lstm = gr.TreeLSTM(3)
roots, states = gr.fold_tree(tree_lstm, tree_lstm.init(key, 4), xs[0], forest)
reveal_type(roots.c)  # reveals Array
roots.memory  # error
gr.fold_tree(tree_lstm, gr.TreeRNN(3).init(key, 4), xs[0], forest)  # error

some: gr.Cell = lstm if len(xs) else gru  # of any parameters and carries
gr.unroll(some, of_gru, xs)[0].anything


class Sums(NamedTuple):
    """The carry of a cell of one's own."""

    total: jax.Array


@dataclasses.dataclass(frozen=True)
class Sum:
    """A cell of one's own."""

    def init(self, key: jax.Array, in_features: int, dtype: object = jnp.float32) -> jax.Array:
        return jnp.ones(in_features)

    def carry(self, batch_shape: tuple[int, ...], dtype: object = jnp.float32) -> Sums:
        return Sums(jnp.zeros(batch_shape))

    def step(self, params: jax.Array, carry: Sums, x: jax.Array) -> tuple[Sums, jax.Array]:
        return Sums(carry.total + x @ params), x


reveal_type(gr.unroll(Sum(), Sum().init(key, 4), xs)[0].total)  # reveals Array
gr.unroll(Sum(), of_lstm, xs)  # error
'''

RULES = """
import jax
import jax.numpy as jnp

import gatedrnn as gr

Record = gr.StepRecord[gr.ElmanCarry, None, jax.Array]


def linearize(cell: gr.Elman, params: gr.ElmanParams, record: Record) -> jax.Array:
    reveal_type(record.after.h)  # reveals Array
    record.after.c  # error
    return 1 - record.after.h**2


def linearize_of_four(
    cell: gr.Elman, params: gr.ElmanParams, before: gr.ElmanCarry, after: gr.ElmanCarry
) -> jax.Array:
    return 1 - after.h**2


gr.Elman.rule._replace(linearize=linearize, prepare=None, takes_mask=False)
gr.Elman.rule._replace(linearize=linearize_of_four)  # error
gr.Elman.rule.linearize(gr.Elman(3), None, jnp.ones(3))  # error
"""

OPTIONS = """
import gatedrnn as gr

gr.Elman(3, "relu")
gr.Elman(3, activation="rleu")  # error
gr.Jordan(3, 2, output_activation="softmax")  # error
gr.LSTM(3, peephole="diagonal")
gr.LSTM(3, peephole="diagnal")  # error
gr.LSTM(3, projection=2.5)  # error
gr.GRU(3, reset="before", update="keeps")
gr.GRU(3, reset="first")  # error
gr.GRU(3, update="writes ")  # error
gr.BPTT(rule="hand", save="gates")
gr.BPTT(rule="by hand")  # error
gr.BPTT(save="all")  # error
gr.bidirectional(gr.LSTM(3), merge="sum")
gr.bidirectional(gr.LSTM(3), merge="sume")  # error
gr.stack(gr.LSTM(3), gr.dense(2), gr.repeat(gr.residual(gr.GRU(2)), 2))
gr.stack(jax.nn.relu)  # error
gr.recurrent(gr.LSTM(3), initial="learnt")  # error
"""

SCRIPTS = {"carries": CARRIES, "rules": RULES, "options": OPTIONS}


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """The errors and revealed types of each script, by line."""
    folder = tmp_path_factory.mktemp("scripts")
    for name, script in SCRIPTS.items():
        (folder / f"{name}.py").write_text(script)
    options = ["--config-file=", f"--cache-dir={folder / 'cache'}", "--no-pretty"]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *options, *(f"{name}.py" for name in SCRIPTS)],
        cwd=folder,
        env=os.environ | {"MYPYPATH": str(ROOT)},  # this very code
        capture_output=True,
        text=True,
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    errors, revealed = set(), {}
    for file, line, kind, text in re.findall(
        r"^(.+?):(\d+): (error|note): (.*)$", done.stdout, flags=re.MULTILINE
    ):
        name, line = Path(file).stem, int(line)
        assert name in SCRIPTS, text
        if kind == "error":
            errors.add((name, line))
        elif found := re.match(r'Revealed type is "(.*)"', text):
            revealed[name, line] = found[1].split(".")[-1]
    return errors, revealed


@pytest.mark.parametrize("name", ["carries", "rules", "options"])
def test_a_script_has_the_types_and_errors_that_it_says(name, reports):
    """An error in every line marked so and in no other."""
    errors, revealed = reports
    lines = dict(enumerate(SCRIPTS[name].splitlines(), start=1))
    wrong = {line for line, text in lines.items() if text.endswith("# error")}
    assert {line for script, line in errors if script == name} == wrong
    types = {i: text.split("# reveals ")[1] for i, text in lines.items() if "# reveals " in text}
    assert {line: got for (script, line), got in revealed.items() if script == name} == types
    assert wrong
