"""The pictures of a task dealt out to a team of processes, batch by batch; at the end all have the results of all.

Process r takes the batches r, r + size, …. What is in a batch does not depend on the number of processes, so on a CPU
no result does, to the bit.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from fromnoise.train.team import Team


@final
@dataclass(frozen=True, kw_only=True)
class Deal:
    """``pictures`` pictures in batches of ``batch_size``."""

    pictures: int
    batch_size: int
    team: Team

    @property
    def batches(self) -> list[range]:
        """Which pictures each has."""
        starts = range(0, self.pictures, self.batch_size)
        return [range(start, min(start + self.batch_size, self.pictures)) for start in starts]

    @property
    def mine(self) -> list[range]:
        """This process's; of more processes than batches, some have none."""
        return self.batches[self.team.rank :: self.team.size]

    def of_pictures(self, parts: Sequence[Tensor], like: Tensor, rows: int = 1) -> Tensor:
        """The rows of all pictures, in order, on the CPU, from ``parts``: one for each of this process's batches.

        A picture has ``rows`` rows. ``like`` (0, …) has their shape and type, if a process has none. All must ask.
        """
        return self._collected(parts, [rows * len(batch) for batch in self.batches], like)

    def of_batches(self, parts: Sequence[Tensor], like: Tensor) -> Tensor:
        """As :meth:`of_pictures`, with one row (1, …) a batch."""
        return self._collected(parts, [1] * len(self.batches), like)

    def _collected(self, parts: Sequence[Tensor], sizes: Sequence[int], like: Tensor) -> Tensor:
        size = self.team.size
        if size == 1:
            return torch.cat(list(parts)).cpu()
        turns = -(-len(sizes) // size)
        mine = like.new_zeros(turns, sizes[0], *like.shape[1:])
        for place, part in zip(mine, parts, strict=False):  # The last ones may have a batch less.
            place[: len(part)] = part
        everyone = self.team.gather(mine).cpu().unflatten(0, (size, turns))
        return torch.cat([everyone[k % size, k // size, :count] for k, count in enumerate(sizes)])
