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

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fromnoise.checkpoint import RunFolder
from fromnoise.config import Config, parse, preset, preset_for, to_tree
from fromnoise.errors import FromnoiseError
from fromnoise.schema import merge
from fromnoise.task.resume import saved_settings
from fromnoise.task.sizing import goes_on

LENGTHS = frozenset({"steps", "epochs", "images"})
MOST_PASSES = 2048
OFTEN = 200
"""Passes over the data from which on a run is protected from learning them by heart."""

_MANY, _FEW = 300_000, 30_000  # pictures
_LARGE, _TINY = 48, 12  # pixels
_EMA_STEPS = 10_000  # of the paper's average: 1 / (1 - 0.9999)
_EMA_SHARE = 0.05


@dataclass(frozen=True)
class Recipe:
    """What protects a model from learning its pictures by heart."""

    dropout: float
    augment: float


CIFAR, AFHQ, FFHQ, IMAGENET = Recipe(0.13, 0.12), Recipe(0.25, 0.15), Recipe(0.05, 0.15), Recipe(0.10, 0.0)


def recipe(side: int, pictures: int) -> Recipe:
    """Of the nearest data set in Karras et al. 2022, for pictures with this short side."""
    if pictures >= _MANY:
        return IMAGENET
    if side < _LARGE:
        return CIFAR
    return AFHQ if pictures < _FEW else FFHQ


def fitted(side: int, pictures: int, said: Mapping[str, Any], run: Path | None = None) -> dict[str, Any]:
    """The settings to lay ``said`` over, for so many ``pictures`` to train on with this short side, in pixels.

    ``said`` is what the person said, of which the length, the batch and whatever else decides how often a picture is
    shown are looked at. If ``run`` is a folder with a run that has a checkpoint, what is fitted here is as it has it:
    a run that is gone on with, for longer perhaps, goes on as it began. Raises ``WrongUse`` for what makes no sense.
    """
    name = preset_for(side)
    base = _attending(preset(name), side)
    open_length = not LENGTHS & said.get("train", {}).keys()
    if not open_length:  # One length replaces another, not only its namesake.
        base = _of_length(base, {})
    train = parse(merge(base, said), "the settings").train
    steps = train.total_steps(pictures)
    within = min(max(steps, -(-pictures // train.batch_size)), -(-MOST_PASSES * pictures // train.batch_size))
    if open_length and steps != within:
        base, steps = _of_length(base, {"epochs": float(MOST_PASSES if within < steps else 1)}), within
    found: dict[str, Any] = {}
    if steps * _EMA_SHARE > _EMA_STEPS:
        found["train"] = {"ema_decay": round(1 - 1 / (steps * _EMA_SHARE), 9)}
    if side >= _TINY and steps * train.batch_size >= OFTEN * pictures:
        wanted = recipe(side, pictures)
        found["network"] = {"dropout": wanted.dropout}
        if wanted.augment:
            augment = {"probability": wanted.augment, "flip_y": False}
            found["train"] = {**found.get("train", {}), "augment": augment}
    return merge(merge(base, found), _as_begun(run, with_length=open_length))


def told(config: Config, pictures: int) -> str:
    """One line on the settings of a run whose preset nobody named."""
    train, data = config.train, config.data
    assert data.height is not None and data.width is not None
    name, steps = preset_for(min(data.height, data.width)), train.total_steps(pictures)
    network: Any = config.network
    augment = f"augmentation {train.augment.probability:g}" if train.augment.active else "no augmentation"
    mirrored = "mirrored by chance" if train.flip or train.augment.flip_x else "never mirrored"
    return (
        f"preset {name}, fitted to {pictures:,} pictures: {steps:,} steps of {train.batch_size}, each picture seen "
        f"about {passes_text(steps * train.batch_size / pictures)} times; dropout {getattr(network, 'dropout', 0):g}, "
        f"{augment}, {mirrored}; --preset {name} takes it as it is"
    )


def passes_text(passes: float) -> str:
    """How often, for people."""
    return f"{passes:,.0f}" if passes >= 10 else f"{passes:.1f}"


def _of_length(base: dict[str, Any], length: Mapping[str, float]) -> dict[str, Any]:
    rest = {key: value for key, value in base.get("train", {}).items() if key not in LENGTHS}
    return {**base, "train": {**rest, **length}}


def _attending(base: dict[str, Any], side: int) -> dict[str, Any]:
    """The preset with its attention at the levels that pictures of this side have."""
    network = base["network"]
    levels = [side / 2**level for level in range(len(network["channel_mult"]))]
    wanted = {min(levels, key=lambda size: abs(math.log2(size / at))) for at in network["attention_resolutions"]}
    sizes = sorted((int(size) for size in wanted if size == int(size)), reverse=True)
    return {**base, "network": {**network, "attention_resolutions": sizes}}


def _as_begun(run: Path | None, *, with_length: bool) -> dict[str, Any]:
    """What the run there has of all that is fitted; nothing if there is none to go on with."""
    if run is None or not goes_on(run):
        return {}
    try:
        config = saved_settings(RunFolder(run))
    except FromnoiseError:
        return {}  # Whoever goes on with the run will say so.
    if config is None:
        return {}
    tree = to_tree(config)
    train = {key: tree["train"][key] for key in ("augment", "ema_decay")}
    if with_length and config.train.rate.looks_ahead:  # It knows its end.
        train |= {key: value for key, value in tree["train"].items() if key in LENGTHS}
    return {"train": train, "network": {key: value for key, value in tree["network"].items() if key == "dropout"}}
