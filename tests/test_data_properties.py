"""Whatever picture comes, of whatever mode, size and damage: it is fitted as Pillow would, or it is told why not.

Pillow makes the files and, on a path of its own (`ImageOps.exif_transpose`, `convert`), the pictures to compare with.
"""

import io
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageOps

from fromnoise.data import Fit, Source, Unreadable, decode, load
from fromnoise.data import dataset as dataset_module
from fromnoise.data.cache import Cache
from fromnoise.data.fit import FILTERS
from fromnoise.data.placement import PLACEMENTS
from fromnoise.data.remark import remarks

LOSSLESS = {"lossless": True, "exact": True}
# Which files hold a mode without loss, and how.
FILES: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "1": [("PNG", {}), ("BMP", {}), ("TIFF", {"compression": "group4"}), ("PPM", {}), ("GIF", {})],
    "L": [("PNG", {}), ("BMP", {}), ("TIFF", {"compression": "tiff_lzw"}), ("PPM", {}), ("GIF", {})],
    "LA": [("PNG", {}), ("TIFF", {})],
    "P": [("PNG", {}), ("BMP", {}), ("TIFF", {}), ("GIF", {})],
    "RGB": [
        ("PNG", {}),
        ("BMP", {}),
        ("TIFF", {"compression": "tiff_adobe_deflate"}),
        ("PPM", {}),
        ("WEBP", LOSSLESS),
    ],
    "RGBA": [("PNG", {}), ("TIFF", {}), ("WEBP", LOSSLESS)],
    "CMYK": [("TIFF", {})],
    "YCbCr": [("TIFF", {})],
    "LAB": [("TIFF", {})],
    "I;16": [("PNG", {}), ("TIFF", {}), ("PPM", {})],
    "I": [("TIFF", {})],
    "F": [("TIFF", {})],
}
LOSSY = [("JPEG", mode) for mode in ("L", "RGB", "CMYK")] + [("WEBP", "RGB")]
BYTES = {
    "1": 1,
    "L": 1,
    "LA": 2,
    "P": 1,
    "RGB": 3,
    "RGBA": 4,
    "CMYK": 4,
    "YCbCr": 3,
    "LAB": 3,
    "I;16": 2,
    "I": 4,
    "F": 4,
}
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()

sides = st.one_of(st.integers(1, 24), st.sampled_from([1, 2, 3, 63, 64, 65, 200]))
sizes = st.tuples(sides, sides)
fits = st.builds(
    Fit,
    height=st.integers(1, 20),
    width=st.integers(1, 20),
    channels=st.sampled_from([1, 3, 4]),
    background=st.tuples(*[st.integers(0, 255)] * 3),
    fit=st.sampled_from(sorted(PLACEMENTS)),
    filter=st.sampled_from(sorted(FILTERS)),
)


def image_of(mode: str, size: tuple[int, int], seed: int) -> Image.Image:
    height, width = size
    random = np.random.default_rng(seed)
    if mode == "1":
        return Image.fromarray(random.integers(0, 256, size, dtype=np.uint8)).convert("1")
    image = Image.frombytes(mode, (width, height), random.bytes(height * width * BYTES[mode]))
    if mode == "P":
        image.putpalette(random.bytes(768))
    return image


@st.composite
def pictures(draw: st.DrawFn, lossy: bool = False) -> bytes:
    """A whole file."""
    if lossy and draw(st.booleans()):
        kind, mode = draw(st.sampled_from(LOSSY))
        options: dict[str, Any] = {"quality": draw(st.integers(1, 100))}
    else:
        mode = draw(st.sampled_from(sorted(FILES)))
        kind, options = draw(st.sampled_from(FILES[mode]))
    image = image_of(mode, draw(sizes), draw(st.integers(0, 2**32)))
    options = dict(options)
    if kind in ("PNG", "TIFF", "WEBP", "JPEG"):
        if turned := draw(st.integers(0, 8)):
            exif = Image.Exif()
            exif[274] = turned
            options["exif"] = exif
        if profile := draw(st.sampled_from([None, None, SRGB, b"rubbish" * 30])):
            options["icc_profile"] = profile
    if kind in ("PNG", "GIF") and mode in ("L", "P", "RGB") and draw(st.booleans()):
        options["transparency"] = (7, 7, 7) if mode == "RGB" else draw(st.integers(0, 255))
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A file that something happened to."""
    data = bytearray(draw(pictures(lossy=True)))
    place = draw(st.integers(0, len(data)))
    what = draw(st.sampled_from(["cut", "flip", "insert", "drop", "zeros", "twice"]))
    if what == "cut":
        del data[place:]
    elif what == "flip":
        for _ in range(draw(st.integers(1, 8))):
            data[draw(st.integers(0, min(len(data), 400) - 1))] = draw(st.integers(0, 255))
    elif what == "insert":
        data[place:place] = draw(st.binary(min_size=1, max_size=20))
    elif what == "drop":
        del data[place : place + draw(st.integers(1, 20))]
    elif what == "zeros":
        data[place:] = bytes(len(data) - place)
    else:
        data[place:place] = data
    return bytes(data)


def by_pillow(data: bytes) -> tuple[Image.Image, bool]:
    """The upright picture, and whether its numbers have a meaning: 32 bits and floats have none."""
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        return ImageOps.exif_transpose(image), image.mode not in ("I", "F") or image.format in ("PPM", "PNG")


def as_read(data: bytes) -> np.ndarray | None:
    """As `decode` reads it; None if it says why not, in one line."""
    try:
        picture = decode(io.BytesIO(data), "it")
    except Unreadable as error:
        message = str(error)
        assert message.startswith("it: ") and "\n" not in message and len(message) > 4
        return None
    assert picture.dtype == np.uint8 and picture.ndim == 3 and 1 <= picture.shape[2] <= 4 and picture.flags.c_contiguous
    assert picture.size > 0
    return picture


@settings(max_examples=400)
@given(data=pictures())
def test_every_pixel_is_pillows(data: bytes) -> None:
    image, known = by_pillow(data)
    picture = as_read(data)
    if not known:
        assert picture is None
        return
    assert picture is not None and picture.shape[:2] == (image.height, image.width)
    if image.mode.startswith("I"):  # Pillow would clip 16 bits to 255
        np.testing.assert_array_equal(picture[..., 0], (np.asarray(image).astype(np.int64) * 2 + 257) // 514)
        return
    colours = image.convert("RGB") if image.mode == "CMYK" else image
    four = np.asarray(colours.convert("RGBA"))
    canvas = Image.new("RGBA", image.size, (9, 99, 200, 255))
    canvas.alpha_composite(Image.fromarray(four))
    # Pillow composites with fewer bits: where alpha is neither none nor all, it may be one level off.
    exact = np.isin(four[..., 3], (0, 255))
    for fit in PLACEMENTS:
        for channels, mode in ((3, "RGB"), (1, "L"), (4, "RGBA")):
            size = Fit(height=image.height, width=image.width, channels=channels, fit=fit, background=(9, 99, 200))
            fitted = size(picture).transpose(1, 2, 0)
            if channels == 4:
                np.testing.assert_array_equal(fitted, four)
                continue
            expected = np.asarray(canvas.convert("RGB").convert(mode)).reshape(fitted.shape)
            assert np.abs(fitted.astype(int) - expected).max() <= 1
            np.testing.assert_array_equal(fitted[exact], expected[exact])


@settings(max_examples=400)
@given(data=damaged(), fit=fits)
@example(data=b"", fit=Fit(height=1, width=1, channels=1))
def test_damage_gives_a_picture_or_a_line(data: bytes, fit: Fit) -> None:
    with remarks() as said:
        picture = as_read(data)
    assert all(remark.name == "it" and "\n" not in remark.what for remark in said)
    if picture is not None and picture.size < 10**7:
        assert fit(picture).shape == (fit.channels, fit.height, fit.width)


@settings(max_examples=300)
@given(size=sizes, own=st.integers(1, 4), fit=fits, seed=st.integers(0, 2**32))
@example(size=(1, 65_000), own=4, fit=Fit(height=8, width=8, channels=4, fit="pad"), seed=0)
@example(size=(65_000, 1), own=3, fit=Fit(height=8, width=8, channels=3), seed=0)
def test_any_size_fits_any_canvas(size: tuple[int, int], own: int, fit: Fit, seed: int) -> None:
    picture = np.random.default_rng(seed).integers(0, 256, (*size, own), dtype=np.uint8)
    before = picture.copy()
    fitted = fit(picture)
    assert (
        fitted.shape == (fit.channels, fit.height, fit.width) and fitted.dtype == np.uint8 and fitted.flags.c_contiguous
    )
    np.testing.assert_array_equal(picture, before)
    # A picture and its mirror image are the same thing to a filter, but for ties of the two that take whole pixels.
    assume(fit.filter not in ("nearest", "box"))
    shown = PLACEMENTS[fit.fit](size, (fit.height, fit.width))
    assume(not shown.is_cut and fit.width - shown.width == 2 * shown.left)
    mirrored = fit(np.ascontiguousarray(picture[:, ::-1]))[:, :, ::-1]
    off = np.abs(fitted.astype(int) - mirrored)
    if fit.channels == 4 and own in (2, 4):  # colours that hardly show are divided by next to nothing
        off = off[:, np.minimum(fitted[3], mirrored[3]) > 8]
    assert off.size == 0 or off.max() <= 1


class Files(Source):
    """Files in memory."""

    def __init__(self, files: Sequence[bytes]) -> None:
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def name(self, index: int) -> str:
        return f"file {index}"

    def identity(self, index: int) -> str:
        return repr(self.files[index])

    def read(self, index: int) -> np.ndarray:
        return decode(io.BytesIO(self.files[index]), self.name(index))


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(files=st.lists(st.one_of(pictures(lossy=True), damaged()), min_size=1, max_size=6), fit=fits)
def test_the_cache_gives_what_decoding_gives(files: list[bytes], fit: Fit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset_module, "SMALL", 0)
    source = Files([*files, WHOLE])
    fresh = load(source, fit, cache=Cache(path=Path("/nowhere"), limit=0))
    with tempfile.TemporaryDirectory() as folder:
        for part in (Files([*files[: len(files) // 2], WHOLE]), source, source):
            kept = load(part, fit, cache=Cache(path=Path(folder)))
        np.testing.assert_array_equal(kept.images, fresh.images)
        assert kept.fingerprint == fresh.fingerprint
        assert [str(one) for one in kept.skipped] == [str(one) for one in fresh.skipped]
    assert len(fresh) + len(fresh.skipped) == len(source)


def _whole() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (3, 3), (1, 2, 3)).save(file, "PNG")
    return file.getvalue()


WHOLE = _whole()
