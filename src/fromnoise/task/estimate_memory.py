"""The memory of a step by the number of pictures in it: measured for a few, and a line through them for the others.

Weights, their gradients, average and moments are there for any number; what is remembered for the backward pass grows
in step with the pictures. So from some size on the peak is

    peak(n) = a + b · n,

while for very few pictures the peak lies elsewhere in the step (the end of the backward pass, the optimizer) and hardly
grows. The curve is convex, so the line goes through the two largest sizes that were measured. They are found by
doubling, until a step takes long or the next one might not fit. On a CPU, memory that smaller steps have left in pieces
adds some percent to the peak of the next, which a line would take for the pictures' share and multiply; so those two
are measured once more, each in a process that has done nothing else.

With train.recompute on a CPU the network's activations are those of so many pictures at once (`network.recompute`),
and for more of them no larger: at that size the curve bends down, and beyond it swings, for parts are made alike. At
multiples of that size it is a straight line again, so the line goes through these alone.
"""

import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass

import torch

from fromnoise.config import Config
from fromnoise.network.recompute import at_once
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


def whole_parts(config: Config, device: torch.device) -> int:
    """From how many pictures on, in multiples, memory grows evenly: 1, or as many as are computed again at once."""
    data, train = config.data, config.train
    assert data.height is not None and data.width is not None
    if not train.recompute or device.type != "cpu":
        return 1
    parts = at_once(torch.empty(1, 1, data.height, data.width))
    return parts if parts <= train.batch_size else 1  # A batch that is one part stays below the bend.


def line_through(points: Sequence[tuple[int, int]], parts: int = 1) -> Line | None:
    """Through the two largest of the ``points`` (pictures, bytes); ``None`` of fewer. It never falls.

    Of those that are multiples of ``parts``, if there are two: before its bend the curve is steeper, so that a line
    through points from there is too high, but not too low.
    """
    even = [point for point in points if point[0] % parts == 0]
    if len(points) < 2:
        return None
    (n, low), (m, high) = sorted(even if len(even) > 1 else points)[-2:]
    b = max(0.0, (high - low) / (m - n))
    return Line(high - b * m, b)


def sizes(batch_size: int, parts: int = 1) -> list[int]:
    """1, 2, 4, … up to ``batch_size``, itself included; 1 and 2 at least, for a line needs two points.

    Where ``parts`` are more than one, 1, 2, 4, … times as many come after what is less, and twice as many at least.
    """
    doubled = [2**k for k in range(batch_size.bit_length())]
    few = [n for n in doubled if n < parts]
    many = [n * parts for n in doubled if n * parts < batch_size]
    return sorted({1, *few, *many, parts, 2 * parts, batch_size})


def scouted(fresh: Probe, batch_size: int, total: int, parts: int = 1) -> Generator[Taken, None, int | None]:
    """Steps of more and more pictures, until the next size might not fit into memory or would take long.

    Returns the size that was tried and did not fit, if any. Raises :class:`TooLarge` if not even one picture fits.
    """
    before: Taken | None = None
    last: Taken | None = None
    for size in sizes(batch_size, parts):
        if last is not None and not (_fits(fresh, last, size) and (_needed(size, parts) or _pays(before, last, size))):
            return None
        try:
            before, last = last, fresh(size, total=total)
        except TooLarge:
            if last is None:
                raise
            return size
        yield last
    return None


def _needed(size: int, parts: int) -> bool:
    """Whether the line has to go through ``size``, however long its steps take: they are of few pixels."""
    return parts > 1 and size <= 2 * parts


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


def alone(config: Config, device: torch.device, batch: int, total: int) -> Taken:
    """Steps of ``batch`` pictures in a process of their own. Raises :class:`TooLarge`."""
    with probe(config, device) as fresh:
        return fresh(batch, count=2, total=total)


def divisors(batch_size: int) -> list[int]:
    """Of ``batch_size``, the largest first."""
    return [n for n in range(batch_size, 0, -1) if batch_size % n == 0]


def micro_batch(
    batch_size: int,
    line: Line | None,
    *,
    room: int,
    gradients: int,
    known: Mapping[int, int] | None = None,
    failed: int | None = None,
) -> int | None:
    """The most pictures at a time that divide ``batch_size`` evenly and fit into ``room`` bytes less the reserve.

    ``gradients`` are the bytes of a gradient, which a batch in parts keeps from one part to the next; ``known`` are
    bytes by pictures that were measured, and go before the line; as many as ``failed`` do not fit, whatever it says.
    ``None`` if not even one picture fits.
    """
    for n in divisors(batch_size):
        more = gradients if n < batch_size else 0
        if (failed is None or n < failed) and at_most(n, line, known or {}) + more <= (1 - RESERVE) * room:
            return n
    return None


def at_most(n: int, line: Line | None, known: Mapping[int, int]) -> float:
    """The memory of a step of ``n`` pictures: no more than of the fewest that are as many and measured; by the line.

    Infinite where neither tells.
    """
    return min((peak for size, peak in known.items() if size >= n), default=line(n) if line else math.inf)
