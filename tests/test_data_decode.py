"""The decoder against what was put into the files: PNGs written byte by byte from the specification, others by Pillow.

Every odd kind of picture that the table in `fromnoise.data.decode` names is here.
"""

import io
import struct
import threading
import warnings
import zlib
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image, ImageCms

from fromnoise.data import SUFFIXES, Unreadable, decode
from fromnoise.data.decode import FORMATS
from fromnoise.data.quiet import pillow_quiet
from fromnoise.data.remark import Remark, remarks, summed_up

RNG = np.random.default_rng(7)
RGB = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)
RGBA = RNG.integers(0, 256, (5, 7, 4), dtype=np.uint8)
GREY = RNG.integers(0, 256, (5, 7), dtype=np.uint8)


def read(data: bytes) -> np.ndarray:
    picture = decode(io.BytesIO(data), "x.png")
    assert picture.dtype == np.uint8 and picture.ndim == 3 and picture.flags.c_contiguous
    return picture


def refused(data: bytes) -> str:
    with pytest.raises(Unreadable) as caught:
        read(data)
    message = str(caught.value)
    assert message.startswith("x.png: ") and len(message) > len("x.png: ") and "\n" not in message
    return message


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png(samples: np.ndarray, depth: int, colour: int, *chunks: tuple[bytes, bytes], late: bytes = b"") -> bytes:
    """A PNG of integer ``samples`` (H, W, channels) at ``depth`` bits, filter 0 in every row (PNG specification)."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    rows = []
    for row in samples:
        bits = "".join(format(int(value), f"0{depth}b") for value in row.reshape(-1))
        bits += "0" * (-len(bits) % 8)
        rows.append(b"\0" + int(bits, 2).to_bytes(len(bits) // 8, "big"))
    height, width = samples.shape[:2]
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    body = b"".join(chunk(kind, data) for kind, data in chunks)
    end = chunk(b"IDAT", zlib.compress(b"".join(rows))) + late + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + head + body + end


def half_up(value: Fraction) -> int:
    return int(value + Fraction(1, 2))


# ------------------------------------------------------------------------------------------------------------- PNG


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_grey_of_few_bits_is_stretched_to_the_whole_range(depth: int) -> None:
    top = 2**depth - 1
    samples = RNG.integers(0, top + 1, (4, 9, 1))
    expected = [half_up(Fraction(255 * int(v), top)) for v in samples.reshape(-1)]
    assert read(png(samples, depth, 0)).reshape(-1).tolist() == expected


def test_sixteen_bit_grey_is_divided_by_257_and_rounded_for_every_value() -> None:
    samples = np.arange(65536).reshape(256, 256, 1)
    picture = read(png(samples, 16, 0))
    assert picture.shape == (256, 256, 1)
    assert picture.reshape(-1).tolist() == [half_up(Fraction(v, 257)) for v in range(65536)]


@pytest.mark.parametrize(("mode", "kind"), [("I;16", "TIFF"), ("I;16B", "TIFF"), ("I;16", "PPM")])
def test_sixteen_bit_grey_of_other_kinds_follows_the_same_law(mode: str, kind: str) -> None:
    values = RNG.integers(0, 65536, (6, 5))
    image = Image.fromarray(values.astype("<u2" if mode == "I;16" else ">u2"))
    assert image.mode == mode
    expected = [half_up(Fraction(int(v), 257)) for v in values.reshape(-1)]
    assert read(saved(image, kind)).reshape(-1).tolist() == expected


def test_sixteen_bit_plain_pgm_with_its_own_maximum() -> None:
    # Half of the maximum is half of the range, whatever the maximum.
    assert read(b"P2 3 1 1000\n0 500 1000\n").reshape(-1).tolist() == [0, 128, 255]


@pytest.mark.parametrize(("colour", "channels"), [(2, 3), (4, 2), (6, 4)])
def test_sixteen_bit_channels_keep_the_high_byte(colour: int, channels: int) -> None:
    samples = RNG.integers(0, 65536, (5, 6, channels))
    np.testing.assert_array_equal(read(png(samples, 16, colour)), samples >> 8)


@pytest.mark.parametrize(("colour", "channels"), [(2, 3), (4, 2), (6, 4)])
def test_eight_bit_channels_are_exact(colour: int, channels: int) -> None:
    samples = RNG.integers(0, 256, (5, 6, channels))
    np.testing.assert_array_equal(read(png(samples, 8, colour)), samples)


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_a_transparent_grey_becomes_alpha(depth: int) -> None:
    top = 2**depth - 1
    samples = RNG.integers(0, top + 1, (5, 8, 1))
    key = int(samples[2, 3, 0])
    samples[0, 0, 0] = key ^ 1  # at 16 bits a neighbour that is the same after scaling, and is not transparent
    picture = read(png(samples, depth, 0, (b"tRNS", struct.pack(">H", key))))
    assert picture.shape == (5, 8, 2)
    np.testing.assert_array_equal(picture[..., 1] == 0, samples[..., 0] == key)
    assert set(np.unique(picture[..., 1])) == {0, 255}
    assert picture[..., 0].reshape(-1).tolist() == [half_up(Fraction(255 * int(v), top)) for v in samples.reshape(-1)]


@pytest.mark.parametrize("depth", [8, 16])
def test_a_transparent_colour_becomes_alpha(depth: int) -> None:
    samples = RNG.integers(0, 2, (6, 6, 3)) * (2**depth - 1)
    key = samples[1, 1]
    picture = read(png(samples, depth, 2, (b"tRNS", struct.pack(">3H", *key.tolist()))))
    np.testing.assert_array_equal(picture[..., 3] == 0, (samples == key).all(axis=-1))
    np.testing.assert_array_equal(picture[..., :3], (samples > 0) * 255)


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
@pytest.mark.parametrize("alphas", ["none", "one", "many"])
def test_palette(depth: int, alphas: str) -> None:
    size = 2**depth
    palette = RNG.integers(0, 256, (size, 3), dtype=np.uint8)
    alpha = np.full(size, 255, np.uint8)
    if alphas == "one":
        alpha[1] = 0
    elif alphas == "many":
        alpha = RNG.integers(0, 255, size, dtype=np.uint8)
    samples = RNG.integers(0, size, (5, 9, 1))
    chunks = [(b"PLTE", palette.tobytes())]
    if alphas != "none":
        chunks.append((b"tRNS", alpha.tobytes()))
    expected = palette[samples[..., 0]]
    if alphas != "none":
        expected = np.concatenate([expected, alpha[samples]], axis=-1)
    np.testing.assert_array_equal(read(png(samples, depth, 3, *chunks)), expected)


def test_animated_png_gives_its_first_frame() -> None:
    first, second = Image.fromarray(RGB), Image.fromarray(255 - RGB)
    data = saved(first, "PNG", save_all=True, append_images=[second])
    assert b"acTL" in data
    np.testing.assert_array_equal(read(data), RGB)


# ------------------------------------------------------------------------------------------------------ other kinds


@pytest.mark.parametrize(
    ("array", "kind", "options"),
    [
        (RGB, "BMP", {}),
        (GREY, "BMP", {}),
        (RGB, "TIFF", {"compression": "tiff_lzw"}),
        (RGBA, "TIFF", {}),
        (RGB, "PPM", {}),
        (GREY, "PPM", {}),
        (RGB, "WEBP", {"lossless": True}),
        (RGBA, "WEBP", {"lossless": True, "exact": True}),
    ],
)
def test_lossless_kinds_give_back_what_was_saved(array: np.ndarray, kind: str, options: dict[str, object]) -> None:
    expected = array if array.ndim == 3 else array[..., None]
    np.testing.assert_array_equal(read(saved(Image.fromarray(array), kind, **options)), expected)


def test_bmp_has_alpha_only_where_its_header_names_a_mask_for_it() -> None:
    height, width = RGBA.shape[:2]
    pixels = RGBA[::-1, :, [2, 1, 0, 3]].tobytes()  # bottom row first, blue first
    masks = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    info = struct.pack("<IiiHHIIiiII", 108, width, height, 1, 32, 3, len(pixels), 0, 0, 0, 0) + masks + bytes(52)
    head = b"BM" + struct.pack("<IHHI", 14 + len(info) + len(pixels), 0, 0, 14 + len(info))
    np.testing.assert_array_equal(read(head + info + pixels), RGBA)
    np.testing.assert_array_equal(read(saved(Image.fromarray(RGBA), "BMP")), RGBA[..., :3])


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "GIF"])
def test_one_bit(kind: str) -> None:
    ink = GREY > 128
    image = Image.fromarray((ink * 255).astype(np.uint8)).convert("1")
    picture = read(saved(image, kind))
    np.testing.assert_array_equal(picture, np.repeat(ink[..., None] * 255, picture.shape[-1], axis=-1))


def test_grey_and_alpha() -> None:
    array = np.stack([GREY, GREY[::-1]], axis=-1)
    for kind in ("PNG", "TIFF"):
        np.testing.assert_array_equal(read(saved(Image.fromarray(array), kind)), array)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_jpeg_is_decoded_at_full_size(mode: str) -> None:
    smooth = np.add.outer(np.arange(40), np.arange(24)).astype(np.uint8) * 3
    array = smooth[..., None] if mode == "L" else np.stack([smooth, smooth, 255 - smooth], axis=-1)
    picture = read(saved(Image.fromarray(array.squeeze()), "JPEG", quality=100, subsampling=0))
    assert picture.shape == array.shape
    assert np.abs(picture.astype(int) - array).max() <= 3


@pytest.mark.parametrize("kind", ["TIFF", "JPEG"])
def test_cmyk_becomes_rgb(kind: str) -> None:
    # (C, M, Y, K) full ink = 255: paper, black, and the pure inks.
    inks = {(0, 0, 0, 0): (255, 255, 255), (0, 0, 0, 255): (0, 0, 0), (255, 0, 0, 0): (0, 255, 255)}
    for ink, colour in inks.items():
        picture = read(saved(Image.new("CMYK", (8, 8), ink), kind, **({"quality": 100} if kind == "JPEG" else {})))
        assert picture.shape == (8, 8, 3)
        assert np.abs(picture.astype(int) - np.array(colour)).max() <= (2 if kind == "JPEG" else 0)


def _gif(colours: list[tuple[int, int, int]], **options: object) -> bytes:
    """An animation of 6x4 frames, each of one colour but for its top left pixel, which is palette entry 1."""
    frames = []
    for colour in colours:
        frame = Image.new("P", (6, 4), 0)
        frame.putpalette([*colour, 1, 2, 3])
        frame.putpixel((0, 0), 1)
        frames.append(frame)
    return saved(frames[0], "GIF", save_all=True, append_images=frames[1:], **options)


def test_gif_gives_its_first_frame_and_a_transparent_entry_becomes_alpha() -> None:
    np.testing.assert_array_equal(read(saved(Image.fromarray(GREY), "GIF")), GREY[..., None].repeat(3, axis=-1))
    plain = read(_gif([(200, 10, 20), (0, 250, 0)]))
    assert plain.shape == (4, 6, 3)
    assert plain[0, 0].tolist() == [1, 2, 3] and plain[3, 5].tolist() == [200, 10, 20]
    keyed = read(_gif([(200, 10, 20), (0, 250, 0)], transparency=1))
    assert keyed.shape == (4, 6, 4)
    assert keyed[0, 0, 3] == 0 and keyed[3, 5].tolist() == [200, 10, 20, 255]


def test_gif_frame_smaller_than_its_canvas_lies_on_the_canvas() -> None:
    data = bytearray(_gif([(200, 10, 20)]))
    data[6:10] = struct.pack("<HH", 9, 8)  # the logical screen; the frame stays 6x4
    picture = read(bytes(data))
    assert picture.shape[:2] == (8, 9)
    assert picture[3, 5, :3].tolist() == [200, 10, 20]


def test_animated_webp_and_multipage_tiff_give_the_first() -> None:
    first, second = Image.fromarray(RGB), Image.fromarray(255 - RGB)
    for kind, options in (("WEBP", {"lossless": True}), ("TIFF", {})):
        data = saved(first, kind, save_all=True, append_images=[second], **options)
        with Image.open(io.BytesIO(data)) as image:
            assert getattr(image, "n_frames", 1) == 2
        np.testing.assert_array_equal(read(data)[..., :3], RGB)


# --------------------------------------------------------------------------------------------------------- profiles

# fmt: off
# Primaries as seen under D50 (columns: red, green, blue; rows: X, Y, Z): of sRGB, and of Adobe RGB (1998).
SRGB = np.array([
    [0.4360747, 0.3850649, 0.1430804], [0.2225045, 0.7168786, 0.0606169], [0.0139322, 0.0971045, 0.7141733],
])
WIDE = np.array([
    [0.6097559, 0.2052401, 0.1492240], [0.3111242, 0.6256560, 0.0632197], [0.0194811, 0.0608902, 0.7448387],
])
# fmt: on
WHITE = np.array([0.9642, 1.0, 0.8249])


def icc(space: bytes, connection: bytes, kind: bytes, tags: dict[bytes, bytes]) -> bytes:
    """A profile of version 2 with these tags (ICC.1:2001-04, 6.1 and 6.2)."""
    table, body, start = b"", b"", 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        table += name + struct.pack(">II", start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    white = b"".join(fixed(value) for value in WHITE)
    head = struct.pack(">II", start + len(body), 0) + struct.pack(">I", 0x02400000) + kind + space + connection
    head += struct.pack(">6H", 2020, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + white + bytes(48)
    return head + struct.pack(">I", len(tags)) + table + body


def fixed(value: float) -> bytes:
    return struct.pack(">i", round(value * 65536))


def gamma(power: float) -> bytes:
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(power * 256))


def xyz(values: np.ndarray) -> bytes:
    return b"XYZ " + bytes(4) + b"".join(fixed(value) for value in values)


def rgb_profile(primaries: np.ndarray, power: float) -> bytes:
    tags = {name + b"XYZ": xyz(column) for name, column in zip((b"r", b"g", b"b"), primaries.T, strict=True)}
    tags |= {name + b"TRC": gamma(power) for name in (b"r", b"g", b"b")}
    return icc(b"RGB ", b"XYZ ", b"mntr", {**tags, b"wtpt": xyz(WHITE)})


def grey_profile(power: float) -> bytes:
    return icc(b"GRAY", b"XYZ ", b"mntr", {b"kTRC": gamma(power), b"wtpt": xyz(WHITE)})


def inks(cyan: int, magenta: int, yellow: int, black: int) -> tuple[float, float, float]:
    """The colour of inks, each there or not, as a made-up printer prints them: L*, a*, b*, from paper to black."""
    if black:
        return 0, 0, 0
    return 100 - 20 * cyan - 22 * magenta - 6 * yellow, 14 * magenta - 13 * cyan, 20 * yellow - 10 * cyan - 6 * magenta


def cmyk_profile() -> bytes:
    """The table of `inks`, in 16 bits (lut16Type; Lab as version 2 encodes it); cyan changes slowest."""
    corners = [inks(*(k >> 3 & 1, k >> 2 & 1, k >> 1 & 1, k & 1)) for k in range(16)]
    table = [value for lab in corners for value in (lab[0] * 652.8, (lab[1] + 128) * 256, (lab[2] + 128) * 256)]
    straight = struct.pack(">2H", 0, 65535)
    lut = b"mft2" + bytes(4) + bytes([4, 3, 2, 0]) + b"".join(fixed(v) for v in np.eye(3).reshape(-1))
    lut += struct.pack(">2H", 2, 2) + straight * 4 + struct.pack(">48H", *map(round, table)) + straight * 3
    return icc(b"CMYK", b"Lab ", b"prtr", {b"A2B0": lut, b"wtpt": xyz(WHITE)})


def shown(linear_xyz: np.ndarray) -> np.ndarray:
    """(N, 3) of X, Y, Z under D50 as sRGB from 0 to 255 (IEC 61966-2-1), what lies outside clipped."""
    linear = (linear_xyz @ np.linalg.inv(SRGB).T).clip(0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def lab_to_xyz(lab: tuple[float, float, float]) -> np.ndarray:
    y = (lab[0] + 16) / 116
    f = np.array([y + lab[1] / 500, y, y - lab[2] / 200])
    return np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29)) * WHITE


CARRIERS = [("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True, "exact": True})]


@pytest.mark.parametrize(("kind", "options"), CARRIERS)
@pytest.mark.parametrize("alpha", [False, True])
def test_colours_of_a_profile_become_srgb(kind: str, options: dict[str, object], alpha: bool) -> None:
    array = RNG.integers(0, 256, (40, 30, 4 if alpha else 3), dtype=np.uint8)
    data = saved(Image.fromarray(array), kind, icc_profile=rgb_profile(WIDE, 563 / 256), **options)
    with remarks() as said:
        picture = read(data)
    expected = shown((array[..., :3].reshape(-1, 3) / 255) ** (563 / 256) @ WIDE.T)
    off = np.abs(picture[..., :3].reshape(-1, 3) - expected)
    assert off.max() <= 2.5 and off.mean() < 0.5 and said == []
    np.testing.assert_array_equal(picture[..., 3:], array[..., 3:])
    assert np.abs(expected - array[..., :3].reshape(-1, 3)).max() > 50  # without it, it would be quite another picture


def test_a_palette_is_in_its_profiles_colours() -> None:
    palette = RNG.integers(0, 256, (16, 3), dtype=np.uint8)
    samples = RNG.integers(0, 16, (9, 9, 1))
    body = b"made up\0\0" + zlib.compress(rgb_profile(WIDE, 1.0))
    picture = read(png(samples, 4, 3, (b"iCCP", body), (b"PLTE", palette.tobytes())))
    expected = shown(palette[samples[..., 0]].reshape(-1, 3) / 255 @ WIDE.T)
    assert np.abs(picture.reshape(-1, 3) - expected).max() <= 2.5


@pytest.mark.parametrize("power", [1.0, 1.75])
@pytest.mark.parametrize("profile", [grey_profile, lambda power: rgb_profile(SRGB, power)])
@pytest.mark.parametrize("form", ["grey", "grey and alpha", "16 bit"])
def test_greys_of_a_profile_become_those_of_srgb(form: str, profile: Callable[[float], bytes], power: float) -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    both = np.stack([levels, levels.T], axis=-1)
    stored = {"grey": levels, "grey and alpha": both, "16 bit": levels * np.uint16(257)}
    picture = read(saved(Image.fromarray(stored[form]), "PNG", icc_profile=profile(power)))
    expected = shown(((levels.reshape(-1, 1) / 255) ** power) * WHITE)[:, 1]
    assert np.abs(picture[..., 0].reshape(-1) - expected).max() <= 1.5
    assert picture.shape[-1] == (2 if form == "grey and alpha" else 1)
    np.testing.assert_array_equal(picture[..., 1:], both[..., 1 : picture.shape[-1]])


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_pixels_stay_exact_under_the_profile_of_srgb_itself(mode: str) -> None:
    array = {"L": GREY, "RGB": RGB, "RGBA": RGBA}[mode]
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    data = saved(Image.fromarray(array), "PNG", icc_profile=profile)
    assert b"iCCP" in data
    np.testing.assert_array_equal(read(data).squeeze(), array)


@pytest.mark.parametrize("kind", ["TIFF", "JPEG"])
def test_cmyk_is_printed_by_its_profile(kind: str) -> None:
    options = {"quality": 100} if kind == "JPEG" else {}
    for k in range(16):
        there = (k >> 3 & 1, k >> 2 & 1, k >> 1 & 1, k & 1)
        image = Image.new("CMYK", (8, 8), tuple(255 * ink for ink in there))
        picture = read(saved(image, kind, icc_profile=cmyk_profile(), **options))
        expected = shown(lab_to_xyz(inks(*there))[None])[0]
        assert picture.shape == (8, 8, 3) and np.abs(picture - expected).max() <= (4 if kind == "JPEG" else 2)


WRONG = {
    "rubbish": b"this is no profile" * 20,
    "cut short": rgb_profile(WIDE, 2.0)[:300],
    "of grey": grey_profile(1.0),
    "of inks": cmyk_profile(),
    "of a link": icc(b"RGB ", b"RGB ", b"link", {b"wtpt": xyz(WHITE)}),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_profile_that_cannot_be_used_costs_no_more_than_a_remark(wrong: str) -> None:
    data = saved(Image.fromarray(RGBA), "PNG", icc_profile=WRONG[wrong])
    with remarks() as said:
        np.testing.assert_array_equal(read(data), RGBA)
    assert [remark.name for remark in said] == ["x.png"] and "colour profile" in said[0].what
    np.testing.assert_array_equal(read(data), RGBA)  # nobody listens: nobody is told


def test_inks_with_the_profile_of_a_screen_are_converted_without_it() -> None:
    image = Image.fromarray(RNG.integers(0, 256, (6, 6, 4), dtype=np.uint8), "RGBA")
    image = Image.frombytes("CMYK", image.size, image.tobytes())
    with remarks() as said:
        picture = read(saved(image, "TIFF", icc_profile=rgb_profile(WIDE, 2.0)))
    np.testing.assert_array_equal(picture, read(saved(image, "TIFF")))
    assert len(said) == 1


def test_remarks_are_summed_up_by_matter() -> None:
    said = [Remark(f"{k}.png", "that are odd") for k in range(5)] + [Remark("a\n.png", "without a frame")]
    assert summed_up(said) == (
        "5 pictures that are odd: 0.png; 1.png; 2.png; and 2 more",
        "1 picture without a frame: 'a\\n.png'",
    )


# ------------------------------------------------------------------------------------------------------ orientation

# TIFF 6.0, tag 274: which visual side the stored row 0 and the stored column 0 are.
SIDES = {
    1: ("top", "left"),
    2: ("top", "right"),
    3: ("bottom", "right"),
    4: ("bottom", "left"),
    5: ("left", "top"),
    6: ("right", "top"),
    7: ("right", "bottom"),
    8: ("left", "bottom"),
}


def stored_as(upright: np.ndarray, orientation: int) -> np.ndarray:
    """What a camera stores of an ``upright`` picture, pixel by pixel from the table's words."""
    height, width = upright.shape[:2]
    row_side, column_side = SIDES[orientation]
    sideways = row_side in ("left", "right")
    stored = np.empty((width, height, 3) if sideways else (height, width, 3), np.uint8)
    for row in range(stored.shape[0]):
        for column in range(stored.shape[1]):
            place = {row_side: row, column_side: column}
            y = place["top"] if "top" in place else height - 1 - place["bottom"]
            x = place["left"] if "left" in place else width - 1 - place["right"]
            stored[row, column] = upright[y, x]
    return stored


@pytest.mark.parametrize("orientation", SIDES)
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_every_orientation_is_turned_upright(orientation: int, kind: str) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    data = saved(Image.fromarray(stored_as(RGB, orientation)), kind, exif=exif, **options)
    np.testing.assert_array_equal(read(data), RGB)


@pytest.mark.parametrize("orientation", SIDES)
def test_jpeg_orientation(orientation: int) -> None:
    blocks = np.kron(RGB[:2, :3], np.ones((8, 8, 1), np.uint8))  # flat blocks survive JPEG
    exif = Image.Exif()
    exif[274] = orientation
    stored = Image.fromarray(stored_as(blocks, orientation))
    picture = read(saved(stored, "JPEG", exif=exif, quality=100, subsampling=0))
    assert np.abs(picture.astype(int) - blocks).max() <= 4


def test_orientation_stored_after_the_pixels_of_a_png_counts() -> None:
    exif = Image.Exif()
    exif[274] = 6
    body = exif.tobytes().removeprefix(b"Exif\0\0")
    late = struct.pack(">I", len(body)) + b"eXIf" + body + struct.pack(">I", zlib.crc32(b"eXIf" + body))
    np.testing.assert_array_equal(read(png(stored_as(RGB, 6), 8, 2, late=late)), RGB)


@pytest.mark.parametrize("value", [0, 9, 1000])
def test_an_orientation_that_does_not_exist_turns_nothing(value: int) -> None:
    exif = Image.Exif()
    exif[274] = value
    np.testing.assert_array_equal(read(saved(Image.fromarray(RGB), "PNG", exif=exif)), RGB)


def test_a_damaged_exif_block_costs_neither_the_picture_nor_a_warning() -> None:
    exif = Image.Exif()
    exif[270] = "a long description of the picture"
    block = exif.tobytes()
    data = saved(Image.fromarray(RGB), "PNG", exif=block[:-20])
    with Image.open(io.BytesIO(data)) as image, pytest.warns(UserWarning, match="Truncated"):
        image.getexif()
    np.testing.assert_array_equal(read(data), RGB)


# ---------------------------------------------------------------------------------------------------------- refused

NOISE = RNG.integers(0, 256, (48, 40, 3), dtype=np.uint8)
WHOLE = {kind: saved(Image.fromarray(NOISE), kind) for kind in FORMATS}


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("share", [0.01, 0.3, 0.6, 0.9])
def test_truncated(kind: str, share: float) -> None:
    assert read(WHOLE[kind]).shape == (48, 40, 3)
    refused(WHOLE[kind][: max(1, int(len(WHOLE[kind]) * share))])


def test_empty_text_and_foreign_kinds() -> None:
    assert "empty" in refused(b"")
    assert "not a picture" in refused(b"This is a text, renamed.\n" * 20)
    assert "not a picture" in refused(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n")
    assert "not a picture" in refused(RNG.bytes(5000))


@pytest.mark.parametrize("values", [np.zeros((3, 3), np.float32), np.zeros((3, 3), np.int32)])
def test_pixels_of_unknown_range_are_refused(values: np.ndarray) -> None:
    assert "range" in refused(saved(Image.fromarray(values), "TIFF"))


@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP", "WEBP", "JPEG"])
def test_a_bomb_is_refused_where_pillow_only_warns_and_where_it_raises(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = 48 * 40
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pixels)
    assert read(WHOLE[kind]).shape == (48, 40, 3)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pixels - 1)
    assert "40x48 pixels" in refused(WHOLE[kind]) and "1,919" in refused(WHOLE[kind])
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pixels // 2 - 1)
    assert "959" in refused(WHOLE[kind])


def test_a_small_file_that_says_it_is_enormous() -> None:
    head = bytearray(png(np.zeros((1, 1, 1), int), 8, 0))
    head[16:24] = struct.pack(">II", 60_000, 60_000)
    head[29:33] = struct.pack(">I", zlib.crc32(bytes(head[12:29])))
    assert "pixels" in refused(bytes(head))


@pytest.mark.parametrize("kind", FORMATS)
def test_any_damage_gives_a_picture_or_unreadable_and_never_a_warning(kind: str) -> None:
    random = np.random.default_rng(FORMATS.index(kind))
    outcomes = set()
    for _ in range(60):
        data = bytearray(WHOLE[kind])
        for place in random.integers(0, min(len(data), 400), 3).tolist():
            data[place] = int(random.integers(256))
        try:
            read(bytes(data))
        except Unreadable as error:
            outcomes.add(str(error))
    assert outcomes and not any("\n" in message for message in outcomes)


def test_not_enough_memory_is_this_picture_only(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Image.Image) -> None:
        raise MemoryError

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", fail)
    assert "memory" in refused(WHOLE["PNG"])


def test_every_suffix_is_lower_case_and_known_to_pillow() -> None:
    known = Image.registered_extensions()
    assert all(suffix == suffix.lower() and known[suffix] in FORMATS for suffix in SUFFIXES)
    assert {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif"} <= set(SUFFIXES)


def test_warning_filters_are_as_before_after_threads_overlapped() -> None:
    before = list(warnings.filters)
    together = threading.Barrier(8)

    def overlap() -> None:
        for _ in range(50):
            with pillow_quiet():
                together.wait()  # all are inside, then all leave, in any order

    threads = [threading.Thread(target=overlap) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert warnings.filters == before


def test_it_is_quiet_until_the_last_one_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 48 * 40 - 1)
    with pillow_quiet():
        with pillow_quiet():
            pass
        Image.open(io.BytesIO(WHOLE["PNG"])).close()
    with pytest.warns(Image.DecompressionBombWarning):
        Image.open(io.BytesIO(WHOLE["PNG"])).close()


def test_only_pillows_warnings_are_silenced() -> None:
    with pillow_quiet(), pytest.raises(UserWarning, match="mine"):
        warnings.warn("mine", UserWarning, stacklevel=1)
