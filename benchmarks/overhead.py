"""What the sampling loop costs beside the network: the loop on a network that answers at once, against the real one.

The default sampler, 20 steps, the whole of a step: coefficients, clipping, sums. In percent of the network's own time.
"""

import time
from collections import deque
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor, nn

from benchmarks.sides import DDIM_STEPS, batch
from benchmarks.work import Work
from fromnoise.denoiser import Clip, Denoiser
from fromnoise.ladder import UniformLogSNR
from fromnoise.network.packed import pack
from fromnoise.network.unet import UNet
from fromnoise.noise import SeededNoise
from fromnoise.parameterization import Epsilon
from fromnoise.sampler import DPMSolver2M, trajectory
from fromnoise.schedule import Linear

ROUNDS = 9


class _Instant(nn.Module):
    """Always the same answer, at once."""

    def __init__(self, answer: Tensor) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, x: Tensor, c_time: Tensor) -> Tensor:
        return self.answer


def loop_percent(work: Work) -> float:
    """Medians of some rounds of each. Only for the CPU: on a GPU the loop runs ahead of the device."""
    x, t = batch(work)
    schedule, network = Linear(), pack(UNet(**work.settings()).eval())
    ladder = UniformLogSNR(steps=DDIM_STEPS).ladder(schedule)
    denoiser = Denoiser(_Instant(torch.zeros_like(x)), schedule, Epsilon(), clip=Clip())

    def loop() -> None:
        noise = SeededNoise(range(work.batch), x.shape[1:])
        deque(trajectory(DPMSolver2M(), denoiser, schedule, ladder, x, noise), maxlen=0)

    def calls() -> None:
        with torch.inference_mode():
            for _ in range(DDIM_STEPS):
                network(x, t)

    loop()
    calls()
    found = [[_seconds(loop), _seconds(calls)] for _ in range(ROUNDS)]
    return 100 * median(a for a, _ in found) / median(b for _, b in found)


def _seconds(function: Callable[[], None]) -> float:
    began = time.perf_counter()
    function()
    return time.perf_counter() - began
