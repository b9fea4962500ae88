"""Files that are whole or absent: written aside, synced, renamed; and the system's errors as one line."""

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from fromnoise.errors import FromnoiseError


@contextlib.contextmanager
def explained(what: str) -> Iterator[None]:
    """Turns the operating system's errors into one line about ``what``."""
    try:
        yield
    except OSError as error:
        raise FromnoiseError(f"{what}: {error.strerror or ' '.join(str(error).split())}") from error


def write_whole(path: Path, content: bytes) -> None:
    """Replace the file at ``path``; whoever reads it sees the old content or the new one."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with aside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
        sync(path.parent)
    finally:
        aside.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def digest(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
