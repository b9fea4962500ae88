"""Weightings against their papers' formulas: once as a weight of the error of x_0, for every way of reading a network,
and once in the space of the paper.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fromnoise.objective import P2, EDMWeighting, Even, MinSNR, SigmoidSNR, Weighting
from fromnoise.parameterization import Epsilon, Flow, Karras, Parameterization, Sample, Velocity
from fromnoise.schedule import EDM, Cosine, Linear, Rectified, Schedule, VariancePreserving, ZeroTerminalSNR, noisy

PAPER = Linear()
SCHEDULES: dict[str, Schedule] = {
    "linear": PAPER,
    "cosine": Cosine(),
    "vp": VariancePreserving(),
    "edm": EDM(),
    "rectified": Rectified(),
}
KINDS: dict[str, Parameterization] = {
    "epsilon": Epsilon(),
    "sample": Sample(),
    "velocity": Velocity(),
    "flow": Flow(),
    "karras": Karras(),
}
# What the paper's loss multiplies ‖x_0 − estimate‖² with, from signal-to-noise ratio r or from sigma = 1/√r.
OF_X_0: dict[str, tuple[Weighting, Callable[[Tensor], Tensor]]] = {
    "min-SNR": (MinSNR(), lambda r: torch.minimum(r, torch.tensor(5.0))),
    "min-SNR 1": (MinSNR(gamma=1.0), lambda r: torch.minimum(r, torch.tensor(1.0))),
    "p2": (P2(), lambda r: r / (1 + r)),
    "p2 half": (P2(gamma=0.5, k=2.0), lambda r: r / (2 + r).sqrt()),
    "edm": (EDMWeighting(), lambda r: (1 / r + 0.25) / (r.rsqrt() * 0.5).square()),
    "edm 1": (EDMWeighting(sigma_data=1.0), lambda r: (1 / r + 1) * r),
    "sigmoid": (SigmoidSNR(), lambda r: r / (1 + torch.exp(r.log() - 2))),
    "sigmoid -3": (SigmoidSNR(bias=-3.0), lambda r: r / (1 + torch.exp(r.log() + 3))),
}


def inside(schedule: Schedule) -> Tensor:
    """Times over the whole clock, without its end where nothing may be left of the signal."""
    t = torch.linspace(0, 1, 42, dtype=torch.float64)[1:-1] * schedule.horizon
    return t.ceil() if schedule.whole else t


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", OF_X_0)
def test_the_weighted_error_of_the_output_is_the_papers_of_x_0(name: str, schedule: str, kind: str) -> None:
    """Whatever the network says: its error, weighted, is the error of the x_0 that is read from it, as published."""
    weighting, formula = OF_X_0[name]
    parameterization, level = KINDS[kind], SCHEDULES[schedule](inside(SCHEDULES[schedule]))
    x_0, eps, output = torch.randn(3, 40, 1, 2, 2, dtype=torch.float64)
    x_t = noisy(x_0, eps, level)
    error = (output - parameterization.target(x_0, eps, level)).square().flatten(1).mean(1)
    ours = weighting(level, parameterization) * error
    of_x_0 = (parameterization.x_0(x_t, output, level) - x_0).square().flatten(1).mean(1)
    torch.testing.assert_close(ours, formula((level.signal / level.sigma).square()) * of_x_0, rtol=1e-7, atol=1e-12)


def table() -> tuple[Tensor, Tensor]:
    """ᾱ and the SNR of 1 … 1000, from the definition."""
    alpha_bar = (1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(0)
    return alpha_bar, alpha_bar / (1 - alpha_bar)


def test_in_the_spaces_of_the_papers() -> None:
    """Hang et al. 2023: eps, v and x_0. Choi et al. 2022: eps. Kingma & Gao 2023: eps."""
    alpha_bar, snr = table()
    level, low = PAPER(torch.arange(1, 1001)), snr.clamp(max=5)

    def equal(ours: Tensor, theirs: Tensor) -> None:
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=0)

    equal(MinSNR()(level, Epsilon()), low / snr)
    equal(MinSNR()(level, Velocity()), low / (snr + 1))
    equal(MinSNR()(level, Sample()), low)
    equal(P2()(level, Epsilon()), 1 / (1 + snr))
    equal(P2(gamma=0.5)(level, Epsilon()), (1 + snr) ** -0.5)
    equal(P2(gamma=0)(level, Epsilon()), torch.ones(1000, dtype=torch.float64))
    equal(SigmoidSNR()(level, Epsilon()), (2 - snr.log()).sigmoid())
    # 1/(1 + e^(λ − b)) is also P2 with k = e^b, times k.
    equal(
        SigmoidSNR(bias=1.5)(level, Epsilon()), 2.718281828459045**1.5 * P2(k=2.718281828459045**1.5)(level, Epsilon())
    )
    assert torch.equal(alpha_bar, PAPER.alpha_bar[1:])


def test_edm_weights_the_output_of_its_own_network_evenly() -> None:
    """Karras et al. 2022, table 1: λ(sigma) c_out² = 1, on any schedule; so for v if sigma_data is 1."""
    for sigma_data in (0.5, 0.3, 1.0):
        for name in ("edm", "linear", "rectified"):
            level = SCHEDULES[name](inside(SCHEDULES[name]))
            weight = EDMWeighting(sigma_data=sigma_data)(level, Karras(sigma_data=sigma_data))
            torch.testing.assert_close(weight, torch.ones_like(weight), rtol=1e-12, atol=0)
    level = PAPER(torch.arange(1, 1001))
    torch.testing.assert_close(EDMWeighting(sigma_data=1.0)(level, Velocity()), Even()(level, Velocity()))


@pytest.mark.parametrize("name", OF_X_0)
def test_where_no_signal_is_left_the_weight_is_a_number(name: str) -> None:
    for schedule in (ZeroTerminalSNR(base=PAPER), Rectified()):
        level = schedule(torch.tensor([schedule.horizon]))
        for parameterization in (Sample(), Velocity(), Flow()):
            weight = OF_X_0[name][0](level, parameterization)
            assert weight.dtype == torch.float64 and weight.shape == (1,)
            assert bool(weight.isfinite().all()) and weight.item() >= 0


def test_settings_without_sense_are_refused() -> None:
    for wrong in (
        lambda: MinSNR(gamma=0),
        lambda: P2(gamma=-1),
        lambda: P2(k=0),
        lambda: EDMWeighting(sigma_data=0),
    ):
        with pytest.raises(ValueError, match="must"):
            wrong()
