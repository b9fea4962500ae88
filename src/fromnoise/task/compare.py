"""Samplers side by side on one model: how good are their pictures, for how many network calls?

Two figures each, from the same noise, the same labels and the same number of pictures:

* the Fréchet distance in pixel space to real pictures (Heusel et al. 2017, arXiv 1706.08500, with pixels as features),
  beside that of the paper's sampler with all its steps;
* the root mean square distance, on the scale 0 … 255, to what the exact flow makes of the same noise, which DDIM with
  all steps stands for. Samplers that add noise go elsewhere on purpose, so for them it says nothing and is left out.
"""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from fromnoise.config import sampled_as
from fromnoise.data import Dataset
from fromnoise.errors import WrongUse
from fromnoise.files import explained, write_whole
from fromnoise.metric.features import pixel_features
from fromnoise.metric.frechet import Statistics, frechet_distance
from fromnoise.run import Run, with_config
from fromnoise.sampler import Step
from fromnoise.task.compare_report import Row, plot, rows_table
from fromnoise.task.dealt import Deal
from fromnoise.task.scored import values_of
from fromnoise.train.team import Alone, Team
from fromnoise.types import Images

SAMPLERS = ("ancestral", "ddim", "dpm_2s", "dpm_2m", "dpm_2m_sde", "dpm_3m", "unipc", "deis", "ipndm", "heun")
STEPS = (5, 8, 10, 15, 20, 50)
WITHIN = 1.05


@dataclass(frozen=True)
class Comparing:
    """``done`` of ``total`` steps over all batches of all samplers, and the row just found, if any."""

    done: int
    total: int
    what: str
    row: Row | None


@dataclass(frozen=True)
class Compared:
    """Everything, with the paper's sampler as ``reference``; ``floor`` is the distance between two real halves.

    ``fewest`` has the fewest network calls of all rows within 5 % of the reference's score, or is ``None``.
    """

    rows: tuple[Row, ...]
    reference: Row
    floor: float
    fewest: Row | None
    pictures: int
    how: str
    files: tuple[Path, ...]


CompareEvent = Comparing | Compared


def compare(
    run: Run,
    real: Dataset,
    *,
    samplers: Sequence[str] = SAMPLERS,
    steps: Sequence[int] | None = None,
    n: int | None = None,
    seed: int = 0,
    batch_size: int = 256,
    out: Path | None = None,
    team: Team | None = None,
) -> Iterator[CompareEvent]:
    """Sample ``n`` pictures (as many as ``real`` has, at most 1000) in every way and score them against ``real``.

    ``steps`` are those of :data:`STEPS` that the model's clock allows, unless given. Samplers are left out where they
    need more. Writes compare.json, compare.csv and compare.png into ``out``. Raises ``WrongUse`` for pictures that do
    not fit the model, unknown samplers and impossible numbers of steps.

    The batches are dealt out to a ``team``; all get the results, and the first process writes. Seconds are its own.
    """
    n = min(len(real), 1000) if n is None else n
    _check(run, real, n, batch_size, out)
    labels, values, ways = _labels(run, real, n), _values(run, real, n), _ways(run, samplers, steps)
    features = pixel_features(real.batch(range(len(real))))
    statistics, floor = Statistics.of([features]), _floor(features)
    deal = Deal(pictures=n, batch_size=batch_size, team=team or Alone())
    total = len(deal.mine) * sum(way.rungs for way in ways)
    rows: list[Row] = []
    exact = torch.zeros(())
    done = 0
    for k, way in enumerate(ways):
        what, drawing = f"{way.sampler} {way.steps}", _Drawing(way, deal, labels, values, seed)
        for _ in drawing:
            done += 1
            yield Comparing(done, total, what, None)
        images = deal.of_pictures(drawing.parts, torch.empty(0, *run.pipeline.shape, dtype=torch.uint8))
        exact = images.float() if k == 1 else exact
        quiet = k > 0 and not way.run.pipeline.sampler.traits.stochastic
        apart = (images.float() - exact).square().mean().sqrt().item() if quiet else None
        score = frechet_distance(Statistics.of([pixel_features(images)]), statistics)
        rows.append(Row(way.sampler, way.steps, drawing.nfe, score, apart, round(drawing.seconds, 2)))
        yield Comparing(done, total, what, rows[-1])
    near = [row for row in rows[1:] if row.frechet <= WITHIN * rows[0].frechet]
    result = Compared(
        rows=tuple(rows),
        reference=rows[0],
        floor=floor,
        fewest=min(near, key=lambda row: (row.nfe, row.frechet)) if near else None,
        pictures=n,
        how=(
            f"Fréchet distance in pixel space of {n} samples (seeds {seed} to {seed + n - 1}) to {len(real)} real "
            f"pictures"
        ),
        files=(),
    )
    yield result if out is None or not deal.team.leads else _write(result, out)


def as_dict(result: Compared) -> dict[str, Any]:
    """For JSON."""
    return {
        "how": result.how,
        "pictures": result.pictures,
        "reference": asdict(result.reference),
        "floor": result.floor,
        "fewest": None if result.fewest is None else asdict(result.fewest),
        "rows": [asdict(row) for row in result.rows],
    }


@dataclass(frozen=True)
class _Way:
    """The run sampled in one way."""

    sampler: str
    steps: int
    run: Run

    @property
    def rungs(self) -> int:
        return len(self.run.pipeline.spacing.ladder(self.run.config.schedule)) - 1


class _Drawing:
    """Draws this process's pictures of one way, step by step; afterwards ``parts`` has them, a tensor a batch."""

    def __init__(
        self, way: _Way, deal: Deal, labels: list[int] | None, values: list[list[float]] | None, seed: int
    ) -> None:
        self._pipeline, self._labels, self._values, self._seed = way.run.pipeline.ready(), labels, values, seed
        self._batches = deal.mine
        self.parts: list[Images] = []
        self.nfe, self.seconds = 0, 0.0

    def __iter__(self) -> Iterator[None]:
        clock = time.perf_counter()
        for rows in self._batches:
            labels = None if self._labels is None else self._labels[rows.start : rows.stop]
            values = None if self._values is None else self._values[rows.start : rows.stop]
            last: Step | None = None
            for step in self._pipeline.stream([self._seed + row for row in rows], labels, values=values):
                last = step
                self.seconds += time.perf_counter() - clock
                yield
                clock = time.perf_counter()
            assert last is not None  # A ladder has at least one step.
            self.parts.append(self._pipeline.decode(last.x))
            self.nfe = last.nfe
        self.seconds += time.perf_counter() - clock


def _check(run: Run, real: Dataset, n: int, batch_size: int, out: Path | None) -> None:
    given, wanted = ("x".join(map(str, shape)) for shape in (real.images.shape[1:], run.pipeline.shape))
    if given != wanted:
        raise WrongUse(f"the pictures are of shape {given} and the model's of {wanted} (channels x height x width)")
    if len(real) < 4:
        raise WrongUse(f"{len(real)} pictures to compare with: two halves are needed of at least 2, better hundreds")
    if n < 2 or batch_size < 1:
        raise WrongUse(
            f"{n} pictures of each in batches of {batch_size}: a distance between distributions needs at least 2, "
            f"better hundreds, and a batch at least 1"
        )
    if out is not None:
        if out.is_file():
            raise WrongUse(f"{out} is a file; name a folder for the results")
        with explained(f"cannot write to {out}"):
            out.mkdir(parents=True, exist_ok=True)


def _ways(run: Run, samplers: Sequence[str], steps: Sequence[int] | None) -> list[_Way]:
    """First the paper's sampler and DDIM with all steps, then those asked for."""
    schedule = run.config.schedule
    most = int(schedule.horizon) if schedule.whole else 1000
    counts = [count for count in STEPS if count <= most] if steps is None else steps
    asked = {(name, count): None for name in samplers for count in counts}  # Each once.
    whole = [("ancestral", most), ("ddim", most)]
    ways = []
    for name, count in [*whole, *(way for way in asked if way not in whole)]:
        config = sampled_as(run.config, sampler=name, steps=count)
        if count >= config.sampling.sampler.traits.least_steps:
            ways.append(_Way(name, count, with_config(run, config)))
    if len(ways) == 2 and not set(asked) & set(whole):
        raise WrongUse("nothing to compare: all the samplers need more steps than are asked for")
    return ways


def _floor(features: torch.Tensor) -> float:
    """Between two halves of the real pictures, chosen by chance."""
    halves = torch.randperm(len(features), generator=torch.Generator().manual_seed(0)).chunk(2)
    one, other = (Statistics.of([features[half]]) for half in halves)
    return frechet_distance(one, other)


def _labels(run: Run, real: Dataset, n: int) -> list[int] | None:
    """The labels of the real pictures in turn, or every class in turn where they have none."""
    if not run.classes:
        return None
    if real.labels is None or real.classes != run.classes:
        return [k % len(run.classes) for k in range(n)]
    known = real.labels.tolist()
    return [known[k] for k in _in_turn(len(known), n)]


def _values(run: Run, real: Dataset, n: int) -> list[list[float]] | None:
    """The values of the same real pictures, or the run's own examples in turn where they have none."""
    if real.values is None:
        return run.pipeline.in_turn(n)[1]
    values = values_of(run, real)
    return None if values is None else values[_in_turn(len(values), n)].tolist()


def _in_turn(count: int, n: int) -> list[int]:
    """``n`` of ``count`` pictures in equal steps; where they are too few, from the first one again."""
    return [k * count // n if n <= count else k % count for k in range(n)]


def _write(result: Compared, out: Path) -> Compared:
    files = (out / "compare.json", out / "compare.csv", out / "compare.png")
    with explained(f"cannot write to {out}"):
        write_whole(files[0], json.dumps(as_dict(result), indent=2).encode())
        write_whole(files[1], rows_table(result.rows))
        write_whole(files[2], plot(result.rows, result.reference, WITHIN))
    return replace(result, files=files)
