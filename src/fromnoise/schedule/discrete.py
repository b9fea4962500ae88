"""Schedules of the paper: T steps, each of which mixes in a little noise of variance β_t.

    α_t = 1 − β_t,   ᾱ_t = α_1 · … · α_t,   signal_t = √ᾱ_t,   sigma_t = √(1 − ᾱ_t)

The clock counts 0, 1, …, T; integers are exact nodes and 0 is the clean picture (ᾱ_0 = 1).
Source: Ho, Jain, Abbeel 2020 (arXiv 2006.11239), section 2 and equation 4.
"""

from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from fromnoise.schedule.base import Level, Schedule


class DiscreteSchedule(Schedule):
    """A schedule given by its table of β. Sub-classes say only what the table is."""

    @abstractmethod
    def betas(self) -> Tensor:
        """β_1 … β_T, float64, shape (T,)."""

    @cached_property
    def beta(self) -> Tensor:
        """The checked table, float64, shape (T,). Raises ``ValueError`` unless 0 < β < 1 (β_T = 1 is allowed)."""
        beta = self.betas().to(torch.float64)
        if beta.ndim != 1 or beta.numel() == 0:
            raise ValueError(f"a beta table is a list of numbers, not of shape {tuple(beta.shape)}")
        # β_T = 1 is the zero-terminal-SNR schedule. A ramp that merely hits its ceiling there is a mistake.
        highest = beta[:-1].max().item() if beta.numel() > 1 else 0.0
        if not (beta.min() > 0 and (1 - beta).max() < 1 and highest < 1 and beta[-1] <= 1):
            raise ValueError(
                f"{type(self).__name__} with {beta.numel()} steps gives beta from {beta.min():.4g} to "
                f"{beta.max():.4g}; every beta must lie strictly between 0 and 1: take more steps or smaller betas"
            )
        return beta

    @cached_property
    def alpha_bar(self) -> Tensor:
        """ᾱ_0 = 1, ᾱ_1 … ᾱ_T, float64, shape (T + 1,)."""
        return torch.cat([torch.ones(1, dtype=torch.float64), (1 - self.beta).cumprod(0)])

    @property
    def horizon(self) -> float:
        """T, the number of steps."""
        return float(self.beta.numel())

    def __call__(self, t: Tensor | float) -> Level:
        """The level at integer time(s) 0 … T. Raises ``ValueError`` for others."""
        t = torch.as_tensor(t, dtype=torch.float64, device="cpu")
        index = t.round().long()
        if not torch.equal(index.double(), t) or bool(((index < 0) | (index > self.horizon)).any()):
            raise ValueError(f"this schedule knows the whole times 0 … {self.horizon:g}, not {_brief(t)}")
        alpha_bar = self.alpha_bar[index]
        return Level(t, alpha_bar.sqrt(), (1 - alpha_bar).sqrt())

    def time(self, log_snr: Tensor) -> Tensor:
        """The time with this log-SNR: exact at the nodes 1 … T, linear in log-SNR between them, ends outside."""
        node = self(torch.arange(1, self.beta.numel() + 1)).log_snr
        wanted = torch.as_tensor(log_snr, dtype=torch.float64)
        right = torch.searchsorted(-node, -wanted).clamp(1, max(node.numel() - 1, 1))
        left, right = right - 1, right.clamp(max=node.numel() - 1)
        inside = ((node[left] - wanted) / (node[left] - node[right])).nan_to_num(0.0).clamp(0, 1)
        # The node itself by comparison: where no signal is left its log-SNR is −inf, and the quotient says nothing.
        part = torch.where(wanted <= node[right], torch.ones_like(inside), inside)
        return (left + 1 + part).clamp(max=self.horizon)


def _brief(t: Tensor) -> str:
    values = t.reshape(-1).tolist()
    return ", ".join(f"{v:g}" for v in values[:4]) + (" …" if len(values) > 4 else "")


def _line(first: float, last: float, steps: int) -> Tensor:
    if steps < 1:
        raise ValueError(f"a schedule needs at least 1 step, not {steps}")
    return torch.linspace(first, last, steps, dtype=torch.float64)


@dataclass(frozen=True, kw_only=True)
class Linear(DiscreteSchedule):
    """β in equal steps from ``first`` to ``last``: the paper's, 1e-4 to 0.02 over 1000 steps.

    Left out, the ends are scaled by 1000 / ``steps``, so that any number of steps ends in the same noise
    (Nichol & Dhariwal 2021, arXiv 2102.09672); that needs more than 20 steps, or β would reach 1.
    """

    steps: int = 1000
    first: float | None = None
    last: float | None = None

    def betas(self) -> Tensor:
        """β_t = first + (last − first)(t − 1)/(T − 1)."""
        scale = 1000 / max(self.steps, 1)
        first = 1e-4 * scale if self.first is None else self.first
        last = 0.02 * scale if self.last is None else self.last
        if last >= 1 and self.steps > 0:
            raise ValueError(
                f"a linear schedule of {self.steps} steps reaches beta = {last:.3g}; beta must stay below 1: "
                f"take more than 20 steps, or give 'last' yourself"
            )
        return _line(first, last, self.steps)


@dataclass(frozen=True, kw_only=True)
class Quad(DiscreteSchedule):
    """√β in equal steps. One of the tables in the paper's released code; not the one it reports."""

    steps: int = 1000
    first: float = 1e-4
    last: float = 0.02

    def betas(self) -> Tensor:
        """β_t = (√first + (√last − √first)(t − 1)/(T − 1))²."""
        if not (self.first > 0 and self.last > 0):
            raise ValueError(f"first = {self.first} and last = {self.last} must both be above 0")
        return _line(self.first**0.5, self.last**0.5, self.steps).square()


@dataclass(frozen=True, kw_only=True)
class ScaledLinear(DiscreteSchedule):
    """The law of :class:`Quad` with the ends of latent diffusion (Rombach et al. 2022, arXiv 2112.10752)."""

    steps: int = 1000
    first: float = 0.00085
    last: float = 0.012

    def betas(self) -> Tensor:
        """As in :class:`Quad`."""
        return Quad(steps=self.steps, first=self.first, last=self.last).betas()


@dataclass(frozen=True, kw_only=True)
class Constant(DiscreteSchedule):
    """The same β at every step. One of the tables in the paper's released code."""

    steps: int = 1000
    value: float = 0.02

    def betas(self) -> Tensor:
        """β_t = value."""
        return _line(self.value, self.value, self.steps)


@dataclass(frozen=True, kw_only=True)
class Cosine(DiscreteSchedule):
    """ᾱ follows a squared cosine. Nichol & Dhariwal 2021 (arXiv 2102.09672), equation 17; s = 0.008, β ≤ 0.999."""

    steps: int = 1000
    offset: float = 0.008
    max_beta: float = 0.999

    def betas(self) -> Tensor:
        """β_t = min(1 − f(t)/f(t − 1), max_beta) with f(t) = cos²((t/T + s)/(1 + s) · π/2)."""
        f = ((_line(0, 1, self.steps + 1) + self.offset) / (1 + self.offset) * (torch.pi / 2)).cos().square()
        return (1 - f[1:] / f[:-1]).clamp(max=self.max_beta)


@dataclass(frozen=True, kw_only=True)
class Sigmoid(DiscreteSchedule):
    """β along a sigmoid from −``sharpness`` to +``sharpness``. Xu et al. 2022 (GeoDiff, arXiv 2203.02923)."""

    steps: int = 1000
    first: float = 1e-4
    last: float = 0.02
    sharpness: float = 6.0

    def betas(self) -> Tensor:
        """β_t = first + (last − first) · sigmoid(line from −sharpness to sharpness)."""
        return self.first + (self.last - self.first) * _line(-self.sharpness, self.sharpness, self.steps).sigmoid()


@dataclass(frozen=True, kw_only=True)
class Given(DiscreteSchedule):
    """The user's own table of β, as it stands."""

    values: tuple[float, ...]

    def betas(self) -> Tensor:
        """``values``."""
        return torch.tensor(self.values, dtype=torch.float64)


@dataclass(frozen=True, kw_only=True)
class ZeroTerminalSNR(DiscreteSchedule):
    """Another schedule, shifted and scaled so that no signal is left at T. Lin et al. 2023 (arXiv 2305.08891), alg. 1.

    The noise cannot be turned back into a picture where there is no signal, so it needs a parameterization other than
    epsilon.
    """

    base: DiscreteSchedule

    def betas(self) -> Tensor:
        """√ᾱ'_t = (√ᾱ_t − √ᾱ_T) · √ᾱ_1 / (√ᾱ_1 − √ᾱ_T), and β from its ratios."""
        signal = self.base.alpha_bar[1:].sqrt()
        if signal.numel() < 2:
            raise ValueError("a schedule of one step cannot be rescaled to zero terminal SNR: take at least 2 steps")
        signal = (signal - signal[-1]) * (signal[0] / (signal[0] - signal[-1]))
        alpha_bar = signal.square()
        return 1 - torch.cat([alpha_bar[:1], alpha_bar[1:] / alpha_bar[:-1]])
