"""What a word is taken for: names, paths, patterns, addresses; and what is said about all else."""

import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fromnoise.data import Archive, Arrays, Columns, Digits, Emoji, Fit, Folder, Shards, Source, load, open_source
from fromnoise.errors import FromnoiseError, WrongUse
from fromnoise.task.prepare import prepare

PIXELS = np.random.default_rng(41).integers(0, 256, (6, 7, 5, 3), dtype=np.uint8)
CLASSES = ["b", "a", "b", "c", "a", "a"]


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def everywhere(root: Path) -> dict[str, Path]:
    """The same six pictures, in the same order and classes, as every kind of source that needs nothing installed."""
    names = [f"{label}/{k}.png" for k, label in enumerate(CLASSES)]
    order = sorted(range(6), key=lambda k: names[k])
    files = {names[k]: png(PIXELS[k]) for k in order}
    for name, data in files.items():
        (root / "folder" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "folder" / name).write_bytes(data)
    (root / "tars").mkdir()
    with zipfile.ZipFile(root / "x.zip", "w") as archive, tarfile.open(root / "tars" / "x.tar", "w") as shard:
        for name, data in files.items():
            archive.writestr(name, data)
            header = tarfile.TarInfo(name)
            header.size = len(data)
            shard.addfile(header, io.BytesIO(data))
    labels = np.array([CLASSES[k] for k in order])
    np.savez(root / "x.npz", images=PIXELS[order], labels=labels)
    (root / "arrays").mkdir()
    np.save(root / "arrays" / "x.npy", PIXELS[order])
    np.save(root / "arrays" / "y.npy", labels)
    return {
        "Folder": root / "folder",
        "Archive": root / "x.zip",
        "Shards": root / "tars" / "x.tar",
        "Arrays": root / "x.npz",
        "Arrays, mapped": root / "arrays" / "x.npy",
        "Shards, in a folder": root / "tars",
    }


def test_the_same_pictures_from_every_kind_of_source_make_the_same_data_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FROMNOISE_CACHE", str(tmp_path / "cache"))
    prints = set()
    for kind, path in everywhere(tmp_path).items():
        source = open_source(path, True)
        assert type(source).__name__ == kind.partition(",")[0]
        data = load(source, Fit(height=7, width=5, channels=3))
        assert data.classes == ("a", "b", "c") and data.labels.tolist() == [0, 0, 0, 1, 1, 2]
        prints.add(data.fingerprint)
        assert open_source(str(path)).labels is None
    assert len(prints) == 1


def test_content_decides_and_then_the_name(tmp_path: Path) -> None:
    paths = everywhere(tmp_path)
    for kind, name in (("Archive", "a.tar"), ("Shards", "b"), ("Arrays, mapped", "c.zip")):
        (tmp_path / name).write_bytes(paths[kind].read_bytes())
    assert isinstance(open_source(tmp_path / "a.tar"), Archive)
    assert isinstance(open_source(tmp_path / "b"), Shards)
    with pytest.raises(FromnoiseError):  # an .npy that is called .zip is read as an .npy
        open_source(tmp_path / "c.zip", labels=tmp_path / "none.npy")
    assert isinstance(open_source(tmp_path / "c.zip"), Arrays)
    for name in ("d.zip", "e.npz", "f.npy", "g.tar", "h.parquet", "i.arrow"):
        (tmp_path / name).write_bytes(b"nothing of the kind")
        with pytest.raises(FromnoiseError, match=r"damaged|needs pyarrow") as caught:
            open_source(tmp_path / name)
        assert str(caught.value).isprintable()


def test_names_come_first_and_paths_are_never_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "emoji").mkdir()
    (tmp_path / "emoji" / "x.png").write_bytes(png(PIXELS[0]))
    assert isinstance(open_source("emoji"), Emoji) and isinstance(open_source("digits"), Digits)
    for own in ("./emoji", Path("emoji")):
        source = open_source(own)
        assert isinstance(source, Folder) and len(source) == 1
    braces = tmp_path / "{a,b}"
    (tmp_path / "emoji").rename(braces)
    assert len(open_source(braces)) == 1  # what is there is no pattern


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("emojy", "did you mean 'emoji'?"),
        ("photos", "known: digits, emoji"),
        ("", "built-in name: digits, emoji"),
        ("owner/name", "a data set of the hub is written hub:owner/name"),
        ("/no/such/folder", "there is no folder /no/such/folder"),
        ("hub:", "no data set|pip install"),
        ("none-*.tar", "no file is called none-*.tar"),
        ("{1..2}.tar", "there is no file|cannot read 1.tar"),
        ("{a}.tar", "no range such as {00..11} and no list {a,b}"),
        ("ftp://host/x.tar", "there is no folder"),
    ],
)
def test_words_that_name_nothing(word: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WrongUse) as caught:
        open_source(word)
    assert any(one in str(caught.value) for one in told.split("|")) and str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("a.png", "is a picture; give the folder that holds it"),
        ("a.pt", "is a pickle, which may run any program"),
        ("a.tar.gz", "is packed by gz"),
        ("a.7z", "is packed by 7z"),
        ("a.h5", "of a kind that is not read here"),
        ("a\nb", "of a kind that is not read here"),
    ],
)
def test_files_that_are_not_read_are_refused_with_what_is(name: str, told: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"x" * 600)
    with pytest.raises(WrongUse, match=told) as caught:
        open_source(tmp_path / name)
    assert str(caught.value).isprintable()


def test_a_saved_torch_model_is_a_zip_and_still_a_pickle(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "model.pt", "w") as file:
        file.writestr("archive/data.pkl", b"\x80\x02.")
    with pytest.raises(WrongUse, match="is a pickle"):
        open_source(tmp_path / "model.pt")


def test_what_a_source_has_not_is_not_silently_left_out(tmp_path: Path) -> None:
    paths = everywhere(tmp_path)
    for word in ("digits", "emoji"):
        with pytest.raises(WrongUse, match="leave out the table"):
            open_source(word, labels="x.csv")
        with pytest.raises(WrongUse, match="have no columns"):
            open_source(word, columns=Columns(label="x"))
        with pytest.raises(WrongUse, match="have no splits"):
            open_source(word, split="test")
    for kind, path in paths.items():
        with pytest.raises(WrongUse, match="have no splits; leave it out"):
            open_source(path, split="train")
        if kind != "Arrays, mapped":
            with pytest.raises(WrongUse):
                open_source(path, columns=Columns(label="nothing"), labels=_table(tmp_path))


def _table(root: Path) -> Path:
    (root / "t.csv").write_text("file,label\na/1.png,x\n")
    return root / "t.csv"


def test_folders_of_other_things(tmp_path: Path) -> None:
    paths = everywhere(tmp_path)
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    (mixed / "x.tar").write_bytes(paths["Shards"].read_bytes())
    (mixed / "x.parquet").write_bytes(b"PAR1")
    with pytest.raises(WrongUse, match=r"holds .parquet and .tar files, x.parquet and x.tar"):
        open_source(mixed)
    (mixed / "a.png").write_bytes(png(PIXELS[0]))
    source = open_source(mixed)
    assert len(source) == 1 and source.remarks == ("not opened, though they may hold pictures: x.parquet, x.tar",)
    zips = tmp_path / "zips"
    zips.mkdir()
    (zips / "x.zip").write_bytes(paths["Archive"].read_bytes())
    with pytest.raises(WrongUse, match=r"no pictures in .*zips: .*other files in it: 1, x.zip; give one of them"):
        open_source(zips)
    (zips / "y.zip").write_bytes(paths["Archive"].read_bytes())
    with pytest.raises(WrongUse, match=r"stands for 2 files, .* of .zip files give one"):
        open_source(f"{zips}/*.zip")
    with pytest.raises(WrongUse, match=r"stands for files of several kinds, .npz, .zip"):
        open_source(f"{tmp_path}/x.*")


def test_the_interface_of_every_source(tmp_path: Path) -> None:
    sources: list[Source] = [Digits(), Emoji(), *(open_source(path, True) for path in everywhere(tmp_path).values())]
    for source in sources:
        count = len(source)
        assert source.labels is not None and len(source.labels) == count
        assert set(source.labels) == set(range(len(source.classes)))
        assert source.captions is None or len(source.captions) == count
        assert source.values is None and source.value_names == ()
        assert all(source.name(k).isprintable() and source.identity(k) for k in (0, count - 1))
        assert len(source.fingerprint) == 32
    assert (
        len({source.fingerprint for source in sources}) == len(sources) - 2
    )  # one tar file, and one array, in two ways


def test_what_is_noticed_on_the_way_reaches_the_person_also_where_pictures_are_held_out(tmp_path: Path) -> None:
    folder = everywhere(tmp_path)["Folder"]
    (folder / "more.zip").write_bytes(b"PK")
    (folder / "a" / "broken.png").write_bytes(b"nonsense")
    tree = {"data": {"path": str(folder), "height": 8, "width": 8, "classes": True}, "train": {"steps": 1}}
    whole = prepare(tree, preset_name=None)
    assert whole.remarks[0].startswith("preset digits, fitted to 6 pictures: ")
    assert whole.remarks[1:] == ("not opened, though they may hold pictures: more.zip",)
    assert len(whole.training.skipped) == 1
    part = prepare({**tree, "data": {**tree["data"], "held_out": 0.5}}, preset_name=None)
    assert part.remarks[1] == whole.remarks[1] and len(part.remarks) == 3
    assert part.remarks[2].startswith("skipped 1 unreadable pictures, the first: ") and "broken.png" in part.remarks[2]
