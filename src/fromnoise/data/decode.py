"""One picture file → one array of bytes, whatever the file's kind.

What comes out for what is in the file (by content; the name's suffix is not looked at):

===============================  ====================================================================================
grey, 8 bit or fewer             C = 1; 1, 2 and 4 bits are stretched to 0 … 255
grey, 16 bit                     C = 1; v → round(v / 257), so that 65535 becomes 255 (12 bit: 4095 does)
RGB                              C = 3
grey and alpha; RGBA             C = 2; C = 4, colours as stored (not premultiplied)
palette                          C = 3; C = 4 if any entry is transparent
one colour declared transparent  C = 2 or 4: alpha 0 where a pixel has exactly that colour (PNG tRNS, GIF)
colour, 16 bit a channel         C = 3 or 4 (grey and alpha: 2): Pillow keeps the high byte, at most one level lower
CMYK, YCbCr, Lab                 C = 3: CMYK by its colour profile, else all by Pillow's conversion
embedded colour profile          applied: the result is sRGB (`colour`); one that is damaged is left out, with a remark
animation, several pages         the first frame, on its full canvas (GIF, WebP, APNG, TIFF, MPO)
EXIF or XMP orientation          applied, all eight: the array is upright
32-bit integers, signed, floats  Unreadable, for it is not known which values are black and white
above the limit for one picture  Unreadable; the limit is PIL.Image.MAX_IMAGE_PIXELS, 89 million
truncated, damaged, not one      Unreadable, also where the first part could be shown
===============================  ====================================================================================

Nothing is resized or composited here, and JPEG is decoded at full size (Pillow's ``draft`` is faster but changes
pixels). Of what says how colours are meant, only profiles count: not PNG's gAMA and cHRM, nor EXIF's colour space.
"""

import os
from collections.abc import Callable
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError

from fromnoise.data.colour import as_srgb, cmyk_as_srgb
from fromnoise.data.quiet import pillow_quiet
from fromnoise.data.source import Unreadable, unreadable

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
"""Pillow's names of what is read. A closed list: some other decoders of Pillow start foreign programs."""

SUFFIXES = (
    *(".png", ".apng", ".gif", ".webp", ".bmp"),
    *(".jpg", ".jpeg", ".jpe", ".jfif"),
    *(".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm"),
)
"""How the names of such files end, in lower case."""

_Pixels = NDArray[np.uint8]

# TIFF 6.0, tag 274: what undoes each orientation, as views of an (H, W, C) array. 1 and unknown values: nothing.
_UPRIGHT: dict[int, Callable[[_Pixels], _Pixels]] = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a.swapaxes(0, 1)[:, ::-1],
    7: lambda a: a.swapaxes(0, 1)[::-1, ::-1],
    8: lambda a: a.swapaxes(0, 1)[::-1],
}

# Modes that are no greys and no RGB: what a profile beside them says is not about what they are converted to.
_OWN_SPACE = ("CMYK", "YCbCr", "LAB", "HSV")

# A PNG of few bits declares its transparent grey in those bits, while its pixels have been stretched to eight.
_STRETCH = {"L;2": 85, "L;4": 17}


def decode(file: BinaryIO, name: str) -> NDArray[np.uint8]:
    """The picture in ``file`` (binary, seekable) by the table above; ``name`` is what messages call it.

    Returns:
        uint8, (H, W, C), contiguous, C from 1 to 4.

    Raises:
        Unreadable: with the reason in one line; `Gone`, if the system lost the file meanwhile.
    """
    try:
        if not file.seek(0, os.SEEK_END):
            raise Unreadable(name, "the file is empty")
        file.seek(0)
        with pillow_quiet(), Image.open(file, formats=FORMATS) as image:
            _refuse_bomb(image, name)
            rawmode = _rawmode(image)
            image.load()
            orientation = _orientation(image)
            profile = image.info.get("icc_profile")
            pixels = cmyk_as_srgb(image, name) if image.mode == "CMYK" else _pixels(image, rawmode, name)
            if image.mode not in _OWN_SPACE:
                pixels = as_srgb(pixels, profile, name)
    except Unreadable:
        raise
    except UnidentifiedImageError:
        raise Unreadable(name, f"not a picture that is known here ({', '.join(FORMATS)}), or damaged") from None
    except Image.DecompressionBombError:
        raise Unreadable(name, f"more than twice the {Image.MAX_IMAGE_PIXELS:,} pixels that one may have") from None
    except MemoryError:
        raise Unreadable(name, "not enough memory to decode it") from None
    except OSError as error:
        raise unreadable(name, error) from error
    except Exception as error:  # a damaged file can raise anything in a decoder: struct.error, KeyError, SyntaxError …
        raise Unreadable(name, f"damaged ({type(error).__name__}: {error})") from error
    turn = _UPRIGHT.get(orientation)
    return np.ascontiguousarray(pixels if turn is None else turn(pixels))


def _refuse_bomb(image: Image.Image, name: str) -> None:
    """Pillow only warns between its limit and twice that; a warning is no answer for a picture among thousands."""
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        raise Unreadable(name, f"{image.width}x{image.height} pixels, above the limit of {limit:,} for one picture")


def _rawmode(image: ImageFile.ImageFile) -> str:
    """How the file itself stores a pixel, which Pillow forgets once the pixels are loaded; "" if it does not say."""
    args = image.tile[0].args if image.tile else None
    first = args[0] if isinstance(args, tuple) and args else args
    return first if isinstance(first, str) else ""


def _orientation(image: Image.Image) -> int:
    """EXIF's orientation, 1 if there is none or the block is damaged. PNG may store it after the pixels: load first."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # any kind of nonsense in the block; the picture itself is whole
        return 1


def _pixels(image: Image.Image, rawmode: str, name: str) -> _Pixels:
    """The loaded picture as (H, W, C), not yet turned."""
    mode, key = image.mode, image.info.get("transparency")
    if mode.startswith("I;16") or (mode == "I" and image.format in ("PPM", "PNG")):
        return _from_16_bit(image, key, 4095 if rawmode == "I;12" else 65535)
    if mode in ("I", "F"):
        raise Unreadable(name, "pixels are signed, 32-bit or floats, of unknown range; save it with 8 or 16 bits")
    if mode in ("P", "PA"):
        return np.asarray(image.convert("RGBA" if image.has_transparency_data else "RGB"))
    if mode in ("1", "L"):
        return _keyed(np.asarray(image.convert("L"))[..., None], key, _STRETCH.get(rawmode, 1))
    if mode == "RGB" and key is not None and rawmode == "RGB;16B":
        return _keyed(np.asarray(image), tuple(value >> 8 for value in key), 1)
    if mode == "RGB":
        return _keyed(np.asarray(image), key, 1)
    if mode in ("La", "RGBa"):  # premultiplied: TIFF may
        image = image.convert({"La": "LA", "RGBa": "RGBA"}[mode])
    elif mode not in ("LA", "RGBA"):  # YCbCr, LAB, RGBX: no alpha
        image = image.convert("RGB")
    pixels = np.asarray(image)
    return pixels[..., [0, 3]] if rawmode == "LA;16B" else pixels  # Pillow has no other mode for it than RGBA


def _from_16_bit(image: Image.Image, key: object, top: int) -> _Pixels:
    """v → round(255 v / top). An odd ``top`` has no ties, so integers do it exactly; 65535 / 255 = 257."""
    values = np.asarray(image).astype(np.uint32)  # native order, whatever the file's
    grey = ((values * 255 + top // 2) // top).astype(np.uint8)[..., None]
    if not isinstance(key, int):
        return grey
    alpha = np.where(values == key, 0, 255).astype(np.uint8)[..., None]  # compared before precision is dropped
    return np.concatenate([grey, alpha], axis=-1)


def _keyed(pixels: _Pixels, key: object, stretch: int) -> _Pixels:
    """``pixels`` with an alpha channel that is 0 where they equal ``key``; unchanged without a key."""
    if not isinstance(key, int | tuple):
        return pixels
    colour = np.atleast_1d(np.asarray(key)) * stretch
    alpha = np.where((pixels == colour).all(axis=-1, keepdims=True), 0, 255).astype(np.uint8)
    return np.concatenate([pixels, alpha], axis=-1)
