"""The cleaned copy of a data set: the same bytes and the same classes, whole or not at all, nothing harmed."""

import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fromnoise.data import Digits, Fit, Source, open_source
from fromnoise.errors import FromnoiseError, WrongUse
from fromnoise.task.inspect import Inspected, inspect
from fromnoise.task.inspect_clean import Cleaned, Cleaning, write_clean


def saved(seed: int, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    small = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8))
    small.resize((32, 32), Image.Resampling.BICUBIC).save(file, kind)
    return file.getvalue()


def inspected(source: Source, data: Path | str) -> Inspected:
    *_, last = inspect(source, Fit(height=16, width=16, channels=3), name=str(data))
    assert isinstance(last, Inspected)
    return last


def cleaned(data: Path | str, out: Path, *, classes: bool = False, **options: bool) -> Cleaned:
    source = open_source(data, classes=classes)
    *_, last = write_clean(source, inspected(source, data), out, **options)
    assert isinstance(last, Cleaned)
    return last


def tree(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    files = {
        "cat/a.png": saved(1),
        "cat/deep/b.JPG": saved(2, "JPEG"),
        "cat/broken.png": saved(3)[:200],
        "dog/a.png": saved(4),
        "dog/again.png": saved(1),
        "dog/near.jpg": saved(4, "JPEG"),
    }
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def test_files_are_copied_as_they_are_and_where_they_lay(data: Path, tmp_path: Path) -> None:
    before = tree(data)
    last = cleaned(data, tmp_path / "out")
    expected = {name: content for name, content in before.items() if name != "cat/broken.png"}
    assert tree(tmp_path / "out") == expected and tree(data) == before
    assert last == Cleaned(tmp_path / "out", 5, 1, sum(map(len, expected.values())))


@pytest.mark.parametrize(
    ("options", "gone"),
    [
        ({"copies": False}, {"dog/again.png"}),
        ({"near_copies": False}, {"dog/near.jpg"}),
        ({"copies": False, "near_copies": False}, {"dog/again.png", "dog/near.jpg"}),
    ],
)
def test_copies_are_left_out_if_asked_for(options: dict[str, bool], gone: set[str], data: Path, tmp_path: Path) -> None:
    cleaned(data, tmp_path / "out", classes=True, **options)
    assert set(tree(data)) - set(tree(tmp_path / "out")) == {"cat/broken.png", *gone}


def test_pictures_without_files_become_pngs_of_the_same_pixels_in_folders_of_their_classes(tmp_path: Path) -> None:
    last = cleaned("digits", tmp_path / "out", classes=True)
    before, after = Digits(), open_source(tmp_path / "out", classes=True)
    assert last.pictures == len(after) == len(before) and after.classes == before.classes
    assert before.labels is not None
    order = np.argsort(before.labels, kind="stable")  # a folder's order: by class, then by number
    assert after.labels == tuple(np.asarray(before.labels)[order].tolist())
    for k in range(0, len(after), 50):
        np.testing.assert_array_equal(after.read(k), before.read(int(order[k])))


def test_labels_from_a_table_become_folders_and_captions_and_numbers_a_table(data: Path, tmp_path: Path) -> None:
    names = sorted(name for name in tree(data) if "broken" not in name)
    rows = [
        {"file_name": name, "label": f"kind/{k % 2}", "caption": f"“{k}”", "values": [k, 0.5]}
        for k, name in enumerate(names)
    ]
    (data / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    cleaned(data, tmp_path / "out", classes=True)
    before, after = open_source(data, classes=True), open_source(tmp_path / "out", classes=True)
    said = {}
    for source in (before, after):
        assert source.labels is not None and source.captions is not None and source.values is not None
        said[source] = {
            (source.read(k).tobytes(), source.classes[source.labels[k]], source.captions[k], source.values[k])
            for k in range(len(source))
        }
    assert said[before] == said[after] and len(said[after]) == 5
    assert {name.split("/")[0] for name in tree(tmp_path / "out")} == {"kind_0", "kind_1", "metadata.jsonl"}


def test_names_become_harmless_and_stay_apart(tmp_path: Path) -> None:
    root = os.fsencode(tmp_path / "data")
    names = [b"a:b.png", b"a?b.png", b"a\nb.png", b"\xff.png", b"con. .png", b"A_B.PNG", b"x" * 240 + b".png"]
    names += [b"d\nd/q.png", b"d_d/Q.png"]  # the second, in capitals, comes later
    os.makedirs(root + b"/d\nd")
    os.makedirs(root + b"/d_d")
    for k, name in enumerate(names):
        Path(os.fsdecode(root + b"/" + name)).write_bytes(saved(k))
    cleaned(tmp_path / "data", tmp_path / "out")
    found = tree(tmp_path / "out")
    assert sorted(found.values()) == sorted(saved(k) for k in range(len(names)))
    assert len({name.lower() for name in found}) == len(names)
    for name in found:
        assert name.isprintable() and not set(name) & set('\\:*?"<>|') and not name.startswith(".")
        assert len(name.encode()) < 220 and name.lower().endswith(".png")


def test_what_is_there_is_never_written_into(data: Path, tmp_path: Path) -> None:
    full, empty = tmp_path / "full", tmp_path / "empty"
    full.mkdir()
    (full / "mine").write_text("mine")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(empty)
    for out in (full, tmp_path / "file", tmp_path / "link"):
        with pytest.raises(WrongUse, match="name a new one"):
            cleaned(data, out)
    assert tree(full) == {"mine": b"mine"} and (tmp_path / "file").read_text() == "mine" and not empty.exists()
    empty.mkdir()
    cleaned(data, empty)
    assert len(tree(empty)) == 5


def test_the_copy_may_not_lie_in_the_data(data: Path) -> None:
    before = tree(data)
    for out in (data / "clean", data / "cat" / "clean", data / ".." / "data" / "clean"):
        with pytest.raises(WrongUse, match="lies in the data"):
            cleaned(data, out)
    assert tree(data) == before


def test_an_interrupted_copy_leaves_nothing(data: Path, tmp_path: Path) -> None:
    source = open_source(data, classes=False)
    events = write_clean(source, inspected(source, data), tmp_path / "out")
    assert next(events) == Cleaning(1, 5) and next(events) == Cleaning(2, 5)
    assert not (tmp_path / "out").exists()
    events.close()  # pyright: ignore[reportAttributeAccessIssue] - a generator
    assert sorted(os.listdir(tmp_path)) == ["data"]


def test_data_that_changed_in_between_are_told(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.png").write_bytes(saved(1))
    source = open_source(tmp_path / "data", classes=False)
    found = inspected(source, tmp_path / "data")
    (tmp_path / "data" / "a.png").unlink()
    with pytest.raises(FromnoiseError, match="have changed since"):
        list(write_clean(source, found, tmp_path / "out"))
    assert sorted(os.listdir(tmp_path)) == ["data"]


def test_near_copies_that_were_not_looked_for_cannot_be_left_out(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fromnoise.task.inspect_tally.available_memory", lambda: 100)
    with pytest.raises(FromnoiseError, match="memory being short"):
        cleaned(data, tmp_path / "out", near_copies=False)
    assert not (tmp_path / "out").exists()
    assert cleaned(data, tmp_path / "out", copies=False).pictures == 4


def test_where_nothing_is_usable_nothing_is_copied(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.png").write_bytes(b"nonsense")
    with pytest.raises(WrongUse, match="nothing to copy"):
        cleaned(tmp_path / "data", tmp_path / "out")
    assert sorted(os.listdir(tmp_path)) == ["data"]
