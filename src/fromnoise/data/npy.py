"""Arrays out of ``.npy`` and ``.npz`` files, of which nothing is believed before it is checked.

An .npy is a header (type, shape, order of axes) and the values; an .npz is a zip of such files. The header of a file of
a kilobyte may claim a petabyte, and its type may be pickled objects, whose loading would run anybody's program. So
the claim must agree with the size of the file, an array out of an .npz must fit into half of the free memory, and
objects are refused. An .npy is mapped: it may be larger than memory.
"""

import math
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any, final

import numpy as np
from numpy.lib import format as numpy_format
from numpy.typing import NDArray

from fromnoise.data.memory import available_memory
from fromnoise.data.source import one_line, printable
from fromnoise.errors import FromnoiseError, WrongUse

_BLOCK = 2**24


@dataclass(frozen=True, kw_only=True)
class Header:
    """What an .npy says of itself, as far as that can be true."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]
    start: int
    """Bytes before the values."""

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def mapped(path: str, where: str) -> NDArray[Any]:
    """The array in the .npy file ``path``, mapped for reading.

    Raises:
        WrongUse: it cannot be opened, or holds objects.
        FromnoiseError: it is damaged or cut short.
    """
    with _explained(where), open(path, "rb") as file:
        header = _header(file, where)
        there = os.fstat(file.fileno()).st_size - header.start
    _check(header, there, where)
    order = "F" if header.fortran else "C"
    with _explained(where):
        return np.asarray(np.memmap(path, header.dtype, "r", header.start, header.shape, order))


@final
class Npz:
    """The arrays in the .npz file ``path``, each read when asked for. Raises as `mapped` does."""

    def __init__(self, path: str, where: str) -> None:
        self._where = where
        self.headers: dict[str, Header] = {}
        """By the name of the array, without ".npy"."""

        with _explained(where):
            self._file = zipfile.ZipFile(path)
            members = [member for member in self._file.infolist() if member.filename.endswith(".npy")]
        self._members = {member.filename.removesuffix(".npy"): member for member in members}
        for name, member in self._members.items():
            with _explained(self._called(name)), self._file.open(member) as file:
                header = _header(file, self._called(name))
            _check(header, member.file_size - header.start, self._called(name))
            self.headers[name] = header

    def load(self, name: str) -> NDArray[Any]:
        """The array called ``name``, in memory."""
        header, called = self.headers[name], self._called(name)
        if header.nbytes > available_memory() // 2:
            raise FromnoiseError(
                f"{called} is {header.nbytes / 2**30:.1f} GiB, more than half of the free memory; "
                "save it as .npy, which is read from the disk"
            )
        flat = np.empty(header.nbytes, dtype=np.uint8)
        with _explained(called), self._file.open(self._members[name]) as file:
            file.read(header.start)
            for start in range(0, header.nbytes, _BLOCK):
                block = file.read(min(_BLOCK, header.nbytes - start))
                if len(block) < min(_BLOCK, header.nbytes - start):
                    raise FromnoiseError(f"{called} is cut short in the archive")
                flat[start : start + len(block)] = np.frombuffer(block, np.uint8)
            if file.read(1):  # at the end of the member its checksum is compared
                raise FromnoiseError(f"{called} is damaged: bytes follow its values")
        return flat.view(header.dtype).reshape(header.shape, order="F" if header.fortran else "C")

    def _called(self, name: str) -> str:
        return f"{self._where}: {printable(name)}"


def _header(file: IO[bytes], where: str) -> Header:
    """The header, with the file left at the first value. Raises ValueError for nonsense, WrongUse for objects."""
    version = numpy_format.read_magic(file)
    readers = {(1, 0): numpy_format.read_array_header_1_0, (2, 0): numpy_format.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f"version {version[0]}.{version[1]} of the format")
    shape, fortran, dtype = readers[version](file)
    if dtype.hasobject:
        raise WrongUse(f"{where} holds Python objects, which are never loaded; save an array of numbers")
    if dtype.itemsize == 0 or any(side < 0 for side in shape):
        raise ValueError(f"no such array can be: {dtype} of {shape}")
    return Header(shape=shape, fortran=fortran, dtype=dtype, start=file.tell())


def _check(header: Header, there: int, where: str) -> None:
    if header.nbytes != there:
        promised = f"its header promises {header.nbytes:,} bytes of values, and {there:,} follow"
        raise FromnoiseError(f"{where} is damaged or cut short: {promised}")


@contextmanager
def _explained(where: str) -> Iterator[None]:
    """Whatever a damaged file makes NumPy and zipfile raise, as one line."""
    try:
        yield
    except FromnoiseError:
        raise
    except FileNotFoundError:
        raise WrongUse(f"there is no file {where}") from None
    except OSError as error:
        raise WrongUse(f"cannot read {where}: {error.strerror or error}") from None
    except MemoryError:
        raise FromnoiseError(f"{where} does not fit into memory, or is damaged") from None
    except Exception as error:  # ValueError, BadZipFile, SyntaxError and TokenError of a header, EOFError, zlib.error …
        raise FromnoiseError(f"{where} is damaged or no array ({one_line(error)})") from None
