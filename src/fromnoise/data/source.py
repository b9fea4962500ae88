"""Where pictures come from: a numbered list of them, each read when asked for.

A source knows how many pictures it has, what each is called, what is said of it (a class, a caption, numbers) and how
to tell whether it has changed; it decodes one at a time and keeps nothing. What the network sees of a picture (size,
channels) is `fit.Fit`'s business, and keeping the decoded pictures is `dataset.Dataset`'s.

Several labels a picture ("dog", "outside") are numbers as well: one column of `values` a label, 1 where a picture has
it and 0 where it has not (multi-hot), `value_names` being the labels. So a network takes label sets and continuous
conditions in one way.
"""

import errno
import hashlib
import os
from abc import ABC, abstractmethod
from functools import cached_property
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from fromnoise.errors import FromnoiseError


def printable(name: str) -> str:
    """``name`` as it may stand in a one-line message, a JSON file or a TOML file.

    File names may hold line breaks, control characters and bytes that are not UTF-8 (Python carries those as lone
    surrogates, which no encoder accepts). Such a name is given as its repr, any other is left alone.
    """
    return name if name.isprintable() else repr(name)


def one_line(error: Exception | str) -> str:
    """What an ``error`` says as part of a one-line message: some quote the bytes of a damaged file."""
    text = " ".join(str(error).split())[:300]
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


LARGEST_RAW = 2**28
"""Bytes of a picture's file that are held as a whole: what the largest picture takes as RGB without any packing."""


class Unreadable(FromnoiseError):
    """One picture that cannot be decoded: ``name`` says which, ``why`` says why; as text it is one line."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(name, why)
        self.name = name
        self.why = one_line(why)

    def __str__(self) -> str:
        return f"{self.name}: {self.why}"


class Gone(Unreadable):
    """A picture that was there when it was listed, and is not any more: its place is at fault, not the picture.

    Whoever only looks at some pictures may pass over it as over any `Unreadable`; whoever takes them all must not, or
    what is made of them would be of other pictures than those that were meant.
    """


_AWAY = (errno.ENOENT, errno.ENOTDIR, errno.ESTALE, errno.ENODEV, errno.ENXIO, errno.ENOTCONN)
"""What the system says of a file that was removed or moved, and of one on a disk that is not there any more."""


def unreadable(name: str, error: OSError) -> Unreadable:
    """What the system's ``error`` means for picture ``name``, which was there when it was listed."""
    if error.errno in _AWAY:
        return Gone(name, "gone since the pictures were listed; bring them back and start again")
    return Unreadable(name, error.strerror or str(error))


class Source(ABC):
    """A numbered list of pictures, 0 … len − 1, in an order that is the same on every run and every machine."""

    labels: tuple[int, ...] | None = None
    """The class number of every picture, 0 … len(classes) − 1; None where pictures have no classes."""

    classes: tuple[str, ...] = ()
    """The names of the classes; empty where pictures have none."""

    captions: tuple[str, ...] | None = None
    """A line of text on every picture, "" where one has none; None where none has."""

    values: tuple[tuple[float, ...], ...] | None = None
    """The continuous conditions of every picture, finite and as many for each; None where pictures have none."""

    value_names: tuple[str, ...] = ()
    """What the columns of `values` are called; of label sets, the labels."""

    remarks: tuple[str, ...] = ()
    """What was noticed when the source was opened and is no fault of one picture: one line each, to be shown."""

    @abstractmethod
    def __len__(self) -> int:
        """How many pictures there are, readable or not."""

    @abstractmethod
    def name(self, index: int) -> str:
        """What picture ``index`` came from, for messages: one printable line."""

    @abstractmethod
    def identity(self, index: int) -> str:
        """What stands for the bytes of picture ``index``: another text when they change, found without decoding.

        It is not for people and need not be printable. A picture that is missing has an identity as well.
        """

    @abstractmethod
    def read(self, index: int) -> NDArray[np.uint8]:
        """Picture ``index``, decoded and upright. May be called from several threads at once.

        Returns:
            uint8, (H, W, C) with C = 1 (grey), 2 (grey and alpha), 3 (RGB) or 4 (RGBA, colour not premultiplied).

        Raises:
            Unreadable: the picture is damaged, missing or of a kind that has no such form.
            Gone: it was there when the source was opened.
        """

    @cached_property
    def fingerprint(self) -> str:
        """32 hexadecimal digits (BLAKE2b) over all identities and all that is said of the pictures, as first asked."""
        digest = hashlib.blake2b(digest_size=16)

        def add(text: str) -> None:  # with its length, so that no two lists run together
            data = text.encode("utf-8", "surrogatepass")
            digest.update(len(data).to_bytes(8, "little"))
            digest.update(data)

        for index in range(len(self)):
            add(self.identity(index))
        for said in (self.labels, self.classes, self.captions, self.values, self.value_names):
            add("-" if said is None else str(len(said)))
            for one in said or ():
                add(str(one))
        return digest.hexdigest()


class Files(Source):
    """A source whose pictures are files, wherever they lie, and that hands them out as they are."""

    @abstractmethod
    def raw(self, index: int) -> bytes | None:
        """The file of picture ``index``: what `read` decodes. May be called from several threads at once.

        Returns:
            None where it is larger than is worth holding as a whole, `LARGEST_RAW` bytes.

        Raises:
            Unreadable: it cannot be had, for the reason that `read` gives.
        """


def whole(file: BinaryIO) -> bytes | None:
    """All of an open ``file``; None if that is more than `LARGEST_RAW` bytes."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    return file.read() if size <= LARGEST_RAW else None
