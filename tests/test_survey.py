"""The headers of files against what was put into them, and the names of what is wrong with broken ones."""

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageCms

from fromnoise.data import Digits, Folder, Unreadable, decode
from fromnoise.data.source import Files
from fromnoise.data.survey import FileFacts, ailment, file_path, raw_bytes, survey

PICTURE = Image.fromarray(np.random.default_rng(3).integers(0, 256, (40, 60, 3), dtype=np.uint8))


def saved(kind: str, image: Image.Image = PICTURE, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(depth: int, colour: int, *, width: int = 8, height: int = 8, late: bytes = b"") -> bytes:
    """A black PNG (PNG specification, section 11); ``late`` are chunks behind the pixels."""
    row = b"\0" + bytes((depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour] * width + 7) // 8)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    palette = chunk(b"PLTE", bytes(6)) if colour == 3 else b""
    body = chunk(b"IDAT", zlib.compress(row * height))
    return b"\x89PNG\r\n\x1a\n" + head + palette + body + late + chunk(b"IEND", b"")


def facts_of(data: bytes) -> FileFacts:
    facts = survey(data)
    assert facts is not None and facts.nbytes == len(data)
    return facts


def trouble(data: bytes) -> str:
    with pytest.raises(Unreadable) as caught:
        decode(io.BytesIO(data), "x")
    return ailment(data, survey(data), caught.value.why)


# ---------------------------------------------------------------------------------------------------------- headers


@pytest.mark.parametrize(
    ("depth", "colour", "kind"),
    [
        (1, 0, "black and white, 1 bit"),
        (2, 0, "grey, 2 bit"),
        (8, 0, "grey, 8 bit"),
        (16, 0, "grey, 16 bit"),
        (16, 2, "RGB, 16 bit"),
        (4, 3, "palette, 4 bit"),
        (8, 4, "grey and alpha, 8 bit"),
        (16, 6, "RGBA, 16 bit"),
    ],
)
def test_bits_of_a_png_are_those_of_its_header(depth: int, colour: int, kind: str) -> None:
    facts = facts_of(png(depth, colour, width=9, height=5))
    assert (facts.kind, facts.format) == (kind, "PNG")


@pytest.mark.parametrize(
    ("data", "format", "kind"),
    [
        (saved("JPEG"), "JPEG", "RGB, 8 bit"),
        (saved("JPEG", PICTURE.convert("CMYK")), "JPEG", "CMYK, 8 bit"),
        (saved("GIF", PICTURE.quantize(16)), "GIF", "palette, 8 bit"),
        (saved("BMP", PICTURE.convert("1")), "BMP", "black and white, 1 bit"),
        (saved("WEBP", Image.new("RGBA", (9, 9), (90, 60, 30, 100))), "WEBP", "RGBA, 8 bit"),
        (saved("TIFF", Image.fromarray(np.zeros((4, 4), np.uint16))), "TIFF", "grey, 16 bit"),
        (saved("TIFF", Image.fromarray(np.zeros((4, 4), np.float32))), "TIFF", "grey, 32 bit"),
        (b"P5 2 1 65535\n" + bytes(4), "PPM", "grey, 16 bit"),
    ],
)
def test_other_formats_and_modes(data: bytes, format: str, kind: str) -> None:
    facts = facts_of(data)
    assert (facts.format, facts.kind) == (format, kind)
    assert not (facts.turned or facts.animated or facts.profile or facts.bomb)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_the_orientation_in_the_header_is_told(kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    facts = facts_of(saved(kind, exif=exif))
    assert facts.turned and facts.orientation == 6
    exif[0x0112] = 1
    assert not facts_of(saved(kind, exif=exif)).turned


def test_an_orientation_behind_the_pixels_of_a_png_is_found() -> None:
    exif = Image.Exif()
    exif[0x0112] = 8
    assert facts_of(png(8, 2, late=chunk(b"eXIf", exif.tobytes()[6:]))).orientation == 8
    assert facts_of(png(8, 2, late=chunk(b"eXIf", b"nonsense"))).orientation == 1


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_several_frames_or_pages_are_noticed(kind: str) -> None:
    other = PICTURE.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    assert facts_of(saved(kind, save_all=True, append_images=[other])).animated
    assert not facts_of(saved(kind)).animated


def test_a_colour_profile_is_noticed() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert facts_of(saved("PNG", icc_profile=profile)).profile and not facts_of(saved("PNG")).profile


def test_a_header_is_enough() -> None:
    data = saved("PNG")
    assert len(data) > 1000 and facts_of(data[:60]).kind == "RGB, 8 bit"


@pytest.mark.parametrize(("side", "bomb"), [(10, False), (11, True), (30, True)])
def test_bombs_are_known_by_their_headers(side: int, bomb: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # Pillow itself refuses above twice the limit
    data = png(8, 2, width=side, height=side)
    facts = facts_of(data)
    assert facts.bomb is bomb and facts.format == "PNG"
    if bomb:
        assert trouble(data) == "too large"


@pytest.mark.parametrize("start", [b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"GIF89a", b"II*\0", b"P6 ", b"BM"])
@given(rest=st.binary(max_size=200))
def test_no_bytes_are_too_strange(start: bytes, rest: bytes) -> None:
    facts = survey(start + rest)
    assert facts is None or facts.nbytes == len(start + rest)
    assert ailment(start + rest, facts, "")


# ---------------------------------------------------------------------------------------------------------- trouble


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP"])
def test_files_cut_anywhere_are_said_to_be_cut_or_no_picture(kind: str) -> None:
    data = saved(kind)
    found = {trouble(data[: len(data) * part // 20]) for part in range(2, 18)}
    assert found == {"cut short"}
    assert {trouble(data[:length]) for length in range(1, 20)} <= {"cut short", "damaged", "not a picture"}
    assert trouble(b"") == "empty"


def test_other_troubles_have_names_of_their_own() -> None:
    data = bytearray(saved("PNG"))
    data[len(data) // 2] ^= 255  # in the pixels: their checksum fails
    assert trouble(bytes(data)) == "damaged"
    assert trouble(b"<html>not found</html>") == "not a picture"
    assert trouble(saved("TIFF", Image.fromarray(np.ones((4, 4), np.float32)))) == "unknown range"
    assert ailment(None, None, "the link leads nowhere") == "broken or missing"
    assert ailment(None, None, "image file is truncated (3 bytes not processed)") == "cut short"  # in an archive, say


# ------------------------------------------------------------------------------------------------------ the raw file


def test_the_bytes_of_a_folder_s_files_are_had_whatever_their_names(tmp_path: Path) -> None:
    names = [b"plain.png", b"two\nlines.png", b"\xff\xfe.png"]
    for k, name in enumerate(names):
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).write_bytes(png(8, 0, width=k + 1))
    (tmp_path / "dead.png").symlink_to(tmp_path / "nowhere")
    source = Folder(tmp_path)
    found = {raw_bytes(source, k) for k in range(len(source))}
    assert found == {None, *(png(8, 0, width=k + 1) for k in range(3))}
    paths = {file_path(source, k) for k in range(len(source))}
    assert paths == {None, *(os.path.join(tmp_path, os.fsdecode(name)) for name in names)}


def test_a_file_that_a_table_names_elsewhere_is_not_opened(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.png").write_bytes(png(8, 0))
    (tmp_path / "secret.png").write_bytes(png(8, 0))
    table = tmp_path / "data" / "metadata.jsonl"
    table.write_text('{"file_name": "a.png", "label": 0}\n{"file_name": "../secret.png", "label": 1}\n')
    source = Folder(tmp_path / "data", classes=True)
    assert [raw_bytes(source, k) is None for k in range(len(source))].count(True) == len(source) - 1


class Boxed(Files):
    """A source that is no folder and hands out its files; of the second it cannot."""

    def __len__(self) -> int:
        return 2

    def name(self, index: int) -> str:
        return str(index)

    def identity(self, index: int) -> str:
        return str(index)

    def read(self, index: int) -> NDArray[np.uint8]:
        return np.zeros((8, 8, 1), dtype=np.uint8)

    def raw(self, index: int) -> bytes | None:
        if index:
            raise Unreadable("1", "the shelf is empty")
        return png(8, 0)


def test_a_source_may_hand_out_its_files_and_need_not() -> None:
    assert raw_bytes(Boxed(), 0) == png(8, 0) and raw_bytes(Boxed(), 1) is None
    assert raw_bytes(Digits(), 0) is None and file_path(Digits(), 0) is None
