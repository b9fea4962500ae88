"""How probable a model finds pictures: the variational bound term by term, and the probability flow's density."""

from fromnoise.likelihood.bound import Bound, Term, mean_and_error, prior, prior_variance, strata, terms, total
from fromnoise.likelihood.flow import (
    Density,
    Flow,
    Flowing,
    dequantised,
    every_direction,
    log_density,
    random_directions,
)
from fromnoise.likelihood.rate import Profile, RatePoint, reconstructions

__all__ = [
    "Bound",
    "Density",
    "Flow",
    "Flowing",
    "Profile",
    "RatePoint",
    "Term",
    "dequantised",
    "every_direction",
    "log_density",
    "mean_and_error",
    "prior",
    "prior_variance",
    "random_directions",
    "reconstructions",
    "strata",
    "terms",
    "total",
]
