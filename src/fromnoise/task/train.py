"""Train a model on pictures: make the run folder or go on with it, save, and stop when asked."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fromnoise.checkpoint import RunFolder
from fromnoise.config import Config, build_denoiser, build_network, build_pipeline, to_toml
from fromnoise.data import Dataset
from fromnoise.task.recorder import Recorder
from fromnoise.task.resume import existing, resume
from fromnoise.train import Learner, Report, train
from fromnoise.train.batches import Batches


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
    ``FromnoiseError`` if the loss is no longer a number, the disk refuses, or another training is at this run.
    """
    folder, stop = RunFolder(out), stop or threading.Event()
    settings, saved_config = config.train, to_toml(config)
    found, damaged = existing(folder, config)
    total = settings.total_steps(len(pictures))
    network = build_network(config).to(device)
    if device.type == "cuda":
        network = network.to(memory_format=torch.channels_last)  # pyright: ignore - a missing overload
    # Whatever does not fit is refused before anything is written.
    shape = build_pipeline(config, network).shape
    called = torch.compile(network) if settings.compile else network
    assert isinstance(called, nn.Module)
    denoiser = build_denoiser(config, called, training=True)
    learner = Learner(network, settings)
    if found is not None:
        resume(learner, found, pictures)
    with folder.lock():
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
        run = Recorder(folder, config, saved_config, learner, pictures.fingerprint, found)
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
            wanted = run.due(settings.sample_every) or (settings.sample_every > 0 and report.step == total)
            if wanted and not stop.is_set():
                yield Saved(run.draw())
            if last:
                break
        yield Ended(out, learner.images, learner.step, learner.step >= total)
