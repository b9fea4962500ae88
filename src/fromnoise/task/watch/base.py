"""A watcher is told every line of metrics and every grid of samples of a run, and may keep them as it likes.

A line is what metrics.jsonl has: a JSON object with ``images``, the pictures seen, which is everybody's horizontal
axis. For those that know names and numbers only, :func:`scalars` makes it flat.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

Line = Mapping[str, Any]
Result = TypeVar("Result")


class Watcher(ABC):
    """Anything may go wrong in one; see :class:`Guarded`."""

    @abstractmethod
    def line(self, line: Line) -> None:
        """A line of metrics."""

    @abstractmethod
    def picture(self, path: Path, images: int) -> None:
        """A grid of samples, a PNG on the disk, made after so many pictures seen."""

    @abstractmethod
    def flush(self) -> None:
        """Put on the disk what was told so far: a checkpoint is being written."""

    @abstractmethod
    def close(self) -> None:
        """The run ends here, for now."""


class Guarded(Watcher):
    """Keeps the mishaps of another watcher from the training: at the first one that watcher is left alone.

    ``open`` makes the watcher, ``tell`` is called with the one line that says what happened.
    """

    def __init__(self, name: str, open: Callable[[], Watcher], tell: Callable[[str], None]) -> None:
        self._name, self._tell = name, tell
        self._watcher = self._attempt(open)

    def line(self, line: Line) -> None:
        """Passed on."""
        self._pass(lambda watcher: watcher.line(line))

    def picture(self, path: Path, images: int) -> None:
        """Passed on."""
        self._pass(lambda watcher: watcher.picture(path, images))

    def flush(self) -> None:
        """Passed on."""
        self._pass(lambda watcher: watcher.flush())

    def close(self) -> None:
        """Passed on."""
        self._pass(lambda watcher: watcher.close())

    def _pass(self, call: Callable[[Watcher], None]) -> None:
        watcher = self._watcher
        if watcher is not None:
            self._attempt(lambda: call(watcher))

    def _attempt(self, call: Callable[[], Result]) -> Result | None:
        try:
            return call()
        except Exception as error:
            self._watcher = None
            what = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
            self._tell(f"{self._name} watches no more: {what}; training goes on, and metrics.jsonl has everything")
            return None


def scalars(line: Line, prefix: str = "") -> dict[str, float]:
    """The numbers of a line by name: tables and lists become ``samples/mean/1``; what is no finite number is left out.

    Items of a list count from 1, with as many digits as the last one needs, so that names sort as numbers do.
    """
    found: dict[str, float] = {}
    for key, value in line.items():
        name = f"{prefix}{key}"
        if isinstance(value, list | tuple):
            digits = len(str(len(value)))
            value = {f"{k:0{digits}d}": item for k, item in enumerate(value, start=1)}
        if isinstance(value, Mapping):
            found |= scalars(value, f"{name}/")
        elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            found[name] = float(value)
    return found
