"""Picture k does not depend on its neighbours, draws are standard normal, and every time gets its noise."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.oracle import Function
from torch import Tensor

from fromnoise.denoiser import Denoiser
from fromnoise.noise import GivenNoise, SeededNoise, generator, key_to_seed
from fromnoise.objective import Simple
from fromnoise.parameterization import Epsilon
from fromnoise.schedule import Cosine, DiscreteSchedule, Linear, noisy

SHAPE = (3, 5, 4)

# ------------------------------------------------------------------------------------------------------ seeded pictures


@given(st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=6))
def test_picture_k_depends_on_its_seed_alone(seeds: list[int]) -> None:
    together, turned = SeededNoise(seeds, SHAPE), SeededNoise(seeds[::-1], SHAPE)
    alone = [SeededNoise([seed], SHAPE) for seed in seeds]
    for _ in range(3):
        draw = together()
        assert draw.shape == (len(seeds), *SHAPE)
        assert draw.dtype == torch.float32
        assert torch.equal(turned().flip(0), draw)
        assert torch.equal(torch.cat([one() for one in alone]), draw)


def test_draws_differ_from_seed_to_seed_and_from_call_to_call() -> None:
    noise = SeededNoise(range(40), (1, 8, 8))
    draws = torch.cat([noise().flatten(1), noise().flatten(1)]).double()
    correlation = torch.corrcoef(draws) - torch.eye(80, dtype=torch.float64)
    # 3160 correlations of 64 numbers, each about N(0, 1/64): beyond 5 deviations one in a thousand such tables.
    assert correlation.abs().max() < 5 / math.sqrt(64)


def test_draws_are_standard_normal() -> None:
    noise = SeededNoise(range(100), (1, 32, 32))
    draw = torch.cat([noise().flatten() for _ in range(4)]).double()
    n = draw.numel()
    assert draw.mean().abs() < 4 / math.sqrt(n)
    assert (draw.var() - 1).abs() < 4 * math.sqrt(2 / n)
    assert draw.pow(3).mean().abs() < 4 * math.sqrt(15 / n)
    assert (draw.pow(4).mean() - 3).abs() < 4 * math.sqrt(96 / n)
    # Kolmogorov and Smirnov's distance from the normal distribution function; 1.95 / √n is passed once in a thousand.
    ordered = draw.sort().values
    steps = torch.arange(1, n + 1, dtype=torch.float64) / n
    assert (torch.special.ndtr(ordered) - steps).abs().max() < 1.95 / math.sqrt(n)


def test_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    SeededNoise([1, 2], SHAPE)()
    generator("train", 1, 2)
    assert torch.equal(torch.get_rng_state(), before)


# ----------------------------------------------------------------------------------------------------------------- keys


def test_keys_are_told_apart() -> None:
    keys: list[tuple[int | str, ...]] = [
        (1, 23),
        (12, 3),
        (123,),
        ("123",),
        ("1", 23),
        (1, "23"),
        (23, 1),
        (),
        ("",),
        (1, 23, 0),
    ]
    assert len({key_to_seed(*key) for key in keys}) == len(keys)
    grid = list(itertools.product(range(20), range(50), range(20)))
    seeds = [key_to_seed(*key) for key in grid]
    assert len(set(seeds)) == len(grid)
    assert all(0 <= seed < 2**63 for seed in seeds)
    # Near keys give unrelated seeds: every one of the 63 bits is set in half of them.
    bits = torch.tensor([[seed >> b & 1 for b in range(63)] for seed in seeds[:10000]], dtype=torch.float64)
    assert (bits.mean(0) - 0.5).abs().max() < 5 * 0.5 / math.sqrt(10000)


def test_seeds_are_the_same_in_every_process_and_version() -> None:
    # What coreutils say: printf "('sample', 7)" | b2sum -l 64, as a little-endian number without its lowest bit.
    digest = bytes.fromhex("29c16380db1c0395")
    assert key_to_seed("sample", 7) == int.from_bytes(digest, "little") // 2
    first = torch.randn(SHAPE, generator=torch.Generator().manual_seed(key_to_seed("sample", 7)))
    assert torch.equal(SeededNoise([7], SHAPE)()[0], first)


def test_same_key_same_noise() -> None:
    first, again, other = (torch.randn(1000, generator=generator("train", 0, step, 5)) for step in (3, 3, 4))
    assert torch.equal(first, again)
    assert torch.corrcoef(torch.stack([first, other]))[0, 1].abs() < 4 / math.sqrt(1000)


def test_given_noise_gives_what_it_was_given_and_no_more() -> None:
    draws = torch.randn(2, 1, *SHAPE)
    noise = GivenNoise(draws)
    assert torch.equal(noise(), draws[0])
    assert torch.equal(noise(), draws[1])
    with pytest.raises(ValueError, match="more noise was asked for"):
        noise()


# ------------------------------------------------------------------------------------ the noise a network is trained on


def exact_draw(*shape: int) -> Tensor:
    """Noise of mean 0 and variance 1 exactly in every picture, so that what is measured is not luck."""
    eps = torch.randn(shape, dtype=torch.float64).flatten(1)
    eps = (eps - eps.mean(1, keepdim=True)) / eps.std(1, correction=0, keepdim=True)
    return eps.reshape(shape).float()


def variance_error(x_t: Tensor, x_0: Tensor, schedule: DiscreteSchedule, t: Tensor) -> float:
    """The largest |var(x_t | x_0) / sigma_t² − 1| over the pictures; one x_0 a picture, known exactly."""
    assert x_t.dtype == torch.float32
    level = schedule(t)
    rest = x_t.double() - level.signal.reshape(-1, 1, 1, 1) * x_0.double()
    return float((rest.flatten(1).square().mean(1) / level.sigma.square() - 1).abs().max())


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("autocast", [False, True], ids=["plain", "under autocast"])
@pytest.mark.parametrize("schedule", [Linear(), Cosine()], ids=["linear", "cosine"])
def test_every_time_gets_noise_of_its_variance(
    schedule: DiscreteSchedule, autocast: bool, precision: torch.dtype
) -> None:
    t = torch.arange(1, 1001)
    x_0 = (2 * torch.rand(1000, 1, 1, 1) - 1).to(precision).expand(-1, 1, 16, 16)
    eps = exact_draw(1000, 1, 16, 16)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        x_t = noisy(x_0, eps, schedule(t))
    assert variance_error(x_t, x_0, schedule, t) < 2e-4
    # One level for the whole batch: as a sampler, a bound or a caller with one time has it.
    for one in (1, 2, 3, 5, 10, 500, 1000):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            x_t = noisy(x_0, eps, schedule(one))
        assert variance_error(x_t, x_0, schedule, torch.tensor(one)) < 2e-4


def test_half_precision_would_lose_the_first_times() -> None:
    """The trap itself: in bfloat16 ᾱ rounds to 1 and the first times carry no noise at all."""
    half = Linear().alpha_bar[1:].to(torch.bfloat16)
    assert bool((half[:10] == 1).all())
    assert bool((Linear()(torch.arange(1, 11)).sigma.float() > 0.0099).all())


@pytest.mark.parametrize("autocast", [None, torch.bfloat16], ids=str)
@pytest.mark.parametrize("outer", [False, True], ids=["plain", "inside a caller's autocast"])
def test_what_the_network_is_trained_on_has_the_noise_of_its_time(autocast: torch.dtype | None, outer: bool) -> None:
    schedule, seen = Linear(), []

    def spy(x: Tensor, c_time: Tensor) -> Tensor:
        seen.append((x, c_time))
        return x

    denoiser = Denoiser(Function(spy), schedule, Epsilon(), autocast=autocast)
    x_0 = (2 * torch.rand(1000, 1, 1, 1) - 1).expand(-1, 1, 16, 16)
    u = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    with torch.autocast("cpu", torch.bfloat16, enabled=outer):
        loss = Simple()(denoiser, x_0, u, exact_draw(1000, 1, 16, 16))
    ((x_t, c_time),) = seen
    assert torch.equal(loss.t, torch.arange(1, 1001, dtype=torch.float64))
    assert torch.equal(c_time, torch.arange(1000.0))
    assert variance_error(x_t, x_0, schedule, loss.t) < 2e-4
