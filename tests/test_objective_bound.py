"""The bound as a loss: the reference figures, the sum of its terms written out plainly, and where its gradient goes."""

import math

import pytest
import torch
from tests.oracle import ClosedForm, Function, figure, gaussian_network, pictures
from torch import Tensor, nn

from fromnoise.denoiser import Denoiser
from fromnoise.objective import Bound, Even, History, Hybrid, LossAware, MinSNR, Objective, Simple, UniformTime
from fromnoise.parameterization import Epsilon, Parameterization, PosteriorMean, Sample, Velocity
from fromnoise.schedule import EDM, Constant, Linear, ZeroTerminalSNR
from fromnoise.transition import Large, LearnedRange, Small, Variance

PAPER = Linear()


def of_time(t: Tensor, steps: int = 1000) -> Tensor:
    """The uniform numbers that give these times."""
    return (t.double() - 0.5) / steps


def reference(objective: Objective) -> Tensor:
    """The loss of the fixture's network, pictures, times and noise."""
    denoiser = Denoiser(ClosedForm(learned=True), PAPER, Epsilon())
    loss = objective(denoiser, pictures(), of_time(figure("hybrid/t") + 1), figure("noise")[0])
    assert torch.equal(loss.t, figure("hybrid/t").double() + 1)
    return loss.per_example


def test_the_hybrid_loss_and_its_halves_are_the_reference() -> None:
    square = reference(Hybrid(bound_weight=0))
    torch.testing.assert_close(reference(Hybrid()), figure("hybrid/loss"), rtol=0, atol=1e-5)
    torch.testing.assert_close(square, figure("hybrid/mse"), rtol=0, atol=1e-5)
    torch.testing.assert_close(reference(Hybrid()) - square, figure("hybrid/vb"), rtol=0, atol=1e-5)
    # The figures carry T/1000 of a term, the bound T of it.
    torch.testing.assert_close(reference(Bound(variance=LearnedRange())) / 1000, figure("hybrid/vb"), rtol=0, atol=1e-5)


# ------------------------------------------------------------------------------------------- the terms, written plainly


class Tables:
    """The paper's tables at t = 1 … 1000, as the reference has them: by definition, and from the fixture."""

    def __init__(self) -> None:
        self.alpha_bar = figure("alphas_cumprod")
        self.from_x_0, self.from_x_t = figure("posterior_mean_coef1"), figure("posterior_mean_coef2")
        self.small = figure("posterior_log_variance_clipped")
        self.beta = figure("betas").log()
        self.large = torch.cat([self.small[:1], self.beta[1:]])


def plain_terms(variance: str, x_0: Tensor, eps: Tensor) -> Tensor:
    """vb_t in bits per dimension at t = 1 … 1000 for row t of x_0 and eps, (1000, 1, h, w), float64."""
    table, t = Tables(), torch.arange(1000)
    a, mean_0, mean_t = (v[:, None, None, None] for v in (table.alpha_bar, table.from_x_0, table.from_x_t))
    x_t = a.sqrt() * x_0 + (1 - a).sqrt() * eps
    guess = 0.1 * x_t + 0.01 * (t / 100).double().cos()[:, None, None, None]
    share = (0.5 * x_t.tanh() + 1) / 2
    log_variance = {
        "small": table.small[:, None, None, None].expand_as(x_t),
        "large": table.large[:, None, None, None].expand_as(x_t),
        "learned": share * table.beta[:, None, None, None] + (1 - share) * table.small[:, None, None, None],
    }[variance]
    mean = mean_0 * (x_t - (1 - a).sqrt() * guess) / a.sqrt() + mean_t * x_t
    true_mean, true_log = mean_0 * x_0 + mean_t * x_t, table.small[:, None, None, None]
    kl = 0.5 * (
        log_variance - true_log + (true_log - log_variance).exp() + (true_mean - mean) ** 2 * (-log_variance).exp() - 1
    )

    def below(x: Tensor) -> Tensor:
        z = (x - mean[0]) * (-0.5 * log_variance[0]).exp()
        return 0.5 * (1 + (math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)).tanh())

    x = x_0[0]
    high = torch.where(x > 0.999, torch.ones_like(x), below(x + 1 / 255))
    low = torch.where(x < -0.999, torch.zeros_like(x), below(x - 1 / 255))
    kl[0] = -(high - low).clamp(min=1e-12).log()
    return kl.flatten(1).mean(1) / math.log(2)


VARIANCES: dict[str, Variance] = {"small": Small(), "large": Large(), "learned": LearnedRange()}


@pytest.mark.parametrize("name", VARIANCES)
def test_the_mean_over_all_times_is_the_sum_of_all_terms(name: str) -> None:
    x_0 = pictures()[:1].double().expand(1000, 1, 4, 4)
    eps = torch.randn(1000, 1, 4, 4, dtype=torch.float64)
    denoiser = Denoiser(ClosedForm(learned=name == "learned"), PAPER, Epsilon())
    loss = Bound(variance=VARIANCES[name])(denoiser, x_0, of_time(torch.arange(1, 1001)), eps)
    terms = plain_terms(name, x_0, eps)
    torch.testing.assert_close(loss.per_example / 1000, terms, rtol=1e-8, atol=1e-10)
    assert loss.value.item() == pytest.approx(terms.sum().item(), rel=1e-9)
    assert Bound(variance=VARIANCES[name]).learns_variance is (name == "learned")


def test_loss_aware_times_leave_the_mean_of_the_bound_what_it_is() -> None:
    """The sum over the map's shares of [0, 1): times drawn by their losses, weights included."""
    schedule, n = Constant(steps=4, value=0.3), 100_000
    history = History.empty(4, 1)
    history.record(torch.arange(1, 5).double(), torch.tensor([30.0, 4.0, 2.0, 0.5]))
    denoiser = Denoiser(ClosedForm(), schedule, Epsilon())
    x_0 = pictures()[:1].double()
    eps = torch.randn(1, 1, 4, 4, dtype=torch.float64)

    def bound(objective: Objective, u: Tensor) -> float:
        return objective(
            denoiser, x_0.expand(len(u), -1, -1, -1), u, eps.expand(len(u), -1, -1, -1), history=history
        ).value.item()

    whole = bound(Bound(), of_time(torch.arange(1, 5), 4))
    u = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    assert bound(Bound(times=LossAware(last=1)), u) == pytest.approx(whole, rel=1e-4)


# ------------------------------------------------------------------------------------------------------- the gradients


class Given(nn.Module):
    """Says what its parameters are, whatever it sees."""

    def __init__(self, mean: Tensor, v: Tensor) -> None:
        super().__init__()
        self.mean, self.v = nn.Parameter(mean), nn.Parameter(v)

    def forward(self, x: Tensor, c_time: Tensor) -> Tensor:
        return torch.cat([self.mean, self.v], 1)


def gradients(objective: Objective, kind: Parameterization, u: Tensor) -> tuple[Tensor, Tensor]:
    """Of the loss with respect to mean and v, float64, always of the same case."""
    source = torch.Generator().manual_seed(3)
    x_0, eps, mean, v = torch.randn(4, len(u), 2, 3, 3, dtype=torch.float64, generator=source)
    network = Given(mean, v.tanh())
    objective(Denoiser(network, PAPER, kind), x_0.clamp(-1, 1), u, eps).value.backward()
    assert network.mean.grad is not None and network.v.grad is not None
    return network.mean.grad, network.v.grad


KINDS = [Epsilon(), Sample(), Velocity()]
EVERY = of_time(torch.tensor([1, 2, 17, 500, 1000]))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: type(kind).__name__)
def test_in_the_hybrid_loss_the_bound_reaches_the_variance_alone(kind: Parameterization) -> None:
    """The mean has the gradient of the squared error to the last bit, v that of the bound."""
    mean, v = gradients(Hybrid(bound_weight=0.7, weighting=MinSNR()), kind, EVERY)
    square, none = gradients(Hybrid(bound_weight=0, weighting=MinSNR()), kind, EVERY)
    assert torch.equal(mean, square)
    assert not none.any()
    other, bound = gradients(Bound(variance=LearnedRange()), kind, EVERY)
    torch.testing.assert_close(v, 0.7 * bound, rtol=1e-12, atol=1e-13)
    assert bool((bound != 0).flatten(1).any(1).all()) and bool((other != 0).flatten(1).any(1).all())


def test_the_squared_half_is_the_simple_loss() -> None:
    eps, x_0 = torch.randn(2, 6, 1, 4, 4, dtype=torch.float64)
    u = torch.rand(6, dtype=torch.float64)
    for weighting in (Even(), MinSNR()):
        ours = Hybrid(bound_weight=0, weighting=weighting)(
            Denoiser(ClosedForm(learned=True), PAPER, Epsilon()), x_0, u, eps
        )
        plain = Simple(weighting=weighting)(Denoiser(ClosedForm(), PAPER, Epsilon()), x_0, u, eps)
        assert torch.equal(ours.per_example, plain.per_example)


@pytest.mark.parametrize(
    "objective", [Hybrid(), Bound(variance=LearnedRange()), Bound()], ids=["hybrid", "learned", "small"]
)
@pytest.mark.parametrize("precision", [torch.float32, torch.float64])
def test_gradients_are_finite_at_both_ends_and_for_wild_outputs(objective: Objective, precision: torch.dtype) -> None:
    """Where x_s is clean a divergence is infinite and where x_t is noise a term underflows: neither may leak NaN."""
    channels = 2 if objective.learns_variance else 1
    for schedule, kind in (
        (PAPER, Epsilon()),
        (ZeroTerminalSNR(base=PAPER), Velocity()),
        (PAPER, PosteriorMean(schedule=PAPER)),
    ):
        for scale in (0.0, 1.0, 100.0):
            output = torch.randn(4, channels, 3, 3, dtype=precision)
            output[:, :1] *= scale
            output.requires_grad_()
            x_0 = torch.tensor([-1.0, 0.0, 1.0], dtype=precision).expand(4, 1, 3, 3)
            denoiser = Denoiser(Function(lambda x, c_time, output=output: output), schedule, kind)
            loss = objective(denoiser, x_0, of_time(torch.tensor([1, 2, 999, 1000])), torch.randn_like(x_0))
            loss.value.backward()
            assert bool(loss.per_example.isfinite().all()), (scale, kind)
            assert output.grad is not None and bool(output.grad.isfinite().all()), (scale, kind)


def test_the_gradient_of_the_learned_bound_is_the_slope_of_the_loss() -> None:
    """Central differences of the value, at the decoder's term and at a divergence."""
    source = torch.Generator().manual_seed(4)
    x_0, eps, mean, v = 0.5 * torch.randn(4, 2, 1, 2, 2, dtype=torch.float64, generator=source)
    u, h = of_time(torch.tensor([1, 300])), 1e-6

    def value(outputs: Tensor) -> float:
        denoiser = Denoiser(Function(lambda x, c_time: outputs), PAPER, Sample())
        return Bound(variance=LearnedRange())(denoiser, x_0, u, eps).value.item()

    # Near the truth, where the decoder's probabilities are far from their floor.
    outputs = torch.cat([x_0 + 0.005 * mean, v], 1).requires_grad_()
    Bound(variance=LearnedRange())(
        Denoiser(Function(lambda x, c_time: outputs), PAPER, Sample()), x_0, u, eps
    ).value.backward()
    for place in [(0, 0, 0, 1), (0, 1, 1, 0), (1, 0, 1, 1), (1, 1, 0, 0)]:
        step = torch.zeros_like(outputs)
        step[place] = h
        slope = (value(outputs.detach() + step) - value(outputs.detach() - step)) / (2 * h)
        assert outputs.grad[place].item() == pytest.approx(slope, rel=1e-4)


def test_the_best_learned_variance_is_the_exact_posterior_variance() -> None:
    """Gaussian data and their exact denoiser: the v that minimises the hybrid loss says Var(x_s | x_t)."""
    times, deviation = torch.tensor([2, 10, 100, 500]), 0.1
    a_t, a_s = PAPER.alpha_bar[times], PAPER.alpha_bar[times - 1]
    exact_eps = gaussian_network(PAPER.alpha_bar, 0.0, deviation)
    v = torch.zeros(4, dtype=torch.float64, requires_grad=True)

    def outputs(x: Tensor, c_time: Tensor) -> Tensor:
        return torch.cat([exact_eps(x, c_time), v[:, None, None, None].expand_as(x)], 1)

    x_0, eps = torch.randn(2, 4, 1, 128, 128, dtype=torch.float64)
    denoiser = Denoiser(Function(outputs), PAPER, Epsilon())
    solver = torch.optim.LBFGS([v], max_iter=50, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        solver.zero_grad()
        value = Hybrid(bound_weight=1.0)(denoiser, deviation * x_0, of_time(times), eps).value
        value.backward()
        return value

    solver.step(closure)
    beta, small = 1 - a_t / a_s, (1 - a_t / a_s) * (1 - a_s) / (1 - a_t)
    learned = ((v.detach() + 1) / 2 * beta.log() + (1 - v.detach()) / 2 * small.log()).exp()
    of_s, of_t = (a * deviation**2 + 1 - a for a in (a_s, a_t))
    exact = of_s - a_t / a_s * of_s.square() / of_t
    assert bool(((small < exact) & (exact < beta)).all())
    torch.testing.assert_close(learned, exact, rtol=5 * math.sqrt(2 / 16384), atol=0)


# --------------------------------------------------------------------------------------------------------- wrong input


@pytest.mark.parametrize("objective", [Hybrid(times=UniformTime()), Bound(times=UniformTime())])
def test_a_continuous_clock_has_no_neighbours(objective: Objective) -> None:
    x = torch.zeros(2, 1, 2, 2)
    denoiser = Denoiser(ClosedForm(learned=True), EDM(), Velocity())
    with pytest.raises(
        ValueError, match="sum over the steps of a chain, and EDM has a continuous clock: take"
    ) as caught:
        objective.check(denoiser)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="continuous clock"):
        objective(denoiser, x, torch.rand(2), x)


@pytest.mark.parametrize("objective", [Hybrid(), Bound()])
def test_a_chain_of_one_step_is_refused(objective: Objective) -> None:
    with pytest.raises(ValueError, match="at least 2 steps"):
        objective.check(Denoiser(ClosedForm(learned=True), Constant(steps=1), Epsilon()))
    objective.check(Denoiser(ClosedForm(learned=True), Constant(steps=2), Epsilon()))


@pytest.mark.parametrize(
    ("objective", "learned"), [(Hybrid(), True), (Bound(variance=LearnedRange()), True), (Bound(), False)]
)
@pytest.mark.parametrize("channels", [1, 3])
def test_outputs_of_another_number_are_refused(objective: Objective, learned: bool, channels: int) -> None:
    x_0 = torch.randn(2, channels, 4, 4)
    complaint = "two output channels for each" if learned else "one output channel for each"
    with pytest.raises(ValueError, match=complaint) as caught:
        objective(
            Denoiser(ClosedForm(learned=not learned), PAPER, Epsilon()), x_0, torch.rand(2), torch.randn_like(x_0)
        )
    assert "\n" not in str(caught.value)


def test_a_negative_weight_is_refused() -> None:
    with pytest.raises(ValueError, match=r"bound_weight = -0\.1: must not be negative"):
        Hybrid(bound_weight=-0.1)
