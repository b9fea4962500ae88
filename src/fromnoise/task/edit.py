"""What can be made of given pictures: a variation, a filled hole, a larger picture, what lies between two.

Each is an answer to a few questions: with what pipeline, down which rungs, and from where does the batch of the n-th to
m-th picture go?
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fromnoise.errors import WrongUse
from fromnoise.guidance import Downscale, Mask, PseudoInverse
from fromnoise.pipeline import Begin, Pipeline
from fromnoise.sampler.repaint import RePaint
from fromnoise.start import cut, interpolate, sdedit
from fromnoise.types import Images


class Edit(ABC):
    """How given pictures enter the sampling of a batch."""

    @abstractmethod
    def seeds(self, seed: int, n: int) -> list[int]:
        """The seeds of all pictures."""

    @abstractmethod
    def ladder(self, pipeline: Pipeline) -> Tensor:
        """The times that are visited."""

    @abstractmethod
    def begin(self, pipeline: Pipeline, rows: range) -> tuple[Pipeline, Begin | None]:
        """For the pictures ``rows`` of all: what draws them, and where it starts."""

    @abstractmethod
    def finish(self, images: Images) -> Images:
        """The last touch to finished pictures, uint8 (B, C, H, W)."""


class FromNoise(Edit):
    """Begins as pictures out of nothing do: each from its own noise, at the top of the ladder."""

    def seeds(self, seed: int, n: int) -> list[int]:
        """One each."""
        return list(range(seed, seed + n))

    def ladder(self, pipeline: Pipeline) -> Tensor:
        """All of it."""
        return pipeline.spacing.ladder(pipeline.denoiser.schedule)


@dataclass(frozen=True, kw_only=True)
class Plain(FromNoise):
    """Pictures from noise alone."""

    def begin(self, pipeline: Pipeline, rows: range) -> tuple[Pipeline, Begin | None]:
        """Nothing is changed."""
        return pipeline, None

    def finish(self, images: Images) -> Images:
        """As they are."""
        return images


@dataclass(frozen=True, kw_only=True)
class Inpaint(FromNoise):
    """What ``hole`` (bool, (1, 1, H, W)) covers is made anew; the rest is kept to the last bit.

    With ``resamples`` > 0 by RePaint (Lugmayr et al. 2022), otherwise by the conditional posterior (Song et al. 2023).
    """

    picture: Images
    hole: Tensor
    resamples: int = 0

    def begin(self, pipeline: Pipeline, rows: range) -> tuple[Pipeline, Begin | None]:
        """The known part steers every step."""
        x_0 = _encoded(pipeline, self.picture, len(rows))
        known = ~self.hole.to(x_0.device)
        if self.resamples:
            sampler = RePaint(inner=pipeline.sampler, known=x_0, mask=known, resamples=self.resamples)
            return replace(pipeline, sampler=sampler), None
        return replace(pipeline, denoiser=PseudoInverse(pipeline.denoiser, Mask(known), x_0)), None

    def finish(self, images: Images) -> Images:
        """The known pixels are those of the picture."""
        return torch.where(self.hole, images, self.picture)


@dataclass(frozen=True, kw_only=True)
class Upscale(FromNoise):
    """Larger pictures whose means over blocks are the ``small`` one (a linear inverse problem, Song et al. 2023)."""

    small: Images
    factor: int

    def begin(self, pipeline: Pipeline, rows: range) -> tuple[Pipeline, Begin | None]:
        """The small picture steers every step."""
        y = _encoded(pipeline, self.small, len(rows))
        return replace(pipeline, denoiser=PseudoInverse(pipeline.denoiser, Downscale(self.factor), y)), None

    def finish(self, images: Images) -> Images:
        """As they are."""
        return images


@dataclass(frozen=True, kw_only=True)
class Noised(Edit):
    """Begins with pictures that are noised up to the share ``strength`` of the clock."""

    strength: float = 0.5

    def __post_init__(self) -> None:
        """Raises ``WrongUse`` for what is no share."""
        if not 0 < self.strength <= 1:
            raise WrongUse(
                f"strength = {self.strength:g}: must lie above 0 (the picture itself) and be at most 1 (all noise)"
            )

    def ladder(self, pipeline: Pipeline) -> Tensor:
        """The part below the strength."""
        schedule = pipeline.denoiser.schedule
        return cut(pipeline.spacing.ladder(schedule), self.strength * schedule.horizon)


@dataclass(frozen=True, kw_only=True)
class Variation(Noised):
    """The noise that was put on ``picture`` is taken off again (SDEdit, Meng et al. 2021)."""

    picture: Images

    def seeds(self, seed: int, n: int) -> list[int]:
        """One each."""
        return list(range(seed, seed + n))

    def begin(self, pipeline: Pipeline, rows: range) -> tuple[Pipeline, Begin | None]:
        """From the noisy picture."""
        x_0, schedule = _encoded(pipeline, self.picture, len(rows)), pipeline.denoiser.schedule
        return pipeline, lambda eps, ladder: sdedit(x_0, eps, schedule, ladder, self.strength)

    def finish(self, images: Images) -> Images:
        """As they are."""
        return images


@dataclass(frozen=True, kw_only=True)
class Between(Noised):
    """``n`` pictures on the way from ``first`` to ``last``, mixed while they are noisy (Ho et al. 2020, figure 8).

    All share one noise, so that they change by their place on the way alone.
    """

    first: Images
    last: Images
    n: int

    def seeds(self, seed: int, n: int) -> list[int]:
        """The same for all."""
        return [seed] * n

    def begin(self, pipeline: Pipeline, rows: range) -> tuple[Pipeline, Begin | None]:
        """From the mixtures."""
        a, b = (_encoded(pipeline, picture, 1)[0] for picture in (self.first, self.last))
        weights = torch.tensor([row / max(self.n - 1, 1) for row in rows], dtype=torch.float64)
        schedule, rest = pipeline.denoiser.schedule, self.ladder(pipeline)
        return pipeline, lambda eps, _: (interpolate(a, b, eps[0], schedule(rest[0]), weights), rest)

    def finish(self, images: Images) -> Images:
        """As they are."""
        return images


def _encoded(pipeline: Pipeline, picture: Images, n: int) -> Tensor:
    return pipeline.codec.encode(picture.to(pipeline.device)).expand(n, -1, -1, -1)
