"""A schedule turns its own clock t into a pair (signal, sigma): x_t = signal · x_0 + sigma · eps.

Everything else (training target, posterior, samplers, bound) is arithmetic on one or two such pairs. The arithmetic is
done in float64 on the CPU; :func:`cast` is the one place where it ends.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


def cast(coefficient: Tensor, x: Tensor) -> Tensor:
    """A float64 coefficient, shape () or (B,), made ready to multiply ``x`` of shape (B, ...).

    Adds trailing axes and moves to the device of ``x``. The precision is that of ``x`` but never below float32: in
    bfloat16, 1 − 1e-4 rounds to 1 and the first times of a schedule would carry no noise at all.
    """
    precise = torch.promote_types(x.dtype, torch.float32)
    # Axes for a single coefficient too: without any, it would give way to the dtype of x and compute in bfloat16.
    trailing = coefficient.reshape(coefficient.shape + (1,) * (x.ndim - coefficient.ndim))
    return trailing.to(device=x.device, dtype=precise, non_blocking=True)


@dataclass(frozen=True)
class Level:
    """The noise level at time ``t``: float64 on the CPU, all three of shape () or (B,).

    ``signal`` and ``sigma`` are √ᾱ and √(1−ᾱ) in the paper's letters. Level 0 is clean data: signal 1, sigma 0.
    """

    t: Tensor
    signal: Tensor
    sigma: Tensor

    @property
    def snr(self) -> Tensor:
        """Signal-to-noise ratio signal² / sigma²; infinite for clean data."""
        return (self.signal / self.sigma).square()

    @property
    def log_snr(self) -> Tensor:
        """log(signal² / sigma²); +inf for clean data, −inf where no signal is left."""
        return 2 * self.half_log_snr

    @property
    def half_log_snr(self) -> Tensor:
        """log(signal / sigma): the lambda of DPM-Solver (Lu et al. 2022, arXiv 2206.00927)."""
        return self.signal.log() - self.sigma.log()

    def to(self, x: Tensor) -> "Level":
        """The same level, cast and with trailing axes, ready to be multiplied with ``x`` of shape (B, ...)."""
        return Level(cast(self.t, x), cast(self.signal, x), cast(self.sigma, x))

    def __getitem__(self, index: Any) -> "Level":
        """Levels of a whole ladder, shape (n,), indexed like a tensor."""
        return Level(self.t[index], self.signal[index], self.sigma[index])


def noisy(x_0: Tensor, eps: Tensor, level: Level) -> Tensor:
    """x_t = signal · x_0 + sigma · eps, in float32 or better also under autocast. Ho et al. 2020, equation 4."""
    at = level.to(x_0)
    return at.signal * x_0 + at.sigma * eps


class Schedule(ABC):
    """How signal fades and noise grows along the schedule's own clock, from 0 (clean) to ``horizon``."""

    @property
    @abstractmethod
    def horizon(self) -> float:
        """The end of the clock; sampling starts there."""

    @property
    @abstractmethod
    def whole(self) -> bool:
        """Whether the clock counts steps, so that a network trained on it has seen whole times only."""

    @abstractmethod
    def __call__(self, t: Tensor | float) -> Level:
        """The level at time(s) ``t``, shape () or (B,). Raises ``ValueError`` outside 0 … horizon."""

    @abstractmethod
    def time(self, log_snr: Tensor) -> Tensor:
        """The time at which the schedule has this log-SNR: the inverse of ``schedule(t).log_snr``. float64."""

    def at(self, log_snr: Tensor) -> Level:
        """The level that has this log-SNR."""
        return self(self.time(log_snr))
