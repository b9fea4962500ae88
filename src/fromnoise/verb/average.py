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
            if isinstance(last, task.PassedOver):
                if meter is not None:  # It starts anew, with one less.
                    meter.__exit__(None, None, None)
                    meter = None
                say(f"fromnoise: {last.text}; passed over")
    finally:
        if meter is not None:
            meter.__exit__(None, None, None)
    assert isinstance(last, task.Averaged)
    if last.mismatch > _NOTED:
        tracked = ", ".join(f"{width:g}" for width in last.tracked)
        say(
            f"fromnoise: this is not quite the average wanted: what each step counts in it is {_off(last.mismatch)}, "
            f"for the snapshots are of the widths {tracked}; a width between or near those comes closer, and so do "
            f"more snapshots (train.average_every)"
        )
    if args.json:
        names = ("width", "images", "snapshots", "mismatch", "gain")
        print(json.dumps({"out": str(last.out), **{name: getattr(last, name) for name in names}}))
        return 0
    parts = "1 snapshot" if last.snapshots == 1 else f"{last.snapshots} snapshots"
    print(
        f"{last.out}: weights averaged with a width of {last.width:g} of {last.images:,} pictures, from {parts}; "
        f"what each step counts in it is {_off(last.mismatch)}"
    )
    print(f"next: {program()} sample {shlex.quote(str(last.out))} --out s.png")
    return 0


def _off(mismatch: float) -> str:
    """A mismatch in words: of all steps, the root mean square of what is wrong to that of what is right."""
    if mismatch == 0:
        return "exact"
    share = f"{100 * mismatch:.2g} %" if mismatch >= 1e-4 else "less than 0.01 %"
    return f"off by {share} (root mean square)"
