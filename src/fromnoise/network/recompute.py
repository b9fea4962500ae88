"""Activations that are not remembered for the backward pass but computed again in it, some pictures at a time.

Between the passes only what goes into a part of the network is kept (Chen et al. 2016, arXiv 1604.06174). What is then
left of the peak are the activations of the widest part while it is computed again. On a CPU that is done for a few
pictures after the others: enough of them for products to be as fast as ever, and however large the batch, their
activations take no more room than theirs.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from fromnoise.network.dropout import only

_PIXELS = 2**14
"""Of the input that go through together on a CPU: 16 pictures of 32×32. With 8, a step takes a fourth longer."""


def at_once(x: Tensor) -> int:
    """How many pictures of the network's input ``x`` (B, C, H, W) should go through together."""
    return max(1, _PIXELS // (x.shape[2] * x.shape[3])) if x.device.type == "cpu" else len(x)


def again(part: Callable[..., Tensor], few: int, *inputs: Tensor) -> Tensor:
    """``part(*inputs)``, (B, …) each, for a ``few`` pictures after the others, remembering the inputs alone."""
    count = len(inputs[0])
    if few >= count:
        return checkpoint(part, *inputs, use_reentrant=False)

    def some(first: int, *rows: Tensor) -> Tensor:
        with only(slice(first, first + len(rows[0]))):
            return part(*rows)

    few = -(-count // -(-count // few))  # All parts alike, but for the last.
    parts = zip(range(0, count, few), *(each.split(few) for each in inputs), strict=True)
    return torch.cat([checkpoint(some, *each, use_reentrant=False) for each in parts])
