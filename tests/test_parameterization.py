"""What each kind of network is asked for, and that its answer is read back exactly."""

import math

import pytest
import torch
from diffusers import DDPMScheduler
from hypothesis import given
from hypothesis import strategies as st
from tests.oracle import figure
from torch import Tensor

from fromnoise.parameterization import Epsilon, Parameterization, Sample, Velocity
from fromnoise.schedule import Cosine, DiscreteSchedule, Level, Linear, ScaledLinear, ZeroTerminalSNR, noisy

KINDS: list[Parameterization] = [Epsilon(), Sample(), Velocity()]
every = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: type(kind).__name__)


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
    expected = {Epsilon: eps, Sample: x_0, Velocity: a.sqrt() * eps - (1 - a).sqrt() * x_0}
    for kind in KINDS:
        torch.testing.assert_close(kind.target(x_0, eps, level), expected[type(kind)], rtol=0, atol=2e-12)


@given(signal=st.floats(0.01, 1), sigma=st.floats(0.01, 80))
def test_targets_are_their_definitions_at_any_level(signal: float, sigma: float) -> None:
    """Reading back would also succeed with another choice of c_skip: what the network is asked for must be checked."""
    one = torch.tensor(1.0, dtype=torch.float64)
    x_0, eps = draws(1)
    velocity = (signal * eps - sigma * x_0) / (signal**2 + sigma**2)
    expected = {Epsilon: eps, Sample: x_0, Velocity: velocity}
    for kind in KINDS:
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


@pytest.mark.parametrize("kind", [Sample(), Velocity()], ids=["sample", "velocity"])
def test_without_signal_the_picture_is_still_read_back(kind: Parameterization) -> None:
    schedule = ZeroTerminalSNR(base=Linear())
    level = schedule(torch.tensor([1000, 999]))
    x_0, eps = draws(2)
    x_t, target = noisy(x_0, eps, level), kind.target(x_0, eps, level)
    assert torch.equal(x_t[0], eps[0])
    torch.testing.assert_close(kind.x_0(x_t, target, level), x_0, rtol=0, atol=1e-12)
    torch.testing.assert_close(kind.eps(x_t, target, level), eps, rtol=0, atol=1e-12)


@every
def test_network_is_told_the_papers_time_and_x_t_as_it_is(kind: Parameterization) -> None:
    level = Linear()(torch.arange(1, 1001))
    assert torch.equal(kind.c_time(level), torch.arange(1000, dtype=torch.float64))
    assert torch.equal(kind.c_in(level), torch.ones(1000, dtype=torch.float64))
    assert kind.c_time(Linear()(7)).item() == 6


def test_time_may_be_told_otherwise() -> None:
    kind = Velocity(time_scale=math.pi, time_shift=0.5)
    assert kind.c_time(Linear()(10)).item() == pytest.approx(10 * math.pi + 0.5, rel=1e-15)
