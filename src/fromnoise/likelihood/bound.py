"""The variational bound on −log p(x_0), picture by picture and term by term, in bits per dimension.

    L = KL(q(x_T | x_0) ‖ p(x_T))                                   prior
      + Σ over the steps t → s with s > 0 of
            KL(q(x_s | x_t, x_0) ‖ p(x_s | x_t))                    rate
      − log p(x_0 | x_t) in the last step                           decoder

each at one x_t drawn from q(x_t | x_0), which is unbiased. Ho, Jain, Abbeel 2020 (arXiv 2006.11239), equation 5. The
paper's figures are of a denoiser that clips.

An estimate from fewer network calls cuts the steps above the last into strata and draws one step from each; a step
drawn from n stands for all of them, so its term counts n times. That is unbiased for any strata; the variance is small
where terms of a stratum are alike and the costly ones stand alone. Steps of equal width in log-SNR cost about alike at
low noise and ever less at high (the paper's table 4), so strata are cut at equal sums of width / (1 + 3 ρ) with ρ =
sigma / signal. The prior and the decoder are always evaluated.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fromnoise.denoiser import Estimator
from fromnoise.gaussian import Gaussian, bits_per_dim
from fromnoise.noise import Noise
from fromnoise.schedule import Level, noisy
from fromnoise.transition import Variance, bound_term, reverse


@dataclass(frozen=True)
class Term:
    """One term of the bound: of the step t → s, standing for the steps ``rungs`` of the ladder, counted from its top.

    ``bits`` (B,) per dimension, of one step; ``x_0_error`` and ``eps_error`` (B,) are the mean squares of what the
    denoiser was off by. ``t`` and ``s`` are float64 on the CPU, () or one a picture (B,).
    """

    rungs: range
    t: Tensor
    s: Tensor
    bits: Tensor
    x_0_error: Tensor
    eps_error: Tensor


@dataclass(frozen=True)
class Bound:
    """The bound of every picture and its parts, bits per dimension, float64 on the CPU, (B,)."""

    prior: Tensor
    rate: Tensor
    decoder: Tensor

    @property
    def total(self) -> Tensor:
        """The bound itself."""
        return self.prior + self.rate + self.decoder

    @staticmethod
    def join(parts: "Sequence[Bound]") -> "Bound":
        """Several batches as one."""
        return Bound(*(torch.cat([getattr(part, name) for part in parts]) for name in ("prior", "rate", "decoder")))


def prior_variance(level: Level) -> float:
    """The variance of p(x_T) = N(0, variance), from which samplers start, for the level at the top.

    signal² + sigma², which is 1 where variance is preserved (Ho et al. 2020); sigma² where the signal is never weakened
    (Karras et al. 2022, arXiv 2206.00364).
    """
    noise = level.sigma.square()
    return (noise if level.signal == 1 else noise + level.signal.square()).item()


def prior(x_0: Tensor, top: Level) -> Tensor:
    """KL(q(x_T | x_0) ‖ p(x_T)) of pictures (B, C, H, W), bits per dimension (B,), float64 on the CPU."""
    mean = top.signal * x_0.cpu().double()
    p = Gaussian(torch.zeros_like(mean), torch.tensor(math.log(prior_variance(top)), dtype=torch.float64))
    return bits_per_dim(Gaussian(mean, 2 * top.sigma.log()).kl(p))


def strata(levels: Level, count: int) -> list[range]:
    """The steps of a ladder in ``count`` strata, cut as the module says, and the last step by itself.

    ``levels`` (n + 1,) are those of the ladder, from the top to the clean picture. With n − 1 strata or more, each
    holds one step. Raises ``ValueError`` for fewer than one.
    """
    above = levels.t.numel() - 2
    if count < 1:
        raise ValueError(f"an estimate of the bound needs at least 1 stratum of steps, not {count}")
    count = min(count, above)
    below = levels[1:-1]
    width = levels.log_snr[:-1].diff() / (1 + 3 * below.sigma / below.signal)
    width = torch.where(width.isfinite(), width, 0.0)  # Where no signal is left at the top.
    share = (width.cumsum(0) / width.sum()).tolist()
    cuts = [0]
    for j in range(1, count):
        cut = sum(part < j / count for part in share)
        cuts.append(min(max(cut, cuts[-1] + 1), above - (count - j)))
    return [range(a, b) for a, b in zip(cuts, [*cuts[1:], above], strict=True)] + [range(above, above + 1)]


def terms(
    denoiser: Estimator,
    x_0: Tensor,
    ladder: Tensor,
    variance: Variance,
    noise: Noise,
    draws: Tensor | None = None,
    **condition: Any,
) -> Iterator[Term]:
    """The terms for ``x_0`` (B, C, H, W), from the top of the ladder to the decoder's; one call of the network each.

    ``noise`` gives one draw a term. All steps of the ladder, or with ``draws`` (B, k), uniform in [0, 1), one from
    each of k strata, every picture its own. Raises ``ValueError`` for a ladder that does not decrease to 0 in at least
    two steps: of a single one, the decoder's variance would be 0.
    """
    if ladder.ndim != 1 or ladder.numel() < 3 or ladder[-1] != 0 or not bool((ladder.diff() < 0).all()):
        raise ValueError("the bound needs a strictly decreasing list of at least three times that ends at 0")
    levels = denoiser.schedule(ladder)
    steps = ladder.numel() - 1
    second = levels[steps - 2], levels[steps - 1]
    parts = strata(levels, steps if draws is None else draws.shape[1])
    for j, rungs in enumerate(parts):
        index: int | Tensor = rungs.start
        if draws is not None and len(rungs) > 1:
            index = rungs.start + (draws[:, j].double().cpu() * len(rungs)).long().clamp(max=len(rungs) - 1)
        t, s = levels[index], levels[index + 1]
        with torch.inference_mode():
            eps = noise()
            x_t = noisy(x_0, eps, t)
            prediction = denoiser(x_t, t, **condition)
            p = reverse(x_t, prediction.x_0, prediction.raw_variance, t, s, variance, second)
            bits = bits_per_dim(bound_term(x_0, x_t, p, t, s))
            errors = (_mean_square(prediction.x_0 - x_0), _mean_square(prediction.eps - eps))
        yield Term(rungs, t.t, s.t, bits, *errors)


def total(before: Tensor, parts: Sequence[Term]) -> Bound:
    """All terms of a batch, and its prior (B,) -> its bound."""
    bits = torch.stack([term.bits for term in parts]).cpu().double()
    count = torch.tensor([len(term.rungs) for term in parts], dtype=torch.float64)
    return Bound(before, count[:-1] @ bits[:-1], bits[-1])


def mean_and_error(values: Tensor) -> tuple[float, float | None]:
    """The mean over pictures (N,) and its standard error, which one picture does not have.

    Where every picture draws its own times and noise, the error has their share in it.
    """
    count = values.numel()
    error = values.std().item() / math.sqrt(count) if count > 1 else None
    return values.mean().item(), error


def _mean_square(x: Tensor) -> Tensor:
    return x.square().flatten(1).mean(1)
