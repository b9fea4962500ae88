"""Whatever happens to a run, it is said in one line and the run on the disk is good: full disks, thieves, crowds, clocks."""

import errno
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
from PIL import Image
from safetensors import SafetensorError
from tests import tiny

from fromnoise import checkpoint
from fromnoise.checkpoint import RunFolder
from fromnoise.cli import main
from fromnoise.data import Fit, load, open_source
from fromnoise.data import dataset as dataset_module
from fromnoise.errors import FromnoiseError, WrongUse
from fromnoise.task.train import Ended, Started, Trained, train_run
from fromnoise.verb import train as train_verb
from fromnoise.verb.common import seconds_of, stopping

SMALL: dict[str, Any] = {"network": {"model_channels": 16}}
BUSY: dict[str, Any] = {
    **{"steps": 6, "report_every": 1, "checkpoint_every": 16, "keep": 2, "averages": [0.05, 0.1]},
    **{"sample_every": 32, "sample_steps": 1},
}
"""It writes something of every kind, and often."""


def names(out: Path) -> list[str]:
    return sorted(path.name for path in (out / "checkpoints").iterdir())


def one_line(text: str) -> str:
    (line,) = text.splitlines()
    assert line.startswith("fromnoise: ") and "fault of fromnoise" not in line and "Traceback" not in line
    return line.removeprefix("fromnoise: ")


# ----------------------------------------------------------------------------------------------------- the disk refuses


class Refusing:
    """A disk that is full at one moment: the ``moment``-th call that could notice it."""

    def __init__(self, patch: pytest.MonkeyPatch, moment: int | None) -> None:
        self.calls, self.moment = 0, moment
        for owner, name in (
            *((os, name) for name in ("fsync", "rename", "replace")),
            *((Path, name) for name in ("open", "mkdir")),
            (Image.Image, "save"),
            (safetensors.torch, "save_file"),
        ):
            self._watch(patch, owner, name)

    def _watch(self, patch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
        function = getattr(owner, name)

        def call(*arguments: Any, **options: Any) -> Any:
            if name != "open" or any(mode in arguments or mode in options.values() for mode in ("a", "w", "wb")):
                self.calls += 1
                if self.calls - 1 == self.moment:
                    if name == "save_file":  # As safetensors says it.
                        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return function(*arguments, **options)

        patch.setattr(owner, name, call)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run comes to that nothing has happened to."""
    out = tmp_path_factory.mktemp("straight") / "run"
    tiny.run(tiny.config(SMALL, **BUSY), out)
    return out


def test_whenever_the_disk_is_full_one_line_says_so_and_the_run_goes_on_later(
    tmp_path: Path, straight: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = tiny.config(SMALL, **BUSY)
    with monkeypatch.context() as patch:
        disk = Refusing(patch, None)
        tiny.run(settings, tmp_path / "all")
    assert disk.calls > 100
    said = set()
    for moment in range(0, disk.calls, 7):  # Seven does not divide how many calls a save takes.
        out = tmp_path / str(moment)
        with monkeypatch.context() as patch, pytest.raises(FromnoiseError) as caught:
            Refusing(patch, moment)
            tiny.run(settings, out)
        said.add(re.sub(r"/\S+/|\d{9}(-[\d.]+)?", "", str(caught.value).replace(str(out), "RUN")))
        assert str(caught.value).endswith("No space left on device") or "(os error 28)" in str(caught.value)
        assert str(out) in str(caught.value) and "\n" not in str(caught.value) and caught.value.exit_code == 1
        found, damaged = RunFolder(out).latest()
        assert not damaged
        started = tiny.run(settings, out)[0]
        assert isinstance(started, Started) and started.images == (0 if found is None else found.images)
        tiny.assert_same_run(out, straight)
        assert names(out) == names(straight) and not list(out.rglob("*.part"))
        shutil.rmtree(out)
    assert len(said) >= 4  # The folder, a checkpoint, a grid, a snapshot, the metrics.


ON_A_SMALL_DISK = """
    import contextlib, io, os, shutil, subprocess, sys
    place, preset, kept = sys.argv[1:]

    def mount(*words):
        subprocess.run(["mount", *words, place], check=True)

    mount("-t", "tmpfs", "-o", "size=3m", "none")
    from fromnoise.cli import main

    def train(steps):
        err = io.StringIO()
        with contextlib.redirect_stderr(err):
            code = main(["train", "digits", "--out", place + "/run", "--preset", preset, "--steps", str(steps)])
        print(code, err.getvalue().splitlines()[-1] if code else "", flush=True)

    train(2)
    disk = os.statvfs(place)
    with open(place + "/other", "wb") as file:
        file.write(bytes(disk.f_bavail * disk.f_frsize - 100_000))
    train(4)
    os.remove(place + "/other")
    mount("-o", "remount,ro")
    train(4)
    mount("-o", "remount,rw")
    train(4)
    shutil.copytree(place + "/run", kept)
"""


def own_mounts() -> bool:
    """Whether this system lets anybody mount a disk that nobody else sees."""
    if shutil.which("unshare") is None:
        return False
    return subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True).returncode == 0


@pytest.mark.skipif(not own_mounts(), reason="needs mounts of its own (unshare)")
def test_a_real_disk_that_is_full_and_then_read_only(tmp_path: Path) -> None:
    """A disk of 3 MB in memory: with 100 kB left, then with room but read-only, then as it should be."""
    place, kept = tmp_path / "disk", tmp_path / "kept"
    place.mkdir()
    result = subprocess.run(
        ["unshare", "-rm", sys.executable, "-c", textwrap.dedent(ON_A_SMALL_DISK), place]
        + [tiny.preset(tmp_path, SMALL), kept],
        env={**os.environ, "PYTHONPATH": str(tiny.SOURCE), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    first, full, read_only, last = result.stdout.splitlines()[::1]
    assert full.startswith(f"1 fromnoise: could not write the checkpoint {place}/run/checkpoints/000000032; the earlier")
    assert "No space left on device" in full
    assert read_only == f"1 fromnoise: cannot write to {place}/run: Read-only file system"
    assert first.startswith("trained: ") or first.startswith("0")
    assert last
    assert names(kept) == ["000000016", "000000032"]
    tiny.run(tiny.config(SMALL, steps=4), tmp_path / "straight", pictures=tiny.digits(1797))
    tiny.assert_same_bits(tiny.weights(kept), tiny.weights(tmp_path / "straight"))
