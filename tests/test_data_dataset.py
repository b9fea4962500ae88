"""Loading: nothing lost, nothing out of order, unreadable pictures counted; in memory and in a temporary file alike."""

import ctypes
import io
import math
import mmap
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fromnoise.data import Dataset, Digits, Fit, Folder, Source, Unreadable, load, stratified_split
from fromnoise.data import ahead as ahead_module
from fromnoise.data import memory as memory_module
from fromnoise.data import storage as storage_module
from fromnoise.data.mapped import announce
from fromnoise.data.memory import available_memory
from fromnoise.errors import FromnoiseError, WrongUse

FIT = Fit(height=4, width=5, channels=3)
RNG = np.random.default_rng(5)


def make(root: Path, count: int, damaged: tuple[int, ...] = ()) -> np.ndarray:
    """``count`` pictures in two classes, some of them cut short; returns the whole ones as (N, 3, 4, 5)."""
    whole = []
    for index in range(count):
        pixels = RNG.integers(0, 256, (4, 5, 3), dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        data = file.getvalue()
        path = root / ("first" if index < count // 2 else "second") / f"{index:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data[:40] if index in damaged else data)
        if index not in damaged:
            whole.append(pixels.transpose(2, 0, 1))
    return np.array(whole)


@pytest.fixture(params=["memory", "file"])
def anywhere(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "file":
        monkeypatch.setattr(storage_module, "available_memory", lambda: 0)
    return request.param


def _is_mapped(images: np.ndarray) -> bool:
    base: object = images
    while isinstance(base, np.ndarray):
        if isinstance(base, np.memmap):
            return True
        base = base.base
    return False


def test_every_readable_picture_in_order_and_the_others_named(tmp_path: Path, anywhere: str) -> None:
    damaged = (0, 3, 150, 299)
    whole = make(tmp_path, 300, damaged)
    dataset = load(Folder(tmp_path, classes=True), FIT)
    assert _is_mapped(dataset.images) == (anywhere == "file")
    np.testing.assert_array_equal(dataset.images, whole)
    assert dataset.labels is not None and dataset.labels.dtype == torch.int64
    assert dataset.labels.tolist() == [int(k >= 150) for k in range(300) if k not in damaged]
    assert dataset.classes == ("first", "second")
    assert len(dataset) == 296
    assert [Path(error.name).stem for error in dataset.skipped] == ["0000", "0003", "0150", "0299"]


def test_strict_names_the_first_few_and_counts_all(tmp_path: Path) -> None:
    make(tmp_path, 20, damaged=(1, 2, 5, 7, 19))
    with pytest.raises(WrongUse) as caught:
        load(Folder(tmp_path), FIT, strict=True)
    message = str(caught.value)
    assert message.startswith("5 of 20 pictures cannot be read: ") and message.endswith("; and 2 more")
    assert all(name in message for name in ("0001.png", "0002.png", "0005.png")) and "0007.png" not in message
    assert "\n" not in message


def test_strict_accepts_whole_pictures(tmp_path: Path) -> None:
    whole = make(tmp_path, 6)
    dataset = load(Folder(tmp_path), FIT, strict=True)
    np.testing.assert_array_equal(dataset.images, whole)
    assert dataset.labels is None and dataset.classes == () and dataset.skipped == ()


def test_none_readable_is_refused(tmp_path: Path, anywhere: str) -> None:
    make(tmp_path, 2, damaged=(0, 1))
    with pytest.raises(WrongUse, match=r"^none of the 2 pictures can be read: .*0000.png: .*; .*0001.png: [^;]*$"):
        load(Folder(tmp_path), FIT)


def test_progress_counts_every_picture_once(tmp_path: Path) -> None:
    make(tmp_path, 90, damaged=(4,))
    seen: list[tuple[int, int]] = []
    load(Folder(tmp_path), FIT, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(done, 90) for done in range(1, 91)]


def test_an_error_that_is_no_damaged_picture_comes_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, 40)

    def fail(self: Fit, picture: np.ndarray) -> np.ndarray:
        raise ZeroDivisionError("a mistake of ours")

    monkeypatch.setattr(Fit, "__call__", fail)
    with pytest.raises(ZeroDivisionError):
        load(Folder(tmp_path), FIT)


def test_a_picture_too_large_for_memory_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = make(tmp_path, 4)
    fit = Fit.__call__

    def scarce(self: Fit, picture: np.ndarray) -> np.ndarray:
        if (picture == whole[2].transpose(1, 2, 0)).all():
            raise MemoryError
        return fit(self, picture)

    monkeypatch.setattr(Fit, "__call__", scarce)
    dataset = load(Folder(tmp_path), FIT)
    assert len(dataset) == 3 and ["memory" in str(error) for error in dataset.skipped] == [True]


@pytest.mark.parametrize("buffering", [0, -1])  # told by the write itself, or only when the buffer is flushed
def test_a_full_disk_is_one_line_with_what_to_do(
    buffering: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path, 3)
    full = Path("/dev/full").open("r+b", buffering=buffering)  # noqa: SIM115 (the storage closes it)
    monkeypatch.setattr(storage_module, "available_memory", lambda: 0)
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: full)
    with pytest.raises(FromnoiseError, match=r"No space left on device; set TMPDIR") as caught:
        load(Folder(tmp_path), FIT)
    assert caught.value.exit_code == 1 and "\n" not in str(caught.value)
    assert full.closed


def test_no_temporary_directory_is_told_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, 3)
    monkeypatch.setattr(storage_module, "available_memory", lambda: 0)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with pytest.raises(FromnoiseError, match="No such file or directory"):
        load(Folder(tmp_path), FIT)


def test_the_temporary_file_has_no_name_and_every_set_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "data", 12)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.setattr(storage_module, "available_memory", lambda: 0)
    one, other = load(Folder(tmp_path / "data"), FIT), load(Folder(tmp_path / "data"), FIT)
    assert _is_mapped(one.images) and list((tmp_path / "tmp").iterdir()) == []
    whole = one.images.copy()
    other.images[:] = 0  # writeable, as torch wants arrays to be
    np.testing.assert_array_equal(one.images, whole)


def test_a_temporary_file_larger_than_memory_is_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As much as memory has in all and again: a private mapping of that the system refuses (Linux, by default)."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with closing(storage_module.Spill(2, (2 * pages,))) as store:
        store._file.truncate(4 * pages)  # sparse
        store._filled = 2
        images = store.finish()
        assert images.shape == (2, 2 * pages) and images[1, -1] == 0


def test_memory_is_used_up_to_half_of_what_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, 10)
    needed = 10 * 3 * 4 * 5
    for free, mapped in ((2 * needed, False), (2 * needed - 1, True)):
        monkeypatch.setattr(storage_module, "available_memory", lambda free=free: free)
        assert _is_mapped(load(Folder(tmp_path), FIT).images) == mapped


def test_batches_are_the_pictures_asked_for(tmp_path: Path, anywhere: str) -> None:
    whole = make(tmp_path, 30)
    dataset = load(Folder(tmp_path), FIT)
    chosen = [7, 0, 29, 7]
    for indices in (chosen, np.array(chosen), torch.tensor(chosen), torch.tensor(chosen, dtype=torch.int32)):
        batch = dataset.batch(indices)
        assert batch.dtype == torch.uint8 and batch.is_contiguous()
        np.testing.assert_array_equal(batch.numpy(), whole[chosen])
        batch.zero_()  # a copy: the set stays as it is
    np.testing.assert_array_equal(dataset.images, whole)
    assert dataset.batch([]).shape == (0, 3, 4, 5)
    with pytest.raises(IndexError):
        dataset.batch([30])
    with pytest.raises(WrongUse, match="whole numbers"):
        dataset.batch(torch.tensor([0.5]))


def test_subset(tmp_path: Path, anywhere: str) -> None:
    whole = make(tmp_path, 30, damaged=(3,))
    dataset = load(Folder(tmp_path, classes=True), FIT)
    chosen = [28, 2, 13, 14]
    part = dataset.subset(torch.tensor(chosen))
    np.testing.assert_array_equal(part.images, whole[chosen])
    np.testing.assert_array_equal(part.batch([3, 0]).numpy(), whole[[14, 28]])
    assert part.labels.tolist() == [1, 0, 0, 1] and part.classes == dataset.classes and part.shape == (3, 4, 5)
    assert len(dataset.skipped) == 1 and part.skipped == ()
    np.testing.assert_array_equal(part.subset([2, -1]).images, whole[[13, 14]])
    assert len(dataset.subset([])) == 0 == len(dataset.subset([]).images)
    for beyond in (lambda: part.batch([4]), lambda: part.subset([4]), lambda: dataset.subset([29])):
        with pytest.raises(IndexError):
            beyond()


def test_a_part_copies_no_pictures(tmp_path: Path, anywhere: str) -> None:
    make(tmp_path, 30)
    dataset = load(Folder(tmp_path), FIT)
    assert np.shares_memory(dataset.subset(range(5, 9)).images, dataset.images)
    assert np.shares_memory(dataset.subset([9, 1, 4]).subset([2]).images, dataset.images)


# ------------------------------------------------------------------------------------------------ a file that is mapped


def _resident(path: Path) -> list[bool]:
    """Which pages of a file are in memory."""
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, mmap.MAP_SHARED, mmap.PROT_READ)
        size = len(mapped)
        pages = (ctypes.c_ubyte * (-(-size // mmap.PAGESIZE)))()
        address = ctypes.c_void_p(np.frombuffer(mapped, np.uint8).ctypes.data)
        assert ctypes.CDLL(None, use_errno=True).mincore(address, ctypes.c_size_t(size), pages) == 0
    return [bool(page & 1) for page in pages]


@pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel what it has in memory")
@pytest.mark.parametrize("first", [0, 3])
def test_a_batch_is_announced_and_nothing_beside_it(first: int, tmp_path: Path) -> None:
    """Two pictures of a page and a bit in a larger file, also where the set begins within the file."""
    one, page = 5000, mmap.PAGESIZE
    path = tmp_path / "pictures"
    path.write_bytes(RNG.bytes(2600 * one))
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if any(_resident(path)):
        pytest.skip("this file system keeps its files in memory")
    store = np.asarray(np.memmap(path, np.uint8, mode="r", shape=(2600, 1, 50, 100)))[first:]
    announce(store, np.array([100, 2000, -1, len(store)]))  # the last two are none
    wanted = {
        number
        for row in (100 + first, 2000 + first)
        for number in range(row * one // page, (row * one + one - 1) // page + 1)
    }
    end = time.monotonic() + 10
    while (there := {k for k, is_there in enumerate(_resident(path)) if is_there}) != wanted:
        assert there <= wanted and time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize("first", [0, 3])
def test_batches_of_a_mapped_file_are_what_lies_there(first: int, tmp_path: Path) -> None:
    whole = RNG.integers(0, 256, (6000, 1, 3, 7), dtype=np.uint8)
    path = tmp_path / "pictures"
    path.write_bytes(whole.tobytes())
    store = np.asarray(np.memmap(path, np.uint8, mode="r", shape=whole.shape))[first:]
    rows = RNG.permutation(len(store))
    for dataset, truth in ((Dataset(images=store), whole[first:]), (Dataset(images=store, rows=rows), store[rows])):
        for chosen in ([], [0], [len(store) - 1, -1, 5], RNG.integers(0, len(store), 128), np.arange(len(store))):
            np.testing.assert_array_equal(dataset.batch(chosen).numpy(), truth[np.asarray(chosen, int)])
        with pytest.raises(IndexError):
            dataset.batch([0, len(store)])


class Told(Source):
    """Pictures of which everything is known; every third is damaged."""

    labels = (0, 1, 1, 0, 1, 0)
    classes = ("cat", "dog")
    captions = ("a cat", "a dog", "", "two cats", "wörter", "\udcff")
    values = ((0.5, 1.0), (1.5, 2.0), (2.5, 3.0), (3.5, 4.0), (4.5, 5.0), (5.5, 6.0))
    value_names = ("age", "weight")
    remarks = ("something was noticed",)

    def __len__(self) -> int:
        return 6

    def name(self, index: int) -> str:
        return f"picture {index}"

    def identity(self, index: int) -> str:
        return self.name(index)

    def read(self, index: int) -> np.ndarray:
        if index % 3 == 0:
            raise Unreadable(self.name(index), "damaged")
        return np.full((4, 5, 3), index, np.uint8)


def test_what_is_known_goes_with_its_picture() -> None:
    dataset = load(Told(), FIT)
    assert dataset.images[:, 0, 0, 0].tolist() == [1, 2, 4, 5]
    assert dataset.labels.tolist() == [1, 1, 1, 0] and dataset.captions == ("a dog", "", "wörter", "\udcff")
    assert dataset.values.tolist() == [[1.5, 2], [2.5, 3], [4.5, 5], [5.5, 6]] and dataset.values.dtype == torch.float32
    assert dataset.value_names == ("age", "weight") and dataset.remarks == ("something was noticed",)
    part = dataset.subset([3, 1])
    assert part.captions == ("\udcff", "") and part.values.tolist() == [[5.5, 6], [2.5, 3]]
    assert part.value_names == ("age", "weight") and part.labels.tolist() == [0, 1]


def test_fingerprint_tells_everything_that_is_trained_on_apart() -> None:
    def fingerprint(images: np.ndarray, labels: list[int] | None = None, **known: Any) -> str:
        given = None if labels is None else torch.tensor(labels)
        return Dataset(images=images, labels=given, **known).fingerprint

    images = RNG.integers(0, 256, (6, 1, 4, 4), dtype=np.uint8)
    touched = images.copy()
    touched[5, 0, 3, 3] ^= 1
    labels = [0, 1, 2, 0, 1, 2]
    values = torch.arange(12.0).reshape(6, 2)
    captions = tuple("abcdef")
    prints = [
        fingerprint(images),
        fingerprint(touched),
        fingerprint(images[::-1]),
        fingerprint(images.reshape(6, 1, 2, 8)),
        fingerprint(images.reshape(3, 2, 4, 4)),
        fingerprint(images, labels),
        fingerprint(images, labels[::-1]),
        fingerprint(images, [0] * 6),
        fingerprint(images, values=values),
        fingerprint(images, values=values.flip(0)),
        fingerprint(images, values=values.reshape(6, 2)[:, :1]),
        fingerprint(images, labels, values=values),
        fingerprint(images, captions=captions),
        fingerprint(images, captions=captions[::-1]),
        fingerprint(images, captions=("ab", "", *captions[2:])),
        fingerprint(images, rows=np.array([0, 1, 2, 3, 5, 4])),
    ]
    assert len(set(prints)) == len(prints)
    assert all(len(one) == 32 and int(one, 16) >= 0 for one in prints)
    assert fingerprint(images.copy(), list(labels)) == fingerprint(images, labels)


def test_fingerprint_is_the_same_wherever_and_however_often_it_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path, 50)
    source = Folder(tmp_path, classes=True)
    loaded = [load(source, FIT) for _ in range(3)]
    monkeypatch.setattr(storage_module, "available_memory", lambda: 0)
    loaded.append(load(source, FIT))
    first = loaded[0]
    loaded.append(Dataset(images=first.images, labels=first.labels, classes=first.classes))  # digests made afterwards
    turned = first.images[::-1].copy()
    loaded.append(Dataset(images=turned, labels=first.labels.flip(0)).subset(range(49, -1, -1)))
    assert len({dataset.fingerprint for dataset in loaded}) == 1
    assert (
        first.subset([4, 9]).fingerprint
        == Dataset(images=first.images[[4, 9]], labels=first.labels[4::5][:2]).fingerprint
    )


# ------------------------------------------------------------------------------------------- threads and processes


class Slow(Source):
    """Pictures of which picture k is k everywhere; reading one says which process did, and does what it is told to."""

    def __init__(self, root: Path, count: int, doing: str = "") -> None:
        self.root, self.count, self.doing = root, count, doing

    def __len__(self) -> int:
        return self.count

    def name(self, index: int) -> str:
        return f"picture {index}"

    def identity(self, index: int) -> str:
        return self.name(index)

    def read(self, index: int) -> np.ndarray:
        (self.root / str(os.getpid())).touch()
        if index == 50 and self.doing == "damaged":
            raise Unreadable(self.name(index), "damaged")
        if index == 50 and self.doing == "wrong":
            raise ZeroDivisionError("a mistake of ours")
        if index == 50 and self.doing == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if index > 50 and self.doing == "hanging":
            time.sleep(60)
        return np.full((4, 5, 3), index, np.uint8)


@pytest.fixture
def copied(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes are worth it however little there is to do."""
    monkeypatch.setattr(ahead_module, "_WORTH_IT", 0.0)
    monkeypatch.setattr(ahead_module, "_LONG", math.inf)
    monkeypatch.setattr(ahead_module, "_cores", lambda: 3)
    monkeypatch.setattr(ahead_module, "_MOST", 7)


@pytest.mark.usefixtures("copied")
def test_copies_of_the_process_decode_the_same_in_the_same_order(tmp_path: Path) -> None:
    dataset = load(Slow(tmp_path, 200, "damaged"), FIT)
    assert dataset.images[:, 0, 0, 0].tolist() == [k for k in range(200) if k != 50]
    assert [str(error) for error in dataset.skipped] == ["picture 50: damaged"]
    assert len(list(tmp_path.iterdir())) == 4  # this one looked at the first few
    assert multiprocessing.active_children() == []


@pytest.mark.usefixtures("copied")
def test_a_source_with_an_open_file_or_a_lock_is_read_in_this_process(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file:
        for held in (file, threading.Lock(), {"deep": [threading.local()]}):
            source = Slow(tmp_path, 100)
            source.held = held  # type: ignore[attr-defined]
            assert len(load(source, FIT)) == 100
    assert {file.name for file in tmp_path.iterdir()} == {"file", str(os.getpid())}


@pytest.mark.usefixtures("copied")
def test_a_mistake_in_a_copy_comes_out_here(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError, match="a mistake of ours"):
        load(Slow(tmp_path, 200, "wrong"), FIT)
    assert multiprocessing.active_children() == []


@pytest.mark.usefixtures("copied")
def test_a_picture_that_kills_its_decoder_is_skipped_by_name(tmp_path: Path) -> None:
    dataset = load(Slow(tmp_path, 200, "killed"), FIT)
    assert dataset.images[:, 0, 0, 0].tolist() == [k for k in range(200) if k != 50]
    (error,) = dataset.skipped
    assert error.name == "picture 50" and "SIGKILL" in error.why
    assert multiprocessing.active_children() == []


@pytest.mark.usefixtures("copied")
def test_an_interruption_leaves_no_process_behind(tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        if done == 40:
            raise KeyboardInterrupt

    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        load(Slow(tmp_path, 200, "hanging"), FIT, progress=interrupt)
    assert time.monotonic() - start < 30
    assert multiprocessing.active_children() == []


def test_digits_load_whole() -> None:
    dataset = load(Digits(), Fit(height=8, width=8, channels=1))
    assert len(dataset) == 1797 and dataset.classes == tuple("0123456789")
    np.testing.assert_array_equal(dataset.images[1000, 0], Digits().read(1000)[..., 0])
    assert dataset.labels is not None
    train, held = stratified_split(dataset.labels, held_out=0.25)
    assert len(dataset.subset(train)) + len(dataset.subset(held)) == 1797


def test_available_memory_is_what_the_kernel_says() -> None:
    lines = Path("/proc/meminfo").read_text().splitlines()
    table = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}
    assert 0 < available_memory() <= table["MemTotal"]
    assert available_memory() == pytest.approx(table["MemAvailable"], rel=0.5)  # others come and go meanwhile


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("own", ["", "/deep/group"])
def test_a_containers_limit_counts(version: int, own: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = [tmp_path / "v2", tmp_path / "v1"]
    groups = tuple((str(mount), *known[1:]) for mount, known in zip(mounts, memory_module._GROUPS, strict=True))
    monkeypatch.setattr(memory_module, "_GROUPS", groups)
    monkeypatch.setattr(memory_module, "_own_group", lambda marker: own)
    assert memory_module._group_free() is None
    mount, _, limit, used, idle = groups[2 - version]
    folder = Path(mount + own)
    folder.mkdir(parents=True)
    (folder / limit).write_text("5000000\n")
    (folder / used).write_text("3000000\n")
    (folder / "memory.stat").write_text(f"anon 7\n{idle} 400000\n")
    assert memory_module._group_free() == 2_400_000 == available_memory()
    (folder / limit).write_text("max\n" if version == 2 else f"{2**63 - 4096}\n")
    assert available_memory() > 2**24 and math.isfinite(available_memory())
