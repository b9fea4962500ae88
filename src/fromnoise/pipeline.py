"""The trained thing as a whole: from seeds to finished pictures."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fromnoise.codec import Codec
from fromnoise.data.quantities import Quantities
from fromnoise.denoiser import Estimator
from fromnoise.errors import WrongUse
from fromnoise.ladder import Spacing
from fromnoise.noise import SeededNoise
from fromnoise.sampler import Sampler, Step, trajectory
from fromnoise.types import ImageArray, Images, Shape

Values = Mapping[str, float | Sequence[float]] | Sequence[Sequence[float]]
"""Numbers by name, each for all pictures or several taken in turn; or a row for each picture."""

Begin = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""(the first noise, (B, C, H, W); the whole ladder) -> where the sampler starts, and the rungs it goes down."""


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """A denoiser, the codec of its pictures, their shape, and how it is sampled unless told otherwise.

    ``shape`` is that of x_0, (C, H, W); ``classes`` are the names of the labels, empty for a model without;
    ``quantities`` are the numbers that it was told of its pictures, if any.
    """

    denoiser: Estimator
    codec: Codec
    shape: Shape
    sampler: Sampler[Any]
    spacing: Spacing
    classes: tuple[str, ...] = ()
    quantities: Quantities = field(default_factory=Quantities)

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.denoiser.parameters()).device

    def ready(self) -> "Pipeline":
        """For inference: dropout off, and on the CPU the weights packed. Weights changed later are not seen."""
        return replace(self, denoiser=self.denoiser.ready())

    def stream(
        self,
        seeds: Sequence[int],
        labels: Sequence[int] | None = None,
        *,
        values: Sequence[Sequence[float]] | None = None,
        begin: Begin | None = None,
    ) -> Iterator[Step]:
        """One batch, one picture a seed, step by step. ``labels`` has one class number a picture, ``values`` one row.

        What is left out is not said to the network. Picture k depends on its seed and what is said of it, not on the
        batch (but for rounding). It starts from noise at the top of the ladder, unless ``begin`` says otherwise. Raises
        ``WrongUse`` for labels and values that do not fit.
        """
        noise = SeededNoise(seeds, self.shape, self.device)
        condition: dict[str, Tensor] = {}
        if labels is not None:
            condition["label"] = torch.tensor(self._checked(labels, len(seeds)), device=self.device)
        if values is not None:
            rows = self.rows(values, len(seeds))
            condition["values"] = torch.tensor(rows, dtype=torch.float32, device=self.device)
        schedule = self.denoiser.schedule
        ladder = self.spacing.ladder(schedule)
        start, ladder = (begin or self._from_noise)(noise(), ladder)
        yield from trajectory(self.sampler, self.denoiser, schedule, ladder, start, noise, **condition)

    def _from_noise(self, eps: Tensor, ladder: Tensor) -> tuple[Tensor, Tensor]:
        top = self.denoiser.schedule(ladder[0])
        # Where signal and noise have variance 1 together, x_T is noise of variance 1, as in the paper.
        deviation = top.sigma if top.signal == 1 else (top.signal.square() + top.sigma.square()).sqrt()
        return deviation.item() * eps, ladder

    def finish(
        self,
        seeds: Sequence[int],
        labels: Sequence[int] | None = None,
        *,
        values: Sequence[Sequence[float]] | None = None,
        begin: Begin | None = None,
    ) -> Images:
        """:meth:`stream` to its end: finished pictures, uint8 (B, C, H, W), on the CPU."""
        return self.decode(deque(self.stream(seeds, labels, values=values, begin=begin), maxlen=1).pop().x)

    def decode(self, x_0: Tensor) -> Images:
        """x_0 -> uint8 (B, C, H, W) on the CPU."""
        return self.codec.decode(x_0).cpu()

    def sample(
        self,
        n: int = 16,
        *,
        seed: int = 0,
        labels: int | Sequence[int] | None = None,
        values: Values | None = None,
        batch_size: int = 64,
    ) -> ImageArray:
        """``n`` finished pictures, uint8 (n, H, W, C), of the seeds ``seed``, ``seed`` + 1, ….

        ``labels`` is one class number for all, or one each; left out, a model with classes takes them in turn.
        ``values`` are numbers by name, ``{"age": 30}``, of which those left out are at their mean, or a row for each
        picture; left out altogether, a model that knows values takes those of its examples in turn. Raises ``WrongUse``
        for labels and values the model does not know.
        """
        images = self.images(n, seed=seed, labels=labels, values=values, batch_size=batch_size)
        return np.ascontiguousarray(images.permute(0, 2, 3, 1).numpy())

    def in_turn(
        self, n: int, labels: Sequence[int] | None = None
    ) -> tuple[Sequence[int] | None, list[list[float]] | None]:
        """Labels and values for ``n`` pictures of which no values are said, and perhaps no ``labels``.

        Every class in turn, and after each turn the next example of values. So in a grid of as many columns as there
        are classes, every column is a class and every row an example. ``None`` each for a model without.
        """
        each = 1
        if labels is None and self.classes:
            each = len(self.classes)
            labels = [k % each for k in range(n)]
        return labels, self.quantities.in_turn(n, each) if self.quantities else None

    def images(
        self,
        n: int,
        *,
        seed: int = 0,
        labels: int | Sequence[int] | None = None,
        values: Values | None = None,
        batch_size: int = 64,
    ) -> Images:
        """The pictures of :meth:`sample` as a tensor, uint8 (n, C, H, W)."""
        if n < 1 or batch_size < 1:
            raise WrongUse(f"n = {n} and batch_size = {batch_size} must both be at least 1")
        each, usual = self.in_turn(n, [int(labels)] * n if isinstance(labels, int | np.integer) else labels)
        rows = usual if values is None else self.rows(values, n)
        if each is not None:
            self._checked(each, n)
        ready, parts = self.ready(), []
        for start in range(0, n, batch_size):
            stop = min(start + batch_size, n)
            some = None if each is None else each[start:stop]
            numbers = None if rows is None else rows[start:stop]
            parts.append(ready.finish(range(seed + start, seed + stop), some, values=numbers))
        return torch.cat(parts)

    def rows(self, values: Values, n: int) -> list[list[float]]:
        """``values`` as a row for each of ``n`` pictures. Raises ``WrongUse`` for what the model does not know."""
        if not self.quantities:
            raise WrongUse("this model was trained without values, so it takes none")
        if isinstance(values, Mapping):
            return self.quantities.rows(values, n)
        return self.quantities.checked(values, n)

    def _checked(self, labels: Sequence[int], n: int) -> list[int]:
        if not self.classes:
            raise WrongUse("this model was trained without classes, so it takes no label")
        if len(labels) != n:
            raise WrongUse(f"{n} pictures need {n} labels, not {len(labels)}")
        for label in labels:
            if not 0 <= label < len(self.classes):
                raise WrongUse(f"label {label} is out of range: this model knows 0 to {len(self.classes) - 1}")
        return [int(label) for label in labels]
