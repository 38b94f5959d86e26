"""The table of cells: a row for each that is supported, and what is looked up in it."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

import gatedrnn as gr
from gatedrnn._registry import equations, shapes, tree_equations
from gatedrnn._registry.row import Cell, Row, name_of


@dataclasses.dataclass(frozen=True)
class Attention(gr.Attention):
    """An attention whose `init` binds five positions of noise: a cell as any other."""

    def init(self, key: Any, in_features: int, dtype: DTypeLike = jnp.float32) -> Any:
        """Return its parameters, bound to a memory that all rows share."""
        params = super().init(key, in_features, dtype)
        memory = jax.random.normal(jax.random.fold_in(key, 1), (5, self.memory_features), dtype)
        return gr.attend(params, memory)


LSTM = gr.LSTM(4, peephole="diagonal", projection=3)
NORMALISED = gr.RecurrentDropout(gr.LayerNormLSTM(4), 0.4)

ROWS: tuple[Row, ...] = (
    Row(
        gr.Elman,
        step=equations.elman,
        shapes=shapes.elman,
        formulas="`h' = f(x U + h W + b)`",
        remarks={"activation": "`f`"},
    ),
    Row(
        gr.Jordan,
        step=equations.jordan,
        shapes=shapes.jordan,
        formulas="`h = f(x U + o W + b)`, `o' = g(h V + c)`",
        values={"out_features": (3,)},
        typical=(gr.Jordan(4, 3, output_activation="tanh"),),
        remarks={"activation": "`f`", "output_activation": "`g`"},
    ),
    Row(
        gr.LSTM,
        step=equations.lstm,
        shapes=shapes.lstm,
        formulas="`c' = f ⊙ c + i ⊙ g`, `m = o ⊙ tanh(c')`, `h' = m R`; order `i, f, g, o`",
        values={"projection": (None, 3)},
        initial={"forget_bias": 2.5},
        crossed=("peephole", "projection", "coupled"),
        examples=(gr.LSTM(4, coupled=True, use_bias=False),),
        typical=(LSTM, gr.LSTM(4, peephole="full", coupled=True)),
        remarks={
            "projection": "the size of `h`",
            "coupled": "`f = 1 − i`, order `i, g, o`",
            "forget_bias": "1.0 where there is a bias",
        },
    ),
    Row(
        gr.GRU,
        step=equations.gru,
        shapes=shapes.gru,
        formulas="below; order `r, z, n`",
        crossed=("reset", "update"),
        examples=(gr.GRU(4, reset="after", update="keeps", use_bias=False),),
        typical=(gr.GRU(4), gr.GRU(4, reset="after", update="keeps")),
        forms={"GRU after": {"reset": "after", "update": "keeps"}, "GRU before": {}},
    ),
    Row(
        gr.LayerNormLSTM,
        step=equations.layer_norm_lstm,
        shapes=shapes.layer_norm_lstm,
        formulas=(
            "gates from `LN(x W; γ_x) + LN(h U; γ_h) + b`, `h' = o ⊙ tanh(LN(c'; γ_c) + β_c)`; "
            "order `i, f, g, o`"
        ),
        initial={"forget_bias": 2.5},
        remarks={"forget_bias": "1.0 where there is a bias"},
    ),
    Row(
        gr.LayerNormGRU,
        step=equations.layer_norm_gru,
        shapes=shapes.layer_norm_gru,
        formulas=(
            "`r, z` from `LN(x W) + LN(h U)`, `n = tanh(LN(x W_n) + r ⊙ LN(h U_n))`; "
            "order `r, z, n`"
        ),
    ),
    Row(
        gr.TreeRNN,
        step=tree_equations.rnn,
        shapes=shapes.tree_rnn,
        formulas="`h_p = f(x_p U + Σ_k h_k W_k + b)`",
        values={"children": (2, 1, 3)},
        remarks={"children": "the places of a node", "activation": "`f`"},
    ),
    Row(
        gr.TreeLSTM,
        step=tree_equations.lstm,
        shapes=shapes.tree_lstm,
        formulas="`c_p = i ⊙ g + Σ_k f_k ⊙ c_k`, `h_p = o ⊙ tanh(c_p)`; order `i, f, g, o`",
        initial={"forget_bias": 2.5},
        crossed=("kind", "use_bias"),
        remarks={
            "kind": "Tai et al. 2015, eq. 9–14 and 2–8",
            "forget_bias": "1.0 where there is a bias",
        },
    ),
    Row(
        gr.Attention,
        step=lambda *known: equations.attention(step, *known),
        shapes=lambda *known: shapes.attention(shapes_of, *known),
        formulas=(
            "around a cell, which reads `[x, Σ_s α_s m_s]`: "
            "`α = softmax_s(v · tanh(m_s W_m + h W_q))`"
        ),
        examples=(Attention(gr.GRU(4), memory_features=3, features=2),),
        enumerated=False,
    ),
    Row(
        gr.Zoneout,
        step=lambda *known: equations.zoneout(step, *known),
        shapes=lambda *known: shapes.around(shapes_of, *known),
        formulas="around a cell: `h' = d ⊙ h + (1−d) ⊙ ĥ`, `c'` likewise; see above",
        examples=(
            gr.Zoneout(LSTM, h=0.2, c=0.4),
            gr.Zoneout(gr.GRU(4), h=0.3),
            gr.Zoneout(NORMALISED, c=0.25),
        ),
        enumerated=False,
        remarks={"h": "a rate", "c": "a rate"},
    ),
    Row(
        gr.RecurrentDropout,
        step=lambda *known: equations.recurrent_dropout(step, *known),
        shapes=lambda *known: shapes.around(shapes_of, *known),
        formulas="around a cell, whose products read `m ⊙ h / (1−rate)`; see above",
        examples=(gr.RecurrentDropout(gr.Elman(4), 0.4),),
        enumerated=False,
    ),
)
"""Every cell of the library. Whatever runs over cells reads it when it is called."""


def over_time() -> tuple[Row, ...]:
    """Return the rows of cells for sequences."""
    return tuple(row for row in ROWS if not row.of_trees)


def over_trees() -> tuple[Row, ...]:
    """Return the rows of cells for trees."""
    return tuple(row for row in ROWS if row.of_trees)


def named(rows: tuple[Row, ...], cells: Callable[[Row], tuple[Cell, ...]]) -> dict[str, Cell]:
    """Return the cells of some rows by name, such as `named(over_time(), Row.sample)`."""
    found: dict[str, Cell] = {}
    for cell in (cell for row in rows for cell in cells(row)):
        if found.setdefault(name_of(cell), cell) != cell:
            raise ValueError(f"cell: got {cell!r}, which has the name of {found[name_of(cell)]!r}")
    return found


def row_of(cell: Cell) -> Row:
    """Return the row of the class of `cell`, or of the nearest that it inherits from."""
    rows = {row.cell: row for row in ROWS}
    for kind in type(cell).__mro__:
        if kind in rows:
            return rows[kind]
    raise KeyError(f"cell: got {cell!r}, expected one of {', '.join(row.name for row in ROWS)}")


def shapes_of(cell: Cell, in_features: int) -> dict[str, tuple[int, ...]]:
    """Return the shape of every parameter of `cell`, by its path; a bound memory is left out."""
    return row_of(cell).shapes(cell, in_features)


def step(cell: Cell, params: Any, carry: Any, x: Any) -> equations.Step:
    """Return one step of a cell for sequences, by its equations in NumPy, in float64."""
    return row_of(cell).step(cell, *_as_float64((params, carry, x)))


def unroll(cell: Cell, params: Any, xs: Any, carry: Any) -> tuple[Any, np.ndarray]:
    """Return the last carry and the outputs `[T, *B, F]`, step after step, in NumPy."""
    ys = []
    for x in xs:
        carry, y, _ = step(cell, params, carry, x)
        ys.append(y)
    return carry, np.stack(ys)


def fold(cell: Cell, params: Any, xs: Any, tree: Any) -> tuple[np.ndarray, ...]:
    """Return the states of all nodes of a tree in post-order, each leaf `[N, H]`, in NumPy."""
    params, xs = _as_float64((params, xs))
    return tree_equations.fold(row_of(cell).step, cell, params, xs, tree)


def _as_float64(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)
