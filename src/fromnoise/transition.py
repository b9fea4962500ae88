"""One step of the chain between two levels, t above s, from their pairs (signal, sigma) alone.

With the ratio ρ = SNR_t / SNR_s, which is 0 when s is the clean picture:

    q(x_s | x_t, x_0):  mean = signal_s (1 − ρ) x_0 + (signal_t / signal_s)(sigma_s / sigma_t)² x_t
                        variance = sigma_s² (1 − ρ)                          the paper's β̃
    q(x_t | x_s):       variance = sigma_t² (1 − ρ)                          the paper's β = 1 − ᾱ_t / ᾱ_s

For neighbouring times these are equations 6 and 7 of Ho, Jain, Abbeel 2020 (arXiv 2006.11239); for any other pair they
are those of the shortened chain (Nichol & Dhariwal 2021, arXiv 2102.09672, equation 19). No respaced tables are needed.
The ancestral sampler and the variational bound both come here, so they cannot disagree.
"""

import itertools
import math
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
    def log_variance(self, t: Level, s: Level, second: Pair | None, raw: Tensor | None) -> Tensor:
        """The log variance of the step from t to s: float64 of the levels' shape, or ready to broadcast with x_t.

        ``second`` is as in :func:`reverse`; ``raw`` is the network's second output v, (B, C, H, W), or ``None``.
        """


def _lower(t: Level, s: Level, second: Pair | None) -> Tensor:
    """log β̃, with that of ``second`` where x_s is clean."""
    lower = posterior_log_variance(t, s)
    return lower if second is None else torch.where(s.sigma == 0, posterior_log_variance(*second), lower)


@dataclass(frozen=True, kw_only=True)
class Small(Variance):
    """β̃: right if the data were a single point. The paper's choice for LSUN and CelebA-HQ ("fixed small")."""

    def log_variance(self, t: Level, s: Level, second: Pair | None, raw: Tensor | None) -> Tensor:
        """log β̃."""
        return _lower(t, s, second)


@dataclass(frozen=True, kw_only=True)
class Large(Variance):
    """β: right if the data were standard normal. The paper's choice for CIFAR-10 ("fixed large").

    The last step takes β̃ of the step before it, as the authors' code does; that changes the bound's decoder term.
    """

    def log_variance(self, t: Level, s: Level, second: Pair | None, raw: Tensor | None) -> Tensor:
        """log β, and log β̃ where x_s is clean."""
        return torch.where(s.sigma == 0, _lower(t, s, second), forward_log_variance(t, s))


@dataclass(frozen=True, kw_only=True)
class LearnedRange(Variance):
    """Between the two, as the network says: Nichol & Dhariwal 2021 (arXiv 2102.09672), equation 15.

    The network has a second output v for every channel; (v + 1)/2 is the way from log β̃ to log β.
    """

    def log_variance(self, t: Level, s: Level, second: Pair | None, raw: Tensor | None) -> Tensor:
        """(v + 1)/2 · log β + (1 − v)/2 · log β̃. Raises ``ValueError`` if the network has no second output."""
        if raw is None:
            raise ValueError("a learned variance needs a network with twice the output channels; this one has none")
        share = (raw + 1) / 2
        return share * cast(forward_log_variance(t, s), raw) + (1 - share) * cast(_lower(t, s, second), raw)


@dataclass(frozen=True, kw_only=True)
class Analytic(Variance):
    """The best variance that all pixels share: Bao et al. 2022 (Analytic-DPM, arXiv 2201.06503), theorem 1.

    β̃ + (signal_s (1 − ρ))² · v, for any pair of times. The mean variance of x_0 given x_t is v = (1 − Γ_t) / SNR_t;
    Γ_t is the mean square of the best guess at eps. If x_s is clean, v is all there is. Theorem 2 bounds it:
    0 ≤ Γ ≤ 1, that is, from β̃ to β · signal_s² / signal_t²; and v ≤ ``limit``² for x_0 within ±``limit``. ``gamma``
    belongs to the increasing ``times``; between them it is interpolated linearly in t, beyond, the nearest is taken.
    """

    times: tuple[float, ...]
    gamma: tuple[float, ...]
    limit: float = 1.0

    def __post_init__(self) -> None:
        """Raises ``ValueError`` for lists that are no table."""
        if not self.times or len(self.times) != len(self.gamma):
            raise ValueError(
                f"times and gamma must be of one length, above 0, not {len(self.times)} and {len(self.gamma)}"
            )
        if not (self.times[0] > 0 and all(a < b for a, b in itertools.pairwise(self.times))):
            raise ValueError("times must be above 0 and increase")
        if not all(0 <= value < math.inf for value in self.gamma):
            raise ValueError("gamma must hold mean squares: finite numbers that are not negative")
        if not self.limit > 0:
            raise ValueError(f"limit = {self.limit}: must be above 0")

    def log_variance(self, t: Level, s: Level, second: Pair | None, raw: Tensor | None) -> Tensor:
        """As above; should nothing be left in the last step, the stand-in of :class:`Small`."""
        known = self._gamma(t.t).clamp(max=1)
        # Where no signal is left, 0 / 0: all that is known of x_0 is its limit.
        spread = ((1 - known) / t.snr).nan_to_num(math.inf).clamp(max=self.limit**2)
        lower = posterior_log_variance(t, s)
        variance = lower.exp() + (s.signal * _lost(t, s)).square() * spread
        return torch.where(variance > 0, variance.log(), _lower(t, s, second))

    def _gamma(self, t: Tensor) -> Tensor:
        times, gamma = torch.tensor(self.times, dtype=torch.float64), torch.tensor(self.gamma, dtype=torch.float64)
        right = torch.searchsorted(times, t.contiguous()).clamp(max=times.numel() - 1)
        left = (right - 1).clamp(min=0)
        part = ((t - times[left]) / (times[right] - times[left])).nan_to_num(0.0, 0.0, 0.0).clamp(0, 1)
        return torch.lerp(gamma[left], gamma[right], part)


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
    log_variance = variance.log_variance(t, s, second, raw_variance)
    if log_variance.ndim < x_t.ndim:
        log_variance = cast(log_variance, x_t)
    return Gaussian(posterior(x_t, x_0, t, s).mean, log_variance)


def bound_term(x_0: Tensor, x_t: Tensor, p: Gaussian, t: Level, s: Level) -> Tensor:
    """What the step costs in the variational bound, nats per element, (B, C, H, W). Ho et al. 2020, equation 5.

    KL(q(x_s | x_t, x_0) ‖ p(x_s | x_t)), and −log p(x_0 | x_t) of the grey levels where x_s is clean. ``p`` is from
    :func:`reverse`.
    """
    clean = cast(s.sigma == 0, x_t).bool()
    q = posterior(x_t, x_0, t, s)
    # Where x_s is clean, q is a point and its divergence infinite; a stand-in keeps NaN out of the gradient.
    kl = Gaussian(q.mean, torch.where(clean, torch.zeros_like(q.log_variance), q.log_variance)).kl(p)
    return torch.where(clean, -p.discretized_log_prob(x_0), kl)
