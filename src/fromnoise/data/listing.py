"""Which files of a folder or an archive are the pictures, and what is said of them.

Three ways: by a table (`manifest`), which then decides what the pictures are; by the first folder of each path, its
class; or not at all, and the pictures are the files whose names end like one. Asked for classes without a table being
named, one that lies there under a usual name is taken before the folders are.
"""

import os
import posixpath
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath

from fromnoise.data.conditions import Columns, Conditions, from_folders
from fromnoise.data.decode import SUFFIXES
from fromnoise.data.manifest import FOUND_BY_ITSELF, LARGEST, Manifest, left_out, manifest_or_none, read_manifest, some
from fromnoise.data.source import printable
from fromnoise.errors import WrongUse

CONTAINERS = (".zip", ".tar", ".parquet", ".arrow", ".npz", ".npy", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar")
"""How files end that may hold pictures and are not looked into where they lie among others."""

FOREIGN = (
    ".heic",
    ".heif",
    ".avif",
    ".jxl",
    ".jp2",
    ".psd",
    ".svg",
    ".ico",
    ".tga",
    ".exr",
    ".hdr",
    ".dng",
    ".cr2",
    ".nef",
)
"""How pictures end that no decoder here reads."""


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The pictures, by their paths from the root with slashes, in the order of these, and what is said of them."""

    paths: tuple[str, ...]
    missing: frozenset[str]
    """Those of ``paths`` that a table names and that are not there."""

    said: Conditions
    remarks: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Wish:
    """How labels are to be found: not at all; wherever they are, for ``classes``; or in the table ``labels``."""

    classes: bool = False
    labels: str | Path | None = None
    columns: Columns = field(default_factory=Columns)


def listing(
    files: Sequence[str], pictures: Sequence[str], *, wish: Wish, where: str, root: str, read: Callable[[str], bytes]
) -> Listing:
    """The pictures among ``files``.

    Args:
        files: all files below the root, as paths from it, with slashes.
        pictures: those that are pictures by their names.
        wish: how labels are to be found.
        where: what messages call the root.
        root: its path.
        read: the content of one of ``files``, at most `LARGEST` bytes of it.

    Raises:
        WrongUse: there are no pictures, the table makes no sense, or there are no classes where some are asked for.
    """
    remarks = _passed_over(files)
    table = _table(files, wish, root, read)
    if table is not None:
        manifest, shift = table
        placed = manifest.place(files, shift, root)
        lost = sorted(set(pictures) - set(placed.paths))
        return Listing(
            paths=placed.paths,
            missing=placed.missing,
            said=manifest.conditions(placed),
            remarks=(*left_out(lost, manifest.where), *remarks),
        )
    if not pictures:
        others = f"; other files in it: {len(files)}" if files else "; there are no other files in it either"
        held = sorted(path for path in files if suffix_of(path) in CONTAINERS)
        others += f", {some(held)}; give one of them" if held else ""
        raise WrongUse(f"no pictures in {where}: looked for names ending in {' '.join(SUFFIXES)}{others}")
    paths = tuple(sorted(pictures))
    said = from_folders(paths, where) if wish.classes else Conditions()
    return Listing(paths=paths, missing=frozenset(), said=said, remarks=remarks)


def suffix_of(path: str) -> str:
    """How ``path`` ends, with its dot, in lower case."""
    return posixpath.splitext(path)[1].lower()


def is_hidden(path: str) -> bool:
    """Whether a file in an archive, or a folder it lies in, begins with a dot; "." and ".." do not count."""
    if not path.startswith(".") and "/." not in path:  # nearly always, and there are millions of them
        return False
    return any(part.startswith(".") and part not in (".", "..") for part in path.split("/"))


def leads_out(path: str) -> str:
    """What is wrong with the name of a file in an archive that would be unpacked elsewhere; "" if nothing is."""
    windows = PureWindowsPath(path)
    if path.startswith("/") or windows.drive or windows.root:
        return "its name is absolute, which leads out of the archive; it is not read"
    return "its name leads out of the archive; it is not read" if ".." in windows.parts else ""


def _table(files: Sequence[str], wish: Wish, root: str, read: Callable[[str], bytes]) -> tuple[Manifest, str] | None:
    """The table, and the way from the root to where it lies."""
    if wish.labels is None:
        for name in (name for name in FOUND_BY_ITSELF if wish.classes and name in files):
            manifest = manifest_or_none(read(name), name, wish.columns)
            if manifest is None:  # EDM's, and its folders are no classes
                raise WrongUse(f"{name} in {printable(root)} has no labels; train without classes")
            if manifest.label is not None or manifest.values:
                return manifest, ""
        return None
    named = os.fspath(wish.labels)
    path = os.path.expanduser(named)
    if os.path.isfile(path):
        shift = os.path.relpath(os.path.dirname(os.path.abspath(path)), os.path.abspath(root)).replace(os.sep, "/")
        return read_manifest(_content(path), named, wish.columns), shift
    inside = posixpath.normpath(named.replace(os.sep, "/"))
    if inside in files:
        return read_manifest(read(inside), inside, wish.columns), posixpath.dirname(inside)
    raise WrongUse(f"there is no table {printable(named)}, neither here nor in {printable(root)}")


def _content(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            data = file.read(LARGEST + 1)
    except OSError as error:
        raise WrongUse(f"cannot read {printable(path)}: {error.strerror or error}") from None
    if len(data) > LARGEST:
        raise WrongUse(f"{printable(path)} is larger than the {LARGEST >> 20} MiB that a table may have")
    return data


def _passed_over(files: Sequence[str]) -> tuple[str, ...]:
    """Remarks on what could hold pictures and is not looked into."""
    held = sorted(path for path in files if suffix_of(path) in CONTAINERS)
    foreign = sorted(path for path in files if suffix_of(path) in FOREIGN)
    remarks = []
    if held:
        remarks.append(f"not opened, though they may hold pictures: {some(held)}")
    if foreign:
        remarks.append(f"not read, for there is no decoder for their kind: {some(foreign)}")
    return tuple(remarks)
