"""Average a run's weights over another stretch of training than any that was tracked, after training.

Snapshots of a few averages are combined into the one wanted (:mod:`fromnoise.train.posthoc`) and written as a single
file that carries its settings, to be sampled from like any other. One snapshot is open at a time.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fromnoise.checkpoint import Damaged
from fromnoise.errors import WrongUse
from fromnoise.train.averages import Averages, Blend, Snapshot, write_single
from fromnoise.train.posthoc import gamma_of, mismatch, solve_weights


@dataclass(frozen=True)
class Averaging:
    """So many of the snapshots are added."""

    done: int
    total: int


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


AverageEvent = Averaging | Averaged


def average(
    run: Path, width: float, *, out: Path, images: int | None = None, overwrite: bool = False
) -> Iterator[AverageEvent]:
    """Write the average of relative width ``width`` (σ_rel) after ``images`` pictures, at the end if not given.

    Raises ``WrongUse`` if the run has no snapshots, none at ``images``, or ``out`` is taken; ``FromnoiseError`` if a
    snapshot is damaged or the disk refuses.
    """
    if out.exists() and not overwrite:
        raise WrongUse(f"{out} exists already; choose another name, or say --overwrite")
    if out.suffix != ".safetensors":
        raise WrongUse(f"{out}: an average is written as one .safetensors file; name it so")
    gamma, snapshots = gamma_of(width), _until(run, images)
    last = snapshots[-1]
    stored = [(float(one.images), gamma_of(one.sigma_rel)) for one in snapshots]
    target = (float(last.images), gamma)
    weights = solve_weights(stored, target)
    wanted = [(one, float(weight)) for one, weight in zip(snapshots, weights, strict=True) if weight]
    blend, said = Blend(), dict[str, str]()
    for done, (snapshot, weight) in enumerate(wanted, 1):
        said = blend.add(snapshot.path, weight)
        if "config" not in said:
            raise Damaged(f"{snapshot.path} was not written by fromnoise: it carries no settings")
        yield Averaging(done, len(wanted))
    write_single(out, blend.result(), config=said["config"], images=last.images, what=f"average {width!r}")
    yield Averaged(
        out=out,
        width=width,
        images=last.images,
        snapshots=len(wanted),
        mismatch=mismatch(stored, weights, target),
        gain=float(abs(weights).sum()),
        tracked=tuple(sorted({one.sigma_rel for one in snapshots})),
    )


def _until(run: Path, images: int | None) -> list[Snapshot]:
    """The snapshots up to ``images``, at which there must be one: a profile ends where it was stored."""
    if not run.is_dir():
        raise WrongUse(f"{run} is not there: expected a run folder")
    folder = Averages.of(run)
    snapshots = folder.found()
    if not snapshots:
        raise WrongUse(f"{folder.path} holds no snapshots of averages: train with train.averages = [0.05, 0.1]")
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
