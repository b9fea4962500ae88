"""What a run has written down of itself, read back: metrics.jsonl as curves over pictures seen.

A run may be at work while it is read, so a last line that is not whole yet is left out. So is a line that is no JSON at
all, which a power cut can leave behind; ``unread`` counts those.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fromnoise.checkpoint import RunFolder
from fromnoise.errors import FromnoiseError, WrongUse
from fromnoise.files import explained

Values = NDArray[np.float64]


class Unmeasured(FromnoiseError):
    """A run has written down nothing of itself that could be drawn."""


@dataclass(frozen=True)
class Lines:
    """The whole lines of a metrics.jsonl, in their order, and how many others there were, a cut-off last one apart."""

    lines: tuple[dict[str, Any], ...]
    unread: int


@dataclass(frozen=True)
class Curve:
    """One number over pictures seen; both (n,)."""

    images: Values
    values: Values

    def smooth(self, share: float = 0.05) -> "Curve":
        """The running mean over so large a share of the points; as it is, if that is one point or none."""
        if not len(self.values):
            return self
        width = max(1, round(share * len(self.values)))
        mean = np.convolve(self.values, np.ones(width) / width, mode="valid")
        # Each mean stands in the middle of what it is of, so the curve is not late.
        return Curve(np.convolve(self.images, np.ones(width) / width, mode="valid"), mean)

    def late(self, share: float) -> float:
        """The mean of so large a share of the points, the newest ones; of at least one, and NaN if there is none."""
        n = len(self.values)
        return float(self.values[-max(1, round(share * n)) :].mean()) if n else math.nan


@dataclass(frozen=True)
class Curves:
    """A run's name and its lines."""

    name: str
    lines: tuple[dict[str, Any], ...]
    unread: int = 0

    def of(self, *keys: str | int) -> Curve:
        """The number at a path of keys, ``of("score", "frechet")``, from the lines that have it."""
        found = [(line["images"], value) for line in self.lines if (value := _at(line, keys)) is not None]
        images, values = np.array(found, dtype=np.float64).reshape(-1, 2).T
        return Curve(images, values)

    @property
    def images(self) -> int:
        """Pictures seen when the last line was written."""
        return int(self.lines[-1]["images"])


def read_lines(file: Path) -> Lines:
    """Those of the file; none if it is not there. Raises ``FromnoiseError`` if it cannot be read."""
    with explained(f"cannot read {file}"):
        raw = file.read_bytes().splitlines(keepends=True) if file.is_file() else []
    lines, unread = [], 0
    for k, text in enumerate(raw):
        try:
            line = json.loads(text) if text.endswith(b"\n") else None
        except (ValueError, RecursionError):
            line = None
        if isinstance(line, dict) and isinstance(line.get("images"), int):
            lines.append(line)
        elif k + 1 < len(raw) or text.endswith(b"\n"):
            unread += 1
    return Lines(tuple(lines), unread)


def curves_of(folder: RunFolder) -> Curves:
    """Those of a folder that is known to be a run's. Raises ``Unmeasured`` if it has no metrics, or none to read."""
    read = read_lines(folder.metrics)
    if not read.lines and read.unread:
        raise Unmeasured(
            f"{folder.metrics}: none of its lines could be read ({read.unread} tried), so there is no curve to draw"
        )
    if not read.lines:
        raise Unmeasured(f"{folder.metrics} has no lines yet, so there is no curve to draw")
    return Curves(folder.path.name or folder.path.resolve().name, read.lines, read.unread)


def read_curves(run: Path) -> Curves:
    """Those of a run folder. Raises ``WrongUse`` if it is none, ``Unmeasured`` as :func:`curves_of` does."""
    folder = RunFolder(run)
    if not run.is_dir():
        raise WrongUse(f"{run} is {'a file' if run.exists() else 'not there'}; name a run folder")
    if not folder.config.is_file() and not folder.metrics.is_file():
        raise WrongUse(f"{run} is no run folder: it holds neither {folder.config.name} nor {folder.metrics.name}")
    return curves_of(folder)


def read_all(runs: Sequence[Path], tell: Callable[[str], None]) -> dict[Path, Curves]:
    """Those of several runs that have metrics; where two have one name, their paths stand in for it.

    ``tell`` gets a line for each that has none. Raises as :func:`read_curves`, and if no run has any.
    """
    found, failed = dict[Path, Curves](), list[Unmeasured]()
    for run in runs:
        try:
            found[run] = read_curves(run)
        except Unmeasured as error:
            failed.append(error)
    if failed and not found:
        raise failed[0]
    for error in failed:
        tell(f"{error}; the other runs are drawn")
    names = [curves.name for curves in found.values()]
    return {
        run: Curves(str(run), curves.lines, curves.unread) if names.count(curves.name) > 1 else curves
        for run, curves in found.items()
    }


def summary(curves: Curves) -> dict[str, Any]:
    """Where a run stands: the newest of each figure, the loss and the gradient as their running means."""

    def newest(curve: Curve) -> float | None:
        return float(curve.values[-1]) if len(curve.values) else None

    return {
        "images": curves.images,
        "loss": newest(curves.of("loss").smooth()),
        "grad_norm": newest(curves.of("grad_norm").smooth()),
        "images_per_second": newest(curves.of("images_per_second").smooth()),
        "lr": newest(curves.of("lr")),
        "drift": newest(curves.of("samples", "drift")),
        "score": newest(curves.of("score", "frechet")),
        "floor": newest(curves.of("score", "floor")),
    }


def _at(line: dict[str, Any], keys: Sequence[str | int]) -> float | None:
    value: Any = line
    for key in keys:
        if isinstance(value, dict) and isinstance(key, str):
            value = value.get(key)
        elif isinstance(value, list) and isinstance(key, int) and key < len(value):
            value = value[key]
        else:
            return None
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if number else None
