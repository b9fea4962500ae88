"""The training loss: a distribution of times × a weighting, in the space of the network's output.

    loss = E over t, x_0, eps of  weight(t) · mean over dimensions of (F(x_t, t) − target)²

Randomness comes in from outside, as one uniform number and one noise a picture, so that a resumed run repeats it.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fromnoise.denoiser import Denoiser
from fromnoise.schedule import Level, Schedule, cast, noisy


@dataclass(frozen=True)
class Loss:
    """``value`` is the scalar to differentiate; ``per_example`` (B,) and the times ``t`` (B,) are for watching."""

    value: Tensor
    per_example: Tensor
    t: Tensor


class Times(ABC):
    """A distribution of times, as the map from a uniform number to a time: its inverse distribution function."""

    @abstractmethod
    def __call__(self, u: Tensor, schedule: Schedule) -> Tensor:
        """``u`` in [0, 1), float64, (B,) -> times (B,)."""


@dataclass(frozen=True, kw_only=True)
class UniformSteps(Times):
    """Every whole time 1 … T equally often (Ho et al. 2020, algorithm 1)."""

    def __call__(self, u: Tensor, schedule: Schedule) -> Tensor:
        """1 + ⌊u T⌋."""
        return (u.double() * schedule.horizon).floor().clamp(max=schedule.horizon - 1) + 1


class Weighting(ABC):
    """The weight of a time in the loss."""

    @abstractmethod
    def __call__(self, level: Level) -> Tensor:
        """Level (B,) -> weights (B,), float64."""


@dataclass(frozen=True, kw_only=True)
class Even(Weighting):
    """Weight 1 everywhere: with the epsilon parameterization, the paper's L_simple (Ho et al. 2020, equation 14)."""

    def __call__(self, level: Level) -> Tensor:
        """Ones."""
        return torch.ones_like(level.signal)


@dataclass(frozen=True, kw_only=True)
class Objective:
    """A weighted mean of squared errors of the network's output."""

    times: Times = field(default_factory=UniformSteps)
    weighting: Weighting = field(default_factory=Even)

    def __call__(self, denoiser: Denoiser, x_0: Tensor, u: Tensor, eps: Tensor, **condition: Any) -> Loss:
        """``x_0`` and ``eps`` (B, C, H, W), ``u`` (B,) uniform in [0, 1) -> :class:`Loss`.

        Raises ``ValueError`` if the network's output is not of the shape of ``x_0``.
        """
        level = denoiser.schedule(self.times(u.cpu(), denoiser.schedule))
        output = denoiser.output(noisy(x_0, eps, level), level, **condition)
        if output.shape != x_0.shape:  # 2 channels against 1 would broadcast, and train the wrong thing in silence
            raise ValueError(
                f"for pictures of shape {tuple(x_0.shape)} the network gives {tuple(output.shape)}; this loss needs "
                f"one output channel for each channel of the picture"
            )
        error = (output - denoiser.parameterization.target(x_0, eps, level)).square().flatten(1).mean(1)
        per_example = cast(self.weighting(level), error) * error
        return Loss(per_example.mean(), per_example.detach(), level.t)
