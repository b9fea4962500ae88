"""The convolution ceiling: the network's own main convolutions and nothing else, as fast as PyTorch runs them here.

Each shape is tried in both memory layouts and the faster one counts, so the ceiling favours nobody. What a network
reaches of it tells how much of its time goes into anything but convolutions.
"""

import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.work import TRAINING_PASSES, Convolution, Work, main_convolutions

FORMATS = (torch.contiguous_format, torch.channels_last)


class Ceiling:
    """GFLOP/s of the main convolutions, forward ("inference") and forward with backward ("train")."""

    def __init__(self, work: Work) -> None:
        self.work, self.convolutions = work, main_convolutions(work)

    def gflops(self, task: str) -> float:
        """One measurement: every shape as often as the network runs it, weighted by that."""
        flops = seconds = 0.0
        for conv in self.convolutions:
            passes = TRAINING_PASSES if task == "train" else 1
            flops += conv.times * conv.flops(self.work.batch) * passes
            seconds += conv.times * min(self._seconds(conv, task, layout) for layout in FORMATS)
        return flops / seconds / 1e9

    def _seconds(self, conv: Convolution, task: str, layout: torch.memory_format) -> float:
        run = self._runner(conv, task, layout)
        run()
        repeats, start = 0, time.perf_counter()
        while repeats < 2 or (time.perf_counter() - start < 0.02 and repeats < 200):
            run()
            repeats += 1
        self._wait()
        return (time.perf_counter() - start) / repeats

    def _runner(self, conv: Convolution, task: str, layout: torch.memory_format) -> Callable[[], None]:
        training, device = task == "train", self.work.device
        dtype = torch.bfloat16 if self.work.autocast else torch.float32
        shapes = (
            (self.work.batch, conv.in_channels, conv.height, conv.width),
            (conv.out_channels, conv.in_channels, 3, 3),
        )
        x, weight = (
            torch.randn(shape, device=device, dtype=dtype).contiguous(memory_format=layout).requires_grad_(training)
            for shape in shapes
        )
        bias = torch.zeros(conv.out_channels, device=device, dtype=dtype, requires_grad=training)
        grad = torch.randn(self.work.batch, conv.out_channels, conv.height, conv.width, device=device, dtype=dtype)
        grad = grad.contiguous(memory_format=layout)

        def run() -> None:
            with torch.set_grad_enabled(training):
                y: Tensor = F.conv2d(x, weight, bias, padding=1)
            if training:
                torch.autograd.grad(y, [x, weight, bias], grad)

        def run_and_wait() -> None:
            run()
            self._wait()

        return run_and_wait if device == "cpu" else run

    def _wait(self) -> None:
        if self.work.device == "cuda":
            torch.cuda.synchronize()
