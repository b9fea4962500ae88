"""The classifier without training: a picture has the label of the nearest known one (Euclidean distance).

Source: Cover and Hart 1967 (IEEE Trans. Inf. Theory 13, 21).
"""

import torch
from torch import Tensor

from fromnoise.errors import WrongUse

_CHUNK_ELEMENTS = 2**22  # 32 MiB of float64 distances at a time.


def nearest_labels(train_features: Tensor, train_labels: Tensor, queries: Tensor) -> Tensor:
    """The label of each query's nearest training vector; of equally near ones, the first.

    ``train_features`` (N, D), ``train_labels`` (N,) and ``queries`` (M, D) -> (M,) of the labels' type. Distances are
    summed differences in float64, not the expanded square, which cancels where it matters most: near zero.

    Raises :class:`~fromnoise.errors.WrongUse` for shapes that do not fit and for no training vectors.
    """
    if train_labels.shape != train_features.shape[:1]:
        raise WrongUse(f"{len(train_features)} feature vectors need as many labels, not {tuple(train_labels.shape)}")
    return train_labels[nearest_indices(train_features, queries)]


def nearest_indices(train_features: Tensor, queries: Tensor) -> Tensor:
    """As :func:`nearest_labels`, but which training vector is nearest: (M,) in int64."""
    if train_features.ndim != 2 or queries.ndim != 2 or train_features.shape[1] != queries.shape[1]:
        raise WrongUse(
            f"features must be (N, D) and (M, D) with one D, not {tuple(train_features.shape)} and "
            f"{tuple(queries.shape)}"
        )
    if len(train_features) == 0:
        raise WrongUse("the nearest of no training vectors: there must be at least one")
    known, asked = train_features.double(), queries.double()
    rows = max(1, _CHUNK_ELEMENTS // len(known))
    parts = [
        torch.cdist(chunk, known, compute_mode="donot_use_mm_for_euclid_dist").argmin(dim=1)
        for chunk in asked.split(rows)
    ]
    return torch.cat(parts)
