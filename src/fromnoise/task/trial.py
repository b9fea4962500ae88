"""Whether weights are sound at whose end steps were left out: the steps that would follow are judged, and not taken.

On the way the next step that is taken shows it. At the end there is none, and saving blindly might keep ruined weights,
while going back would repeat the same steps for ever where a run may not go back.
"""

import contextlib
import copy
from typing import Any, cast

from torch import Tensor

from fromnoise.task.assembly import Assembly
from fromnoise.train import Learner, train
from fromnoise.train.batches import Batches


def sound(assembly: Assembly, batches: Batches, total: int) -> bool:
    """Whether one of the steps behind step ``total`` could be taken, of as many as make a run go back.

    The training loop itself judges them. Nothing of it is kept: neither weights nor what the guard has seen.
    """
    learner, config = assembly.learner, assembly.config
    parts = (learner.guard, learner.scale)
    before = [{name: value.clone() for name, value in part.tensors().items()} for part in parts]
    trial, most = cast(Learner, _Untaken(learner)), total + config.train.guard.patience
    steps = train(trial, assembly.denoiser, config.objective, config.codec, batches, most, assembly.team)
    try:
        with contextlib.closing(steps):
            for report in steps:
                if not report.skipped or learner.guard.lost():
                    return not report.skipped
        return False
    finally:
        for part, kept in zip(parts, before, strict=True):
            part.load(kept)


class _Untaken:
    """A learner as the training loop sees it, whose steps are judged and not taken: weights and averages stay."""

    def __init__(self, learner: Learner) -> None:
        self._learner, self.step, self.history = learner, learner.step, copy.deepcopy(learner.history)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._learner, name)

    def take(self, lr: float, divisor: Tensor, left_out: Tensor) -> None:
        """Not taken."""

    def average(self) -> None:
        """There is nothing new."""
