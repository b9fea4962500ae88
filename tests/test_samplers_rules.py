"""Samplers among themselves: identities, traits, wrong use, no signal at the start, no waiting for a device."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
import torch
from tests.gaussians import Clock
from tests.oracle import Function
from tests.rules import DETERMINISTIC, RULES, STOCHASTIC
from torch import Tensor

from fromnoise.config import TABLES
from fromnoise.denoiser import Clip, Denoiser, Prediction
from fromnoise.noise import GivenNoise, SeededNoise
from fromnoise.parameterization import Epsilon, Velocity
from fromnoise.sampler import (
    DDIM,
    DEIS,
    IPNDM,
    Adaptive,
    Ancestral,
    DDIMLarge,
    Euler,
    EulerAncestral,
    Heun,
    Inversion,
    Sampler,
    UniPC,
    check,
    trajectory,
)
from fromnoise.schedule import Level, Linear, ZeroTerminalSNR
from fromnoise.transition import Large

PAPER = Linear()
LADDER = torch.tensor([1000.0, 870, 640, 500, 310, 120, 30, 1, 0], dtype=torch.float64)


def network(x: Tensor, c_time: Tensor) -> Tensor:
    """Not linear, different at every time, and coupling pixels."""
    return 0.8 * torch.tanh(x + 0.1 * torch.cos(c_time / 50)[:, None, None, None]) + 0.1 * x.roll(1, -1)


DENOISER = Denoiser(Function(network), PAPER, Epsilon())


def draws(pictures: int = 2) -> Iterator[Tensor]:
    source = torch.Generator().manual_seed(3)
    while True:
        yield torch.randn(pictures, 1, 2, 3, dtype=torch.float64, generator=source)


def run(sampler: Sampler[Any]) -> list[Tensor]:
    """x after every step, from the same start with the same noise."""
    noise = GivenNoise(draws())
    return [step.x for step in trajectory(sampler, DENOISER, PAPER, LADDER, noise(), noise)]


# ----------------------------------------------------------------------------------------------------------- identities

SAME: dict[str, tuple[Sampler[Any], list[Sampler[Any]]]] = {
    "the paper's chain, small": (Ancestral(), [DDIM(eta=1), EulerAncestral(eta=1)]),
    "the paper's chain, large": (Ancestral(variance=Large()), [DDIMLarge()]),
    "half of the noise": (DDIM(eta=0.5), [EulerAncestral(eta=0.5)]),
    "no noise": (DDIM(), [Euler(), EulerAncestral(eta=0), DEIS(order=1), IPNDM(order=1)]),
}


@pytest.mark.parametrize(("sampler", "others"), SAME.values(), ids=SAME.keys())
def test_samplers_that_are_the_same(sampler: Sampler[Any], others: list[Sampler[Any]]) -> None:
    expected = run(sampler)
    assert not torch.allclose(expected[0], expected[1])
    for other in others:
        for ours, theirs in zip(run(other), expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


ONE_CALL = {name: rule for name, rule in DETERMINISTIC.items() if rule.traits.calls == 1 and not rule.traits.upward}


@pytest.mark.parametrize("sampler", ONE_CALL.values(), ids=ONE_CALL.keys())
def test_the_first_step_is_that_of_ddim(sampler: Sampler[Any]) -> None:
    """With one call and nothing remembered, there is no other."""
    torch.testing.assert_close(run(sampler)[0], run(DDIM())[0], rtol=1e-11, atol=1e-11)


def test_inversion_finds_the_noise_that_ddim_came_from() -> None:
    silent, picture = GivenNoise([]), next(draws()).clamp(-1, 1)

    def there_and_back(iterations: int) -> float:
        *_, up = trajectory(Inversion(iterations=iterations), DENOISER, PAPER, LADDER, picture, silent)
        assert up.t < up.s == 1000
        *_, down = trajectory(DDIM(), DENOISER, PAPER, LADDER, up.x, silent)
        return (down.x - picture).abs().max().item()

    assert there_and_back(60) < 1e-9
    assert there_and_back(1) > 10 * there_and_back(4) > 1e-6


# --------------------------------------------------------------------------------------------------------------- traits


@pytest.mark.parametrize("sampler", RULES.values(), ids=RULES.keys())
def test_traits_tell_the_calls_and_the_noise(sampler: Sampler[Any]) -> None:
    taken = 0

    def counted() -> Iterator[Tensor]:
        nonlocal taken
        for draw in draws():
            taken += 1
            yield draw

    noise = GivenNoise(counted())
    steps = list(trajectory(sampler, DENOISER, PAPER, LADDER, next(draws()), noise))
    calls = [b.nfe - a.nfe for a, b in pairwise(steps)]
    if sampler.traits.calls:
        assert steps[0].nfe == max(calls) == sampler.traits.calls
    assert (taken > 0) == sampler.traits.stochastic


def test_every_sampler_of_the_table_is_among_the_rules() -> None:
    assert {type(rule) for rule in RULES.values()} == set(TABLES[Sampler].values())
    assert {**DETERMINISTIC, **STOCHASTIC} == RULES


@pytest.mark.parametrize("sampler", RULES.values(), ids=RULES.keys())
def test_a_picture_does_not_depend_on_its_batch(sampler: Sampler[Any]) -> None:
    def last(seeds: list[int]) -> Tensor:
        noise = SeededNoise(seeds, (1, 2, 3))
        return [*trajectory(sampler, DENOISER, PAPER, LADDER, noise(), noise)][-1].x

    together = last([5, 6, 7])
    assert together.dtype == torch.float32
    torch.testing.assert_close(torch.cat([last([5]), last([6]), last([7])]), together, rtol=2e-5, atol=2e-5)


# ------------------------------------------------------------------------------------------------------------ wrong use


def halves(steps: int) -> Tensor:
    """A ladder with times between those of training."""
    return torch.cat([torch.linspace(900, 1, steps, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)])


@pytest.mark.parametrize("sampler", RULES.values(), ids=RULES.keys())
def test_ladders_that_do_not_suit_are_refused_in_one_line(sampler: Sampler[Any]) -> None:
    traits, name = sampler.traits, type(sampler).__name__
    least = LADDER[-traits.least_steps - 1 :]
    check(sampler, PAPER, least)
    if traits.least_steps > 1:
        with pytest.raises(ValueError, match=rf"^{name}.* needs at least {traits.least_steps} steps, not .*$") as error:
            check(sampler, PAPER, least[1:])
        assert "\n" not in str(error.value)
    check(sampler, Clock(), halves(8))
    if traits.between:
        *_, end = trajectory(sampler, DENOISER, PAPER, halves(8), next(draws()), GivenNoise(draws()))
        assert bool(end.x.isfinite().all())
    else:
        with pytest.raises(ValueError, match=rf"^{name} visits only the whole times that the network was trained on"):
            check(sampler, PAPER, halves(8))


@pytest.mark.parametrize("sampler", [DEIS(order=4), IPNDM(order=3), UniPC(order=3), UniPC(order=2)])
def test_an_order_above_the_steps_is_refused(sampler: Sampler[Any]) -> None:
    least = sampler.traits.least_steps
    assert f"order={least}" in repr(sampler)
    with pytest.raises(
        ValueError, match=f"needs at least {least} steps, not {least - 1}; take more steps or a lower order"
    ):
        next(trajectory(sampler, DENOISER, PAPER, LADDER[-least:], next(draws()), GivenNoise([])))


WRONG: list[tuple[type, dict[str, Any], str]] = [
    (DDIM, {"eta": -0.1}, "eta = -0.1: must lie between 0"),
    (DDIM, {"eta": 1.1}, "eta = 1.1: must lie between 0"),
    (EulerAncestral, {"eta": 2.0}, "eta = 2.0: must lie between 0"),
    (Heun, {"churn": -1.0}, "must not be negative"),
    (Heun, {"churn": float("nan")}, "must not be negative"),
    (Heun, {"noise_scale": -1.0}, "must not be negative"),
    (UniPC, {"order": 0}, "order = 0: must be 1, 2 or 3"),
    (UniPC, {"order": 4}, "order = 4: must be 1, 2 or 3"),
    (DEIS, {"order": 5}, "order = 5: must be 1, 2, 3 or 4"),
    (IPNDM, {"order": 0}, "order = 0: must be 1, 2, 3 or 4"),
    (Inversion, {"iterations": 0}, "iterations = 0: must be at least 1"),
    (Adaptive, {"rtol": -1e-3}, "rtol = -0.001 must not be negative"),
    (Adaptive, {"atol": 0.0}, "atol = 0.0 and last = 0.002 above 0"),
    (Adaptive, {"last": 0.0}, "last = 0.0 above 0"),
]


@pytest.mark.parametrize(("kind", "settings", "message"), WRONG)
def test_settings_out_of_range_are_refused_in_one_line(kind: type, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        kind(**settings)
    assert "\n" not in str(error.value)


# ----------------------------------------------------------------------------------------------- no signal at the start


@pytest.mark.parametrize("sampler", RULES.values(), ids=RULES.keys())
def test_no_signal_at_the_start_is_no_trouble(sampler: Sampler[Any]) -> None:
    """Where x_T is noise alone, log-SNR and ρ are infinite; all stays finite with a velocity network."""
    schedule = ZeroTerminalSNR(base=PAPER)
    assert schedule(1000.0).signal == 0
    denoiser, noise = Denoiser(Function(network), schedule, Velocity()), SeededNoise([1, 2], (1, 2, 3))
    for step in trajectory(sampler, denoiser, schedule, LADDER, noise(), noise):
        assert bool(step.x.isfinite().all())
        assert step.x.dtype == torch.float32
        assert step.x.abs().max() < 50


# ---------------------------------------------------------------------------------------------- no waiting for a device

ASYNCHRONOUS = {name: rule for name, rule in RULES.items() if rule.traits.calls > 0}


def on_no_device(sampler: Sampler[Any]) -> None:
    """A tensor on the device "meta" has no values: asking for one, as .item() and bool() do, is an error."""
    x, clipped = torch.empty(2, 1, 2, 3, device="meta"), Denoiser(Function(network), PAPER, Epsilon(), clip=Clip())

    def denoise(x_t: Tensor, level: Level) -> Prediction:  # The denoiser but for autocast, which knows no "meta".
        output = network(x_t, level.to(x_t).t.reshape(-1).expand(len(x_t)))
        return clipped.settle(x_t, clipped.read(x_t, output, level), level)

    steps = list(trajectory(sampler, denoise, PAPER, LADDER, x, GivenNoise(x for _ in range(20))))
    assert all(step.x.device.type == "meta" for step in steps)


@pytest.mark.parametrize("sampler", ASYNCHRONOUS.values(), ids=ASYNCHRONOUS.keys())
def test_no_step_asks_the_device_for_a_value(sampler: Sampler[Any]) -> None:
    on_no_device(sampler)


def test_only_steps_of_its_own_need_values() -> None:
    with pytest.raises((RuntimeError, NotImplementedError), match="meta tensor"):
        on_no_device(Adaptive())
