"""A preset fitted to the pictures: to their side, to their number, and to how often a run shows each of them.

The preset is chosen by the short side. Nobody having named one, four things of it are then fitted, each only where the
person said nothing about it:

* **Attention** goes to the levels there are: where a preset for 64 pixels attends at 16 and 8, pictures of 48 have
  levels of 12 and 6.
* **Length.** A model learns to make pictures in a time that hardly depends on their number, and repeats those that it
  has seen after one that grows with it (Bonnaire, Urfin, Biroli, Mézard 2025, arXiv 2505.17638). So a preset's steps
  are kept, but no picture is shown more often than the paper showed those of CIFAR-10: 800,000 steps of 128 out of
  50,000 are 2048 passes (Ho et al. 2020, arXiv 2006.11239, appendix B); nor less often than once.
* **Dropout and augmentation**, of the nearest data set in Karras et al. 2022 (arXiv 2206.00364, table 7), which all go
  by thousands of times there:

      below 48 pixels                         CIFAR-10, 50,000    dropout 0.13, augmentation 0.12
      from 48 pixels, below 30,000 pictures   AFHQv2, 15,803      dropout 0.25, augmentation 0.15
      from 48 pixels, 30,000 and more         FFHQ, 70,000        dropout 0.05, augmentation 0.15
      any side, 300,000 and more              ImageNet            dropout 0.10, no augmentation

  They are taken for a run that shows each picture 200 times or more. In a shorter one there is little to protect from,
  and an augmentation that changes two pictures of five costs more than it gives. The bounds between data sets are the
  geometric means of their sizes, rounded; the bound of 200 is a judgement. The digits' preset, below 12 pixels, is as
  it is: of so few pixels, a turned picture is a blurred one.
* **The average** that is sampled from is over a tenth of the run so far (``ema_ramp``), whatever the length; where that
  would be cut short by the largest decay, 1 − 1/10,000, the decay is raised to a twentieth of the run, the least of the
  lengths that Karras et al. 2024 (arXiv 2312.02696) keep.

Mirroring is never chosen, and neither is turning upside down: letters and digits are not to be mirrored, and nobody but
the person knows what the pictures are. The width of the network is the preset's: it decides what a step costs.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import math

from fromnoise.checkpoint import RunFolder
from fromnoise.config import Config, parse, preset, preset_for, to_tree
from fromnoise.errors import FromnoiseError
from fromnoise.schema import merge, read_toml
from fromnoise.task.resume import saved_settings

LENGTHS = frozenset({"steps", "epochs", "images"})
MOST_PASSES = 2048
OFTEN = 200
"""Passes over the data from which on a run is protected from learning them by heart."""

_MANY, _FEW = 300_000, 30_000  # pictures
_LARGE, _TINY = 48, 12  # pixels
_EMA_STEPS = 10_000  # the paper's average, 1 / (1 − 0.9999)
_EMA_SHARE = 0.05


@dataclass(frozen=True)
class Recipe:
    """What protects a model from learning its pictures by heart."""

    dropout: float
    augment: float


CIFAR, AFHQ, FFHQ, IMAGENET = Recipe(0.13, 0.12), Recipe(0.25, 0.15), Recipe(0.05, 0.15), Recipe(0.10, 0.0)


def recipe(side: int, pictures: int) -> Recipe:
    """Of the nearest data set in Karras et al. 2022, table 7, for pictures with this short side."""
    if pictures >= _MANY:
        return IMAGENET
    if side < _LARGE:
        return CIFAR
    return AFHQ if pictures < _FEW else FFHQ
