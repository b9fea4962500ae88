"""The variational bound: against the reference figures, mutual information, entropy, and sums over all strata."""

import itertools
import math
from collections.abc import Iterator, Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.oracle import VARIANCES, ClosedForm, Function, figure, gaussian_mean, gaussian_network, pictures
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from fromnoise.denoiser import Clip, Denoiser
from fromnoise.ladder import All, Karras, Spacing, Strided, UniformLogSNR
from fromnoise.likelihood import Profile, Term, mean_and_error, prior, reconstructions, strata, terms, total
from fromnoise.noise import GivenNoise, Noise, SeededNoise
from fromnoise.parameterization import Epsilon
from fromnoise.schedule import EDM, DiscreteSchedule, Linear, Schedule, VariancePreserving
from fromnoise.transition import Large, LearnedRange, Small

PAPER = Linear()


class Drawn(Noise):
    """Float64 draws of one generator, of the shape of x_0."""

    def __init__(self, shape: Sequence[int]) -> None:
        self._shape, self._source = tuple(shape), torch.Generator().manual_seed(5)

    def __call__(self) -> Tensor:
        return torch.randn(self._shape, generator=self._source, dtype=torch.float64)


def zeros(x: Tensor) -> GivenNoise:
    def forever() -> Iterator[Tensor]:
        while True:
            yield torch.zeros_like(x)

    return GivenNoise(forever())


# ------------------------------------------------------------------------------------------------ the reference figures


@pytest.mark.parametrize("name", VARIANCES)
def test_the_bound_of_the_full_chain_is_the_reference(name: str) -> None:
    denoiser = Denoiser(ClosedForm(learned=name == "learned_range"), PAPER, Epsilon(), clip=Clip())
    parts = list(terms(denoiser, pictures(), All().ladder(PAPER), VARIANCES[name], GivenNoise(figure("noise"))))
    assert [(part.t.item(), part.s.item()) for part in parts] == [(t, t - 1) for t in range(1000, 0, -1)]
    assert [part.rungs for part in parts] == [range(k, k + 1) for k in range(1000)]
    bits = torch.stack([part.bits for part in parts], 1)
    torch.testing.assert_close(bits, figure(f"{name}/bpd_vb"), rtol=0, atol=1e-6)
    x_0_error = torch.stack([part.x_0_error for part in parts], 1)
    torch.testing.assert_close(x_0_error, figure(f"{name}/bpd_xstart_mse"), rtol=1e-6, atol=1e-6)
    eps_error = torch.stack([part.eps_error for part in parts], 1)
    torch.testing.assert_close(eps_error, figure(f"{name}/bpd_mse"), rtol=0, atol=1e-5)

    bound = total(prior(pictures(), PAPER(1000)), parts)
    torch.testing.assert_close(bound.prior.float(), figure(f"{name}/bpd_prior_bpd"), rtol=0, atol=1e-7)
    torch.testing.assert_close(bound.total.float(), figure(f"{name}/bpd_total_bpd"), rtol=0, atol=1e-5)
    assert torch.equal(bound.total, bound.prior + bound.rate + bound.decoder)
    torch.testing.assert_close(bound.decoder.float(), figure(f"{name}/bpd_vb")[:, -1], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", VARIANCES)
def test_a_shortened_chain_by_other_means(name: str) -> None:
    """Bayes' rule in precisions and torch's divergence, from ᾱ alone; the decoder as the difference of two CDFs."""
    x_0, noise, ladder = pictures().double(), figure("noise").double(), Strided(steps=6).ladder(PAPER)
    network = ClosedForm(learned=name == "learned_range")
    parts = list(terms(Denoiser(network, PAPER, Epsilon()), x_0, ladder, VARIANCES[name], GivenNoise(noise)))
    a = [PAPER.alpha_bar[int(t)] for t in ladder]
    beta = [1 - t / s for t, s in itertools.pairwise(a)]
    tilde = [b * (1 - s) / (1 - t) for b, t, s in zip(beta, a, a[1:], strict=False)]
    tilde[-1] = tilde[-2]
    for i, part in enumerate(parts):
        x_t = a[i].sqrt() * x_0 + (1 - a[i]).sqrt() * noise[i]
        output = network(x_t, ladder[i].expand(2) - 1)
        guess = (x_t - (1 - a[i]).sqrt() * output[:, :1]) / a[i].sqrt()
        small, large = tilde[i], tilde[i] if i == 5 else beta[i]
        share = 0.5 * torch.tanh(x_t) / 2 + 0.5
        log_variance = {
            "fixed_small": small.log().expand_as(x_t),
            "fixed_large": large.log().expand_as(x_t),
            "learned_range": share * beta[i].log() + (1 - share) * small.log(),
        }[name]
        deviation = (log_variance / 2).exp()
        if i < 5:
            gain, s = (a[i] / a[i + 1]).sqrt(), a[i + 1]
            precision = 1 / (1 - s) + gain**2 / beta[i]
            means = [(s.sqrt() * x / (1 - s) + gain * x_t / beta[i]) / precision for x in (x_0, guess)]
            nats = kl_divergence(Normal(means[0], precision.rsqrt()), Normal(means[1], deviation))
        else:
            cdf = [_tanh_cdf((x_0 + side - guess) / deviation) for side in (1 / 255, -1 / 255)]
            inside = torch.where(x_0 > 0.999, 1 - cdf[1], torch.where(x_0 < -0.999, cdf[0], cdf[0] - cdf[1]))
            nats = -inside.clamp(min=1e-12).log()
        torch.testing.assert_close(part.bits, nats.flatten(1).mean(1) / math.log(2), rtol=1e-9, atol=1e-12)


def _tanh_cdf(x: Tensor) -> Tensor:
    return (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2


@pytest.mark.parametrize(
    ("schedule", "deviation"), [(PAPER, 1.0), (VariancePreserving(), 1.0), (EDM(sigma_max=5.0), 5.0)], ids=repr
)
def test_the_prior_is_of_the_noise_that_samplers_start_from(schedule: Schedule, deviation: float) -> None:
    x_0, top = pictures().double(), schedule(schedule.horizon)
    nats = kl_divergence(Normal(top.signal * x_0, top.sigma), Normal(0.0, deviation))
    torch.testing.assert_close(prior(x_0, top), nats.flatten(1).mean(1) / math.log(2), rtol=1e-7, atol=1e-12)


# --------------------------------------------------------------------------------- information: what no chain can avoid


def standard_normal(schedule: Schedule) -> Denoiser:
    """The best denoiser for data N(0, 1) on a schedule that preserves variance: E[x_0 | x_t] = signal x_t."""

    def eps(x_t: Tensor, c_time: Tensor) -> Tensor:
        return schedule((c_time + 1).double()).sigma.to(x_t.dtype)[:, None, None, None] * x_t

    return Denoiser(Function(eps), schedule, Epsilon())


@pytest.mark.parametrize(
    ("schedule", "spacing"),
    [
        (PAPER, Strided(steps=2)),
        (PAPER, Strided(steps=40)),
        (VariancePreserving(), UniformLogSNR(steps=3)),
        (VariancePreserving(), Karras(steps=30)),
    ],
    ids=repr,
)
def test_rate_and_prior_of_a_perfect_chain_are_the_mutual_information(schedule: Schedule, spacing: Spacing) -> None:
    """For data N(0, 1) the reverse steps are normal and Large is their variance: however many they are, the terms add
    up to I(x_0; x_t) = log(1 + SNR_t)/2 at the last t (the chain rule of information)."""
    x_0 = torch.randn(16, 1, 64, 64, dtype=torch.float64)
    denoiser, ladder = standard_normal(schedule), spacing.ladder(schedule)
    bound = total(prior(x_0, schedule(ladder[0])), list(terms(denoiser, x_0, ladder, Large(), Drawn(x_0.shape))))
    expected = 0.5 * torch.log2(1 + schedule(ladder[-2]).snr).item()
    mean, error = mean_and_error(bound.prior + bound.rate)
    assert error is not None and error < 0.01 * expected
    assert abs(mean - expected) < 4 * error


PROBABILITIES = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
LEVELS = torch.tensor(
    [[[[0, 255], [30, 200]]], [[[255, 255], [40, 190]]], [[[90, 3], [128, 127]]]], dtype=torch.float64
)


def posterior_mean(schedule: DiscreteSchedule, x_0: Tensor) -> Denoiser:
    """The perfect denoiser for data that are ``x_0`` (3, 1, 2, 2) with :data:`PROBABILITIES`: E[x_0 | x_t] by Bayes."""

    def eps(x_t: Tensor, c_time: Tensor) -> Tensor:
        level = schedule(c_time[0] + 1)
        apart = x_t[:, None] - level.signal * x_0
        weight = (PROBABILITIES.log() - apart.square().flatten(2).sum(2) / (2 * level.sigma**2)).softmax(1)
        return (x_t - level.signal * torch.einsum("bk,kchw->bchw", weight, x_0)) / level.sigma

    return Denoiser(Function(eps), schedule, Epsilon(), clip=Clip())


def test_the_bound_of_a_perfect_denoiser_is_not_below_the_entropy() -> None:
    """Known discrete data: points, for which Small is the variance. The schedule starts with so little noise that the
    decoder meets the right grey level. The more steps, the nearer to the entropy: within 2 % at 1000."""
    schedule = Linear(steps=1000, first=1e-7, last=0.02)
    x_0, repeats = LEVELS / 127.5 - 1, 300
    denoiser, entropy = posterior_mean(schedule, x_0), -(PROBABILITIES * PROBABILITIES.log2()).sum().item()
    found = []
    for steps, variance in ((1000, Small()), (300, Small()), (30, Small()), (30, Large())):
        ladder, data = Strided(steps=steps).ladder(schedule), x_0.repeat_interleave(repeats, 0)
        bound = total(prior(data, schedule(1000)), list(terms(denoiser, data, ladder, variance, Drawn(data.shape))))
        assert bound.decoder.max() < 1e-3
        bits = 4 * bound.total.reshape(3, repeats)
        error = (PROBABILITIES.square() * bits.var(1) / repeats).sum().sqrt().item()
        found.append(((PROBABILITIES * bits.mean(1)).sum().item(), error))
    for bits, error in found:
        assert error < 0.04 * entropy
        assert bits > entropy - 3 * error
    (many, error), (some, _), (few, _), (large, _) = found
    assert many < 1.02 * entropy + 3 * error
    assert many < some < few < large


# -------------------------------------------------------------------------------------------------------- the estimate


@given(st.integers(3, 300), st.integers(1, 400), st.sampled_from(["linear", "edm"]))
def test_strata_hold_every_step_once(steps: int, count: int, kind: str) -> None:
    schedule: Schedule = PAPER if kind == "linear" else EDM()
    spacing = Strided(steps=steps) if kind == "linear" else Karras(steps=steps)
    parts = strata(schedule(spacing.ladder(schedule)), count)
    assert [k for part in parts for k in part] == list(range(steps))
    assert len(parts) == min(count, steps - 1) + 1
    assert len(parts[-1]) == 1


@pytest.mark.parametrize("count", [1, 2, 5, 11])
@pytest.mark.parametrize("name", VARIANCES)
def test_the_estimate_averages_to_the_bound(name: str, count: int) -> None:
    """Over numbers in the middle of equal cells, each stratum gives every one of its steps equally often."""
    schedule = Linear(steps=12, first=0.01, last=0.5)
    denoiser = Denoiser(ClosedForm(learned=name == "learned_range"), schedule, Epsilon(), clip=Clip())
    x_0, ladder = pictures()[:1].double(), All().ladder(schedule)
    every = list(terms(denoiser, x_0, ladder, VARIANCES[name], zeros(x_0)))
    exact = total(prior(x_0, schedule(12)), every)
    sizes = [len(part) for part in strata(schedule(ladder), count)]
    cells = math.lcm(*sizes)
    many = x_0.expand(cells, 1, 4, 4)
    u = ((torch.arange(cells) + 0.5) / cells).double()[:, None].expand(cells, count)
    parts = list(terms(denoiser, many, ladder, VARIANCES[name], zeros(many), u))
    found = total(prior(many, schedule(12)), parts)
    assert found.rate.mean().item() == pytest.approx(exact.rate.item(), rel=1e-12)
    assert found.decoder.tolist() == pytest.approx([exact.decoder.item()] * cells, rel=1e-12)
    assert (found.rate.std(correction=0) > 1e-3) == (count < 11)
    if count == 11:  # A stratum for every step: nothing is left to chance.
        assert [part.rungs for part in parts] == [part.rungs for part in every]
        assert found.total.tolist() == pytest.approx([exact.total.item()] * cells, rel=1e-12)


def test_drawn_times_are_those_of_the_stratum_and_of_the_picture() -> None:
    ladder, x_0 = All().ladder(PAPER), pictures()
    u = torch.tensor([[0.0, 0.5, 0.999999999999], [0.999999999999, 0.0, 0.3]], dtype=torch.float64)
    parts = list(terms(Denoiser(ClosedForm(), PAPER, Epsilon()), x_0, ladder, Small(), zeros(x_0), u))
    assert len(parts) == 4
    for j, part in enumerate(parts[:3]):
        expected = [1000.0 - part.rungs[int(share * len(part.rungs))] for share in u[:, j].tolist()]
        assert part.t.tolist() == expected
        assert torch.equal(part.s, part.t - 1)
    assert parts[3].t.item() == 1


def test_one_draw_per_stratum_spreads_less_than_draws_anywhere() -> None:
    """With as many calls, strata leave a third of the spread, or less, of times drawn evenly from the whole chain."""
    data = torch.randn(1, 1, 1, 16, dtype=torch.float64).expand(400, 1, 1, 16) * 0.3
    denoiser = Denoiser(gaussian_network(PAPER.alpha_bar, 0.0, 0.3), PAPER, Epsilon())
    ladder, count = All().ladder(PAPER), 20
    parts = list(terms(denoiser, data, ladder, Large(), zeros(data), torch.rand(400, count, dtype=torch.float64)))
    ours = total(torch.zeros(400).double(), parts).rate
    every = list(terms(denoiser, data[:1], ladder, Large(), zeros(data[:1])))
    bits = torch.cat([part.bits for part in every[:-1]])
    anywhere = 999 * bits[torch.randint(999, (400, count))].mean(1)
    assert ours.mean().item() == pytest.approx(bits.sum().item(), abs=4 * ours.std().item() / 20)
    assert ours.std() < anywhere.std() / 3


# ----------------------------------------------------------------------------------------------------- rate, distortion


def _term(rungs: range, t: float, bits: list[float], error: list[float]) -> Term:
    at = torch.tensor(t, dtype=torch.float64)
    return Term(rungs, at, at, torch.tensor(bits), torch.tensor(error), torch.zeros(len(bits)))


def test_points_of_rate_and_distortion() -> None:
    """The receiver of x_t has been sent the terms above t; the decoder's bits are never part of the rate."""
    x_0, ladder = pictures().double(), Strided(steps=20).ladder(PAPER)
    denoiser = Denoiser(ClosedForm(), PAPER, Epsilon(), clip=Clip())
    parts = list(terms(denoiser, x_0, ladder, Small(), Drawn(x_0.shape)))
    points = Profile.of(parts).points()
    bits = torch.stack([part.bits for part in parts]).mean(1)
    for i, point in enumerate(points):
        assert (point.steps, point.t) == (i + 1, ladder[i].item())
        assert point.rate == pytest.approx(bits[:i].sum().item(), rel=1e-12, abs=1e-15)
        x_t_error = parts[i].x_0_error.mean().item()
        assert point.rmse == pytest.approx(math.sqrt(x_t_error) * 127.5, rel=1e-12)
    assert points[-1].rate == pytest.approx(total(torch.zeros(2), parts).rate.mean().item(), rel=1e-12)
    assert [point.steps for point in Profile.of(parts).table()] == [20, 18, 16, 14, 12, 10, 8, 6, 4, 2]


def test_batches_add_up() -> None:
    rungs = [range(0, 3), range(3, 4), range(4, 5)]
    whole = [_term(r, r.start, [1.0 + k, 2.0, 6.0], [0.1, 0.2, k]) for k, r in enumerate(rungs)]
    first = [_term(r, r.start, [1.0 + k], [0.1]) for k, r in enumerate(rungs)]
    second = [_term(r, r.start, [2.0, 6.0], [0.2, k]) for k, r in enumerate(rungs)]
    both = Profile.of(first) + Profile.of(second)
    assert both.rungs == tuple(rungs) and both.pictures == 3
    torch.testing.assert_close(both.sums, Profile.of(whole).sums)
    # The middle of the first stratum is its second step, with one of its three steps sent.
    steps, rates = [p.steps for p in both.points()], [p.rate for p in both.points()]
    assert steps == [2, 4, 5]
    assert rates == pytest.approx([3.0, 9.0, 9.0 + 10 / 3])
    with pytest.raises(ValueError, match="same steps"):
        sum([Profile.of(second[:2])], Profile.of(first))


def test_a_table_of_few_steps_has_them_all() -> None:
    parts = [_term(range(k, k + 1), 4 - k, [1.0], [0.5]) for k in range(4)]
    assert [point.steps for point in Profile.of(parts).table()] == [4, 3, 2, 1]


def test_reconstructions_are_the_posterior_means_of_one_noising() -> None:
    x_0, eps = pictures().double(), figure("noise")[0].double()
    denoiser = Denoiser(gaussian_network(PAPER.alpha_bar, 0.2, 0.5), PAPER, Epsilon())
    times = [900.0, 300.0, 1.0]
    for t, guess in zip(times, reconstructions(denoiser, x_0, times, eps), strict=True):
        level = PAPER(t)
        expected = gaussian_mean(level.signal * x_0 + level.sigma * eps, level.signal, level.sigma, 0.2, 0.5)
        torch.testing.assert_close(guess, expected, rtol=1e-9, atol=1e-9)


def test_mean_and_error() -> None:
    values = torch.tensor([1.0, 2.0, 6.0], dtype=torch.float64)
    assert mean_and_error(values) == (3.0, pytest.approx(math.sqrt(7 / 3)))
    assert mean_and_error(values[:1]) == (1.0, None)


# ------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("ladder", [[5.0, 0.0], [5.0, 3.0, 1.0], [5.0, 5.0, 0.0], [1.0, 5.0, 0.0]])
def test_ladders_without_a_bound_are_refused(ladder: list[float]) -> None:
    with pytest.raises(ValueError, match="at least three times that ends at 0"):
        next(
            terms(
                Denoiser(ClosedForm(), PAPER, Epsilon()),
                pictures(),
                torch.tensor(ladder, dtype=torch.float64),
                Small(),
                SeededNoise([0, 1], (1, 4, 4)),
            )
        )


def test_a_learned_variance_needs_a_second_output_and_an_estimate_a_stratum() -> None:
    x_0, ladder = pictures(), Strided(steps=5).ladder(PAPER)
    denoiser = Denoiser(ClosedForm(), PAPER, Epsilon())
    with pytest.raises(ValueError, match="twice the output channels"):
        next(terms(denoiser, x_0, ladder, LearnedRange(), zeros(x_0)))
    with pytest.raises(ValueError, match="at least 1 stratum"):
        next(terms(denoiser, x_0, ladder, Small(), zeros(x_0), torch.zeros(2, 0)))
