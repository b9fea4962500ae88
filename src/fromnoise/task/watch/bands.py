"""The loss by time: ten bands of t, from the clean end to the noisy one.

Each band is a tenth of the times that are drawn, so that each gets about as many pictures. For the paper, and for any
objective that draws evenly, these are the tenths of the clock: 1 … 100, 101 … 200, … of a thousand. For EDM's
log-normal times they are the deciles of that distribution; tenths of its clock, which ends at sigma = 80, would put
nearly all into the first. Times that follow past losses keep the bands they had before there were any.

A picture counts once, whatever its importance weight. Sums are kept on the device: nothing waits for it here.
"""

import math
from typing import Any

import torch
from torch import Tensor

from fromnoise.objective import Objective
from fromnoise.schedule import Schedule

BANDS = 10


def edges(objective: Objective, schedule: Schedule) -> Tensor:
    """The nine times between the bands, ascending, float64 on the CPU. A time that is an edge begins a band."""
    shares = torch.arange(1, BANDS, dtype=torch.float64) / BANDS
    return objective.times(shares, schedule).t


class BandedLoss:
    """Sums of losses by band, and how many pictures fell there. ``state`` is what :meth:`state` gave, if any."""

    def __init__(self, edges: Tensor, device: torch.device, state: dict[str, Any] | None) -> None:
        # In float32, which every device has; whole times are exact in it.
        self._edges = edges.to(device, torch.float32)
        known = {"loss": [0.0] * BANDS, "pictures": [0] * BANDS} if state is None else state
        self._sums = torch.tensor(known["loss"], dtype=torch.float32, device=device)
        self._counts = torch.tensor(known["pictures"], dtype=torch.int64, device=device)

    def add(self, t: Tensor, per_example: Tensor, taken: Tensor) -> None:
        """A step's times and losses, both (B,), if it was ``taken``, a boolean scalar."""
        t, loss = t.to(self._edges), per_example.to(self._sums)
        band = torch.bucketize(t, self._edges, right=True)
        inside = (band[:, None] == torch.arange(BANDS, device=band.device)) & taken
        # A sum over a table, not index_add: on a GPU that one adds in any order, and lines would not repeat.
        self._sums += torch.where(inside, loss[:, None], 0).sum(0)
        self._counts += inside.sum(0)

    def take(self) -> list[float | None]:
        """The means, ``None`` where nothing fell or it is no number; then starts anew. Waits for the device."""
        means = [s / n if n and math.isfinite(s) else None for s, n in zip(*self._lists(), strict=True)]
        self._sums.zero_()
        self._counts.zero_()
        return means

    def state(self) -> dict[str, Any]:
        """For a checkpoint: a small JSON object."""
        sums, counts = self._lists()
        return {"loss": sums, "pictures": counts}

    def _lists(self) -> tuple[list[float], list[int]]:
        return self._sums.tolist(), self._counts.tolist()
