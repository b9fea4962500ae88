"""How much memory is free to take, so that pictures are kept in it only where they fit.

The system's count is the kernel's own estimate (Linux, ``MemAvailable``: free, plus what caches give back). Inside a
container the control group's limit counts as well, less what the group uses; the part of its file cache that was not
used lately is given back on demand and so counts as free.
"""

import os
import sys
from pathlib import Path

_UNKNOWN = 4 * 2**30  # where the system does not say: little, for a machine that trains

# Limit, use and the name of the idle file cache in memory.stat, of control groups version 2 and version 1.
_GROUPS = (
    ("/sys/fs/cgroup", "0::", "memory.max", "memory.current", "inactive_file"),
    ("/sys/fs/cgroup/memory", ":memory:", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def available_memory() -> int:
    """Bytes that this process may still take without swapping."""
    if sys.platform == "win32":
        return _UNKNOWN
    known = [count for count in (_system_free(), _group_free()) if count is not None]
    return min(known, default=_UNKNOWN)


def _system_free() -> int | None:
    table = _table(Path("/proc/meminfo"))
    if "MemAvailable" in table:
        return table["MemAvailable"] * 1024
    try:  # not Linux: half of what is built in
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (ValueError, OSError):
        return None


def _group_free() -> int | None:
    """What the control group's limit leaves; None without a group or a limit ("max", which is no number)."""
    for mount, marker, limit, used, idle in _GROUPS:
        for folder in (Path(mount + _own_group(marker)), Path(mount)):  # a container sees its own group as the mount
            try:
                left = int((folder / limit).read_text()) - int((folder / used).read_text())
            except (OSError, ValueError):
                continue
            return max(0, left + _table(folder / "memory.stat").get(idle, 0))
    return None


def _own_group(marker: str) -> str:
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(marker)[2].rstrip("/") for line in lines if marker in line), "")


def _table(path: Path) -> dict[str, int]:
    """Lines of ``name: number`` or ``name number``, as the kernel writes them; empty if there is no such file."""
    try:
        lines = [line.replace(":", " ").split() for line in path.read_text().splitlines()]
    except OSError:
        return {}
    return {line[0]: int(line[1]) for line in lines if len(line) > 1 and line[1].isdigit()}
