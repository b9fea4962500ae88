"""``fromnoise likelihood``."""

import json
from typing import Any

import torch

from fromnoise import memory
from fromnoise.analytic import estimates
from fromnoise.config import build_denoiser
from fromnoise.console import Meter, follow, say
from fromnoise.errors import WrongUse, nearest
from fromnoise.likelihood import Flow
from fromnoise.run import Run, open_run
from fromnoise.runge_kutta import DormandPrince, RungeKutta4, Solver
from fromnoise.task import likelihood as task
from fromnoise.task.analytic import store_variance, variance_path
from fromnoise.task.prepare import Known
from fromnoise.task.scored import scored_pictures
from fromnoise.train.team import Team
from fromnoise.transition import Analytic, Large, LearnedRange, Small, Variance
from fromnoise.verb.common import beside, known_pictures
from fromnoise.verb.processes import shared

_FIXED: dict[str, type[Small] | type[Large] | type[LearnedRange]] = {
    "small": Small,
    "large": Large,
    "learned_range": LearnedRange,
}
_ANALYTIC_TIMES = 100
_ANALYTIC_PICTURES = 256


def likelihood(args: Any, words: list[str]) -> int:
    """Bits per dimension of pictures."""
    memory.keep_freed_memory()
    return shared(args, words, _likelihood)


def _likelihood(args: Any, team: Team, device: torch.device) -> int:
    """As one of a team, or alone."""
    run = open_run(args.run_path, weights=args.weights, device=device)
    for warning in run.warnings:
        say(f"fromnoise: {warning}")
    flow = _flow(args)
    with team.in_turn():  # Decoded once; the others find it in the cache.
        known = known_pictures(run, args.data, "likelihood", fit=args.fit)
    out = beside(args, "likelihood")
    events = task.likelihood(
        run,
        known.pictures,
        limit=args.n,
        batch_size=args.batch_size,
        seed=args.seed,
        steps=None if args.flow else args.steps,
        estimate=args.estimate,
        variance=_variance(run, known, args, team),
        flow=flow,
        names=known.names,
        out=out,
        team=team,
    )
    last = follow(events)
    assert isinstance(last, task.MeasuredLikelihood)
    if args.json:
        result = {"run": str(args.run_path), "data": known.what, **task.as_dict(last)}
        print(json.dumps({**result, "files": [str(path) for path in last.files]}))
        return 0
    _print(last, known)
    return 0


def _print(result: task.MeasuredLikelihood, known: Known) -> None:
    error = "" if result.standard_error is None else f" ± {result.standard_error:.4f} (standard error over pictures)"
    print(f"{result.bits_per_dim:.4f} bits/dim{error}, {result.pictures} pictures of {known.what}")
    if result.prior is not None:
        print(f"  = prior {result.prior:.6f} + rate {result.rate:.4f} + decoder {result.decoder:.4f}")
    print(f"obtained by: {result.how}")
    if result.rate_distortion:
        print(f"{'reverse steps done':>18} {'rate (bits/dim)':>16} {'distortion (RMSE 0-255)':>24}")
        for point in result.rate_distortion:
            print(f"{point.steps:>18g} {point.rate:>16.5f} {point.rmse:>24.3f}")
    print(f"written: {', '.join(str(path) for path in result.files)}")


def _flow(args: Any) -> Flow | None:
    """How the flow is solved, if it is what was asked for. Refuses what does not go together."""
    if args.variance is not None and args.variance not in {*_FIXED, "analytic"}:
        raise WrongUse(f"--variance {args.variance}: not known; {nearest(args.variance, [*_FIXED, 'analytic'])}")
    of_flow = {name: getattr(args, name) for name in ("probes", "exact_divergence", "tolerance")}
    of_bound = {name: getattr(args, name) for name in ("variance", "estimate")}
    for name, value in (of_bound if args.flow else of_flow).items():
        if value is not None and value is not False:
            owner = "belongs to the bound, and --flow is not it" if args.flow else "belongs to --flow, which is missing"
            raise WrongUse(f"--{name.replace('_', '-')} {owner}")
    if not args.flow:
        return None
    if args.tolerance is not None and args.steps is not None:
        raise WrongUse("--steps is for fixed steps and --tolerance for steps that adapt: give one of them")
    if args.probes is not None and args.exact_divergence:
        raise WrongUse(
            "--probes is for an estimate of the divergence and --exact-divergence has none: give one of them"
        )
    solver: Solver = RungeKutta4()
    try:
        if args.tolerance is not None:
            solver = DormandPrince(rtol=args.tolerance, atol=args.tolerance)
        elif args.steps is not None:
            solver = RungeKutta4(steps=args.steps)
        return Flow(solver=solver, probes=None if args.exact_divergence else 1 if args.probes is None else args.probes)
    except ValueError as error:
        raise WrongUse(f"--flow: {error}") from error


def _variance(run: Run, known: Known, args: Any, team: Team) -> Variance | None:
    """The one asked for; the analytic one is estimated from the data first, and kept in the run folder.

    All of a team estimate the same, and the first process keeps it.
    """
    if args.variance != "analytic":
        return None if args.variance is None else _FIXED[args.variance]()
    variance_path(run)  # Before the work, if there is no place for its result.
    schedule = run.config.schedule
    if not schedule.whole:
        raise WrongUse("--variance analytic: this model's clock does not count steps, so it has no chain to improve")
    horizon, count = int(schedule.horizon), min(_ANALYTIC_TIMES, int(schedule.horizon))
    times = sorted({1 + round(k * (horizon - 1) / max(count - 1, 1)) for k in range(count)})
    most = min(_ANALYTIC_PICTURES, len(known.pictures))
    some = scored_pictures(run, known.pictures, limit=most, batch_size=64, seed=args.seed, names=None)
    denoiser = build_denoiser(run.config, run.network, training=False).ready()
    variance: Analytic | None = None
    done = 0
    with Meter("estimating the variance", some.batches) as meter:
        batches = ((batch.x_0, batch.condition) for batch in some)
        for made in estimates(denoiser, batches, [float(t) for t in times], seed=args.seed):
            variance, done = made, done + 1
            meter.show(done)
    assert variance is not None  # There is at least one picture.
    if team.leads:
        path = store_variance(run, variance, weights=args.weights, pictures=len(some))
        say(f"fromnoise: analytic variance from {len(some)} pictures kept in {path}")
    return variance
