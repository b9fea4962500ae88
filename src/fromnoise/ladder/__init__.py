"""Which times a sampler visits. A ladder is a decreasing float64 list on the CPU that ends at 0, the clean picture."""

from fromnoise.ladder.base import Spacing, with_end
from fromnoise.ladder.clock import All, GivenTimes, Leading, Linspace, Quadratic, Strided, Trailing
from fromnoise.ladder.noise import ByNoise, Karras, UniformLogSNR

__all__ = [
    "All",
    "ByNoise",
    "GivenTimes",
    "Karras",
    "Leading",
    "Linspace",
    "Quadratic",
    "Spacing",
    "Strided",
    "Trailing",
    "UniformLogSNR",
    "with_end",
]
