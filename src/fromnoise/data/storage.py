"""Where decoded pictures are kept that no cache keeps: in memory while they take at most half of what is free, else in
a temporary file.

Both are filled picture by picture, in order, and give the same array in the end. The file has no name (it vanishes
with the process, also with a killed one) and lies in Python's temporary directory, which TMPDIR moves. It is written
before it is mapped: a full disk then is an error to report, where a write into a mapping would kill the process.
"""

import tempfile
from abc import ABC, abstractmethod
from contextlib import suppress
from typing import final

import numpy as np
from numpy.typing import NDArray

from fromnoise.data.memory import available_memory
from fromnoise.errors import FromnoiseError


class Shelf(ABC):
    """Takes pictures of one shape, one after the other; to be closed after use, by `contextlib.closing` say."""

    @abstractmethod
    def append(self, picture: NDArray[np.uint8]) -> None:
        """Add one picture of the shelf's shape."""

    @abstractmethod
    def finish(self) -> NDArray[np.uint8]:
        """All pictures added, (N, …), writeable as torch wants arrays to be; nothing may be added after."""

    @abstractmethod
    def close(self) -> None:
        """Let go of what is no longer needed; the array from `finish` stays."""


def shelf(count: int, shape: tuple[int, ...]) -> Shelf:
    """Room for up to ``count`` pictures of ``shape``, in memory if that needs at most half of what is available."""
    needed = count * int(np.prod(shape, dtype=np.int64))
    return Memory(count, shape) if needed <= available_memory() // 2 else Spill(count, shape)


@final
class Memory(Shelf):
    """One array, made in full at the start; the system hands out its pages as they are filled."""

    def __init__(self, count: int, shape: tuple[int, ...]) -> None:
        self._images = np.empty((count, *shape), dtype=np.uint8)
        self._filled = 0

    def append(self, picture: NDArray[np.uint8]) -> None:
        self._images[self._filled] = picture
        self._filled += 1

    def finish(self) -> NDArray[np.uint8]:
        return self._images[: self._filled]

    def close(self) -> None:
        pass


@final
class Spill(Shelf):
    """An unnamed temporary file, mapped once it is full.

    The mapping is shared with the file: a private one would be refused where the set is larger than memory.

    Raises:
        FromnoiseError: there is no room for it, with how much is needed.
    """

    def __init__(self, count: int, shape: tuple[int, ...]) -> None:
        self._shape = shape
        self._needed = count * int(np.prod(shape, dtype=np.int64))
        self._filled = 0
        try:
            self._file = tempfile.TemporaryFile(prefix="fromnoise-")  # noqa: SIM115 (closed by `close`)
        except OSError as error:
            raise self._no_room(error) from error

    def append(self, picture: NDArray[np.uint8]) -> None:
        try:
            self._file.write(np.ascontiguousarray(picture).data)
        except OSError as error:
            raise self._no_room(error) from error
        self._filled += 1

    def finish(self) -> NDArray[np.uint8]:
        try:
            self._file.flush()
        except OSError as error:
            raise self._no_room(error) from error
        if not self._filled:
            return np.empty((0, *self._shape), dtype=np.uint8)
        return np.asarray(np.memmap(self._file, np.uint8, mode="r+", shape=(self._filled, *self._shape)))

    def close(self) -> None:
        with suppress(OSError):  # what a full disk did not take has been reported, or is not needed any more
            self._file.close()  # a mapping keeps the bytes for as long as it is used itself

    def _no_room(self, error: OSError) -> FromnoiseError:
        return FromnoiseError(
            f"cannot keep {self._needed / 2**30:.1f} GiB of decoded pictures in {tempfile.gettempdir()}: "
            f"{error.strerror or error}; set TMPDIR to a disk with room, or lower the resolution"
        )
