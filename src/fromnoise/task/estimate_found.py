"""What was found out before a run: figures, and what follows from them."""

from dataclasses import dataclass
from statistics import median
from typing import Any

from fromnoise.config import Config
from fromnoise.errors import WrongUse
from fromnoise.task.estimate_count import Counted
from fromnoise.task.estimate_disk import Disk
from fromnoise.task.estimate_memory import Line, divisors
from fromnoise.task.estimate_probe import Taken

LENGTHS = (100_000, 500_000)
"""Pictures seen, for which the time is told."""


@dataclass(frozen=True)
class Row:
    """``peak`` bytes for a step of ``batch`` pictures computed at a time; ``measured``, else predicted."""

    batch: int
    peak: int
    measured: bool


@dataclass(frozen=True, kw_only=True)
class Estimated:
    """All that was found.

    ``memory`` is empty where the system does not tell. ``room`` is how many bytes such a process may hold in all now;
    ``micro_batch`` the most pictures at a time that fit into it, ``None`` if not one does or it is not known.
    ``timed`` are the steps that were timed, of ``timed.batch`` pictures, which may be a part of a whole batch.
    ``steps`` is ``None`` if no length is given.
    """

    config: Config
    pictures: int
    device: str
    counted: Counted
    memory: tuple[Row, ...]
    line: Line | None
    room: int | None
    micro_batch: int | None
    timed: Taken
    steps: int | None
    disk: Disk
    disk_free: int

    @property
    def pictures_per_second(self) -> float:
        """By the median step."""
        return self.timed.batch / median(self.timed.seconds)

    @property
    def steps_per_second(self) -> float:
        """Of whole batches."""
        return self.pictures_per_second / self.config.train.batch_size

    def seconds(self, pictures: int) -> float:
        """To train on so many pictures."""
        return pictures / self.pictures_per_second


def accumulate_for(batch_size: int, part: int) -> int:
    """In how many parts a batch is computed ``part`` pictures at a time. Raises ``WrongUse`` if it does not divide."""
    if part < 1 or batch_size % part:
        near = min(divisors(batch_size), key=lambda n: (abs(n - part), n))
        raise WrongUse(f"--micro-batch {part} does not divide train.batch_size = {batch_size} evenly; take {near}")
    return batch_size // part


def as_dict(found: Estimated) -> dict[str, Any]:
    """Plain values, for JSON. Bytes, seconds, operations (a multiply-add is two)."""
    train, part = found.config.train, found.micro_batch
    lengths = {str(n): found.seconds(n) for n in LENGTHS}
    images = None if found.steps is None else found.steps * train.batch_size
    return {
        "pictures": found.pictures,
        "device": found.device,
        "parameters": found.counted.parameters,
        "flops": {"forward": found.counted.forward, "training": found.counted.training},
        "memory": [{"batch": r.batch, "bytes": r.peak, "how": _how(r)} for r in found.memory],
        "memory_room": found.room,
        "batch_size": train.batch_size,
        "micro_batch": part,
        "accumulate": None if part is None else accumulate_for(train.batch_size, part),
        "steps_per_second": found.steps_per_second,
        "pictures_per_second": found.pictures_per_second,
        "timed": {
            "batch": found.timed.batch,
            "accumulate": found.timed.accumulate,
            "steps": len(found.timed.seconds),
            "seconds": median(found.timed.seconds),
        },
        "seconds": {**lengths, "run": None if images is None else found.seconds(images)},
        "run": {"steps": found.steps, "images": images},
        "disk": {
            "checkpoint": found.disk.checkpoint,
            "checkpoints": found.disk.checkpoints,
            "averages": found.disk.averages,
            "grids": found.disk.grids,
            "metrics": found.disk.metrics,
            "cache": found.disk.cache,
            "run": found.disk.run,
            "most": found.disk.most,
            "free": found.disk_free,
        },
    }


def _how(row: Row) -> str:
    return "measured" if row.measured else "predicted"
