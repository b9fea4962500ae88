"""Samples on the way: the grid, and whether their colours have drifted from the data's."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fromnoise import grid
from fromnoise.config import Config, build_pipeline, sampled_as
from fromnoise.data import Dataset
from fromnoise.files import explained
from fromnoise.metric.colour import Colours, drift
from fromnoise.pipeline import Pipeline
from fromnoise.train.team import Team
from fromnoise.types import Images

_GRID = 64
_MOST_COLUMNS = 20
_MOST_PICTURES = 4096
_AT_A_TIME = 64


class Samples:
    """The grids of the run of ``config`` on ``pictures``: the same seeds, hence the same noise, every time."""

    def __init__(self, config: Config, pictures: Dataset, team: Team) -> None:
        settings, self._pictures, self._team = config.train, pictures, team
        if len(config.sampling.spacing.ladder(config.schedule)) - 1 > settings.sample_steps:
            config = sampled_as(config, steps=settings.sample_steps)
        self._config = config
        self._batch = max(1, settings.batch_size // settings.accumulate)  # As many at a time as training has.

    @cached_property
    def data(self) -> Colours:
        """The colours of the data, of at most 4096 pictures in equal strides; taken once."""
        count = len(self._pictures)
        rows = np.linspace(0, count - 1, min(count, _MOST_PICTURES)).round().astype(np.int64)
        parts = (rows[k : k + _AT_A_TIME] for k in range(0, len(rows), _AT_A_TIME))
        return Colours.of(self._pictures.batch(part) for part in parts)

    def __call__(self, network: torch.nn.Module, path: Path) -> dict[str, Any]:
        """Draw the grid of ``network`` to ``path``; what the line of metrics says of it.

        Raises ``FromnoiseError`` if the disk refuses.
        """
        pipeline = build_pipeline(self._config, network)
        classes = len(pipeline.classes)
        columns = classes if 2 <= classes <= _MOST_COLUMNS else None  # Then every column is a class.
        count = _GRID // columns * columns if columns else _GRID
        images = drawn(pipeline, count, self._batch, self._team)
        if self._team.leads:
            with explained(f"cannot write {path}"):
                grid.write_png(grid.to_grid(images, columns=columns), path)
        made = Colours.of([images])
        far, chance = drift(made, self.data)
        return {
            "mean": list(made.mean),
            "deviation": list(made.deviation),
            "data_mean": list(self.data.mean),
            "data_deviation": list(self.data.deviation),
            "drift": far,
            "chance": chance,
            "samples": count,
        }


def drawn(
    pipeline: Pipeline,
    n: int,
    batch_size: int,
    team: Team,
    *,
    labels: Sequence[int] | None = None,
    values: Sequence[Sequence[float]] | None = None,
) -> Images:
    """As ``pipeline.images``, each process of the ``team`` drawing its share; all get all of them.

    Picture k is the same whoever draws it. Where neither labels nor values are given, they are taken in turn.
    """
    if labels is None and values is None:
        labels, values = pipeline.in_turn(n)
    ready, parts = pipeline.ready(), []
    share = -(-n // team.size)  # The same for all: the last ones may draw the last picture more than once.
    mine = [min(k, n - 1) for k in range(team.rank * share, (team.rank + 1) * share)]
    for start in range(0, share, batch_size):
        seeds = mine[start : start + batch_size]
        some = None if labels is None else [labels[k] for k in seeds]
        rows = None if values is None else [values[k] for k in seeds]
        parts.append(ready.finish(seeds, some, values=rows))
    images = torch.cat(parts)
    # The network's device is the one that the processes can speak through.
    return images if team.size == 1 else team.gather(images.to(pipeline.device)).cpu()[:n]
