"""The command line: its options, what it prints where, its exit codes, and what it says of every mistake."""

import argparse
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from tests import tiny

from fromnoise import __version__, cli, verb
from fromnoise.cli import main
from fromnoise.config import to_tree
from fromnoise.parameterization import Karras
from fromnoise.run import open_run, with_config
from fromnoise.sampler import Ancestral
from fromnoise.task.prepare import settle
from fromnoise.verb.common import PROGRAM, program, program_again
from fromnoise.worker import FOLDER

Said = tuple[int, str, str]
Say = Callable[..., Said]


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    """Run the command line in this process: (exit code, stdout, stderr)."""

    def run(*words: object) -> Said:
        capsys.readouterr()
        code = main([str(word) for word in words])
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with the classes 0 to 9."""
    return tiny.trained(tmp_path_factory.mktemp("trained") / "run", steps=40)


@pytest.fixture(scope="module")
def classless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on pictures without classes, in colour."""
    folder = tmp_path_factory.mktemp("classless")
    colours(folder / "pictures", 3)
    words = ["train", folder / "pictures", "--out", folder / "run", "--preset", preset(folder), "--steps", "2"]
    assert main([str(word) for word in words]) == 0
    return folder / "run"


def preset(folder: Path) -> Path:
    return tiny.preset(folder, {"data": {"channels": 3, "class_names": []}})


def colours(folder: Path, count: int, size: tuple[int, int] = (8, 8)) -> Path:
    folder.mkdir(parents=True)
    chance = np.random.default_rng(0)
    for k in range(count):
        Image.fromarray(chance.integers(0, 256, (*size, 3), dtype=np.uint8)).save(folder / f"{k}.png")
    return folder


def one_line(said: Said) -> str:
    """The complaint, after making sure that it is the only thing said."""
    code, out, err = said
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith("fromnoise: ") and code in {1, 2}
    assert "fault of fromnoise" not in line and "Traceback" not in line
    return line.removeprefix("fromnoise: ")


# ------------------------------------------------------------------------------------------------------------ options

COMMON = {"-h", "--help", "--json", "--debug", "--device", "--set"}
OPTIONS = {
    "demo": COMMON | {"--out"},
    "train": COMMON
    | {"--out", "--preset", "--resolution", "--classes", "--flip", "--strict", "--steps", "--epochs", "--images"}
    | {"--channels", "--fit", "--labels", "--micro-batch", "--dry-run", "--processes", "--time-limit"},
    "estimate": COMMON
    | {"--preset", "--resolution", "--channels", "--classes", "--fit", "--labels", "--flip", "--strict"}
    | {"--steps", "--epochs", "--images"},
    "inspect": COMMON - {"--device"}
    | {"--out", "--resolution", "--channels", "--fit", "--classes", "--labels"}
    | {"--write-clean", "--no-copies", "--no-near-copies"},
    "sample": COMMON
    | {"--out", "-n", "--seed", "--label", "--batch-size", "--weights", "--overwrite", "--columns", "--compile"}
    | {"--value", "--processes"}
    | {"--sampler", "--steps", "--eta", "--variance", "--guidance", "--weak", "--classifier"}
    | {"--from", "--inpaint", "--upscale", "--interpolate", "--strip", "--strength", "--mask", "--repaint", "--fit"},
    "likelihood": COMMON - {"--set"}
    | {"--fit", "--out", "-n", "--seed", "--batch-size", "--weights", "--estimate", "--steps", "--variance"}
    | {"--flow", "--probes", "--exact-divergence", "--tolerance", "--processes"},
    "compare": COMMON - {"--set"}
    | {"--fit", "--out", "-n", "--seed", "--batch-size", "--samplers", "--steps", "--processes"},
    "average": COMMON - {"--set", "--device"} | {"--width", "--images", "--out", "--overwrite"},
    "plot": COMMON - {"--set", "--device"} | {"--out"},
}


def test_the_options_are_these_and_no_others() -> None:
    """New ones are added here on purpose, or not at all: the rest goes by --set."""
    verbs = cli._parser().verbs  # pyright: ignore[reportAttributeAccessIssue]
    found = {name: {word for a in parser._actions for word in a.option_strings} for name, parser in verbs.items()}
    assert found == OPTIONS


def test_every_option_says_what_it_does() -> None:
    verbs: dict[str, argparse.ArgumentParser] = cli._parser().verbs  # pyright: ignore[reportAttributeAccessIssue]
    for name, parser in verbs.items():
        assert all(action.help for action in parser._actions), name
        assert callable(getattr(verb, name))


def test_help_answers_at_once() -> None:
    """In under 0.3 s, counted in time of the processor so that a busy machine does not matter."""
    spent, result = [], None
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        result = subprocess.run(
            [sys.executable, "-m", "fromnoise", "--help"],
            env={**os.environ, "PYTHONPATH": str(tiny.SOURCE)},
            capture_output=True,
            text=True,
            check=True,
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert result is not None and set(OPTIONS) <= set(result.stdout.split())
    assert min(spent) < 0.3


def test_without_a_verb_it_shows_the_help(say: Say) -> None:
    code, out, _ = say()
    assert code == 0 and out.startswith("usage: fromnoise")


@pytest.mark.parametrize("words", [["--version"], ["sample", "--help"]])
def test_help_and_version_end_with_0(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 0
    assert (__version__ if "--version" in words else "--overwrite") in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["trayn", "x"], "'trayn' is not known; did you mean 'train'?"),
        (
            ["zzz"],
            "'zzz' is not known; known: average, compare, demo, estimate, inspect, likelihood, plot, sample, train",
        ),
        (["sample", "x", "--stpes", "5", "--out", "a.png"], "unexpected '--stpes'; did you mean '--steps'?"),
        (["sample", "x", "--wieghts=ema"], "unexpected '--wieghts'; did you mean '--weights'?"),
        (["train", "x", "--outt", "y"], "unexpected '--outt'; did you mean '--out'?"),
        (["sample", "x", "y"], "unexpected 'y'"),
        (["train"], "the following arguments are required: DATA"),
        (["train", "x", "--steps", "many"], "argument --steps: invalid int value: 'many'"),
        (["train", "x", "--steps", "5", "--epochs", "5"], "argument --epochs: not allowed with argument --steps"),
        (["sample", "x", "--strip", "2", "--from", "y"], "argument --from: not allowed with argument --strip"),
        (
            ["sample", "x", "--weak", "y", "--classifier", "m:n"],
            "argument --classifier: not allowed with argument --weak",
        ),
        (["sample", "x", "--interpolate", "a.png"], "argument --interpolate: expected 2 arguments"),
        (["compare", "x", "--sampler", "ddim"], "unexpected '--sampler'; did you mean '--samplers'?"),
        (["likelihood"], "the following arguments are required: RUN|FILE"),
        (["sample", "x", "--out"], "argument --out: expected one argument"),
        (["sample", "x", "--over"], "unexpected '--over'; did you mean '--overwrite'?"),
    ],
)
def test_a_slip_of_the_keyboard_gets_the_nearest_known_word(say: Say, words: list[str], complaint: str) -> None:
    said = say(*words)
    assert complaint in one_line(said) and said[0] == 2


# ------------------------------------------------------------------------------------------------- mistakes in training


def settings(*assignments: str) -> list[str]:
    return [word for text in assignments for word in ("--set", text)]


RECTIFIED = settings("parameterization.kind=flow", "schedule.kind=rectified", "objective.times=uniform")


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--set", "train.lrr=1"], "[train] lrr: no such key; did you mean 'lr'?"),
        (["--set", "trayn.lr=1"], "trayn: no such section; did you mean 'train'?"),
        (["--set", "network.kind=unte"], "[network] kind = 'unte' is not known; did you mean 'unet'?"),
        (["--set", "schedule.kind=cosinus"], "[schedule] kind = 'cosinus' is not known; did you mean 'cosine'?"),
        (["--set", "train.lr=fast"], "[train] lr = 'fast': should be a valid number"),
        (["--set", "train.batch_size=true"], "[train] batch_size = True: should be a valid integer"),
        (["--set", "train.batch_size=1.5"], "[train] batch_size = 1.5: should be a valid integer"),
        (["--set", 'train.steps="7"'], "[train] steps = '7': should be a valid integer"),
        (["--set", "network.channel_mult=3"], "[network] channel_mult = 3: should be a list"),
        (["--set", "train.flip=perhaps"], "[train] flip = 'perhaps': should be a valid boolean"),
        (["--set", "train"], "--set train: should look like section.key=value"),
        (["--set", "lr=3"], "--set lr=3: should look like section.key=value"),
        (["--set", "network.channel_mult=[0]"], "[network] channel_mult = [0]: needs a number, at least 1, a level"),
        (["--set", "data.channels=2"], "[data] channels = 2: known are 1 (grey), 3 (RGB) and 4 (RGBA)"),
        (["--steps", "0"], "[train] steps = 0: must be above 0"),
        (["--steps", "5", "--set", "train.epochs=3"], "[train] steps and epochs are given"),
        (["--preset", "cifar"], "there is no preset 'cifar'; did you mean 'cifar10'?"),
        (["--preset", "mine.toml"], "cannot read the settings in mine.toml: "),
        (["--resolution", "9"], "[data] height = 9: the network's 2 levels need a multiple of 2; take 8 or 10"),
        (["--resolution", "8x31"], "[data] width = 31: the network's 2 levels need a multiple of 2; take 30 or 32"),
        (["--resolution", "0"], "[data] height = 0: must be at least 1 pixel"),
        (["--resolution", "big"], "--resolution big: should be a number of pixels such as 64, or HxW such as 64x96"),
        (["--resolution", "8x"], "--resolution 8x: should be"),
        (["--resolution", "8²"], "--resolution 8²: should be"),
        (["--device", "gpu"], "device 'gpu' is not to be had here: "),
        (
            ["--set", "schedule.kind=edm"],
            "times uniform_steps count steps, and EDM has a continuous clock: take uniform",
        ),
        (
            ["--set", "objective.times=log_normal"],
            "times log_normal are those of a continuous clock, and Linear counts",
        ),
        ([*RECTIFIED[2:]], "Epsilon cannot be used with Rectified: at time 1 no signal is left to divide by; take vel"),
        ([*RECTIFIED, "--set", "parameterization.kind=karras"], "karras tells the network the log of the noise-to-sig"),
        (
            [*RECTIFIED, "--set", "objective.kind=bound"],
            "a bound is a sum over the steps of a chain, and Rectified has",
        ),
        (
            [*RECTIFIED, "--set", "parameterization.kind=posterior_mean"],
            "PosteriorMean has another schedule than the one in use: it must be given that one, which must count steps",
        ),
        (
            [*RECTIFIED, "--set", "sampling.spacing.kind=all"],
            "[sampling.spacing] All needs a schedule that counts steps",
        ),
        (["--set", "sampling.sampler=inversion"], "[sampling.sampler] inversion goes from the picture to the noise"),
        (
            ["--set", "sampling.guidance.scale=3", "--set", "train.label_dropout=0"],
            "guidance = 3: this model has never gone without labels (train.label_dropout = 0)",
        ),
    ],
)
def test_wrong_settings_make_no_run(
    say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], complaint: str
) -> None:
    def too_late(*_: Any) -> Any:
        raise AssertionError("training has begun")

    monkeypatch.setattr("fromnoise.task.train.train", too_late)
    said = say("train", "digits", "--preset", "digits", "--out", tmp_path / "run", *words)
    assert complaint in one_line(said) and said[0] == 2
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one here")
def test_a_gpu_that_is_not_there(say: Say, tmp_path: Path) -> None:
    said = say("train", "digits", "--out", tmp_path / "run", "--steps", "1", "--device", "cuda")
    assert "device 'cuda' is not to be had here" in one_line(said) and said[0] == 2


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("[train]\nlr = = 3\n", "is not valid TOML: Invalid value (at line 2, column 6)"),
        ("[trayn]\nlr = 3\n", "trayn: no such section; did you mean 'train'?"),
        ("train = 3\n", "[train] should be a table of settings, not 3"),
        ("[network]\nkind = ['unet']\n", "[network] kind = ['unet'] is not known"),
        ("\udcff", "cannot read the settings in"),
    ],
)
def test_a_mistake_in_a_file_is_told_by_the_name_of_the_file(
    say: Say, tmp_path: Path, content: str, complaint: str
) -> None:
    file = tmp_path / "mine.toml"
    file.write_bytes(content.encode(errors="surrogateescape"))
    said = say("train", "digits", "--out", tmp_path / "run", "--preset", file, "--steps", "3")
    line = one_line(said)
    assert complaint in line and str(file) in line and said[0] == 2


def test_pictures_that_are_missing_or_none(say: Say, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.png").write_text("")
    for name in ("missing", "empty", "file.png"):
        said = say("train", tmp_path / name, "--out", tmp_path / "run", "--steps", "1")
        assert name in one_line(said) and said[0] == 2
    assert "did you mean 'digits'?" in one_line(say("train", "digit", "--out", tmp_path / "run", "--steps", "1"))
    assert not (tmp_path / "run").exists()


def test_unreadable_pictures_are_counted_and_skipped_or_refused(say: Say, tmp_path: Path) -> None:
    colours(tmp_path / "pictures", 4)
    for name in ("bad.png", "worse.png"):
        (tmp_path / "pictures" / name).write_bytes(b"\x89PNG nonsense")
    words = ["train", tmp_path / "pictures", "--preset", preset(tmp_path), "--steps", "1"]
    said = say(*words, "--out", tmp_path / "strict", "--strict")
    line = one_line(said)
    assert line.startswith("2 of 6 pictures cannot be read: ") and "bad.png" in line and said[0] == 2
    assert not (tmp_path / "strict").exists()
    code, _, err = say(*words, "--out", tmp_path / "run")
    assert code == 0 and f"fromnoise: skipped 2 unreadable pictures, the first: {tmp_path}/pictures/bad.png: " in err
    assert "4 pictures as 8x8x3; network of" in err


def test_a_length_is_needed_only_if_the_preset_has_none(say: Say, tmp_path: Path) -> None:
    file = tiny.preset(tmp_path)
    said = say("train", "digits", "--out", tmp_path / "run", "--preset", file)
    assert "how long to train is not given: set one of train.steps, train.epochs and train.images" in one_line(said)
    file.write_text(file.read_text().replace("[train]", "[train]\nsteps = 500"))
    code, out, _ = say("train", "digits", "--out", tmp_path / "run", "--preset", file, "--images", "20", "--json")
    assert code == 0 and json.loads(out)["step"] == 3  # One length replaces another.


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
    ],
)
def test_too_little_memory_says_what_to_lower(
    say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr("fromnoise.train.loop.update", fail)
    code, out, err = say("train", "digits", "--out", tmp_path, "--preset", tiny.preset(tmp_path.parent), "--steps", "1")
    assert (code, out) == (1, "")
    assert err.splitlines()[-1] == (
        "fromnoise: not enough memory: train with --micro-batch auto (the same steps, in parts that fit), or lower "
        "train.batch_size; for sampling lower --batch-size"
    )


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt(), 130), (BrokenPipeError(), 1), (OSError("odd"), 1)])
def test_other_ends(say: Say, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int) -> None:
    def fail(*_: Any) -> int:
        raise error

    monkeypatch.setattr(verb, "demo", fail)
    found, out, err = say("demo")
    assert (found, out) == (code, "")
    assert err == {
        KeyboardInterrupt: "fromnoise: interrupted\n",
        BrokenPipeError: "",
        OSError: "fromnoise: OSError: odd (a fault of fromnoise; --debug shows where)\n",
    }.get(type(error))


def test_a_traceback_only_with_debug_and_the_same_exit_code(say: Say, tmp_path: Path) -> None:
    words = ["train", tmp_path / "missing", "--out", tmp_path / "run"]
    assert "Traceback" not in say(*words)[2]
    code, _, err = say(*words, "--debug")
    assert code == 2 and "Traceback" in err and "open_source" in err
    assert err.splitlines()[-1].startswith("fromnoise: ")


# ----------------------------------------------------------------------------------------------------------- training


def test_train_prints_one_object_for_machines(say: Say, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ["train", "digits", "--out", out, "--preset", tiny.preset(tmp_path), "--steps", "2"]
    code, printed, err = say(*words, "--json")
    told = json.loads(printed)
    assert code == 0 and printed.count("\n") == 1
    assert told.pop("seconds") > 0
    assert told == {"run": str(out), "step": 2, "images": 16, "finished": True}
    assert "1,797 pictures as 8x8x1, 10 classes; network of 393,697 parameters on cpu" in err
    code, printed, err = say(*words)
    assert code == 0 and f"next: fromnoise sample {out} --out s.png" in printed
    assert "the run is at its end: 2 steps, 16 pictures seen" in err


def test_what_is_typed_wins_over_the_preset_and_set_has_the_last_word(say: Say, tmp_path: Path) -> None:
    words = ["--preset", tiny.preset(tmp_path), "--steps", "9", "--flip", "--resolution", "8x16"]
    code, _, _ = say(
        "train", "digits", "--out", tmp_path / "run", *words, "--set", "train.steps=1", "--set", "train.lr=0.5"
    )
    assert code == 0
    config = open_run(tmp_path / "run").config
    assert (config.train.steps, config.train.lr, config.train.flip, config.train.batch_size) == (1, 0.5, True, 8)
    assert (config.data.height, config.data.width, config.data.channels) == (8, 16, 1)


def test_a_preset_is_chosen_by_the_size_of_the_pictures(
    say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def watch(config: Any, *_: Any, **__: Any) -> Any:
        seen.append(config)
        raise KeyboardInterrupt

    monkeypatch.setattr("fromnoise.task.train.train_run", watch)
    for size, words in [((40, 50), []), ((40, 50), ["--resolution", "64x96"]), ((16, 30), [])]:
        folder = colours(tmp_path / str(len(seen)), 2, size)
        assert say("train", folder, *words)[0] == 130
    assert [(c.data.height, c.data.width, c.network.channel_mult) for c in seen] == [
        (32, 32, (1, 2, 2, 2)),
        (64, 96, (1, 2, 3, 4)),
        (16, 16, (1, 2, 2)),
    ]
    assert all(c.data.channels == 3 for c in seen)


KINDS = {
    "hybrid": settings("objective.kind=hybrid"),
    "edm": settings(
        "schedule.kind=edm", "parameterization.kind=karras", "objective.times=log_normal", "objective.weighting=edm"
    ),
    "rectified": RECTIFIED,
}


@pytest.mark.parametrize("kind", KINDS)
def test_other_objectives_train_go_on_and_sample(say: Say, tmp_path: Path, kind: str) -> None:
    """Stopped and gone on with is as if never stopped; and what was trained is sampled and scored by its own words."""
    change = {"network": {"model_channels": 8, "attention_resolutions": []}, "sampling": {"sampler": "dpm_2m"}}
    change["sampling"]["spacing"] = {"kind": "log_snr", "steps": 6}
    common = ["train", "digits", "--preset", tiny.preset(tmp_path, change), *KINDS[kind]]
    assert say(*common, "--out", tmp_path / "run", "--steps", 2)[0] == 0
    code, _, err = say(*common, "--out", tmp_path / "run", "--steps", 5)
    assert code == 0 and "going on at step 2 of 5" in err
    assert say(*common, "--out", tmp_path / "whole", "--steps", 5)[0] == 0
    tiny.assert_same_bits(tiny.weights(tmp_path / "run"), tiny.weights(tmp_path / "whole"))

    def drawn(*words: object) -> np.ndarray:
        out = tmp_path / "s.npz"
        code, _, err = say("sample", tmp_path / "run", "-n", 2, *words, "--out", out, "--overwrite")
        assert code == 0, err
        return arrays(out)["images"]

    usual = drawn()
    for words in (["--sampler", "ancestral"], ["--sampler", "ddim", "--steps", 4], ["--sampler", "heun"]):
        made = drawn(*words)
        assert made.shape == usual.shape and not np.array_equal(made, usual)
    if kind == "hybrid":
        assert not np.array_equal(
            drawn("--sampler", "ancestral"), drawn("--sampler", "ancestral", "--variance", "small")
        )
    code, out, _ = say("likelihood", tmp_path / "run", "-n", 2, "--steps", 4, "--json")
    assert code == 0 and json.loads(out)["bits_per_dim"] > 0


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"schedule": "linear"}, (1.0, -1.0)),
        ({"schedule": "vp"}, (1000.0, 0.0)),
        ({"schedule": "rectified", "parameterization": "flow"}, (1000.0, 0.0)),
        ({"schedule": {"kind": "edm", "sigma_max": 50.0}, "parameterization": "velocity"}, (20.0, 0.0)),
        ({"schedule": "vp", "parameterization": {"kind": "velocity", "time_scale": 3.0}}, (3.0, 0.0)),
        ({"schedule": "vp", "parameterization": {"time_shift": 5.0}}, (1000.0, 5.0)),
        ({"schedule": "vp", "parameterization": {"time_scale": 1.0, "time_shift": -1.0}}, (1.0, -1.0)),
    ],
)
def test_a_network_hears_the_time_on_every_clock(said: dict[str, Any], told: tuple[float, float]) -> None:
    """0 … 1000 from one end to the other where the clock does not count steps, unless somebody says otherwise."""
    config, _ = settle({"data": {"path": "digits"}, **said}, preset_name="digits", source="test")
    parameterization: Any = config.parameterization
    assert (parameterization.time_scale, parameterization.time_shift) == told
    level = config.schedule(config.schedule.horizon)
    assert parameterization.c_time(level) == config.schedule.horizon * told[0] + told[1]
    again, _ = settle(to_tree(config), preset_name="digits", source="test")
    assert again == config


def test_edm_s_network_is_told_the_noise_whatever_the_clock() -> None:
    said = {"data": {"path": "digits"}, "schedule": "vp", "parameterization": "karras"}
    config, _ = settle(said, preset_name="digits", source="test")
    assert config.parameterization == Karras()


def test_folders_as_classes(say: Say, tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        colours(tmp_path / "pictures" / name, 3)
    words = ["--preset", preset(tmp_path), "--steps", "1", "--classes"]
    assert say("train", tmp_path / "pictures", "--out", tmp_path / "run", *words)[0] == 0
    assert open_run(tmp_path / "run").classes == ("cat", "dog")
    code, out, _ = say("sample", tmp_path / "run", "-n", 3, "--label", "dog,0", "--out", tmp_path / "s.npz", "--json")
    assert code == 0 and json.loads(out)["labels"] == [1, 0, 1]
    line = one_line(say("sample", tmp_path / "run", "--label", "dgo", "--out", tmp_path / "t.npz"))
    assert line == "--label dgo: no such class; did you mean 'dog'?"


# ----------------------------------------------------------------------------------------------------------- sampling


def arrays(file: Path) -> dict[str, np.ndarray]:
    with np.load(file) as stored:
        return dict(stored)


def test_arrays_folder_and_grid_are_the_same_pictures(say: Say, tmp_path: Path, trained: Path) -> None:
    words = ["sample", trained, "-n", 6, "--seed", 3, "--label", "7,zwei".replace("zwei", "2"), "--steps", 5]
    for name in ("a.npz", "folder", "new/grid.png"):
        assert say(*words, "--out", tmp_path / name)[0] == 0
    stored = arrays(tmp_path / "a.npz")
    assert stored["images"].shape == (6, 8, 8, 1) and stored["images"].dtype == np.uint8
    assert stored["labels"].tolist() == [7, 2, 7, 2, 7, 2] and stored["labels"].dtype == np.int64
    assert stored["seeds"].tolist() == [3, 4, 5, 6, 7, 8]
    files = sorted((tmp_path / "folder").iterdir())
    assert [file.name for file in files] == [
        "000003-7.png",
        "000004-2.png",
        "000005-7.png",
        "000006-2.png",
        "000007-7.png",
        "000008-2.png",
    ]
    for file, image in zip(files, stored["images"], strict=True):
        with Image.open(file) as picture:
            assert picture.mode == "L" and np.array_equal(np.asarray(picture), image[:, :, 0])
    with Image.open(tmp_path / "new/grid.png") as picture:
        grid = np.asarray(picture)[::4, ::4]  # 8 pixels are enlarged four times
    for k in range(6):
        top, left = 2 + k // 3 * 10, 2 + k % 3 * 10
        assert np.array_equal(grid[top : top + 8, left : left + 8], stored["images"][k, :, :, 0])
    assert (tmp_path / "a.npz").parent.exists() and not list(tmp_path.glob("**/.*"))


def test_pictures_depend_on_what_is_asked_for(say: Say, tmp_path: Path, trained: Path) -> None:
    def drawn(name: str, *words: object) -> np.ndarray:
        code, _, err = say("sample", trained, "-n", 4, *words, "--out", tmp_path / f"{name}.npz")
        assert code == 0, err
        return arrays(tmp_path / f"{name}.npz")["images"]

    plain = drawn("plain", "--label", 3)
    assert np.array_equal(plain, drawn("again", "--label", 3, "--batch-size", 4))
    others = {
        "label": drawn("label", "--label", 4),
        "seed": drawn("seed", "--label", 3, "--seed", 4),
        "steps": drawn("steps", "--label", 3, "--steps", 10),
        "variance": drawn("variance", "--label", 3, "--variance", "small"),
        "weights": drawn("weights", "--label", 3, "--weights", "model"),
        "clip": drawn("clip", "--label", 3, "--set", "sampling.clip.limit=0.5"),
    }
    for name, images in others.items():
        assert not np.array_equal(images, plain), name
    assert np.array_equal(plain, drawn("large", "--label", 3, "--variance", "large"))  # as trained
    assert np.array_equal(plain, drawn("all", "--label", 3, "--steps", 50))  # the schedule's own
    assert np.array_equal(others["seed"][:1], drawn("one", "--label", 3, "--seed", 4, "-n", 1))
    assert np.array_equal(drawn("turns"), drawn("named", "--label", "0,1,2,3"))  # without --label every class in turn


def test_variance_and_steps_are_those_of_the_sampler(say: Say, tmp_path: Path, trained: Path) -> None:
    """The same as from Python, with the variance set by hand."""
    run = open_run(trained)
    assert isinstance(run.pipeline.sampler, Ancestral)
    code, out, _ = say(
        "sample", trained, "-n", 2, "--label", 1, "--steps", 10, "--variance", "small", "--out", tmp_path / "a.npz"
    )
    assert code == 0 and "2 pictures, seeds 0 to 1, 10 network calls each" in out
    changed = with_config(
        run,
        tiny.config(
            {"sampling": {"sampler": {"variance": "small"}, "spacing": {"kind": "strided", "steps": 10}}}, steps=40
        ),
    )
    assert np.array_equal(arrays(tmp_path / "a.npz")["images"], changed.sample(2, labels=1))


def test_sample_prints_one_object_for_machines(say: Say, tmp_path: Path, trained: Path, classless: Path) -> None:
    words = ["-n", 3, "--steps", 2, "--json"]
    code, out, _ = say("sample", trained, *words, "--out", tmp_path / "a.npz")
    told = json.loads(out)
    assert code == 0 and out.count("\n") == 1 and told.pop("seconds") >= 0
    expected = {"out": str(tmp_path / "a.npz"), "n": 3, "seed": 0, "nfe": 2, "labels": [0, 1, 2]}
    assert told == expected
    code, out, _ = say("sample", classless, *words, "--out", tmp_path / "b.npz")
    assert code == 0 and json.loads(out)["labels"] is None
    assert set(arrays(tmp_path / "b.npz")) == {"images", "seeds"}
    assert arrays(tmp_path / "b.npz")["images"].shape == (3, 8, 8, 3)


def test_nothing_is_written_over_unless_asked(say: Say, tmp_path: Path, trained: Path) -> None:
    (tmp_path / "a.png").write_text("precious")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes.txt").write_text("precious")
    (tmp_path / "b.npz").mkdir()
    (tmp_path / "plain").write_text("precious")
    before = tiny.contents(tmp_path)
    for name in ("a.png", "folder", "plain"):
        said = say("sample", trained, "-n", 1, "--steps", 1, "--out", tmp_path / name)
        assert one_line(said) == f"{tmp_path / name} exists already; choose another name, or say --overwrite"
        assert said[0] == 2
    for name, complaint in [("b.npz", "is a folder"), ("plain", "is a file")]:
        said = say("sample", trained, "-n", 1, "--steps", 1, "--out", tmp_path / name, "--overwrite")
        assert complaint in one_line(said) and said[0] == 2
    assert tiny.contents(tmp_path) == before
    assert say("sample", trained, "-n", 1, "--steps", 1, "--out", tmp_path / "a.png", "--overwrite")[0] == 0
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size == (48, 48)
    assert say("sample", trained, "-n", 1, "--steps", 1, "--out", tmp_path / "folder", "--overwrite")[0] == 0
    assert (tmp_path / "folder" / "notes.txt").read_text() == "precious"


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--label", "10"], "--label 10: out of range; this model's classes are numbered 0 to 9"),
        (["--label", "-1"], "--label -1: out of range; this model's classes are numbered 0 to 9"),
        (["--label", "3,zebra"], "--label zebra: no such class; known: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9"),
        (["--label", "³"], "--label ³: no such class"),
        (["--steps", "51"], "steps = 51: this model allows 1 to 50"),
        (["--steps", "0"], "steps = 0: this model allows 1 to 50"),
        (["-n", "0"], "0 pictures in batches of 64: both must be at least 1"),
        (["--batch-size", "0"], "64 pictures in batches of 0: both must be at least 1"),
        (["--set", "train.lr=3"], "--set train.…: sampling cannot change how the model was made"),
        (["--set", "sampling.clp=3"], "[sampling] clp: no such key; did you mean 'clip'?"),
        (["--set", "sampling.clip.limit=-1"], "[sampling.clip] limit = -1.0: must be above 0"),
        (["--set", "sampling.spacing.steps=9"], "steps: no such key; kind = 'all' has none; known kinds: all, strided"),
        (["--set", "sampling.sampler.variance=learned_range"], "learned_range: this model has no learned variance"),
        (["--set", "sampling=3"], "--set sampling=3: should look like section.key=value"),
        (["--out", "x.jpg"], "x.jpg: grids are written as .png, arrays as .npz"),
    ],
)
def test_wrong_wishes_draw_nothing(
    say: Say, tmp_path: Path, trained: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], complaint: str
) -> None:
    monkeypatch.chdir(tmp_path)
    said = say("sample", trained, "--out", "s.png", *words)
    assert complaint in one_line(said) and said[0] == 2
    assert list(tmp_path.iterdir()) == []


def test_a_place_to_write_to_must_be_named(say: Say, trained: Path) -> None:
    assert one_line(say("sample", trained)).startswith("--out is missing: name a .png for a grid")


def test_a_label_for_a_model_without_classes(say: Say, tmp_path: Path, classless: Path) -> None:
    said = say("sample", classless, "--label", "3", "--out", tmp_path / "s.png")
    assert one_line(said) == "--label 3: this model was trained without classes" and said[0] == 2


def broken(folder: Path, trained: Path) -> dict[str, tuple[Path, int, str]]:
    """What is not a run: path, exit code, complaint."""
    (folder / "empty").mkdir()
    (folder / "begun").mkdir()
    shutil.copy(trained / "config.toml", folder / "begun")
    safetensors.torch.save_file({"w": torch.zeros(1)}, folder / "foreign.safetensors")
    (folder / "notes.txt").write_text("no weights\n")
    found = trained / "checkpoints" / "000000320"
    content = (found / "ema.safetensors").read_bytes()
    (folder / "cut.safetensors").write_bytes(content[: len(content) // 2])
    shutil.copytree(trained, folder / "damaged")
    os.truncate(folder / "damaged/checkpoints/000000320/ema.safetensors", 100)
    tensors = safetensors.torch.load_file(found / "ema.safetensors")
    with safetensors.safe_open(found / "ema.safetensors", framework="pt") as file:
        metadata = file.metadata()
    safetensors.torch.save_file({"w": torch.zeros(1)}, folder / "other.safetensors", metadata=metadata)
    newer = {**metadata, "config": metadata["config"].replace('kind = "unet"', 'kind = "dit"')}
    safetensors.torch.save_file(tensors, folder / "newer.safetensors", metadata=newer)
    return {
        "missing": (folder / "missing", 2, "is not there: expected a run folder or a .safetensors file"),
        "empty": (folder / "empty", 2, "holds no run: config.toml is missing"),
        "begun": (folder / "begun", 2, "holds no checkpoint yet"),
        "foreign": (folder / "foreign.safetensors", 1, "was not written by fromnoise: it carries no settings"),
        "text": (folder / "notes.txt", 1, "is not a whole safetensors file"),
        "cut": (folder / "cut.safetensors", 1, "is not a whole safetensors file"),
        "damaged": (folder / "damaged", 1, "ema.safetensors is missing or damaged"),
        "optimizer": (found / "optimizer.safetensors", 2, "is an optimizer's state; sample from model.safetensors or"),
        "other": (folder / "other.safetensors", 1, "does not fit the settings that it carries: Error(s) in loading"),
        "newer": (folder / "newer.safetensors", 1, "kind = 'dit' is not known; "),
    }


def test_what_cannot_be_opened_is_told_in_one_line(say: Say, tmp_path: Path, trained: Path) -> None:
    for name, (path, code, complaint) in broken(tmp_path, trained).items():
        said = say("sample", path, "--out", tmp_path / "s.png")
        line = one_line(said)
        assert complaint in line and str(path) in line, name
        assert said[0] == code, name
        assert not (tmp_path / "s.png").exists()
    assert 'Missing key(s) in state_dict: "' in one_line(
        say("sample", tmp_path / "other.safetensors", "--out", tmp_path / "s.png")
    )


def test_a_damaged_newest_checkpoint_is_told_and_the_one_before_it_taken(say: Say, tmp_path: Path) -> None:
    run = tiny.trained(tmp_path / "run", steps=2, checkpoint_every=8)
    os.truncate(run / "checkpoints/000000016/ema.safetensors", 100)
    code, _, err = say("sample", run, "-n", 1, "--steps", 1, "--out", tmp_path / "s.png")
    assert code == 0 and (tmp_path / "s.png").exists()
    assert (
        f"fromnoise: checkpoint {run}/checkpoints/000000016: ema.safetensors is missing or damaged; passed over" in err
    )


def test_pictures_that_cannot_be_written(say: Say, tmp_path: Path, trained: Path) -> None:
    (tmp_path / "file").write_text("")
    code, _, err = say("sample", trained, "-n", 1, "--steps", 1, "--out", tmp_path / "file" / "s.png")
    assert code == 1
    assert err.splitlines()[-1].startswith(f"fromnoise: cannot write to {tmp_path}/file/s.png: ")


def test_a_pipe_that_is_closed_early_is_no_fault(tmp_path: Path, trained: Path) -> None:
    """As in ``fromnoise … | true``."""
    with tiny.command("sample", trained, "-n", "1", "--steps", "1", "--out", tmp_path / "s.png") as process:
        process.stdout.close()
        err = process.stderr.read()
    assert process.returncode == 1 and "Exception" not in err and "Broken" not in err, err
    assert (tmp_path / "s.png").exists()


@pytest.mark.usefixtures("undisturbed")
def test_ctrl_c_while_sampling_writes_nothing(
    say: Say, tmp_path: Path, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def step(*_: Any, **__: Any) -> Any:
        calls.append(1)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Ancestral, "step", step)
    code, out, err = say("sample", trained, "--out", tmp_path / "s.png")
    assert (code, out, err.splitlines()[-1]) == (130, "", "fromnoise: interrupted")
    assert len(calls) == 1 and list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------------------------------------------- ends from without


@pytest.mark.usefixtures("undisturbed")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_before_there_is_anything_to_save_ends_in_one_line(
    number: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def reading(*_: object) -> int:
        os.kill(os.getpid(), number)
        time.sleep(10)
        raise AssertionError

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("fromnoise.verb.inspect", reading)
    assert main(["inspect", "digits"]) == 130
    assert capsys.readouterr() == ("", "fromnoise: interrupted\n")
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.fixture
def homes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two environments of one interpreter, each with the program; this process is of "a venv", PATH knows neither."""
    for home in ("a venv", "other"):
        (tmp_path / home / "bin").mkdir(parents=True)
        for name in ("python", "python3"):
            (tmp_path / home / "bin" / name).symlink_to(os.path.realpath(sys.executable))
        script = tmp_path / home / "bin" / "fromnoise"
        script.write_text(f"#!{sys.executable}\nfrom fromnoise.cli import main\nraise SystemExit(main())\n")
        script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", f"{tmp_path}/a venv/bin/python3")
    monkeypatch.setenv("PATH", "/nowhere")
    return tmp_path


@pytest.mark.parametrize(
    ("called", "known", "said"),
    [
        ("{}/a venv/bin/fromnoise", "{}/a venv/bin", "fromnoise"),
        ("{}/a venv/bin/fromnoise", "/nowhere", "'{}/a venv/bin/fromnoise'"),
        ("{}/a venv/bin/fromnoise", "{}/other/bin:{}/a venv/bin", "'{}/a venv/bin/fromnoise'"),
        ("{}/other/bin/fromnoise", "/nowhere", "{}/other/bin/fromnoise"),
        ("fromnoise", "/nowhere", "./fromnoise"),
        ("{}/lib/fromnoise/__main__.py", "{}/a venv/bin", "python -m fromnoise"),
        ("{}/lib/fromnoise/__main__.py", "{}/3:{}/a venv/bin", "python3 -m fromnoise"),
        ("{}/lib/fromnoise/__main__.py", "/nowhere", "'{}/a venv/bin/python3' -m fromnoise"),
        ("{}/lib/fromnoise/__main__.py", "{}/other/bin:{}/a venv/bin", "'{}/a venv/bin/python3' -m fromnoise"),
        ("{}/lib/pytest/__main__.py", "/nowhere", "fromnoise"),
    ],
)
def test_what_to_type_starts_what_was_typed(
    called: str, known: str, said: str, homes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (homes / "3").mkdir()  # Where python is another one, and python3 is not.
    (homes / "3" / "python").symlink_to(os.path.realpath(sys.executable))
    monkeypatch.setattr(sys, "argv", [called.replace("{}", str(homes))])
    monkeypatch.setenv("PATH", known.replace("{}", str(homes)))
    assert program() == program_again() == said.replace("{}", str(homes))


def test_what_to_type_is_ready_for_the_shell(homes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [f"{homes}/a venv/bin/fromnoise"])
    with tiny.typed(f"{program()} --version") as process:
        assert process.communicate(timeout=60)[0] == f"fromnoise {__version__}\n"


def test_workers_say_what_was_typed(homes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of --processes what started their launcher; those of torchrun what is known, and of other verbs no more."""
    monkeypatch.setattr(sys, "argv", [f"{homes}/lib/fromnoise/__main__.py"])
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "x", PROGRAM: "'a b/fromnoise'"}.items():
        monkeypatch.setenv(name, value)
    alone = f"'{homes}/a venv/bin/python3' -m fromnoise"
    assert (program(), program_again()) == (alone, "torchrun … -m fromnoise")
    monkeypatch.setenv(FOLDER, str(homes))
    assert program() == program_again() == "'a b/fromnoise'"
