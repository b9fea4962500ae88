"""What the network sees of a picture, against the filter written out as a matrix in float64 and exact fractions."""

from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.Image import Resampling

from fromnoise.data import Fit, Source, Unreadable, auto_channels
from fromnoise.data.fit import FILTERS, composite
from fromnoise.data.placement import PLACEMENTS
from fromnoise.errors import WrongUse

RNG = np.random.default_rng(11)
FITS = tuple(PLACEMENTS)


def noise(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def _cubic(x: np.ndarray) -> np.ndarray:
    """Keys, 1981, with a = -1/2."""
    x = np.abs(x)
    return np.where(x < 1, 1.5 * x**3 - 2.5 * x**2 + 1, np.where(x < 2, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2, 0))


KERNELS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "lanczos": lambda x: np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0),
    "bicubic": _cubic,
    "bilinear": lambda x: (1 - np.abs(x)).clip(0),
    "box": lambda x: ((x > -0.5) & (x <= 0.5)).astype(float),
}


def weights(size: int, target: int, start: float, scale: float, kernel: str = "lanczos") -> np.ndarray:
    """(target, size): what each of ``size`` pixels counts where ``scale`` of them, from ``start`` on, become one."""
    width = max(scale, 1.0)  # shrinking widens the kernel: that is the antialiasing
    centres = start + (np.arange(target) + 0.5) * scale
    each = KERNELS[kernel]((np.arange(size) + 0.5 - centres[:, None]) / width)
    return each / each.sum(axis=1, keepdims=True)


def resized(picture: np.ndarray, height: int, width: int, kernel: str = "lanczos") -> np.ndarray:
    """(H, W, C) in float64 to (height, width, C), covering the target, without any rounding."""
    scale = min(picture.shape[0] / height, picture.shape[1] / width)
    rows, columns = (
        weights(size, target, (size - target * scale) / 2, scale, kernel)
        for size, target in zip(picture.shape[:2], (height, width), strict=True)
    )
    return np.einsum("hH,wW,HWc->hwc", rows, columns, picture.astype(np.float64))


def stretched(picture: np.ndarray, height: int, width: int, kernel: str = "lanczos") -> np.ndarray:
    """All of (H, W, C) to (height, width, C), in float64."""
    rows, columns = (
        weights(size, target, 0, size / target, kernel)
        for size, target in zip(picture.shape[:2], (height, width), strict=True)
    )
    return np.einsum("hH,wW,HWc->hwc", rows, columns, picture.astype(np.float64))


SIZES = [
    ((40, 40), (16, 16)),
    ((50, 31), (8, 8)),  # upright: cropped above and below
    ((31, 50), (8, 8)),  # wide: cropped left and right
    ((45, 33), (10, 17)),
    ((9, 14), (20, 20)),  # enlarged
    ((1, 1), (4, 6)),
    ((2, 90), (16, 16)),
]


@pytest.mark.parametrize(
    ("kernel", "size", "target"),
    # A box that ends in the middle of a pixel takes it or leaves it: for 33 / 17 that hangs on the last bit.
    [(kernel, *sizes) for kernel in KERNELS for sizes in SIZES if (kernel, sizes[0]) != ("box", (45, 33))],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_resize_is_the_antialiased_filter_on_the_centred_part(
    kernel: str, size: tuple[int, int], target: tuple[int, int], channels: int
) -> None:
    picture = noise(*size, channels)
    fitted = Fit(height=target[0], width=target[1], channels=channels, filter=kernel)(picture)
    assert fitted.dtype == np.uint8 and fitted.shape == (channels, *target) and fitted.flags.c_contiguous
    expected = np.clip(resized(picture, *target, kernel), 0, 255)
    assert np.abs(fitted.transpose(1, 2, 0) - expected).max() <= 0.501  # rounded, once


@pytest.mark.parametrize(("size", "target"), SIZES)
@pytest.mark.parametrize("kernel", [*KERNELS, "nearest"])
def test_resize_is_what_pillow_makes_of_floats(kernel: str, size: tuple[int, int], target: tuple[int, int]) -> None:
    """Bit for bit; on bytes Pillow rounds twice."""
    picture = noise(*size, 1)
    floats = Image.fromarray(picture[..., 0].astype(np.float32))
    pillow = floats.resize((target[1], target[0]), getattr(Resampling, kernel.upper()))
    fitted = Fit(height=target[0], width=target[1], channels=1, fit="stretch", filter=kernel)(picture)[0]
    np.testing.assert_array_equal(fitted, np.rint(np.asarray(pillow).clip(0, 255)))


@pytest.mark.parametrize(("size", "target"), SIZES)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kernel", KERNELS)
def test_stretch_shows_all_of_the_picture_on_all_of_the_canvas(
    kernel: str, size: tuple[int, int], target: tuple[int, int], channels: int
) -> None:
    picture = noise(*size, channels)
    fitted = Fit(height=target[0], width=target[1], channels=channels, fit="stretch", filter=kernel)(picture)
    expected = np.clip(stretched(picture, *target, kernel), 0, 255)
    assert fitted.shape == (channels, *target) and np.abs(fitted.transpose(1, 2, 0) - expected).max() <= 0.501


# Of each size and target: what the picture measures on the canvas.
SHOWN = [
    ((40, 40), (16, 16), (16, 16)),
    ((50, 31), (8, 8), (8, 5)),  # 31 · 8 / 50 = 4.96
    ((31, 50), (8, 8), (5, 8)),
    ((45, 33), (10, 17), (10, 7)),  # 33 · 10 / 45 = 7.33
    ((9, 14), (20, 20), (13, 20)),  # 9 · 20 / 14 = 12.86
    ((1, 1), (4, 6), (4, 4)),
    ((2, 90), (16, 16), (1, 16)),  # 0.36: a row is the least there is
    ((16, 12), (16, 16), (16, 12)),
    ((16, 13), (16, 16), (16, 13)),
]


@pytest.mark.parametrize(("size", "target", "shown"), SHOWN)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_pad_shows_all_of_the_picture_in_the_middle_of_the_background(
    channels: int, size: tuple[int, int], target: tuple[int, int], shown: tuple[int, int]
) -> None:
    picture, background = noise(*size, min(channels, 3)), (10, 200, 90)
    fit = Fit(height=target[0], width=target[1], channels=channels, background=background, fit="pad")
    fitted = fit(picture)
    top, left = (target[0] - shown[0]) // 2, (target[1] - shown[1]) // 2
    part = (slice(None), slice(top, top + shown[0]), slice(left, left + shown[1]))
    expected = np.clip(stretched(picture, *shown), 0, 255)
    assert np.abs(fitted[part][:3].transpose(1, 2, 0) - expected).max() <= 0.501
    assert (fitted[part][3:] == 255).all()
    around = np.ones((channels, *target), bool)
    around[part] = False
    luma = np.asarray(Image.new("RGB", (1, 1), background).convert("L")).tolist()[0]
    empty = {1: luma, 3: list(background), 4: [0, 0, 0, 0]}[channels]
    assert (fitted[around].reshape(channels, -1) == np.array(empty)[:, None]).all()


@pytest.mark.parametrize("own", [1, 2, 3, 4])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_pixels_are_exact_where_nothing_needs_to_be_resized_whatever_the_fit(own: int, channels: int) -> None:
    picture = noise(12, 12, own)
    crop = Fit(height=12, width=12, channels=channels)(picture)
    for name in FILTERS:
        for fit in FITS:
            fitted = Fit(height=12, width=12, channels=channels, fit=fit, filter=name)(picture)
            np.testing.assert_array_equal(fitted, crop)
    inner = Fit(height=12, width=20, channels=channels, fit="pad")(picture)[:, :, 4:16]
    np.testing.assert_array_equal(inner, crop)
    np.testing.assert_array_equal(Fit(height=7, width=12, channels=channels)(picture), crop[:, 2:9])


def test_padded_four_channels_keep_their_own_alpha() -> None:
    picture = noise(6, 3, 4)
    picture[..., 3] |= 1
    fitted = Fit(height=6, width=6, channels=4, fit="pad")(picture)
    np.testing.assert_array_equal(fitted[:, :, 1:4], picture.transpose(2, 0, 1))
    assert (fitted[:, :, [0, 4, 5]] == 0).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_smooth_pictures_come_out_as_pillow_resizes_them(channels: int) -> None:
    ramp = np.add.outer(np.arange(60) * 2, np.arange(90) * 1.5)[..., None] + np.arange(channels)
    picture = np.rint(ramp).astype(np.uint8)
    image = Image.fromarray(picture.squeeze(-1) if channels == 1 else picture)
    pillow = np.asarray(image.resize((20, 20), Image.Resampling.LANCZOS, (15, 0, 75, 60))).reshape(20, 20, channels)
    fitted = Fit(height=20, width=20, channels=channels)(picture).transpose(1, 2, 0)
    assert np.abs(fitted.astype(int) - pillow).max() <= 1


@pytest.mark.parametrize(("size", "target"), SIZES)
def test_four_channels_are_resized_premultiplied(size: tuple[int, int], target: tuple[int, int]) -> None:
    picture = noise(*size, 4)
    fitted = Fit(height=target[0], width=target[1], channels=4)(picture).transpose(1, 2, 0)
    alpha = picture[..., 3:] / 255
    premultiplied = resized(np.concatenate([picture[..., :3] * alpha, alpha], axis=-1), *target)
    opacity = np.clip(premultiplied[..., 3:], 0, 1)
    shows = opacity[..., 0] > 0.02
    np.testing.assert_allclose(fitted[..., 3:], opacity * 255, atol=0.51)
    np.testing.assert_allclose(
        fitted[shows][:, :3], np.clip(premultiplied[..., :3] / np.maximum(opacity, 1e-9), 0, 255)[shows], atol=0.55
    )
    np.testing.assert_array_equal(fitted[fitted[..., 3] == 0][:, :3], 0)


def test_hidden_colours_make_no_fringe() -> None:
    picture = np.zeros((64, 64, 4), np.uint8)  # transparent black
    picture[20:50, 13:45] = (255, 0, 0, 255)
    fitted = Fit(height=10, width=10, channels=4)(picture)
    seen = fitted[3] > 0
    assert 0 < seen.sum() < 100 and ((fitted[3] > 0) & (fitted[3] < 255)).any()
    assert (fitted[0][seen] == 255).all() and (fitted[1:3] == 0).all()
    # Over white the same picture has pinks and nothing darker than its red.
    over = Fit(height=10, width=10, channels=3)(picture)
    assert (over[0] == 255).all()


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize(("size", "place"), [((6, 6), (0, 0)), ((6, 9), (0, 1)), ((11, 6), (2, 0))])
def test_pixels_are_exact_where_nothing_is_resized(
    channels: int, size: tuple[int, int], place: tuple[int, int]
) -> None:
    picture = noise(*size, channels)
    top, left = place
    expected = picture[top : top + 6, left : left + 6].transpose(2, 0, 1)
    np.testing.assert_array_equal(Fit(height=6, width=6, channels=channels)(picture), expected)


def test_grey_of_colour_is_luma_as_pillow_makes_it() -> None:
    picture = noise(30, 20, 3)
    grey = Fit(height=30, width=20, channels=1)(picture)[0]
    np.testing.assert_array_equal(grey, np.asarray(Image.fromarray(picture).convert("L")))
    red, green, blue = picture.astype(np.float64).transpose(2, 0, 1)
    assert np.abs(grey - (0.299 * red + 0.587 * green + 0.114 * blue)).max() <= 0.51  # ITU-R BT.601


def test_every_pair_of_channels_without_transparency() -> None:
    grey, colour = noise(5, 5, 1), noise(5, 5, 3)
    opaque = np.full((5, 5, 1), 255, np.uint8)
    luma = np.asarray(Image.fromarray(colour).convert("L"))[..., None]
    expected = {
        1: {1: grey, 3: grey.repeat(3, axis=-1), 4: np.concatenate([grey.repeat(3, axis=-1), opaque], axis=-1)},
        3: {1: luma, 3: colour, 4: np.concatenate([colour, opaque], axis=-1)},
    }
    for own, picture in ((1, grey), (3, colour)):
        for stored in (picture, np.concatenate([picture, opaque], axis=-1)):
            for channels in (1, 3, 4):
                fitted = Fit(height=5, width=5, channels=channels)(stored)
                np.testing.assert_array_equal(fitted, expected[own][channels].transpose(2, 0, 1))


def test_grey_with_alpha_keeps_its_alpha_in_four_channels() -> None:
    picture = noise(5, 5, 2)
    np.testing.assert_array_equal(
        Fit(height=5, width=5, channels=4)(picture), picture[..., [0, 0, 0, 1]].transpose(2, 0, 1)
    )


def test_compositing_is_rounded_exactly_for_every_colour_and_alpha() -> None:
    colour, alpha = np.meshgrid(np.arange(256), np.arange(256), indexing="ij")
    picture = np.stack([colour, colour[::-1], colour, alpha], axis=-1).astype(np.uint8)
    for under in ((255, 255, 255), (0, 17, 200)):
        mixed = composite(picture, under)
        for channel in range(3):
            over = picture[..., channel].astype(int)
            twice = 2 * (alpha * over + (255 - alpha) * under[channel])  # floor(2q/2 + 1/2) in whole numbers
            np.testing.assert_array_equal(mixed[..., channel], (twice + 255) // 510)
    c, a, b = 200, 77, 17
    exact = Fraction(a * c + (255 - a) * b, 255)
    one = composite(np.array([[[c, c, c, a]]], np.uint8), (b, b, b))
    assert one[0, 0].tolist() == [int(exact + Fraction(1, 2))] * 3


@pytest.mark.parametrize("own", [2, 4])
@pytest.mark.parametrize("background", [(255, 255, 255), (10, 200, 90)])
def test_transparency_shows_the_background(own: int, background: tuple[int, int, int]) -> None:
    picture = noise(12, 12, own)
    picture[:6, :, -1] = 0
    image = Image.fromarray(picture).convert("RGBA")
    flat = Image.alpha_composite(Image.new("RGBA", image.size, (*background, 255)), image).convert("RGB")
    colour = Fit(height=12, width=12, channels=3, background=background)(picture).transpose(1, 2, 0)
    assert np.abs(colour.astype(int) - np.asarray(flat)).max() <= 1
    assert (colour[:6] == background).all()
    grey = Fit(height=12, width=12, channels=1, background=background)(picture)[0]
    np.testing.assert_array_equal(grey, np.asarray(Image.fromarray(colour).convert("L")))


def test_compositing_first_equals_resizing_premultiplied_and_compositing_after() -> None:
    picture, background = noise(40, 30, 4), np.array([30, 60, 250])
    alpha = picture[..., 3:] / 255
    parts = resized(np.concatenate([picture[..., :3] * alpha, alpha], axis=-1), 12, 9)
    expected = np.clip(parts[..., :3] + (1 - parts[..., 3:]) * background, 0, 255)
    fitted = Fit(height=12, width=9, channels=3, background=(30, 60, 250))(picture)
    assert np.abs(fitted.transpose(1, 2, 0) - expected).max() <= 1.2  # rounded when composited, and once more


@settings(max_examples=120, deadline=None, derandomize=True)
@given(
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    target=st.tuples(st.integers(1, 24), st.integers(1, 24)),
    own=st.integers(1, 4),
    channels=st.sampled_from([1, 3, 4]),
    value=st.integers(0, 255),
)
def test_a_flat_picture_stays_flat(
    size: tuple[int, int], target: tuple[int, int], own: int, channels: int, value: int
) -> None:
    picture = np.full((*size, own), value, np.uint8)
    if own in (2, 4):
        picture[..., -1] = 255
    fitted = Fit(height=target[0], width=target[1], channels=channels)(picture)
    assert fitted.shape == (channels, *target)
    assert (fitted[:3] == value).all() and (fitted[3:] == 255).all()


def test_nothing_is_squashed_and_the_crop_is_centred() -> None:
    rows, columns = np.mgrid[:60, :120]
    blob = 255 * np.exp(-((rows - 29.5) ** 2 + (columns - 59.5) ** 2) / (2 * 10**2))  # round, in the very middle
    fitted = Fit(height=30, width=30, channels=1)(np.rint(blob).astype(np.uint8)[..., None])[0].astype(int)
    assert np.abs(fitted - fitted.T).max() <= 1 and np.abs(fitted - fitted[::-1, ::-1]).max() <= 1
    rows, columns = np.mgrid[:30, :30]
    half = 255 * np.exp(-((rows - 14.5) ** 2 + (columns - 14.5) ** 2) / (2 * 5**2))  # the same at half the size
    assert np.abs(fitted - half).max() <= 3


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"height": 0}, "0x8"),
        ({"width": -3}, "8x-3"),
        ({"channels": 2}, "1 (grey), 3 (RGB), 4 (RGBA)"),
        ({"background": (0, 0, 256)}, "[0, 0, 256]"),
        ({"background": (1, 2)}, "from 0 to 255"),
        ({"fit": "croped"}, "fit = 'croped'; did you mean 'crop'?"),
        ({"fit": "zzz"}, "known: crop, pad, stretch"),
        ({"filter": "Lanczos3"}, "did you mean 'lanczos'?"),
    ],
)
def test_wrong_settings_are_told(wrong: dict, told: str) -> None:
    with pytest.raises(WrongUse) as caught:
        Fit(**{"height": 8, "width": 8, "channels": 3, **wrong})
    assert told in str(caught.value) and "\n" not in str(caught.value)


class Pictures(Source):
    """Arrays as they are; None is a damaged one."""

    def __init__(self, *pictures: np.ndarray | None) -> None:
        self.pictures = pictures
        self.labels, self.classes = None, ()

    def __len__(self) -> int:
        return len(self.pictures)

    def name(self, index: int) -> str:
        return f"picture {index}"

    def identity(self, index: int) -> str:
        return self.name(index)

    def read(self, index: int) -> np.ndarray:
        picture = self.pictures[index]
        if picture is None:
            raise Unreadable(self.name(index), "damaged")
        return picture


def test_channels_by_looking() -> None:
    grey, colour = noise(4, 4, 1), noise(4, 4, 3)
    same = grey.repeat(3, axis=-1)
    hidden = np.concatenate([colour, np.zeros((4, 4, 1), np.uint8)], axis=-1)
    tinted = same.copy()
    tinted[2, 1, 2] ^= 1
    assert auto_channels(Pictures(grey, noise(4, 4, 2), same)) == 1
    assert auto_channels(Pictures(hidden)) == 1
    assert auto_channels(Pictures(grey, tinted)) == 3
    assert auto_channels(Pictures(noise(4, 4, 4))) == 3
    assert auto_channels(Pictures(None, grey, None)) == 1
    assert auto_channels(Pictures(None)) == 3
    # Spread over the whole source, both ends among what is looked at.
    assert auto_channels(Pictures(*[grey] * 999, colour), look=5) == 3
    assert auto_channels(Pictures(colour, *[grey] * 999), look=5) == 3
