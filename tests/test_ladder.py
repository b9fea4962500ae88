"""Which times are visited: the reference ladders, those of diffusers, and what must hold for any number of steps."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EDMEulerScheduler, EulerDiscreteScheduler
from hypothesis import given
from hypothesis import strategies as st
from tests.oracle import figure

from fromnoise.ladder import (
    All,
    ByNoise,
    GivenTimes,
    Karras,
    Leading,
    Linspace,
    Quadratic,
    Spacing,
    Strided,
    Trailing,
    UniformLogSNR,
)
from fromnoise.schedule import (
    EDM,
    Constant,
    ContinuousCosine,
    Cosine,
    DiscreteSchedule,
    Jsd,
    Linear,
    Rectified,
    ScaledLinear,
    Schedule,
    VariancePreserving,
    ZeroTerminalSNR,
)

PAPER = Linear()
COUNTED: dict[str, Callable[[int], Spacing]] = {
    "strided": lambda n: Strided(steps=n),
    "trailing": lambda n: Trailing(steps=n),
    "leading": lambda n: Leading(steps=n),
    "linspace": lambda n: Linspace(steps=n),
    "quadratic": lambda n: Quadratic(steps=n),
    "karras": lambda n: Karras(steps=n),
    "log-SNR": lambda n: UniformLogSNR(steps=n),
}
"""By the number of steps, for clocks that count."""
ANYWHERE: dict[str, Callable[[int], Spacing]] = {
    "trailing": lambda n: Trailing(steps=n),
    "linspace": lambda n: Linspace(steps=n),
    "karras": lambda n: Karras(steps=n),
    "log-SNR": lambda n: UniformLogSNR(steps=n),
}
"""For clocks that do not."""
CONTINUOUS: dict[str, Schedule] = {
    "vp": VariancePreserving(),
    "cosine": ContinuousCosine(),
    "edm": EDM(),
    "rectified": Rectified(),
}


def ratio(schedule: Schedule, ladder: torch.Tensor) -> torch.Tensor:
    """sigma / signal at the times above 0."""
    level = schedule(ladder[:-1])
    return level.sigma / level.signal


@pytest.mark.parametrize(
    ("spacing", "name"), [(All(), "full"), (Strided(steps=1000), "full"), (Strided(steps=100), "100")]
)
def test_ladder_is_the_reference(spacing: Spacing, name: str) -> None:
    # The fixture counts 0 … T−1, upwards; a ladder counts T … 1, and ends at the clean picture.
    expected = [*(t + 1.0 for t in sorted(figure(f"timesteps/{name}").tolist(), reverse=True)), 0.0]
    assert spacing.ladder(PAPER).tolist() == expected


# ------------------------------------------------------------------------------------- parity, on a clock that counts

NUMBERS = [2, 3, 5, 6, 7, 10, 15, 16, 19, 20, 25, 26, 48, 50, 96, 100, 112, 240, 250, 333, 500, 501, 999, 1000]


@pytest.mark.parametrize("n", NUMBERS)
@pytest.mark.parametrize(
    ("spacing", "settings"),
    [
        (Trailing, {"timestep_spacing": "trailing"}),
        (Linspace, {"timestep_spacing": "linspace"}),
        (Leading, {"timestep_spacing": "leading"}),
    ],
    ids=["trailing", "linspace", "leading"],
)
def test_times_are_those_of_diffusers(
    spacing: type[Trailing] | type[Linspace] | type[Leading], settings: dict[str, Any], n: int
) -> None:
    peer = DDIMScheduler(**settings)
    peer.set_timesteps(n)
    assert (spacing(steps=n).ladder(PAPER)[:-1] - 1).tolist() == peer.timesteps.tolist()


@pytest.mark.parametrize("n", [2, 10, 20, 300, 500])
def test_leading_has_the_offset_of_diffusers(n: int) -> None:
    peer = DDIMScheduler(timestep_spacing="leading", steps_offset=1)
    peer.set_timesteps(n)
    assert (Leading(steps=n, offset=1).ladder(PAPER)[:-1] - 1).tolist() == peer.timesteps.tolist()


old_numpy = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
"""diffusers calls NumPy as it was before 2.0."""


@old_numpy
@pytest.mark.parametrize("n", [5, 10, 20, 50])
def test_times_are_those_of_other_solvers_of_diffusers(n: int) -> None:
    dpm, euler = (
        DPMSolverMultistepScheduler(timestep_spacing="trailing"),
        EulerDiscreteScheduler(timestep_spacing="trailing"),
    )
    dpm.set_timesteps(n)
    euler.set_timesteps(n)
    ours = (Trailing(steps=n).ladder(PAPER)[:-1] - 1).tolist()
    assert ours == dpm.timesteps.tolist() == euler.timesteps.tolist()
    # "linspace" of DPM-Solver++ is a ladder of one more step, whose last is never taken.
    dpm = DPMSolverMultistepScheduler(timestep_spacing="linspace")
    dpm.set_timesteps(n)
    assert (Linspace(steps=n + 1).ladder(PAPER)[:-2] - 1).tolist() == dpm.timesteps.tolist()


@pytest.mark.parametrize("last", [1000, 250, 977])
def test_quadratic_is_that_of_ddim(last: int) -> None:
    """seq = linspace(0, √(0.8 T), n)², its fractions cut off; compared wherever that has no time twice."""
    compared = 0
    for n in range(2, 60):
        source = (np.linspace(0, np.sqrt(last * 0.8), n) ** 2).astype(int)
        ours = Quadratic(steps=n).ladder(Constant(steps=last))[:-1].flip(0) - 1
        if len(set(source)) == n:
            assert ours.tolist() == source.tolist()
            compared += 1
    assert compared > 10


@old_numpy
@pytest.mark.parametrize("n", [5, 10, 20, 50])
@pytest.mark.parametrize(
    ("spacing", "settings"),
    [(Karras, {"use_karras_sigmas": True}), (UniformLogSNR, {"use_exponential_sigmas": True})],
    ids=["karras", "log-SNR"],
)
def test_ratios_are_the_sigmas_of_diffusers(
    spacing: type[Karras] | type[UniformLogSNR], settings: dict[str, Any], n: int
) -> None:
    peer = EulerDiscreteScheduler(**settings)
    peer.alphas_cumprod = figure("alphas_cumprod")  # its own table is float32
    peer.set_timesteps(n)
    ladder = spacing(steps=n, between=True).ladder(PAPER)
    np.testing.assert_allclose(ratio(PAPER, ladder), peer.sigmas[:-1].double(), rtol=1e-6)
    np.testing.assert_allclose(ladder[:-1] - 1, peer.timesteps.double(), rtol=1e-6, atol=1e-4)


@old_numpy
@pytest.mark.parametrize("n", [5, 10])
@pytest.mark.parametrize(
    ("spacing", "settings"),
    [(Karras, {"use_karras_sigmas": True}), (UniformLogSNR, {"use_lu_lambdas": True})],
    ids=["karras", "log-SNR"],
)
def test_rounded_times_are_those_of_diffusers(
    spacing: type[Karras] | type[UniformLogSNR], settings: dict[str, Any], n: int
) -> None:
    peer = DPMSolverMultistepScheduler(**settings)
    peer.alphas_cumprod = figure("alphas_cumprod")
    peer.set_timesteps(n)
    theirs = peer.timesteps.tolist()
    assert len(set(theirs)) == n  # they do not part times that meet; here none do
    assert (spacing(steps=n).ladder(PAPER)[:-1] - 1).tolist() == theirs


@pytest.mark.parametrize("n", [1, 2, 18, 40, 256])
def test_karras_on_edm_is_edms(n: int) -> None:
    peer = EDMEulerScheduler()
    peer.set_timesteps(n)
    ladder = Karras(steps=n).ladder(EDM())
    np.testing.assert_allclose(ladder, peer.sigmas.double(), rtol=1e-6)
    assert ladder[0] == 80
    # Equation 5 as it stands.
    k = np.arange(n) / max(n - 1, 1)
    exact = (80 ** (1 / 7) + k * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    np.testing.assert_allclose(ladder[:-1], exact, rtol=1e-12)


# ----------------------------------------------------------------------------------------- what holds for any number


lengths = st.integers(1, 300).flatmap(lambda last: st.tuples(st.just(last), st.integers(1, last)))


@given(lengths, st.sampled_from(sorted(COUNTED)))
def test_ladders_fall_through_whole_times_in_as_many_steps_as_asked(steps_of: tuple[int, int], name: str) -> None:
    """Also where rounding alone would make times meet."""
    last, steps = steps_of
    schedule = Constant(steps=last)
    ladder = COUNTED[name](steps).ladder(schedule)
    assert ladder.dtype == torch.float64
    assert ladder.shape == (steps + 1,)
    assert bool((ladder.diff() < 0).all())
    assert torch.equal(ladder, ladder.round())
    assert ladder[-1] == 0
    assert 1 <= ladder[0] <= last
    assert bool((schedule(ladder).log_snr.diff() > 0).all())


@given(lengths, st.sampled_from(["strided", "trailing", "linspace", "karras", "log-SNR"]))
def test_ladders_begin_where_the_noise_does(steps_of: tuple[int, int], name: str) -> None:
    last, steps = steps_of
    ladder = COUNTED[name](steps).ladder(Constant(steps=last))
    assert ladder[0] == last
    if steps == last:
        assert torch.equal(ladder, All().ladder(Constant(steps=last)))
    if steps > 1 and name != "trailing":
        assert ladder[-2] == 1


@given(lengths)
def test_strides_are_even_whole_and_hold_both_ends(steps_of: tuple[int, int]) -> None:
    last, steps = steps_of
    ladder = Strided(steps=steps).ladder(Constant(steps=last))
    if steps > 1:
        stride = (last - 1) / (steps - 1)
        exact = last - stride * torch.arange(steps, dtype=torch.float64)
        assert (ladder[:-1] - exact).abs().max() <= 0.5 + 1e-9
        assert float(-ladder[:-1].diff().min()) - float(-ladder[:-1].diff().max()) <= 1


def test_all_visits_all() -> None:
    assert All().ladder(Constant(steps=3)).tolist() == [3, 2, 1, 0]
    assert torch.equal(Strided(steps=7).ladder(Constant(steps=7)), All().ladder(Constant(steps=7)))


@pytest.mark.parametrize("name", COUNTED)
def test_one_step_goes_from_the_top_to_the_picture(name: str) -> None:
    top = {"quadratic": 801, "leading": 1}.get(name, 1000)
    assert COUNTED[name](1).ladder(PAPER).tolist() == [top, 0]


def test_times_that_would_meet_move_up_and_at_the_end_of_the_clock_down() -> None:
    # 1 + ⌊0.8 · 10 · (k/5)²⌋ is 1 1 2 3 6 9; of ten, 1 1 1 1 2 3 4 5 7 9.
    assert Quadratic(steps=6).ladder(Constant(steps=10)).tolist() == [9, 6, 4, 3, 2, 1, 0]
    assert Quadratic(steps=9).ladder(Constant(steps=10)).tolist() == [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]
    assert Quadratic(steps=10).ladder(Constant(steps=10)).tolist() == [10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0]
    karras, free = (Karras(steps=200, between=between).ladder(PAPER) for between in (False, True))
    moved = karras != free.round()
    assert 0 < moved.sum() < 100
    assert bool((karras >= free.round())[moved].all())
    crowded = UniformLogSNR(steps=20, sigma_min=float(ratio(PAPER, torch.tensor([995.0, 0.0])))).ladder(PAPER)
    assert crowded.tolist() == [*range(1000, 980, -1), 0]


# -------------------------------------------------------------------------------------------- by the ratio of the noise


@pytest.mark.parametrize(
    "schedule",
    [PAPER, ScaledLinear(), Cosine(), *CONTINUOUS.values()],
    ids=["linear", "scaled linear", "table of a cosine", *CONTINUOUS],
)
@pytest.mark.parametrize(("high", "low", "steps"), [(20.0, 0.05, 7), (3.0, 0.1, 2), (10.0, 1.0, 1)])
def test_ratios_follow_their_rule_between_the_ends_given(
    schedule: Schedule, high: float, low: float, steps: int
) -> None:
    if math.isfinite(schedule(schedule.horizon).log_snr):
        high = min(high, 0.9 * float(ratio(schedule, torch.tensor([schedule.horizon, 0.0]))))
    share = np.arange(steps) / max(steps - 1, 1)
    for spacing, expected in [
        (
            Karras(steps=steps, sigma_max=high, sigma_min=low, between=True, rho=3.0),
            (high ** (1 / 3) + share * (low ** (1 / 3) - high ** (1 / 3))) ** 3,
        ),
        (UniformLogSNR(steps=steps, sigma_max=high, sigma_min=low, between=True), high * (low / high) ** share),
    ]:
        ladder = spacing.ladder(schedule)
        assert ladder.shape == (steps + 1,)
        np.testing.assert_allclose(ratio(schedule, ladder), expected, rtol=1e-9)


def test_between_gives_the_ends_of_the_clock_themselves() -> None:
    for spacing in (Karras(steps=9, between=True), UniformLogSNR(steps=9, between=True)):
        ladder = spacing.ladder(PAPER)
        assert (ladder[0], ladder[-2], ladder[-1]) == (1000, 1, 0)
        assert not torch.equal(ladder, ladder.round())
    steps = PAPER(UniformLogSNR(steps=9, between=True).ladder(PAPER)[:-1]).log_snr.diff()
    torch.testing.assert_close(steps, steps.mean().expand_as(steps), rtol=1e-9, atol=0)
    assert UniformLogSNR(steps=1500, between=True).ladder(PAPER).shape == (1501,)


@pytest.mark.parametrize("spacing", [Karras(steps=10), UniformLogSNR(steps=10)], ids=["karras", "log-SNR"])
@pytest.mark.parametrize("between", [False, True], ids=["whole", "between"])
@pytest.mark.parametrize(
    ("schedule", "second"),
    [(ZeroTerminalSNR(base=ScaledLinear()), 80.0), (Jsd(), math.sqrt(999)), (Rectified(), 80.0)],
    ids=["zero-terminal SNR", "jsd", "rectified"],
)
def test_where_no_signal_is_left_the_end_stands_for_a_ratio(
    spacing: ByNoise, between: bool, schedule: Schedule, second: float
) -> None:
    """EDM's 80, or that of T − 1: a rung is spent on the end, none on what is almost the same."""
    spacing = type(spacing)(steps=spacing.steps, between=between)
    ladder = spacing.ladder(schedule)
    assert ladder[0] == schedule.horizon
    assert schedule(ladder[0]).signal == 0
    rest = ratio(schedule, ladder)[1:]
    assert bool(rest.isfinite().all())
    assert float(rest[0]) < second
    low = 0.002 if not schedule.whole else float(ratio(schedule, torch.tensor([1.0, 0.0])))
    expected = spacing.ratios(second, low)[1:]
    if between or not schedule.whole:
        np.testing.assert_allclose(rest, expected, rtol=1e-9)
    else:
        exact = type(spacing)(steps=spacing.steps, between=True).ladder(schedule)
        assert (ladder - exact).abs().max() <= 1


# ----------------------------------------------------------------------------------- on a clock that does not count


@pytest.mark.parametrize("schedule", CONTINUOUS.values(), ids=CONTINUOUS.keys())
@pytest.mark.parametrize("name", ANYWHERE)
@pytest.mark.parametrize("steps", [1, 2, 13, 1200])
def test_continuous_ladders_go_from_the_horizon_to_almost_clean(schedule: Schedule, name: str, steps: int) -> None:
    """The last time above 0 has sigma / signal = 0.002, or is a stride of the clock."""
    ladder = ANYWHERE[name](steps).ladder(schedule)
    assert ladder.shape == (steps + 1,)
    assert ladder.dtype == torch.float64
    assert bool((ladder.diff() < 0).all())
    assert (ladder[0], ladder[-1]) == (schedule.horizon, 0)
    if name == "trailing":
        assert ladder[-2].item() == pytest.approx(schedule.horizon / steps, rel=1e-12)
    elif steps > 1:
        assert ratio(schedule, ladder)[-1].item() == pytest.approx(0.002, rel=1e-9)
    if name in {"trailing", "linspace"} and steps > 2:
        strides = ladder[:-1].diff()
        torch.testing.assert_close(strides, strides.mean().expand_as(strides), rtol=1e-9, atol=0)


@pytest.mark.parametrize("spacing", [All(), Strided(), Leading(), Quadratic()], ids=lambda s: type(s).__name__)
def test_spacings_that_count_refuse_a_clock_that_does_not(spacing: Spacing) -> None:
    words = f"{type(spacing).__name__} needs a schedule that counts steps, and EDM does not; take trailing, linspace"
    with pytest.raises(ValueError, match=words) as caught:
        spacing.ladder(EDM())
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------------------------------------- the user's own times


def test_given_times_stand_as_they_are() -> None:
    for times in ((900.0, 40.5, 1.0), (900.0, 40.5, 1.0, 0.0)):
        assert GivenTimes(times=times).ladder(PAPER).tolist() == [900, 40.5, 1, 0]
    assert GivenTimes(times=(80.0, 0.3)).ladder(EDM()).tolist() == [80, 0.3, 0]


@pytest.mark.parametrize(
    ("times", "words"),
    [
        ((), "times: needs at least one time above 0"),
        ((0.0,), "times: needs at least one time above 0"),
        ((5.0, 7.0), "times: must fall, and 7 comes after 5"),
        ((5.0, 5.0), "times: must fall, and 5 comes after 5"),
        ((5.0, math.nan), "times: must fall, and nan comes after 5"),
        ((5.0, 0.0, 0.0), "times: must fall, and 0 comes after 0"),
        ((1001.0, 5.0), "knows the times 0 and 1 … 1000, not 1001"),
        ((5.0, 0.5), "knows the times 0 and 1 … 1000, not "),
        ((5.0, -1.0), "times: must fall, and 0 comes after -1"),
    ],
)
def test_given_times_are_checked(times: tuple[float, ...], words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        GivenTimes(times=times).ladder(PAPER)
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("name", COUNTED)
@pytest.mark.parametrize("steps", [0, -3, 1001])
def test_impossible_numbers_of_steps_are_refused(name: str, steps: int) -> None:
    with pytest.raises(ValueError, match=rf"^steps = {steps}: this schedule allows 1 to 1000$"):
        COUNTED[name](steps).ladder(PAPER)


@pytest.mark.parametrize("name", ANYWHERE)
def test_no_steps_are_refused_on_any_clock(name: str) -> None:
    with pytest.raises(ValueError, match=r"^steps = 0: must be at least 1$"):
        ANYWHERE[name](0).ladder(EDM())


@pytest.mark.parametrize(
    ("spacing", "schedule", "words"),
    [
        (Leading(steps=1000, offset=1), PAPER, "offset = 1: with steps = 1000 this schedule allows 0 to 0"),
        (Leading(steps=10, offset=-1), PAPER, "offset = -1: with steps = 10 this schedule allows 0 to 99"),
        (Karras(sigma_max=300.0), PAPER, "sigma_max = 300: this schedule has ratios from 0.01 to 157.4"),
        (Karras(sigma_min=0.001), PAPER, "sigma_min = 0.001: this schedule has ratios from 0.01 to 157.4"),
        (UniformLogSNR(sigma_max=100.0), EDM(), "sigma_max = 100: this schedule has ratios from 0 to 80"),
        (UniformLogSNR(sigma_min=0.0), EDM(), "sigma_min = 0: this schedule has ratios"),
        (Karras(sigma_max=math.inf), Rectified(), "sigma_max = inf: this schedule has ratios"),
        (Karras(sigma_min=5.0, sigma_max=2.0), EDM(), "sigma_min = 5 must be below sigma_max = 2"),
        (Karras(sigma_max=0.001), EDM(), "sigma_min = 0.002 must be below sigma_max = 0.001"),
    ],
)
def test_settings_that_do_not_fit_the_schedule_are_refused(spacing: Spacing, schedule: Schedule, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        spacing.ladder(schedule)
    assert "\n" not in str(caught.value)


def test_an_exponent_must_be_one() -> None:
    with pytest.raises(ValueError, match="rho = 0: must be above 0"):
        Karras(rho=0)


def test_a_schedule_of_one_step_has_one_ladder() -> None:
    schedules: list[DiscreteSchedule] = [Jsd(steps=1), Constant(steps=1)]
    for one in schedules:
        assert [make(1).ladder(one).tolist() for make in COUNTED.values()] == [[1, 0]] * len(COUNTED)
    assert Karras(steps=2).ladder(Jsd(steps=2)).tolist() == [2, 1, 0]
