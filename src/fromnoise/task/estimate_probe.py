"""Asks a fresh process to do some steps, and reads what they took."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import fromnoise
from fromnoise.config import Config, to_tree
from fromnoise.errors import FromnoiseError, WrongUse

_WORKER = "fromnoise.task.estimate_worker"


class TooLarge(FromnoiseError):
    """A step did not fit into memory."""


@dataclass(frozen=True)
class Taken:
    """By some steps of ``batch`` pictures in ``accumulate`` parts.

    ``peak`` is the most bytes held at once: on the CPU by the whole process with its libraries, on a GPU by tensors;
    ``None`` where the system does not tell. ``seconds`` has the time of every step that was timed; ``checkpoint`` is
    how many bytes a checkpoint of this training takes.
    """

    batch: int
    accumulate: int
    peak: int | None
    seconds: tuple[float, ...]
    checkpoint: int


class Probe:
    """A process that is ready to train with the settled settings; from :func:`probe`.

    ``base`` are the bytes it held before its first step, ``room`` are those that it might hold in all; ``None`` if not
    told.
    """

    def __init__(self, process: "subprocess.Popen[str]", said: Any, config: Config, device: torch.device) -> None:
        self._process, self._said = process, said
        tree = {"config": to_tree(config), "device": str(device), "threads": torch.get_num_threads()}
        first = self._ask(tree)
        self.base: int | None = first["base"]
        self.room: int | None = first["room"]

    def __call__(
        self, batch: int, *, accumulate: int = 1, warm: int = 1, count: int = 1, seconds: float = 0.0, total: int = 0
    ) -> Taken:
        """``warm`` steps, then at least ``count`` timed ones for at least ``seconds``; of a run of ``total`` steps.

        Raises :class:`TooLarge` if memory does not suffice, ``WrongUse`` for settings that do not fit together.
        """
        job = {
            "batch": batch,
            "accumulate": accumulate,
            "warm": warm,
            "count": count,
            "seconds": seconds,
            "total": total,
        }
        answer = self._ask(job)
        if answer.get("short"):
            raise TooLarge(f"a step of {batch} pictures in {accumulate} parts does not fit into memory")
        if "error" in answer:
            raise (WrongUse if answer["wrong"] else FromnoiseError)(answer["error"])
        return Taken(batch, accumulate, answer["peak"], tuple(answer["seconds"]), answer["checkpoint"])

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        line = ""
        try:
            print(json.dumps(question), file=self._process.stdin, flush=True)
            line = self._process.stdout.readline()
        except BrokenPipeError:  # It has ended; what it did not read would be sent once more at the end.
            with suppress(BrokenPipeError):
                self._process.stdin.close()
        if line:
            return json.loads(line)
        code = self._process.wait()
        if code == -9:  # As the kernel ends a process when memory runs out.
            raise TooLarge("the process that tried a step was ended by the system, most likely for want of memory")
        self._said.seek(0)
        said = self._said.read()
        if "std::bad_alloc" in said:  # As C++ ends itself when the process's own limit is reached.
            raise TooLarge("the process that tried a step ended itself for want of memory")
        words = (said.strip().splitlines() or ["it said nothing"])[-1]
        raise RuntimeError(f"the process that tried a step ended with code {code}: {words}")


@contextmanager
def probe(config: Config, device: torch.device) -> Iterator[Probe]:
    """A fresh process, ended afterwards. It writes nothing, and keyboard interrupts are not for it but for us."""
    path = os.pathsep.join(filter(None, [str(Path(fromnoise.__file__).parents[1]), os.environ.get("PYTHONPATH")]))
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as said,
        subprocess.Popen(
            [sys.executable, "-P", "-m", _WORKER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,
        ) as process,
    ):
        try:
            yield Probe(process, said, config, device)
        finally:
            process.kill()
