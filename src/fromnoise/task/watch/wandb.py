"""Weights & Biases, online or offline (``WANDB_MODE=offline``). The only file that knows it.

Its files lie in RUN/wandb. The identity of the run lies beside them, so that a resumed run goes on in the same curves;
a run begun offline keeps it, too, for ``wandb sync RUN/wandb/offline-run-*``. The horizontal axis is ``images``, the
pictures seen, rather than the count of calls, so steps that a resumed run repeats fall on the points they had.
"""

import importlib
import importlib.util
import os
import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fromnoise.errors import WrongUse
from fromnoise.files import write_whole
from fromnoise.task.watch.base import Line, Watcher, scalars

FOLDER, IDENTITY = "wandb", "fromnoise-run-id"


def available() -> bool:
    """Whether the package is there; a folder of that name does not count."""
    spec = importlib.util.find_spec("wandb")
    return spec is not None and spec.origin is not None


def check_login() -> None:
    """Raises ``WrongUse`` if it would have to ask for a key: a training must not wait for an answer."""
    wandb = importlib.import_module("wandb")
    if wandb.setup().settings.mode in {"offline", "disabled", "dryrun"} or os.environ.get("WANDB_API_KEY"):
        return
    if not wandb.login(prompt=False):
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
        quiet = wandb.Settings(silent=True, console="off", disable_git=True, disable_code=True)
        (run / FOLDER).mkdir(exist_ok=True)
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "fromnoise"),
            name=os.environ.get("WANDB_NAME", run.resolve().name),
            dir=str(run),
            id=_identity(run / FOLDER / IDENTITY),
            resume="allow",
            config=dict(settings),
            settings=quiet,
        )
        self._run.define_metric("images")
        self._run.define_metric("*", step_metric="images")
        if late:
            for line in before:
                self.line(line)

    def line(self, line: Line) -> None:
        """Every number of it, by name."""
        self._run.log(scalars(line))

    def picture(self, path: Path, images: int) -> None:
        """The grid, under ``grid``."""
        self._run.log({"grid": self._wandb.Image(str(path)), "images": float(images)})

    def flush(self) -> None:
        """Its own process writes as it goes."""

    def close(self) -> None:
        """Say that this process is at its end."""
        self._run.finish()


def _identity(file: Path) -> str:
    if not file.is_file():
        write_whole(file, secrets.token_hex(8).encode())
    return file.read_text().strip()
