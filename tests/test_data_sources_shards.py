"""Tar files: plain ones, webdataset's shards, several in one word, from elsewhere; and damaged ones."""

import contextlib
import functools
import http.server
import importlib
import io
import json
import shutil
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from braceexpand import braceexpand
from PIL import Image

from fromnoise.data import Columns, Shards, Source, Unreadable, open_source
from fromnoise.data.pattern import expanded
from fromnoise.errors import FromnoiseError, WrongUse


def png(value: int = 0) -> bytes:
    file = io.BytesIO()
    Image.new("L", (4, 3), value).save(file, "PNG")
    return file.getvalue()


def tar(path: Path, members: dict[str, bytes], form: int = tarfile.PAX_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as file:
        for name, data in members.items():
            header = tarfile.TarInfo(name)
            header.size = len(data)
            file.addfile(header, io.BytesIO(data))
    return path


def levels(source: Source) -> list[int]:
    return [int(source.read(k)[0, 0, 0]) for k in range(len(source))]


def shards(root: Path) -> list[Path]:
    """Three shards of samples whose keys begin anew in each; the class is a word, with a caption and numbers."""
    paths = []
    for number in range(3):
        members: dict[str, bytes] = {}
        for key in range(4):
            value = 10 * number + key
            members[f"{key:04}.png"] = png(value)
            members[f"{key:04}.cls"] = f"{value % 3}\n".encode()
            members[f"{key:04}.txt"] = f"number {value}".encode()
            members[f"{key:04}.json"] = json.dumps(
                {"value": value / 2, "kind": "odd" if value % 2 else "even"}
            ).encode()
            members[f"{key:04}.pyd"] = b"\x80\x04."  # a pickle: left alone
        paths.append(tar(root / f"train-{number:03}.tar", members))
    return paths


def test_samples_of_several_shards(tmp_path: Path) -> None:
    paths = shards(tmp_path)
    values = [10 * number + key for number in range(3) for key in range(4)]
    for word in (f"{tmp_path}/train-{{000..002}}.tar", f"{tmp_path}/train-*.tar", str(tmp_path)):
        source = open_source(word, True)
        assert isinstance(source, Shards) and levels(source) == values
        assert [source.classes[k] for k in source.labels or ()] == [str(value % 3) for value in values]
        assert source.captions == tuple(f"number {value}" for value in values)
        assert source.values == tuple((value / 2,) for value in values) and source.value_names == ("value",)
        assert source.name(5) == f"{paths[1]}/0001.png" and source.remarks == ()
        assert len({source.identity(k) for k in range(12)}) == 12
    assert open_source(tmp_path).labels is None
    source = open_source(paths[1], columns=Columns(label="kind", caption="cls", values=("value", "value")))
    assert source.classes == ("even", "odd") and source.labels == (0, 1, 0, 1) and source.captions[3] == "1"
    with pytest.raises(WrongUse, match="none of the 12 samples has a note or a key knid"):
        open_source(tmp_path, columns=Columns(label="knid"))


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # it leaves its files open
def test_what_webdataset_itself_reads_is_the_same(tmp_path: Path) -> None:
    webdataset: Any = importlib.import_module("webdataset")
    for path in shards(tmp_path):
        theirs = list(webdataset.WebDataset(str(path), shardshuffle=False, empty_check=False))
        ours = open_source(path, True)
        assert len(ours) == len(theirs) == 4
        for index, sample in enumerate(theirs):
            with Image.open(io.BytesIO(sample["png"])) as image:
                np.testing.assert_array_equal(ours.read(index)[..., 0], np.asarray(image))
            assert ours.classes[ours.labels[index]] == sample["cls"].decode().strip()
            assert ours.captions[index] == sample["txt"].decode()
            assert ours.values[index] == (json.loads(sample["json"])["value"],)


def test_keys_end_at_the_first_dot_of_the_name(tmp_path: Path) -> None:
    members = {"a.b/x.left.png": png(1), "a.b/x.right.png": png(2), "a.b/x.cls": b"one", "c.cls": b"none"}
    path = tar(tmp_path / "x.tar", members)
    with pytest.raises(WrongUse, match=r"a\.b/x of .* has several pictures, name one .*: left.png, right.png"):
        open_source(path, True)
    source = open_source(path, True, columns=Columns(picture="right.png"))
    assert levels(source) == [2] and source.classes == ("one",)
    with pytest.raises(WrongUse, match=r"has no middle.png; its pictures are left.png, right.png"):
        open_source(path, True, columns=Columns(picture="middle.png"))


def test_notes_that_are_missing_or_cannot_be_read(tmp_path: Path) -> None:
    members = {"1.png": png(1), "1.cls": b"a", "2.png": png(2), "2.json": b"{", "3.png": png(3), "3.txt": b"\xff"}
    path = tar(tmp_path / "x.tar", members)
    source = open_source(path)
    assert len(source) == 3 and source.remarks == (f"notes that cannot be read: {path}/2, {path}/3",)
    with pytest.raises(WrongUse, match=r"x.tar/2 has no label"):
        open_source(path, True)


def test_plain_tar_files_are_taken_as_a_folder_is(tmp_path: Path) -> None:
    names = ["dog/1.png", "cat/2.PNG", "cat/old/3.png", ".git/4.png", "notes.md"]
    path = tar(tmp_path / "x.tar", {name: png(k) for k, name in enumerate(names)})
    source = open_source(path, True)
    assert levels(source) == [0, 1, 2] and source.labels == (1, 0, 0) and source.classes == ("cat", "dog")
    assert open_source(path).labels is None
    table = tmp_path / "t.csv"
    table.write_text("file,label\ncat/2.PNG,x\ndog/1.png,y\ngone.png,x\n")
    source = open_source(path, labels=table)
    assert source.labels == (0, 1, 0) and levels_but_last(source) == [1, 0]
    with pytest.raises(Unreadable, match="the table names it"):
        source.read(2)
    edm = {f"00000/{k}.png": png(k) for k in range(3)}
    labels = {"labels": [[name, 7 - k] for k, name in enumerate(edm)]}
    path = tar(tmp_path / "edm.tar", {**edm, "dataset.json": json.dumps(labels).encode()})
    assert open_source(path, True).classes == ("5", "6", "7")
    with pytest.raises(WrongUse, match="lies directly in"):
        open_source(tar(tmp_path / "y.tar", {"1.png": png()}), True)
    with pytest.raises(WrongUse, match="no pictures in"):
        open_source(tar(tmp_path / "z.tar", {"1.txt": b""}))
    twice = [tar(tmp_path / f"{k}.tar", {"1.png": png(k)}) for k in (5, 6)]
    assert levels(Shards(twice, "both")) == [5, 6]
    with pytest.raises(WrongUse, match="files of the same name"):
        Shards(twice, "both", labels=table)


def levels_but_last(source: Source) -> list[int]:
    return [int(source.read(k)[0, 0, 0]) for k in range(len(source) - 1)]


def test_identity_follows_the_shard(tmp_path: Path) -> None:
    path = tar(tmp_path / "x.tar", {"1.png": png(1), "2.png": png(2)})
    before = Shards([path], "x")
    assert before.fingerprint == Shards([path], "x").fingerprint
    tar(path, {"1.png": png(1), "2.png": png(3)})
    after = Shards([path], "x")
    assert before.identity(1) != after.identity(1) and before.fingerprint != after.fingerprint


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_links_devices_long_names_and_names_that_lead_out(form: int, tmp_path: Path) -> None:
    long = "/".join(["folder" * 4] * 5) + ".png"
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w", format=form) as file:
        for name, kind in (
            ("link.png", tarfile.SYMTYPE),
            ("hard.png", tarfile.LNKTYPE),
            ("fifo.png", tarfile.FIFOTYPE),
            ("device.png", tarfile.CHRTYPE),
            ("dir.png", tarfile.DIRTYPE),
        ):
            header = tarfile.TarInfo(name)
            header.type, header.linkname = kind, "/etc/passwd"
            file.addfile(header)
        for name in (long, "../up.png", "/etc/up.png"):
            header = tarfile.TarInfo(name)
            header.size = len(png())
            file.addfile(header, io.BytesIO(png()))
    source = open_source(path)
    assert [source.name(k).removeprefix(f"{path}/") for k in range(len(source))] == [long, "../up.png", "/etc/up.png"]
    assert source.read(0).shape == (3, 4, 1)
    for index in (1, 2):
        with pytest.raises(Unreadable, match="leads out of the archive"):
            source.read(index)


def header(name: str, size: bytes, kind: bytes = tarfile.REGTYPE) -> bytes:
    """A header with any size field, 12 bytes, and a right checksum (POSIX.1-1988, ustar)."""
    block = bytearray(tarfile.TarInfo(name).tobuf(tarfile.USTAR_FORMAT))
    block[124:136] = size
    block[156:157] = kind
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def base_256(value: int) -> bytes:
    return value.to_bytes(12, "big", signed=True) if value < 0 else b"\x80" + value.to_bytes(11, "big")


@pytest.mark.parametrize(
    "damage",
    [
        header("big.png", base_256(2**40)),
        header("back.png", base_256(-1024)),
        header("back.png", base_256(-(2**60))),
        header("x", base_256(2**40), tarfile.XHDTYPE),
        header("x", base_256(-512), tarfile.XHDTYPE),
        header("x", base_256(2**33), tarfile.GNUTYPE_LONGNAME),
        header("x", base_256(2**40), tarfile.GNUTYPE_SPARSE),
        b"no header at all".ljust(512, b"!"),
        header("y.png", b"nonsense\0\0\0\0"),
        header("x", b"%011o\0" % 30, tarfile.XHDTYPE) + b"30 size=-1234567890123456789\n\n".ljust(512, b"\0"),
    ],
)
def test_lies_of_headers_end_the_walk_and_what_came_before_is_kept(damage: bytes, tmp_path: Path) -> None:
    whole = tar(tmp_path / "x.tar", {"1.png": png(1), "2.png": png(2)}).read_bytes()
    end = len(whole.rstrip(b"\0")) + 511 & ~511
    path = tmp_path / "bad.tar"
    path.write_bytes(whole[:end] + damage + whole[:end])
    source = open_source(path)
    assert levels_of_readable(source)[:2] == [1, 2]
    assert "is damaged or cut short" in source.remarks[0] and source.remarks[0].isprintable()
    path.write_bytes(damage + whole)
    with pytest.raises(FromnoiseError) as caught:  # nothing came before; or the liar itself is all there is
        open_source(path).read(0)
    assert str(caught.value).isprintable()


def levels_of_readable(source: Source) -> list[int]:
    found = []
    for index in range(len(source)):
        with contextlib.suppress(Unreadable):
            found.append(int(source.read(index)[0, 0, 0]))
    return found


def test_truncated_shards(tmp_path: Path) -> None:
    whole = tar(tmp_path / "x.tar", {f"{k}.png": png(k) for k in range(4)}).read_bytes()
    path = tmp_path / "cut.tar"
    path.write_bytes(whole[: 2 * 1024 + 512 + 20])
    source = open_source(path)
    assert levels_of_readable(source) == [0, 1] and len(source) == 3 and "cut short" in source.remarks[0]
    with pytest.raises(Unreadable, match=r"cut.tar/2.png: cut short: 20 of \d+ bytes"):
        source.read(2)
    path.write_bytes(whole[: 4 * 1024])  # at the end of a member: only the mark of the end is missing
    source = open_source(path)
    assert levels(source) == [0, 1, 2, 3] and "the mark of its end is missing" in source.remarks[0]
    both = Shards([tmp_path / "x.tar", _written(tmp_path / "b.tar", b"x" * 600)], "both")
    assert levels(both) == [0, 1, 2, 3] and "no tar file" in both.remarks[0]
    for data, told in (
        (b"", "no tar file"),
        (b"\x1f\x8b\x08", "packed by gzip; unpack it"),
        (b"x" * 600, "no tar file"),
    ):
        with pytest.raises(FromnoiseError, match=told):
            open_source(_written(tmp_path / "bad.tar", data))


def _written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_no_room_is_made_for_what_a_header_claims(tmp_path: Path) -> None:
    """In a process that may have half a gigabyte, for a claim of eight."""
    resource = pytest.importorskip("resource")
    assert resource.RLIMIT_AS
    path = _written(tmp_path / "x.tar", header("x", base_256(2**33), tarfile.GNUTYPE_LONGNAME) + bytes(1024))
    program = (
        "import resource, sys\n"
        "from fromnoise.data.tar import contents\n"
        "from fromnoise.errors import FromnoiseError\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 2**29,) * 2)\n"
        "try:\n"
        "    contents(sys.argv[1])\n"
        "except FromnoiseError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "no tar file" in done.stdout and "memory" not in done.stdout, done.stderr


def test_braces() -> None:
    assert expanded("a-{08..11}.tar") == ["a-08.tar", "a-09.tar", "a-10.tar", "a-11.tar"]
    assert expanded("{x,y}{1..2}") == ["x1", "x2", "y1", "y2"] and expanded("plain") == ["plain"]
    for pattern in ("s-{000..123}.tar", "{a,b,c}/{8..12}", "{train,test}-{00..03}-of-04.tar"):
        assert expanded(pattern) == list(braceexpand(pattern))
    for wrong in ("{}", "{a}", "{3..1}", "{0..99999999}", "{0..999}{0..999}"):
        with pytest.raises(WrongUse):
            expanded(wrong)


# ------------------------------------------------------------------------------------------------------- from elsewhere


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    """The folder ``tmp_path/served``, by HTTP, from this process."""
    quiet = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    (tmp_path / "served").mkdir()
    handler = functools.partial(quiet, directory=str(tmp_path / "served"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_shards_from_elsewhere_are_fetched_once(served: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("curl") is None:
        pytest.skip("webdataset fetches by curl")
    monkeypatch.setenv("FROMNOISE_CACHE", str(tmp_path / "cache"))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    paths = shards(tmp_path / "served")
    address = f"{served}/train-{{000..002}}.tar"
    source = open_source(address, True)
    assert len(source) == 12 and levels(source)[4:8] == [10, 11, 12, 13] and source.captions[0] == "number 0"
    kept = sorted((tmp_path / "cache").rglob("*"))
    assert len([one for one in kept if one.is_file()]) == 3 and not [one for one in kept if "part" in one.name]
    for path in paths:
        path.unlink()
    again = open_source(address, True)
    assert again.fingerprint == source.fingerprint
    with pytest.raises(FromnoiseError, match=r"cannot fetch .*/gone.tar"):
        open_source(f"{served}/gone.tar")
    assert sorted((tmp_path / "cache").rglob("*")) == kept
    (tmp_path / "served" / "page.tar").write_text("<html>sorry</html>")
    with pytest.raises(FromnoiseError, match=r"page.tar gives is no tar file"):
        open_source(f"{served}/page.tar")
    assert sorted((tmp_path / "cache").rglob("*")) == kept
    with pytest.raises(WrongUse, match=r"no address of a .tar shard"):
        open_source(f"{served}/x.zip")


def test_a_pipe_and_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FROMNOISE_CACHE", str(tmp_path / "cache"))
    path = shards(tmp_path)[1]
    assert levels(open_source(f"pipe:cat '{path}'")) == [10, 11, 12, 13]
    with pytest.raises(FromnoiseError, match="cannot fetch pipe:false"):
        open_source("pipe:false")
    monkeypatch.setitem(sys.modules, "webdataset.gopen", None)
    with pytest.raises(WrongUse, match=r"pip install 'fromnoise\[shards\]'"):
        open_source("https://example.invalid/x.tar")
