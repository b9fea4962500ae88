"""One step of the chain between two levels, t above s, from their pairs (signal, sigma) alone.

With the ratio ρ = SNR_t / SNR_s, which is 0 when s is the clean picture:

    q(x_s | x_t, x_0):  mean = signal_s (1 − ρ) x_0 + (signal_t / signal_s)(sigma_s / sigma_t)² x_t
                        variance = sigma_s² (1 − ρ)                          the paper's β̃
    q(x_t | x_s):       variance = sigma_t² (1 − ρ)                          the paper's β = 1 − ᾱ_t / ᾱ_s

For neighbouring times these are equations 6 and 7 of Ho, Jain, Abbeel 2020 (arXiv 2006.11239); for any other pair they
are those of the shortened chain (Nichol & Dhariwal 2021, arXiv 2102.09672, equation 19). No respaced tables are needed.
The ancestral sampler and the variational bound both come here, so they cannot disagree.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from fromnoise.gaussian import Gaussian
from fromnoise.schedule import Level, cast

Pair = tuple[Level, Level]
"""(t, s), t above s."""


def _lost(t: Level, s: Level) -> Tensor:
    """1 − ρ, without cancellation for neighbouring times."""
    return -torch.expm1(t.log_snr - s.log_snr)


def forward_log_variance(t: Level, s: Level) -> Tensor:
    """log β between the two levels, float64."""
    return 2 * t.sigma.log() + _lost(t, s).log()


def posterior_log_variance(t: Level, s: Level) -> Tensor:
    """log β̃ between the two levels, float64; −inf where s is clean."""
    return 2 * s.sigma.log() + _lost(t, s).log()


def posterior(x_t: Tensor, x_0: Tensor, t: Level, s: Level) -> Gaussian:
    """q(x_s | x_t, x_0). All tensors (B, C, H, W); levels of shape () or (B,)."""
    from_x_0 = s.signal * _lost(t, s)
    from_x_t = t.signal / s.signal * (s.sigma / t.sigma).square()
    mean = cast(from_x_0, x_0) * x_0 + cast(from_x_t, x_t) * x_t
    return Gaussian(mean, cast(posterior_log_variance(t, s), x_t))


@dataclass(frozen=True, kw_only=True)
class Variance(ABC):
    """The variance of p(x_s | x_t)."""

    @abstractmethod
    def log_variance(self, lower: Tensor, upper: Tensor, clean: Tensor, raw: Tensor | None) -> Tensor:
        """The log variance from ``lower`` (log β̃), ``upper`` (log β), whether x_s is ``clean``, and the network's v.

        All but v are ready to broadcast with x_t; v is the network's second output, or ``None``.
        """


@dataclass(frozen=True, kw_only=True)
class Small(Variance):
    """β̃: right if the data were a single point. The paper's choice for LSUN and CelebA-HQ ("fixed small")."""

    def log_variance(self, lower: Tensor, upper: Tensor, clean: Tensor, raw: Tensor | None) -> Tensor:
        """log β̃."""
        return lower


@dataclass(frozen=True, kw_only=True)
class Large(Variance):
    """β: right if the data were standard normal. The paper's choice for CIFAR-10 ("fixed large").

    The last step takes β̃ of the step before it, as the authors' code does; that changes the bound's decoder term.
    """

    def log_variance(self, lower: Tensor, upper: Tensor, clean: Tensor, raw: Tensor | None) -> Tensor:
        """log β, and log β̃ where x_s is clean."""
        return torch.where(clean, lower, upper)


@dataclass(frozen=True, kw_only=True)
class LearnedRange(Variance):
    """Between the two, as the network says: Nichol & Dhariwal 2021 (arXiv 2102.09672), equation 15.

    The network has a second output v for every channel; (v + 1)/2 is the way from log β̃ to log β.
    """

    def log_variance(self, lower: Tensor, upper: Tensor, clean: Tensor, raw: Tensor | None) -> Tensor:
        """(v + 1)/2 · log β + (1 − v)/2 · log β̃. Raises ``ValueError`` if the network has no second output."""
        if raw is None:
            raise ValueError("a learned variance needs a network with twice the output channels; this one has none")
        share = (raw + 1) / 2
        return share * upper + (1 - share) * lower


def reverse(
    x_t: Tensor,
    x_0: Tensor,
    raw_variance: Tensor | None,
    t: Level,
    s: Level,
    variance: Variance,
    second: Pair | None = None,
) -> Gaussian:
    """p(x_s | x_t): the posterior's mean at the predicted ``x_0``, with the chosen variance.

    In the last step, where s is clean, β̃ is 0 and its log does not exist. ``second`` is the pair of the step before
    the last in the ladder at hand, and its β̃ then stands in, as in the authors' code. A sampler does not need it, for
    it adds no noise in the last step; the bound's decoder term does.
    """
    mean = posterior(x_t, x_0, t, s).mean
    clean, lower = s.sigma == 0, posterior_log_variance(t, s)
    if second is not None:
        lower = torch.where(clean, posterior_log_variance(*second), lower)
    log_variance = variance.log_variance(
        cast(lower, x_t), cast(forward_log_variance(t, s), x_t), cast(clean, x_t).bool(), raw_variance
    )
    return Gaussian(mean, log_variance)
