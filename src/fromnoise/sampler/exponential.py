"""Coefficients that the solvers share, from two levels t above s; float64, of the levels' shape.

With λ = log(signal / sigma) and h = λ_s − λ_t > 0, the probability flow of Song et al. 2021 (arXiv 2011.13456) is
solved exactly for a constant estimate of x_0 (Lu et al. 2022, arXiv 2211.01095, equation 8):

    x_s = (sigma_s / sigma_t) x_t + signal_s (1 − e^−h) x_0

which is DDIM. Higher orders put a polynomial in λ in the place of the constant, whose integrals are the functions φ_k
of exponential integrators (Hochbruck & Ostermann 2010, Acta Numerica 19). h is infinite where x_s is clean or x_t has
no signal left; the formula holds there, the polynomial does not.
"""

import math
from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor

from fromnoise.denoiser import Prediction
from fromnoise.schedule.base import Level, cast


def blend(*terms: tuple[Tensor, Tensor]) -> Tensor:
    """Σ coefficient · tensor: coefficients float64, cast once; tensors (B, C, H, W)."""
    return reduce(lambda sum_, term: sum_ + term, (cast(coefficient, x) * x for coefficient, x in terms))


def onto(prediction: Prediction, s: Level) -> Tensor:
    """signal_s · x_0 + sigma_s · eps: the same picture and noise, at another level. This is the step of DDIM."""
    return blend((s.signal, prediction.x_0), (s.sigma, prediction.eps))


def width(t: Level, s: Level) -> Tensor:
    """h = λ_s − λ_t."""
    return s.half_log_snr - t.half_log_snr


def pull(h: Tensor) -> Tensor:
    """1 − e^−h."""
    return -torch.expm1(-h)


def first_order(x_t: Tensor, x_0: Tensor, t: Level, s: Level) -> Tensor:
    """The equation above: the flow's solution for a constant x_0."""
    return blend((s.sigma / t.sigma, x_t), (s.signal * pull(width(t, s)), x_0))


_SERIES = [1 / math.factorial(k) for k in range(28)]


def phi(z: float, count: int) -> list[float]:
    """φ_1(z) … φ_count(z), count ≤ 7: φ_0 = e^z, φ_k = (φ_(k−1) − 1/(k−1)!) / z, at 0 equal to 1/k!.

    The recurrence cancels where z is small; there the series Σ_j z^j / (j + k)! stands in. Both to 1e-14.
    """
    if abs(z) < 1:
        powers = [z**j for j in range(20)]
        return [sum(a * b for a, b in zip(powers, _SERIES[k:], strict=False)) for k in range(1, count + 1)]
    values = [math.expm1(z) / z]
    for k in range(1, count):
        values.append((values[-1] - _SERIES[k]) / z)
    return values


def integrals(places: Sequence[float], z: float) -> Tensor:
    """∫_0^1 e^(z (1 − v)) ℓ_m(v) dv for the Lagrange polynomials ℓ_m through n ``places``: float64, shape (n,).

    That is Σ_m w_m places_m^k = k! φ_(k+1)(z) for k < n: the weights integrate every power exactly.
    """
    moments = [math.factorial(k) * value for k, value in enumerate(phi(z, len(places)))]
    powers = [[place**k for place in places] for k in range(len(places))]
    return torch.linalg.solve(torch.tensor(powers, dtype=torch.float64), torch.tensor(moments, dtype=torch.float64))


def nodes(t: Level, s: Level, levels: Sequence[Level]) -> list[float]:
    """Where the levels lie on the way from t (0) to s (1), measured in λ."""
    start, h = t.half_log_snr.item(), width(t, s).item()
    return [(level.half_log_snr.item() - start) / h for level in levels]


def ratio(level: Level) -> Tensor:
    """ρ = sigma / signal: the noise scale of EDM (Karras et al. 2022, arXiv 2206.00364), whose clock is ρ itself."""
    return level.sigma / level.signal


def ends(t: Level, s: Level) -> bool:
    """Whether h is infinite, so that only the first order makes sense."""
    return not math.isfinite(width(t, s).item())
