"""How much of the disk a run takes: counted from the tensors it saves, before any is saved.

A checkpoint is three safetensors files: the weights, their average, and what the optimizer keeps of them (two moments
for Adam). Each is its numbers behind a header of JSON. A run keeps its newest checkpoints and perhaps some for good,
and writes each beside the others before it removes the oldest; snapshots of further averages all stay. Grids of samples
are taken as if PNG saved nothing: at most that. The decoded pictures lie in the cache, one byte a channel, once for all
runs that see them alike.
"""

import json
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from fromnoise.config import Config, to_toml
from fromnoise.data.cache import Cache
from fromnoise.data.dataset import SMALL
from fromnoise.train import Learner, TrainSettings

_GRID = 64
_LINE = 400  # Bytes of a line of metrics.jsonl with its ten bands of t, rounded up; small beside the rest.
_NAMES = {"torch.float32": "F32", "torch.float64": "F64", "torch.int64": "I64", "torch.bool": "BOOL"}


@dataclass(frozen=True, kw_only=True)
class Disk:
    """Bytes. ``checkpoints`` are how many stay, ``beside`` how many more there are while the last one is written."""

    checkpoint: int
    checkpoints: int
    beside: int
    averages: int
    grids: int
    metrics: int
    cache: int

    @property
    def run(self) -> int:
        """What the run folder holds in the end."""
        return self.checkpoints * self.checkpoint + self.averages + self.grids + self.metrics

    @property
    def most(self) -> int:
        """The run folder while the last checkpoint is written, and the cache."""
        return self.run + self.beside * self.checkpoint + self.cache


def disk(config: Config, *, checkpoint: int, parameters: int, steps: int | None, pictures: int) -> Disk:
    """Of a run of so many ``steps`` on so many ``pictures``; of one whose length is not known, what it holds anyway.

    ``checkpoint`` are the bytes of one, ``parameters`` the numbers that a snapshot of an average has.
    """
    data, train = config.data, config.train
    assert data.height is not None and data.width is not None and data.channels is not None
    picture, cached = data.height * data.width * data.channels, data.height * data.width * data.channels * pictures
    saved = times(train.checkpoint_every, steps, train.batch_size)
    kept, beside = _kept(saved, train), 1
    if steps is not None:  # They never grow fewer, so there are most of them at the end: before it, and one more.
        beside = _kept(saved[:-1], train) + 1 - kept
    snapshots = times(train.average_every or train.checkpoint_every, steps, train.batch_size)
    grids = times(train.sample_every, steps, train.batch_size) if train.sample_every else []
    return Disk(
        checkpoint=checkpoint,
        checkpoints=kept if steps is not None else train.keep,
        beside=beside,
        averages=len(train.averages) * len(snapshots) * 4 * parameters,
        grids=len(grids) * _GRID * picture,
        metrics=-(-(steps or 0) // train.report_every) * _LINE,
        cache=cached if cached >= SMALL and Cache.from_environment().limit >= cached else 0,
    )


def _kept(saved: list[int], train: TrainSettings) -> int:
    """How many checkpoints there are after those at ``saved`` pictures, the oldest removed."""
    kept = set(saved[-train.keep :])
    if train.keep_every:  # The first at or after each multiple.
        kept |= {min(part) for _, part in groupby(saved, lambda images: images // train.keep_every)}
    return len(kept)


def times(every: int, steps: int | None, batch_size: int) -> list[int]:
    """Pictures seen after the steps that pass a multiple of ``every`` (0: none of them), and after the last one."""
    if steps is None:
        return []
    passed = (
        {-(-images // batch_size) * batch_size for images in range(every, steps * batch_size, every)}
        if every
        else set()
    )
    return sorted(passed | {steps * batch_size})


def checkpoint_bytes(learner: Learner, config: Config) -> dict[str, int]:
    """Of each file of a checkpoint of ``learner``, which has done a step."""
    said = len(json.dumps(to_toml(config))) + 100
    found = {}
    for file, tensors in learner.tensors().items():
        header: dict[str, Any] = {}
        total = 0
        for name, value in tensors.items():
            end = total + value.numel() * value.element_size()
            header[name] = {
                "dtype": _NAMES.get(str(value.dtype), "F16"),
                "shape": list(value.shape),
                "data_offsets": [total, end],
            }
            total = end
        found[file] = total + len(json.dumps(header, separators=(",", ":"))) + said
    return found
