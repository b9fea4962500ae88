"""One step of the chain: against Bayes' rule, the reference tables, and the whole variational bound put together."""

import math
from decimal import Decimal, localcontext
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.oracle import VARIANCES, ClosedForm, exact_linear, figure, pictures, relative_error
from torch import Tensor

from fromnoise.denoiser import Clip, Denoiser
from fromnoise.gaussian import Gaussian, bits_per_dim
from fromnoise.ladder import Strided
from fromnoise.parameterization import Epsilon
from fromnoise.schedule import Cosine, DiscreteSchedule, Level, Linear, Quad, Schedule, ZeroTerminalSNR, noisy
from fromnoise.transition import (
    Large,
    LearnedRange,
    Pair,
    Small,
    Variance,
    forward_log_variance,
    posterior,
    posterior_log_variance,
    reverse,
)

PAPER = Linear()
SCHEDULES: dict[str, DiscreteSchedule] = {
    "linear": PAPER,
    "quad": Quad(),
    "cosine": Cosine(),
    "60 steps": Linear(steps=60),
}


def neighbours(schedule: Schedule) -> Pair:
    """Levels of t = 1 … T and of t − 1."""
    level = schedule(torch.arange(int(schedule.horizon) + 1))
    return level[1:], level[:-1]


def ones(level: Level) -> Tensor:
    return torch.ones(level.t.numel(), 1, 1, 1, dtype=torch.float64)


# ------------------------------------------------------------------------------------------------------- equations 6, 7


def test_neighbouring_steps_give_the_papers_tables_to_twelve_digits() -> None:
    exact, (t, s) = exact_linear(), neighbours(PAPER)
    assert relative_error(forward_log_variance(t, s).exp(), exact.beta) < 1e-12
    tilde = posterior_log_variance(t, s)
    assert tilde[0] == -math.inf
    assert relative_error(tilde[1:].exp(), exact.posterior_variance[1:]) < 1e-12
    assert f"{tilde[1].exp().item():.4e}" == "5.4532e-05"
    assert f"{tilde[1].item():.4f}" == "-9.8167"
    with localcontext(prec=60):
        a = exact.alpha_bar
        from_x_0 = [a[i].sqrt() * exact.beta[i] / (1 - a[i + 1]) for i in range(1000)]
        from_x_t = [(1 - exact.beta[i]).sqrt() * (1 - a[i]) / (1 - a[i + 1]) for i in range(1, 1000)]
    x, nothing = ones(t), torch.zeros(1000, 1, 1, 1, dtype=torch.float64)
    assert relative_error(posterior(nothing, x, t, s).mean.flatten(), from_x_0) < 1e-12
    assert relative_error(posterior(x, nothing, t, s).mean.flatten()[1:], from_x_t) < 1e-12
    assert posterior(x, nothing, t, s).mean[0] == 0


def test_neighbouring_steps_give_the_reference_tables() -> None:
    t, s = neighbours(PAPER)
    x, nothing = ones(t), torch.zeros(1000, 1, 1, 1, dtype=torch.float64)
    close = partial(torch.testing.assert_close, rtol=1e-12, atol=1e-15)
    close(posterior(nothing, x, t, s).mean.flatten(), figure("posterior_mean_coef1"))
    close(posterior(x, nothing, t, s).mean.flatten(), figure("posterior_mean_coef2"))
    close(posterior(x, x, t, s).log_variance.flatten().exp(), figure("posterior_variance"))
    second = PAPER(2), PAPER(1)
    clipped = reverse(x, x, None, t, s, Small(), second).log_variance.flatten()
    close(clipped, figure("posterior_log_variance_clipped"))
    large = reverse(x, x, None, t, s, Large(), second).log_variance.flatten()
    expected = torch.cat([figure("posterior_variance")[1:2], figure("betas")[1:]]).log()
    close(large, expected)


pairs = st.tuples(st.integers(1, 1000), st.integers(1, 1000)).filter(lambda p: p[0] != p[1])


@given(pairs, st.sampled_from(["linear", "quad", "cosine"]), st.floats(-1, 1), st.floats(-4, 4))
def test_posterior_is_bayes_rule(pair: tuple[int, int], name: str, x_0: float, x_t: float) -> None:
    """q(x_s | x_0) · q(x_t | x_s) as a function of x_s: precisions add, and so do precisions times means."""
    schedule, (low, high) = SCHEDULES[name], sorted(pair)
    with localcontext(prec=60):
        a_s, a_t = (Decimal(schedule.alpha_bar[i].item()) for i in (low, high))
        gain, beta = (a_t / a_s).sqrt(), 1 - a_t / a_s
        precision = 1 / (1 - a_s) + gain**2 / beta
        mean = (a_s.sqrt() * Decimal(x_0) / (1 - a_s) + gain * Decimal(x_t) / beta) / precision
    x = torch.tensor([[[[x_t]]], [[[x_0]]]], dtype=torch.float64)
    ours = posterior(x[:1], x[1:], schedule(high), schedule(low))
    assert ours.mean.item() == pytest.approx(float(mean), rel=1e-9, abs=1e-11)
    assert ours.log_variance.exp().item() == pytest.approx(float(1 / precision), rel=1e-9)
    assert forward_log_variance(schedule(high), schedule(low)).exp().item() == pytest.approx(float(beta), rel=1e-9)


@given(
    st.lists(st.integers(1, 1000), min_size=3, max_size=3, unique=True), st.sampled_from(["linear", "quad", "cosine"])
)
def test_the_chain_is_consistent(times: list[int], name: str) -> None:
    """q(x_t | x_s) after q(x_s | x_r) is q(x_t | x_r); the posterior leads back from q(x_t | x_0) to q(x_s | x_0)."""
    r, s, t = (SCHEDULES[name](i) for i in sorted(times))
    gain = (t.signal / s.signal).square()
    composed = gain * forward_log_variance(s, r).exp() + forward_log_variance(t, s).exp()
    assert composed.item() == pytest.approx(forward_log_variance(t, r).exp().item(), rel=1e-9)
    clean = SCHEDULES[name](0)
    assert forward_log_variance(t, clean).exp().item() == pytest.approx(t.sigma.square().item(), rel=1e-12)
    # q(x_s | x_0) is the posterior averaged over x_t ~ q(x_t | x_0): mean and variance pass through its two factors.
    one, nothing = torch.ones(1, 1, 1, 1, dtype=torch.float64), torch.zeros(1, 1, 1, 1, dtype=torch.float64)
    from_x_0, from_x_t = posterior(nothing, one, t, s).mean, posterior(one, nothing, t, s).mean
    assert (from_x_0 + from_x_t * t.signal).item() == pytest.approx(s.signal.item(), rel=1e-9)
    spread = from_x_t.square() * t.sigma.square() + posterior_log_variance(t, s).exp()
    assert spread.item() == pytest.approx(s.sigma.square().item(), rel=1e-9)


@pytest.mark.parametrize("steps", [2, 10, 100, 999])
@pytest.mark.parametrize("name", SCHEDULES)
def test_shortened_ladders_have_the_betas_of_their_own(name: str, steps: int) -> None:
    """β = 1 − ᾱ_t / ᾱ_s; a chain of these β has the same ᾱ at the times that are left (Nichol & Dhariwal, eq. 19)."""
    schedule = SCHEDULES[name]
    steps = min(steps, int(schedule.horizon))
    ladder = Strided(steps=steps).ladder(schedule)
    level = schedule(ladder)
    ours = forward_log_variance(level[:-1], level[1:]).exp()
    a = schedule.alpha_bar[ladder.long()]
    expected = 1 - a[:-1] / a[1:]
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-14)
    torch.testing.assert_close((1 - ours).flip(0).cumprod(0), a[:-1].flip(0), rtol=1e-11, atol=1e-15)


def test_without_signal_at_the_end_the_posterior_forgets_x_t() -> None:
    schedule = ZeroTerminalSNR(base=Linear())
    t, s = schedule(1000), schedule(999)
    x_0, x_t = torch.randn(2, 1, 1, 3, 3, dtype=torch.float64)
    q = posterior(x_t, x_0, t, s)
    torch.testing.assert_close(q.mean, s.signal * x_0, rtol=1e-12, atol=0)
    assert q.log_variance.exp().item() == pytest.approx(s.sigma.square().item(), rel=1e-12)
    assert forward_log_variance(t, s).item() == 0


# ------------------------------------------------------------------------------------------------------------ variances


def test_learned_range_reaches_from_small_to_large() -> None:
    t, s = neighbours(PAPER)
    x, second = ones(t), (PAPER(2), PAPER(1))

    def at(variance: Variance, raw: Tensor | None = None) -> Tensor:
        return reverse(x, x, raw, t, s, variance, second).log_variance.expand_as(x)

    learned, small, large = LearnedRange(), at(Small()), at(Large())
    assert torch.equal(at(learned, -x), small)
    assert torch.equal(at(learned, x)[1:], large[1:])
    # The reference reaches to log β in the last step too, where fixed large does not.
    assert at(learned, x)[0].item() == pytest.approx(math.log(1e-4), rel=1e-12)
    torch.testing.assert_close(at(learned, 0 * x)[1:].exp(), (small + large)[1:].mul(0.5).exp(), rtol=1e-12, atol=0)
    inside = at(learned, 0.3 * x)
    assert bool(((inside > small) & (inside < large))[1:].all())


def test_small_is_never_above_large() -> None:
    for schedule in SCHEDULES.values():
        t, s = neighbours(schedule)
        assert bool((posterior_log_variance(t, s) < forward_log_variance(t, s)).all())


def test_fixed_large_takes_small_of_the_step_before_in_the_last_step() -> None:
    ladder = Strided(steps=50).ladder(PAPER)
    levels = PAPER(ladder)
    pair, second = (levels[-2], levels[-1]), (levels[-3], levels[-2])
    x = torch.zeros(1, 1, 1, 1, dtype=torch.float64)
    stand_in = posterior_log_variance(*second).item()
    for variance in (Small(), Large()):
        assert reverse(x, x, None, *pair, variance, second).log_variance.item() == stand_in
        assert reverse(x, x, None, *pair, variance).log_variance.item() == -math.inf
        # Elsewhere the stand-in does not matter.
        ours = reverse(x, x, None, *second, variance, second).log_variance
        assert torch.equal(ours, reverse(x, x, None, *second, variance).log_variance)


def test_mixed_times_are_the_single_times() -> None:
    times = torch.tensor([1, 1000, 2, 1, 500])
    x_t, x_0, raw = torch.randn(3, 5, 2, 3, 4, dtype=torch.float64)
    second = PAPER(2), PAPER(1)
    for variance in VARIANCES.values():
        mixed = reverse(x_t, x_0, raw, PAPER(times), PAPER(times - 1), variance, second)
        for i, t in enumerate(times.tolist()):
            one = slice(i, i + 1)
            single = reverse(x_t[one], x_0[one], raw[one], PAPER(t), PAPER(t - 1), variance, second)
            assert torch.equal(mixed.mean[one], single.mean)
            ours, alone = mixed.log_variance.expand_as(x_t)[one], single.log_variance.expand_as(x_t[one])
            assert torch.equal(ours, alone)
    assert torch.equal(reverse(x_t, x_0, None, PAPER(times), PAPER(times - 1), Small()).mean[0], x_0[0])


def test_learned_range_without_a_second_output_is_refused() -> None:
    x = torch.zeros(1, 1, 2, 2)
    with pytest.raises(ValueError, match="twice the output channels"):
        reverse(x, x, None, PAPER(5), PAPER(4), LearnedRange())


def test_arithmetic_is_done_in_float64_and_cast_once() -> None:
    t, s = neighbours(PAPER)
    x = torch.randn(1000, 1, 2, 2)
    half, exact = posterior(x.bfloat16(), x, t, s), posterior(x.bfloat16().double(), x.double(), t, s)
    assert half.mean.dtype == half.log_variance.dtype == torch.float32
    torch.testing.assert_close(half.mean.double(), exact.mean, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(half.log_variance.double(), exact.log_variance, rtol=1e-7, atol=0)


# ------------------------------------------------------------------------------------ the bound, put together from them


@pytest.mark.parametrize("name", VARIANCES)
@pytest.mark.parametrize(
    ("precision", "each", "sum_of_all"),
    [(torch.float32, 1e-6, 1e-5), (torch.float64, 1e-5, 2e-5)],
    ids=["float32", "float64"],
)
def test_the_variational_bound_is_the_reference(
    name: str, precision: torch.dtype, each: float, sum_of_all: float
) -> None:
    """All 1000 terms, the prior and their sum in bits per dimension.

    The figures were computed in float32 and are met best in it; float64 shows how far off they are themselves.
    """
    x_0, noise = pictures().to(precision), figure("noise").to(precision)
    denoiser = Denoiser(ClosedForm(learned=name == "learned_range"), PAPER, Epsilon(), clip=Clip())
    # Row i of the noise was used at t = T − i: all times of both pictures as one batch, in that order.
    times = torch.arange(1000, 0, -1).repeat_interleave(2)
    t, s, clean = PAPER(times), PAPER(times - 1), x_0.repeat(1000, 1, 1, 1)
    x_t = noisy(clean, noise.flatten(0, 1), t)
    prediction = denoiser(x_t, t)
    p = reverse(x_t, prediction.x_0, prediction.raw_variance, t, s, VARIANCES[name], (PAPER(2), PAPER(1)))
    kl, decoder = posterior(x_t, clean, t, s).kl(p), -p.discretized_log_prob(clean)
    terms = torch.where(times == 1, bits_per_dim(decoder), bits_per_dim(kl)).reshape(1000, 2).T
    torch.testing.assert_close(terms.float(), figure(f"{name}/bpd_vb"), rtol=1e-6, atol=each)

    end = PAPER(1000)
    q = Gaussian(end.signal * x_0.double(), 2 * end.sigma.log())
    prior = bits_per_dim(q.kl(Gaussian(torch.zeros_like(q.mean), torch.zeros((), dtype=torch.float64))))
    torch.testing.assert_close(prior.float(), figure(f"{name}/bpd_prior_bpd"), rtol=0, atol=1e-7)
    total = terms.double().sum(1) + prior
    torch.testing.assert_close(total.float(), figure(f"{name}/bpd_total_bpd"), rtol=0, atol=sum_of_all)

    square = (prediction.x_0 - clean).square().flatten(1).mean(1).reshape(1000, 2).T
    torch.testing.assert_close(square.float(), figure(f"{name}/bpd_xstart_mse"), rtol=1e-5, atol=1e-6)
    square = (prediction.eps - noise.flatten(0, 1)).square().flatten(1).mean(1).reshape(1000, 2).T
    torch.testing.assert_close(square.float(), figure(f"{name}/bpd_mse"), rtol=0, atol=1e-5)


def test_the_hybrid_loss_is_the_reference() -> None:
    """Nichol & Dhariwal 2021, equation 16: the squared error plus T/1000 of the bound's term, without clipping."""
    times, eps, x_0 = figure("hybrid/t") + 1, figure("noise")[0], pictures()
    t, s = PAPER(times), PAPER(times - 1)
    x_t = noisy(x_0, eps, t)
    prediction = Denoiser(ClosedForm(learned=True), PAPER, Epsilon())(x_t, t)
    square = (prediction.eps - eps).square().flatten(1).mean(1)
    p = reverse(x_t, prediction.x_0, prediction.raw_variance, t, s, LearnedRange(), (PAPER(2), PAPER(1)))
    kl, decoder = posterior(x_t, x_0, t, s).kl(p), -p.discretized_log_prob(x_0)
    term = torch.where(times == 1, bits_per_dim(decoder), bits_per_dim(kl)) * PAPER.horizon / 1000
    torch.testing.assert_close(square, figure("hybrid/mse"), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(term, figure("hybrid/vb"), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(square + term, figure("hybrid/loss"), rtol=1e-5, atol=1e-6)
