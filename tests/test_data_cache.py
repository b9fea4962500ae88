"""The cache: what was decoded once is found again, and only that; damage, crashes, crowds and full disks cost time."""

import errno
import fcntl
import hashlib
import io
import math
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fromnoise.data import Dataset, Fit, Folder, Gone, Source, Unreadable, load
from fromnoise.data import ahead as ahead_module
from fromnoise.data import album as album_module
from fromnoise.data import cache as cache_module
from fromnoise.data import dataset as dataset_module
from fromnoise.data import kept as kept_module
from fromnoise.data import lock as lock_module
from fromnoise.data.album import Album
from fromnoise.data.cache import Cache
from fromnoise.data.catalogue import Catalogue, as_digests, read_catalogue
from fromnoise.errors import WrongUse

FIT = Fit(height=4, width=5, channels=3)
ONE = 3 * 4 * 5  # bytes of a picture


def pixels(word: str) -> np.ndarray:
    """A picture that only ``word`` has."""
    return np.random.default_rng(list(word.encode())).integers(0, 256, (4, 5, 3), dtype=np.uint8)


class Words(Source):
    """A picture for every word; it counts what it decodes. A word with a "!" cannot be read."""

    def __init__(self, words: Sequence[str]) -> None:
        self.words = words
        self.read_at_last: Counter[str] = Counter()
        self.at_read: Callable[[str], None] = lambda word: None

    def __len__(self) -> int:
        return len(self.words)

    def name(self, index: int) -> str:
        return self.words[index]

    def identity(self, index: int) -> str:
        return f"word {self.words[index]}"

    def read(self, index: int) -> np.ndarray:
        word = self.words[index]
        self.read_at_last[word] += 1
        self.at_read(word)
        if "!" in word:
            raise Unreadable(word, "damaged")
        return pixels(word)


def numbered(*counts: int) -> list[str]:
    return [f"{k}" for k in range(*counts)]


@pytest.fixture(autouse=True)
def _however_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset_module, "SMALL", 0)
    monkeypatch.setattr(cache_module, "_RESERVE", 0)


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(path=tmp_path / "cache")


def taken(
    cache: Cache,
    words: Sequence[str],
    decoded: int | None = None,
    fit: Fit = FIT,
    at: Callable[[str], None] | None = None,
) -> Dataset:
    """What ``cache`` makes of the ``words``, held against the truth; ``decoded`` of them (or however many) anew."""
    source = Words(words)
    source.at_read = at or source.at_read
    dataset = load(source, fit, cache=cache)
    truth = [fit(pixels(word)) for word in words if "!" not in word]
    np.testing.assert_array_equal(dataset.batch(range(len(dataset))).numpy(), truth)
    np.testing.assert_array_equal(dataset.images, truth)
    assert [error.name for error in dataset.skipped] == [word for word in words if "!" in word]
    assert dataset.fingerprint == Dataset(images=np.array(truth)).fingerprint
    assert decoded is None or sum(source.read_at_last.values()) == decoded
    return dataset


def files(cache: Cache, suffix: str) -> list[Path]:
    return sorted(cache.path.rglob(f"*{suffix}"))


def only(cache: Cache, suffix: str) -> Path:
    (file,) = files(cache, suffix)
    return file


# --------------------------------------------------------------------------------------------------- found and added


def test_the_second_time_nothing_is_decoded(cache: Cache) -> None:
    first, second = taken(cache, numbered(100), 100), taken(cache, numbered(100), 0)
    assert first.fingerprint == second.fingerprint and second.remarks == ()
    assert only(cache, ".u8").stat().st_size == 100 * ONE
    with pytest.raises(ValueError, match="read-only"):
        second.images[0] = 0


def test_a_fingerprint_reads_no_pictures(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    taken(cache, numbered(30))
    dataset = load(Words(numbered(30)), FIT, cache=cache)
    truth = Dataset(images=dataset.images.copy()).fingerprint
    part = Dataset(images=dataset.images[[4, 9]]).fingerprint
    only(cache, ".u8").write_bytes(bytes(30 * ONE))  # the mapped file itself
    assert dataset.fingerprint == truth and dataset.subset([4, 9]).fingerprint == part


def test_only_what_is_new_is_decoded_wherever_it_stands(cache: Cache) -> None:
    taken(cache, numbered(0, 100, 2), 50)
    taken(cache, numbered(100), 50)
    taken(cache, numbered(100), 0)
    taken(cache, ["new first", *numbered(100)], 1)
    assert only(cache, ".u8").stat().st_size == 101 * ONE


def test_order_parts_and_labels_cost_nothing(cache: Cache) -> None:
    whole = numbered(100)
    taken(cache, whole)
    for words in (whole[::-1], whole[3:20], whole[::7], ["5", "5", "5"], whole[50:] + whole[:50]):
        taken(cache, words, 0)
    labelled = Words(whole)
    labelled.labels, labelled.classes = tuple(k % 2 for k in range(100)), ("even", "odd")
    assert load(labelled, FIT, cache=cache).labels.tolist() == [k % 2 for k in range(100)]
    assert not labelled.read_at_last and len(files(cache, ".u8")) == 1


def test_pictures_side_by_side_are_not_copied(cache: Cache) -> None:
    taken(cache, numbered(100))
    for words in (numbered(100), numbered(10, 60)):
        dataset = load(Words(words), FIT, cache=cache)
        assert np.shares_memory(dataset.images, dataset.images)


def test_a_picture_that_changed_is_decoded_again(cache: Cache, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for word in numbered(10):
        Image.fromarray(pixels(word)).save(folder / f"{word}.png")
    truth = [pixels(word).transpose(2, 0, 1) for word in numbered(10)]
    np.testing.assert_array_equal(load(Folder(folder), FIT, cache=cache).images, truth)
    status = (folder / "7.png").stat()
    Image.fromarray(pixels("other")).save(folder / "7.png")
    os.utime(folder / "7.png", ns=(status.st_atime_ns, status.st_mtime_ns + 1))  # and of the same size, perhaps
    truth[7] = pixels("other").transpose(2, 0, 1)
    np.testing.assert_array_equal(load(Folder(folder), FIT, cache=cache).images, truth)


def test_files_that_were_added_changed_or_removed_cost_their_own_decoding(
    cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, decoded, read = tmp_path / "pictures", [], Folder.read
    folder.mkdir()

    def save(name: str, word: str) -> None:
        Image.fromarray(pixels(word)).save(folder / f"{name}.png")

    def counted(self: Folder, index: int) -> np.ndarray:
        decoded.append(Path(self.name(index)).stem)
        return read(self, index)

    def expect(words: Sequence[str], anew: Sequence[str]) -> None:
        decoded.clear()
        images = load(Folder(folder), FIT, cache=cache).images
        np.testing.assert_array_equal(images, [FIT(pixels(word)) for word in words])
        assert sorted(decoded) == sorted(anew)

    monkeypatch.setattr(Folder, "read", counted)
    for name in "bdfhjl":
        save(name, name)
    expect("bdfhjl", "bdfhjl")
    expect("bdfhjl", "")
    for name in "aeg":
        save(name, name)
    expect("abdefghjl", "aeg")
    (folder / "d.png").unlink()
    save("h", "other")
    os.utime(folder / "h.png", ns=(0, 12345))
    expect([*"abefg", "other", *"jl"], "h")
    assert only(cache, ".u8").stat().st_size == 10 * ONE


@pytest.mark.parametrize("how", ["threads", "copies of the process"])
def test_the_cache_is_filled_by_several_at_once(
    cache: Cache, how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every picture is read by two, or none is: whoever reads one waits for somebody who reads another."""
    context = multiprocessing.get_context("fork")
    together = context.Barrier(2) if how != "threads" else threading.Barrier(2)
    monkeypatch.setattr(ahead_module, "_cores", lambda: 2)
    monkeypatch.setattr(ahead_module, "_MOST", 1)
    monkeypatch.setattr(ahead_module, "_LONG", math.inf)
    monkeypatch.setattr(ahead_module, "_WORTH_IT", 0.0)
    monkeypatch.setattr(ahead_module, "_can_be_copied", lambda uses: how != "threads")
    source = Words(numbered(44))
    source.at_read = lambda word: None if int(word) < ahead_module._FIRST else (together.wait(20), None)[1]
    dataset = load(source, FIT, cache=cache)
    np.testing.assert_array_equal(dataset.images, [FIT(pixels(word)) for word in numbered(44)])
    taken(cache, numbered(44), 0)


@pytest.mark.parametrize(
    "other",
    [
        {"height": 5},
        {"width": 4},
        {"channels": 1},
        {"channels": 4},
        {"background": (0, 0, 1)},
        {"fit": "pad"},
        {"filter": "bicubic"},
    ],
)
def test_whatever_makes_other_pixels_makes_another_album(cache: Cache, other: dict) -> None:
    taken(cache, numbered(20), 20)
    taken(cache, numbered(20), 20, fit=replace(FIT, **other))
    taken(cache, numbered(20), 0)
    taken(cache, numbered(20), 0, fit=replace(FIT, **other))


def test_another_decoder_decodes_again(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    taken(cache, numbered(20), 20)
    monkeypatch.setattr("PIL.__version__", "99.0")
    taken(cache, numbered(20), 20)
    monkeypatch.setattr(kept_module, "DECODER", 99)
    taken(cache, numbered(20), 20)


def test_what_would_be_mostly_others_gets_an_album_of_its_own_by_copying(cache: Cache) -> None:
    taken(cache, numbered(100))
    taken(cache, [*numbered(10, 40), *(f"new {k}" for k in range(70))], 70)
    assert [file.stat().st_size // ONE for file in files(cache, ".u8")] == [170]  # a set of 100: not yet mostly others
    taken(cache, [*numbered(10), *(f"newer {k}" for k in range(70))], 70)  # 180 would be too many for a set of 80
    assert sorted(file.stat().st_size // ONE for file in files(cache, ".u8")) == [80, 170]


def test_unreadable_pictures_are_tried_again_and_nothing_else(cache: Cache) -> None:
    words = [*numbered(50), "a!", *numbered(50, 60), "b!"]
    taken(cache, words, 62)
    index = only(cache, ".index")
    before = index.read_bytes()
    taken(cache, words, 2)
    many = [*words, *(f"{k}!" for k in range(80))]
    taken(cache, many, 82)
    assert index.read_bytes() == before


@pytest.mark.parametrize("kept", [True, False], ids=["in the cache", "without it"])
@pytest.mark.parametrize("how", ["threads", "copies"])
@pytest.mark.parametrize("what", ["one", "all", "few of the last"])
def test_pictures_that_vanish_while_they_are_read_are_not_skipped(
    what: str, how: str, kept: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line, and of what was read nothing is lost; when they are back, nothing is amiss."""
    monkeypatch.setattr(ahead_module, "_WORTH_IT", 0.0 if how == "copies" else 1e9)
    monkeypatch.setattr(ahead_module, "_LONG", 1e9)
    monkeypatch.setattr(ahead_module, "_cores", lambda: 2)
    cache = Cache(path=tmp_path / "cache", limit=2**30 if kept else 0)
    folder, away = tmp_path / "pictures", tmp_path / "away"
    folder.mkdir()
    for k in range(100):
        Image.fromarray(pixels(f"{k}")).save(folder / f"{k:02d}.png")
    if what == "few of the last" and kept:  # all but these are there: they are tried before anything is written
        for k in (97, 98):
            (folder / f"{k:02d}.png").rename(tmp_path / f"{k:02d}.png")
        load(Folder(folder), FIT, cache=cache)
        for k in (97, 98):
            (tmp_path / f"{k:02d}.png").rename(folder / f"{k:02d}.png")
    source = Folder(folder)
    before = read_catalogue_of(cache).identities.tobytes() if files(cache, ".index") else b""
    if what == "few of the last":
        (folder / "98.png").rename(tmp_path / "98.png")

    def vanish(done: int, total: int) -> None:
        if done == 1 and what == "one":
            (folder / "98.png").rename(tmp_path / "98.png")
        if done == 1 and what == "all":
            folder.rename(away)

    with pytest.raises(Gone, match=r"\.png: gone since the pictures were listed; bring them back") as caught:
        load(source, FIT, cache=cache, progress=vanish)
    assert caught.value.exit_code == 1 and str(caught.value).isprintable()
    assert not isinstance(caught.value, WrongUse)
    if what == "all":
        away.rename(folder)
    else:
        (tmp_path / "98.png").rename(folder / "98.png")
    if kept:
        own = as_digests(Folder(folder).identity(k) for k in range(100))
        there = read_catalogue_of(cache)
        held = there.slots(own) >= 0
        assert held.sum() == len(there) and not held[98] and len(there.identities.tobytes()) >= len(before)
        assert held[:4].all() and (what == "one" or held.sum() == (4 if what == "all" else 98))
    dataset = load(Folder(folder), FIT, cache=cache)
    np.testing.assert_array_equal(dataset.images, [FIT(pixels(f"{k}")) for k in range(100)])
    assert dataset.skipped == ()


def test_a_picture_that_is_away_only_while_it_is_looked_for_is_not_kept_as_a_missing_one(
    cache: Cache, tmp_path: Path
) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for k in range(5):
        Image.fromarray(pixels(f"{k}")).save(folder / f"{k}.png")
    source, file = Folder(folder), folder / "3.png"
    identity = source.identity

    def flickering(index: int) -> str:
        file.rename(tmp_path / "3.png")
        try:
            return identity(index)
        finally:
            (tmp_path / "3.png").rename(file)

    source.identity = flickering
    with pytest.raises(Gone, match=r"3\.png: gone"):
        load(source, FIT, cache=cache)
    assert load(Folder(folder), FIT, cache=cache).skipped == ()


def test_no_readable_picture_is_the_same_mistake_as_ever(cache: Cache) -> None:
    for _ in range(2):
        with pytest.raises(WrongUse, match="none of the 2 pictures can be read: a!: damaged; b!: damaged"):
            load(Words(["a!", "b!"]), FIT, cache=cache)
    with pytest.raises(WrongUse, match="1 of 2 pictures cannot be read"):
        load(Words(["a!", "b"]), FIT, cache=cache, strict=True)
    taken(cache, ["b"], 0)


def test_progress_counts_what_is_there_at_once(cache: Cache) -> None:
    def seen(words: list[str]) -> list[tuple[int, int]]:
        calls: list[tuple[int, int]] = []
        load(Words(words), FIT, cache=cache, progress=lambda done, total: calls.append((done, total)))
        return calls

    assert seen(numbered(10)) == [(done, 10) for done in range(1, 11)]
    assert seen(numbered(10)) == [(10, 10)]
    assert seen(numbered(200)) == [(done, 200) for done in range(10, 201)]


def test_small_sets_are_kept_out(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset_module, "SMALL", 10 * ONE)
    taken(cache, numbered(9), 9)
    assert not cache.path.exists()
    taken(cache, numbered(10), 10)
    assert cache.path.exists()


# ------------------------------------------------------------------------------------------------ damage and crashes


def _flip(file: Path, place: int) -> None:
    data = bytearray(file.read_bytes())
    data[place] ^= 1
    file.write_bytes(data)


DAMAGE: dict[str, Callable[[Path, Path], object]] = {
    "a bit in the first picture": lambda data, index: _flip(data, 0),
    "a bit in the middle": lambda data, index: _flip(data, 50 * ONE + 7),
    "a bit in the last picture": lambda data, index: _flip(data, -1),
    "pictures cut short": lambda data, index: os.truncate(data, 100 * ONE - 1),
    "half of the pictures": lambda data, index: os.truncate(data, 50 * ONE),
    "no bytes": lambda data, index: os.truncate(data, 0),
    "zeros": lambda data, index: data.write_bytes(bytes(100 * ONE)),
    "no pictures": lambda data, index: data.unlink(),
    "catalogue cut short": lambda data, index: os.truncate(index, 900),
    "empty catalogue": lambda data, index: os.truncate(index, 0),
    "a bit in the catalogue's head": lambda data, index: _flip(index, 12),
    "a bit in an identity": lambda data, index: _flip(index, -2500),
    "a bit in a digest": lambda data, index: _flip(index, -100),
    "a bit in the catalogue's digest": lambda data, index: _flip(index, -1),
    "a foreign catalogue": lambda data, index: index.write_bytes(
        b"{}\n" + hashlib.blake2b(b"{}\n", digest_size=16).digest()
    ),
    "no catalogue": lambda data, index: index.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("compared", [1, 64 * 2**20])
def test_damage_is_noticed_and_made_good(
    cache: Cache, damage: str, compared: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where only one picture is compared, for the file was written to since its catalogue was."""
    monkeypatch.setattr(album_module, "_COMPARED", compared)
    taken(cache, numbered(100))
    DAMAGE[damage](only(cache, ".u8"), only(cache, ".index"))
    assert taken(cache, numbered(100), 100).remarks == ()
    taken(cache, numbered(100), 0)


def test_damage_that_left_the_time_alone_is_noticed_by_the_pictures(cache: Cache) -> None:
    taken(cache, numbered(100))
    data = only(cache, ".u8")
    status = data.stat()
    _flip(data, 50 * ONE)
    os.utime(data, ns=(status.st_atime_ns, status.st_mtime_ns))
    taken(cache, numbered(100), 100)


def test_a_damaged_picture_is_not_copied_on(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(album_module, "_COMPARED", 1)
    taken(cache, numbered(100))
    data = only(cache, ".u8")
    status = data.stat()
    _flip(data, 5 * ONE)
    os.utime(data, ns=(status.st_atime_ns, status.st_mtime_ns))
    taken(cache, [*numbered(10), *(f"new {k}" for k in range(70))], 71)  # an album of its own, nine copied


def test_a_copied_cache_is_believed_after_a_look_at_all_of_it(cache: Cache, tmp_path: Path) -> None:
    taken(cache, numbered(100))
    shutil.copytree(cache.path, tmp_path / "other", copy_function=shutil.copyfile)
    other = Cache(path=tmp_path / "other")
    taken(other, numbered(100), 0)
    modified = read_catalogue_of(other).modified
    assert modified == only(other, ".u8").stat().st_mtime_ns != read_catalogue_of(cache).modified


def kind_of(fit: Fit) -> dict[str, Any]:
    shape = (fit.channels, fit.height, fit.width)
    return {
        "fit": fit.__dict__,
        "shape": shape,
        "decoder": kept_module.DECODER,
        "pillow": kept_module.PIL.__version__,
    }


def read_catalogue_of(cache: Cache) -> Catalogue:
    catalogue = read_catalogue(only(cache, ".index").read_bytes(), kind_of(FIT))
    assert catalogue is not None
    return catalogue


def test_who_has_a_damaged_album_in_use_keeps_it(cache: Cache) -> None:
    before = load(Words(numbered(100)), FIT, cache=cache)
    truth = before.images.copy()
    only(cache, ".index").write_bytes(b"")
    taken(cache, numbered(100), 100)
    np.testing.assert_array_equal(before.batch(range(100)).numpy(), truth)


@pytest.mark.parametrize("before", [0, 30])
def test_an_interrupted_start_is_gone_on_with(cache: Cache, before: int) -> None:
    if before:
        taken(cache, numbered(before), before)

    def interrupt(done: int, total: int) -> None:
        if done == 60:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load(Words(numbered(100)), FIT, cache=cache, progress=interrupt)
    taken(cache, numbered(100), 40)
    assert only(cache, ".u8").stat().st_size == 100 * ONE


def test_what_lies_behind_the_catalogue_is_written_over(cache: Cache) -> None:
    taken(cache, numbered(50))
    with only(cache, ".u8").open("ab") as file:
        file.write(b"half a picture that a crash left behind")
    taken(cache, numbered(50), 0)
    taken(cache, numbered(150), 100)
    assert only(cache, ".u8").stat().st_size == 150 * ONE


FORK = multiprocessing.get_context("fork")
FORKING = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


@FORKING
@pytest.mark.parametrize("publish", [0.0, 30.0])
def test_a_killed_process_leaves_what_can_be_used(
    cache: Cache, publish: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_module, "_PUBLISH", publish)

    def die(done: int, total: int) -> None:
        if done == 10:
            os.kill(os.getpid(), signal.SIGKILL)

    process = FORK.Process(target=lambda: load(Words(numbered(200)), FIT, cache=cache, progress=die))
    process.start()
    process.join(30)
    assert process.exitcode == -signal.SIGKILL
    monkeypatch.setattr(kept_module, "_PUBLISH", 30.0)
    taken(cache, numbered(200), 200 - (9 if publish == 0 else 0))
    taken(cache, numbered(200), 0)


# --------------------------------------------------------------------------------------------------- several at once


@FORKING
def test_processes_that_start_together_decode_every_picture_once(cache: Cache, tmp_path: Path) -> None:
    (tmp_path / "decoded").mkdir()
    start = FORK.Barrier(4)
    answers = FORK.SimpleQueue()

    def read(word: str) -> None:
        (tmp_path / "decoded" / f"{word} {os.getpid()}").touch()
        time.sleep(0.002)

    def work() -> None:
        start.wait(30)
        answers.put(taken(cache, numbered(100), at=read).fingerprint)

    processes = [FORK.Process(target=work) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4
    assert len({answers.get() for _ in range(4)}) == 1
    assert len(list((tmp_path / "decoded").iterdir())) == 100


PROGRAM = """
import os, signal, sys, time
from pathlib import Path
import numpy as np
from fromnoise.data import Fit, Source, dataset, kept, load
from fromnoise.data.cache import Cache

place, count, kills = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
dataset.SMALL, kept._PUBLISH = 0, 0.0

class Numbers(Source):
    def __len__(self):
        return count
    def name(self, index):
        return str(index)
    identity = name
    def read(self, index):
        (place / "decoded" / f"{index} {os.getpid()}").touch()
        time.sleep(0.002)
        return np.full((4, 5, 3), index, np.uint8)

def progress(done, total):
    if kills < 0 and done < count:
        (place / "waits").touch()
    while done == 10 and kills > 0 and not (place / "go").exists():
        time.sleep(0.001)
    if done == kills:
        os.kill(os.getpid(), signal.SIGKILL)

while kills < 0 and not any((place / "decoded").iterdir()):  # until the other has the lock
    time.sleep(0.001)
made = load(Numbers(), Fit(height=4, width=5, channels=3), cache=Cache(path=place / "cache"), progress=progress)
assert made.images[:, 0, 0, 0].tolist() == list(range(count)) and made.remarks == ()
print(made.fingerprint)
"""


def test_a_program_goes_on_where_another_was_killed_that_it_waited_for(tmp_path: Path) -> None:
    """Real programs. What the killed one has put into the cache is not decoded again, and everything is there."""
    (tmp_path / "decoded").mkdir()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}

    def start(kills: int) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", PROGRAM, str(tmp_path), "120", str(kills)]
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    programs = [start(50), start(-1)]
    try:
        end = time.monotonic() + 60
        while not (tmp_path / "waits").exists():
            assert time.monotonic() < end and [program.poll() for program in programs] == [None] * 2
            time.sleep(0.01)
        (tmp_path / "go").touch()
        said = [program.communicate(timeout=60) for program in programs]
    finally:
        for program in programs:
            program.kill()
            program.wait()
    assert [program.returncode for program in programs] == [-signal.SIGKILL, 0], said
    truth = np.stack([np.full((3, 4, 5), k, np.uint8) for k in range(120)])
    assert said[1][0].strip() == Dataset(images=truth).fingerprint
    decoded = Counter(int(file.name.split()[0]) for file in (tmp_path / "decoded").iterdir())
    assert sorted(decoded) == list(range(120))
    assert [decoded[k] for k in range(49)] == [1] * 49  # it died when it had handed over the 50th


def test_different_sets_grow_together_in_threads(cache: Cache) -> None:
    """Sets that overlap, each loaded by several threads: each gets its own pictures."""
    errors: list[BaseException] = []

    def work(first: int) -> None:
        try:
            for last in (first + 30, first + 80):
                taken(cache, numbered(first, last))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(first,)) for first in (0, 0, 20, 20, 60)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    taken(cache, numbered(80), 0)
    taken(cache, numbered(60, 140), 0)


def test_waiting_shows_how_far_the_other_is(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(album_module, "_TOGETHER", 1)
    monkeypatch.setattr(lock_module, "_PAUSE", 0.001)
    half, shown = threading.Event(), threading.Event()
    calls: list[tuple[int, int]] = []

    def pause(done: int, total: int) -> None:
        if done == 50:
            half.set()
            assert shown.wait(30)

    def watch(done: int, total: int) -> None:
        calls.append((done, total))
        shown.set()

    first = threading.Thread(target=lambda: load(Words(numbered(100)), FIT, cache=cache, progress=pause))
    first.start()
    assert half.wait(30)
    dataset = load(Words(numbered(100)), FIT, cache=cache, progress=watch)
    first.join(30)
    assert calls[0] == (50, 100) and calls[-1] == (100, 100) and calls == sorted(calls)
    assert len(dataset) == 100


def test_what_another_added_meanwhile_is_neither_lost_nor_decoded_again(cache: Cache) -> None:
    taken(cache, numbered(10))
    waiting = threading.Event()
    first = Words(numbered(100))
    first.at_read = lambda word: None if waiting.wait(30) else pytest.fail("nobody waits")
    thread = threading.Thread(target=lambda: load(first, FIT, cache=cache))
    thread.start()
    while not first.read_at_last:
        time.sleep(0.001)
    second = Words(numbered(150))
    dataset = load(second, FIT, cache=cache, progress=lambda done, total: waiting.set())
    thread.join(30)
    assert sum(second.read_at_last.values()) == 50
    np.testing.assert_array_equal(dataset.images, [FIT(pixels(word)) for word in second.words])
    assert only(cache, ".u8").stat().st_size == 150 * ONE
    taken(cache, numbered(100), 0)


def test_what_another_added_before_the_lock_was_taken_stays(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """A catalogue that grew old between its reading and the lock is not written back over the new one."""
    taken(cache, numbered(10))
    real, added = album_module.locked_if_free, []

    def later(path: Path) -> Any:
        if not added:
            added.append(path)
            taken(cache, numbered(15), 5)
        return real(path)

    monkeypatch.setattr(album_module, "locked_if_free", later)
    taken(cache, numbered(10), 0)
    assert added == [only(cache, ".lock")]
    taken(cache, numbered(15), 0)


def test_what_another_added_that_is_not_wanted_here_stays(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look at an album and its lock, it grew by pictures of another set."""
    taken(cache, numbered(10))
    real, added = kept_module.locked, []

    def later(path: Path, waiting: Callable[[], None]) -> Any:
        if not added:
            added.append(path)
            taken(cache, numbered(15), 5)
        return real(path, waiting)

    monkeypatch.setattr(kept_module, "locked", later)
    taken(cache, [*numbered(10), "x"], 1)
    taken(cache, [*numbered(15), "x"], 0)


def test_the_lock_of_what_was_removed_meanwhile_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waited on the file of a removed album must not go in beside the one who holds the new file."""
    path, real, removed = tmp_path / "a.lock", fcntl.flock, []

    def too_late(descriptor: int, operation: int) -> None:
        if not removed:
            path.unlink()
            removed.append(path)
        real(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", too_late)
    with lock_module.locked(path, lambda: None), lock_module.locked_if_free(path) as again:
        assert path.exists() and not again


@FORKING
def test_a_lock_ends_with_its_holder_though_copies_of_it_live(tmp_path: Path) -> None:
    path, done = tmp_path / "a.lock", FORK.Event()
    with lock_module.locked(path, lambda: None):
        copy = FORK.Process(target=lambda: done.wait(30))
        copy.start()
    with lock_module.locked_if_free(path) as free:
        assert free
    done.set()
    copy.join(30)


# ------------------------------------------------------------------------------------------------ larger than memory


def test_an_album_of_twice_the_memory_is_opened_and_read(cache: Cache) -> None:
    """Its file is sparse: all of its pictures but two are black and take no room on the disk."""
    fit = Fit(height=2048, width=2048, channels=3, filter="nearest")
    one = fit.channels * fit.height * fit.width
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    words = numbered(2 * memory // one + 1)
    large = Cache(path=cache.path, limit=8 * memory)
    two = load(Words(words[:2]), fit, cache=large)
    album = Album(path=only(cache, ".index").with_suffix(""), kind=kind_of(fit))
    begun = album.catalogue()
    assert begun is not None
    os.truncate(album.data, len(words) * one)
    assert album.data.stat().st_blocks * 512 < 4 * one
    black = hashlib.blake2b(bytes(one), digest_size=16).digest()
    digests = np.frombuffer(begun.digests.tobytes() + black * (len(words) - 2), np.uint8).reshape(-1, 16)
    all_of_it = Catalogue(
        identities=as_digests(f"word {word}" for word in words),
        digests=digests,
        modified=album.data.stat().st_mtime_ns,
    )
    album.index.write_bytes(all_of_it.to_bytes(album.kind))
    source = Words(words)
    dataset = load(source, fit, cache=large)
    assert dataset.images.nbytes > 2 * memory and not source.read_at_last
    batch = dataset.batch([1, len(words) - 1, len(words) // 2, 0]).numpy()
    np.testing.assert_array_equal(batch[[3, 0]], two.images)
    assert not batch[1:3].any()
    assert dataset.subset(range(len(words) - 1, -1, -2)).batch([0]).sum() == 0


LITTLE = """
import resource, sys
from pathlib import Path
import numpy as np
from fromnoise.data import Fit, Source, load
from fromnoise.data.cache import Cache

MIB, COUNT, SIDE = 2**20, 320, 576  # pictures of 0.95 MiB

class Numbers(Source):
    def __len__(self):
        return COUNT
    def name(self, index):
        return str(index)
    identity = name
    def read(self, index):
        assert not done
        return np.full((SIDE, SIDE, 3), index % 251, np.uint8)

def used(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))

done = False
limit = used("VmData") + 200 * MIB  # what is allocated, mapped files excepted
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
fit, total = Fit(height=SIDE, width=SIDE, channels=3), COUNT * SIDE * SIDE * 3
try:
    np.ones(total, np.uint8)
except MemoryError:
    pass
else:
    sys.exit("the limit does not hold")
for done in (False, True):
    made = load(Numbers(), fit, cache=Cache(path=Path(sys.argv[1])))
    assert made.remarks == () and made.images.nbytes == total
    for start in range(0, COUNT, 20):
        order = np.random.default_rng(start).permutation(COUNT)[:20]
        batch = made.batch(order)
        assert batch[:, 0, 0, 0].tolist() == batch[:, -1, -1, -1].tolist() == (order % 251).tolist()
print(used("RssAnon") < limit)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA holds for all that is allocated on Linux only")
def test_a_set_that_memory_does_not_hold_is_decoded_kept_and_read(tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", LITTLE, str(tmp_path / "cache")],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr


# ------------------------------------------------------------------------------------------------ no room, no rights


def _not_kept(cache: Cache, why: str, count: int = 50) -> None:
    """The set is loaded all the same, from the beginning, and a remark of one line says why nothing is kept."""
    dataset = taken(cache, numbered(count))
    assert len(dataset.remarks) == 1 and "\n" not in dataset.remarks[0]
    assert dataset.remarks[0].startswith(f"the cache {cache.path} is not used") and why in dataset.remarks[0]


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    _not_kept(Cache(path=tmp_path / "file" / "cache"), "Not a directory")
    _not_kept(Cache(path=Path("/proc/nothing/here")), "No such file or directory")


@pytest.fixture
def read_only(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], None]]:
    """Makes a folder read-only as a disk is, for the superuser as well."""
    real = {name: getattr(os, name) for name in ("open", "mkdir", "unlink", "replace", "utime")}
    frozen: list[str] = []

    def refuse(name: str) -> Callable[..., object]:
        def call(path, *rest, **options):
            writes = name != "open" or bool(rest[0] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
            if writes and any(str(path).startswith(one) for one in frozen):
                raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
            return real[name](path, *rest, **options)

        return call

    for name in real:
        monkeypatch.setattr(os, name, refuse(name))
    yield lambda path: frozen.append(str(path))
    frozen.clear()


def test_what_a_read_only_disk_has_is_used(cache: Cache, read_only: Callable[[Path], None]) -> None:
    words = [*numbered(50), "a!"]
    taken(cache, words)
    read_only(cache.path)
    assert taken(cache, words, 1).remarks == ()
    assert taken(cache, numbered(10), 0).remarks == ()
    _not_kept(cache, "Read-only file system", 51)


@pytest.mark.parametrize("before", [0, 30])
def test_a_full_disk_costs_the_cache_and_nothing_else(cache: Cache, before: int) -> None:
    """A real refusal by the system, in the midst of writing: the limit of a file's size."""
    if before:
        taken(cache, numbered(before))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        _not_kept(cache, "File too large", 500)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert files(cache, ".u8") == [] == files(cache, ".index")  # the room is given back
    taken(cache, numbered(500), 500)


def test_a_disk_that_is_full_at_the_last_moment(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    _not_kept(cache, "No space left on device")
    assert files(cache, ".u8") == []


def test_a_disk_nearly_full_is_left_alone(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    free = Counter({"free": 0})
    usage = shutil.disk_usage(cache.path.parent)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=free["free"]))
    monkeypatch.setattr(cache_module, "_RESERVE", 1000)
    free["free"] = 50 * ONE + 999
    _not_kept(cache, "the disk leaves no room")
    free["free"] = 50 * ONE + 1000
    taken(cache, numbered(50), 50)
    assert len(files(cache, ".u8")) == 1


def test_a_disk_without_locks(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    _not_kept(cache, "No locks available")
    monkeypatch.setattr(lock_module, "fcntl", None)  # a system without them
    _not_kept(cache, "no locks on files here")


# ------------------------------------------------------------------------------------------------------- limit, clear


def test_the_least_recently_used_goes_first(tmp_path: Path) -> None:
    sets = {name: [f"{name}{k}" for k in range(100)] for name in "abcd"}
    one = 100 * (ONE + 32) + 400  # with its catalogue
    cache = Cache(path=tmp_path / "cache", limit=2 * one + 1000)
    taken(cache, sets["a"], 100)
    time.sleep(0.02)
    taken(cache, sets["b"], 100)
    time.sleep(0.02)
    taken(cache, sets["a"], 0)  # used again
    time.sleep(0.02)
    taken(cache, sets["c"], 100)
    assert len(files(cache, ".u8")) == 2 and cache.size() <= cache.limit
    taken(cache, sets["a"], 0)
    taken(cache, sets["c"], 0)
    taken(cache, sets["b"], 100)


def test_what_is_being_written_is_not_removed(tmp_path: Path) -> None:
    cache = Cache(path=tmp_path / "cache", limit=150 * ONE + 4000)
    taken(cache, numbered(100))
    with lock_module.locked(only(cache, ".lock"), lambda: None):
        dataset = load(Words([f"other {k}" for k in range(120)]), FIT, cache=cache)
        assert "being written to" in dataset.remarks[0] and cache.clear() == 0
    taken(cache, numbered(100), 0)


def test_a_set_larger_than_the_limit_is_not_kept_and_nothing_is_removed_for_it(tmp_path: Path) -> None:
    taken(Cache(path=tmp_path / "cache"), numbered(40))
    cache = Cache(path=tmp_path / "cache", limit=60 * ONE)
    _not_kept(cache, "its limit is 0.0 MiB (FROMNOISE_CACHE_LIMIT)", 61)
    taken(cache, numbered(40), 0)


def test_no_limit_no_cache(tmp_path: Path) -> None:
    assert taken(Cache(path=tmp_path / "cache", limit=0), numbered(20), 20).remarks == ()
    assert not (tmp_path / "cache").exists()


def test_clear_frees_everything_and_what_is_in_use_stays_usable(cache: Cache) -> None:
    dataset = taken(cache, numbered(100))
    taken(cache, numbered(50), fit=replace(FIT, height=8))
    truth, size = dataset.images.copy(), cache.size()
    assert size > 100 * ONE + 50 * 2 * ONE and cache.clear() == size
    assert cache.size() == 0 and [file for file in cache.path.rglob("*") if file.is_file()] == []
    np.testing.assert_array_equal(dataset.batch(range(100)).numpy(), truth)
    taken(cache, numbered(100), 100)


def _shard(cache: Cache, name: str, size: int, days: float) -> Path:
    """A fetched tar file that was read last ``days`` ago."""
    cache.shards.mkdir(parents=True, exist_ok=True)
    path = cache.shards / name
    path.write_bytes(bytes(size))
    then = time.time() - days * 86400
    os.utime(path, (then, then))
    return path


def test_old_shards_count_and_make_room_and_those_in_use_do_not(tmp_path: Path) -> None:
    cache = Cache(path=tmp_path / "cache", limit=44_000)
    older = _shard(cache, f"a-{'0' * 16}.tar", 20_000, 4)
    old = _shard(cache, f"b-{'1' * 16}.tar", 20_000, 3)
    used = _shard(cache, f"c-{'2' * 16}.tar", 100_000, 1)
    read = _shard(cache, f"d-{'3' * 16}.tar", 100_000, 9)
    os.utime(read, (time.time() - 3600, read.stat().st_mtime))  # written long ago, but read since
    assert cache.size() == 240_000
    taken(cache, numbered(20), 20)
    assert older.exists() and old.exists()
    taken(cache, numbered(80), 60)  # 3,600 bytes beside 40,000 and the first 20 pictures
    assert not older.exists() and old.exists() and used.exists() and read.exists()
    taken(cache, numbered(420), 340)  # 20,400
    assert not old.exists() and used.exists() and read.exists()
    taken(cache, numbered(420), 0)


def test_clear_takes_fetched_shards_and_nothing_of_others(cache: Cache) -> None:
    taken(cache, numbered(20))
    fetched = _shard(cache, f"train-000-{'0' * 16}.tar", 5000, 0)
    arriving = _shard(cache, f".train-001-{'1' * 16}.tar.77.part", 300, 0)
    left = _shard(cache, f".train-002-{'2' * 16}.tar.78.part", 200, 1)
    foreign = _shard(cache, "my own pictures.tar", 100, 30)
    with lock_module.locked(only(cache, ".lock"), lambda: None):  # pictures of the shard are being decoded
        assert cache.clear() == 0 and fetched.exists()
    size = cache.size()
    assert size > 20 * ONE + 5500 and cache.clear() == size - 300
    assert not fetched.exists() and not left.exists() and arriving.exists() and foreign.exists()


def test_what_a_killed_process_left_of_a_catalogue_is_cleared(cache: Cache) -> None:
    taken(cache, numbered(20))
    index, size = only(cache, ".index"), cache.size()
    left = index.with_name(f".{index.name}.123.part")
    left.write_bytes(bytes(500))
    alone = index.with_name(".0123456789abcdef.index.5.part")  # killed before anything else was there
    alone.write_bytes(bytes(300))
    assert cache.size() == size + 800 == cache.clear()
    assert [file for file in cache.path.rglob("*") if file.is_file()] == []


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("FROMNOISE_CACHE", "XDG_CACHE_HOME", "FROMNOISE_CACHE_LIMIT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Cache.from_environment() == Cache(path=tmp_path / ".cache" / "fromnoise", limit=20 * 2**30)
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert Cache.from_environment().path == Path("/x/fromnoise")
    monkeypatch.setenv("FROMNOISE_CACHE", "~/here")
    monkeypatch.setenv("FROMNOISE_CACHE_LIMIT", "0.5")
    assert Cache.from_environment() == Cache(path=tmp_path / "here", limit=2**29)
    for nonsense in ("much", "-1", "nan", "inf"):
        monkeypatch.setenv("FROMNOISE_CACHE_LIMIT", nonsense)
        with pytest.raises(WrongUse, match="number of GiB"):
            Cache.from_environment()


def test_load_asks_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FROMNOISE_CACHE", str(tmp_path / "here"))
    monkeypatch.setenv("FROMNOISE_CACHE_LIMIT", "1")
    load(Words(numbered(20)), FIT)
    assert Cache(path=tmp_path / "here").size() > 20 * ONE
    monkeypatch.setenv("FROMNOISE_CACHE_LIMIT", "0")
    source = Words(numbered(20))
    load(source, FIT)
    assert sum(source.read_at_last.values()) == 20


# --------------------------------------------------------------------------------------------------------- catalogue


@given(have=st.lists(st.text(max_size=3), max_size=30), wanted=st.lists(st.text(max_size=3), max_size=30))
def test_pictures_are_found_by_their_identity(have: list[str], wanted: list[str]) -> None:
    identities = as_digests(have)
    catalogue = Catalogue(identities=identities, digests=identities, modified=0)
    found = catalogue.slots(as_digests(wanted)).tolist()
    assert [have[slot] if slot >= 0 else None for slot in found] == [one if one in have else None for one in wanted]


def test_half_an_identity_is_not_enough() -> None:
    one = np.arange(16, dtype=np.uint8)[None]
    other = one.copy()
    other[0, 12] ^= 1
    assert Catalogue(identities=one, digests=one, modified=0).slots(other).tolist() == [-1]


def test_names_that_are_no_text_have_identities() -> None:
    assert len({bytes(row) for row in as_digests(["\udc80", "\udc81", "a", "\ud800"])}) == 4


def test_pictures_from_damaged_profiles_are_told_when_they_are_decoded(cache: Cache, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for word in numbered(5):
        file = io.BytesIO()
        Image.fromarray(pixels(word)).save(file, "PNG", icc_profile=b"rubbish" * 50)
        (tmp_path / "data" / f"{word}.png").write_bytes(file.getvalue())
    for kept in (cache, Cache(path=tmp_path, limit=0)):
        (remark,) = load(Folder(tmp_path / "data"), FIT, cache=kept).remarks
        assert remark.startswith("5 pictures with a colour profile that is damaged") and "0.png; " in remark
