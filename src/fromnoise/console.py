"""How events look to a person: a bar on a terminal, a line every ten seconds in a log. All of it goes to stderr."""

import sys
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from fromnoise.task.compare import Compared, CompareEvent, Comparing
from fromnoise.task.demo import Scored
from fromnoise.task.inspect import Comparing as ComparingLooks
from fromnoise.task.inspect import Inspected, InspectEvent, Inspecting
from fromnoise.task.inspect_clean import Cleaned, CleanEvent, Cleaning
from fromnoise.task.likelihood import LikelihoodEvent, MeasuredLikelihood, Scoring
from fromnoise.task.sample import Drawing, Drawn, SampleEvent
from fromnoise.task.train import Ended, Looked, Measured, Noted, RolledBack, Saved, Started, Trained, TrainEvent

_EVERY = 10.0  # seconds between two lines of a log
_OFF = 3.0  # standard errors from which on a drift of colours is no longer chance


class Meter:
    """A bar for work whose length is known; in a pipe, one plain line every ten seconds."""

    def __init__(self, what: str, total: int, done: int = 0) -> None:
        self.console = Console(stderr=True)
        self._what, self._total, self._start, self._done = what, total, done, done
        self._live = self.console.is_terminal
        self._began = self._spoke = time.monotonic()
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self._live,
        )
        self._task: TaskID = self._progress.add_task(what, total=total, completed=done, note="")

    def __enter__(self) -> "Meter":
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._progress.stop()

    def show(self, done: int, note: str = "") -> None:
        """``done`` of the total is done."""
        self._done = done
        self._progress.update(self._task, completed=done, note=note)
        now = time.monotonic()
        if not self._live and now - self._spoke >= _EVERY:
            self._spoke = now
            rate = (done - self._start) / (now - self._began)
            left = _clock((self._total - done) / rate) if rate else "unknown"
            say(f"{self._what} {done}/{self._total}{'  ' + note if note else ''}  {left} left")

    def say(self, text: str) -> None:
        """A line above the bar."""
        if self._live:
            self.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            say(text)


def say(text: str) -> None:
    """A line on stderr."""
    print(text, file=sys.stderr, flush=True)


Event = TrainEvent | SampleEvent | CompareEvent | LikelihoodEvent | InspectEvent | CleanEvent | Scored


def follow(events: Iterable[Event]) -> Event | None:
    """Show the events of a task as they come; returns the last one."""
    last: Event | None = None
    meter: Meter | None = None
    note = doing = ""
    steps = 0
    try:
        for last in events:
            if isinstance(last, Started):
                _introduce(last)
                steps = last.steps
                meter = _begin(meter, "training", last.steps, last.step)
            elif isinstance(last, Measured):
                loss, rate = last.line["loss"], last.line["images_per_second"]
                note = f"{'no step taken' if loss is None else f'loss {loss:.4f}'}, {rate:.4g} pictures/s"
                if last.line["skipped"]:
                    note += f", {_steps(last.line['skipped'])} left out by the guard"
            elif isinstance(last, Trained) and meter is not None:
                meter.show(last.report.step, note)
            elif isinstance(last, Saved) and meter is not None:
                meter.say(f"saved {last.path}")
            elif isinstance(last, Looked) and meter is not None:
                for text in _seen(last.line):
                    meter.say(text)
            elif isinstance(last, Noted) and meter is not None:
                meter.say(f"fromnoise: {last.text}")
            elif isinstance(last, RolledBack) and meter is not None:
                meter.say(
                    f"fromnoise: {last.why}; back to {last.images:,} pictures seen, "
                    f"with half the step size and other randomness"
                )
                meter = _begin(meter, "training", steps, last.step)
            elif isinstance(last, Drawing):
                if meter is None or last.done == 1:
                    meter = _begin(meter, "sampling", last.total)
                meter.show(last.done)
            elif isinstance(last, Comparing):
                if meter is None:
                    meter = _begin(meter, "comparing", last.total)
                meter.show(last.done, last.what)
            elif isinstance(last, Inspecting):
                if meter is None or last.done == 1:
                    meter = _begin(meter, "inspecting", last.total)
                meter.show(last.done, f"{last.unreadable} unreadable" if last.unreadable else "")
            elif isinstance(last, ComparingLooks | Cleaning):
                what = "copying" if isinstance(last, Cleaning) else "looking for copies"
                if meter is None or what != doing:
                    meter = _begin(meter, what, last.total)
                doing = what
                meter.show(last.done)
            elif isinstance(last, Scoring):
                if meter is None:
                    meter = _begin(meter, "scoring", last.total)
                bits = "" if last.bits_per_dim is None else f", {last.bits_per_dim:.3f} bits/dim"
                meter.show(last.done, f"{last.pictures} pictures{bits}")
            elif (
                isinstance(last, Ended | Drawn | Compared | MeasuredLikelihood | Inspected | Cleaned)
                and meter is not None
            ):
                meter = _end(meter)
    finally:
        _end(meter)
    return last


def _steps(count: int) -> str:
    return "1 step" if count == 1 else f"{count} steps"


def _begin(before: Meter | None, what: str, total: int, done: int = 0) -> Meter:
    _end(before)
    return Meter(what, total, done).__enter__()


def _end(meter: Meter | None) -> None:
    if meter is not None:
        meter.__exit__(None, None, None)


def _introduce(started: Started) -> None:
    data = started.config.data
    for warning in started.warnings:
        say(f"fromnoise: {warning}")
    if started.skipped:
        say(f"fromnoise: skipped {len(started.skipped)} unreadable pictures, the first: {started.skipped[0]}")
    classes = f", {len(data.class_names)} classes" if data.class_names else ""
    if data.quantities:
        classes += f", {len(data.quantities)} values a picture"
    say(
        f"{started.pictures:,} pictures as {data.height}x{data.width}x{data.channels}{classes}; network of "
        f"{started.parameters:,} parameters on {started.device}; run folder {started.run}"
    )
    if started.step >= started.steps:
        say(f"the run is at its end: {started.step:,} steps, {started.images:,} pictures seen")
    elif started.step:
        say(f"going on at step {started.step:,} of {started.steps:,} ({started.images:,} pictures seen)")


def _seen(line: dict[str, Any]) -> Iterator[str]:
    """What a look at samples is worth saying: the score beside that of real pictures, and colours that are off."""
    samples, score = line.get("samples"), line.get("score")
    if samples is not None and samples["drift"] > _OFF * samples["chance"]:
        yield (
            f"colours: a channel of the samples is {samples['drift']:.1f} of 255 away from the data; as many real "
            f"pictures differ by about {samples['chance']:.1f}"
        )
    if score is not None:
        yield (
            f"score: {score['frechet']:.4g}, of as many real pictures {score['floor']:.4g} (Fréchet distance in pixel "
            f"space of {score['samples']} samples, {score['sampler']} with {score['steps']} steps)"
        )


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
