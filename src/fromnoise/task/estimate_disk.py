"""How much of the disk a run takes: counted from the tensors it saves, before any is saved.

A checkpoint is three safetensors files: the weights, their average, and what the optimizer keeps of them (two moments
for Adam). Each is its numbers behind a header of JSON. A run keeps its newest checkpoints, and writes each beside the
others before it removes the oldest. Grids of samples are taken as if PNG saved nothing: at most that. The decoded
pictures lie in the cache, one byte a channel, once for all runs that see them alike.
"""

import json
from dataclasses import dataclass
from typing import Any

from fromnoise.config import Config, to_toml
from fromnoise.data.cache import Cache
from fromnoise.data.dataset import SMALL
from fromnoise.train import Learner

_GRID = 64
_LINE = 400  # Bytes of a line of metrics.jsonl with its ten bands of t, rounded up; small beside the rest.
_NAMES = {"torch.float32": "F32", "torch.float64": "F64", "torch.int64": "I64", "torch.bool": "BOOL"}


@dataclass(frozen=True, kw_only=True)
class Disk:
    """Bytes. ``checkpoints`` are how many stay; ``most`` is what the run needs while it writes one more of them."""

    checkpoint: int
    checkpoints: int
    grids: int
    metrics: int
    cache: int

    @property
    def run(self) -> int:
        """What the run folder holds in the end."""
        return self.checkpoints * self.checkpoint + self.grids + self.metrics

    @property
    def most(self) -> int:
        """The run folder while the last checkpoint is written, and the cache."""
        return self.run + self.checkpoint + self.cache


def disk(config: Config, *, checkpoint: int, steps: int | None, pictures: int) -> Disk:
    """Of a run of so many ``steps`` (``None``: as many as it takes to keep all it may) on so many ``pictures``."""
    data, train = config.data, config.train
    assert data.height is not None and data.width is not None and data.channels is not None
    picture = data.height * data.width * data.channels
    seen = None if steps is None else steps * train.batch_size
    saved = train.keep if seen is None else min(train.keep, _times(train.checkpoint_every, seen, steps))
    for_good = 0 if seen is None or not train.keep_every else seen // train.keep_every
    grids = 0 if seen is None or not train.sample_every else _times(train.sample_every, seen, steps)
    cached = pictures * picture
    return Disk(
        checkpoint=checkpoint,
        checkpoints=saved + for_good,
        grids=grids * _GRID * picture,
        metrics=0 if steps is None else -(-steps // train.report_every) * _LINE,
        cache=cached if cached >= SMALL and Cache.from_environment().limit >= cached else 0,
    )


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


def _times(every: int, seen: int, steps: int | None) -> int:
    """How often a run of ``seen`` pictures passes a multiple of ``every``, its end counted; once a step at most."""
    passed = -(-seen // every) if every else 1
    return min(passed, steps or passed)
