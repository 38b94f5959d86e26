"""Conventions of other libraries: a row for each of their cells, ours first.

`layouts` turns parameters by a row of this table, in both directions, and `supported` refuses what
no row has; no converter states such a fact again.

Axes: `I` input features, `H` features, `n` gates.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from gatedrnn._src.cells.elman import Elman
from gatedrnn._src.cells.gru import GRU
from gatedrnn._src.cells.lstm import LSTM

Names = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class CellConvention:
    """The arrays and the step of one cell of a library.

    Gates have our letters: `i, f, g, o` of an LSTM (`g` is also called `c`), `r, z, n` of a GRU
    (`n` is also called `h`, `s` or `a`), `h` of a simple cell. Arrays have names, with slashes
    where they are nested: one name for an array of all gates, several for an array of each gate, in
    the order of `gates`. A name that stands in two fields is one array that holds both.

    Attributes:
      cell: our class for it.
      modules: the library's classes that have these arrays.
      gates: the order in which gates are stacked.
      gate_axis: `"columns"` for kernels `[I, nH]`, `"rows"` for `[nH, I]`.
      kernel: the array that multiplies the input.
      recurrent_kernel: the array that multiplies the state; in one that holds both kernels, below
        the input's.
      bias: the bias, or the input's where there are two.
      recurrent_bias: the second bias, which is the state's; without names where there is none.
      recurrent_bias_gates: the gates that have a second bias, where not all do.
      bias_pair: the shape of one array with both biases: `"rows"` for `[2, nH]`, `"halves"` for
        `[2nH]`.
      bias_optional: whether a cell may be without biases; else zeros stand for them.
      forget_shift: a constant that every step adds to the pre-activation of `f`.
      updates: of a GRU, what its update gate may do: `"writes"`, `h' = (1−z) h + z n`, or
        `"keeps"`, `h' = z h + (1−z) n`, which is the other one with the sign of `z` turned.
      resets: of a GRU, where its reset gate may act: `"before"` the recurrent product, `(r h) U`,
        or `"after"`, `r (h U + d)`, where `d` is the second bias of `n`.
      activations: of a simple cell, the library's names by ours.
      peephole: diagonal peepholes: the order of the gates in each array, by the array's name.
      projection: the array of the recurrent projection.
      coupled: whether the forget gate may be `1 − i`.
      carry: the order of the states.
    """

    cell: type[Elman] | type[LSTM] | type[GRU]
    modules: Names
    gates: str
    gate_axis: Literal["columns", "rows"]
    kernel: Names
    recurrent_kernel: Names
    bias: Names
    recurrent_bias: Names = ()
    recurrent_bias_gates: str = ""
    bias_pair: Literal["rows", "halves"] | None = None
    bias_optional: bool = True
    forget_shift: int = 0
    updates: tuple[Literal["writes", "keeps"], ...] = ()
    resets: tuple[Literal["before", "after"], ...] = ()
    activations: Mapping[str, str] = dataclasses.field(default_factory=dict)
    peephole: Mapping[str, str] = dataclasses.field(default_factory=dict)
    projection: str = ""
    coupled: bool = False
    carry: Names = ("h",)


@dataclasses.dataclass(frozen=True)
class LibraryConvention:
    """A library, or one of its interfaces, with all that it has of our networks.

    Attributes:
      name: in `gr.interop.from_NAME` and `to_NAME`.
      module: the module that Python imports.
      target: words for a network of it, in errors.
      cells: a row for each cell; where several fit, the first is taken.
      merges: the ways in which its layers of two directions join both, by ours; none where it has
        no such layers.
      dense: whether it has layers `y = x W + b` between recurrent ones.
    """

    name: str
    module: str
    target: str
    cells: tuple[CellConvention, ...]
    merges: Mapping[str, str] = dataclasses.field(default_factory=lambda: {"concat": "concat"})
    dense: bool = False

    def row(self, module: str) -> CellConvention:
        """Return the row of one of the library's classes."""
        return next(row for row in self.cells if module in row.modules)


def _arrays(
    gate_axis: str, kernel: str, recurrent_kernel: str, bias: str, recurrent_bias: str = ""
) -> Any:
    """Return the fields of a row that say where arrays are; spaces part the names of gates."""
    names = {"kernel": kernel, "recurrent_kernel": recurrent_kernel, "bias": bias}
    names["recurrent_bias"] = recurrent_bias
    return {"gate_axis": gate_axis} | {field: tuple(own.split()) for field, own in names.items()}


_ACTIVATIONS = {name: name for name in ("tanh", "relu", "sigmoid", "identity")}
_MERGES = {name: name for name in ("concat", "sum", "mean", "mul")}
_HC: Any = {"carry": ("h", "c")}
_CH: Any = {"carry": ("c", "h")}
_AFTER: Any = {"resets": ("after",), "updates": ("keeps",)}  # cuDNN's GRU, and most others'
_BIASED: Any = {"bias_optional": False}

# Ours

_FUSED = _arrays("columns", "kernel", "recurrent_kernel", "bias")
OURS = LibraryConvention(
    name="gatedrnn",
    module="gatedrnn",
    target="a network of ours",
    merges=_MERGES,
    dense=True,
    cells=(
        CellConvention(Elman, ("Elman",), "h", activations=_ACTIVATIONS, **_FUSED),
        CellConvention(
            LSTM,
            ("LSTM",),
            "ifgo",
            peephole={"peephole": "if", "output_peephole": "o"},
            projection="projection_kernel",
            coupled=True,
            **_HC,
            **_FUSED,
        ),
        CellConvention(
            GRU,
            ("GRU",),
            "rzn",
            recurrent_bias_gates="n",
            updates=("writes", "keeps"),
            resets=("before", "after"),
            **_FUSED | {"recurrent_bias": ("recurrent_bias",)},
        ),
    ),
)

# torch

_TORCH = _arrays("rows", "weight_ih", "weight_hh", "bias_ih", "bias_hh")
_TANH_OR_RELU = {"tanh": "tanh", "relu": "relu"}
TORCH = LibraryConvention(
    name="torch",
    module="torch",
    target="a torch module",
    cells=(
        CellConvention(Elman, ("RNN", "RNNCell"), "h", activations=_TANH_OR_RELU, **_TORCH),
        CellConvention(LSTM, ("LSTM",), "ifgo", projection="weight_hr", **_HC, **_TORCH),
        CellConvention(LSTM, ("LSTMCell",), "ifgo", **_HC, **_TORCH),
        CellConvention(GRU, ("GRU", "GRUCell"), "rzn", **_AFTER, **_TORCH),
    ),
)

# keras, whose gates are `i, f, c, o` and `z, r, h`

_LINEAR = _ACTIVATIONS | {"identity": "linear"}
_PAIR = {"recurrent_bias": ("bias",), "bias_pair": "rows"}
_BEFORE: Any = {"resets": ("before",), "updates": ("keeps",)}
KERAS = LibraryConvention(
    name="keras",
    module="keras",
    target="a keras model",
    merges=_MERGES | {"mean": "ave"},
    dense=True,
    cells=(
        CellConvention(Elman, ("SimpleRNN", "SimpleRNNCell"), "h", activations=_LINEAR, **_FUSED),
        CellConvention(LSTM, ("LSTM", "LSTMCell"), "ifgo", **_HC, **_FUSED),
        CellConvention(GRU, ("GRU", "GRUCell"), "zrn", **_AFTER, **_FUSED | _PAIR),
        CellConvention(GRU, ("GRU(reset_after=False)",), "zrn", **_BEFORE, **_FUSED),
    ),
)

# flax

_LINEN_SIMPLE = _arrays("columns", "i/kernel", "h/kernel", "i/bias")
_LINEN_LSTM = _arrays(
    "columns",
    "ii/kernel if/kernel ig/kernel io/kernel",
    "hi/kernel hf/kernel hg/kernel ho/kernel",
    "hi/bias hf/bias hg/bias ho/bias",
)
_LINEN_GRU = _arrays(
    "columns",
    "ir/kernel iz/kernel in/kernel",
    "hr/kernel hz/kernel hn/kernel",
    "ir/bias iz/bias in/bias",
    "hn/bias",
)
LINEN = LibraryConvention(
    name="linen",
    module="flax.linen",
    target="a linen module",
    dense=True,
    cells=(
        CellConvention(
            Elman, ("SimpleCell",), "h", activations=_ACTIVATIONS, **_BIASED, **_LINEN_SIMPLE
        ),
        CellConvention(
            LSTM, ("LSTMCell", "OptimizedLSTMCell"), "ifgo", **_CH, **_BIASED, **_LINEN_LSTM
        ),
        CellConvention(
            GRU, ("GRUCell",), "rzn", recurrent_bias_gates="n", **_AFTER, **_BIASED, **_LINEN_GRU
        ),
    ),
)

_NNX = _arrays("columns", "dense_i/kernel", "dense_h/kernel", "dense_i/bias")
_NNX_LSTM = _LINEN_LSTM | {"kernel": ("ii/kernel", "if_/kernel", "ig/kernel", "io/kernel")}
_NNX_OPTIMIZED = _NNX | {"bias": ("dense_h/bias",)}
NNX = LibraryConvention(
    name="nnx",
    module="flax.nnx",
    target="an nnx module",
    dense=True,
    cells=(
        CellConvention(Elman, ("SimpleCell",), "h", activations=_ACTIVATIONS, **_BIASED, **_NNX),
        CellConvention(LSTM, ("LSTMCell",), "ifgo", **_CH, **_BIASED, **_NNX_LSTM),
        CellConvention(LSTM, ("OptimizedLSTMCell",), "ifgo", **_CH, **_BIASED, **_NNX_OPTIMIZED),
        CellConvention(GRU, ("GRUCell",), "rzn", **_AFTER, **_BIASED, **_NNX),
    ),
)

# equinox

_EQUINOX = _arrays("rows", "weight_ih", "weight_hh", "bias")
_BIAS_N = {"recurrent_bias": ("bias_n",), "recurrent_bias_gates": "n"}
EQUINOX = LibraryConvention(
    name="equinox",
    module="equinox",
    target="an equinox cell",
    merges={},
    cells=(
        CellConvention(LSTM, ("LSTMCell",), "ifgo", **_HC, **_EQUINOX),
        CellConvention(GRU, ("GRUCell",), "rzn", **_AFTER, **_EQUINOX | _BIAS_N),
    ),
)

# haiku, whose GRU has the gates `z, r, a`

_HAIKU_SIMPLE = _arrays("columns", "linear/w", "linear_1/w", "linear/b", "linear_1/b")
_HAIKU_LSTM = _arrays("columns", "linear/w", "linear/w", "linear/b")
_HAIKU_GRU: Any = {"resets": ("before",), "updates": ("writes",)}
_RELU = {"relu": "relu"}
HAIKU = LibraryConvention(
    name="haiku",
    module="haiku",
    target="a haiku core",
    merges={},
    cells=(
        CellConvention(Elman, ("VanillaRNN",), "h", activations=_RELU, **_BIASED, **_HAIKU_SIMPLE),
        CellConvention(
            Elman,
            ("VanillaRNN(double_bias=False)",),
            "h",
            activations=_RELU,
            **_BIASED,
            **_HAIKU_SIMPLE | {"recurrent_bias": ()},
        ),
        CellConvention(LSTM, ("LSTM",), "igfo", forget_shift=1, **_HC, **_BIASED, **_HAIKU_LSTM),
        CellConvention(
            GRU, ("GRU",), "zrn", **_HAIKU_GRU, **_BIASED, **_arrays("columns", "w_i", "w_h", "b")
        ),
    ),
)

# cuDNN, as `jax.experimental.rnn` has it: one vector, in which no array has a name

_CUDNN = _arrays("rows", "W_ih", "W_hh", "b_ih", "b_hh")
CUDNN = LibraryConvention(
    name="cudnn",
    module="jax.experimental.rnn",
    target="cuDNN's LSTM",
    cells=(CellConvention(LSTM, ("lstm",), "ifgo", **_HC, **_BIASED, **_CUDNN),),
)

# ONNX, whose gates are `i, o, f, c` and `z, r, h`

_ONNX = _arrays("rows", "W", "R", "B", "B") | {"bias_pair": "halves"}
_AFFINE = {"tanh": "Tanh", "relu": "Relu", "sigmoid": "Sigmoid", "identity": "Affine"}
_EITHER: Any = {"resets": ("before", "after"), "updates": ("keeps",)}
ONNX = LibraryConvention(
    name="onnx",
    module="onnx",
    target="an ONNX graph",
    merges={"concat": "Concat", "sum": "ReduceSum", "mean": "ReduceMean", "mul": "ReduceProd"},
    dense=True,
    cells=(
        CellConvention(Elman, ("RNN",), "h", activations=_AFFINE, **_ONNX),
        CellConvention(
            LSTM, ("LSTM",), "iofg", peephole={"P": "iof"}, coupled=True, **_HC, **_ONNX
        ),
        CellConvention(GRU, ("GRU",), "zrn", **_EITHER, **_ONNX),
    ),
)

LIBRARIES = (OURS, TORCH, KERAS, LINEN, NNX, EQUINOX, HAIKU, CUDNN, ONNX)
