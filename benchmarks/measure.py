"""Who is measured when: every side in a process of its own, one at a time, in turns.

For each layout and task: ours, peer, peer tuned like ours, the convolutions alone; and again, in many short turns,
forwards and backwards, so that a machine that slows down or a neighbour that wakes up hits all of them. A figure is
the median of its rounds; the best rounds, which a busy machine disturbs least, and all others are in the rows beside
it. This process does no arithmetic and loads no torch.
"""

import importlib.util
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, Self

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
OURS, AGAIN, PEER, PEER_TUNED = "ours", "ours, again", "peer", "peer, tuned"
TASKS = ("train", "inference", "sampling")
Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to measure. ``works`` are the fields of :class:`benchmarks.work.Work`; a device "auto" is settled first."""

    works: tuple[dict[str, Any], ...]
    training: tuple[dict[str, Any], ...] = ()
    """Works for training on a CPU alone: the paper's batch, whose activations weigh more than the weights; bfloat16."""
    tasks: tuple[str, ...] = TASKS
    device: str = "auto"
    rounds: int = 6
    life: int = 2
    """Rounds after which all sides start anew: now and then a process is a tenth slower for as long as it lives."""
    seconds: float = 2.0
    steps: int = 1
    tuned: bool = True  # Measure the peer with our optimizer and allocator settings, too.


class Process:
    """A worker; a context that ends it."""

    def __init__(self) -> None:
        path = os.pathsep.join(filter(None, [str(ROOT), str(ROOT / "src"), os.environ.get("PYTHONPATH")]))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": path},
        )

    def __call__(self, command: str, **arguments: Any) -> Any:
        """The answer to one command. Raises ``RuntimeError`` if the worker dies; its last words are on stderr."""
        assert self._process.stdin is not None and self._process.stdout is not None
        print(json.dumps([command, arguments]), file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the process that was to {command} ended with code {self._process.wait()}")
        return json.loads(answer)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.stdin.close()  # type: ignore[union-attr]
        self._process.stdout.close()  # type: ignore[union-attr]
        self._process.wait()


def measure(plan: Plan) -> Iterator[list[Row]]:
    """Rows for each layout and task, as they are done; messages on the way go to standard error."""
    has_peer = importlib.util.find_spec("diffusers") is not None
    with Process() as convolutions, TemporaryDirectory(prefix="fromnoise-bench-") as folder:
        about = convolutions("about", device=plan.device)
        batch = _usual_batch(about["device"])
        common = {
            "device": about["name"],
            "precision": "bfloat16 autocast" if about["device"] == "cuda" else "float32",
            "threads": about["threads"],
            "torch": about["torch"],
            "date": date.today().isoformat(),
        }
        tasks = [(fields, plan.tasks) for fields in plan.works]
        if about["device"] == "cpu" and "train" in plan.tasks:
            tasks += [(fields, ("train",)) for fields in plan.training if about["half"] or not fields.get("half")]
        for fields, wanted in tasks:
            work = {"batch": batch, **fields, "device": about["device"]}
            weights = {OURS: f"{folder}/ours.safetensors", PEER: f"{folder}/peer.safetensors"}
            flops = convolutions("prepare", work=work, ours=weights[OURS], peer=weights[PEER])
            sides = {OURS: weights[OURS]}
            if has_peer:
                sides[PEER] = weights[PEER]
                if plan.tuned and about["device"] == "cpu":
                    sides[PEER_TUNED] = weights[PEER]
            for task in wanted:
                taking_part = {**sides, **({AGAIN: weights[OURS]} if task == "train" and plan.tuned else {})}
                found = _turns(plan, task, work, taking_part, Path(folder), convolutions)
                rows = _rows(task, work, found, flops[task] / 1e9)
                precision = {"precision": "bfloat16 autocast"} if work.get("half") else {}
                yield [{**row, **common, **precision, "batch": work["batch"]} for row in rows]
                if task == "sampling" and about["device"] == "cpu":
                    percent = convolutions("overhead", work=work)
                    row = {"name": f"{_name(task, work)}, our loop beside the network", **_pair(percent, None, "%")}
                    yield [{**row, **common, "batch": work["batch"]}]


@dataclass(frozen=True, kw_only=True)
class _Found:
    """Of one task: by side the pictures a second of each round, the peak in MiB and the output; and the ceiling."""

    rates: dict[str, list[float]]
    memory: dict[str, float | None]
    outputs: dict[str, Any]
    ceiling: list[float]


def _turns(
    plan: Plan, task: str, work: dict[str, Any], sides: dict[str, str], folder: Path, convolutions: Process
) -> _Found:
    name = _name(task, work)
    rates: dict[str, list[float]] = {side: [] for side in sides}
    peaks: dict[str, list[float]] = {side: [] for side in sides}
    ceiling: list[float] = []
    outputs, turns = {}, range(plan.rounds)
    for first in turns[:: plan.life]:
        with ExitStack() as stack:
            processes = {side: stack.enter_context(Process()) for side in sides}
            for number, (side, process) in enumerate(processes.items()):
                _say(f"{name}: warming up {side}")
                path = folder / f"{number}.npy"
                process("build", work=work, side=side, task=task, weights=sides[side], output=str(path))
                outputs[side] = np.load(path)
            for turn in turns[first : first + plan.life]:
                for side in list(processes) if turn % 2 == 0 else list(reversed(processes)):
                    rates[side].append(processes[side]("round", seconds=plan.seconds, steps=plan.steps))
                    _say(f"{name}: round {turn + 1} of {plan.rounds}, {side}: {rates[side][-1]:.2f} pictures/s")
                ceiling.append(convolutions("ceiling", work=work, task=task))
                _say(f"{name}: round {turn + 1} of {plan.rounds}, convolutions alone: {ceiling[-1]:.1f} GFLOP/s")
            for side, process in processes.items():
                peak = process("memory")
                peaks[side] += [] if peak is None else [peak]
    memory = {side: median(each) if each else None for side, each in peaks.items()}
    return _Found(rates=rates, memory=memory, outputs=outputs, ceiling=ceiling)


def _rows(task: str, work: dict[str, Any], found: _Found, gflop: float) -> Iterator[Row]:
    """``gflop`` is the nominal arithmetic of one picture."""
    name = _name(task, work)
    ceiling = median(found.ceiling)
    speed = {side: median(rates) for side, rates in found.rates.items()}
    yield {
        "name": f"{name}, convolutions alone",
        **_pair(ceiling, None, "GFLOP/s"),
        "rounds": {"ours": found.ceiling},
    }
    pairs = [(OURS, PEER, ""), (OURS, PEER_TUNED, ", peer with our optimizer and allocator")]
    for ours, peer, suffix in [*pairs, (AGAIN, PEER, ", activations computed again")]:
        if (peer == PEER_TUNED and peer not in speed) or ours not in speed:
            continue
        yield {
            "name": name + suffix,
            **_pair(speed[ours], speed.get(peer), "pictures/s"),
            "best": _pair(max(found.rates[ours]), max(found.rates.get(peer, []), default=None)),
            "gflops": _pair(speed[ours] * gflop, _times(speed.get(peer), gflop)),
            "share_of_ceiling": _pair(speed[ours] * gflop / ceiling, _times(speed.get(peer), gflop / ceiling)),
            "difference": _difference(found.outputs.get(ours), found.outputs.get(peer)),
            "rounds": {"ours": found.rates[ours], "peer": found.rates.get(peer, [])},
        }
        yield {
            "name": f"{name}, peak memory" + suffix,
            **_pair(found.memory[ours], found.memory.get(peer), "MiB"),
        }


def _name(task: str, work: dict[str, Any]) -> str:
    usual = _usual_batch(work.get("device", "cpu"))
    batch = f", batch {work['batch']}" if work.get("batch", usual) != usual else ""
    more = (", bfloat16" if work.get("half") else "") + (", compiled" if work.get("compiled") else "")
    return f"{task}/{work['channels']}ch{batch}{more}"


def _usual_batch(device: str) -> int:
    return 128 if device == "cuda" else 16


def _pair(ours: float | None, peer: float | None, unit: str | None = None) -> dict[str, Any]:
    ratio = ours / peer if ours is not None and peer else None
    return {"ours": ours, "peer": peer, "ratio": ratio, **({"unit": unit} if unit else {})}


def _times(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def _difference(ours: Any, peer: Any) -> float | None:
    """The largest difference of the two outputs for the same pictures, times and weights."""
    return None if peer is None else float(np.abs(ours - peer).max())


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def works(channels: list[int], compiled: bool, dropout: float, batch: int | None = None) -> tuple[dict[str, Any], ...]:
    """The paper's CIFAR-10 layout at these widths, plain and, if asked for, compiled as well."""
    kinds = (False, True) if compiled else (False,)
    same = {"dropout": dropout, **({} if batch is None else {"batch": batch})}
    return tuple({"channels": c, "compiled": k, **same} for c, k in itertools.product(channels, kinds))


LARGE = 128
"""Pictures of the large batch: the paper's."""


def more_training(dropout: float) -> tuple[dict[str, Any], ...]:
    """What else is measured in training on a CPU, at 64 channels: the large batch, and bfloat16 with both."""
    (large,) = works([64], False, dropout, LARGE)
    return large, {**large, "batch": _usual_batch("cpu"), "half": True}, {**large, "half": True}


QUICK = Plan(
    works=({"channels": 32, "channel_mult": (1, 2), "num_res_blocks": 1, "side": 16, "batch": 2},),
    rounds=1,
    seconds=0,
    tuned=False,
)
