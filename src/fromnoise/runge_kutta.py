"""Explicit Runge–Kutta rules for dy/dτ = f(y, τ), in steps of equal width or, each picture its own, of chosen width.

    k_i = f(y + h Σ_j a_ij k_j, τ + c_i h),   c_i = Σ_j a_ij,   y(τ + h) = y + h Σ_i b_i k_i

A pair of rules on the same k has their difference, h Σ_i e_i k_i, as an estimate of the error; from it the width of
the next step follows. y is a tuple of tensors whose first axis counts the pictures.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fromnoise.errors import WrongUse
from fromnoise.schedule.base import cast

State = tuple[Tensor, ...]
"""Parts of shape (B, ...) each."""

Slope = Callable[[State, Tensor], State]
"""(y, τ) -> dy/dτ; τ is float64 on the CPU, () or one a picture (B,)."""

_LEAST = 1e-4
"""A smaller share of the way than this is no step any more: f is too rough for the tolerance."""


@dataclass(frozen=True)
class Tableau:
    """The rows of a below its empty first one, b, and the error's weights where there is a pair."""

    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]
    e: tuple[float, ...] = ()

    def stages(self, slope: Slope, y: State, tau: Tensor, width: Tensor, first: State) -> tuple[list[State], State]:
        """All k, the ``first`` being known, and the y that the last was evaluated at."""
        k, at = [first], y
        for row in self.a:
            at = advance(y, width, row, k)
            k.append(slope(at, tau + sum(row) * width))
        return k, at


HEUN = Tableau(((1.0,),), (1 / 2, 1 / 2))
CLASSICAL = Tableau(((1 / 2,), (0.0, 1 / 2), (0.0, 0.0, 1.0)), (1 / 6, 1 / 3, 1 / 3, 1 / 6))
DORMAND_PRINCE = Tableau(
    (
        (1 / 5,),
        (3 / 40, 9 / 40),
        (44 / 45, -56 / 15, 32 / 9),
        (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
        (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
        (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
    ),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84, 0.0),
    (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40),
)


def advance(y: State, width: Tensor, weights: Sequence[float], slopes: Sequence[State]) -> State:
    """y + width Σ weight · slope, part by part; ``width`` float64, () or (B,)."""
    out = list(y)
    for weight, slope in zip(weights, slopes, strict=True):
        if weight:
            out = [old + cast(width * weight, k) * k for old, k in zip(out, slope, strict=True)]
    return tuple(out)


class Solver(ABC):
    """A way from τ = ``start`` to τ = ``end``."""

    @abstractmethod
    def __call__(self, slope: Slope, y: State, start: Tensor, end: Tensor) -> Iterator[tuple[float, State]]:
        """(share of the way, y there) after every step; the last is (1, y at the end). ``start``, ``end``: float64, ().

        Raises ``WrongUse`` where there is no going on.
        """

    @property
    @abstractmethod
    def summary(self) -> str:
        """In a few words, for reports."""


def _equal(
    rule: Tableau, steps: int, slope: Slope, y: State, start: Tensor, end: Tensor
) -> Iterator[tuple[float, State]]:
    tau = torch.linspace(start.item(), end.item(), steps + 1, dtype=torch.float64)
    for i in range(steps):
        width = tau[i + 1] - tau[i]
        k, _ = rule.stages(slope, y, tau[i], width, slope(y, tau[i]))
        y = advance(y, width, rule.b, k)
        yield (i + 1) / steps, y


def _at_least_one(steps: int) -> None:
    if steps < 1:
        raise ValueError(f"steps = {steps}: must be at least 1")


@dataclass(frozen=True, kw_only=True)
class Heun(Solver):
    """Of the second order, in ``steps`` equal steps of two evaluations."""

    steps: int = 100

    def __post_init__(self) -> None:
        """Raises ``ValueError`` for less than one step."""
        _at_least_one(self.steps)

    def __call__(self, slope: Slope, y: State, start: Tensor, end: Tensor) -> Iterator[tuple[float, State]]:
        """Equal steps."""
        return _equal(HEUN, self.steps, slope, y, start, end)

    @property
    def summary(self) -> str:
        """The number of steps."""
        return f"{self.steps} steps of Heun's rule"


@dataclass(frozen=True, kw_only=True)
class RungeKutta4(Solver):
    """The classical rule of the fourth order (Kutta 1901), in ``steps`` equal steps of four evaluations."""

    steps: int = 50

    def __post_init__(self) -> None:
        """Raises ``ValueError`` for less than one step."""
        _at_least_one(self.steps)

    def __call__(self, slope: Slope, y: State, start: Tensor, end: Tensor) -> Iterator[tuple[float, State]]:
        """Equal steps."""
        return _equal(CLASSICAL, self.steps, slope, y, start, end)

    @property
    def summary(self) -> str:
        """The number of steps."""
        return f"{self.steps} steps of Runge-Kutta 4"


@dataclass(frozen=True, kw_only=True)
class DormandPrince(Solver):
    """The pair of orders 5 and 4 of Dormand & Prince 1980; six evaluations a step, and one to start.

    A step is accepted where the root mean square of error / (atol + rtol |y|) is at most 1, for every part of y and
    each picture by itself, so that a picture does not depend on the others in its batch.
    """

    rtol: float = 1e-5
    atol: float = 1e-5

    def __post_init__(self) -> None:
        """Raises ``ValueError`` for tolerances that allow no error at all."""
        if not (self.rtol >= 0 and self.atol > 0):
            raise ValueError(f"rtol = {self.rtol} must not be negative and atol = {self.atol} must be above 0")

    def __call__(self, slope: Slope, y: State, start: Tensor, end: Tensor) -> Iterator[tuple[float, State]]:
        """Steps of chosen width. Raises ``WrongUse`` where they become too small, and for what is not a number."""
        span, batch = (end - start).item(), y[0].shape[0]
        tau = start.double().expand(batch).clone()
        width = torch.full((batch,), span / 20, dtype=torch.float64)
        first = slope(y, tau)
        while bool((tau != end).any()):
            left = end - tau  # 0 where a picture is done; its steps do nothing.
            last = width.abs() >= left.abs()
            if bool((width.abs() < _LEAST * abs(span)).logical_and(~last).any()):
                raise WrongUse(f"the adaptive solver's steps became too small: raise rtol = {self.rtol:g} or atol")
            taken = torch.where(last, left, width)
            k, new = DORMAND_PRINCE.stages(slope, y, tau, taken, first)
            error = advance(tuple(torch.zeros_like(part) for part in y), taken, DORMAND_PRINCE.e, k)
            norm = self._norm(error, y, new)
            if bool(norm.isnan().any()):
                raise WrongUse(
                    "the adaptive solver met values that are not numbers: the denoiser's estimate is not finite"
                )
            accepted = norm <= 1
            y, first = _choose(accepted, new, y), _choose(accepted, k[-1], first)
            tau = torch.where(accepted, torch.where(last, end, tau + taken), tau)
            width = torch.where(left != 0, taken * (0.9 * norm.clamp(min=1e-10) ** -0.2).clamp(0.2, 5), width)
            yield ((tau - start) / span).min().item(), y

    @property
    def summary(self) -> str:
        """The tolerances."""
        return f"steps of Dormand & Prince's rule to rtol {self.rtol:g} and atol {self.atol:g}"

    def _norm(self, error: State, old: State, new: State) -> Tensor:
        """The largest of the parts' norms, (B,), float64 on the CPU."""
        norms = []
        for part, a, b in zip(error, old, new, strict=True):
            allowed = self.atol + self.rtol * torch.maximum(a.abs(), b.abs())
            norms.append((part / allowed).square().reshape(part.shape[0], -1).mean(1).sqrt())
        return torch.stack(norms).amax(0).cpu().double()


def _choose(rows: Tensor, yes: State, no: State) -> State:
    return tuple(
        torch.where(rows.reshape(-1, *[1] * (a.ndim - 1)).to(a.device), a, b) for a, b in zip(yes, no, strict=True)
    )
