"""A run that is planned: its settings, and the pictures it would see, without decoding all of them.

What training finds out by decoding everything is known from the source's own lists, but for pictures that turn out to
be unreadable. A first step needs a batch of pictures and no more, and a step that is only to be timed or weighed needs
none at all: any bytes of that shape do.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, final

import numpy as np
import torch
from numpy.typing import NDArray

from fromnoise.config import Config
from fromnoise.data import Dataset, Source, load, stratified_split
from fromnoise.data.cache import Cache
from fromnoise.data.quantities import quantities
from fromnoise.errors import WrongUse
from fromnoise.task.fitting import told
from fromnoise.task.prepare import settle_and_tell, what_is_seen

_NO_CACHE = Cache(path=Path(), limit=0)
_MOST = 1024  # Different stand-ins; more would only take memory.
_T = TypeVar("_T")


@dataclass(frozen=True)
class Plan:
    """Settled settings, the opened ``source``, and which of its pictures are trained on if all can be read.

    ``remarks`` are what training says of the settings, in lines.
    """

    config: Config
    source: Source
    training: NDArray[np.int64]
    remarks: tuple[str, ...] = ()


def plan(
    tree: Mapping[str, Any], *, preset_name: str | None, source: str = "the settings", run: Path | None = None
) -> Plan:
    """What :func:`fromnoise.task.prepare.prepare` settles, without decoding. Raises ``WrongUse`` where it does."""
    config, pictures, sized = settle_and_tell(tree, preset_name=preset_name, source=source, run=run)
    labels, names = pictures.labels, pictures.classes
    if labels is not None and len(names) < 2:
        raise WrongUse(f"{config.data.path} has only one class ({', '.join(names)}): train without classes")
    training = np.arange(len(pictures))
    if config.data.held_out:
        training, _ = stratified_split(np.zeros(len(pictures), int) if labels is None else labels, config.data.held_out)
    data = config.data if labels is not None else replace(config.data, class_names=())
    if pictures.values is not None:
        values = torch.tensor(pictures.values, dtype=torch.float32)[torch.from_numpy(training)]
        try:
            data = replace(data, quantities=quantities(values, pictures.value_names))
        except WrongUse as error:
            raise WrongUse(f"{data.path}: {error}") from error
    config = replace(config, data=data)
    return Plan(config, pictures, training, sized if preset_name else (told(config, len(training)), *sized))


def few(planned: Plan, count: int) -> Dataset:
    """About ``count`` of the pictures to train on, from all over the source, decoded and kept nowhere.

    Raises ``WrongUse`` if none of them can be read.
    """
    places = np.unique(np.linspace(0, len(planned.training) - 1, min(count, len(planned.training))).astype(int))
    data = planned.config.data
    assert data.height is not None and data.width is not None and data.channels is not None
    seen = what_is_seen(data, data.height, data.width, data.channels)
    return load(_Part(planned.source, planned.training[places]), seen, strict=data.strict, cache=_NO_CACHE)


def stand_ins(config: Config, count: int) -> Dataset:
    """Pictures of random bytes, with labels and values where the settled ``config`` has such."""
    data, chance = config.data, np.random.default_rng(0)
    assert data.height is not None and data.width is not None and data.channels is not None
    stored = min(count, _MOST)
    images = chance.integers(0, 256, (stored, data.channels, data.height, data.width), dtype=np.uint8)
    labels = torch.from_numpy(chance.integers(0, len(data.class_names), stored)) if data.class_names else None
    values = torch.zeros(stored, len(data.quantities)) if data.quantities else None
    return Dataset(
        images=images,
        labels=labels,
        classes=data.class_names,
        values=values,
        value_names=data.quantities.names,
    )


@final
class _Part(Source):
    """The pictures ``rows`` of another source."""

    def __init__(self, whole: Source, rows: NDArray[np.int64]) -> None:
        self._whole, self._rows = whole, rows.tolist()
        self.labels, self.classes = _picked(whole.labels, self._rows), whole.classes
        self.captions = _picked(whole.captions, self._rows)
        self.values, self.value_names = _picked(whole.values, self._rows), whole.value_names
        self.remarks = whole.remarks

    def __len__(self) -> int:
        return len(self._rows)

    def name(self, index: int) -> str:
        """As the whole source has it."""
        return self._whole.name(self._rows[index])

    def identity(self, index: int) -> str:
        """As the whole source has it."""
        return self._whole.identity(self._rows[index])

    def read(self, index: int) -> NDArray[np.uint8]:
        """As the whole source has it."""
        return self._whole.read(self._rows[index])


def _picked(column: tuple[_T, ...] | None, rows: list[int]) -> tuple[_T, ...] | None:
    return None if column is None else tuple(column[row] for row in rows)
