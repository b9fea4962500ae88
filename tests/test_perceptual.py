"""The hash against SciPy's cosine transform, the search against comparing every pair, and what copies survive."""

import io
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy.fft import dctn

from fromnoise.data import perceptual
from fromnoise.data.perceptual import RADIUS, TOLERANCE, near_copies, perceive

RNG = np.random.default_rng(5)


def smooth(seed: int, side: int = 96) -> NDArray[np.uint8]:
    """A picture with detail of all sizes down to an eighth, (3, H, W)."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
    return np.asarray(small.resize((side, side), Image.Resampling.BICUBIC)).transpose(2, 0, 1)


def again(picture: NDArray[np.uint8], change: Callable[[Image.Image], Image.Image]) -> NDArray[np.uint8]:
    changed = change(Image.fromarray(np.ascontiguousarray(picture.transpose(1, 2, 0))))
    return np.asarray(changed).transpose(2, 0, 1)


def jpeg(quality: int) -> Callable[[Image.Image], Image.Image]:
    def change(image: Image.Image) -> Image.Image:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality)
        return Image.open(io.BytesIO(file.getvalue()))

    return change


def resized(side: int) -> Callable[[Image.Image], Image.Image]:
    return lambda image: image.resize((side, side), Image.Resampling.LANCZOS)


def bits(first: np.uint64, second: np.uint64) -> int:
    return (int(first) ^ int(second)).bit_count()


def followed(hashes: NDArray[np.uint64], thumbs: NDArray[np.uint8], radius: int = RADIUS) -> list[int]:
    return np.concatenate(list(near_copies(hashes, thumbs, radius=radius))).tolist()


def every_pair(hashes: NDArray[np.uint64], thumbs: NDArray[np.uint8], radius: int = RADIUS) -> list[int]:
    """What `near_copies` promises, the slow way: the first leader that is near, else the picture leads."""
    leaders: list[int] = []
    answer = []
    for j in range(len(hashes)):
        for i in leaders:
            first, second = thumbs[i].astype(float), thumbs[j].astype(float)
            distance = np.sqrt(np.mean((first - second) ** 2))
            if bits(hashes[i], hashes[j]) <= radius and distance <= min(TOLERANCE, first.std() / 4):
                answer.append(i)
                break
        else:
            leaders.append(j)
            answer.append(j)
    return answer


# ------------------------------------------------------------------------------------------------------------- hash


@pytest.mark.parametrize("channels", [1, 3])
def test_the_hash_is_the_sign_of_low_frequencies_about_their_median(channels: int) -> None:
    for seed in range(20):
        picture = smooth(seed)[:channels]
        planes = picture[0] if channels == 1 else np.ascontiguousarray(picture.transpose(1, 2, 0))
        small = np.asarray(Image.fromarray(planes).resize((32, 32), Image.Resampling.BILINEAR), dtype=float)
        luma = small if channels == 1 else small @ [0.299, 0.587, 0.114]
        low = np.asarray(dctn(luma, type=2, norm="ortho"))[1:9, 1:9]
        expected = low > max(np.median(low), 0.1 * luma.std())
        assert (
            np.unpackbits(np.array([perceive(picture).hash]).view(np.uint8)).tolist() == expected.reshape(-1).tolist()
        )


def test_the_thumbnail_is_the_picture_in_little() -> None:
    whole = RNG.integers(0, 256, (3, 16, 16), dtype=np.uint8).repeat(2, axis=1).repeat(2, axis=2)  # 32x32: not resized
    np.testing.assert_array_equal(perceive(whole).thumb.reshape(3, 16, 16), whole[:, ::2, ::2])


def test_symmetric_pictures_are_not_hashed_by_their_rounding() -> None:
    def plain(picture: NDArray[np.uint8]) -> NDArray[np.bool_]:
        image = Image.fromarray(np.ascontiguousarray(picture.transpose(1, 2, 0))).resize((32, 32), 2)
        low = np.asarray(dctn(np.asarray(image) @ [0.299, 0.587, 0.114], norm="ortho"))[1:9, 1:9]
        return low > np.median(low)

    worst_plain = worst = 0
    for seed in range(40):
        half = smooth(seed, 64)[:, :, :32]
        picture = np.concatenate([half, half[:, :, ::-1]], axis=2)
        copy = again(picture, jpeg(80))
        worst_plain = max(worst_plain, int((plain(picture) != plain(copy)).sum()))
        worst = max(worst, bits(perceive(picture).hash, perceive(copy).hash))
    assert worst_plain > RADIUS  # the median alone would lose copies
    assert worst <= 3


@pytest.mark.parametrize("change", [jpeg(60), jpeg(90), resized(48), resized(200), resized(70)])
def test_copies_of_other_quality_and_size_are_near_and_other_pictures_are_not(
    change: Callable[[Image.Image], Image.Image],
) -> None:
    originals = [smooth(seed) for seed in range(40)]
    looks = [perceive(picture) for picture in originals + [again(picture, change) for picture in originals]]
    hashes, thumbs = np.array([look.hash for look in looks]), np.stack([look.thumb for look in looks])
    assert followed(hashes, thumbs) == 2 * list(range(40))


def test_one_drawing_in_two_colours_is_no_copy_although_the_hash_is_the_same() -> None:
    mask = np.asarray(smooth(3)[0] > 128)
    red, green = (np.where(mask, np.array(c, dtype=np.uint8)[:, None, None], 255) for c in ((150, 0, 0), (0, 76, 0)))
    first, second = perceive(red.astype(np.uint8)), perceive(green.astype(np.uint8))
    assert bits(first.hash, second.hash) <= RADIUS
    assert followed(np.array([first.hash, second.hash]), np.stack([first.thumb, second.thumb])) == [0, 1]


def test_alpha_counts_where_colours_are_equal() -> None:
    colour = np.full((3, 64, 64), 90, dtype=np.uint8)
    pictures = [np.concatenate([colour, smooth(seed, 64)[:1]]) for seed in (1, 2, 1)]
    looks = [perceive(picture) for picture in pictures]
    assert followed(np.array([look.hash for look in looks]), np.stack([look.thumb for look in looks])) == [0, 1, 0]


def test_dim_pictures_are_not_alike_for_being_dim_and_flat_ones_only_if_equal() -> None:
    dim = [(120 + (smooth(seed) - 128.0) / 64).astype(np.uint8) for seed in (1, 2)]  # ±2 levels
    flat = [np.full((3, 64, 64), value, dtype=np.uint8) for value in (120, 121, 120)]
    looks = [perceive(picture) for picture in dim + flat]
    assert {int(look.hash) for look in looks[2:]} == {0}
    assert followed(np.array([look.hash for look in looks]), np.stack([look.thumb for look in looks])) == [
        0,
        1,
        2,
        3,
        2,
    ]


# ----------------------------------------------------------------------------------------------------------- search


@pytest.mark.parametrize("radius", [0, 1, 3, 4, 6, 7])
def test_the_search_answers_as_comparing_every_pair_does(radius: int) -> None:
    rng = np.random.default_rng(radius)
    centres = rng.integers(0, 2**64, 40, dtype=np.uint64)
    hashes, thumbs = [], []
    bases = rng.integers(0, 256, (40, 32))
    for _ in range(500):  # several blocks; crowded, at all distances, with looks on both sides of the limit
        k, word = int(rng.integers(40)), 0
        for bit in rng.choice(64, int(rng.integers(0, 7)), replace=False):
            word |= 1 << int(bit)
        hashes.append(int(centres[k]) ^ word)
        thumbs.append((bases[k] + rng.normal(0, rng.choice([1, 4.2, 9]), 32)).clip(0, 255))
    words, looks = np.array(hashes, dtype=np.uint64), np.array(thumbs).astype(np.uint8)
    answer = followed(words, looks, radius)
    assert answer == every_pair(words, looks, radius)
    assert 20 < len(set(answer)) < 500  # the case is one: there are copies, and leaders that are not the centres


def test_no_pair_within_the_radius_is_missed_or_found_twice() -> None:
    words = RNG.integers(0, 2**64, 400, dtype=np.uint64)
    for k in range(200):  # exactly seven bits, two in each part and one in the last: the worst case
        word = int(words[k])
        for number, part in enumerate(RNG.permutation(4)):
            for bit in RNG.choice(16, 1 if number == 3 else 2, replace=False):
                word ^= 1 << (16 * int(part) + int(bit))
        words[200 + k] = word
    words[150:200] = words[100:150] ^ np.uint64(0b1011 << 20)  # and pairs that are near in every part
    found = [
        (int(i), int(j))
        for first, second in perceptual._candidates(words, 0, 7)
        for i, j in zip(first, second, strict=True)
    ]
    near = np.bitwise_count(words[:, None] ^ words[None]) <= 7
    expected = {(i, j) for i, j in zip(*np.nonzero(np.triu(near, 1)), strict=True)}
    assert len(found) == len(set(found)) and set(found) == expected and len(expected) >= 200


def test_thousands_of_equal_pictures_take_no_square_of_memory() -> None:
    count = 2500  # 3 million pairs
    hashes = np.zeros(count, dtype=np.uint64)
    thumbs = np.broadcast_to(RNG.integers(0, 256, 64, dtype=np.uint8), (count, 64))
    tracemalloc.start()
    try:
        answer = followed(hashes, thumbs)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert answer == [0] * count
    assert peak < 30 * 2**20  # the indices of all pairs alone would be 50 MB


def test_a_drift_is_not_one_group() -> None:
    base = RNG.integers(60, 100, 64)
    thumbs = np.array([base + step for step in range(0, 40, 4)], dtype=np.uint8)  # neighbours 4 levels apart
    hashes = np.zeros(10, dtype=np.uint64)
    assert base.std() / 4 < TOLERANCE  # so the limit is below 4: nobody is near
    assert followed(hashes, thumbs) == list(range(10))
    wide = np.array([np.tile([0, 200], 32) + step for step in range(0, 40, 4)], dtype=np.uint8)
    assert followed(hashes, wide) == [0, 0, 2, 2, 4, 4, 6, 6, 8, 8]  # 4 is near, 8 is not


def test_nothing_to_compare() -> None:
    assert list(near_copies(np.empty(0, dtype=np.uint64), np.empty((0, 768), dtype=np.uint8))) == []


def test_a_radius_that_the_search_is_not_made_for_is_refused() -> None:
    with pytest.raises(ValueError, match="0 to 7"):
        next(near_copies(np.zeros(1, dtype=np.uint64), np.zeros((1, 16), dtype=np.uint8), radius=8))
