"""What is to be said about a picture that was read all the same: a colour profile that had to be left out, say.

Decoders lie deep below whoever counts such things, and `Source.read` answers with pixels alone. So they say it to
whoever listens in the same thread, and to nobody if nobody does.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

from fromnoise.data.source import printable

_NAMED = 3  # how many pictures a message names


class Remark(NamedTuple):
    """Of picture ``name``: ``what``, a clause that follows its name; the same words for the same matter."""

    name: str
    what: str


_listening: ContextVar[list[Remark] | None] = ContextVar("listening", default=None)


def remark(name: str, what: str) -> None:
    """Say ``what`` of picture ``name`` to whoever listens."""
    heard = _listening.get()
    if heard is not None:
        heard.append(Remark(name, what))


@contextmanager
def remarks() -> Iterator[list[Remark]]:
    """A list that fills with what is said inside, in this thread."""
    heard: list[Remark] = []
    before = _listening.set(heard)
    try:
        yield heard
    finally:
        _listening.reset(before)


def summed_up(said: Iterable[Remark]) -> tuple[str, ...]:
    """One line for each matter: how many pictures, what, and the names of the first few."""
    matters: dict[str, list[str]] = {}
    for name, what in said:
        matters.setdefault(what, []).append(name)
    return tuple(f"{_count(names)} {what}: {naming(names)}" for what, names in matters.items())


def naming(names: list[str]) -> str:
    """ "first; second; third; and 7 more"."""
    more = f"; and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return "; ".join(printable(name) for name in names[:_NAMED]) + more


def _count(names: list[str]) -> str:
    return "1 picture" if len(names) == 1 else f"{len(names)} pictures"
