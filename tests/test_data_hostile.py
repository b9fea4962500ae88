"""A corpus of hostile files, made here from a seed: each is reported, none kills, nothing is written.

What a source says of a picture is one printable line (`Unreadable`), what it says of itself one printable line
(`FromnoiseError`); anything else that comes out fails the test. The corpus is read in a process of its own, which may
take half a gigabyte beyond what it starts with: a decompression bomb that went off would end it.
"""

import functools
import io
import json
import os
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as arrow
import pytest
from PIL import Image
from pyarrow.parquet import write_table

import fromnoise
from fromnoise.data import Source, Unreadable, open_source
from fromnoise.data.unzip import LARGEST_MEMBER
from fromnoise.errors import FromnoiseError

SEED = 2026
NOISE = np.random.default_rng(SEED).integers(
    0, 256, (48, 64, 3), dtype=np.uint8
)  # does not compress: files of some kilobytes


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def claimed_png(width: int, height: int, rows: int) -> bytes:
    """A PNG that claims width x height grey pixels and holds so many rows of zeros."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    packer = zlib.compressobj(9)
    data = b"".join(packer.compress(bytes(width + 1)) for _ in range(rows)) + packer.flush()
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", data) + chunk(b"IEND", b"")


# --------------------------------------------------------------------------------------------------------- the corpus


@functools.cache
def whole_pictures() -> dict[str, bytes]:
    """Odd, and right: name → file. Each is to be read."""
    rng = np.random.default_rng(SEED + 1)
    rgb = Image.fromarray(NOISE)
    frames = [Image.fromarray(np.roll(NOISE, 8 * k, axis=1)) for k in range(3)]
    wide = Image.fromarray(np.arange(65_000, dtype=np.uint32).astype(np.uint8)[None])
    sixteen = Image.fromarray(rng.integers(0, 65536, (9, 7), dtype=np.uint16))
    return {
        "1x1.png": saved(Image.new("RGB", (1, 1), (1, 2, 3)), "PNG"),
        "65000x1.png": saved(wide, "PNG"),
        "1x65000.png": saved(wide.transpose(Image.Transpose.TRANSPOSE), "PNG"),
        "cmyk.jpg": saved(rgb.convert("CMYK"), "JPEG"),
        "cmyk.tif": saved(rgb.convert("CMYK"), "TIFF"),
        "sixteen.png": saved(sixteen, "PNG"),
        "sixteen.tif": saved(sixteen, "TIFF"),
        "animated.gif": saved(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "animated.webp": saved(frames[0], "WEBP", save_all=True, append_images=frames[1:]),
        "animated.apng": saved(frames[0], "PNG", save_all=True, append_images=frames[1:]),
        "pages.tif": saved(frames[0], "TIFF", save_all=True, append_images=frames[1:]),
        "wrong-suffix.jpg": saved(rgb, "PNG"),
    }


SHAPES = {"1x1.png": (1, 1, 3), "65000x1.png": (1, 65_000, 1), "1x65000.png": (65_000, 1, 1), "sixteen.png": (9, 7, 1),
          "sixteen.tif": (9, 7, 1)}  # fmt: skip


@functools.cache
def damaged_pictures() -> dict[str, bytes]:
    """Cut at every kilobyte, or claiming what cannot be: name → file. None is to be read."""
    rng = np.random.default_rng(SEED + 2)
    rgb = Image.fromarray(NOISE)
    kinds = {"png": "PNG", "jpg": "JPEG", "webp": "WEBP", "gif": "GIF", "tif": "TIFF", "bmp": "BMP", "ppm": "PPM"}
    found = {}
    for suffix, kind in kinds.items():
        data = saved(rgb, kind)
        assert len(data) > 2048
        for cut in range(0, len(data), 1024):
            found[f"cut-{cut // 1024}k.{suffix}"] = data[:cut]
    found["packed.tif"] = saved(rgb, "TIFF", compression="tiff_lzw")[:1500]
    found |= {
        "text.png": b"this is no picture",
        "magic.png": b"\x89PNX" + saved(rgb, "PNG")[4:],
        "magic.jpg": b"\xff\xd7" + saved(rgb, "JPEG")[2:],
        "zeros.png": bytes(5000),
        "noise.png": rng.bytes(5000),
        "noise.tif": b"II*\0" + rng.bytes(5000),
        "noise.gif": b"GIF89a" + rng.bytes(5000),
        "noise.webp": b"RIFF" + struct.pack("<I", 4992) + b"WEBPVP8 " + rng.bytes(4984),
        "bomb.png": claimed_png(60_000, 60_000, 10),
        "bomb-in-part.png": claimed_png(30_000, 3_000, 1_000),
        "most.png": claimed_png(2**31 - 1, 2**31 - 1, 0),
        "no-rows.png": claimed_png(9_000, 9_000, 0),
        "empty.png": claimed_png(0, 0, 0),
        "bomb.bmp": b"BM"
        + struct.pack("<IIIIiiHHIIiiII", 60, 0, 54, 40, 50_000, 50_000, 1, 24, 0, 0, 0, 0, 0, 0)
        + b"x" * 6,
        "bomb.gif": b"GIF89a"
        + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0)
        + b",\0\0\0\0\xff\xff\xff\xff\0\x08\x01\0\0;",
        "bomb.ppm": b"P6 100000 100000 255\n" + bytes(100),
        "negative.ppm": b"P6 -5 5 255\n" + bytes(100),
        "text-chunk.png": saved(rgb, "PNG")[:33] + chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(2**27), 9)) + b"",
    }
    return found


def folder(root: Path) -> Path:
    """The corpus as a folder, with names and links to match."""
    for name, data in {**whole_pictures(), **damaged_pictures()}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    fine = whole_pictures()["1x1.png"]
    for name in (
        b"new\nline.png",
        b"not-utf8-\xff\xfe.png",
        b"esc\x1b[31m.png",
        b"-rf.png",
        "\u202egnp.png".encode(),
        b"a" * 251 + b".png",
    ):
        with open(os.fsencode(root) + b"/" + name, "wb") as file:
            file.write(fine)
    (root / "loop").symlink_to(root, target_is_directory=True)
    (root / "self.png").symlink_to("self.png")
    (root / "dangling.png").symlink_to("nowhere.png")
    (root / "device.png").symlink_to("/dev/zero")
    (root / "a").mkdir()
    (root / "b").mkdir()
    (root / "a" / "to-b").symlink_to(root / "b", target_is_directory=True)
    (root / "b" / "to-a").symlink_to(root / "a", target_is_directory=True)
    os.mkfifo(root / "pipe.png")
    return root


def links(root: Path) -> Path:
    """Thirty folders with two links each to the next: a thousand million paths to one picture."""
    for k in range(30):
        (root / str(k)).mkdir(parents=True)
        for name in ("left", "right"):
            (root / str(k) / name).symlink_to(root / str(k + 1), target_is_directory=True)
    (root / "30").mkdir()
    (root / "30" / "x.png").write_bytes(whole_pictures()["1x1.png"])
    return root


def archive(path: Path) -> Path:
    """The corpus as a zip, with what only a zip can do."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in {**whole_pictures(), **damaged_pictures()}.items():
            file.writestr(name, data)
        for name in ("../../escaped.png", "/tmp/escaped.png", "..\\escaped2.png", "C:\\escaped.png", "new\nline.png"):
            file.writestr(name, whole_pictures()["1x1.png"])
        file.writestr("inner.zip", b"PK\5\6" + bytes(18))
        file.writestr("zeros-packed.png", bytes(1000))
        file.writestr("lie.png", whole_pictures()["cmyk.jpg"])
    data = bytearray(path.read_bytes())
    for name, size in ((b"zeros-packed.png", LARGEST_MEMBER + 1), (b"lie.png", 7)):
        struct.pack_into("<I", data, data.rindex(name) - 46 + 24, size)  # in the directory: its size unpacked
    path.write_bytes(data)
    return path


def shard(path: Path) -> Path:
    with tarfile.open(path, "w") as file:
        for name, data in {**whole_pictures(), **damaged_pictures()}.items():
            stem, _, kind = name.partition(".")
            for suffix, content in ((kind, data), ("json", b"{" * 20_000)):
                header = tarfile.TarInfo(f"{kind}/{stem}.{suffix}")
                header.size = len(content)
                file.addfile(header, io.BytesIO(content))
    return path


# ----------------------------------------------------------------------------------------------------------- the tests


def outcomes(source: Source) -> dict[str, tuple[int, ...] | str]:
    """What became of each picture: its shape, or why it is unreadable."""
    found: dict[str, tuple[int, ...] | str] = {}
    for index in range(len(source)):
        assert source.name(index).isprintable() and source.identity(index)
        try:
            found[source.name(index)] = source.read(index).shape
        except Unreadable as error:
            found[source.name(index)] = error.why
    assert all(what and str(what).isprintable() for what in found.values()), found
    assert source.fingerprint
    return found


PROGRAM = """
import json, pathlib, resource, sys, warnings
warnings.simplefilter("error")
sys.path[:0] = {places!r}
from fromnoise.data import open_source
import test_data_hostile as corpus
used = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**29,) * 2)
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # nothing may be written, to any file
source = open_source({path!r})
found = corpus.outcomes(source)
print(json.dumps([found, source.remarks]))
"""


def tree(root: Path) -> set[str]:
    return {os.fsdecode(os.path.join(top, name)) for top, folders, files in os.walk(root) for name in folders + files}


@pytest.mark.parametrize("make", [folder, archive, shard])
def test_each_is_reported_and_none_kills(make: Callable[[Path], Path], tmp_path: Path) -> None:
    path = make(tmp_path / "corpus")
    before = tree(tmp_path)
    places = [str(Path(__file__).parent), str(Path(fromnoise.__file__).parents[1])]
    program = PROGRAM.format(places=places, path=str(path))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=100, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    assert done.stderr == b"" and tree(tmp_path) == before
    outcome, remarks = json.loads(done.stdout)
    by_name = {
        (name.rpartition("/")[2] if make is shard else name.removeprefix(f"{path}/")): what
        for name, what in outcome.items()
    }
    for name, data in whole_pictures().items():
        shape = SHAPES.get(name, (48, 64, 3))
        assert tuple(by_name[name]) == shape, (name, by_name[name], len(data))
    for name in damaged_pictures():
        assert isinstance(by_name[name], str), (name, by_name[name])
    assert all("pixels" in by_name[f"bomb.{kind}"] for kind in ("png", "bmp", "gif", "ppm"))
    if make is folder:
        assert "symbolic links" in by_name["self.png"] and "nowhere" in by_name["dangling.png"]
        assert not {"pipe.png", "device.png"} & by_name.keys()  # opening one would wait, or never end
        odd = [name for name in by_name if name.startswith("'")]
        assert len(odd) >= 3 and all(by_name[name] == [1, 1, 3] for name in odd)
    if make is archive:
        assert sum("leads out of the archive" in str(what) for what in by_name.values()) == 4
        assert "above the limit" in by_name["zeros-packed.png"] and "more bytes than the 7" in by_name["lie.png"]
        assert remarks == ["not opened, though they may hold pictures: inner.zip"]
    if make is shard:
        assert "notes that cannot be read" in remarks[0]


def test_a_thousand_million_paths_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FromnoiseError, match="links lead to one folder"):
        open_source(links(tmp_path / "links") / "0")


@pytest.mark.parametrize("kind", ["zip", "tar", "npz", "npy", "parquet", "arrow", "json", "csv"])
def test_containers_cut_at_every_kilobyte_or_with_flipped_bits(kind: str, tmp_path: Path) -> None:
    """Whatever opens is readable or says why, picture by picture; whatever does not says so in one line."""
    rng = np.random.default_rng(SEED + 3)
    path, data, labels = container(kind, tmp_path)
    opened = path if labels is None else tmp_path / "pictures"
    damage = [data[:cut] for cut in range(0, len(data), max(1024, len(data) // 24))] + [data[:-1], data + b"\0"]
    places = rng.integers(0, len(data), 40).tolist() + list(range(0, min(len(data), 512), 16))
    for place in places:
        flipped = bytearray(data)
        flipped[place] ^= 1 << int(rng.integers(8))
        damage.append(bytes(flipped))
    told = 0
    for content in damage:
        path.write_bytes(content)
        try:
            found = outcomes(open_source(opened, labels=labels))
        except FromnoiseError as error:
            message = str(error)
        else:
            message = next((what for what in found.values() if isinstance(what, str)), "")
        assert message.isprintable() and len(message) < 1000
        told += bool(message)
    assert told > len(damage) // 3  # some flips change nothing but a pixel, or a label


def container(kind: str, root: Path) -> tuple[Path, bytes, Path | None]:
    """A whole container of ten pictures of a kilobyte each; of a table, that it is the table."""
    pixels = np.random.default_rng(SEED + 4).integers(0, 256, (10, 18, 20, 3), dtype=np.uint8)
    files = {f"{k}.png": saved(Image.fromarray(one), "PNG") for k, one in enumerate(pixels)}
    path = root / f"x.{kind}"
    labels = None
    if kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archived:
            for name, data in files.items():
                archived.writestr(name, data)
    elif kind == "tar":
        with tarfile.open(path, "w") as archived:
            for name, data in files.items():
                header = tarfile.TarInfo(name)
                header.size = len(data)
                archived.addfile(header, io.BytesIO(data))
    elif kind == "npz":
        np.savez_compressed(path, images=pixels, labels=np.arange(10))
    elif kind == "npy":
        np.save(path, (pixels / 255).astype(np.float32))
    elif kind in ("parquet", "arrow"):
        table = arrow.table({"image": list(files.values()), "label": list(range(10))})
        if kind == "parquet":
            write_table(table, path, row_group_size=4)
        else:
            with arrow.OSFile(str(path), "wb") as sink, arrow.ipc.new_file(sink, table.schema) as writer:
                writer.write_table(table)
    else:
        (root / "pictures").mkdir()
        for name, data in files.items():
            (root / "pictures" / name).write_bytes(data)
        rows = [{"file": name, "label": k, "caption": f"number {k}" * 20} for k, name in enumerate(files)]
        text = (
            json.dumps(rows)
            if kind == "json"
            else "file,label\n" + "".join(f"{r['file']},{r['label']}\n" for r in rows)
        )
        path.write_text(text)
        labels = path
    opened = open_source(path if labels is None else root / "pictures", labels=labels)
    assert all(isinstance(what, tuple) for what in outcomes(opened).values())
    return path, path.read_bytes(), labels
