"""What the paper's schedules have in common: T steps, each of which mixes in a little noise of variance β_t.

    α_t = 1 − β_t,   ᾱ_t = α_1 · … · α_t,   signal_t = √ᾱ_t,   sigma_t = √(1 − ᾱ_t)

The clock counts 0, 1, …, T; integers are exact nodes and 0 is the clean picture (ᾱ_0 = 1). Between two nodes from 1 on,
log-SNR is linear in t: solvers whose sources evaluate a network there (DPM-Solver, EDM on others' networks) need that
much. Between 0 and 1 there is nothing, for the clean picture's log-SNR is infinite.
Source: Ho, Jain, Abbeel 2020 (arXiv 2006.11239), section 2 and equation 4.
"""

from abc import abstractmethod
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

    @property
    def whole(self) -> bool:
        """Yes."""
        return True

    def __call__(self, t: Tensor | float) -> Level:
        """The level at time(s) 0 and 1 … T: exact at whole times. Raises ``ValueError`` for others."""
        t = torch.as_tensor(t, dtype=torch.float64, device="cpu")
        if not bool((((t >= 1) & (t <= self.horizon)) | (t == 0)).all()):
            raise ValueError(f"this schedule knows the times 0 and 1 … {self.horizon:g}, not {_brief(t)}")
        below = t.floor().long()
        alpha_bar = self.alpha_bar[below]
        signal, sigma = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
        part = t - below
        if bool((part > 0).any()):
            left = signal.log() - sigma.log()
            above = self.alpha_bar[(below + 1).clamp(max=int(self.horizon))]
            right = 0.5 * (above.log() - (1 - above).log())
            log_snr = 2 * torch.where(part > 0, left + part * (right - left), left)
            signal = torch.where(part > 0, log_snr.sigmoid().sqrt(), signal)
            sigma = torch.where(part > 0, (-log_snr).sigmoid().sqrt(), sigma)
        return Level(t, signal, sigma)

    @cached_property
    def _nodes(self) -> Tensor:
        """log-SNR at 1 … T."""
        return self(torch.arange(1, self.beta.numel() + 1)).log_snr

    def time(self, log_snr: Tensor) -> Tensor:
        """The time with this log-SNR: exact at the nodes 1 … T, linear in log-SNR between them, ends outside."""
        node = self._nodes
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
