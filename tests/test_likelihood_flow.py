"""The flow's density: against normal data, whose noised density is known at every level."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import pytest
import torch
from tests.oracle import Function, pictures
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal

from fromnoise.codec import Pixels
from fromnoise.denoiser import Clip, Denoiser
from fromnoise.likelihood import Density, Flow, Flowing, dequantised, every_direction, log_density, random_directions
from fromnoise.parameterization import Epsilon, Velocity
from fromnoise.runge_kutta import DormandPrince, Heun, RungeKutta4, Solver, State
from fromnoise.schedule import EDM, ContinuousCosine, Cosine, Linear, Rectified, Schedule, VariancePreserving

_MIX = torch.tensor(
    [[0.5, 0.0, 0.0, 0.0], [0.2, 0.4, 0.0, 0.0], [-0.3, 0.1, 0.3, 0.0], [0.1, 0.2, -0.2, 0.35]], dtype=torch.float64
)
COVARIANCE = _MIX @ _MIX.T
MEAN = torch.tensor([0.3, -0.2, 0.5, 0.0], dtype=torch.float64)
X = (MEAN + torch.tensor([[0.3, 1.1, -0.4, 0.2], [-1.2, 0.1, 0.5, 1.4], [0, 0, 0, 0]]).double() @ _MIX.T).reshape(
    3, 1, 2, 2
)


def perfect(schedule: Schedule, mean: Tensor = MEAN) -> Denoiser:
    """The best denoiser for data N(mean, COVARIANCE), eps = sigma (s² C + sigma²)⁻¹ (x_t − s mean).

    As velocity where no signal is left at the end. It clips, which the flow must not.
    """
    values, basis = torch.linalg.eigh(COVARIANCE)

    def output(x_t: Tensor, c_time: Tensor) -> Tensor:
        level = schedule(c_time.double() + 1)
        s, sigma = level.signal[:, None], level.sigma[:, None]
        apart = (x_t.flatten(1).double() - s * mean) @ basis
        eps = (sigma * apart / (s**2 * values + sigma**2)) @ basis.T
        if ends_bare:
            x_0 = mean + (s * values * apart / (s**2 * values + sigma**2)) @ basis.T
            eps = (s * eps - sigma * x_0) / (s**2 + sigma**2)
        return eps.reshape(x_t.shape).to(x_t.dtype)

    ends_bare = bool(schedule(schedule.horizon).signal == 0)
    return Denoiser(Function(output), schedule, Velocity() if ends_bare else Epsilon(), clip=Clip(limit=0.1))


def exact(x: Tensor, ratio: float, mean: Tensor = MEAN) -> Tensor:
    noised = COVARIANCE + ratio**2 * torch.eye(4, dtype=torch.float64)
    return MultivariateNormal(mean, noised).log_prob(x.flatten(1).double())


def density(denoiser: Denoiser, x: Tensor, flow: Flow, directions: Tensor | None = None) -> Density:
    *_, last = log_density(denoiser, x, every_direction(x) if directions is None else directions, flow)
    assert isinstance(last, Density)
    return last


@cache
def far() -> Tensor:
    """The flow on the paper's schedule, solved as finely as float64 allows: the prior's own error is in it."""
    flow = Flow(solver=DormandPrince(rtol=1e-9, atol=1e-9), probes=None)
    return density(perfect(Linear()), X, flow).nats


# ------------------------------------------------------------------------------------------------------ exact densities


@pytest.mark.parametrize(
    ("schedule", "ratio", "mean"),
    [
        (Linear(), math.sqrt(1e-4 / (1 - 1e-4)), 0 * MEAN),  # At its end x_T knows the mean: not quite N(0, 1).
        (Cosine(), None, MEAN),
        (VariancePreserving(beta_max=40.0), 0.002, MEAN),
        (ContinuousCosine(), 0.002, MEAN),
        (EDM(sigma_max=5000.0), 0.002, MEAN),
        (Rectified(), 0.002, MEAN),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Schedule) else "",
)
def test_the_density_of_noised_normal_data(schedule: Schedule, ratio: float | None, mean: Tensor) -> None:
    """In total, not per dimension, within 1e-3 nat."""
    if ratio is None:
        ratio = math.exp(-schedule(1.0).half_log_snr.item())
    denoiser = perfect(schedule, mean)
    for solver in (DormandPrince(rtol=1e-5, atol=1e-5), RungeKutta4(steps=80)):
        found = density(denoiser, X, Flow(solver=solver, probes=None))
        torch.testing.assert_close(found.nats, exact(X, ratio, mean), rtol=0, atol=1e-3)


def test_the_smallest_level_is_a_choice_on_a_continuous_clock() -> None:
    flow = Flow(solver=DormandPrince(rtol=1e-7, atol=1e-7), probes=None, smallest=0.1)
    found = density(perfect(EDM(sigma_max=5000.0)), X, flow)
    torch.testing.assert_close(found.nats, exact(X, 0.1), rtol=0, atol=1e-3)


def test_float32_and_inference_mode_change_little() -> None:
    denoiser, flow = perfect(Cosine()), Flow(solver=RungeKutta4(steps=60), probes=None)
    fine = density(denoiser, X, flow)
    with torch.inference_mode():
        coarse = density(denoiser, X.float() + 0, flow)
    assert fine.nfe == coarse.nfe == 240
    torch.testing.assert_close(coarse.nats, fine.nats, rtol=0, atol=2e-3)


@pytest.mark.parametrize(("rule", "order", "steps"), [(Heun, 2, (60, 120)), (RungeKutta4, 4, (40, 80))])
def test_equal_steps_converge_at_their_order(rule: type, order: int, steps: tuple[int, int]) -> None:
    """To what steps of chosen width give."""
    denoiser = perfect(Linear())
    limit = far()
    errors = [(density(denoiser, X, Flow(solver=rule(steps=n), probes=None)).nats - limit).abs().max() for n in steps]
    assert (errors[0] / errors[1]).item() == pytest.approx(2**order, rel=0.15)


@pytest.mark.parametrize("tolerance", [1e-3, 1e-5, 1e-7])
def test_chosen_steps_keep_to_the_tolerance(tolerance: float) -> None:
    """Per dimension, for the tolerance is of that; the errors of some 30 steps may add up."""
    denoiser = perfect(Linear())
    limit = far()
    found = density(denoiser, X, Flow(solver=DormandPrince(rtol=tolerance, atol=tolerance), probes=None)).nats
    assert (found - limit).abs().max() / 4 < 30 * tolerance


def test_a_picture_does_not_depend_on_its_batch() -> None:
    denoiser, flow = perfect(VariancePreserving()), Flow(solver=DormandPrince(), probes=2)
    directions = flow.directions([7, 8, 9], X)
    whole = density(denoiser, X, flow, directions).nats
    for k in range(3):
        alone = density(denoiser, X[k : k + 1], flow, flow.directions([7 + k], X[k : k + 1])).nats
        torch.testing.assert_close(alone[0], whole[k], rtol=0, atol=1e-9)


# ----------------------------------------------------------------------------------------------------------- divergence


@dataclass(frozen=True, kw_only=True)
class Once(Solver):
    """Keeps the slope at the start."""

    seen: list[State]

    def __call__(self, slope: object, y: State, start: Tensor, end: Tensor) -> Iterator[tuple[float, State]]:
        self.seen.append(slope(y, start))  # type: ignore[operator]
        yield 1.0, y

    @property
    def summary(self) -> str:
        return "none"


def crooked(x: Tensor, c_time: Tensor) -> Tensor:
    """A network that mixes all pixels, with a Jacobian that is neither symmetric nor constant."""
    flat = x.flatten(1)
    mix = torch.sin(torch.arange(flat.shape[1] ** 2, dtype=x.dtype)).reshape(flat.shape[1], -1)
    return (torch.tanh(flat @ mix) * flat.roll(1, 1) + 0.01 * c_time[:, None]).reshape(x.shape)


@pytest.mark.parametrize("schedule", [Linear(), EDM()], ids=repr)
def test_the_slope_is_the_flow_and_its_divergence(schedule: Schedule) -> None:
    """dx̂/dτ = ρ eps(signal x̂), and the trace of the whole Jacobian by autograd."""
    seen: list[State] = []
    denoiser, x = Denoiser(Function(crooked), schedule, Epsilon()), pictures().double()[:, :, :2, :3]
    level = schedule(1.0) if schedule.whole else schedule.at(torch.tensor(-2 * math.log(0.5), dtype=torch.float64))
    density(denoiser, x, Flow(solver=Once(seen=seen), smallest=0.5), every_direction(x))
    ratio = level.sigma / level.signal

    def flow(one: Tensor) -> Tensor:
        return ratio * crooked(level.signal * one[None], (level.t - 1)[None])[0]

    for k in range(2):
        torch.testing.assert_close(seen[0][0][k], flow(x[k]), rtol=1e-9, atol=1e-12)
        jacobian = torch.autograd.functional.jacobian(flow, x[k]).reshape(6, 6)
        assert seen[0][1][k].item() * 6 == pytest.approx(jacobian.trace().item(), rel=1e-9)


def test_all_signs_together_are_exact() -> None:
    """Hutchinson's estimate is unbiased: its mean over all 16 vectors of signs is the trace."""
    signs = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=4)), dtype=torch.float64)
    directions = (signs / 4).reshape(16, 1, 1, 2, 2).expand(16, 3, 1, 2, 2)
    denoiser, flow = perfect(Linear()), Flow(solver=RungeKutta4(steps=6))
    ours, whole = density(denoiser, X, flow, directions).nats, density(denoiser, X, flow).nats
    torch.testing.assert_close(ours, whole, rtol=0, atol=1e-9)
    single = [density(denoiser, X, flow, 4 * directions[k : k + 1]).nats for k in range(16)]
    torch.testing.assert_close(torch.stack(single).mean(0), whole, rtol=0, atol=1e-9)
    assert torch.stack(single).std(0).min() > 0.1


def test_random_directions_are_signs_of_the_picture_s_own() -> None:
    directions = random_directions([5, 6], 2000, X[:2])
    assert directions.shape == (2000, 2, 1, 2, 2)
    torch.testing.assert_close(directions.abs(), torch.full_like(directions, 2000**-0.5), rtol=1e-15, atol=0)
    again = random_directions([6], 2000, X[:1])
    assert torch.equal(again[:, 0], directions[:, 1])
    flat = directions.flatten(2)
    identity = torch.einsum("kbi,kbj->bij", flat, flat)
    assert (identity - torch.eye(4)).abs().max() < 5 / 2000**0.5
    assert (flat[:, 0] * flat[:, 1]).sum(0).abs().max() < 5 / 2000**0.5
    total = torch.einsum("kbi,kbj->bij", *[every_direction(X[:2]).flatten(2)] * 2)
    assert torch.equal(total, torch.eye(4, dtype=torch.float64).expand(2, 4, 4))


# ----------------------------------------------------------------------------------------------------------------- bits


def test_dequantised_pictures_fill_their_bins() -> None:
    images = torch.randint(256, (3, 1, 40, 40), dtype=torch.uint8)
    x_0 = Pixels().encode(images)
    x = dequantised(x_0, [1, 2, 3])
    moved = (x - x_0) * 127.5
    assert moved.abs().max() <= 0.5 + 1e-4
    assert moved.min() < -0.49 and moved.max() > 0.49
    assert abs(moved.mean().item()) < 4 / math.sqrt(12 * moved.numel())
    assert moved.var().item() == pytest.approx(1 / 12, rel=0.05)
    assert torch.equal(dequantised(x_0[1:2], [2]), x[1:2])


def test_bits_are_those_of_the_grey_levels_probabilities() -> None:
    """Of normal data rounded to grey levels: the mean over dequantisation is above −log2 P, by very little here."""
    schedule, side, deviation = EDM(sigma_max=1000.0), 64, 0.2
    images = torch.randint(90, 160, (4, 1, 1, side), dtype=torch.uint8)
    variance = deviation**2 + 0.002**2

    def eps(x_t: Tensor, c_time: Tensor) -> Tensor:
        sigma = (c_time + 1)[:, None, None, None]
        return sigma * x_t / (deviation**2 + sigma**2)

    x_0 = Pixels().encode(images).double()
    x = dequantised(x_0, [0, 1, 2, 3])
    flow = Flow(
        solver=DormandPrince(rtol=1e-6, atol=1e-6), probes=1
    )  # The Jacobian is a multiple of 1: one probe will do.
    denoiser = Denoiser(Function(eps), schedule, Epsilon())
    found = density(denoiser, x, flow, flow.directions([0, 1, 2, 3], x))
    normal = Normal(torch.tensor(0.0).double(), math.sqrt(variance))
    bins = normal.cdf(x_0 + 1 / 255) - normal.cdf(x_0 - 1 / 255)
    ideal = -bins.log2().mean().item()
    noise = (normal.log_prob(x) - normal.log_prob(x_0)).std().item() / math.log(2) / math.sqrt(4 * side)
    assert found.bits_per_dim.mean().item() == pytest.approx(ideal, abs=4 * noise)
    assert noise < 0.01
    assert found.dims == side


# ----------------------------------------------------------------------------------------------------- events, mistakes


def test_events_tell_how_far_it_is() -> None:
    events = list(log_density(perfect(Linear()), X, every_direction(X), Flow(solver=Heun(steps=4), probes=None)))
    assert events[:-1] == [Flowing(share, nfe) for share, nfe in ((0.25, 2), (0.5, 4), (0.75, 6), (1.0, 8))]
    assert isinstance(events[-1], Density) and events[-1].nfe == 8


def test_summaries_say_how() -> None:
    assert Flow(solver=Heun(steps=100), probes=None).summary == (
        "probability flow, exact divergence, 100 steps of Heun's rule"
    )
    assert "Hutchinson's estimate with 1 probe, 50 steps of Runge-Kutta 4" in Flow().summary
    assert "3 probes, steps of Dormand & Prince's rule" in Flow(solver=DormandPrince(), probes=3).summary


@pytest.mark.parametrize(
    ("settings", "message"), [({"probes": 0}, "probes = 0"), ({"smallest": 0.0}, "smallest = 0.0")]
)
def test_settings_without_sense_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Flow(**settings)  # type: ignore[arg-type]


def test_a_network_that_breaks_ends_the_adaptive_flow() -> None:
    broken = Denoiser(Function(lambda x, c_time: x * torch.nan), Linear(), Epsilon())
    with pytest.raises(ValueError, match="not finite"):
        density(broken, X, Flow(solver=DormandPrince(), probes=None))
