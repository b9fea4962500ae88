"""Every table against its formula in other arithmetic, the reference and diffusers; the clock and its inverse."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from tests.oracle import exact_linear, figure, relative_error
from torch import Tensor

from fromnoise.schedule import (
    Constant,
    Cosine,
    DiscreteSchedule,
    Given,
    Jsd,
    Laplace,
    Level,
    Linear,
    Quad,
    ScaledLinear,
    Sigmoid,
    Warmup,
    ZeroTerminalSNR,
    cast,
    noisy,
)

EVERY: dict[str, DiscreteSchedule] = {
    "linear": Linear(),
    "linear of 50 steps": Linear(steps=50),
    "linear, ends given": Linear(steps=7, first=0.01, last=0.5),
    "quad": Quad(),
    "constant": Constant(steps=200),
    "cosine": Cosine(),
    "cosine of 20 steps": Cosine(steps=20),
    "scaled linear": ScaledLinear(),
    "sigmoid": Sigmoid(),
    "warmup": Warmup(),
    "jsd": Jsd(),
    "laplace": Laplace(),
    "given": Given(values=(0.1, 0.02, 0.5)),
    "zero-terminal SNR": ZeroTerminalSNR(base=ScaledLinear()),
    "zero-terminal SNR, cosine": ZeroTerminalSNR(base=Cosine(steps=40)),
    "one step": Given(values=(0.3,)),
}
every = pytest.mark.parametrize("schedule", EVERY.values(), ids=EVERY.keys())


def nodes(schedule: DiscreteSchedule) -> Tensor:
    return torch.arange(1, int(schedule.horizon) + 1, dtype=torch.float64)


# ---------------------------------------------------------------------------------------------------- the paper's table


def test_linear_is_the_papers_to_twelve_digits() -> None:
    exact, schedule = exact_linear(), Linear()
    level = schedule(nodes(schedule))
    assert relative_error(schedule.beta, exact.beta) < 1e-15
    assert relative_error(schedule.alpha_bar, exact.alpha_bar) < 1e-13
    assert relative_error(level.signal, [a.sqrt() for a in exact.alpha_bar[1:]]) < 1e-13
    assert relative_error(level.sigma, [(1 - a).sqrt() for a in exact.alpha_bar[1:]]) < 1e-12
    assert relative_error(level.snr, [a / (1 - a) for a in exact.alpha_bar[1:]]) < 1e-12
    assert f"{schedule.alpha_bar[-1].item():.4e}" == "4.0358e-05"
    assert schedule.horizon == 1000


def test_linear_is_the_reference_table() -> None:
    torch.testing.assert_close(Linear().beta, figure("betas"), rtol=1e-15, atol=0)
    torch.testing.assert_close(Linear().alpha_bar[1:], figure("alphas_cumprod"), rtol=1e-13, atol=0)


@pytest.mark.parametrize("steps", [21, 100, 250, 4000])
def test_linear_of_other_lengths_scales_the_ends(steps: int) -> None:
    scale = 1000 / steps
    exact = exact_linear(steps, str(1e-4 * scale), str(0.02 * scale))
    assert relative_error(Linear(steps=steps).beta, exact.beta) < 1e-13
    # The end of the noise is what the scaling is for: log ᾱ_T stays near that of 1000 steps, −10.1.
    if steps >= 100:
        assert Linear(steps=steps).alpha_bar[-1].log().item() == pytest.approx(-10.1, abs=1.2)


# ----------------------------------------------------------------------------------------------------- the other tables


def share(i: int, steps: int) -> float:
    return i / (steps - 1)


def cosine_f(t: float) -> float:
    return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2


def laplace_f(t: float, location: float = 0.0, scale: float = 0.5) -> float:
    """ᾱ where log-SNR is surpassed with probability t."""
    return float(1 / (1 + np.exp(-stats.laplace.isf(t, loc=location, scale=scale))))


def warmup_f(i: int, steps: int, fraction: float) -> float:
    rising = int(steps * fraction)
    return 0.02 if i >= rising else 1e-4 + (0.02 - 1e-4) * (i / (rising - 1) if rising > 1 else 0)


FORMULAS: dict[str, tuple[Callable[[int], DiscreteSchedule], Callable[[int, int], float]]] = {
    "quad": (
        lambda n: Quad(steps=n),
        lambda i, n: (math.sqrt(1e-4) + (math.sqrt(0.02) - math.sqrt(1e-4)) * share(i, n)) ** 2,
    ),
    "scaled linear": (
        lambda n: ScaledLinear(steps=n),
        lambda i, n: (math.sqrt(0.00085) + (math.sqrt(0.012) - math.sqrt(0.00085)) * share(i, n)) ** 2,
    ),
    "constant": (lambda n: Constant(steps=n, value=0.013), lambda i, n: 0.013),
    "cosine": (
        lambda n: Cosine(steps=n),
        lambda i, n: min(1 - cosine_f((i + 1) / n) / cosine_f(i / n), 0.999),
    ),
    "sigmoid": (
        lambda n: Sigmoid(steps=n),
        lambda i, n: 1e-4 + (0.02 - 1e-4) / (1 + math.exp(6 - 12 * share(i, n))),
    ),
    "warmup10": (lambda n: Warmup(steps=n), lambda i, n: warmup_f(i, n, 0.1)),
    "warmup50": (lambda n: Warmup(steps=n, fraction=0.5), lambda i, n: warmup_f(i, n, 0.5)),
    "jsd": (lambda n: Jsd(steps=n), lambda i, n: 1 / (n - i)),
    "laplace": (
        lambda n: Laplace(steps=n),
        lambda i, n: min(1 - laplace_f((i + 1) / n) / laplace_f(i / n), 0.999),
    ),
    "laplace, moved": (
        lambda n: Laplace(steps=n, location=-1, scale=0.8, max_beta=0.9),
        lambda i, n: min(1 - laplace_f((i + 1) / n, -1, 0.8) / laplace_f(i / n, -1, 0.8), 0.9),
    ),
    "linear, ends given": (
        lambda n: Linear(steps=n, first=0.001, last=0.3),
        lambda i, n: 0.001 + (0.3 - 0.001) * share(i, n),
    ),
}


@pytest.mark.parametrize("steps", [2, 10, 1000])
@pytest.mark.parametrize("name", FORMULAS)
def test_table_is_its_formula(name: str, steps: int) -> None:
    make, formula = FORMULAS[name]
    expected = torch.tensor([formula(i, steps) for i in range(steps)], dtype=torch.float64)
    torch.testing.assert_close(make(steps).beta, expected, rtol=1e-12, atol=1e-15)


def test_cosine_is_capped_only_at_the_end() -> None:
    beta = Cosine().beta
    assert beta[-1] == 0.999
    assert bool((beta[:-1] < 0.999).all())
    # Below the cap the running product telescopes back into f(t) / f(0).
    expected = cosine_f(0.5) / cosine_f(0.0)
    assert Cosine().alpha_bar[500].item() == pytest.approx(expected, rel=1e-12)


def test_jsd_takes_an_equal_share_of_the_power_in_every_step() -> None:
    schedule = Jsd(steps=250)
    expected = 1 - torch.arange(251, dtype=torch.float64) / 250
    torch.testing.assert_close(schedule.alpha_bar, expected, rtol=1e-12, atol=0)
    assert schedule(250).signal == 0


def test_warmup_ends_in_the_constant_table() -> None:
    assert torch.equal(Warmup(fraction=0.0).beta, Constant().beta)
    assert torch.equal(Warmup(fraction=1.0).beta, Linear(first=1e-4, last=0.02).beta)
    assert (Warmup().beta < 0.02).sum() == 99  # the hundredth is the end of the rise


@pytest.mark.parametrize(("location", "scale"), [(0.0, 0.5), (1.5, 0.25)])
def test_log_snr_of_laplace_is_its_quantile(location: float, scale: float) -> None:
    """Equally spaced times have log-SNRs of a Laplace distribution: sorted, they are its quantiles."""
    schedule = Laplace(steps=400, location=location, scale=scale)
    quantile = stats.laplace.isf(np.arange(1, 400) / 400, loc=location, scale=scale)
    np.testing.assert_allclose(schedule(torch.arange(1, 400)).log_snr, quantile, rtol=0, atol=1e-11)
    assert schedule.beta[-1] == 0.999


def test_laplace_of_diffusers_is_the_root_of_ours() -> None:
    """It takes the paper's signal for ᾱ, and 1e-6 off the logarithm, which ᾱ(0) = 0.999 shows."""
    settings: dict[str, Any] = {"beta_schedule": "laplace"}
    peer = DDPMScheduler(**settings).alphas_cumprod.double().square()
    start = 1 / (1 + 1e-6**0.5)
    # Not the last: that hangs on their 1e-6 and on our cap.
    torch.testing.assert_close(Laplace().alpha_bar[1:-1], start * peer[:-1], rtol=0, atol=4e-5)


def test_given_betas_stand_as_they_are() -> None:
    schedule = Given(values=(0.1, 0.02, 0.5))
    assert schedule.beta.tolist() == [0.1, 0.02, 0.5]
    assert schedule.alpha_bar.tolist() == pytest.approx([1, 0.9, 0.9 * 0.98, 0.9 * 0.98 * 0.5], rel=1e-15)


@pytest.mark.parametrize("base", [Linear(), ScaledLinear(), Cosine(steps=50)], ids=["linear", "scaled", "cosine"])
def test_zero_terminal_snr_moves_the_last_signal_to_nothing_and_keeps_the_first(base: DiscreteSchedule) -> None:
    signal = np.sqrt(np.cumprod(1 - base.beta.numpy()))
    moved = (signal - signal[-1]) * signal[0] / (signal[0] - signal[-1])
    schedule = ZeroTerminalSNR(base=base)
    np.testing.assert_allclose(schedule(nodes(schedule)).signal, moved, rtol=1e-12, atol=1e-12)
    assert schedule(schedule.horizon).signal == 0
    assert schedule(schedule.horizon).sigma == 1
    assert schedule(schedule.horizon).log_snr == -math.inf
    assert schedule.alpha_bar[1].item() == pytest.approx(base.alpha_bar[1].item(), rel=1e-12)


PEERS: dict[str, tuple[DiscreteSchedule, dict[str, Any]]] = {
    "linear": (Linear(), {"beta_schedule": "linear"}),
    "linear, 100 steps": (
        Linear(steps=100),
        {"beta_schedule": "linear", "num_train_timesteps": 100, "beta_start": 0.001, "beta_end": 0.2},
    ),
    "scaled linear": (
        ScaledLinear(),
        {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    ),
    "quad": (Quad(), {"beta_schedule": "scaled_linear"}),
    "cosine": (Cosine(), {"beta_schedule": "squaredcos_cap_v2"}),
    "cosine, 10 steps": (Cosine(steps=10), {"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 10}),
    "sigmoid": (Sigmoid(), {"beta_schedule": "sigmoid"}),
    "given": (Given(values=(0.1, 0.02, 0.5)), {"trained_betas": [0.1, 0.02, 0.5], "num_train_timesteps": 3}),
    "zero-terminal SNR": (
        ZeroTerminalSNR(base=ScaledLinear()),
        {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "rescale_betas_zero_snr": True},
    ),
    "zero-terminal SNR, linear": (
        ZeroTerminalSNR(base=Linear()),
        {"beta_schedule": "linear", "rescale_betas_zero_snr": True},
    ),
}


@pytest.mark.parametrize("name", PEERS)
def test_table_is_diffusers_within_its_float32(name: str) -> None:
    ours, settings = PEERS[name]
    peer = DDPMScheduler(**settings)
    # A rescaled β is 1 − a ratio of squares, each off by some 6e-8 there: too much where hardly any signal is left.
    kept = slice(None, 900) if isinstance(ours, ZeroTerminalSNR) else slice(None)
    torch.testing.assert_close(ours.beta[kept], peer.betas.double()[kept], rtol=1e-6, atol=2e-6)
    # atol: ᾱ is a running product in float32 there, a thousand roundings of 6e-8 at most.
    torch.testing.assert_close(ours.alpha_bar[1:], peer.alphas_cumprod.double(), rtol=0, atol=2e-5)


# ---------------------------------------------------------------------------------------------------- levels, the clock


@every
def test_levels_keep_the_variance_and_lose_signal(schedule: DiscreteSchedule) -> None:
    level = schedule(torch.arange(int(schedule.horizon) + 1))
    torch.testing.assert_close(
        level.signal.square() + level.sigma.square(), torch.ones_like(level.t), rtol=1e-15, atol=0
    )
    assert bool((level.log_snr.diff() < 0).all())
    assert level.signal.dtype == level.sigma.dtype == level.t.dtype == torch.float64
    assert (level.signal[0], level.sigma[0]) == (1, 0)  # clean means clean: no epsilon is trimmed
    assert level.log_snr[0] == math.inf
    snr = level.snr[1:-1].log()
    torch.testing.assert_close(level.log_snr[1:-1], snr, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(2 * level.half_log_snr[1:-1], snr, rtol=1e-12, atol=1e-12)


def test_levels_of_one_time_of_many_and_of_an_index_agree() -> None:
    schedule, times = Linear(), torch.tensor([1000, 17, 1, 0])
    many = schedule(times)
    for i, t in enumerate(times.tolist()):
        for one in (schedule(t), schedule(float(t)), schedule(times[i]), many[i]):
            assert one.signal.shape == ()
            assert (one.t, one.signal, one.sigma) == (many.t[i], many.signal[i], many.sigma[i])
    assert torch.equal(many[1:].sigma, many.sigma[1:])


@pytest.mark.parametrize("t", [-1, 1001, 0.5, 1e-9, 1000.5, math.nan, math.inf, -math.inf, [3, 0.5], [0, 2000]])
def test_times_off_the_clock_are_refused(t: float | list[float]) -> None:
    with pytest.raises(ValueError, match="knows the times 0 and 1 … 1000, not ") as caught:
        Linear()(torch.as_tensor(t))
    assert "\n" not in str(caught.value)


@every
def test_whole_times_are_the_table_bit_for_bit(schedule: DiscreteSchedule) -> None:
    """Also beside a time that is none."""
    times = torch.arange(int(schedule.horizon) + 1, dtype=torch.float64)
    signal, sigma = schedule.alpha_bar.sqrt(), (1 - schedule.alpha_bar).sqrt()
    beside = torch.cat([times, times[1:-1] + 0.5]) if len(times) > 2 else times
    for level in (schedule(times), schedule(beside)[: len(times)]):
        assert torch.equal(level.signal, signal)
        assert torch.equal(level.sigma, sigma)


def test_between_whole_times_log_snr_is_on_a_line() -> None:
    a = figure("alphas_cumprod").numpy()
    times = 1 + 999 * torch.rand(500, dtype=torch.float64)
    level = Linear()(times)
    expected = np.interp(times.numpy(), np.arange(1, 1001), np.log(a / (1 - a)))
    np.testing.assert_allclose(level.log_snr, expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(
        level.signal.square() + level.sigma.square(), torch.ones(500).double(), rtol=1e-15, atol=0
    )
    assert torch.equal(level.t, times)


@pytest.mark.parametrize("name", sorted(EVERY))
@pytest.mark.parametrize("part", [1e-6, 0.25, 0.5, 0.999])
def test_time_reads_fractional_times_back(name: str, part: float) -> None:
    schedule = EVERY[name]
    # Where no signal is left at T, log-SNR has no line from T − 1 to it.
    times = nodes(schedule)[: -1 if schedule.beta[-1] < 1 else -2] + part
    torch.testing.assert_close(schedule.time(schedule(times).log_snr), times, rtol=0, atol=1e-9)
    assert torch.equal(schedule.at(schedule(times).log_snr).t, schedule.time(schedule(times).log_snr))


@every
def test_time_is_the_inverse_of_log_snr(schedule: DiscreteSchedule) -> None:
    times = nodes(schedule)
    assert torch.equal(schedule.time(schedule(times).log_snr), times)
    shuffled = times[torch.randperm(len(times))].reshape(1, -1)
    assert torch.equal(schedule.time(schedule(shuffled).log_snr), shuffled)
    one = schedule.time(schedule(times[-1]).log_snr)
    assert one.shape == ()
    assert one.dtype == torch.float64
    assert schedule.time(torch.tensor([-math.inf, math.inf])).tolist() == [schedule.horizon, 1.0]


def test_time_is_linear_in_log_snr_between_the_nodes() -> None:
    schedule = Linear()
    node = schedule(nodes(schedule)).log_snr
    for part in (0.25, 0.5, 0.9):
        between = node[:-1] + part * node.diff()
        torch.testing.assert_close(schedule.time(between), nodes(schedule)[:-1] + part, rtol=1e-9, atol=0)


@given(st.lists(st.floats(-30, 30), min_size=2, max_size=50), st.sampled_from(sorted(EVERY)))
def test_time_falls_as_log_snr_rises(log_snr: list[float], name: str) -> None:
    schedule = EVERY[name]
    time = schedule.time(torch.tensor(sorted(log_snr), dtype=torch.float64))
    assert bool((time.diff() <= 0).all())
    assert bool(((time >= 1) & (time <= schedule.horizon)).all())


# ------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("steps", [2, 10, 19, 20])
def test_linear_of_twenty_steps_or_fewer_is_refused(steps: int) -> None:
    with pytest.raises(ValueError, match="more than 20 steps") as caught:
        Linear(steps=steps)(1)
    assert f"{steps} steps" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert Linear(steps=21).beta.max() < 1


@pytest.mark.parametrize(
    "schedule",
    [
        Linear(steps=0, last=0.5),
        Constant(steps=0),
        Constant(value=0.0),
        Constant(value=1.0),
        Given(values=()),
        Given(values=(0.1, -0.1)),
        Given(values=(0.1, 1.0, 0.1)),
        Given(values=(0.1, 1.01)),
        Given(values=(0.1, math.nan)),
        Linear(first=0.0, last=0.02),
        Linear(first=1.2, last=0.02),
        Jsd(steps=0),
        Warmup(last=1.0),
        Laplace(steps=0),
        ZeroTerminalSNR(base=Given(values=(0.3,))),
    ],
)
def test_tables_that_are_none_are_refused(schedule: DiscreteSchedule) -> None:
    with pytest.raises(ValueError, match=r"beta|step") as caught:
        schedule(0)
    assert "\n" not in str(caught.value)


def test_settings_of_a_table_are_checked() -> None:
    with pytest.raises(ValueError, match=r"fraction = 1.5: must lie between 0 and 1"):
        Warmup(fraction=1.5)
    with pytest.raises(ValueError, match="scale = 0: must be above 0"):
        Laplace(scale=0)


def test_beta_may_be_one_in_the_last_step_only() -> None:
    assert Given(values=(0.1, 1.0))(2).signal == 0


# ---------------------------------------------------------------------------------------------------- casting and noise


@pytest.mark.parametrize(
    ("x", "precision"),
    [
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64,) * 2,
    ],
    ids=str,
)
@pytest.mark.parametrize("times", [torch.tensor(1), torch.tensor([1, 1000])], ids=["one", "a batch"])
def test_coefficients_are_never_cast_below_float32(times: Tensor, x: torch.dtype, precision: torch.dtype) -> None:
    level, pictures = Linear()(times), torch.ones(2, 3, 4, 5, dtype=x)
    sigma = cast(level.sigma, pictures)
    assert sigma.dtype == precision
    # What counts is the precision of the product: a tensor without axes would take on that of the picture.
    assert (sigma * pictures).dtype == precision
    assert (sigma * pictures).shape == pictures.shape
    assert noisy(pictures, pictures, level).dtype == precision
    at = level.to(pictures)
    expected = level.signal.to(precision).reshape(-1, 1, 1, 1).expand(2, 1, 1, 1)
    assert torch.equal(at.signal.expand(2, 1, 1, 1), expected)


def test_noisy_is_equation_4_and_diffusers() -> None:
    schedule, times = Linear(), torch.tensor([1, 2, 500, 1000])
    x_0, eps = torch.randn(2, 4, 3, 5, 6, dtype=torch.float64)
    ours = noisy(x_0, eps, schedule(times))
    a = figure("alphas_cumprod").numpy()[times.numpy() - 1]
    for b in range(4):
        by_hand = math.sqrt(a[b]) * x_0[b] + math.sqrt(1 - a[b]) * eps[b]
        torch.testing.assert_close(ours[b], by_hand, rtol=0, atol=1e-13)
    peer = DDPMScheduler().add_noise(x_0.float(), eps.float(), times - 1)  # pyright: ignore[reportArgumentType]
    torch.testing.assert_close(ours.float(), peer, rtol=0, atol=1e-5)


def test_level_is_frozen() -> None:
    with pytest.raises(AttributeError):
        Level.__setattr__(Linear()(1), "t", torch.tensor(0.0))
