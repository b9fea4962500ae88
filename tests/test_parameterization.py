"""What each kind of network is asked for, and that its answer is read back exactly."""

import math
from decimal import localcontext

import pytest
import torch
from diffusers import DDPMScheduler, EDMEulerScheduler
from hypothesis import given
from hypothesis import strategies as st
from tests.oracle import exact_linear, figure, relative_error
from torch import Tensor

from fromnoise.parameterization import (
    Epsilon,
    Flow,
    Karras,
    OnClock,
    Parameterization,
    PosteriorMean,
    Sample,
    Velocity,
)
from fromnoise.schedule import (
    EDM,
    ContinuousCosine,
    Cosine,
    DiscreteSchedule,
    Jsd,
    Level,
    Linear,
    Rectified,
    ScaledLinear,
    Schedule,
    VariancePreserving,
    ZeroTerminalSNR,
    noisy,
)
from fromnoise.transition import posterior

KINDS: list[Parameterization] = [Epsilon(), Sample(), Velocity(), Flow(), Karras()]
"""Those that need to know nothing but the level."""
every = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: type(kind).__name__)
CLOCKS: dict[str, Schedule] = {
    "vp": VariancePreserving(),
    "cosine": ContinuousCosine(),
    "edm": EDM(),
    "rectified": Rectified(),
}


def draws(batch: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    x_0 = 2 * torch.rand(batch, 2, 3, 5, dtype=torch.float64) - 1
    return x_0.to(dtype), torch.randn(batch, 2, 3, 5, dtype=torch.float64).to(dtype)


@every
@pytest.mark.parametrize("schedule", [Linear(), Cosine(), ScaledLinear()], ids=["linear", "cosine", "scaled linear"])
def test_target_is_read_back_at_every_time(kind: Parameterization, schedule: DiscreteSchedule) -> None:
    level = schedule(torch.arange(1, 1001))
    x_0, eps = draws(1000)
    x_t, target = noisy(x_0, eps, level), kind.target(x_0, eps, level)
    # What goes through a division by signal or sigma keeps the rounding of x_t, times their ratio.
    snr = level.log_snr.exp().sqrt().reshape(-1, 1, 1, 1)
    assert ((kind.x_0(x_t, target, level) - x_0).abs() / (1 + 1 / snr)).max() < 3e-15
    assert ((kind.eps(x_t, target, level) - eps).abs() / (1 + snr)).max() < 1e-14


@every
@pytest.mark.parametrize("schedule", CLOCKS.values(), ids=CLOCKS.keys())
def test_target_is_read_back_on_every_clock(kind: Parameterization, schedule: Schedule) -> None:
    level = schedule(torch.linspace(1e-4, 0.999, 200, dtype=torch.float64) * schedule.horizon)
    x_0, eps = draws(200)
    x_t, target = noisy(x_0, eps, level), kind.target(x_0, eps, level)
    rho = (-0.5 * level.log_snr).exp().reshape(-1, 1, 1, 1)
    assert ((kind.x_0(x_t, target, level) - x_0).abs() / (1 + rho)).max() < 1e-14
    assert ((kind.eps(x_t, target, level) - eps).abs() / (1 + 1 / rho)).max() < 1e-13


@every
@given(signal=st.floats(0.01, 1), sigma=st.floats(0.01, 80))
def test_target_is_read_back_at_any_level(kind: Parameterization, signal: float, sigma: float) -> None:
    """Also where signal² + sigma² is not 1."""
    one = torch.tensor(1.0, dtype=torch.float64)
    level = Level(one, one * signal, one * sigma)
    x_0, eps = draws(2)
    x_t, target = noisy(x_0, eps, level), kind.target(x_0, eps, level)
    torch.testing.assert_close(
        kind.x_0(x_t, target, level), x_0, rtol=0, atol=1e-14 * (1 + sigma / signal) * (1 + sigma)
    )
    torch.testing.assert_close(kind.eps(x_t, target, level), eps, rtol=0, atol=1e-13 * (1 + signal / sigma))


@every
def test_any_output_gives_a_pair_that_makes_x_t(kind: Parameterization) -> None:
    """x_0 and eps of one output always agree: signal · x_0 + sigma · eps is x_t, whatever the network says."""
    level = Linear()(torch.arange(1, 1001))
    x_t, output = draws(1000)
    again = noisy(kind.x_0(x_t, output, level), kind.eps(x_t, output, level), level)
    torch.testing.assert_close(again, x_t, rtol=0, atol=1e-12)


def test_targets_are_their_definitions() -> None:
    level = Linear()(torch.arange(1, 1001))
    x_0, eps = draws(1000)
    a = figure("alphas_cumprod").reshape(-1, 1, 1, 1)
    expected = {Epsilon: eps, Sample: x_0, Velocity: a.sqrt() * eps - (1 - a).sqrt() * x_0, Flow: eps - x_0}
    for kind in KINDS[:4]:
        torch.testing.assert_close(kind.target(x_0, eps, level), expected[type(kind)], rtol=0, atol=2e-12)


@given(signal=st.floats(0.01, 1), sigma=st.floats(0.01, 80))
def test_targets_are_their_definitions_at_any_level(signal: float, sigma: float) -> None:
    """Reading back would also succeed with another choice of c_skip: what the network is asked for must be checked."""
    one = torch.tensor(1.0, dtype=torch.float64)
    x_0, eps = draws(1)
    velocity = (signal * eps - sigma * x_0) / (signal**2 + sigma**2)
    expected = {Epsilon: eps, Sample: x_0, Velocity: velocity, Flow: eps - x_0}
    for kind in KINDS[:4]:
        target = kind.target(x_0, eps, Level(one, one * signal, one * sigma))
        torch.testing.assert_close(target, expected[type(kind)], rtol=0, atol=1e-12 * (1 + 1 / sigma))


def test_velocity_is_diffusers() -> None:
    peer = DDPMScheduler()
    peer.alphas_cumprod = figure("alphas_cumprod")  # its own table is float32
    x_0, eps = draws(1000)
    times = torch.arange(1000, dtype=torch.int32)
    theirs = peer.get_velocity(x_0, eps, times)  # pyright: ignore[reportArgumentType]
    torch.testing.assert_close(Velocity().target(x_0, eps, Linear()(times + 1)), theirs, rtol=0, atol=1e-12)


def test_epsilon_is_read_as_equation_15_of_the_paper() -> None:
    """x_0 ≈ (x_t − √(1 − ᾱ) eps) / √ᾱ, in float32 as samplers use it."""
    t = torch.arange(1, 1001)
    x_t, eps = draws(1000, torch.float32)
    ours = Epsilon().x_0(x_t, eps, Linear()(t))
    assert ours.dtype == torch.float32
    a = figure("alphas_cumprod").reshape(-1, 1, 1, 1)
    torch.testing.assert_close(ours.double(), (x_t - (1 - a).sqrt() * eps) / a.sqrt(), rtol=3e-7, atol=1e-4)
    # atol: at t = T the estimate is 157 times the rounding of its two terms.
    torch.testing.assert_close(
        ours[:500].double(), ((x_t - (1 - a).sqrt() * eps) / a.sqrt())[:500], rtol=1e-6, atol=3e-6
    )


@pytest.mark.parametrize(
    "kind",
    [Sample(), Velocity(), Flow(), Karras(), PosteriorMean(schedule=ZeroTerminalSNR(base=Linear()))],
    ids=lambda kind: type(kind).__name__,
)
def test_without_signal_the_picture_is_still_read_back(kind: Parameterization) -> None:
    schedule = ZeroTerminalSNR(base=Linear())
    level = schedule(torch.tensor([1000, 999]))
    x_0, eps = draws(2)
    x_t, target = noisy(x_0, eps, level), kind.target(x_0, eps, level)
    assert torch.equal(x_t[0], eps[0])
    torch.testing.assert_close(kind.x_0(x_t, target, level), x_0, rtol=0, atol=1e-11)
    torch.testing.assert_close(kind.eps(x_t, target, level), eps, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "kind", [Epsilon(), Sample(), Velocity(), Flow(), PosteriorMean()], ids=lambda kind: type(kind).__name__
)
def test_network_is_told_the_papers_time_and_x_t_as_it_is(kind: Parameterization) -> None:
    level = Linear()(torch.arange(1, 1001))
    assert torch.equal(kind.c_time(level), torch.arange(1000, dtype=torch.float64))
    assert torch.equal(kind.c_in(level), torch.ones(1000, dtype=torch.float64))
    assert kind.c_time(Linear()(7)).item() == 6


@pytest.mark.parametrize("kind", [Epsilon, Sample, Velocity, Flow, PosteriorMean])
def test_time_may_be_told_otherwise(kind: type[OnClock]) -> None:
    level = Linear()(10)
    assert kind(time_scale=math.pi, time_shift=0.5).c_time(level).item() == pytest.approx(10 * math.pi + 0.5, rel=1e-15)


def test_a_clock_from_0_to_1_can_be_told_as_a_thousand_steps() -> None:
    t = torch.arange(1, 1001, dtype=torch.float64)
    told = Velocity(time_scale=1000).c_time(VariancePreserving()(t / 1000))
    torch.testing.assert_close(told, Velocity().c_time(Linear()(t)), rtol=0, atol=1e-12)


# -------------------------------------------------------------------------------------------- the mean of the posterior


def test_posterior_mean_is_the_papers_to_eleven_digits() -> None:
    """√ᾱ_s β / (1 − ᾱ) x_0 + √α (1 − ᾱ_s) / (1 − ᾱ) x_t, equation 7, in arithmetic of 60 digits."""
    exact = exact_linear()
    with localcontext(prec=60):
        a = exact.alpha_bar
        from_x_0 = [s.sqrt() * b / (1 - t) for b, s, t in zip(exact.beta, a, a[1:], strict=False)]
        from_x_t = [(1 - b).sqrt() * (1 - s) / (1 - t) for b, s, t in zip(exact.beta, a, a[1:], strict=False)]
    level, kind = Linear()(torch.arange(1, 1001)), PosteriorMean()
    assert relative_error(1 / kind.c_out(level), from_x_0) < 1e-11
    assert (kind.c_skip(level)[0], kind.c_out(level)[0]) == (0, 1)  # μ̃_1 is x_0
    assert relative_error((-kind.c_skip(level) / kind.c_out(level))[1:], from_x_t[1:]) < 1e-11
    # The target as the network learns it, from x_0 and eps.
    one, none = torch.ones(1000, 1, 1, 1, dtype=torch.float64), torch.zeros(1000, 1, 1, 1, dtype=torch.float64)
    with localcontext(prec=60):
        signal = [p + q * t.sqrt() for p, q, t in zip(from_x_0, from_x_t, a[1:], strict=True)]
        noise = [q * (1 - t).sqrt() for q, t in zip(from_x_t, a[1:], strict=True)]
    assert relative_error(kind.target(one, none, level).flatten(), signal) < 1e-12
    assert relative_error(kind.target(none, one, level).flatten()[1:], noise[1:]) < 1e-11


@pytest.mark.parametrize(
    "schedule", [Linear(steps=50), Cosine(steps=30), Jsd(steps=40)], ids=["linear", "cosine", "jsd"]
)
def test_posterior_mean_is_that_of_the_transition_and_read_back(schedule: DiscreteSchedule) -> None:
    t = torch.arange(1, int(schedule.horizon) + 1)
    kind, level = PosteriorMean(schedule=schedule), schedule(t)
    x_0, eps = draws(len(t))
    x_t, target = noisy(x_0, eps, level), kind.target(x_0, eps, level)
    torch.testing.assert_close(target, posterior(x_t, x_0, level, schedule(t - 1)).mean, rtol=0, atol=1e-12)
    torch.testing.assert_close(kind.x_0(x_t, target, level), x_0, rtol=0, atol=1e-11)
    again = noisy(x_0, kind.eps(x_t, target, level), level)
    torch.testing.assert_close(again, x_t, rtol=0, atol=1e-11)


def test_posterior_mean_between_whole_times_is_of_the_level_a_step_below() -> None:
    t = torch.tensor([2.5, 31.25, 999.9], dtype=torch.float64)
    x_0, eps = draws(3)
    level, below = Linear()(t), Linear()(t - 1)
    mean = posterior(noisy(x_0, eps, level), x_0, level, below).mean
    torch.testing.assert_close(PosteriorMean().target(x_0, eps, level), mean, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "level", [Cosine()(500), Linear(steps=4000)(2000), VariancePreserving()(1.0), EDM()(3.0)], ids=str
)
def test_posterior_mean_refuses_another_schedule_than_its_own(level: Level) -> None:
    with pytest.raises(ValueError, match="another schedule than the one in use") as caught:
        PosteriorMean().c_skip(level)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("t", [0.0, 1.5])
def test_posterior_mean_has_none_where_nothing_lies_a_step_below(t: float) -> None:
    with pytest.raises(ValueError, match="knows the times 0 and 1 … 1000"):
        PosteriorMean().c_out(Linear()(t))


# ------------------------------------------------------------------------------------------------------------------ EDM


@pytest.mark.parametrize("data", [0.5, 1.3])
def test_karras_is_table_1_of_edm(data: float) -> None:
    kind, sigma = Karras(sigma_data=data), torch.tensor([0.002, 0.3, 0.5, 7, 80], dtype=torch.float64)
    level = EDM()(sigma)
    for i, s in enumerate(sigma.tolist()):
        assert kind.c_skip(level)[i].item() == pytest.approx(data**2 / (s**2 + data**2), rel=1e-14)
        assert kind.c_out(level)[i].item() == pytest.approx(s * data / math.sqrt(data**2 + s**2), rel=1e-14)
        assert kind.c_in(level)[i].item() == pytest.approx(1 / math.sqrt(s**2 + data**2), rel=1e-14)
        assert kind.c_time(level)[i].item() == pytest.approx(math.log(s) / 4, rel=1e-14, abs=1e-15)


def test_karras_is_that_of_diffusers() -> None:
    peer = EDMEulerScheduler()
    x_t, output = draws(1)
    for sigma in (0.002, 0.4, 33.0):
        level, at = EDM()(sigma), torch.tensor(sigma, dtype=torch.float64)
        theirs = peer.precondition_outputs(x_t, output, at)
        torch.testing.assert_close(Karras().x_0(x_t, output, level), theirs, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(Karras().c_in(level) * x_t, peer.precondition_inputs(x_t, at), rtol=1e-12, atol=0)
        torch.testing.assert_close(Karras().c_time(level), peer.precondition_noise(at), rtol=1e-12, atol=0)


@pytest.mark.parametrize("schedule", [Linear(), *CLOCKS.values()], ids=["linear", *CLOCKS])
@pytest.mark.parametrize("data", [0.5, 0.2])
def test_karras_asks_for_unit_variance_of_unit_variance(schedule: Schedule, data: float) -> None:
    """Input and target, for data of that deviation; read off the coefficients of x_0 and eps, not off draws."""
    t = torch.linspace(1, 999, 300).round().double() * (1.0 if schedule.whole else schedule.horizon / 1000)
    level, kind = schedule(t), Karras(sigma_data=data)
    one, none = torch.ones(300, 1, 1, 1, dtype=torch.float64), torch.zeros(300, 1, 1, 1, dtype=torch.float64)
    target = (data * kind.target(one, none, level)).square() + kind.target(none, one, level).square()
    c_in = kind.c_in(level).reshape(-1, 1, 1, 1)
    given = (data * c_in * noisy(one, none, level)).square() + (c_in * noisy(none, one, level)).square()
    torch.testing.assert_close(target, one, rtol=0, atol=1e-10)
    torch.testing.assert_close(given, one, rtol=0, atol=1e-14)


def test_karras_amplifies_errors_of_the_network_least() -> None:
    """Appendix B.6: among all c_skip whose target has variance 1, theirs makes c_out smallest."""
    level, data = ScaledLinear()(torch.tensor([3, 400, 990])), 0.5
    for share in torch.linspace(-1, 2, 61, dtype=torch.float64):
        c_skip = share / level.signal
        # Var(x_0 − c_skip x_t), which is c_out² if the target has variance 1.
        needed = ((1 - c_skip * level.signal) * data).square() + (c_skip * level.sigma).square()
        assert bool((Karras().c_out(level).square() <= needed + 1e-15).all())


def test_karras_on_any_schedule_is_edm_of_x_t_over_signal() -> None:
    level = Cosine()(torch.tensor([2, 300, 700, 990]))
    rho = level.sigma / level.signal
    x_t, output = draws(4)
    theirs = Karras().x_0(x_t / level.signal.reshape(-1, 1, 1, 1), output, EDM(sigma_max=1e4)(rho))
    torch.testing.assert_close(Karras().x_0(x_t, output, level), theirs, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(Karras().c_time(level), rho.log() / 4, rtol=1e-12, atol=0)


def test_a_deviation_must_be_one() -> None:
    with pytest.raises(ValueError, match="sigma_data = 0: must be above 0"):
        Karras(sigma_data=0)
