"""The scale of the loss in float16: large enough that small gradients are not lost, small enough that none overflow.

After an overflow the scale is halved and the step left out; after 2,000 good steps it is doubled. It never falls below
1: a gradient that overflows there is not too large for float16, it is wrong, and that is the guard's to say.
Source: Micikevicius et al. 2018 (arXiv 1710.03740), section 3.2; the numbers are those of PyTorch's own scaler.
"""

import torch
from torch import Tensor

FLOOR, START, PATIENCE = 1.0, 2.0**16, 2000


class LossScale:
    """``value`` multiplies the loss; 1 and never changed unless ``enabled``. It lies on ``device``."""

    NAMES = ("scale.value", "scale.good")

    def __init__(self, device: torch.device, *, enabled: bool) -> None:
        self.enabled = enabled
        self.value = torch.full((), START if enabled else 1.0, device=device)
        self.good = torch.zeros((), dtype=torch.int32, device=device)

    def excused(self) -> Tensor | None:
        """Whether an overflow would say nothing but that the scale is too large still; ``None`` without a scale."""
        return self.value > FLOOR if self.enabled else None

    @torch.no_grad()
    def update(self, overflow: Tensor) -> None:
        """After a step, with whether its gradient was no number: a boolean scalar on the device."""
        if not self.enabled:
            return
        self.good.add_(1).mul_(~overflow)
        grows = self.good >= PATIENCE
        self.good.mul_(~grows)
        factor = torch.where(overflow, 0.5, torch.where(grows, 2.0, 1.0))
        self.value.mul_(factor).clamp_(min=FLOOR)

    def tensors(self) -> dict[str, Tensor]:
        """What to save: nothing where there is no scale."""
        return dict(zip(self.NAMES, (self.value, self.good), strict=True)) if self.enabled else {}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of :meth:`tensors`. Raises ``KeyError``."""
        for name, own in self.tensors().items():
            own.copy_(tensors[name])
