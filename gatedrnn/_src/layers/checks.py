"""Checks of the layers and sizes that a layer is made of."""

from typing import Any

from gatedrnn._src import checks, validation
from gatedrnn._src.describe import shown
from gatedrnn._src.layers.base import Layer


def check_layer(name: str, layer: Any) -> None:
    """Raise unless `layer` maps a sequence to a sequence."""
    if isinstance(layer, type) or not isinstance(layer, Layer):
        advice = ""
        if callable(layer) and not isinstance(layer, type):
            advice = "; a function of your own goes into the `run` of a class that extends gr.Layer"
        raise TypeError(
            f"{name}: got {shown(layer)}, expected a layer or a cell, like gr.LSTM(256){advice}"
        )
    validation.check_hashable(name, layer)
    if layer.drops_time:
        raise ValueError(
            f"{name}: got {layer!r}, whose output has no time axis; put gr.final outermost"
        )


def features_of(layer: Any, in_features: int | None) -> int:
    """Return the `in_features` of a layer that reads features; raise where there are none."""
    if in_features is None:
        raise ValueError(f"in_features: got None, expected the number that {layer!r} reads")
    checks.size("in_features", in_features)
    return in_features


def same_features(layer: Layer, in_features: int | None) -> int:
    """Return `in_features`, if `layer` makes as many; else raise."""
    in_features = features_of(layer, in_features)
    out = layer.out_features(in_features)
    if out != in_features:
        raise ValueError(
            f"in_features: got {in_features} for {layer!r}, which makes {out} of them, expected a "
            "layer that makes as many as it reads"
        )
    return out
