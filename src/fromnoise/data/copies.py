"""Work done by copies of this process, which share no interpreter lock: fork, and answers through pipes.

Copy k of n does chunks k, k + n, k + 2n, … and writes each answer into its own pipe; they are taken in the order of the
chunks. A pipe holds little, so a copy that is ahead waits, and memory holds a few answers however many there are. The
copies inherit what the work needs as it stands: nothing is sent to them. They do nothing but the work, so what other
threads of this process held when it was copied (the GPU, a progress bar) is never touched.

If this process dies, the pipes break and the copies end; for that each copy closes the ends that it inherits.
"""

import multiprocessing
import signal
import warnings
from collections.abc import Callable, Generator, Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import TypeVar

Answer = TypeVar("Answer")
Chunk = TypeVar("Chunk")


class Ended(Exception):
    """The copy that did chunk ``number`` was ended from outside, ``how``: "SIGKILL" when memory was short, say."""

    def __init__(self, number: int, how: str) -> None:
        super().__init__(number, how)
        self.number = number
        self.how = how


def in_copies(work: Callable[[Chunk], Answer], chunks: Sequence[Chunk], count: int) -> Generator[Answer, None, None]:
    """``work`` of every chunk, in order, by ``count`` copies of this process (Linux; not in a daemon process).

    A chunk that raises is done again here, so the error comes from here.

    Raises:
        Ended: a copy was killed.
    """
    context = multiprocessing.get_context("fork")
    pipes: list[Connection] = []
    copies: list[BaseProcess] = []
    try:
        for number in range(count):
            reader, writer = context.Pipe(duplex=False)
            pipes.append(reader)
            copy = context.Process(target=_serve, args=(work, chunks[number::count], writer, tuple(pipes)), daemon=True)
            with warnings.catch_warnings():  # newer Pythons warn of other threads: see above
                warnings.simplefilter("ignore", DeprecationWarning)
                copy.start()
            copies.append(copy)
            writer.close()
        for number, chunk in enumerate(chunks):
            try:
                answer = pipes[number % count].recv()
            except (EOFError, OSError):
                copies[number % count].join()
                raise Ended(number, _ending(copies[number % count].exitcode)) from None
            yield answer[0] if answer else work(chunk)
    finally:
        for pipe in pipes:
            pipe.close()
        for copy in copies:
            copy.kill()
            copy.join()


def _serve(
    work: Callable[[Chunk], object], chunks: Sequence[Chunk], writer: Connection, readers: tuple[Connection, ...]
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the first process, which ends the copies
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for reader in readers:
        reader.close()
    for chunk in chunks:
        try:
            answer = (work(chunk),)
        except Exception:
            answer = ()
        try:
            writer.send(answer)
        except OSError:  # nobody takes answers any more
            return


def _ending(code: int | None) -> str:
    if code is None or code >= 0:
        return f"exit code {code}"
    return signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
