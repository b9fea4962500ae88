"""``fromnoise plot``."""

import json
from pathlib import Path
from typing import Any

from fromnoise.console import say
from fromnoise.task.curves import read_all, summary
from fromnoise.task.plot import plot_curves

NAME = "curves.png"


def plot(args: Any, words: list[str]) -> int:
    """Curves of one run or several, as one picture."""
    runs: list[Path] = list(dict.fromkeys(args.runs))
    found = read_all(runs, lambda text: say(f"fromnoise: {text}"))
    for curves in found.values():
        if curves.unread:
            say(f"fromnoise: {curves.unread} of the lines of {curves.name} could not be read; passed over")
    out = plot_curves(list(found.values()), args.out or (runs[0] / NAME if len(runs) == 1 else Path(NAME)))
    facts = [{"run": str(run), **summary(curves)} for run, curves in found.items()]
    if args.json:
        print(json.dumps({"out": str(out), "runs": facts}))
        return 0
    for curves, fact in zip(found.values(), facts, strict=True):
        parts = [f"{curves.name}: {fact['images']:,} pictures seen"]
        parts += [f"{name} {fact[key]:.4g}" for key, name in _SAID.items() if fact[key] is not None]
        print(", ".join(parts))
    print(f"written: {out}")
    return 0


_SAID = {
    "loss": "loss",
    "grad_norm": "gradient",
    "images_per_second": "pictures/s",
    "drift": "colours off by",
    "score": "score",
    "floor": "of real pictures",
}
"""Facts of a run in the order they are printed, and their words."""
