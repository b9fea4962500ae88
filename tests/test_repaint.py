"""RePaint: the known pixels to the last bit, each move by the paper's formula, and the right picture around them."""

from collections import deque
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from tests.oracle import Function, figure
from torch import Tensor

from fromnoise.codec import Pixels
from fromnoise.denoiser import Clip, Denoiser
from fromnoise.errors import WrongUse
from fromnoise.ladder import Strided
from fromnoise.noise import GivenNoise, Noise, SeededNoise
from fromnoise.parameterization import Epsilon, Sample
from fromnoise.sampler import (
    DDIM,
    DEIS,
    Adaptive,
    Ancestral,
    DPMSolver2MSDE,
    DPMSolver3M,
    Heun,
    Inversion,
    Sampler,
    UniPC,
    trajectory,
)
from fromnoise.sampler.repaint import RePaint
from fromnoise.schedule import Linear
from fromnoise.transition import Large, Small, Variance

SCHEDULE = Linear()
LEFT = torch.tensor([True, True, False, False])[None].expand(4, 4).contiguous()
RULES: dict[str, Sampler[Any]] = {
    "ancestral": Ancestral(),
    "DDIM": DDIM(),
    "Heun": Heun(churn=5),
    "DPM-Solver++ 3M": DPMSolver3M(),
    "SDE": DPMSolver2MSDE(),
    "UniPC": UniPC(order=3),
    "DEIS": DEIS(),
    "adaptive": Adaptive(rtol=0.1, atol=0.1),
}


def wavy() -> Denoiser:
    """Some denoiser that looks at more than one pixel."""
    return Denoiser(Function(lambda x, c_time: 0.8 * x + 0.1 * x.roll(1, -1).sin()), SCHEDULE, Epsilon(), clip=Clip())


def last(sampler: Sampler[Any], steps: int, start: Tensor, noise: Noise) -> Any:
    ladder = Strided(steps=steps).ladder(SCHEDULE)
    return deque(trajectory(sampler, wavy(), SCHEDULE, ladder, start, noise), maxlen=1).pop()


@pytest.mark.parametrize("resamples", [1, 3])
@pytest.mark.parametrize("rule", RULES)
def test_known_pixels_come_back_to_the_last_bit(rule: str, resamples: int) -> None:
    images = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8)
    known, noise = Pixels().encode(images), SeededNoise([5, 6], (3, 4, 4))
    sampler = RePaint(inner=RULES[rule], known=known, mask=LEFT, resamples=resamples)
    made = last(sampler, 5, noise(), noise).x
    mask = LEFT.expand_as(made)
    assert torch.equal(made[mask], known[mask])
    assert torch.equal(Pixels().decode(made)[mask], images[mask])
    assert bool(made.isfinite().all())
    assert (made[~mask] - known[~mask]).abs().mean() > 0.1


@pytest.mark.parametrize("t", [2, 600, 1000])
def test_a_step_is_the_paper_s_algorithm(t: int) -> None:
    """Lugmayr et al. 2022, algorithm 1, lines 4 to 9, with β and ᾱ from the reference tables and DDIM for line 8."""
    beta, bar = figure("betas")[t - 1], figure("alphas_cumprod")
    a, b = bar[t - 1], bar[t - 2]
    x, known, *draws = torch.randn(6, 2, 1, 4, 4, dtype=torch.float64)
    sampler = RePaint(inner=DDIM(), known=known, mask=LEFT, resamples=2)
    ours, _ = sampler.step(_Denoise(), x, SCHEDULE(t), SCHEDULE(t - 1), sampler.init(1), GivenNoise(iter([*draws[:3]])))

    def ddim(x_t: Tensor) -> Tensor:
        eps = 0.3 * x_t
        return b.sqrt() * (x_t - (1 - a).sqrt() * eps) / a.sqrt() + (1 - b).sqrt() * eps

    mask = LEFT.double()
    x_s = mask * (b.sqrt() * known + (1 - b).sqrt() * draws[0]) + (1 - mask) * ddim(x)
    x_t = (1 - beta).sqrt() * x_s + beta.sqrt() * draws[1]
    expected = mask * (b.sqrt() * known + (1 - b).sqrt() * draws[2]) + (1 - mask) * ddim(x_t)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-11)


class _Denoise:
    """eps = 0.3 x, without a network."""

    schedule = SCHEDULE

    def __call__(self, x_t: Tensor, level: Any) -> Any:
        return Denoiser(Function(lambda x, c_time: 0.3 * x), SCHEDULE, Epsilon())(x_t, level)


def test_the_way_back_skips_times_as_well() -> None:
    """From 100 to 700 in one jump: x_700 has the signal and the noise of its level, whatever was known of x_0."""
    draws = 4
    unit = torch.eye(draws, dtype=torch.float64).reshape(draws, draws, 1, 1, 1)
    everything = torch.ones(1, 1, dtype=torch.bool)
    seen: list[Tensor] = []

    @dataclass(frozen=True)
    class Spy(DDIMLike):
        def step(self, denoise: Any, x_t: Tensor, t: Any, s: Any, state: None, noise: Noise) -> tuple[Tensor, None]:
            seen.append(x_t)
            return x_t, None

    known = torch.full((1, 1, 1), 2.0, dtype=torch.float64)
    sampler = RePaint(inner=Spy(), known=known, mask=everything, resamples=2)
    noise = GivenNoise(iter([unit[:, 0], unit[:, 1], unit[:, 2]]))
    sampler.step(_Denoise(), unit[:, 3], SCHEDULE(700), SCHEDULE(100), None, noise)
    a = figure("alphas_cumprod")[699]
    rest = seen[1].flatten()[2:]  # what no draw has touched: 2 · signal
    torch.testing.assert_close(rest, (2 * a.sqrt()).expand(2), rtol=1e-12, atol=0)
    answers = seen[1].flatten()[:2] - rest[0]
    torch.testing.assert_close(answers.square().sum(), 1 - a, rtol=1e-12, atol=0)


class DDIMLike(Sampler[None]):
    """What :class:`DDIM` says of itself, for a rule that does nothing."""

    @property
    def traits(self) -> Any:
        return DDIM().traits

    def init(self, steps: int) -> None:
        return None


# ----------------------------------------------------------------------------------------- does it paint what it should


def correlated_denoiser(correlation: float, deviation: float) -> Denoiser:
    """The best one for two pixels of mean 0."""
    cov = deviation**2 * torch.tensor([[1, correlation], [correlation, 1]], dtype=torch.float64)

    def network(x: Tensor, c_time: Tensor) -> Tensor:
        a = SCHEDULE.alpha_bar[int(c_time[0].item()) + 1]
        K = a.sqrt() * cov @ torch.linalg.inv(a * cov + (1 - a) * torch.eye(2, dtype=torch.float64))
        return (x.flatten(1) @ K.T).reshape(x.shape)

    return Denoiser(Function(network), SCHEDULE, Sample())


def painted(resamples: int, steps: int, variance: Variance) -> tuple[float, float]:
    """Mean and variance of the second pixel, exactly, when the first is known to be 1."""
    draws = 1 + (steps - 1) * (1 + 1 + 3 * (resamples - 1))
    unit = torch.cat([torch.eye(2 * draws, dtype=torch.float64), torch.zeros(1, 2 * draws, dtype=torch.float64)])
    unit = unit.reshape(-1, draws, 1, 1, 2)
    known = torch.tensor([[[1.0, -7.0]]], dtype=torch.float64)
    sampler = RePaint(
        inner=Ancestral(variance=variance), known=known, mask=torch.tensor([[True, False]]), resamples=resamples
    )
    noise = GivenNoise(unit[:, k] for k in range(1, draws))
    ladder = Strided(steps=steps).ladder(SCHEDULE)
    steps_ = trajectory(sampler, correlated_denoiser(0.8, 0.5), SCHEDULE, ladder, unit[:, 0], noise)
    made = deque(steps_, maxlen=1).pop().x[:, 0, 0, 1]
    with pytest.raises(ValueError, match="more noise"):  # no draw is left over
        noise()
    return made[-1].item(), (made[:-1] - made[-1]).square().sum().item()


def test_resampling_brings_the_parts_into_agreement() -> None:
    """Pixels of correlation 0.8 and deviation 0.5: given 1, the other has mean 0.8 and variance 0.25 · 0.36."""
    found = [painted(resamples, 50, Large()) for resamples in (1, 4, 16)]
    off = [abs(mean - 0.8) for mean, _ in found]
    assert off[0] > 0.2  # without, they do not agree
    assert off[1] < 0.6 * off[0] and off[2] < 0.6 * off[1] and off[2] < 0.05
    spread = [abs(variance - 0.09) for _, variance in found]
    assert spread[0] > spread[1] > spread[2] and spread[2] < 0.015
    # On so short a ladder the small variance is too small, as it is without anything known.
    assert painted(16, 50, Small())[1] < 0.09 < found[2][1]


# ---------------------------------------------------------------------------------------------------- the rule it wraps


def test_rules_with_a_memory_are_of_first_order_here() -> None:
    """DPM-Solver++, UniPC and DEIS without a past are DDIM."""
    known = torch.randn(1, 4, 4, dtype=torch.float64)
    made = []
    for rule in (DDIM(), DPMSolver3M(), UniPC(order=3), DEIS()):
        draws = iter(torch.randn(40, 2, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))
        sampler = RePaint(inner=rule, known=known, mask=LEFT, resamples=3)
        made.append(last(sampler, 6, next(draws), GivenNoise(draws)).x)
    for other in made[1:]:
        torch.testing.assert_close(other, made[0], rtol=0, atol=1e-10)


def test_with_nothing_known_and_no_resampling_it_is_the_rule_itself() -> None:
    none, known = torch.zeros(4, 4, dtype=torch.bool), torch.randn(1, 4, 4)
    start, noise = torch.randn(2, 1, 4, 4), SeededNoise([1, 2], (1, 4, 4))
    for rule in (DDIM(), Heun()):
        ours = last(RePaint(inner=rule, known=known, mask=none, resamples=1), 6, start, noise).x
        assert torch.equal(ours, last(rule, 6, start, noise).x)


def test_traits_and_network_calls() -> None:
    known = torch.zeros(1, 4, 4)
    sampler = RePaint(inner=Heun(), known=known, mask=LEFT, resamples=4)
    assert (sampler.traits.calls, sampler.traits.stochastic, sampler.traits.between) == (8, True, True)
    assert not RePaint(inner=DDIM(), known=known, mask=LEFT).traits.between
    noise = SeededNoise([1], (1, 4, 4))
    # Five steps, of which the last is taken once and, by Heun's rule, with one call.
    assert last(sampler, 5, noise(), noise).nfe == 4 * 8 + 1
    assert RePaint(inner=Ancestral(variance=Large()), known=known, mask=LEFT).traits.variance == Large()


def test_a_picture_does_not_depend_on_its_batch() -> None:
    known = torch.randn(3, 1, 4, 4)
    masks = torch.rand(3, 1, 4, 4) > 0.5

    def make(rows: list[int]) -> Tensor:
        sampler = RePaint(inner=Ancestral(), known=known[rows], mask=masks[rows], resamples=2)
        noise = SeededNoise(rows, (1, 4, 4))
        return last(sampler, 5, noise(), noise).x

    together = make([0, 1, 2])
    for k in range(3):
        torch.testing.assert_close(make([k])[0], together[k], rtol=0, atol=1e-6)


def test_what_cannot_be_painted() -> None:
    known = torch.zeros(1, 4, 4)
    with pytest.raises(WrongUse, match="resamples = 0: must be at least 1"):
        RePaint(inner=DDIM(), known=known, mask=LEFT, resamples=0)
    with pytest.raises(WrongUse, match="Inversion goes from the picture to the noise"):
        RePaint(inner=Inversion(), known=known, mask=LEFT)
    with pytest.raises(WrongUse, match="a mask is bool, true where a pixel is known, not uint8"):
        RePaint(inner=DDIM(), known=known, mask=LEFT.byte())
    noise = SeededNoise([1], (1, 4, 4))
    for picture, mask, says in [
        (known, LEFT[:, :3], "a mask of 4x3 does not fit pictures of 4x4"),
        (known, LEFT.expand(3, 4, 4), "a mask of 3x4x4 does not fit .* channels = 1"),
        (torch.zeros(1, 5, 4), LEFT, r"the known picture is of shape \(1, 5, 4\), those painted of \(1, 4, 4\)"),
        (torch.zeros(2, 1, 4, 4), LEFT, r"the known picture is of shape \(2, 1, 4, 4\)"),
    ]:
        with pytest.raises(WrongUse, match=says) as caught:
            last(RePaint(inner=DDIM(), known=picture, mask=mask), 5, noise(), noise)
        assert "\n" not in str(caught.value)
