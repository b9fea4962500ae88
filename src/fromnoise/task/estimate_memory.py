"""The memory of a step by the number of pictures in it: measured for a few, and a line through them for the others.

Weights, their gradients, average and moments are there for any number; what is remembered for the backward pass grows
in step with the pictures. So from some size on the peak is

    peak(n) = a + b · n,

while for very few pictures the peak lies elsewhere in the step (the end of the backward pass, the optimizer) and hardly
grows. The curve is convex, so the line goes through the two largest sizes that were measured. They are found by
doubling, until a step takes long or the next one might not fit. On a CPU, memory that smaller steps have left in pieces
adds some percent to the peak of the next, which a line would take for the pictures' share and multiply; so those two
are measured once more, each in a process that has done nothing else.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from fromnoise.config import Config
from fromnoise.task.estimate_probe import Probe, Taken, TooLarge, probe

RESERVE = 0.1
"""The share of free memory that is left to others."""

_PATIENCE = 10.0  # Seconds that the steps of one size may take.
_GROWN = 0.1  # By less, and what was measured is still the floor that does not depend on the pictures.


@dataclass(frozen=True)
class Line:
    """a + b · n, in bytes."""

    a: float
    b: float

    def __call__(self, n: int) -> int:
        """The memory of a step of ``n`` pictures."""
        return math.ceil(self.a + self.b * n)


def line_through(points: Sequence[tuple[int, int]]) -> Line | None:
    """Through the two largest of the ``points`` (pictures, bytes); ``None`` of fewer. It never falls."""
    if len(points) < 2:
        return None
    (n, low), (m, high) = sorted(points)[-2:]
    b = max(0.0, (high - low) / (m - n))
    return Line(high - b * m, b)


def sizes(batch_size: int) -> list[int]:
    """1, 2, 4, … up to ``batch_size``, itself included; 1 and 2 at least, for a line needs two points."""
    doubled = [2**k for k in range(batch_size.bit_length()) if 2**k < batch_size]
    return sorted({1, 2, *doubled, batch_size})


def scouted(fresh: Probe, batch_size: int, total: int) -> Iterator[Taken]:
    """Steps of more and more pictures, until the next size might not fit into memory or would take long.

    Raises :class:`TooLarge` if not even one picture fits.
    """
    before: Taken | None = None
    last: Taken | None = None
    for size in sizes(batch_size):
        if last is not None and not (_pays(before, last, size) and _fits(fresh, last, size)):
            return
        try:
            before, last = last, fresh(size, total=total)
        except TooLarge:
            if last is None:
                raise
            return
        yield last


def _pays(before: Taken | None, last: Taken, size: int) -> bool:
    """Whether steps of ``size`` pictures are quick, or needed: the last ones took hardly more than those before."""
    if size / last.batch * min(last.seconds) * 2 <= _PATIENCE or before is None:
        return True
    return before.peak is not None and last.peak is not None and last.peak < (1 + _GROWN) * before.peak


def _fits(fresh: Probe, last: Taken, size: int) -> bool:
    if last.peak is None or fresh.base is None or fresh.room is None:
        return True
    # As if all that was added were the pictures' own: at most that much is needed.
    return fresh.base + size / last.batch * (last.peak - fresh.base) <= (1 - RESERVE) * fresh.room


def alone(config: Config, device: torch.device, scout: Taken, total: int) -> Taken:
    """Steps of as many pictures as ``scout`` did, in a process of their own."""
    with probe(config, device) as fresh:
        try:
            return fresh(scout.batch, count=2, total=total)
        except TooLarge:  # It just fitted before: others take more now.
            return scout


def divisors(batch_size: int) -> list[int]:
    """Of ``batch_size``, the largest first."""
    return [n for n in range(batch_size, 0, -1) if batch_size % n == 0]


def micro_batch(batch_size: int, line: Line, *, room: int, gradients: int) -> int | None:
    """The most pictures at a time that divide ``batch_size`` evenly and fit into ``room`` bytes less the reserve.

    ``gradients`` are the bytes of a gradient, which a batch in parts keeps from one part to the next. ``None`` if not
    even one picture fits.
    """
    for n in divisors(batch_size):
        if line(n) + (gradients if n < batch_size else 0) <= (1 - RESERVE) * room:
            return n
    return None
