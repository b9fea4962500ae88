"""DDIM against trajectories made by guided-diffusion: with and without noise, for all three variances."""

import pytest
import torch
from tests.oracle import VARIANCES, ClosedForm, figure
from torch import Tensor

from fromnoise.denoiser import Clip, Denoiser
from fromnoise.noise import GivenNoise
from fromnoise.parameterization import Epsilon
from fromnoise.sampler import DDIM, trajectory
from fromnoise.schedule import Linear


def ladder() -> Tensor:
    """The fixture's times are the network's, 0 … 999; ours are one more, and 0 is the clean picture."""
    times = figure("timesteps/ddim50").double().sort(descending=True).values + 1
    return torch.cat([times, torch.zeros(1, dtype=torch.float64)])


@pytest.mark.parametrize("eta", [0.0, 0.5])
@pytest.mark.parametrize("name", VARIANCES)
def test_ddim_is_the_reference(name: str, eta: float) -> None:
    """DDIM leaves a network's second output alone, so that all three variances end in the same pictures."""
    schedule = Linear()
    denoiser = Denoiser(ClosedForm(learned=name == "learned_range"), schedule, Epsilon(), clip=Clip())
    steps = trajectory(DDIM(eta=eta), denoiser, schedule, ladder(), figure("x_T"), GivenNoise(figure("noise")))
    *_, end = steps
    assert end.nfe == 50
    torch.testing.assert_close(end.x, figure(f"{name}/ddim50_eta{eta}/x_0"), rtol=0, atol=5e-6)


def test_the_reference_tells_the_etas_apart() -> None:
    gap = (figure("fixed_small/ddim50_eta0.0/x_0") - figure("fixed_small/ddim50_eta0.5/x_0")).abs().max()
    assert gap > 1e-2
