"""A run so small that training it whole takes less than a second, and ways to start, stop and compare such runs."""

import json
import os
import subprocess
import sys
import threading
from functools import cache
from pathlib import Path
from typing import Any

import safetensors.torch
import tomli_w
import torch
from torch import Tensor

from fromnoise.checkpoint import RunFolder
from fromnoise.config import Config, parse
from fromnoise.data import Dataset, Fit, load, open_source
from fromnoise.schema import merge
from fromnoise.task.train import Trained, TrainEvent, train_run

CPU = torch.device("cpu")
SOURCE = Path(__file__).resolve().parent.parent / "src"

TREE: dict[str, Any] = {
    "data": {"path": "digits", "height": 8, "width": 8, "channels": 1, "class_names": list("0123456789")},
    "network": {
        "kind": "unet",
        "model_channels": 48,
        "num_res_blocks": 1,
        "attention_resolutions": [8],
        "channel_mult": [1],
    },
    "schedule": {"kind": "linear", "steps": 50},
    "sampling": {"sampler": {"kind": "ancestral", "variance": "large"}, "spacing": "all"},
    "train": {"batch_size": 8, "lr": 1e-2, "warmup": 2, "ema_decay": 0.9, "sample_every": 0, "keep": 9},
}
"""Settled settings: nothing about the pictures is left open."""


def config(*changes: dict[str, Any], **train: Any) -> Config:
    """:data:`TREE` with changes; keywords are those of [train]."""
    tree = merge(TREE, {"train": train})
    for change in changes:
        tree = merge(tree, change)
    return parse(tree, "tiny")


@cache
def digits(count: int = 40) -> Dataset:
    """The first embedded digits, as the network of :data:`TREE` sees them."""
    return load(open_source("digits", classes=False), Fit(height=8, width=8, channels=1)).subset(range(count))


def other(pictures: Dataset, **changes: Any) -> Dataset:
    """The same pictures but for what is changed: images, labels, classes."""
    known = {"images": pictures.images, "labels": pictures.labels, "classes": pictures.classes}
    return Dataset(**{**known, **changes})


def run(
    settings: Config, out: Path, *, stop_at: int | None = None, pictures: Dataset | None = None
) -> list[TrainEvent]:
    """Train; ask for a stop, as Ctrl-C does, when step ``stop_at`` comes out."""
    stop, events = threading.Event(), []
    for event in train_run(settings, pictures or digits(), out, device=CPU, stop=stop):
        events.append(event)
        if isinstance(event, Trained) and event.report.step == stop_at:
            stop.set()
    return events


def trained(out: Path, *changes: dict[str, Any], steps: int = 12, **train: Any) -> Path:
    """A run folder whose network has left its start, so that its pictures depend on its weights."""
    run(config(*changes, steps=steps, **train), out)
    return out


def preset(folder: Path, *changes: dict[str, Any]) -> Path:
    """:data:`TREE` with changes, as a file for ``--preset``."""
    tree = TREE
    for change in changes:
        tree = merge(tree, change)
    file = folder / "tiny.toml"
    file.write_text(tomli_w.dumps(tree))
    return file


def command(*arguments: str | Path, **options: Any) -> subprocess.Popen[str]:
    """``python -m fromnoise …`` as a process of its own, with as many threads as this one."""
    return _process([sys.executable, "-m", "fromnoise", *map(str, arguments)], **options)


def typed(line: str, **options: Any) -> subprocess.Popen[str]:
    """A line as a person types it into a shell, with as many threads as this process."""
    return _process(line, shell=True, **options)


def another_python(folder: Path) -> str:
    """A PATH on which the first python is one without the package."""
    folder.mkdir()
    for name in ("python", "python3"):
        (folder / name).write_text(f"#!/bin/sh\necho {name}: No module named fromnoise >&2\nexit 1\n")
        (folder / name).chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


def _process(words: str | list[str], **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        words,
        env={**os.environ, "PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": str(torch.get_num_threads())},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def weights(out: Path) -> dict[str, Tensor]:
    """Every tensor of the newest checkpoint, read without the code under test."""
    newest = max((out / "checkpoints").iterdir(), key=lambda folder: folder.name)
    files = {
        name: safetensors.torch.load_file(newest / f"{name}.safetensors") for name in ("model", "ema", "optimizer")
    }
    return {f"{name}/{key}": value for name, tensors in files.items() for key, value in tensors.items()}


def lines(out: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without the one number that depends on the clock."""
    read = [json.loads(line) for line in RunFolder(out).metrics.read_text().splitlines()]
    assert all(line.pop("images_per_second") > 0 for line in read if "loss" in line)
    return read


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, to see that nothing has changed."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_same_bits(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    """Equal names, types and bits."""
    assert ours.keys() == theirs.keys() and ours
    different = [name for name, value in ours.items() if not torch.equal(value, theirs[name])]
    assert not different, f"{len(different)} of {len(ours)} tensors differ, the first: {different[0]}"


def assert_same_run(ours: Path, theirs: Path) -> None:
    """The newest weights, averages, moments and all metrics, bit for bit."""
    assert_same_bits(weights(ours), weights(theirs))
    assert lines(ours) == lines(theirs)
