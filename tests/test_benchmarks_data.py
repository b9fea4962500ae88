"""The benchmark of loading runs, and says what it promises."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from fromnoise.data import Folder, load
from fromnoise.data.cache import Cache

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def data(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT)
    return importlib.import_module("benchmarks.data")


def test_quick_run_prints_rows(data: ModuleType) -> None:
    path = os.pathsep.join(filter(None, [str(ROOT / "src"), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "benchmarks.data", "--quick", "--json"]
    done = subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    loading, (*warm, cold) = rows[:12], rows[12:]
    for row in (*loading, cold):
        assert row["ratio"] == pytest.approx(row["ours"] / row["peer"])
    for row in loading:
        assert row["unit"] == "pictures/s" and 0 < row["ours"] <= row["best"]["ours"]
    assert [row["name"].split(",")[0] for row in loading] == ["64² PNG"] * 6 + ["512² JPEG"] * 6
    assert [row["name"].partition("against ")[2] for row in loading[:6:2]] == list(data.PEERS)
    for first, later in zip(loading[::2], loading[1::2], strict=True):
        assert "first epoch" in first["name"] and "every later epoch" in later["name"]
        assert later["ours"] > first["ours"]  # what is not decoded any more takes a small part of the time
    assert [row["name"] for row in warm] == ["batch of 128 of 100 pictures", "batch of 128 of 1,000 pictures"]
    assert all(row["unit"] == "ms" and 0 < row["ours"] <= row["slowest of 20"] for row in warm)
    assert cold["name"] == "batch of 128 of 1,000 pictures, not in memory" and cold["ours"] > 0


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_the_sides_are_given_the_same_pictures(data: ModuleType, kind: str, tmp_path: Path) -> None:
    """Ours and the plain loader's agree but for rounding, and the example's are the same pictures from -1 to 1."""
    folder = tmp_path / "pictures"
    data._make(folder, kind, 64, 6)
    ours = load(Folder(folder), data.FIT, cache=Cache(path=tmp_path / "cache", limit=0)).batch(range(6))
    plain, example = data.Plain(folder), data.as_diffusers(folder, tmp_path / "datasets")
    assert torch.equal(torch.stack([plain[k] for k in range(6)]), ours)
    theirs = torch.stack([example[k]["input"] for k in range(6)])
    torch.testing.assert_close(theirs, ours / 127.5 - 1, atol=1e-6, rtol=0)


def test_both_resize_alike(data: ModuleType, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    data._make(folder, "JPEG", 512, 2)
    ours = load(Folder(folder), data.FIT, cache=Cache(path=tmp_path / "cache", limit=0)).batch([0, 1]).int()
    plain = torch.stack([data.Plain(folder)[k] for k in range(2)]).int()
    assert (ours - plain).abs().max() <= 1  # on bytes, Pillow rounds twice
