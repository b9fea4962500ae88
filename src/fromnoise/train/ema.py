"""Averaged weights: ema ← decay · ema + (1 − decay) · weights, after every optimizer step.

They are a network of their own and are never swapped in, so no exception can leave the wrong ones in place.
Source: Ho, Jain, Abbeel 2020 (arXiv 2006.11239), appendix B: decay 0.9999, and the first update copies the weights.
"""

import copy

import torch
from torch import nn

from fromnoise.train.weights import Listed


class Ema:
    """Holds ``network``, the averaged copy, ready for inference.

    ``ramp`` > 0 limits the average to the last ``ramp`` share of the updates so far: after n updates the decay is
    min(decay, 1 − 1/(1 + ramp · n)). A constant 0.9999 needs tens of thousands of steps to forget its start.
    """

    def __init__(self, network: nn.Module, *, decay: float = 0.9999, ramp: float = 0.0) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.decay, self.ramp, self.updates = decay, ramp, 0
        self._listed = Listed()

    def decay_now(self) -> float:
        """The decay of the next update; 0 for the first."""
        if self.updates == 0:
            return 0.0
        return min(self.decay, 1 - 1 / (1 + self.ramp * self.updates)) if self.ramp else self.decay

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Move the average towards the weights of ``network``; buffers are copied."""
        ours, theirs = self._listed(self.network), self._listed(network)
        torch._foreach_lerp_(
            [p.data for p in ours.parameters], [p.data for p in theirs.parameters], 1 - self.decay_now()
        )
        for mine, other in zip(ours.buffers, theirs.buffers, strict=True):
            mine.copy_(other)
        self.updates += 1
