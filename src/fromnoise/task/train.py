"""Train a model on pictures: make the run folder or go on with it, save, go back if need be, and stop when asked."""

import contextlib
import threading
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from fromnoise.checkpoint import Checkpoint, RunFolder
from fromnoise.config import Config, build_network, to_toml
from fromnoise.data import Dataset
from fromnoise.errors import FromnoiseError
from fromnoise.noise import key_to_seed
from fromnoise.task.assembly import assemble
from fromnoise.task.precision import computing
from fromnoise.task.recorder import Recorder, check_watching
from fromnoise.task.resume import existing, refuse_other, resume
from fromnoise.task.trial import sound
from fromnoise.train import Learner, Report, train
from fromnoise.train.averages import Averages
from fromnoise.train.team import Alone, Team

_LOOK = 16  # Steps between two looks at the guard: each look waits for the device.


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
class Looked:
    """A line of metrics.jsonl: what samples look like, or what they score."""

    line: dict[str, Any]


@dataclass(frozen=True)
class Noted:
    """Something that the person should know, in one line; training goes on."""

    text: str


@dataclass(frozen=True)
class RolledBack:
    """Too many steps were left out, so the run went back to ``images`` pictures seen; ``why`` is one line."""

    images: int
    step: int
    why: str


@dataclass(frozen=True)
class Ended:
    """The run is at its end, or was stopped before it (``finished`` is false); so much of it is saved."""

    run: Path
    images: int
    step: int
    finished: bool


TrainEvent = Started | Trained | Measured | Saved | Looked | Noted | RolledBack | Ended


def train_run(
    config: Config,
    pictures: Dataset,
    out: Path,
    *,
    device: torch.device,
    stop: threading.Event | None = None,
    team: Team | None = None,
    captions: Iterable[tuple[str, str]] | None = None,
) -> Iterator[TrainEvent]:
    """Train with the settled ``config`` into the folder ``out``; go on if it holds the same run.

    ``captions`` (name and text of every picture) are kept in a new run. When ``stop`` is set, the step at hand is
    finished and saved. Every process of a ``team`` calls this with the same arguments and gets the same events; the
    first alone writes. Raises ``WrongUse`` if ``out`` holds something else or the device has not what the settings ask
    for, ``FromnoiseError`` if training diverges time and again, the disk refuses, or another training is at this run.
    """
    folder, stop, team = RunFolder(out), stop or threading.Event(), team or Alone()
    refuse_other(folder, config)
    with computing(config.train.precision, device, deterministic=config.train.deterministic):
        yield from _Training(config, pictures, folder, device, stop, team).events(captions)


class _Training:
    """One run, from its first step in this process to its last."""

    def __init__(
        self,
        config: Config,
        pictures: Dataset,
        folder: RunFolder,
        device: torch.device,
        stop: threading.Event,
        team: Team,
    ) -> None:
        self.config, self.pictures, self.folder, self.device = config, pictures, folder, device
        self.stop, self.team = stop, team
        self.saved_config = to_toml(config)
        self.total = config.train.total_steps(len(pictures))
        # Whatever does not fit is refused before anything is written.
        check_watching(config, pictures)
        self.assembly = assemble(config, pictures, device, steps=self.total, team=team)
        self.learner, self.network = self.assembly.learner, self.assembly.learner.network
        self._averages = Averages.of(folder.path)
        self.doubtful: int | None = None  # Where the run went back to, until it has saved something since.
        self.saved = (0, 0)  # Pictures and steps of the newest checkpoint.

    def events(self, captions: Iterable[tuple[str, str]] | None) -> Iterator[TrainEvent]:
        """Hold the run, and train."""
        folder, learner, team = self.folder, self.learner, self.team
        with contextlib.ExitStack() as held:
            if team.leads:
                held.enter_context(folder.lock())
            team.wait()  # Nobody looks before the first process holds the run.
            found, damaged = existing(folder, self.config)
            if found is not None:
                resume(learner, found, self.pictures)
            team.wait()  # Nothing is tidied up before everybody has looked.
            if team.leads:
                folder.start(self.saved_config)
                folder.rewind_metrics(learner.images)
                self._averages.rewind(learner.images)
                if found is None:
                    folder.write_captions(captions)
                elif not damaged:  # What a process killed right after a save has not come to.
                    folder.prune(self.config.train.keep, found.images, every=self.config.train.keep_every)
            yield Started(
                run=folder.path,
                config=self.config,
                pictures=len(self.pictures),
                skipped=tuple(str(error) for error in self.pictures.skipped),
                parameters=sum(p.numel() for p in self.network.parameters()),
                device=str(self.device) if team.size == 1 else f"{team.size} x {self.device.type}",
                steps=self.total,
                step=learner.step,
                images=learner.images,
                warnings=tuple(f"{error}; passed over" for error in damaged),
            )
            lost = yield from self._until_lost(found)
            while lost is not None:
                found = self._go_back(lost)
                yield RolledBack(learner.images, learner.step, lost)
                lost = yield from self._until_lost(found)
            yield Ended(folder.path, *self.saved, learner.step >= self.total)

    def _until_lost(self, found: Checkpoint | None) -> Generator[TrainEvent, None, str | None]:
        """Train from ``found`` to the end or until stopped, and return ``None``; or until lost, and return why."""
        settings, learner, team = self.config.train, self.learner, self.team
        self.saved = (learner.images, learner.step)
        batches, denoiser = self.assembly.batches(self._seed()), self.assembly.denoiser
        steps = train(learner, denoiser, self.config.objective, self.config.codec, batches, self.total, team)
        run = Recorder(self.folder, self.config, self.saved_config, learner, self.pictures, found, team)
        with contextlib.closing(run), contextlib.closing(steps):
            yield from self._look(run, stopping=False)  # What a stop left out.
            for report in steps:
                run.add(report)
                yield Trained(report)
                at_end = report.step == self.total
                last = self._stopped() or at_end
                if (report.step % _LOOK == 0 or last) and learner.guard.lost():
                    return _why(report, "too many steps in a row were left out by")
                if at_end and learner.guard.alarmed() and not sound(self.assembly, batches, self.total):
                    return _why(report, "the guard was leaving steps out at the end,")
                if report.step % settings.report_every == 0 or report.step == self.total:
                    yield Measured(run.measure(report))
                yield from self._look(run, stopping=last and report.step < self.total)
                if run.due(settings.average_every or settings.checkpoint_every) or report.step == self.total:
                    self._keep_averages()
                if last or run.due(settings.checkpoint_every):
                    # Weights that make the guard leave steps out may be ruined already: not to be gone back to.
                    if at_end or not learner.guard.alarmed():
                        yield Saved(run.save())
                        self.doubtful, self.saved = None, (learner.images, learner.step)
                    elif last:
                        yield Noted("the last steps were left out, so they are not saved, and will be done again")
                for note in run.take_notes():
                    yield Noted(note)
                if last:
                    break
        for note in run.take_notes():  # Of what went wrong while it was closed.
            yield Noted(note)
        return None

    def _look(self, run: Recorder, *, stopping: bool) -> Iterator[TrainEvent]:
        for seen in run.look(last=self.learner.step >= self.total, stopping=stopping):
            yield Saved(seen) if isinstance(seen, Path) else Looked(seen)

    def _keep_averages(self) -> None:
        """Snapshots of the further averages, if there are any."""
        if self.learner.averages is not None and self.team.leads:
            for width, network in self.learner.averages.networks.items():
                weights = network.state_dict()
                self._averages.write(self.learner.images, width, weights, config=self.saved_config)

    def _stopped(self) -> bool:
        """Whether any process has been asked to stop."""
        return self.team.agree(self.stop.is_set())

    def _seed(self) -> int:
        """The run's, or another one after it has gone back."""
        back, seed = len(self.learner.rollbacks), self.config.train.seed
        return key_to_seed("again", seed, back) if back else seed

    def _go_back(self, why: str) -> Checkpoint | None:
        """To the newest checkpoint that verifies, or to the start; with other randomness and half the step size.

        If the run is lost once more before it has saved anything, the checkpoint itself is in doubt, and the one before
        it is taken.
        """
        learner, allowed = self.learner, self.config.train.guard.rollbacks
        before = [*learner.rollbacks, why]
        if len(before) > allowed:
            tried = f"went back {allowed} times, each time to a lower rate" if allowed else "may not go back"
            found, _ = self.folder.latest()
            kept = "Nothing was saved" if found is None else f"What was saved before is in {self.folder.checkpoints}"
            clip = "" if self.config.train.clip else " and train.clip = 1"
            raise FromnoiseError(
                f"training diverges: {why}; it {tried}, and gives up. {kept}; look at the pictures, or start another "
                f"run with a lower train.lr{clip}"
            )
        self.team.wait()  # The first process may still be writing the checkpoint to go back to.
        found, _ = self.folder.latest(below=self.doubtful)
        self.doubtful = 0 if found is None else found.images
        if found is not None:
            resume(learner, found, self.pictures)
        else:
            fresh = Learner(build_network(self.config), replace(self.config.train, shard=False))
            learner.load(fresh.tensors(), fresh.state())
        learner.guard.forgive()
        learner.rollbacks = before
        self.team.wait()
        if self.team.leads:
            self.folder.rewind_metrics(learner.images)
            self._averages.rewind(learner.images)
        return found


def _why(report: Report, what: str) -> str:
    loss, norm = report.loss.item(), report.grad_norm.item()
    return f"{what} step {report.step}, the last with a loss of {loss:.4g} and a gradient of norm {norm:.4g}"
