"""Pillow's warnings, off while it decodes.

Pillow warns about what is none of the user's concern (a damaged EXIF block in a picture that decodes well) and about
what we report ourselves (a picture too large to be true). Warning filters belong to the whole process and
`warnings.catch_warnings` is not safe among threads: two that overlap may restore each other's filters. So the first
thread that comes in opens one and the last that goes out closes it, and only Pillow's own modules are affected.
"""

import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

_lock = threading.Lock()
_open = ExitStack()
_inside = 0


@contextmanager
def pillow_quiet() -> Iterator[None]:
    """While any thread is inside, warnings raised by Pillow's modules are ignored. May be nested."""
    global _inside
    with _lock:
        if _inside == 0:
            _open.enter_context(warnings.catch_warnings())
            warnings.filterwarnings("ignore", module=r"PIL\b")
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                _open.close()


def _unlock() -> None:
    """In a forked process: a thread that holds the lock there has no copy here to let go of it."""
    global _lock
    _lock = threading.Lock()


if os.name == "posix":
    os.register_at_fork(after_in_child=_unlock)
