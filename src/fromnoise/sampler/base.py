"""Samplers: rules for going from x_t to x_s, and the one loop that applies them."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from fromnoise.denoiser import Prediction
from fromnoise.noise import Noise
from fromnoise.schedule.base import Level, Schedule

State = TypeVar("State")

Denoise = Callable[[Tensor, Level], Prediction]
"""A denoiser with its condition already given: (x_t, level) -> Prediction."""


@dataclass(frozen=True)
class Step:
    """What one step of the loop did: ``x`` is x_s, ``prediction`` the last one made, ``nfe`` the calls so far."""

    x: Tensor
    prediction: Prediction
    t: float
    s: float
    nfe: int


class Sampler(ABC, Generic[State]):
    """One update rule. ``State`` is what multi-step rules remember; it is passed and returned, never stored."""

    @abstractmethod
    def init(self) -> State:
        """The state before the first step."""

    @abstractmethod
    def step(
        self, denoise: Denoise, x_t: Tensor, t: Level, s: Level, state: State, noise: Noise
    ) -> tuple[Tensor, State]:
        """x_t -> x_s; ``denoise`` may be called any number of times, ``noise`` gives the next draw."""


class _Counted:
    """Remembers the last prediction and the number of calls."""

    def __init__(self, denoise: Callable[..., Prediction], condition: dict[str, Any]) -> None:
        self._denoise, self._condition = denoise, condition
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
    """The loop: down the ladder from ``x_T`` (B, C, H, W), one :class:`Step` a rung.

    The ladder is on the CPU, so no step waits for the device. Raises ``ValueError`` for a ladder that does not
    decrease to 0.
    """
    if ladder.ndim != 1 or ladder.numel() < 2 or ladder[-1] != 0 or not bool((ladder.diff() < 0).all()):
        raise ValueError("a ladder is a strictly decreasing list of at least two times that ends at 0")
    levels, times = schedule(ladder), ladder.tolist()
    counted, state, x = _Counted(denoiser, condition), sampler.init(), x_T
    for i in range(len(times) - 1):
        with torch.inference_mode():
            x, state = sampler.step(counted, x, levels[i], levels[i + 1], state, noise)
        if counted.last is None:
            raise ValueError(f"{type(sampler).__name__} did not call the denoiser in its first step")
        yield Step(x, counted.last, times[i], times[i + 1], counted.nfe)
