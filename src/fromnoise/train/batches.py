"""What step n sees: pictures, labels and randomness, each a function of (seed, n) alone.

There is no state of a generator to save: a resumed run asks for step n and gets what the uninterrupted run got. The
next batches are made in a thread while the network computes.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor

from fromnoise.noise import generator
from fromnoise.types import Images, Labels, Shape

_AHEAD = 2


class Pictures(Protocol):
    """What training needs of a data set."""

    @property
    def labels(self) -> Labels | None:
        """Of all pictures, or ``None``."""
        ...

    def __len__(self) -> int:
        """How many pictures there are."""
        ...

    def batch(self, indices: Sequence[int]) -> Images:
        """uint8, (B, C, H, W)."""
        ...


@dataclass(frozen=True)
class Batch:
    """``images`` uint8 (B, C, H, W); ``labels`` (B,) or ``None``; ``u`` (B,) in [0, 1), float64; ``eps`` like x_0."""

    images: Images
    labels: Labels | None
    u: Tensor
    eps: Tensor


@dataclass(frozen=True, kw_only=True)
class Batches:
    """``null_label`` replaces a label with probability ``label_dropout``; ``shape`` is that of x_0, (C, H, W)."""

    pictures: Pictures
    shape: Shape
    batch_size: int
    seed: int
    flip: bool = False
    label_dropout: float = 0.0
    null_label: int = 0

    def indices(self, step: int) -> list[int]:
        """The pictures of a step: passes over the data without gaps, each in an order of its own."""
        n, start = len(self.pictures), step * self.batch_size
        places = range(start, start + self.batch_size)
        return [int(_order(self.seed, place // n, n)[place % n]) for place in places]

    def __call__(self, step: int) -> Batch:
        """The batch of a step, counted from 0."""
        indices = self.indices(step)
        images = self.pictures.batch(indices)
        chance, eps = torch.empty(len(indices), 3, dtype=torch.float64), torch.empty(len(indices), *self.shape)
        for place in range(len(indices)):
            source = generator("train", self.seed, step, place)
            chance[place].uniform_(generator=source)
            eps[place].normal_(generator=source)
        if self.flip:
            images = torch.where((chance[:, 1] < 0.5)[:, None, None, None], images.flip(3), images)
        labels = self.pictures.labels
        if labels is not None:
            labels = labels[indices]
            labels = torch.where(chance[:, 2] < self.label_dropout, self.null_label, labels)
        return Batch(images, labels, chance[:, 0], eps)

    def stream(self, start: int, stop: int) -> Iterator[Batch]:
        """The batches of steps ``start`` … ``stop`` − 1, made a little ahead in a thread."""
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches") as pool:
            waiting: deque[Future[Batch]] = deque(pool.submit(self, s) for s in range(start, min(start + _AHEAD, stop)))
            try:
                for step in range(start, stop):
                    batch = waiting.popleft().result()
                    if step + _AHEAD < stop:
                        waiting.append(pool.submit(self, step + _AHEAD))
                    yield batch
            finally:
                for future in waiting:
                    future.cancel()


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, n: int) -> Tensor:
    return torch.randperm(n, generator=generator("order", seed, epoch))
