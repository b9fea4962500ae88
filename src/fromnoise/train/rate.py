"""How the step size goes on after the warm-up: a share of ``train.lr`` for every optimizer step."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

from fromnoise.errors import WrongUse


@dataclass(frozen=True, kw_only=True)
class Rate(ABC):
    """A share of the step size, 1 at the start."""

    @property
    @abstractmethod
    def looks_ahead(self) -> bool:
        """Whether the share depends on where the run ends, so that its length cannot be changed later."""

    @abstractmethod
    def __call__(self, step: int, total: int) -> float:
        """The share after ``step`` finished steps of ``total``."""


@dataclass(frozen=True, kw_only=True)
class ConstantRate(Rate):
    """Always 1, as in the paper (Ho, Jain, Abbeel 2020, arXiv 2006.11239, appendix B)."""

    @property
    def looks_ahead(self) -> bool:
        """No."""
        return False

    def __call__(self, step: int, total: int) -> float:
        """1."""
        return 1.0


@dataclass(frozen=True, kw_only=True)
class CosineRate(Rate):
    """Half a cosine from 1 down to ``end`` at the last step. Loshchilov & Hutter 2017 (arXiv 1608.03983), eq. 5."""

    end: float = 0.0
    """The share that is left at the end."""

    def __post_init__(self) -> None:
        """Raises ``WrongUse`` for an end that is no share."""
        if not 0 <= self.end <= 1:
            raise WrongUse(f"[train.rate] end = {self.end}: is a share, from 0 to 1")

    @property
    def looks_ahead(self) -> bool:
        """Yes."""
        return True

    def __call__(self, step: int, total: int) -> float:
        """end + (1 − end) (1 + cos(π step / total)) / 2."""
        return self.end + (1 - self.end) * (1 + math.cos(math.pi * min(step / total, 1.0))) / 2


@dataclass(frozen=True, kw_only=True)
class InverseSqrtRate(Rate):
    """1 for ``after`` steps, then falling as 1/√step. Karras et al. 2024 (arXiv 2312.02696), equation 67."""

    after: int = 70_000
    """The step from which on it falls; that paper's value for small networks on ImageNet."""

    def __post_init__(self) -> None:
        """Raises ``WrongUse`` for a number of steps below 1."""
        if self.after < 1:
            raise WrongUse(f"[train.rate] after = {self.after}: must be at least 1 step")

    @property
    def looks_ahead(self) -> bool:
        """No."""
        return False

    def __call__(self, step: int, total: int) -> float:
        """1 / √max(step / after, 1)."""
        return 1 / math.sqrt(max(step / self.after, 1.0))
