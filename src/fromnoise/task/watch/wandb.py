"""Weights & Biases, online or offline (``WANDB_MODE=offline``). The only file that knows it.

Its files lie in RUN/wandb. The identity of the run lies beside them, so that a resumed run goes on in the same curves;
a run begun offline keeps it, too, for ``wandb sync RUN/wandb/offline-run-*``. The horizontal axis is ``images``, the
pictures seen, rather than the count of calls, so steps that a resumed run repeats fall on the points they had.
"""

import contextlib
import importlib
import importlib.util
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from fromnoise.errors import FromnoiseError, WrongUse
from fromnoise.files import write_whole
from fromnoise.task.watch.base import Line, Watcher, scalars

FOLDER, IDENTITY = "wandb", "fromnoise-run-id"

_PATIENCE = 30.0
"""Seconds that a training waits for the server before it goes on alone; ``WANDB_INIT_TIMEOUT`` changes it."""

_LONGEST = 200  # Characters of an error; what comes after is for those who mend the package.


def available() -> bool:
    """Whether the package is there; a folder of that name does not count."""
    spec = importlib.util.find_spec("wandb")
    return spec is not None and spec.origin is not None


def check_login() -> None:
    """Raises ``WrongUse`` if it would have to ask for a key: a training must not wait for an answer.

    And if the package cannot be imported, or does not like its own settings.
    """
    try:
        wandb = importlib.import_module("wandb")
    except Exception as error:
        raise WrongUse(
            f"[train] watch: wandb is installed and cannot be imported ({_brief(error)}); "
            f"pip install --force-reinstall wandb, or leave it out (metrics.jsonl is written anyway)"
        ) from error
    try:
        if wandb.setup().settings.mode in {"offline", "disabled", "dryrun"} or os.environ.get("WANDB_API_KEY"):
            return
        known = wandb.login(prompt=False)
    except Exception as error:
        what = " ".join(str(error).split())[:_LONGEST]  # Its first line only counts the mistakes.
        raise WrongUse(
            f"[train] watch: wandb cannot be set up ({what}); mend its settings (WANDB_*), or leave it out "
            f"(metrics.jsonl is written anyway)"
        ) from error
    if not known:
        raise WrongUse(
            "[train] watch: Weights & Biases has no key on this machine: run wandb login, or set WANDB_MODE=offline"
        )


class WandB(Watcher):
    """Tells of the run at ``run``; ``settings`` are shown with it. ``WANDB_PROJECT`` and its like are heeded.

    If it comes late, it is first told the lines of ``before``.
    """

    def __init__(self, run: Path, settings: Mapping[str, Any], before: Iterable[Line] = ()) -> None:
        wandb = self._wandb = importlib.import_module("wandb")
        late = not (run / FOLDER / IDENTITY).is_file()
        # It must neither read what is printed, nor take the code or the name of the repository along, nor speak.
        quiet = {"silent": True, "console": "off", "disable_git": True, "disable_code": True}
        if "WANDB_INIT_TIMEOUT" not in os.environ:
            quiet["init_timeout"] = _PATIENCE
        (run / FOLDER).mkdir(exist_ok=True)
        with _briefly():
            self._run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", "fromnoise"),
                name=os.environ.get("WANDB_NAME", run.resolve().name),
                dir=str(run),
                id=_identity(run / FOLDER / IDENTITY),
                resume="allow",
                config=dict(settings),
                settings=wandb.Settings(**quiet),
            )
            self._run.define_metric("images")
            self._run.define_metric("*", step_metric="images")
        if late:
            for line in before:
                self.line(line)

    def line(self, line: Line) -> None:
        """Every number of it, by name."""
        with _briefly():
            self._run.log(scalars(line))

    def picture(self, path: Path, images: int) -> None:
        """The grid, under ``grid``."""
        with _briefly():
            self._run.log({"grid": self._wandb.Image(str(path)), "images": float(images)})

    def flush(self) -> None:
        """Its own process writes as it goes."""

    def close(self) -> None:
        """Say that this process is at its end."""
        with _briefly():
            self._run.finish()


@contextlib.contextmanager
def _briefly() -> Iterator[None]:
    """Its errors may be pages long, with the server's answer in them: the first line is what a person can use."""
    try:
        yield
    except FromnoiseError:
        raise
    except Exception as error:
        raise FromnoiseError(_brief(error)) from error


def _brief(error: Exception) -> str:
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    text = f"{type(error).__name__}: {text}" if isinstance(error, ImportError | LookupError) else text
    return (text or type(error).__name__)[:_LONGEST]


def _identity(file: Path) -> str:
    if not file.is_file():
        write_whole(file, secrets.token_hex(8).encode())
    return file.read_text().strip()
