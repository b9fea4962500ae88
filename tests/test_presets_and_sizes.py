"""A preset says how large pictures are: smaller ones are not enlarged unasked, larger ones are reduced in one line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests import tiny

from fromnoise.cli import main
from fromnoise.config import preset, presets
from fromnoise.errors import WrongUse
from fromnoise.schema import merge
from fromnoise.task.estimate_plan import plan
from fromnoise.task.prepare import prepare, settle

Size = tuple[int, int]
Say = Callable[..., tuple[int, str, str]]
SMALL: dict[str, Any] = {"network": {"model_channels": 8, "attention_resolutions": []}, "train": {"steps": 1}}
SHAPES: dict[str, list[Size]] = {
    "alike": [(20, 24)] * 3,
    "most": [(20, 24), (20, 24), (40, 40)],
    "half": [(20, 24), (40, 40)],
    "few": [(20, 24), (40, 40), (64, 48)],
    "exact": [(32, 32)] * 2,
    "one side": [(20, 90)] * 2,
    "larger": [(48, 64)] * 2,
    "mixed": [(48, 64), (64, 48), (33, 33)],
}
ASKED = "leave out --preset, or say --resolution 32 to have them enlarged"


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Say:
    """Run the command line in this process, in a folder of its own: (exit code, stdout, stderr)."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def run(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([str(word) for word in words])
        out, err = capsys.readouterr()
        return code, out, err

    return run


def folder(place: Path, sizes: list[Size]) -> Path:
    """Pictures of noise, (height, width) each."""
    chance = np.random.default_rng(0)
    place.mkdir()
    for k, size in enumerate(sizes):
        Image.fromarray(chance.integers(0, 256, (*size, 3), dtype=np.uint8)).save(place / f"{k}.png")
    return place


def mine(place: Path, height: int = 32, width: int = 32) -> Path:
    """A preset of a person's own, with a small network for pictures of this size."""
    return tiny.preset(place, SMALL, {"data": {"height": height, "width": width, "channels": 3, "class_names": []}})


# ----------------------------------------------------------------------------------------------------------- enlarging


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ["train", "--preset", "cifar10", "--steps", "2"],
            f"cifar10 is for 32x32 pictures, and these are 8x8: {ASKED}",
        ),
        (["train", "--preset", "cifar10", "--dry-run"], f"cifar10 is for 32x32 pictures, and these are 8x8: {ASKED}"),
        (["estimate", "--preset", "small32"], f"small32 is for 32x32 pictures, and these are 8x8: {ASKED}"),
    ],
)
def test_digits_are_not_enlarged_unasked(say: Say, words: list[str], line: str) -> None:
    command, *rest = words
    assert say(command, "digits", *rest) == (2, "", f"fromnoise: preset {line}\n")
    assert not list(Path().iterdir())


@pytest.mark.parametrize("name", sorted(set(presets()) - {"digits"}))
def test_every_shipped_preset_for_larger_pictures_refuses_the_digits(name: str) -> None:
    side = preset(name)["data"]["height"]
    with pytest.raises(WrongUse) as caught:
        plan({"data": {"path": "digits"}}, preset_name=name)
    assert str(caught.value) == (
        f"preset {name} is for {side}x{side} pictures, and these are 8x8: leave out --preset, or say "
        f"--resolution {side} to have them enlarged"
    )


def test_what_the_line_advises_works(say: Say, tmp_path: Path) -> None:
    """Of a person's own file, named as it was said."""
    pictures, file = folder(tmp_path / "pictures", [(20, 24)] * 3), mine(tmp_path)
    words = ["train", pictures, "--steps", "1", "--set", "train.sample_every=0"]
    code, out, err = say(*words, "--preset", file)
    assert (code, out) == (2, "") and not list(Path().iterdir())
    assert err == f"fromnoise: preset {file} is for 32x32 pictures, and these are 20x24: {ASKED}\n"
    code, _, err = say(*words, "--preset", file, "--resolution", "32", "--out", "enlarged")
    assert code == 0 and "3 pictures as 32x32x3" in err
    less = ["network.model_channels=8", "network.attention_resolutions=[]", "train.batch_size=3"]
    code, _, err = say(*words, *(word for one in less for word in ("--set", one)), "--out", "chosen")
    assert code == 0 and "3 pictures as 16x16x3" in err


def test_a_size_that_is_not_square_is_advised_as_it_is(say: Say, tmp_path: Path) -> None:
    pictures, file = folder(tmp_path / "pictures", [(20, 24)]), mine(tmp_path, 32, 64)
    words = ["train", pictures, "--preset", file, "--steps", "1", "--dry-run"]
    assert "32x64 pictures, and these are 20x24: leave out --preset, or say --resolution 32x64 to" in say(*words)[2]
    assert say(*words, "--resolution", "32x64")[0] == 0


@pytest.mark.parametrize("said", [{"height": 32}, {"width": 32}, {"height": 32, "width": 32}])
def test_whoever_says_a_size_has_asked(said: dict[str, int]) -> None:
    config, _ = settle({"data": {"path": "digits", **said}}, preset_name="cifar10", source="test")
    assert (config.data.height, config.data.width) == (32, 32)


@pytest.mark.parametrize("which", SHAPES)
def test_refused_is_what_would_enlarge_most_of_the_pictures(tmp_path: Path, which: str) -> None:
    """Smaller on both sides, and more than half of them; by what enlarges them, a scale above 1 on both sides."""
    tree = {"data": {"path": str(folder(tmp_path / "pictures", SHAPES[which]))}}
    enlarged = sum(32 / height > 1 and 32 / width > 1 for height, width in SHAPES[which])
    if enlarged > len(SHAPES[which]) / 2:
        these = "these are 20x24" if which == "alike" else "most of these are smaller, 20x24 for one"
        with pytest.raises(WrongUse, match=rf"^preset cifar10 is for 32x32 pictures, and {these}: leave out --preset,"):
            settle(tree, preset_name="cifar10", source="test")
    else:
        assert which not in ("alike", "most")
        assert settle(tree, preset_name="cifar10", source="test")[0].data.height == 32


def test_a_large_size_is_held_against_the_pictures_not_against_the_usual_ones(tmp_path: Path) -> None:
    """The largest size chosen unasked is 64; pictures of 260 are not enlarged to 256."""
    tree = {"data": {"path": str(folder(tmp_path / "pictures", [(260, 300)]))}}
    assert settle(tree, preset_name="lsun256", source="test")[0].data.width == 256


def test_mistakes_in_settings_and_unreadable_pictures_are_told_first(tmp_path: Path) -> None:
    with pytest.raises(WrongUse, match=r"^test: \[train\] stepz"):
        settle({"data": {"path": "digits"}, "train": {"stepz": 3}}, preset_name="cifar10", source="test")
    bad = folder(tmp_path / "bad", [])
    (bad / "bad.png").write_bytes(b"\x89PNG nonsense")
    with pytest.raises(WrongUse, match="none of the 1 pictures can be read"):
        prepare({"data": {"path": str(bad)}}, preset_name="cifar10")


def test_a_run_that_goes_on_is_not_refused(say: Say, tmp_path: Path) -> None:
    """It was begun when nobody was asked, or by a --resolution that is left out now: the size is the run's own."""
    pictures, file = folder(tmp_path / "pictures", [(20, 24)] * 3), mine(tmp_path)
    words = ["train", pictures, "--preset", file, "--out", "run"]
    assert say(*words, "--steps", "1", "--resolution", "32")[0] == 0
    assert say(*words, "--steps", "2", "--dry-run")[0] == 0
    (Path("run") / "config.toml").unlink()  # Its checkpoint knows the size, too.
    code, _, err = say(*words, "--steps", "2")
    assert code == 0 and "going on at step 1 of 2" in err
    code, _, err = say(*words[:-1], "other", "--steps", "2")
    assert code == 2 and ASKED in err


# ------------------------------------------------------------------------------------------------------------ reducing


@pytest.mark.parametrize(
    ("which", "remark"),
    [
        ("larger", "pictures of 48x64 are reduced to 32x32, as the preset {} says"),
        ("mixed", "larger pictures are reduced to 32x32, as the preset {} says"),
        ("few", "larger pictures are reduced to 32x32, as the preset {} says"),
        ("half", None),
        ("exact", None),
        ("one side", None),
    ],
)
def test_larger_pictures_are_reduced_and_it_is_told(tmp_path: Path, which: str, remark: str | None) -> None:
    file = mine(tmp_path)
    tree = {"data": {"path": str(folder(tmp_path / "pictures", SHAPES[which]))}}
    prepared = prepare(tree, preset_name=str(file))
    assert prepared.remarks == (() if remark is None else (remark.format(file),))
    said = merge(tree, {"data": {"height": 32, "width": 32}})
    assert prepare(said, preset_name=str(file)).remarks == ()


def test_the_line_is_printed_once_and_not_when_the_run_goes_on(say: Say, tmp_path: Path) -> None:
    pictures, file = folder(tmp_path / "pictures", [(48, 64)] * 3), mine(tmp_path)
    words = ["train", pictures, "--preset", file, "--out", "run"]
    line = f"fromnoise: pictures of 48x64 are reduced to 32x32, as the preset {file} says"
    planned = say(*words, "--steps", "1", "--dry-run")
    assert planned[0] == 0 and planned[2].splitlines() == [line]
    code, _, err = say(*words, "--steps", "1")
    assert code == 0 and err.splitlines().count(line) == 1
    code, _, err = say(*words, "--steps", "2")
    assert code == 0 and "are reduced" not in err


def test_pictures_of_the_very_size_are_not_spoken_of() -> None:
    for name in ("digits", None):
        remarks = prepare({"data": {"path": "digits"}}, preset_name=name).remarks
        assert not any("reduced" in remark for remark in remarks)
