"""The training loop: Ho, Jain, Abbeel 2020 (arXiv 2006.11239), algorithm 1, one report a step.

Who consumes the reports prints, saves, or stops; nothing here touches the disk.
"""

import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from fromnoise.codec import Codec
from fromnoise.denoiser import Denoiser
from fromnoise.network.dropout import dropout_seeds
from fromnoise.noise import key_to_seed
from fromnoise.objective import History, Objective
from fromnoise.train.batches import Batch, Batches
from fromnoise.train.learner import Learner
from fromnoise.train.team import Alone, Team


@dataclass(frozen=True)
class Report:
    """Of the step just done, on all processes together.

    ``loss`` and ``grad_norm`` are scalars still on the device, and so is ``skipped``, 1.0 if the guard left the step
    out: reading them waits for it. ``per_example`` (N,) are the pictures' own losses, on the device too; their times
    ``t`` (N,), float64, are on the CPU.
    """

    step: int
    images: int
    loss: Tensor
    grad_norm: Tensor
    lr: float
    seconds: float
    t: Tensor
    per_example: Tensor
    skipped: Tensor


def train(
    learner: Learner,
    denoiser: Denoiser,
    objective: Objective,
    codec: Codec,
    batches: Batches,
    total_steps: int,
    team: Team | None = None,
) -> Generator[Report, None, None]:
    """Train until ``total_steps`` steps are done, from where ``learner`` stands.

    ``denoiser`` wraps the learner's network (compiled, or shared by a team, or as it is). When a report comes out, the
    step is whole: weights, average, optimizer and count agree, and may be saved.
    """
    team = team or Alone()
    if objective.times.records and learner.history is None:
        learner.history = History.empty(int(denoiser.schedule.horizon), objective.times.records)
    clock = time.perf_counter()
    for batch in batches.stream(learner.step, total_steps):
        learner.network.train()
        parts = _Parts(learner, denoiser, objective, codec, batches.seed, team)
        lr = learner.rate(total_steps)
        loss, t, per_example = parts.backward(batch)
        grad_norm, skipped = update(learner, loss, lr)
        if learner.history is not None and not skipped:
            learner.history.record(t, per_example)
        learner.step += 1
        learner.average()
        now = time.perf_counter()
        yield Report(learner.step, learner.images, loss, grad_norm, lr, now - clock, t, per_example, skipped)
        clock = time.perf_counter()


@dataclass(frozen=True)
class _Parts:
    """The forward and backward passes of a step: this process's share, part by part."""

    learner: Learner
    denoiser: Denoiser
    objective: Objective
    codec: Codec
    seed: int
    team: Team

    def backward(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Leaves the gradients of the whole step; its loss, and the times and losses of its pictures."""
        learner, accumulate = self.learner, self.learner.settings.accumulate
        learner.optimizer.zero_grad()
        device = learner.parameters[0].device
        share, values, done = len(batch.images) // accumulate, [], []
        spread = self.objective.times.spread(batch.u)
        u = spread[batch.first :]
        for micro in range(accumulate):
            rows = slice(micro * share, (micro + 1) * share)
            x_0 = self.codec.encode(batch.images[rows].to(device, non_blocking=True))
            eps = batch.eps[rows].to(device, non_blocking=True)
            condition = batch.condition(rows, device)
            if batch.draws is not None:
                x_0, condition["augment"] = learner.settings.augment(x_0, batch.draws[rows])
            last = micro == accumulate - 1
            with (
                self._dropout(device, batch, rows),
                nullcontext() if last else self.team.unshared(self.denoiser.network),
            ):
                loss = self.objective(self.denoiser, x_0, u[rows], eps, history=learner.history, **condition)
                (loss.value * (learner.scale.value / accumulate)).backward()
            values.append(loss.value.detach())
            done.append((loss.t, loss.per_example))
        t, per_example = (torch.cat(column) for column in zip(*done, strict=True))
        if self.team.size == 1:
            return torch.stack(values).mean(), t, per_example
        value = torch.stack(values).mean().expand_as(per_example)
        everyone = self.team.gather(torch.stack([value, per_example], dim=1))
        # The times of the others are known here as well; fetching them would wait for the device.
        t = self.objective.times(spread.cpu(), self.denoiser.schedule, learner.history).t
        return everyone[:, 0].mean(), t, everyone[:, 1]

    @contextmanager
    def _dropout(self, device: torch.device, batch: Batch, rows: slice) -> Iterator[None]:
        """On the CPU, the masks of our own layers depend on (seed, step, picture).

        Elsewhere, and in other networks' layers, dropout draws from PyTorch's generators; they start from a key, which
        has the place of the part in the batch, and are put back afterwards.
        """
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), dropout_seeds(batch.seeds[rows]):
            torch.manual_seed(key_to_seed("dropout", self.seed, self.learner.step, batch.first + rows.start))
            yield


def update(learner: Learner, loss: Tensor, lr: float) -> tuple[Tensor, Tensor]:
    """The optimizer's step, unless the guard leaves it out; the norm of the gradient, and whether it was left out."""
    scale, limit = learner.scale, learner.settings.clip
    gradients = [p.grad for p in learner.parameters if p.grad is not None]
    grad_norm = learner.team.full(torch.nn.utils.get_total_norm(gradients)) / scale.value
    left_out = learner.guard.judge(loss, grad_norm, excused=scale.excused())
    # Clipping to a norm is dividing by norm / limit, where that is above 1; the scale goes in the same pass.
    excess = (grad_norm / limit).clamp(min=1.0) if limit else torch.ones_like(grad_norm)
    learner.take(lr, excess * scale.value, left_out)
    scale.update(~grad_norm.isfinite())
    return grad_norm, left_out
