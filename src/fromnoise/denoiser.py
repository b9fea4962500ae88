"""A network with meaning: noisy picture and level in, clean picture and noise out.

All mathematics passes here. This file alone clips, casts, and calls the network.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fromnoise.network.packed import pack
from fromnoise.parameterization import Parameterization
from fromnoise.schedule import Level, Schedule, cast


@dataclass(frozen=True)
class Prediction:
    """What a denoiser thinks of x_t: ``x_0`` and ``eps`` (B, C, H, W), float32.

    ``raw_variance`` is the network's second output where it has one, else ``None``.
    """

    x_0: Tensor
    eps: Tensor
    raw_variance: Tensor | None


class Clipping(ABC):
    """What is known of x_0 beforehand, imposed on an estimate of it."""

    @abstractmethod
    def __call__(self, x_0: Tensor) -> Tensor:
        """The estimate, corrected."""


@dataclass(frozen=True, kw_only=True)
class NoClip(Clipping):
    """The estimate as it is."""

    def __call__(self, x_0: Tensor) -> Tensor:
        """Itself."""
        return x_0


@dataclass(frozen=True, kw_only=True)
class Clip(Clipping):
    """x_0 is kept within ±``limit``: pictures live there, so an estimate outside is certainly wrong."""

    limit: float = 1.0

    def __post_init__(self) -> None:
        """Raises ``ValueError`` for a limit that leaves nothing."""
        if not self.limit > 0:
            raise ValueError(f"limit = {self.limit}: must be above 0")

    def __call__(self, x_0: Tensor) -> Tensor:
        """The clipped estimate."""
        return x_0.clamp(-self.limit, self.limit)


@dataclass(frozen=True, kw_only=True)
class DynamicClip(Clipping):
    """Each picture's own limit, its ``quantile`` of |x_0| where that is above 1; clipped there and divided by it.

    Keeps strong guidance from saturating colours. Saharia et al. 2022 (Imagen, arXiv 2205.11487), section 2.3.
    """

    quantile: float = 0.995

    def __post_init__(self) -> None:
        """Raises ``ValueError`` for what is no quantile."""
        if not 0 < self.quantile <= 1:
            raise ValueError(f"quantile = {self.quantile}: must lie above 0 and be at most 1")

    def __call__(self, x_0: Tensor) -> Tensor:
        """The corrected estimate, within ±1."""
        limit = torch.quantile(x_0.abs().flatten(1).float(), self.quantile, dim=1).clamp(min=1).to(x_0.dtype)
        limit = limit.reshape(-1, *[1] * (x_0.ndim - 1))
        return torch.minimum(torch.maximum(x_0, -limit), limit) / limit


class Estimator(nn.Module, ABC):
    """(x_t, level, **condition) -> :class:`Prediction`: a denoiser, or one that is guided.

    ``schedule`` is the one it was trained on. What wraps another combines estimates before they are clipped.
    """

    def __init__(self, schedule: Schedule) -> None:
        super().__init__()
        self.schedule = schedule

    @abstractmethod
    def unclipped(self, x_t: Tensor, level: Level, **condition: Any) -> Prediction:
        """The estimate as it comes."""

    @abstractmethod
    def settle(self, x_t: Tensor, estimate: Prediction, level: Level) -> Prediction:
        """The estimate within its limits, and the eps that agrees with it."""

    @abstractmethod
    def ready(self) -> "Estimator":
        """A form for inference: dropout off, and on the CPU the weights packed. Weights changed later are not seen."""

    def forward(self, x_t: Tensor, level: Level, **condition: Any) -> Prediction:
        """``x_t`` (B, C, H, W) at ``level`` of shape () or (B,)."""
        return self.settle(x_t, self.unclipped(x_t, level, **condition), level)


class Denoiser(Estimator):
    """A network's output, read by its parameterization.

    ``clip`` is applied to x_0, and eps is then what agrees with it. Under ``autocast`` (a dtype) the network alone
    computes in lower precision. Raises ``ValueError`` if the parameterization cannot work on the schedule.
    """

    def __init__(
        self,
        network: nn.Module,
        schedule: Schedule,
        parameterization: Parameterization,
        *,
        clip: Clipping | None = None,
        autocast: torch.dtype | None = None,
    ) -> None:
        super().__init__(schedule)
        end = schedule(schedule.horizon)
        said = (parameterization.c_skip(end), parameterization.c_out(end), parameterization.c_time(end))
        if not all(bool(value.isfinite()) for value in said):
            raise ValueError(
                f"{type(parameterization).__name__} cannot be used with {type(schedule).__name__}: at time "
                f"{schedule.horizon:g} no signal is left to divide by; take velocity, flow or sample"
            )
        self.network, self.parameterization = network, parameterization
        self.clip = None if isinstance(clip, NoClip) else clip
        self.autocast = autocast

    def output(self, x_t: Tensor, level: Level, **condition: Any) -> Tensor:
        """The bare output of the network, float32, as the training loss wants it."""
        c_time, c_in = self.parameterization.c_time(level), self.parameterization.c_in(level)
        c_time = cast(c_time, x_t).reshape(-1).expand(x_t.shape[0])
        x = x_t if bool((c_in == 1).all()) else cast(c_in, x_t) * x_t
        with torch.autocast(x_t.device.type, self.autocast, enabled=self.autocast is not None):
            output: Tensor = self.network(x, c_time, **condition)
        return output if output.dtype == torch.float64 else output.float()

    def read(self, x_t: Tensor, output: Tensor, level: Level) -> Prediction:
        """What a bare ``output`` says, before any limit."""
        raw_variance = None
        if output.shape[1] == 2 * x_t.shape[1]:
            output, raw_variance = output.chunk(2, dim=1)
        x_0 = self.parameterization.x_0(x_t, output, level)
        return Prediction(x_0, self.parameterization.eps(x_t, output, level), raw_variance)

    def unclipped(self, x_t: Tensor, level: Level, **condition: Any) -> Prediction:
        """One call of the network."""
        return self.read(x_t, self.output(x_t, level, **condition), level)

    def settle(self, x_t: Tensor, estimate: Prediction, level: Level) -> Prediction:
        """x_0 clipped, if there is a limit."""
        if self.clip is None:
            return estimate
        return from_x_0(x_t, self.clip(estimate.x_0), level, estimate.raw_variance)

    def ready(self) -> "Denoiser":
        """A copy of its own, packed."""
        network = pack(self.network.eval())
        return Denoiser(network, self.schedule, self.parameterization, clip=self.clip, autocast=self.autocast).eval()


def from_x_0(x_t: Tensor, x_0: Tensor, level: Level, raw_variance: Tensor | None = None) -> Prediction:
    """The prediction that says ``x_0``: its eps is (x_t − signal · x_0) / sigma."""
    return Prediction(x_0, (x_t - cast(level.signal, x_t) * x_0) / cast(level.sigma, x_t), raw_variance)
