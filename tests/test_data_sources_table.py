"""Parquet files and data sets that ``datasets`` saved: bytes and paths, names of classes, splits, damage."""

import importlib
import io
import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from fromnoise.data import Columns, Table, Unreadable, open_source
from fromnoise.data import parquet as parquet_module
from fromnoise.errors import FromnoiseError, WrongUse

COUNT = 60
RNG = np.random.default_rng(31)
PIXELS = RNG.integers(0, 256, (COUNT, 3, 5, 3), dtype=np.uint8)
NAMES = ["cat", "dog", "elk"]
LABELS = [k % 3 for k in range(COUNT)]


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


FILES = [png(one) for one in PIXELS]


def table(cells: list[Any], *, features: bool = True, **columns: list[Any]) -> Any:
    made = pa.table({"image": cells, "label": LABELS[: len(cells)], **columns})
    noted = {"image": {"_type": "Image"}, "label": {"names": NAMES, "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": noted}})}
    return made.replace_schema_metadata(metadata) if features else made


def structs(folder: Path | None) -> list[dict[str, object]]:
    """Cells as the hub has them: with bytes, or where a ``folder`` is given with paths in it."""
    if folder is None:
        return [{"bytes": data, "path": f"{k}.png"} for k, data in enumerate(FILES)]
    folder.mkdir()
    for k, data in enumerate(FILES):
        (folder / f"{k}.png").write_bytes(data)
    return [
        {"bytes": None, "path": f"{folder.name}/{k}.png" if k % 2 else str(folder / f"{k}.png")} for k in range(COUNT)
    ]


def write_arrow(made: Any, path: Path, kind: str) -> Path:
    with pa.OSFile(str(path), "wb") as sink, getattr(pa.ipc, f"new_{kind}")(sink, made.schema) as writer:
        writer.write_table(made, max_chunksize=7)
    return path


def saved(folder: Path, made: Any) -> Path:
    """As ``Dataset.save_to_disk`` lays it out, in two files."""
    folder.mkdir(parents=True)
    half = made.num_rows // 2
    write_arrow(made.slice(0, half), folder / "data-00000-of-00002.arrow", "stream")
    write_arrow(made.slice(half), folder / "data-00001-of-00002.arrow", "stream")
    files = [{"filename": f"data-{k:05}-of-00002.arrow"} for k in range(2)]
    (folder / "state.json").write_text(json.dumps({"_data_files": files}))
    (folder / "dataset_info.json").write_text("{}")
    return folder


@pytest.mark.parametrize("form", ["parquet", "groups", "stream", "file", "saved"])
@pytest.mark.parametrize("cells", ["bytes", "paths", "plain bytes", "plain paths"])
def test_every_form_gives_the_same_pictures(form: str, cells: str, tmp_path: Path) -> None:
    values = structs(tmp_path / "pictures" if "paths" in cells else None)
    key = "path" if "paths" in cells else "bytes"
    made = table([one[key] for one in values] if "plain" in cells else values)
    if form == "saved":
        path = saved(tmp_path / "set", made)
        if "paths" in cells:  # they are taken from where the table lies
            (tmp_path / "pictures").rename(path / "pictures")
            (tmp_path / "pictures").symlink_to(path / "pictures")
    elif form in ("stream", "file"):
        path = write_arrow(made, tmp_path / "x.arrow", form)
    else:
        path = tmp_path / "x.parquet"
        pq.write_table(made, path, row_group_size=COUNT if form == "parquet" else 13)
    source = open_source(path, True)
    assert isinstance(source, Table) and len(source) == COUNT
    assert source.classes == tuple(NAMES) and source.labels == tuple(LABELS)
    for index in range(COUNT):
        np.testing.assert_array_equal(source.read(index), PIXELS[index])
    assert len({source.identity(k) for k in range(COUNT)}) == COUNT
    assert open_source(path).labels is None


@pytest.fixture
def many(tmp_path: Path) -> Table:
    """Three files of several groups each, in a folder."""
    folder = tmp_path / "many"
    folder.mkdir()
    made = table(structs(None))
    for number, (start, stop) in enumerate([(0, 20), (20, 21), (21, COUNT)]):
        pq.write_table(made.slice(start, stop - start), folder / f"{number}.parquet", row_group_size=8)
    source = open_source(folder)
    assert isinstance(source, Table)
    return source


def test_rows_in_any_order_and_from_many_threads(many: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_module, "_STEP", 3)
    order = RNG.permutation(COUNT).tolist()
    for index in [*order, *range(COUNT), *reversed(range(COUNT))]:
        np.testing.assert_array_equal(many.read(index), PIXELS[index])
    gate = threading.Barrier(8)

    def read(start: int) -> bool:
        gate.wait()
        return all((many.read(k) == PIXELS[k]).all() for k in range(start, COUNT, 8))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(8)))
    assert many.name(20).endswith("many/1.parquet[0] (20.png)") and many.name(22).endswith("2.parquet[1] (22.png)")


def test_reading_in_order_unpacks_every_group_once(many: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    walked: list[int] = []
    walk = parquet_module.ParquetRows._walk

    def counted(self: Any, column: str, group: int) -> Any:
        walked.append(group)
        return walk(self, column, group)

    monkeypatch.setattr(parquet_module.ParquetRows, "_walk", counted)
    for index in range(COUNT):
        many.read(index)
    assert walked == list(range(3 + 1 + 5))


def test_conditions_from_columns(tmp_path: Path) -> None:
    made = table(
        structs(None),
        text=[f"picture {k}" for k in range(COUNT)],
        several=[["a", "b"][: k % 3] for k in range(COUNT)],
        many_texts=[[f"one {k}", "two"] for k in range(COUNT)],
        age=[k / 2 for k in range(COUNT)],
        place=[[k, -k] for k in range(COUNT)],
    )
    pq.write_table(made, tmp_path / "x.parquet")
    source = open_source(tmp_path / "x.parquet")
    assert source.captions == tuple(f"picture {k}" for k in range(COUNT)) and source.values is None
    source = open_source(
        tmp_path / "x.parquet", columns=Columns(label="several", caption="many_texts", values=("place", "age"))
    )
    assert source.labels is None and source.value_names == ("a", "b", "place 0", "place 1", "age")
    assert source.values[5] == (1, 1, 5, -5, 2.5) and source.captions[7] == "one 7"
    with pytest.raises(WrongUse, match="no column labelx; did you mean 'label'"):
        open_source(tmp_path / "x.parquet", columns=Columns(label="labelx"))
    with pytest.raises(WrongUse, match=r"the column age of .* holds no pictures"):
        open_source(tmp_path / "x.parquet", columns=Columns(picture="age"))


def test_columns_without_notes_and_columns_that_cannot_be_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"

    def write(**columns: list[Any]) -> None:
        pq.write_table(pa.table(columns), path)

    write(content=FILES[:3], kind=["b", "a", "b"], note=["x", "y", "z"])
    source = open_source(path, columns=Columns(label="kind"))
    assert source.classes == ("a", "b") and source.labels == (1, 0, 1) and source.read(2).shape == (3, 5, 3)
    with pytest.raises(WrongUse, match=r"no column of labels in .*; its columns are content, kind, note"):
        open_source(path, True)
    write(left=FILES[:3], right=FILES[:3])
    with pytest.raises(WrongUse, match="may be the pictures, name one of them: left, right"):
        open_source(path)
    assert len(open_source(path, columns=Columns(picture="right"))) == 3
    write(a=[1, 2], b=["x", "y"])
    with pytest.raises(WrongUse, match=r"no column of pictures in .*; its columns are a, b"):
        open_source(path)
    write(image=[])
    with pytest.raises(WrongUse, match="it has no rows"):
        open_source(path)
    pq.write_table(table(structs(None)[:3]).set_column(1, "label", pa.array([0, -1, 1])), path)
    with pytest.raises(WrongUse, match=r"label '-1', where there are classes 0 to"):
        open_source(path, True)


def test_a_picture_that_cannot_be_read_is_the_only_one_lost(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    cells = [
        {"bytes": FILES[0], "path": None},
        {"bytes": None, "path": None},
        None,
        {"bytes": FILES[0][:30], "path": "cut.png"},
        {"bytes": None, "path": "gone.png"},
        {"bytes": None, "path": "pipe.png"},  # opening it would wait for ever
        {"bytes": None, "path": "a\0b.png"},
        {"bytes": b"", "path": None},
    ]
    reasons = ["", "empty", "empty", "truncated|damaged", "No such file", "no file", "null", "the file is empty"]
    pq.write_table(table(cells), tmp_path / "x.parquet")
    write_arrow(table(cells), tmp_path / "x.arrow", "stream")
    for name in ("x.parquet", "x.arrow"):
        source = open_source(tmp_path / name)
        np.testing.assert_array_equal(source.read(0), PIXELS[0])
        for index in range(1, len(cells)):
            with pytest.raises(Unreadable, match=reasons[index]) as caught:
                source.read(index)
            assert str(caught.value).isprintable()
            assert source.identity(index)


def test_splits(tmp_path: Path) -> None:
    made = table(structs(None))
    for split, count in (("train", 40), ("test", 20)):
        saved(tmp_path / "saved" / split, made.slice(0, count))
        (tmp_path / "files" / "data").mkdir(parents=True, exist_ok=True)
        pq.write_table(made.slice(0, count), tmp_path / "files" / "data" / f"{split}-00000-of-00001.parquet")
    (tmp_path / "saved" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    for folder in ("saved", "files"):
        source = open_source(tmp_path / folder)
        assert len(source) == 40 and "the split train is taken; there are" in source.remarks[0]
        assert len(open_source(tmp_path / folder, split="test")) == 20
        with pytest.raises(WrongUse, match="no split tset; did you mean 'test'"):
            open_source(tmp_path / folder, split="tset")
    with pytest.raises(WrongUse, match="has no splits"):
        open_source(tmp_path / "saved" / "test", split="train")
    (tmp_path / "saved" / "dataset_dict.json").write_text('{"splits": ["a", "b"]}')
    with pytest.raises(WrongUse, match="the splits a, b; say which to take"):
        open_source(tmp_path / "saved")


def test_what_datasets_itself_has_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The layouts above are taken from it; here it writes them, and the hub's loader reads a folder in its form."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    datasets: Any = importlib.import_module("datasets")  # once it may look for its folders
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)})
    whole = datasets.Dataset.from_dict({"image": structs(None), "label": LABELS}, features=features)
    whole.save_to_disk(tmp_path / "saved")
    datasets.DatasetDict(train=whole, test=whole.select(range(5))).save_to_disk(tmp_path / "splits")
    whole.to_parquet(tmp_path / "x.parquet")
    (tmp_path / "repository").mkdir()
    whole.to_parquet(tmp_path / "repository" / "train.parquet")
    whole.select([4, 2]).to_parquet(tmp_path / "repository" / "test.parquet")
    for place in ("saved", "splits", "x.parquet", "hub:repository"):
        name = f"hub:{tmp_path}/repository" if place.startswith("hub:") else str(tmp_path / place)
        source = open_source(name, True)
        assert len(source) == COUNT and source.labels == tuple(LABELS) and source.classes == tuple(NAMES)
        np.testing.assert_array_equal(source.read(17), PIXELS[17])
    held = open_source(f"hub:{tmp_path}/repository", True, split="test")
    assert held.labels == (1, 2) and (held.read(1) == PIXELS[2]).all()
    with pytest.raises(WrongUse, match="no split trainx; did you mean 'train'"):
        open_source(f"hub:{tmp_path}/repository", split="trainx")
    with pytest.raises(WrongUse, match=r"cannot open hub:.*nothing"):
        open_source(f"hub:{tmp_path}/nothing")


@pytest.mark.parametrize("form", ["x.parquet", "x.arrow", "saved"])
def test_a_damaged_table_is_told_in_one_line(form: str, tmp_path: Path) -> None:
    made = table(structs(None))
    path = tmp_path / form
    if form == "saved":
        file = saved(path, made) / "data-00001-of-00002.arrow"
    elif form == "x.arrow":
        file = write_arrow(made, path, "file")
    else:
        pq.write_table(made, path)
        file = path
    data = file.read_bytes()
    for cut in (len(data) - 1, len(data) // 2, 9, 0):
        file.write_bytes(data[:cut])
        with pytest.raises(FromnoiseError, match="damaged or cut short") as caught:
            open_source(path)
        assert str(caught.value).isprintable()
    file.write_bytes(data[:-8])  # a stream may end without its mark, but then nobody knows whether it is whole
    if form == "saved":
        source = open_source(path)
        assert "perhaps cut short" in source.remarks[0] and (source.read(COUNT - 1) == PIXELS[COUNT - 1]).all()
    file.unlink()
    with pytest.raises(FromnoiseError):
        open_source(path)


def test_files_with_other_columns(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    pq.write_table(table(structs(None)), tmp_path / "set" / "a.parquet")
    pq.write_table(pa.table({"image": FILES}), tmp_path / "set" / "b.parquet")
    with pytest.raises(WrongUse, match=r"b.parquet has no column label, which .*a.parquet has"):
        open_source(tmp_path / "set")
    folder = saved(tmp_path / "saved", table(structs(None)))
    write_arrow(pa.table({"image": FILES}), folder / "data-00001-of-00002.arrow", "stream")
    with pytest.raises(FromnoiseError, match="do not have the same columns"):
        open_source(folder)
    (folder / "state.json").write_text('{"_data_files": [{"filename": "../../x.arrow"}]}')
    with pytest.raises(FromnoiseError, match=r"state.json does not name the files"):
        open_source(folder)
    (folder / "state.json").write_text("[")
    with pytest.raises(FromnoiseError, match=r"state.json is damaged"):
        open_source(folder)


def test_without_pyarrow_it_is_said_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib

    def missing(name: str, package: str | None = None) -> Any:
        raise ImportError(name)

    pq.write_table(table(structs(None)), tmp_path / "x.parquet")
    monkeypatch.setattr(importlib, "import_module", missing)
    for name in (str(tmp_path / "x.parquet"), "hub:owner/name"):
        with pytest.raises(WrongUse, match=r"pip install 'fromnoise\[hub\]'"):
            open_source(name)
