"""What a training loss is: a distribution of times, and an error of what the network says at them.

Randomness comes in from outside, as one uniform number and one noise a picture, so that a resumed run repeats it.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fromnoise.denoiser import Denoiser
from fromnoise.objective.history import History
from fromnoise.objective.times import Drawn, Times, UniformSteps
from fromnoise.schedule import cast


@dataclass(frozen=True)
class Loss:
    """``value`` is the scalar to differentiate; ``per_example`` (B,) and the times ``t`` (B,) are for watching.

    ``value`` is the mean of ``per_example`` × the importance weights of the times. ``per_example`` itself carries the
    weighting, but no importance weight: so it is what loss-aware times even out.
    """

    value: Tensor
    per_example: Tensor
    t: Tensor


@dataclass(frozen=True, kw_only=True)
class Objective(ABC):
    """A loss to train by, at times drawn from ``times``."""

    times: Times = field(default_factory=UniformSteps)

    @property
    @abstractmethod
    def learns_variance(self) -> bool:
        """Whether the network must give a second output for every channel of the picture."""

    @abstractmethod
    def check(self, denoiser: Denoiser) -> None:
        """Raises ``ValueError`` for a denoiser whose schedule or parameterization this loss cannot be taken on."""

    @abstractmethod
    def __call__(
        self,
        denoiser: Denoiser,
        x_0: Tensor,
        u: Tensor,
        eps: Tensor,
        *,
        history: History | None = None,
        **condition: Any,
    ) -> Loss:
        """``x_0`` and ``eps`` (B, C, H, W), ``u`` (B,) uniform in [0, 1) -> :class:`Loss`.

        ``u`` is, or is part of, what ``times.spread`` made of the whole batch's numbers. ``history`` is of use where
        ``times.records`` is not 0. Raises ``ValueError`` as :meth:`check` does, and if the network's output has not the
        channels that this loss needs.
        """


EDGES = torch.tensor([0.0, 0.5, 1 - 2**-53], dtype=torch.float64)
"""The extreme uniform numbers and one between them: what goes well for their times does for all."""


def mean_loss(per_example: Tensor, drawn: Drawn) -> Loss:
    """The weighted mean of (B,) losses over a batch."""
    value = (cast(drawn.weight, per_example) * per_example).mean()
    return Loss(value, per_example.detach(), drawn.t)


def check_channels(output: Tensor, x_0: Tensor, *, doubled: bool) -> None:
    """Raises ``ValueError`` unless the output has one channel, or two, for each of the picture."""
    # Outputs of another number would broadcast, or be read as a variance, and train the wrong thing in silence.
    wanted = (x_0.shape[0], (2 if doubled else 1) * x_0.shape[1], *x_0.shape[2:])
    if tuple(output.shape) != wanted:
        need = "two output channels" if doubled else "one output channel"
        raise ValueError(
            f"for pictures of shape {tuple(x_0.shape)} the network gives {tuple(output.shape)}; this loss needs "
            f"{need} for each channel of the picture"
        )
