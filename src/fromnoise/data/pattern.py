"""Several files in one word: ``shard-{000..011}.tar``, ``{cats,dogs}.tar``, ``shard-*.tar``.

Braces as in a shell, which quotes keep from the shell itself: a list of words, or a range of whole numbers whose zeros
in front are kept. Groups may follow one another; they do not nest.
"""

import glob
import re

from fromnoise.data.source import printable
from fromnoise.errors import WrongUse

_MOST = 100_000
_GROUP = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


def expanded(pattern: str) -> list[str]:
    """The words that the braces of ``pattern`` make, in order; the pattern alone if there are none.

    Raises:
        WrongUse: a group is empty, or they make more than a hundred thousand words.
    """
    words = [""]
    end = 0
    for group in _GROUP.finditer(pattern):
        choices = _choices(group[1], pattern)
        if len(words) * len(choices) > _MOST:
            raise WrongUse(f"{printable(pattern)} stands for more than {_MOST:,} files")
        words = [word + pattern[end : group.start()] + choice for word in words for choice in choices]
        end = group.end()
    return [word + pattern[end:] for word in words]


def is_pattern(word: str) -> bool:
    """Whether ``word`` stands for several files."""
    return bool(_GROUP.search(word)) or glob.has_magic(word)


def matching(pattern: str) -> list[str]:
    """The files that ``pattern`` stands for: of stars those that are there, sorted; of braces all, there or not.

    Raises:
        WrongUse: there are none.
    """
    files = [
        file for word in expanded(pattern) for file in (sorted(glob.glob(word)) if glob.has_magic(word) else [word])
    ]
    if not files:
        raise WrongUse(f"no file is called {printable(pattern)}")
    return files


def _choices(group: str, pattern: str) -> list[str]:
    span = _RANGE.fullmatch(group)
    if span is None:
        if "," not in group:
            raise WrongUse(
                f"{{{printable(group)}}} in {printable(pattern)} is no range such as {{00..11}} and no list {{a,b}}"
            )
        return group.split(",")
    first, last = int(span[1]), int(span[2])
    if last < first or last - first >= _MOST:
        raise WrongUse(
            f"{{{group}}} in {printable(pattern)} counts from {span[1]} to {span[2]}; at most {_MOST:,} files, upwards"
        )
    return [str(number).zfill(len(span[1])) for number in range(first, last + 1)]
