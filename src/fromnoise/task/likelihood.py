"""How probable a model finds pictures, in bits per dimension: by the variational bound, or by the probability flow.

Every picture has noise of its own, from (seed, its index in the data), so its figures depend neither on the size of the
batches nor on which other pictures are scored. Guidance is left out: what is scored is what was trained.
"""

import functools
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fromnoise import grid
from fromnoise.config import TABLES, build_denoiser
from fromnoise.data import Dataset
from fromnoise.errors import FromnoiseError, WrongUse
from fromnoise.files import explained, write_whole
from fromnoise.ladder import All, Strided, UniformLogSNR
from fromnoise.likelihood import (
    Bound,
    Density,
    Flow,
    Flowing,
    Profile,
    RatePoint,
    dequantised,
    log_density,
    mean_and_error,
    prior,
    reconstructions,
    terms,
    total,
)
from fromnoise.likelihood.bound import strata
from fromnoise.run import Run
from fromnoise.schedule import Schedule
from fromnoise.task.dealt import Deal
from fromnoise.task.likelihood_plots import plot_rate, plot_terms, rate_table, table
from fromnoise.task.scored import ScoredPictures, evenly, scored_pictures
from fromnoise.train.team import Team
from fromnoise.transition import LearnedRange, Variance

_STEPS = 1000  # of a chain on a clock that does not count them
_SHOWN = 8  # pictures in the strip of reconstructions


@dataclass(frozen=True)
class Scoring:
    """``done`` of ``total`` parts of the work; ``pictures`` are scored, ``bits_per_dim`` is their mean so far."""

    done: int
    total: int
    pictures: int
    bits_per_dim: float | None


@dataclass(frozen=True, kw_only=True)
class MeasuredLikelihood:
    """Means over ``pictures`` in bits per dimension, with the standard error of ``bits_per_dim``.

    ``bits_per_dim`` = ``prior`` + ``rate`` + ``decoder``; ``rmse`` is the distortion with all steps done, on 0 … 255;
    ``rate_distortion`` has the rows of the paper's table 4. The flow has none of these. One picture has no standard
    error. ``each`` holds the values of every picture scored, ``indices`` which pictures of the data these are.
    """

    pictures: int
    bits_per_dim: float
    standard_error: float | None
    prior: float | None = None
    rate: float | None = None
    decoder: float | None = None
    rmse: float | None = None
    rate_distortion: tuple[RatePoint, ...] = ()
    how: str
    indices: tuple[int, ...]
    each: dict[str, list[float]]
    files: tuple[Path, ...] = ()


LikelihoodEvent = Scoring | MeasuredLikelihood


def as_dict(result: MeasuredLikelihood) -> dict[str, Any]:
    """For JSON: all but the single pictures and the files."""
    return {name: value for name, value in asdict(result).items() if name not in {"indices", "each", "files"}}


def likelihood(
    run: Run,
    data: Dataset,
    *,
    limit: int | None = None,
    batch_size: int = 64,
    seed: int = 0,
    steps: int | None = None,
    estimate: int | None = None,
    variance: Variance | None = None,
    flow: Flow | None = None,
    names: Sequence[str] | None = None,
    out: Path | None = None,
    team: Team | None = None,
) -> Iterator[LikelihoodEvent]:
    """Score the pictures of ``data``, or ``limit`` of them chosen by chance; the last event has the result.

    The bound is of the whole chain, or of one shortened to ``steps``; with ``estimate``, from so many network calls a
    picture instead of one a step. ``variance`` is that of the run's sampler unless given; where that has none, the
    learned one or Large. With ``flow``, the density of the probability flow instead.

    Written into ``out``: for the bound likelihood.json, pictures.csv, terms.png, rate-distortion.csv, .png and
    progressive.png; for the flow flow.json and flow-pictures.csv. ``names`` (one a picture of ``data``) stand in the
    tables in place of indices. Raises ``WrongUse`` for what does not fit the model, ``FromnoiseError`` if a picture's
    result is not a number.

    The batches are dealt out to a ``team``; all get the results, and the first process writes.
    """
    pictures = scored_pictures(run, data, limit=limit, batch_size=batch_size, seed=seed, names=names, team=team)
    if flow is not None and not (steps is None and estimate is None and variance is None):
        raise WrongUse("steps, estimate and variance are the bound's; the flow has a solver of its own")
    if out is not None:
        if out.is_file():
            raise WrongUse(f"{out} is a file; name a folder for the results")
        with explained(f"cannot write to {out}"):
            out.mkdir(parents=True, exist_ok=True)
    yield from _bound(pictures, steps, estimate, variance, out) if flow is None else _flow(pictures, flow, out)


def _bound(
    pictures: ScoredPictures, steps: int | None, estimate: int | None, variance: Variance | None, out: Path | None
) -> Iterator[LikelihoodEvent]:
    run = pictures.run
    denoiser = build_denoiser(run.config, run.network, training=False).ready()
    variance, ladder = _variance(run, variance), _ladder(run.config.schedule, steps)
    top, count = denoiser.schedule(ladder[0]), ladder.numel() - 1
    if estimate is not None and not 2 <= estimate <= count:
        raise WrongUse(f"estimate = {estimate}: should be 2 to {count} network calls a picture, for {count} steps")
    calls, bounds, profiles, done = estimate or count, [], [], 0
    scored, mean = 0, None
    for batch in pictures:
        draws, parts = None if estimate is None else batch.uniform(estimate - 1), []
        for term in terms(denoiser, batch.x_0, ladder, variance, batch.noise(), draws, **batch.condition):
            parts.append(term)
            yield Scoring(done := done + 1, calls * pictures.batches, scored, mean)
        bounds.append(total(prior(batch.x_0, top), parts))
        profiles.append(Profile.of(parts))
        _refuse_nan(bounds[-1].total, batch.indices)
        scored += len(batch.indices)
        mean = Bound.join(bounds).total.mean().item()
    rungs = strata(denoiser.schedule(ladder), count if estimate is None else estimate - 1)
    bound, profile = _of_all(pictures.deal, bounds, profiles, rungs)
    bits, error = mean_and_error(bound.total)
    each = {"prior": bound.prior, "rate": bound.rate, "decoder": bound.decoder, "bits_per_dim": bound.total}
    what = f"the bound of the chain of {count} steps, variance {_word(variance)}"
    points = profile.points()
    result = MeasuredLikelihood(
        pictures=len(pictures),
        bits_per_dim=bits,
        standard_error=error,
        prior=bound.prior.mean().item(),
        rate=bound.rate.mean().item(),
        decoder=bound.decoder.mean().item(),
        rmse=points[-1].rmse,
        rate_distortion=tuple(profile.table()),
        how=f"{what}, every term" if calls == count else f"estimate of {what}, from {calls} of its terms",
        indices=tuple(pictures.indices),
        each={key: values.tolist() for key, values in each.items()},
    )
    if out is None or not pictures.deal.team.leads:
        yield result
        return
    some, strip = pictures.spread(_SHOWN), out / "progressive.png"
    times = [ladder[k].item() for k in evenly(count, 10)]
    guesses = reconstructions(denoiser, some.x_0, times, some.noise()(), **some.condition)
    rows = torch.stack([run.pipeline.decode(x) for x in (*guesses, some.x_0)], dim=1)
    with explained(f"cannot write to {out}"):
        grid.write_png(grid.to_grid(rows.flatten(0, 1), columns=rows.shape[1]), strip)
    content = {
        "pictures.csv": table({**pictures.columns(), **result.each}),
        "terms.png": plot_terms(profile, f"Terms of the bound, {bits:.3f} bits per dimension in all"),
        "rate-distortion.csv": rate_table(points[::-1]),
        "rate-distortion.png": plot_rate(points),
    }
    yield _written(pictures, result, out, content, "likelihood.json", strip)


def _of_all(
    deal: Deal, bounds: Sequence[Bound], profiles: Sequence[Profile], rungs: Sequence[range]
) -> tuple[Bound, Profile]:
    """Of all pictures, from those of this process's batches."""
    own = [torch.stack([bound.prior, bound.rate, bound.decoder], dim=1) for bound in bounds]
    columns = deal.of_pictures(own, torch.empty(0, 3, dtype=torch.float64))
    like = torch.empty(0, 4, len(rungs), dtype=torch.float64)
    sums = deal.of_batches([profile.sums[None] for profile in profiles], like)
    return Bound(*columns.unbind(1)), Profile(tuple(rungs), deal.pictures, functools.reduce(torch.add, sums))


def _flow(pictures: ScoredPictures, flow: Flow, out: Path | None) -> Iterator[LikelihoodEvent]:
    run = pictures.run
    denoiser = build_denoiser(run.config, run.network, training=False).eval()  # Not packed, for its gradients.
    found: list[Density] = []
    scored, mean = 0, None
    for k, batch in enumerate(pictures):
        x = dequantised(batch.x_0, batch.seeds)
        try:
            for event in log_density(denoiser, x, flow.directions(batch.seeds, x), flow, **batch.condition):
                if isinstance(event, Flowing):
                    yield Scoring(int(100 * (k + event.share)), 100 * pictures.batches, scored, mean)
                else:
                    found.append(event)
        except ValueError as error:
            raise FromnoiseError(f"pictures {batch.indices[0]} to {batch.indices[-1]}: {error}") from error
        _refuse_nan(found[-1].nats, batch.indices)
        scored += len(batch.indices)
        mean = torch.cat([density.bits_per_dim for density in found]).mean().item()
    own = [torch.stack([density.nats, density.bits_per_dim], dim=1) for density in found]
    nats, every = pictures.deal.of_pictures(own, torch.empty(0, 2, dtype=torch.float64)).unbind(1)
    bits, error = mean_and_error(every)
    result = MeasuredLikelihood(
        pictures=len(pictures),
        bits_per_dim=bits,
        standard_error=error,
        how=flow.summary,
        indices=tuple(pictures.indices),
        each={"log_density": nats.tolist(), "bits_per_dim": every.tolist()},
    )
    if out is None or not pictures.deal.team.leads:
        yield result
        return
    content = {"flow-pictures.csv": table({**pictures.columns(), **result.each})}
    yield _written(pictures, result, out, content, "flow.json")


def _written(
    pictures: ScoredPictures,
    result: MeasuredLikelihood,
    out: Path,
    content: dict[str, bytes],
    report: str,
    *more: Path,
) -> MeasuredLikelihood:
    """The report is written last: where it is, all is."""
    run, data = pictures.run, pictures.data
    about = {"run": str(run.path), "images": run.images, "data": data.fingerprint, "seed": pictures.seed}
    content = {**content, report: json.dumps({**about, **as_dict(result)}, indent=2).encode()}
    with explained(f"cannot write to {out}"):
        for name, body in content.items():
            write_whole(out / name, body)
    return replace(result, files=(*(out / name for name in content), *more))


def _word(variance: Variance) -> str:
    """Its name in settings."""
    names = [word for word, kind in TABLES[Variance].items() if type(variance) is kind]
    return names[0] if names else type(variance).__name__


def _variance(run: Run, variance: Variance | None) -> Variance:
    learned = run.config.objective.learns_variance
    if isinstance(variance, LearnedRange) and not learned:
        raise WrongUse("variance learned_range: this model was trained without a learned variance; take small or large")
    return (
        variance
        or run.pipeline.sampler.traits.variance
        or (LearnedRange() if learned else run.config.sampling.variance)
    )


def _ladder(schedule: Schedule, steps: int | None) -> Tensor:
    most = int(schedule.horizon) if schedule.whole else None
    if steps is not None and (steps < 2 or (most is not None and steps > most)):
        raise WrongUse(
            f"steps = {steps}: the bound of this model takes 2 steps or more" + (f", up to {most}" if most else "")
        )
    if schedule.whole:
        return (All() if steps is None else Strided(steps=steps)).ladder(schedule)
    return UniformLogSNR(steps=steps or _STEPS).ladder(schedule)


def _refuse_nan(values: Tensor, indices: list[int]) -> None:
    for index, value in zip(indices, values.tolist(), strict=True):
        if not math.isfinite(value):
            raise FromnoiseError(f"the result of picture {index} is not a number: the model is broken, or not trained")
