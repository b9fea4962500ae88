"""``fromnoise inspect`` as a shell sees it: exit codes, what it prints and writes, what it refuses in one line."""

import csv
import importlib
import json
import multiprocessing
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from fromnoise import cli
from fromnoise.cli import main
from fromnoise.data import Source
from fromnoise.data import open as opening
from fromnoise.task.prepare import settle

verb: Any = importlib.import_module("fromnoise.verb.inspect")  # as names in their package these are functions
train: Any = importlib.import_module("fromnoise.verb.train")
Say = Callable[..., tuple[int, str, str]]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to stand in."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two classes of 60x90, a copy, a near copy, a broken one, and a table that says something else."""
    root = tmp_path / "data"
    for k in range(6):
        small = np.random.default_rng(k).integers(0, 256, (5, 5, 3), dtype=np.uint8)
        path = root / ("cat" if k % 2 else "dog") / f"{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(small).resize((90, 60), Image.Resampling.BICUBIC).save(path)
    with Image.open(root / "dog" / "0.png") as image:
        image.save(root / "dog" / "near.jpg", quality=95)
    (root / "dog" / "same.png").write_bytes((root / "dog" / "0.png").read_bytes())
    (root / "dog" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with (root / "said.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["file", "kind", "caption", "weight"])
        rows.writerows([f"{'cat' if k % 2 else 'dog'}/{k}.png", f"kind {k % 3}", f"number {k}", k] for k in range(6))
    return root


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    def run(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(["inspect", *[str(word) for word in words]])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def one_line(said: tuple[int, str, str], code: int = 2) -> str:
    found, out, err = said
    (line,) = err.splitlines()
    assert (found, out) == (code, "") and line.startswith("fromnoise: ") and "fault of fromnoise" not in line
    return line


# ------------------------------------------------------------------------------------------------- what it says, writes


def test_it_says_what_there_is_and_how_to_go_on(say: Say, data: Path, here: Path) -> None:
    code, out, _ = say(data, "--classes", "--fit", "pad", "--set", "data.background=[0,0,0]")
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == "  8 of 9 pictures can be used"
    assert any(re.match(r"! 1 picture cannot be read \(1 cut short\): dog/broken.png ", line) for line in lines)
    assert "! 1 picture is an exact copy of another: dog/same.png of dog/0.png" in lines
    assert "  1 picture is almost the same as another: dog/near.jpg of dog/0.png" in lines
    assert any(line.startswith("  2 classes with 3 (cat) to 5 (dog)") for line in lines)
    assert any('the fit "pad" leaves empty' in line for line in lines)
    assert lines[-2] == "written: inspected/data/inspect.html, inspected/data/inspect.json"
    assert sorted(os.listdir(here / "inspected" / "data")) == ["inspect.html", "inspect.json"]
    assert lines[-1].startswith("next: fromnoise train ")


def test_the_command_that_it_proposes_can_be_typed(say: Say, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["/lib/fromnoise/__main__.py"])
    monkeypatch.setattr("sys.executable", "/a venv/bin/python")
    proposed = say(data)[1].splitlines()[-1].removeprefix("next: ")
    assert shlex.split(proposed)[:4] == ["/a venv/bin/python", "-m", "fromnoise", "train"]


def test_the_command_that_it_proposes_trains_on_what_it_showed(
    say: Say, data: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["--labels", "said.csv", "--channels", 1, "--set", "data.columns.label=kind", "--fit", "stretch"]
    code, out, _ = say(data, *options, "--set", "data.columns.values=['weight']", "--set", "data.filter=box")
    proposed = shlex.split(out.splitlines()[-1].removeprefix("next: "))
    facts = json.loads((here / "inspected" / "data" / "inspect.json").read_text())
    assert code == 0 and proposed[:2] == ["fromnoise", "train"]
    args = cli._parser().parse_args(proposed[1:])
    config, source = settle(train.train_tree(args), preset_name=None, source="the test")
    seen = {name: getattr(config.data, name) for name in ("height", "width", "channels", "fit", "filter")}
    assert seen == {name: facts["fit"][name] for name in seen} and seen["filter"] == "box"
    assert facts["classes"] == {"kind 0": 2, "kind 1": 2, "kind 2": 2} and set(config.data.class_names) == set(
        facts["classes"]
    )
    assert (
        source.values == tuple((float(k),) for k in (1, 3, 5, 0, 2, 4)) and facts["values"]["weight"]["greatest"] == 5
    )
    assert facts["captions"] == facts["pictures"] == len(source) == 6


def test_json_is_one_object_and_nothing_else(say: Say, data: Path, here: Path) -> None:
    code, out, _ = say(data, "--json", "--write-clean", here / "clean", "--no-copies")
    assert code == 0 and out.count("\n") == 1
    found = json.loads(out)
    on_disk = json.loads((here / "inspected" / "data" / "inspect.json").read_text())
    assert {name: found[name] for name in on_disk} == on_disk and found["usable"] == 8
    assert found["files"] == ["inspected/data/inspect.html", "inspected/data/inspect.json"]
    assert found["clean"] == {"path": str(here / "clean"), "pictures": 7, "left_out": 2}


class Reader(HTMLParser):
    """All values of attributes that make a browser fetch something."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.fetched += [value or "" for name, value in attrs if name in {"src", "href", "srcset", "data", "poster"}]


def test_the_page_fetches_nothing(say: Say, data: Path, here: Path) -> None:
    assert say(data, "--classes", "--out", here / "report")[0] == 0
    content = (here / "report" / "inspect.html").read_text(encoding="utf-8")
    reader = Reader()
    reader.feed(content)
    assert reader.fetched and all(value.startswith("data:image/") for value in reader.fetched)
    assert not {"script", "link", "iframe", "object", "embed"} & reader.tags
    assert not re.search(r"https?://|url\(|@import", content)


@pytest.mark.parametrize(
    ("word", "name"),
    [("{}/data/*.tar", "tar"), ("{}/data/{{0..1}}.tar", "0..1-.tar"), ("hub:some/name", "name"), ("digits", "digits")],
)
def test_the_report_lies_here_whatever_the_data_are_called(word: str, name: str, tmp_path: Path) -> None:
    assert verb._usual_place(word.format(tmp_path)) == Path("inspected", name)
    assert verb._usual_place("https://example.invalid/a/x.tar?token=secret") == Path("inspected", "x.tar")


def test_inside_of_the_data_the_report_goes_beside_them(say: Say, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = sorted(data.rglob("*"))
    for place in (data, data / "cat"):
        monkeypatch.chdir(place)
        assert say(data)[0] == 0
        assert sorted(data.rglob("*")) == before
        assert (data.parent / "inspected" / "data" / "inspect.html").exists()


# ---------------------------------------------------------------------------------------------------- the cleaned copy


@pytest.mark.parametrize(
    ("options", "gone"),
    [
        ([], set()),
        (["--no-copies"], {"same.png"}),
        (["--no-near-copies"], {"near.jpg"}),
        (["--no-copies", "--no-near-copies"], {"same.png", "near.jpg"}),
    ],
)
def test_copies_and_near_copies_go_only_when_each_is_named(
    options: list[str], gone: set[str], say: Say, data: Path, here: Path
) -> None:
    code, out, _ = say(data, "--write-clean", here / "clean", *options)
    pictures = {path.name for path in data.rglob("*.*g")} - {"broken.png"}
    assert code == 0 and {path.name for path in (here / "clean").rglob("*.*g")} == pictures - gone
    assert f"copied: {8 - len(gone)} pictures to {here / 'clean'}, {1 + len(gone)} are left out" in out.splitlines()


def test_the_copy_is_refused_before_anything_is_read(
    say: Say, data: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "full").mkdir()
    (here / "full" / "mine").write_text("mine")
    monkeypatch.setattr(verb, "open_data", lambda _: pytest.fail("the data were opened"))
    assert "is there already, and not an empty folder" in one_line(say(data, "--write-clean", here / "full"))
    assert "lies in the data" in one_line(say(data, "--write-clean", data / "clean"))
    assert "--no-copies says what --write-clean DIR leaves out" in one_line(say(data, "--no-copies"))
    assert "--no-near-copies says" in one_line(say(data, "--no-near-copies"))
    assert sorted(path.name for path in here.rglob("*")) == ["full", "mine"]


# ----------------------------------------------------------------------------------------------------------- exit codes


def test_1_where_nothing_is_usable(say: Say, tmp_path: Path, here: Path) -> None:
    (tmp_path / "broken").mkdir()
    for k in range(3):
        (tmp_path / "broken" / f"{k}.png").write_bytes(b"nonsense")
    code, out, _ = say(tmp_path / "broken", "--write-clean", here / "clean")
    assert code == 1 and out.startswith("! nothing can be used: none of 3 pictures can be read")
    assert "next:" not in out and not (here / "clean").exists()
    assert (here / "inspected" / "broken" / "inspect.html").exists()  # it says why of each
    code, out, _ = say(tmp_path / "broken", "--json")
    assert code == 1 and json.loads(out)["usable"] == 0


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["nowhere"], "there is no folder nowhere"),
        (["digitz"], "did you mean 'digits'"),
        (["digits", "--resolution", "big"], "--resolution big: should be a number of pixels"),
        (["digits", "--channels", "2"], "channels = 2: known are 1 (grey), 3 (RGB) and 4 (RGBA)"),
        (["digits", "--fit", "crip"], "fit = 'crip' is not known; did you mean 'crop'"),
        (["digits", "--labels", "x.csv"], "have their labels with them"),
        (["digits", "--set", "data.filtre=box"], "no such key; did you mean 'filter'"),
        (["digits", "--set", "network.dropout=0.1"], "--set network: inspecting heeds settings data.key=value alone"),
        (["digits", "--set", "data.path='emoji'"], "what to inspect is DATA, digits"),
        (["digits", "--set", "data.split='test'"], "have no splits"),
        (["digits", "--no-copy"], "unexpected '--no-copy'; did you mean '--no-copies'"),
        ([], "the following arguments are required: DATA"),
    ],
)
def test_2_and_one_line_for_wrong_use(words: list[str], complaint: str, say: Say, here: Path) -> None:
    assert complaint in one_line(say(*words))
    assert list(here.iterdir()) == []


def test_1_and_one_line_for_damage_and_a_disk_that_refuses(say: Say, here: Path) -> None:
    (here / "x.zip").write_bytes(b"PK\3\4 and no more")
    assert "is damaged, cut short or no zip file" in one_line(say("x.zip"), 1)
    (here / "file").write_text("")
    assert "is a file; name a folder for the report" in one_line(say("digits", "--out", "file"))
    assert "cannot write to" in one_line(say("digits", "--out", "file/below"), 1)


def test_a_name_that_is_not_utf8_is_no_fault(data: Path, here: Path) -> None:
    """In a process of its own, for only there are stdout's own rules in force."""
    odd = os.fsdecode(os.fsencode(data.parent) + b"/\xff\nodd")
    data.rename(odd)
    command = [sys.executable, "-m", "fromnoise", "inspect", odd]
    done = subprocess.run(command, capture_output=True, timeout=60, cwd=here, env={**os.environ, **path_of_source()})
    assert done.returncode == 0 and b"8 of 9 pictures can be used" in done.stdout, done.stderr


def path_of_source() -> dict[str, str]:
    return {"PYTHONPATH": str(Path(cli.__file__).parents[1])}


class Stopped(Source):
    """Pictures; the reader of one of them gets Ctrl-C, as everything in front of the terminal does."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.first = os.getpid()

    def __len__(self) -> int:
        return 20_000

    def name(self, index: int) -> str:
        return str(index)

    def identity(self, index: int) -> str:
        return str(index)

    def read(self, index: int) -> NDArray[np.uint8]:
        if index == 300:
            os.kill(self.first, signal.SIGINT)
        if self.seconds:
            threading.Event().wait(self.seconds)
        return np.full((8, 8, 1), index % 256, np.uint8)


@pytest.mark.parametrize("seconds", [0.0, 0.004], ids=["by copies of the process", "by threads"])
@pytest.mark.usefixtures("undisturbed")
def test_130_for_ctrl_c_and_nothing_is_left(
    seconds: float, say: Say, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fromnoise.data.ahead._WORTH_IT", 0.01)
    monkeypatch.setitem(opening.BUILT_IN, "stopped", lambda: Stopped(seconds))
    assert one_line(say("stopped", "--json", "--write-clean", "clean"), 130) == "fromnoise: interrupted"
    assert list(here.iterdir()) == [] and multiprocessing.active_children() == []
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ahead")]
