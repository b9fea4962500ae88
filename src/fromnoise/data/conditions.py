"""What is said of the pictures of a source: from raw labels, captions and numbers to those a network can take.

Labels arrive as words, as whole numbers, or as lists of them, by the picture. One each makes classes: the different
ones in order (by size if all are whole numbers, else by name), numbered from 0. Lists make a column of values for
every different label, 1 where the picture has it and 0 where not.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fromnoise.data.source import Source, printable
from fromnoise.errors import WrongUse


@dataclass(frozen=True, kw_only=True)
class Columns:
    """What the parts of a table (a manifest, a parquet file, the arrays of an .npz) are called; None: the usual names.

    A name that is given must be there.
    """

    picture: str | None = None
    """The column of pictures, or of their file names."""

    label: str | None = None
    """The column of labels."""

    caption: str | None = None
    """The column of captions."""

    values: tuple[str, ...] | None = None
    """The columns of numbers to condition on, in this order."""


USUAL_LABELS = ("label", "labels", "class", "classes", "category", "tag", "tags", "fine_label")
"""What a column of labels is usually called."""

USUAL_CAPTIONS = ("caption", "text", "prompt", "description")
"""What a column of captions is usually called."""

USUAL_VALUES = ("values", "value")
"""What a column of numbers to condition on is called; others must be asked for, for a table is full of numbers."""

_MOST_CELLS = 2**27  # of a table of values: a gigabyte


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What `Source` says of its pictures, under the same names and with the same meaning."""

    labels: tuple[int, ...] | None = None
    classes: tuple[str, ...] = ()
    captions: tuple[str, ...] | None = None
    values: tuple[tuple[float, ...], ...] | None = None
    value_names: tuple[str, ...] = ()

    def give(self, source: Source) -> None:
        """Let ``source`` say this of its pictures."""
        source.labels, source.classes, source.captions = self.labels, self.classes, self.captions
        source.values, source.value_names = self.values, self.value_names


def from_labels(raw: Sequence[Any], name: Callable[[int], str], names: Sequence[str] | None = None) -> Conditions:
    """Classes, or values for label sets, of the raw label of every picture.

    Args:
        raw: a word, a whole number or a list of such, by the picture.
        name: what picture ``index`` is called in messages.
        names: of classes that are numbered already: every raw label is an index into them.

    Raises:
        WrongUse: a picture has no label, or one that is no word and no whole number.
    """
    several = any(isinstance(label, list | tuple) for label in raw)
    sets = [[_word(one, index, name) for one in _as_list(label, index, name)] for index, label in enumerate(raw)]
    if names is not None:
        words = tuple(printable(str(one)) for one in names)
        numbers = [[_number(one, len(words), index, name) for one in labels] for index, labels in enumerate(sets)]
    else:
        known = _in_order({one for labels in sets for one in labels})
        number = {one: k for k, one in enumerate(known)}
        words = tuple(printable(one) for one in known)
        numbers = [[number[one] for one in labels] for labels in sets]
    if not several:
        return Conditions(labels=tuple(one for (one,) in numbers), classes=words)
    if len(words) * len(raw) > _MOST_CELLS:
        raise WrongUse(
            f"{len(words):,} different labels on {len(raw):,} pictures are too many for a column of values each"
        )
    width = range(len(words))
    rows = tuple(tuple(float(k in has) for k in width) for has in map(frozenset, numbers))
    return Conditions(values=rows, value_names=words)


def from_folders(paths: Sequence[str], where: str) -> Conditions:
    """Classes that are the first folders of ``paths`` (relative, with slashes), in the order of their names.

    Raises:
        WrongUse: a path has no folder.
    """
    loose = next((path for path in paths if "/" not in path), None)
    if loose is not None:
        raise WrongUse(
            f"{printable(loose)} lies directly in {where}, in no class: "
            "with classes, every picture belongs in a sub-folder that names its class"
        )
    names = [path.partition("/")[0] for path in paths]
    known = sorted(set(names))
    number = {name: k for k, name in enumerate(known)}
    return Conditions(labels=tuple(number[name] for name in names), classes=tuple(map(printable, known)))


def as_values(raw: Sequence[Any], name: Callable[[int], str]) -> tuple[tuple[float, ...], ...]:
    """Numbers, or lists of equally many, as rows of floats.

    Raises:
        WrongUse: something is no number, not finite, or one row is longer than another.
    """
    rows: list[tuple[float, ...]] = []
    for index, given in enumerate(raw):
        try:
            row = tuple(float(one) for one in (given if isinstance(given, list | tuple) else [given]))
        except (TypeError, ValueError, OverflowError):
            raise WrongUse(f"{name(index)} has the value {_short(given)}, which is no number") from None
        if not all(map(math.isfinite, row)):
            raise WrongUse(f"{name(index)} has the value {_short(given)}, which is not finite")
        if rows and len(row) != len(rows[0]):
            raise WrongUse(f"{name(index)} has {len(row)} values, where {name(0)} has {len(rows[0])}")
        rows.append(row)
    return tuple(rows)


def joined(first: Conditions, *, values: tuple[tuple[float, ...], ...], value_names: tuple[str, ...]) -> Conditions:
    """``first`` with further columns of values to the right of its own."""
    own = first.values if first.values is not None else ((),) * len(values)
    rows = tuple(left + right for left, right in zip(own, values, strict=True))
    return Conditions(
        labels=first.labels,
        classes=first.classes,
        captions=first.captions,
        values=rows,
        value_names=first.value_names + value_names,
    )


def _as_list(label: Any, index: int, name: Callable[[int], str]) -> Sequence[Any]:
    if label is None or label == "":
        raise WrongUse(f"{name(index)} has no label; give it one, or leave it out")
    return label if isinstance(label, list | tuple) else [label]


def _word(label: Any, index: int, name: Callable[[int], str]) -> str:
    """A label as text: 3, 3.0 (what a table makes of 3 beside an empty cell) and "3" are the same label."""
    if isinstance(label, str) and label:
        return label
    if isinstance(label, bool | int):
        return str(int(label))
    if isinstance(label, float) and label.is_integer():
        return str(int(label))
    raise WrongUse(f"{name(index)} has the label {_short(label)}; a label is a word or a whole number")


def _number(word: str, count: int, index: int, name: Callable[[int], str]) -> int:
    if word.isdecimal() and len(word) < 10 and int(word) < count:
        return int(word)
    raise WrongUse(f"{name(index)} has the label {_short(word)}, where there are classes 0 to {count - 1}")


def _in_order(words: set[str]) -> list[str]:
    whole = all(word.removeprefix("-").isdecimal() and len(word) < 4000 for word in words)
    return sorted(words, key=lambda word: (int(word), word)) if whole else sorted(words)


def _short(value: object) -> str:
    text = printable(repr(value))
    return text if len(text) <= 60 else f"{text[:57]}…"
