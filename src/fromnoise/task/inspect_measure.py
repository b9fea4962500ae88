"""From what was tallied to facts: sizes and what the fit does to them, channels, conditions."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fromnoise.data import Fit, Source
from fromnoise.data.memory import available_memory
from fromnoise.data.placement import PLACEMENTS
from fromnoise.data.remark import summed_up
from fromnoise.task.inspect_facts import Channel, Sizes, Spread
from fromnoise.task.inspect_tally import Tally

SIDES = (8, 16, 32, 64, 128, 256)
"""The sides of squares for which it is said how many pictures would be enlarged."""

_COMMON = 20
_CHANNELS = {1: ("grey",), 3: ("red", "green", "blue"), 4: ("red", "green", "blue", "alpha")}


def tally_facts(tally: Tally, source: Source, fit: Fit) -> dict[str, Any]:
    """What `Facts` takes from a tally as it is."""
    usable = int(tally.readable.sum())
    same = ("with_alpha", "translucent", "grey", "turned", "animated", "profiles", "nbytes")
    return {
        **{name: getattr(tally, name) for name in same},
        "pictures": len(source),
        "usable": usable,
        "fit": asdict(fit),
        "formats": dict(tally.formats.most_common()),
        "kinds": dict(tally.kinds.most_common()),
        "unreadable": tuple(tally.problems),
        "remarks": (*source.remarks, *summed_up(tally.remarks)),
        "sizes": size_facts(tally.sizes, fit),
        "blank": tuple(source.name(index) for index in tally.blank),
        "channels": channel_facts(tally),
        "brightness": tuple(tally.brightness.tolist()),
        "cache_bytes": usable * fit.channels * fit.height * fit.width,
        "free_memory": available_memory(),
    }


def size_facts(sizes: Counter[tuple[int, int]], fit: Fit) -> Sizes | None:
    """From how many pictures there are of every (height, width)."""
    if not sizes:
        return None
    own = np.array(list(sizes), dtype=float)
    count = np.array(list(sizes.values()))
    total = int(count.sum())
    # Height and width of the part, of what it fills, for every size.
    parts, filled = _placed(list(sizes), fit, (fit.height, fit.width))
    high, wide = (filled / parts).T
    # Where a part keeps its proportions, whole pixels do not quite: what is as good as that is not bent.
    whole = np.abs(filled[:, 0] - parts[:, 0] * wide) < 1
    bent = (np.maximum(high / wide, wide / high) > 1.1) & ~whole
    enlarged_at = {side: int(count[_grown(*_placed(list(sizes), fit, (side, side)))].sum()) for side in SIDES}
    short, aspects = Counter[int](), Counter[float]()
    for (height, width), number in sizes.items():
        short[min(height, width)] += number
        aspects[round(width / height, 2)] += number
    return Sizes(
        height=spread(own[:, 0], count),
        width=spread(own[:, 1], count),
        aspect=spread(own[:, 1] / own[:, 0], count),
        different=len(sizes),
        common=tuple((*size, number) for size, number in sizes.most_common(_COMMON)),
        short_sides=dict(sorted(short.items())),
        aspects=dict(sorted(aspects.items())),
        enlarged=int(count[_grown(parts, filled)].sum()),
        enlarged_at=enlarged_at,
        lost=max(0.0, 1 - float((parts.prod(axis=1) / own.prod(axis=1)) @ count) / total),
        empty=max(0.0, 1 - float(filled.prod(axis=1) @ count) / total / (fit.height * fit.width)),
        distorted=int(count[bent].sum()),
    )


def spread(values: Any, count: Any = None) -> Spread:
    """Of ``values``, each of which occurs ``count`` times (once)."""
    values = np.asarray(values, dtype=float)
    count = np.ones(len(values), dtype=int) if count is None else np.asarray(count)
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(count[order])
    middle = values[order[int(np.searchsorted(reached, reached[-1] // 2, side="right"))]]
    return Spread(least=float(values.min()), middle=float(middle), greatest=float(values.max()))


def channel_facts(tally: Tally) -> tuple[Channel, ...]:
    """Means and deviations, exact: from counts of values."""
    scale = np.arange(256) / 127.5 - 1
    found = []
    for name, counts in zip(_CHANNELS[len(tally.counts)], tally.counts, strict=True):
        total = int(counts.sum())
        mean = float(counts @ scale) / total if total else 0.0
        variance = float(counts @ (scale - mean) ** 2) / total if total else 0.0
        found.append(Channel(name=name, mean=mean, deviation=variance**0.5, counts=tuple(counts.tolist())))
    return tuple(found)


def condition_facts(source: Source, kept: Sequence[int]) -> dict[str, Any]:
    """``classes``, ``captions`` and ``values`` of the usable pictures, as `Facts` has them."""
    classes, captions, values = None, None, None
    if source.labels is not None:
        number = np.bincount([source.labels[index] for index in kept], minlength=len(source.classes))
        classes = dict(zip(source.classes, number.tolist(), strict=True))
    if source.captions is not None:
        captions = sum(bool(source.captions[index].strip()) for index in kept)
    if source.values is not None and kept:
        columns = np.array([source.values[index] for index in kept], dtype=float).T
        names = source.value_names or tuple(str(k) for k in range(len(columns)))
        values = {name: spread(column) for name, column in zip(names, columns, strict=True)}
    return {"classes": classes, "captions": captions, "values": values}


def _placed(
    sizes: Sequence[tuple[int, int]], fit: Fit, target: tuple[int, int]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(K, 2) each: height and width of the part that is shown, and of what it fills."""
    parts, filled = [], []
    for size in sizes:
        place = PLACEMENTS[fit.fit](size, target)
        left, top, right, bottom = place.box
        parts.append((bottom - top, right - left))
        filled.append((place.height, place.width))
    return np.array(parts, dtype=float), np.array(filled, dtype=float)


def _grown(parts: NDArray[np.float64], filled: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which parts become larger, in one direction at least."""
    return np.asarray((filled / parts > 1 + 1e-9).any(axis=1))
