"""Work on pictures 0 … n − 1, done ahead by all cores and handed over in order.

Threads are enough where a picture takes long: Pillow and NumPy let go of Python's lock while they work. Where it takes
less than `_LONG`, threads would mostly wait for that lock, and copies of the process (`copies`) do the work instead,
if what it uses can be copied. The time of the first few pictures decides.

A picture that ends the copy it is worked on in (a decoder that breaks down, the system short of memory) is found by
trying the pictures of its chunk one by one, and the others go on.
"""

import dataclasses
import multiprocessing
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import PurePath
from typing import TypeVar

import numpy as np

from fromnoise.data.copies import Ended, in_copies

Answer = TypeVar("Answer")

_FIRST = 4  # pictures whose time decides; the shortest counts, for the first also loads decoders
_LONG = 2e-3  # seconds
_WORTH_IT = 1.0  # seconds of work on one core that make up for starting copies
_CHUNK = 0.02  # seconds of work that are handed over together
_MOST = 64  # … and pictures
_WAITING = 3  # chunks for each core that may be done and not yet taken


def ahead(
    work: Callable[[int], Answer], count: int, *, lost: Callable[[int, str], Answer], uses: object
) -> Iterator[Answer]:
    """``work(0)``, ``work(1)``, … ``work(count − 1)``; only a few answers ever wait.

    Args:
        work: is called in threads, or in copies of the process: then its answers must be picklable.
        count: how many pictures there are.
        lost: the answer for a picture whose copy was ended, and how: "SIGKILL", say.
        uses: what ``work`` reads from. There are copies only if it holds plain values: one open file would have one
            place for all of them.
    """
    first, seconds = [], float("inf")
    for index in range(min(_FIRST, count)):
        start = time.perf_counter()
        first.append(work(index))
        seconds = min(seconds, time.perf_counter() - start)
    yield from first
    left = count - len(first)
    if not left:
        return
    size = max(1, min(_MOST, int(_CHUNK / seconds)))
    chunks = [range(start, min(start + size, count)) for start in range(len(first), count, size)]
    cores = min(32, _cores(), len(chunks))

    def many(chunk: Sequence[int]) -> list[Answer]:
        return [work(index) for index in chunk]

    if cores > 1 and seconds < _LONG and seconds * left > _WORTH_IT and _can_be_copied(uses):
        yield from _copied(many, chunks, cores, lost)
    else:
        yield from _threaded(many, chunks, cores)


def _threaded(
    many: Callable[[Sequence[int]], list[Answer]], chunks: Sequence[Sequence[int]], cores: int
) -> Iterator[Answer]:
    waiting: deque[Future[list[Answer]]] = deque()
    with ThreadPoolExecutor(cores, thread_name_prefix="ahead") as pool:
        try:
            for chunk in chunks:
                waiting.append(pool.submit(many, chunk))
                if len(waiting) >= _WAITING * cores:
                    yield from waiting.popleft().result()
            while waiting:
                yield from waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)  # after an error or Ctrl-C: do not work for nobody


def _copied(
    many: Callable[[Sequence[int]], list[Answer]],
    chunks: Sequence[Sequence[int]],
    cores: int,
    lost: Callable[[int, str], Answer],
) -> Iterator[Answer]:
    start = 0
    while start < len(chunks):
        answers = in_copies(many, chunks[start:], cores)
        try:
            for answer in answers:
                yield from answer
            return
        except Ended as error:
            start += error.number
        finally:
            answers.close()
        for index in chunks[start]:
            try:
                for answer in in_copies(many, [range(index, index + 1)], 1):
                    yield from answer
            except Ended as error:
                yield lost(index, error.how)
        start += 1


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _can_be_copied(uses: object) -> bool:
    may = sys.platform == "linux" and not multiprocessing.current_process().daemon  # such a one may have no children
    return may and _is_plain(vars(uses))


def _is_plain(value: object) -> bool:
    if isinstance(value, np.ndarray):
        return not value.dtype.hasobject
    if isinstance(value, dict):
        return all(map(_is_plain, value)) and all(map(_is_plain, value.values()))
    if isinstance(value, tuple | list | set | frozenset):
        return all(map(_is_plain, value))
    if dataclasses.is_dataclass(value):
        return all(_is_plain(getattr(value, field.name)) for field in dataclasses.fields(value))
    return isinstance(value, str | bytes | int | float | PurePath | None)
