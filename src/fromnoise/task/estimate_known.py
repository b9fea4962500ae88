"""What is known so far of the memory that a training takes: sizes tried, sizes that failed, and what follows."""

from collections.abc import Iterator

import torch

from fromnoise.config import Config
from fromnoise.errors import FromnoiseError
from fromnoise.task.estimate_found import Row
from fromnoise.task.estimate_memory import (
    RESERVE,
    Line,
    alone,
    at_most,
    line_through,
    micro_batch,
    scouted,
    sizes,
    whole_parts,
)
from fromnoise.task.estimate_probe import Probe, Taken, TooLarge


class Known:
    """Of steps as the settled ``config`` has them on ``device``; ``total`` are those of the whole run, 0 if not known.

    ``scouts`` were measured one after another in one process, ``largest`` each in its own. ``failed`` is the smallest
    size for which memory did not suffice, ``room`` how many bytes such a process may hold in all; ``None`` if not told.
    """

    def __init__(self, config: Config, device: torch.device, total: int) -> None:
        self.config, self.device, self.total = config, device, total
        self.parts = whole_parts(config, device)
        self.scouts: list[Taken] = []
        self.largest: list[Taken] = []
        self.failed: int | None = None
        self.room: int | None = None

    @property
    def sizes(self) -> list[int]:
        """Those to be tried."""
        return sizes(self.config.train.batch_size, self.parts)

    def scout(self, fresh: Probe) -> Iterator[Taken]:
        """Try sizes for as long as they fit and are quick. Raises ``FromnoiseError`` if not one picture fits."""
        self.room = fresh.room
        trying = scouted(fresh, self.config.train.batch_size, self.total, self.parts)
        while True:
            try:
                taken = next(trying)
            except StopIteration as end:
                self.fail(end.value)
                return
            except TooLarge as error:
                raise FromnoiseError(
                    "not enough memory for a step of a single picture: lower network.model_channels or the resolution, "
                    "or set train.recompute=true"
                ) from error
            self.scouts.append(taken)
            yield taken

    def decisive(self) -> list[int]:
        """The sizes that the line is to go through."""
        tried = [taken.batch for taken in self.scouts]
        even = [n for n in tried if n % self.parts == 0]
        return (even if len(even) > 1 else tried)[-2:]

    def again(self, size: int) -> Taken:
        """Measure a size that was scouted once more, by itself; if it now fails, others take more than before."""
        try:
            taken = alone(self.config, self.device, size, self.total)
        except TooLarge:
            self.fail(size)
            taken = next(taken for taken in self.scouts if taken.batch == size)
        self.largest.append(taken)
        return taken

    def fail(self, size: int | None) -> None:
        """So many did not fit."""
        if size is not None:
            self.failed = size if self.failed is None else min(size, self.failed)

    @property
    def peaks(self) -> dict[int, int]:
        """By pictures. Of several measurements the last one; none that is above what more pictures took (`alone`)."""
        found = {taken.batch: taken.peak for taken in [*self.scouts, *self.largest] if taken.peak is not None}
        return {n: peak for n, peak in found.items() if all(peak <= other for m, other in found.items() if m > n)}

    @property
    def line(self) -> Line | None:
        """For sizes that were not tried."""
        points = {taken.batch: taken.peak for taken in self.largest if taken.peak is not None}
        return line_through(list(points.items()), self.parts)

    def fitting(self, parameters: int) -> int | None:
        """The most pictures at a time that fit; ``None`` if not one does or it cannot be told."""
        if self.room is None:
            return None
        return micro_batch(
            self.config.train.batch_size,
            self.line,
            room=self.room,
            gradients=4 * parameters,
            known=self.peaks,
            failed=self.failed,
        )

    def none_fits(self) -> FromnoiseError:
        """What to say then."""
        needed, room = at_most(1, self.line, self.peaks), self.room or 0
        return FromnoiseError(
            f"not enough memory: a step of one picture takes about {needed / 2**20:,.0f} MiB of {room / 2**20:,.0f} "
            f"MiB, of which {RESERVE:.0%} are left free; lower network.model_channels or the resolution, or set "
            f"train.recompute=true"
        )

    def rows(self) -> tuple[Row, ...]:
        """What was measured, and predictions for the sizes beyond."""
        line, known = self.line, self.peaks
        wanted = {*self.sizes, 2 * self.config.train.batch_size}
        beyond = {} if line is None else {n: line(n) for n in wanted if n > max(known)}
        return tuple(Row(n, peak, n in known) for n, peak in sorted({**beyond, **known}.items()))
