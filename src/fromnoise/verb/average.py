"""``fromnoise average``."""

import json
import shlex
from typing import Any

from fromnoise.console import Meter, say
from fromnoise.task import average as task
from fromnoise.verb.common import program

_NOTED = 0.02


def average(args: Any, words: list[str]) -> int:
    """Weights averaged over another stretch of training, out of the run's snapshots."""
    last: task.AverageEvent | None = None
    meter: Meter | None = None
    out = args.out or args.run_path / f"average-{args.width:g}.safetensors"
    events = task.average(args.run_path, args.width, out=out, images=args.images, overwrite=args.overwrite)
    try:
        for last in events:
            if isinstance(last, task.Averaging):
                meter = meter or Meter("averaging", last.total).__enter__()
                meter.show(last.done)
    finally:
        if meter is not None:
            meter.__exit__(None, None, None)
    assert isinstance(last, task.Averaged)
    if last.mismatch > _NOTED:
        tracked = ", ".join(f"{width:g}" for width in last.tracked)
        say(
            f"fromnoise: {last.snapshots} snapshots of the widths {tracked} come within {last.mismatch:.1%} of the "
            f"average wanted; widths between or near those come closer, and so do more snapshots"
        )
    if args.json:
        names = ("width", "images", "snapshots", "mismatch", "gain")
        print(json.dumps({"out": str(last.out), **{name: getattr(last, name) for name in names}}))
        return 0
    print(
        f"{last.out}: weights averaged with a width of {last.width:g} of {last.images:,} pictures, from "
        f"{last.snapshots} snapshots, to {last.mismatch:.1g}"
    )
    print(f"next: {program()} sample {shlex.quote(str(last.out))} --out s.png")
    return 0
