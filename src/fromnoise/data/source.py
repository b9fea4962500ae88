"""Where pictures come from: a numbered list of them, each read when asked for.

A source knows how many pictures it has, what each is called and which class it belongs to; it decodes one at a time
and keeps nothing. What the network sees of a picture (size, channels) is `fit.Fit`'s business, and keeping the decoded
pictures is `dataset.Dataset`'s.
"""

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray

from fromnoise.errors import FromnoiseError


def printable(name: str) -> str:
    """``name`` as it may stand in a one-line message, a JSON file or a TOML file.

    File names may hold line breaks, control characters and bytes that are not UTF-8 (Python carries those as lone
    surrogates, which no encoder accepts). Such a name is given as its repr, any other is left alone.
    """
    return name if name.isprintable() else repr(name)


class Unreadable(FromnoiseError):
    """One picture that cannot be decoded: ``name`` says which, ``why`` says why; as text it is one line."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(name, why)
        self.name = name
        self.why = " ".join(why.split())

    def __str__(self) -> str:
        return f"{self.name}: {self.why}"


class Source(ABC):
    """A numbered list of pictures, 0 … len − 1, in an order that is the same on every run and every machine."""

    labels: tuple[int, ...] | None
    """The class number of every picture, 0 … len(classes) − 1; None where pictures have no classes."""

    classes: tuple[str, ...]
    """The names of the classes; empty where pictures have none."""

    @abstractmethod
    def __len__(self) -> int:
        """How many pictures there are, readable or not."""

    @abstractmethod
    def name(self, index: int) -> str:
        """What picture ``index`` came from, for messages: one printable line."""

    @abstractmethod
    def read(self, index: int) -> NDArray[np.uint8]:
        """Picture ``index``, decoded and upright. May be called from several threads at once.

        Returns:
            uint8, (H, W, C) with C = 1 (grey), 2 (grey and alpha), 3 (RGB) or 4 (RGBA, colour not premultiplied).

        Raises:
            Unreadable: the picture is damaged, missing or of a kind that has no such form.
        """
