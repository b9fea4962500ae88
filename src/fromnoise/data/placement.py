"""Which part of a picture is shown on the canvas, and where: how a picture of one shape fits into another.

With scale k = height / H and l = width / W of a target (height, width) and a picture (H, W):

- crop: the largest centred part with the target's proportions fills the canvas (scale max(k, l)). The short side fits,
  the long side is cut off; nothing is squashed, nothing is left empty.
- pad: the whole picture, as large as the canvas allows (scale min(k, l)), in its middle. Nothing is lost or
  squashed (but for rounding to whole pixels); the rest of the canvas is background.
- stretch: the whole picture fills the whole canvas; proportions are lost where they differ.

What is left over by an odd pixel goes to the bottom and to the right.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

Size = tuple[int, int]
"""Height, width."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Placement:
    """The part of the picture, in its pixels and fractions of them, and the pixels of the canvas that it fills."""

    box: tuple[float, float, float, float]
    """Left, top, right, bottom of the part, as Pillow counts: (0, 0, W, H) is the whole."""

    top: int
    left: int
    height: int
    width: int

    @property
    def is_cut(self) -> bool:
        """Whether the part lies on whole pixels, as many as it fills: then nothing needs to be resized."""
        left, top, right, bottom = self.box
        whole = float(left).is_integer() and float(top).is_integer()
        return whole and (bottom - top, right - left) == (self.height, self.width)


def crop(own: Size, target: Size) -> Placement:
    """The largest centred part with the target's proportions, on all of it."""
    scale = max(target[0] / own[0], target[1] / own[1])
    if scale == 1:  # cut on whole pixels: exact
        top, left = (own[0] - target[0]) // 2, (own[1] - target[1]) // 2
        box = (left, top, left + target[1], top + target[0])
    else:  # fractions of a pixel are the filter's to weigh
        height, width = min(own[0], target[0] / scale), min(own[1], target[1] / scale)
        top, left = (own[0] - height) / 2, (own[1] - width) / 2
        box = (left, top, left + width, top + height)
    return Placement(box=box, top=0, left=0, height=target[0], width=target[1])


def pad(own: Size, target: Size) -> Placement:
    """The whole picture in the middle of the target, proportions kept."""
    scale = min(target[0] / own[0], target[1] / own[1])
    height, width = (max(1, min(t, round(o * scale))) for o, t in zip(own, target, strict=True))
    top, left = (target[0] - height) // 2, (target[1] - width) // 2
    return Placement(box=(0, 0, own[1], own[0]), top=top, left=left, height=height, width=width)


def stretch(own: Size, target: Size) -> Placement:
    """The whole picture on all of the target."""
    return Placement(box=(0, 0, own[1], own[0]), top=0, left=0, height=target[0], width=target[1])


PLACEMENTS: Mapping[str, Callable[[Size, Size], Placement]] = {"crop": crop, "pad": pad, "stretch": stretch}
"""What `Fit.fit` may name."""
