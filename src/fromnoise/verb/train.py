"""``fromnoise demo`` and ``fromnoise train``."""

import json
import shlex
import time
from pathlib import Path
from typing import Any

import torch

from fromnoise import memory
from fromnoise.console import follow, say
from fromnoise.run import pick_device
from fromnoise.task import demo as demo_task
from fromnoise.task import train as train_task
from fromnoise.task.prepare import prepare
from fromnoise.train.team import Team
from fromnoise.verb.common import deadline, interrupted, program, reading, sets, stopping
from fromnoise.verb.dry_run import dry_run
from fromnoise.verb.estimate import alone_if_auto, train_tree, with_micro_batch
from fromnoise.verb.processes import launched, meeting


def demo(args: Any, words: list[str]) -> int:
    """Train, sample and score on the embedded digits."""
    memory.keep_freed_memory()
    with stopping() as stop:
        last = follow(demo_task.demo(args.out, sets(args), device=pick_device(args.device), stop=stop))
    if isinstance(last, train_task.Ended):
        if args.json:
            print(json.dumps({"run": str(last.run), "step": last.step, "images": last.images, "finished": False}))
        return interrupted(args, words, last)
    assert isinstance(last, demo_task.Scored)
    if args.json:
        names = ("confirmed", "confirmed_real", "frechet", "frechet_floor", "seconds")
        print(json.dumps({"run": str(last.run), **{name: getattr(last, name) for name in names}}))
        return 0
    print(
        f"label confirmed by the nearest real digit: {last.confirmed:.1%} of {last.samples} samples "
        f"(held-out real digits: {last.confirmed_real:.1%})\n"
        f"Fréchet distance in pixel space to {last.samples} held-out real digits: {last.frechet:.3f} "
        f"(of as many other real digits: {last.frechet_floor:.3f})\n"
        f"{last.seconds:.0f} seconds; pictures: {', '.join(str(path) for path in last.pictures)}\n"
        f"next: {program()} sample {shlex.quote(str(last.run))} --label 7 --out sevens.png"
    )
    return 0


def train(args: Any, words: list[str]) -> int:
    """Train on a folder, or go on."""
    memory.keep_freed_memory()
    began = time.perf_counter()
    until = None if args.time_limit is None else deadline(args.time_limit)
    out = args.out or Path("runs") / (Path(args.data).resolve().name if args.data != "digits" else "digits")
    if args.dry_run:
        return dry_run(out, args)
    code = launched(args, words)
    if code is not None:
        return code
    with meeting(args) as (team, device):
        last = _train(args, out, team, device, until)
    if args.json:
        seconds = round(time.perf_counter() - began, 1)
        result = {"run": str(out), "step": last.step, "images": last.images, "finished": last.finished}
        print(json.dumps({**result, "seconds": seconds}))
    if not last.finished:
        return interrupted(args, words, last)
    if not args.json:
        print(f"trained: {out}, {last.images:,} pictures seen")
        print(f"next: {program()} sample {shlex.quote(str(out))} --out s.png")
    return 0


def _train(args: Any, out: Path, team: Team, device: torch.device, until: tuple[float, str] | None) -> train_task.Ended:
    """As one of a team, or alone."""
    alone_if_auto(args.micro_batch, team.size)
    with team.in_turn(), reading() as progress:  # Decoded once; the others find it in the cache.
        prepared = prepare(train_tree(args), preset_name=args.preset, progress=progress, run=out)
    for remark in prepared.remarks:
        say(f"fromnoise: {remark}")
    config = with_micro_batch(args.micro_batch, prepared.config, out, device)
    with stopping(until) as stop:
        events = train_task.train_run(
            config, prepared.training, out, device=device, stop=stop, team=team, captions=prepared.captions
        )
        last = follow(events)
    assert isinstance(last, train_task.Ended)
    return last
