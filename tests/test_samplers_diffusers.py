"""Samplers against diffusers: the same noise, times and network give the same x at every step.

The network is not linear in x, couples pixels and changes with the time, so that no term can hide. diffusers computes
in float32, also where it is given float64; here its modules are handed a torch and a NumPy whose float32 is float64.
"""

import inspect
from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.schedulers import (
    scheduling_ddim,
    scheduling_ddim_inverse,
    scheduling_deis_multistep,
    scheduling_dpmsolver_multistep,
    scheduling_euler_ancestral_discrete,
    scheduling_euler_discrete,
    scheduling_heun_discrete,
    scheduling_ipndm,
    scheduling_unipc_multistep,
)
from tests.oracle import Function, figure
from torch import Tensor

from fromnoise.denoiser import Denoiser
from fromnoise.noise import GivenNoise
from fromnoise.parameterization import Epsilon
from fromnoise.sampler import (
    DDIM,
    DEIS,
    IPNDM,
    DPMSolver2M,
    DPMSolver2MSDE,
    DPMSolver3M,
    Euler,
    EulerAncestral,
    Heun,
    Inversion,
    Sampler,
    UniPC,
    trajectory,
)
from fromnoise.schedule import Linear

# diffusers hands tensors to NumPy in ways that NumPy 2 warns of.
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning"),
]
PAPER = Linear()
TOLERANCE = 1e-9
STEPS = [8, 20]
"""Below and above the 15 steps under which diffusers lowers the order towards the end."""


def network(x: Tensor, c_time: Tensor) -> Tensor:
    """A made-up noise prediction."""
    time = c_time.reshape(-1, 1, 1, 1)
    return (0.3 + 0.7e-3 * time) * torch.tanh(x) + 0.1 * torch.cos(3 * x.roll(1, -1) + time / 200)


class Double:
    """A module, but for its float32, which is float64."""

    def __init__(self, module: ModuleType) -> None:
        self._module, self.float32 = module, module.float64

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


def peer(monkeypatch: pytest.MonkeyPatch, module: ModuleType, name: str, **settings: Any) -> Any:
    """The scheduler of that name in double precision, with the paper's table."""
    monkeypatch.setattr(module, "torch", Double(torch))
    if "np" in vars(module):
        monkeypatch.setattr(module, "np", Double(np))
    return getattr(module, name)(trained_betas=figure("betas").numpy(), **settings)


def theirs(scheduler: Any, x: Tensor, **arguments: Any) -> Iterator[Tensor]:
    """x after every step of diffusers. Its k-diffusion schedulers work on x / signal."""
    rescaled = "is_scale_input_called" in vars(scheduler) or "Heun" in type(scheduler).__name__
    alpha_bar = figure("alphas_cumprod")
    if "generator" in inspect.signature(scheduler.step).parameters:
        arguments["generator"] = torch.Generator().manual_seed(5)
    times = scheduler.timesteps
    if rescaled:
        x = x / alpha_bar[int(times[0])].sqrt()
    for i, time in enumerate(times):
        output = network(scheduler.scale_model_input(x, time), time.double().expand(x.shape[0]))
        x = scheduler.step(output, time if rescaled else int(time), x, **arguments).prev_sample
        following = times[i + 1] if i + 1 < len(times) else None
        if following is not None and "Heun" in type(scheduler).__name__ and i % 2 == 0:
            continue  # Half of a step.
        yield x * alpha_bar[int(following)].sqrt() if rescaled and following is not None else x


def ours(sampler: Sampler[Any], times: Tensor, x: Tensor) -> Iterator[Tensor]:
    """x after every step of ours, at network time + 1."""
    ladder = torch.cat([times.double().unique().flip(0) + 1, torch.zeros(1, dtype=torch.float64)])
    source = torch.Generator().manual_seed(5)
    noise = GivenNoise(torch.randn(x.shape, dtype=torch.float64, generator=source) for _ in ladder)
    denoiser = Denoiser(Function(network), PAPER, Epsilon())
    return (step.x for step in trajectory(sampler, denoiser, PAPER, ladder, x, noise))


def assert_same(pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
    for a, b in pairs:
        torch.testing.assert_close(a, b, rtol=TOLERANCE, atol=TOLERANCE)


def start() -> Tensor:
    return torch.randn(3, 2, 4, 5, dtype=torch.float64)


TRAILING = {"timestep_spacing": "trailing"}
DPM = (scheduling_dpmsolver_multistep, "DPMSolverMultistepScheduler")
UNIPC = (scheduling_unipc_multistep, "UniPCMultistepScheduler")
SDE = {"algorithm_type": "sde-dpmsolver++", "solver_order": 2}
DEIS_ = (scheduling_deis_multistep, "DEISMultistepScheduler")
DDIM_ = (scheduling_ddim, "DDIMScheduler")
CASES: dict[str, tuple[Sampler[Any], tuple[ModuleType, str], dict[str, Any], dict[str, Any]]] = {
    "ddim 0": (DDIM(), DDIM_, {"clip_sample": False}, {}),
    "ddim 0.5": (DDIM(eta=0.5), DDIM_, {"clip_sample": False}, {"eta": 0.5}),
    "ddim 1": (DDIM(eta=1), DDIM_, {"clip_sample": False}, {"eta": 1.0}),
    "euler": (Euler(), (scheduling_euler_discrete, "EulerDiscreteScheduler"), {}, {}),
    "euler_ancestral": (
        EulerAncestral(),
        (scheduling_euler_ancestral_discrete, "EulerAncestralDiscreteScheduler"),
        {},
        {},
    ),
    "heun": (Heun(), (scheduling_heun_discrete, "HeunDiscreteScheduler"), {}, {}),
    "dpm_2m": (DPMSolver2M(), DPM, {"solver_order": 2}, {}),
    "dpm_3m": (DPMSolver3M(), DPM, {"solver_order": 3}, {}),
    "dpm_2m_sde": (DPMSolver2MSDE(), DPM, SDE, {}),
    **{
        f"unipc {order} {kind}": (
            UniPC(order=order, bh2=kind == "bh2"),
            UNIPC,
            {"solver_order": order, "solver_type": kind},
            {},
        )
        for order in (1, 2, 3)
        for kind in ("bh1", "bh2")
    },
    **{f"deis {order}": (DEIS(order=order), DEIS_, {"solver_order": order}, {}) for order in (1, 2, 3)},
}


ELSEWHERE = {"deis 1", "deis 2", "deis 3", "unipc 1 bh1", "unipc 2 bh1", "unipc 3 bh1"}
"""The last step does not compare: diffusers' DEIS ends at the noise level of the network's time 0, and its bh1 has no
number where sigma is 0."""


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("name", CASES)
def test_every_step_is_that_of_diffusers(monkeypatch: pytest.MonkeyPatch, name: str, steps: int) -> None:
    sampler, named, settings, arguments = CASES[name]
    scheduler, x = peer(monkeypatch, *named, **settings, **TRAILING), start()
    scheduler.set_timesteps(steps)
    pairs = list(zip(ours(sampler, scheduler.timesteps, x), theirs(scheduler, x, **arguments), strict=True))
    assert len(pairs) == steps
    assert_same(pairs[:-1] if name in ELSEWHERE else pairs)


@pytest.mark.parametrize("steps", STEPS)
def test_ipndm_is_that_of_diffusers(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """Theirs has a schedule of its own, and reads eps as sigma x + signal F: given our levels, and F accordingly."""
    scheduler, x = peer(monkeypatch, scheduling_ipndm, "IPNDMScheduler"), start()
    scheduler.set_timesteps(steps)
    times = torch.arange(steps, dtype=torch.float64) * (1000 // steps) + 1
    levels = PAPER(torch.cat([times.flip(0) + 1, torch.zeros(1, dtype=torch.float64)]))
    scheduler.betas, scheduler.alphas, scheduler.timesteps = levels.sigma, levels.signal, times.flip(0)

    def peers() -> Iterator[Tensor]:
        y = x
        for i, time in enumerate(scheduler.timesteps):
            eps = network(y, time.expand(3))
            y = scheduler.step((eps - levels.sigma[i] * y) / levels.signal[i], time, y).prev_sample
            yield y

    assert_same(zip(ours(IPNDM(order=4), times, x), peers(), strict=True))


@pytest.mark.parametrize("steps", STEPS)
def test_inversion_is_that_of_diffusers(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    scheduler = peer(
        monkeypatch, scheduling_ddim_inverse, "DDIMInverseScheduler", clip_sample=False, timestep_spacing="leading"
    )
    x = start()
    scheduler.set_timesteps(steps)

    def peers() -> Iterator[Tensor]:
        y = x
        for time in scheduler.timesteps:
            y = scheduler.step(network(y, time.double().expand(3)), int(time), y).prev_sample
            yield y

    assert_same(zip(ours(Inversion(), scheduler.timesteps, x), peers(), strict=True))
