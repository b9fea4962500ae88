"""Run as a process of a team: trains what its jobs say, one after the other, and tells what each step saw.

A job is a line of JSON: the run folder and changes to :data:`tests.tiny.TREE`. Not a test by itself; `test_distributed`
starts it.
"""

import json
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from tests import tiny

from fromnoise.config import Config
from fromnoise.run import open_run
from fromnoise.task.sample import Drawn, draw
from fromnoise.task.train import RolledBack, Trained, train_run
from fromnoise.train.batches import Batch, Batches
from fromnoise.train.distributed import together
from fromnoise.train.team import Team


def train(settings: Config, out: Path, team: Team, ruined: tuple[int, int] | None = None) -> list[dict[str, Any]]:
    """The run; of every step what it saw and what came of it, and wherever it went back to."""
    told: list[dict[str, Any]] = []
    with ruin(settings.train.seed, range(*ruined or (0,))):
        for event in train_run(settings, tiny.digits(), out, device=tiny.CPU, team=team):
            if isinstance(event, Trained):
                report = event.report
                numbers = (report.loss.item(), report.grad_norm.item(), report.lr)
                told.append({"t": report.t.tolist(), "losses": report.per_example.tolist(), "numbers": numbers})
            elif isinstance(event, RolledBack):
                told[-1]["back"] = [event.images, event.step, event.why]
    return told


@contextmanager
def ruin(seed: int, steps: range) -> Iterator[None]:
    """In these steps the last picture's noise is no number; other randomness, as after going back, is sound."""
    make = Batches.__call__

    def ruined(self: Batches, step: int) -> Batch:
        batch = make(self, step)
        if step in steps and self.seed == seed and self.rank == self.size - 1:
            batch.eps[-1] = math.nan
        return batch

    with mock.patch.object(Batches, "__call__", ruined):
        yield


def seen(settings: Config, steps: int, team: Team) -> list[list[Any]]:
    """Of every step this process's pictures, labels, noise and seeds."""
    batches = Batches(
        pictures=tiny.digits(),
        shape=(1, 8, 8),
        batch_size=settings.train.batch_size,
        seed=settings.train.seed,
        flip=settings.train.flip,
        label_dropout=settings.train.label_dropout,
        null_label=10,
        rank=team.rank,
        size=team.size,
    )
    each = [batches(step) for step in range(steps)]
    return [[b.images.tolist(), b.labels.tolist(), b.eps.tolist(), list(b.seeds)] for b in each]


def main(jobs: Path, out: Path) -> None:
    """Do ``jobs`` and write what each process knows to ``out``."""
    answers: list[Any] = []
    with together(tiny.CPU) as team:
        for line in jobs.read_text().splitlines():
            job = json.loads(line)
            if job["do"] == "train":
                answers.append(train(tiny.config(job["tree"]), Path(job["run"]), team, job.get("ruined")))
            elif job["do"] == "see":
                answers.append(seen(tiny.config(job["tree"]), job["steps"], team))
            else:
                *_, last = draw(open_run(Path(job["run"]), device=tiny.CPU), team=team, **job["how"])
                assert isinstance(last, Drawn)
                answers.append(last.images.tolist())
    (out / f"{team.rank}.json").write_text(json.dumps(answers))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
