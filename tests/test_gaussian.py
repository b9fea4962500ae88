"""Densities and divergences against torch.distributions; the decoder's grey levels add up to 1."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from fromnoise.gaussian import Gaussian, bits_per_dim

LEVELS = torch.arange(256, dtype=torch.float64) / 127.5 - 1
finite = st.floats(-5, 5)
log_variances = st.floats(-12, 4)


def peer(gaussian: Gaussian) -> Normal:
    return Normal(gaussian.mean, gaussian.log_variance.exp().sqrt())


def random(scale: float = 2.0) -> Gaussian:
    mean = torch.randn(3, 2, 4, 5, dtype=torch.float64)
    return Gaussian(mean, scale * torch.randn(3, 1, 1, 1, dtype=torch.float64))


def test_density_and_divergence_are_torchs() -> None:
    p, q, x = random(), random(), torch.randn(3, 2, 4, 5, dtype=torch.float64)
    torch.testing.assert_close(p.log_prob(x), peer(p).log_prob(x), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(p.kl(q), kl_divergence(peer(p), peer(q)), rtol=1e-12, atol=1e-12)


@given(finite, log_variances, finite, log_variances)
def test_divergence_is_never_negative_and_zero_only_from_itself(m: float, v: float, n: float, w: float) -> None:
    p, q = (
        Gaussian(torch.tensor(a, dtype=torch.float64), torch.tensor(b, dtype=torch.float64))
        for a, b in [(m, v), (n, w)]
    )
    kl = p.kl(q).item()
    assert kl >= -1e-12
    assert p.kl(p).item() == 0
    by_hand = 0.5 * (math.exp(v - w) - 1 - (v - w) + (m - n) ** 2 * math.exp(-w))
    assert kl == pytest.approx(by_hand, rel=1e-12, abs=1e-12)


def test_sample_has_the_mean_and_the_variance() -> None:
    eps = torch.randn(1, 1, 200, 200, dtype=torch.float64)
    eps = (eps - eps.mean()) / eps.std(correction=0)
    gaussian = Gaussian(torch.full_like(eps, 0.3), torch.tensor(math.log(0.04), dtype=torch.float64))
    x = gaussian.sample(eps)
    assert x.mean().item() == pytest.approx(0.3, abs=1e-12)
    assert x.var(correction=0).item() == pytest.approx(0.04, rel=1e-12)


def test_a_point_samples_its_mean() -> None:
    point = Gaussian(torch.randn(2, 3, 4, 4), torch.tensor(-math.inf))
    assert torch.equal(point.sample(torch.randn(2, 3, 4, 4)), point.mean)


# ---------------------------------------------------------------------------------------------------------- equation 13


@pytest.mark.parametrize("log_variance", [-16.0, -9.8167, -6.0, -2.0, 1.0])
@pytest.mark.parametrize("mean", [-3.0, -1.0, -0.37, 0.0, 1 / 255, 0.999, 1.0, 2.5])
def test_the_grey_levels_share_all_of_the_probability(mean: float, log_variance: float) -> None:
    gaussian = Gaussian(torch.full_like(LEVELS, mean), torch.tensor(log_variance, dtype=torch.float64))
    probability = gaussian.discretized_log_prob(LEVELS).exp()
    assert probability.min() >= 1e-12 * (1 - 1e-9)  # the floor, which is all that may be too much
    assert probability.sum().item() == pytest.approx(1, abs=256e-12 + 1e-9)


@pytest.mark.parametrize("log_variance", [-9.8167, -6.0, -2.0])
def test_grey_levels_have_the_probability_of_their_bins(log_variance: float) -> None:
    mean, deviation = 0.123, math.exp(0.5 * log_variance)
    gaussian = Gaussian(torch.full_like(LEVELS, mean), torch.tensor(log_variance, dtype=torch.float64))
    # The bins' edges in grey levels, to infinity at both ends; the normal CDF from erf instead of tanh.
    edges = [-math.inf, *((k + 0.5) / 127.5 - 1 for k in range(255)), math.inf]
    cdf = [0.5 * (1 + math.erf((e - mean) / deviation / math.sqrt(2))) for e in edges]
    exact = torch.tensor([b - a for a, b in pairwise(cdf)], dtype=torch.float64)
    # The tanh form is off by at most 2e-4 at each edge.
    torch.testing.assert_close(gaussian.discretized_log_prob(LEVELS).exp(), exact, rtol=0, atol=4e-4)


def test_decoder_is_its_formula() -> None:
    def cdf(x: float) -> float:
        return 0.5 * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))

    mean, log_variance = 0.1, -5.0
    scale = math.exp(2.5)
    for k in (0, 1, 100, 140, 141, 254, 255):
        x = k / 127.5 - 1
        above = 1.0 if k == 255 else cdf(scale * (x - mean + 1 / 255))
        below = 0.0 if k == 0 else cdf(scale * (x - mean - 1 / 255))
        expected = math.log(max(above - below, 1e-12))
        gaussian = Gaussian(torch.tensor([mean], dtype=torch.float64), torch.tensor(log_variance, dtype=torch.float64))
        ours = gaussian.discretized_log_prob(torch.tensor([x], dtype=torch.float64))
        assert ours.item() == pytest.approx(expected, rel=1e-9)


def test_a_sure_and_wrong_decoder_costs_the_floor() -> None:
    sure = Gaussian(torch.full((3,), -1.0), torch.tensor(-20.0))
    cost = sure.discretized_log_prob(torch.tensor([-1.0, 0.0, 1.0]))
    assert cost.tolist() == pytest.approx([0.0, math.log(1e-12), math.log(1e-12)], abs=1e-5)


def test_bits_per_dim() -> None:
    nats: Tensor = torch.arange(24, dtype=torch.float64).reshape(2, 3, 2, 2)
    expected = [sum(range(12)) / 12 / math.log(2), sum(range(12, 24)) / 12 / math.log(2)]
    assert bits_per_dim(nats).tolist() == pytest.approx(expected, rel=1e-14)
    # A picture of which nothing is known costs 8 bits a channel.
    assert bits_per_dim(torch.full((1, 3, 4, 4), math.log(256.0))).item() == pytest.approx(8, rel=1e-6)
