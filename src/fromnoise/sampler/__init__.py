"""Samplers: one update rule a file; the loop is in ``base``."""

from fromnoise.sampler.ancestral import Ancestral
from fromnoise.sampler.base import Sampler, Step, trajectory

__all__ = ["Ancestral", "Sampler", "Step", "trajectory"]
