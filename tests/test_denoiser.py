"""Where the network's output gets its meaning: clipped, cast, split, and told the right time."""

from dataclasses import dataclass

import pytest
import torch
from tests.oracle import ClosedForm, Function, figure
from torch import Tensor, nn

from fromnoise.denoiser import Clip, Denoiser
from fromnoise.noise import GivenNoise
from fromnoise.parameterization import Epsilon, Parameterization, Sample, Velocity
from fromnoise.sampler import Ancestral
from fromnoise.schedule import Cosine, Level, Linear, ScaledLinear, ZeroTerminalSNR, noisy

SCHEDULE = Linear()


def batch(*times: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Level]:
    return torch.randn(len(times), 2, 4, 3, dtype=dtype), SCHEDULE(torch.tensor(times))


@pytest.mark.parametrize("kind", [Epsilon(), Sample(), Velocity()], ids=lambda kind: type(kind).__name__)
def test_clipped_x_0_and_eps_still_make_x_t(kind: Parameterization) -> None:
    x_t, level = batch(1, 2, 300, 999, 1000)
    network = Function(lambda x, c_time: 3 * x - 0.2)
    free, kept = (
        Denoiser(network, SCHEDULE, kind)(x_t, level),
        Denoiser(network, SCHEDULE, kind, clip=Clip())(x_t, level),
    )
    assert free.x_0.abs().max() > 1
    assert torch.equal(kept.x_0, free.x_0.clamp(-1, 1))
    for prediction in (free, kept):
        torch.testing.assert_close(noisy(prediction.x_0, prediction.eps, level), x_t, rtol=0, atol=1e-12)
    inside = free.x_0.abs() < 1
    torch.testing.assert_close(kept.eps[inside], free.eps[inside], rtol=1e-9, atol=1e-9)


def test_unclipped_eps_is_what_the_network_said() -> None:
    x_t, level = batch(1, 500, 1000)
    denoiser = Denoiser(ClosedForm(), SCHEDULE, Epsilon())
    expected = ClosedForm()(x_t, torch.tensor([0.0, 499.0, 999.0], dtype=torch.float64))
    torch.testing.assert_close(denoiser(x_t, level).eps, expected, rtol=0, atol=1e-13)
    torch.testing.assert_close(denoiser.output(x_t, level), expected, rtol=0, atol=0)


def test_clip_has_its_limit() -> None:
    x_t, level = batch(700, 800)
    prediction = Denoiser(Function(lambda x, c_time: -x), SCHEDULE, Epsilon(), clip=Clip(limit=0.25))(x_t, level)
    assert prediction.x_0.abs().max() == 0.25


def test_x_0_is_clipped_before_the_posterior_mean_is_taken() -> None:
    """One sampler step by equation 7, by hand: clipping afterwards, or not at all, would give another picture."""
    beta, a = figure("betas"), figure("alphas_cumprod")
    t = 600
    x_t = 2 * torch.randn(2, 1, 4, 4, dtype=torch.float64)
    x_0 = ((x_t - (1 - a[t - 1]).sqrt() * 0.5) / a[t - 1].sqrt()).clamp(-1, 1)
    mean = a[t - 2].sqrt() * beta[t - 1] / (1 - a[t - 1]) * x_0
    mean = mean + (1 - beta[t - 1]).sqrt() * (1 - a[t - 2]) / (1 - a[t - 1]) * x_t
    denoiser = Denoiser(Function(lambda x, c_time: torch.full_like(x, 0.5)), SCHEDULE, Epsilon(), clip=Clip())
    silent = GivenNoise([torch.zeros_like(x_t)])
    ours, _ = Ancestral().step(denoiser, x_t, SCHEDULE(t), SCHEDULE(t - 1), None, silent)
    torch.testing.assert_close(ours, mean, rtol=0, atol=1e-12)
    assert (x_0.abs() == 1).float().mean() > 0.9  # the clip had something to do


# -------------------------------------------------------------------------------------------- what the network is given


def test_network_is_told_the_time_of_every_picture_and_the_condition() -> None:
    told = []

    def spy(x: Tensor, c_time: Tensor, labels: Tensor) -> Tensor:
        told.append((c_time, labels))
        return x

    denoiser, labels = Denoiser(Function(spy), SCHEDULE, Epsilon()), torch.tensor([4, 5, 6])
    x_t, level = batch(1, 20, 1000, dtype=torch.float32)
    denoiser(x_t, level, labels=labels)
    denoiser(x_t, SCHEDULE(20), labels=labels)
    assert torch.equal(told[0][0], torch.tensor([0.0, 19.0, 999.0]))
    assert torch.equal(told[1][0], torch.tensor([19.0, 19.0, 19.0]))
    assert all(torch.equal(given, labels) for _, given in told)


def test_one_level_or_the_same_for_each_picture_is_the_same() -> None:
    x_t, level = batch(20, 20, 20, dtype=torch.float32)
    denoiser = Denoiser(ClosedForm(learned=True), SCHEDULE, Epsilon(), clip=Clip())
    one, each = denoiser(x_t, SCHEDULE(20)), denoiser(x_t, level)
    assert torch.equal(one.x_0, each.x_0)
    assert torch.equal(one.eps, each.eps)


@dataclass(frozen=True, kw_only=True)
class Shrunk(Sample):
    """F = x_0 from a network that is given x_t of unit variance for data of variance 1/4."""

    def c_in(self, level: Level) -> Tensor:
        return (level.signal.square() / 4 + level.sigma.square()).rsqrt()


def test_x_t_reaches_the_network_scaled() -> None:
    x_t, level = batch(3, 900)
    output = Denoiser(Function(lambda x, c_time: x), SCHEDULE, Shrunk()).output(x_t, level)
    a = SCHEDULE.alpha_bar[[3, 900]].reshape(-1, 1, 1, 1)
    torch.testing.assert_close(output, x_t / (a / 4 + 1 - a).sqrt(), rtol=1e-13, atol=0)


# ------------------------------------------------------------------------------------------------- the learned variance


def test_second_half_of_the_channels_is_the_raw_variance() -> None:
    x_t, level = batch(5, 500)
    for clip in (None, Clip()):
        plain = Denoiser(ClosedForm(), SCHEDULE, Epsilon(), clip=clip)(x_t, level)
        learned = Denoiser(ClosedForm(learned=True), SCHEDULE, Epsilon(), clip=clip)(x_t, level)
        assert plain.raw_variance is None
        assert torch.equal(learned.x_0, plain.x_0)
        assert torch.equal(learned.eps, plain.eps)
        assert learned.raw_variance is not None
        assert torch.equal(learned.raw_variance, 0.5 * torch.tanh(x_t))


# ------------------------------------------------------------------------------------------------------------ precision


class Convolution(nn.Module):
    """A network that notes the precision of what it gets and of what it computes."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Conv2d(2, 2, 3, padding=1)
        self.seen: list[torch.dtype] = []

    def forward(self, x: Tensor, c_time: Tensor) -> Tensor:
        out: Tensor = self.inner(x)
        self.seen += [x.dtype, c_time.dtype, out.dtype]
        return out


@pytest.mark.parametrize("outer", [False, True], ids=["plain", "inside a caller's autocast"])
@pytest.mark.parametrize("autocast", [None, torch.bfloat16], ids=str)
def test_the_network_alone_computes_in_lower_precision(autocast: torch.dtype | None, outer: bool) -> None:
    network = Convolution()
    x_t, level = batch(1, 2, 1000, dtype=torch.float32)
    denoiser = Denoiser(network, SCHEDULE, Epsilon(), autocast=autocast)
    with torch.autocast("cpu", torch.bfloat16, enabled=outer):
        prediction, output = denoiser(x_t, level), denoiser.output(x_t, level)
    assert network.seen == [torch.float32, torch.float32, autocast or torch.float32] * 2
    assert output.dtype == prediction.x_0.dtype == prediction.eps.dtype == torch.float32
    # Read back from what the network said, the arithmetic around it is float32's, not bfloat16's (0.4 %).
    expected = Epsilon().x_0(x_t.double(), output.double(), level)
    torch.testing.assert_close(prediction.x_0.double(), expected, rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize("level", [SCHEDULE(3), SCHEDULE(torch.tensor([3, 3]))], ids=["one", "a batch"])
def test_half_precision_pictures_are_denoised_in_float32(level: Level) -> None:
    x_t = torch.randn(2, 1, 4, 4).bfloat16()
    prediction = Denoiser(Function(lambda x, c_time: x.float() / 7), SCHEDULE, Epsilon(), clip=Clip())(x_t, level)
    assert prediction.x_0.dtype == prediction.eps.dtype == torch.float32
    expected = (x_t.float() - level.sigma[..., None, None, None] * x_t.float() / 7) / level.signal[
        ..., None, None, None
    ]
    torch.testing.assert_close(prediction.x_0.double(), expected.double().clamp(-1, 1), rtol=0, atol=1e-6)


def test_gradient_reaches_the_network() -> None:
    network, (x_t, level) = Convolution(), batch(1, 400, dtype=torch.float32)
    Denoiser(network, SCHEDULE, Epsilon(), autocast=torch.bfloat16)(x_t, level).x_0.sum().backward()
    assert network.inner.weight.grad is not None
    assert network.inner.weight.grad.abs().max() > 0


# ------------------------------------------------------------------------------------------------------------- refusals


def test_epsilon_is_refused_where_no_signal_is_left() -> None:
    for base in (ScaledLinear(), Cosine()):
        schedule = ZeroTerminalSNR(base=base)
        with pytest.raises(ValueError, match="Epsilon cannot be used with ZeroTerminalSNR") as caught:
            Denoiser(ClosedForm(), schedule, Epsilon())
        assert "\n" not in str(caught.value)
        assert "velocity, flow or sample" in str(caught.value)
        for kind in (Sample(), Velocity()):
            prediction = Denoiser(ClosedForm(), schedule, kind)(torch.randn(1, 1, 2, 2), schedule(1000))
            assert bool(prediction.x_0.isfinite().all() and prediction.eps.isfinite().all())
    Denoiser(ClosedForm(), Cosine(), Epsilon())  # hardly any signal is not none
