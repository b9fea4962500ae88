"""Winograd's algorithm is the 3×3 convolution: outputs and gradients, wherever it is used, and only there."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fromnoise.network import onednn, packed, winograd
from fromnoise.network.winograd import Conv3x3, gather, gather_back, spread, spread_back, suits

pytestmark = pytest.mark.skipif(
    not (onednn.works() and torch.backends.mkl.is_available()), reason="PyTorch without oneDNN or MKL has no use for it"
)

SHAPES = {
    "one tile and its neighbour a row": (70, 128, 128, 8, 8),
    "an odd number of rows": (9, 128, 192, 37, 16),
    "five tiles' pairs a row": (3, 192, 128, 36, 40),
    "wide channels": (5, 256, 256, 31, 32),
    "one picture": (1, 128, 128, 64, 64),
}


def normal(seed: int, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def layer(wide: int, deep: int) -> Conv3x3:
    conv = Conv3x3(wide, deep)
    with torch.no_grad():
        conv.weight.copy_(normal(1, *conv.weight.shape) / (9 * wide) ** 0.5)
        assert conv.bias is not None
        conv.bias.copy_(normal(2, deep))
    return conv


def pictures(seed: int, *shape: int) -> Tensor:
    return normal(seed, *shape).to(memory_format=torch.channels_last)


def apart(a: Tensor, b: Tensor) -> float:
    return ((a - b).norm() / b.norm()).item()


def results(conv: torch.nn.Conv2d, x: Tensor, direction: Tensor) -> list[Tensor]:
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    y = conv(x)
    assert conv.bias is not None
    return [y.detach(), *torch.autograd.grad(y, [x, conv.weight, conv.bias], direction)]


@pytest.mark.parametrize("name", SHAPES)
def test_outputs_and_gradients_are_those_of_the_convolution(name: str) -> None:
    """Against float64; the direct convolution in float32 is at 2e-7 to 2e-6."""
    batch, wide, deep, height, width = SHAPES[name]
    conv, x, direction = (
        layer(wide, deep),
        pictures(3, batch, wide, height, width),
        pictures(4, batch, deep, height, width),
    )
    plain = torch.nn.Conv2d(wide, deep, 3, padding=1)
    plain.load_state_dict(conv.state_dict())
    direct = results(plain, x, direction)
    truth = results(plain.double(), x.double(), direction.double())
    ours = results(conv, x, direction)
    assert not torch.equal(ours[0], direct[0])  # Else it was not this algorithm that ran.
    for mine, theirs, true in zip(ours, direct, truth, strict=True):
        assert apart(theirs, true) < 5e-6 and apart(mine, true) < 5e-6


@pytest.mark.parametrize("width", [8, 24])
def test_backwards_is_the_transpose(width: int) -> None:
    """⟨spread x, v⟩ = ⟨x, spread_back v⟩, and the same of gather: each way is linear, so one random pair decides."""
    x, v = normal(1, 2, 3, width, 16), normal(2, 2, 3, width // 4 * 6, 16)
    back, gathered = torch.empty_like(x), torch.empty_like(x)
    spread_back(v, back)
    gather(v, gathered)
    for left, right in (((spread(x) * v), x * back), (gathered * x, v * gather_back(x))):
        assert left.double().sum().item() == pytest.approx(right.double().sum().item(), rel=1e-5)


def test_a_row_of_one_channel_is_toom_and_cook_s_product() -> None:
    """y_i = Σ_k w_k d_{i+k} out of six products a tile, by the three matrices alone."""
    d, w = normal(1, 1, 1, 16, 1), normal(2, 3)
    points = (winograd._matrices().kernel @ w).repeat(4)
    y = torch.empty_like(d)
    gather(spread(d) * points[None, None, :, None], y)
    truth = F.conv1d(d[0].transpose(1, 2).double(), w.double()[None, None], padding=1)
    torch.testing.assert_close(y[0].transpose(1, 2).double(), truth, rtol=0, atol=5e-6)


def test_parts_of_a_batch_change_nothing_but_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture does not depend on what goes through with it."""
    conv, x, direction = layer(128, 128), pictures(3, 11, 128, 32, 32), pictures(4, 11, 128, 32, 32)
    whole = results(conv, x, direction)
    monkeypatch.setattr(winograd, "_PART_NUMBERS", 1)
    assert max(apart(part, one) for part, one in zip(results(conv, x, direction), whole, strict=True)) < 2e-6
    alone = winograd.Packed(conv.weight, conv.bias, 1, 32, 32)
    with torch.no_grad():
        assert apart(torch.cat([alone(x[k : k + 1]) for k in range(11)]), whole[0]) < 2e-6


def test_packed_it_is_the_same_and_gives_the_weight_back() -> None:
    conv, small, large = layer(64, 128), pictures(3, 2, 64, 8, 8), pictures(4, 6, 64, 32, 32)
    fast, exact = packed._PackedConv(conv), torch.nn.Conv2d(64, 128, 3, padding=1).double()
    exact.load_state_dict(conv.state_dict())
    with torch.no_grad():
        for x in (large, small, large, pictures(5, 2, 64, 6, 6)):  # Sizes in turn; the last is not for it.
            assert apart(fast(x), exact(x.double())) < 2e-6
            assert torch.equal(fast._kernel.weight(), conv.weight)


@pytest.mark.parametrize(
    ("x", "why"),
    [
        (pictures(3, 16, 128, 16, 20), "a width that eight does not divide"),
        (pictures(3, 1, 128, 16, 16), "too few pixels for weights that change"),
        (pictures(3, 16, 128, 16, 16).double(), "float64"),
        (pictures(3, 16, 64, 16, 16), "narrow: the work around the products is too much"),
        (pictures(3, 16, 136, 16, 16), "channels that sixteen does not divide"),
    ],
)
def test_elsewhere_it_is_pytorch_s_own(x: Tensor, why: str) -> None:
    conv = layer(x.shape[1], 128).to(x.dtype)
    assert torch.equal(conv(x), F.conv2d(x, conv.weight, conv.bias, padding=1)), why


@pytest.mark.parametrize(
    "wanted", [(True, False, False), (False, True, False), (False, False, True), (False, True, True)]
)
def test_gradients_are_given_as_asked_for(wanted: tuple[bool, bool, bool]) -> None:
    conv, x, direction = layer(128, 128), pictures(3, 16, 128, 16, 16), pictures(4, 16, 128, 16, 16)
    x.requires_grad_()
    assert conv.bias is not None
    leaves = [leaf for leaf, asked in zip((x, conv.weight, conv.bias), wanted, strict=True) if asked]
    every = torch.autograd.grad(conv(x), [x, conv.weight, conv.bias], direction)
    for leaf, asked in zip((x, conv.weight, conv.bias), wanted, strict=True):
        leaf.requires_grad_(asked)
    some = torch.autograd.grad(conv(x), leaves, direction)
    for mine, asked in zip(some, (g for g, asked in zip(every, wanted, strict=True) if asked), strict=True):
        assert torch.equal(mine, asked)


def test_autocast_casts_as_ever() -> None:
    conv, x = layer(128, 128), pictures(3, 16, 128, 16, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert conv(x).dtype == torch.bfloat16


def test_without_the_operators_it_is_pytorch_s_own(monkeypatch: pytest.MonkeyPatch) -> None:
    conv, x = layer(128, 128), pictures(3, 16, 128, 16, 16)
    assert suits(x, conv.weight, winograd._WORTH)
    monkeypatch.setattr(winograd, "works", lambda: False)
    assert not suits(x, conv.weight, winograd._WORTH)
    assert torch.equal(conv(x), F.conv2d(x, conv.weight, conv.bias, padding=1))


def test_pictures_in_any_memory_layout() -> None:
    conv, x, direction = layer(128, 128), pictures(3, 16, 128, 16, 16), pictures(4, 16, 128, 16, 16)
    others = results(conv, x.contiguous(), direction.contiguous())
    assert max(apart(other, one) for other, one in zip(others, results(conv, x, direction), strict=True)) < 2e-6
