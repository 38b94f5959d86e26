"""The network of the character-level language model, for training and for sampling."""

import gatedrnn as gr
from gatedrnn._app.config import Model


def build(settings: Model, vocabulary: int):
    """Tokens int32 [T, B] -> logits float32 [T, B, V], with V = `vocabulary`.

    The last layer is the read-out, which training fuses with the loss.
    """
    layers = []
    for _ in range(settings.layers):
        layers += [gr.recurrent(gr.LSTM(settings.features)), gr.dropout(settings.dropout)]
    return gr.stack(gr.embed(vocabulary, settings.embedding), *layers, gr.dense(vocabulary))
