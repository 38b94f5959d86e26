"""torch: `nn.LSTM`, `nn.GRU`, `nn.RNN`, which are oneDNN on a CPU and cuDNN on a GPU."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from benchmarks.problem import Problem
from benchmarks.program import Program, norm_of_matrices

NAME = "torch"

LAYERS = {"LSTM": torch.nn.LSTM, "GRU after": torch.nn.GRU, "Elman": torch.nn.RNN}


def programs(problem: Problem) -> dict[str, Callable[[], Program]] | None:
    if problem.cell not in LAYERS:
        return None
    device = "cuda" if torch.cuda.is_available() else "cpu"
    layer = LAYERS[problem.cell](problem.I, problem.H).to(device, getattr(torch, problem.dtype))
    with torch.no_grad():
        for name, value in _converted(problem.weights()).items():
            getattr(layer, name).copy_(torch.tensor(value))
    xs = torch.tensor(problem.inputs(), device=device, requires_grad=True)

    def wait(result: Any) -> Any:
        if device == "cuda":
            torch.cuda.synchronize()
        return result

    def forward() -> Any:
        with torch.no_grad():
            return wait(layer(xs)[0])

    def train() -> Any:
        loss = layer(xs)[0].float().square().mean()
        return wait((loss, torch.autograd.grad(loss, (xs, *layer.parameters()))))

    def numpy(tensor: torch.Tensor) -> np.ndarray:
        return tensor.detach().double().cpu().numpy()

    def trained() -> dict[str, np.ndarray]:
        loss, (dxs, *dparams) = train()
        return {
            "loss": numpy(loss),
            "gradient of the inputs": numpy(dxs),
            "norm of the kernels' gradients": norm_of_matrices([numpy(d) for d in dparams]),
        }

    return {
        "forward": lambda: Program(NAME, forward, lambda: {"outputs": numpy(forward())}),
        "train": lambda: Program(NAME, train, trained),
    }


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
