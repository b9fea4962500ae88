"""What several verbs need: settings from ``--set``, stopping on Ctrl-C, and the words for going on."""

import contextlib
import os
import re
import shlex
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fromnoise.console import Meter, say
from fromnoise.errors import INTERRUPTED, Lost, WrongUse
from fromnoise.run import Run
from fromnoise.schema import assignment, merge
from fromnoise.task.prepare import Known
from fromnoise.task.prepare import known_pictures as task_known_pictures
from fromnoise.task.train import Ended
from fromnoise.worker import here

PROGRAM = "FROMNOISE_PROGRAM"
"""The environment variable by which a launcher tells its workers what was typed to start it."""

_SAME_WISH = 2.0  # Seconds in which signals are one wish: a queue tells every process, and torchrun passes it on.
_LONGEST = 10 * 366 * 86400  # seconds: ten years; a timer cannot wait for just any


def program() -> str:
    """What to type for this program, as a shell takes it: what it was started as, by name where that finds the same."""
    called, worker = sys.argv[0], here()
    if worker is not None and worker.folder is not None and PROGRAM in os.environ:
        return os.environ[PROGRAM]  # Nobody typed what started a worker.
    if Path(called).parts[-2:] == ("fromnoise", "__main__.py"):
        return f"{_python()} -m fromnoise"
    found = shutil.which("fromnoise")
    if Path(called).name != "fromnoise" or (found is not None and _same_file(found, called)):
        return "fromnoise"
    return shlex.quote(called if os.path.dirname(called) else os.path.join(os.curdir, called))


def program_again() -> str:
    """What to type in front of the same words to go on: :func:`program`, or torchrun as far as it is known here."""
    worker = here()
    return "torchrun … -m fromnoise" if worker is not None and worker.folder is None else program()


def _python() -> str:
    """This interpreter, by name where that finds it. A link to it from another folder has other packages."""
    own = sys.executable
    for name in ("python", "python3"):
        found = shutil.which(name)
        if found is not None and _same_file(os.path.dirname(found), os.path.dirname(own)) and _same_file(found, own):
            return name
    return shlex.quote(own)


def _same_file(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


def sets(args: Any) -> dict[str, Any]:
    """What --set says, as a tree."""
    tree: dict[str, Any] = {}
    for text in args.set:
        tree = merge(tree, assignment(text))
    return tree


def size_of(text: str) -> tuple[int, int]:
    """What --resolution says, as (height, width). Raises ``WrongUse``."""
    height, by, width = text.lower().partition("x")
    width = width if by else height
    if not height.isdecimal() or not width.isdecimal():
        raise WrongUse(f"--resolution {text}: should be a number of pixels such as 64, or HxW such as 64x96")
    return int(height), int(width)


def seconds_of(text: str) -> float:
    """What --time-limit says, in seconds. Raises ``WrongUse``."""
    words = text.strip().lower()
    clock = re.fullmatch(r"(\d{1,9}):([0-5]\d):([0-5]\d)", words)
    parts = re.fullmatch(r"(?:(\d{1,9})d)?(?:(\d{1,9})h)?(?:(\d{1,9})m)?(?:(\d{1,9})s)?", words)
    plain = re.fullmatch(r"\d{1,9}", words)
    groups = (None, *clock.groups()) if clock else parts.groups() if parts else (None, None, None, plain and plain[0])
    days, hours, minutes, seconds = (int(group or 0) for group in groups)
    limit = 86400 * days + 3600 * hours + 60 * minutes + seconds
    if not 0 < limit <= _LONGEST:
        raise WrongUse(
            f"--time-limit {text}: should be a time such as 30m, 2h, 1h30m, 1:30:00 (hours, minutes, seconds), or a "
            f"number of seconds"
        )
    return limit


def began() -> float:
    """When this command began, as ``time.time`` tells it; for workers started anew, when the first ones did."""
    worker = here()
    if worker is None or worker.shared is None:
        return time.time()
    mark = worker.shared / "fromnoise-began"
    with contextlib.suppress(FileExistsError):
        mark.touch(exist_ok=False)
    return mark.stat().st_mtime


def deadline(limit: str) -> tuple[float, str]:
    """For :func:`stopping`: when the time that --time-limit gives this command is over. Raises ``WrongUse``."""
    return began() + seconds_of(limit), limit


def interrupted(args: Any, words: list[str], last: Ended) -> int:
    """Say how to go on; returns the exit code."""
    where = f"saved at {last.images:,} pictures in {last.run}" if last.images else "nothing was saved"
    say(f"fromnoise: stopped and {where}; go on with: {program_again()} {shlex.join(words)}")
    return INTERRUPTED


def beside(args: Any, name: str) -> Path:
    """Where results go: --out, or a folder of this name in the run, or next to the file that was named."""
    place: Path = args.run_path
    return args.out or (place if place.is_dir() else place.parent) / name


def known_pictures(run: Run, data: str | None, verb: str, *, fit: bool) -> Known:
    """The pictures a model is held against: those given, else its own. Raises ``WrongUse`` if they are not there."""
    try:
        with reading() as progress:
            known = task_known_pictures(run.config, data, fit=fit, progress=progress)
    except WrongUse as error:
        if data is not None:
            raise
        raise WrongUse(f"the run's own pictures are not to be had: {error}; name others: {verb} RUN DATA") from error
    if known.skipped:
        say(f"fromnoise: skipped {len(known.skipped)} unreadable pictures, the first: {known.skipped[0]}")
    return known


@contextlib.contextmanager
def reading() -> Iterator[Any]:
    """A bar for decoding, shown once there is something to decode."""
    with contextlib.ExitStack() as stack:
        meters: list[Meter] = []

        def progress(done: int, total: int) -> None:
            if not meters:
                meters.append(stack.enter_context(Meter("reading", total)))
            meters[0].show(done)

        yield progress


@contextlib.contextmanager
def stopping(until: tuple[float, str] | None = None) -> Iterator[threading.Event]:
    """Ctrl-C and SIGTERM ask for a stop after the step at hand; once more, a moment later, they end it at once.

    So does the time limit, at ``until``: a time as ``time.time`` tells it, and the limit as it was said.
    """
    stop, before = threading.Event(), {}
    asked: list[float] = []

    def ask(number: int, _: object) -> None:
        worker = here()
        if worker is not None and worker.torn_down():
            raise Lost("another process of this training is gone; from the last checkpoint all can go on")
        if asked:  # A signal after the time limit is the first one: what is being saved must not be lost.
            if time.monotonic() - asked[0] > _SAME_WISH:
                raise KeyboardInterrupt
            return
        asked.append(time.monotonic())
        stop.set()
        say(f"fromnoise: stopping after this step, and saving (once more after {_SAME_WISH:g} seconds to stop at once)")

    def end(limit: str) -> None:
        if not stop.is_set():
            stop.set()
            say(f"fromnoise: the time limit of {limit} is reached: saving")

    timer = None
    if until is not None:
        timer = threading.Timer(max(0.0, until[0] - time.time()), end, until[1:])
        timer.daemon = True
        timer.start()
    for number in (signal.SIGINT, signal.SIGTERM):
        before[number] = signal.signal(number, ask)
    try:
        yield stop
    finally:
        if timer is not None:
            timer.cancel()
        for number, handler in before.items():
            signal.signal(number, handler)
