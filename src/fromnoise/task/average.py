"""Average a run's weights over another stretch of training than any that was tracked, after training.

Snapshots of a few averages are combined into the one wanted (:mod:`fromnoise.train.posthoc`) and written as a single
file that carries its settings, to be sampled from like any other. One snapshot is open at a time. Those that cannot be
used are passed over: the others are weighted as if these had never been taken.
"""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fromnoise.checkpoint import Damaged, RunFolder
from fromnoise.errors import WrongUse
from fromnoise.train.averages import Averages, Blend, Head, Snapshot, read_head, write_single
from fromnoise.train.posthoc import gamma_of, mismatch, solve_weights

MOST_OFF = 0.1
"""The mismatch from which on an average is another one than the one asked for, and is not written."""


@dataclass(frozen=True)
class Averaging:
    """So many of the snapshots are added."""

    done: int
    total: int


@dataclass(frozen=True)
class PassedOver:
    """A snapshot cannot be used; adding starts anew without it. ``text`` names it and says why."""

    text: str


@dataclass(frozen=True)
class Averaged:
    """The average is written to ``out``, as it would have been after ``images`` pictures.

    ``mismatch`` is the distance of its profile over training from the exact one, relative to its norm; rounding of the
    snapshots is felt ``gain`` times (Σ|w_i|). ``tracked`` are the widths that there are snapshots of.
    """

    out: Path
    width: float
    images: int
    snapshots: int
    mismatch: float
    gain: float
    tracked: tuple[float, ...]


AverageEvent = Averaging | PassedOver | Averaged


@dataclass(frozen=True)
class _Plan:
    """Which snapshots are added with which weights, the earliest first, and how near that comes."""

    parts: tuple[tuple[Snapshot, float], ...]
    images: int
    mismatch: float
    tracked: tuple[float, ...]


def average(
    run: Path, width: float, *, out: Path, images: int | None = None, overwrite: bool = False
) -> Iterator[AverageEvent]:
    """Write the average of relative width ``width`` (σ_rel) after ``images`` pictures, at the end if not given.

    Raises ``WrongUse`` if the run has no snapshots, none at ``images``, none that give so wide or narrow an average, or
    ``out`` is taken; ``FromnoiseError`` if every snapshot is damaged or the disk refuses.
    """
    if out.exists() and not overwrite:
        raise WrongUse(f"{out} exists already; choose another name, or say --overwrite")
    if out.suffix != ".safetensors":
        raise WrongUse(f"{out}: an average is written as one .safetensors file; name it so")
    gamma_of(width)  # Refuses what is no width, before anything is read.
    folder, snapshots = Averages.of(run), _found(run)
    _until(folder, snapshots, images)
    heads = dict[Snapshot, Head]()
    for snapshot in snapshots:
        try:
            heads[snapshot] = read_head(snapshot.path)
        except Damaged as error:
            yield PassedOver(str(error))
    # A file of another network is told by the company it is in, wherever in the row it stands.
    usual = Counter(heads[snapshot].network for snapshot in reversed(heads)).most_common(1)
    usable = []
    for snapshot, head in heads.items():
        if head.network == usual[0][0]:
            usable.append(snapshot)
        else:
            yield PassedOver(f"{snapshot.path} is of another network than the other snapshots")
    while usable:
        plan, blend = _plan(folder, _until(folder, usable, images), width), Blend()
        for done, (snapshot, weight) in enumerate(plan.parts, 1):
            try:
                blend.add(snapshot.path, weight)
            except Damaged as error:
                yield PassedOver(str(error))
                usable.remove(snapshot)
                break
            yield Averaging(done, len(plan.parts))
        else:
            config = heads[plan.parts[-1][0]].config
            write_single(out, blend.result(), config=config, images=plan.images, what=f"average {width!r}")
            yield Averaged(
                out=out,
                width=width,
                images=plan.images,
                snapshots=len(plan.parts),
                mismatch=plan.mismatch,
                gain=math.fsum(abs(weight) for _, weight in plan.parts),
                tracked=plan.tracked,
            )
            return
    raise Damaged(f"{folder.path}: none of its {len(snapshots)} snapshots can be used")


def _found(run: Path) -> list[Snapshot]:
    if not run.is_dir():
        raise WrongUse(f"{run} is {'a file' if run.exists() else 'not there'}: expected a run folder")
    folder, own = Averages.of(run), RunFolder(run)
    snapshots = folder.found()
    if not snapshots and not own.config.is_file() and not own.metrics.is_file():
        raise WrongUse(f"{run} is no run folder: it holds neither {own.config.name} nor snapshots in {folder.path}")
    if not snapshots:
        raise WrongUse(f"{folder.path} holds no snapshots of averages: train with train.averages = [0.05, 0.1]")
    return snapshots


def _until(folder: Averages, snapshots: list[Snapshot], images: int | None) -> list[Snapshot]:
    """The snapshots up to ``images``, at which there must be one: a profile ends where it was stored."""
    if images is None:
        return snapshots
    times = sorted({one.images for one in snapshots})
    if images not in times:
        near = min(times, key=lambda time: abs(time - images))
        raise WrongUse(
            f"no snapshot after {images:,} pictures in {folder.path}: the nearest is after {near:,}, "
            f"of {len(times)} from {times[0]:,} to {times[-1]:,}"
        )
    return [one for one in snapshots if one.images <= images]


def _plan(folder: Averages, snapshots: list[Snapshot], width: float) -> _Plan:
    """The weights for ``width``. Raises ``WrongUse`` if even the best ones come out as another average."""
    weights, off = _best(snapshots, width)
    if not off <= MOST_OFF:
        widths = ", ".join(f"{one:g}" for one in _widths(snapshots))
        raise WrongUse(
            f"width {width:g} cannot be had: its average would be {100 * off:.3g} % off, and {100 * MOST_OFF:g} % is "
            f"the limit; the {len(snapshots)} snapshots in {folder.path}, of the widths {widths}, reach "
            f"{_reach(snapshots, width)}: choose a width that they reach{_earlier(snapshots, width)}, or train with "
            f"this one among train.averages"
        )
    parts = tuple((one, float(weight)) for one, weight in zip(snapshots, weights, strict=True) if weight)
    return _Plan(parts, snapshots[-1].images, off, _widths(snapshots))


def _widths(snapshots: list[Snapshot]) -> tuple[float, ...]:
    return tuple(sorted({one.sigma_rel for one in snapshots}))


def _best(snapshots: list[Snapshot], width: float) -> tuple[NDArray[np.float64], float]:
    """The weights that come nearest to ``width`` when the last of them was taken, and the mismatch."""
    stored = [(float(one.images), gamma_of(one.sigma_rel)) for one in snapshots]
    target = (stored[-1][0], gamma_of(width))
    weights = solve_weights(stored, target)
    return weights, mismatch(stored, weights, target)


def _reach(snapshots: list[Snapshot], width: float) -> str:
    """How far towards ``width`` one can go, by halving."""
    # The widths of the last snapshots are there exactly, and from the nearest of them on it gets worse.
    last = [one.sigma_rel for one in snapshots if one.images == snapshots[-1].images]
    start = min(last, key=lambda one: abs(math.log(one / width)))
    good, bad = start, width
    while abs(bad - good) > 1e-3 * start:
        middle = (good + bad) / 2
        good, bad = (middle, bad) if _best(snapshots, middle)[1] <= MOST_OFF else (good, middle)
    return f"{'up' if width > start else 'down'} to {_towards(good, start):g}"


def _earlier(snapshots: list[Snapshot], width: float) -> str:
    """Where the last snapshots lack a width (one was passed over), an earlier end may have it."""
    counts = Counter(one.images for one in snapshots)
    better = [images for images, count in counts.items() if count > counts[snapshots[-1].images]]
    if better:
        until = [one for one in snapshots if one.images <= max(better)]
        if _best(until, width)[1] <= MOST_OFF:
            return f", or an earlier end with --images {max(better)}"
    return ""


def _towards(width: float, start: float) -> float:
    """``width`` with two digits that count, or three where two would overshoot ``start``, rounded towards that."""
    for digits in (2, 3):
        unit = 10.0 ** (math.floor(math.log10(width)) + 1 - digits)
        whole = math.floor(width / unit) if width > start else math.ceil(width / unit)
        rounded = float(f"{whole * unit:.{digits}g}")
        if (rounded - start) * (width - start) > 0:
            return rounded
    return start
