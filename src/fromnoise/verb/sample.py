"""``fromnoise sample``."""

import functools
import json
import time
from dataclasses import replace
from typing import Any

import torch

from fromnoise import memory
from fromnoise.config import Config, sampled_as
from fromnoise.console import follow, say
from fromnoise.errors import WrongUse
from fromnoise.network.compiled import Compiled
from fromnoise.run import Run, open_run, with_config
from fromnoise.task import sample as sample_task
from fromnoise.task.analytic import stored_variance
from fromnoise.task.edit import Between, Edit, Inpaint, Plain, Upscale, Variation
from fromnoise.task.given import read_hole, read_picture, read_small
from fromnoise.train.team import Team
from fromnoise.verb.common import sets
from fromnoise.verb.guide import guided
from fromnoise.verb.processes import shared
from fromnoise.verb.said import conditions


def sample(args: Any, words: list[str]) -> int:
    """Draw pictures from what was trained."""
    memory.keep_freed_memory()
    if args.out is None:
        raise WrongUse("--out is missing: name a .png for a grid, an .npz for arrays, or a folder for single pictures")
    began = time.perf_counter()
    if args.columns is not None and args.columns < 1:
        raise WrongUse(f"--columns {args.columns}: must be at least 1")
    return shared(args, words, functools.partial(_sample, began))


def _sample(began: float, args: Any, team: Team, device: torch.device) -> int:
    """As one of a team, or alone."""
    run = open_run(args.run_path, weights=args.weights, device=device)
    for warning in run.warnings:
        say(f"fromnoise: {warning}")
    run = guided(with_config(_compiled(run) if args.compile else run, _settings(run, args)), args)
    edit = _edit(run, args)
    labels, values = conditions(args, run, edit)
    events = sample_task.draw(
        run,
        args.n,
        seed=args.seed,
        labels=labels,
        values=values,
        batch_size=args.batch_size,
        out=args.out,
        overwrite=args.overwrite,
        edit=edit,
        strip=args.strip or 0,
        columns=args.columns,
        team=team,
    )
    if team.size > 1 and device.type == "cpu" and args.n <= args.batch_size * (team.size - 1):
        share = -(-args.n // team.size)
        say(f"fromnoise: some of {team.size} processes have nothing to do; --batch-size {share} gives each a share")
    last = follow(events)
    assert isinstance(last, sample_task.Drawn)
    seconds = round(time.perf_counter() - began, 1)
    if args.json:
        result = {"out": str(args.out), "n": args.n, "seed": args.seed, "nfe": last.nfe, "seconds": seconds}
        names = run.pipeline.quantities.names
        told = {} if values is None else {"values": [dict(zip(names, row, strict=True)) for row in values]}
        print(json.dumps({**result, "labels": labels, **told}))
    else:
        seeds = edit.seeds(args.seed, args.n)
        which = f"seed {seeds[0]}" if seeds[0] == seeds[-1] else f"seeds {seeds[0]} to {seeds[-1]}"
        print(f"{args.out}: {args.n} pictures, {which}, {last.nfe} network calls each, {seconds} s")
    return 0


def _compiled(run: Run) -> Run:
    """With its network compiled, where that pays."""
    if run.pipeline.device.type != "cuda":
        raise WrongUse(f"--compile pays on a GPU only, and this model is on {run.pipeline.device.type}: leave it out")
    return replace(run, network=Compiled(run.network))


def _settings(run: Run, args: Any) -> Config:
    """What was said on the command line, as settings of [sampling]; --set has the last word."""
    tree = sets(args)
    for section in tree:
        if section != "sampling":
            raise WrongUse(f"--set {section}.…: sampling cannot change how the model was made; only sampling.… is open")
    if not isinstance(tree.get("sampling", {}), dict):
        raise WrongUse(f"--set sampling={tree['sampling']}: should name a setting, for one sampling.clip.limit=2")
    elsewhere = args.weak is not None or args.classifier is not None  # Then W is how strongly those push.
    said: dict[str, Any] = {name: getattr(args, name) for name in ("sampler", "steps", "eta")}
    said |= {"guidance": 1.0 if elsewhere else args.guidance, "more": tree.get("sampling")}
    variance: Any = args.variance
    if variance == "analytic":
        sampled_as(run.config, **said, variance="small")  # A sampler that has none is told before an estimate missing.
        variance = stored_variance(run, weights=args.weights)
    return sampled_as(run.config, **said, variance=variance)


def _edit(run: Run, args: Any) -> Edit:
    """What is to be made of given pictures."""
    _refuse_strays(args)
    strength = 0.5 if args.strength is None else args.strength
    if args.source is not None:
        return Variation(picture=read_picture(args.source, run.config, fit=args.fit), strength=strength)
    if args.interpolate is not None:
        first, last = (read_picture(path, run.config, fit=args.fit) for path in args.interpolate)
        return Between(first=first, last=last, n=args.n, strength=strength)
    if args.inpaint is not None:
        picture, hole = read_hole(args.inpaint, args.mask, run.config, fit=args.fit)
        return Inpaint(picture=picture, hole=hole, resamples=args.repaint or 0)
    if args.upscale is not None:
        small, factor = read_small(args.upscale, run.config)
        return Upscale(small=small, factor=factor)
    return Plain()


_BELONGS = {
    "mask": ("inpaint",),
    "repaint": ("inpaint",),
    "strength": ("from", "interpolate"),
    "fit": ("from", "inpaint", "interpolate"),
}


def _refuse_strays(args: Any) -> None:
    """Options that mean nothing without another one, and numbers that mean nothing."""
    for name, owners in _BELONGS.items():
        value = getattr(args, name)
        if (
            value is not None
            and value is not False
            and all(getattr(args, "source" if owner == "from" else owner) is None for owner in owners)
        ):
            raise WrongUse(f"--{name} belongs to {' or '.join(f'--{owner}' for owner in owners)}, which is missing")
    if args.inpaint is not None and args.mask is None:
        raise WrongUse("--inpaint needs --mask, a picture of the same size that is white where to fill in")
    for name in ("repaint", "strip"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise WrongUse(f"--{name} {getattr(args, name)}: must be at least 1")
