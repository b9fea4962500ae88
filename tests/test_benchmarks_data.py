"""The benchmark of loading runs, and says what it promises."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def test_quick_run_prints_rows() -> None:
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
    loading, batches = rows[:8], rows[8:]
    for row in loading:
        assert row["unit"] == "pictures/s" and row["ours"] > 0
        assert row["ratio"] == pytest.approx(row["ours"] / row["peer"])
    assert [row["name"].split(",")[0] for row in loading] == ["64² PNG"] * 4 + ["512² JPEG"] * 4
    # What is not decoded any more takes a small part of the time.
    first, later = loading[0], loading[1]
    assert "first epoch" in first["name"] and "every later epoch" in later["name"] and later["ours"] > 5 * first["ours"]
    assert [row["name"] for row in batches] == ["batch of 128 of 100 pictures", "batch of 128 of 1,000 pictures"]
    assert all(row["unit"] == "ms" and 0 < row["ours"] <= row["slowest of 20"] for row in batches)
