"""How much the squared error at a noise level counts.

The sources weight the error of x_0, of eps, or of whatever their network gives. These are one thing, for an error of
the output F is an error c_out · F of x_0:

    w_F = c_out² · w_x,   with c_out² = 1 for x_0, 1 / SNR for eps and sigma² for the velocity

so each class below says its weight of the error of x_0.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from fromnoise.parameterization import Parameterization
from fromnoise.schedule import Level


@dataclass(frozen=True, kw_only=True)
class Weighting(ABC):
    """The weight of a level in the loss."""

    @abstractmethod
    def __call__(self, level: Level, parameterization: Parameterization) -> Tensor:
        """Level (B,), noise above 0 -> weights (B,), float64, of the squared error of the network's output."""


@dataclass(frozen=True, kw_only=True)
class Even(Weighting):
    """1 for the network's own output: with epsilon, the paper's L_simple (Ho et al. 2020, equation 14)."""

    def __call__(self, level: Level, parameterization: Parameterization) -> Tensor:
        """Ones."""
        return torch.ones_like(level.signal)


@dataclass(frozen=True, kw_only=True)
class MinSNR(Weighting):
    """w_x = min(SNR, γ): Hang et al. 2023 (arXiv 2303.09556).

    Of eps that is min(SNR, γ) / SNR, of the velocity min(SNR, γ) / (SNR + 1).
    """

    gamma: float = 5.0

    def __post_init__(self) -> None:
        """Raises ``ValueError`` for a limit that leaves nothing."""
        _check_positive("gamma", self.gamma)

    def __call__(self, level: Level, parameterization: Parameterization) -> Tensor:
        """min(SNR, γ) · c_out²."""
        return level.snr.clamp(max=self.gamma) * parameterization.c_out(level).square()


@dataclass(frozen=True, kw_only=True)
class P2(Weighting):
    """w_x = SNR / (k + SNR)^γ: Choi et al. 2022 (arXiv 2204.00227). Of eps: 1 / (k + SNR)^γ; γ = 0 is L_simple."""

    gamma: float = 1.0
    k: float = 1.0

    def __post_init__(self) -> None:
        """Raises ``ValueError`` for values outside the paper's formula."""
        if not self.gamma >= 0:
            raise ValueError(f"gamma = {self.gamma}: must not be negative")
        _check_positive("k", self.k)

    def __call__(self, level: Level, parameterization: Parameterization) -> Tensor:
        """SNR / (k + SNR)^γ · c_out²."""
        return level.snr / (self.k + level.snr) ** self.gamma * parameterization.c_out(level).square()


@dataclass(frozen=True, kw_only=True)
class EDMWeighting(Weighting):
    """w_x = (ρ² + σ_d²) / (ρ σ_d)² with ρ = sigma / signal: Karras et al. 2022 (EDM, arXiv 2206.00364), table 1.

    Weight 1 for the output of EDM's own parameterization, and for the velocity's if ``sigma_data`` is 1.
    """

    sigma_data: float = 0.5

    def __post_init__(self) -> None:
        """Raises ``ValueError`` for data without any spread."""
        _check_positive("sigma_data", self.sigma_data)

    def __call__(self, level: Level, parameterization: Parameterization) -> Tensor:
        """(1 / σ_d² + SNR) · c_out²."""
        return (self.sigma_data**-2 + level.snr) * parameterization.c_out(level).square()


@dataclass(frozen=True, kw_only=True)
class SigmoidSNR(Weighting):
    """Of eps: sigmoid(bias − log SNR), a min-SNR-γ without its corner, at γ = e^bias.

    Kingma & Gao 2023 (arXiv 2303.00848). Theirs weights an even mean over log-SNR; with other times, here as with every
    weighting, their density in log-SNR is a factor of its own.
    """

    bias: float = 2.0

    def __call__(self, level: Level, parameterization: Parameterization) -> Tensor:
        """w_x = SNR · sigmoid(bias − log SNR) = e^bias · sigmoid(log SNR − bias), times c_out²."""
        w_x = math.exp(self.bias) * (level.log_snr - self.bias).sigmoid()
        return w_x * parameterization.c_out(level).square()


def _check_positive(name: str, value: float) -> None:
    if not value > 0:
        raise ValueError(f"{name} = {value}: must be above 0")
