"""A checkpoint is whole or absent: under SIGKILL at every moment, on a full disk, and with damaged files."""

import errno
import json
import os
import pickle
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from tests import tiny
from torch import Tensor

from fromnoise import checkpoint
from fromnoise.checkpoint import Checkpoint, Damaged, RunFolder, read_weights, write_weights
from fromnoise.errors import FromnoiseError

TENSORS = {
    "model": {"w": torch.linspace(-1, 1, 12).reshape(3, 4), "n": torch.tensor(3)},
    "ema": {"w": torch.linspace(-2, 2, 12, dtype=torch.float64).reshape(3, 4)},
    "optimizer": {"exp_avg.w": torch.full((3, 4), 0.1).bfloat16(), "step.w": torch.tensor(7.0)},
}
STATE: dict[str, Any] = {"step": 7, "since_report": {"loss": 0.1 + 0.2, "count": 3}, "data": "abc"}


def saved(path: Path, *images: int) -> RunFolder:
    folder = RunFolder(path)
    folder.start("[train]\n")
    for count in images:
        folder.save(count, TENSORS, {**STATE, "step": count}, "[train]\n")
    return folder


def names(folder: RunFolder) -> list[str]:
    return sorted(path.name for path in folder.checkpoints.iterdir())


def test_what_is_saved_comes_back_to_the_bit(tmp_path: Path) -> None:
    found, damaged = saved(tmp_path, 56).latest()
    assert damaged == []
    assert found.images == 56 and found.state == {**STATE, "step": 56}
    back = found.tensors()
    assert back.keys() == TENSORS.keys()
    for name, tensors in TENSORS.items():
        tiny.assert_same_bits(back[name], tensors)
        assert [value.dtype for value in back[name].values()] == [tensors[key].dtype for key in back[name]]


def test_layout_in_memory_does_not_matter(tmp_path: Path) -> None:
    weight = torch.randn(4, 6, 3, 3).to(memory_format=torch.channels_last)
    write_weights(tmp_path / "a.safetensors", {"w": weight}, config="", images=1, what="model")
    assert torch.equal(read_weights(tmp_path / "a.safetensors")[0]["w"], weight)


def test_every_file_carries_the_settings_for_any_reader_of_safetensors(tmp_path: Path) -> None:
    found, _ = saved(tmp_path, 8).latest()
    for name in ("model", "ema", "optimizer"):
        with safetensors.safe_open(found.file(name), framework="pt") as file:
            assert file.metadata() == {"format": "fromnoise-1", "what": name, "images": "8", "config": "[train]\n"}


def test_no_pickle_is_written_or_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a pickle")

    for module, name in [(pickle, "dump"), (pickle, "dumps"), (pickle, "load"), (pickle, "loads"), (torch, "save")]:
        monkeypatch.setattr(module, name, refuse)
    monkeypatch.setattr(torch, "load", refuse)
    monkeypatch.setattr(np, "load", refuse)
    found, _ = saved(tmp_path, 8).latest()
    assert found.tensors()["model"]["n"] == 3


# ------------------------------------------------------------------------------------------------------------ SIGKILL

# A process of its own that forks: child k dies by SIGKILL at its k-th call that touches the disk, before or after it,
# and in the middle of writing a file. It ends when a child has come through alive.
KILLER = """
    import os, shutil, signal, sys, itertools
    from pathlib import Path
    import safetensors.torch, torch
    from fromnoise import checkpoint
    base, work = Path(sys.argv[1]), Path(sys.argv[2])

    def die():
        os.kill(os.getpid(), signal.SIGKILL)

    def child(k):
        count = itertools.count()
        def watched(function, module, name):
            def call(*args, **kwargs):
                if next(count) == k:
                    die()
                if name == "save_file" and next(count) == k:
                    function(*args, **kwargs)
                    os.truncate(args[1], os.path.getsize(args[1]) // 2)
                    die()
                result = function(*args, **kwargs)
                if next(count) == k:
                    die()
                return result
            setattr(module, name, call)
        for module, name in [(os, "mkdir"), (os, "rename"), (os, "replace"), (os, "fsync"), (os, "open"),
                             (os, "unlink"), (safetensors.torch, "save_file"), (shutil, "rmtree")]:
            watched(getattr(module, name), module, name)
        tensors = {name: {"w": torch.full((50, 50), 2.0)} for name in ("model", "ema", "optimizer")}
        folder = checkpoint.RunFolder(work / str(k))
        folder.save(16, tensors, {"step": 2}, "")
        folder.prune(1, 16)

    for k in itertools.count():
        shutil.copytree(base, work / str(k))
        pid = os.fork()
        if pid == 0:
            child(k)
            os._exit(0)
        status = os.waitpid(pid, 0)[1]
        if status == 0:
            break
        assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, status
    print(k)
"""


def python(code: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(tiny.SOURCE), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_killed_at_any_moment_of_a_save_the_run_still_has_a_whole_checkpoint(tmp_path: Path) -> None:
    base, work = tmp_path / "base", tmp_path / "work"
    RunFolder(base).start("")
    before = {name: {"w": torch.full((50, 50), 1.0)} for name in ("model", "ema", "optimizer")}
    RunFolder(base).save(8, before, {"step": 1}, "")
    result = python(KILLER, base, work)
    assert result.returncode == 0, result.stderr
    moments = int(result.stdout)
    assert moments > 30
    seen = set()
    for k in range(moments):
        folder = RunFolder(work / str(k))
        found, damaged = folder.latest()
        assert damaged == [], f"killed at moment {k}"
        assert found.images in {8, 16} and found.state == {"step": found.images // 8}
        for tensors in found.tensors().values():
            assert torch.equal(tensors["w"], torch.full((50, 50), found.images / 8))
        seen.add(found.images)
        folder.start("")  # the next start sweeps up
        assert all(name.isdigit() for name in names(folder))
    assert seen == {8, 16}, "the moments should lie on both sides of the rename"


def test_killed_from_outside_while_it_saves_again_and_again(tmp_path: Path) -> None:
    code = """
        import sys, torch
        from pathlib import Path
        from fromnoise import checkpoint
        folder = checkpoint.RunFolder(Path(sys.argv[1]))
        folder.start("")
        for n in range(1, 10**6):
            folder.save(n, {name: {"w": torch.full((300, 300), float(n))} for name in ("model", "ema", "optimizer")},
                        {"step": n}, "")
            folder.prune(2, n)
            print(n, flush=True)
    """
    chance = random.Random(0)
    for attempt in range(2):
        folder = RunFolder(tmp_path / str(attempt))
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code), str(folder.path)],
            env={**os.environ, "PYTHONPATH": str(tiny.SOURCE), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            text=True,
        )
        with process:
            reported = [int(process.stdout.readline()) for _ in range(3)][-1]
            time.sleep(chance.uniform(0, 0.03))
            process.kill()
        assert process.returncode == -signal.SIGKILL
        found, damaged = folder.latest()
        assert damaged == [] and found.images >= reported and found.state == {"step": found.images}
        assert all((tensors["w"] == found.images).all() for tensors in found.tensors().values())


# --------------------------------------------------------------------------------------------------- full, read-only


def test_a_full_disk_leaves_the_earlier_checkpoint_and_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = saved(tmp_path, 8)
    before = tiny.contents(tmp_path)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FromnoiseError) as caught:
        folder.save(16, TENSORS, STATE, "")
    assert str(caught.value) == (
        f"could not write the checkpoint {folder.checkpoints / '000000016'}; the earlier ones are untouched: "
        f"No space left on device"
    )
    assert caught.value.exit_code == 1
    assert tiny.contents(tmp_path) == before


def test_a_run_whose_files_may_not_grow_any_further(tmp_path: Path) -> None:
    """The system itself refuses: no file above 300 kB, while this network's weights take 1.6 MB."""
    out, pictures = tmp_path / "run", tiny.digits(1797)
    tiny.run(tiny.config(steps=2), out, pictures=pictures)
    before = tiny.contents(out / "checkpoints")
    assert len(before) == 4 and max(map(len, before.values())) > 400_000

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))

    arguments = ["train", "digits", "--out", out, "--preset", tiny.preset(tmp_path), "--steps", "4"]
    with tiny.command(*arguments, preexec_fn=limit) as process:
        _, err = process.communicate(timeout=100)
    assert process.returncode == 1
    complaint = err.splitlines()[-1]
    assert complaint.startswith(f"fromnoise: could not write the checkpoint {out}/checkpoints/000000032; the earlier")
    assert "File too large" in complaint and "Traceback" not in err and "fault of fromnoise" not in err
    assert tiny.contents(out / "checkpoints") == before
    tiny.run(tiny.config(steps=4), out, pictures=pictures)  # With room again, it goes on.
    tiny.run(tiny.config(steps=4), tmp_path / "straight", pictures=pictures)
    tiny.assert_same_bits(tiny.weights(out), tiny.weights(tmp_path / "straight"))


@pytest.mark.skipif(os.geteuid() != 0, reason="drops the rights of root for a moment")
def test_a_folder_that_may_not_be_written_to_as_root_sees_it() -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = saved(Path(place) / "run", 8)
        for path in (Path(place), folder.path, folder.checkpoints):
            path.chmod(0o755)
        os.seteuid(65534)
        try:
            with pytest.raises(FromnoiseError, match=r"^cannot write to \S+run: Permission denied$"):
                folder.start("")
            with pytest.raises(FromnoiseError, match=r"the earlier ones are untouched: Permission denied$"):
                folder.save(16, TENSORS, STATE, "")
            with pytest.raises(FromnoiseError, match=r"^cannot write to \S+metrics.jsonl: Permission denied$"):
                folder.append_metrics({"images": 1})
        finally:
            os.seteuid(0)
        assert names(folder) == ["000000008"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_to(tmp_path: Path) -> None:
    folder = saved(tmp_path / "run", 8)
    folder.path.chmod(0o555)
    try:
        with pytest.raises(FromnoiseError, match=r"^cannot write to \S+run: Permission denied$"):
            folder.start("")
    finally:
        folder.path.chmod(0o755)


def test_a_run_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FromnoiseError, match=r"^cannot write to \S+file/run: Not a directory$"):
        RunFolder(tmp_path / "file" / "run").start("")


# ------------------------------------------------------------------------------------------------------------- damage


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 1)


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) * 2 // 3] ^= 4
    file.write_bytes(content)


def remove(file: Path) -> None:
    file.unlink()


def empty(file: Path) -> None:
    file.write_bytes(b"")


@pytest.mark.parametrize("damage", [cut, flip, remove, empty])
@pytest.mark.parametrize("name", ["model.safetensors", "ema.safetensors", "optimizer.safetensors", "state.json"])
def test_a_damaged_file_is_named_and_its_checkpoint_passed_over(tmp_path: Path, name: str, damage: Any) -> None:
    folder = saved(tmp_path, 8, 16)
    damage(folder.checkpoints / "000000016" / name)
    found, damaged = folder.latest()
    assert found.images == 8
    (error,) = damaged
    assert str(error) == f"checkpoint {folder.checkpoints / '000000016'}: {name} is missing or damaged"


def test_no_flipped_bit_of_the_state_goes_unnoticed(tmp_path: Path) -> None:
    whole = saved(tmp_path, 8).checkpoints / "000000008"
    content, truth = (whole / "state.json").read_bytes(), Checkpoint.open(whole)
    noticed = 0
    for place in range(0, len(content), 2):
        for bit in (0, 5):
            bad = bytearray(content)
            bad[place] ^= 1 << bit
            (whole / "state.json").write_bytes(bad)
            try:
                assert Checkpoint.open(whole) == truth, f"bit {bit} of byte {place}"
            except Damaged:
                noticed += 1
    assert noticed > 0.9 * len(content)  # what is left is an upper-case hexadecimal digit and the like


@pytest.mark.parametrize("content", ["[]", "3", "null", "{}", '{"files": [], "images": 8, "state": {}}', "\udcff"])
def test_a_state_of_another_shape_is_damage(tmp_path: Path, content: str) -> None:
    folder = saved(tmp_path, 8)
    (folder.checkpoints / "000000008" / "state.json").write_bytes(content.encode(errors="surrogateescape"))
    assert folder.latest()[0] is None


def test_old_checkpoints_go_and_the_newest_stay(tmp_path: Path) -> None:
    folder = saved(tmp_path, 8, 16, 24, 1_000_000_000)
    folder.prune(2, 1_000_000_000)
    assert names(folder) == ["000000024", "1000000000"]
    assert folder.latest()[0].images == 1_000_000_000


def test_a_damaged_newer_checkpoint_never_crowds_out_the_good_one_just_written(tmp_path: Path) -> None:
    folder = saved(tmp_path, 8, 32)
    flip(folder.checkpoints / "000000032" / "ema.safetensors")
    assert folder.latest()[0].images == 8  # so the run goes on from there, and comes to 16
    folder.save(16, TENSORS, STATE, "")
    folder.prune(1, 16)
    found, damaged = folder.latest()
    assert found.images == 16 and damaged == []
    assert names(folder) == ["000000016"]


def test_a_checkpoint_is_written_over_a_damaged_one_of_the_same_name(tmp_path: Path) -> None:
    folder = saved(tmp_path, 8)
    cut(folder.checkpoints / "000000008" / "model.safetensors")
    folder.save(8, TENSORS, STATE, "")
    assert folder.latest()[0].images == 8


def test_a_start_sweeps_up_what_a_kill_has_left_and_nothing_else(tmp_path: Path) -> None:
    folder = saved(tmp_path, 8)
    left = folder.checkpoints / ".writing-000000016-123"
    shutil.copytree(folder.checkpoints / "000000008", left)
    (tmp_path / "notes.txt").write_text("mine")
    folder.start("")
    assert names(folder) == ["000000008"] and (tmp_path / "notes.txt").read_text() == "mine"


# ----------------------------------------------------------------------------------------------------- single weights


def foreign(path: Path) -> None:
    safetensors.torch.save_file({"w": torch.zeros(2)}, path)


def foreign_with_metadata(path: Path) -> None:
    safetensors.torch.save_file({"w": torch.zeros(2)}, path, metadata={"format": "pt"})


def truncated(path: Path) -> None:
    write_weights(path, {"w": torch.zeros(200)}, config="", images=1, what="ema")
    os.truncate(path, 300)


def picture(path: Path) -> None:
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(200))


def nothing(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (foreign, "was not written by fromnoise: it carries no settings, so the network is unknown"),
        (foreign_with_metadata, "was not written by fromnoise: it carries no settings, so the network is unknown"),
        (truncated, "is not a whole safetensors file: "),
        (picture, "is not a whole safetensors file: "),
        (nothing, "is not a whole safetensors file: "),
    ],
)
def test_a_foreign_or_damaged_file_is_refused_in_one_line(tmp_path: Path, make: Any, complaint: str) -> None:
    file = tmp_path / "w.safetensors"
    make(file)
    with pytest.raises(Damaged) as caught:
        read_weights(file)
    assert str(caught.value).startswith(f"{file} {complaint}")
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(Damaged, match=r"w\.safetensors is not there$"):
        read_weights(tmp_path / "w.safetensors")


# ------------------------------------------------------------------------------------------------------------ metrics


def test_metrics_go_back_to_the_checkpoint_and_lose_a_line_cut_in_two(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    for images in (8, 16, 24, 32):
        folder.append_metrics({"images": images})
    with folder.metrics.open("a") as file:
        file.write('{"images": 8, "lo')
    folder.rewind_metrics(16)
    assert [json.loads(line) for line in folder.metrics.read_text().splitlines()] == [{"images": 8}, {"images": 16}]
    folder.rewind_metrics(0)
    assert folder.metrics.read_text() == ""


@pytest.mark.parametrize(
    "line",
    [
        b"{}",
        b"5",
        b"null",
        b"[3]",
        b'"images"',
        b'{"images": "8"}',
        b'{"images": true}',
        b'{"images": null}',
        b"step 8",
    ],
)
@pytest.mark.parametrize(
    "after", [b"", b'{"images": 24}\n', b'{"images": 2'], ids=["last", "before one", "before half"]
)
def test_a_line_of_metrics_that_no_run_has_written_is_named_and_stays(
    tmp_path: Path, line: bytes, after: bytes
) -> None:
    if line == b"step 8" and not after:
        pytest.skip("what a power cut leaves at the end may look like this")
    folder = saved(tmp_path)
    content = b'{"images": 8}\n\n' + line + b"\n" + after
    folder.metrics.write_bytes(content)
    with pytest.raises(FromnoiseError) as caught:
        folder.rewind_metrics(16)
    said = str(caught.value)
    assert said.startswith(f"{folder.metrics}: line 3 was not written by a run") and "\n" not in said
    assert said.endswith("remove the line, or move the file away; nothing was changed")
    assert folder.metrics.read_bytes() == content


@pytest.mark.parametrize("left", [b"5", b'{"ima', b"\0\0\0", b"\xff\n", b"[" * 100_000, b'{"images": 8}', b"\n \n"])
def test_what_a_power_cut_leaves_at_the_end_of_metrics_is_dropped(tmp_path: Path, left: bytes) -> None:
    folder = saved(tmp_path)
    folder.metrics.write_bytes(b'{"images": 8}\n{"images": 9.0}\n' + left)
    folder.rewind_metrics(16)
    assert folder.metrics.read_bytes() == b'{"images": 8}\n{"images": 9.0}\n'


def test_metrics_that_are_no_file_or_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = saved(tmp_path)
    folder.metrics.mkdir()
    with pytest.raises(FromnoiseError, match=r"^cannot read .*metrics\.jsonl: Is a directory$"):
        folder.rewind_metrics(0)
    folder.metrics.rmdir()
    folder.append_metrics({"images": 8})

    def fail(self: Path) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(Path, "read_bytes", fail)
    with pytest.raises(FromnoiseError, match=r"^cannot read .*metrics\.jsonl: Input/output error$"):
        folder.rewind_metrics(0)


def test_folders_that_are_no_checkpoints_are_passed_over(tmp_path: Path) -> None:
    folder = saved(tmp_path, 8)
    others = ["²", "٣", "-5", "8x", " 9", "1_0"]
    for name in others:
        (folder.checkpoints / name).mkdir()
    assert folder.latest()[0].images == 8 and folder.latest()[1] == []
    folder.prune(1, 8)
    assert names(folder) == sorted(["000000008", *others])
    found = folder.carried_settings()
    assert found == (folder.checkpoints / "000000008/model.safetensors", "[train]\n")


def test_settings_come_from_the_newest_checkpoint_that_has_any(tmp_path: Path) -> None:
    folder = saved(tmp_path, 8, 16)
    empty(folder.checkpoints / "000000016" / "model.safetensors")
    found = folder.carried_settings()
    assert found is not None and found[0].parent.name == "000000008"
    foreign(found[0])
    assert folder.carried_settings() is None


def test_a_file_is_never_seen_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = saved(tmp_path)

    def fail(*_: Any) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(checkpoint.os, "replace", fail)
    with pytest.raises(FromnoiseError, match="Input/output error"):
        folder.start("[train]\nsteps = 3\n")
    assert folder.config.read_text() == "[train]\n"
    assert [path.name for path in tmp_path.iterdir()] == ["config.toml"]


def as_tensors(value: Tensor) -> dict[str, dict[str, Tensor]]:
    return {name: {"w": value} for name in ("model", "ema", "optimizer")}


def test_a_second_save_of_the_same_step_is_the_later_one(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    for value in (1.0, 2.0):
        folder.save(8, as_tensors(torch.tensor([value])), STATE, "")
    assert folder.latest()[0].tensors()["ema"]["w"] == 2
