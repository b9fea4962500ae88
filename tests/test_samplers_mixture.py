"""Every listed sampler, with the exact denoiser, turns noise into a mixture of two Gaussians."""

from functools import cache
from typing import Any

import pytest
import torch
from tests.gaussians import Clock, Mixture
from tests.rules import RULES
from torch import Tensor

from fromnoise.noise import Noise
from fromnoise.sampler import Sampler, trajectory

N = 3000


def steps_for(sampler: Sampler[Any]) -> int:
    """So many that what a sampler of its order still lacks is less than the statistics can tell."""
    traits = sampler.traits
    if traits.order > 1:
        return 30
    return 250 if traits.stochastic else 80


DATA = Mixture(
    weights=torch.tensor([0.3, 0.7], dtype=torch.float64),
    means=torch.tensor([[1.2, -0.5], [-0.6, 0.7]], dtype=torch.float64),
    deviations=torch.tensor([0.25, 0.45], dtype=torch.float64),
    schedule=Clock(),
)


class Drawn(Noise):
    """float64, like the mixture."""

    def __init__(self) -> None:
        self.source = torch.Generator().manual_seed(7)

    def __call__(self) -> Tensor:
        return torch.randn(N, 1, 1, 2, dtype=torch.float64, generator=self.source)


def ladder_of(top: float, low: float, steps: int) -> Tensor:
    """ρ in equal steps of ρ^(1/7), as EDM has them, and 0."""
    rho = torch.linspace(top ** (1 / 7), low ** (1 / 7), steps, dtype=torch.float64) ** 7
    return torch.cat([rho, torch.zeros(1, dtype=torch.float64)])


def assert_moments(x: Tensor, mean: Tensor, covariance: Tensor) -> None:
    """Within 4.5 standard errors, which the sample itself gives."""
    x = x.flatten(1)
    off = x - mean
    products = off[:, :, None] * off[:, None, :]
    for ours, true in ((x, mean), (products, covariance)):
        standard_error = ours.std(0) / N**0.5
        assert ((ours.mean(0) - true).abs() <= 4.5 * standard_error).all(), (ours.mean(0) - true) / standard_error


@pytest.mark.parametrize("sampler", RULES.values(), ids=RULES.keys())
def test_the_mixture_comes_out(sampler: Sampler[Any]) -> None:
    noise, schedule = Drawn(), DATA.schedule
    ladder = ladder_of(60, 0.01, 1 if sampler.traits.calls == 0 else steps_for(sampler))
    if sampler.traits.upward:
        start = DATA.draw(N)
        mean, covariance = torch.zeros(2, dtype=torch.float64), torch.eye(2, dtype=torch.float64)
    else:
        start, mean, covariance = schedule(60.0).sigma * noise(), DATA.mean(), DATA.covariance()
    *_, end = trajectory(sampler, DATA, schedule, ladder, start, noise)
    assert_moments(end.x, mean, covariance)
    if not sampler.traits.upward:
        # Not only two moments: the share of pictures nearer to the first mean, as in drawn data.
        assert nearer_the_first(end.x) == pytest.approx(share_nearer_the_first(), abs=4.5 * (0.21 / N) ** 0.5)


def nearer_the_first(x: Tensor) -> float:
    off = (x.flatten(1)[:, None] - DATA.means).square().sum(-1)
    return (off[:, 0] < off[:, 1]).double().mean().item()


@cache
def share_nearer_the_first() -> float:
    return nearer_the_first(DATA.draw(400_000))


def test_the_statistics_would_show_a_wrong_sampler() -> None:
    """A wrong scale, a shift, some noise too much, and coordinates exchanged do not pass."""
    x = DATA.draw(N)
    assert_moments(x, DATA.mean(), DATA.covariance())
    for wrong in (x * 1.1, x + 0.1, x + 0.5 * torch.randn_like(x), x.flip(-1)):
        with pytest.raises(AssertionError):
            assert_moments(wrong, DATA.mean(), DATA.covariance())
