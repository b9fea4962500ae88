"""Part of the pictures held out, the same share of every class.

What is trained on cannot be what the result is scored against; a split by class keeps both parts alike. The order
comes from NumPy's `RandomState`, whose stream is frozen for good (NumPy enhancement proposal 19), so that the same
seed gives the same split with every version and on every machine.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fromnoise.errors import WrongUse


def stratified_split(
    labels: ArrayLike, held_out: float = 0.25, seed: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices to train on and indices to hold out; both sorted, together every index once.

    Of a class with n pictures round(n · held_out) are held out (halves up), but at least one is left to train on.

    Args:
        labels: the class number of every picture, (N,).
        held_out: the share to hold out, between 0 and 1.
        seed: another seed holds out others.

    Raises:
        WrongUse: ``held_out`` is not between 0 and 1, or it leaves nothing held out.
    """
    if not 0 < held_out < 1:
        raise WrongUse(f"held_out is {held_out}; it is a share of the pictures, above 0 and below 1")
    classes = np.asarray(labels)
    random = np.random.RandomState(seed)
    is_held = np.zeros(len(classes), dtype=bool)
    for label in np.unique(classes):
        members = random.permutation(np.flatnonzero(classes == label))
        count = int(np.floor(len(members) * held_out + 0.5))
        is_held[members[: min(count, len(members) - 1)]] = True
    if not is_held.any():
        raise WrongUse(f"held_out = {held_out} of {len(classes)} pictures holds none out; more of a class are needed")
    return np.flatnonzero(~is_held), np.flatnonzero(is_held)
