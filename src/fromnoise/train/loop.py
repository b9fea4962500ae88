"""The training loop: Ho, Jain, Abbeel 2020 (arXiv 2006.11239), algorithm 1, one report a step.

Who consumes the reports prints, saves, or stops; nothing here touches the disk.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fromnoise.codec import Codec
from fromnoise.denoiser import Denoiser
from fromnoise.noise import key_to_seed
from fromnoise.objective import History, Objective
from fromnoise.train.batches import Batch, Batches
from fromnoise.train.ema import Ema
from fromnoise.train.optimizer import build_optimizer, learning_rate, load_optimizer_tensors, optimizer_tensors
from fromnoise.train.settings import TrainSettings

_LOSSES, _COUNTS = "history.losses", "history.counts"


@dataclass(frozen=True)
class Report:
    """Of the step just done. ``loss`` and ``grad_norm`` are scalars still on the device: reading them waits for it."""

    step: int
    images: int
    loss: Tensor
    grad_norm: Tensor
    lr: float
    seconds: float


class Learner:
    """What changes while training: the network, its average, the optimizer, and how many steps are done.

    ``history`` holds past losses if the objective's times depend on them, from the first step on; else ``None``.
    """

    def __init__(self, network: nn.Module, settings: TrainSettings) -> None:
        self.network, self.settings, self.step = network, settings, 0
        self.history: History | None = None
        self.ema = Ema(network, decay=settings.ema_decay, ramp=settings.ema_ramp)
        self.optimizer = build_optimizer(network, settings)
        device = next(network.parameters()).device
        self.scaler = torch.amp.GradScaler(device.type, enabled=settings.precision == "float16")

    @property
    def images(self) -> int:
        """Pictures seen so far."""
        return self.step * self.settings.batch_size

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """Everything to save, by file: model, ema, optimizer (the history too)."""
        history = {} if self.history is None else {_LOSSES: self.history.losses, _COUNTS: self.history.counts}
        return {
            "model": self.network.state_dict(),
            "ema": self.ema.network.state_dict(),
            "optimizer": {**optimizer_tensors(self.optimizer, self.network), **history},
        }

    def state(self) -> dict[str, Any]:
        """What is not a tensor: a small JSON object."""
        return {"step": self.step, "scaler": self.scaler.state_dict()}

    def load(self, tensors: dict[str, dict[str, Tensor]], state: dict[str, Any]) -> None:
        """The inverse of :meth:`tensors` and :meth:`state`. Raises ``ValueError`` where names or shapes differ."""
        try:
            self.network.load_state_dict(tensors["model"])
            self.ema.network.load_state_dict(tensors["ema"])
        except RuntimeError as error:
            raise ValueError(" ".join(str(error).split())) from error
        optimizer = dict(tensors["optimizer"])
        losses, counts = optimizer.pop(_LOSSES, None), optimizer.pop(_COUNTS, None)
        if losses is not None and counts is not None:
            self.history = History(losses.clone(), counts.clone())
        load_optimizer_tensors(self.optimizer, self.network, optimizer)
        self.step = self.ema.updates = int(state["step"])
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(state["scaler"])


def train(
    learner: Learner,
    denoiser: Denoiser,
    objective: Objective,
    codec: Codec,
    batches: Batches,
    total_steps: int,
) -> Iterator[Report]:
    """Train until ``total_steps`` steps are done, from where ``learner`` stands.

    ``denoiser`` wraps the learner's network (compiled or not). When a report comes out, the step is whole: weights,
    average, optimizer and count agree, and may be saved.
    """
    device = next(learner.network.parameters()).device
    if objective.times.records and learner.history is None:
        learner.history = History.empty(int(denoiser.schedule.horizon), objective.times.records)
    clock = time.perf_counter()
    for batch in batches.stream(learner.step, total_steps):
        learner.network.train()
        loss, grad_norm, lr = _step(learner, denoiser, objective, codec, batch, device)
        learner.ema.update(learner.network)
        learner.step += 1
        now = time.perf_counter()
        yield Report(learner.step, learner.images, loss, grad_norm, lr, now - clock)
        clock = time.perf_counter()


def _step(
    learner: Learner,
    denoiser: Denoiser,
    objective: Objective,
    codec: Codec,
    batch: Batch,
    device: torch.device,
) -> tuple[Tensor, Tensor, float]:
    settings, optimizer, scaler = learner.settings, learner.optimizer, learner.scaler
    optimizer.zero_grad()
    total = torch.zeros((), device=device)
    part = settings.batch_size // settings.accumulate
    u, done = objective.times.spread(batch.u), []
    for micro in range(settings.accumulate):
        rows = slice(micro * part, (micro + 1) * part)
        condition = {} if batch.labels is None else {"label": batch.labels[rows].to(device, non_blocking=True)}
        x_0 = codec.encode(batch.images[rows].to(device, non_blocking=True))
        eps = batch.eps[rows].to(device, non_blocking=True)
        with _dropout_from(device, settings.seed, learner.step, micro):
            loss = objective(denoiser, x_0, u[rows], eps, history=learner.history, **condition)
        value = loss.value / settings.accumulate
        scaler.scale(value).backward()
        total += value.detach()
        done.append((loss.t, loss.per_example))
    scaler.unscale_(optimizer)
    limit = settings.clip or float("inf")
    grad_norm = torch.nn.utils.clip_grad_norm_(learner.network.parameters(), limit)
    lr = learning_rate(learner.step, settings)
    for group in optimizer.param_groups:
        group["lr"] = lr
    scaler.step(optimizer)
    scaler.update()
    if learner.history is not None:  # After the whole batch, so that its parts draw from one distribution.
        learner.history.record(*(torch.cat(parts) for parts in zip(*done, strict=True)))
    return total, grad_norm.detach(), lr


@contextmanager
def _dropout_from(device: torch.device, *key: int) -> Iterator[None]:
    """Dropout draws from PyTorch's global generators; here they start from a key, and are put back afterwards."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(key_to_seed("dropout", *key))
        yield
