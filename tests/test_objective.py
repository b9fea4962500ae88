"""The squared-error loss against its formula, and its gradient against pencil and paper."""

from dataclasses import dataclass

import pytest
import torch
from tests.oracle import ClosedForm, Function, figure, pictures
from torch import Tensor, nn

from fromnoise.denoiser import Denoiser
from fromnoise.objective import Even, LogNormal, MinSNR, Simple, UniformTime, Weighting
from fromnoise.parameterization import Epsilon, Parameterization, Sample, Velocity
from fromnoise.schedule import EDM, Level, Linear, ZeroTerminalSNR

PAPER = Linear()


class Scale(nn.Module):
    """F = w · x: its gradient can be written down."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(0.3, dtype=torch.float64))

    def forward(self, x: Tensor, c_time: Tensor) -> Tensor:
        return self.w * x


@dataclass(frozen=True, kw_only=True)
class Signal(Weighting):
    """ᾱ_t: any weight that differs from time to time."""

    def __call__(self, level: Level, parameterization: Parameterization) -> Tensor:
        return level.signal.square()


def draw(batch: int) -> tuple[Tensor, Tensor, Tensor]:
    x_0, eps = torch.randn(2, batch, 2, 3, 4, dtype=torch.float64)
    return x_0, torch.rand(batch, dtype=torch.float64), eps


# ------------------------------------------------------------------------------------------------------------- the loss


@pytest.mark.parametrize("kind", [Epsilon(), Sample(), Velocity()], ids=lambda kind: type(kind).__name__)
def test_loss_is_the_squared_distance_from_the_target(kind: Parameterization) -> None:
    x_0, u, eps = draw(6)
    loss = Simple()(Denoiser(ClosedForm(), PAPER, kind), x_0, u, eps)
    each = []
    for b in range(6):
        t = int(u[b].item() * 1000) + 1
        a = figure("alphas_cumprod")[t - 1]
        x_t = a.sqrt() * x_0[b] + (1 - a).sqrt() * eps[b]
        output = 0.1 * x_t + 0.01 * torch.cos(torch.tensor((t - 1) / 100, dtype=torch.float64))
        targets = {Epsilon: eps[b], Sample: x_0[b], Velocity: a.sqrt() * eps[b] - (1 - a).sqrt() * x_0[b]}
        each.append((output - targets[type(kind)]).square().mean())
        assert loss.t[b] == t
    torch.testing.assert_close(loss.per_example, torch.stack(each), rtol=1e-11, atol=0)
    assert loss.value.item() == pytest.approx(torch.stack(each).mean().item(), rel=1e-11)


def test_loss_is_the_reference() -> None:
    """The squared-error part of the fixture's hybrid loss, in float32, through the network's plain half."""
    u = (figure("hybrid/t").double() + 0.5) / 1000
    loss = Simple()(Denoiser(ClosedForm(), PAPER, Epsilon()), pictures(), u, figure("noise")[0])
    assert torch.equal(loss.t, figure("hybrid/t").double() + 1)
    torch.testing.assert_close(loss.per_example, figure("hybrid/mse"), rtol=1e-5, atol=0)


def test_a_network_that_knows_the_noise_has_no_loss_and_one_that_says_nothing_has_its_variance() -> None:
    x_0, u, eps = draw(5)
    knows = Denoiser(Function(lambda x, c_time: eps), PAPER, Epsilon())
    assert Simple()(knows, x_0, u, eps).value < 1e-30
    silent = Denoiser(Function(lambda x, c_time: 0 * x), PAPER, Epsilon())
    torch.testing.assert_close(Simple()(silent, x_0, u, eps).per_example, eps.square().flatten(1).mean(1))


@pytest.mark.parametrize("weighting", [Even(), Signal()], ids=["even", "by the signal"])
def test_value_is_the_weighted_mean_and_its_gradient_is_right(weighting: Weighting) -> None:
    x_0, u, eps = draw(7)
    network = Scale()
    loss = Simple(weighting=weighting)(Denoiser(network, PAPER, Epsilon()), x_0, u, eps)
    a = figure("alphas_cumprod")[(u * 1000).long()].reshape(-1, 1, 1, 1)
    x_t = a.sqrt() * x_0 + (1 - a).sqrt() * eps
    weight = a if isinstance(weighting, Signal) else torch.ones_like(a)
    each = (weight * (0.3 * x_t - eps).square()).flatten(1).mean(1)
    torch.testing.assert_close(loss.per_example, each, rtol=1e-11, atol=0)
    assert loss.value.item() == pytest.approx(loss.per_example.mean().item(), rel=1e-14)
    loss.value.backward()
    assert network.w.grad is not None
    by_hand = (2 * weight * (0.3 * x_t - eps) * x_t).mean()
    assert network.w.grad.item() == pytest.approx(by_hand.item(), rel=1e-11)
    assert not loss.per_example.requires_grad
    assert torch.equal(Even()(PAPER(torch.tensor([1, 1000])), Epsilon()), torch.ones(2, dtype=torch.float64))


def test_lower_precision_stays_inside_the_network() -> None:
    """The loss of the same outputs is the same number, whatever the network computes in."""
    x_0, eps = torch.randn(2, 64, 2, 4, 4)
    u = torch.rand(64, dtype=torch.float64)
    layer = nn.Conv2d(2, 2, 1)
    exact, half = (
        Simple()(Denoiser(Function(lambda x, c_time: layer(x)), PAPER, Epsilon(), autocast=precision), x_0, u, eps)
        for precision in (None, torch.bfloat16)
    )
    assert exact.value.dtype == half.value.dtype == torch.float32
    assert half.value.item() != exact.value.item()
    assert half.value.item() == pytest.approx(exact.value.item(), rel=1e-2)


def test_condition_reaches_the_network() -> None:
    x_0, u, eps = draw(3)
    seen = []

    def spy(x: Tensor, c_time: Tensor, labels: Tensor) -> Tensor:
        seen.append(labels)
        return x

    labels = torch.tensor([2, 0, 1])
    Simple()(Denoiser(Function(spy), PAPER, Epsilon()), x_0, u, eps, labels=labels)
    assert torch.equal(seen[0], labels)


@dataclass(frozen=True, kw_only=True)
class Inverse(Weighting):
    """1 / ᾱ_t, which a schedule without signal at its end turns into infinity."""

    def __call__(self, level: Level, parameterization: Parameterization) -> Tensor:
        return level.signal**-2


def test_what_does_not_fit_is_told_before_any_training() -> None:
    """One line each. What fits is silent, and the loss itself says the same."""
    network, last = ClosedForm(), ZeroTerminalSNR(base=PAPER)
    Simple(weighting=MinSNR()).check(Denoiser(network, last, Velocity()))
    Simple(times=LogNormal()).check(Denoiser(network, EDM(), Velocity()))
    wrong = [
        (Simple(weighting=Inverse()), last, "Inverse weights the Velocity loss at time 1000 with inf: take another"),
        (Simple(), EDM(), "times uniform_steps count steps, and EDM has a continuous clock: take uniform, "),
        (Simple(times=UniformTime()), PAPER, "times uniform are those of a continuous clock, and Linear counts"),
    ]
    for objective, schedule, complaint in wrong:
        with pytest.raises(ValueError, match=complaint) as caught:
            objective.check(Denoiser(network, schedule, Velocity()))
        assert "\n" not in str(caught.value)
    x_0, u, eps = draw(2)
    with pytest.raises(ValueError, match="uniform_steps count steps"):
        Simple()(Denoiser(network, EDM(), Velocity()), x_0, u, eps)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_second_output_for_the_variance_is_refused(channels: int) -> None:
    """For grey pictures two outputs would broadcast against one target, and the loss would be of the wrong thing."""
    x_0 = torch.randn(2, channels, 4, 4)
    with pytest.raises(ValueError, match="one output channel for each channel"):
        Simple()(Denoiser(ClosedForm(learned=True), PAPER, Epsilon()), x_0, torch.rand(2), torch.randn_like(x_0))
    assert not Simple().learns_variance
