"""The analytic variance against exact posteriors, its estimate against the exact moment, and what it is good for."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.oracle import Function, gaussian_network, impulses
from torch import Tensor

from fromnoise.analytic import estimate, estimates
from fromnoise.denoiser import Clip, Denoiser
from fromnoise.ladder import Strided
from fromnoise.parameterization import Epsilon
from fromnoise.sampler import Ancestral, trajectory
from fromnoise.schedule import (
    EDM,
    Constant,
    Cosine,
    Level,
    Linear,
    Schedule,
    VariancePreserving,
    ZeroTerminalSNR,
    noisy,
)
from fromnoise.transition import (
    Analytic,
    Large,
    Small,
    Variance,
    forward_log_variance,
    posterior_log_variance,
    reverse,
)

PAPER = Linear()
SCHEDULES: dict[str, Schedule] = {"linear": PAPER, "cosine": Cosine(), "vp": VariancePreserving(), "edm": EDM()}


def gaussian_gamma(level: Level, deviation: float) -> Tensor:
    """E[E[eps | x_t]²] for data N(·, d²): the square of the gain sigma / Var(x_t), times Var(x_t)."""
    return level.sigma.square() / (level.signal.square() * deviation**2 + level.sigma.square())


def exact_variance(t: Level, s: Level, deviation: float) -> Tensor:
    """Var(x_s | x_t) of two jointly normal variables: Var(x_s) − Cov(x_s, x_t)² / Var(x_t)."""
    of_s, of_t = ((v.signal * deviation).square() + v.sigma.square() for v in (s, t))
    covariance = t.signal / s.signal * of_s  # x_t is x_s, weakened, and new noise
    return of_s - covariance.square() / of_t


# Short of the end, where a cosine schedule leaves a SNR of 2e-9 and 1 − Γ has lost its digits in Γ itself.
shares = st.tuples(st.floats(0, 0.98), st.floats(0, 0.98)).filter(lambda p: abs(p[0] - p[1]) > 0.02)


@pytest.mark.parametrize("name", SCHEDULES)
@given(places=shares, deviation=st.floats(0.05, 1.0))
def test_on_gaussian_data_it_is_the_exact_posterior_variance(
    name: str, places: tuple[float, float], deviation: float
) -> None:
    """For any pair of times, neighbours or not, the clean picture included."""
    schedule = SCHEDULES[name]
    high, low = max(places) * schedule.horizon, min(places) * schedule.horizon
    t, s = (schedule(math.ceil(v) if schedule.whole else v) for v in (high, low))
    variance = Analytic(times=(t.t.item(),), gamma=(gaussian_gamma(t, deviation).item(),))
    ours = variance.log_variance(t, s, None, None).exp().item()
    assert ours == pytest.approx(exact_variance(t, s, deviation).item(), rel=1e-6, abs=1e-12)
    last = variance.log_variance(t, schedule(0), None, None).exp().item()
    d2, noise = deviation**2, 1 / t.snr.item()
    assert last == pytest.approx(d2 * noise / (d2 + noise), rel=1e-6)


def test_on_data_of_two_points_it_is_the_mean_of_the_variances() -> None:
    """x_0 = ±1: E[x_0 | x_t] = tanh(signal x_t / sigma²). Γ by quadrature; x_s drawn, and its error measured."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(200)
    n = 400_000
    for high, low in ((700, 300), (300, 100), (150, 0)):
        t, s = PAPER(high), PAPER(low)
        signal, sigma = t.signal.item(), t.sigma.item()
        x = signal + sigma * nodes  # By symmetry, of x_0 = 1 alone.
        eps = (x - signal * np.tanh(signal * x / sigma**2)) / sigma
        gamma = float((weights * eps**2).sum() / weights.sum())
        ours = Analytic(times=(float(high),), gamma=(gamma,)).log_variance(t, s, None, None).exp().item()
        x_0 = torch.randint(0, 2, (n, 1, 1, 1)).double() * 2 - 1
        x_s = noisy(x_0, torch.randn_like(x_0), s)
        spread = forward_log_variance(t, s).exp().sqrt()
        x_t = t.signal / s.signal * x_s + spread * torch.randn_like(x_0)
        mean = reverse(x_t, (signal * x_t / sigma**2).tanh(), None, t, s, Small()).mean
        error = (x_s - mean).square()
        assert ours == pytest.approx(error.mean().item(), abs=5 * error.std().item() / math.sqrt(n))
        assert posterior_log_variance(t, s).exp() < ours < forward_log_variance(t, s).exp() * (s.signal / t.signal) ** 2


# -------------------------------------------------------------------------------------------------------------- bounds


def pairs() -> tuple[Level, Level]:
    """Of all kinds, the last step included."""
    high, low = torch.tensor([1000, 1000, 500, 17, 2, 1]), torch.tensor([999, 500, 20, 16, 1, 0])
    return PAPER(high), PAPER(low)


def constant(gamma: float, limit: float = math.inf) -> Analytic:
    return Analytic(times=(1.0,), gamma=(gamma,), limit=limit)


def test_the_bounds_are_those_of_theorem_2() -> None:
    """From β̃, if the noise is known, to β/α, if nothing is, and never more than data within ±limit allow."""
    t, s = pairs()
    known = constant(1.0).log_variance(t, s, None, None)
    torch.testing.assert_close(known, posterior_log_variance(t, s), rtol=1e-12, atol=0)
    assert known[-1] == -math.inf
    nothing = constant(0.0).log_variance(t, s, None, None).exp()
    a_t, a_s = PAPER.alpha_bar[t.t.long()], PAPER.alpha_bar[s.t.long()]
    torch.testing.assert_close(nothing, (1 - a_t / a_s) / (a_t / a_s), rtol=1e-9, atol=0)
    # As the theorem writes it: λ² + (√(β̄_n/α_n) − √(β̄_{n−1} − λ²))², and for x_0 in [a, b] the other one.
    small = posterior_log_variance(t, s).exp()
    rest = (1 - a_s - small).clamp(min=0).sqrt()
    torch.testing.assert_close(nothing, small + (((1 - a_t) / (a_t / a_s)).sqrt() - rest).square(), rtol=1e-7, atol=0)
    for limit in (1.0, 0.5):
        bounded = small + (a_s.sqrt() - rest * (a_t / (1 - a_t)).sqrt()).square() * limit**2
        ours = constant(0.0, limit).log_variance(t, s, None, None).exp()
        torch.testing.assert_close(ours, torch.minimum(nothing, bounded), rtol=1e-7, atol=0)
    assert torch.equal(constant(1.3).log_variance(t, s, None, None), known), (
        "an estimate may exceed 1, the truth cannot"
    )


def test_in_the_last_step_the_stand_in_is_used_only_where_nothing_is_left() -> None:
    second = PAPER(2), PAPER(1)
    known = constant(1.0).log_variance(PAPER(1), PAPER(0), second, None)
    assert known == posterior_log_variance(*second)
    partly = constant(0.9).log_variance(PAPER(1), PAPER(0), second, None)
    assert partly.exp().item() == pytest.approx(0.1 * 1e-4 / (1 - 1e-4), rel=1e-9)


def test_without_signal_the_variance_is_that_of_the_limit() -> None:
    schedule = ZeroTerminalSNR(base=PAPER)
    t, s = schedule(1000), schedule(600)
    for gamma in (1.0, 0.5):
        ours = constant(gamma, limit=0.7).log_variance(t, s, None, None).exp().item()
        assert ours == pytest.approx((s.sigma.square() + 0.49 * s.signal.square()).item(), rel=1e-9)


def test_between_the_times_gamma_is_on_a_line_and_beyond_them_the_nearest() -> None:
    variance, s = Analytic(times=(10.0, 20.0, 40.0), gamma=(0.2, 0.4, 0.9), limit=math.inf), PAPER(0)
    t = torch.tensor([1.0, 10, 12, 20, 30, 40, 1000], dtype=torch.float64)
    level = PAPER(t)
    ours = 1 - variance.log_variance(level, PAPER(t * 0), None, None).exp() * level.snr
    wanted = torch.tensor([0.2, 0.2, 0.24, 0.4, 0.65, 0.9, 0.9], dtype=torch.float64)
    torch.testing.assert_close(ours, wanted, rtol=1e-12, atol=0)
    for i, one in enumerate(t.tolist()):  # A single time, of no shape, is the same.
        alone = variance.log_variance(PAPER(one), s, None, None)
        assert alone.shape == () and alone == variance.log_variance(level, PAPER(t * 0), None, None)[i]


@pytest.mark.parametrize(
    ("times", "gamma", "limit", "complaint"),
    [
        ((), (), 1.0, "of one length"),
        ((1.0, 2.0), (0.1,), 1.0, "of one length, above 0, not 2 and 1"),
        ((2.0, 1.0), (0.1, 0.1), 1.0, "must be above 0 and increase"),
        ((0.0, 1.0), (0.1, 0.1), 1.0, "must be above 0 and increase"),
        ((1.0,), (math.nan,), 1.0, "finite numbers that are not negative"),
        ((1.0,), (-0.1,), 1.0, "finite numbers that are not negative"),
        ((1.0,), (0.1,), 0.0, r"limit = 0\.0: must be above 0"),
    ],
)
def test_tables_that_are_none_are_refused(
    times: tuple[float, ...], gamma: tuple[float, ...], limit: float, complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        Analytic(times=times, gamma=gamma, limit=limit)


# ------------------------------------------------------------------------------------------------------- the estimate

TIMES = (1.0, 30.0, 200.0, 600.0, 1000.0)


def gaussian_denoiser(deviation: float, mean: float = 0.0) -> Denoiser:
    # A clip that would change everything: the estimate must not see it.
    return Denoiser(gaussian_network(PAPER.alpha_bar, mean, deviation), PAPER, Epsilon(), clip=Clip(limit=0.01))


def batches(x_0: Tensor, size: int) -> Iterator[tuple[Tensor, Mapping[str, Any]]]:
    for part in x_0.split(size):
        yield part, {}


@pytest.mark.parametrize(("mean", "deviation"), [(0.0, 0.3), (0.4, 0.8)])
def test_the_estimate_converges_to_the_exact_moment(mean: float, deviation: float) -> None:
    """Within five standard errors for 1600 numbers, of which the relative one is √(2/n)."""
    x_0 = mean + deviation * torch.randn(100, 1, 4, 4, dtype=torch.float64)
    ours = estimate(gaussian_denoiser(deviation, mean), batches(x_0, 30), TIMES)
    assert ours.times == TIMES and ours.limit == 1.0
    exact = gaussian_gamma(PAPER(torch.tensor(TIMES)), deviation)
    error = torch.tensor(ours.gamma, dtype=torch.float64) / exact - 1
    assert error.abs().max() < 5 * math.sqrt(2 / 1600)
    assert error.abs().max() > 1e-4, "an estimate, not the formula"


def test_the_estimate_depends_on_pictures_and_seed_alone() -> None:
    x_0, denoiser = torch.randn(7, 2, 3, 3, dtype=torch.float64), gaussian_denoiser(1.0)
    whole, parts = estimate(denoiser, batches(x_0, 7), TIMES), estimate(denoiser, batches(x_0, 2), TIMES)
    assert whole.gamma == pytest.approx(parts.gamma, rel=1e-13)
    other = estimate(denoiser, batches(x_0, 7), TIMES, seed=1)
    assert all(a != b for a, b in zip(whole.gamma, other.gamma, strict=True))
    assert estimate(denoiser, batches(x_0, 7), TIMES, limit=2.5).limit == 2.5


def test_each_batch_betters_the_estimate_and_the_condition_reaches_the_network() -> None:
    labels = torch.tensor([1.0, 2.0, 3.0])

    def network(x: Tensor, c_time: Tensor, label: Tensor) -> Tensor:
        return label[:, None, None, None].expand_as(x)

    x_0 = torch.zeros(3, 1, 2, 2)
    source = ((x_0[i : i + 1], {"label": labels[i : i + 1]}) for i in range(3))
    so_far = [made.gamma for made in estimates(Denoiser(Function(network), PAPER, Epsilon()), source, (5.0, 9.0))]
    assert so_far == [(1.0, 1.0), (2.5, 2.5), (pytest.approx(14 / 3), pytest.approx(14 / 3))]


def test_no_pictures_and_wrong_times_are_refused() -> None:
    x_0 = torch.zeros(1, 1, 2, 2)
    with pytest.raises(ValueError, match="estimated from pictures, and there are none"):
        estimate(gaussian_denoiser(1.0), [], TIMES)
    with pytest.raises(ValueError, match="must be above 0 and increase"):
        estimate(gaussian_denoiser(1.0), [(x_0, {})], (5.0, 4.0))
    with pytest.raises(ValueError, match="this schedule knows the times"):
        estimate(gaussian_denoiser(1.0), [(x_0, {})], (1001.0,))


# ------------------------------------------------------------------------------------------------- what it is good for


def sampled_variance(variance: Variance, deviation: float, steps: int) -> float:
    """Of ancestral sampling with the exact denoiser: exact, for the sampler is linear in its independent draws."""
    ladder = Strided(steps=steps).ladder(PAPER)
    x, noise = impulses(steps - 1)
    denoiser = Denoiser(gaussian_network(PAPER.alpha_bar, 0.0, deviation), PAPER, Epsilon())
    for step in trajectory(Ancestral(variance=variance), denoiser, PAPER, ladder, x, noise):
        x = step.x
    return x.square().sum().item()


@pytest.mark.parametrize("deviation", [0.2, 0.5, 1.0])
@pytest.mark.parametrize("steps", [5, 10, 50])
def test_a_few_steps_have_the_variance_of_the_data(deviation: float, steps: int) -> None:
    every = PAPER(torch.arange(1, 1001))
    table = Analytic(times=tuple(every.t.tolist()), gamma=tuple(gaussian_gamma(every, deviation).tolist()))
    error = {
        kind: abs(sampled_variance(variance, deviation, steps) / deviation**2 - 1)
        for kind, variance in (("analytic", table), ("small", Small()), ("large", Large()))
    }
    # What is left is the noise of time 1, which the last step takes away, and the little signal of x_T.
    assert error["analytic"] < (1e-4 / (1 - 1e-4)) / deviation**2 + 5e-5
    assert error["small"] > 20 * error["analytic"]
    assert error["large"] > 20 * error["analytic"] or deviation == 1.0


def test_the_bound_is_lowest_with_it() -> None:
    """Its purpose: of all variances that pixels share it has the least KL(q(x_s | x_t) ‖ p), here of Gaussians."""
    t, s = PAPER(torch.arange(2, 1001)), PAPER(torch.arange(1, 1000))
    deviation = 0.5
    table = Analytic(times=tuple(t.t.tolist()), gamma=tuple(gaussian_gamma(t, deviation).tolist()))

    def divergence(variance: Variance) -> Tensor:
        ratio = exact_variance(t, s, deviation) / variance.log_variance(t, s, None, None).exp()
        return 0.5 * (ratio - 1 - ratio.log())

    assert divergence(table).max() < 1e-9
    assert divergence(Small()).sum() > 1e-3 and divergence(Large()).sum() > 1e-3


def test_one_level_for_every_time_is_what_constant_schedules_have_too() -> None:
    """On another chain, by a table of whole times and through the doors that samplers and bounds use."""
    schedule = Constant(steps=30, value=0.2)
    every = schedule(torch.arange(1, 31))
    table = Analytic(times=tuple(every.t.tolist()), gamma=tuple(gaussian_gamma(every, 0.6).tolist()))
    t, s = schedule(torch.tensor([30, 7, 1])), schedule(torch.tensor([12, 6, 0]))
    x = torch.randn(3, 1, 2, 2, dtype=torch.float64)
    p = reverse(x, x, None, t, s, table)
    torch.testing.assert_close(p.log_variance.flatten().exp(), exact_variance(t, s, 0.6), rtol=1e-9, atol=0)
