"""Where sampling may start instead of at pure noise: from a picture, between two pictures, between two noises."""

import torch
from torch import Tensor

from fromnoise.errors import WrongUse
from fromnoise.schedule import Level, Schedule, noisy


def cut(ladder: Tensor, time: float) -> Tensor:
    """The part of the ladder from the rung nearest to ``time`` down to 0, with at least one step; of two, the upper."""
    return ladder[int((ladder[:-1] - time).abs().argmin()) :]


def sdedit(x_0: Tensor, eps: Tensor, schedule: Schedule, ladder: Tensor, strength: float) -> tuple[Tensor, Tensor]:
    """A picture noised to a share of the way, and the ladder from there: what is sampled so keeps its larger forms.

    ``x_0`` and ``eps`` are (B, C, H, W). ``strength`` is the share of the schedule's clock, above 0 (next to nothing
    changes) and at most 1 (the whole ladder); the rung nearest to strength · horizon is taken. Returns x_t and the
    ladder. Raises ``WrongUse`` for another strength. Meng et al. 2021 (SDEdit, arXiv 2108.01073), algorithm 1.
    """
    if not 0 < strength <= 1:
        raise WrongUse(f"strength = {strength}: must lie above 0 (keep the picture) and be at most 1 (all noise)")
    rest = cut(ladder, strength * schedule.horizon)
    return noisy(x_0, eps, schedule(rest[0])), rest


def interpolate(x_0_a: Tensor, x_0_b: Tensor, eps: Tensor, level: Level, weights: Tensor) -> Tensor:
    """x_t = (1 − λ) x_t of a + λ x_t of b for each λ of ``weights`` (n,): (n, C, H, W) from pictures (C, H, W).

    Both share the noise ``eps`` (C, H, W), so that x_t has the noise of its level for every λ. For pictures that change
    by λ alone, sample them with the same noise too. Ho et al. 2020 (arXiv 2006.11239), section 4.3 and figure 8.
    """
    share = _rows(weights, x_0_a)
    return noisy((1 - share) * x_0_a + share * x_0_b, eps.expand(len(share), *eps.shape), level)


def slerp(a: Tensor, b: Tensor, weights: Tensor) -> Tensor:
    """Noises on the great circle from ``a`` to ``b``, (C, H, W) each, at ``weights`` (n,) of the angle: (n, C, H, W).

        sin((1 − λ)θ) / sin θ · a + sin(λθ) / sin θ · b,   θ the angle between them

    A straight line would pass through noises too weak for the network. Raises ``WrongUse`` for opposite noises, between
    which no way is the shortest. Song et al. 2020 (DDIM, arXiv 2010.02502), appendix D.5.
    """
    share, u, v = _rows(weights, a), a / a.norm(), b / b.norm()
    # Half the angle by its tangent: the arc cosine of the product loses half the digits of a small angle.
    angle = 2 * torch.atan2((u - v).norm(), (u + v).norm())
    if angle == 0:
        return (1 - share) * a + share * b
    if angle.sin() < 1e-6 and angle > 1:
        raise WrongUse("the two noises are opposite: no way between them is the shortest")
    return (((1 - share) * angle).sin() * a + (share * angle).sin() * b) / angle.sin()


def _rows(weights: Tensor, x: Tensor) -> Tensor:
    return weights.to(x).reshape(-1, *[1] * x.ndim)
