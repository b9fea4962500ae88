"""Makes the table and the figure of docs/reliability.md from the log of the kill campaign.

python docs/make_reliability.py docs/kill-campaign.jsonl docs/images/kills.png
"""

import json
import random
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

KINDS = {"fork": "copies", "back": "copies that go back", "command": "the command"}
PHASES = {
    "start": "start: settings, pictures, network",
    "look-up": "looking up a checkpoint",
    "resume": "reading a checkpoint",
    "tidy up": "tidying up",
    "step": "a training step",
    "metrics": "a line of metrics",
    "grid": "drawing a grid",
    "score": "scoring samples",
    "averages": "writing a snapshot",
    "checkpoint: files": "writing a checkpoint",
    "checkpoint: rename": "renaming a checkpoint",
    "checkpoint: prune": "removing old checkpoints",
    "going back": "going back",
    "end": "at the end",
}


def table(kills: list[dict[str, Any]], trials: list[dict[str, Any]]) -> str:
    """Runs, kills and outcomes by kind; then kills by phase. Markdown."""
    rows = ["| | runs | killed | identical |", "|---|--:|--:|--:|"]
    for kind, name in [*KINDS.items(), (None, "all")]:
        some = [trial for trial in trials if kind in (None, trial["kind"])]
        hits = [kill for kill in kills if kind in (None, kill["kind"])]
        rows.append(f"| {name} | {len(some)} | {len(hits)} times | {sum(trial['identical'] for trial in some)} |")
    rows += ["", "| killed while | copies | going back | the command |", "|---|--:|--:|--:|"]
    found = Counter((kill["phase"], kill["kind"]) for kill in kills)
    for phase, name in PHASES.items():
        counts = [found[phase, kind] for kind in KINDS]
        if any(counts):
            rows.append(f"| {name} | {' | '.join(str(count) for count in counts)} |")
    return "\n".join(rows)


def draw(kills: list[dict[str, Any]], path: Path) -> None:
    """Above, when in the life of an undisturbed run each kill came; below, what it hit."""
    counts = Counter(kill["phase"] for kill in kills)
    phases = [phase for phase in PHASES if counts[phase]]
    colour = {phase: plt.get_cmap("tab20")(number % 20) for number, phase in enumerate(PHASES)}
    figure, (above, below) = plt.subplots(2, 1, figsize=(9, 7), height_ratios=(1, 1.4), layout="constrained")
    chance = random.Random(0)
    for row, kind in enumerate(KINDS):
        some = [kill for kill in kills if kill["kind"] == kind]
        above.scatter(
            [kill["moment"] / kill["of"] for kill in some],
            [row + chance.uniform(-0.3, 0.3) for _ in some],
            s=22,
            c=[colour[kill["phase"]] for kill in some],
            marker="o",
        )
    above.set_yticks(range(len(KINDS)), list(KINDS.values()))
    above.invert_yaxis()
    above.set_xlim(-0.01, 1.01)
    above.set_xlabel("moment of the kill, as a share of the time that the run was expected to take")
    above.set_title(f"{len(kills)} kills")
    names = [PHASES[phase] for phase in phases]
    bars = below.barh(names, [counts[phase] for phase in phases], color=[colour[phase] for phase in phases])
    below.bar_label(bars, padding=3)
    below.invert_yaxis()
    below.set_xlabel("kills")
    figure.savefig(path, dpi=110)


def main(log: str, picture: str) -> None:
    """Print the table, write the figure."""
    lines = [json.loads(line) for line in Path(log).read_text(encoding="utf-8").splitlines()]
    kills, trials = ([line for line in lines if name in line] for name in ("kill", "identical"))
    print(lines[0])
    print(table(kills, trials))
    draw(kills, Path(picture))


if __name__ == "__main__":
    main(*sys.argv[1:])
