"""Inverse problems: Gaussian data, of which everything given a measurement is known exactly."""

from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.oracle import Function
from torch import Tensor, nn

from fromnoise.denoiser import Clip, Denoiser, DynamicClip
from fromnoise.errors import WrongUse
from fromnoise.guidance import ClassifierFree, Downscale, Mask, Operator, PseudoInverse
from fromnoise.ladder import Strided
from fromnoise.network import UNet
from fromnoise.noise import GivenNoise, SeededNoise
from fromnoise.parameterization import Epsilon, Sample, Velocity
from fromnoise.sampler import DDIM, Ancestral, Heun, Sampler, trajectory
from fromnoise.schedule import Cosine, Level, Linear, ZeroTerminalSNR, noisy

SCHEDULE = Linear()
MEAN = torch.tensor([0.3, -0.2, 0.1, 0.4], dtype=torch.float64)
HALF = torch.tensor([[True, True], [False, False]])
OPERATORS: dict[str, Operator] = {"mask": Mask(HALF), "downscale": Downscale(2)}


def matrix(operator: Operator, height: int = 2, width: int = 2) -> Tensor:
    """A as a matrix, column by column."""
    unit = torch.eye(height * width, dtype=torch.float64).reshape(-1, 1, height, width)
    return operator.forward(unit).flatten(1).T


def correlated(rho: float, variance: float) -> Tensor:
    """The covariance of 2×2 pixels, falling by ``rho`` from neighbour to neighbour."""
    place = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]], dtype=torch.float64)
    return variance * rho ** torch.cdist(place, place, p=1)


def gain(covariance: Tensor, t: float) -> Tensor:
    """K of E[x_0 | x_t] = m + K (x_t − signal m)."""
    a = SCHEDULE.alpha_bar[int(t)]
    return a.sqrt() * covariance @ torch.linalg.inv(a * covariance + (1 - a) * torch.eye(4, dtype=torch.float64))


def exact(covariance: Tensor) -> Denoiser:
    """The best denoiser for data N(MEAN, covariance)."""

    def network(x: Tensor, c_time: Tensor) -> Tensor:
        t = c_time[0].item() + 1
        off = x.flatten(1) - SCHEDULE.alpha_bar[int(t)].sqrt() * MEAN
        return (MEAN + off @ gain(covariance, t).T).reshape(x.shape)

    return Denoiser(Function(network), SCHEDULE, Sample())


def given(mean: Tensor, covariance: Tensor, A: Tensor, y: Tensor, noise: float) -> tuple[Tensor, Tensor]:
    """Mean and covariance given A x + noise = y, by the rule for normals; A may have rows of zeros."""
    inverse = torch.linalg.pinv(A @ covariance @ A.T + noise**2 * torch.eye(len(A)).double(), hermitian=True)
    K = covariance @ A.T @ inverse
    return mean + K @ (y - A @ mean), covariance - K @ A @ covariance


# -------------------------------------------------------------------------------------------------------- the operators


@pytest.mark.parametrize(
    "operator",
    [
        Mask(torch.rand(6, 4, generator=torch.Generator().manual_seed(3)) > 0.5),
        Mask(torch.rand(2, 6, 4, generator=torch.Generator().manual_seed(4)) > 0.3),
        Downscale(2),
        Downscale(1),
    ],
    ids=["mask", "mask of each channel", "halved", "as it is"],
)
def test_adjoint_and_gram(operator: Operator) -> None:
    """<A x, y> = <x, Aᵀ y>, and A Aᵀ = gram on the range of A."""
    x = torch.randn(3, 2, 6, 4, dtype=torch.float64)
    measured = operator.forward(x)
    y = torch.randn_like(measured)
    back = operator.adjoint(y)
    assert back.shape == x.shape
    torch.testing.assert_close((measured * y).sum(), (x * back).sum(), rtol=1e-12, atol=0)
    again = operator.forward(operator.adjoint(measured))
    torch.testing.assert_close(again, operator.gram * measured, rtol=1e-12, atol=1e-14)


def test_what_the_operators_measure() -> None:
    x = torch.arange(16, dtype=torch.float64).reshape(1, 1, 4, 4)
    assert Downscale(2).forward(x).flatten().tolist() == [2.5, 4.5, 10.5, 12.5]
    assert Downscale(4).forward(x).item() == 7.5
    mask = torch.zeros(4, 4, dtype=torch.bool)
    mask[1, 2] = mask[3, 3] = True
    assert Mask(mask).forward(x).flatten().nonzero().flatten().tolist() == [6, 15]
    assert Mask(mask).forward(x)[0, 0, 3, 3] == 15


# -------------------------------------------------------------------------------------------------- the exact posterior


@pytest.mark.parametrize("noise", [0.0, 0.4])
@pytest.mark.parametrize("deviation", [0.5, 1.0], ids=["half", "the paper's 1"])
@pytest.mark.parametrize("name", OPERATORS)
def test_it_is_the_exact_posterior_mean_of_gaussian_data(name: str, deviation: float, noise: float) -> None:
    """E[x_0 | x_t, y] from the joint normal of (x_0, x_t, y), at every level."""
    operator = OPERATORS[name]
    A, prior = matrix(operator), deviation**2 * torch.eye(4, dtype=torch.float64)
    y = operator.forward(torch.randn(3, 1, 2, 2, dtype=torch.float64))
    guided = PseudoInverse(exact(prior), operator, y, noise=noise, deviation=deviation)
    for t in (1, 20, 300, 700, 1000):
        signal, sigma = SCHEDULE.alpha_bar[t].sqrt(), (1 - SCHEDULE.alpha_bar[t]).sqrt()
        x_t = signal * MEAN.reshape(1, 1, 2, 2) + 1.3 * torch.randn(3, 1, 2, 2, dtype=torch.float64)
        level = SCHEDULE(t)
        ours = guided(x_t, level)
        for k in range(3):
            # x_t itself is a measurement of x_0, by the matrix signal · I with noise sigma.
            both = torch.cat([signal / sigma * torch.eye(4, dtype=torch.float64), A])
            values = torch.cat([x_t[k].flatten() / sigma, y[k].flatten()])
            spread = torch.block_diag(torch.eye(4, dtype=torch.float64), noise**2 * torch.eye(len(A)).double())
            inverse = torch.linalg.pinv(both @ prior @ both.T + spread, hermitian=True)
            expected = MEAN + prior @ both.T @ inverse @ (values - both @ MEAN)
            torch.testing.assert_close(ours.x_0[k].flatten(), expected, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(noisy(ours.x_0, ours.eps, level), x_t, rtol=0, atol=1e-11)
        if noise == 0:
            torch.testing.assert_close(operator.forward(ours.x_0), y, rtol=0, atol=1e-9)


def test_general_levels_follow_the_same_formula() -> None:
    """signal² + sigma² need not be 1, and each picture may have its own: pixels N(0, d²), one of them measured."""
    deviation, noise = 0.7, 0.2
    level = Level(*(torch.tensor(v, dtype=torch.float64) for v in ([3.0, 9.0], [1.0, 0.4], [2.5, 0.1])))

    class Shrink(nn.Module):
        def forward(self, x: Tensor, c_time: Tensor) -> Tensor:
            s, e = level.signal[:, None, None, None], level.sigma[:, None, None, None]
            return s * deviation**2 / (s**2 * deviation**2 + e**2) * x

    x_t, y = torch.randn(2, 1, 1, 2, dtype=torch.float64), torch.randn(1, 1, 2, dtype=torch.float64)
    mask = Mask(torch.tensor([[True, False]]))
    ours = PseudoInverse(Denoiser(Shrink(), SCHEDULE, Sample()), mask, y, noise=noise, deviation=deviation)
    x_0 = ours(x_t, level).x_0
    for k, (signal, sigma) in enumerate([(1.0, 2.5), (0.4, 0.1)]):
        seen = signal / sigma**2 * x_t[k, 0, 0, 0] + y[0, 0, 0] / noise**2
        precision = 1 / deviation**2 + signal**2 / sigma**2 + 1 / noise**2
        torch.testing.assert_close(x_0[k, 0, 0, 0], seen / precision, rtol=1e-10, atol=0)
        alone = signal / sigma**2 * x_t[k, 0, 0, 1] / (1 / deviation**2 + signal**2 / sigma**2)
        torch.testing.assert_close(x_0[k, 0, 0, 1], alone, rtol=1e-10, atol=0)


def test_the_scale_is_a_factor_of_the_shift() -> None:
    prior = 0.25 * torch.eye(4, dtype=torch.float64)
    y, x_t = torch.randn(1, 2, 2, dtype=torch.float64), torch.randn(2, 1, 2, 2, dtype=torch.float64)
    plain = exact(prior)(x_t, SCHEDULE(300))
    once, twice = (
        PseudoInverse(exact(prior), OPERATORS["mask"], y, noise=0.3, scale=scale)(x_t, SCHEDULE(300))
        for scale in (1.0, 2.0)
    )
    torch.testing.assert_close(twice.x_0 - plain.x_0, 2 * (once.x_0 - plain.x_0), rtol=1e-10, atol=1e-12)
    none = PseudoInverse(exact(prior), OPERATORS["mask"], y, scale=0.0)(x_t, SCHEDULE(300))
    assert torch.equal(none.x_0, plain.x_0)


def moments(estimator: PseudoInverse, sampler: Sampler[Any], steps: int, draws: int) -> tuple[Tensor, Tensor]:
    """Mean and covariance of what an affine sampler makes, exactly: its answer to every pixel of every draw alone."""
    unit = torch.cat([torch.eye(4 * draws, dtype=torch.float64), torch.zeros(1, 4 * draws, dtype=torch.float64)])
    unit = unit.reshape(-1, draws, 1, 2, 2)
    noise = GivenNoise(unit[:, k] for k in range(1, draws))
    ladder = Strided(steps=steps).ladder(SCHEDULE)
    made = deque(trajectory(sampler, estimator, SCHEDULE, ladder, unit[:, 0], noise), maxlen=1).pop().x.flatten(1)
    answers = made[:-1] - made[-1]
    return made[-1], answers.T @ answers


@pytest.mark.parametrize("noise", [0.0, 0.3])
@pytest.mark.parametrize("name", OPERATORS)
def test_sampling_gives_the_conditional_distribution(name: str, noise: float) -> None:
    """Independent pixels, where every step is exact: the mean at once, the covariance as the steps become more."""
    operator, prior = OPERATORS[name], 0.25 * torch.eye(4, dtype=torch.float64)
    y = operator.forward(torch.tensor([[[[0.9, 0.5], [-0.3, 0.7]]]], dtype=torch.float64))[0]
    mean, covariance = given(MEAN, prior, matrix(operator), y.flatten(), noise)
    guided = PseudoInverse(exact(prior), operator, y, noise=noise, deviation=0.5)
    off = []
    for steps in (25, 50, 100):
        found, spread = moments(guided, Ancestral(), steps, steps)
        torch.testing.assert_close(found, mean, rtol=0, atol=2e-5)
        off.append((spread - covariance).abs().max().item())
    assert off[1] < 0.65 * off[0] and off[2] < 0.65 * off[1]
    # The flow keeps what x_T lacks: 0.006 of the mean, times the half that this data is narrower than its noise.
    found, spread = moments(guided, Heun(), 100, 1)
    torch.testing.assert_close(found, mean, rtol=0, atol=2e-3)
    torch.testing.assert_close(spread, covariance, rtol=0, atol=2e-3)


@pytest.mark.parametrize("name", OPERATORS)
def test_correlated_pixels_are_filled_in_about_right(name: str) -> None:
    """There r² is one number for what has many directions, so the answer is near the exact one, not equal."""
    operator, prior = OPERATORS[name], correlated(0.6, 0.25)
    y = operator.forward(torch.tensor([[[[0.9, 0.5], [0.0, 0.0]]]], dtype=torch.float64))[0]
    mean, covariance = given(MEAN, prior, matrix(operator), y.flatten(), 0.0)
    found, spread = moments(PseudoInverse(exact(prior), operator, y), Ancestral(), 200, 200)
    assert (mean - MEAN).abs().max() > 0.15  # what there is to be found
    torch.testing.assert_close(found, mean, rtol=0, atol=0.05)
    torch.testing.assert_close(spread, covariance, rtol=0, atol=0.02)
    A = matrix(operator)
    torch.testing.assert_close(A @ found, y.flatten(), rtol=0, atol=1e-4)
    assert (A @ spread @ A.T).abs().max() < 1e-3  # the known part does not vary


# ------------------------------------------------------------------------------------------------ through real networks


def unet(num_classes: int = 0) -> UNet:
    network = UNet(1, 2, 32, 1, (4,), (1, 2), resolution=8, num_classes=num_classes).eval()
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if name.endswith(("conv_2.weight", "out.weight", "head.weight")):
                nn.init.xavier_uniform_(weight, gain=0.5)
    return network


def test_the_gradient_goes_through_the_network() -> None:
    """Against differences of log p(y | x_t), in float64."""
    denoiser = Denoiser(unet().double(), SCHEDULE, Velocity())
    operator, noise, t = Downscale(2), 0.3, 400
    y = torch.randn(1, 4, 4, dtype=torch.float64)
    x_t = torch.randn(1, 1, 8, 8, dtype=torch.float64)
    a = SCHEDULE.alpha_bar[t]
    variance = 0.25 * (1 - a) / (0.25 * a + 1 - a) / 4 + noise**2

    @torch.no_grad()
    def log_p(x: Tensor) -> Tensor:
        return -0.5 * (operator.forward(denoiser(x, SCHEDULE(t)).x_0) - y).square().sum() / variance

    ours = PseudoInverse(denoiser, operator, y, noise=noise)(x_t, SCHEDULE(t))
    shift = (ours.x_0 - denoiser(x_t, SCHEDULE(t)).x_0) * a.sqrt() / (1 - a)
    for row, column in ((0, 0), (3, 5), (7, 2)):
        step = torch.zeros_like(x_t)
        step[0, 0, row, column] = 1e-5
        slope = (log_p(x_t + step) - log_p(x_t - step)) / 2e-5
        torch.testing.assert_close(shift[0, 0, row, column], slope, rtol=1e-6, atol=1e-8)
    assert not ours.x_0.requires_grad


@pytest.mark.parametrize("clip", [Clip(), DynamicClip()], ids=["static", "dynamic"])
def test_packed_weights_labels_and_limits(clip: Any) -> None:
    """A trajectory in inference mode, around classifier-free guidance: the same with packed weights."""
    denoiser = Denoiser(unet(num_classes=3), SCHEDULE, Epsilon(), clip=clip)
    free = ClassifierFree(denoiser, 2.0, null_label=3, interval=(0.0, 0.5))
    y, label = torch.rand(1, 4, 4) - 0.5, torch.tensor([0, 2, 1])
    guided, ladder = PseudoInverse(free, Downscale(2), y), Strided(steps=6).ladder(SCHEDULE)
    made = []
    for estimator in (guided, guided.ready()):
        noise = SeededNoise([1, 2, 3], (1, 8, 8))
        steps = list(trajectory(DDIM(), estimator, SCHEDULE, ladder, noise(), noise, label=label))
        assert all(step.prediction.x_0.abs().max() <= 1 for step in steps)
        made.append(steps[-1].x)
    torch.testing.assert_close(made[0], made[1], rtol=0, atol=1e-3)
    plain = DDIM(), denoiser.ready(), SCHEDULE, ladder
    noise = SeededNoise([1, 2, 3], (1, 8, 8))
    without = deque(trajectory(*plain, noise(), noise, label=label), maxlen=1).pop().x
    # Even an untrained network is brought nearer to the measurement.
    far, near = ((Downscale(2).forward(x) - y).abs().mean() for x in (without, made[1]))
    assert near < 0.5 * far


def test_a_plain_call_between_does_not_spoil_the_gradient() -> None:
    """Packed weights are laid out anew in inference mode by a call of another shape, and are then differentiated."""
    denoiser = Denoiser(unet(), SCHEDULE, Velocity()).ready()
    guided, x_t = PseudoInverse(denoiser, Downscale(2), torch.zeros(1, 4, 4)), torch.randn(2, 1, 8, 8)
    with torch.inference_mode():
        first = guided(x_t, SCHEDULE(300))
        denoiser(torch.randn(5, 1, 8, 8), SCHEDULE(300))
        again = guided(x_t, SCHEDULE(300))
    assert torch.equal(first.x_0, again.x_0)
    assert first.raw_variance is not None and torch.equal(first.raw_variance, denoiser(x_t, SCHEDULE(300)).raw_variance)


def test_ready_keeps_every_setting_and_conditions_may_be_made_in_inference_mode() -> None:
    denoiser = Denoiser(unet(num_classes=3), SCHEDULE, Velocity())
    x_t, label, y = torch.randn(2, 1, 8, 8), torch.tensor([0, 2]), torch.zeros(1, 4, 4)
    guided = PseudoInverse(denoiser, Downscale(2), y, noise=0.5, deviation=0.8, scale=1.5)
    expected, ready = guided(x_t, SCHEDULE(300), label=label), guided.ready()
    with torch.inference_mode():
        ours = ready(x_t.clone(), SCHEDULE(300), label=label.clone())
    torch.testing.assert_close(ours.x_0, expected.x_0, rtol=1e-5, atol=1e-5)
    assert expected.raw_variance is not None
    assert not any(part.requires_grad for part in (expected.x_0, expected.eps, expected.raw_variance))


def test_where_no_signal_is_left_nothing_is_shifted() -> None:
    schedule = ZeroTerminalSNR(base=Cosine())
    denoiser = Denoiser(Function(lambda x, c_time: 0.3 * x), schedule, Velocity())
    x_t = torch.randn(2, 1, 2, 2)
    ours = PseudoInverse(denoiser, Downscale(2), torch.ones(1, 1, 1))(x_t, schedule(1000))
    assert torch.equal(ours.x_0, denoiser(x_t, schedule(1000)).x_0)


# ------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda d: Downscale(0), "factor = 0: must be at least 1"),
        (lambda d: Mask(torch.ones(2, 2)), "a mask is bool, true where a pixel is known, not float32"),
        (lambda d: PseudoInverse(d, Downscale(2), torch.zeros(1, 1, 1), noise=-1.0), "noise = -1.0"),
        (lambda d: PseudoInverse(d, Downscale(2), torch.zeros(1, 1, 1), deviation=0.0), "deviation = 0.0"),
        (lambda d: PseudoInverse(d, Downscale(2), torch.zeros(1, 1, 1), scale=-2.0), "scale = -2.0"),
    ],
)
def test_settings_that_make_no_sense(make: Callable[[Denoiser], object], says: str) -> None:
    with pytest.raises(WrongUse, match=says):
        make(exact(torch.eye(4, dtype=torch.float64)))


@pytest.mark.parametrize(
    ("operator", "y", "says"),
    [
        (Mask(torch.ones(3, 3, dtype=torch.bool)), torch.zeros(1, 2, 2), "a mask of 3x3 does not fit pictures of 2x2"),
        (Mask(torch.ones(2, dtype=torch.bool)), torch.zeros(1, 2, 2), "a mask of 2 does not fit"),
        (Mask(torch.ones(3, 2, 2, dtype=torch.bool)), torch.zeros(1, 2, 2), "with channels = 1"),
        (Downscale(3), torch.zeros(1, 1, 1), "pictures of 2x2 do not divide by the factor 3"),
        (Downscale(2), torch.zeros(1, 2, 2), r"y of shape \(1, 2, 2\): what is measured .* is \(4, 1, 1, 1\)"),
        (Downscale(2), torch.zeros(3, 1, 1, 1), r"y of shape \(3, 1, 1, 1\)"),
    ],
)
def test_measurements_that_do_not_fit(operator: Operator, y: Tensor, says: str) -> None:
    guided = PseudoInverse(exact(torch.eye(4, dtype=torch.float64)), operator, y)
    with pytest.raises(WrongUse, match=says) as caught:
        guided(torch.zeros(4, 1, 2, 2, dtype=torch.float64), SCHEDULE(5))
    assert "\n" not in str(caught.value)
