"""A process of its own that does steps when told to, and says how long they took and how much memory.

A peak of memory is the process's, so whoever wants to know it needs a process that has done nothing else. It reads a
line of JSON and writes one: first the settings, then one job after another. When its input ends, it ends, whatever it
is doing; so it never outlives the one that started it. `estimate_probe` starts it; by itself it is of no use.
"""

import gc
import json
import os
import queue
import sys
import threading
import time
from contextlib import closing
from dataclasses import replace
from typing import Any

import torch

from fromnoise import memory
from fromnoise.config import Config, parse
from fromnoise.errors import FromnoiseError, WrongUse
from fromnoise.task.estimate_disk import checkpoint_bytes
from fromnoise.task.estimate_plan import stand_ins
from fromnoise.task.estimate_step import steps

_QUEUED = 4  # Steps between two looks at a clock on a device that works through a queue: each look waits for it.
_MOST = 100


def serve() -> None:
    """Settings and jobs from standard input until it ends. What libraries print goes to standard error."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    lines: queue.Queue[str] = queue.Queue()

    def read() -> None:
        for line in sys.stdin:
            lines.put(line)
        os._exit(0)  # Also in the middle of a step.

    threading.Thread(target=read, daemon=True).start()
    said = json.loads(lines.get())
    torch.set_num_threads(said["threads"])
    memory.keep_freed_memory()
    config, device = parse(said["config"], "the settings"), torch.device(said["device"])
    torch.zeros(1, device=device)  # What a GPU takes for being used at all is taken now.
    print(json.dumps({**_room(device)}), file=answers)
    while True:
        job = json.loads(lines.get())
        try:
            answer = measure(config, device, **job)
        except FromnoiseError as error:
            answer = {"error": str(error), "wrong": isinstance(error, WrongUse)}
        except Exception as error:
            if not memory.is_shortage(error):
                raise
            answer = {"short": True}
        print(json.dumps(answer), file=answers)


def measure(
    config: Config,
    device: torch.device,
    *,
    batch: int,
    accumulate: int,
    warm: int,
    count: int,
    seconds: float,
    total: int,
) -> dict[str, Any]:
    """``warm`` untimed steps of ``batch`` pictures, then ``count`` of them or more, until ``seconds`` have passed."""
    _start_anew(device)
    config = replace(config, train=replace(config.train, batch_size=batch, accumulate=accumulate))
    group = 1 if device.type == "cpu" else _QUEUED
    most = warm + max(count, _MOST) * group
    taken: list[float] = []
    clock, checkpoint = time.perf_counter(), 0
    began = clock
    with closing(steps(config, stand_ins(config, batch), device, count=most, total=total)) as done:
        for learner, report in done:
            if report.step < warm or (report.step - warm) % group:
                continue
            _wait(device)
            now = time.perf_counter()
            if report.step == warm:
                began = now
            else:
                taken.append((now - clock) / group)
            clock = now
            if report.step == most or (len(taken) >= count and now - began >= seconds):
                checkpoint = sum(checkpoint_bytes(learner, config).values())
                break
    return {"peak": _peak(device), "seconds": taken, "checkpoint": checkpoint}


def _start_anew(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _peak(device: torch.device) -> int | None:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return memory.peak_resident() if device.type == "cpu" else None


def _room(device: torch.device) -> dict[str, int | None]:
    """What is held now, and what could be in all."""
    held = _peak(device)
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else memory.available_memory()
    return {"base": held, "room": None if held is None or free is None else held + free}


if __name__ == "__main__":
    serve()
