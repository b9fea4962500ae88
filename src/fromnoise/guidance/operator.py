"""What was measured of a picture: linear maps A with A Aᵀ = gram · I, so that nothing needs to be decomposed."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fromnoise.errors import WrongUse
from fromnoise.mask import check_mask, keep


class Operator(ABC):
    """y = A x, picture by picture."""

    @property
    @abstractmethod
    def gram(self) -> float:
        """The constant of A Aᵀ = gram · I, on the range of A."""

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """A x, of (B, C, H, W). Raises ``WrongUse`` for pictures it does not fit."""

    @abstractmethod
    def adjoint(self, y: Tensor) -> Tensor:
        """Aᵀ y, (B, C, H, W)."""


@dataclass(frozen=True, eq=False)
class Mask(Operator):
    """The pixels where ``mask`` is true are known.

    A x keeps the form of a picture, with 0 where nothing is known; what y has there is not looked at.
    """

    mask: Tensor

    def __post_init__(self) -> None:
        """Raises ``WrongUse`` for a mask that is not bool."""
        check_mask(self.mask)

    @property
    def gram(self) -> float:
        """1."""
        return 1.0

    def forward(self, x: Tensor) -> Tensor:
        """x where it is known, else 0."""
        return keep(self.mask, x, torch.zeros_like(x))

    def adjoint(self, y: Tensor) -> Tensor:
        """The same."""
        return self.forward(y)


@dataclass(frozen=True)
class Downscale(Operator):
    """The mean over each square of ``factor`` × ``factor`` pixels is known: (B, C, H / factor, W / factor)."""

    factor: int

    def __post_init__(self) -> None:
        """Raises ``WrongUse`` for a factor below 1."""
        if self.factor < 1:
            raise WrongUse(f"factor = {self.factor}: must be at least 1")

    @property
    def gram(self) -> float:
        """1 / factor²."""
        return 1 / self.factor**2

    def forward(self, x: Tensor) -> Tensor:
        """The means."""
        if x.shape[-1] % self.factor or x.shape[-2] % self.factor:
            raise WrongUse(f"pictures of {x.shape[-2]}x{x.shape[-1]} do not divide by the factor {self.factor}")
        return F.avg_pool2d(x, self.factor)

    def adjoint(self, y: Tensor) -> Tensor:
        """Each mean, spread evenly over its square."""
        rows = y.repeat_interleave(self.factor, -2)
        return rows.repeat_interleave(self.factor, -1) * self.gram
