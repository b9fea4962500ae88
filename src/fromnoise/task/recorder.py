"""The side of a training run that writes: metrics, checkpoints, grids of samples and scores, and who else is told."""

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from fromnoise.checkpoint import Checkpoint, RunFolder
from fromnoise.config import Config
from fromnoise.data import Dataset
from fromnoise.errors import FromnoiseError
from fromnoise.task.curves import read_lines
from fromnoise.task.watch import check_watchers, open_watchers
from fromnoise.task.watch.bands import BandedLoss, edges
from fromnoise.task.watch.drawing import Samples
from fromnoise.task.watch.score import Score, check_score
from fromnoise.train import Learner, Report
from fromnoise.train.team import Team


def check_watching(config: Config, pictures: Dataset) -> None:
    """Raises ``WrongUse`` for anything about watching the run that cannot be done. Nothing is written."""
    check_watchers(config)
    check_score(config, pictures)


class Recorder:
    """Watches one run and writes for it. ``found`` is the checkpoint that the run goes on from, if any.

    In a ``team`` every process has one, tells it the same and gets the same answers; the first alone writes. To be
    closed at the end.
    """

    def __init__(
        self,
        folder: RunFolder,
        config: Config,
        saved_config: str,
        learner: Learner,
        pictures: Dataset,
        found: Checkpoint | None,
        team: Team,
    ) -> None:
        self.folder, self.config, self.saved_config = folder, config, saved_config
        self.learner, self.fingerprint = learner, pictures.fingerprint
        state = {"loss": 0.0, "grad_norm": 0.0, "count": 0} if found is None else found.state["since_report"]
        # Sums stay on the device: reading a number there would make every step wait.
        device = next(learner.network.parameters()).device
        self.loss = torch.tensor(state["loss"], dtype=torch.float32, device=device)
        self.grad_norm = torch.tensor(state["grad_norm"], dtype=torch.float32, device=device)
        self.count = torch.tensor(int(state["count"]), device=device)
        self.left_out = torch.tensor(int(state.get("left_out", 0)), device=device)
        self.bands = BandedLoss(edges(config.objective, config.schedule), device, state.get("bands"))
        self.timed, self.seconds = 0, 0.0  # Only of this process: a resumed run starts its clock anew.
        self.team = team
        self._notes: list[str] = []
        self._samples = Samples(config, pictures, team)
        self._score = Score(config, pictures, team) if config.train.score_every else None
        # The first process alone knows what is in the folder: it may be writing there while others start.
        lines = read_lines(folder.metrics).lines if team.leads else ()
        self._looked = {(name, line["images"]) for line in lines for name in ("samples", "score") if name in line}
        self._watchers = open_watchers(folder, config, learner.images, self._notes.append) if team.leads else []

    def close(self) -> None:
        """Let the watchers end what they have begun."""
        for watcher in self._watchers:
            watcher.close()

    def add(self, report: Report) -> None:
        """Take a step into the sums; one that the guard left out is only counted."""
        taken = report.skipped == 0
        self.loss += torch.where(taken, report.loss, 0)
        self.grad_norm += torch.where(taken, report.grad_norm, 0)
        self.bands.add(report.t, report.per_example, taken)
        self.count += taken
        self.left_out += ~taken
        self.timed += 1
        self.seconds += report.seconds

    def due(self, every: int) -> bool:
        """Whether the last step passed a multiple of ``every`` pictures."""
        images, batch = self.learner.images, self.config.train.batch_size
        return every > 0 and images // every > (images - batch) // every

    def measure(self, report: Report) -> dict[str, Any]:
        """Write a line of metrics and start the sums anew. Raises ``FromnoiseError`` if the loss is not a number."""
        began = time.perf_counter()
        self._refuse_nan()  # Reads the sums, so it waits for a device that has steps in its queue: their time counts.
        self.seconds += time.perf_counter() - began
        taken = int(self.count.item())
        line = {
            "step": report.step,
            "images": report.images,
            "loss": _mean(self.loss, taken),
            "loss_t": self.bands.take(),
            "grad_norm": _mean(self.grad_norm, taken),
            "skipped": int(self.left_out.item()),
            "lr": report.lr,
            "images_per_second": round(self.timed * self.config.train.batch_size / self.seconds, 3),
        }
        self._tell(line)
        for total in (self.loss, self.grad_norm, self.count, self.left_out):
            total.zero_()
        self.timed, self.seconds = 0, 0.0
        return line

    def look(self, *, last: bool, stopping: bool) -> Iterator[Path | dict[str, Any]]:
        """What is due now: a grid of samples, its path; then the lines of its colours and of the score.

        To be called before a checkpoint is written, and when a run goes on. A run that is ``stopping`` does not wait
        for it: it is made up for when the run goes on, and what was done is not done twice. ``last``: the run is at its
        end, which is always looked at.
        """
        train, images = self.config.train, self.learner.images
        if stopping or not self.learner.step:
            return
        if self._wanted("samples", train.sample_every, last):
            path = self.folder.sample(images)
            seen = self._samples(self.learner.averaged(), path)
            for watcher in self._watchers:
                watcher.picture(path, images)
            yield path
            yield self._seen("samples", seen)
        if self._score is not None and self._wanted("score", train.score_every, last):
            yield self._seen("score", self._score(self.learner.averaged()))

    def save(self) -> Path:
        """Write a checkpoint, then remove the oldest ones."""
        self._refuse_nan()
        since = {
            "loss": self.loss.item(),
            "grad_norm": self.grad_norm.item(),
            "count": self.count.item(),
            "left_out": self.left_out.item(),
            "bands": self.bands.state(),
        }
        state = {**self.learner.state(), "since_report": since, "data": self.fingerprint}
        path = self.folder.checkpoints / f"{self.learner.images:09d}"
        tensors = self.learner.tensors()
        if self.team.leads:
            train = self.config.train
            self.folder.save(self.learner.images, tensors, state, self.saved_config)
            self.folder.prune(train.keep, self.learner.images, every=train.keep_every)
            for watcher in self._watchers:
                watcher.flush()
        return path

    def take_notes(self) -> list[str]:
        """What there is to say to the person, once."""
        notes, self._notes[:] = list(self._notes), []
        return notes

    def _wanted(self, name: str, every: int, last: bool) -> bool:
        if every <= 0 or not (last or self.due(every)):
            return False
        return not self.team.agree((name, self.learner.images) in self._looked)

    def _seen(self, name: str, what: dict[str, Any]) -> dict[str, Any]:
        line = {"step": self.learner.step, "images": self.learner.images, name: what}
        self._looked.add((name, self.learner.images))
        self._tell(line)
        return line

    def _tell(self, line: dict[str, Any]) -> None:
        for watcher in self._watchers:
            watcher.line(line)

    def _refuse_nan(self) -> None:
        # The guard leaves out every step that is no number; what is left to go wrong is a sum of huge ones.
        if not math.isfinite((self.loss + self.grad_norm).item()):
            raise FromnoiseError(
                f"the loss or its gradient is no longer a number at step {self.learner.step}: nothing was saved after "
                f"the last good checkpoint in {self.folder.checkpoints}; start another run with a lower train.lr"
            )


def _mean(total: torch.Tensor, count: int) -> float | None:
    mean = total.item() / max(count, 1)
    return mean if count and math.isfinite(mean) else None  # JSON knows no infinity.
