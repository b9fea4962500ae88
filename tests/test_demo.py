"""The demo: what it prints and leaves, and that its four figures are what they are called."""

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from PIL import Image
from sklearn.neighbors import KNeighborsClassifier
from tests import tiny

from fromnoise.cli import main
from fromnoise.data import Dataset
from fromnoise.errors import FromnoiseError
from fromnoise.task.demo import score
from fromnoise.task.plot import plot_loss
from fromnoise.task.prepare import prepare

QUICK = [
    *("--set", "network.model_channels=8", "--set", "network.channel_mult=[1]"),
    *("--set", "network.attention_resolutions=[]", "--set", "train.batch_size=8", "--set", "train.warmup=0"),
    *("--set", "sampling.spacing.kind=strided", "--set", "sampling.spacing.steps=2", "--set", "train.sample_every=0"),
]


@pytest.fixture(scope="module")
def parts() -> tuple[Dataset, Dataset]:
    """The digits that the demo trains on, and those it holds out."""
    prepared = prepare({"data": {"path": "digits", "held_out": 0.25}}, preset_name="digits")
    assert prepared.held_out is not None
    return prepared.training, prepared.held_out


def flat(pictures: Dataset) -> np.ndarray:
    return pictures.images.reshape(len(pictures), -1) / 255


def images(pictures: Dataset) -> torch.Tensor:
    return torch.from_numpy(pictures.images)


def labels(pictures: Dataset) -> torch.Tensor:
    assert pictures.labels is not None
    return pictures.labels


def test_one_object_for_machines_and_pictures_for_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "demo"
    assert main(["demo", "--out", str(out), "--json", *QUICK, "--set", "train.steps=2"]) == 0
    printed, err = capsys.readouterr()
    told = json.loads(printed)
    assert list(told) == ["run", "confirmed", "confirmed_real", "frechet", "frechet_floor", "seconds"]
    assert printed.count("\n") == 1 and told["run"] == str(out)
    assert 0 <= told["confirmed"] < 0.5 < told["confirmed_real"] <= 1
    assert 0 < told["frechet_floor"] < told["frechet"] and told["seconds"] > 0
    assert "1,346 pictures as 8x8x1, 10 classes" in err
    for name, size in [("demo-samples.png", (808, 408)), ("demo-real.png", (808, 408))]:
        with Image.open(out / name) as picture:
            assert picture.size == size, "ten rows of twenty digits, enlarged four times"
    with Image.open(out / "demo-loss.png") as picture:
        assert picture.size == (770, 440)
    # The same again finds it trained, and says the same of it to people.
    assert main(["demo", "--out", str(out), *QUICK, "--set", "train.steps=2"]) == 0
    printed, err = capsys.readouterr()
    assert "the run is at its end: 2 steps" in err
    assert f"label confirmed by the nearest real digit: {told['confirmed']:.1%} of 451 samples" in printed
    assert f"{told['frechet']:.3f} (of as many other real digits: {told['frechet_floor']:.3f})" in printed
    assert f"next: fromnoise sample {out} --label 7 --out sevens.png" in printed


@pytest.mark.parametrize("moment", ["train", "sample"])
@pytest.mark.usefixtures("undisturbed")
def test_ctrl_c_saves_says_how_to_go_on_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], moment: str
) -> None:
    words = ["demo", "--out", str(tmp_path / "demo"), "--json", *QUICK, "--set", "train.steps=3"]

    def pressed(*_: Any) -> float:
        signal.raise_signal(signal.SIGINT)
        return 1e-3

    place = {"train": "fromnoise.train.Learner.rate", "sample": "fromnoise.task.demo.open_run"}[moment]
    with monkeypatch.context() as patch:
        if moment == "train":
            patch.setattr(place, pressed)
        else:
            from fromnoise.run import open_run

            patch.setattr(place, lambda *a, **k: (pressed(), open_run(*a, **k))[1])
        assert main(words) == 130
    printed, err = capsys.readouterr()
    images = 8 if moment == "train" else 24
    said = json.loads(printed)  # One object in any case.
    assert said == {"run": str(tmp_path / "demo"), "step": images // 8, "images": images, "finished": False}
    assert f"fromnoise: stopped and saved at {images} pictures in {tmp_path / 'demo'}; go on with: " in err
    assert not (tmp_path / "demo" / "demo-samples.png").exists()
    assert main(words) == 0


def test_the_demo_needs_its_digits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--out", str(tmp_path / "demo"), "--set", "data.held_out=0"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("fromnoise: the demo scores against held-out pictures with labels")
    assert not (tmp_path / "demo").exists()


def test_what_is_held_out_is_not_trained_on(parts: tuple[Dataset, Dataset]) -> None:
    training, held_out = parts
    assert (len(training), len(held_out)) == (1346, 451)
    both = np.concatenate([training.images, held_out.images])
    everything = tiny.digits(1797).images
    assert sorted(map(bytes, both)) == sorted(map(bytes, everything))


def test_confirmed_is_a_1_nearest_neighbour_classifier(parts: tuple[Dataset, Dataset]) -> None:
    training, held_out = parts
    oracle = KNeighborsClassifier(1).fit(flat(training), labels(training).numpy())
    made = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (300, 1, 8, 8), dtype=np.uint8))
    wanted = torch.arange(300) % 10
    found = score(made, wanted, training, held_out)
    assert found["confirmed_real"] == oracle.score(flat(held_out), labels(held_out).numpy())
    assert found["confirmed"] == oracle.score(made.flatten(1).numpy() / 255, wanted.numpy())
    assert found["confirmed_real"] > 0.95 and found["confirmed"] < 0.3


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    """The textbook formula, with SciPy's matrix root."""
    root = scipy.linalg.sqrtm(np.cov(a.T) @ np.cov(b.T) + 1e-12 * np.eye(64))
    covariances = np.trace(np.cov(a.T)) + np.trace(np.cov(b.T)) - 2 * np.trace(root).real
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + covariances)


def test_real_digits_score_as_real_digits(parts: tuple[Dataset, Dataset]) -> None:
    training, held_out = parts
    itself = score(images(held_out), labels(held_out), training, held_out)
    assert itself["frechet"] == pytest.approx(0, abs=1e-9)
    assert itself["confirmed"] == itself["confirmed_real"]
    known = score(images(training), labels(training), training, held_out)
    assert known["confirmed"] == 1.0, "every training digit is its own nearest neighbour"
    chance = np.random.default_rng(1)
    floors = []
    for _ in range(4):
        some = chance.permutation(len(training))[: len(held_out)]
        floors.append(score(images(training.subset(some)), labels(training)[some], training, held_out)["frechet"])
    assert itself["frechet_floor"] == pytest.approx(sum(floors) / 4, rel=0.25)
    some = np.random.RandomState(0).permutation(len(training))[: len(held_out)]
    assert itself["frechet_floor"] == pytest.approx(frechet(flat(training.subset(some)), flat(held_out)), abs=1e-4)
    inverted = score(255 - images(held_out), labels(held_out), training, held_out)
    assert inverted["frechet"] == pytest.approx(frechet(1 - flat(held_out), flat(held_out)), rel=1e-5)
    assert inverted["frechet"] > 20 * itself["frechet_floor"]


def test_wrong_labels_are_not_confirmed(parts: tuple[Dataset, Dataset]) -> None:
    training, held_out = parts
    shifted = (labels(held_out) + 1) % 10
    assert score(images(held_out), shifted, training, held_out)["confirmed"] < 0.05
    mislabelled = tiny.other(held_out, labels=shifted)
    assert score(images(held_out), labels(held_out), training, mislabelled)["confirmed_real"] < 0.05


def test_there_is_no_curve_without_metrics(tmp_path: Path) -> None:
    with pytest.raises(FromnoiseError, match=r"metrics\.jsonl has no lines yet, so there is no curve to draw"):
        plot_loss(tmp_path, tmp_path / "loss.png")


def test_the_curve_is_drawn_from_what_was_measured(tmp_path: Path) -> None:
    tiny.run(tiny.config(steps=45, report_every=1), tmp_path)
    with Image.open(plot_loss(tmp_path, tmp_path / "new" / "loss.png")) as picture:
        colours = {colour for _, colour in picture.convert("RGB").getcolors(100_000) or []}
    assert {(155, 184, 211), (31, 78, 121)} <= colours, "the reports and their running mean"
