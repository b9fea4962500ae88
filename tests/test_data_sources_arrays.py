"""Arrays of pictures: what the numbers mean, where two readings are possible, and files that lie."""

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.lib import format as numpy_format

from fromnoise.data import Arrays, Columns, Unreadable, open_source
from fromnoise.data import npy as npy_module
from fromnoise.errors import FromnoiseError, WrongUse

RNG = np.random.default_rng(23)
LEVELS = RNG.integers(0, 256, (5, 6, 7, 3), dtype=np.uint8)
LEVELS[0, 0, 0], LEVELS[0, 0, 1] = 0, 255


def save(path: Path, array: np.ndarray) -> Path:
    np.save(path, array, allow_pickle=False)
    return path


def everything(source: Arrays) -> np.ndarray:
    pictures = [source.read(k) for k in range(len(source))]
    assert all(one.dtype == np.uint8 and one.flags.c_contiguous and one.flags.writeable for one in pictures)
    return np.stack(pictures)


@pytest.mark.parametrize(
    "array",
    [
        LEVELS,
        LEVELS.transpose(0, 3, 1, 2),
        np.asfortranarray(LEVELS),
        (LEVELS / 255).astype(np.float32),
        (LEVELS / 255).transpose(0, 3, 1, 2),
        (LEVELS / 255).astype(np.float16),  # 11 bits: off by less than half a level
        (LEVELS / 127.5 - 1).astype(">f4"),
        (LEVELS / 127.5 - 1) * 1.0005,  # passes the end by rounding
    ],
)
@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_every_form_gives_the_same_levels(array: np.ndarray, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"x.{suffix}"
    np.save(path, array) if suffix == "npy" else np.savez_compressed(path, array)
    np.testing.assert_array_equal(everything(Arrays(path)), LEVELS)


def test_grey_and_black_and_white(tmp_path: Path) -> None:
    grey = LEVELS[..., 0]
    np.testing.assert_array_equal(everything(Arrays(save(tmp_path / "3.npy", grey)))[..., 0], grey)
    np.testing.assert_array_equal(everything(Arrays(save(tmp_path / "4.npy", grey[:, None])))[..., 0], grey)
    bits = grey > 100
    np.testing.assert_array_equal(everything(Arrays(save(tmp_path / "b.npy", bits)))[..., 0], 255 * bits)


def test_every_float_goes_to_the_nearest_level(tmp_path: Path) -> None:
    ramp = np.linspace(0, 1, 5 * 1000).reshape(1, 5, 1000)
    expected = np.array([min(range(256), key=lambda level: abs(level - 255 * v)) for v in ramp.ravel()])
    np.testing.assert_array_equal(Arrays(save(tmp_path / "u.npy", ramp)).read(0).ravel(), expected)
    np.testing.assert_array_equal(Arrays(save(tmp_path / "s.npy", 2 * ramp - 1)).read(0).ravel(), expected)


def test_the_range_is_that_of_the_whole_array_not_of_one_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fromnoise.data.levels._BLOCK", 100)  # in many blocks
    array = np.full((50, 6, 6), 0.5, np.float32)
    assert int(Arrays(save(tmp_path / "a.npy", array)).read(0)[0, 0, 0]) == 128
    array[49, 5, 5] = -0.5
    assert int(Arrays(save(tmp_path / "b.npy", array)).read(0)[0, 0, 0]) == 191


@pytest.mark.parametrize(
    ("array", "told"),
    [
        (np.zeros((480, 64, 3), np.uint8), r"one picture or 480 grey ones of 64x3\? save it with four axes"),
        (np.zeros((9, 3, 8, 3), np.uint8), "both the second and the last axis"),
        (np.zeros((9, 8, 8, 8), np.uint8), "neither the second nor the last axis"),
        (np.zeros((9, 64), np.uint8), r"pictures are \(N, H, W\)"),
        (np.zeros((0, 8, 8), np.uint8), r"an array of \(0, 8, 8\)"),
        (np.zeros((9, 8, 8), np.int64), "int64, whose black and white nobody knows"),
        (np.zeros((9, 8, 8), np.uint16), "save uint8"),
        (np.zeros((9, 8, 8), np.complex64), "complex64"),
        (np.full((9, 8, 8), 255.0), "floats from 255 to 255, neither within"),
        (np.full((9, 8, 8), -2.0), "floats from -2 to -2"),
        (np.full((9, 8, 8), np.nan), "none of them finite"),
        (np.zeros((9, 8, 8), "U3"), "<U3"),
    ],
)
def test_what_leaves_two_readings_is_refused(array: np.ndarray, told: str, tmp_path: Path) -> None:
    with pytest.raises(WrongUse, match=told) as caught:
        open_source(save(tmp_path / "x.npy", array))
    assert str(caught.value).isprintable()


def test_a_picture_with_values_that_are_not_finite_is_the_only_one_lost(tmp_path: Path) -> None:
    array = LEVELS / 255
    array[1, 2, 3, 0], array[3, 0, 0, 0] = np.nan, -np.inf
    source = Arrays(save(tmp_path / "x.npy", array))
    for index in (1, 3):
        with pytest.raises(Unreadable, match=rf"x.npy\[{index}\]: some of its values are not finite"):
            source.read(index)
    for index in (0, 2, 4):
        np.testing.assert_array_equal(source.read(index), LEVELS[index])


def test_an_npy_is_mapped(tmp_path: Path) -> None:
    path = save(tmp_path / "x.npy", LEVELS)
    array = npy_module.mapped(str(path), "x")
    base: object = array
    while isinstance(base, np.ndarray) and not isinstance(base, np.memmap):
        base = base.base
    assert isinstance(base, np.memmap)


def test_labels_of_every_shape(tmp_path: Path) -> None:
    def source(labels: object, **more: object) -> Arrays:
        arrays: dict[str, Any] = {name: np.array(value) for name, value in more.items()}
        np.savez(tmp_path / "x.npz", images=LEVELS, labels=np.array(labels), **arrays)
        return Arrays(tmp_path / "x.npz", classes=True)

    assert source([3, 1, 1, 10, 3]).classes == ("1", "3", "10")
    assert source([[3], [1], [1], [2], [3]]).labels == (2, 0, 0, 1, 2)
    assert source([3.0, 1.0, 1.0, 2.0, 3.0]).labels == (2, 0, 0, 1, 2)
    assert source(["b", "a", "a", "b", "c"]).labels == (1, 0, 0, 1, 2)
    assert source([b"b", b"a", b"a", b"b", b"c"]).classes == ("a", "b", "c")
    one_hot = source(np.eye(7, dtype=np.float32)[[3, 1, 1, 2, 3]])
    assert one_hot.labels == (3, 1, 1, 2, 3) and one_hot.classes == tuple("0123456")
    several = source([[1, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 1], [0, 0, 1]])
    assert several.labels is None and several.values[3] == (1, 1, 1) and several.value_names == ("0", "1", "2")
    assert source([0.5, 1, 2, 3, 4]).values == ((0.5,), (1,), (2,), (3,), (4,))
    assert source([[0.5, 2]] * 5).values == ((0.5, 2),) * 5
    assert source([0] * 5, captions=["x", "y", "", "z", "é"]).captions == ("x", "y", "", "z", "é")
    assert Arrays(tmp_path / "x.npz").labels is None
    source([7, 8, 9, 7, 8], kinds=["x", "y", "x", "z", "é"])
    columns = Arrays(tmp_path / "x.npz", columns=Columns(label="kinds", values=("labels",)))
    assert columns.classes == ("x", "y", "z", "é") and columns.labels == (0, 1, 0, 2, 3)
    assert columns.values == ((7,), (8,), (9,), (7,), (8,)) and columns.value_names == ("labels",)
    for wrong in ([1, 2], [[[1]]] * 5, [[["a"]]] * 5):
        with pytest.raises(WrongUse, match="one row for each picture"):
            source(wrong)
    with pytest.raises(WrongUse, match="not finite"):
        source([0.5, np.nan, 1, 2, 3])


def test_labels_beside_an_npy(tmp_path: Path) -> None:
    path = save(tmp_path / "x.npy", LEVELS)
    with pytest.raises(WrongUse, match=r"looked for x_labels.npy, x.labels.npy, labels.npy, y.npy"):
        Arrays(path, classes=True)
    save(tmp_path / "y.npy", np.arange(5))
    assert Arrays(path, classes=True).labels == (0, 1, 2, 3, 4)
    save(tmp_path / "x_labels.npy", np.zeros(5, int))
    assert Arrays(path, classes=True).labels == (0,) * 5
    assert Arrays(path, labels=tmp_path / "y.npy").labels == (0, 1, 2, 3, 4)
    with pytest.raises(WrongUse, match=r"columns are for .npz"):
        Arrays(path, columns=Columns(label="y"))


def test_which_array_is_the_pictures(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, x_train=LEVELS, y_train=np.arange(5), x_test=LEVELS[:2], y_test=np.arange(2))
    with pytest.raises(WrongUse, match=r"name one of them as the column of pictures: x_train \(5, 6, 7, 3\), y_train"):
        Arrays(path)
    source = Arrays(path, columns=Columns(picture="x_test", label="y_test"))
    assert len(source) == 2 and source.labels == (0, 1)
    with pytest.raises(WrongUse, match="no array x_tets; did you mean 'x_test'"):
        Arrays(path, columns=Columns(picture="x_tets"))
    with pytest.raises(WrongUse, match=r"no labels in .*: looked for labels, .*; the arrays in it are x_train"):
        Arrays(path, columns=Columns(picture="x_test"), classes=True)
    np.savez(path, first=LEVELS, labels=np.arange(5))
    assert len(Arrays(path)) == 5
    np.savez(path, a=np.arange(5))
    with pytest.raises(WrongUse, match=r"no pictures in .*, and the arrays in it are a \(5,\)"):
        Arrays(path)
    np.savez(path, LEVELS, np.arange(5))  # as guided-diffusion saves samples: arr_0, arr_1
    assert Arrays(path, classes=True).labels == (0, 1, 2, 3, 4)


class Trap:
    """Would leave a file behind if anybody unpickled it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return _touch, (str(self.path),)


def _touch(path: str) -> None:
    Path(path).touch()


def test_pickled_objects_are_never_loaded(tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    objects = np.array([Trap(sprung)] * 3, dtype=object)
    np.save(tmp_path / "x.npy", objects, allow_pickle=True)
    np.savez(tmp_path / "a.npz", images=objects)
    np.savez(tmp_path / "b.npz", images=LEVELS[:3], labels=objects)
    (tmp_path / "c.npy").write_bytes(pickle.dumps(objects))
    for name in ("x.npy", "a.npz", "b.npz", "c.npy"):
        with pytest.raises(FromnoiseError, match=r"holds Python objects, which are never loaded|no array") as caught:
            open_source(tmp_path / name, True)
        assert str(caught.value).isprintable()
    assert not sprung.exists()
    pickle.loads(pickle.dumps(Trap(sprung)))  # the trap does work
    assert sprung.exists()


def header(shape: object, dtype: str = "|u1", version: tuple[int, int] = (1, 0)) -> bytes:
    file = io.BytesIO()
    fields = {"descr": dtype, "fortran_order": False, "shape": shape}
    (numpy_format.write_array_header_1_0 if version == (1, 0) else numpy_format.write_array_header_2_0)(file, fields)
    return file.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x93NUMPY",
        b"\x93NUMPY\x01\x00\xff\xff{",
        b"\x93NUMPY\x09\x00" + header((2, 8, 8))[8:] + bytes(128),
        header((2, 8, 8)) + bytes(127),
        header((2, 8, 8)) + bytes(129),
        header((2**40, 2**20, 8)) + bytes(128),
        header((2**62, 8, 8)) + bytes(128),
        header((-2, 8, 8)) + bytes(128),
        header((2, 8, 8), "|V0") + bytes(128),
        header((2, 8, 8), "nonsense") + bytes(128),
        header((2, 8, 8)).replace(b"False", b"print") + bytes(128),
        header((2, 8, 8), version=(2, 0)).replace(b"(2, 8", b"(2e 8") + bytes(128),
    ],
)
@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_headers_that_lie(data: bytes, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"x.{suffix}"
    if suffix == "npy":
        path.write_bytes(data)
    else:
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("images.npy", data)
    with pytest.raises(FromnoiseError, match=r"x.np[yz].* is (damaged|no array)|no array") as caught:
        Arrays(path)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 600


def test_an_npz_larger_than_memory_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez_compressed(tmp_path / "x.npz", images=np.zeros((100, 64, 64), np.uint8))
    assert (tmp_path / "x.npz").stat().st_size < 2000  # a thousandth of what it unpacks to
    monkeypatch.setattr(npy_module, "available_memory", lambda: 2 * 100 * 64 * 64 - 1)
    with pytest.raises(FromnoiseError, match=r"more than half of the free memory; save it as .npy"):
        Arrays(tmp_path / "x.npz")
    monkeypatch.setattr(npy_module, "available_memory", lambda: 2 * 100 * 64 * 64)
    assert len(Arrays(tmp_path / "x.npz")) == 100


def test_an_npz_with_damaged_values(tmp_path: Path) -> None:
    for save_it in (np.savez, np.savez_compressed):
        save_it(tmp_path / "x.npz", images=LEVELS)
        data = bytearray((tmp_path / "x.npz").read_bytes())
        data[400] ^= 1
        (tmp_path / "x.npz").write_bytes(data)
        with pytest.raises(FromnoiseError, match="damaged"):
            Arrays(tmp_path / "x.npz")


def test_identity_follows_values_and_their_reading(tmp_path: Path) -> None:
    array = (LEVELS / 255).astype(np.float32)
    array[:4] = array[:4] / 2 + 0.5
    first = Arrays(save(tmp_path / "a.npy", array))
    again = Arrays(save(tmp_path / "b.npy", array))
    assert [first.identity(k) for k in range(5)] == [again.identity(k) for k in range(5)]
    assert first.fingerprint == again.fingerprint and len({first.identity(k) for k in range(5)}) == 5
    array[4] = -array[4]
    other = Arrays(save(tmp_path / "a2.npy", array))  # now all is read as [−1, 1], and picture 0 looks different
    assert (other.read(0) != first.read(0)).any() and other.identity(0) != first.identity(0)
