"""What multi-step rules remember, and which order they may have at a given step."""

from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor

from fromnoise.sampler.exponential import ends
from fromnoise.schedule.base import Level

FEW_STEPS = 15
"""Below this many steps, DPM-Solver's authors lower the order towards the end of the ladder."""

Memory = TypeVar("Memory")


@dataclass(frozen=True)
class Past:
    """Estimates of earlier steps with their levels, the newest first; ``left`` steps of ``steps`` are still to do."""

    steps: int
    left: int
    estimates: tuple[tuple[Level, Tensor], ...] = ()

    def order(self, wanted: int, t: Level, s: Level, *, always_lower: bool = False) -> int:
        """The order that the memory, the end of the ladder and infinite widths allow, at most ``wanted``."""
        if ends(t, s):
            return 1
        lowered = self.left if always_lower or self.steps < FEW_STEPS else wanted
        return min(wanted, len(self.estimates) + 1, lowered)

    def after(self, t: Level, estimate: Tensor, keep: int) -> "Past":
        """One step on: with the estimate at ``t``, and no more than ``keep`` of them.

        An estimate without any signal is not kept: its λ is −inf, and no polynomial goes through it.
        """
        known = (((t, estimate), *self.estimates) if t.signal > 0 else self.estimates)[:keep]
        return Past(self.steps, self.left - 1, known)
