"""From what a person typed to settled settings and loaded pictures."""

import contextlib
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fromnoise.config import Config, DataSettings, parse, preset
from fromnoise.data import (
    BUILT_IN,
    Columns,
    Dataset,
    Fit,
    Source,
    Unreadable,
    auto_channels,
    load,
    open_source,
    stratified_split,
)
from fromnoise.data.auto import auto_side, some_indices
from fromnoise.data.quantities import Quantities, quantities
from fromnoise.errors import WrongUse
from fromnoise.parameterization import OnClock
from fromnoise.schema import merge
from fromnoise.task.fitting import LENGTHS, fitted, told
from fromnoise.task.sizing import goes_on, resized

_LOOK = 32
_TOLD = 1000.0


@dataclass(frozen=True)
class Prepared:
    """Settled settings, the pictures to train on, and those held out (``None`` if none are).

    ``captions`` has what each picture to train on is called and its caption, if the source has captions; ``remarks``
    what a person should be told of the pictures, in lines.
    """

    config: Config
    training: Dataset
    held_out: Dataset | None
    captions: tuple[tuple[str, str], ...] | None = None
    remarks: tuple[str, ...] = ()


def settle(
    tree: Mapping[str, Any], *, preset_name: str | None, source: str, run: Path | None = None
) -> tuple[Config, Source]:
    """Settings in which nothing about the pictures is left open, and the opened source.

    ``tree`` has what the person said; it wins over the preset. Without a preset, one is chosen by the size of the
    pictures and fitted to their number (:mod:`fromnoise.task.fitting`), or to the ``run`` if there is one to go on
    with; without a size, it is the largest of 8, 16, 32 and 64 pixels that most of them reach. Raises ``WrongUse``,
    also where a preset has the only word on the size, and would enlarge most of the pictures of a new run.
    """
    config, pictures, _ = settle_and_tell(tree, preset_name=preset_name, source=source, run=run)
    return config, pictures


def settle_and_tell(
    tree: Mapping[str, Any], *, preset_name: str | None, source: str, run: Path | None = None
) -> tuple[Config, Source, tuple[str, ...]]:
    """:func:`settle`, and what a person should be told of the size."""
    for name in ("data", "train"):
        if not isinstance(tree.get(name, {}), Mapping):
            raise WrongUse(f"{source}: [{name}] should be a table of settings, not {tree[name]!r}")
    base = preset(preset_name) if preset_name else {}
    parse(base, f"preset {preset_name}")  # So that a mistake in a person's own file is told by the file's name.
    data = parse({"data": merge(base, tree).get("data", {})}, source).data
    pictures = open_data(data)
    height = data.height or data.width or auto_side(pictures)
    width = data.width or height
    if not preset_name:
        parse(tree, source)  # So that a person's mistake is told before it is fitted to.
        base = fitted(min(height, width), max(1, round(len(pictures) * (1 - data.held_out))), tree, run)
    elif LENGTHS & tree.get("train", {}).keys():  # One length replaces another, not only its namesake.
        base = {**base, "train": {k: v for k, v in base.get("train", {}).items() if k not in LENGTHS}}
    found = {
        "height": height,
        "width": width,
        "channels": data.channels or auto_channels(pictures),
        "class_names": list(pictures.classes),
    }
    whole = merge(merge(base, tree), {"data": found})
    said = whole.get("parameterization")
    config = _with_time(parse(whole, source), said if isinstance(said, Mapping) else {})
    sized = {"height", "width"}
    of_preset = sized & base.get("data", {}).keys() and not sized & tree.get("data", {}).keys()
    remarks: tuple[str, ...] = ()
    if preset_name and of_preset and not goes_on(run):
        remarks = resized(preset_name, height, width, pictures)
    # Those of the pictures are known once it is known which of them are trained on.
    return replace(config, data=replace(config.data, quantities=Quantities())), pictures, remarks


def _with_time(config: Config, said: Mapping[str, Any]) -> Config:
    """On a clock that does not count steps, the network is told times of 0 … 1000 unless somebody ``said`` otherwise.

    Told the times of the paper's convention, t − 1, it would hear about the same of every t in 0 … 1.
    """
    told = config.parameterization
    if config.schedule.whole or not isinstance(told, OnClock):
        return config
    usual = {"time_scale": _TOLD / config.schedule.horizon, "time_shift": 0.0}
    missing = {name: value for name, value in usual.items() if name not in said}
    return replace(config, parameterization=replace(told, **missing))


def open_data(data: DataSettings) -> Source:
    """The source that the settings name. Raises ``WrongUse``."""
    return open_source(data.path, classes=data.classes, labels=data.labels, columns=data.columns, split=data.split)


def what_is_seen(data: DataSettings, height: int, width: int, channels: int) -> Fit:
    """What the network sees of pictures by the settings, in which size and channels may have been left open."""
    rest = {"background": data.background, "fit": data.fit, "filter": data.filter}
    return Fit(height=height, width=width, channels=channels, **rest)


def open_alike(data: DataSettings, path: str) -> Source:
    """The pictures at ``path``, with labels and values found as the settings find them in the run's own.

    A table of labels is the one of the same name that lies with the pictures at ``path``; another folder's table is not
    taken for them. A split and names of columns count where the source has such. Raises ``WrongUse``.
    """
    if path == data.path:
        return open_data(data)
    labels, classes = _same_table(data, path), data.classes
    bare = path in BUILT_IN or path.lower().endswith(".npy")
    columns = Columns() if bare else data.columns
    if data.split is not None and not bare:
        with contextlib.suppress(WrongUse):  # Not every source has splits, and not every table has this one.
            return open_source(path, classes=classes, labels=labels, columns=columns, split=data.split)
    return open_source(path, classes=classes, labels=labels, columns=columns)


def _same_table(data: DataSettings, path: str) -> str | None:
    """The table with the pictures at ``path`` that is to them what the run's own is to its pictures, if there is."""
    if data.labels is None:
        return None
    own, table = Path(data.path).expanduser(), Path(data.labels).expanduser()
    inside = table.relative_to(own) if table.is_relative_to(own) else Path(table.name)
    there = Path(path).expanduser()
    if zipfile.is_zipfile(there):
        with zipfile.ZipFile(there) as archive:
            if inside.as_posix() in archive.namelist():
                return inside.as_posix()
    place = there / inside if there.is_dir() else there.parent / inside.name
    return str(place) if place.is_file() and place.resolve() != table.resolve() else None


def _decoded(config: Config, source: Source, progress: Callable[[int, int], None] | None) -> Dataset:
    """Everything that can be read, as the network sees it. ``progress`` gets (done, total). Raises ``WrongUse``."""
    data = config.data
    assert data.height is not None and data.width is not None and data.channels is not None
    fit = what_is_seen(data, data.height, data.width, data.channels)
    return load(source, fit, strict=data.strict, progress=progress)


def _refuse_others(source: Source, config: Config) -> None:
    """Resized or grey, pictures are others than they were, and so is what a model says of them."""
    data, found = config.data, None
    for index in some_indices(source, _LOOK):
        with contextlib.suppress(Unreadable):  # Loading will name it.
            height, width, _ = source.read(index).shape
            if (height, width) != (data.height, data.width):
                found = f"{source.name(index)} has {height}x{width} pixels (height x width)"
                break
    if found is None and data.channels == 1 and auto_channels(source) > 1:
        found = "the pictures show colour"
    if found is not None:
        sees = f"{data.height}x{data.width}{' in grey' if data.channels == 1 else ''}"
        raise WrongUse(f"{found}, and this model sees {sees}: give such pictures, or --fit to make them so")


def _split(everything: Dataset, held_out: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    labels = np.zeros(len(everything), int) if everything.labels is None else everything.labels.numpy()
    return stratified_split(labels, held_out=held_out)


def _names(source: Source, everything: Dataset) -> list[str]:
    """What the pictures are called that could be read."""
    lost = {error.name for error in everything.skipped}
    return [name for k in range(len(source)) if (name := source.name(k)) not in lost]


@dataclass(frozen=True)
class Known:
    """Pictures a model is held against, what each is called, ``what`` they are in words, and which were unreadable."""

    pictures: Dataset
    names: list[str]
    what: str
    skipped: tuple[Unreadable, ...] = ()


def known_pictures(
    config: Config, path: str | None, *, fit: bool = False, progress: Callable[[int, int], None] | None = None
) -> Known:
    """The pictures at ``path``; without a path the run's own, what it held out if anything.

    Pictures at ``path`` must be of the model's size and not show more colour, unless they may be made to ``fit``, as a
    run's own were. Their labels and values are found as those of the run's own were (:func:`open_alike`). Raises
    ``WrongUse`` if they are not to be had.
    """
    data = config.data
    source = open_data(data) if path is None else open_alike(data, path)
    if path is not None and not fit:
        _refuse_others(source, config)
    everything = _decoded(config, source, progress)
    names = _names(source, everything)
    if path is not None or not data.held_out:
        what = path or f"{data.path}, the pictures trained on"
        return Known(everything, names, what, everything.skipped)
    _, held_out = _split(everything, data.held_out)
    pictures, names = everything.subset(held_out), [names[k] for k in held_out]
    return Known(pictures, names, f"{data.path}, the part held out", everything.skipped)


def prepare(
    tree: Mapping[str, Any],
    *,
    preset_name: str | None,
    source: str = "the settings",
    progress: Callable[[int, int], None] | None = None,
    run: Path | None = None,
) -> Prepared:
    """:func:`settle`, then everything decoded, and what is held out split off.

    Where the preset was chosen here, the first of the remarks says what was chosen; where the size is a named one's,
    it says that larger pictures are reduced.
    """
    config, pictures, sized = settle_and_tell(tree, preset_name=preset_name, source=source, run=run)
    everything = _decoded(config, pictures, progress)
    names, training, held_out = _names(pictures, everything), everything, None
    remarks = (*sized, *everything.remarks)
    if config.data.held_out:
        if everything.skipped:  # The part to train on does not know of them.
            remarks += (f"skipped {len(everything.skipped)} unreadable pictures, the first: {everything.skipped[0]}",)
        seen, rest = _split(everything, config.data.held_out)
        names, training, held_out = [names[k] for k in seen], everything.subset(seen), everything.subset(rest)
    if training.labels is not None and len(training.classes) < 2:
        raise WrongUse(f"{config.data.path} has only one class ({', '.join(training.classes)}): train without classes")
    if training.labels is None:
        config = replace(config, data=replace(config.data, class_names=()))
    if training.values is not None:
        try:
            known = quantities(training.values, training.value_names)
        except WrongUse as error:
            raise WrongUse(f"{config.data.path}: {error}") from error
        config = replace(config, data=replace(config.data, quantities=known))
    if not preset_name:
        remarks = (told(config, len(training)), *remarks)
    captions = training.captions
    said = None if captions is None else tuple(zip(names, captions, strict=True))
    return Prepared(config, training, held_out, said, remarks)
