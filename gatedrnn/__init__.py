"""Recurrent networks as pure functions in JAX, with backward passes derived by hand."""

from gatedrnn import diagnostics, plot
from gatedrnn._src.bptt import BPTT
from gatedrnn._src.check_rule import RuleReport, check_rule
from gatedrnn._src.elman import Elman, ElmanCarry, ElmanParams
from gatedrnn._src.gru import GRU, GRUCarry, GRUParams
from gatedrnn._src.jordan import Jordan, JordanCarry, JordanParams
from gatedrnn._src.layers.bidirectional import Directions, bidirectional
from gatedrnn._src.layers.dropout import DropoutCarry, dropout
from gatedrnn._src.layers.final import final
from gatedrnn._src.layers.layer import Layer
from gatedrnn._src.layers.recurrent import RecurrentParams, recurrent
from gatedrnn._src.layers.repeat import repeat
from gatedrnn._src.layers.residual import residual
from gatedrnn._src.layers.stack import stack
from gatedrnn._src.layers.stepwise import DenseParams, EmbedParams, dense, embed
from gatedrnn._src.lstm import LSTM, LSTMCarry, LSTMParams
from gatedrnn._src.readout import softmax_cross_entropy
from gatedrnn._src.rule import Cell, Rule
from gatedrnn._src.unroll import trajectory, unroll

__all__ = [
    "BPTT",
    "GRU",
    "LSTM",
    "Cell",
    "DenseParams",
    "Directions",
    "DropoutCarry",
    "Elman",
    "ElmanCarry",
    "ElmanParams",
    "EmbedParams",
    "GRUCarry",
    "GRUParams",
    "Jordan",
    "JordanCarry",
    "JordanParams",
    "LSTMCarry",
    "LSTMParams",
    "Layer",
    "RecurrentParams",
    "Rule",
    "RuleReport",
    "bidirectional",
    "check_rule",
    "dense",
    "diagnostics",
    "dropout",
    "embed",
    "final",
    "plot",
    "recurrent",
    "repeat",
    "residual",
    "softmax_cross_entropy",
    "stack",
    "trajectory",
    "unroll",
]
