"""Every listed sampler converges with the order it declares, on Gaussian data with a known flow."""

import math
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal, localcontext
from typing import Any

import pytest
import torch
from tests.gaussians import SIGNALS, Clock, Gaussian, every_draw, moments, observed_order, row
from tests.rules import DETERMINISTIC, RULES, STOCHASTIC
from torch import Tensor

from fromnoise.denoiser import Prediction
from fromnoise.noise import GivenNoise
from fromnoise.sampler import DEIS, IPNDM, Adaptive, DPMSolver3M, Sampler, UniPC, trajectory
from fromnoise.sampler.exponential import integrals, phi
from fromnoise.schedule import Level, Linear, Schedule, ZeroTerminalSNR

MEAN, DEVIATION = row(-1, -0.5, 0, 0.5, 1), row(0.2, 0.4, 0.8, 1.3, 2)
START = row(1.5, -3, 3, -1, 2)
"""x at the first level: not where the data's mean would be."""

Grid = Callable[[int], Tensor]


def equal_in_lambda(steps: int) -> Tensor:
    """ρ from 3 to 0.2, log ρ in equal steps."""
    return torch.linspace(math.log(3), math.log(0.2), steps + 1, dtype=torch.float64).exp()


def equal_in_rho(steps: int) -> Tensor:
    """ρ from 3 to 0.5 in equal steps."""
    return torch.linspace(3, 0.5, steps + 1, dtype=torch.float64)


def data(kind: str = "variance preserving") -> Gaussian:
    return Gaussian(MEAN, DEVIATION, Clock(kind=kind))


def grid_of(sampler: Sampler[Any]) -> Grid:
    return equal_in_rho if isinstance(sampler, IPNDM) else equal_in_lambda


def solve(sampler: Sampler[Any], exact: Gaussian, rho: Tensor, remembered: int = 4) -> tuple[Tensor, Tensor]:
    """x at the last level, the sampler's and the true one.

    In the first steps the sampler starts from the truth, so that what it remembers is exact: a start of lower order
    would be all that is seen. It thinks that the ladder goes on, for towards its end the order is lowered.
    """
    levels = exact.schedule(rho)
    n, silent = len(rho) - 1, GivenNoise([])
    x, state = START, sampler.init(n + 20)
    for i in range(n):
        truth = exact.flow(START, levels[0], levels[i])
        x, state = sampler.step(exact, truth if i < remembered else x, levels[i], levels[i + 1], state, silent)
        if i < remembered and isinstance(sampler, UniPC):  # The corrector starts from what was remembered, too.
            assert state.origin is not None
            state = replace(state, origin=(truth, *state.origin[1:]))
    return x, exact.flow(START, levels[0], levels[-1])


def error(sampler: Sampler[Any], exact: Gaussian, rho: Tensor) -> float:
    ours, truth = solve(sampler, exact, rho)
    return (ours - truth).abs().max().item()


def assert_order(errors: list[float], declared: int) -> None:
    assert declared - 0.2 <= observed_order(errors) <= declared + 0.5, errors


FIXED = {name: rule for name, rule in DETERMINISTIC.items() if rule.traits.calls > 0}
"""Without those that choose their steps themselves."""


@pytest.mark.parametrize("sampler", FIXED.values(), ids=FIXED.keys())
def test_order_is_the_declared_one(sampler: Sampler[Any]) -> None:
    grid, upward = grid_of(sampler), sampler.traits.upward
    ladders = [grid(steps).flip(0) if upward else grid(steps) for steps in (40, 80, 160)]
    assert_order([error(sampler, data(), ladder) for ladder in ladders], sampler.traits.order)


def test_the_third_order_of_dpm_solver_misses_half_of_the_curvature() -> None:
    """With 2 φ_3 in the place of φ_3 it would be of the third order: why Traits says 2, shown by adding the rest."""
    exact, sampler = data(), DPMSolver3M()

    def whole(rho: Tensor) -> float:
        levels, n = exact.schedule(rho), len(rho) - 1
        half_log_snr = levels.half_log_snr
        x, state, seen = START, sampler.init(n + 20), []
        for i in range(n):
            x_t = exact.flow(START, levels[0], levels[i]) if i < 4 else x
            seen = [exact(x_t, levels[i]).x_0, *seen][:3]
            x, state = sampler.step(exact, x_t, levels[i], levels[i + 1], state, GivenNoise([]))
            if i >= 2:
                lam = half_log_snr[[i, i - 1, i - 2]]
                first = [(seen[k] - seen[k + 1]) / (lam[k] - lam[k + 1]) for k in (0, 1)]
                h = half_log_snr[i + 1] - half_log_snr[i]
                curvature = h.square() * (first[0] - first[1]) / (lam[0] - lam[2])
                third = ((1 - h + h.square() / 2) - (-h).exp()) / h**3  # φ_3(−h)
                x = x + levels[i + 1].signal * h * third * curvature
        return (x - exact.flow(START, levels[0], levels[-1])).abs().max().item()

    assert_order([whole(equal_in_lambda(steps)) for steps in (40, 80, 160)], 3)


CHOOSING = {name: rule for name, rule in DETERMINISTIC.items() if rule.traits.calls == 0}


@pytest.mark.parametrize("sampler", CHOOSING.values(), ids=CHOOSING.keys())
def test_the_error_of_a_sampler_with_its_own_steps_follows_the_tolerance(sampler: Sampler[Any]) -> None:
    """On one step of the ladder. With n calls and error n^−order, the order is seen from both."""
    ends, errors, calls = torch.tensor([3.0, 0.2], dtype=torch.float64), [], []
    for tolerance in (1e-6, 1e-8, 1e-10):
        exact = data()
        ours, truth = solve(replace(sampler, rtol=tolerance, atol=tolerance), exact, ends, 0)  # pyright: ignore
        errors.append((ours - truth).abs().max().item())
        calls.append(exact.calls)
        assert 0.1 * tolerance <= errors[-1] <= tolerance
    order = math.log(errors[0] / errors[-1]) / math.log(calls[-1] / calls[0])
    assert sampler.traits.order - 0.2 <= order <= sampler.traits.order + 0.5


def test_steps_of_its_own_do_not_depend_on_the_other_pictures() -> None:
    exact, far = data(), Gaussian(row(0), row(0.3), Clock())
    rho, noise = torch.tensor([40.0, 0.0], dtype=torch.float64), GivenNoise([])
    for denoiser, width in ((exact, 5), (far, 1)):
        pictures = torch.randn(4, 1, 1, width, dtype=torch.float64) * torch.tensor([1.0, 5, 0.2, 30]).reshape(
            4, 1, 1, 1
        )
        *_, together = trajectory(Adaptive(), denoiser, denoiser.schedule, rho, pictures, noise)
        alone = [[*trajectory(Adaptive(), denoiser, denoiser.schedule, rho, x[None], noise)][-1].x for x in pictures]
        torch.testing.assert_close(together.x, torch.cat(alone), rtol=1e-13, atol=1e-13)


def test_steps_of_its_own_end_where_no_number_comes_back() -> None:
    def broken(x_t: Tensor, level: Level) -> Prediction:
        return Prediction(x_t * math.nan, x_t * math.nan, None)

    rho = torch.tensor([40.0, 0.0], dtype=torch.float64)
    with pytest.raises(ValueError, match="estimate is not finite"):
        next(trajectory(Adaptive(), broken, Clock(), rho, START, GivenNoise([])))

    def jagged(x_t: Tensor, level: Level) -> Prediction:
        return Prediction(x_t, torch.rand_like(x_t), None)

    with pytest.raises(ValueError, match="steps became too small: raise rtol = 1e-09 or atol"):
        next(trajectory(Adaptive(rtol=1e-9, atol=1e-9), jagged, Clock(), rho, START, GivenNoise([])))


# ---------------------------------------------------------------------------------------------------------- with noise


def spread_error(sampler: Sampler[Any], rho: Tensor) -> float:
    """Error of the deviation at the last level, exactly, where x starts with the right distribution."""
    exact = data()
    levels, n = exact.schedule(rho), len(rho) - 1
    x, noise = every_draw(5, n, exact.variance(levels[0]).sqrt())
    x, state = x + levels[0].signal * MEAN, sampler.init(n)
    for i in range(n):
        x, state = sampler.step(exact, x, levels[i], levels[i + 1], state, noise)
    mean, deviation = moments(x)
    torch.testing.assert_close(mean, levels[-1].signal * MEAN, rtol=0, atol=1e-12)
    return (deviation - exact.variance(levels[-1]).sqrt()).abs().max().item()


@pytest.mark.parametrize("sampler", STOCHASTIC.values(), ids=STOCHASTIC.keys())
def test_order_of_the_moments_is_the_declared_one(sampler: Sampler[Any]) -> None:
    assert_order([spread_error(sampler, equal_in_lambda(steps)) for steps in (60, 120)], sampler.traits.order)


# -------------------------------------------------------------------------------------------------------- what is exact

PICTURE = row(-0.7, 0.1, 0.9)
DOWNWARD = {  # But for the large variances: those are right for other data, and for signal² + sigma² = 1.
    name: rule for name, rule in RULES.items() if not rule.traits.upward and "large" not in name.lower()
}
SCHEDULES: dict[str, tuple[Schedule, list[float]]] = {
    **{kind: (Clock(kind=kind), [70.0, 9, 3, 1.5, 0.4, 0.1, 0]) for kind in SIGNALS},
    "the paper's": (Linear(), [1000.0, 700, 500, 320, 90, 3, 0]),
    "no signal at the start": (ZeroTerminalSNR(base=Linear()), [1000.0, 700, 500, 320, 90, 3, 0]),
}


@pytest.mark.parametrize(("schedule", "times"), SCHEDULES.values(), ids=SCHEDULES.keys())
@pytest.mark.parametrize("sampler", DOWNWARD.values(), ids=DOWNWARD.keys())
def test_a_single_picture_is_reached_exactly(sampler: Sampler[Any], schedule: Schedule, times: list[float]) -> None:
    """For data that is one picture, x_0 and eps are constant along the flow: every rule has N(signal · m, sigma²)
    exactly, at each of a few levels, whatever noise it draws; and rules with a tolerance have it to that."""
    ladder, close = torch.tensor(times, dtype=torch.float64), 1e-9
    if isinstance(sampler, Adaptive):
        sampler, close = replace(sampler, rtol=1e-9, atol=1e-9), 1e-8
    exact, levels = Gaussian(PICTURE, torch.zeros_like(PICTURE), schedule), schedule(ladder)
    x, noise = every_draw(3, len(times) if sampler.traits.stochastic else 0, levels[0].sigma.expand(1, 1, 1, 3))
    steps = trajectory(sampler, exact, schedule, ladder, x + levels[0].signal * PICTURE, noise)
    for level, step in zip([levels[i] for i in range(1, len(times))], steps, strict=True):
        mean, deviation = moments(step.x)
        scale = level.signal.item() + level.sigma.item()
        torch.testing.assert_close(mean, level.signal * PICTURE, rtol=0, atol=close * scale)
        torch.testing.assert_close(deviation, level.sigma.expand_as(deviation), rtol=0, atol=close * scale)


@pytest.mark.parametrize("kind", ["variance exploding", "straight"])
@pytest.mark.parametrize("sampler", DOWNWARD.values(), ids=DOWNWARD.keys())
def test_only_the_noise_to_signal_ratio_matters(sampler: Sampler[Any], kind: str) -> None:
    """x / signal is the same on every schedule that visits the same ρ, with the same noise."""
    ladder, draws = torch.tensor([30.0, 9, 3, 1.5, 0.4, 0.1, 0]), torch.randn(12, 1, 1, 1, 5, dtype=torch.float64)
    ends = []
    for schedule in (Clock(), Clock(kind=kind)):
        start = schedule(30.0).signal * START
        steps = list(
            trajectory(sampler, Gaussian(MEAN, DEVIATION, schedule), schedule, ladder, start, GivenNoise(draws))
        )
        ends.append(steps[-1].x / schedule(steps[-1].s).signal)
    torch.testing.assert_close(ends[1], ends[0], rtol=1e-8, atol=1e-9)


# --------------------------------------------------------------------------------------------------------- coefficients


@pytest.mark.parametrize("z", [0.0, 1e-9, -1e-4, 0.1, -0.99, 1.0, -1.01, 3.0, -12.0])
def test_phi_is_its_series(z: float) -> None:
    with localcontext(prec=60):
        series = [sum(Decimal(z) ** j / math.factorial(j + k) for j in range(1, 90)) for k in range(1, 6)]
        exact = [float(rest + 1 / Decimal(math.factorial(k))) for k, rest in enumerate(series, 1)]
    assert phi(z, 5) == pytest.approx(exact, rel=2e-14)


def test_coefficients_of_tiny_steps_are_exact() -> None:
    """Four nodes and a step of 1e-5, where the closed forms of the papers have no digit left."""
    z = -1e-5
    # For z → 0 these are the weights of Adams and Bashforth; the next term in z is −z ∫ (1 − v) ℓ dv.
    adams = torch.tensor([55.0, -59, 37, -9], dtype=torch.float64) / 24
    next_ = torch.tensor([323.0, -264, 159, -38], dtype=torch.float64) / 360
    torch.testing.assert_close(integrals([0.0, -1, -2, -3], z), adams + z * next_, rtol=0, atol=1e-9)


@pytest.mark.parametrize("sampler", [DPMSolver3M(), UniPC(order=3), DEIS(order=4)], ids=["dpm_3m", "unipc", "deis"])
def test_tiny_steps_lose_nothing(sampler: Sampler[Any]) -> None:
    """100 steps of h = 1e-6: the error is that of rounding."""
    rho = torch.linspace(0, 1e-4, 101, dtype=torch.float64).neg().exp()
    assert error(sampler, data(), rho) < 1e-13
