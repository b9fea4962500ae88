"""Draw pictures from a trained model and write them: a grid, a folder of files, or one array."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from fromnoise import grid
from fromnoise.checkpoint import explained
from fromnoise.errors import WrongUse
from fromnoise.run import Run
from fromnoise.sampler import Step
from fromnoise.types import Images


@dataclass(frozen=True)
class Drawing:
    """``done`` of ``total`` steps over all batches; ``nfe`` network calls for the pictures at hand."""

    done: int
    total: int
    nfe: int


@dataclass(frozen=True)
class Drawn:
    """All pictures, uint8 (n, C, H, W), with their labels, and where they were written."""

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
) -> Iterator[SampleEvent]:
    """``n`` pictures of the seeds ``seed``, ``seed`` + 1, …, one label each; written to ``out`` if given.

    ``out`` ends in .png for a grid, in .npz for arrays ``images`` (n, H, W, C) and ``labels``; anything else is a
    folder of PNGs named by seed. Raises ``WrongUse`` for bad numbers or labels and if ``out`` exists already.
    """
    if n < 1 or batch_size < 1:
        raise WrongUse(f"{n} pictures in batches of {batch_size}: both must be at least 1")
    if out is not None:
        _free(out, overwrite)
    pipeline, parts, nfe, done = run.pipeline.ready(), [], 0, 0
    rungs = len(pipeline.spacing.ladder(pipeline.denoiser.schedule)) - 1
    total = rungs * -(-n // batch_size)
    for start in range(0, n, batch_size):
        stop = min(start + batch_size, n)
        some = None if labels is None else labels[start:stop]
        step: Step | None = None
        for step in pipeline.stream(range(seed + start, seed + stop), some):
            nfe, done = step.nfe, done + 1
            yield Drawing(done, total, nfe)
        assert step is not None  # A ladder has at least one step.
        parts.append(pipeline.decode(step.x))
    images = torch.cat(parts)
    if out is not None:
        with explained(f"cannot write to {out}"):
            _write(images, labels, out, seed, columns)
    yield Drawn(images, None if labels is None else tuple(labels), out, nfe)


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


def _write(images: Images, labels: Sequence[int] | None, out: Path, seed: int, columns: int | None) -> None:
    if out.suffix.lower() == ".png":
        grid.write_png(grid.to_grid(images, columns=columns), out)
    elif out.suffix.lower() == ".npz":
        arrays = {"images": images.permute(0, 2, 3, 1).numpy(), "seeds": np.arange(seed, seed + len(images))}
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
            grid.write_png(grid.to_image(image), out / f"{seed + k:06d}{label}.png")
