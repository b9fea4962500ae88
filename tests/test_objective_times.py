"""Times have the distributions of their papers, exactly: each is tested as a map, not by drawing from it."""

import math
from collections import deque
from statistics import NormalDist

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.oracle import Function
from torch import Tensor

from fromnoise.denoiser import Denoiser
from fromnoise.objective import (
    Antithetic,
    History,
    LogitNormal,
    LogNormal,
    LossAware,
    Simple,
    Times,
    UniformSteps,
    UniformTime,
)
from fromnoise.parameterization import Sample
from fromnoise.schedule import (
    EDM,
    Constant,
    ContinuousCosine,
    ContinuousSchedule,
    Linear,
    Rectified,
    Schedule,
    VariancePreserving,
)

PAPER = Linear()
CONTINUOUS: dict[str, ContinuousSchedule] = {
    "edm": EDM(),
    "rectified": Rectified(),
    "vp": VariancePreserving(),
    "cosine": ContinuousCosine(),
}


def middles(n: int) -> Tensor:
    """n numbers in equal distances, each the middle of its n-th of [0, 1)."""
    return (torch.arange(n, dtype=torch.float64) + 0.5) / n


# -------------------------------------------------------------------------------------------------------- whole times


@given(st.integers(2, 300))
def test_every_whole_time_has_its_share(steps: int) -> None:
    """The inverse distribution function of the uniform law on 1 … T: the middle of the k-th T-th of [0, 1) gives k."""
    drawn = UniformSteps()(middles(steps), Constant(steps=steps))
    assert torch.equal(drawn.t, torch.arange(1, steps + 1, dtype=torch.float64))
    assert torch.equal(drawn.weight, torch.ones(steps, dtype=torch.float64))
    edge = torch.tensor([0.0, 0.5 / steps, 1 - 0.5 / steps, 1 - 2**-53, 1.0], dtype=torch.float64)
    assert UniformSteps()(edge, Constant(steps=steps)).t.tolist() == [1, 1, steps, steps, steps]


def test_times_of_random_numbers_are_uniform() -> None:
    t = UniformSteps()(torch.rand(200_000), PAPER).t.long()
    assert t.min() == 1
    assert t.max() == 1000
    count = torch.bincount(t, minlength=1001)[1:].double()
    chi_square = ((count - 200) ** 2 / 200).sum().item()
    assert abs(chi_square - 999) < 4 * (2 * 999) ** 0.5


# --------------------------------------------------------------------------------------------------- continuous clocks


@pytest.mark.parametrize("name", CONTINUOUS)
def test_even_times_fill_the_clock(name: str) -> None:
    schedule = CONTINUOUS[name]
    drawn = UniformTime(lowest=1e-3)(torch.tensor([0.0, 0.25, 1.0]), schedule)
    end = schedule.horizon
    assert drawn.t.tolist() == pytest.approx([1e-3, 1e-3 + 0.25 * (end - 1e-3), end], rel=1e-14)
    assert drawn.weight.tolist() == [1, 1, 1]


@pytest.mark.parametrize("name", CONTINUOUS)
@given(u=st.floats(1e-4, 0.999), mean=st.floats(-2, 0), deviation=st.floats(0.5, 1.5))
def test_log_of_the_noise_is_normal_on_every_clock(name: str, u: float, mean: float, deviation: float) -> None:
    """Karras et al. 2022, table 1: ln(sigma) ~ N(P_mean, P_std²), sigma per unit of signal."""
    schedule = CONTINUOUS[name]
    drawn = LogNormal(mean=mean, deviation=deviation)(torch.tensor([u], dtype=torch.float64), schedule)
    level = schedule(drawn.t)
    ours = (level.sigma / level.signal).log().item()
    wanted = NormalDist(mean, deviation).inv_cdf(u)
    end = schedule(schedule.horizon)
    assert ours == pytest.approx(min(wanted, (end.sigma.log() - end.signal.log()).item()), rel=1e-8, abs=1e-9)
    assert drawn.weight.item() == 1


def test_the_defaults_are_those_of_the_papers() -> None:
    median = LogNormal()(torch.tensor([0.5, 0.8413447460685429], dtype=torch.float64), EDM()).t
    assert median.log().tolist() == pytest.approx([-1.2, 0.0], abs=1e-12)  # P_mean −1.2, P_std 1.2
    median = LogitNormal()(torch.tensor([0.5, 0.8413447460685429], dtype=torch.float64), Rectified()).t
    assert median.logit().tolist() == pytest.approx([0, 1], abs=1e-12)  # lognorm(0.00, 1.00)


@pytest.mark.parametrize(("mean", "deviation"), [(0.0, 1.0), (0.5, 0.6), (-0.5, 1.3)])
def test_logit_normal_has_the_density_of_esser(mean: float, deviation: float) -> None:
    """The density of F⁻¹(u) is du/dt: π(t) = exp(−(logit t − m)²/2s²) / (s √2π t (1 − t))."""
    u, h = middles(50), 1e-6
    times = LogitNormal(mean=mean, deviation=deviation)
    t = times(u, Rectified()).t
    slope = 2 * h / (times(u + h, Rectified()).t - times(u - h, Rectified()).t)
    density = (-((t.logit() - mean) ** 2) / (2 * deviation**2)).exp() / (
        deviation * math.sqrt(2 * math.pi) * t * (1 - t)
    )
    torch.testing.assert_close(slope, density, rtol=1e-6, atol=0)


def test_on_the_straight_line_log_normal_and_logit_normal_are_one() -> None:
    u = middles(1000)
    ours = LogNormal(mean=0.3, deviation=0.8)(u, Rectified()).t
    torch.testing.assert_close(ours, LogitNormal(mean=0.3, deviation=0.8)(u, Rectified()).t, rtol=1e-12, atol=0)


@pytest.mark.parametrize("times", [UniformTime(), LogNormal(), LogitNormal(), LogNormal(deviation=4)], ids=repr)
@pytest.mark.parametrize("name", CONTINUOUS)
def test_the_extreme_numbers_give_levels_that_can_be_trained_on(name: str, times: Times) -> None:
    schedule = CONTINUOUS[name]
    level = schedule(times(torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64), schedule).t)
    assert bool(level.t.isfinite().all()) and bool((level.t > 0).all()) and bool((level.sigma > 0).all())


# ----------------------------------------------------------------------------------------------------------- antithetic


def test_strides_are_those_of_vdm_and_each_number_stays_uniform() -> None:
    """Kingma et al. 2021, appendix I.1: t_i = mod(u_0 + i/k, 1)."""
    spread = Antithetic(base=UniformTime()).spread
    ours = spread(torch.tensor([0.7, 0.1, 0.2, 0.9, 0.3], dtype=torch.float64))
    assert ours.tolist() == pytest.approx([0.7, 0.9, 0.1, 0.3, 0.5], abs=1e-15)
    n = 1000
    each = torch.stack([spread(u.expand(7)) for u in middles(n)])
    for place in range(7):  # Were a place not uniform, its ordered numbers would not lie in equal distances.
        torch.testing.assert_close(each[:, place].sort().values.diff(), torch.full((n - 1,), 1 / n).double())
    assert bool(((each >= 0) & (each < 1)).all())


def test_a_batch_covers_the_clock_and_its_mean_varies_less() -> None:
    times, u = Antithetic(), torch.rand(400, 25, dtype=torch.float64)
    even = Constant(steps=25)
    for row in u[:20]:  # As many pictures as times: each comes once.
        assert sorted(times(times.spread(row), even).t.tolist()) == list(range(1, 26))
    means = {
        kind: torch.stack([kind(kind.spread(row), PAPER).t.mean() for row in u]) for kind in (times, UniformSteps())
    }
    spread, single = means[times].var(), means[UniformSteps()].var()
    assert single.item() == pytest.approx(1000**2 / 12 / 25, rel=0.25)
    assert spread.item() == pytest.approx((1000 / 25) ** 2 / 12, rel=0.25)  # Only the offset is left to chance.
    assert abs(means[times].mean() - 500.5) < 1


# ----------------------------------------------------------------------------------------------------------- loss-aware


def history_of(losses: Tensor) -> History:
    """A full history, (T, n), written through the front door."""
    history = History.empty(*losses.shape)
    for column in losses.T:
        history.record(torch.arange(1, len(losses) + 1, dtype=torch.float64), column)
    return history


def test_loss_aware_times_are_those_of_improved_ddpm() -> None:
    """p ∝ √mean(L²) over the last 10, 0.1 % even: shares of [0, 1) and weights, on a grid finer than any share."""
    losses = torch.rand(20, 10, dtype=torch.float64) * torch.logspace(0, -2, 20).double()[:, None]
    root = losses.square().mean(1).sqrt()
    p = 0.999 * root / root.sum() + 0.001 / 20
    n = 2_000_000
    drawn = LossAware()(middles(n), Constant(steps=20), history_of(losses))
    share = torch.bincount(drawn.t.long(), minlength=21)[1:].double() / n
    torch.testing.assert_close(share, p, rtol=0, atol=1 / n)
    torch.testing.assert_close(drawn.weight, 1 / (20 * p[drawn.t.long() - 1]), rtol=1e-12, atol=0)
    # The mean of any function of time is what it was …
    any_loss = torch.randn(20, dtype=torch.float64)
    assert (drawn.weight * any_loss[drawn.t.long() - 1]).mean().item() == pytest.approx(
        any_loss.mean().item(), abs=1e-5
    )
    # … and the losses themselves, were they constants, would hardly vary any more.
    weighted = drawn.weight * root[drawn.t.long() - 1]
    assert weighted.var() < 1e-3 * root.var()
    assert bool((drawn.t.diff() >= 0).all())


def test_times_are_even_until_each_has_its_losses() -> None:
    u, schedule, times = middles(100), Constant(steps=4), LossAware(last=2)
    even = UniformSteps()(u, schedule)
    history = History.empty(4, 2)
    t = torch.tensor([1.0, 1, 2, 2, 3, 3, 4], dtype=torch.float64)
    history.record(t, torch.arange(1.0, 8.0))
    for past in (None, history):
        drawn = times(u, schedule, past)
        assert torch.equal(drawn.t, even.t) and torch.equal(drawn.weight, even.weight)
    history.record(torch.tensor([4.0]), torch.tensor([9.0]))
    assert history.full
    assert not torch.equal(times(u, schedule, history).t, even.t)


def test_losses_that_are_all_zero_leave_times_even() -> None:
    u, schedule = middles(40), Constant(steps=4)
    drawn = LossAware(last=1)(u, schedule, history_of(torch.zeros(4, 1)))
    assert torch.equal(drawn.t, UniformSteps()(u, schedule).t)
    torch.testing.assert_close(drawn.weight, torch.ones(40, dtype=torch.float64))


records = st.lists(st.tuples(st.integers(1, 3), st.floats(0, 10) | st.just(math.nan) | st.just(math.inf)), max_size=40)


@given(st.lists(records, max_size=4), st.integers(1, 5))
def test_the_history_is_the_last_losses_of_each_time(batches: list[list[tuple[int, float]]], length: int) -> None:
    """Against queues filled one loss after the other, with times that come more often in a batch than it remembers."""
    ours, plain = History.empty(3, length), [deque[float](maxlen=length) for _ in range(3)]
    seen = [0, 0, 0]
    for batch in batches:
        t = torch.tensor([t for t, _ in batch], dtype=torch.float64)
        ours.record(t, torch.tensor([loss for _, loss in batch], dtype=torch.float64))
        for time, loss in batch:
            if math.isfinite(loss):
                plain[time - 1].append(loss)
                seen[time - 1] += 1
    assert ours.counts.tolist() == seen
    assert ours.full == all(len(queue) == length for queue in plain)
    for row, queue in zip(ours.losses, plain, strict=True):
        assert sorted(row[: len(queue)].tolist()) == sorted(queue)


def test_importance_weights_reach_the_value_but_not_the_losses_that_are_recorded() -> None:
    """Else a time once drawn too often would seem to have small losses, and be drawn ever less."""
    schedule = Constant(steps=4)
    history = history_of(torch.tensor([[8.0], [4.0], [2.0], [1.0]]))
    denoiser = Denoiser(Function(lambda x, c_time: 0 * x + c_time[:, None, None, None]), schedule, Sample())
    x_0 = torch.zeros(64, 1, 2, 2, dtype=torch.float64)
    loss = Simple(times=LossAware(last=1))(denoiser, x_0, middles(64), torch.zeros_like(x_0), history=history)
    torch.testing.assert_close(loss.per_example, (loss.t - 1).square())
    p = 0.999 * torch.tensor([8.0, 4, 2, 1]).double() / 15 + 0.001 / 4
    weight = 1 / (4 * p[loss.t.long() - 1])
    assert loss.value.item() == pytest.approx((weight * loss.per_example).mean().item(), rel=1e-12)
    assert loss.t.unique().numel() == 4


# ---------------------------------------------------------------------------------------------------------- wrong input

CLOCKS: list[tuple[Times, Schedule, str]] = [
    (UniformSteps(), EDM(), "times uniform_steps count steps, and EDM has a continuous clock: take uniform, "),
    (LossAware(), Rectified(), "times loss_aware count steps, and Rectified has a continuous clock: take uniform, "),
    (Antithetic(), EDM(), "times uniform_steps count steps"),
    (UniformTime(), PAPER, "times uniform are those of a continuous clock, and Linear counts steps: take "),
    (LogNormal(), PAPER, "times log_normal are those of a continuous clock"),
    (LogitNormal(), PAPER, "times logit_normal are those of a continuous clock"),
    (UniformTime(lowest=1.5), Rectified(), r"lowest = 1\.5: must be below 1, where this schedule's clock ends"),
]


@pytest.mark.parametrize(("times", "schedule", "complaint"), CLOCKS, ids=lambda value: type(value).__name__)
def test_times_of_another_clock_are_refused(times: Times, schedule: Schedule, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint) as caught:
        times(middles(3), schedule)
    assert "\n" not in str(caught.value)


def test_settings_that_make_no_distribution_are_refused() -> None:
    for wrong in (
        lambda: UniformTime(lowest=0),
        lambda: LogNormal(deviation=0),
        lambda: LogitNormal(deviation=-1),
        lambda: LossAware(last=0),
        lambda: LossAware(uniform=0),
        lambda: LossAware(uniform=1.5),
    ):
        with pytest.raises(ValueError, match="must"):
            wrong()
    with pytest.raises(ValueError, match="the history is of 5 times, and this schedule has 4"):
        LossAware(last=1)(middles(3), Constant(steps=4), History.empty(5, 1))


def test_only_loss_aware_times_ask_for_a_history() -> None:
    assert [times.records for times in (UniformSteps(), UniformTime(), LogNormal(), LogitNormal(), Antithetic())] == [
        0
    ] * 5
    assert (LossAware().records, Antithetic(base=LossAware(last=3)).records) == (10, 3)
