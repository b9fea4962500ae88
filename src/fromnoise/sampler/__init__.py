"""Samplers: one update rule a file, the loop once in ``base``."""

from fromnoise.sampler.adaptive import Adaptive
from fromnoise.sampler.ancestral import Ancestral
from fromnoise.sampler.base import Denoise, Sampler, Step, Traits, check, trajectory
from fromnoise.sampler.ddim import DDIM, DDIMLarge
from fromnoise.sampler.deis import DEIS, IPNDM
from fromnoise.sampler.dpm import DPMSolver2M, DPMSolver2MSDE, DPMSolver2S, DPMSolver3M
from fromnoise.sampler.euler import Euler, EulerAncestral
from fromnoise.sampler.heun import Heun
from fromnoise.sampler.inversion import Inversion
from fromnoise.sampler.unipc import UniPC

__all__ = [
    "DDIM",
    "DEIS",
    "IPNDM",
    "Adaptive",
    "Ancestral",
    "DDIMLarge",
    "DPMSolver2M",
    "DPMSolver2MSDE",
    "DPMSolver2S",
    "DPMSolver3M",
    "Denoise",
    "Euler",
    "EulerAncestral",
    "Heun",
    "Inversion",
    "Sampler",
    "Step",
    "Traits",
    "UniPC",
    "check",
    "trajectory",
]
