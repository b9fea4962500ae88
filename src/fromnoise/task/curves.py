"""What a run has written down of itself, read back: metrics.jsonl as curves over pictures seen.

A run may be at work while it is read, so a last line that is not whole yet is left out. So is a line that is no JSON at
all, which a power cut can leave behind; ``unread`` counts those.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fromnoise.checkpoint import RunFolder
from fromnoise.errors import FromnoiseError, WrongUse
from fromnoise.files import explained

Values = NDArray[np.float64]


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
        except ValueError:
            line = None
        if isinstance(line, dict) and isinstance(line.get("images"), int):
            lines.append(line)
        elif k + 1 < len(raw) or text.endswith(b"\n"):
            unread += 1
    return Lines(tuple(lines), unread)


def curves_of(folder: RunFolder) -> Curves:
    """Those of a folder that is known to be a run's. Raises ``FromnoiseError`` if it has no metrics yet."""
    read = read_lines(folder.metrics)
    if not read.lines:
        raise FromnoiseError(f"{folder.metrics} has no lines yet, so there is no curve to draw")
    return Curves(folder.path.name or folder.path.resolve().name, read.lines, read.unread)


def read_curves(run: Path) -> Curves:
    """Those of a run folder. Raises ``WrongUse`` if it is none, ``FromnoiseError`` if it has no metrics yet."""
    folder = RunFolder(run)
    if not run.is_dir():
        raise WrongUse(f"{run} is {'a file' if run.exists() else 'not there'}; name a run folder")
    if not folder.config.is_file() and not folder.metrics.is_file():
        raise WrongUse(f"{run} is no run folder: it holds neither {folder.config.name} nor {folder.metrics.name}")
    return curves_of(folder)


def read_all(runs: Sequence[Path]) -> list[Curves]:
    """Several runs; where two have one name, their paths stand in for it. Raises as :func:`read_curves`."""
    found = [read_curves(run) for run in runs]
    names = [curves.name for curves in found]
    return [
        Curves(str(run), curves.lines, curves.unread) if names.count(curves.name) > 1 else curves
        for run, curves in zip(runs, found, strict=True)
    ]


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
