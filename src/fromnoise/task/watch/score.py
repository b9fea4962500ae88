"""A score on the way: few samples, few steps, held against few real pictures.

    frechet   the Fréchet distance in pixel space (0 … 1 a pixel) of n samples to real pictures of the training data
    floor     the same distance of n other real pictures to those: what a perfect model would get

Of few pictures the distance is far above zero even between real ones, so neither figure means anything without the
other, and neither compares with scores of other numbers of pictures; what falls from one line to the next is the gap.
A model that repeats its training pictures scores as well as one that has learnt.

Samples have the labels and values of the n real pictures, so that their mix is no part of the distance. Seeds, labels
and real pictures are the same every time.
"""

from functools import cached_property
from typing import Any

import numpy as np
import torch

from fromnoise.config import Config, build_pipeline, sampled_as, to_tree
from fromnoise.data import Dataset
from fromnoise.errors import WrongUse
from fromnoise.metric.frechet_few import frechet_of_few
from fromnoise.noise import key_to_seed
from fromnoise.pipeline import Pipeline
from fromnoise.sampler import check
from fromnoise.task.watch.drawing import drawn
from fromnoise.train.team import Team
from fromnoise.types import Images

_SAMPLERS = ("dpm_2m", "ddim")
"""The best at ten steps (docs/sampling.md); the second for clocks that the first cannot be used on."""

_MOST_REAL = 1024


def check_score(config: Config, pictures: Dataset) -> None:
    """Raises ``WrongUse`` if a score is asked for and cannot be taken: too few pictures, or steps for any sampler."""
    if config.train.score_every and len(pictures) < 4:
        raise WrongUse(
            f"[train] score_every: a score needs at least 4 pictures to hold samples against, and there are "
            f"{len(pictures)}; set it to 0"
        )
    if config.train.score_every:
        _few_steps(config)


class Score:
    """How the run of ``config`` on ``pictures`` is scored. At most half of the pictures stand for the samples' own."""

    def __init__(self, config: Config, pictures: Dataset, team: Team) -> None:
        settings, self._team = config.train, team
        self._pictures, self._config = pictures, _few_steps(config)
        self.count = min(settings.score_samples, len(pictures) // 2)
        self._batch = max(1, settings.batch_size // settings.accumulate)
        chance = np.random.default_rng(key_to_seed("score", settings.seed))
        real = min(len(pictures) - self.count, _MOST_REAL)
        rows = chance.choice(len(pictures), size=self.count + real, replace=False)
        self._others, self._real = np.sort(rows[: self.count]), np.sort(rows[self.count :])

    @cached_property
    def floor(self) -> float:
        """Of as many real pictures as there are samples; taken once."""
        return self._distance(self._pictures.batch(self._others))

    def __call__(self, network: torch.nn.Module) -> dict[str, Any]:
        """What the line of metrics says of ``network``."""
        pipeline = build_pipeline(self._config, network)
        labels, values = self._told(pipeline)
        images = drawn(pipeline, self.count, self._batch, self._team, labels=labels, values=values)
        sampling = to_tree(self._config)["sampling"]
        steps = len(pipeline.spacing.ladder(self._config.schedule)) - 1
        return {
            "frechet": self._distance(images),
            "floor": self.floor,
            "features": "pixels",
            "samples": self.count,
            "real": len(self._real),
            "sampler": sampling["sampler"]["kind"],
            "steps": steps,
        }

    def _distance(self, images: Images) -> float:
        real = self._pictures.batch(self._real)
        return frechet_of_few(images.flatten(1), real.flatten(1)) / 255**2

    def _told(self, pipeline: Pipeline) -> tuple[list[int] | None, list[list[float]] | None]:
        """What is known of the n real pictures, as far as the network wants to hear it."""
        rows = torch.from_numpy(self._others)
        labels, values = self._pictures.labels, self._pictures.values
        return (
            labels[rows].tolist() if pipeline.classes and labels is not None else None,
            values[rows].tolist() if pipeline.quantities and values is not None else None,
        )


def _few_steps(config: Config) -> Config:
    """The run sampled in few steps. Raises ``WrongUse`` if its clock allows none of the samplers."""
    steps, refused = config.train.score_steps, ValueError("no sampler")
    if config.schedule.whole:
        steps = min(steps, int(config.schedule.horizon))
    for sampler in _SAMPLERS:
        try:
            changed = sampled_as(config, sampler=sampler, steps=steps)
            check(changed.sampling.sampler, changed.schedule, changed.sampling.spacing.ladder(changed.schedule))
        except ValueError as error:
            refused = error
        else:
            return changed
    raise WrongUse(f"[train] score_steps = {config.train.score_steps}: {refused}") from refused
