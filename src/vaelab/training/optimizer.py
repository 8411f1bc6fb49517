"""`AdamW`: PyTorch's fused step over tensors of our own, which takes a clip factor and a flag on the way.

`torch.optim.AdamW` is the same arithmetic; what its class adds is not used here, and making one imports the compiler,
which takes seconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8


class AdamW:
    r"""Adam with decoupled weight decay.

    .. math:: \theta \leftarrow \theta - \eta \lambda \theta - \eta \hat m / (\sqrt{\hat v} + \epsilon)

    Reference: Loshchilov and Hutter, Decoupled Weight Decay Regularization, 2019.

    Args:
        parameters: What is trained; a parameter without a gradient is passed over, and its count of steps stays.
        weight_decay: Share of a weight that a step takes away, times the rate.
        first: Number under which the first parameter is saved.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], weight_decay: float, first: int = 0) -> None:
        self.parameters, self.weight_decay, self.first = list(parameters), weight_decay, first
        self.state = {
            str(first + place): {
                "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
                "exp_avg": torch.zeros_like(parameter, memory_format=torch.preserve_format),
                "exp_avg_sq": torch.zeros_like(parameter, memory_format=torch.preserve_format),
            }
            for place, parameter in enumerate(self.parameters)
        }

    def zero_grad(self) -> None:
        """Forgets the gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self, rate: float | Tensor, divisor: Tensor | None = None, refused: Tensor | None = None) -> None:
        """Takes a step along the gradients.

        Args:
            rate: The learning rate.
            divisor: What the gradients are divided by first; None for 1.
            refused: 1 where nothing is to be changed, else 0, on the device; None for 0.
        """
        moved = [place for place, parameter in enumerate(self.parameters) if parameter.grad is not None]
        slots = [self.state[str(self.first + place)] for place in range(len(self.parameters))]
        if divisor is not None and any(parameter.dtype == torch.float64 for parameter in self.parameters):
            torch._foreach_div_([self.parameters[place].grad for place in moved], divisor)  # type: ignore[misc]
            divisor = None  # the kernel would take it in float32
        adamw(
            [self.parameters[place] for place in moved],
            [self.parameters[place].grad for place in moved],  # type: ignore[misc]
            [slots[place]["exp_avg"] for place in moved],
            [slots[place]["exp_avg_sq"] for place in moved],
            [],
            [slots[place]["step"] for place in moved],
            fused=True,
            grad_scale=None if divisor is None else divisor.float(),
            found_inf=refused,
            amsgrad=False,
            beta1=BETA1,
            beta2=BETA2,
            lr=rate,
            weight_decay=self.weight_decay,
            eps=EPSILON,
            maximize=False,
        )

    def tensors(self) -> dict[str, Tensor]:
        """The state under flat names such as `3.exp_avg`; it shares memory."""
        return {f"{place}.{name}": value for place, slot in self.state.items() for name, value in slot.items()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Puts back what `tensors` returned; a parameter that has nothing there has never been moved."""
        for name, value in self.tensors().items():
            if name in tensors:
                value.copy_(tensors[name])
            else:
                value.zero_()
