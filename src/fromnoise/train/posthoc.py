"""Averages of the weights over training whose length is chosen after training.

The power-function average of the weights θ at time t,

    θ̂_γ(t) = ∫_0^t p(τ) θ(τ) dτ,    p(τ) = (γ + 1) τ^γ / t^(γ+1),

forgets the start as the run goes on: its width, the standard deviation of p divided by t, is the same at every t,

    σ_rel = √(γ + 1) / ((γ + 2) √(γ + 3)).

After every step n the recursion θ̂ ← β θ̂ + (1 − β) θ_n with β = (1 − 1/n)^(γ+1) holds it. Unrolled, it gives θ_i the
weight (i^(γ+1) − (i − 1)^(γ+1)) / n^(γ+1): exactly the integral above for weights that stay θ_i from i − 1 to i.

Averages are linear in θ, so any combination Σ w_i θ̂_i of averages stored on the way is the average with the profile
Σ w_i p_i. The w_i that bring it nearest to a wanted profile p (least squares over τ) solve A w = b with the inner
products A_ij = ⟨p_i, p_j⟩ and b_i = ⟨p_i, p⟩, for which there is a closed form. Weights that do not move should come
out as they are, so Σ w_i = 1 is held to: it matters where there are few snapshots, and fades where there are many.

Source: Karras, Aittala, Lehtinen, Hellsten, Aila, Laine 2024 (arXiv 2312.02696), section 3 and appendix C.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fromnoise.errors import WrongUse

WIDEST = 12**-0.5
"""The width of the plain mean over the whole run (γ = 0), 0.28868 rounded."""

NARROWEST = 1e-6
"""Less than one step of a run of a million; far below, the exponent's powers leave what a float holds."""

TRACKED = (0.05, 0.10)
"""The widths that the paper stores snapshots of."""

_CUT = 1e-14  # Directions in which snapshots differ by less, in squared norm, hold nothing but rounding.

Profile = tuple[float, float]
"""(t, γ). The unit of t is free (steps, pictures), but one for all profiles that meet."""


def sigma_rel_of(gamma: float) -> float:
    """The relative width of the profile with exponent ``gamma`` ≥ 0, between 0 and :data:`WIDEST`."""
    return math.sqrt((gamma + 1) / (gamma + 3)) / (gamma + 2)


def gamma_of(sigma_rel: float) -> float:
    """The exponent ≥ 0 of a relative width: the largest root of σ² (γ + 2)² (γ + 3) = γ + 1.

    Raises ``WrongUse`` for a width that no such profile has.
    """
    if not NARROWEST <= sigma_rel <= WIDEST:
        most = math.floor(1e4 * WIDEST) / 1e4  # Rounded down: what the message names must itself be allowed.
        raise WrongUse(
            f"width {sigma_rel:g} of an average: must be above 0 (at least {NARROWEST:g}) and at most {most}, "
            f"the mean of all steps"
        )
    # Right of the largest root the cubic is convex and grows, so Newton's steps come down to it without overshooting;
    # and the root lies left of 1/σ − 2, since σ < 1/(γ + 2).
    squared, gamma = sigma_rel**-2, 1 / sigma_rel - 2
    for _ in range(100):
        value = (gamma + 2) ** 2 * (gamma + 3) - squared * (gamma + 1)
        slope = (gamma + 2) * (3 * gamma + 8) - squared
        gamma, before = gamma - value / slope, gamma
        if abs(gamma - before) <= 1e-15 * (1 + gamma):
            break
    return max(gamma, 0.0)


def beta(step: int, gamma: float) -> float:
    """The decay of the update after optimizer step ``step``, counted from 1: (1 − 1/step)^(γ+1), 0 at the first."""
    if step < 1:
        raise ValueError(f"steps of an average are counted from 1, not {step}")
    return (1 - 1 / step) ** (gamma + 1)


def inner(t_a: ArrayLike, gamma_a: ArrayLike, t_b: ArrayLike, gamma_b: ArrayLike) -> NDArray[np.float64]:
    """⟨p_a, p_b⟩ = ∫ p_a(τ) p_b(τ) dτ from 0 to the earlier of both times; arguments are broadcast. Unit: 1/time."""
    t_a, gamma_a, t_b, gamma_b = (np.asarray(value, np.float64) for value in (t_a, gamma_a, t_b, gamma_b))
    early, late = np.minimum(t_a, t_b), np.maximum(t_a, t_b)
    # Powers of ratios below 1, not of times, which would overflow: one of the two ratios is 1.
    shared = (early / t_a) ** gamma_a * (early / t_b) ** gamma_b
    return (gamma_a + 1) * (gamma_b + 1) / (gamma_a + gamma_b + 1) * shared / late


def solve_weights(stored: Sequence[Profile], target: Profile) -> NDArray[np.float64]:
    """The weights of stored averages whose sum comes nearest to the average ``target``; they add up to 1.

    Profiles are pairs (t, γ). One of ``stored`` that is the target itself gets weight 1. Later snapshots than the
    target see steps that it must not see: leave them out. Raises ``ValueError`` if nothing is stored.
    """
    if not stored:
        raise ValueError("no snapshots to combine")
    if target in stored:
        return np.eye(len(stored))[stored.index(target)]
    t, gamma = np.asarray(stored, np.float64).T
    # Profiles of norm 1, so that early (tall) ones and late (flat) ones are treated alike.
    norm = np.sqrt(inner(t, gamma, t, gamma))
    gram = inner(t[:, None], gamma[:, None], t, gamma) / norm[:, None] / norm
    wanted = inner(t, gamma, *target) / norm
    values, vectors = np.linalg.eigh(gram)
    kept = values > _CUT * len(stored) * values[-1]  # Two snapshots of almost the same time share their weight.
    basis = vectors[:, kept] / np.sqrt(values[kept])
    free, towards = basis @ (basis.T @ wanted), basis @ (basis.T @ (1 / norm))
    # Lagrange: the least-squares solution, moved along A⁻¹1 until the weights add up to 1.
    shift = (1 - np.sum(free / norm)) / np.sum(towards / norm)
    return (free + shift * towards) / norm


def mismatch(stored: Sequence[Profile], weights: ArrayLike, target: Profile) -> float:
    """‖Σ w_i p_i − p‖ / ‖p‖: how far the combined profile is from the wanted one. Below 1e-7 it is rounding."""
    t, gamma = np.asarray(stored, np.float64).T
    w, size = np.asarray(weights, np.float64), float(inner(*target, *target))
    ours = w @ inner(t[:, None], gamma[:, None], t, gamma) @ w
    return math.sqrt(max(float(ours - 2 * w @ inner(t, gamma, *target)) + size, 0.0) / size)
