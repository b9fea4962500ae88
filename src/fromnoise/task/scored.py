"""The pictures that a model is asked about: which of a data set, with what labels, and with what randomness."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fromnoise.codec import Pixels
from fromnoise.data import Dataset
from fromnoise.errors import WrongUse, nearest
from fromnoise.noise import SeededNoise, generator, key_to_seed
from fromnoise.run import Run
from fromnoise.task.dealt import Deal
from fromnoise.train.team import Alone, Team


@dataclass(frozen=True)
class Batch:
    """Pictures ``x_0`` (B, C, H, W) at ``indices`` of the data, one seed each, and what the model is told of them."""

    indices: list[int]
    seeds: list[int]
    x_0: Tensor
    condition: dict[str, Tensor]

    def noise(self) -> SeededNoise:
        """Each picture's own, from its first draw."""
        return SeededNoise(self.seeds, self.x_0.shape[1:], self.x_0.device)

    def uniform(self, count: int) -> Tensor:
        """Numbers in [0, 1), (B, count), each picture's own."""
        rows = [torch.rand(count, generator=generator("times", seed), dtype=torch.float64) for seed in self.seeds]
        return torch.stack(rows)


@dataclass(frozen=True, kw_only=True)
class ScoredPictures:
    """Pictures of ``data`` that fit the model of ``run``: made by :func:`scored_pictures`."""

    run: Run
    data: Dataset
    indices: list[int]
    labels: Tensor | None
    values: Tensor | None
    names: Sequence[str] | None
    deal: Deal
    seed: int

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def batches(self) -> int:
        """How many this process has."""
        return len(self.deal.mine)

    def __iter__(self) -> Iterator[Batch]:
        for rows in self.deal.mine:
            yield self.batch(self.indices[rows.start : rows.stop])

    def batch(self, indices: list[int]) -> Batch:
        """Those at ``indices`` of the data, on the model's device. A picture's seed is of (seed, its index)."""
        device = self.run.pipeline.device
        x_0 = self.run.pipeline.codec.encode(self.data.batch(indices).to(device))
        said = {"label": self.labels, "values": self.values}
        condition = {name: all_[indices].to(device) for name, all_ in said.items() if all_ is not None}
        return Batch(indices, [key_to_seed("likelihood", self.seed, index) for index in indices], x_0, condition)

    def spread(self, count: int) -> Batch:
        """``count`` of them, or all, in equal steps."""
        return self.batch([self.indices[k] for k in evenly(len(self.indices), count)])

    def columns(self) -> dict[str, list[str | int | None]]:
        """For a table: what each picture is called, by its index where it has no name, and its class."""
        labels, names = self.data.labels, self.names
        return {
            "picture": [k if names is None else names[k] for k in self.indices],
            "label": [None if labels is None else self.data.classes[int(labels[k])] for k in self.indices],
        }


def scored_pictures(
    run: Run,
    data: Dataset,
    *,
    limit: int | None,
    batch_size: int,
    seed: int,
    names: Sequence[str] | None,
    team: Team | None = None,
) -> ScoredPictures:
    """All pictures of ``data``, or ``limit`` of them chosen by chance; their batches are dealt out to a ``team``.

    Raises ``WrongUse`` for numbers out of range, and for pictures or labels that do not fit the model.
    """
    if batch_size < 1 or (limit is not None and limit < 1):
        raise WrongUse(f"limit = {limit} and batch_size = {batch_size}: both must be at least 1")
    if names is not None and len(names) != len(data):
        raise WrongUse(f"{len(data)} pictures need {len(data)} names, not {len(names)}")
    if not isinstance(run.pipeline.codec, Pixels):
        raise WrongUse("bits per dimension are of pixels; this is a latent model, whose x_0 are no pictures")
    given, wanted = ("x".join(map(str, shape)) for shape in (data.images.shape[1:], run.pipeline.shape))
    if given != wanted:
        raise WrongUse(
            f"the pictures are of shape {given} and the model's of {wanted} (channels x height x width): read them "
            f"in the shape {wanted}"
        )
    indices = list(range(len(data)))
    if limit is not None and limit < len(data):
        indices = sorted(torch.randperm(len(data), generator=generator("pictures", seed))[:limit].tolist())
    labels, values = _labels(run, data), values_of(run, data)
    deal = Deal(pictures=len(indices), batch_size=batch_size, team=team or Alone())
    return ScoredPictures(
        run=run, data=data, indices=indices, labels=labels, values=values, names=names, deal=deal, seed=seed
    )


def evenly(count: int, wanted: int) -> list[int]:
    """``wanted`` of ``count`` places (or all), in equal steps, the last among them."""
    wanted = min(count, wanted)
    return [round(count * (k + 1) / wanted) - 1 for k in range(wanted)]


def _labels(run: Run, data: Dataset) -> Tensor | None:
    """The model's numbers of the pictures' classes, by name; ``None`` for its null label, or if it has no classes."""
    if not run.classes:
        return None
    some = ", ".join(run.classes[:3]) + (" …" if len(run.classes) > 3 else "")
    if data.labels is None:
        if not run.config.train.label_dropout:
            raise WrongUse(
                f"this model was trained with labels only (train.label_dropout = 0) and these pictures have none: put "
                f"them into sub-folders named as its classes ({some})"
            )
        return None
    for name in data.classes:
        if name not in run.classes:
            hint = nearest(name, run.classes) if len(run.classes) <= 20 else f"it knows {some}"
            raise WrongUse(f"the pictures' class {name!r} is not one of the model's; {hint}")
    return torch.tensor([run.classes.index(name) for name in data.classes])[data.labels]


def values_of(run: Run, data: Dataset) -> Tensor | None:
    """The pictures' values in the order of the model's columns, (N, K), matched by name.

    A label that none of the pictures has is 0 for all. ``None``, for "not said", where the pictures have no values and
    the model has learnt to do without, or where the model knows none. Raises ``WrongUse`` where they do not fit.
    """
    known = run.pipeline.quantities
    if not known:
        return None
    some = ", ".join(known.names[:3]) + (" …" if len(known) > 3 else "")
    if data.values is None:
        if not run.config.train.label_dropout:
            raise WrongUse(
                f"this model was trained with values only (train.label_dropout = 0) and these pictures have none: give "
                f"them as its own have them ({some})"
            )
        return None
    for name in data.value_names:
        if name not in known.names:
            hint = nearest(name, known.names) if len(known) <= 20 else f"it knows {some}"
            raise WrongUse(f"the pictures' value {name!r} is not one of the model's; {hint}")
    for name in known.names:
        if name not in data.value_names and name not in known.labels:
            raise WrongUse(f"these pictures have no value {name!r}, which this model was trained with")
    none = torch.zeros(len(data))
    columns = {name: data.values[:, k] for k, name in enumerate(data.value_names)}
    return torch.stack([columns.get(name, none) for name in known.names], dim=1)
