"""Whether a folder holds the run that is asked for, and going on with it."""

from typing import Any

from torch import Tensor

from fromnoise.checkpoint import Checkpoint, RunFolder
from fromnoise.config import Config, parse, to_tree
from fromnoise.data import Dataset
from fromnoise.errors import FromnoiseError, WrongUse
from fromnoise.schema import read_toml
from fromnoise.train import Learner

MAY_CHANGE = {
    "data": {"path", "strict"},  # The pictures themselves are compared.
    "train": {
        *("steps", "epochs", "images", "report_every", "sample_every", "sample_steps", "checkpoint_every"),
        *("keep", "keep_every", "average_every", "recompute", "compile", "deterministic", "shard"),
        *("watch", "score_every", "score_samples", "score_steps"),
    },
}
"""Settings that a run may be resumed with other values of: they do not touch what a step computes."""

MAY_FORK = {
    "network.dropout",
    *(f"train.{name}" for name in ("steps", "epochs", "images", "accumulate", "optimizer", "lr", "warmup", "rate")),
    *(f"train.{name}" for name in ("clip", "guard", "ema_decay", "ema_ramp", "flip", "label_dropout", "precision")),
    "train.seed",
}
"""Settings, or tables of them, that a copy of a run may go on with other values of: its tensors and counts fit."""


def refuse_other(folder: RunFolder, config: Config) -> None:
    """Raises ``WrongUse`` if the folder is there and holds anything but this run. Writes nothing, and is quick."""
    if not folder.path.exists():
        return
    if not folder.path.is_dir():
        raise WrongUse(f"{folder.path} is a file; --out should name a new folder or a run")
    saved = saved_settings(folder)
    if saved is None:
        if any(not name.name.startswith(".") for name in folder.path.iterdir()):
            raise WrongUse(f"{folder.path} is not empty and holds no run; choose another --out, nothing was changed")
        return
    if not folder.has_checkpoints():  # Cut off before the first one (too little memory, say): nothing to lose.
        return
    before, after = to_tree(saved), to_tree(config)
    changed = _differences(before, after)
    if saved.train.rate.looks_ahead:  # A rate that falls towards the end of the run knew another end.
        for name in ("steps", "epochs", "images"):
            was, now = before["train"].get(name), after["train"].get(name)
            if was != now:
                changed.append(f"train.{name} was {was!r}, now {now!r} (train.rate falls towards the end)")
    if changed:
        raise WrongUse(
            f"{folder.path} was started with other settings: {', '.join(changed[:3])}"
            f"{' …' if len(changed) > 3 else ''}{_how_to_fork(changed)}; give the same ones to go on, or begin a "
            f"new run with another --out"
        )


def existing(folder: RunFolder, config: Config) -> tuple[Checkpoint | None, list[Any]]:
    """What to go on from, and the damaged checkpoints passed over. Raises as :func:`refuse_other` does.

    Also raises ``FromnoiseError`` if all checkpoints are damaged.
    """
    refuse_other(folder, config)
    found, damaged = folder.latest()
    if found is None and damaged:
        many = len(damaged)
        none = "the only checkpoint is not" if many == 1 else f"none of the {many} checkpoints is"
        raise FromnoiseError(
            f"{folder.checkpoints}: {none} whole, and nothing was touched; move {folder.path} away, or take another "
            f"--out. {'The newest' if many > 1 else 'It'}: {damaged[0]}"
        )
    return found, damaged


def saved_settings(folder: RunFolder) -> Config | None:
    """Those saved with a run, of which its checkpoints carry a copy that is taken where ``config.toml`` is not there.

    ``None`` if there is neither. Raises ``WrongUse`` if they make no sense, ``FromnoiseError`` if they cannot be read.
    """
    carried, where = folder.carried_settings(), str(folder.config)
    if not folder.config.is_file():
        return None if carried is None else _parsed(carried[1], str(carried[0]))
    mend = ""
    if carried is not None:
        mend = f"; mend it, or move it away and start again with the same words: {carried[0]} carries the settings, too"
    try:
        text = folder.config.read_text(encoding="utf-8")
        if carried is not None and not text.strip():  # Emptied: what was not said would be taken for what was.
            raise WrongUse(f"{where} is empty")
        return _parsed(text, where)
    except (OSError, UnicodeDecodeError) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise FromnoiseError(f"cannot read {where}: {why}{mend}") from error
    except WrongUse as error:
        raise WrongUse(f"{error}{mend}") from error


def _parsed(text: str, where: str) -> Config:
    return parse(read_toml(text, where), where)


def _how_to_fork(changed: list[str]) -> str:
    """What to do to go on with other settings after all, where that is a way."""
    names = [one.partition(" was ")[0] for one in changed]
    if not all({name, name.rpartition(".")[0]} & MAY_FORK for name in names):
        return ""
    return " (to change them on the way, copy the folder, and change them in the copy's config.toml, too)"


def _differences(old: dict[str, Any], new: dict[str, Any], where: str = "") -> list[str]:
    found = []
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            found += _differences(before, after, f"{where}{key}.")
        elif before != after and key not in MAY_CHANGE.get(where.removesuffix("."), set()):
            found.append(f"{where}{key} was {before!r}, now {after!r}")
    return found


def resume(learner: Learner, found: Checkpoint, pictures: Dataset) -> None:
    """Put the learner where the checkpoint is. Raises ``WrongUse`` if the pictures are others than then."""
    if found.state.get("data") != pictures.fingerprint:
        raise WrongUse(
            f"{found.path.parent.parent} was trained on other pictures: the data has changed since; "
            f"bring back the old data, or start another --out"
        )
    run, seen, batch_size = found.path.parent.parent, found.images, learner.settings.batch_size
    steps = found.state.get("step")
    if steps and seen != steps * batch_size:  # Settings that somebody has changed in the folder itself.
        raise WrongUse(
            f"{run} has seen {seen:,} pictures in {steps:,} steps, so not with train.batch_size = {batch_size}: give "
            f"it back the {seen // steps} that it began with, or begin a new run with another --out"
        )
    try:
        tensors: dict[str, dict[str, Tensor]] = found.tensors()
        learner.load(tensors, found.state)
    except (ValueError, KeyError) as error:
        raise FromnoiseError(f"checkpoint {found.path} does not fit this run's network: {error}") from error
