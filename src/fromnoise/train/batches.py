"""What step n sees: pictures, what is said of them, and randomness, each a function of (seed, n) alone.

There is no state of a generator to save: a resumed run asks for step n and gets what the uninterrupted run got. The
next batches are made in a thread while the network computes.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Protocol, Self

import torch
from torch import Tensor

from fromnoise.noise import generator, key_to_seed
from fromnoise.types import Images, Labels, Shape

_AHEAD = 2


class Pictures(Protocol):
    """What training needs of a data set."""

    @property
    def labels(self) -> Labels | None:
        """Of all pictures, or ``None``."""
        ...

    @property
    def values(self) -> Tensor | None:
        """float32, (N, K): numbers said of all pictures, or ``None``."""
        ...

    def __len__(self) -> int:
        """How many pictures there are."""
        ...

    def batch(self, indices: Sequence[int]) -> Images:
        """uint8, (B, C, H, W)."""
        ...


@dataclass(frozen=True)
class Batch:
    """What one process sees of a step: B of the step's N pictures.

    ``images`` uint8 (B, C, H, W); ``labels`` (B,) or ``None``; ``eps`` like x_0. ``values`` are float32, (B, K), a row
    of NaN where they are hidden from the network, or ``None``. ``u`` (N,) in [0, 1), float64, are the numbers of the
    whole step, for its times may depend on one another; those of the pictures here begin at ``first``. ``seeds`` are
    the pictures' own, for dropout; ``draws`` (B, K) in [0, 1), float64, are for augmentation, if there is any.
    """

    images: Images
    labels: Labels | None
    u: Tensor
    eps: Tensor
    values: Tensor | None = None
    first: int = 0
    seeds: tuple[int, ...] = ()
    draws: Tensor | None = None

    def condition(self, rows: slice, device: torch.device) -> dict[str, Tensor]:
        """What the network is told of the pictures ``rows``, on ``device``: ``label``, ``values``, both or nothing."""
        said = {"label": self.labels, "values": self.values}
        return {name: all_[rows].to(device, non_blocking=True) for name, all_ in said.items() if all_ is not None}

    def pinned(self) -> Self:
        """The same, where a GPU fetches it while it computes; from other memory it would be waited for."""
        sent = {"images": self.images, "eps": self.eps, "labels": self.labels, "values": self.values}
        return replace(self, **{name: all_.pin_memory() for name, all_ in sent.items() if all_ is not None})


@dataclass(frozen=True, kw_only=True)
class Batches:
    """``shape`` is that of x_0, (C, H, W).

    With probability ``label_dropout`` nothing is said of a picture: its label is ``null_label``, its values are NaN.
    ``batch_size`` counts the pictures of a step on all processes; process ``rank`` of ``size`` sees its share of them.
    What is drawn for a picture depends on its place in the step, not on who sees it; ``draws`` numbers of it are for
    augmentation. ``pin`` asks for batches that a GPU can fetch while it computes.
    """

    pictures: Pictures
    shape: Shape
    batch_size: int
    seed: int
    flip: bool = False
    label_dropout: float = 0.0
    null_label: int = 0
    rank: int = 0
    size: int = 1
    draws: int = 0
    pin: bool = False

    def indices(self, step: int) -> list[int]:
        """The pictures of a step: passes over the data without gaps, each in an order of its own."""
        n, start = len(self.pictures), step * self.batch_size
        places = range(start, start + self.batch_size)
        return [int(_order(self.seed, place // n, n)[place % n]) for place in places]

    def __call__(self, step: int) -> Batch:
        """The batch of a step, counted from 0."""
        share = self.batch_size // self.size
        first = self.rank * share
        indices = self.indices(step)[first : first + share]
        images = self.pictures.batch(indices)
        chances, eps = torch.empty(self.batch_size, 3, dtype=torch.float64), torch.empty(share, *self.shape)
        draws = torch.empty(share, self.draws, dtype=torch.float64)
        for place in range(self.batch_size):
            source = generator("train", self.seed, step, place)
            chances[place].uniform_(generator=source)
            if first <= place < first + share:
                eps[place - first].normal_(generator=source)
                draws[place - first].uniform_(generator=source)
        chance = chances[first : first + share]
        if self.flip:
            images = torch.where((chance[:, 1] < 0.5)[:, None, None, None], images.flip(3), images)
        hidden = chance[:, 2] < self.label_dropout
        labels, values = self.pictures.labels, self.pictures.values
        if labels is not None:
            labels = torch.where(hidden, self.null_label, labels[indices])
        if values is not None:
            values = torch.where(hidden[:, None], torch.nan, values[indices])
        seeds = tuple(key_to_seed("dropout", self.seed, step, first + row) for row in range(share))
        batch = Batch(images, labels, chances[:, 0], eps, values, first, seeds, draws if self.draws else None)
        return batch.pinned() if self.pin else batch

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
