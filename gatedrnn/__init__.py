"""Recurrent networks as pure functions in JAX, with backward passes derived by hand."""

from gatedrnn import diagnostics, interop, plot
from gatedrnn._interop.cudnn_layer import cudnn
from gatedrnn._src.attention import Attention, attend, attention_weights
from gatedrnn._src.attention_rule import AttentionCarry, AttentionParams
from gatedrnn._src.bptt import BPTT
from gatedrnn._src.check_rule import RuleReport, check_rule
from gatedrnn._src.decoding.beam import Beams, beam_search
from gatedrnn._src.decoding.free_running import generate
from gatedrnn._src.decoding.token_by_token import Decoded, greedy, sample
from gatedrnn._src.elman import Elman, ElmanCarry, ElmanParams
from gatedrnn._src.gru import GRU
from gatedrnn._src.gru_rule import GRUCarry, GRUParams
from gatedrnn._src.jordan import Jordan, JordanCarry, JordanParams
from gatedrnn._src.layer_norm_gru import LayerNormGRU, LayerNormGRUParams
from gatedrnn._src.layer_norm_lstm import LayerNormLSTM, LayerNormLSTMParams
from gatedrnn._src.layers.bidirectional import Directions, bidirectional
from gatedrnn._src.layers.dropout import DropoutCarry, dropout
from gatedrnn._src.layers.final import final
from gatedrnn._src.layers.layer import Layer
from gatedrnn._src.layers.pool import pool
from gatedrnn._src.layers.recurrent import CountedCarry, RecurrentParams, recurrent
from gatedrnn._src.layers.repeat import repeat
from gatedrnn._src.layers.residual import residual
from gatedrnn._src.layers.stack import stack
from gatedrnn._src.layers.stepwise import DenseParams, EmbedParams, dense, embed
from gatedrnn._src.lstm import LSTM, LSTMCarry, LSTMParams
from gatedrnn._src.readout import softmax_cross_entropy
from gatedrnn._src.recurrent_dropout import RecurrentDropout
from gatedrnn._src.rule import Cell, Rule
from gatedrnn._src.seq2seq import Seq2Seq, Seq2SeqParams, seq2seq
from gatedrnn._src.tree.cell import TreeCell
from gatedrnn._src.tree.check import check_tree_rule
from gatedrnn._src.tree.flatten import flatten_tree
from gatedrnn._src.tree.fold import fold_tree
from gatedrnn._src.tree.forest import Forest, ForestSizes, forest, forest_sizes
from gatedrnn._src.tree.tree_lstm import TreeLSTM
from gatedrnn._src.tree.tree_lstm_rule import TreeLSTMParams, TreeLSTMState
from gatedrnn._src.tree.tree_rnn import TreeRNN, TreeRNNParams, TreeRNNState
from gatedrnn._src.unroll import trajectory, unroll
from gatedrnn._src.windows import Windows, windows
from gatedrnn._src.zoneout import Zoneout

__all__ = [
    "BPTT",
    "GRU",
    "LSTM",
    "Attention",
    "AttentionCarry",
    "AttentionParams",
    "Beams",
    "Cell",
    "CountedCarry",
    "Decoded",
    "DenseParams",
    "Directions",
    "DropoutCarry",
    "Elman",
    "ElmanCarry",
    "ElmanParams",
    "EmbedParams",
    "Forest",
    "ForestSizes",
    "GRUCarry",
    "GRUParams",
    "Jordan",
    "JordanCarry",
    "JordanParams",
    "LSTMCarry",
    "LSTMParams",
    "Layer",
    "LayerNormGRU",
    "LayerNormGRUParams",
    "LayerNormLSTM",
    "LayerNormLSTMParams",
    "RecurrentDropout",
    "RecurrentParams",
    "Rule",
    "RuleReport",
    "Seq2Seq",
    "Seq2SeqParams",
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
    "plot",
    "pool",
    "recurrent",
    "repeat",
    "residual",
    "sample",
    "seq2seq",
    "softmax_cross_entropy",
    "stack",
    "trajectory",
    "unroll",
    "windows",
]
