"""The side of a training run that writes: means for metrics.jsonl, checkpoints, grids of samples."""

import math
import time
from pathlib import Path
from typing import Any

import torch

from fromnoise import grid
from fromnoise.checkpoint import Checkpoint, RunFolder
from fromnoise.config import Config, build_pipeline, sampled_as
from fromnoise.errors import FromnoiseError
from fromnoise.files import explained
from fromnoise.train import Learner, Report

_GRID = 64
_MOST_COLUMNS = 20


class Recorder:
    """Watches one run and writes for it. ``found`` is the checkpoint that the run goes on from, if any."""

    def __init__(
        self,
        folder: RunFolder,
        config: Config,
        saved_config: str,
        learner: Learner,
        fingerprint: str,
        found: Checkpoint | None,
    ) -> None:
        self.folder, self.config, self.saved_config = folder, config, saved_config
        self.learner, self.fingerprint = learner, fingerprint
        state = {"loss": 0.0, "grad_norm": 0.0, "count": 0} if found is None else found.state["since_report"]
        # Sums stay on the device: reading a number there would make every step wait.
        device = next(learner.network.parameters()).device
        self.loss = torch.tensor(state["loss"], dtype=torch.float32, device=device)
        self.grad_norm = torch.tensor(state["grad_norm"], dtype=torch.float32, device=device)
        self.count = int(state["count"])
        self.timed, self.seconds = 0, 0.0  # Only of this process: a resumed run starts its clock anew.

    def add(self, report: Report) -> None:
        """Take a step into the sums."""
        self.loss += report.loss
        self.grad_norm += report.grad_norm
        self.count += 1
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
        batch, count = self.config.train.batch_size, max(self.count, 1)
        grad_norm = self.grad_norm.item() / count
        line = {
            "step": report.step,
            "images": report.images,
            "loss": self.loss.item() / count,
            "grad_norm": grad_norm if math.isfinite(grad_norm) else None,  # JSON knows no infinity.
            "lr": report.lr,
            "images_per_second": round(self.timed * batch / self.seconds, 3),
        }
        self.folder.append_metrics(line)
        self.loss.zero_()
        self.grad_norm.zero_()
        self.count, self.timed, self.seconds = 0, 0, 0.0
        return line

    def save(self) -> Path:
        """Write a checkpoint, then remove the oldest ones."""
        self._refuse_nan()
        since = {"loss": self.loss.item(), "grad_norm": self.grad_norm.item(), "count": self.count}
        state = {**self.learner.state(), "since_report": since, "data": self.fingerprint}
        path = self.folder.save(self.learner.images, self.learner.tensors(), state, self.saved_config)
        self.folder.prune(self.config.train.keep, self.learner.images)
        return path

    def draw(self) -> Path:
        """A grid of samples from the averaged weights: the same seeds, hence the same noise, every time."""
        settings, config = self.config.train, self.config
        if len(config.sampling.spacing.ladder(config.schedule)) - 1 > settings.sample_steps:
            config = sampled_as(config, steps=settings.sample_steps)
        pipeline = build_pipeline(config, self.learner.ema.network)
        classes = len(pipeline.classes)
        columns = classes if 2 <= classes <= _MOST_COLUMNS else None  # Then every column is a class.
        count = _GRID // columns * columns if columns else _GRID
        part = max(1, settings.batch_size // settings.accumulate)  # As many at a time as training has.
        images = pipeline.images(count, batch_size=part)
        path = self.folder.sample(self.learner.images)
        with explained(f"cannot write {path}"):
            grid.write_png(grid.to_grid(images, columns=columns), path)
        return path

    def _refuse_nan(self) -> None:
        # A gradient that is not finite makes the weights so, one step before the loss shows it. In float16 that is
        # expected now and then, and the scaler leaves such a step out.
        watched = self.loss if self.config.train.precision == "float16" else self.loss + self.grad_norm
        if not math.isfinite(watched.item()):
            raise FromnoiseError(
                f"the loss or its gradient is no longer a number at step {self.learner.step}: nothing was saved after "
                f"the last good checkpoint in {self.folder.checkpoints}; lower train.lr, or set train.clip = 1"
            )
