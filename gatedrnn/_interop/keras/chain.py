"""keras models whose layers read one another in a row."""

from typing import Any


def refusal(source: Any, why: str) -> ValueError:
    """The error for a part of keras that has no exact counterpart."""
    name = f"{type(source).__name__} {getattr(source, 'name', '')!r}"
    return ValueError(f"source: got {name}, which cannot become a network of ours: {why}")


def chain(keras: Any, source: Any) -> list[Any]:
    """The layers of a model one after another, models within models as one row; a layer as it is.

    Raises:
      ValueError: the model is no such row, and why.
    """
    found = _chain(keras, source)
    if not found:
        raise refusal(source, "it has no layers")
    with_weights = [id(layer) for layer in found if getattr(layer, "weights", None)]
    if len(set(with_weights)) < len(with_weights):
        raise refusal(source, "a layer of it is called twice, with the same weights")
    return found


def _chain(keras: Any, source: Any) -> list[Any]:
    if not isinstance(source, keras.Model):
        return [source]
    if type(source).__module__.split(".")[0] != "keras" or not hasattr(source, "layers"):
        raise refusal(source, "it is a model with code of its own; convert its layers one by one")
    parts = source.layers if isinstance(source, keras.Sequential) else _row(keras, source)
    return [layer for part in parts for layer in _chain(keras, part)]


def _row(keras: Any, model: Any) -> list[Any]:
    """What a functional model calls between its one input and its one output."""
    if not getattr(model, "inputs", None) or len(model.inputs) + len(model.outputs) != 2:
        raise refusal(model, "ours have one input and one output")
    parts: list[Any] = []
    tensor = model.outputs[0]
    while True:
        # keras has no public way to follow a tensor back; its own models are saved by this one
        operation, call, output = tensor._keras_history
        if isinstance(operation, keras.layers.InputLayer):
            return parts[::-1]
        arguments = operation._inbound_nodes[call].arguments
        given = {k for k, v in arguments.kwargs.items() if v is not None and v is not False}
        if given:
            raise refusal(
                operation,
                f"it is called with {', '.join(sorted(given))}; masks, by Embedding(mask_zero=True)"
                " too, and states are arguments of our apply",
            )
        if len(arguments.args) != 1 or len(arguments.keras_tensors) != 1:
            raise refusal(operation, "it is called with more than the output of one layer")
        if output != 0:
            raise refusal(operation, "its state is read by the next layer, ours read outputs")
        parts.append(operation)
        tensor = arguments.keras_tensors[0]
