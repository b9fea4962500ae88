"""Draw pictures from a trained model and write them: a grid, a folder of files, or one array.

A strip shows how a picture came to be: what the model took it for at so many moments (the paper's Fig. 6).
"""

import csv
import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from fromnoise import grid
from fromnoise.errors import WrongUse
from fromnoise.files import explained, write_whole
from fromnoise.pipeline import Pipeline
from fromnoise.run import Run
from fromnoise.sampler import Step, check
from fromnoise.task.dealt import Deal
from fromnoise.task.edit import Edit, Plain
from fromnoise.train.team import Alone, Team
from fromnoise.types import Images


@dataclass(frozen=True)
class Drawing:
    """``done`` of ``total`` steps over all batches; ``nfe`` network calls for the pictures at hand."""

    done: int
    total: int
    nfe: int


@dataclass(frozen=True)
class Drawn:
    """All pictures, uint8 (n, C, H, W), with their labels and values, and where they were written.

    Of a strip, every picture is there as often as it has moments, one after the other.
    """

    images: Images
    labels: tuple[int, ...] | None
    path: Path | None
    nfe: int
    values: tuple[tuple[float, ...], ...] | None = None


SampleEvent = Drawing | Drawn


def draw(
    run: Run,
    n: int,
    *,
    seed: int = 0,
    labels: Sequence[int] | None = None,
    values: Sequence[Sequence[float]] | None = None,
    batch_size: int = 64,
    out: Path | None = None,
    overwrite: bool = False,
    columns: int | None = None,
    edit: Edit | None = None,
    strip: int = 0,
    team: Team | None = None,
) -> Iterator[SampleEvent]:
    """``n`` pictures of the seeds ``seed``, ``seed`` + 1, …, one label or row of values each; written to ``out`` if
    given. Without labels and values, nothing is said to the network.

    ``edit`` makes them of given pictures. ``strip`` > 0 gives that many moments of each, in a row.

    ``out`` ends in .png for a grid, in .npz for arrays ``images`` (n, H, W, C), ``labels`` and ``values``; anything
    else is a folder of PNGs named by seed, with the values of each in values.csv. Raises ``WrongUse`` for bad numbers,
    labels or values and if ``out`` exists already.

    The batches are dealt out to a ``team``; all get all pictures, and the first process writes. On a CPU batches are
    those of one process, so the pictures are too, bit for bit; on GPUs there is one for each process at least.
    """
    team = team or Alone()
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
    if pipeline.device.type != "cpu":
        batch_size = min(batch_size, -(-n // team.size))
    deal = Deal(pictures=n, batch_size=batch_size, team=team)
    seeds, total = edit.seeds(seed, n), rungs * len(deal.mine)
    for rows in deal.mine:
        drawing, begin = edit.begin(pipeline, rows)
        some = None if labels is None else labels[rows.start : rows.stop]
        numbers = None if values is None else values[rows.start : rows.stop]
        step: Step | None = None
        shown: list[Images] = []
        for k, step in enumerate(drawing.stream(seeds[rows.start : rows.stop], some, values=numbers, begin=begin)):
            nfe, done = step.nfe, done + 1
            if k in wanted:
                shown.append(pipeline.decode(step.prediction.x_0))
            yield Drawing(done, total, nfe)
        assert step is not None  # A ladder has at least one step.
        shown.append(edit.finish(pipeline.decode(step.x)))
        parts.append(torch.stack(shown, dim=1).flatten(0, 1))
    if strip:
        labels = None if labels is None else [label for label in labels for _ in range(strip)]
        values = None if values is None else [row for row in values for _ in range(strip)]
        seeds, columns = [each for each in seeds for _ in range(strip)], columns or strip
    images = deal.of_pictures(parts, torch.empty(0, *pipeline.shape, dtype=torch.uint8), rows=strip or 1)
    if out is not None and team.leads:
        with explained(f"cannot write to {out}"):
            _write(images, labels, values, pipeline.quantities.names, out, seeds, columns)
    told = None if values is None else tuple(map(tuple, values))
    yield Drawn(images, None if labels is None else tuple(labels), out, nfe, told)


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


def _write(
    images: Images,
    labels: Sequence[int] | None,
    values: Sequence[Sequence[float]] | None,
    names: Sequence[str],
    out: Path,
    seeds: Sequence[int],
    columns: int | None,
) -> None:
    if out.suffix.lower() == ".png":
        grid.write_png(grid.to_grid(images, columns=columns), out)
    elif out.suffix.lower() == ".npz":
        arrays = {"images": images.permute(0, 2, 3, 1).numpy(), "seeds": np.asarray(seeds, dtype=np.int64)}
        if labels is not None:
            arrays["labels"] = np.asarray(labels, dtype=np.int64)
        if values is not None:
            arrays["values"] = np.asarray(values, dtype=np.float32)
        out.parent.mkdir(parents=True, exist_ok=True)
        aside = out.with_name(f".{out.name}.{os.getpid()}.npz")
        try:
            np.savez_compressed(aside, **arrays)
            os.replace(aside, out)
        finally:
            aside.unlink(missing_ok=True)
    else:
        files = []
        for k, image in enumerate(images):
            label = "" if labels is None else f"-{labels[k]}"
            name = f"{k if len(set(seeds)) < len(images) else seeds[k]:06d}"  # Where all have one seed, by number.
            files.append(f"{name}{label}.png")
            grid.write_png(grid.to_image(image), out / files[-1])
        if values is not None:  # A table that training reads.
            table = io.StringIO()
            csv.writer(table).writerows([("file", *names), *((f, *row) for f, row in zip(files, values, strict=True))])
            write_whole(out / "values.csv", table.getvalue().encode())
