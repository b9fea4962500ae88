"""The whole path on the embedded digits: train with labels, sample every class, and say how good it is.

Three quarters of the digits are trained on; the rest is held out, and the scores are taken against it:

* ``confirmed``: the share of samples whose label a 1-nearest-neighbour classifier (pixels, Euclidean, knowing the
  training digits) gives back; ``confirmed_real`` is the same share for the held-out digits.
* ``frechet``: the Fréchet distance in pixel space (0 … 1 a pixel) between as many samples as there are held-out digits
  and those digits; ``frechet_floor`` is that between as many training digits and the held-out ones.
"""

import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fromnoise import grid
from fromnoise.data import Dataset
from fromnoise.errors import WrongUse
from fromnoise.files import explained
from fromnoise.metric.features import pixel_features
from fromnoise.metric.frechet import Statistics, frechet_distance
from fromnoise.metric.nearest import nearest_labels
from fromnoise.run import open_run
from fromnoise.schema import merge
from fromnoise.task.plot import plot_loss
from fromnoise.task.prepare import prepare
from fromnoise.task.sample import Drawn, SampleEvent, draw
from fromnoise.task.train import Ended, TrainEvent, train_run

HELD_OUT = 0.25
_COLUMNS = 20


@dataclass(frozen=True)
class Scored:
    """The end of the demo: the scores, and the pictures it has left."""

    run: Path
    confirmed: float
    confirmed_real: float
    frechet: float
    frechet_floor: float
    samples: int
    seconds: float
    pictures: tuple[Path, ...]


def demo(
    out: Path, tree: Mapping[str, Any], *, device: torch.device, stop: threading.Event
) -> Iterator[TrainEvent | SampleEvent | Scored]:
    """Train into ``out`` (or go on with it), sample, score. ``tree`` holds settings that differ from the preset's."""
    began = time.perf_counter()
    own = {"data": {"path": "digits", "held_out": HELD_OUT}}
    prepared = prepare(merge(own, tree), preset_name="digits", source="the demo")
    held_out = prepared.held_out
    if held_out is None or held_out.labels is None:
        raise WrongUse("the demo scores against held-out pictures with labels: data.held_out and data.path must stay")
    ended = None
    for ended in train_run(prepared.config, prepared.training, out, device=device, stop=stop):
        yield ended
    if not isinstance(ended, Ended) or not ended.finished:
        return
    labels = sorted(held_out.labels.tolist())
    run = open_run(out, device=device)
    samples = None
    for event in draw(run, len(labels), labels=labels, seed=0, batch_size=len(labels)):
        if stop.is_set():
            yield replace(ended, finished=False)
            return
        yield event
        if isinstance(event, Drawn):
            samples = event.images
    assert samples is not None
    by_class = [k for c in range(len(run.classes)) for k in _first(labels, c, _COLUMNS)]
    pictures = (out / "demo-samples.png", out / "demo-real.png", out / "demo-loss.png")
    real = [int(k) for c in range(len(run.classes)) for k in _first(held_out.labels.tolist(), c, _COLUMNS)]
    with explained(f"cannot write to {out}"):
        grid.write_png(grid.to_grid(samples[by_class], columns=_COLUMNS), pictures[0])
        grid.write_png(grid.to_grid(held_out.batch(real), columns=_COLUMNS), pictures[1])
    plot_loss(out, pictures[2])
    yield Scored(
        run=out,
        **score(samples, torch.tensor(labels), prepared.training, held_out),
        samples=len(samples),
        seconds=round(time.perf_counter() - began, 1),
        pictures=pictures,
    )


def score(samples: torch.Tensor, labels: torch.Tensor, training: Dataset, held_out: Dataset) -> dict[str, float]:
    """The four figures of the module's docstring, for uint8 ``samples`` (n, C, H, W) of the given ``labels``."""
    assert training.labels is not None and held_out.labels is not None
    known, real = (
        pixel_features(training.batch(range(len(training)))),
        pixel_features(held_out.batch(range(len(held_out)))),
    )
    made = pixel_features(samples)
    others = np.random.RandomState(0).permutation(len(known))[: len(real)]
    statistics = Statistics.of([real])
    return {
        "confirmed": _share(nearest_labels(known, training.labels, made), labels),
        "confirmed_real": _share(nearest_labels(known, training.labels, real), held_out.labels),
        "frechet": frechet_distance(Statistics.of([made]), statistics),
        "frechet_floor": frechet_distance(Statistics.of([known[torch.from_numpy(others)]]), statistics),
    }


def _share(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return (found == wanted).double().mean().item()


def _first(labels: list[int], label: int, count: int) -> list[int]:
    return [k for k, other in enumerate(labels) if other == label][:count]
