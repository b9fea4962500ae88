"""A network with meaning: noisy picture and level in, clean picture and noise out.

All mathematics passes here. This file alone clips, casts, and calls the network.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fromnoise.parameterization import Parameterization
from fromnoise.schedule import Level, Schedule


@dataclass(frozen=True)
class Prediction:
    """What a denoiser thinks of x_t: ``x_0`` and ``eps`` (B, C, H, W), float32.

    ``raw_variance`` is the network's second output where it has one, else ``None``.
    """

    x_0: Tensor
    eps: Tensor
    raw_variance: Tensor | None


@dataclass(frozen=True, kw_only=True)
class Clip:
    """x_0 is kept within ±``limit``: pictures live there, so an estimate outside is certainly wrong."""

    limit: float = 1.0

    def __call__(self, x_0: Tensor) -> Tensor:
        """The clipped estimate."""
        return x_0.clamp(-self.limit, self.limit)


class Denoiser(nn.Module):
    """(x_t, level, **condition) -> :class:`Prediction`.

    ``clip`` is applied to x_0, and eps is then what agrees with it. Under ``autocast`` (a dtype) the network alone
    computes in lower precision. Raises ``ValueError`` if the parameterization cannot work on the schedule.
    """

    def __init__(
        self,
        network: nn.Module,
        schedule: Schedule,
        parameterization: Parameterization,
        *,
        clip: Clip | None = None,
        autocast: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        end = schedule(schedule.horizon)
        if not (parameterization.c_skip(end).isfinite() and parameterization.c_out(end).isfinite()):
            raise ValueError(
                f"{type(parameterization).__name__} cannot be used with {type(schedule).__name__}: at time "
                f"{schedule.horizon:g} no signal is left to divide by; take velocity or sample"
            )
        self.network, self.schedule, self.parameterization = network, schedule, parameterization
        self.clip, self.autocast = clip, autocast

    def output(self, x_t: Tensor, level: Level, **condition: Any) -> Tensor:
        """The bare output of the network, float32, as the training loss wants it."""
        at = Level(self.parameterization.c_time(level), self.parameterization.c_in(level), level.sigma).to(x_t)
        c_time = at.t.reshape(-1).expand(x_t.shape[0])
        c_in = self.parameterization.c_in(level)
        x = x_t if bool((c_in == 1).all()) else at.signal * x_t
        with torch.autocast(x_t.device.type, self.autocast, enabled=self.autocast is not None):
            output: Tensor = self.network(x, c_time, **condition)
        return output if output.dtype == torch.float64 else output.float()

    def forward(self, x_t: Tensor, level: Level, **condition: Any) -> Prediction:
        """``x_t`` (B, C, H, W) at ``level`` of shape () or (B,)."""
        output, raw_variance = self.output(x_t, level, **condition), None
        if output.shape[1] == 2 * x_t.shape[1]:
            output, raw_variance = output.chunk(2, dim=1)
        x_0 = self.parameterization.x_0(x_t, output, level)
        if self.clip is None:
            return Prediction(x_0, self.parameterization.eps(x_t, output, level), raw_variance)
        x_0, at = self.clip(x_0), level.to(x_t)
        return Prediction(x_0, (x_t - at.signal * x_0) / at.sigma, raw_variance)
