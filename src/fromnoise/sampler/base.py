"""Samplers: rules for going from x_t to x_s, and the one loop that applies them."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from fromnoise.denoiser import Prediction
from fromnoise.noise import Noise
from fromnoise.schedule.base import Level, Schedule
from fromnoise.transition import Variance

State = TypeVar("State")


class Denoise(Protocol):
    """A denoiser with its condition already given, and the schedule it was trained on."""

    @property
    def schedule(self) -> Schedule:
        """For solvers that evaluate between two rungs of the ladder."""
        ...

    def __call__(self, x_t: Tensor, level: Level) -> Prediction:
        """(B, C, H, W) at one level, or at one each."""
        ...


@dataclass(frozen=True)
class Step:
    """What one step of the loop did: ``x`` is x_s, ``prediction`` the last one made, ``nfe`` the calls so far."""

    x: Tensor
    prediction: Prediction
    t: float
    s: float
    nfe: int


@dataclass(frozen=True, kw_only=True)
class Traits:
    """What there is to know of a rule before it is used."""

    order: int
    """Of convergence: halving the steps' width divides the error by 2^order. For stochastic rules, of the moments."""
    calls: int = 1
    """Network calls a step, at most; 0 where the rule itself decides."""
    least_steps: int = 1
    """A ladder must have this many steps."""
    stochastic: bool = False
    """Whether it draws noise on the way."""
    between: bool = False
    """Whether it may evaluate a network between the whole times it was trained on, as its source does."""
    upward: bool = False
    """Whether it goes from the picture to the noise."""
    variance: Variance | None = None
    """The variance of its steps, where that is a choice."""


class Sampler(ABC, Generic[State]):
    """One update rule. ``State`` is what multi-step rules remember; it is passed and returned, never stored."""

    @property
    @abstractmethod
    def traits(self) -> Traits:
        """What the rule promises and asks for."""

    @abstractmethod
    def init(self, steps: int) -> State:
        """The state before the first of so many steps."""

    @abstractmethod
    def step(
        self, denoise: Denoise, x_t: Tensor, t: Level, s: Level, state: State, noise: Noise
    ) -> tuple[Tensor, State]:
        """x_t -> x_s; ``denoise`` may be called any number of times, ``noise`` gives the next draw."""


class _Counted:
    """Remembers the last prediction and the number of calls."""

    def __init__(self, denoise: Callable[..., Prediction], schedule: Schedule, condition: dict[str, Any]) -> None:
        self._denoise, self._condition = denoise, condition
        self.schedule = schedule
        self.nfe = 0
        self.last: Prediction | None = None

    def __call__(self, x_t: Tensor, level: Level) -> Prediction:
        self.nfe += 1
        self.last = self._denoise(x_t, level, **self._condition)
        return self.last


def trajectory(
    sampler: Sampler[Any],
    denoiser: Callable[..., Prediction],
    schedule: Schedule,
    ladder: Tensor,
    x_T: Tensor,
    noise: Noise,
    **condition: Any,
) -> Iterator[Step]:
    """The loop: down the ladder from ``x_T`` (B, C, H, W), one :class:`Step` a rung; up, for rules that go upward.

    The ladder is on the CPU, so no step waits for the device. Raises ``ValueError`` for a ladder that does not
    decrease to 0 and for one that does not suit the sampler (see :func:`check`).
    """
    check(sampler, schedule, ladder)
    rungs = ladder.flip(0) if sampler.traits.upward else ladder
    levels, times = schedule(rungs), rungs.tolist()
    counted, state, x = _Counted(denoiser, schedule, condition), sampler.init(len(times) - 1), x_T
    for i in range(len(times) - 1):
        with torch.inference_mode():
            x, state = sampler.step(counted, x, levels[i], levels[i + 1], state, noise)
        if counted.last is None:
            raise ValueError(f"{type(sampler).__name__} did not call the denoiser in its first step")
        yield Step(x, counted.last, times[i], times[i + 1], counted.nfe)


def check(sampler: Sampler[Any], schedule: Schedule, ladder: Tensor) -> None:
    """Raises ``ValueError``, with what would be right, for a ladder that this sampler cannot go down."""
    if ladder.ndim != 1 or ladder.numel() < 2 or ladder[-1] != 0 or not bool((ladder.diff() < 0).all()):
        raise ValueError("a ladder is a strictly decreasing list of at least two times that ends at 0")
    name, traits, steps = type(sampler).__name__, sampler.traits, ladder.numel() - 1
    if steps < traits.least_steps:
        raise ValueError(
            f"{name} as it is set needs at least {traits.least_steps} steps, not {steps}; take more steps or a "
            f"lower order"
        )
    if schedule.whole and not traits.between and not torch.equal(ladder, ladder.round()):
        raise ValueError(
            f"{name} visits only the whole times that the network was trained on; take a spacing that keeps to them, "
            f"or a sampler that may go between them"
        )
