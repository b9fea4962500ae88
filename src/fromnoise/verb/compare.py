"""``fromnoise compare``."""

import contextlib
import json
from typing import Any

import torch

from fromnoise import memory
from fromnoise.console import follow, say
from fromnoise.errors import WrongUse
from fromnoise.run import open_run
from fromnoise.task import compare as task
from fromnoise.train.team import Team
from fromnoise.verb.common import beside, known_pictures
from fromnoise.verb.processes import shared


def compare(args: Any, words: list[str]) -> int:
    """Samplers × steps on one model."""
    memory.keep_freed_memory()
    return shared(args, words, _compare)


def _compare(args: Any, team: Team, device: torch.device) -> int:
    """As one of a team, or alone."""
    run = open_run(args.run_path, device=device)
    for warning in run.warnings:
        say(f"fromnoise: {warning}")
    with team.in_turn():  # Decoded once; the others find it in the cache.
        known = known_pictures(run, args.data, "compare", fit=args.fit)
    samplers = tuple(args.samplers.split(",")) if args.samplers else task.SAMPLERS
    events = task.compare(
        run,
        known.pictures,
        samplers=samplers,
        steps=_numbers(args.steps) if args.steps else None,
        n=args.n,
        seed=args.seed,
        batch_size=args.batch_size,
        out=beside(args, "compare"),
        team=team,
    )
    last = follow(events)
    assert isinstance(last, task.Compared)
    if args.json:
        print(json.dumps({**task.as_dict(last), "files": [str(path) for path in last.files]}))
        return 0
    print(f"{'sampler':<12} {'steps':>5} {'calls':>5} {'Fréchet':>8} {'to flow':>8} {'seconds':>8}")
    for row in last.rows:
        apart = "" if row.to_flow is None else f"{row.to_flow:.2f}"
        print(f"{row.sampler:<12} {row.steps:>5} {row.nfe:>5} {row.frechet:>8.4f} {apart:>8} {row.seconds:>8.1f}")
    print(f"{last.how}; between two real halves: {last.floor:.4f}")
    within = f"within 5 % of {last.reference.sampler} with {last.reference.steps} steps ({last.reference.frechet:.4f})"
    if last.fewest is None:
        print(f"nothing is {within}")
    else:
        few = last.fewest
        print(f"fewest network calls {within}: {few.nfe}, by {few.sampler} --steps {few.steps} ({few.frechet:.4f})")
    print(f"written: {', '.join(str(path) for path in last.files)}")
    return 0


def _numbers(text: str) -> tuple[int, ...]:
    with contextlib.suppress(ValueError):
        numbers = tuple(int(word) for word in text.split(","))
        if all(number >= 1 for number in numbers):
            return numbers
    raise WrongUse(f"--steps {text}: should be whole numbers with commas between them, for one 5,10,20")
