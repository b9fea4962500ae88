"""Kills trainings with SIGKILL at random moments, resumes them, and compares every file with a run that nobody killed.

    python -m tests.slow.kill_campaign --trials 100 --seed 0 --log campaign.jsonl

A trial is a run folder of its own: it is trained, killed at a moment drawn evenly from the time that an undisturbed run
takes, and started again; one in four of the new starts is killed as well. When the run is done, all of its files must
hold what those of the undisturbed run hold, to the bit: config.toml, all checkpoints kept (weights, average, optimizer,
state), every snapshot of the further averages, every grid; and metrics.jsonl but for the pictures a second.

Three kinds of trials take turns. ``fork``: a copy of this process, which has PyTorch imported, runs the command line;
what it does at each moment stands in memory that both share, so the phase it is killed in is known. ``back``: the same,
and the gradients of some steps are made no numbers, so that the run goes back to a checkpoint on its way. ``command``:
``python -m fromnoise train`` as a person types it, with nothing changed; the phase is read from what it left.

The log has one JSON object a line: for every kill, and for every trial what was found.
"""

import argparse
import hashlib
import json
import math
import mmap
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import safetensors
import torch
import torch._dynamo  # Optimizers ask for it: a copy need not import it anew.
from tests import tiny
from torch import Tensor

from fromnoise import checkpoint, cli, grid
from fromnoise.checkpoint import RunFolder
from fromnoise.task import recorder
from fromnoise.task import train as task
from fromnoise.train import averages, loop
from fromnoise.train.learner import Learner

SETTINGS: dict[str, Any] = {
    "network": {"model_channels": 16, "dropout": 0.2},
    "schedule": {"kind": "constant", "steps": 4, "value": 0.3},
    "objective": {"kind": "hybrid", "times": {"kind": "loss_aware", "last": 2}},
    "sampling": {"sampler": {"variance": "learned_range"}},
    "train": {
        **{"steps": 48, "batch_size": 8, "accumulate": 2, "warmup": 10, "lr": 2e-3, "flip": True, "label_dropout": 0.3},
        **{"averages": [0.05, 0.1], "augment": {"probability": 0.12, "flip_x": 1.0}, "ema_ramp": 0.5},
        "optimizer": {"kind": "adamw", "weight_decay": 0.01},
        **{"report_every": 7, "checkpoint_every": 40, "keep": 2, "keep_every": 160, "average_every": 24},
        **{"sample_every": 88, "sample_steps": 4, "score_every": 136, "score_samples": 16, "score_steps": 2},
    },
}
"""A run with everything switched on; what comes every so many pictures meets in ever new ways."""

PHASES = (
    *("start", "look-up", "resume", "tidy up", "step", "averages", "checkpoint: files", "checkpoint: rename"),
    *("checkpoint: prune", "grid", "score", "metrics", "going back", "end"),
)
_AGAIN = 0.25  # The share of resumed runs that are killed as well.
_SLOWER = 1.05  # A run may take longer than it did: each kill is aimed that much later, until one comes too late.
_LATE = 20  # How often in a row a kill may come too late.


class Cell:
    """Where a copy of this process is: its phase and step, in memory that both see."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 16)

    def set(self, phase: str) -> None:
        self._memory[:8] = struct.pack("q", PHASES.index(phase))

    def count(self, step: int) -> None:
        self._memory[8:] = struct.pack("q", step)

    def get(self) -> tuple[str, int]:
        phase, step = struct.unpack("qq", self._memory[:16])
        return PHASES[phase], step


def during(cell: Cell, owner: Any, name: str, phase: str, after: str | None = None) -> None:
    """In this process, ``owner.name`` is known as ``phase`` while it runs, and as ``after`` or the one before then."""
    function = getattr(owner, name)

    def call(*arguments: Any, **options: Any) -> Any:
        before, _ = cell.get()
        cell.set(phase)
        try:
            return function(*arguments, **options)
        finally:
            cell.set(after or before)

    setattr(owner, name, call)


def tell(cell: Cell) -> None:
    """Make the code under test say where it is; it computes what it always does."""
    during(cell, RunFolder, "latest", "look-up")
    during(cell, task, "resume", "resume")
    during(cell, RunFolder, "start", "tidy up")
    during(cell, RunFolder, "rewind_metrics", "tidy up")
    during(cell, recorder.Recorder, "__init__", "tidy up", "step")
    during(cell, averages.Averages, "write", "averages")
    during(cell, RunFolder, "save", "checkpoint: files")
    during(cell, checkpoint.os, "rename", "checkpoint: rename")
    during(cell, RunFolder, "prune", "checkpoint: prune")
    during(cell, recorder.Samples, "__call__", "grid")
    during(cell, grid, "write_png", "grid")
    during(cell, recorder.Score, "__call__", "score")
    during(cell, RunFolder, "append_metrics", "metrics")
    during(cell, task._Training, "_go_back", "going back", "tidy up")
    during(cell, recorder.Recorder, "close", "end", "end")
    update = loop.update

    def counted(learner: Learner, *arguments: Any) -> Any:
        cell.count(learner.step)
        return update(learner, *arguments)

    loop.update = counted


def ruin() -> None:
    """Gradients of steps 25 to 45 are no numbers until the run has gone back once."""
    make = Learner.__init__

    def hooked(self: Learner, *arguments: Any) -> None:
        make(self, *arguments)
        weight = next(self.network.parameters())
        weight.register_hook(lambda grad: grad * math.nan if not self.rollbacks and 25 <= self.step < 45 else grad)

    Learner.__init__ = hooked  # pyright: ignore[reportAttributeAccessIssue]


class Trainer:
    """Starts trainings of one kind, each in a process of its own that may be killed."""

    def __init__(self, kind: str, preset: Path, output: Path) -> None:
        self.kind, self._preset, self._output, self.cell = kind, preset, output, Cell()

    def start(self, out: Path) -> Callable[[float | None], int]:
        """Begin; what comes back waits so many seconds at most (``None``: for ever), kills, and gives the exit code."""
        words = ["train", "digits", "--out", str(out), "--preset", str(self._preset)]
        if self.kind != "command":
            return self._fork(words)
        with self._output.open("ab") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "fromnoise", *words],
                env={**os.environ, "PYTHONPATH": str(tiny.SOURCE), "OMP_NUM_THREADS": "1"},
                stdout=file,
                stderr=file,
            )

        def wait(seconds: float | None) -> int:
            try:
                return process.wait(seconds)
            except subprocess.TimeoutExpired:
                process.kill()
                return process.wait()

        return wait

    def _fork(self, words: list[str]) -> Callable[[float | None], int]:
        self.cell.set("start")
        self.cell.count(0)
        began, pid = time.monotonic(), os.fork()
        if pid == 0:
            code = 70
            try:
                with self._output.open("ab") as file:
                    os.dup2(file.fileno(), 1)
                    os.dup2(file.fileno(), 2)
                tell(self.cell)
                if self.kind == "back":
                    ruin()
                code = cli.main([*words, "--debug"])
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)  # Nothing of the parent's may be closed or flushed here.

        def wait(seconds: float | None) -> int:
            done, status = os.waitpid(pid, 0 if seconds is None else os.WNOHANG)
            while not done and (left := began + (seconds or 0) - time.monotonic()) > 0:
                time.sleep(min(left, 0.02))
                done, status = os.waitpid(pid, os.WNOHANG)
            if not done:
                os.kill(pid, signal.SIGKILL)
                done, status = os.waitpid(pid, 0)
            return os.waitstatus_to_exitcode(status)

        return wait


def phase_on_disk(out: Path) -> str:
    """Where a process without a cell was when it was killed, as far as its left-overs tell."""
    if any(out.glob("checkpoints/.writing-0*")):
        return "checkpoint: files"
    if any(out.glob("checkpoints/.writing-*")):
        return "checkpoint: prune"
    if any(out.glob("averages/.*")):
        return "averages"
    if any(out.glob("samples/.*.part")):
        return "grid"
    return "step" if (out / "config.toml").exists() else "start"


def contents(out: Path) -> dict[str, Any]:
    """Every file of a run: tensors with what their file says of itself, by their bits; any other file by its bytes.

    The order in which safetensors writes its header differs from one write to the next, so the digests in state.json
    do as well: all else there is compared. Of metrics.jsonl the pictures a second are left out.
    """
    found: dict[str, Any] = {"metrics.jsonl": tiny.lines(out)}
    for path in sorted(out.rglob("*")):
        name = str(path.relative_to(out))
        if path.suffix == ".safetensors":
            with safetensors.safe_open(path, framework="pt") as file:
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
                bits = {key: (str(value.dtype), tuple(value.shape), _bits(value)) for key, value in tensors.items()}
                found[name] = (file.metadata(), bits)
        elif path.name == "state.json":
            record = json.loads(path.read_text())
            found[name] = {key: record[key] for key in ("format", "images", "state")}
        elif path.is_file() and path.name not in {".lock", "metrics.jsonl"}:
            found[name] = path.read_bytes()
    return found


def _bits(value: Tensor) -> str:
    return hashlib.sha256(value.contiguous().view(-1).view(torch.uint8).numpy().tobytes()).hexdigest()


def differences(ours: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """The names of the files that are missing, too many or different."""
    return sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))


def campaign(trials: int, seed: int, place: Path) -> Iterator[dict[str, Any]]:
    """The lines of the log, one by one. Raises ``RuntimeError`` if a training fails where it should go on."""
    preset = tiny.preset(place, SETTINGS)
    trainers = {kind: Trainer(kind, preset, place / f"{kind}.txt") for kind in ("fork", "back", "command")}
    known, life = {}, {}
    for kind, trainer in trainers.items():
        seconds = []
        for number in range(2):  # The second one is faster: files and code are in memory then.
            out = place / f"undisturbed-{kind}-{number}"
            began = time.monotonic()
            _succeed(trainer, out)
            seconds.append(time.monotonic() - began)
            found = contents(out)
            differs = differences(found, known.setdefault(kind, found))
            if differs:
                raise RuntimeError(f"two undisturbed runs differ: {differs}")
        life[kind] = min(seconds)
    if known["fork"] != known["command"] or known["fork"] == known["back"]:
        raise RuntimeError("a copy and the command should train the same, and a run that goes back otherwise")
    yield {
        "undisturbed": {kind: round(seconds, 3) for kind, seconds in life.items()},
        "files": len(known["fork"]),
        "torch": torch.__version__,
        "seed": seed,
    }
    for trial in range(trials):
        kind = ("fork", "command", "fork", "back")[trial % 4]
        chance = random.Random(f"{seed}/{trial}")
        lines, out = _killed(trainers[kind], place / f"trial-{trial}", chance, life)
        for number, line in enumerate(lines):
            yield {"trial": trial, "kind": kind, "kill": number, **line}
        differs = differences(contents(out), known[kind])
        yield {"trial": trial, "kind": kind, "identical": not differs, "differs": differs}
        if not differs:
            shutil.rmtree(out)


def _killed(
    trainer: Trainer, out: Path, chance: random.Random, life: dict[str, float]
) -> tuple[list[dict[str, Any]], Path]:
    """Train into ``out`` with kills until the run is done; a line about each kill that came in time."""
    lines: list[dict[str, Any]] = []
    late = 0
    while True:
        if lines and chance.random() >= _AGAIN:
            _succeed(trainer, out)
            return lines, out
        of = life[trainer.kind]
        moment = chance.uniform(0, of)
        began = time.monotonic()
        code = trainer.start(out)(moment)
        if code == 0:
            if lines:
                return lines, out  # It was faster than the kill, and is done.
            late += 1
            if late >= _LATE:
                raise RuntimeError(f"{late} kills in a row came too late, though the pace was measured anew each time")
            life[trainer.kind] = min(of, time.monotonic() - began)
            shutil.rmtree(out)
            continue
        if code != -signal.SIGKILL:
            raise RuntimeError(f"exit code {code} before the kill: see {trainer.kind}.txt")
        life[trainer.kind] *= _SLOWER
        phase, step = trainer.cell.get() if trainer.kind != "command" else (phase_on_disk(out), None)
        found, damaged = RunFolder(out).latest()
        lines.append(
            {
                "moment": round(moment, 4),
                "of": round(of, 4),
                "phase": phase,
                "step": step,
                "checkpoint": None if found is None else found.images,
                "damaged": [str(error) for error in damaged],
            }
        )


def _succeed(trainer: Trainer, out: Path) -> None:
    code = trainer.start(out)(None)
    if code:
        raise RuntimeError(f"a training into {out} ended with code {code}: see {trainer.kind}.txt")


def main() -> int:
    """0 if every trial ends with the undisturbed run's files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log", type=Path, default=Path("campaign.jsonl"))
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    trials = identical = kills = 0
    with tempfile.TemporaryDirectory() as place, given.log.open("w", encoding="utf-8") as log:
        for line in campaign(given.trials, given.seed, Path(place)):
            log.write(json.dumps(line) + "\n")
            log.flush()
            kills += "kill" in line
            if "identical" in line:
                trials, identical = trials + 1, identical + line["identical"]
    print(f"{identical} of {trials} runs identical after {kills} kills")
    return 0 if identical == trials == given.trials else 1


if __name__ == "__main__":
    sys.exit(main())
