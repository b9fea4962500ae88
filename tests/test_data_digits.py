"""The embedded pictures: digits against scikit-learn's, emoji against what they show; and a split of them."""

import numpy as np
import pytest
from sklearn import datasets

from fromnoise.data import Digits, Emoji, Source, open_source, stratified_split
from fromnoise.errors import WrongUse


def test_digits_are_scikit_learns_value_by_value() -> None:
    flat, target = datasets.load_digits(return_X_y=True)
    ours, theirs = Digits(), np.asarray(flat).reshape(-1, 8, 8)
    assert len(ours) == len(theirs) == 1797
    pictures = np.stack([ours.read(index) for index in range(len(ours))])
    assert pictures.dtype == np.uint8 and pictures.shape == (1797, 8, 8, 1)
    # 16 levels over 255: the only tie is 8 · 255 / 16 = 127.5, which goes to 128.
    scaled = np.floor(theirs * 255 / 16 + 0.5)
    np.testing.assert_array_equal(pictures[..., 0], scaled)
    assert ours.labels == tuple(np.asarray(target).tolist())
    assert ours.classes == tuple("0123456789")


@pytest.mark.parametrize("source", [Digits(), Emoji()])
def test_a_picture_read_is_a_copy_and_identities_are_their_own(source: Source) -> None:
    identity = source.identity(5)
    source.read(5)[:] = 77
    assert (source.read(5) != 77).any() and source.identity(5) == identity
    assert len({source.identity(k) for k in range(len(source))}) == len(source)
    assert source.fingerprint == type(source)().fingerprint != "" and source.remarks == ()


# How many entries of each category emoji.json of emoji-datasource-google 16.0.0 has.
CATEGORIES = {
    "Smileys & Emotion": 169,
    "People & Body": 386,
    "Component": 5,
    "Animals & Nature": 159,
    "Food & Drink": 131,
    "Travel & Places": 218,
    "Activities": 85,
    "Objects": 264,
    "Symbols": 224,
    "Flags": 270,
}


def test_emoji_have_their_categories_and_names() -> None:
    emoji = open_source("emoji")
    assert isinstance(emoji, Emoji) and len(emoji) == 1911 and set(emoji.classes) == set(CATEGORIES)
    assert emoji.labels is not None and emoji.captions is not None
    counts = np.bincount(emoji.labels).tolist()
    assert dict(zip(emoji.classes, counts, strict=True)) == CATEGORIES
    assert all(caption == caption.lower() and caption.isprintable() for caption in emoji.captions)
    for caption, category in (("pineapple", "Food & Drink"), ("japan flag", "Flags"), ("octopus", "Animals & Nature")):
        index = emoji.captions.index(caption)
        assert emoji.classes[emoji.labels[index]] == category and emoji.name(index) == f"emoji {index} ({caption})"


def test_emoji_show_what_they_are_called() -> None:
    emoji = Emoji()

    def colour(caption: str, row: int = 16, column: int = 16) -> tuple[int, int, int]:
        """Of the opaque pixels in the 5x5 around a place, on average."""
        picture = emoji.read(emoji.captions.index(caption))[row - 2 : row + 3, column - 2 : column + 3].reshape(-1, 4)
        return tuple(picture[picture[:, 3] == 255, :3].mean(axis=0).tolist())

    for caption, (r, g, b) in {
        "large red square": (1, 0, 0),
        "large green square": (0, 1, 0),
        "large blue square": (0, 0, 1),
        "large yellow square": (1, 1, 0),
        "japan flag": (1, 0, 0),
        "grinning face": (1, 1, 0),
    }.items():
        red, green, blue = colour(caption)
        bright, dark = [], []
        for value, wanted in ((red, r), (green, g), (blue, b)):
            (bright if wanted else dark).append(value)
        assert min(bright) > max(dark) + 40, caption
    assert min(colour("japan flag", column=4)) > 200  # white beside the disc: rows and columns are not mixed up
    france = [colour("france flag", column=column) for column in (5, 16, 27)]
    assert france[0][2] > france[0][0] + 60 and min(france[1]) > 200 and france[2][0] > france[2][2] + 60
    up, down = (
        emoji.read(emoji.captions.index(f"{word}-pointing red triangle"))[..., 3].astype(int).sum(axis=1)
        for word in ("up", "down")
    )
    assert up[:16].sum() < up[16:].sum() and down[:16].sum() > down[16:].sum()  # upright


def test_nothing_is_hidden_under_transparent_pixels() -> None:
    emoji = Emoji()
    pictures = np.stack([emoji.read(k) for k in range(0, len(emoji), 7)])
    assert pictures.shape[1:] == (32, 32, 4) and pictures.dtype == np.uint8
    clear = pictures[..., 3] == 0
    assert 0.2 < clear.mean() < 0.45 and (pictures[clear][:, :3] == 0).all()


@pytest.mark.parametrize("held_out", [0.1, 0.25, 0.5, 0.9])
def test_split_holds_the_same_share_of_every_class(held_out: float) -> None:
    labels = np.array(Digits().labels)
    train, held = stratified_split(labels, held_out=held_out)
    assert sorted([*train.tolist(), *held.tolist()]) == list(range(1797))
    assert (np.diff(train) > 0).all() and (np.diff(held) > 0).all()
    for label in range(10):
        assert abs((labels[held] == label).sum() - held_out * (labels == label).sum()) <= 0.5


def test_split_is_the_same_for_a_seed_and_another_for_another() -> None:
    labels = np.array(Digits().labels)
    again = [stratified_split(labels, seed=seed)[1].tolist() for seed in (0, 0, 1)]
    assert again[0] == again[1] != again[2]
    # Neither the first nor the last of a class: writers follow one another in the data.
    assert stratified_split([0] * 12, held_out=0.25, seed=0)[1].tolist() not in ([0, 1, 2], [9, 10, 11])


def test_split_leaves_one_of_each_class_to_train_on() -> None:
    train, held = stratified_split([3, 5, 5, 8, 8, 8], held_out=0.99)
    assert np.array([3, 5, 5, 8, 8, 8])[train].tolist() == [3, 5, 8]
    assert len(held) == 3


@pytest.mark.parametrize("wrong", [0, 1, -0.5, 2.0, float("nan")])
def test_a_share_outside_0_and_1_is_refused(wrong: float) -> None:
    with pytest.raises(WrongUse, match="held_out"):
        stratified_split([0, 0, 1, 1], held_out=wrong)


@pytest.mark.parametrize("labels", [[], [0], [0, 1, 2]])
def test_a_split_that_holds_nothing_out_is_refused(labels: list[int]) -> None:
    with pytest.raises(WrongUse, match="holds none out"):
        stratified_split(labels)
