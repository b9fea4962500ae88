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
from fromnoise.task.estimate_count import Counted, count
from fromnoise.task.estimate_disk import disk
from fromnoise.task.estimate_found import Estimated, Row
from fromnoise.task.estimate_memory import RESERVE, Line, alone, divisors, line_through, micro_batch, scouted, sizes
from fromnoise.task.estimate_plan import Plan
from fromnoise.task.estimate_probe import Probe, Taken, TooLarge, probe
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
    counted, whole = count(config), len(sizes(train.batch_size)) + 3
    yield Estimating(0, whole, "counting")
    scouts: list[Taken] = []
    with probe(config, device) as fresh:
        yield Estimating(0, whole, "a step of 1 picture")
        for taken in _scouts(fresh, config, total):
            scouts.append(taken)
            yield Estimating(len(scouts), whole, "steps of more pictures")
        room = fresh.room
    largest: list[Taken] = []
    timed: Taken | None = None
    for scout in scouts[-2:]:
        yield Estimating(whole - 3 + len(largest), whole, f"steps of {scout.batch}")
        if scout.batch == train.batch_size and train.accumulate == 1 and _one(scout) <= _PATIENCE:
            timed = _stepped(config, device, parts=1, part=scout.batch, total=total)
        largest.append(timed or alone(config, device, scout, total))
    line = _line(largest)
    fits = _fitting(config, line, room, counted)
    yield Estimating(whole - 1, whole, "timing steps")
    timed = timed or _timed(config, device, largest[-1], fits, line, total)
    if timed.accumulate == 1 and timed.batch > largest[-1].batch:  # Better than any prediction.
        largest.append(timed)
        line = _line(largest)
        fits = _fitting(config, line, room, counted)
    yield Estimating(whole, whole, "timing steps")
    yield Estimated(
        config=config,
        pictures=len(planned.training),
        device=_called(device),
        counted=counted,
        memory=_rows([*scouts, *largest], line, train.batch_size),
        line=line,
        room=room,
        micro_batch=fits,
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
    counted = count(config)
    with probe(config, device) as fresh:
        scouts = list(_scouts(fresh, config, 0))
        room = fresh.room
    last = scouts[-1]
    if last.peak is None or room is None:
        raise FromnoiseError(f"how much memory is free cannot be told on {device}: give --micro-batch a number")
    if last.batch == config.train.batch_size and last.peak <= (1 - RESERVE) * room:
        return last.batch
    line = _line([alone(config, device, scout, 0) for scout in scouts[-2:]])
    found = _fitting(config, line, room, counted)
    if found is None:
        raise _none_fits(last.peak if line is None else line(1), room)
    return found


def _scouts(fresh: Probe, config: Config, total: int) -> Iterator[Taken]:
    try:
        yield from scouted(fresh, config.train.batch_size, total)
    except TooLarge as error:
        raise FromnoiseError(
            "not enough memory for a step of a single picture: lower network.model_channels or the resolution, or set "
            "train.recompute=true"
        ) from error


def _line(some: list[Taken]) -> Line | None:
    return line_through([(taken.batch, taken.peak) for taken in some if taken.peak is not None])


def _fitting(config: Config, line: Line | None, room: int | None, counted: Counted) -> int | None:
    if line is None or room is None:
        return None
    return micro_batch(config.train.batch_size, line, room=room, gradients=4 * counted.parameters)


def _none_fits(needed: int, room: int) -> FromnoiseError:
    return FromnoiseError(
        f"not enough memory: a step of one picture takes about {needed / 2**20:,.0f} MiB of {room / 2**20:,.0f} MiB, "
        f"of which a tenth is left free; lower network.model_channels or the resolution, or set train.recompute=true"
    )


def _one(taken: Taken) -> float:
    """Seconds of a step as far as is known."""
    return min(taken.seconds)


def _timed(
    config: Config, device: torch.device, largest: Taken, fits: int | None, line: Line | None, total: int
) -> Taken:
    """Steps of the whole batch; of some of its parts, or what is known of few pictures, where they would take long."""
    train = config.train
    part = train.batch_size // train.accumulate
    if fits is not None:
        part = min(part, fits)
    elif line is not None:
        return largest
    seconds = part * _one(largest) / largest.batch
    if seconds > 2 * _PATIENCE:
        return largest
    parts = max((n for n in divisors(train.batch_size // part) if n * seconds <= _PATIENCE), default=1)
    try:
        return _stepped(config, device, parts=parts, part=part, total=total)
    except TooLarge:
        return largest


def _stepped(config: Config, device: torch.device, *, parts: int, part: int, total: int) -> Taken:
    with probe(config, device) as fresh:
        return fresh(parts * part, accumulate=parts, warm=2, count=3, seconds=_SHOWN, total=total)


def _rows(some: list[Taken], line: Line | None, batch_size: int) -> tuple[Row, ...]:
    """By pictures. Of several measurements the last one; none that is above what more pictures took (see `alone`)."""
    found = {taken.batch: taken.peak for taken in some if taken.peak is not None}
    known = {n: peak for n, peak in found.items() if all(peak <= other for m, other in found.items() if m > n)}
    wanted = [*sizes(batch_size), 2 * batch_size]
    predicted = {} if line is None else {n: line(n) for n in wanted if n > max(found)}
    return tuple(Row(n, peak, n in known) for n, peak in sorted({**predicted, **known}.items()))


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
