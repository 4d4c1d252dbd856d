"""Muon in float32: the update of each matrix is its momentum with all singular values brought near 1.

torch.optim.Muon does the same in bfloat16, which CPUs without bfloat16 arithmetic emulate at a fifth of the speed.
Sources: https://kellerjordan.github.io/posts/muon (iteration and coefficients); arXiv:2502.16982 (the factor
0.2 * sqrt(longer side): it gives a matrix steps of AdamW's size, so that one learning rate serves both optimisers).
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5


def orthogonalized(matrix: torch.Tensor) -> torch.Tensor:
    """The matrix with its singular values brought into about 0.7..1.2, by Newton and Schulz's iteration."""
    a, b, c = COEFFICIENTS
    wide = matrix.T if matrix.size(0) > matrix.size(1) else matrix
    x = wide / wide.norm().clamp(min=1e-7)  # spectral norm at most 1
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = a * x + torch.addmm(gram, gram, gram, beta=b, alpha=c) @ x
    return x.T if matrix.size(0) > matrix.size(1) else x


class Muon(torch.optim.Optimizer):
    """For 2-D parameters; `lr` and `weight_decay` mean what they mean in AdamW."""

    def __init__(
        self, params: Iterable[torch.Tensor], lr: float, weight_decay: float = 0.0, momentum: float = 0.95
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})
        for parameter in (p for group in self.param_groups for p in group["params"]):
            if parameter.ndim != 2:
                raise ValueError(f"Muon takes matrices; a parameter has the shape {tuple(parameter.shape)}")

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        result = None
        if closure is not None:
            with torch.enable_grad():
                result = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)
        return result

    def _update(self, parameter: torch.Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        momentum = state.setdefault("momentum", torch.zeros_like(parameter))
        momentum.lerp_(parameter.grad, 1 - group["momentum"])
        update = orthogonalized(parameter.grad.lerp(momentum, group["momentum"]))  # Nesterov's look ahead
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.add_(update, alpha=-group["lr"] * 0.2 * math.sqrt(max(parameter.shape)))
