"""Noise schedules: a clock, and a pair (signal, sigma) for every time on it."""

from fromnoise.schedule.base import Level, Schedule, cast, noisy
from fromnoise.schedule.continuous import (
    EDM,
    ContinuousCosine,
    ContinuousSchedule,
    ContinuousSigmoid,
    Rectified,
    VariancePreserving,
)
from fromnoise.schedule.discrete import DiscreteSchedule
from fromnoise.schedule.tables import (
    Constant,
    Cosine,
    Given,
    Jsd,
    Laplace,
    Linear,
    Quad,
    ScaledLinear,
    Sigmoid,
    Warmup,
    ZeroTerminalSNR,
)

__all__ = [
    "EDM",
    "Constant",
    "ContinuousCosine",
    "ContinuousSchedule",
    "ContinuousSigmoid",
    "Cosine",
    "DiscreteSchedule",
    "Given",
    "Jsd",
    "Laplace",
    "Level",
    "Linear",
    "Quad",
    "Rectified",
    "ScaledLinear",
    "Schedule",
    "Sigmoid",
    "VariancePreserving",
    "Warmup",
    "ZeroTerminalSNR",
    "cast",
    "noisy",
]
