"""What is known of a data set after an inspection: every fact that the page shows and the JSON holds."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from fromnoise.task.inspect_tally import Problem


@dataclass(frozen=True, kw_only=True)
class Spread:
    """The least, the middle (of an even number the upper) and the greatest of many numbers."""

    least: float
    middle: float
    greatest: float


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Sizes of upright pictures. ``common`` are the most frequent as (height, width, how many)."""

    height: Spread
    width: Spread
    aspect: Spread
    """Width over height."""

    different: int
    common: tuple[tuple[int, int, int], ...]
    short_sides: Mapping[int, int]
    """How many pictures have this short side."""

    aspects: Mapping[float, int]
    """How many pictures have this aspect, rounded to 1/100."""

    enlarged: int
    """Pictures that the fit makes larger, in one direction at least."""

    enlarged_at: Mapping[int, int]
    """How many would be, in the same fit, for a square of this side."""

    lost: float
    """Share of a picture's area that the fit cuts off, on average."""

    empty: float
    """Share of the canvas that the fit leaves empty, on average."""

    distorted: int
    """Pictures whose proportions the fit changes by more than a tenth."""


@dataclass(frozen=True, kw_only=True)
class Channel:
    """One channel of what the network sees, over all pixels of all pictures. ``mean`` and ``deviation`` on −1 … 1."""

    name: str
    mean: float
    deviation: float
    counts: tuple[int, ...]
    """How often each value 0 … 255 occurs."""


@dataclass(frozen=True, kw_only=True)
class Advice:
    """What to train with. ``side`` suits the pictures as they are; preset and length are for the fit at hand."""

    preset: str
    side: int
    steps: int
    batch_size: int
    epochs: float
    shortened: bool
    """The preset would show every picture more often than the paper ever did."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """All that was found. Names are printable; ``near_copies`` is None where there was no memory to look for them."""

    source: str
    pictures: int
    usable: int
    fit: Mapping[str, Any]
    formats: Mapping[str, int]
    kinds: Mapping[str, int]
    with_alpha: int
    translucent: int
    """Of those with alpha, the pictures that make use of it."""

    grey: int
    """Pictures in which the network sees no colour."""

    turned: int
    animated: int
    profiles: int
    nbytes: int
    """Of the files; 0 where there are none."""

    unreadable: tuple[Problem, ...]
    remarks: tuple[str, ...]
    sizes: Sizes | None
    """None if no picture can be read."""

    copies: tuple[tuple[str, ...], ...]
    """Groups of pictures with the same pixels."""

    near_copies: tuple[tuple[str, ...], ...] | None
    """Groups of pictures that look almost the same to the network."""

    contradictions: tuple[tuple[str, ...], ...]
    """Those of ``copies`` that are in more than one class."""

    blank: tuple[str, ...]
    """Pictures that are one single colour to the network."""

    classes: Mapping[str, int] | None
    """How many usable pictures each class has."""

    captions: int | None
    """Usable pictures with a caption; None where no picture has one."""

    values: Mapping[str, Spread] | None
    channels: tuple[Channel, ...]
    brightness: tuple[int, ...]
    """How many pictures have a mean luma in each of equal parts of 0 … 255."""

    cache_bytes: int
    free_memory: int
    advice: Advice | None
    seconds: float
    pictures_per_second: float


def as_dict(facts: Facts) -> dict[str, Any]:
    """For JSON: plain values, with text as keys."""
    return _plain(asdict(facts))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {f"{key}": _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value
