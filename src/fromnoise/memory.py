"""The process's memory: keeping what it has been given, how much that was at most, and how much more there is.

Activations of a training step are freed and asked for again at every step. glibc gives large blocks back to the kernel
at once, and the kernel hands them out again page by page, zeroed: on a CPU that can be a third of a step. With a
high threshold the process keeps them. What this gives is in docs/performance.md.

What may still be taken is the least of what the kernel calls available, what every control group above the process
leaves of its limit, and what is left of the process's own limit of addresses (``ulimit -v``); pages of files that a
group could give back at once count as free.
"""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

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


def peak_resident() -> int | None:
    """The most bytes of memory that this process has held at once, its libraries included; ``None`` if not told.

    On Linux VmHWM, which, unlike what getrusage says, forgets the peak of the process that started this one.
    """
    kibibytes = _field(Path("/proc/self/status"), "VmHWM")
    return None if kibibytes is None else 1024 * kibibytes


def is_shortage(error: BaseException) -> bool:
    """Whether ``error`` says that there was too little memory: PyTorch has no one exception for it."""
    text = str(error)
    return isinstance(error, MemoryError) or "out of memory" in text or "can't allocate memory" in text


def available_memory(root: Path = Path("/")) -> int | None:
    """Bytes that this process may still take without swapping; ``None`` where the system does not tell.

    ``root`` is where the system's own folders ``proc`` and ``sys`` are.
    """
    kibibytes = _field(root / "proc/meminfo", "MemAvailable")
    if kibibytes is None:
        return None
    return max(0, min([1024 * kibibytes, *_left_by_groups(root), *_left_of_addresses(root)]))


def _left_of_addresses(root: Path) -> Iterator[int]:
    """What the process may still map, if that is limited; addresses that it has, and does not use, are gone as well."""
    taken = _field(root / "proc/self/status", "VmSize")
    for line in _text(root / "proc/self/limits").splitlines():
        limit = line.removeprefix("Max address space").split()  # soft, hard, unit
        if taken is not None and len(limit) == 3 and limit[0].isdecimal():
            yield int(limit[0]) - 1024 * taken


def _left_by_groups(root: Path) -> Iterator[int]:
    """What each control group above this process leaves, of both versions of their interface."""
    mounts = root / "sys/fs/cgroup"
    for line in _text(root / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0":
            top, limit, usage, idle = mounts, "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            top, limit, usage = mounts / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
            idle = "total_inactive_file"
        else:
            continue
        group = Path(path.lstrip("/"))
        for folder in (group, *group.parents) if group.parts else (group,):
            with suppress(ValueError):  # "max", and groups that are named by their path on the host
                most, used = int(_text(top / folder / limit)), int(_text(top / folder / usage))
                yield most - used + (_field(top / folder / "memory.stat", idle) or 0)


def _field(file: Path, name: str) -> int | None:
    """The number behind ``name`` in a table of the kernel."""
    for line in _text(file).splitlines():
        words = line.replace(":", " ").split()
        if len(words) > 1 and words[0] == name:
            return int(words[1])
    return None


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
