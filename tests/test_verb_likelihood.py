"""``fromnoise likelihood``: what it prints adds up and is what the task found; its options; what it refuses."""

import csv
import importlib
import json
import os
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests import tiny

from fromnoise.analytic import estimate
from fromnoise.cli import main
from fromnoise.likelihood import Flow
from fromnoise.run import open_run
from fromnoise.runge_kutta import DormandPrince, RungeKutta4
from fromnoise.task.likelihood import MeasuredLikelihood, likelihood
from fromnoise.task.prepare import known_pictures
from fromnoise.task.scored import scored_pictures
from fromnoise.transition import Analytic, Large, Small

Say = Callable[..., tuple[int, str, str]]
FILES = [
    "likelihood.json",
    "pictures.csv",
    "progressive.png",
    "rate-distortion.csv",
    "rate-distortion.png",
    "terms.png",
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    change = {"schedule": {"steps": 30}, "data": {"held_out": 0.25}}
    change |= {"network": {"model_channels": 16, "attention_resolutions": []}}
    return tiny.trained(tmp_path_factory.mktemp("trained") / "run", change, steps=40, label_dropout=0.1)


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    def run(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(["likelihood", *[str(word) for word in words]])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def measured(run: Path, **settings: Any) -> MeasuredLikelihood:
    """What the task finds on the pictures that the run held out."""
    opened = open_run(run)
    *_, last = likelihood(opened, known_pictures(opened.config, None).pictures, **settings)
    assert isinstance(last, MeasuredLikelihood)
    return last


def test_the_split_adds_up_and_the_files_are_there(say: Say, trained: Path, tmp_path: Path) -> None:
    code, out, _ = say(trained, "-n", 9, "--out", tmp_path / "out")
    lines = out.splitlines()
    assert code == 0
    head = re.fullmatch(
        r"(\S+) bits/dim ± (\S+) \(standard error over pictures\), 9 pictures of digits, (.*)", lines[0]
    )
    assert head is not None and head[3] == "the part held out"
    parts = re.fullmatch(r"  = prior (\S+) \+ rate (\S+) \+ decoder (\S+)", lines[1])
    assert parts is not None
    assert sum(map(float, parts.groups())) == pytest.approx(float(head[1]), abs=2e-4)
    found = measured(trained, limit=9)
    assert f"{found.bits_per_dim:.4f}" == head[1] and f"{found.standard_error:.4f}" == head[2]
    assert lines[2] == "obtained by: the bound of the chain of 30 steps, variance large, every term"
    table = [[float(word) for word in line.split()] for line in lines[4:-1]]
    assert [steps for steps, _, _ in table] == [30, 27, 24, 21, 18, 15, 12, 9, 6, 3]
    assert table[0][1] == pytest.approx(float(parts[2]), abs=1e-4)
    assert table[0][2] == pytest.approx(found.rmse, abs=1e-3)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == FILES
    assert sorted(lines[-1].removeprefix("written: ").split(", ")) == [str(tmp_path / "out" / name) for name in FILES]


def test_one_object_for_machines_and_the_place_in_the_run(say: Say, trained: Path) -> None:
    code, out, _ = say(trained, "-n", 3, "--json", "--steps", 5)
    told = json.loads(out)
    assert code == 0 and out.count("\n") == 1
    assert told["bits_per_dim"] == pytest.approx(told["prior"] + told["rate"] + told["decoder"])
    assert (told["run"], told["data"]) == (str(trained), "digits, the part held out")
    assert told["how"] == "the bound of the chain of 5 steps, variance large, every term"
    assert sorted(told["files"]) == [str(trained / "likelihood" / name) for name in FILES]
    kept = json.loads((trained / "likelihood" / "likelihood.json").read_text())
    assert kept["bits_per_dim"] == told["bits_per_dim"]
    with (trained / "likelihood" / "pictures.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 and np.mean([float(row["bits_per_dim"]) for row in rows]) == pytest.approx(
        told["bits_per_dim"], abs=1e-5
    )
    shutil.rmtree(trained / "likelihood")


@pytest.mark.parametrize(
    ("words", "settings"),
    [
        (["--estimate", 6], {"estimate": 6}),
        (["--steps", 8, "--variance", "small"], {"steps": 8, "variance": Small()}),
        (["--variance", "large", "--seed", 4], {"variance": Large(), "seed": 4}),
        (["--flow", "--steps", 3], {"flow": Flow(solver=RungeKutta4(steps=3))}),
        (["--flow", "--steps", 3, "--probes", 2], {"flow": Flow(solver=RungeKutta4(steps=3), probes=2)}),
        (["--flow", "--steps", 1, "--exact-divergence"], {"flow": Flow(solver=RungeKutta4(steps=1), probes=None)}),
        (["--flow", "--tolerance", 0.1], {"flow": Flow(solver=DormandPrince(rtol=0.1, atol=0.1))}),
    ],
)
def test_options_are_those_of_the_task(
    say: Say, trained: Path, tmp_path: Path, words: list[Any], settings: dict[str, Any]
) -> None:
    code, out, _ = say(trained, "-n", 2, *words, "--json", "--out", tmp_path / "out")
    told, found = json.loads(out), measured(trained, limit=2, **settings)
    assert code == 0 and told["how"] == found.how
    assert told["bits_per_dim"] == pytest.approx(found.bits_per_dim, rel=1e-6)
    if "flow" in settings:
        assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["flow-pictures.csv", "flow.json"]
        assert told["prior"] is None


def test_the_flow_for_people(say: Say, trained: Path, tmp_path: Path) -> None:
    code, out, _ = say(trained, "-n", 2, "--flow", "--steps", 2, "--out", tmp_path / "out")
    assert code == 0 and out.splitlines()[1] == (
        "obtained by: probability flow, Hutchinson's estimate with 1 probe, 2 steps of Runge-Kutta 4"
    )
    assert out.splitlines()[2] == f"written: {tmp_path / 'out' / 'flow-pictures.csv'}, {tmp_path / 'out' / 'flow.json'}"


def test_weights_and_a_single_file(say: Say, trained: Path, tmp_path: Path) -> None:
    found = {}
    for weights in ("ema", "model"):
        out = say(trained, "-n", 2, "--estimate", 4, "--weights", weights, "--json", "--out", tmp_path / "a")[1]
        found[weights] = json.loads(out)["bits_per_dim"]
    assert found["ema"] != found["model"]
    file = Path(
        shutil.copy(next((trained / "checkpoints").iterdir()) / "model.safetensors", tmp_path / "m.safetensors")
    )
    out = say(file, "-n", 2, "--estimate", 4, "--json")[1]
    assert json.loads(out)["bits_per_dim"] == found["model"]
    assert (tmp_path / "likelihood" / "likelihood.json").exists(), "beside the file"


def test_the_analytic_variance_is_estimated_from_the_pictures_and_kept(
    say: Say, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verb = importlib.import_module("fromnoise.verb.likelihood")
    monkeypatch.setattr(verb, "_ANALYTIC_PICTURES", 12)
    monkeypatch.setattr(verb, "_ANALYTIC_TIMES", 5)
    run = shutil.copytree(trained, tmp_path / "run")
    code, out, err = say(run, "-n", 3, "--variance", "analytic", "--json")
    assert code == 0 and f"analytic variance from 12 pictures kept in {run / 'analytic.json'}" in err
    content, opened = json.loads((run / "analytic.json").read_text()), open_run(run)
    assert content["times"] == [1, 8, 15, 23, 30]
    some = scored_pictures(
        opened, known_pictures(opened.config, None).pictures, limit=12, batch_size=12, seed=0, names=None
    )
    own = estimate(opened.pipeline.denoiser, ((b.x_0, b.condition) for b in some), content["times"])
    assert content["gamma"] == pytest.approx(own.gamma, rel=1e-5) and all(0 < value < 1 for value in own.gamma)
    variance = Analytic(times=tuple(content["times"]), gamma=tuple(content["gamma"]))
    found = measured(trained, limit=3, variance=variance)
    assert json.loads(out)["bits_per_dim"] == pytest.approx(found.bits_per_dim, rel=1e-6)
    assert json.loads(out)["how"] == "the bound of the chain of 30 steps, variance analytic, every term"


# ------------------------------------------------------------------------------------------------------------ mistakes


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--variance", "smal"], "--variance smal: not known; did you mean 'small'?"),
        (["--variance", "learned_range"], "learned_range: this model was trained without a learned variance"),
        (["--estimate", "1"], "estimate = 1: should be 2 to 30 network calls a picture"),
        (["--estimate", "31"], "estimate = 31: should be 2 to 30"),
        (["--steps", "31"], "steps = 31: the bound of this model takes 2 steps or more, up to 30"),
        (["--steps", "0"], "steps = 0: the bound of this model takes 2 steps or more"),
        (["-n", "0"], "limit = 0 and batch_size = 64: both must be at least 1"),
        (["--probes", "0"], "--probes belongs to --flow, which is missing"),
        (["--exact-divergence"], "--exact-divergence belongs to --flow, which is missing"),
        (["--tolerance", "1e-3"], "--tolerance belongs to --flow, which is missing"),
        (["--flow", "--estimate", "5"], "--estimate belongs to the bound, and --flow is not it"),
        (["--flow", "--variance", "analytic"], "--variance belongs to the bound, and --flow is not it"),
        (
            ["--flow", "--steps", "5", "--tolerance", "1e-3"],
            "--steps is for fixed steps and --tolerance for steps that",
        ),
        (["--flow", "--probes", "2", "--exact-divergence"], "--probes is for an estimate of the divergence"),
        (["--flow", "--probes", "0"], "--flow: probes = 0: must be at least 1"),
        (["--flow", "--steps", "0"], "--flow: steps = 0: "),
        (["--flow", "--tolerance", "0"], "--flow: rtol = 0.0 must not be negative and atol = 0.0 must be above 0"),
        (["missing"], "there is no folder missing, and no built-in data of that name"),
        (["empty"], "no pictures in empty: looked for names ending in"),
    ],
)
def test_what_makes_no_sense_is_told(
    say: Say, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], complaint: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    before = tiny.contents(trained)
    code, out, err = say(trained, *words, "--out", "out")
    assert (code, out) == (2, "") and complaint in err.splitlines()[-1] and "Traceback" not in err
    assert tiny.contents(tmp_path) == {} and tiny.contents(trained) == before


def test_pictures_without_the_model_s_classes(say: Say, trained: Path, tmp_path: Path) -> None:
    """A model that has gone without labels scores them without; another says what is missing."""
    (tmp_path / "pictures").mkdir()
    for k in range(3):
        Image.fromarray(tiny.digits().images[k, 0]).save(tmp_path / "pictures" / f"{k}.png")
    words = [tmp_path / "pictures", "--estimate", 3, "--out", tmp_path / "out"]
    code, out, _ = say(trained, *words)
    assert code == 0 and f"3 pictures of {tmp_path / 'pictures'}" in out
    with (tmp_path / "out" / "pictures.csv").open() as file:
        names = [row["picture"] for row in csv.DictReader(file)]
    assert names == [str(tmp_path / "pictures" / f"{k}.png") for k in range(3)]
    always = tiny.trained(tmp_path / "always", steps=1)
    code, out, err = say(always, *words)
    assert (code, out) == (2, "") and "was trained with labels only (train.label_dropout = 0)" in err.splitlines()[-1]


def test_the_analytic_variance_needs_a_chain_and_a_folder(say: Say, trained: Path, tmp_path: Path) -> None:
    file = Path(shutil.copy(next((trained / "checkpoints").iterdir()) / "ema.safetensors", tmp_path / "e.safetensors"))
    code, out, err = say(file, "--variance", "analytic")
    assert (code, out) == (2, "") and "variance analytic is kept in the run folder: name that folder" in err
    change: dict[str, Any] = {"schedule": {"kind": "rectified"}, "objective": {"times": "uniform"}}
    change |= {"parameterization": "flow", "sampling": {"sampler": "ddim", "spacing": {"kind": "karras"}}}
    straight = tiny.trained(tmp_path / "run", change, steps=1)
    code, out, err = say(straight, "--variance", "analytic")
    assert (code, out) == (2, "") and "this model's clock does not count steps, so it has no chain" in err
    assert not (straight / "analytic.json").exists()
    code, out, _ = say(straight, "-n", 2, "--steps", 6)
    assert code == 0 and "the bound of the chain of 6 steps" in out


def test_unreadable_pictures_are_counted(say: Say, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    Image.fromarray(tiny.digits().images[0, 0]).save(tmp_path / "pictures" / "good.png")
    (tmp_path / "pictures" / "bad.png").write_bytes(b"\x89PNG nonsense")
    code, out, err = say(trained, tmp_path / "pictures", "--estimate", 2, "--out", tmp_path / "out")
    assert code == 0 and f"skipped 1 unreadable pictures, the first: {tmp_path}/pictures/bad.png: " in err
    assert "1 pictures of" in out and "±" not in out, "one picture has no standard error"


@pytest.mark.usefixtures("undisturbed")
def test_ctrl_c_leaves_no_results(say: Say, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def pressed(*_: Any, **__: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr("fromnoise.likelihood.bound.bound_term", pressed)
    code, out, err = say(trained, "-n", 2, "--out", tmp_path / "out")
    assert (code, out, err.splitlines()[-1]) == (130, "", "fromnoise: interrupted")
    assert tiny.contents(tmp_path) == {}


def test_a_learned_variance_is_the_one_that_is_scored(say: Say, tmp_path: Path) -> None:
    change = {"objective": "hybrid", "network": {"model_channels": 8, "attention_resolutions": []}}
    run = tiny.trained(tmp_path / "run", change, steps=4)
    code, out, _ = say(run, "digits", "-n", 2, "--estimate", 4)
    assert code == 0 and "the bound of the chain of 50 steps, variance large, from 4 of its terms" in out
    chosen = tiny.trained(tmp_path / "chosen", change, {"sampling": {"sampler": "ddim"}}, steps=4)
    code, out, _ = say(chosen, "digits", "-n", 2, "--estimate", 4)
    assert code == 0 and "the bound of the chain of 50 steps, variance learned_range, from 4 of its terms" in out
    code, out, _ = say(run, "digits", "-n", 2, "--estimate", 4, "--variance", "learned_range")
    assert code == 0 and "variance learned_range" in out
