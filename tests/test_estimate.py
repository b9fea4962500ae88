"""Knowing beforehand: counts against hand-made numbers, predictions against measurements, and nothing written."""

import contextlib
import importlib
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image
from tests import tiny
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from fromnoise.checkpoint import RunFolder
from fromnoise.cli import main
from fromnoise.config import Config, build_network, parse, preset
from fromnoise.errors import FromnoiseError, WrongUse
from fromnoise.memory import available_memory, is_shortage, peak_resident
from fromnoise.network.attention import Attention
from fromnoise.schema import merge
from fromnoise.task import estimate as task
from fromnoise.task.estimate_count import count, count_network
from fromnoise.task.estimate_disk import checkpoint_bytes, disk
from fromnoise.task.estimate_found import Estimated, Row, accumulate_for, as_dict
from fromnoise.task.estimate_memory import Line, alone, line_through, micro_batch, scouted, sizes, whole_parts
from fromnoise.task.estimate_plan import few, plan, stand_ins
from fromnoise.task.estimate_probe import Probe, Taken, TooLarge, probe
from fromnoise.task.estimate_step import steps
from fromnoise.task.prepare import prepare

verb = importlib.import_module("fromnoise.verb.estimate")  # The package has the function of that name.
look = importlib.import_module("fromnoise.verb.dry_run")
known_task = importlib.import_module("fromnoise.task.estimate_known")
Said = tuple[int, str, str]
MIB = 2**20


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """Run the command line in this process: (exit code, stdout, stderr)."""

    def run(*words: object) -> Said:
        capsys.readouterr()
        code = main([str(word) for word in words])
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, with the cache and temporary files inside it."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    for name in ("FROMNOISE_CACHE", "TMPDIR"):
        monkeypatch.setenv(name, str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return folder


# ------------------------------------------------------------------------------------------------------------ counted


class _Of(nn.Module):
    """A layer as a network: it is told the time, and does not care."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor, c_time: Tensor) -> Tensor:
        return self.layer(x)


def _of(channels: int, side: int) -> Config:
    data = {"channels": channels, "height": side, "width": side, "class_names": []}
    return parse({"data": data}, "the test")


def test_convolutions_count_two_for_each_multiply_add() -> None:
    with torch.device("meta"):
        layers = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.SiLU(), nn.Conv2d(8, 5, 1, stride=2))
    found = count_network(_Of(layers), _of(3, 8))
    assert found.forward == 2 * (9 * 3 * 8 * 64 + 8 * 5 * 16)
    assert found.parameters == 9 * 3 * 8 + 8 + 8 * 5 + 5
    assert found.training == 3 * found.forward


def test_attention_counts_its_products_of_matrices() -> None:
    with torch.device("meta"):
        layers = nn.Sequential(nn.Conv2d(3, 16, 1), Attention(16, 4))
    n, c = 6 * 6, 16
    assert count_network(_Of(layers), _of(3, 6)).forward == 2 * (3 * c * n + 3 * c * c * n + 2 * n * n * c + c * c * n)


def test_a_whole_network_by_hand() -> None:
    """One level of 48 channels at 8x8: five blocks, of which two see twice the channels, and four attentions."""
    c, n = 48, 64
    block = 2 * 9 * c * c * n
    wider = 9 * 2 * c * c * n + 9 * c * c * n + 2 * c * c * n  # and the shortcut of the two
    attention = 4 * c * c * n + 2 * n * n * c
    time_ = c * 4 * c + 4 * c * 4 * c + 4 * c * 5 * c
    ends = 2 * 9 * c * n
    assert count(tiny.config()).forward == 2 * (3 * block + 2 * wider + 4 * attention + time_ + ends)


def test_training_is_three_times_forward_but_for_the_first_layers() -> None:
    """Counted by the same counter through the backward pass; inputs need no gradient."""
    config = parse(merge(preset("cifar10"), {"network": {"model_channels": 32}}), "the test")
    with torch.device("meta"):
        network = build_network(config).train()
    x, t = torch.empty(1, 3, 32, 32, device="meta"), torch.zeros(1, device="meta")
    with FlopCounterMode(display=False) as counter, torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        network(x, t).sum().backward()
    found, through = count(config), counter.get_total_flops()
    assert through < found.training < 1.01 * through


@pytest.mark.parametrize(("name", "parameters"), [("cifar10", 35_746_307), ("lsun256", 113_673_219)])
def test_the_papers_networks_have_the_papers_parameters(name: str, parameters: int) -> None:
    assert count(parse(preset(name), name)).parameters == parameters


# --------------------------------------------------------------------------------------------------------- the memory


def test_the_line_goes_through_the_largest_sizes() -> None:
    """Few pictures need no more than the optimizer's step does, which says nothing of many."""
    points = [(n, max(900 * MIB, 500 * MIB + 40 * MIB * n)) for n in (1, 2, 4, 8, 16, 32)]
    line = line_through(points)
    assert line is not None and (line.a, line.b) == (500 * MIB, 40 * MIB)
    assert line(128) == 500 * MIB + 128 * 40 * MIB
    assert line_through(list(reversed(points))) == line
    assert line_through(points[:1]) is None
    flat = line_through([(1, 600), (2, 590)])
    assert flat is not None and flat(1000) == 590


def _bent(n: int) -> int:
    """Of pictures that are computed again in parts, alike and of 16 at most: the largest part, and what each keeps."""
    largest = -(-n // -(-n // 16))
    return 100 + 10 * largest + 2 * n


def test_the_line_goes_through_whole_parts_where_there_are_two() -> None:
    points = [(n, _bent(n)) for n in (1, 2, 4, 8, 16, 32, 40)]
    line = line_through(points, 16)
    assert line is not None and all(line(16 * k) == _bent(16 * k) for k in range(1, 20))
    assert all(line(n) >= _bent(n) for n in range(16, 300))
    steep = line_through(points[:5], 16)  # One alone: a line from before the bend is too high.
    assert steep is not None and all(steep(n) >= _bent(n) for n in range(8, 300))


@pytest.mark.parametrize(
    ("batch_size", "parts", "tried"),
    [
        (128, 16, [1, 2, 4, 8, 16, 32, 64, 128]),
        (16, 16, [1, 2, 4, 8, 16, 32]),
        (24, 16, [1, 2, 4, 8, 16, 24, 32]),
        (64, 28, [1, 2, 4, 8, 16, 28, 56, 64]),
    ],
)
def test_whole_parts_are_tried_twice_at_least(batch_size: int, parts: int, tried: list[int]) -> None:
    assert sizes(batch_size, parts) == tried


def test_parts_are_as_many_pictures_as_are_computed_again_at_once() -> None:
    again = {"data": {"height": 32, "width": 32}}
    assert whole_parts(tiny.config(again, recompute=True, batch_size=64), tiny.CPU) == 16
    assert whole_parts(tiny.config(again, recompute=True, batch_size=8), tiny.CPU) == 1  # One part is all.
    assert whole_parts(tiny.config(again, recompute=True, batch_size=64), torch.device("cuda")) == 1
    assert whole_parts(tiny.config(again, batch_size=64), tiny.CPU) == 1


def test_what_was_measured_goes_before_the_line() -> None:
    line = Line(0, 10)
    assert micro_batch(16, line, room=100, gradients=0) == 8
    assert micro_batch(16, line, room=100, gradients=0, known={8: 95, 4: 80}) == 4
    assert micro_batch(16, line, room=100, gradients=0, known={16: 88}) == 16
    assert micro_batch(16, line, room=10_000, gradients=0, failed=8) == 4
    assert micro_batch(16, None, room=100, gradients=0, known={2: 50}) == 2  # Without a line no more than was tried.
    assert micro_batch(16, line, room=10_000, gradients=0, failed=1) is None


def test_the_largest_divisor_that_fits_is_chosen() -> None:
    line = Line(100, 10)
    assert micro_batch(96, line, room=10_000, gradients=50) == 96
    # 0.9 · 1000 = 900: 80 pictures fit and do not divide; 48 need 580 and the gradient.
    assert micro_batch(96, line, room=1000, gradients=50) == 48
    assert micro_batch(96, line, room=1000, gradients=321) == 32
    assert micro_batch(96, line, room=1000, gradients=320) == 48
    assert micro_batch(7, line, room=180, gradients=50) == 1
    assert micro_batch(96, line, room=170, gradients=50) is None


@pytest.mark.parametrize(("batch_size", "tried"), [(1, [1, 2]), (2, [1, 2]), (12, [1, 2, 4, 8, 12]), (8, [1, 2, 4, 8])])
def test_sizes_double_up_to_the_batch(batch_size: int, tried: list[int]) -> None:
    assert sizes(batch_size) == tried


class _Fake:
    """Answers as a machine would whose steps take ``a + b · n`` bytes and ``second · n`` seconds."""

    def __init__(self, *, room: int, b: int = 10, second: float = 0.0) -> None:
        self.base, self.limit, self.b, self.second = 100, room, b, second
        self.room: int | None = room  # As it is told.
        self.asked: list[int] = []

    def __call__(self, batch: int, *, total: int) -> Taken:
        self.asked.append(batch)
        needed = self.base + 50 + self.b * batch
        if needed > self.limit:
            raise TooLarge("no")
        return Taken(batch, 1, needed, (self.second * batch,), 7)


def _tried(fake: _Fake) -> list[int]:
    return [taken.batch for taken in scouted(cast(Probe, fake), 64, 0)]


def test_sizes_are_tried_until_the_next_might_not_fit() -> None:
    """What might be needed at most is within the limit for every size that is tried, so none fails."""
    for room in range(180, 2000, 37):
        fake = _Fake(room=room)
        assert _tried(fake) == fake.asked
    assert _tried(_Fake(room=10**6)) == [1, 2, 4, 8, 16, 32, 64]
    assert _tried(_Fake(room=700)) == [1, 2, 4, 8, 16, 32]  # 64 need 790.


def test_sizes_are_tried_until_they_take_long() -> None:
    heavy = 1000  # bytes a picture, beside which what is there anyway is little
    assert _tried(_Fake(room=10**9, b=heavy, second=1.0)) == [1, 2, 4]
    assert _tried(_Fake(room=10**9, b=heavy, second=100.0)) == [1, 2]  # A line needs two points.
    # Two pictures of 6 bytes add 4 % to what is there, four 7 %, eight 14 %: no line may be drawn before.
    assert _tried(_Fake(room=10**9, b=6, second=100.0)) == [1, 2, 4, 8]


def test_whole_parts_are_tried_though_they_take_long() -> None:
    slow = _Fake(room=10**9, b=1000, second=100.0)
    assert [taken.batch for taken in scouted(cast(Probe, slow), 128, 0, 16)] == [1, 2, 4, 8, 16, 32]


def test_the_size_that_failed_is_told() -> None:
    """Where nothing says how much there is, only trying tells."""
    blind = _Fake(room=700)
    blind.room = None
    failed: list[int | None] = []

    def trying() -> Iterator[Taken]:
        failed.append((yield from scouted(cast(Probe, blind), 64, 0)))

    assert [taken.batch for taken in trying()] == [1, 2, 4, 8, 16, 32] and failed == [64]


def test_not_one_picture_fits() -> None:
    with pytest.raises(TooLarge):
        _tried(_Fake(room=120))


def _process(code: str) -> Probe:
    """A probe whose process runs ``code`` in place of the worker."""
    with tempfile.TemporaryFile("w+") as said:
        words = [sys.executable, "-c", code]
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, text=True) as process:
            try:
                made = Probe(process, said, tiny.config(), tiny.CPU)
                made(4)
                return made
            finally:
                process.kill()


def test_a_process_that_the_system_ended_was_too_large() -> None:
    with pytest.raises(TooLarge, match="ended by the system"):
        _process("import os; os.kill(os.getpid(), 9)")


def test_a_process_that_ends_otherwise_says_why() -> None:
    with pytest.raises(RuntimeError, match="ended with code 1: OSError: odd"):
        _process("raise OSError('odd')")


def test_what_a_process_answers_is_taken_for_what_it_is() -> None:
    first = """import sys; sys.stdin.readline(); print('{"base": 1, "room": 2}', flush=True); sys.stdin.readline()"""
    ready = f"{first}; print('%s')"
    with pytest.raises(TooLarge, match="a step of 4 pictures in 1 parts"):
        _process(ready % '{"short": true}')
    with pytest.raises(FromnoiseError, match=r"^odd$") as error:
        _process(ready % '{"error": "odd", "wrong": false}')
    assert not isinstance(error.value, WrongUse)
    with pytest.raises(WrongUse, match=r"^odd$"):
        _process(ready % '{"error": "odd", "wrong": true}')


def test_shortages_are_known() -> None:
    assert is_shortage(MemoryError()) and is_shortage(RuntimeError("CUDA out of memory. Tried"))
    assert not is_shortage(RuntimeError("shapes differ"))


# --------------------------------------------------------------------------------------------------- what may be taken


def _system(root: Path, groups: str, files: dict[str, object]) -> Path:
    for name, text in {
        "proc/meminfo": "MemTotal: 9000 kB\nMemAvailable: 4000 kB\n",
        "proc/self/cgroup": groups,
        **files,
    }.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n")
    return root


def test_without_groups_what_the_kernel_calls_available_may_be_taken(tmp_path: Path) -> None:
    assert available_memory(_system(tmp_path, "", {})) == 4000 * 1024
    assert available_memory(tmp_path / "nowhere") is None


def test_the_tightest_group_above_the_process_counts(tmp_path: Path) -> None:
    """Version 2: a limit of the parent counts, and pages of files that can go count as free."""
    files = {
        "sys/fs/cgroup/job/memory.max": 3_000_000,
        "sys/fs/cgroup/job/memory.current": 2_500_000,
        "sys/fs/cgroup/job/memory.stat": "anon 1\ninactive_file 400000",
        "sys/fs/cgroup/job/step/memory.max": "max",
        "sys/fs/cgroup/job/step/memory.current": 9,
    }
    assert available_memory(_system(tmp_path, "0::/job/step", files)) == 900_000


def test_a_group_of_version_1_that_is_named_by_its_path_on_the_host(tmp_path: Path) -> None:
    files = {
        "sys/fs/cgroup/memory/memory.limit_in_bytes": 2_000_000,
        "sys/fs/cgroup/memory/memory.usage_in_bytes": 2_100_000,
        "sys/fs/cgroup/memory/memory.stat": "total_inactive_file 50000",
    }
    groups = "9:cpu:/x\n4:memory:/docker/0123\n"
    assert available_memory(_system(tmp_path, groups, files)) == 0  # Above its limit: nothing, not less.
    (tmp_path / "sys/fs/cgroup/memory/memory.limit_in_bytes").write_text("9223372036854771712")
    assert available_memory(tmp_path) == 4000 * 1024


def test_the_limit_of_the_processs_own_addresses_counts(tmp_path: Path) -> None:
    limits = "Limit  Soft Limit  Hard Limit  Units\nMax data size  7  7  bytes\nMax address space  %s  unlimited  bytes"
    files: dict[str, object] = {
        "proc/self/status": "VmPeak: 900 kB\nVmSize: 600 kB",
        "proc/self/limits": limits % 1_000_000,
    }
    assert available_memory(_system(tmp_path, "", files)) == 1_000_000 - 600 * 1024
    assert available_memory(_system(tmp_path, "", {"proc/self/limits": limits % 1000})) == 0
    assert available_memory(_system(tmp_path, "", {"proc/self/limits": limits % "unlimited"})) == 4000 * 1024


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux tells")
def test_ulimit_is_heeded() -> None:
    code = (
        "import resource as r; from fromnoise.memory import available_memory as a; "
        "r.setrlimit(r.RLIMIT_AS, (2**30, r.RLIM_INFINITY)); print(a())"
    )
    env = {**os.environ, "PYTHONPATH": str(tiny.SOURCE)}
    assert 0 < int(subprocess.check_output([sys.executable, "-c", code], env=env, text=True)) < 2**30


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux tells")
def test_the_peak_is_that_of_the_process() -> None:
    before = peak_resident()
    assert before is not None
    held = torch.ones(64 * MIB, dtype=torch.uint8)
    again = peak_resident()
    assert again is not None and again >= before  # The peak may have been higher before.
    code = "from fromnoise.memory import peak_resident as p; a = p(); b = bytearray(64 << 20); print(p() - a)"
    env = {**os.environ, "PYTHONPATH": str(tiny.SOURCE)}
    grown = int(subprocess.check_output([sys.executable, "-c", code], env=env, text=True))
    assert 60 * MIB < grown < 70 * MIB and held.sum() == 64 * MIB


# ----------------------------------------------------------------------------------------------------------- the disk


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


@pytest.mark.parametrize(
    "train",
    [
        {"steps": 12, "keep": 2, "checkpoint_every": 24, "sample_every": 48, "sample_steps": 4},
        {"steps": 5, "keep": 9, "checkpoint_every": 0},
        {"steps": 7, "keep": 3, "checkpoint_every": 1},
        {"steps": 20, "keep": 1, "checkpoint_every": 10, "keep_every": 50},
        {"steps": 20, "keep": 2, "checkpoint_every": 10, "keep_every": 20},
        {"steps": 6, "keep": 1, "checkpoint_every": 24, "averages": [0.05, 0.1], "average_every": 16},
    ],
)
def test_the_disk_is_what_a_run_takes(tmp_path: Path, train: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    config, together, prune = tiny.config(**train, report_every=4), [], RunFolder.prune

    def counting(folder: RunFolder, *args: Any, **more: Any) -> None:
        together.append(len(list(folder.checkpoints.iterdir())))  # The new one, and those beside it.
        prune(folder, *args, **more)

    monkeypatch.setattr(RunFolder, "prune", counting)
    tiny.run(config, tmp_path / "run")
    (learner, _), *_ = steps(config, tiny.digits(), tiny.CPU, count=1, total=1)
    found = checkpoint_bytes(learner, config)
    newest = max((tmp_path / "run" / "checkpoints").iterdir())
    for name, expected in found.items():
        assert (newest / f"{name}.safetensors").stat().st_size == pytest.approx(expected, rel=0.005)
    parameters = count(config).parameters
    taken = disk(config, checkpoint=sum(found.values()), parameters=parameters, steps=config.train.steps, pictures=40)
    assert taken.checkpoints == len(list((tmp_path / "run" / "checkpoints").iterdir()))
    assert taken.run == pytest.approx(_size(tmp_path / "run"), rel=0.05)
    assert taken.checkpoints + taken.beside == max(together)
    assert taken.most == taken.run + taken.beside * taken.checkpoint and taken.cache == 0


def test_the_cache_is_counted_where_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny.config(steps=1)
    many = 2**15
    assert disk(config, checkpoint=1, parameters=1, steps=1, pictures=many).cache == 64 * many
    monkeypatch.setenv("FROMNOISE_CACHE_LIMIT", "0")
    assert disk(config, checkpoint=1, parameters=1, steps=1, pictures=many).cache == 0


# ---------------------------------------------------------------------------------------------------------- the plan


def _folder(folder: Path, count: int, side: int = 8) -> Path:
    chance = np.random.default_rng(0)
    for k in range(count):
        place = folder / ("cat" if k % 3 else "dog")
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(chance.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(place / f"{k:03d}.png")
    return folder


@pytest.mark.parametrize("held_out", [0.0, 0.25])
@pytest.mark.parametrize("classes", [False, True])
def test_the_plan_is_what_training_would_settle(tmp_path: Path, held_out: float, classes: bool) -> None:
    tree = {"data": {"path": str(_folder(tmp_path / "data", 20)), "held_out": held_out, "classes": classes}}
    planned, prepared = plan(tree, preset_name=None), prepare(tree, preset_name=None)
    assert planned.config == prepared.config
    assert len(planned.training) == len(prepared.training)
    some = few(planned, 1000)
    assert (some.images == prepared.training.images).all()
    assert len(few(planned, 4)) == 4


def test_stand_ins_are_told_as_the_pictures_are() -> None:
    made = stand_ins(tiny.config(), 5000)
    assert made.labels is not None and set(made.labels.tolist()) <= set(range(10)) and made.shape == (1, 8, 8)
    assert stand_ins(tiny.config({"data": {"class_names": []}}), 3).labels is None


def test_one_class_is_refused_as_training_does(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "data" / "all", 1).parent
    with pytest.raises(WrongUse, match="has only one class"):
        plan({"data": {"path": str(folder), "classes": True}}, preset_name=None)


# ----------------------------------------------------------------------------------------------------------- dry run


def test_a_dry_run_shows_the_settings_and_the_first_step(say: Callable[..., Said], here: Path, tmp_path: Path) -> None:
    """Its loss is that of the real run's first step; what it prints can be trained with."""
    data = _folder(tmp_path / "data", 8)
    file = tiny.preset(tmp_path, {"data": {"channels": 3, "class_names": []}, "train": {"report_every": 1, "steps": 2}})
    words = ["train", data, "--preset", file, "--classes", "--out", "run"]
    code, out, err = say(*words, "--dry-run", "--json")
    assert (code, err) == (0, "")
    said = json.loads(out)
    code, text, _ = say(*words, "--dry-run")
    assert code == 0 and list(here.iterdir()) == []
    assert tomllib.loads(text) == said["config"]
    assert f"loss {said['loss']:.4f}" in text and said["steps"] == 2 and said["pictures"] == 8
    assert say(*words)[0] == 0
    first = json.loads((here / "run" / "metrics.jsonl").read_text().splitlines()[0])
    assert first["step"] == 1
    assert said["loss"] == pytest.approx(first["loss"], rel=1e-6)
    assert said["grad_norm"] == pytest.approx(first["grad_norm"], rel=1e-5)
    assert tomllib.loads((here / "run" / "config.toml").read_text()) == said["config"]
    printed = tmp_path / "printed.toml"
    printed.write_text(text)
    again = json.loads(say("train", data, "--preset", printed, "--out", "other", "--dry-run", "--json")[1])
    assert again["config"] == said["config"] and again["loss"] == said["loss"]


def test_a_dry_run_writes_no_cache(say: Callable[..., Said], here: Path, tmp_path: Path) -> None:
    """These pictures are large enough for training to keep them."""
    data = _folder(tmp_path / "data", 90, side=64)
    changes = {"data": {"height": 64, "width": 64, "channels": 3, "class_names": []}}
    network = {"network": {"model_channels": 8, "channel_mult": [1, 1, 1, 1], "attention_resolutions": []}}
    file = tiny.preset(tmp_path, changes, network, {"train": {"steps": 1}})
    code, out, _ = say("train", data, "--preset", file, "--dry-run", "--json")
    assert code == 0 and json.loads(out)["pictures"] == 90
    assert list(here.iterdir()) == []
    assert say("train", data, "--preset", file, "--out", "run")[0] == 0
    assert (here / "pictures").is_dir()  # So the cache was where it would have been seen.


def test_a_dry_run_refuses_what_training_refuses(say: Callable[..., Said], here: Path, tmp_path: Path) -> None:
    file = tiny.preset(tmp_path)
    words = ["train", "digits", "--preset", file, "--dry-run"]
    assert say(*words)[::2] == (
        2,
        "fromnoise: how long to train is not given: set one of train.steps, train.epochs and train.images\n",
    )
    (here / "full").mkdir()
    (here / "full" / "letter.txt").write_text("dear")
    code, out, err = say(*words, "--steps", 1, "--out", "full")
    assert (code, out) == (2, "") and "full is not empty and holds no run" in err
    code, out, err = say(*words, "--steps", 1, "--set", "data.class_names=[]", "--set", "train.lr=-1")
    assert (code, out) == (2, "") and len(err.splitlines()) == 1 and "lr" in err


@pytest.mark.parametrize("in_earnest", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_dry_run_counts_the_processes(in_earnest: bool, say: Callable[..., Said], here: Path, tmp_path: Path) -> None:
    """It refuses in the words of the run that would refuse, and starts none of them."""
    words = ["train", "digits", "--preset", tiny.preset(tmp_path), "--steps", 1]
    uneven = [*words, "--processes", 3]
    code, out, err = say(*uneven, "--dry-run")
    assert (code, out) == (2, "") and "batch_size = 8 cannot be shared evenly by 3 processes in 1 parts each" in err
    if in_earnest:
        real = tiny.command(*uneven, "--out", "run", "--device", "cpu")
        assert real.communicate(timeout=60)[1].splitlines()[-1] == err.strip() and real.returncode == 2
    for more, complaint in (
        (["--processes", 2, "--micro-batch", "auto"], "--micro-batch auto measures one process; with several, give a"),
        (["--processes", 2, "--micro-batch", "1"], "cannot be shared evenly by 2 processes in 8 parts each: take a"),
        (["--processes", 0], "--processes 0: must be at least 1"),
    ):
        code, out, err = say(*words, "--dry-run", *more)
        assert (code, out, len(err.splitlines())) == (2, "", 1) and complaint in err
    assert say(*words, "--dry-run", "--processes", 2)[0] == 0


@pytest.mark.parametrize(
    "words",
    [["--processes", 4], ["--processes", 4, "--device", "cuda:1"], ["--processes", 2, "--device", "mps"]],
)
def test_a_dry_run_refuses_the_processes_that_cannot_be_had(
    words: list[Any], say: Callable[..., Said], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a machine with two GPUs."""
    monkeypatch.setattr("fromnoise.verb.processes.pick_device", lambda said: torch.device(said or "cuda"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    words = ["train", "digits", "--preset", tiny.preset(tmp_path), "--steps", 1, *words]
    code, out, err = say(*words, "--dry-run")
    assert (code, out, len(err.splitlines())) == (2, "", 1) and "processes" in err
    assert say(*words) == (code, out, err)


def test_a_dry_run_within_torchrun_refuses_more_processes(
    say: Callable[..., Said], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    words = ["train", "digits", "--preset", tiny.preset(tmp_path), "--steps", 1, "--processes", 2]
    said = "fromnoise: --processes 2: torchrun has started 2 already; leave it out\n"
    assert say(*words, "--dry-run") == say(*words) == (2, "", said)


def test_a_dry_run_says_what_training_would_say(say: Callable[..., Said], here: Path, tmp_path: Path) -> None:
    data = _folder(tmp_path / "data", 12)
    words = ["train", data, "--set", "network.model_channels=32", "--steps", 1, "--set", "train.batch_size=16"]
    code, out, err = say(*words, "--dry-run")
    assert code == 0 and "# one step on 16 pictures out of 12: loss" in out
    (remark,) = err.splitlines()
    assert remark.startswith("fromnoise: preset digits, fitted to 12 pictures: 1 steps of 16, each picture seen about")
    assert say(*words)[2].splitlines()[0] == remark
    assert (
        "# one step on 8 of the pictures: loss"
        in say(*words[:-1], "train.batch_size=8", "--out", "other", "--dry-run")[1]
    )


def test_a_first_step_that_is_no_number_fails(
    say: Callable[..., Said], here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def odd(*_: Any, **__: Any) -> Iterator[Any]:
        report = SimpleNamespace(loss=torch.tensor(math.nan), grad_norm=torch.tensor(1.0))
        yield SimpleNamespace(network=nn.Linear(1, 1)), report

    monkeypatch.setattr(look, "steps", odd)
    code, out, err = say("train", "digits", "--preset", tiny.preset(tmp_path), "--steps", 1, "--dry-run")
    assert (code, out) == (1, "") and err.startswith("fromnoise: the first step gives a loss of nan")


# ------------------------------------------------------------------------------------------------------- micro-batch


def test_parts_divide_the_batch() -> None:
    assert accumulate_for(96, 32) == 3
    for part, near in ((30, 32), (0, 1), (500, 96)):
        with pytest.raises(WrongUse, match=f"does not divide train.batch_size = 96 evenly; take {near}$"):
            accumulate_for(96, part)


def test_a_micro_batch_sets_the_parts(say: Callable[..., Said], here: Path, tmp_path: Path) -> None:
    file = tiny.preset(tmp_path, {"train": {"steps": 1}})
    words = ["train", "digits", "--preset", file, "--dry-run", "--json"]
    said = json.loads(say(*words, "--micro-batch", 2)[1])
    whole = json.loads(say(*words)[1])
    assert said["config"]["train"].pop("accumulate") == 4 and whole["config"]["train"].pop("accumulate") == 1
    assert said["config"] == whole["config"]
    assert said["loss"] == pytest.approx(whole["loss"], rel=1e-5)
    for wrong, complaint in (
        (["--micro-batch", "much"], "--micro-batch much: should be a number of pictures, or auto"),
        (["--micro-batch", "3"], "--micro-batch 3 does not divide train.batch_size = 8 evenly; take 2"),
        (
            ["--micro-batch", "auto", "--set", "train.accumulate=2"],
            "--micro-batch auto and train.accumulate = 2: give one of them",
        ),
    ):
        assert say(*words, *wrong) == (2, "", f"fromnoise: {complaint}\n")


def test_auto_keeps_the_parts_of_a_run_that_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory may be other than then, and other parts would change the last bits."""
    monkeypatch.setattr(task, "automatic_micro_batch", lambda *_: 8)
    config = tiny.config(steps=2)
    tiny.run(replace(config, train=replace(config.train, accumulate=4)), tmp_path / "run")
    for lost in (False, True):
        if lost:
            (tmp_path / "run" / "config.toml").unlink()  # Its checkpoint carries the same.
        assert verb.with_micro_batch("auto", config, tmp_path / "run", tiny.CPU).train.accumulate == 4
    assert verb.with_micro_batch("auto", config, tmp_path / "new", tiny.CPU).train.accumulate == 1
    assert verb.with_micro_batch(None, config, tmp_path / "run", tiny.CPU) is config


def test_auto_takes_what_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step of n pictures takes 100 + 10 n MiB; the gradients of this network are 3 MiB more where there are parts."""
    base = replace(tiny.config().train, batch_size=16)
    config, asked = replace(tiny.config(), train=base), []

    def taken(n: int, peak: int | None) -> Taken:
        asked.append(n)
        return Taken(n, 1, peak, (0.1,), 7)

    def small(room: int | None, reached: int, failed: int | None = None) -> None:
        context = contextlib.nullcontext(SimpleNamespace(base=0, room=room))

        def scouts(*_: Any) -> Iterator[Taken]:
            for n in (1, 2, 4, 8, 16):
                if n <= reached:
                    yield taken(n, room and (105 + 10 * n) * MIB)
            return failed

        monkeypatch.setattr(task, "probe", lambda *_: context)
        monkeypatch.setattr(known_task, "scouted", scouts)
        monkeypatch.setattr(known_task, "alone", lambda _, __, n, ___: taken(n, (100 + 10 * n) * MIB))

    small(10**9, 16)
    assert task.automatic_micro_batch(config, tiny.CPU) == 16 and asked == [1, 2, 4, 8, 16]  # Known at once.
    small(10**9, 4)
    assert task.automatic_micro_batch(config, tiny.CPU) == 16 and asked[5:] == [1, 2, 4, 2, 4]
    small(220 * MIB, 4)
    assert task.automatic_micro_batch(config, tiny.CPU) == 8
    small(10**9, 4, failed=8)
    assert task.automatic_micro_batch(config, tiny.CPU) == 4  # Whatever the line says of 8.
    small(115 * MIB, 2)
    with pytest.raises(FromnoiseError, match="a step of one picture takes about 110 MiB of 115 MiB"):
        task.automatic_micro_batch(config, tiny.CPU)
    small(None, 4)
    with pytest.raises(FromnoiseError, match="cannot be told on cpu: give --micro-batch a number"):
        task.automatic_micro_batch(config, tiny.CPU)


# -------------------------------------------------------------------------------------------------------- the verb


def _found(config: Config, *, room: int | None = 10**9, timed: int | None = None, **more: Any) -> Estimated:
    """As if measured: a step of n pictures takes n / 100 seconds."""
    line, batch = Line(300 * MIB, 10 * MIB), timed or config.train.batch_size
    known: dict[str, Any] = {
        "config": config,
        "pictures": 1797,
        "device": "cpu (2 threads)",
        "counted": count(config),
        "memory": (Row(1, line(1), True), Row(16, line(16), False)),
        "line": line,
        "room": room,
        "micro_batch": None if room is None else micro_batch(config.train.batch_size, line, room=room, gradients=0),
        "timed": Taken(batch, 1, line(8), tuple(batch / 100 * f for f in (0.9, 1.0, 3.0)), 7 * MIB),
        "steps": config.train.steps,
        "disk": disk(config, checkpoint=7 * MIB, parameters=1, steps=config.train.steps, pictures=1797),
        "disk_free": 10**12,
    }
    return Estimated(**{**known, **more})


def test_times_follow_from_the_median_step() -> None:
    found = _found(tiny.config(steps=50), timed=4)  # Half of a batch was timed.
    assert found.pictures_per_second == pytest.approx(100) and found.steps_per_second == pytest.approx(12.5)
    said = as_dict(found)
    assert said["seconds"]["100000"] == pytest.approx(1000) and said["seconds"]["run"] == pytest.approx(4)
    assert said["run"] == {"steps": 50, "images": 400}
    endless = as_dict(replace(found, steps=None))
    assert endless["run"] == {"steps": None, "images": None} and endless["seconds"]["run"] is None
    json.dumps(said, allow_nan=False)


def _printed(found: Estimated, say: Callable[..., Said], monkeypatch: pytest.MonkeyPatch, *words: str) -> str:
    def events(*_: Any) -> Iterator[Any]:
        yield task.Estimating(0, 2, "counting")
        yield task.Estimating(1, 2, "a step of 1 picture")
        yield found

    monkeypatch.setattr(task, "estimate", events)
    code, out, _ = say("estimate", "digits", *words)
    assert code == 0
    return out


def test_people_are_told_what_was_measured(say: Callable[..., Said], monkeypatch: pytest.MonkeyPatch) -> None:
    out = _printed(_found(tiny.config(steps=50)), say, monkeypatch, "--classes")
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert lines[0] == "1,797 pictures as 8x8x1, 10 classes; batches of 8; on cpu (2 threads)"
    assert f"parameters {count(tiny.config()).parameters:,} counted" in lines
    assert "steps a second 12.5 measured: median of 3 steps of 8 pictures" in lines
    assert "time to 100,000 pictures 16.7 minutes predicted from the same" in lines
    assert "time to the run's end 4.0 seconds predicted: 50 steps, 400 pictures" in lines
    assert "1 310.0 MiB measured" in lines and "16 460.0 MiB predicted" in lines
    assert "a whole batch of 8 fits into the 953.7 MiB that such a process may hold now, less 10%" in lines
    assert lines[-1] == "next: fromnoise train digits --classes"


def test_people_are_told_sizes_that_they_can_tell_apart(
    say: Callable[..., Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny.config(steps=50)
    peaks = (2**30 - 1, 2**30, 1.204 * 2**30, 12.04 * 2**30, 120.4 * 2**30)
    rows = tuple(Row(2**k, int(peak), True) for k, peak in enumerate(peaks))
    lines = [" ".join(line.split()) for line in _printed(_found(config, memory=rows), say, monkeypatch).splitlines()]
    for row in ("1 1024.0 MiB", "2 1.00 GiB", "4 1.20 GiB", "8 12.0 GiB", "16 120 GiB"):
        assert f"{row} measured" in lines
    assert "disk: the run 7.0 MiB counted: 1 checkpoint, averages, grids, metrics" in lines
    assert "disk: needed at most 7.0 MiB 931 GiB are free" in lines
    longer = tiny.config(steps=50, keep=2, checkpoint_every=80)
    lines = [" ".join(line.split()) for line in _printed(_found(longer), say, monkeypatch).splitlines()]
    assert "disk: the run 14.0 MiB counted: 2 checkpoints, averages, grids, metrics" in lines
    assert "disk: needed at most 21.0 MiB with one more while it is written; 931 GiB are free" in lines


def test_an_estimate_knows_the_words_of_train(
    say: Callable[..., Said], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def events(planned: Any, _: Any) -> Iterator[Any]:
        asked.append(planned)
        yield task.Estimating(0, 2, "counting")
        yield _found(planned.config)

    monkeypatch.setattr(task, "estimate", events)
    file = tiny.preset(tmp_path)
    data = ["digits", "--preset", file, "--fit", "pad", "--classes", "--flip", "--strict", "--resolution", "8"]
    for length, steps_ in (("--epochs", 2), ("--steps", 7), ("--images", 72)):
        code, out, _ = say("estimate", *data, length, steps_)
        said = out.splitlines()[-1].removeprefix("next: fromnoise ").split()
        assert code == 0
        trained = json.loads(say(*said, "--dry-run", "--json")[1])
        planned = asked[-1]
        assert planned.config.train.total_steps(len(planned.training)) == trained["steps"]
        assert planned.config == parse(trained["config"], "the dry run")
        assert planned.config.train.flip and planned.config.data.strict and planned.config.data.fit == "pad"
    code, out, err = say("estimate", "digits", "--steps", 1, "--epochs", 1)
    assert (code, out) == (2, "") and "not allowed with" in err


def test_an_estimate_refuses_what_training_refuses(say: Callable[..., Said], monkeypatch: pytest.MonkeyPatch) -> None:
    watch = importlib.import_module("fromnoise.task.watch.open")
    monkeypatch.setattr(watch, "_AVAILABLE", {name: lambda: False for name in watch._AVAILABLE})
    words = ["digits", "--set", "train.watch=tensorboard"]
    refused = say("estimate", *words)
    assert refused[:2] == (2, "") and "tensorboard is not installed" in refused[2]
    assert say("train", *words)[2].splitlines()[-1] == refused[2].strip()  # After what it says of the settings.


def test_an_estimate_says_what_training_would_say(
    say: Callable[..., Said], here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On stderr: of settings that were fitted, of a preset that reduces, and of the pictures."""
    data, file = _folder(tmp_path / "data", 12, side=20), tiny.preset(tmp_path, {"data": {"class_names": []}})
    (data / "more.zip").write_bytes(b"")
    less = ["--set", "network.model_channels=32", "--set", "train.batch_size=4"]
    for words, remark in ((less, "fitted to 12 pictures"), (["--preset", file], "are reduced to 8x8")):
        found = _found(tiny.config(steps=1))
        monkeypatch.setattr(task, "estimate", lambda *_, found=found: iter([task.Estimating(0, 1, ""), found]))
        code, out, err = say("estimate", data, *words, "--steps", 1, "--json")
        assert code == 0 and isinstance(json.loads(out), dict)
        assert remark in err and "more.zip" in err and len(err.splitlines()) == 2
        assert say("train", data, *words, "--steps", 1, "--dry-run", "--json")[2] == err


def test_people_are_told_how_to_make_it_fit(say: Callable[..., Said], monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny.config(steps=50)
    out = _printed(_found(config, room=390 * MIB), say, monkeypatch)
    assert "4 of the 8 pictures of a batch at a time fit" in out and "--set train.accumulate=2" in out
    assert out.splitlines()[-1] == "next: fromnoise train digits --micro-batch auto"
    assert "not one picture fits" in _printed(_found(config, room=300 * MIB), say, monkeypatch)
    out = _printed(_found(config, memory=(), line=None, room=None, device="mps"), say, monkeypatch)
    assert "memory of a step: not to be told on mps" in out


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["nowhere"], "there is no folder nowhere, and no built-in data of that name; known: digits, emoji"),
        (["digits", "--preset", "digit"], "there is no preset 'digit'; did you mean 'digits'?"),
        (
            ["digits", "--resolution", "9"],
            "[data] height = 9: the network's 2 levels need a multiple of 2; take 8 or 10",
        ),
        (
            ["digits", "--resolution", "big"],
            "--resolution big: should be a number of pixels such as 64, or HxW such as",
        ),
        (["digits", "--channels", "2"], "[data] channels = 2: known are 1 (grey), 3 (RGB) and 4 (RGBA)"),
        (["digits", "--device", "abacus"], "device 'abacus' is not to be had here"),
        (
            ["digits", "--set", "train.precision=tf32", "--device", "cpu"],
            "[train] precision = 'tf32' needs an NVIDIA GPU",
        ),
        (["digits", "--set", "network.dropuot=1"], "[network] dropuot: no such key; did you mean 'dropout'?"),
    ],
)
def test_wrong_use_is_one_line(say: Callable[..., Said], words: list[str], complaint: str) -> None:
    code, out, err = say("estimate", *words)
    (line,) = err.splitlines()
    assert (code, out) == (2, "") and line.startswith("fromnoise: ") and complaint in line


def test_an_estimate_of_this_machine(
    say: Callable[..., Said], here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole way, once: several processes, real steps."""
    monkeypatch.setattr(task, "_SHOWN", 0.0)
    file = tiny.preset(tmp_path, {"train": {"steps": 100}})
    code, out, _ = say("estimate", "digits", "--preset", file, "--json", "--device", "cpu")
    assert code == 0 and list(here.iterdir()) == []
    said = json.loads(out)
    assert set(said) == {
        *("data", "pictures", "device", "parameters", "flops", "memory", "memory_room", "batch_size", "micro_batch"),
        *("accumulate", "steps_per_second", "pictures_per_second", "timed", "seconds", "run", "disk"),
    }
    parameters = sum(p.numel() for p in build_network(tiny.config()).parameters())
    assert said["parameters"] == parameters and said["pictures"] == 1797
    rows = {row["batch"]: row for row in said["memory"]}
    peaks = [row["bytes"] for row in said["memory"]]
    assert peaks == sorted(peaks)  # What is known to be too much for its size is left out.
    assert {8, 16} <= set(rows) <= {1, 2, 4, 8, 16} and [n for n in rows if rows[n]["how"] == "predicted"] == [16]
    # Weights, gradients, average and two moments are in it, and not a thousand times as much.
    assert 5 * 4 * parameters < rows[8]["bytes"] < 2**30
    assert said["micro_batch"] == 8 and said["accumulate"] == 1 and said["timed"]["steps"] >= 3
    assert said["pictures_per_second"] == pytest.approx(8 / said["timed"]["seconds"])
    assert said["disk"]["checkpoint"] == pytest.approx(4 * 4 * parameters, rel=0.05)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks for the process in /proc")
def test_an_interruption_leaves_no_process_behind(here: Path, tmp_path: Path) -> None:
    file = tiny.preset(tmp_path, {"train": {"steps": 100}})
    process = tiny.command("estimate", "digits", "--preset", file, "--device", "cpu")
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    worker, until = "", time.monotonic() + 60
    while not worker and time.monotonic() < until:
        worker = next(
            (
                pid
                for pid in children.read_text().split()
                if "estimate_worker" in Path(f"/proc/{pid}/cmdline").read_text()
            ),
            "",
        )
        time.sleep(0.01)
    assert worker
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "") and err.splitlines()[-1] == "fromnoise: interrupted"
    assert "Traceback" not in err and not Path(f"/proc/{worker}").exists()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("name", "changes", "known", "asked"),
    [
        ("digits", {"data": {"channels": 1}}, (16, 32), 128),
        ("cifar10", {"network": {"model_channels": 64}}, (2, 4), 16),
        ("cifar10", {"network": {"model_channels": 64}}, (8, 16), 64),
        ("cifar10", {"network": {"model_channels": 32}, "train": {"recompute": True}}, (32, 64), 96),
    ],
)
def test_the_prediction_is_within_15_percent(
    name: str, changes: dict[str, Any], known: tuple[int, int], asked: int
) -> None:
    """Of the whole process; the share above its libraries is printed too. Measurements alone vary by some percent."""
    config = parse(merge(preset(name), changes), name)
    with probe(config, tiny.CPU) as fresh:
        base = fresh.base or 0
    points = [(n, alone(config, tiny.CPU, n, 0).peak or 0) for n in known]
    line = line_through(points, whole_parts(config, tiny.CPU))
    assert line is not None
    peak = alone(config, tiny.CPU, asked, 0).peak or 0
    whole, above = line(asked) / peak - 1, (line(asked) - base) / (peak - base) - 1
    print(f"{name} {known} -> {asked}: {line(asked) / MIB:.0f} of {peak / MIB:.0f}, {whole:+.1%} ({above:+.1%})")
    assert abs(whole) < 0.15
