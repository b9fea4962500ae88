"""What is in a tar file, and where: a list made by walking through its headers once; nothing is unpacked.

A tar file has no directory of its own, but its members lie in it as they are, so that one is read by its offset. Only
regular files are listed: links, devices and sparse files are passed over. A header may claim any size; no more is
read than the file has, and where the walk meets nonsense, or the end too soon, what came before is kept.
"""

import os
import tarfile
from dataclasses import dataclass
from typing import Any, BinaryIO, NamedTuple, final

from fromnoise.data.source import one_line, printable
from fromnoise.errors import FromnoiseError, WrongUse


class Member(NamedTuple):
    """A regular file in a tar file."""

    name: str
    start: int
    size: int


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What a walk through a tar file found."""

    members: tuple[Member, ...]
    broken: str
    """Why the walk ended early; "" if it did not."""


def contents(path: str) -> Contents:
    """The members of the uncompressed tar file ``path``, in the order in which they lie there.

    Raises:
        WrongUse: it cannot be opened, or is compressed: then no member can be found without unpacking all before it.
        FromnoiseError: it is no tar file, or damaged from the start.
    """
    where = printable(path)
    members: list[Member] = []
    broken = ""
    try:
        with open(path, "rb") as file:
            head = file.read(6)
            kind = next((kind for magic, kind in _PACKED.items() if head.startswith(magic)), None)
            if kind is not None:
                raise WrongUse(
                    f"{where} is packed by {kind}; unpack it to a .tar, whose members can be read one by one"
                )
            file.seek(0)
            try:
                broken = _walk(_Bounded(file, os.fstat(file.fileno()).st_size), members)
            except MemoryError:
                broken = "a header claims more than fits into memory"
            except Exception as error:  # tarfile's errors, and what nonsense in headers makes of it
                broken = one_line(error) or type(error).__name__
    except FileNotFoundError:
        raise WrongUse(f"there is no file {where}") from None
    except OSError as error:
        raise WrongUse(f"cannot read {where}: {error.strerror or error}") from None
    if not members:
        raise FromnoiseError(f"{where} is damaged, cut short or no tar file ({broken or 'no files in it'})")
    return Contents(members=tuple(members), broken=broken)


def read_member(file: BinaryIO, member: Member) -> bytes:
    """The bytes of a member of the open tar file, fewer where the file is cut short."""
    file.seek(member.start)
    return file.read(max(0, min(member.size, os.fstat(file.fileno()).st_size - member.start)))


_PACKED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


def _walk(file: Any, members: list[Member]) -> str:
    """Adds what there is to ``members``, and says why it ended before the end of the archive; "" if it did not."""
    last = -1
    with tarfile.open(fileobj=file, mode="r:") as opened:
        archive: Any = opened
        while (member := archive.next()) is not None:
            archive.members = []  # tarfile would keep every header it has passed
            if member.offset <= last:  # of a negative size
                return f"a header leads back to byte {member.offset:,}"
            last = member.offset
            if member.isreg() and not member.issparse():
                members.append(Member(name=member.name, start=member.offset_data, size=member.size))
        file.seek(archive.offset)
        rest = file.read(tarfile.BLOCKSIZE)
    # An archive ends with blocks of zeros; tarfile ends there, and just as silently at a header that is none.
    if rest.strip(b"\0"):
        return f"at byte {archive.offset:,} there is no header"
    return "" if rest else "the mark of its end is missing"


@final
class _Bounded:
    """A file of which no more is asked than it has: Python makes room for all it is asked to read before it reads."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._size = file, size

    def read(self, size: int = -1, /) -> bytes:
        left = max(0, self._size - self._file.tell())
        return self._file.read(left if size < 0 else min(size, left))

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()
