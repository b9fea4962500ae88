"""Pictures side by side in one file, every pixel where it belongs, and never half a file."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from fromnoise.grid import to_grid, to_image, write_png


def pictures(count: int, channels: int, height: int, width: int) -> Tensor:
    torch.manual_seed(0)
    return torch.randint(0, 255, (count, channels, height, width), dtype=torch.uint8)


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB"), (4, "RGBA")])
def test_every_pixel_is_where_it_belongs(channels: int, mode: str) -> None:
    images = pictures(5, channels, 33, 40)
    picture = to_grid(images, columns=3, gap=2)
    assert picture.mode == mode and picture.size == (3 * 42 + 2, 2 * 35 + 2)
    array = np.asarray(picture).reshape(picture.height, picture.width, channels).copy()
    for k, image in enumerate(images):
        top, left = 2 + k // 3 * 35, 2 + k % 3 * 42
        part = array[top : top + 33, left : left + 40]
        assert np.array_equal(part, image.permute(1, 2, 0).numpy())
        part[:] = 255
    assert (array == 255).all(), "gaps and empty places are white"


def test_small_pictures_are_enlarged_by_a_whole_factor_without_smoothing() -> None:
    images = pictures(4, 1, 8, 8)
    picture = np.asarray(to_grid(images, gap=1))
    assert picture.shape == (4 * 19, 4 * 19)
    assert np.array_equal(picture, picture[::4, ::4].repeat(4, 0).repeat(4, 1))
    assert np.array_equal(picture[4:36:4, 4:36:4], images[0, 0])


@pytest.mark.parametrize(
    ("count", "height", "width", "size"),
    [(64, 32, 32, (8, 8)), (1, 32, 32, (1, 1)), (5, 32, 32, (3, 2)), (8, 32, 64, (2, 4)), (8, 64, 32, (4, 2))],
)
def test_the_whole_is_about_as_wide_as_high(count: int, height: int, width: int, size: tuple[int, int]) -> None:
    picture = to_grid(pictures(count, 1, height, width), gap=0)
    assert picture.size == (size[0] * width, size[1] * height)


def test_channels_that_no_file_has() -> None:
    with pytest.raises(ValueError, match=r"has 1, 3 or 4 channels, not 2; write an \.npz instead"):
        to_image(pictures(1, 2, 8, 8)[0])


def test_a_file_is_whole_or_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "new" / "a.png"
    first = to_image(pictures(1, 3, 8, 8)[0])
    write_png(first, path)
    with Image.open(path) as back:
        assert np.array_equal(np.asarray(back), np.asarray(first))
    before = path.read_bytes()

    def fail(self: Image.Image, file: Path, **_: object) -> None:
        Path(file).write_bytes(b"half")
        raise OSError("full")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OSError, match="full"):
        write_png(first, path)
    assert path.read_bytes() == before and [p.name for p in path.parent.iterdir()] == ["a.png"]
