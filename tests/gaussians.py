"""Data whose denoiser and probability flow are known exactly: Gaussians, pixel by pixel, and a mixture of two.

Nothing here uses a formula of the package but signal and sigma of a level: what is proved must not be its own proof.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fromnoise.denoiser import Prediction
from fromnoise.noise import GivenNoise
from fromnoise.schedule import Level, Schedule

SIGNALS: dict[str, Callable[[Tensor], Tensor]] = {
    "variance preserving": lambda rho: (1 + rho.square()).rsqrt(),
    "variance exploding": torch.ones_like,
    "straight": lambda rho: 1 / (1 + rho),
}
"""The signal at ρ = sigma / signal, for signal² + sigma² = 1, signal = 1 and signal + sigma = 1."""


@dataclass(frozen=True, kw_only=True)
class Clock(Schedule):
    """The time is ρ = sigma / signal itself, float64, without any interpolation."""

    kind: str = "variance preserving"

    @property
    def horizon(self) -> float:
        return 80.0

    @property
    def whole(self) -> bool:
        return False

    def __call__(self, t: Tensor | float) -> Level:
        rho = torch.as_tensor(t, dtype=torch.float64)
        signal = SIGNALS[self.kind](rho)
        return Level(rho, signal, rho * signal)

    def time(self, log_snr: Tensor) -> Tensor:
        return (-log_snr / 2).exp()


def row(*values: float) -> Tensor:
    """One picture (1, 1, 1, W), float64."""
    return torch.tensor(values, dtype=torch.float64).reshape(1, 1, 1, -1)


@dataclass
class Gaussian:
    """Pixels N(mean, deviation²), each its own, (1, 1, 1, W): the exact denoiser, and the exact flow."""

    mean: Tensor
    deviation: Tensor
    schedule: Schedule
    calls: int = 0

    def variance(self, level: Level) -> Tensor:
        """Of x_t: signal² d² + sigma²."""
        return (level.signal * self.deviation).square() + level.sigma.square()

    def __call__(self, x_t: Tensor, level: Level, **_: Any) -> Prediction:
        self.calls += 1
        at = level.to(x_t)
        score = (x_t - at.signal * self.mean) / self.variance(at)
        return Prediction(self.mean + at.signal * self.deviation.square() * score, at.sigma * score, None)

    def flow(self, x_t: Tensor, t: Level, s: Level) -> Tensor:
        """x_s of the probability flow through x_t: what keeps every pixel's number of standard deviations."""
        return s.signal * self.mean + (self.variance(s) / self.variance(t)).sqrt() * (x_t - t.signal * self.mean)


@dataclass
class Mixture:
    """Pictures from one of several Gaussians, isotropic: weights (K,), means (K, W), deviations (K,)."""

    weights: Tensor
    means: Tensor
    deviations: Tensor
    schedule: Schedule

    def __call__(self, x_t: Tensor, level: Level, **_: Any) -> Prediction:
        """E[x_0 | x_t] = Σ_k p(k | x_t) E[x_0 | x_t, k]."""
        at = level.to(x_t)
        signal, sigma = at.signal.reshape(-1, 1, 1), at.sigma.reshape(-1, 1, 1)
        variance = (signal * self.deviations[:, None]).square() + sigma.square()
        off = x_t.flatten(1)[:, None] - signal * self.means  # (B, K, W)
        width = self.means.shape[1]
        log_p = self.weights.log() - 0.5 * (off.square().sum(-1) / variance[..., 0] + width * variance[..., 0].log())
        each = self.means + signal * self.deviations[:, None].square() / variance * off
        x_0 = (log_p.softmax(-1)[..., None] * each).sum(1).reshape(x_t.shape)
        return Prediction(x_0, (x_t - at.signal * x_0) / at.sigma, None)

    def mean(self) -> Tensor:
        """(W,)."""
        return self.weights @ self.means

    def covariance(self) -> Tensor:
        """(W, W)."""
        off = self.means - self.mean()
        within = (self.weights * self.deviations.square()).sum() * torch.eye(self.means.shape[1], dtype=torch.float64)
        return within + (self.weights[:, None] * off).T @ off

    def draw(self, n: int) -> Tensor:
        """``n`` pictures, (n, 1, 1, W)."""
        k = torch.multinomial(self.weights, n, replacement=True)
        noise = torch.randn(n, self.means.shape[1], dtype=torch.float64)
        return (self.means[k] + self.deviations[k, None] * noise)[:, None, None]


def every_draw(width: int, draws: int, start: Tensor) -> tuple[Tensor, GivenNoise]:
    """x_T and noise for which picture j of an affine sampler is its answer to draw j alone, and the last to none.

    ``start`` (1, 1, 1, W) is the deviation of x_T, which is draw 0; a draw is 1 in all pixels, for pixels do not mix.
    """
    unit = torch.eye(draws + 2, draws + 1, dtype=torch.float64).T.reshape(draws + 1, draws + 2, 1, 1, 1)
    unit = unit.expand(-1, -1, 1, 1, width)
    return start * unit[0], GivenNoise(iter(unit[1:]))


def moments(answers: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of what an affine sampler makes, exactly, from its answers to :func:`every_draw`."""
    mean = answers[-1:]
    return mean, (answers[:-1] - mean).square().sum(0, keepdim=True).sqrt()


def observed_order(errors: list[float]) -> float:
    """log2 of the last ratio of errors, each from a ladder twice as fine as the one before."""
    return math.log2(errors[-2] / errors[-1])
