"""torch: `nn.LSTM`, `nn.GRU`, `nn.RNN`, which are oneDNN on a CPU and cuDNN on a GPU."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from benchmarks.problem import Problem
from benchmarks.program import Program, norm_of_matrices

NAME = "torch"

LAYERS = {"LSTM": torch.nn.LSTM, "GRU after": torch.nn.GRU, "Elman": torch.nn.RNN}


def programs(
    problem: Problem, name: str = NAME, dtype: str | None = None
) -> dict[str, Callable[[], Program]] | None:
    """The programs of one layer, in `problem.dtype` unless `dtype` is given."""
    return side_by_side([problem], name, dtype or problem.dtype)


def side_by_side(
    problems: Sequence[Problem], name: str, dtype: str
) -> dict[str, Callable[[], Program]] | None:
    """The programs of one layer for each problem, each with its own weights and input features."""
    if problems[0].cell not in LAYERS:
        return None
    device = "cuda" if torch.cuda.is_available() else "cpu"
    layers = [_layer(problem).to(device, getattr(torch, dtype)) for problem in problems]
    inputs = np.concatenate([problem.inputs() for problem in problems], axis=-1)
    xs = _tensor(inputs).to(device, getattr(torch, dtype)).requires_grad_()
    parameters = [p for layer in layers for p in layer.parameters()]
    # the gradient of a mean is below float16's range: the loss is scaled, as its users do
    scale = float(problems[0].B * problems[0].H) if dtype == "float16" else 1.0

    def wait(result: Any) -> Any:
        if device == "cuda":
            torch.cuda.synchronize()
        return result

    def outputs() -> torch.Tensor:
        if len(layers) == 1:
            return layers[0](xs)[0]
        parts = xs.split(problems[0].I, dim=-1)
        ys = [layer(part)[0] for layer, part in zip(layers, parts, strict=True)]
        return torch.cat(ys, dim=-1)

    def forward() -> Any:
        with torch.no_grad():
            return wait(outputs())

    def train() -> Any:
        loss = outputs().float().square().mean() * scale
        return wait((loss, torch.autograd.grad(loss, (xs, *parameters))))

    def numpy(tensor: torch.Tensor) -> np.ndarray:
        return tensor.detach().double().cpu().numpy()

    def trained() -> dict[str, np.ndarray]:
        loss, (dxs, *dparams) = train()
        return {
            "loss": numpy(loss) / scale,
            "gradient of the inputs": numpy(dxs) / scale,
            "norm of the kernels' gradients": norm_of_matrices([numpy(d) for d in dparams]) / scale,
        }

    return {
        "forward": lambda: Program(name, forward, lambda: {"outputs": numpy(forward())}),
        "train": lambda: Program(name, train, trained),
    }


def _layer(problem: Problem) -> torch.nn.Module:
    layer = LAYERS[problem.cell](problem.I, problem.H)
    with torch.no_grad():
        for name, value in _converted(problem.weights()).items():
            getattr(layer, name).copy_(_tensor(value))
    return layer


def _tensor(array: np.ndarray) -> torch.Tensor:
    """The array in float32: torch reads no bfloat16 of NumPy."""
    return torch.tensor(np.asarray(array, np.float32))


def _converted(weights: Any) -> dict[str, np.ndarray]:
    """Kernels transposed; our bias is the input's, and the recurrent one is zero but for `n`."""
    second = np.zeros_like(weights.bias)
    recurrent_bias = getattr(weights, "recurrent_bias", None)
    if recurrent_bias is not None:
        second[-len(recurrent_bias) :] = recurrent_bias
    return {
        "weight_ih_l0": weights.kernel.T,
        "weight_hh_l0": weights.recurrent_kernel.T,
        "bias_ih_l0": weights.bias,
        "bias_hh_l0": second,
    }
