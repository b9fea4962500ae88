"""What people and disks do to a run's folder and pictures between two starts: one line, nothing lost, and a way on."""

import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests import tiny

from fromnoise.cli import main
from fromnoise.config import to_toml
from fromnoise.data import Fit, Folder, Gone, auto_channels, load, open_source
from fromnoise.data.auto import auto_side
from fromnoise.errors import FromnoiseError
from fromnoise.task.resume import MAY_FORK
from fromnoise.task.train import Ended, Started, Trained

SMALL: dict[str, Any] = {"network": {"model_channels": 16, "attention_resolutions": []}}
"""Speed; nothing here depends on what the network is."""

FIT = Fit(height=8, width=8, channels=1)


def pictures(folder: Path, count: int = 24) -> Path:
    chance = np.random.default_rng(0)
    folder.mkdir()
    for k in range(count):
        Image.fromarray(chance.integers(0, 256, (8, 8), dtype=np.uint8)).save(folder / f"{k:02d}.png")
    return folder


def refused(settings: Any, out: Path) -> str:
    """What a training is told, which touches nothing."""
    before = tiny.contents(out)
    with pytest.raises(FromnoiseError) as caught:
        tiny.run(settings, out)
    assert tiny.contents(out) == before and "\n" not in str(caught.value)
    return str(caught.value)


# ------------------------------------------------------------------------------------------------- pictures that vanish


def test_training_ends_when_its_pictures_vanish_and_begins_when_they_are_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, away, out = pictures(tmp_path / "pictures"), tmp_path / "away", tmp_path / "run"
    preset = tiny.preset(tmp_path, SMALL, {"data": {"class_names": []}})
    words = ["train", str(folder), "--out", str(out), "--preset", str(preset), "--steps", "1"]
    read = Folder.read

    def vanishing(self: Folder, index: int) -> Any:
        if index == 9 and folder.exists():
            folder.rename(away)
        return read(self, index)

    with monkeypatch.context() as patched:
        patched.setattr(Folder, "read", vanishing)
        assert main(words) == 1
    (said,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("fromnoise: "))
    assert said.endswith(".png: gone since the pictures were listed; bring them back and start again")
    assert not out.exists()
    away.rename(folder)
    assert main(words) == 0
    assert "24 pictures" in (told := capsys.readouterr().err) and "cannot be read" not in told


@pytest.mark.parametrize("look", [auto_side, auto_channels])
def test_nothing_is_concluded_from_the_pictures_that_are_left(tmp_path: Path, look: Any) -> None:
    folder = pictures(tmp_path / "pictures", 3)
    source = open_source(str(folder), classes=False)
    (folder / "01.png").unlink()
    with pytest.raises(Gone, match=r"01\.png"):
        look(source)


def test_an_archive_that_vanishes(tmp_path: Path) -> None:
    folder, archive = pictures(tmp_path / "pictures", 5), tmp_path / "x.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(folder.iterdir()):
            file.write(path, path.name)
    tar = Path(shutil.make_archive(str(tmp_path / "x"), "tar", folder))
    for place in (archive, tar):
        source = open_source(str(place), classes=False)
        place.rename(tmp_path / "away")
        with pytest.raises(Gone, match=r"00\.png: gone since the pictures were listed"):
            load(source, FIT)
        (tmp_path / "away").rename(place)
        assert len(load(source, FIT)) == 5


def test_a_parquet_file_that_vanishes(tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    folder, table = pictures(tmp_path / "pictures", 5), tmp_path / "x.parquet"
    parquet.write_table(arrow.table({"image": [path.read_bytes() for path in sorted(folder.iterdir())]}), table)
    source = open_source(str(table), classes=False)
    table.rename(tmp_path / "away")
    with pytest.raises(Gone, match="gone since the pictures were listed"):
        load(source, FIT)
    (tmp_path / "away").rename(table)
    assert len(load(open_source(str(table), classes=False), FIT)) == 5


# ------------------------------------------------------------------------------------------------- damaged run folders


def test_when_all_checkpoints_are_damaged_they_are_counted_and_the_newest_named(tmp_path: Path) -> None:
    settings = tiny.config(SMALL, steps=2, checkpoint_every=8)
    tiny.run(settings, tmp_path)
    os.truncate(tmp_path / "checkpoints/000000016/ema.safetensors", 1000)
    os.truncate(tmp_path / "checkpoints/000000008/model.safetensors", 1000)
    folder = tmp_path / "checkpoints"
    assert refused(settings, tmp_path) == (
        f"{folder}: none of the 2 checkpoints is whole, and nothing was touched; move {tmp_path} away, or take another "
        f"--out. The newest: checkpoint {folder}/000000016: ema.safetensors is missing or damaged"
    )
    shutil.rmtree(folder / "000000008")
    assert refused(settings, tmp_path) == (
        f"{folder}: the only checkpoint is not whole, and nothing was touched; move {tmp_path} away, or take another "
        f"--out. It: checkpoint {folder}/000000016: ema.safetensors is missing or damaged"
    )


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"[train\n", "is not valid TOML: "),
        (b"[train]\nlrr = 3\n", "[train] lrr: no such key; did you mean 'lr'?"),
        (b"\xff", "'utf-8' codec can't decode byte 0xff"),
        (None, ""),
    ],
)
def test_settings_that_were_lost_come_back_from_a_checkpoint(tmp_path: Path, content: bytes | None, said: str) -> None:
    tiny.run(tiny.config(SMALL, steps=2), tmp_path / "straight")
    out = tmp_path / "run"
    tiny.run(tiny.config(SMALL, steps=1), out)
    config, settings = out / "config.toml", tiny.config(SMALL, steps=2)
    if content is not None:
        config.write_bytes(content)
        line = refused(settings, out)
        assert str(config) in line and said in line
        assert line.endswith(
            f"; mend it, or move it away and start again with the same words: {out}/checkpoints/000000008/"
            f"model.safetensors carries the settings, too"
        )
    config.unlink()
    line = refused(tiny.config(SMALL, steps=2, seed=5), out)
    assert line.startswith(f"{out} was started with other settings: train.seed was 0, now 5")
    started = tiny.run(settings, out)[0]
    assert isinstance(started, Started) and started.step == 1
    assert config.read_bytes() == (tmp_path / "straight/config.toml").read_bytes()
    tiny.assert_same_bits(tiny.weights(out), tiny.weights(tmp_path / "straight"))


def test_broken_settings_without_a_checkpoint_promise_nothing(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[train")
    assert "move it away" not in refused(tiny.config(SMALL, steps=1), tmp_path)
    (tmp_path / "config.toml").unlink()
    (tmp_path / "checkpoints" / "000000008").mkdir(parents=True)
    (tmp_path / "checkpoints" / "000000008" / "model.safetensors").write_bytes(b"of somebody else")
    assert "is not empty and holds no run" in refused(tiny.config(SMALL, steps=1), tmp_path)


def test_a_foreign_line_of_metrics_stops_a_run_before_it_trains(tmp_path: Path) -> None:
    settings = tiny.config(SMALL, steps=2, report_every=1)
    tiny.run(settings, tmp_path, stop_at=1)
    metrics = tmp_path / "metrics.jsonl"
    whole = metrics.read_bytes()
    metrics.write_bytes(b"{}\n" + whole)
    assert "metrics.jsonl: line 1 was not written by a run" in refused(settings, tmp_path)
    metrics.write_bytes(whole)
    tiny.run(settings, tmp_path)
    assert [line["step"] for line in tiny.lines(tmp_path)] == [1, 2]


# --------------------------------------------------------------------------------------------------------------- forks


def test_a_refusal_tells_how_to_fork_and_that_is_a_way(tmp_path: Path) -> None:
    out, fork = tmp_path / "run", tmp_path / "fork"
    tiny.run(tiny.config(SMALL, steps=2), out)
    before, slower = tiny.contents(out), tiny.config(SMALL, steps=4, lr=1e-3)
    line = refused(slower, out)
    assert line.startswith(f"{out} was started with other settings: train.lr was 0.01, now 0.001")
    assert "copy the folder, and change them in the copy's config.toml, too" in line
    shutil.copytree(out, fork)
    text = (fork / "config.toml").read_text()
    assert text.count("\nlr = 0.01\n") == 1
    (fork / "config.toml").write_text(text.replace("\nlr = 0.01\n", "\nlr = 0.001\n"))
    events = tiny.run(slower, fork)
    assert isinstance(events[0], Started) and events[0].step == 2
    assert {event.report.lr for event in events if isinstance(event, Trained)} == {1e-3}
    assert tiny.contents(out) == before


FORKS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "network.dropout": ({}, {"network": {"dropout": 0.3}}),
    "train.steps": ({"train": {"rate": "cosine"}}, {}),
    "train.epochs": ({"train": {"rate": "cosine"}}, {"train": {"steps": None, "epochs": 0.8}}),
    "train.images": ({"train": {"rate": "cosine"}}, {"train": {"steps": None, "images": 32}}),
    "train.accumulate": ({}, {"train": {"accumulate": 2}}),
    "train.optimizer": ({}, {"train": {"optimizer": "adamw"}}),
    "train.lr": ({}, {"train": {"lr": 1e-3}}),
    "train.warmup": ({}, {"train": {"warmup": 9}}),
    "train.rate": ({}, {"train": {"rate": {"kind": "cosine", "end": 0.1}}}),
    "train.clip": ({}, {"train": {"clip": 1e-3}}),
    "train.guard": ({}, {"train": {"guard": {"spike": 2.0, "patience": 2}}}),
    "train.ema_decay": ({}, {"train": {"ema_decay": 0.5}}),
    "train.ema_ramp": ({}, {"train": {"ema_ramp": 0.1}}),
    "train.flip": ({}, {"train": {"flip": True}}),
    "train.label_dropout": ({}, {"train": {"label_dropout": 0.9}}),
    "train.precision": ({"train": {"precision": "float16"}}, {"train": {"precision": "bfloat16"}}),
    "train.seed": ({}, {"train": {"seed": 5}}),
}
"""Settings to begin with, and others to go on with."""


@pytest.mark.parametrize("name", sorted(MAY_FORK))
def test_every_fork_that_is_advised_is_a_way(tmp_path: Path, name: str) -> None:
    """It goes on with the steps counted, there and back again."""
    first, then = ([SMALL, FORKS[name][0], *changes] for changes in ([], [FORKS[name][1]]))
    for k, (begun, changed) in enumerate(((first, then), (then, first))):
        out, fork = (tmp_path / f"{place} {k}" for place in ("run", "fork"))
        before = tiny.config({"train": {"steps": 2}}, *begun)
        after = tiny.config({"train": {"steps": 4}}, *changed)
        tiny.run(before, out, stop_at=2)
        line = refused(after, out)
        assert line.startswith(f"{out} was started with other settings: ") and name in line
        assert "copy the folder, and change them in the copy's config.toml, too" in line
        shutil.copytree(out, fork)
        (fork / "config.toml").write_text(to_toml(after))
        started, *_, ended = tiny.run(after, fork)
        assert isinstance(started, Started) and (started.step, started.images) == (2, 16)
        assert ended == Ended(fork, 32, 4, True)


@pytest.mark.parametrize(
    ("begun", "changes"),
    [
        ({}, {"train": {"batch_size": 16}}),
        ({}, {"train": {"batch_size": 16, "lr": 1e-3}}),
        ({}, {"train": {"averages": [0.1]}}),
        ({}, {"train": {"augment": {"probability": 0.1}}}),
        ({}, {"network": {"num_res_blocks": 2}}),
        ({}, {"schedule": {"kind": "cosine"}}),
    ],
)
def test_no_fork_is_advised_that_is_no_way(tmp_path: Path, begun: dict[str, Any], changes: dict[str, Any]) -> None:
    """But by hand it may be tried, and touches nothing."""
    out = tmp_path / "run"
    tiny.run(tiny.config(SMALL, begun, steps=2), out)
    other = tiny.config(SMALL, begun, changes, steps=4)
    line = refused(other, out)
    assert "copy" not in line and line.endswith("; give the same ones to go on, or begin a new run with another --out")
    (out / "config.toml").write_text(to_toml(other))
    if "schedule" in changes:  # The network is told other noise than it knows; nothing in the folder could tell.
        return
    line = refused(other, out)
    if "batch_size" in changes.get("train", {}):
        assert line == (
            f"{out} has seen 16 pictures in 2 steps, so not with train.batch_size = 16: give it back the 8 that it "
            f"began with, or begin a new run with another --out"
        )
    else:
        assert line.startswith(f"checkpoint {out}/checkpoints/000000016 does not fit this run's network: ")
