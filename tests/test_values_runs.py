"""Runs on pictures with numbers and sets of labels: trained, resumed, sampled, scored, from files to pictures."""

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests import tiny

from fromnoise.checkpoint import RunFolder
from fromnoise.cli import main
from fromnoise.config import Config
from fromnoise.data import Dataset
from fromnoise.data.quantities import quantities
from fromnoise.errors import FromnoiseError, WrongUse
from fromnoise.run import open_run
from fromnoise.task import compare
from fromnoise.task.likelihood import MeasuredLikelihood, likelihood
from fromnoise.task.prepare import known_pictures, open_alike, prepare
from fromnoise.task.scored import scored_pictures, values_of

Said = tuple[int, str, str]
Say = Callable[..., Said]

# A schedule and a target with which a small network learns in a second how bright pictures should be.
QUICK: dict[str, Any] = {
    "data": {"class_names": []},
    "network": {"model_channels": 16, "attention_resolutions": []},
    "schedule": {"kind": "cosine", "steps": 20},
    "parameterization": "velocity",
    "train": {"batch_size": 16, "lr": 1e-2, "warmup": 5, "ema_decay": 0.9, "label_dropout": 0.1},
}
LUX = 'data.columns.values=["lux"]'


@pytest.fixture
def say(capfd: pytest.CaptureFixture[str]) -> Say:
    def run(*words: object) -> Said:
        capfd.readouterr()
        code = main([str(word) for word in words])
        out, err = capfd.readouterr()
        return code, out, err

    return run


def bright(path: Path, count: int = 96) -> Path:
    """Pictures of one brightness each, 20 + 20 · lux with lux in 0 … 10, as arrays."""
    chance = np.random.default_rng(0)
    lux = chance.uniform(0, 10, count).astype(np.float32)
    images = np.clip(20 + 20 * lux[:, None, None] + chance.normal(0, 4, (count, 8, 8)), 0, 255)
    np.savez(path, images=images.astype(np.uint8), lux=lux)
    return path


def sides(folder: Path, count: int = 24) -> Path:
    """PNGs that are bright at the top, at the left, both or neither, and a table that says so, with captions."""
    folder.mkdir()
    with (folder / "said.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file", "labels", "caption"])
        for k in range(count):
            array = np.full((8, 8), 10, np.uint8)
            array[:4] += 200 * (k % 2)
            array[:, :4] += 40 * (k % 4 > 1)
            Image.fromarray(array).save(folder / f"{k:02d}.png")
            labels = [name for name, has in (("top", k % 2), ("left", k % 4 > 1), ("c++", k == 5)) if has]
            table.writerow([f"{k:02d}.png", ";".join(["any", *labels]), f"picture\nno. {k}, “grün”"])
    return folder


@pytest.fixture(scope="module")
def lit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that knows how bright its pictures are."""
    place = tmp_path_factory.mktemp("lit")
    preset = tiny.preset(place, QUICK)
    words = ["train", bright(place / "light.npz"), "--set", LUX, "--preset", preset, "--steps", 60]
    assert main([str(word) for word in [*words, "--out", place / "run"]]) == 0
    return place / "run"


@pytest.fixture(scope="module")
def sided(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on sets of labels."""
    place = tmp_path_factory.mktemp("sided")
    preset = tiny.preset(place, QUICK)
    words = ["train", sides(place / "pictures"), "--labels", place / "pictures" / "said.csv", "--preset", preset]
    assert main([str(word) for word in [*words, "--steps", 2, "--out", place / "run"]]) == 0
    return place / "run"


def one_line(said: Said) -> str:
    code, out, err = said
    (line,) = err.splitlines()
    assert code == 2 and out == "" and line.startswith("fromnoise: ") and "fault of fromnoise" not in line
    return line.removeprefix("fromnoise: ")


# ------------------------------------------------------------------------------------------------------------ learning


def test_pictures_are_as_bright_as_is_asked_for(lit: Path) -> None:
    run, wanted = open_run(lit), np.linspace(1, 9, 16)
    found = (run.sample(16, values={"lux": wanted.tolist()}).mean((1, 2, 3)) - 20) / 20
    assert np.corrcoef(wanted, found)[0, 1] > 0.8
    assert found[wanted > 6].mean() - found[wanted < 4].mean() > 3
    apart = run.sample(16, values={"lux": 5.0}).astype(int) - run.sample(16, values={"lux": 6.5}).astype(int)
    assert apart.mean() < -10  # The same noise, told to be brighter.


def test_guidance_pushes_further_the_same_way(lit: Path) -> None:
    run = open_run(lit)
    pushed = run.sampled_as(guidance=2.5)
    low, high = (each.sample(8, values={"lux": 2.0}).mean() for each in (pushed, run))
    assert low < high - 5
    low, high = (each.sample(8, values={"lux": 8.0}).mean() for each in (run, pushed))
    assert low < high - 5


# ----------------------------------------------------------------------------------------------------- the run, resumed


def prepared(place: Path, **train: Any) -> tuple[Config, Dataset]:
    """The values are those of pictures with classes, half of which are held out."""
    if not (place / "light.npz").exists():
        bright(place / "light.npz", 40)
        with np.load(place / "light.npz") as arrays:
            np.savez(place / "light.npz", **arrays, labels=np.arange(40) % 4)
    own = {"path": str(place / "light.npz"), "columns": {"values": ["lux"]}, "classes": True, "held_out": 0.5}
    made = prepare({**QUICK, "data": own, "train": {**QUICK["train"], **train}}, preset_name=None)
    return made.config, made.training


SMALL: dict[str, Any] = {"steps": 6, "accumulate": 2, "label_dropout": 0.4, "sample_every": 0}


def test_stopped_and_gone_on_with_is_as_if_never_stopped(tmp_path: Path) -> None:
    config, pictures = prepared(tmp_path, **SMALL)
    assert pictures.values is not None and config.data.class_names == ("0", "1", "2", "3")
    exact = pictures.values.double().mean().item()
    assert config.data.quantities.mean == (pytest.approx(exact),)  # Of those trained on, not of those held out.
    tiny.run(config, tmp_path / "straight", pictures=pictures)
    tiny.run(config, tmp_path / "stopped", pictures=pictures, stop_at=3)
    config, pictures = prepared(tmp_path, **SMALL)  # From the files again, as another process would.
    tiny.run(config, tmp_path / "stopped", pictures=pictures)
    tiny.assert_same_run(tmp_path / "stopped", tmp_path / "straight")
    opened = open_run(tmp_path / "stopped")
    assert opened.pipeline.quantities == config.data.quantities
    assert any(name.startswith("ema/values.") for name in tiny.weights(tmp_path / "stopped"))


def test_other_values_are_another_run(tmp_path: Path) -> None:
    config, pictures = prepared(tmp_path, **SMALL)
    tiny.run(config, tmp_path / "run", pictures=pictures, stop_at=2)
    with np.load(tmp_path / "light.npz") as arrays:
        np.savez(tmp_path / "light.npz", **{**arrays, "lux": arrays["lux"] + 1})
    config, pictures = prepared(tmp_path, **SMALL)
    with pytest.raises(WrongUse, match=r"was started with other settings: data\.quantities"):
        tiny.run(config, tmp_path / "run", pictures=pictures)


# ---------------------------------------------------------------------------------------------------- the command line


def test_values_from_arrays_to_pictures(say: Say, tmp_path: Path, lit: Path) -> None:
    out = tmp_path / "a.npz"
    code, text, _ = say("sample", lit, "-n", 4, "--value", "lux=2,8", "--json", "--out", out)
    assert code == 0 and json.loads(text)["values"] == [{"lux": 2}, {"lux": 8}] * 2
    with np.load(out) as arrays:
        assert arrays["values"].tolist() == [[2], [8]] * 2
        assert np.array_equal(arrays["images"], open_run(lit).sample(4, values={"lux": [2, 8]}))
    assert say("sample", lit, "-n", 9, "--out", tmp_path / "b")[0] == 0
    rows = list(csv.reader((tmp_path / "b" / "values.csv").read_text().splitlines()))
    examples = open_run(lit).pipeline.quantities.examples
    assert rows[0] == ["file", "lux"] and [row[0] for row in rows[1:]] == [f"{k:06d}.png" for k in range(9)]
    assert [float(row[1]) for row in rows[1:]] == [example[0] for example in (*examples, examples[0])]


def test_sets_of_labels_from_a_table_to_pictures(say: Say, tmp_path: Path, sided: Path) -> None:
    run = open_run(sided)
    assert run.classes == () and run.pipeline.quantities.names == ("any", "c++", "left", "top")
    out = tmp_path / "a.npz"
    assert say("sample", sided, "-n", 4, "--label", "top+left,c++, any", "--out", out)[0] == 0
    with np.load(out) as arrays:
        assert arrays["values"].tolist() == [[0, 0, 1, 1], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 1]]
    words = ["sample", sided, "-n", 1, "--label", "top", "--value", "left=0.5", "--value", "c++=1"]
    assert json.loads(say(*words, "--json", "--out", tmp_path / "b.npz")[1])["values"] == [
        {"any": 0, "c++": 1, "left": 0.5, "top": 1}
    ]


def test_what_lies_beyond_and_what_is_not_said_is_told(say: Say, tmp_path: Path, lit: Path) -> None:
    code, _, err = say("sample", lit, "-n", 1, "--value", "lux=99", "--out", tmp_path / "a.png")
    assert code == 0 and "fromnoise: lux = 99 lies outside of what the training pictures have" in err
    config, pictures = prepared(tmp_path, **SMALL)
    assert pictures.values is not None
    values = torch.cat([pictures.values, 2 * pictures.values], dim=1)
    more = tiny.other(pictures, values=values, value_names=("lux", "other"))
    known = quantities(values, more.value_names)
    tiny.run(replace(config, data=replace(config.data, quantities=known)), tmp_path / "two", pictures=more)
    code, out, err = say("sample", tmp_path / "two", "-n", 1, "--value", "lux=5", "--json", "--out", tmp_path / "b.npz")
    assert code == 0 and f"not said, so at its mean: other = {known.mean[1]:g}" in err
    assert json.loads(out)["values"] == [{"lux": 5, "other": known.mean[1]}]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--value", "lux"], "--value lux: should look like NAME=NUMBER, for one lux="),
        (["--value", "lux=high"], "--value lux=high: should look like NAME=NUMBER"),
        (["--value", "=3"], "--value =3: should look like NAME=NUMBER"),
        (["--value", "lax=3"], "--value lax=3: no such value; did you mean 'lux'?"),
        (["--value", "lux=inf"], "the value lux = inf: must be a finite number"),
        (["--label", "top"], "--label top: this model was trained without classes; what it knows of its pictures is"),
    ],
)
def test_wrong_wishes_of_values(say: Say, tmp_path: Path, lit: Path, words: list[str], complaint: str) -> None:
    assert one_line(say("sample", lit, "-n", 1, *words, "--out", tmp_path / "a.png")).startswith(complaint)
    assert not (tmp_path / "a.png").exists()


def test_wrong_wishes_of_sets(say: Say, tmp_path: Path, sided: Path) -> None:
    wish = ["sample", sided, "-n", 1, "--out", tmp_path / "a.png", "--label"]
    assert one_line(say(*wish, "top+lefd")) == "--label lefd: no such label; did you mean 'left'?"
    assert one_line(say(*wish, "")).startswith("--label : no such label")
    bare = tiny.other(tiny.digits(8), labels=None, classes=())
    tiny.run(tiny.config(QUICK, steps=1), tmp_path / "plain", pictures=bare)
    words = ["sample", tmp_path / "plain", "-n", 1, "--out", tmp_path / "a.png", "--value", "lux=1"]
    assert one_line(say(*words)) == "--value lux=1: this model was trained without values"


def test_between_two_pictures_nothing_is_said_if_that_was_learnt(say: Say, tmp_path: Path, lit: Path) -> None:
    for k in range(2):
        Image.fromarray(np.full((8, 8), 100 * k + 30, np.uint8)).save(tmp_path / f"{k}.png")
    words = ["-n", 3, "--interpolate", tmp_path / "0.png", tmp_path / "1.png", "--json", "--out"]
    code, out, _ = say("sample", lit, *words, tmp_path / "a.npz")
    assert code == 0 and "values" not in json.loads(out)
    config, pictures = prepared(tmp_path, **{**SMALL, "steps": 1, "label_dropout": 0.0})
    tiny.run(config, tmp_path / "run", pictures=pictures)
    line = one_line(say("sample", tmp_path / "run", *words, tmp_path / "b.npz", "--label", "1"))
    assert line.startswith("--interpolate needs --value")
    said = say("sample", tmp_path / "run", *words, tmp_path / "b.npz", "--label", "1", "--value", "lux=3")
    assert said[0] == 0 and json.loads(said[1])["values"] == [{"lux": 3}] * 3


def test_guidance_is_refused_where_values_were_never_hidden(say: Say, tmp_path: Path) -> None:
    config, pictures = prepared(tmp_path, **{**SMALL, "steps": 1, "label_dropout": 0.0})
    bare = tiny.other(pictures, labels=None, classes=(), values=pictures.values, value_names=pictures.value_names)
    tiny.run(replace(config, data=replace(config.data, class_names=())), tmp_path / "run", pictures=bare)
    line = one_line(say("sample", tmp_path / "run", "-n", 1, "--guidance", 2, "--out", tmp_path / "a.png"))
    assert "this model has never gone without values (train.label_dropout = 0)" in line


@pytest.mark.parametrize(
    ("arrays", "complaint"),
    [
        ({"lux": np.ones(8)}, "light.npz: all pictures have the same values (lux), so nothing can be learnt of them"),
        ({"luv": np.arange(8.0)}, "has no array lux; did you mean 'luv'?"),
        ({"lux": np.arange(8.0) * 1e300}, "some of the values lux are too large"),
    ],
)
def test_values_that_cannot_be_learnt_make_no_run(
    say: Say, tmp_path: Path, arrays: dict[str, np.ndarray], complaint: str
) -> None:
    content: dict[str, Any] = {"images": np.zeros((8, 8, 8), np.uint8), **arrays}
    np.savez(tmp_path / "light.npz", **content)
    words = ["train", tmp_path / "light.npz", "--set", LUX, "--preset", tiny.preset(tmp_path, QUICK)]
    assert complaint in one_line(say(*words, "--out", tmp_path / "run"))
    assert not (tmp_path / "run").exists()


# ----------------------------------------------------------------------------------------------------- scored pictures


def test_pictures_that_are_scored_are_told_with_their_own_values(tmp_path: Path, lit: Path) -> None:
    run = open_run(lit)
    own = known_pictures(run.config, None).pictures
    assert own.values is not None
    batch = scored_pictures(run, own, limit=5, batch_size=5, seed=0, names=None)
    (only,) = batch
    assert torch.equal(only.condition["values"], own.values[only.indices])

    def bits(data: Dataset) -> float:
        *_, last = likelihood(run, data, limit=24, batch_size=24)
        assert isinstance(last, MeasuredLikelihood)
        return last.bits_per_dim

    wrong = tiny.other(own, labels=None, values=10 - own.values, value_names=own.value_names)
    none = tiny.other(own, labels=None)
    assert bits(own) < bits(wrong) and bits(own) != bits(none)


def test_columns_are_matched_by_name(sided: Path) -> None:
    run = open_run(sided)  # It knows any, c++, left and top.
    known = known_pictures(run.config, None).pictures
    assert known.values is not None
    order = [3, 0, 2]
    fewer = tiny.other(known, labels=None, values=known.values[:, order], value_names=("top", "any", "left"))
    found = values_of(run, fewer)
    expected = known.values.clone()
    expected[:, 1] = 0  # A label that none of the pictures has.
    assert found is not None and torch.equal(found, expected)
    strange = tiny.other(known, labels=None, values=known.values[:, :1], value_names=("tob",))
    with pytest.raises(WrongUse, match=r"value 'tob' is not one of the model's; did you mean 'top'\?"):
        values_of(run, strange)


def test_numbers_that_are_missing(tmp_path: Path, lit: Path) -> None:
    run = open_run(lit)
    bare = tiny.other(tiny.digits(8), labels=None, classes=())
    assert values_of(run, bare) is None  # It was trained to do without.
    part = tiny.other(bare, values=torch.zeros(8, 0), value_names=())
    with pytest.raises(WrongUse, match="these pictures have no value 'lux'"):
        values_of(run, part)
    config, pictures = prepared(tmp_path, **{**SMALL, "steps": 1, "label_dropout": 0.0})
    tiny.run(config, tmp_path / "run", pictures=pictures)
    with pytest.raises(WrongUse, match=r"trained with values only \(train.label_dropout = 0\)"):
        values_of(open_run(tmp_path / "run"), bare)


def test_other_pictures_are_read_as_the_run_s_own_were(tmp_path: Path, lit: Path, sided: Path) -> None:
    """By the columns of its arrays, by the table of the same name that lies with them; never by another's table."""
    arrays = known_pictures(open_run(lit).config, str(bright(tmp_path / "more.npz", 12))).pictures
    assert arrays.value_names == ("lux",) and arrays.values is not None and len(arrays.values) == 12
    config = open_run(sided).config
    other = sides(tmp_path / "other", 8)
    pictures = known_pictures(config, str(other)).pictures
    assert pictures.value_names == ("any", "c++", "left", "top") and pictures.values is not None
    assert pictures.values[:4].tolist() == [[1, 0, 0, 0], [1, 0, 0, 1], [1, 0, 1, 0], [1, 0, 1, 1]]
    (other / "said.csv").unlink()
    assert known_pictures(config, str(other)).pictures.values is None
    assert open_alike(config.data, "digits").labels is not None  # Has no columns and takes none.


def test_a_split_counts_where_there_are_splits(tmp_path: Path) -> None:
    data = tiny.config({"data": {"split": "train", "path": "elsewhere"}}).data
    assert len(open_alike(data, str(sides(tmp_path / "folder", 4)))) == 4
    with pytest.raises(WrongUse, match="no folder"):
        open_alike(data, str(tmp_path / "nowhere"))


def test_compare_draws_pictures_with_the_values_of_the_real_ones(say: Say, tmp_path: Path, lit: Path) -> None:
    run = open_run(lit)
    real = known_pictures(run.config, None).pictures
    assert real.values is not None
    rows = compare._values(run, real, 12)
    assert rows == [real.values[k * 96 // 12].tolist() for k in range(12)]
    bare = tiny.other(real, labels=None)
    assert compare._values(run, bare, 3) == [list(example) for example in run.pipeline.quantities.examples[:3]]
    words = ["compare", lit, "-n", 8, "--samplers", "ddim", "--steps", 5, "--out", tmp_path / "compare"]
    assert say(*words)[0] == 0


# ------------------------------------------------------------------------------------------------------------ captions


def test_captions_go_with_the_pictures_that_are_trained_on(tmp_path: Path) -> None:
    table = sides(tmp_path / "pictures", 12) / "said.csv"
    own = {"path": str(tmp_path / "pictures"), "labels": str(table), "held_out": 0.25}
    made = prepare({**QUICK, "data": own}, preset_name=None)
    assert made.captions is not None and len(made.captions) == len(made.training) == 9
    for name, caption in made.captions:
        assert caption == f"picture\nno. {int(Path(name).stem)}, “grün”"
    assert prepare({**QUICK, "data": {"path": "digits"}}, preset_name=None).captions is None


def test_captions_are_kept_as_they_are_one_a_line(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    captions = [("a.png", "two\nlines, “grün”"), ("b.png", ""), ("c.png", "no UTF-8: \udcff"), ("d.png", '{"\u2028\\')]
    folder.write_captions(iter(captions))
    lines = folder.captions.read_bytes().decode().split("\n")
    assert lines.pop() == "" and [tuple(json.loads(line).values()) for line in lines] == captions
    assert "grün" in lines[0] and json.loads(lines[0]).keys() == {"name", "caption"}
    assert [path.name for path in tmp_path.iterdir()] == ["captions.jsonl"]  # Nothing is left beside it.
    folder.write_captions(None)  # Another start, on pictures without.
    folder.write_captions(None)
    assert not folder.captions.exists()
    (tmp_path / "captions.jsonl").mkdir()
    with pytest.raises(FromnoiseError, match="cannot write to"):
        folder.write_captions(captions)


def test_pictures_that_were_sampled_are_a_data_set_with_their_values(say: Say, tmp_path: Path, lit: Path) -> None:
    out = tmp_path / "drawn"
    assert say("sample", lit, "-n", 6, "--value", "lux=1,4,9", "--out", out)[0] == 0
    words = ["train", out, "--labels", out / "values.csv", "--set", LUX, "--preset", tiny.preset(tmp_path, QUICK)]
    assert say(*words, "--steps", 1, "--out", tmp_path / "again")[0] == 0
    kept = open_run(tmp_path / "again").pipeline.quantities
    assert kept.names == ("lux",) and (kept.low, kept.high) == ((1,), (9,))
    assert kept.mean[0] == pytest.approx(14 / 3)
