"""Training losses: a distribution of times × a weighting of an error, or the variational bound."""

from fromnoise.objective.base import Loss, Objective
from fromnoise.objective.bound import Bound, Hybrid
from fromnoise.objective.history import History
from fromnoise.objective.simple import Simple
from fromnoise.objective.times import (
    Antithetic,
    Drawn,
    LogitNormal,
    LogNormal,
    LossAware,
    Times,
    UniformSteps,
    UniformTime,
)
from fromnoise.objective.weighting import P2, EDMWeighting, Even, MinSNR, SigmoidSNR, Weighting

__all__ = [
    "P2",
    "Antithetic",
    "Bound",
    "Drawn",
    "EDMWeighting",
    "Even",
    "History",
    "Hybrid",
    "LogNormal",
    "LogitNormal",
    "Loss",
    "LossAware",
    "MinSNR",
    "Objective",
    "SigmoidSNR",
    "Simple",
    "Times",
    "UniformSteps",
    "UniformTime",
    "Weighting",
]
