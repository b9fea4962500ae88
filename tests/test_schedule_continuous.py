"""Every continuous schedule against its published formula in arithmetic of 60 digits; the ends, and the inverse."""

import math
from collections.abc import Callable
from decimal import Decimal, localcontext
from itertools import count

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from tests.oracle import relative_error
from torch import Tensor

from fromnoise.schedule import (
    EDM,
    ContinuousCosine,
    ContinuousSchedule,
    ContinuousSigmoid,
    Cosine,
    Linear,
    Rectified,
    VariancePreserving,
)

BARE = -math.inf
EVERY: dict[str, ContinuousSchedule] = {
    "vp": VariancePreserving(),
    "vp, even": VariancePreserving(beta_min=9, beta_max=9),
    "cosine": ContinuousCosine(),
    "cosine, no signal left": ContinuousCosine(log_snr_min=BARE),
    "cosine, no offset": ContinuousCosine(offset=0),
    "sigmoid": ContinuousSigmoid(),
    "sigmoid, no signal left": ContinuousSigmoid(log_snr_min=BARE),
    "sigmoid, steep": ContinuousSigmoid(tau=0.05),
    "sigmoid, one side": ContinuousSigmoid(start=0, end=3, tau=0.3),
    "edm": EDM(),
    "rectified": Rectified(),
}
every = pytest.mark.parametrize("schedule", EVERY.values(), ids=EVERY.keys())

TIMES = [1e-15, 1e-12, 1e-9, 1e-6, 1e-3, 0.1, 0.25, 0.5, 0.75, 0.9, 0.999, 1 - 1e-6, 1 - 1e-9, 1.0]
PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494")


def cos(x: Decimal) -> Decimal:
    """The series."""
    sum_ = term = Decimal(1)
    for k in count(1):
        term *= -x * x / (2 * k * (2 * k - 1))
        if abs(term) < Decimal("1e-58"):
            return sum_
        sum_ += term
    raise AssertionError


def exact_cosine(offset: str) -> Callable[[Decimal], Decimal]:
    s = Decimal(offset)
    return lambda t: (cos((t + s) / (1 + s) * PI / 2) / cos(s / (1 + s) * PI / 2)) ** 2


def exact_sigmoid(start: str, end: str, tau: str) -> Callable[[Decimal], Decimal]:
    a, b, c = Decimal(start), Decimal(end), Decimal(tau)

    def v(t: Decimal) -> Decimal:
        return 1 / (1 + (-(a + t * (b - a)) / c).exp())

    return lambda t: (v(Decimal(1)) - v(t)) / (v(Decimal(1)) - v(Decimal(0)))


ALPHA_BAR: dict[str, tuple[ContinuousSchedule, Callable[[Decimal], Decimal]]] = {
    "vp": (VariancePreserving(), lambda t: (-(Decimal("0.1") * t + Decimal("19.9") * t * t / 2)).exp()),
    "vp, other rates": (
        VariancePreserving(beta_min=0.5, beta_max=4),
        lambda t: (-(t / 2 + Decimal("1.75") * t * t)).exp(),
    ),
    "cosine": (ContinuousCosine(log_snr_min=BARE), exact_cosine("0.008")),
    "cosine, no offset": (ContinuousCosine(offset=0, log_snr_min=BARE), exact_cosine("0")),
    "sigmoid": (ContinuousSigmoid(log_snr_min=BARE), exact_sigmoid("-3", "3", "1")),
    "sigmoid, steep": (ContinuousSigmoid(tau=0.125, log_snr_min=BARE), exact_sigmoid("-3", "3", "0.125")),
    "sigmoid, one side": (ContinuousSigmoid(start=0, tau=0.5, log_snr_min=BARE), exact_sigmoid("0", "3", "0.5")),
}


@pytest.mark.parametrize("name", ALPHA_BAR)
def test_pair_is_the_published_formula_to_twelve_digits(name: str) -> None:
    """Relative, also for sigma at times of 1e-15 and for the signal at 1 − 1e-9."""
    schedule, formula = ALPHA_BAR[name]
    with localcontext(prec=60):
        exact = [formula(Decimal(t)) for t in TIMES]
        signal, sigma = [a.max(0).sqrt() for a in exact], [(1 - a).sqrt() for a in exact]
    level = schedule(torch.tensor(TIMES, dtype=torch.float64))
    assert relative_error(level.sigma, sigma) < 1e-12
    assert relative_error(level.signal[:-1], signal[:-1]) < 1e-12
    assert level.signal[-1].item() == pytest.approx(float(signal[-1]), rel=1e-12, abs=1e-28)


def test_edm_and_rectified_are_their_definitions() -> None:
    t = torch.tensor([0, 1e-9, 0.002, 0.7, 1.0], dtype=torch.float64)
    assert torch.equal(EDM()(t).sigma, t)
    assert torch.equal(EDM()(t).signal, torch.ones_like(t))
    assert (EDM().horizon, EDM(sigma_max=3).horizon) == (80, 3)
    assert torch.equal(Rectified()(t).sigma, t)
    assert torch.equal(Rectified()(t).signal, 1 - t)


def test_vp_is_the_limit_of_the_papers_chain() -> None:
    """The gap between Σ log(1 − β/N) and −∫β closes like 1/N."""
    for part in (0.25, 1.0):
        limit = 2 * VariancePreserving()(part).signal.log().item()
        gaps = [Linear(steps=n).alpha_bar[int(n * part)].log().item() - limit for n in (2000, 4000, 8000)]
        assert gaps[0] / gaps[1] == pytest.approx(2, rel=0.02)
        assert gaps[1] / gaps[2] == pytest.approx(2, rel=0.01)


def test_cosine_passes_through_the_table() -> None:
    table, schedule = Cosine(steps=200), ContinuousCosine(log_snr_min=BARE)
    curve = schedule(torch.arange(200, dtype=torch.float64) / 200).signal.square()
    torch.testing.assert_close(table.alpha_bar[:-1], curve, rtol=1e-12, atol=0)  # the last is capped there


@pytest.mark.parametrize("log_snr_min", [-15.0, -6.5, -40.0])
@pytest.mark.parametrize(
    ("kind", "settings"),
    [(ContinuousCosine, {}), (ContinuousSigmoid, {}), (ContinuousSigmoid, {"start": 0.0, "tau": 0.2})],
    ids=["cosine", "sigmoid", "one-sided sigmoid"],
)
def test_curve_ends_where_it_is_told(
    kind: type[ContinuousCosine] | type[ContinuousSigmoid], settings: dict[str, float], log_snr_min: float
) -> None:
    """At the log-SNR asked for; and it is the published curve, run through a little more slowly."""
    bare, schedule = kind(**settings, log_snr_min=BARE), kind(**settings, log_snr_min=log_snr_min)
    assert bare(1.0).signal == 0
    assert bare(1.0).sigma.item() == pytest.approx(1, rel=1e-15)
    assert schedule(1.0).log_snr.item() == pytest.approx(log_snr_min, rel=1e-13)
    end = bare.time(torch.tensor(log_snr_min)).item()
    t = torch.tensor([1e-6, 0.1, 0.4, 0.8, 0.97], dtype=torch.float64)
    torch.testing.assert_close(schedule(t).log_snr, bare(end * t).log_snr, rtol=1e-11, atol=1e-11)


# ------------------------------------------------------------------------------------------------- what holds for every


def inside(schedule: ContinuousSchedule) -> Tensor:
    return torch.tensor(TIMES[:-3], dtype=torch.float64) * schedule.horizon


@every
def test_clean_is_clean_and_the_clock_does_not_count(schedule: ContinuousSchedule) -> None:
    level = schedule(0)
    assert (level.signal, level.sigma, level.log_snr) == (1, 0, math.inf)
    assert level.signal.dtype == level.sigma.dtype == level.t.dtype == torch.float64
    assert not schedule.whole
    ends = schedule.time(torch.tensor([math.inf, -math.inf]))
    assert ends.tolist() == pytest.approx([0, schedule.horizon], abs=1e-15)


@example(-3.0, 6.0, 1.0, 0.008, -15.0)
@example(-4.0, 6.0, 0.9, 0.046, -3.0)
@given(st.floats(-6, 2), st.floats(0.5, 6), st.floats(0.05, 2), st.floats(0, 0.2), st.floats(-60, -1))
def test_clean_is_clean_whatever_the_settings(
    start: float, length: float, tau: float, offset: float, log_snr_min: float
) -> None:
    sigmoid = ContinuousSigmoid(start=start, end=start + length, tau=tau, log_snr_min=log_snr_min)
    cosine = ContinuousCosine(offset=offset, log_snr_min=log_snr_min)
    for level in (sigmoid(0), cosine(0)):
        assert (level.signal, level.sigma) == (1, 0)  # in the second example, rounding alone would miss it
    for level in (sigmoid(1), cosine(1)):
        assert level.log_snr.item() == pytest.approx(log_snr_min, rel=1e-11)


@every
def test_log_snr_falls_and_variance_is_kept(schedule: ContinuousSchedule) -> None:
    t = torch.linspace(0, schedule.horizon, 2001, dtype=torch.float64)
    level = schedule(t)
    assert bool((level.log_snr.diff() < 0).all())
    assert level.log_snr.isnan().sum() == 0
    if not isinstance(schedule, EDM | Rectified):
        one = level.signal.square() + level.sigma.square()
        torch.testing.assert_close(one, torch.ones_like(t), rtol=2e-14, atol=0)


@every
def test_time_is_the_inverse_to_twelve_digits(schedule: ContinuousSchedule) -> None:
    """Relative at small times; near 1 the steepest sigmoid loses a digit, because log-SNR hardly moves at its start."""
    t = inside(schedule)
    torch.testing.assert_close(schedule.time(schedule(t).log_snr), t, rtol=1e-12, atol=0)
    assert schedule.time(schedule(t[3]).log_snr).shape == ()
    assert schedule.time(schedule(t.reshape(1, -1)).log_snr).shape == (1, len(t))


@given(st.sampled_from(sorted(EVERY)), st.floats(-14.9, 60))
def test_level_at_a_log_snr_has_it(name: str, log_snr: float) -> None:
    schedule = EVERY[name]
    low = schedule(schedule.horizon).log_snr.item()
    wanted = torch.tensor(max(log_snr, low), dtype=torch.float64)
    found = schedule.at(wanted)
    # t near 1 is rounded by 1e-16, and log-SNR moves by that / (1 − t): at most 1/SNR times as much.
    assert abs(found.log_snr - wanted) < 1e-13 * (1 + abs(log_snr)) + 1e-15 * math.exp(max(-log_snr, 0.0))


@given(st.sampled_from(sorted(EVERY)), st.lists(st.floats(-800, 800), min_size=2, max_size=20))
def test_time_falls_as_log_snr_rises(name: str, log_snr: list[float]) -> None:
    schedule = EVERY[name]
    time = schedule.time(torch.tensor(sorted(log_snr), dtype=torch.float64))
    assert bool((time.diff() <= 1e-15 * schedule.horizon).all())
    assert bool(((time >= 0) & (time <= schedule.horizon)).all())


@every
def test_one_time_many_and_an_index_agree(schedule: ContinuousSchedule) -> None:
    many = schedule(inside(schedule))
    for i, t in enumerate(inside(schedule).tolist()):
        one = schedule(t)
        assert one.signal.shape == one.sigma.shape == ()
        assert (one.t, one.signal, one.sigma) == (many[i].t, many[i].signal, many[i].sigma)


@every
@pytest.mark.parametrize("wrong", [-1e-12, math.nan, math.inf, "past the end", "one of many"])
def test_times_off_the_clock_are_refused(schedule: ContinuousSchedule, wrong: float | str) -> None:
    past = math.nextafter(schedule.horizon, math.inf)
    t = {"past the end": past, "one of many": [0.0, 0.5, -3.0]}.get(str(wrong), wrong)
    with pytest.raises(ValueError, match=f"knows the times 0 … {schedule.horizon:g}, not ") as caught:
        schedule(torch.tensor(t, dtype=torch.float64))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: VariancePreserving(beta_min=0), "beta_min = 0 must be above 0"),
        (lambda: VariancePreserving(beta_min=3, beta_max=2), "at most beta_max = 2"),
        (lambda: ContinuousCosine(offset=-0.1), r"offset = -0.1: must be 0 or above"),
        (lambda: ContinuousCosine(log_snr_min=3), "log_snr_min = 3: must be below 0"),
        (lambda: ContinuousSigmoid(log_snr_min=math.nan), "log_snr_min = nan: must be below 0"),
        (lambda: ContinuousSigmoid(start=3, end=-3), "start must be below end"),
        (lambda: ContinuousSigmoid(tau=0), "tau above 0"),
        (lambda: ContinuousSigmoid(tau=0.001), "300 tau from 0"),
        (lambda: EDM(sigma_max=0), "sigma_max = 0: must be above 0"),
    ],
)
def test_settings_that_make_no_schedule_are_refused(make: Callable[[], object], words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        make()
    assert "\n" not in str(caught.value)
