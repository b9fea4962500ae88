"""``fromnoise estimate``, and what ``fromnoise train`` shares with it: its words as settings, and ``--micro-batch``."""

import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from fromnoise.checkpoint import RunFolder
from fromnoise.config import Config
from fromnoise.console import Meter, say
from fromnoise.errors import WrongUse
from fromnoise.run import pick_device
from fromnoise.schema import merge
from fromnoise.task import estimate as task
from fromnoise.task.estimate_found import LENGTHS, Estimated, accumulate_for, as_dict
from fromnoise.task.estimate_memory import RESERVE
from fromnoise.task.estimate_plan import plan, stand_ins
from fromnoise.task.recorder import check_watching
from fromnoise.task.resume import saved_settings
from fromnoise.verb.common import program, sets, size_of

_WIDTH = 110
_SCORED = 4  # Pictures that a run with scores needs at least.
_LENGTHS = ("steps", "epochs", "images")


def estimate(args: Any, words: list[str]) -> int:
    """What a training would take."""
    device = pick_device(args.device)
    planned = plan(train_tree(args), preset_name=args.preset)
    check_watching(planned.config, stand_ins(planned.config, min(len(planned.training), _SCORED)))
    found: Estimated | None = None
    events = task.estimate(planned, device)
    first = next(events)  # What is refused is refused before it.
    assert isinstance(first, task.Estimating)
    for remark in (*planned.remarks, *planned.source.remarks):
        say(f"fromnoise: {remark}")
    with Meter("estimating", first.total) as meter:
        for event in events:
            if isinstance(event, Estimated):
                found = event
            else:
                meter.show(event.done, event.what)
    assert found is not None
    if args.json:
        print(json.dumps({"data": str(args.data), **as_dict(found)}))
        return 0
    _print(found, args)
    return 0


def train_tree(args: Any) -> dict[str, Any]:
    """What was said of data and length on the command line, as settings; --set has the last word."""
    data: dict[str, Any] = {"path": args.data}
    lengths = {name: getattr(args, name) for name in _LENGTHS if getattr(args, name) is not None}
    if args.resolution is not None:
        height, width = size_of(args.resolution)
        data |= {"height": height, "width": width}
    data |= {name: True for name in ("classes", "strict") if getattr(args, name)}
    data |= {name: getattr(args, name) for name in ("channels", "fit", "labels") if getattr(args, name) is not None}
    return merge({"data": data, "train": lengths | ({"flip": True} if args.flip else {})}, sets(args))


def alone_if_auto(said: str | None, processes: int) -> None:
    """Raises ``WrongUse`` if --micro-batch auto is ``said``, and several processes train."""
    if said == "auto" and processes > 1:
        raise WrongUse("--micro-batch auto measures one process; with several, give a number of pictures")


def with_micro_batch(said: str | None, config: Config, out: Path, device: torch.device) -> Config:
    """The settings with the batch in parts of what --micro-batch says: a number, or auto for what fits into memory.

    A run that is gone on with keeps its own parts under auto: others would change its last bits. Raises ``WrongUse``.
    """
    if said is None:
        return config
    batch_size = config.train.batch_size
    if config.train.accumulate != 1:
        raise WrongUse(f"--micro-batch {said} and train.accumulate = {config.train.accumulate}: give one of them")
    if said == "auto":
        part = _own_part(out, batch_size) or task.automatic_micro_batch(config, device)
    elif said.isdecimal():
        part = int(said)
    else:
        raise WrongUse(f"--micro-batch {said}: should be a number of pictures, or auto")
    accumulate = accumulate_for(batch_size, part)
    return replace(config, train=replace(config.train, accumulate=accumulate))


def _own_part(out: Path, batch_size: int) -> int | None:
    """The pictures at a time of the run in ``out``, if there is one with such batches."""
    saved = saved_settings(RunFolder(out))
    if saved is None or saved.train.batch_size != batch_size:
        return None
    return batch_size // saved.train.accumulate


def _print(found: Estimated, args: Any) -> None:
    console = Console(highlight=False, width=_WIDTH)
    data, train, counted = found.config.data, found.config.train, found.counted
    classes = f", {len(data.class_names)} classes" if data.class_names else ""
    console.print(
        f"{found.pictures:,} pictures as {data.height}x{data.width}x{data.channels}{classes}; batches of "
        f"{train.batch_size}; on {found.device}",
        markup=False,
    )
    facts = Table(box=None, show_header=False, pad_edge=False)
    timed = f"measured: median of {len(found.timed.seconds)} steps of {found.timed.batch} pictures"
    facts.add_row("parameters", f"{counted.parameters:,}", "counted")
    facts.add_row("operations a picture, forward", _flops(counted.forward), "counted; a multiply-add is two")
    facts.add_row("operations a picture, in training", _flops(counted.training), "three times as many")
    facts.add_row("steps a second", f"{found.steps_per_second:.3g}", timed)
    facts.add_row("pictures a second", f"{found.pictures_per_second:.4g}", "from the same")
    for length in LENGTHS:
        facts.add_row(f"time to {length:,} pictures", _span(found.seconds(length)), "predicted from the same")
    if found.steps is not None:
        images = found.steps * train.batch_size
        run = f"predicted: {found.steps:,} steps, {images:,} pictures"
        facts.add_row("time to the run's end", _span(found.seconds(images)), run)
    disk = found.disk
    facts.add_row("disk: a checkpoint", _bytes(disk.checkpoint), "counted")
    many = f"{disk.checkpoints} checkpoint{'' if disk.checkpoints == 1 else 's'}"
    facts.add_row("disk: the run", _bytes(disk.run), f"counted: {many}, averages, grids, metrics")
    if disk.cache:
        facts.add_row("disk: decoded pictures", _bytes(disk.cache), "counted; kept in the cache, once")
    beside = "with one more while it is written; " if disk.beside else ""
    facts.add_row("disk: needed at most", _bytes(disk.most), f"{beside}{_bytes(found.disk_free)} are free")
    console.print(facts)
    _print_memory(found, console)
    console.print(
        "Figures are of this machine as it is now. Measured: steps on random pictures in a process of their own. "
        "Decoding, saving and drawing samples on the way take time of their own.",
        markup=False,
    )
    console.print(
        f"next: {program()} train {shlex.quote(str(args.data))}{_next(found, args)}", markup=False, soft_wrap=True
    )


def _print_memory(found: Estimated, console: Console) -> None:
    train = found.config.train
    if not found.memory:
        console.print(f"memory of a step: not to be told on {found.device}", markup=False)
        return
    what = "by its tensors" if found.device.startswith("cuda") else "by the whole process, its libraries included"
    console.print(f"memory of a step, {what}:", markup=False)
    rows = Table(box=None, pad_edge=False)
    for name in ("pictures at a time", "memory"):
        rows.add_column(name, justify="right")
    rows.add_column("")
    for row in found.memory:
        rows.add_row(f"{row.batch:,}", _bytes(row.peak), "measured" if row.measured else "predicted")
    console.print(rows)
    if found.room is None:
        return
    room = f"the {_bytes(found.room)} that such a process may hold now, less {RESERVE:.0%}"
    if found.micro_batch is None:
        console.print(f"not one picture fits into {room}: lower network.model_channels or the resolution", markup=False)
    elif found.micro_batch == train.batch_size:
        console.print(f"a whole batch of {train.batch_size} fits into {room}", markup=False)
    else:
        parts = accumulate_for(train.batch_size, found.micro_batch)
        console.print(
            f"{found.micro_batch} of the {train.batch_size} pictures of a batch at a time fit into {room}: train with "
            f"--set train.accumulate={parts} or --micro-batch auto; the step stays the same",
            markup=False,
        )


def _next(found: Estimated, args: Any) -> str:
    """The options that train has in common with what was asked."""
    valued = ("preset", "resolution", "channels", "fit", "labels", *_LENGTHS)
    words = [
        f"--{name} {shlex.quote(f'{said:.15g}' if isinstance(said, float) else str(said))}"
        for name in valued
        if (said := getattr(args, name)) is not None
    ]
    words += [f"--{name}" for name in ("classes", "flip", "strict") if getattr(args, name)]
    words += [f"--set {shlex.quote(text)}" for text in args.set]
    words += [f"--device {args.device}"] if args.device else []
    if (
        found.micro_batch is not None
        and found.micro_batch < found.config.train.batch_size // found.config.train.accumulate
    ):
        words.append("--micro-batch auto")
    return "".join(f" {word}" for word in words)


def _flops(count: int) -> str:
    for unit, size in (("TFLOP", 1e12), ("GFLOP", 1e9)):
        if count >= size:
            return f"{count / size:.4g} {unit}"
    return f"{count / 1e6:.4g} MFLOP"


def _bytes(count: int) -> str:
    """Above 1 GiB in three digits: few pictures differ by little beside the libraries."""
    size = count / 2**30
    places = 2 if size < 9.995 else 1 if size < 99.95 else 0
    return f"{size:,.{places}f} GiB" if size >= 1 else f"{count / 2**20:.1f} MiB"


def _span(seconds: float) -> str:
    """A duration, for people."""
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} seconds"
