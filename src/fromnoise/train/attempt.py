"""A store that only the processes of one attempt know.

torchrun starts all processes anew when one has died, and lends them the store that the dead have used: in PyTorch 2.13
they find the addresses of the dead in it, and wait for them. So here the processes first agree on a name that nobody
had before them, and write and read under it alone.

Every process but the first asks, with a word that it has made up, and the first answers to that word; who has heard the
answer says so. A question of the dead is answered as well, and nobody listens; the same process, alive, asks another.
"""

import time
import uuid
from datetime import timedelta

from torch.distributed import PrefixStore, Store

_PAUSE = 0.01  # seconds


def own_store(store: Store, rank: int, size: int, patience: timedelta) -> Store:
    """The part of ``store`` that the processes 0 … ``size`` − 1 of this attempt have to themselves; all must ask.

    Raises ``RuntimeError`` if one does not come before the ``patience`` of the first ends.
    """
    word = uuid.uuid4().hex
    if rank == 0:
        _answer(store, word, size, patience)
        return PrefixStore(word, store)
    store.set(f"asks/{rank}", word)
    name = store.get(f"told/{word}").decode()
    store.set(f"heard/{name}/{rank}", "")
    return PrefixStore(name, store)


def _answer(store: Store, name: str, size: int, patience: timedelta) -> None:
    """Tell ``name`` to whoever asks, until all have heard it."""
    until = time.monotonic() + patience.total_seconds()
    missing, told = list(range(1, size)), set[str]()
    while missing:
        for rank in missing:
            if store.check([f"asks/{rank}"]) and (word := store.get(f"asks/{rank}").decode()) not in told:
                store.set(f"told/{word}", name)
                told.add(word)
        missing = [rank for rank in missing if not store.check([f"heard/{name}/{rank}"])]
        if time.monotonic() > until:
            raise RuntimeError(f"timed out: process {missing[0]} of {size} has not come")
        if missing:
            time.sleep(_PAUSE)
