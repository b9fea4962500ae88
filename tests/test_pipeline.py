"""From seeds to pictures: one seed a picture, whatever the batch; labels that fit; packed or not, the same bits."""

import copy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests import tiny

from fromnoise.errors import WrongUse
from fromnoise.ladder import Strided
from fromnoise.network import winograd
from fromnoise.pipeline import Pipeline
from fromnoise.run import open_run

LABELS = [1, 2, 3, 4, 5, 6, 7, 8]


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    run = tiny.trained(tmp_path_factory.mktemp("trained") / "run", {"network": {"dropout": 0.5}}, steps=20)
    return open_run(run).pipeline


def last(steps: Iterator[object]) -> torch.Tensor:
    *_, step = steps
    return step.x  # pyright: ignore[reportAttributeAccessIssue]


def test_picture_k_does_not_depend_on_the_batch(pipeline: Pipeline) -> None:
    """Up to rounding: matrix products and convolutions of another size may add up in another order."""
    pipeline = replace(pipeline, spacing=Strided(steps=12))
    ready = pipeline.ready()

    def batch(start: int, size: int) -> torch.Tensor:
        stop = min(start + size, 8)
        return last(ready.stream(range(start, stop), LABELS[start:stop]))

    whole = batch(0, 8)
    for size in (1, 3):
        parts = torch.cat([batch(k, size) for k in range(0, 8, size)])
        torch.testing.assert_close(parts, whole, atol=1e-5, rtol=0)
    pictures = [pipeline.sample(8, labels=LABELS, batch_size=size) for size in (1, 3, 8, 64)]
    assert all(np.abs(other.astype(int) - pictures[0]).max() <= 1 for other in pictures)
    assert (pictures[0] == pictures[2]).mean() > 0.999


def test_a_picture_has_the_same_seed_wherever_the_count_begins(pipeline: Pipeline) -> None:
    whole = pipeline.sample(6, seed=10, labels=4)
    assert np.array_equal(pipeline.sample(4, seed=12, labels=4)[:2], whole[2:4])
    assert len({image.tobytes() for image in whole}) == 6


def test_sampling_draws_nothing_from_anybody_else_and_repeats_itself(pipeline: Pipeline) -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = pipeline.sample(2, labels=0)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert np.array_equal(pipeline.sample(2, labels=0), first)  # dropout, for one, is off


def test_packed_weights_give_the_same_bits(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the network whose weights lie in channels-last order; in the other order, a convolution of a single channel
    takes another kernel and rounds otherwise."""
    monkeypatch.setattr(winograd, "suits", lambda *_: False)  # Of which weights that change make less use.
    ready, plain = pipeline.ready(), copy.deepcopy(pipeline)
    assert ready.denoiser.network is not pipeline.denoiser.network
    packed = last(ready.stream(range(4), LABELS[:4]))
    torch.testing.assert_close(last(plain.stream(range(4), LABELS[:4])), packed, atol=1e-5, rtol=0)
    plain.denoiser.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    assert torch.equal(last(plain.stream(range(4), LABELS[:4])), packed)


def test_the_steps_are_those_of_the_ladder(pipeline: Pipeline) -> None:
    steps = list(pipeline.stream([0], [3]))
    assert [(step.t, step.s, step.nfe) for step in steps] == [(t, t - 1, 51 - t) for t in range(50, 0, -1)]
    assert all(step.prediction.x_0.abs().max() <= 1 for step in steps)
    assert torch.equal(steps[-1].x, steps[-1].prediction.x_0)  # the last step adds no noise


def test_a_label_matters_and_one_stands_for_all(pipeline: Pipeline) -> None:
    assert np.array_equal(pipeline.sample(3, labels=5), pipeline.sample(3, labels=[5, 5, 5]))
    ready = pipeline.ready()
    x = [last(ready.stream([0, 0], [a, b])) for a, b in [(3, 8), (8, 3)]]
    assert torch.equal(x[0].flip(0), x[1]) and not torch.equal(x[0][0], x[0][1])
    unlabelled = last(ready.stream([0, 0]))
    assert not torch.equal(unlabelled[0], x[0][0]) and not torch.equal(unlabelled[0], x[0][1])


@settings(max_examples=20)
@given(st.integers(-(2**70), 2**70))
def test_any_whole_number_is_a_seed(pipeline: Pipeline, seed: int) -> None:
    step = next(pipeline.stream([seed], [0]))
    assert step.x.isfinite().all()


@pytest.mark.parametrize(
    ("labels", "complaint"),
    [
        (10, "label 10 is out of range: this model knows 0 to 9"),
        (-1, "label -1 is out of range: this model knows 0 to 9"),
        ([1, 2], "3 pictures need 3 labels, not 2"),
        ([1, 2, 77], "label 77 is out of range: this model knows 0 to 9"),
    ],
)
def test_labels_that_do_not_fit(pipeline: Pipeline, labels: int | list[int], complaint: str) -> None:
    with pytest.raises(WrongUse) as caught:
        pipeline.sample(3, labels=labels)
    assert str(caught.value) == complaint


@pytest.mark.parametrize(("n", "batch_size"), [(0, 1), (1, 0), (-1, 4)])
def test_at_least_one_picture(pipeline: Pipeline, n: int, batch_size: int) -> None:
    with pytest.raises(WrongUse, match=f"n = {n} and batch_size = {batch_size} must both be at least 1"):
        pipeline.sample(n, batch_size=batch_size)


def test_a_label_for_a_model_without_classes(tmp_path: Path) -> None:
    none = {"data": {"class_names": []}}
    pictures = tiny.digits()
    bare = type(pictures)(images=pictures.images, labels=None, classes=())
    tiny.run(tiny.config(none, steps=1), tmp_path, pictures=bare)
    run = open_run(tmp_path)
    with pytest.raises(WrongUse, match=r"^this model was trained without classes, so it takes no label$"):
        run.sample(1, labels=0)
    assert run.sample(2).shape == (2, 8, 8, 1)
