"""Which times are visited: the reference ladders, and what must hold for any number of steps."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.oracle import figure

from fromnoise.ladder import All, Spacing, Strided
from fromnoise.schedule import Constant, Linear, Schedule

PAPER = Linear()


@pytest.mark.parametrize(
    ("spacing", "name"), [(All(), "full"), (Strided(steps=1000), "full"), (Strided(steps=100), "100")]
)
def test_ladder_is_the_reference(spacing: Spacing, name: str) -> None:
    # The fixture counts 0 … T−1, upwards; a ladder counts T … 1, and ends at the clean picture.
    expected = [*(t + 1.0 for t in sorted(figure(f"timesteps/{name}").tolist(), reverse=True)), 0.0]
    assert spacing.ladder(PAPER).tolist() == expected


@given(st.integers(1, 400).flatmap(lambda last: st.tuples(st.just(last), st.integers(1, last))))
def test_strides_are_even_whole_and_hold_both_ends(lengths: tuple[int, int]) -> None:
    last, steps = lengths
    ladder = Strided(steps=steps).ladder(Constant(steps=last))
    assert ladder.dtype == torch.float64
    assert ladder.shape == (steps + 1,)
    assert bool((ladder.diff() < 0).all())
    assert (ladder[0], ladder[-1]) == (last, 0)
    assert torch.equal(ladder, ladder.round())
    if steps > 1:
        assert ladder[-2] == 1
        stride = (last - 1) / (steps - 1)
        exact = last - stride * torch.arange(steps, dtype=torch.float64)
        assert (ladder[:-1] - exact).abs().max() <= 0.5 + 1e-9
        assert float(-ladder[:-1].diff().min()) - float(-ladder[:-1].diff().max()) <= 1


def test_all_visits_all() -> None:
    assert All().ladder(Constant(steps=3)).tolist() == [3, 2, 1, 0]
    assert torch.equal(Strided(steps=7).ladder(Constant(steps=7)), All().ladder(Constant(steps=7)))


def test_one_step_goes_from_the_end_to_the_picture() -> None:
    assert Strided(steps=1).ladder(PAPER).tolist() == [1000, 0]


@pytest.mark.parametrize("steps", [0, -3, 1001])
def test_impossible_numbers_of_steps_are_refused(steps: int) -> None:
    with pytest.raises(ValueError, match=rf"steps = {steps}: this schedule allows 1 to 1000"):
        Strided(steps=steps).ladder(PAPER)


def test_the_schedule_takes_its_ladders() -> None:
    schedule: Schedule = PAPER
    assert bool((schedule(Strided(steps=37).ladder(schedule)).log_snr.diff() > 0).all())
