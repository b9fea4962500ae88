"""Zip archives, read where they lie: as the folder they were made of, and suspicious of everything else."""

import io
import json
import struct
import threading
import tracemalloc
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fromnoise.data import Archive, Folder, Unreadable
from fromnoise.data.unzip import LARGEST_MEMBER
from fromnoise.errors import FromnoiseError, WrongUse

RNG = np.random.default_rng(11)


def png(value: int = 0, side: int = 4) -> bytes:
    file = io.BytesIO()
    Image.new("L", (side, side), value).save(file, "PNG")
    return file.getvalue()


def archive(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return path


def why(source: Archive, index: int) -> str:
    with pytest.raises(Unreadable) as caught:
        source.read(index)
    assert str(caught.value).isprintable() and str(caught.value).startswith(source.name(index))
    return caught.value.why


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
def test_the_same_as_the_folder_it_was_made_of(method: int, tmp_path: Path) -> None:
    root = tmp_path / "pictures"
    names = ["dog/1.png", "cat/2.PNG", "cat/old/3.webp", ".git/4.png", "dog/._1.png", "notes.txt"]
    for value, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = RNG.integers(0, 256, (9, 7, 3), dtype=np.uint8)
        kind = "WEBP" if name.endswith("webp") else "PNG"
        with (root / name).open("wb") as file:
            Image.fromarray(pixels).save(file, kind, lossless=True, pnginfo=None, comment=str(value))
    path = archive(tmp_path / "p.zip", {name: (root / name).read_bytes() for name in names}, method)
    folder, zipped = Folder(root, classes=True), Archive(path, classes=True)
    assert len(zipped) == len(folder) == 3
    assert (zipped.labels, zipped.classes) == (folder.labels, folder.classes) == ((0, 0, 1), ("cat", "dog"))
    for index in range(3):
        np.testing.assert_array_equal(zipped.read(index), folder.read(index))
        assert zipped.name(index).removeprefix(str(path)) == folder.name(index).removeprefix(str(root))
    assert Archive(path).labels is None


def test_edms_form(tmp_path: Path) -> None:
    members = {f"{k // 3:05}/img{k:08}.png": png(10 * k) for k in range(7)}
    table = {"labels": [[name, 9 - k] for k, name in enumerate(members)]}
    path = archive(tmp_path / "edm.zip", {**members, "dataset.json": json.dumps(table).encode()}, zipfile.ZIP_STORED)
    source = Archive(path, classes=True)
    assert [int(source.read(k)[0, 0, 0]) for k in range(7)] == [0, 10, 20, 30, 40, 50, 60]
    assert source.classes == tuple("3456789") and source.labels == (6, 5, 4, 3, 2, 1, 0)
    assert Archive(path).labels is None
    beside = tmp_path / "captions.json"
    beside.write_text(json.dumps({name: {"caption": name[-5]} for name in members}))
    assert Archive(path, labels=beside).captions == tuple("0123456")
    beside.write_text(json.dumps({"gone.png": 1, "00000/img00000000.png": 2}))
    source = Archive(path, labels=beside)
    assert source.classes == ("1", "2") and "not in the archive" in why(source, 1)
    assert source.remarks[0].endswith(" and 3 more")
    assert source.identity(0) != source.identity(1)


def test_read_from_many_threads_at_once(tmp_path: Path) -> None:
    pixels = RNG.integers(0, 256, (120, 16, 16, 3), dtype=np.uint8)
    members = {}
    for index, picture in enumerate(pixels):
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "PNG")
        members[f"{index:03}.png"] = file.getvalue()
    source = Archive(archive(tmp_path / "p.zip", members))
    gate = threading.Barrier(8)

    def read(start: int) -> bool:
        gate.wait()
        return all((source.read(k) == pixels[k]).all() for k in range(start, 120, 8))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(8)))


def test_names_that_lead_out_are_listed_and_not_read(tmp_path: Path) -> None:
    names = [
        "../up.png",
        "a/../../up.png",
        "/etc/up.png",
        "C:\\up.png",
        "D:/up.png",
        "\\\\host\\share\\up.png",
        "..\\b\\up.png",
    ]
    path = archive(tmp_path / "p.zip", {**{name: png() for name in names}, "fine.png": png(7)})
    source = Archive(path)
    outcomes = {}
    for index in range(len(source)):
        if source.name(index).endswith("fine.png"):
            assert source.read(index).shape == (4, 4, 1)
        else:
            outcomes[source.name(index)] = why(source, index)
    assert len(outcomes) == len(names)
    assert all("leads out of the archive" in reason for reason in outcomes.values())
    assert [one.name for one in tmp_path.iterdir()] == ["p.zip"]


def patched(data: bytes, name: bytes, **fields: int) -> bytes:
    """The archive with fields of a member's entry in its directory (APPNOTE 4.3.12) overwritten."""
    at = data.rindex(name) - 46
    assert data[at : at + 4] == b"PK\1\2"
    whole = bytearray(data)
    for field, value in fields.items():
        offset, form = {"flags": (8, "<H"), "method": (10, "<H"), "crc": (16, "<I"), "packed": (20, "<I"),
                        "size": (24, "<I"), "start": (42, "<I")}[field]  # fmt: skip
        struct.pack_into(form, whole, at + offset, value)
    return bytes(whole)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"flags": 1}, "encrypted"),
        ({"method": 99}, "packed by method 99"),
        ({"method": 14}, "packed by method 14"),
        ({"crc": 1}, "checksum"),
        ({"size": 50}, "more bytes than the 50"),
        ({"size": 5000}, "fewer bytes than the 5,000"),
        ({"size": 2**31}, "above the limit"),
        ({"packed": 20}, "fewer bytes|cut short"),
        ({"start": 5}, "points to where it is not"),
    ],
)
def test_lies_of_the_directory_are_found_out(method: int, fields: dict[str, int], told: str, tmp_path: Path) -> None:
    path = archive(tmp_path / "p.zip", {"a.png": png(1), "b.png": png(2), "c.png": png(3)}, method)
    path.write_bytes(patched(path.read_bytes(), b"b.png", **fields))
    source = Archive(path)
    assert [int(source.read(k)[0, 0, 0]) for k in (0, 2)] == [1, 3]
    with pytest.raises(Unreadable, match=told):
        source.read(1)


def test_a_small_file_that_unpacks_to_a_large_one_is_stopped_at_what_is_promised(tmp_path: Path) -> None:
    # 64 MiB of zeros in 64 kB, promised to be 100 bytes: unpacking must not go on beyond that.
    zeros = zlib.compressobj(9, zlib.DEFLATED, -15)
    data = b"".join([*(zeros.compress(bytes(2**20)) for _ in range(64)), zeros.flush()])
    path = archive(tmp_path / "p.zip", {"a.png": data}, zipfile.ZIP_STORED)
    path.write_bytes(patched(path.read_bytes(), b"a.png", method=8, size=100))
    source = Archive(path)
    tracemalloc.start()
    assert "more bytes than the 100" in why(source, 0)
    assert tracemalloc.get_traced_memory()[1] < 2**21
    tracemalloc.stop()
    path.write_bytes(patched(path.read_bytes(), b"a.png", size=LARGEST_MEMBER + 1))
    assert "above the limit" in why(Archive(path), 0)


def test_real_encryption_nested_archives_links_and_double_names(tmp_path: Path) -> None:
    inner = archive(tmp_path / "inner.zip", {"x.png": png()}).read_bytes()
    link = zipfile.ZipInfo("link.png")
    link.external_attr = 0o120777 << 16
    path = tmp_path / "p.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a.png", png(1))
        file.writestr("inner.zip", inner)
        file.writestr("photo.HEIC", b"x")
        file.writestr(link, b"/etc/passwd")
        with pytest.warns(UserWarning, match="Duplicate name"):
            file.writestr("a.png", png(2))
    source = Archive(path)
    assert len(source) == 1 and int(source.read(0)[0, 0, 0]) == 2
    assert source.remarks == (
        "not opened, though they may hold pictures: inner.zip",
        "not read, for there is no decoder for their kind: photo.HEIC",
        "there more than once, and only the last is read: a.png",
    )


def test_what_is_no_archive(tmp_path: Path) -> None:
    with pytest.raises(WrongUse, match="there is no file"):
        Archive(tmp_path / "none.zip")
    whole = archive(tmp_path / "p.zip", {"a.png": png()}).read_bytes()
    for data in (b"", b"PK", whole[:-1], whole[:40], b"x" * 100, whole.replace(b"PK\1\2", b"PK\1\3")):
        (tmp_path / "bad.zip").write_bytes(data)
        with pytest.raises(FromnoiseError, match="damaged, cut short or no zip") as caught:
            Archive(tmp_path / "bad.zip")
        assert str(caught.value).isprintable() and caught.value.exit_code == 1
    with pytest.raises(WrongUse, match=r"no pictures in .*; other files in it: 1"):
        Archive(archive(tmp_path / "q.zip", {"a.txt": b""}))
    with pytest.raises(WrongUse, match="lies directly in"):
        Archive(tmp_path / "p.zip", classes=True)


def test_identity_is_of_the_content_wherever_the_archive_lies(tmp_path: Path) -> None:
    one = Archive(archive(tmp_path / "1.zip", {"a.png": png(1), "b.png": png(2)}))
    two = Archive(archive(tmp_path / "2.zip", {"a.png": png(1), "b.png": png(3)}, zipfile.ZIP_STORED))
    assert one.identity(0) == two.identity(0) and one.identity(1) != two.identity(1)
    assert one.fingerprint != two.fingerprint
