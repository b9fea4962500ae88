"""Train a model on pictures: make the run folder or go on with it, save, and stop when asked."""

import math
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fromnoise import grid
from fromnoise.checkpoint import Checkpoint, RunFolder, explained
from fromnoise.config import (
    Config,
    build_denoiser,
    build_network,
    build_pipeline,
    learns_variance,
    parse,
    read_toml,
    to_toml,
    to_tree,
)
from fromnoise.data import Dataset
from fromnoise.errors import FromnoiseError, WrongUse
from fromnoise.ladder import Strided
from fromnoise.sampler import Ancestral
from fromnoise.train import Learner, Report, train
from fromnoise.train.batches import Batches
from fromnoise.transition import LearnedRange, Small

MAY_CHANGE = {
    "data": {"path", "strict"},  # The pictures themselves are compared.
    "train": {"steps", "epochs", "images", "report_every", "sample_every", "sample_steps", "checkpoint_every", "keep"},
}
"""Settings that a run may be resumed with other values of: they do not touch what a step computes."""
_GRID = 64


@dataclass(frozen=True)
class Started:
    """The run is ready to train; ``images`` > 0 if it goes on from a checkpoint."""

    run: Path
    config: Config
    pictures: int
    skipped: tuple[str, ...]
    parameters: int
    device: str
    steps: int
    step: int
    images: int
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Trained:
    """One more step is done."""

    report: Report


@dataclass(frozen=True)
class Measured:
    """A line of metrics.jsonl: means since the last one."""

    line: dict[str, Any]


@dataclass(frozen=True)
class Saved:
    """A grid of samples or a checkpoint is on the disk."""

    path: Path


@dataclass(frozen=True)
class Ended:
    """The run is at its end, or was stopped before it (``finished`` is false); everything is saved."""

    run: Path
    images: int
    step: int
    finished: bool


TrainEvent = Started | Trained | Measured | Saved | Ended


def train_run(
    config: Config,
    pictures: Dataset,
    out: Path,
    *,
    device: torch.device,
    stop: threading.Event | None = None,
) -> Iterator[TrainEvent]:
    """Train with the settled ``config`` into the folder ``out``; go on if it holds the same run.

    When ``stop`` is set, the step at hand is finished and saved. Raises ``WrongUse`` if ``out`` holds something else,
    ``FromnoiseError`` if the loss is no longer a number or the disk refuses.
    """
    folder, stop = RunFolder(out), stop or threading.Event()
    settings, saved_config = config.train, to_toml(config)
    found, damaged = _existing(folder, config)
    total = settings.total_steps(len(pictures))
    network = build_network(config).to(device)
    if device.type == "cuda":
        network = network.to(memory_format=torch.channels_last)  # pyright: ignore - a missing overload
    # Whatever does not fit is refused before anything is written.
    if learns_variance(config):
        raise WrongUse("[sampling.sampler] variance = learned_range: L_simple trains no variance; take small or large")
    shape = build_pipeline(config, network).shape
    called = torch.compile(network) if settings.compile else network
    assert isinstance(called, nn.Module)
    denoiser = build_denoiser(config, called, training=True)
    learner = Learner(network, settings)
    if found is not None:
        _resume(learner, found, pictures)
    folder.start(saved_config)
    folder.rewind_metrics(learner.images)
    yield Started(
        run=out,
        config=config,
        pictures=len(pictures),
        skipped=tuple(str(error) for error in pictures.skipped),
        parameters=sum(p.numel() for p in network.parameters()),
        device=str(device),
        steps=total,
        step=learner.step,
        images=learner.images,
        warnings=tuple(f"{error}; passed over" for error in damaged),
    )
    run = _Running(folder, config, saved_config, learner, pictures.fingerprint, found)
    batches = Batches(
        pictures=pictures,
        shape=shape,
        batch_size=settings.batch_size,
        seed=settings.seed,
        flip=settings.flip,
        label_dropout=settings.label_dropout,
        null_label=len(config.data.class_names),
    )
    for report in train(learner, denoiser, config.objective, config.codec, batches, total):
        run.add(report)
        yield Trained(report)
        if report.step % settings.report_every == 0 or report.step == total:
            yield Measured(run.measure(report))
        last = report.step == total or stop.is_set()
        if run.due(settings.checkpoint_every) or last:
            yield Saved(run.save())
        if run.due(settings.sample_every) or (settings.sample_every and report.step == total):
            yield Saved(run.draw())
        if last:
            break
    yield Ended(out, learner.images, learner.step, learner.step >= total)


class _Running:
    """The side of a run that writes."""

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
        settings, pipeline = self.config.train, build_pipeline(self.config, self.learner.ema.network)
        schedule = pipeline.denoiser.schedule
        if settings.sample_steps < schedule.horizon:
            variance = getattr(pipeline.sampler, "variance", None)
            # Few large steps with the upper variance leave noise in the picture (Nichol & Dhariwal 2021, section 4).
            variance = variance if isinstance(variance, LearnedRange) else Small()
            pipeline = replace(
                pipeline, spacing=Strided(steps=settings.sample_steps), sampler=Ancestral(variance=variance)
            )
        labels = [k % len(pipeline.classes) for k in range(_GRID)] if pipeline.classes else None
        images = pipeline.ready().finish(range(_GRID), labels)
        path = self.folder.sample(self.learner.images)
        with explained(f"cannot write {path}"):
            grid.write_png(grid.to_grid(images), path)
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


def _existing(folder: RunFolder, config: Config) -> tuple[Checkpoint | None, list[Any]]:
    """What to go on from. Raises ``WrongUse`` if the folder holds anything but this run."""
    if not folder.path.exists():
        return None, []
    if not folder.path.is_dir():
        raise WrongUse(f"{folder.path} is a file; --out should name a new folder or a run")
    if not folder.config.is_file():
        if any(not name.name.startswith(".") for name in folder.path.iterdir()):
            raise WrongUse(f"{folder.path} is not empty and holds no run; choose another --out, nothing was changed")
        return None, []
    try:
        text = folder.config.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FromnoiseError(f"cannot read {folder.config}: {error}") from error
    saved = parse(read_toml(text, str(folder.config)), str(folder.config))
    found, damaged = folder.latest()
    if found is None and not damaged:  # Cut off before the first checkpoint (too little memory, say): nothing to lose.
        return None, []
    changed = _differences(to_tree(saved), to_tree(config))
    if changed:
        raise WrongUse(
            f"{folder.path} was started with other settings: {', '.join(changed[:3])}"
            f"{' …' if len(changed) > 3 else ''}; give the same ones to go on, or another --out"
        )
    if found is None:
        raise damaged[0]
    return found, damaged


def _differences(old: dict[str, Any], new: dict[str, Any], where: str = "") -> list[str]:
    found = []
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            found += _differences(before, after, f"{where}{key}.")
        elif before != after and key not in MAY_CHANGE.get(where.removesuffix("."), set()):
            found.append(f"{where}{key} was {before!r}, now {after!r}")
    return found


def _resume(learner: Learner, found: Checkpoint, pictures: Dataset) -> None:
    if found.state.get("data") != pictures.fingerprint:
        raise WrongUse(
            f"{found.path.parent.parent} was trained on other pictures: the data has changed since; "
            f"bring back the old data, or start another --out"
        )
    try:
        tensors: dict[str, dict[str, Tensor]] = found.tensors()
        learner.load(tensors, found.state)
    except (ValueError, KeyError) as error:
        raise FromnoiseError(f"checkpoint {found.path} does not fit this run's network: {error}") from error
