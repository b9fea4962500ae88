"""What changes while training."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fromnoise.objective import History
from fromnoise.train.ema import Ema
from fromnoise.train.guard import Guard
from fromnoise.train.optimizer import load_optimizer_tensors, optimizer_tensors
from fromnoise.train.power_ema import PowerEma
from fromnoise.train.scale import LossScale
from fromnoise.train.settings import TrainSettings
from fromnoise.train.shell import filled, shell
from fromnoise.train.team import Alone, Team
from fromnoise.train.weights import Listed

_LOSSES, _COUNTS = "history.losses", "history.counts"
_SLOWER = 0.5  # The share of its step size that a run keeps every time it has gone back.


class Learner:
    """The network, its averages, the optimizer, the guard, and how many steps are done.

    ``history`` holds past losses if the objective's times depend on them, from the first step on; else ``None``.
    ``rollbacks`` says how often, and why, the run went back to an earlier checkpoint. If the settings say so, a
    ``team`` of several gets the network, which is not on the device yet, and all that goes with it in pieces.
    """

    def __init__(self, network: nn.Module, settings: TrainSettings, team: Team | None = None) -> None:
        self.network, self.settings, self.step, self.team = network, settings, 0, team or Alone()
        self.history: History | None = None
        self.rollbacks: list[str] = []
        self._listed = Listed()
        self.ema = Ema(network, decay=settings.ema_decay, ramp=settings.ema_ramp)
        self._shell = None
        if settings.shard and self.team.size > 1:
            self._shell = shell(self.ema.network)
            for each in (network, self.ema.network):
                self.team.cut(each)
        self.averages = PowerEma(network, settings.averages) if settings.averages else None
        self.optimizer = settings.optimizer.build(network, settings.lr)
        device = next(network.parameters()).device
        self.guard = Guard(settings.guard, device)
        self.scale = LossScale(device, enabled=settings.precision == "float16")

    @property
    def images(self) -> int:
        """Pictures seen so far."""
        return self.step * self.settings.batch_size

    @property
    def parameters(self) -> list[nn.Parameter]:
        """Of the network."""
        return self._listed(self.network).parameters

    def rate(self, total: int) -> float:
        """The step size of the next step of ``total``: a line up from 0 over the warm-up, then as [train.rate] says."""
        settings = self.settings
        warm = min(self.step / settings.warmup, 1.0) if settings.warmup else 1.0
        return settings.lr * warm * settings.rate(self.step, total) * _SLOWER ** len(self.rollbacks)

    def averaged(self) -> nn.Module:
        """The averaged network, ready for inference; a copy where it is in pieces. All of a team must ask."""
        if self._shell is None:
            return self.ema.network
        device = next(self.network.parameters()).device
        whole = {name: self.team.full(value) for name, value in self.ema.network.state_dict().items()}
        return filled(self._shell, whole, device).eval()

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """Everything to save, by file: model, ema, optimizer (with history, guard and loss scale), and averages if any.

        All of a team must ask; where the network is in pieces, the first process alone gets the answer.
        """
        history = {} if self.history is None else {_LOSSES: self.history.losses, _COUNTS: self.history.counts}
        more = {**history, **self.guard.tensors(), **self.scale.tensors()}
        files = {
            "model": self._whole(self.network.state_dict()),
            "ema": self._whole(self.ema.network.state_dict()),
            "optimizer": {**self._whole(optimizer_tensors(self.optimizer, self.network)), **more},
        }
        return files if self.averages is None else {**files, "averages": self.averages.tensors()}

    def state(self) -> dict[str, Any]:
        """What is not a tensor: a small JSON object."""
        return {"step": self.step, "rollbacks": self.rollbacks}

    def load(self, tensors: dict[str, dict[str, Tensor]], state: dict[str, Any]) -> None:
        """The inverse of :meth:`tensors` and :meth:`state`. Raises ``ValueError`` where names or shapes differ."""
        try:
            self.network.load_state_dict(self._pieces(tensors["model"], self.network))
            self.ema.network.load_state_dict(self._pieces(tensors["ema"], self.ema.network))
        except RuntimeError as error:
            raise ValueError(" ".join(str(error).split())) from error
        if self.averages is not None:
            self.averages.load(tensors.get("averages", {}))
        optimizer = dict(tensors["optimizer"])
        losses, counts = optimizer.pop(_LOSSES, None), optimizer.pop(_COUNTS, None)
        self.history = None if losses is None or counts is None else History(losses.clone(), counts.clone())
        for part, names in ((self.guard, list(self.guard.tensors())), (self.scale, LossScale.NAMES)):
            kept = {name: optimizer.pop(name) for name in names if name in optimizer}
            if kept:
                part.load(kept)
        load_optimizer_tensors(self.optimizer, self.network, self._pieces(optimizer, self.network))
        self.step = self.ema.updates = int(state["step"])
        self.rollbacks = list(state.get("rollbacks", []))

    def _whole(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Put together one by one, on the CPU of the first process: no device has room for all of them."""
        if self._shell is None:
            return tensors
        whole = ((name, self.team.full(value)) for name, value in tensors.items())
        return {name: value.cpu() for name, value in whole if self.team.leads}

    def _pieces(self, tensors: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
        """Cut as the parameters are, where the last part of the name is a parameter's and the shape too."""
        own = dict(network.named_parameters())
        likes = {name: own.get(name, own.get(name.partition(".")[2])) for name in tensors}
        return {
            name: value if (like := likes[name]) is None or like.shape != value.shape else self.team.piece(value, like)
            for name, value in tensors.items()
        }

    def average(self) -> None:
        """Take the weights after a step into all averages."""
        self.ema.update(self.network)
        if self.averages is not None:
            self.averages.update(self.network, self.step)

    def take(self, lr: float, divisor: Tensor, left_out: Tensor) -> None:
        """A step of size ``lr`` along the gradients over ``divisor``, unless ``left_out`` is 1: scalars on the device.

        Adam's fused form takes both numbers with it, so that the gradients are read once and nothing waits.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        if self.optimizer.defaults["fused"]:
            # The attributes that PyTorch's own gradient scaler sets on optimizers of this form.
            vars(self.optimizer).update(grad_scale=divisor, found_inf=left_out)
            self.optimizer.step()
        elif not left_out:
            torch._foreach_div_([p.grad for p in self.parameters if p.grad is not None], divisor)
            self.optimizer.step()
