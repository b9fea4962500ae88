"""``fromnoise estimate``, and what ``fromnoise train`` has of it: ``--dry-run`` and ``--micro-batch``."""

import json
import math
import shlex
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from fromnoise import memory
from fromnoise.checkpoint import RunFolder
from fromnoise.config import Config, parse, to_toml, to_tree
from fromnoise.console import Meter
from fromnoise.data.cache import gib
from fromnoise.errors import FromnoiseError, WrongUse
from fromnoise.run import pick_device
from fromnoise.schema import merge, read_toml
from fromnoise.task import estimate as task
from fromnoise.task.estimate_found import LENGTHS, Estimated, accumulate_for, as_dict
from fromnoise.task.estimate_memory import RESERVE
from fromnoise.task.estimate_plan import few, plan
from fromnoise.task.estimate_step import steps
from fromnoise.task.recorder import check_watching
from fromnoise.task.resume import refuse_other
from fromnoise.verb.common import program, sets, size_of

_WIDTH = 110
_SCORED = 4  # Pictures that a run with scores needs at least.


def estimate(args: Any, words: list[str]) -> int:
    """What a training would take."""
    data: dict[str, Any] = {"path": args.data} | ({"classes": True} if args.classes else {})
    if args.resolution is not None:
        height, width = size_of(args.resolution)
        data |= {"height": height, "width": width}
    if args.channels is not None:
        data["channels"] = args.channels
    device = pick_device(args.device)
    planned = plan(merge({"data": data}, sets(args)), preset_name=args.preset)
    found: Estimated | None = None
    events = task.estimate(planned, device)
    first = next(events)
    assert isinstance(first, task.Estimating)
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


def dry_run(tree: dict[str, Any], out: Path, args: Any) -> int:
    """The resolved settings, and one step of the training they describe; nothing is written."""
    memory.keep_freed_memory()
    device = pick_device(args.device)
    planned = plan(tree, preset_name=args.preset, run=out)
    config = with_micro_batch(args.micro_batch, planned.config, out, device)
    total = config.train.total_steps(len(planned.training))
    refuse_other(RunFolder(out), config)
    pictures = few(planned, max(config.train.batch_size, _SCORED))
    check_watching(config, pictures)
    began = time.perf_counter()
    with closing(steps(config, pictures, device, count=1, total=total)) as done:
        learner, report = next(done)
        loss, norm, seconds = report.loss.item(), report.grad_norm.item(), time.perf_counter() - began
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise FromnoiseError(
            f"the first step gives a loss of {loss} and a gradient of norm {norm}: look at the data and train.precision"
        )
    parameters = sum(p.numel() for p in learner.network.parameters())
    result = {
        "dry_run": True,
        "run": str(out),
        "pictures": len(planned.training),
        "parameters": parameters,
        "device": str(device),
        "steps": total,
        "loss": loss,
        "grad_norm": norm,
        "seconds": round(seconds, 3),
    }
    if args.json:
        print(json.dumps({**result, "config": to_tree(config)}))
        return 0
    print(
        f"# {len(planned.training):,} pictures; network of {parameters:,} parameters on {device}; {total:,} steps\n"
        f"# one step on {len(pictures)} of the pictures: loss {loss:.4f}, gradient norm {norm:.4g}, {seconds:.2f} "
        f"seconds with its preparation; nothing was written\n"
    )
    print(to_toml(config), end="")
    return 0


def _own_part(out: Path, batch_size: int) -> int | None:
    """The pictures at a time of the run in ``out``, if there is one with such batches."""
    file = RunFolder(out).config
    if not file.is_file():
        return None
    saved = parse(read_toml(file.read_text(encoding="utf-8"), str(file)), str(file)).train
    return batch_size // saved.accumulate if saved.batch_size == batch_size else None


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
    facts.add_row("disk: a checkpoint", gib(disk.checkpoint), "counted")
    facts.add_row("disk: the run", gib(disk.run), f"counted: {disk.checkpoints} checkpoints, averages, grids, metrics")
    if disk.cache:
        facts.add_row("disk: decoded pictures", gib(disk.cache), "counted; kept in the cache, once")
    facts.add_row(
        "disk: needed at most", gib(disk.most), f"with a checkpoint being written; {gib(found.disk_free)} are free"
    )
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
        rows.add_row(f"{row.batch:,}", gib(row.peak), "measured" if row.measured else "predicted")
    console.print(rows)
    if found.room is None:
        return
    room = f"the {gib(found.room)} that such a process may hold now, less {RESERVE:.0%}"
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
    words = [f"--preset {shlex.quote(args.preset)}"] if args.preset else []
    words += [f"--resolution {args.resolution}"] if args.resolution else []
    words += [f"--channels {args.channels}"] if args.channels else []
    words += ["--classes"] if args.classes else []
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


def _span(seconds: float) -> str:
    """A duration, for people."""
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} seconds"
