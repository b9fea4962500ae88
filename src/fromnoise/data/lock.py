"""One at a time, among processes and threads: a lock on a file, which the system lets go of when its holder dies."""

import errno
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ModuleNotFoundError:  # Windows
    fcntl = None

_PAUSE = 0.1  # seconds between two tries


@contextmanager
def locked(path: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Inside, nobody else is; ``waiting`` is called every now and then until then.

    Raises:
        OSError: the file cannot be made or written to, or its file system (or the operating system) knows no locks.
    """
    while (descriptor := _taken(path)) is None:
        waiting()
        time.sleep(_PAUSE)
    try:
        yield
    finally:
        _let_go(descriptor)


@contextmanager
def locked_if_free(path: Path) -> Iterator[bool]:
    """Inside, nobody else is, if True; not a moment is waited for that.

    Raises:
        OSError: as for `locked`.
    """
    descriptor = _taken(path)
    try:
        yield descriptor is not None
    finally:
        if descriptor is not None:
            _let_go(descriptor)


def _taken(path: Path) -> int | None:
    """The open file, locked; None if somebody else has the lock."""
    if fcntl is None:
        raise OSError(errno.ENOSYS, "no locks on files here")
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Whoever removes a set of pictures removes its lock as well: then this is a lock that nobody else will ask for.
        if os.path.samestat(os.fstat(descriptor), os.stat(path)):
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def _let_go(descriptor: int) -> None:
    """Not only closed: a copy of this process that was made inside has the file open as well, and so the lock."""
    if fcntl is not None:
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)
