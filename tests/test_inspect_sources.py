"""The same files in a folder, a zip, a tar, a table: the doctor says the same of them, and copies them as they are."""

import importlib
import io
import json
import posixpath
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageCms

from fromnoise.data import SUFFIXES, Fit, Source, Unreadable, open_source
from fromnoise.data.source import Files
from fromnoise.task.inspect import Inspected, inspect
from fromnoise.task.inspect_clean import Cleaned, write_clean
from fromnoise.task.inspect_facts import as_dict


def photo(seed: int, height: int = 20, width: int = 30) -> Image.Image:
    small = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def mess() -> dict[str, bytes]:
    """One of each: every format, what headers say, and what is broken; in two classes."""
    exif = Image.Exif()
    exif[0x0112] = 6
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    alpha = photo(1).convert("RGBA")
    alpha.putalpha(100)
    whole = saved(photo(2), "PNG")
    return {
        "cat/alpha.png": saved(alpha, "PNG"),
        "cat/anim.gif": saved(photo(3).quantize(), "GIF", save_all=True, append_images=[photo(4).quantize()]),
        "cat/cut.png": whole[: len(whole) // 2],
        "cat/deep.png": saved(Image.fromarray(np.arange(400, dtype=np.uint16).reshape(20, 20) * 150), "PNG"),
        "cat/empty.png": b"",
        "cat/pages.tif": saved(photo(5), "TIFF", save_all=True, append_images=[photo(6)]),
        "cat/whole.png": whole,
        "dog/again.png": whole,
        "dog/cut.jpg": saved(photo(7), "JPEG")[:-40],
        "dog/few.bmp": saved(photo(8).convert("1"), "BMP"),
        "dog/grey.pgm": saved(photo(9).convert("L"), "PPM"),
        "dog/nonsense.png": b"nonsense",
        "dog/profile.webp": saved(photo(10), "WEBP", icc_profile=profile),
        "dog/turned.jpg": saved(photo(11), "JPEG", exif=exif),
        "dog/unknown.tif": saved(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"),
    }


FILES = mess()
ROWS = [{"image": {"bytes": data, "path": name}, "label": name.split("/")[0]} for name, data in FILES.items()]


def folder(root: Path) -> Path:
    for name, data in FILES.items():
        path = root / "folder" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root / "folder"


def zipped(root: Path) -> Path:
    with zipfile.ZipFile(root / "x.zip", "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in FILES.items():
            file.writestr(name, data)
    return root / "x.zip"


def tarred(root: Path) -> Path:
    with tarfile.open(root / "x.tar", "w") as file:
        for name, data in FILES.items():
            header = tarfile.TarInfo(name)
            header.size = len(data)
            file.addfile(header, io.BytesIO(data))
    return root / "x.tar"


def shards(root: Path) -> Path:
    """webdataset's samples, in two shards."""
    names = list(FILES)
    (root / "shards").mkdir()
    for number, part in enumerate((names[:7], names[7:])):
        with tarfile.open(root / "shards" / f"{number}.tar", "w") as file:
            for name in part:
                stem, suffix = posixpath.splitext(name)
                label = name.split("/")[0].encode()
                for path, data in ((f"{stem}{suffix}", FILES[name]), (f"{stem}.cls", label)):
                    header = tarfile.TarInfo(path.replace("/cut.", f"/cut{number}."))
                    header.size = len(data)
                    file.addfile(header, io.BytesIO(data))
    return root / "shards"


def parquet(root: Path) -> Path:
    pq.write_table(pa.Table.from_pylist(ROWS), root / "x.parquet", row_group_size=4)
    return root / "x.parquet"


def paths(root: Path) -> Path:
    """A table beside the files, which has their paths and nothing of them."""
    folder(root)
    rows = [{"image": f"folder/{name}", "label": name.split("/")[0]} for name in FILES]
    pq.write_table(pa.Table.from_pylist(rows), root / "paths.parquet")
    return root / "paths.parquet"


def of_datasets(root: Path) -> Path:
    """Saved by ``datasets`` itself."""
    datasets: Any = importlib.import_module("datasets")  # slow, and needed here alone
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    rows = [{**row, "label": ["cat", "dog"].index(str(row["label"]))} for row in ROWS]
    table = pa.Table.from_pylist(rows, schema=features.arrow_schema)
    datasets.Dataset(datasets.table.InMemoryTable(table)).save_to_disk(root / "saved")
    return root / "saved"


ALL = [folder, zipped, tarred, shards, parquet, paths, of_datasets]


def report(path: Path) -> tuple[Source, Inspected]:
    source = open_source(path, classes=True)
    *_, last = inspect(source, Fit(height=16, width=16, channels=3), name=str(path))
    assert isinstance(last, Inspected)
    return source, last


def told(found: Inspected) -> dict[str, Any]:
    """What is said of the files, apart from names, where they are, and how long it took."""
    facts = as_dict(found.facts)
    left_out = {"source", "seconds", "pictures_per_second", "free_memory", "unreadable", "copies", "contradictions"}
    kinds = Counter(problem.kind for problem in found.facts.unreadable)
    groups = [sorted(map(len, group)) for group in (found.facts.copies, found.facts.contradictions)]
    return {**{key: value for key, value in facts.items() if key not in left_out}, "kinds": kinds, "groups": groups}


@pytest.fixture(scope="module")
def of_folder(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return told(report(folder(tmp_path_factory.mktemp("first")))[1])


@pytest.mark.parametrize("make", ALL[1:])
def test_the_report_is_that_of_the_folder(
    make: Callable[[Path], Path], of_folder: dict[str, Any], tmp_path: Path
) -> None:
    found = report(make(tmp_path))[1]
    assert told(found) == of_folder
    facts = found.facts
    assert facts.formats == {"PNG": 5, "GIF": 1, "TIFF": 2, "JPEG": 2, "BMP": 1, "PPM": 1, "WEBP": 1}
    assert (facts.turned, facts.animated, facts.profiles, facts.translucent) == (1, 2, 1, 1)
    assert facts.kinds["grey, 16 bit"] == 1 and facts.kinds["black and white, 1 bit"] == 1
    assert facts.nbytes == sum(len(data) for data in FILES.values()) - len(b"nonsense")
    assert of_folder["kinds"] == {"cut short": 2, "empty": 1, "not a picture": 1, "unknown range": 1}


@pytest.mark.parametrize("make", ALL)
def test_the_raw_file_is_the_one_that_is_read(make: Callable[[Path], Path], tmp_path: Path) -> None:
    source = open_source(make(tmp_path))
    assert isinstance(source, Files)
    assert Counter(source.raw(index) for index in range(len(source))) == Counter(FILES.values())
    for index in range(len(source)):
        data = source.raw(index)
        name = next(name for name, known in FILES.items() if known == data)
        alone = tmp_path / "alone" / str(index)
        alone.mkdir(parents=True)
        (alone / posixpath.basename(name)).write_bytes(FILES[name])
        assert outcome(source, index) == outcome(open_source(alone), 0)


def outcome(source: Source, index: int) -> tuple[tuple[int, ...], bytes] | str:
    try:
        picture = source.read(index)
    except Unreadable as error:
        return error.why
    return picture.shape, picture.tobytes()


@pytest.mark.parametrize("make", ALL)
def test_the_clean_copy_has_the_files_as_they_are_and_names_to_match(
    make: Callable[[Path], Path], tmp_path: Path
) -> None:
    source, found = report(make(tmp_path))
    *_, last = write_clean(source, found, tmp_path / "clean", copies=False, near_copies=False)
    assert isinstance(last, Cleaned)
    broken = {"cat/cut.png", "cat/empty.png", "dog/cut.jpg", "dog/nonsense.png", "dog/unknown.tif", "dog/again.png"}
    expected = {name: data for name, data in FILES.items() if name not in broken}
    written = [path for path in (tmp_path / "clean").rglob("*.*") if path.is_file()]
    assert sorted(path.read_bytes() for path in written) == sorted(expected.values())
    endings = {data: posixpath.splitext(name)[1] for name, data in expected.items()}
    alike = {".pgm": (".pgm", ".ppm")}
    for path in written:
        ending = endings[path.read_bytes()]
        assert path.suffix in alike.get(ending, (ending,)) and path.suffix in SUFFIXES
    again = open_source(tmp_path / "clean", classes=True)
    assert isinstance(again, Files) and again.labels is not None
    labels = {again.raw(k): again.classes[again.labels[k]] for k in range(len(again))}
    assert labels == {data: name.split("/")[0] for name, data in expected.items()}


def test_what_a_container_does_not_give_is_counted_and_named(tmp_path: Path) -> None:
    """A zip that breaks in the middle of a picture, a table of paths that lead nowhere."""
    path = zipped(tmp_path)
    data = bytearray(path.read_bytes())
    at = data.index(b"dog/turned.jpg") + 60
    data[at] ^= 255
    path.write_bytes(data)
    found = report(path)[1]
    problem = next(one for one in found.facts.unreadable if one.name.endswith("turned.jpg"))
    assert problem.kind == "broken or missing" and found.facts.turned == 0
    table = tmp_path / "lost.parquet"
    pq.write_table(pa.table({"path": ["a.png", None], "label": [0, 1]}), table)
    kinds = [(one.kind, one.why) for one in report(table)[1].facts.unreadable]
    assert kinds == [("broken or missing", "No such file or directory"), ("broken or missing", "the cell is empty")]
    assert json.dumps(as_dict(found.facts))
