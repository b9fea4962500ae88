"""Mistakes and mishaps that a person can mend: one line that says what is wrong, where, and what would be right.

The command line prints the message alone and leaves with ``exit_code``; from Python they are ordinary exceptions.
"""

import difflib
from collections.abc import Iterable
from typing import ClassVar

INTERRUPTED = 130
"""The exit code after Ctrl-C or SIGTERM, whether or not something was saved."""


class FromnoiseError(Exception):
    """Something failed through no fault of the call: a damaged file, a full disk, too little memory."""

    exit_code: ClassVar[int] = 1


class WrongUse(FromnoiseError, ValueError):
    """The call itself is wrong: an unknown name, a wrong type, a folder without pictures, a label out of range."""

    exit_code: ClassVar[int] = 2


class Lost(FromnoiseError):
    """Another process of the same training is gone, so this one cannot go on; from the last checkpoint all can."""


def nearest(word: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown ``word``: the nearest known one, or all of them if none is near."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(names)}"
