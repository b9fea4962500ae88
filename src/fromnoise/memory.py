"""Keeping the memory that the process has been given.

Activations of a training step are freed and asked for again at every step. glibc gives large blocks back to the kernel
at once, and the kernel hands them out again page by page, zeroed: on a CPU that can be a third of a step. With a
high threshold the process keeps them. What this gives is in docs/performance.md.
"""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # <malloc.h>
_LARGE = 2**31 - 1


def keep_freed_memory() -> bool:
    """Tell glibc's allocator to keep freed blocks for this process; True if it agreed.

    Affects the whole process, hence no library call does it by itself: training, sampling and scoring from the command
    line do. Elsewhere than on Linux with glibc nothing happens. The peak is unchanged; memory in between is not
    returned until the process ends.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, 2**30) and mallopt(_M_TRIM_THRESHOLD, _LARGE))
