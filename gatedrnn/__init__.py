"""Recurrent networks as pure functions in JAX, with backward passes derived by hand."""

from gatedrnn import diagnostics, interop, plot
from gatedrnn._interop.cudnn_layer import CuDNN as _CuDNN
from gatedrnn._interop.cudnn_layer import cudnn
from gatedrnn._saving.classes import register as _register_for_files
from gatedrnn._saving.save import load, save
from gatedrnn._src.base import Cell, Rule, Shared, StepRecord
from gatedrnn._src.cells.alignment import (
    AttentionCarry,
    AttentionParams,
    attend,
    attention_weights,
)
from gatedrnn._src.cells.alignment import Memory as _Memory
from gatedrnn._src.cells.attention import Attention
from gatedrnn._src.cells.elman import Elman, ElmanCarry, ElmanParams
from gatedrnn._src.cells.gru import GRU, GRUCarry, GRUParams
from gatedrnn._src.cells.jordan import Jordan, JordanCarry, JordanParams
from gatedrnn._src.cells.layer_norm_gru import LayerNormGRU, LayerNormGRUParams
from gatedrnn._src.cells.layer_norm_lstm import LayerNormLSTM, LayerNormLSTMParams
from gatedrnn._src.cells.lstm import LSTM, LSTMCarry, LSTMParams
from gatedrnn._src.cells.recurrent_dropout import RecurrentDropout
from gatedrnn._src.cells.zoneout import Zoneout
from gatedrnn._src.checking import RuleReport, check_rule, check_tree_rule
from gatedrnn._src.decoding.beam import Beams, beam_search
from gatedrnn._src.decoding.free_running import generate
from gatedrnn._src.decoding.token_by_token import Decoded, greedy, sample
from gatedrnn._src.exported import register as _register
from gatedrnn._src.layers.base import Layer
from gatedrnn._src.layers.bidirectional import Bidirectional, Directions, bidirectional
from gatedrnn._src.layers.combinators import Repeat, Residual, repeat, residual
from gatedrnn._src.layers.context import Context
from gatedrnn._src.layers.many_to_one import Final, Pool, final, pool
from gatedrnn._src.layers.pointwise import (
    Dense,
    DenseParams,
    Dropout,
    DropoutCarry,
    Embed,
    EmbedParams,
    dense,
    dropout,
    embed,
)
from gatedrnn._src.layers.recurrent import CountedCarry, Recurrent, RecurrentParams, recurrent
from gatedrnn._src.layers.stack import Stack, stack
from gatedrnn._src.layers.summary import summary
from gatedrnn._src.loops import Kernel
from gatedrnn._src.losses import softmax_cross_entropy
from gatedrnn._src.rows import take_rows, where_rows
from gatedrnn._src.seq2seq import Seq2Seq, Seq2SeqParams, seq2seq
from gatedrnn._src.time.bptt import BPTT
from gatedrnn._src.time.unroll import trajectory, unroll
from gatedrnn._src.time.windows import Windows, windows
from gatedrnn._src.trees.base import TreeCell
from gatedrnn._src.trees.flatten import flatten_tree
from gatedrnn._src.trees.fold import fold_tree
from gatedrnn._src.trees.forest import Forest, ForestSizes, forest, forest_sizes
from gatedrnn._src.trees.tree_lstm import TreeLSTM, TreeLSTMParams, TreeLSTMState
from gatedrnn._src.trees.tree_rnn import TreeRNN, TreeRNNParams, TreeRNNState
from gatedrnn._version import read as _read_version

__all__ = [
    "BPTT",
    "GRU",
    "LSTM",
    "Attention",
    "AttentionCarry",
    "AttentionParams",
    "Beams",
    "Bidirectional",
    "Cell",
    "Context",
    "CountedCarry",
    "Decoded",
    "Dense",
    "DenseParams",
    "Directions",
    "Dropout",
    "DropoutCarry",
    "Elman",
    "ElmanCarry",
    "ElmanParams",
    "Embed",
    "EmbedParams",
    "Final",
    "Forest",
    "ForestSizes",
    "GRUCarry",
    "GRUParams",
    "Jordan",
    "JordanCarry",
    "JordanParams",
    "Kernel",
    "LSTMCarry",
    "LSTMParams",
    "Layer",
    "LayerNormGRU",
    "LayerNormGRUParams",
    "LayerNormLSTM",
    "LayerNormLSTMParams",
    "Pool",
    "Recurrent",
    "RecurrentDropout",
    "RecurrentParams",
    "Repeat",
    "Residual",
    "Rule",
    "RuleReport",
    "Seq2Seq",
    "Seq2SeqParams",
    "Shared",
    "Stack",
    "StepRecord",
    "TreeCell",
    "TreeLSTM",
    "TreeLSTMParams",
    "TreeLSTMState",
    "TreeRNN",
    "TreeRNNParams",
    "TreeRNNState",
    "Windows",
    "Zoneout",
    "attend",
    "attention_weights",
    "beam_search",
    "bidirectional",
    "check_rule",
    "check_tree_rule",
    "cudnn",
    "dense",
    "diagnostics",
    "dropout",
    "embed",
    "final",
    "flatten_tree",
    "fold_tree",
    "forest",
    "forest_sizes",
    "generate",
    "greedy",
    "interop",
    "load",
    "plot",
    "pool",
    "recurrent",
    "repeat",
    "residual",
    "sample",
    "save",
    "seq2seq",
    "softmax_cross_entropy",
    "stack",
    "summary",
    "take_rows",
    "trajectory",
    "unroll",
    "where_rows",
    "windows",
]

__version__ = _read_version()

_register((globals()[name] for name in __all__), (Shared, _Memory))
_register_for_files((globals()[name] for name in __all__), (_Memory, _CuDNN))
