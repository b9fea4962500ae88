"""Where sampling starts: from a picture, between two, between two noises; with flows whose end is known exactly."""

import math
from collections import deque

import pytest
import torch
from tests.oracle import figure, gaussian_network
from torch import Tensor

from fromnoise.denoiser import Denoiser
from fromnoise.errors import WrongUse
from fromnoise.ladder import All, Strided
from fromnoise.noise import SeededNoise
from fromnoise.parameterization import Epsilon
from fromnoise.sampler import Heun, trajectory
from fromnoise.schedule import EDM, Linear
from fromnoise.start import cut, interpolate, sdedit, slerp

SCHEDULE = Linear()
LADDER = Strided(steps=50).ladder(SCHEDULE)


# ------------------------------------------------------------------------------------------------------------ a picture


def test_all_of_the_strength_is_all_of_the_ladder() -> None:
    x_0, eps = torch.randn(2, 2, 1, 4, 4, dtype=torch.float64)
    for ladder in (LADDER, All().ladder(SCHEDULE), LADDER[5:]):
        x_t, rest = sdedit(x_0, eps, SCHEDULE, ladder, 1.0)
        assert torch.equal(rest, ladder)
        a = figure("alphas_cumprod")[int(ladder[0]) - 1]
        torch.testing.assert_close(x_t, a.sqrt() * x_0 + (1 - a).sqrt() * eps, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("strength", "starts"),
    [(0.5, 500), (0.45, 450), (0.449, 450), (0.4251, 450), (0.4249, 400), (0.02, 50), (1e-9, 50), (0.951, 950)],
)
def test_the_rung_nearest_to_the_strength(strength: float, starts: int) -> None:
    ladder = torch.arange(1000, -1, -50, dtype=torch.float64)
    x_0, eps = torch.randn(2, 1, 1, 4, 4, dtype=torch.float64)
    x_t, rest = sdedit(x_0, eps, SCHEDULE, ladder, strength)
    assert rest.tolist() == [float(t) for t in range(starts, -1, -50)]
    a = figure("alphas_cumprod")[starts - 1]
    torch.testing.assert_close(x_t, a.sqrt() * x_0 + (1 - a).sqrt() * eps, rtol=0, atol=1e-12)


def test_the_strength_is_a_share_of_the_schedule_s_own_clock() -> None:
    schedule, ladder = EDM(), torch.tensor([80.0, 40, 10, 1, 0], dtype=torch.float64)
    x_0, eps = torch.randn(2, 1, 1, 4, 4)
    x_t, rest = sdedit(x_0, eps, schedule, ladder, 0.1)
    assert rest.tolist() == [10, 1, 0]
    torch.testing.assert_close(x_t, x_0 + 10 * eps)
    assert torch.equal(cut(ladder, 25.0), ladder[1:])  # of two as near, the upper
    late = torch.tensor([500.0, 400, 200, 0], dtype=torch.float64)  # a ladder need not begin at the horizon
    assert sdedit(x_0, eps, SCHEDULE, late, 0.4)[1].tolist() == [400, 200, 0]


@pytest.mark.parametrize("strength", [0.0, -0.5, 1.001, math.nan])
def test_a_strength_that_is_no_share(strength: float) -> None:
    x = torch.zeros(1, 1, 4, 4)
    with pytest.raises(WrongUse, match=r"strength = .*: must lie above 0 .* at most 1") as caught:
        sdedit(x, x, SCHEDULE, LADDER, strength)
    assert "\n" not in str(caught.value)


def test_how_much_of_a_picture_is_left() -> None:
    """Down the exact flow of data N(m, d²), x_t keeps its number of standard deviations. So, of x_0 = m + d,

    x_0 ← m + d (signal d + sigma eps) / sqrt(signal² d² + sigma²).
    """
    mean, deviation = 0.3, 0.5
    denoiser = Denoiser(gaussian_network(SCHEDULE.alpha_bar, mean, deviation), SCHEDULE, Epsilon())
    x_0 = torch.full((3, 1, 1, 1), mean + deviation, dtype=torch.float64)
    eps = torch.tensor([-1.0, 0.0, 2.0], dtype=torch.float64).reshape(3, 1, 1, 1)
    for strength in (0.1, 0.4, 0.8):
        x_t, rest = sdedit(x_0, eps, SCHEDULE, All().ladder(SCHEDULE), strength)
        noise = SeededNoise([0, 1, 2], (1, 1, 1))
        made = deque(trajectory(Heun(), denoiser, SCHEDULE, rest, x_t, noise), maxlen=1).pop().x
        a = figure("alphas_cumprod")[int(1000 * strength) - 1]
        spread = (a * deviation**2 + 1 - a).sqrt()
        expected = mean + deviation * (a.sqrt() * deviation + (1 - a).sqrt() * eps) / spread
        torch.testing.assert_close(made, expected, rtol=0, atol=2e-3)


# --------------------------------------------------------------------------------------------------------- two pictures


def test_pictures_are_mixed_while_they_are_noisy() -> None:
    """(1 − λ) x_t + λ x_t', each noised by itself; the noise of the mixture is that of its level."""
    a, b, eps = torch.randn(3, 2, 4, 4, dtype=torch.float64)
    weights = torch.tensor([0.0, 0.25, 0.5, 1.0], dtype=torch.float64)
    bar = figure("alphas_cumprod")[499]
    first, last = (bar.sqrt() * x + (1 - bar).sqrt() * eps for x in (a, b))
    x_t = interpolate(a, b, eps, SCHEDULE(500), weights)
    for row, weight in zip(x_t, weights, strict=True):
        torch.testing.assert_close(row, (1 - weight) * first + weight * last, rtol=0, atol=1e-12)
        noise = row - bar.sqrt() * ((1 - weight) * a + weight * b)
        torch.testing.assert_close(noise, (1 - bar).sqrt() * eps, rtol=0, atol=1e-12)
    single = interpolate(a.float(), b.float(), eps.float(), SCHEDULE(500), weights)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), x_t, rtol=0, atol=1e-6)


# ----------------------------------------------------------------------------------------------------------- two noises


def angle(a: Tensor, b: Tensor) -> float:
    return torch.acos((a * b).sum() / (a.norm() * b.norm())).item()


def test_the_way_between_two_noises_is_a_great_circle() -> None:
    a, b = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    b *= a.norm() / b.norm()
    weights = torch.tensor([0.0, 0.3, 0.5, 1.0, 1.2], dtype=torch.float64)
    way = slerp(a, b, weights)
    torch.testing.assert_close(way[0], a, rtol=0, atol=1e-12)
    torch.testing.assert_close(way[3], b, rtol=0, atol=1e-12)
    for x, weight in zip(way, weights.tolist(), strict=True):
        assert abs(x.norm() / a.norm() - 1) < 1e-12  # on the sphere, where a straight line loses up to 30 %
        if weight:
            assert abs(angle(a, x) - weight * angle(a, b)) < 1e-7
    assert 0.5 * (a + b).norm() < 0.8 * a.norm()


def test_noises_a_quarter_of_a_turn_apart() -> None:
    """cos and sin of the share of 90°, and each keeps its own length."""
    a, b = torch.zeros(2, 1, 1, 2, dtype=torch.float64)
    a[..., 0], b[..., 1] = 2.0, 3.0
    third = slerp(a, b, torch.tensor([1 / 3], dtype=torch.float64)).flatten().tolist()
    assert third == pytest.approx([2 * math.cos(math.pi / 6), 3 * math.sin(math.pi / 6)], abs=1e-12)


def test_noises_in_nearly_one_direction() -> None:
    a = torch.randn(1, 4, 4)
    halves = torch.tensor([0.5])
    torch.testing.assert_close(slerp(a, a, halves)[0], a)
    torch.testing.assert_close(slerp(a, 3 * a, halves)[0], 2 * a, rtol=1e-5, atol=1e-5)
    close = a + 1e-6 * torch.randn(1, 4, 4)
    torch.testing.assert_close(slerp(a, close, halves)[0], (a + close) / 2, rtol=1e-6, atol=1e-6)
    with pytest.raises(WrongUse, match="opposite"):
        slerp(a, -a, halves)
