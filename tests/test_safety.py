"""Whatever happens to a run is said in one line, and its folder is good: full disks, lost data, two at once."""

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
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from safetensors import SafetensorError
from tests import tiny

from fromnoise import checkpoint
from fromnoise.checkpoint import RunFolder
from fromnoise.cli import main
from fromnoise.data import Fit, load, open_source
from fromnoise.data import dataset as dataset_module
from fromnoise.errors import FromnoiseError, WrongUse
from fromnoise.task.train import Started, Trained, train_run
from fromnoise.verb import common
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
        self.calls: list[tuple[str, str]] = []
        self.moment = moment
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
                about = [Path(word).name for word in arguments if isinstance(word, str | Path)]
                self.calls.append((name, re.sub(r"[\d.]+", "", " ".join(about))))
                if len(self.calls) - 1 == self.moment:
                    if name == "save_file":  # As safetensors says it.
                        raise SafetensorError(
                            "Error while serializing: I/O error: No space left on device (os error 28)"
                        )
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
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, straight = tiny.config(SMALL, **{**BUSY, "steps": 4, "keep": 1}), tmp_path / "straight"
    with monkeypatch.context() as patch:
        disk = Refusing(patch, None)
        tiny.run(settings, straight)
    said = set()
    for call, moment in {call: moment for moment, call in enumerate(disk.calls)}.items():  # The last one of every kind.
        out = tmp_path / str(moment)
        refused: FromnoiseError | None = None
        with monkeypatch.context() as patch:
            Refusing(patch, moment)
            try:
                tiny.run(settings, out)
            except FromnoiseError as error:
                refused = error
        if refused is None:
            assert call[0] == "rename" and "writing-not-" in call[1]  # What could not be removed is in nobody's way.
        else:
            said.add(re.sub(r"/\S+/|\d{9}(-[\d.]+)?", "", str(refused).replace(str(out), "RUN")))
            assert str(refused).endswith("No space left on device") or "(os error 28)" in str(refused)
            assert str(out) in str(refused) and "\n" not in str(refused) and refused.exit_code == 1
        found, damaged = RunFolder(out).latest()
        assert not damaged
        started = tiny.run(settings, out)[0]
        assert isinstance(started, Started) and started.images == (0 if found is None else found.images)
        tiny.assert_same_run(out, straight)
        assert names(out) == names(straight) and not list(out.rglob("*.part"))
        shutil.rmtree(out)
    assert len(said) >= 5, said  # The folder, a checkpoint, a grid, a snapshot, the metrics.


ON_A_SMALL_DISK = """
    import contextlib, io, os, shutil, subprocess, sys
    place, preset, kept = sys.argv[1:]

    def mount(*words):
        subprocess.run(["mount", *words, place], check=True)

    mount("-t", "tmpfs", "-o", "size=3m", "none")
    from fromnoise.cli import main

    def train(steps):
        err = io.StringIO()
        with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
            code = main(["train", "digits", "--out", place + "/run", "--preset", preset, "--steps", str(steps)])
        print(code, err.getvalue().splitlines()[-1] if code else "fine")

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
    return (
        subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True).returncode == 0
    )


@pytest.mark.skipif(not own_mounts(), reason="needs mounts of its own (unshare)")
def test_a_real_disk_that_is_full_and_then_read_only(tmp_path: Path) -> None:
    """A disk of 3 MB in memory: with 100 kB left, then with room but read-only, then as it should be."""
    place, kept = tmp_path / "disk", tmp_path / "kept"
    place.mkdir()
    arguments = (place, tiny.preset(tmp_path, SMALL), kept)
    result = subprocess.run(
        [*["unshare", "-rm"], sys.executable, "-c", textwrap.dedent(ON_A_SMALL_DISK), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(tiny.SOURCE), "OMP_NUM_THREADS": str(torch.get_num_threads())},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    first, full, read_only, last = result.stdout.splitlines()
    assert first == last == "0 fine"
    assert full.startswith(
        f"1 fromnoise: could not write the checkpoint {place}/run/checkpoints/000000032; the earlier"
    )
    assert "No space left on device" in full
    assert read_only == f"1 fromnoise: cannot write to {place}/run: Read-only file system"
    assert names(kept) == ["000000016", "000000032"]
    tiny.run(tiny.config(SMALL, steps=4), tmp_path / "straight", pictures=tiny.digits(1797))
    tiny.assert_same_bits(tiny.weights(kept), tiny.weights(tmp_path / "straight"))


# ------------------------------------------------------------------------------------------------------- the data go


def pictures(folder: Path, count: int = 24) -> Path:
    chance = np.random.default_rng(0)
    folder.mkdir()
    for k in range(count):
        Image.fromarray(chance.integers(0, 256, (8, 8), dtype=np.uint8)).save(folder / f"{k:02d}.png")
    return folder


@pytest.mark.parametrize("mapped", [False, True], ids=["in memory", "in the cache"])
def test_pictures_that_vanish_while_training_are_not_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mapped: bool
) -> None:
    """They were decoded before; where they lie in the cache, even that may be thrown away."""
    cache = tmp_path / "cache"
    monkeypatch.setenv("FROMNOISE_CACHE", str(cache))
    if mapped:
        monkeypatch.setattr(dataset_module, "SMALL", 0)
    settings = tiny.config(SMALL, {"data": {"class_names": []}}, steps=5)
    folder = pictures(tmp_path / "pictures")
    seen = load(open_source(str(folder), classes=False), Fit(height=8, width=8, channels=1))
    tiny.run(settings, tmp_path / "straight", pictures=seen)
    assert cache.exists() == mapped
    for event in train_run(settings, seen, tmp_path / "run", device=tiny.CPU):
        if isinstance(event, Trained) and event.report.step == 2:
            shutil.rmtree(folder)
            shutil.rmtree(cache, ignore_errors=True)
    tiny.assert_same_run(tmp_path / "run", tmp_path / "straight")


def test_pictures_that_are_gone_when_a_run_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All of them, or one: a line, nothing touched; when they are back, so is the run."""
    folder, elsewhere, out = pictures(tmp_path / "pictures"), tmp_path / "elsewhere", tmp_path / "run"
    preset = tiny.preset(tmp_path, SMALL, {"data": {"class_names": []}})

    def train(steps: int, out: Path) -> tuple[int, str]:
        code = main(["train", str(folder), "--out", str(out), "--preset", str(preset), "--steps", str(steps)])
        return code, capsys.readouterr().err

    assert train(2, out)[0] == 0
    before = tiny.contents(out)
    folder.rename(elsewhere)
    code, err = train(4, out)
    assert code == 2 and one_line(err) == f"there is no folder {folder}; give a folder of pictures"
    elsewhere.rename(folder)
    (folder / "07.png").rename(tmp_path / "07.png")
    code, err = train(4, out)
    assert code == 2 and one_line(err) == (
        f"{out} was trained on other pictures: the data has changed since; bring back the old data, or start another "
        f"--out"
    )
    assert tiny.contents(out) == before
    (tmp_path / "07.png").rename(folder / "07.png")
    assert train(4, out)[0] == 0 and train(4, tmp_path / "straight")[0] == 0
    tiny.assert_same_bits(tiny.weights(out), tiny.weights(tmp_path / "straight"))


# ---------------------------------------------------------------------------------------------- damage and left-overs


def test_the_command_names_a_damaged_checkpoint_and_goes_on_from_the_one_before(
    tmp_path: Path, straight: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    preset = tiny.preset(tmp_path, SMALL)
    words = ["train", "digits", "--out", str(out), "--preset", str(preset), "--set", "train.checkpoint_every=8"]
    assert main([*words, "--steps=4"]) == 0
    with (out / "checkpoints/000000032/optimizer.safetensors").open("r+b") as file:
        file.seek(-3, os.SEEK_END)
        file.write(b"?")
    capsys.readouterr()
    assert main([*words, "--steps=5"]) == 0
    said = capsys.readouterr().err.splitlines()
    assert said[0] == (
        f"fromnoise: checkpoint {out}/checkpoints/000000032: optimizer.safetensors is missing or damaged; passed over"
    )
    assert "going on at step 3 of 5 (24 pictures seen)" in said
    assert RunFolder(out).latest()[1] == []


def test_the_newest_and_every_so_manieth_stay(tmp_path: Path) -> None:
    """Of a checkpoint every 16 pictures: the newest two, and the first at or after each multiple of 40."""
    settings = tiny.config(SMALL, steps=25, checkpoint_every=16, keep=2, keep_every=40)
    tiny.run(settings, tmp_path, stop_at=11)  # A stop saves as well, at 88.
    tiny.run(settings, tmp_path)
    written = [*range(16, 88, 16), 88, *range(96, 200, 16), 200]
    kept = {written[-1], written[-2]}
    for multiple in range(0, 200, 40):
        kept.add(min(images for images in written if images >= multiple))
    assert names(tmp_path) == [f"{images:09d}" for images in sorted(kept)]


def test_removing_a_checkpoint_never_leaves_half_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed while it removes the only older one of the same name, or old ones, no damaged checkpoint is in the way."""
    tiny.run(tiny.config(SMALL, steps=2), tmp_path)
    (first,) = names(tmp_path)
    shutil.copytree(tmp_path / "checkpoints" / first, tmp_path / "checkpoints/000000008")
    remove = shutil.rmtree

    def killed(path: Path, *arguments: Any, **options: Any) -> None:
        if path.name.isdigit() or "-not-" in path.name:
            next(Path(path).iterdir()).unlink()
            raise KeyboardInterrupt
        remove(path, *arguments, **options)

    folder = RunFolder(tmp_path)
    tensors = {
        name: {"w": safetensors.torch.load_file(tmp_path / "checkpoints" / first / "ema.safetensors")["time.0.bias"]}
        for name in ("model", "ema", "optimizer")
    }
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.shutil, "rmtree", killed)
        for act in (lambda: folder.prune(1, 16), lambda: folder.save(16, tensors, {}, "")):
            with pytest.raises(KeyboardInterrupt):
                act()
            assert all(name.isdigit() or name.startswith(".writing-") for name in names(tmp_path))
    assert any(name.startswith(".writing-not-") for name in names(tmp_path))
    folder.start("")
    assert names(tmp_path) == [] and folder.latest() == (None, [])


def test_what_a_kill_after_the_last_save_has_left_is_tidied_up(tmp_path: Path, straight: Path) -> None:
    """Old checkpoints that were to be removed, and files half written, go at the next start; other files stay."""
    shutil.copytree(straight, tmp_path / "run")
    left = ["config.toml", "metrics.jsonl", "samples/000000032.png"]
    for name in left:
        path = tmp_path / "run" / name
        path.with_name(f".{path.name}.1234.part").write_bytes(b"half")
    for name in (".tmpsKQWtc", ".000000032-0.050.safetensors.1234.part"):  # Of safetensors, and of ours.
        (tmp_path / "run/averages" / name).write_bytes(b"half")
    (tmp_path / "run/.curves.png.99.part").write_bytes(b"somebody is drawing")
    old = tmp_path / "run/checkpoints/000000016"
    shutil.copytree(straight / "checkpoints/000000048", old)
    record = json.loads((old / "state.json").read_text())
    tiny.run(tiny.config(SMALL, **BUSY), tmp_path / "run")
    assert record["images"] == 48 and names(tmp_path / "run") == names(straight) == ["000000032", "000000048"]
    hidden = {path.name for path in (tmp_path / "run").rglob(".*")}
    assert hidden == {".curves.png.99.part", ".lock"}


@pytest.mark.parametrize(
    "left", [b'{"step": 5, "images": 40, "lo', b'{"step": 5, "images": 40}', b"\0\0\0\0", b"\xff\n"]
)
def test_a_line_of_metrics_that_was_cut_off_is_written_anew(tmp_path: Path, straight: Path, left: bytes) -> None:
    settings = tiny.config(SMALL, **BUSY)
    tiny.run(settings, tmp_path, stop_at=4)
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(left)
    tiny.run(settings, tmp_path)
    tiny.assert_same_run(tmp_path, straight)


# ---------------------------------------------------------------------------------------------------------- two at once


def test_of_two_trainings_started_at_once_exactly_one_trains(tmp_path: Path) -> None:
    """Real processes: the other says so and ends; once the first is killed outright, the run is free."""
    out, preset = tmp_path / "run", tiny.preset(tmp_path, SMALL)
    words = ["train", "digits", "--out", out, "--preset", preset, "--set", "train.checkpoint_every=40"]
    both = [tiny.command(*words, "--steps=1000000") for _ in range(2)]
    until = time.monotonic() + 100
    try:
        while all(process.poll() is None for process in both) and time.monotonic() < until:
            time.sleep(0.02)
        loser, winner = both if both[0].poll() is not None else reversed(both)
        _, err = loser.communicate(timeout=100)
        assert loser.returncode == 1
        assert one_line(err) == f"another training is writing to {out}: wait for it, or choose another --out"
        while not RunFolder(out).has_checkpoints() and winner.poll() is None and time.monotonic() < until:
            time.sleep(0.02)
        assert winner.poll() is None
    finally:
        for process in both:
            process.kill()
            process.communicate()
    found, damaged = RunFolder(out).latest()
    assert found is not None and not damaged
    steps = found.images // 8 + 1
    started = tiny.run(tiny.config(SMALL, steps=steps, checkpoint_every=40), out, pictures=tiny.digits(1797))[0]
    assert isinstance(started, Started) and started.images == found.images


def test_a_run_is_held_before_its_checkpoint_is_looked_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a second training could look one up that the first is about to replace."""
    tiny.run(tiny.config(SMALL, steps=1), tmp_path)
    look, held = RunFolder.latest, []

    def latest(self: RunFolder, **options: Any) -> Any:
        with pytest.raises(FromnoiseError, match="another training"), RunFolder(self.path).lock():
            pass
        held.append(True)
        return look(self, **options)

    monkeypatch.setattr(RunFolder, "latest", latest)
    tiny.run(tiny.config(SMALL, steps=2), tmp_path)
    assert held


# ----------------------------------------------------------------------------------------------------------- the clock


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        *(("90", 90), ("90s", 90), ("30m", 1800), ("2h", 7200), ("1d", 86400), ("1h30m", 5400), ("1:30:00", 5400)),
        *(("0:00:05", 5), ("100:00:00", 360_000), ("1D2H3M4S", 93_784), (" 2h ", 7200)),
    ],
)
def test_a_time_limit_is_understood(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "0", "0h", "-5", "1:30", "1:60:00", "soon", "2 h", "30m2h", "1h30", "1.5h", "inf", "9" * 9, "9" * 5000]
)
def test_a_time_limit_that_makes_no_sense(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(WrongUse, match=r"should be a time such as 30m, 2h, 1h30m, 1:30:00 \(hours, minutes, seconds\)"):
        seconds_of(text)
    assert main(["train", "digits", f"--time-limit={text}"]) == 2
    assert one_line(capsys.readouterr().err).startswith(f"--time-limit {text}: should be a time")


def test_a_time_limit_saves_and_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A limit that is over before the first step costs no step; one of a second ends among others; both go on."""
    out, preset = tmp_path / "a run", tiny.preset(tmp_path, SMALL)
    words = ["train", "digits", "--out", str(out), "--preset", str(preset), "--steps=1000000", "--time-limit"]
    with monkeypatch.context() as patch:
        patch.setattr(common, "began", lambda: time.time() - 60)
        assert main([*words, "0:00:30"]) == 130
    said = capsys.readouterr().err.splitlines()
    assert "fromnoise: the time limit of 0:00:30 is reached: saving" in said
    assert said[-1].startswith(
        f"fromnoise: stopped and saved at 8 pictures in {out}; go on with: fromnoise train digits"
    )
    assert names(out) == ["000000008"]
    again = shlex.split(said[-1].partition("go on with: fromnoise ")[2])
    began = time.monotonic()
    assert main([*again[:-1], "1s"]) == 130
    assert 1 <= time.monotonic() - began < 20
    said = capsys.readouterr().err.splitlines()
    assert "going on at step 1 of 1,000,000 (8 pictures seen)" in said
    found, _ = RunFolder(out).latest()
    assert found.images > 8 and said[-1].startswith(f"fromnoise: stopped and saved at {found.images:,} pictures")
    steps = found.images // 8
    tiny.run(tiny.config(SMALL, steps=steps), tmp_path / "straight", pictures=tiny.digits(1797))
    tiny.assert_same_bits(tiny.weights(out), tiny.weights(tmp_path / "straight"))


def test_a_time_limit_that_is_not_reached_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "digits", "--out", str(tmp_path / "run"), "--preset", str(tiny.preset(tmp_path, SMALL))]
    before = threading.active_count()
    assert main([*words, "--steps=1", "--time-limit=2h"]) == 0
    assert "time limit" not in capsys.readouterr().err
    until = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < until:  # The clock is stopped, and its thread ends.
        time.sleep(0.01)
    assert threading.active_count() == before


@pytest.mark.usefixtures("undisturbed")
def test_a_signal_after_the_time_limit_does_not_cut_off_the_saving(monkeypatch: pytest.MonkeyPatch) -> None:
    """A queue sends one soon after; only the second says that nothing matters any more."""
    monkeypatch.setattr(common, "_SAME_WISH", 0.0)
    with stopping((time.time() - 1, "1s")) as stop:
        assert stop.wait(10)
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("launcher", ["--processes", "torchrun", "torchrun, one process"])
def test_workers_that_are_started_anew_have_no_more_time_for_it(
    launcher: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torchrun lends each attempt a folder, and the attempts of one command have theirs in one."""

    def start(attempt: int) -> None:
        place = tmp_path / f"attempt_{attempt}" / "0"
        place.mkdir(parents=True)
        size = "1" if launcher.endswith("one process") else "2"
        worker = {"RANK": "0", "WORLD_SIZE": size, "MASTER_ADDR": "localhost", "TORCHELASTIC_RUN_ID": "none"}
        worker["TORCHELASTIC_ERROR_FILE"] = str(place / "error.json")
        if launcher == "--processes":
            worker |= {"FROMNOISE_WORKERS": str(tmp_path), "TORCHELASTIC_ERROR_FILE": str(tmp_path / "logs/0/0/e.json")}
        for name, value in worker.items():
            monkeypatch.setenv(name, value)

    start(0)
    first = common.began()
    assert abs(first - time.time()) < 5
    os.utime(tmp_path / "fromnoise-began", (first - 100, first - 100))
    start(1)
    assert common.began() == pytest.approx(first - 100, abs=1e-3)
    assert common.deadline("2m")[0] == pytest.approx(first + 20, abs=1e-3)


def test_one_process_under_torchrun_that_its_time_limit_stops_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Any other code, and torchrun would start it anew, past the limit."""
    place = tmp_path / "attempt_0/0"
    place.mkdir(parents=True)
    worker = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "localhost", "TORCHELASTIC_RUN_ID": "none"}
    for name, value in {**worker, "TORCHELASTIC_ERROR_FILE": str(place / "error.json")}.items():
        monkeypatch.setenv(name, value)
    common.began()
    os.utime(tmp_path / "fromnoise-began", (time.time() - 60, time.time() - 60))
    words = ["train", "digits", "--out", str(tmp_path / "run"), "--preset", str(tiny.preset(tmp_path, SMALL))]
    assert main([*words, "--steps=9", "--time-limit=30s", "--json"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["finished"] is False and json.loads(told.out)["step"] == 1
    assert "the time limit of 30s is reached: saving" in told.err
    assert names(tmp_path / "run") == ["000000008"] and not torch.distributed.is_initialized()
    assert not (tmp_path / "fromnoise-verdict").exists()


# ---------------------------------------------------------------------------------------------------------------- forks


def test_a_copy_of_a_run_goes_on_by_itself_from_where_one_likes(tmp_path: Path) -> None:
    """As docs/reliability.md says: longer, from an earlier checkpoint, and with another step size."""
    tiny.run(tiny.config(SMALL, steps=6, checkpoint_every=16), tmp_path / "run")
    before = tiny.contents(tmp_path / "run")
    shutil.copytree(tmp_path / "run", tmp_path / "longer")
    tiny.run(tiny.config(SMALL, steps=8, checkpoint_every=16), tmp_path / "longer")
    tiny.run(tiny.config(SMALL, steps=8), tmp_path / "straight")
    tiny.assert_same_bits(tiny.weights(tmp_path / "longer"), tiny.weights(tmp_path / "straight"))
    fork = tmp_path / "slower"
    shutil.copytree(tmp_path / "run", fork)
    for newer in ("000000032", "000000048"):
        shutil.rmtree(fork / "checkpoints" / newer)
    text = (fork / "config.toml").read_text()
    assert text.count("\nlr = 0.01\n") == 1
    (fork / "config.toml").write_text(text.replace("\nlr = 0.01\n", "\nlr = 0.001\n"))
    events = tiny.run(tiny.config(SMALL, steps=6, lr=1e-3), fork)
    assert isinstance(events[0], Started) and events[0].step == 2
    assert {event.report.lr for event in events if isinstance(event, Trained)} == {1e-3}
    assert tiny.contents(tmp_path / "run") == before
