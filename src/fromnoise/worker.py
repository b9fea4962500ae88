"""One of several processes that do a command together: who speaks, and what their launcher is told.

All of them run the same words and mostly meet the same mistakes, so one speaks for all: the first process while all is
well, and of an error the process that met it first. ``fromnoise … --processes N`` lends its workers a folder:

    3           the process number of worker 3, for passing on Ctrl-C
    stop        is there once a person has asked for a stop
    verdict     how the command ends, its exit code: written once, by whoever knows it first

A launcher starts workers anew when one ends with another code than 0. That is right where one has died, of a signal or
of what nobody foresaw (a fault of its GPU, say), and wrong where the command has come to its end, good or bad: then
there is a verdict, and a worker that finds one has nothing to do. torchrun lends a folder for logs: a verdict there,
of what starting anew cannot mend, ends all later starts at once.
"""

import contextlib
import os
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

FOLDER = "FROMNOISE_WORKERS"
"""The environment variable that names the folder."""

_TORCHRUN = "TORCHELASTIC_RUN_ID"  # torchrun sets it for every worker; by the others alone anybody may be meant.
_STOPPED = 130  # After Ctrl-C and its like. A launcher would take it for a death, so it is told 0.
_VERDICT, _SAID = "fromnoise-verdict", "fromnoise-said"  # In torchrun's folders, where other files lie as well.
_MOMENT = 1.0  # Seconds within which the launcher hears of a stop that all processes were told of.


@dataclass(frozen=True)
class Worker:
    """Process ``rank`` of ``size``, started by torchrun or its like. ``folder`` is lent by ``--processes``, or None.

    ``attempt`` is a folder that the workers of this machine share until they are started anew, or ``None``.
    """

    rank: int
    size: int
    folder: Path | None
    attempt: Path | None

    def begin(self) -> int | None:
        """To be called first: the exit code at once, if there is nothing to do any more."""
        if self.folder is None:
            found = None if self.attempt is None else self.attempt.parent / _VERDICT
            return int(found.read_text()) if found is not None and found.exists() else None
        if (self.folder / "verdict").exists():
            return 0
        (self.folder / str(self.rank)).write_text(str(os.getpid()))
        if (self.folder / "stop").exists():  # Asked for before the launcher could know of this process.
            _claim(self.folder / "verdict", str(_STOPPED))
            return 0
        return None

    @property
    def shared(self) -> Path | None:
        """A folder that the workers of this machine share, also when they are started anew; ``None`` if there is none.

        What is put there needs a name that says whose it is.
        """
        return self.folder or (None if self.attempt is None else self.attempt.parent)

    def torn_down(self) -> bool:
        """When a signal comes: whether the launcher clears up after another worker, and nobody asked for a stop.

        A stop that all processes are told of may be heard here first, so the launcher gets a moment to hear it too.
        """
        if self.folder is None:
            return False
        until = time.monotonic() + _MOMENT
        while not (self.folder / "stop").exists():
            if time.monotonic() > until:
                return True
            time.sleep(0.01)
        return False

    @contextlib.contextmanager
    def silence(self, *, debug: bool) -> Iterator[None]:
        """In here, all but the first process say nothing; to ``debug``, they say what goes wrong."""
        if self.rank == 0:
            yield
            return
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.ExitStack() as more:
            if not debug:
                more.enter_context(contextlib.redirect_stderr(nowhere))
            yield

    def end(self, code: int, *, died: bool) -> tuple[bool, int]:
        """Whether this process may say what went wrong, and the exit code for the launcher.

        ``died`` says that the process ends for a reason that starting all anew may mend.
        """
        if died:
            return False, code
        if self.folder is None:
            place, told = self.attempt, 0 if code == _STOPPED else code
            speaks = _claim(place / _SAID, "") if code and place is not None else self.rank == 0
            if told and place is not None:
                _claim(place.parent / _VERDICT, str(told))
            return speaks, told
        first = _claim(self.folder / "verdict", str(code)) if code or self.rank == 0 else False
        return first, 0 if code == _STOPPED else code

    def tells(self) -> bool:
        """Whether this process may say what it dies of: the first of each attempt to ask."""
        return self.attempt is None or _claim(self.attempt / _SAID, "")


def here(environment: Mapping[str, str] = os.environ) -> Worker | None:
    """What this process is, by the variables that torchrun sets; ``None`` for a process of its own.

    One alone is a worker too where torchrun has started it: it would be started anew.
    """
    try:
        rank, size = int(environment["RANK"]), int(environment["WORLD_SIZE"])
    except (KeyError, ValueError):
        return None
    if "MASTER_ADDR" not in environment or (size < 2 and not {FOLDER, _TORCHRUN} & environment.keys()):
        return None
    folder, error_file = environment.get(FOLDER), environment.get("TORCHELASTIC_ERROR_FILE")
    attempt = Path(error_file).parent.parent if error_file else None
    return Worker(
        rank, size, Path(folder) if folder else None, attempt if attempt is not None and attempt.is_dir() else None
    )


def _claim(file: Path, text: str) -> bool:
    """Write the file unless it is there; whether it was not. Its text is there as soon as the file is."""
    aside = file.with_name(f".{file.name}-{os.getpid()}")
    try:
        aside.write_text(text)
        try:
            os.link(aside, file)
        finally:
            aside.unlink()
    except FileExistsError:
        return False
    except OSError as error:
        print(f"fromnoise: cannot write {file}: {error.strerror}", file=sys.stderr)
    return True
