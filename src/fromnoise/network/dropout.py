"""Whose chance dropout draws from: one seed a picture, so that a batch may be cut in any way.

A layer's mask for a picture depends on the picture's seed and the layer's place in the network, and on nothing else:
not on the other pictures of the batch, not on the number of processes, and not on whether the layer is computed a
second time in the backward pass. Without seeds, masks come from PyTorch's own generator, as everywhere else.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

CHANCES = 2**16
"""The rate of dropout is a multiple of one in so many."""

MOST = CHANCES - 256
"""So many of them at most can be dropped."""

_MIX = 0x9E3779B97F4A7C15  # 2^64 over the golden ratio: neighbouring layers get seeds that have nothing in common
_WORD = 2**64 - 1
_PLACES = torch.arange(256) * 75 & 255  # The first K of them are spread evenly: no gap is twice 256 / K.

_seeds: ContextVar[tuple[int, ...] | None] = ContextVar("dropout seeds", default=None)


@contextmanager
def dropout_seeds(seeds: Sequence[int]) -> Iterator[None]:
    """In here, and in the backward passes called here, dropout on the CPU draws for picture k from ``seeds[k]``."""
    token = _seeds.set(tuple(seeds))
    try:
        yield
    finally:
        _seeds.reset(token)


@contextmanager
def only(pictures: slice) -> Iterator[None]:
    """In here, the batch is those ``pictures`` of it alone."""
    seeds = _seeds.get()
    if seeds is None:
        yield
        return
    with dropout_seeds(seeds[pictures]):
        yield


def kept(x: Tensor, dropped: int, place: int) -> Tensor:
    """Bytes 0 and 1 in the shape and memory layout of ``x`` (B, C, H, W): 0 with probability ``dropped`` / 65536.

    ``place`` tells the layers of a network apart. A random number of 64 bits decides for eight values. PyTorch's own
    dropout draws one a value, which is a tenth of a training step on a CPU. Raises ``ValueError`` if seeds are set, and
    not one a picture.
    """
    n, c, h, w = x.shape
    seeds, blocks = _seeds.get(), -(-c * h * w // 256)
    bits = torch.empty(n, 32 * blocks + 1, dtype=torch.int64)
    if seeds is None:
        bits.random_(-(2**63), None)
    elif len(seeds) != n:
        raise ValueError(f"dropout has {len(seeds)} seeds for {n} pictures; it needs one each")
    else:
        source = torch.Generator()
        for row, seed in zip(bits, seeds, strict=True):
            row.random_(-(2**63), None, generator=source.manual_seed(_mixed(seed, place)))
    limits = thresholds(dropped, bits[:, -1:] & 255)
    keep = bits.view(torch.int8)[:, :-8].view(n, blocks, 256) >= limits[:, None]
    keep = keep.view(torch.uint8).view(n, -1)[:, : c * h * w]
    if x.is_contiguous():
        return keep.reshape(x.shape)
    return keep.reshape(n, h, w, c).permute(0, 3, 1, 2)


def thresholds(dropped: int, shift: Tensor) -> Tensor:
    """(B, 256), int8: a value is dropped if its random byte, −128 to 127, is less than the threshold of its place.

    A byte alone decides in steps of 1/256. What is missing to ``dropped`` / 65536 is made up by a threshold one higher
    at some of 256 places. Which those are depends on ``shift`` (B, 1), 0 to 255, the same for a whole picture in a
    layer: over the shifts every place has the rate to the last digit, and for any shift the 256 have it together.
    """
    whole, rest = divmod(dropped, 256)
    return (((_PLACES + shift) & 255 < rest) + (whole - 128)).to(torch.int8)


def _mixed(seed: int, place: int) -> int:
    """The finalizer of SplitMix64 (Steele, Lea, Flood 2014): every bit depends on all, the low 32 that count too."""
    word = (seed + (place + 1) * _MIX) & _WORD
    word = ((word ^ word >> 30) * 0xBF58476D1CE4E5B9) & _WORD
    word = ((word ^ word >> 27) * 0x94D049BB133111EB) & _WORD
    return word ^ word >> 31
