"""The numbers that pictures are told with: what they are called, how large they are, and which to show.

A column in which every picture of the training data has 0 or 1 is a label (of a set of labels, say) and stays as it
is. Of any other column a network is told how many deviations it lies from the mean,

    (v − mean) / deviation,    over the pictures that were trained on,

so that years and shares are the same to it. Means are exact sums, rounded once: they come out the same on every
machine, and a run that goes on finds its settings unchanged.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fromnoise.data.source import printable
from fromnoise.errors import WrongUse, nearest

SHOWN = 8
"""How many examples are kept."""

_SLACK = 0.01  # of a range: 0.1 is not outside of what begins at 0.1 in another precision


@dataclass(frozen=True, kw_only=True)
class Quantities:
    """K columns of values, as the training pictures have them; K = 0 where they have none."""

    names: tuple[str, ...] = ()
    """What the columns are called."""
    mean: tuple[float, ...] = ()
    """What is subtracted; 0 of a label."""
    deviation: tuple[float, ...] = ()
    """What is divided by; 1 of a label."""
    low: tuple[float, ...] = ()
    """The smallest value a training picture has."""
    high: tuple[float, ...] = ()
    """The largest."""
    examples: tuple[tuple[float, ...], ...] = ()
    """Rows of training pictures, in order and from end to end of it: drawn in turn where nothing is asked for."""

    def __post_init__(self) -> None:
        """Raises ``WrongUse`` for columns that do not match, and numbers that cannot be."""
        columns = (self.mean, self.deviation, self.low, self.high, *self.examples)
        if any(len(column) != len(self.names) for column in columns):
            raise WrongUse("[data.quantities] every list must have a number for each of the names")
        finite = all(math.isfinite(number) for column in columns for number in column)
        if not finite or min(self.deviation, default=1) <= 0:
            raise WrongUse("[data.quantities] all numbers must be finite, and deviations above 0")
        if len(set(self.names)) < len(self.names):
            raise WrongUse(f"two columns of values have one name: {', '.join(self.names)}; name them apart")
        if bool(self.names) != bool(self.examples):
            raise WrongUse("[data.quantities] examples are missing")

    def __len__(self) -> int:
        return len(self.names)

    @property
    def standard(self) -> tuple[tuple[float, float], ...]:
        """(mean, deviation) of every column, as a network wants to know them."""
        return tuple(zip(self.mean, self.deviation, strict=True))

    @property
    def labels(self) -> tuple[str, ...]:
        """The columns that hold 0 and 1 alone."""
        known = zip(self.names, self.mean, self.deviation, self.low, self.high, strict=True)
        return tuple(name for name, *numbers in known if numbers == [0, 1, 0, 1])

    def in_turn(self, n: int, each: int = 1) -> list[list[float]]:
        """Rows for ``n`` pictures, the examples in turn, ``each`` of them so many times in a row."""
        return [list(self.examples[k // each % len(self.examples)]) for k in range(n)]

    def rows(self, said: Mapping[str, float | Sequence[float]], n: int) -> list[list[float]]:
        """Rows for ``n`` pictures of what is ``said`` by name: a number for all, or several, taken in turn.

        What is left out is at its mean, a label at 0. Raises ``WrongUse`` for an unknown name and what is no number.
        """
        columns = [[mean] for mean in self.mean]
        for name, given in said.items():
            if name not in self.names:
                raise WrongUse(f"{printable(name)} is none of this model's values; {nearest(name, self.names)}")
            numbers = list(given) if isinstance(given, Iterable) and not isinstance(given, str) else [given]
            if not numbers:
                raise WrongUse(f"the value {name} is an empty list: give a number, or several to take in turn")
            columns[self.names.index(name)] = [_number(number, name) for number in numbers]
        return [[column[k % len(column)] for column in columns] for k in range(n)]

    def checked(self, rows: Sequence[Sequence[float]], n: int) -> list[list[float]]:
        """``rows`` as they are, if they are ``n`` and each has K finite numbers. Raises ``WrongUse``."""
        if len(rows) != n:
            raise WrongUse(f"{n} pictures need {n} rows of values, not {len(rows)}")
        for row in rows:
            if len(row) != len(self):
                raise WrongUse(f"a row of {len(row)} values: this model takes {len(self)} ({', '.join(self.names)})")
        return [[_number(number, name) for number, name in zip(row, self.names, strict=True)] for row in rows]

    def unseen(self, rows: Sequence[Sequence[float]]) -> list[str]:
        """A line on every column whose numbers go beyond what training pictures have."""
        lines = []
        for k, name in enumerate(self.names):
            slack = _SLACK * (self.high[k] - self.low[k])
            beyond = [row[k] for row in rows if not self.low[k] - slack <= row[k] <= self.high[k] + slack]
            if beyond:
                lines.append(
                    f"{name} = {beyond[0]:g} lies outside of what the training pictures have, {self.low[k]:g} to "
                    f"{self.high[k]:g}: what comes of it is a guess"
                )
        return lines


def quantities(values: Tensor, names: Sequence[str]) -> Quantities:
    """Of the ``values`` of all training pictures, float32 (N, K). Raises ``WrongUse`` if nothing can be learnt of them.

    That is where all pictures have the same values, or where one is too large for a float32.
    """
    if not names:
        raise WrongUse("the pictures have not one label: nothing can be learnt of them; train without --classes")
    for k, name in enumerate(names):
        if not bool(values[:, k].isfinite().all()):
            raise WrongUse(f"some of the values {name} are too large: the largest that can be told apart is 3e38")
    distinct = torch.unique(values, dim=0)
    if len(distinct) < 2:
        some = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
        raise WrongUse(
            f"all pictures have the same values ({some}), so nothing can be learnt of them: train without --classes, "
            f"or with --set data.columns.values=[]"
        )
    spread = [round(k * (len(distinct) - 1) / (SHOWN - 1)) for k in range(SHOWN)]
    columns = [_column(values[:, k]) for k in range(len(names))]
    mean, deviation, low, high = zip(*columns, strict=True)
    examples = tuple(tuple(map(_short, row)) for row in distinct[spread].tolist())
    return Quantities(names=tuple(names), mean=mean, deviation=deviation, low=low, high=high, examples=examples)


def _column(values: Tensor) -> tuple[float, float, float, float]:
    if bool(((values == 0) | (values == 1)).all()):
        return 0.0, 1.0, 0.0, 1.0
    numbers = values.tolist()
    mean = math.fsum(numbers) / len(numbers)
    low, high = min(numbers), max(numbers)
    deviation = math.sqrt(math.fsum((number - mean) ** 2 for number in numbers) / len(numbers))
    if low == high or not _short(deviation):  # Nothing to divide by, and nothing to learn.
        deviation = 1.0
    return _short(mean), _short(deviation), _short(low), _short(high)


def _short(number: float) -> float:
    """The shortest decimal that is the same float32: 0.1 for 0.10000000149011612."""
    return float(str(torch.tensor(number, dtype=torch.float32).numpy()))


def _number(given: Any, name: str) -> float:
    try:
        number = float(given)
    except (TypeError, ValueError, OverflowError):
        raise WrongUse(f"the value {name} = {given!r} is no number") from None
    if not math.isfinite(number) or abs(number) > torch.finfo(torch.float32).max:
        raise WrongUse(f"the value {name} = {number:g}: must be a finite number, below 3e38")
    return number
