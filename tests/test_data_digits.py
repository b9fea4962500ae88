"""The embedded digits against scikit-learn's, and the split that holds some of them out."""

import numpy as np
import pytest
from sklearn import datasets

from fromnoise.data import Digits, stratified_split
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


def test_a_digit_read_is_a_copy() -> None:
    digits = Digits()
    digits.read(5)[:] = 77
    assert (digits.read(5) != 77).any()


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
