"""What is kept of every picture while a source is inspected: counts, and a kilobyte or less of each.

Sizes, formats and values are counted as they come; digests, hashes and thumbnails are columns of arrays, about 0.8 KB a
picture of three channels. Names are asked for only where there is something to say.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fromnoise.data.memory import available_memory
from fromnoise.data.perceptual import Look, near_copies
from fromnoise.data.remark import Remark
from fromnoise.data.survey import FileFacts

BRIGHTNESS_BINS = 32
_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
_CHANNEL_KINDS = {1: "grey, 8 bit", 2: "grey and alpha, 8 bit", 3: "RGB, 8 bit", 4: "RGBA, 8 bit"}


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A picture that cannot be read: its name, the kind of trouble in a word or two, and what the decoder said."""

    name: str
    kind: str
    why: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """What was seen of one picture that can be read."""

    file: FileFacts | None
    size: tuple[int, int]
    """Height and width of the upright picture."""

    channels: int
    translucent: bool
    digest: bytes
    """16 bytes, of size and decoded pixels."""

    counts: NDArray[np.int64]
    """(C, 256): how often the network sees each value in each channel."""

    grey: bool
    """Whether the network sees no colour."""

    look: Look
    remarks: tuple[Remark, ...]


class Tally:
    """The sum of all that was seen; ``total`` pictures are expected, of ``channels`` as the network sees them."""

    def __init__(self, total: int, channels: int) -> None:
        self.sizes: Counter[tuple[int, int]] = Counter()
        self.formats: Counter[str] = Counter()
        self.kinds: Counter[str] = Counter()
        self.problems: list[Problem] = []
        self.remarks: list[Remark] = []
        self.blank: list[int] = []
        self.with_alpha = self.translucent = self.turned = self.animated = self.profiles = self.grey = 0
        self.nbytes = 0
        self.counts = np.zeros((channels, 256), dtype=np.int64)
        self.brightness = np.zeros(BRIGHTNESS_BINS, dtype=np.int64)
        self.readable = np.zeros(total, dtype=bool)
        self._digests = np.empty((total, 2), dtype=np.uint64)
        self._hashes = np.empty(total, dtype=np.uint64)
        width = 256 * channels
        self._thumbs = np.empty((total, width), dtype=np.uint8) if total * width <= available_memory() // 4 else None

    def lose(self, problem: Problem, file: FileFacts | None) -> None:
        """One more picture cannot be read."""
        self.problems.append(problem)
        self._add_file(file)

    def add(self, index: int, seen: Seen) -> None:
        """Picture ``index`` was read."""
        self.readable[index] = True
        self.sizes[seen.size] += 1
        if seen.file is None:
            self.formats["decoded array"] += 1
            self.kinds[_CHANNEL_KINDS[seen.channels]] += 1
        self._add_file(seen.file)
        self.with_alpha += seen.channels in (2, 4)
        self.translucent += seen.translucent
        self.grey += seen.grey
        self.remarks.extend(seen.remarks)
        self.counts += seen.counts
        means = seen.counts @ np.arange(256) / seen.counts[0].sum()
        luma = float(means[0] if len(means) == 1 else means[:3] @ _LUMA)
        self.brightness[min(BRIGHTNESS_BINS - 1, int(luma * BRIGHTNESS_BINS / 256))] += 1
        if (seen.counts > 0).sum() == len(seen.counts):  # one value a channel
            self.blank.append(index)
        self._digests[index] = np.frombuffer(seen.digest, dtype=np.uint64)
        self._hashes[index] = seen.look.hash
        if self._thumbs is not None:
            self._thumbs[index] = seen.look.thumb

    def copies(self) -> NDArray[np.int64]:
        """For every readable picture the first with the same pixels, in most cases itself; −1 elsewhere. (total,)"""
        first = np.full(len(self.readable), -1, dtype=np.int64)
        known = np.flatnonzero(self.readable)
        high, low = self._digests[known].T
        order = np.lexsort((high, low))  # stable: of equals, the first comes first
        starts = np.ones(len(order), dtype=bool)
        starts[1:] = (np.diff(high[order]) != 0) | (np.diff(low[order]) != 0)
        leader = np.maximum.accumulate(np.where(starts, np.arange(len(order)), 0))
        first[known[order]] = known[order[leader]]
        return first

    def near(self, first: NDArray[np.int64]) -> Iterator[NDArray[np.int64]] | None:
        """Blocks of whom each picture that leads in ``first`` is a near copy of; None if there was no memory for it.

        Indices are those of pictures; all blocks together are as long as there are such pictures.
        """
        if self._thumbs is None:
            return None
        leaders = np.flatnonzero(first == np.arange(len(first)))
        # Where nothing is left out the columns are used as they are, without a copy of the largest of them.
        whole = len(leaders) == len(first)
        hashes = self._hashes if whole else self._hashes[leaders]
        thumbs = self._thumbs if whole else self._thumbs[leaders]
        return (leaders[block] for block in near_copies(hashes, thumbs))

    def _add_file(self, file: FileFacts | None) -> None:
        if file is not None:
            self.formats[file.format] += 1
            self.kinds[file.kind] += 1
            self.turned += file.turned
            self.animated += file.animated
            self.profiles += file.profile
            self.nbytes += file.nbytes


def groups(leader: NDArray[np.int64], among: Sequence[int] | NDArray[np.int64]) -> list[list[int]]:
    """Of the pictures ``among``, in order, those that share a leader: every group of two or more, the largest first."""
    found: dict[int, list[int]] = {}
    for index in among:
        found.setdefault(int(leader[index]), []).append(int(index))
    return sorted((group for group in found.values() if len(group) > 1), key=lambda group: (-len(group), group[0]))
