"""One process that does one side's work when told to: a line of JSON in, a line of JSON out.

Each side has a process of its own, so that allocator settings and peaks of memory do not mix; between its rounds it
sleeps. ``python -m benchmarks.worker`` is started by ``measure`` and is of no use by itself.
"""

import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.ceiling import Ceiling
from benchmarks.overhead import loop_percent
from benchmarks.sides import DDIM_STEPS, SIDES, TASKS, random_weights
from benchmarks.work import TRAINING_PASSES, Work, nominal_flops

MEBIBYTE = 2**20


class Worker:
    """The commands, by name."""

    def __init__(self) -> None:
        self.before: float | None = None
        self.device = "cpu"
        self.steps: Iterator[Tensor] = iter(())
        self.batch = 0

    def about(self, device: str) -> dict[str, Any]:
        """What this is measured on; ``device`` "auto" takes a GPU if there is one."""
        device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        name = torch.cuda.get_device_name() if device == "cuda" else _processor()
        return {
            "device": device,
            "name": name,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "half": torch.ops.mkldnn._is_mkldnn_bf16_supported(),  # In PyTorch's own tests the one way to ask a CPU.
        }

    def prepare(self, work: dict[str, Any], ours: str, peer: str) -> dict[str, Any]:
        """Writes the weights of both sides; answers with the operations of each task for one picture."""
        what = Work.from_dict(work)
        for state, path in zip(random_weights(what), (ours, peer), strict=True):
            save_file(state, path)
        forward = nominal_flops(what) / what.batch
        return {"inference": forward, "train": TRAINING_PASSES * forward, "sampling": DDIM_STEPS * forward}

    def ceiling(self, work: dict[str, Any], task: str) -> float:
        """GFLOP/s of the convolutions alone."""
        return Ceiling(Work.from_dict(work)).gflops(task)

    def overhead(self, work: dict[str, Any]) -> float:
        """The sampling loop beside the network, in percent."""
        return loop_percent(Work.from_dict(work))

    def build(self, work: dict[str, Any], side: str, task: str, weights: str, output: str) -> None:
        """Makes the network, warms it up, and writes its output for the fixed batch."""
        what = Work.from_dict(work)
        self.device, self.batch = what.device, what.batch
        make = SIDES[side]()  # Loads the side's libraries.
        self.before = _memory("VmRSS")
        self.steps = TASKS[task](make(what, Path(weights)))
        np.save(output, next(self.steps).float().cpu().numpy())
        for _ in range(3 if what.device == "cuda" else 1):
            next(self.steps)

    def round(self, seconds: float, steps: int) -> float:
        """Pictures a second over at least so much time and so many steps, after the same time and steps untimed.

        Between its rounds a side lies idle while the others run, and its first steps then find cold caches and pages
        (a fifth slower, measured after three seconds). Training knows no such pauses, so they are not counted.
        """
        self._run(seconds, steps)
        return self._run(seconds, steps)

    def _run(self, seconds: float, steps: int) -> float:
        self._wait()
        done, start = 0, time.perf_counter()
        while done < steps or time.perf_counter() - start < seconds:
            next(self.steps)
            done += 1
            if self.device == "cuda" and done % 10 == 0:
                self._wait()  # The clock must not run ahead of the device.
        self._wait()
        return done * self.batch / (time.perf_counter() - start)

    def memory(self) -> float | None:
        """Peak in MiB: on CUDA that of the device, else the process's, above what its libraries take."""
        if self.device == "cuda":
            return torch.cuda.max_memory_allocated() / MEBIBYTE
        peak = _memory("VmHWM")
        return None if peak is None or self.before is None else peak - self.before

    def _wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()


def _memory(field: str) -> float | None:
    """A field of this process in MiB, from Linux; None elsewhere. VmHWM, unlike ru_maxrss, forgets the parent's."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{field}:")), None)


def _processor() -> str:
    """Its name as Linux knows it, with the widest instructions PyTorch uses there."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
    return f"{name} ({torch.backends.cpu.get_cpu_capability()})"


def serve() -> None:
    """Commands from standard input until it ends. What libraries print goes to standard error."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    worker = Worker()
    commands: dict[str, Callable[..., Any]] = {
        "about": worker.about,
        "prepare": worker.prepare,
        "ceiling": worker.ceiling,
        "overhead": worker.overhead,
        "build": worker.build,
        "round": worker.round,
        "memory": worker.memory,
    }
    for line in sys.stdin:
        command, arguments = json.loads(line)
        print(json.dumps(commands[command](**arguments)), file=answers)


if __name__ == "__main__":
    serve()
