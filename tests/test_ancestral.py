"""The paper's sampler: against the reference trajectories, diffusers, and Gaussian data whose exact answer is known."""

import math
from collections.abc import Iterator

import pytest
import torch
from diffusers import DDPMScheduler
from tests.oracle import VARIANCES, ClosedForm, Function, figure, gaussian_mean, gaussian_network, impulses
from torch import Tensor

from fromnoise.denoiser import Clip, Denoiser
from fromnoise.ladder import All, Strided
from fromnoise.noise import GivenNoise, Noise, SeededNoise
from fromnoise.parameterization import Epsilon
from fromnoise.sampler import Ancestral, Sampler, Step, trajectory
from fromnoise.sampler.base import Denoise, Traits
from fromnoise.schedule import Cosine, DiscreteSchedule, Level, Linear
from fromnoise.transition import Large, LearnedRange, Small, Variance

PAPER = Linear()


def closed_form(*, learned: bool = False) -> Denoiser:
    return Denoiser(ClosedForm(learned=learned), PAPER, Epsilon(), clip=Clip())


def last(steps: Iterator[Step]) -> Step:
    *_, step = steps
    return step


# ----------------------------------------------------------------------------------------------- reference trajectories


@pytest.mark.parametrize(("ladder", "length"), [("full", 1000), ("100", 100)])
@pytest.mark.parametrize("name", VARIANCES)
def test_trajectory_is_the_reference(name: str, ladder: str, length: int) -> None:
    times = (All() if ladder == "full" else Strided(steps=100)).ladder(PAPER)
    denoiser = closed_form(learned=name == "learned_range")
    noise = GivenNoise(figure("noise"))
    steps = trajectory(Ancestral(variance=VARIANCES[name]), denoiser, PAPER, times, figure("x_T"), noise)
    end = last(steps)
    assert end.nfe == length
    torch.testing.assert_close(end.x, figure(f"{name}/ancestral_{ladder}/x_0"), rtol=0, atol=5e-6)


def peer(variance_type: str, steps: int) -> DDPMScheduler:
    """diffusers' sampler over float64 tables: its own are float32, which would hide what is to be seen."""
    scheduler = DDPMScheduler(variance_type=variance_type, clip_sample=True)  # pyright: ignore[reportArgumentType]
    scheduler.betas = figure("betas")
    scheduler.alphas = 1 - scheduler.betas
    scheduler.alphas_cumprod = scheduler.alphas.cumprod(0)
    scheduler.one = torch.ones((), dtype=torch.float64)
    scheduler.set_timesteps(steps)
    return scheduler


@pytest.mark.parametrize("steps", [1000, 50])
@pytest.mark.parametrize(
    ("variance_type", "variance"),
    [("fixed_small", Small()), ("fixed_large", Large()), ("learned_range", LearnedRange())],
    ids=["fixed_small", "fixed_large", "learned_range"],
)
def test_trajectory_is_diffusers(variance_type: str, variance: Variance, steps: int) -> None:
    network = ClosedForm(learned=variance_type == "learned_range")
    x_T, scheduler = torch.randn(3, 2, 4, 5, dtype=torch.float64), peer(variance_type, steps)
    ladder = torch.cat([scheduler.timesteps.double() + 1, torch.zeros(1, dtype=torch.float64)])

    same = torch.Generator().manual_seed(5)
    noise = GivenNoise(torch.randn(x_T.shape, dtype=torch.float64, generator=same) for _ in range(steps))
    denoiser = Denoiser(network, PAPER, Epsilon(), clip=Clip())
    ours = trajectory(Ancestral(variance=variance), denoiser, PAPER, ladder, x_T, noise)

    x, source = x_T, torch.Generator().manual_seed(5)
    for time, step in zip(scheduler.timesteps, ours, strict=True):
        output = network(x, time.double().expand(3))
        x, x_0, *_ = scheduler.step(output, int(time), x, generator=source, return_dict=False)
        torch.testing.assert_close(step.prediction.x_0, x_0, rtol=0, atol=1e-10)
        torch.testing.assert_close(step.x, x, rtol=0, atol=1e-10)


# -------------------------------------------------------------------------------------------------------- Gaussian data


def exact_denoiser(schedule: DiscreteSchedule, mean: float, deviation: float) -> Denoiser:
    return Denoiser(gaussian_network(schedule.alpha_bar, mean, deviation), schedule, Epsilon())


def variances(
    schedule: DiscreteSchedule, variance: Variance, denoiser: Denoiser, ladder: Tensor, start: float
) -> Tensor:
    """var(x_s) at every rung below the first, exactly: the sum of squares of the answers to every draw alone."""
    x_T, noise = impulses(len(ladder) - 2)
    x_T = x_T * math.sqrt(start)
    steps = trajectory(Ancestral(variance=variance), denoiser, schedule, ladder, x_T, noise)
    return torch.stack([step.x.square().sum() for step in steps])


LADDERS = {"every time": All(), "60 times": Strided(steps=60), "7 times": Strided(steps=7), "2 times": Strided(steps=2)}
SCHEDULES: dict[str, DiscreteSchedule] = {"linear": Linear(steps=200), "cosine": Cosine(steps=200)}
on_every_ladder = pytest.mark.parametrize("spacing", LADDERS.values(), ids=LADDERS.keys())
on_every_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())


@on_every_ladder
@on_every_schedule
def test_large_is_exact_for_standard_normal_data(schedule: DiscreteSchedule, spacing: All | Strided) -> None:
    """x_t is N(0, 1) at every time, on any ladder; the last step takes the mean and leaves ᾱ of the time before."""
    ladder = spacing.ladder(schedule)
    ours = variances(schedule, Large(), exact_denoiser(schedule, 0, 1), ladder, 1.0)
    torch.testing.assert_close(ours[:-1], torch.ones(len(ladder) - 2, dtype=torch.float64), rtol=1e-12, atol=0)
    assert ours[-1].item() == pytest.approx(schedule.alpha_bar[int(ladder[-2])].item(), rel=1e-12)


@on_every_ladder
@on_every_schedule
def test_small_is_exact_for_a_single_picture(schedule: DiscreteSchedule, spacing: All | Strided) -> None:
    """x_t is N(signal · m, sigma²) at every time, on any ladder; and the end is the picture itself."""
    ladder, picture = spacing.ladder(schedule), 0.6
    a = schedule.alpha_bar[ladder.long()]
    ours = variances(schedule, Small(), exact_denoiser(schedule, 0, 0), ladder, 1 - a[0].item())
    torch.testing.assert_close(ours[:-1], (1 - a)[1:-1], rtol=1e-9, atol=0)
    assert ours[-1].item() == pytest.approx(0, abs=1e-20)
    # The mean: without noise, from signal_T · m.
    silent = GivenNoise(torch.zeros(1, 1, 1, 1, dtype=torch.float64) for _ in ladder)
    x_T = a[0].sqrt().reshape(1, 1, 1, 1) * picture
    steps = trajectory(Ancestral(), exact_denoiser(schedule, picture, 0), schedule, ladder, x_T, silent)
    means = torch.stack([step.x.squeeze() for step in steps])
    torch.testing.assert_close(means, picture * a[1:].sqrt(), rtol=1e-9, atol=0)


@pytest.mark.parametrize("deviation", [0.05, 0.5, 0.9])
@on_every_ladder
def test_the_right_variance_between_them_is_exact_for_any_gaussian(spacing: All | Strided, deviation: float) -> None:
    """For data N(0, c²) the variance of x_s given x_t lies between β̃ and β; a network that knows where is exact.

    Var(x_s | x_t) = β̃ + (weight of x_0 in the posterior's mean)² · Var(x_0 | x_t).
    """
    schedule = SCHEDULES["linear"]
    ladder = spacing.ladder(schedule)
    below = dict(zip(ladder[:-1].tolist(), ladder[1:].tolist(), strict=True))
    noise_part = gaussian_network(schedule.alpha_bar, 0, deviation)

    def network(x: Tensor, c_time: Tensor) -> Tensor:
        t = int(c_time[0]) + 1
        a_t, a_s = (schedule.alpha_bar[int(i)].item() for i in (t, below[t]))
        beta = 1 - a_t / a_s
        tilde = beta * (1 - a_s) / (1 - a_t)
        weight = math.sqrt(a_s) * beta / (1 - a_t)
        unsure = deviation**2 * (1 - a_t) / (a_t * deviation**2 + 1 - a_t)
        v = 0.0
        if below[t] > 0:
            share = math.log((tilde + weight**2 * unsure) / tilde) / math.log(beta / tilde)
            assert 0 < share < 1
            v = 2 * share - 1
        return torch.cat([noise_part(x, c_time), torch.full_like(x, v)], 1)

    denoiser = Denoiser(Function(network), schedule, Epsilon())
    a = schedule.alpha_bar[ladder.long()]
    true = a * deviation**2 + 1 - a
    ours = variances(schedule, LearnedRange(), denoiser, ladder, true[0].item())
    torch.testing.assert_close(ours[:-1], true[1:-1], rtol=1e-9, atol=0)
    # The last step takes the mean: what is lost is Var(x_0 | x_1) of the last time.
    lost = deviation**2 * (1 - a[-2]) / true[-2]
    assert ours[-1].item() == pytest.approx(deviation**2 - lost.item(), rel=1e-9)


def test_thousand_steps_from_noise_end_in_the_data() -> None:
    """20,000 numbers from N(0.3, 0.2²), all by chance: mean and variance within 4.5 standard errors of what is due."""
    mean, deviation, n = 0.3, 0.2, 20_000
    noise = SeededNoise([11], (1, 100, 200))
    denoiser = exact_denoiser(PAPER, mean, deviation)
    x = last(trajectory(Ancestral(), denoiser, PAPER, All().ladder(PAPER), noise(), noise)).x.double()
    # What is due, step by step as numbers: x_s = k x_t + c + β̃ · noise.
    beta, a = figure("betas").tolist(), [1.0, *figure("alphas_cumprod").tolist()]
    due, spread = 0.0, 1.0
    for t in range(1000, 0, -1):
        signal, sigma = torch.tensor(a[t]).double().sqrt(), torch.tensor(1 - a[t]).double().sqrt()
        ends = [gaussian_mean(torch.tensor(v).double(), signal, sigma, mean, deviation).item() for v in (0.0, 1.0)]
        from_x_0 = math.sqrt(a[t - 1]) * beta[t - 1] / (1 - a[t])
        from_x_t = math.sqrt(1 - beta[t - 1]) * (1 - a[t - 1]) / (1 - a[t])
        gain = from_x_0 * (ends[1] - ends[0]) + from_x_t
        due = gain * due + from_x_0 * ends[0]
        spread = gain**2 * spread + beta[t - 1] * (1 - a[t - 1]) / (1 - a[t])
    assert x.mean().item() == pytest.approx(due, abs=4.5 * math.sqrt(spread / n))
    assert x.var().item() == pytest.approx(spread, abs=4.5 * spread * math.sqrt(2 / n))
    # And that is the data, up to what a thousand steps of the smaller variance lose.
    assert due == pytest.approx(mean, abs=1e-3)
    assert math.sqrt(spread) == pytest.approx(deviation, rel=0.02)


# ------------------------------------------------------------------------------------------------------------- the loop


def test_picture_k_is_the_same_in_any_batch() -> None:
    seeds, shape, ladder = [3, 1, 4, 15, 92], (1, 4, 6), Strided(steps=25).ladder(PAPER)

    def sample(some: list[int]) -> Tensor:
        noise = SeededNoise(some, shape)
        return last(trajectory(Ancestral(), closed_form(), PAPER, ladder, noise(), noise)).x

    together = sample(seeds)
    assert torch.equal(torch.cat([sample(seeds[:2]), sample(seeds[2:])]), together)
    assert torch.equal(torch.cat([sample([seed]) for seed in seeds]), together)
    assert torch.equal(sample(seeds[::-1]).flip(0), together)
    assert len({tuple(picture.flatten().tolist()) for picture in together}) == len(seeds)


def test_steps_tell_what_was_done() -> None:
    ladder = Strided(steps=10).ladder(PAPER)
    noise = SeededNoise([0], (1, 2, 2))
    steps = list(trajectory(Ancestral(), closed_form(), PAPER, ladder, noise(), noise))
    assert [step.t for step in steps] == ladder[:-1].tolist()
    assert [step.s for step in steps] == ladder[1:].tolist()
    assert [step.nfe for step in steps] == list(range(1, 11))
    # The last step has nothing left to add: it ends in the network's own estimate, which is within the pictures' range.
    assert torch.equal(steps[-1].x, steps[-1].prediction.x_0)
    assert steps[-1].x.abs().max() <= 1
    assert not torch.equal(steps[-2].x, steps[-2].prediction.x_0)
    assert steps[0].prediction.raw_variance is None


@pytest.mark.parametrize("variance", VARIANCES.values(), ids=VARIANCES.keys())
def test_last_step_draws_no_noise(variance: Variance) -> None:
    denoiser = closed_form(learned=isinstance(variance, LearnedRange))
    draws = torch.randn(9, 2, 1, 2, 2)  # one fewer than steps
    ladder = Strided(steps=10).ladder(PAPER)
    end = last(trajectory(Ancestral(variance=variance), denoiser, PAPER, ladder, draws[0], GivenNoise(draws)))
    assert bool(end.x.isfinite().all())


def test_condition_reaches_the_network_at_every_call() -> None:
    seen = []

    def spy(x: Tensor, c_time: Tensor, labels: Tensor) -> Tensor:
        seen.append((c_time.tolist(), labels.tolist()))
        return x

    denoiser, noise = Denoiser(Function(spy), PAPER, Epsilon()), SeededNoise([0, 1], (1, 2, 2))
    ladder = torch.tensor([1000.0, 10.0, 1.0, 0.0])
    list(trajectory(Ancestral(), denoiser, PAPER, ladder, noise(), noise, labels=torch.tensor([7, 8])))
    assert seen == [([t, t], [7, 8]) for t in (999.0, 9.0, 0.0)]


def test_nothing_is_kept_for_a_gradient() -> None:
    weight = torch.nn.Parameter(torch.tensor(0.1))
    denoiser, noise = Denoiser(Function(lambda x, c_time: weight * x), PAPER, Epsilon()), SeededNoise([0], (1, 2, 2))
    steps = trajectory(Ancestral(), denoiser, PAPER, Strided(steps=3).ladder(PAPER), noise(), noise)
    step = next(steps)
    assert torch.is_grad_enabled()  # between the steps the caller's own modes hold
    assert not torch.is_inference_mode_enabled()
    assert not step.x.requires_grad
    assert not last(steps).x.requires_grad


BAD_LADDERS = {
    "does not end at 0": [1000.0, 500.0, 1.0],
    "rises": [10.0, 20.0, 0.0],
    "stays": [10.0, 10.0, 0.0],
    "ends alone": [0.0],
    "is empty": [],
    "goes below": [10.0, -1.0, 0.0],
    "is no number": [10.0, math.nan, 0.0],
}


@pytest.mark.parametrize("times", BAD_LADDERS.values(), ids=BAD_LADDERS.keys())
def test_ladders_that_do_not_go_down_to_0_are_refused(times: list[float]) -> None:
    ladder = torch.tensor(times, dtype=torch.float64)
    noise = SeededNoise([0], (1, 2, 2))
    with pytest.raises(ValueError, match="strictly decreasing list of at least two times that ends at 0"):
        next(trajectory(Ancestral(), closed_form(), PAPER, ladder, noise(), noise))


OFF_THE_CLOCK = {
    "beyond the end": ([1001.0, 0.0], "this schedule knows the times 0 and 1 … 1000, not 1001, 0"),
    "between two times": ([10.5, 1.0, 0.0], "Ancestral visits only the whole times that the network was trained on"),
}


@pytest.mark.parametrize(("times", "message"), OFF_THE_CLOCK.values(), ids=OFF_THE_CLOCK.keys())
def test_ladders_off_the_clock_are_refused(times: list[float], message: str) -> None:
    noise = SeededNoise([0], (1, 2, 2))
    with pytest.raises(ValueError, match=message):
        next(trajectory(Ancestral(), closed_form(), PAPER, torch.tensor(times), noise(), noise))


class Twice(Sampler[int]):
    """Asks the denoiser twice a step and counts its steps in the state; ``calls`` = 0 asks never."""

    def __init__(self, calls: int = 2) -> None:
        self.calls, self.states, self.steps = calls, [], 0

    @property
    def traits(self) -> Traits:
        return Traits(order=1, calls=self.calls)

    def init(self, steps: int) -> int:
        self.steps = steps
        return 0

    def step(self, denoise: Denoise, x_t: Tensor, t: Level, s: Level, state: int, noise: Noise) -> tuple[Tensor, int]:
        self.states.append(state)
        for i in range(self.calls):
            x_t = denoise(x_t + i, t).x_0
        return x_t, state + 1


def test_the_loop_counts_calls_and_hands_the_state_on() -> None:
    sampler, noise = Twice(), SeededNoise([0], (1, 2, 2))
    steps = list(trajectory(sampler, closed_form(), PAPER, Strided(steps=4).ladder(PAPER), noise(), noise))
    assert [step.nfe for step in steps] == [2, 4, 6, 8]
    assert sampler.states == [0, 1, 2, 3]
    assert sampler.steps == 4
    assert all(torch.equal(step.x, step.prediction.x_0) for step in steps)  # the prediction is the last one made


def test_a_sampler_that_asks_no_network_is_refused() -> None:
    noise = SeededNoise([0], (1, 2, 2))
    with pytest.raises(ValueError, match="Twice did not call the denoiser"):
        next(trajectory(Twice(calls=0), closed_form(), PAPER, Strided(steps=4).ladder(PAPER), noise(), noise))
