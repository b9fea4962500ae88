"""Which steps are better left out: those whose loss or gradient is no number, or far beyond what they have been.

A single wild step can cost a run: Adam divides by the root of a mean of squares that has not seen it coming. So the
step is judged before it is taken, on the device and without waiting for it, by the logarithms of the loss and of the
gradient's norm. With m their median over the newest steps and d the median of their distances from m, a step is wild if

    log(value) > m + max(log(spike), 9 d).

9 d are six standard deviations of a normal distribution, whatever the outliers; log(spike) keeps a calm run from being
judged by its own calm. Small batches, whose losses scatter widely by nature, have a wide d.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fromnoise.errors import WrongUse

WINDOW = 128
"""How many steps back the medians look; from half of it on, steps are judged wild."""

_LEAST = 1e-30  # of a loss whose logarithm is taken
_DEVIATIONS = 9.0  # median distances; a normal distribution's is 0.67 standard deviations


@dataclass(frozen=True, kw_only=True)
class GuardSettings:
    """[train.guard]: when a step is left out, and when a run goes back to its last checkpoint."""

    spike: float = 20.0
    """A loss or gradient so many times the usual is left out; 0: only what is no number is."""
    patience: int = 8
    """Steps left out one after the other before the run goes back."""
    rollbacks: int = 2
    """How often it may go back, each time with other randomness and half the step size, before it gives up."""

    def __post_init__(self) -> None:
        """Raises ``WrongUse`` for values that make no sense."""
        if self.spike != 0 and not 1 < self.spike < float("inf"):
            raise WrongUse(f"[train.guard] spike = {self.spike}: a multiple of the usual, above 1; or 0 for none")
        if self.patience < 1:
            raise WrongUse(f"[train.guard] patience = {self.patience}: must be at least 1 step")
        if self.rollbacks < 0:
            raise WrongUse(f"[train.guard] rollbacks = {self.rollbacks}: must not be negative")


class Guard:
    """Remembers the newest losses and gradient norms, and judges the next. All of it lies on ``device``."""

    def __init__(self, settings: GuardSettings, device: torch.device) -> None:
        self.settings = settings
        self.seen = torch.zeros(2, WINDOW, device=device)
        """Logarithms of the losses and norms of the newest steps taken, a ring."""
        self.taken = torch.zeros((), dtype=torch.int64, device=device)
        """How many steps were taken, ever."""
        self.streak = torch.zeros((), dtype=torch.int32, device=device)
        """Steps left out, one after the other, up to now."""
        self.worst = torch.zeros((), dtype=torch.int32, device=device)
        """The longest such row since :meth:`forgive`."""

    @torch.no_grad()
    def judge(self, loss: Tensor, grad_norm: Tensor, *, excused: Tensor | None = None) -> Tensor:
        """1.0 if the step is to be left out, else 0.0: a float32 scalar on the device.

        A step that is left out because a number is not finite counts towards the row unless it is ``excused`` (a
        boolean scalar): in float16 such steps search for the scale of the loss.
        """
        now = torch.stack([loss, grad_norm]).float()
        infinite = ~now.isfinite().all()
        now = now.clamp_(min=_LEAST).log_()
        places = torch.arange(WINDOW, device=now.device)
        bad = infinite
        if self.settings.spike:
            seen = torch.where(places < self.taken, self.seen, torch.nan)
            # The lower median; nanmedian has no deterministic algorithm on CUDA.
            middle = seen.nanquantile(0.5, 1, interpolation="lower")
            spread = (seen - middle[:, None]).abs_().nanquantile(0.5, 1, interpolation="lower")
            limit = middle + (_DEVIATIONS * spread).clamp_(min=math.log(self.settings.spike))
            bad = infinite | ((self.taken >= WINDOW // 2) & (now > limit).any())
        here = (places == self.taken % WINDOW) & ~bad
        self.seen.copy_(torch.where(here, now[:, None], self.seen))
        self.taken.add_(~bad)
        counts = bad if excused is None else bad & ~(infinite & excused)
        self.streak.add_(1).mul_(counts)
        torch.maximum(self.worst, self.streak, out=self.worst)
        return bad.float()

    def lost(self) -> bool:
        """Whether the row was ever longer than the patience since :meth:`forgive`. Waits for the device."""
        return int(self.worst) >= self.settings.patience

    def alarmed(self) -> bool:
        """Whether the last step was left out, so that nothing should be built on it. Waits for the device."""
        return int(self.streak) > 0

    def forgive(self) -> None:
        """Start anew, as after going back."""
        self.taken.zero_()
        self.streak.zero_()
        self.worst.zero_()

    def tensors(self) -> dict[str, Tensor]:
        """What to save."""
        names = ("seen", "taken", "streak", "worst")
        return {f"guard.{name}": getattr(self, name) for name in names}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of :meth:`tensors`. Raises ``KeyError`` or ``ValueError`` for others."""
        for name, own in self.tensors().items():
            if tensors[name].shape != own.shape:
                raise ValueError(f"{name} has the shape {tuple(tensors[name].shape)}, not {tuple(own.shape)}")
            own.copy_(tensors[name])
