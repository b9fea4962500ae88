"""One member out of a zip file, of which nothing is believed but what can be checked.

The archive's directory promises for every member its place, its packed and unpacked size and its checksum (APPNOTE
4.3.12). Here the member is unpacked from its place to at most the promised size, and then compared; so a small
file cannot unpack to a large one, and a lie is found out. Every call opens the file for itself: threads and copies of
the process may read the same archive side by side.
"""

import bz2
import os
import stat
import zipfile
import zlib
from typing import NamedTuple

from fromnoise.data.source import LARGEST_RAW, Gone, Unreadable, one_line, unreadable
from fromnoise.errors import FromnoiseError, WrongUse

LARGEST_MEMBER = LARGEST_RAW
"""Bytes of a picture's file in an archive, unpacked."""

_ENCRYPTED = 0x1 | 0x40 | 0x2000
_PATCHED = 0x20  # APPNOTE 4.4.4
_LOCAL_HEADER = 30
_METHODS = {
    zipfile.ZIP_STORED: "stored",
    zipfile.ZIP_DEFLATED: "deflate",
    zipfile.ZIP_BZIP2: "bzip2",
}


class Member(NamedTuple):
    """What the directory of an archive says of a file in it."""

    name: str
    """With slashes."""

    flags: int
    method: int
    start: int
    packed: int
    size: int
    crc: int


def directory(path: str, where: str) -> list[Member]:
    """The files that the zip file ``path`` lists; folders and links are left out.

    Raises:
        WrongUse: it cannot be opened.
        FromnoiseError: it is no zip file, or a damaged one.
    """
    try:
        with zipfile.ZipFile(path) as file:
            listed = file.infolist()
    except FileNotFoundError:
        raise WrongUse(f"there is no file {where}") from None
    except OSError as error:
        raise WrongUse(f"cannot read {where}: {error.strerror or error}") from None
    except MemoryError:
        raise FromnoiseError(f"{where}: its directory claims more than fits into memory; it is damaged") from None
    except Exception as error:  # BadZipFile, and what nonsense in the directory makes of it
        why = one_line(error)
        raise FromnoiseError(f"{where} is damaged, cut short or no zip file ({why}); make or fetch it again") from None
    return [_member(one) for one in listed if not one.is_dir() and not stat.S_ISLNK(one.external_attr >> 16)]


def _member(listed: zipfile.ZipInfo) -> Member:
    name = listed.filename
    return Member(
        name=name if "/" in name else name.replace("\\", "/"),
        flags=listed.flag_bits,
        method=listed.compress_type,
        start=listed.header_offset,
        packed=listed.compress_size,
        size=listed.file_size,
        crc=listed.CRC,
    )


def fault(member: Member, largest: int = LARGEST_MEMBER) -> str:
    """Why a member is not to be opened, by what the directory says of it; "" if it may."""
    if member.flags & _ENCRYPTED:
        return "encrypted; unpack the archive with its password"
    if member.method not in _METHODS or member.flags & _PATCHED:
        return f"packed by method {member.method}; read are {', '.join(_METHODS.values())}"
    if member.size > largest:
        return f"claims {member.size:,} bytes unpacked, above the limit of {largest:,} in an archive"
    return ""


def unpacked(path: str, member: Member, name: str) -> bytes:
    """All bytes of a ``member`` without a `fault`, of the archive at ``path``; ``name`` is what messages call it.

    Raises:
        Unreadable: it is damaged, or not what the directory promises; `Gone`, if the archive is.
    """
    try:
        packed = _packed(path, member, name)
        data = _inflated(packed, member)
    except MemoryError:
        raise Unreadable(name, "not enough memory to unpack it") from None
    except (zlib.error, OSError, EOFError) as error:  # bz2 raises OSError, too
        if isinstance(error, OSError) and isinstance(gone := unreadable(name, error), Gone):
            raise gone from error
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise Unreadable(name, f"cannot be unpacked ({why or 'it is cut short'})") from error
    if len(data) != member.size:
        more = "more" if len(data) > member.size else "fewer"
        raise Unreadable(name, f"{more} bytes than the {member.size:,} that the archive's directory promises")
    if zlib.crc32(data) != member.crc:
        raise Unreadable(name, "damaged in the archive (its checksum is another)")
    return data


def _packed(path: str, member: Member, name: str) -> bytes:
    # No method here makes data longer by a hundredth: what is promised beyond that need not be read.
    most = min(member.packed, member.size + member.size // 100 + 1024)
    with open(path, "rb") as file:
        file.seek(member.start)
        head = file.read(_LOCAL_HEADER)
        if len(head) < _LOCAL_HEADER or head[:4] != b"PK\3\4":
            raise Unreadable(name, "the archive's directory points to where it is not; the archive is damaged")
        file.seek(int.from_bytes(head[26:28], "little") + int.from_bytes(head[28:30], "little"), os.SEEK_CUR)
        return file.read(most)


def _inflated(packed: bytes, member: Member) -> bytes:
    """At most one byte more than promised."""
    most = member.size + 1
    if member.method == zipfile.ZIP_STORED:
        return packed[:most]
    if member.method == zipfile.ZIP_DEFLATED:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, most)
    unpacker = bz2.BZ2Decompressor()
    data = b""
    while len(data) < most and not unpacker.eof:
        part = unpacker.decompress(packed, most - len(data))
        if not part and unpacker.needs_input:
            raise EOFError
        data, packed = data + part, b""
    return data
