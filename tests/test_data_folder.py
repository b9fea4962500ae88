"""What is found in a folder, in which order, in which class; and what a wrong folder is told."""

import os
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fromnoise.data import Digits, Folder, Gone, Unreadable, open_source
from fromnoise.errors import FromnoiseError, WrongUse


def picture(path: Path, value: int = 0, kind: str = "PNG") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        Image.new("L", (3, 2), value).save(file, kind)
    return path


def found(folder: Folder) -> list[str]:
    return [folder.name(index) for index in range(len(folder))]


def refused(path: str | Path, *, classes: bool = False) -> str:
    with pytest.raises(WrongUse) as caught:
        Folder(path, classes=classes)
    assert "\n" not in str(caught.value) and caught.value.exit_code == 2
    return str(caught.value)


def test_order_is_that_of_the_relative_paths_however_they_were_made(tmp_path: Path) -> None:
    names = ["b.png", "a/z.png", "a/b/c.png", "a-1.png", "a.png", "B.png", "a/é.png", "10.png", "9.png", "a/b.png"]
    shuffled = random.Random(3).sample(names, len(names))
    for value, name in enumerate(shuffled):
        picture(tmp_path / name, value)
    folder = Folder(tmp_path)
    assert found(folder) == [f"{tmp_path.as_posix()}/{name}" for name in sorted(names)]
    assert [int(folder.read(k)[0, 0, 0]) for k in range(len(names))] == [shuffled.index(n) for n in sorted(names)]
    assert folder.labels is None and folder.classes == ()


def test_suffixes_in_any_case_and_content_decides_the_kind(tmp_path: Path) -> None:
    picture(tmp_path / "a.PNG", 10)
    picture(tmp_path / "b.JpEg", 20, kind="BMP")
    picture(tmp_path / "c.txt")
    picture(tmp_path / "png")
    folder = Folder(tmp_path)
    assert [int(folder.read(k)[0, 0, 0]) for k in range(len(folder))] == [10, 20]


def test_hidden_files_and_folders_are_skipped(tmp_path: Path) -> None:
    picture(tmp_path / "seen.png")
    picture(tmp_path / ".hidden.png")
    picture(tmp_path / ".cache" / "thumb.png")
    picture(tmp_path / "deep" / "._resource.png")
    assert len(Folder(tmp_path)) == 1


def test_links_are_followed_but_never_in_circles(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    picture(elsewhere / "one.png", 1)
    root = tmp_path / "root"
    picture(root / "a" / "two.png", 2)
    (root / "linked").symlink_to(elsewhere, target_is_directory=True)
    (root / "three.png").symlink_to(elsewhere / "one.png")
    (root / "a" / "up").symlink_to(root, target_is_directory=True)
    (root / "a" / "self").symlink_to(root / "a", target_is_directory=True)
    (elsewhere / "back").symlink_to(root, target_is_directory=True)
    assert found(Folder(root)) == [f"{root}/{name}" for name in ("a/two.png", "linked/one.png", "three.png")]


def test_classes_are_the_first_folders_by_name(tmp_path: Path) -> None:
    for name in ("dog/1.png", "cat/2.png", "cat/old/3.png", "Zebra/4.png", ".git/5.png"):
        picture(tmp_path / name)
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("not a picture")
    folder = Folder(tmp_path, classes=True)
    assert folder.classes == ("Zebra", "cat", "dog")
    assert folder.labels == (0, 1, 1, 2)
    assert [Path(name).name for name in found(folder)] == ["4.png", "2.png", "3.png", "1.png"]
    assert Folder(tmp_path).labels is None


def test_a_picture_in_no_class_is_named(tmp_path: Path) -> None:
    picture(tmp_path / "cat" / "1.png")
    picture(tmp_path / "loose.png")
    message = refused(tmp_path, classes=True)
    assert message.startswith("loose.png") and "class" in message
    assert len(Folder(tmp_path)) == 2


def test_missing_folders_files_and_bad_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "there is no folder" in refused(tmp_path / "missing")
    assert "is not a folder" in refused(picture(tmp_path / "a.png"))
    assert "null" in refused("bad\0name")
    assert "too long" in refused("n" * 5000)
    assert "there is no folder" in refused("~nobody-of-that-name/pictures")
    (tmp_path / "loop").symlink_to("loop")
    assert "symbolic links" in refused(tmp_path / "loop")
    picture(tmp_path / "home" / "mine" / "b.png")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert len(Folder("~/mine")) == 1


def test_a_folder_without_pictures_says_what_was_looked_for_and_what_is_there(tmp_path: Path) -> None:
    assert ".webp" in refused(tmp_path) and "no other files" in refused(tmp_path)
    for name in ("a.txt", "b.heic", "sub/c"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    os.mkfifo(tmp_path / "pipe.png")  # opening it would wait for ever
    (tmp_path / "to-pipe.png").symlink_to(tmp_path / "pipe.png")
    message = refused(tmp_path)
    assert message.endswith("other files in it: 3") and ".jpeg" in message


def test_what_cannot_be_opened_is_listed_and_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dangling.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "loop.png").symlink_to("loop.png")
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "zero.png").write_bytes(b"")
    gone = picture(tmp_path / "gone.png")
    kept = picture(tmp_path / "kept.png")
    folder = Folder(tmp_path)
    gone.unlink()
    reasons = {
        "dangling": "nowhere",
        "gone": "gone",
        "loop": "symbolic links",
        "text": "not a picture",
        "zero": "empty",
    }
    for index in range(len(folder)):
        stem = Path(folder.name(index)).stem
        if stem == "kept":
            assert folder.read(index).shape == (2, 3, 1)
            continue
        with pytest.raises(Unreadable, match=reasons.pop(stem)) as caught:
            folder.read(index)
        assert str(caught.value).startswith(folder.name(index) + ": ")
        assert caught.value.exit_code == FromnoiseError.exit_code
        assert isinstance(caught.value, Gone) == (stem == "gone")
    assert not reasons

    def forbidden(self: Path, mode: str) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", forbidden)  # real permissions do not bind the superuser, who may run this
    with pytest.raises(Unreadable, match=f"^{kept}: Permission denied$"):
        folder.read(found(folder).index(str(kept)))


def test_what_is_gone_is_told_from_what_was_never_there(tmp_path: Path) -> None:
    root, disk = tmp_path / "root", tmp_path / "disk"
    picture(disk / "far.png")
    picture(root / "near.png")
    (root / "far.png").symlink_to(disk / "far.png")
    (root / "nowhere.png").symlink_to(disk / "nowhere.png")
    table = tmp_path / "t.csv"
    table.write_text("file,label\nfar.png,x\nnear.png,x\nnever.png,x\nnowhere.png,x\n")
    folder = Folder(root, labels=table)
    names = [Path(name).name for name in found(folder)]
    assert names == ["far.png", "near.png", "never.png", "nowhere.png"]
    identities = [folder.identity(k) for k in range(4)]
    shutil.move(disk, tmp_path / "away")  # the links are still there
    for index in (0, 2, 3):
        with pytest.raises(Unreadable) as caught:
            folder.read(index)
        assert isinstance(caught.value, Gone) == (index == 0)
    assert folder.read(1).shape == (2, 3, 1)
    shutil.move(root, tmp_path / "moved")
    with pytest.raises(Gone, match=r"near\.png: gone since the pictures were listed; bring them back and start again$"):
        folder.raw(1)
    shutil.move(tmp_path / "moved", root)
    shutil.move(tmp_path / "away", disk)
    picture(disk / "nowhere.png")
    assert folder.read(0).shape == folder.read(1).shape
    with pytest.raises(Unreadable, match="leads nowhere"):  # as it was when its identity was taken
        folder.read(3)
    assert [folder.identity(k) for k in range(4)] == identities


def test_what_was_gone_when_its_identity_was_taken_is_not_read_under_it(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    folder = Folder(tmp_path)
    before = folder.identity(0)
    (tmp_path / "a.png").rename(tmp_path / "b")
    assert folder.identity(0) != before
    (tmp_path / "b").rename(tmp_path / "a.png")
    with pytest.raises(Gone):
        folder.read(0)
    assert Folder(tmp_path).identity(0) == before


@pytest.mark.parametrize("where", ["", "sub"])
def test_a_folder_that_may_not_be_listed_is_refused(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture(tmp_path / "seen.png")
    picture(tmp_path / "sub" / "hidden.png")
    scandir = os.scandir

    def forbidden(path: Path) -> object:
        if Path(path) == tmp_path / where:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", forbidden)
    assert refused(tmp_path) == f"cannot list the folder {(tmp_path / where).as_posix()}: Permission denied"


def test_names_with_line_breaks_or_foreign_bytes_stay_on_one_printable_line(tmp_path: Path) -> None:
    raw = os.fsencode(tmp_path) + b"/bad\xff\ndir"
    os.mkdir(raw)
    for name in (b"one\ntwo.png", b"\xe9\xff.png"):
        with open(raw + b"/" + name, "wb") as file:
            file.write(b"")
    folder = Folder(tmp_path, classes=True)
    assert len(folder) == 2
    for index in range(2):
        with pytest.raises(Unreadable, match="empty") as caught:
            folder.read(index)
        assert str(caught.value).isprintable()
        str(caught.value).encode()
    assert folder.classes == (r"'bad\udcff\ndir'",)
    picture(tmp_path / "loose\nline.png")
    assert r"loose\nline" in refused(tmp_path, classes=True)
    assert r"no\nfolder" in refused("no\nfolder")


def test_a_single_picture_is_enough(tmp_path: Path) -> None:
    with (tmp_path / "dot.png").open("wb") as file:
        Image.new("RGB", (1, 1), (1, 2, 3)).save(file, "PNG")
    np.testing.assert_array_equal(Folder(tmp_path).read(0), [[[1, 2, 3]]])


def test_open_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert isinstance(open_source("digits", classes=False), Digits)
    picture(tmp_path / "digits" / "zero" / "a.png")
    for folder in ("./digits", Path("digits"), str(tmp_path / "digits")):
        source = open_source(folder, classes=True)
        assert isinstance(source, Folder) and source.classes == ("zero",)
        assert open_source(folder, classes=False).labels is None
    for wrong, told in (
        ("digit", "did you mean 'digits'?"),
        ("photos", "known: digits"),
        ("", "empty name"),
        (str(picture(tmp_path / "a.png")), "give the folder"),
        (str(tmp_path / "none"), "there is no folder"),
        ("no\nline", r"no\nline"),
    ):
        with pytest.raises(WrongUse) as caught:
            open_source(wrong, classes=False)
        assert told in str(caught.value) and str(caught.value).isprintable()
