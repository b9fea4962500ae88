"""The analytic variance of a run: estimated from data once, kept in the run folder, used by name afterwards."""

import json
from pathlib import Path
from typing import Any

from fromnoise.errors import FromnoiseError, WrongUse
from fromnoise.files import explained, write_whole
from fromnoise.run import Run
from fromnoise.transition import Analytic

FILE = "analytic.json"


def store_variance(run: Run, variance: Analytic, *, weights: str, pictures: int) -> Path:
    """Write ``variance``, with the checkpoint and ``weights`` (ema or model) it is of, and from how many pictures."""
    path = variance_path(run)
    about = {"images": run.images, "weights": weights, "pictures": pictures}
    content = {**about, "times": variance.times, "gamma": variance.gamma, "limit": variance.limit}
    with explained(f"cannot write {path}"):
        write_whole(path, json.dumps(content).encode())
    return path


def stored_variance(run: Run, *, weights: str) -> dict[str, Any]:
    """The table of settings for a variance that was estimated before.

    Raises ``WrongUse`` if there is none, or if it belongs to another checkpoint or other weights.
    """
    path = variance_path(run)
    other = "" if weights == "ema" else f" --weights {weights}"
    how = f"estimate it with: fromnoise likelihood {run.path} --variance analytic{other}"
    if not path.is_file():
        raise WrongUse(f"variance analytic: {path} is not there; {how}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        table = {"kind": "analytic", **{name: content[name] for name in ("times", "gamma", "limit")}}
        images, its = int(content["images"]), str(content["weights"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FromnoiseError(f"{path} is damaged; {how}") from error
    if (images, its) != (run.images, weights):
        raise WrongUse(
            f"variance analytic: {path} is of the {its} weights at {images:,} pictures seen, and these are the "
            f"{weights} weights at {run.images:,}; {how}"
        )
    return table


def variance_path(run: Run) -> Path:
    """Where it is kept. Raises ``WrongUse`` for a run that was opened from a single file."""
    if not run.path.is_dir():
        raise WrongUse(f"variance analytic is kept in the run folder: name that folder, not the file {run.path}")
    return run.path / FILE
