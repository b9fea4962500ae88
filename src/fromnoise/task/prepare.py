"""From what a person typed to settled settings and loaded pictures."""

import contextlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fromnoise.config import Config, parse, preset, preset_for
from fromnoise.data import Dataset, Fit, Source, Unreadable, auto_channels, load, open_source, stratified_split
from fromnoise.errors import WrongUse
from fromnoise.schema import merge

_LENGTHS = {"steps", "epochs", "images"}
_SIDES = (8, 16, 32, 64)
_LOOK = 32


@dataclass(frozen=True)
class Prepared:
    """Settled settings, the pictures to train on, and those held out (``None`` if none are)."""

    config: Config
    training: Dataset
    held_out: Dataset | None


def settle(tree: Mapping[str, Any], *, preset_name: str | None, source: str) -> tuple[Config, Source]:
    """Settings in which nothing about the pictures is left open, and the opened source.

    ``tree`` has what the person said; it wins over the preset. Without a preset, one is chosen by the size of the
    pictures, and without a size, the largest of 8, 16, 32 and 64 pixels that most of them reach. Raises ``WrongUse``.
    """
    base = preset(preset_name) if preset_name else {}
    parse(base, f"preset {preset_name}")  # So that a mistake in a person's own file is told by the file's name.
    data = parse({"data": merge(base, tree).get("data", {})}, source).data
    pictures = open_source(data.path, classes=data.classes)
    height = data.height or data.width or _side(pictures)
    width = data.width or height
    if not preset_name:
        base = _fitted(preset(preset_for(min(height, width))), min(height, width))
    if _LENGTHS & tree.get("train", {}).keys():  # One length replaces another, not only its namesake.
        base = {**base, "train": {k: v for k, v in base.get("train", {}).items() if k not in _LENGTHS}}
    found = {
        "height": height,
        "width": width,
        "channels": data.channels or auto_channels(pictures),
        "class_names": list(pictures.classes),
    }
    return parse(merge(merge(base, tree), {"data": found}), source), pictures


def read_pictures(
    config: Config, source: Source, progress: Callable[[int, int], None] | None = None
) -> tuple[Dataset, Dataset | None]:
    """Decode everything; split off what is held out. ``progress`` gets (done, total). Raises ``WrongUse``."""
    data = config.data
    assert data.height is not None and data.width is not None and data.channels is not None
    fit = Fit(height=data.height, width=data.width, channels=data.channels, background=data.background)
    everything = load(source, fit, strict=data.strict, progress=progress)
    if not data.held_out:
        return everything, None
    labels = np.zeros(len(everything), int) if everything.labels is None else everything.labels.numpy()
    training, held_out = stratified_split(labels, held_out=data.held_out)
    return everything.subset(training), everything.subset(held_out)


def prepare(
    tree: Mapping[str, Any],
    *,
    preset_name: str | None,
    source: str = "the settings",
    progress: Callable[[int, int], None] | None = None,
) -> Prepared:
    """:func:`settle`, then :func:`read_pictures`."""
    config, pictures = settle(tree, preset_name=preset_name, source=source)
    training, held_out = read_pictures(config, pictures, progress)
    if training.labels is not None and len(training.classes) < 2:
        raise WrongUse(f"{config.data.path} has only one class ({', '.join(training.classes)}): train without classes")
    if training.labels is None:
        config = replace(config, data=replace(config.data, class_names=()))
    return Prepared(config, training, held_out)


def _fitted(base: dict[str, Any], side: int) -> dict[str, Any]:
    """A preset chosen for pictures of about this side, with its attention at the levels they have.

    Where a preset for 64 pixels attends at 16 and 8, pictures of 48 have levels of 12 and 6.
    """
    network = base["network"]
    levels = [side / 2**level for level in range(len(network["channel_mult"]))]
    wanted = {min(levels, key=lambda size: abs(math.log2(size / at))) for at in network["attention_resolutions"]}
    sizes = sorted((int(size) for size in wanted if size == int(size)), reverse=True)
    return {**base, "network": {**network, "attention_resolutions": sizes}}


def _side(pictures: Source) -> int:
    """The largest usual side that at least half of the pictures looked at can fill without being enlarged."""
    sides = []
    for index in np.unique(np.linspace(0, len(pictures) - 1, min(_LOOK, len(pictures))).astype(int)):
        with contextlib.suppress(Unreadable):  # Loading will name it.
            height, width, _ = pictures.read(int(index)).shape
            sides.append(min(height, width))
    typical = sorted(sides)[len(sides) // 2] if sides else _SIDES[-1]
    return max((side for side in _SIDES if side <= typical), default=_SIDES[0])
