"""The density of the probability flow: Song et al. 2021 (arXiv 2011.13456), equations 13 and 39.

In x̂ = x_t / signal, ρ = sigma / signal and τ = log ρ the flow and the density along it are

    dx̂/dτ = ρ eps(signal · x̂),      d log p(x̂)/dτ = −ρ div eps = −ρ tr(∂eps/∂x̂)

solved from the smallest level up to the top of the schedule, where x_T is N(0, variance) and
log p(x̂_T) = log p(x_T) + D log signal_T. For directions v with Σ v vᵀ = I the trace is Σ vᵀ (∂eps/∂x̂) v: exactly for
the D unit vectors, in the mean for k vectors of random signs / √k (Hutchinson 1990; Grathwohl et al. 2019, arXiv
1810.01367). They stay the same along the flow, so that it is as smooth as the network.

The result is log p(x̂) at the smallest level: of a picture with noise of deviation ρ added. With pictures dequantised
evenly over their grey level's bin, −log2 p / D + log2 127.5 is, in the mean and up to the solver's error, an upper
bound on the bits per dimension of the model that stops the flow there and rounds to grey levels (Ho et al. 2019,
arXiv 1902.00275, section 3.1). It is not the variational bound of the chain, which ends with a step of its own.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fromnoise.denoiser import Estimator
from fromnoise.ladder.base import SMALLEST_RATIO
from fromnoise.likelihood.bound import prior_variance
from fromnoise.noise import generator
from fromnoise.runge_kutta import RungeKutta4, Solver, State
from fromnoise.schedule import Level, Schedule, cast

_LARGEST = 1e3
"""ρ at the top where the schedule itself leaves no signal there."""

_GREY_LEVELS = 127.5
"""Grey levels in a unit of x_0."""


@dataclass(frozen=True)
class Flowing:
    """``share`` of the way is done, with ``nfe`` calls of the network."""

    share: float
    nfe: int


@dataclass(frozen=True)
class Density:
    """log p(x̂) at the smallest level, nats, (B,) float64 on the CPU, for pictures of ``dims`` dimensions."""

    nats: Tensor
    dims: int
    nfe: int

    @property
    def bits_per_dim(self) -> Tensor:
        """For grey levels of width 1 / 127.5, see the module; (B,)."""
        return math.log2(_GREY_LEVELS) - self.nats / (self.dims * math.log(2))


@dataclass(frozen=True, kw_only=True)
class Flow:
    """How the density is found: which steps, and how many random ``probes`` for the divergence.

    ``probes`` = None takes the exact divergence, with one backward pass a dimension: for small pictures. ``smallest``
    is ρ where the flow ends, on schedules that have it; on those that count steps it ends at time 1.
    """

    solver: Solver = field(default_factory=RungeKutta4)
    probes: int | None = 1
    smallest: float = SMALLEST_RATIO

    def __post_init__(self) -> None:
        """Raises ``ValueError`` for no probes at all and a level that is none."""
        if self.probes is not None and self.probes < 1:
            raise ValueError(f"probes = {self.probes}: must be at least 1, or None for the exact divergence")
        if not self.smallest > 0:
            raise ValueError(f"smallest = {self.smallest}: must be above 0")

    @property
    def summary(self) -> str:
        """In a few words, for reports."""
        count = "1 probe" if self.probes == 1 else f"{self.probes} probes"
        how = "exact divergence" if self.probes is None else f"Hutchinson's estimate with {count}"
        return f"probability flow, {how}, {self.solver.summary}"

    def directions(self, seeds: Sequence[int], x: Tensor) -> Tensor:
        """For the divergence, one seed a picture of ``x`` (B, ...)."""
        return every_direction(x) if self.probes is None else random_directions(seeds, self.probes, x)


def every_direction(x: Tensor) -> Tensor:
    """The D unit vectors for every picture of ``x`` (B, ...): (D, B, ...)."""
    dims = x[0].numel()
    unit = torch.eye(dims, dtype=x.dtype, device=x.device).reshape(dims, 1, *x.shape[1:])
    return unit.expand(dims, *x.shape)


def random_directions(seeds: Sequence[int], count: int, x: Tensor) -> Tensor:
    """``count`` vectors of random signs / √count for every picture of ``x`` (B, ...), by its seed: (count, B, ...)."""
    bits = [torch.randint(2, (count, *x.shape[1:]), generator=generator("probes", seed)) for seed in seeds]
    return (2 * torch.stack(bits, 1) - 1).to(x) / math.sqrt(count)


def dequantised(x_0: Tensor, seeds: Sequence[int]) -> Tensor:
    """Pictures (B, C, H, W) of grey levels, each value moved evenly within its bin of width 1 / 127.5, by seed."""
    u = torch.stack([torch.rand(x_0.shape[1:], generator=generator("dequantise", seed)) for seed in seeds])
    return x_0 + (u.to(x_0) - 0.5) / _GREY_LEVELS


def log_density(
    denoiser: Estimator, x: Tensor, directions: Tensor, flow: Flow | None = None, **condition: Any
) -> Iterator[Flowing | Density]:
    """The flow's density at ``x`` (B, C, H, W), in steps; the last event is the :class:`Density`.

    ``directions`` (k, B, C, H, W) are those of the divergence, see the module. The estimate is taken unclipped, and may
    be asked for between whole times. Works under ``torch.inference_mode`` too. Raises ``ValueError`` where the solver
    cannot go on.
    """
    flow = flow or Flow()
    bottom, top = _ends(denoiser.schedule, flow.smallest)
    dims, nfe = x[0].numel(), 0

    def slope(y: State, tau: Tensor) -> State:
        nonlocal nfe
        nfe += 1
        level = denoiser.schedule.at(-2 * tau)
        with torch.inference_mode(False), torch.enable_grad():
            at = y[0].detach().clone().requires_grad_()
            eps = denoiser.unclipped(cast(level.signal, at) * at, level, **condition).eps
            trace = torch.zeros_like(y[1])
            for k, v in enumerate(directions):
                (pulled,) = torch.autograd.grad(eps, at, v.clone(), retain_graph=k + 1 < len(directions))
                trace = trace + (pulled * v).flatten(1).mean(1)
        rho = tau.exp()
        return cast(rho, eps) * eps.detach(), cast(rho, trace) * trace

    # The second part of y is the divergence so far, per dimension: of the order of 1, so that float32 will do.
    start: State = (x, torch.zeros(x.shape[0], dtype=x.dtype, device=x.device))
    point = 0.0, start
    for point in flow.solver(slope, start, _log_ratio(bottom), _log_ratio(top)):
        yield Flowing(point[0], nfe)
    x_T, gathered = point[1]
    end = top.signal * x_T.cpu().double().flatten(1)
    variance = prior_variance(top)
    at_top = -0.5 * (end.square() / variance + math.log(2 * math.pi * variance)).sum(1) + dims * top.signal.log()
    yield Density(at_top + dims * gathered.cpu().double(), dims, nfe)


def _ends(schedule: Schedule, smallest: float) -> tuple[Level, Level]:
    def at(rho: float) -> Level:
        return schedule.at(torch.tensor(-2 * math.log(rho), dtype=torch.float64))

    top = schedule(schedule.horizon)
    return schedule(1.0) if schedule.whole else at(smallest), top if top.signal > 0 else at(_LARGEST)


def _log_ratio(level: Level) -> Tensor:
    return -level.half_log_snr
