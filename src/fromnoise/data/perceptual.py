"""Which pictures look almost the same: a hash finds the candidates, a thumbnail decides.

*The hash.* The picture's luma, at 32x32, goes through a two-dimensional cosine transform (DCT-II, orthonormal); of its
8 x 8 lowest frequencies that are not constant along a side, each gives one bit: above their median, or not. So few
frequencies survive another size, another format and compression. C. Zauner, "Implementation and Benchmarking of
Perceptual Image Hash Functions", Upper Austria University of Applied Sciences, 2010, section 3.2.1.
One thing is added. A picture that is its own mirror image has no odd frequencies: their coefficients are the noise of
rounding, the median lies among them, and half of the bits would be chance. So a bit also asks for more than a
tenth of the picture's standard deviation. Of 400 emoji, copies at JPEG quality 90 were up to 16 bits away without that,
and at most 4 with it.

*The thumbnail.* Drawings of one figure in two colours have one hash. Candidates therefore count only if their
thumbnails (16x16, all channels) differ by a root mean square of at most 6 levels, and by at most a quarter of the
leader's own contrast, which is a correlation of about 0.97: two dim pictures are not alike for being dim.

*The search.* Of two 64-bit words at most 7 bits apart, one of the four 16-bit parts differs by at most one bit: four
parts with two bits each would make eight. So it is enough to look, for each part, into the 1 + 16 buckets that are that
near (M. Norouzi, A. Punjani, D. J. Fleet, "Fast Search in Hamming Space with Multi-Index Hashing", CVPR 2012,
arXiv 1307.2982). No pair within the radius is missed, and memory is that of a block of candidates, never n².

*Copies.* Pictures come in order. One that is near to an earlier picture that is itself no copy is a copy of the first
such; otherwise it leads. A slow drift is thus not drawn into one group, and a thousand frames of one scene
cost a thousand comparisons with one leader, not half a million with one another.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

RADIUS = 7
"""Bits by which the hashes of near copies may differ; also the most that the search is made for."""

TOLERANCE = 6.0
"""Root mean square difference of near copies' thumbnails, in levels of 0 … 255."""

_SIDE, _LOW = 32, 8
_PARTS, _BITS = 4, 16
_BLOCK = 64  # pictures that enter the index together, at least
_ROW = 16  # of a thumbnail, whose mean is looked at first
_PAIRS = 2**17  # candidates looked at together
_CONTRAST = 0.25  # of the leader's own, by which a copy may differ
_DEAD = 0.1  # of the standard deviation, below which a frequency is not there
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601
_MASKS = np.array([0, *(1 << bit for bit in range(_BITS))], dtype=np.uint16)


def _cosines() -> NDArray[np.float32]:
    """Rows 1 … 8 of the orthonormal DCT-II of 32 samples: √(2/N) cos(π k (2 n + 1) / (2 N))."""
    k, n = np.arange(1, _LOW + 1)[:, None], np.arange(_SIDE)
    return (np.sqrt(2 / _SIDE) * np.cos(np.pi * k * (2 * n + 1) / (2 * _SIDE))).astype(np.float32)


_COSINES = _cosines()


@dataclass(frozen=True, slots=True)
class Look:
    """How a picture looks, in little: ``hash``, 64 bits; ``thumb``, uint8, (C · 16 · 16,)."""

    hash: np.uint64
    thumb: NDArray[np.uint8]


def perceive(picture: NDArray[np.uint8]) -> Look:
    """The look of a picture as the network sees it: uint8, (C, H, W), C = 1 (grey), 3 (RGB) or 4 (RGBA).

    Of RGBA, colours count by their alpha, and the hash lays them over a middle grey.
    """
    planes = np.ascontiguousarray(picture.transpose(1, 2, 0))
    image = Image.fromarray(planes[..., 0] if planes.shape[-1] == 1 else planes)
    values = np.asarray(image.resize((_SIDE, _SIDE), Image.Resampling.BILINEAR), dtype=np.float32)
    values = values.reshape(_SIDE, _SIDE, -1)
    if values.shape[-1] == 4:
        alpha = values[..., 3:] / 255
        values = np.concatenate([values[..., :3] * alpha, values[..., 3:]], axis=-1)
        luma = values[..., :3] @ _LUMA + 127.5 * (1 - alpha[..., 0])
    else:
        luma = values[..., 0] if values.shape[-1] == 1 else values @ _LUMA
    thumb = (values[::2, ::2] + values[1::2, ::2] + values[::2, 1::2] + values[1::2, 1::2]) / 4
    return Look(_hash(luma), np.rint(thumb).astype(np.uint8).transpose(2, 0, 1).reshape(-1))


def _hash(luma: NDArray[np.float32]) -> np.uint64:
    low = _COSINES @ luma @ _COSINES.T
    ordered = np.sort(low, axis=None)  # np.median takes ten times as long
    median = (ordered[low.size // 2 - 1] + ordered[low.size // 2]) / 2
    bits = low > max(float(median), _DEAD * float(luma.std()) + 1e-3)  # flat: no bit, whatever float32 leaves
    return np.packbits(bits).view(np.uint64)[0]


def near_copies(
    hashes: NDArray[np.uint64], thumbs: NDArray[np.uint8], *, radius: int = RADIUS, tolerance: float = TOLERANCE
) -> Iterator[NDArray[np.int64]]:
    """For each picture, which earlier one it is a near copy of, or itself; block by block, in order.

    100,000 pictures with independent hashes take seconds on one core, a million minutes; where many unlike pictures
    share their low frequencies (one drawing in a thousand colours) the time grows with the square of their number.
    Memory beside the arguments: some tens of MB, and about 200 bytes a picture.

    Args:
        hashes: (N,).
        thumbs: (N, T), T a multiple of 16.
        radius: bits, 0 to 7.
        tolerance: levels.

    Raises:
        ValueError: for another radius.
    """
    if not 0 <= radius <= RADIUS:
        raise ValueError(f"radius {radius}: the search is made for 0 to {RADIUS} bits")
    means = _row_means(thumbs)
    leaders = np.empty(0, dtype=np.int64)
    start = 0
    while start < len(hashes):
        # A small block has few pairs within itself, one that grows with the index keeps rebuilding it cheap.
        block = np.arange(start, min(len(hashes), start + max(_BLOCK, len(leaders) // 32)))
        followed = _follow(hashes, thumbs, means, leaders, block, radius, tolerance)
        yield followed
        leaders = np.concatenate([leaders, block[followed == block]])
        start = int(block[-1]) + 1


def _follow(
    hashes: NDArray[np.uint64],
    thumbs: NDArray[np.uint8],
    means: NDArray[np.float32],
    leaders: NDArray[np.int64],
    block: NDArray[np.int64],
    radius: int,
    tolerance: float,
) -> NDArray[np.int64]:
    """Whom each picture of ``block`` follows, given the leaders before it."""
    pool = np.concatenate([leaders, block])  # rises
    early, late = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for first, second in _candidates(hashes[pool], len(leaders), radius):
        i, j = pool[first], pool[second]
        # Means differ by no more than what they are means of, so this loses nothing; it is a sixteenth of the work.
        near = _square(means[i], means[j]) <= (tolerance + 1e-3) ** 2
        i, j = i[near], j[near]
        for part in range(0, len(i), 2**13):  # a thumbnail is a thousand times a hash
            a, b = i[part : part + 2**13], j[part : part + 2**13]
            near = _alike(thumbs[a], thumbs[b], tolerance)
            early.append(a[near])
            late.append(b[near])
    i, j = np.concatenate(early), np.concatenate(late)
    followed = block.copy()
    for k in np.lexsort((i, j)):
        leader, copy = int(i[k]), int(j[k]) - int(block[0])
        leads = leader < block[0] or followed[leader - int(block[0])] == leader
        if leads and followed[copy] == block[copy]:
            followed[copy] = leader
    return followed


def _candidates(
    words: NDArray[np.uint64], old: int, radius: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """All positions i < j with j ≥ ``old`` whose words are at most ``radius`` bits apart, each pair once."""
    parts = [(words >> np.uint64(_BITS * part)).astype(np.uint16) for part in range(_PARTS)]
    new = np.arange(old, len(words))
    for part, keys in enumerate(parts):
        order = np.argsort(keys, kind="stable")  # a radix sort, for 16 bits
        ends = np.cumsum(np.bincount(keys, minlength=2**_BITS))
        begins = np.concatenate([[0], ends[:-1]])
        for mask in _MASKS:
            bucket = keys[old:] ^ mask
            for run, place in _expanded(begins[bucket], ends[bucket]):
                i, j = order[place], new[run]
                keep = i < j
                i, j = i[keep], j[keep]
                keep = np.bitwise_count(words[i] ^ words[j]) <= radius
                for before in parts[:part]:  # what an earlier part has found is not found again
                    keep &= np.bitwise_count(before[i] ^ before[j]) > 1
                yield i[keep], j[keep]


def _expanded(
    begins: NDArray[np.int64], ends: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """(k, n) for every k and every n from begins[k] up to ends[k], about `_PAIRS` at a time."""
    totals = np.cumsum(ends - begins)
    start = 0
    while start < len(begins):
        before = int(totals[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(totals, before + _PAIRS, side="right")))
        lengths = ends[start:stop] - begins[start:stop]
        run = np.repeat(np.arange(start, stop), lengths)
        offset = np.arange(len(run)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        yield run, begins[run] + offset
        start = stop


def _alike(first: NDArray[np.uint8], second: NDArray[np.uint8], tolerance: float) -> NDArray[np.bool_]:
    leader = first.astype(np.float32)
    allowed = np.minimum(tolerance, _CONTRAST * leader.std(axis=1))
    return _square(leader, second) <= allowed**2


def _square(first: NDArray[np.float32], second: NDArray[np.float32] | NDArray[np.uint8]) -> NDArray[np.float32]:
    """The mean square difference of rows."""
    difference = first - second
    return np.einsum("ij,ij->i", difference, difference) / difference.shape[1]


def _row_means(thumbs: NDArray[np.uint8]) -> NDArray[np.float32]:
    means = np.empty((len(thumbs), thumbs.shape[1] // _ROW), dtype=np.float32)
    for start in range(0, len(thumbs), 2**13):
        part = thumbs[start : start + 2**13]
        means[start : start + 2**13] = part.reshape(len(part), -1, _ROW).mean(axis=2, dtype=np.float32)
    return means
