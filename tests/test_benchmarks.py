"""The benchmark runs, says what it promises, and counts its arithmetic as an independent counter does."""

import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from diffusers import UNet2DModel
from torch.utils.flop_counter import FlopCounterMode

from fromnoise.interop.diffusers_unet import diffusers_config
from fromnoise.network.unet import UNet

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT)
    return importlib.import_module("benchmarks.work")


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT)
    return importlib.import_module("benchmarks.report")


@pytest.mark.parametrize("channels", [64, 128])
def test_nominal_flops_are_those_that_pytorch_counts_in_diffusers_network(work: ModuleType, channels: int) -> None:
    what = work.Work(channels=channels, batch=3)
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        UNet2DModel(**diffusers_config(**what.settings()))(torch.empty(3, 3, 32, 32), torch.empty(3))
    assert work.nominal_flops(what) == counter.get_total_flops()


def test_main_convolutions_are_the_residual_blocks(work: ModuleType) -> None:
    """22 blocks of two; the rest is shortcuts, changes of resolution and attention."""
    what = work.Work(channels=128, batch=2)
    convolutions = work.main_convolutions(what)
    assert sum(conv.times for conv in convolutions) == 44
    share = sum(conv.times * conv.flops(2) for conv in convolutions) / work.nominal_flops(what)
    assert 0.7 < share < 0.8
    assert {conv.height for conv in convolutions} == {32, 16, 8, 4}


def test_the_full_plan_is_the_cifar10_layout(work: ModuleType) -> None:
    """As the workers get it: through JSON, with the fields that the settled device decides."""
    measure = importlib.import_module("benchmarks.measure")
    plain, compiled, *_ = json.loads(json.dumps(measure.works([128, 64], True, 0.1)))
    what = work.Work.from_dict({"batch": 16, **plain, "device": "cpu"})
    with torch.device("meta"):
        assert sum(p.numel() for p in UNet(**what.settings()).parameters()) == 35_746_307
    assert (what.batch, what.dropout, what.side, what.compiled) == (16, 0.1, 32, False)
    assert work.Work.from_dict(compiled) == work.Work(channels=128, compiled=True)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["train", "sampling"])
def test_quick_run_prints_rows(task: str, report: ModuleType) -> None:
    command = [sys.executable, "-m", "benchmarks", "--quick", "--json", "--tasks", task]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=110)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    names = [row["name"] for row in rows]
    endings = [", convolutions alone", "", ", peak memory"]
    endings += [", our loop beside the network"] if task == "sampling" else []
    assert names == [f"{task}/32ch, batch 2{what}" for what in endings]
    for row in rows:
        assert {"name", "ours", "peer", "ratio", "unit", "device", "threads", "torch", "date"} <= row.keys()
        assert row["torch"] == torch.__version__
        if row["unit"] == "pictures/s":
            assert row["ours"] > 0 and row["peer"] > 0
            assert row["ratio"] == pytest.approx(row["ours"] / row["peer"])
            for share in row["share_of_ceiling"].values():
                assert share > 0
            # Bytes may differ by one where a value lies on the edge between two.
            assert row["difference"] <= (1 if row["name"].startswith("sampling") else 1e-4)
            assert row["best"]["ours"] == max(row["rounds"]["ours"])
            assert row["gflops"]["ours"] / row["ours"] == pytest.approx(row["gflops"]["peer"] / row["peer"])
    text = report.table(rows).splitlines()
    assert len(text) == 2 + len(rows) and len({len(line) for line in text}) == 1


def test_without_diffusers_the_peer_is_not_measured(report: ModuleType) -> None:
    measure = importlib.import_module("benchmarks.measure")
    found = measure._Found(rates={"ours": [2.0, 4.0, 9.0]}, memory={"ours": 100.0}, outputs={}, ceiling=[80.0, 100.0])
    rows = list(measure._rows("train", {"channels": 64}, found, 9.0))
    speed = rows[1]
    assert (speed["name"], speed["ours"], speed["peer"], speed["ratio"]) == ("train/64ch", 4.0, None, None)
    assert speed["gflops"]["ours"] == 36 and speed["share_of_ceiling"]["ours"] == pytest.approx(0.4)
    assert "up to 4.5×" in report.unrest(rows) and not report.unrest(rows[:1])
    assert len(rows) == 3  # No row claims the allocator setting made a difference to what was not measured.
    assert report.cells(speed)[:4] == ("train/64ch", "4.00", "not measured", "not measured")
    large = list(measure._rows("train", {"channels": 64, "batch": 128, "device": "cpu"}, found, 9.0))
    assert large[1]["name"] == "train/64ch, batch 128"


def test_half_precision_is_measured_where_a_cpu_has_it(work: ModuleType) -> None:
    """Both sides under the same autocast, beside convolutions in the same precision."""
    measure = importlib.import_module("benchmarks.measure")
    sides = importlib.import_module("benchmarks.sides")
    names = [measure._name("train", {**fields, "device": "cpu"}) for fields in measure.more_training(0.1)]
    assert names == ["train/64ch, batch 128", "train/64ch, bfloat16", "train/64ch, batch 128, bfloat16"]
    for half in (False, True):
        with sides._precision(work.Work(half=half)):
            found = torch.nn.functional.linear(torch.zeros(1, 2), torch.zeros(3, 2)).dtype
        assert found == (torch.bfloat16 if half else torch.float32)


def test_widths_that_the_peer_cannot_have_are_wrong_use() -> None:
    command = [sys.executable, "-m", "benchmarks", "--channels", "50"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=110)
    assert done.returncode == 2
    assert "multiples of 32" in done.stderr and not done.stdout
