"""What the network sees of a picture: so many channels, so high, so wide.

1. Channels. Alpha is composited over a background, out = (a · colour + (255 − a) · background) / 255, unless four
   channels are asked for; a missing alpha is opaque. Colour becomes grey by ITU-R BT.601 luma as Pillow rounds it.
2. Size. A part of the picture, or all of it, is resized to the target or a part of that: `placement` says which
   (crop, pad or stretch). The filter is widened when shrinking (antialiased); pixels outside a cropped part still count
   towards those at its edge. Where the part has its size already, nothing is resized, and the pixels are exact.
3. Canvas. What a padded picture leaves empty is the background, or transparent black with four channels.

Resizing is done in float32 and rounded once. On bytes, Pillow rounds and clips between its two passes, whose order it
chooses: where a picture is enlarged that is off by many levels at edges, and not the same in every version.

Compositing before resizing equals resizing premultiplied colours and alpha and compositing after (both are linear),
and it is simpler. With four channels there is no background: colours are weighted by their alpha while resizing, so
that what lies hidden under transparent pixels (often black) makes no fringe.
Values are taken as they are stored, without undoing the display's gamma, as training on pictures does everywhere.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fromnoise.data.placement import PLACEMENTS, Placement
from fromnoise.errors import WrongUse, nearest

FILTERS: Mapping[str, Image.Resampling] = {
    "lanczos": Image.Resampling.LANCZOS,
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "box": Image.Resampling.BOX,
    "nearest": Image.Resampling.NEAREST,
}
"""What `Fit.filter` may name: three lobes, a = -1/2, the triangle, the mean; nearest picks a pixel, with aliasing."""


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A call makes of an (H, W, C) picture, uint8 with C from 1 to 4, a (channels, height, width) one.

    Raises:
        WrongUse: on construction, for sizes below 1, channels other than 1, 3 or 4, a background outside 0 … 255, and
            unknown names.
    """

    height: int
    """Rows the network sees, at least 1."""

    width: int
    """Columns the network sees, at least 1."""

    channels: int
    """1 (grey), 3 (RGB) or 4 (RGBA)."""

    background: tuple[int, int, int] = (255, 255, 255)
    """What shows through transparent pixels and beside a padded picture, RGB from 0 to 255; unused with four channels,
    where the canvas is transparent."""

    fit: str = "crop"
    """What happens to other proportions than the target's: "crop", "pad" or "stretch"."""

    filter: str = "lanczos"
    """How pixels are weighed in resizing: "lanczos", "bicubic", "bilinear", "box" or "nearest"."""

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise WrongUse(f"pictures of {self.height}x{self.width} pixels: height and width are at least 1")
        if self.channels not in (1, 3, 4):
            raise WrongUse(f"channels = {self.channels}; known: 1 (grey), 3 (RGB), 4 (RGBA)")
        if len(self.background) != 3 or not all(0 <= value <= 255 for value in self.background):
            raise WrongUse(f"background = {list(self.background)}; it is red, green and blue, each from 0 to 255")
        for field, known in (("fit", PLACEMENTS), ("filter", FILTERS)):
            name = getattr(self, field)
            if name not in known:
                raise WrongUse(f"{field} = {name!r}; {nearest(str(name), known)}")

    def __call__(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        planes = self._convert(picture).transpose(2, 0, 1)
        place = PLACEMENTS[self.fit]((planes.shape[1], planes.shape[2]), (self.height, self.width))
        planes = self._resize(planes, place)
        if len(planes) < self.channels:  # grey is resized once, not three times; an opaque alpha not at all
            planes = _widen(planes, self.channels)
        return np.ascontiguousarray(self._on_canvas(planes, place))

    def _convert(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The channels asked for, or fewer where the missing ones are copies or opaque."""
        translucent = picture.shape[-1] in (2, 4) and bool((picture[..., -1] < 255).any())
        if self.channels == 4 and translucent:
            return picture if picture.shape[-1] == 4 else picture[..., [0, 0, 0, 1]]
        if translucent:
            picture = composite(picture, self.background)
        elif picture.shape[-1] in (2, 4):
            picture = picture[..., :-1]
        if self.channels == 1 and picture.shape[-1] == 3:
            picture = _luma(picture)
        return picture

    def _resize(self, planes: NDArray[np.uint8], place: Placement) -> NDArray[np.uint8]:
        """(C, H, W) to what is shown, (C, place.height, place.width), four planes as RGBA."""
        if place.is_cut:
            left, top, right, bottom = map(int, place.box)
            return planes[:, top:bottom, left:right]
        weight = planes[3] / np.float32(255) if len(planes) == 4 else None
        resized = []
        for index, plane in enumerate(planes):  # one after the other: a large photo in float32 would take a gigabyte
            values = plane.astype(np.float32)
            if weight is not None and index < 3:
                values *= weight
            image = Image.fromarray(values).resize((place.width, place.height), FILTERS[self.filter], place.box)
            resized.append(np.asarray(image))
        values = np.stack(resized)
        if weight is not None:
            _unmultiply(values)
        return np.rint(values.clip(0, 255)).astype(np.uint8)

    def _on_canvas(self, planes: NDArray[np.uint8], place: Placement) -> NDArray[np.uint8]:
        """(channels, place.height, place.width) to (channels, height, width)."""
        if planes.shape[1:] == (self.height, self.width):
            return planes
        empty = (0, 0, 0, 0) if self.channels == 4 else self.background
        if self.channels == 1:
            empty = (_luma(np.array(self.background, np.uint8).reshape(1, 1, 3)).item(),)
        canvas = np.empty((self.channels, self.height, self.width), np.uint8)
        canvas[:] = np.array(empty, np.uint8)[:, None, None]
        canvas[:, place.top : place.top + place.height, place.left : place.left + place.width] = planes
        return canvas


def composite(picture: NDArray[np.uint8], background: tuple[int, int, int]) -> NDArray[np.uint8]:
    """A picture with alpha, (H, W, 2 or 4), over a uniform RGB ``background``: (H, W, 1 or 3), rounded exactly.

    Grey over a grey background stays grey, (H, W, 1); any other result is RGB.
    """
    alpha = picture[..., -1:].astype(np.uint16)
    under = np.array(background, dtype=np.uint16)
    if picture.shape[-1] == 2 and len(set(background)) == 1:
        under = under[:1]
    # At most 255 · 255 + 127 < 2^16; 255 is odd, so adding its half and flooring rounds without ties.
    mixed = alpha * picture[..., :-1] + (255 - alpha) * under + 127
    return (mixed // 255).astype(np.uint8)


def _luma(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(H, W, 3) to (H, W, 1)."""
    return np.asarray(Image.fromarray(np.ascontiguousarray(picture)).convert("L"))[..., None]


def _widen(planes: NDArray[np.uint8], channels: int) -> NDArray[np.uint8]:
    """Grey or RGB, (1 or 3, H, W), to RGB or RGBA: copies of the grey, an opaque alpha."""
    colour = np.repeat(planes, 3, axis=0) if len(planes) == 1 else planes
    return colour if channels == 3 else np.concatenate([colour, np.full_like(planes[:1], 255)])


def _unmultiply(values: NDArray[np.float32]) -> None:
    """Premultiplied RGBA planes, (4, H, W), to plain ones, in place; where nothing shows, colour is 0."""
    alpha = values[3].clip(0, 255)  # the filter overshoots
    shows = alpha >= 0.5  # what rounds to alpha 0 has no colour: dividing by it would only amplify noise
    values[:3] *= np.where(shows, 255 / np.where(shows, alpha, 1), 0)
