"""Who is told how a training run goes: the run folder always, TensorBoard and Weights & Biases when asked for."""

from fromnoise.task.watch.base import Guarded, Watcher, scalars
from fromnoise.task.watch.jsonl import Jsonl
from fromnoise.task.watch.open import check_watchers, open_watchers

__all__ = ["Guarded", "Jsonl", "Watcher", "check_watchers", "open_watchers", "scalars"]
