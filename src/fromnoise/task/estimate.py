"""What a training would take, found out before it is begun: on this machine, as it is now.

Counted, without running anything: parameters, floating-point operations, the disk. Measured, by steps on random
pictures in a process of their own: the time of a step, and the memory of steps of few pictures. Predicted from these:
the memory of steps of more pictures, hence the largest part of a batch that fits, and the time of a whole run. Decoding
pictures, saving, and drawing samples on the way come on top of that time.
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from fromnoise.config import Config
from fromnoise.errors import FromnoiseError
from fromnoise.task.estimate_count import count
from fromnoise.task.estimate_disk import disk
from fromnoise.task.estimate_found import Estimated
from fromnoise.task.estimate_known import Known
from fromnoise.task.estimate_memory import RESERVE, divisors
from fromnoise.task.estimate_plan import Plan
from fromnoise.task.estimate_probe import Taken, TooLarge, probe
from fromnoise.task.estimate_step import refuse_misfits

_PATIENCE = 10.0  # Seconds that one step may take for it to be measured whole.
_SHOWN = 3.0  # Seconds of steps that are timed at least.


@dataclass(frozen=True)
class Estimating:
    """So much of the work is done; ``what`` is at hand."""

    done: int
    total: int
    what: str


def estimate(planned: Plan, device: torch.device) -> Iterator[Estimating | Estimated]:
    """Find out what the planned training would take on ``device``; the last event has it all.

    Raises ``WrongUse`` for settings that do not fit together, ``FromnoiseError`` if not one picture fits into memory.
    """
    config = planned.config
    train, total = config.train, _length(planned)
    refuse_misfits(config, device)
    known = Known(config, device, total)
    counted, whole = count(config), len(known.sizes) + 3
    yield Estimating(0, whole, "counting")
    with probe(config, device) as fresh:
        yield Estimating(0, whole, "a step of 1 picture")
        for _ in known.scout(fresh):
            yield Estimating(len(known.scouts), whole, "steps of more pictures")
    timed: Taken | None = None
    quick = {taken.batch for taken in known.scouts if _one(taken) <= _PATIENCE}
    for size in known.decisive():
        yield Estimating(whole - 3 + len(known.largest), whole, f"steps of {size}")
        whole_step = size == train.batch_size and train.accumulate == 1 and size in quick
        taken = _timed(known, parts=1, part=size) if whole_step else None
        if taken is None:
            known.again(size)
        timed = taken or timed
    yield Estimating(whole - 1, whole, "timing steps")
    timed = timed or _whole_or_part(known, counted.parameters) or known.largest[-1]
    yield Estimating(whole, whole, "timing steps")
    yield Estimated(
        config=config,
        pictures=len(planned.training),
        device=_called(device),
        counted=counted,
        memory=known.rows(),
        line=known.line,
        room=known.room,
        micro_batch=known.fitting(counted.parameters),
        timed=timed,
        steps=total or None,
        disk=disk(
            config,
            checkpoint=timed.checkpoint,
            parameters=counted.parameters,
            steps=total or None,
            pictures=len(planned.source),
        ),
        disk_free=shutil.disk_usage(Path.cwd()).free,
    )


def automatic_micro_batch(config: Config, device: torch.device) -> int:
    """The most pictures at a time that divide the batch and fit into the memory that is free now.

    Measures steps of few pictures in a process of their own. Raises ``FromnoiseError`` if that cannot be told, or not
    one picture fits.
    """
    refuse_misfits(config, device)
    known, batch_size = Known(config, device, 0), config.train.batch_size
    with probe(config, device) as fresh:
        for _ in known.scout(fresh):
            pass
    last = known.scouts[-1]
    if last.peak is None or known.room is None:
        raise FromnoiseError(f"how much memory is free cannot be told on {device}: give --micro-batch a number")
    if last.batch >= batch_size and known.peaks[last.batch] <= (1 - RESERVE) * known.room:
        return batch_size
    for size in known.decisive():
        known.again(size)
    found = known.fitting(count(config).parameters)
    if found is None:
        raise known.none_fits()
    return found


def _one(taken: Taken) -> float:
    """Seconds of a step as far as is known."""
    return min(taken.seconds)


def _whole_or_part(known: Known, parameters: int) -> Taken | None:
    """Steps of the whole batch, or of some of its parts where it would take long; ``None`` where they all would."""
    train, largest = known.config.train, known.largest[-1]
    part, fits = train.batch_size // train.accumulate, known.fitting(parameters)
    if fits is not None:
        part = min(part, fits)
    elif known.room is not None and known.peaks:
        return None
    seconds = part * _one(largest) / largest.batch
    if seconds > 2 * _PATIENCE:
        return None
    parts = max((n for n in divisors(train.batch_size // part) if n * seconds <= _PATIENCE), default=1)
    return _timed(known, parts=parts, part=part)


def _timed(known: Known, *, parts: int, part: int) -> Taken | None:
    """Steps of so many parts; ``None`` if they do not fit. What they took is known from now on."""
    try:
        with probe(known.config, known.device) as fresh:
            taken = fresh(parts * part, accumulate=parts, warm=2, count=3, seconds=_SHOWN, total=known.total)
    except TooLarge:
        known.fail(part)
        return None
    if parts == 1:  # Better than any prediction.
        known.largest.append(taken)
    return taken


def _length(planned: Plan) -> int:
    """The run's own, in steps; 0 if none is given."""
    train = planned.config.train
    if train.steps is None and train.epochs is None and train.images is None:
        return 0
    return train.total_steps(len(planned.training))


def _called(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} ({torch.get_num_threads()} threads)" if device.type == "cpu" else str(device)
