"""Draw pictures from a trained model and write them: a grid, a folder of files, or one array.

A strip shows how a picture came to be: what the model took it for at so many moments (the paper's Fig. 6).
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from fromnoise import grid
from fromnoise.errors import WrongUse
from fromnoise.files import explained
from fromnoise.pipeline import Pipeline
from fromnoise.run import Run
from fromnoise.sampler import Step, check
from fromnoise.task.edit import Edit, Plain
from fromnoise.types import Images


@dataclass(frozen=True)
class Drawing:
    """``done`` of ``total`` steps over all batches; ``nfe`` network calls for the pictures at hand."""

    done: int
    total: int
    nfe: int


@dataclass(frozen=True)
class Drawn:
    """All pictures, uint8 (n, C, H, W), with their labels, and where they were written.

    Of a strip, every picture is there as often as it has moments, one after the other.
    """

    images: Images
    labels: tuple[int, ...] | None
    path: Path | None
    nfe: int


SampleEvent = Drawing | Drawn


def draw(
    run: Run,
    n: int,
    *,
    seed: int = 0,
    labels: Sequence[int] | None = None,
    batch_size: int = 64,
    out: Path | None = None,
    overwrite: bool = False,
    columns: int | None = None,
    edit: Edit | None = None,
    strip: int = 0,
) -> Iterator[SampleEvent]:
    """``n`` pictures of the seeds ``seed``, ``seed`` + 1, …, one label each; written to ``out`` if given.

    ``edit`` makes them of given pictures. ``strip`` > 0 gives that many moments of each, in a row.

    ``out`` ends in .png for a grid, in .npz for arrays ``images`` (n, H, W, C) and ``labels``; anything else is a
    folder of PNGs named by seed. Raises ``WrongUse`` for bad numbers or labels and if ``out`` exists already.
    """
    if n < 1 or batch_size < 1:
        raise WrongUse(f"{n} pictures in batches of {batch_size}: both must be at least 1")
    if out is not None:
        _free(out, overwrite)
        if strip and out.suffix.lower() not in {".png", ".npz"}:
            raise WrongUse(f"{out}: a strip is one picture; end the name in .png (or .npz)")
    edit, pipeline, parts, nfe, done = edit or Plain(), run.pipeline.ready(), [], 0, 0
    rungs = _rungs(edit, pipeline)
    if strip > rungs:
        raise WrongUse(f"a strip of {strip} moments needs as many steps; the sampler takes {rungs}")
    wanted = _evenly(rungs, strip - 1)
    seeds, total = edit.seeds(seed, n), rungs * -(-n // batch_size)
    for start in range(0, n, batch_size):
        rows = range(start, min(start + batch_size, n))
        drawing, begin = edit.begin(pipeline, rows)
        some = None if labels is None else labels[start : rows.stop]
        step: Step | None = None
        shown: list[Images] = []
        for k, step in enumerate(drawing.stream(seeds[start : rows.stop], some, begin=begin)):
            nfe, done = step.nfe, done + 1
            if k in wanted:
                shown.append(pipeline.decode(step.prediction.x_0))
            yield Drawing(done, total, nfe)
        assert step is not None  # A ladder has at least one step.
        shown.append(edit.finish(pipeline.decode(step.x)))
        parts.append(torch.stack(shown, dim=1).flatten(0, 1))
    if strip:
        labels = None if labels is None else [label for label in labels for _ in range(strip)]
        seeds, columns = [each for each in seeds for _ in range(strip)], columns or strip
    images = torch.cat(parts)
    if out is not None:
        with explained(f"cannot write to {out}"):
            _write(images, labels, out, seeds, columns)
    yield Drawn(images, None if labels is None else tuple(labels), out, nfe)


def _rungs(edit: Edit, pipeline: Pipeline) -> int:
    """How many steps the pictures take. Raises ``WrongUse`` if they are too few for the sampler."""
    schedule, ladder = pipeline.denoiser.schedule, edit.ladder(pipeline)
    try:
        check(pipeline.sampler, schedule, ladder)
    except ValueError as error:  # The whole ladder was checked before.
        whole = len(pipeline.spacing.ladder(schedule)) - 1
        raise WrongUse(f"this strength leaves {len(ladder) - 1} of {whole} steps, and {error}") from error
    return len(ladder) - 1


def _evenly(count: int, wanted: int) -> set[int]:
    """``wanted`` of ``count`` places, the first among them, in equal steps."""
    return {round(k * (count - 1) / wanted) for k in range(wanted)}


def _free(out: Path, overwrite: bool) -> None:
    taken = out.exists() and not (out.is_dir() and not any(out.iterdir()))
    if taken and not overwrite:
        raise WrongUse(f"{out} exists already; choose another name, or say --overwrite")
    if out.suffix.lower() in {".png", ".npz"} and out.is_dir():
        raise WrongUse(f"{out} is a folder; a name that ends in {out.suffix} should be a file")
    if out.suffix.lower() not in {".png", ".npz"} and out.is_file():
        raise WrongUse(f"{out} is a file; end the name in .png or .npz, or name a folder")
    if out.suffix.lower() in {".jpg", ".jpeg", ".webp", ".gif", ".bmp"}:
        raise WrongUse(f"{out}: grids are written as .png, arrays as .npz; anything else names a folder of PNGs")


def _write(images: Images, labels: Sequence[int] | None, out: Path, seeds: Sequence[int], columns: int | None) -> None:
    if out.suffix.lower() == ".png":
        grid.write_png(grid.to_grid(images, columns=columns), out)
    elif out.suffix.lower() == ".npz":
        arrays = {"images": images.permute(0, 2, 3, 1).numpy(), "seeds": np.asarray(seeds, dtype=np.int64)}
        if labels is not None:
            arrays["labels"] = np.asarray(labels, dtype=np.int64)
        out.parent.mkdir(parents=True, exist_ok=True)
        aside = out.with_name(f".{out.name}.{os.getpid()}.npz")
        try:
            np.savez_compressed(aside, **arrays)
            os.replace(aside, out)
        finally:
            aside.unlink(missing_ok=True)
    else:
        for k, image in enumerate(images):
            label = "" if labels is None else f"-{labels[k]}"
            name = f"{k if len(set(seeds)) < len(images) else seeds[k]:06d}"  # Where all have one seed, by number.
            grid.write_png(grid.to_image(image), out / f"{name}{label}.png")
