"""The watchers that a run asks for, by name. The file of each imports its package, an extra, when it is opened."""

from collections.abc import Callable

from fromnoise.checkpoint import RunFolder
from fromnoise.config import Config, to_tree
from fromnoise.errors import WrongUse
from fromnoise.task.curves import read_lines
from fromnoise.task.watch import tensorboard, wandb
from fromnoise.task.watch.base import Guarded, Watcher
from fromnoise.task.watch.jsonl import Jsonl

_AVAILABLE = {"tensorboard": tensorboard.available, "wandb": wandb.available}


def check_watchers(config: Config) -> None:
    """Raises ``WrongUse`` if a package is missing, or has no key: before anything is written or trained."""
    for name in config.train.watchers:
        if not _AVAILABLE[name]():
            raise WrongUse(
                f"[train] watch: {name} is not installed; pip install 'fromnoise[{name}]', or leave it out "
                f"(metrics.jsonl is written anyway)"
            )
    if "wandb" in config.train.watchers:
        wandb.check_login()


def open_watchers(folder: RunFolder, config: Config, images: int, tell: Callable[[str], None]) -> list[Watcher]:
    """The run folder's own, and those asked for; the run stands at ``images`` pictures seen.

    ``tell`` gets a line for each that fails, now or later; the run goes on without it.
    """
    before = read_lines(folder.metrics).lines
    makers: dict[str, Callable[[], Watcher]] = {
        "tensorboard": lambda: tensorboard.TensorBoard(folder.path, images, before),
        "wandb": lambda: wandb.WandB(folder.path, to_tree(config), before),
    }
    return [Jsonl(folder), *(Guarded(name, makers[name], tell) for name in config.train.watchers)]
