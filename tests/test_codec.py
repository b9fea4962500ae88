"""Pictures to x_0 and back without loss, and whatever a sampler may hand over is decoded."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fromnoise.codec import Pixels

EVERY_LEVEL = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)


def test_every_grey_level_comes_back() -> None:
    assert torch.equal(Pixels().decode(Pixels().encode(EVERY_LEVEL)), EVERY_LEVEL)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_decoding_takes_every_precision(dtype: torch.dtype) -> None:
    x_0 = Pixels().encode(EVERY_LEVEL).to(dtype)
    nearest = [round((v + 1) * 127.5) for v in x_0.double().flatten().tolist()]
    assert Pixels().decode(x_0).flatten().tolist() == nearest


def test_encoding_is_the_papers() -> None:
    x_0 = Pixels().encode(EVERY_LEVEL)
    assert x_0.dtype == torch.float32
    expected = torch.tensor([k / 127.5 - 1 for k in range(256)], dtype=torch.float64)
    torch.testing.assert_close(x_0.flatten().double(), expected, rtol=0, atol=1.2e-7)
    assert (x_0.min(), x_0.max()) == (-1, 1)


@given(st.floats(-2, 2, width=32))
def test_decoding_goes_to_the_nearest_level(value: float) -> None:
    level = int(Pixels().decode(torch.tensor([[[[value]]]])).item())
    clipped = min(max(value, -1.0), 1.0)
    # Half a level at most, and the rounding of float32.
    assert abs(level - (clipped + 1) * 127.5) <= 0.5 + 3e-5


def test_values_that_are_no_picture() -> None:
    odd = torch.tensor([math.nan, math.inf, -math.inf, 1e30, -1e30, 1.01, -1.01]).reshape(1, 1, 1, -1)
    assert Pixels().decode(odd).flatten().tolist() == [0, 255, 0, 255, 0, 255, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.bool], ids=str)
def test_only_uint8_is_a_picture(dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match="pictures are uint8"):
        Pixels().encode(EVERY_LEVEL.to(dtype))
