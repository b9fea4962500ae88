"""Several processes for one command: starting them with torch's own launcher, and meeting as one of them.

``--processes N`` starts N workers that run the same words (`fromnoise.worker`), and starts all anew if one of them
dies: training then goes on from its last checkpoint. ``torchrun … -m fromnoise …`` starts workers too, on many machines
if need be; here they only meet.
"""

import contextlib
import logging
import os
import shlex
import signal
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from fromnoise.console import say
from fromnoise.errors import FromnoiseError, WrongUse
from fromnoise.run import pick_device
from fromnoise.train.team import Alone, Team
from fromnoise.verb.common import PROGRAM, program
from fromnoise.worker import FOLDER, here

RESTARTS = 3
"""How often all are started anew because one has died."""


def launched(args: Any, words: list[str]) -> int | None:
    """The exit code of the workers that ``--processes`` asks for; ``None`` if this process is to do the work.

    Raises ``WrongUse`` if they cannot be had, ``FromnoiseError`` if they die time and again.
    """
    worker = here()
    if args.processes is None or (worker is not None and worker.folder is not None):
        return None
    count, device = crew(args)
    return None if count == 1 else _launch(count, words, device, debug=args.debug)


def crew(args: Any) -> tuple[int, torch.device]:
    """How many processes do this command, and the device of this one, or of the first of those still to be started.

    Raises ``WrongUse`` if they cannot be had.
    """
    said, worker = args.processes, here()
    if worker is not None and worker.size > 1 and (said is None or worker.folder is not None):
        seat = int(os.environ.get("LOCAL_RANK", worker.rank))
        return worker.size, _device(args.device, _seats(worker.size), seat)
    if said is not None and said < 1:
        raise WrongUse(f"--processes {said}: must be at least 1")
    if said is not None and worker is not None and worker.folder is None:
        raise WrongUse(f"--processes {said}: torchrun has started {worker.size} already; leave it out")
    if said is None or said == 1:
        return 1, pick_device(args.device)
    return said, _device(args.device, said, 0)


def _seats(count: int) -> int:
    """How many of ``count`` processes are on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", count))


def shared(args: Any, words: list[str], work: Callable[[Any, Team, torch.device], int]) -> int:
    """The exit code of ``work(args, team, device)``, done here, or by as many processes as ``--processes`` asks for.

    Raises what :func:`launched` and :func:`meeting` raise.
    """
    code = launched(args, words)
    if code is not None:
        return code
    with meeting(args) as (team, device):
        return work(args, team, device)


@contextlib.contextmanager
def meeting(args: Any) -> Iterator[tuple[Team, torch.device]]:
    """The team that this process is of, and its device. Raises ``WrongUse`` if there are fewer GPUs than processes."""
    count, device = crew(args)
    if count == 1:
        yield Alone(), device
        return
    from fromnoise.train.distributed import together  # Only now, for it takes a second.

    if device.type == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, torch.get_num_threads() // _seats(count)))
    with together(device) as team:
        yield team, device


def _device(said: str | None, processes: int, seat: int) -> torch.device:
    """That of the process with number ``seat`` on this machine. Raises ``WrongUse``."""
    device = pick_device(said)
    if device.type == "cpu":
        return device
    if device.type != "cuda":
        raise WrongUse(f"{processes} processes cannot share {device.type}: take one, or --device cpu")
    if device.index is not None:
        raise WrongUse(f"--device {said}: {processes} processes need a GPU each; say cuda, and they take one each")
    if processes > torch.cuda.device_count():
        raise WrongUse(
            f"{processes} processes on this machine need a GPU each, and it has {torch.cuda.device_count()}: start so "
            f"many, or say --device cpu"
        )
    return torch.device("cuda", seat)


def _launch(count: int, words: list[str], device: torch.device, *, debug: bool) -> int:
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    with tempfile.TemporaryDirectory(prefix="fromnoise-") as place:
        folder = Path(place)
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=count,
            run_id=str(uuid.uuid4()),
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            local_addr="localhost",
            max_restarts=RESTARTS,
            signals_to_handle="SIGHUP,SIGQUIT",  # The others are passed on.
            logs_specs=DefaultLogsSpecs(log_dir=str(folder / "logs")),
        )
        with _environment(count, folder, device, debug=debug), _passing_on(folder), _quiet(debug):
            failed: ChildFailedError | None = None
            try:
                elastic_launch(config, sys.executable)("-m", "fromnoise", *words)
            except ChildFailedError as error:
                failed = error
        verdict = folder / "verdict"
        if verdict.exists():
            return int(verdict.read_text())
        if failed is None:
            return 0
        rank, failure = failed.get_first_failure()
        how = f"killed by {failure.signal_name()}" if failure.exitcode < 0 else f"gone with code {failure.exitcode}"
        raise FromnoiseError(
            f"process {rank} was {how}, after {RESTARTS} new starts; go on from the last checkpoint with: "
            f"{program()} {shlex.join(words)}"
        )


@contextlib.contextmanager
def _environment(count: int, folder: Path, device: torch.device, *, debug: bool) -> Iterator[None]:
    """What the workers find in theirs. Threads are shared out: more of them than cores would wait for one another."""
    one = torch.get_num_threads()
    threads = max(1, one // count)
    usual = {"OMP_NUM_THREADS": str(threads), "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "10"}
    if sys.platform == "linux":
        usual["GLOO_SOCKET_IFNAME"] = "lo"  # All are on this machine, whatever its name resolves to.
    if not debug:
        usual["TORCH_CPP_LOG_LEVEL"] = "ERROR"
    if device.type == "cpu" and threads != one and "OMP_NUM_THREADS" not in os.environ:
        each = "1 thread" if threads == 1 else f"{threads} threads"
        say(f"fromnoise: {count} processes with {each} each")
    before = dict(os.environ)
    os.environ.update({**usual, **before, FOLDER: str(folder), PROGRAM: program()})
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextlib.contextmanager
def _passing_on(folder: Path) -> Iterator[None]:
    """Ctrl-C and SIGTERM go to every worker, which saves and ends; the launcher waits for them."""

    def ask(number: int, _: object) -> None:
        (folder / "stop").touch()
        for file in folder.iterdir():
            if file.name.isdigit():
                with contextlib.suppress(ValueError, ProcessLookupError):
                    os.kill(int(file.read_text()), number)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _quiet(debug: bool) -> Iterator[None]:
    """The launcher's own log only if somebody looks for a fault."""
    before = logging.root.manager.disable
    logging.disable(before if debug else logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)
