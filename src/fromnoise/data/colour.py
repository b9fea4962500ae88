"""Colours as sRGB, whatever a file's colour profile (ICC) says its numbers mean.

LittleCMS converts with the perceptual intent (for profiles without tables of their own, matrices and curves, that is
the colorimetric one). Pixels stay exactly as stored where there is no profile, and where the profile is sRGB itself:
where it moves no colour by more than one level, which is the rounding of the conversion.

Grey is converted by a table of 256 levels. In a file of grey pixels an RGB profile is read as that of the colour
(v, v, v), for so greyed photographs are saved. A profile that is damaged, or is of another kind of pixels, is left
out with a remark: the pixels are taken for sRGB. CMYK without a usable profile is converted as Pillow does it.
"""

from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from fromnoise.data.remark import remark

_LEFT_OUT = "with a colour profile that is damaged or of another kind of pixels, taken for sRGB"
_GREY, _RGB, _CMYK = "GRAY", "RGB ", "CMYK"  # the ICC's signatures of colour spaces
_MODES = {_GREY: "L", _RGB: "RGB", _CMYK: "CMYK"}
_ROUNDING = 1  # levels

_Pixels = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class _Profile:
    space: str
    """The ICC's signature of what it describes."""

    to_srgb: ImageCms.ImageCmsTransform | None
    """None if that changes nothing."""

    greys: _Pixels
    """(256,): what becomes of the greys, where it describes greys or RGB."""


def as_srgb(pixels: _Pixels, profile: object, name: str) -> _Pixels:
    """(H, W, C) with C from 1 to 4, converted by ``profile``, the bytes of one or None; alpha is left alone."""
    if not isinstance(profile, bytes) or not profile:
        return pixels
    known = _read(profile)
    grey = pixels.shape[-1] < 3
    if known is None or known.space == _CMYK or (known.space == _GREY and not grey):
        remark(name, _LEFT_OUT)
        return pixels
    if known.to_srgb is None:
        return pixels
    colours = 1 if grey else 3
    converted = known.greys[pixels[..., :1]] if grey else _apply(known.to_srgb, pixels[..., :3])
    return converted if pixels.shape[-1] == colours else np.concatenate([converted, pixels[..., colours:]], axis=-1)


def cmyk_as_srgb(image: Image.Image, name: str) -> _Pixels:
    """A CMYK picture as (H, W, 3), by its profile if it has one that can be used."""
    profile = image.info.get("icc_profile")
    if isinstance(profile, bytes) and profile:
        known = _read(profile)
        if known is not None and known.space == _CMYK and known.to_srgb is not None:
            converted = known.to_srgb.apply(image)
            return np.asarray(converted)
        remark(name, _LEFT_OUT)
    return np.asarray(image.convert("RGB"))


@lru_cache(maxsize=32)  # a folder has few different profiles; reading one takes as long as decoding a small picture
def _read(profile: bytes) -> _Profile | None:
    """None if it is damaged, or describes something else than greys, RGB or CMYK."""
    try:
        opened = ImageCms.core.profile_frombytes(profile)
        source, space = ImageCms.ImageCmsProfile(opened), opened.xcolor_space
        # Without the cache of the last pixel a conversion may be shared by threads. For greys, LittleCMS would
        # interpolate between a few, up to ten levels off in the dark; there are only 256 to be done.
        flags = ImageCms.Flags.NOCACHE | (ImageCms.Flags.NOOPTIMIZE if space == _GREY else 0)
        to_srgb = ImageCms.buildTransform(source, _srgb(), _MODES[space], "RGB", ImageCms.Intent.PERCEPTUAL, flags)
    except (ImageCms.PyCMSError, OSError, KeyError, ImportError):  # the last: a Pillow built without LittleCMS
        return None
    if space == _CMYK:
        return _Profile(space=space, to_srgb=to_srgb, greys=np.empty(0, np.uint8))
    steps = np.arange(0, 256, 15, dtype=np.uint8)
    corners = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(1, -1, 3)
    levels = np.arange(256, dtype=np.uint8)[None, :, None]
    if space == _GREY:
        corners, moved = levels, _apply(to_srgb, levels)
        greys = moved
    else:
        moved, greys = _apply(to_srgb, corners), _apply(to_srgb, levels.repeat(3, axis=-1))
    same = np.abs(moved.astype(np.int16) - corners).max() <= _ROUNDING
    luma = np.asarray(Image.fromarray(greys).convert("L"))[0]
    return _Profile(space=space, to_srgb=None if same else to_srgb, greys=luma)


@cache
def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


def _apply(transform: ImageCms.ImageCmsTransform, pixels: _Pixels) -> _Pixels:
    """(H, W, 1 or 3) to (H, W, 3)."""
    image = Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels))
    return np.asarray(transform.apply(image))
