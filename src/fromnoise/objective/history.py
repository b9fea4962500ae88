"""What is remembered of past losses, for choosing the times of the next step."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class History:
    """The newest losses of every whole time; on the CPU, changed in place by :meth:`record`.

    ``losses`` (T, n) float64 holds a ring of n losses a time, ``counts`` (T,) int64 how many there have ever been.
    """

    losses: Tensor
    counts: Tensor

    @staticmethod
    def empty(times: int, records: int) -> "History":
        """Nothing recorded yet, for so many times and records of each."""
        return History(torch.zeros(times, records, dtype=torch.float64), torch.zeros(times, dtype=torch.int64))

    @property
    def full(self) -> bool:
        """Whether every time has all its records."""
        return bool((self.counts >= self.losses.shape[1]).all())

    def record(self, t: Tensor, losses: Tensor) -> None:
        """Add the ``losses`` (B,) of the whole times ``t`` (B,), in their order, and leave out what is not finite.

        Reads ``losses`` from its device, and so waits for it.
        """
        losses = losses.detach().cpu().double()
        finite = losses.isfinite()
        rows, losses = t.long()[finite] - 1, losses[finite]
        # A time may come several times in a batch: its losses then take one place after the other. Should they go round
        # the ring, only the newest are written, for nothing says which of two writes to a place comes last.
        order = rows.argsort(stable=True)
        rows, losses = rows[order], losses[order]
        _, group, size = rows.unique_consecutive(return_inverse=True, return_counts=True)
        rank = torch.arange(rows.numel()) - (size.cumsum(0) - size)[group]
        records = self.losses.shape[1]
        newest = rank >= size[group] - records
        place = (self.counts[rows] + rank) % records
        self.losses[rows[newest], place[newest]] = losses[newest]
        self.counts.index_add_(0, rows, torch.ones_like(rows))
