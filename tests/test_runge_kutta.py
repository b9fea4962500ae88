"""Runge–Kutta rules on equations whose solution is known."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from fromnoise.runge_kutta import (
    CLASSICAL,
    DORMAND_PRINCE,
    HEUN,
    DormandPrince,
    Heun,
    RungeKutta4,
    Solver,
    State,
    Tableau,
)


def at(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def end(solver: Solver, slope: object, y: State, start: float, stop: float) -> State:
    share = 0.0
    for before, (share, point) in enumerate(solver(slope, y, at(start), at(stop))):  # type: ignore[arg-type]
        assert share <= 1 and before < 10_000
        y = point
    assert share == 1
    return y


def oscillator(y: State, tau: Tensor) -> State:
    """x'' = −x, in two parts of different shapes, with a third that is only gathered: its integral of t cos t."""
    x, v, _ = y
    return v.reshape(x.shape), -x.reshape(v.shape), (tau * tau.cos()).expand(x.shape[0])


def start_at(phase: Tensor) -> State:
    """x = sin(phase)."""
    x, v = phase.sin().reshape(-1, 1, 1), phase.cos().reshape(-1, 1)
    return x, v, torch.zeros_like(phase)


def miss(solver: Solver, start: float = 0.3, stop: float = 2.5) -> float:
    x, v, gathered = end(
        solver, oscillator, start_at(torch.tensor([start, start + 1], dtype=torch.float64)), start, stop
    )
    phase = torch.tensor([stop, stop + 1], dtype=torch.float64)
    exact = math.cos(stop) + stop * math.sin(stop) - math.cos(start) - start * math.sin(start)
    return max(
        (x.flatten() - phase.sin()).abs().max().item(),
        (v.flatten() - phase.cos()).abs().max().item(),
        (gathered - exact).abs().max().item(),
    )


@pytest.mark.parametrize(("rule", "order"), [(Heun, 2), (RungeKutta4, 4)])
def test_halving_the_steps_divides_the_error_by_two_to_the_order(rule: type, order: int) -> None:
    errors = [miss(rule(steps=steps)) for steps in (40, 80, 160)]
    for coarse, fine in itertools.pairwise(errors):
        assert coarse / fine == pytest.approx(2**order, rel=0.12)


@pytest.mark.parametrize("tolerance", [1e-3, 1e-6, 1e-9])
def test_chosen_steps_reach_the_tolerance(tolerance: float) -> None:
    assert miss(DormandPrince(rtol=tolerance, atol=tolerance)) < 10 * tolerance
    assert miss(DormandPrince(rtol=tolerance, atol=tolerance), start=2.5, stop=0.3) < 10 * tolerance


@pytest.mark.parametrize(
    ("rule", "order"), [(HEUN, 2), (CLASSICAL, 4), (DORMAND_PRINCE, 5)], ids=["heun", "classical", "dormand_prince"]
)
def test_tableaus_satisfy_the_order_conditions(rule: Tableau, order: int) -> None:
    """Σ b_i c_i^k = 1/(k + 1) for k below the order, and Σ b_i a_ij c_j = 1/6 from the third.

    Hairer, Nørsett & Wanner 1993, section II.2."""
    c = [0.0, *(sum(row) for row in rule.a)]
    for k in range(order):
        assert sum(b * x**k for b, x in zip(rule.b, c, strict=True)) == pytest.approx(1 / (k + 1), rel=1e-14)
    inner = [0.0, *(sum(a * x for a, x in zip(row, c, strict=False)) for row in rule.a)]
    if order >= 3:
        assert sum(b * x for b, x in zip(rule.b, inner, strict=True)) == pytest.approx(1 / 6, rel=1e-14)
    if rule.e:  # The other rule of the pair, of order 4 and no more.
        other = [b - e for b, e in zip(rule.b, rule.e, strict=True)]
        sums = [sum(b * x**k for b, x in zip(other, c, strict=True)) - 1 / (k + 1) for k in range(5)]
        assert max(abs(one) for one in sums[:4]) < 1e-15
        assert abs(sums[4]) > 1e-4


def test_each_picture_chooses_for_itself() -> None:
    """A stiff one beside it changes nothing, not even in the last bit."""

    def decay(y: State, tau: Tensor) -> State:
        return (-y[1] * y[0], torch.zeros_like(y[1]))

    both = end(DormandPrince(), decay, (torch.ones(2).double(), torch.tensor([1.0, 200.0]).double()), 0.0, 1.0)
    for k, rate in enumerate((1.0, 200.0)):
        alone = end(DormandPrince(), decay, (torch.ones(1).double(), at(rate)[None]), 0.0, 1.0)
        assert torch.equal(both[0][k], alone[0][0])
        assert alone[0].item() == pytest.approx(math.exp(-rate), abs=1e-4)


def test_what_is_not_a_number_or_too_rough_ends() -> None:
    def broken(y: State, tau: Tensor) -> State:
        return (torch.where(tau > 0.5, torch.nan, 1.0).expand(y[0].shape),)

    def jagged(y: State, tau: Tensor) -> State:
        return (torch.rand_like(y[0]),)

    for slope, message in (
        (broken, "not numbers: .* is not finite"),
        (jagged, "too small: raise rtol = 1e-09 or atol"),
    ):
        with pytest.raises(ValueError, match=message):
            end(DormandPrince(rtol=1e-9, atol=1e-9), slope, (torch.zeros(1).double(),), 0.0, 1.0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Heun(steps=0), "steps = 0"),
        (lambda: RungeKutta4(steps=-1), "steps = -1"),
        (lambda: DormandPrince(atol=0.0), "atol = 0.0 must be above 0"),
        (lambda: DormandPrince(rtol=-1.0), "rtol = -1.0 must not be negative"),
    ],
)
def test_settings_without_sense_are_refused(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]
