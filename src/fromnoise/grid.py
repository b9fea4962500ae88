"""Pictures laid out in one picture, and written so that a file is whole or absent."""

import math
import os
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from fromnoise.types import Images

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def to_image(image: Tensor) -> Image.Image:
    """uint8 (C, H, W) with 1, 3 or 4 channels -> a Pillow picture. Raises ``ValueError`` for other channels."""
    channels = image.shape[0]
    if channels not in _MODES:
        raise ValueError(f"a picture file has 1, 3 or 4 channels, not {channels}; write an .npz instead")
    array = image.permute(1, 2, 0).contiguous().cpu().numpy()
    return Image.fromarray(array[:, :, 0] if channels == 1 else array, _MODES[channels])


def to_grid(images: Images, *, columns: int | None = None, gap: int = 2, smallest: int = 32) -> Image.Image:
    """uint8 (B, C, H, W) -> one picture, row by row, with white gaps.

    About as wide as high unless ``columns`` is given. Pictures whose short side is below ``smallest`` pixels are
    enlarged by a whole factor without smoothing, so that digits of 8 pixels can be seen.
    """
    count, channels, height, width = images.shape
    columns = columns or max(1, math.ceil(math.sqrt(count * height / width)))
    rows = math.ceil(count / columns)
    factor = max(1, math.ceil(smallest / min(height, width)))
    canvas = torch.full((channels, rows * (height + gap) + gap, columns * (width + gap) + gap), 255, dtype=torch.uint8)
    for k, image in enumerate(images.cpu()):
        top, left = gap + (k // columns) * (height + gap), gap + (k % columns) * (width + gap)
        canvas[:, top : top + height, left : left + width] = image
    picture = to_image(canvas)
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)


def write_png(picture: Image.Image, path: Path) -> None:
    """Write aside, then rename. Missing folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        picture.save(aside, format="PNG")
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
