"""Noise schedules: a clock, and a pair (signal, sigma) for every time on it."""

from fromnoise.schedule.base import Level, Schedule, cast, noisy
from fromnoise.schedule.discrete import (
    Constant,
    Cosine,
    DiscreteSchedule,
    Given,
    Linear,
    Quad,
    ScaledLinear,
    Sigmoid,
    ZeroTerminalSNR,
)

__all__ = [
    "Constant",
    "Cosine",
    "DiscreteSchedule",
    "Given",
    "Level",
    "Linear",
    "Quad",
    "ScaledLinear",
    "Schedule",
    "Sigmoid",
    "ZeroTerminalSNR",
    "cast",
    "noisy",
]
