"""``fromnoise inspect``."""

import json
import shlex
from pathlib import Path
from typing import Any

from fromnoise.console import follow
from fromnoise.data import Fit, auto_channels, open_source
from fromnoise.errors import WrongUse
from fromnoise.task import inspect as task
from fromnoise.task.inspect_clean import write_clean
from fromnoise.task.inspect_facts import as_dict
from fromnoise.task.prepare import usual_side
from fromnoise.verb.common import program, size_of


def inspect(args: Any, words: list[str]) -> int:
    """What is in a data set, what the network will see of it, and what is broken; 1 if nothing is usable."""
    source = open_source(args.data, classes=args.classes)
    side = usual_side(source)
    height, width = (side, side) if args.resolution is None else size_of(args.resolution)
    channels = args.channels or auto_channels(source)
    if channels not in {1, 3, 4}:
        raise WrongUse(f"--channels {channels}: known are 1 (grey), 3 (RGB) and 4 (RGBA)")
    out = args.out or Path("inspected") / (Path(args.data).resolve().name if Path(args.data).exists() else args.data)
    fit = Fit(height=height, width=width, channels=channels)
    last = follow(task.inspect(source, fit, name=str(args.data), out=out))
    assert isinstance(last, task.Inspected)
    if args.write_clean is not None and last.usable:
        follow(write_clean(source, last, args.write_clean, copies=not args.no_copies, near_copies=not args.no_copies))
    if args.json:
        lines = [{"level": line.level, "text": line.text} for line in last.verdict]
        files = [str(path) for path in last.files]
        print(json.dumps({"usable": last.usable, "verdict": lines, **as_dict(last.facts), "files": files}))
        return 0 if last.usable else 1
    for line in last.verdict:
        print(f"{'!' if line.level == 'bad' else ' '} {line.text}")
    print(f"written: {', '.join(str(path) for path in last.files)}")
    if last.usable:
        print(f"next: {program()} train {shlex.quote(str(args.data))} --resolution {height}x{width}")
    return 0 if last.usable else 1
