"""Dropout inside SwishNorm on the CPU: the right rate, unbiased, and the gradient of exactly what was kept."""

import pytest
import torch
import torch.nn.functional as F

from fromnoise.network.dropout import CHANCES, MOST, dropout_seeds, kept, thresholds
from fromnoise.network.layers import SwishNorm, norm_groups


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_rate_scale_and_independence(rate: float) -> None:
    """With swish(norm) known, what is kept is it times 1/(1 − rate), and the share dropped is the rate."""
    norm = SwishNorm(64, norm_groups(64), rate).train()
    x = torch.randn(16, 64, 32, 32).to(memory_format=torch.channels_last)
    torch.manual_seed(0)
    y, bare = norm(x), F.silu(F.group_norm(x, 32, norm.weight, norm.bias, norm.eps))
    kept = y != 0
    torch.testing.assert_close(y[kept], bare[kept] / (1 - round(rate * 65536) / 65536), rtol=1e-5, atol=1e-6)
    count = x.numel()
    error = (rate * (1 - rate) / count) ** 0.5
    assert abs((~kept).double().mean().item() - rate) < 5 * error + 1 / 65536
    # Neighbours in memory come from the same random number: they must be as independent as any.
    flat = kept.permute(0, 2, 3, 1).reshape(-1).double() - (1 - rate)
    for lag in (1, 2, 3, 4, 64):
        correlation = (flat[lag:] * flat[:-lag]).mean().item() / (rate * (1 - rate))
        assert abs(correlation) < 5 / count**0.5


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("shape", [(2, 32, 4, 4), (3, 33, 3, 5)])
def test_gradient_is_that_of_the_mask(shape: tuple[int, ...], layout: torch.memory_format) -> None:
    """In float64, against autograd through the plain formula with the same mask."""
    norm = SwishNorm(shape[1], norm_groups(shape[1]), 0.3).double().train()
    x = torch.randn(shape, dtype=torch.float64).to(memory_format=layout).requires_grad_()
    weight = torch.randn(shape, dtype=torch.float64)
    y = norm(x)
    mask = (y != 0).double() / (1 - round(0.3 * 65536) / 65536)
    plain = mask * F.silu(F.group_norm(x, norm.num_groups, norm.weight, norm.bias, norm.eps))
    torch.testing.assert_close(y, plain)
    inputs = (x, norm.weight, norm.bias)
    ours = torch.autograd.grad((y * weight).sum(), inputs)
    torch.testing.assert_close(ours, torch.autograd.grad((plain * weight).sum(), inputs))


def test_same_seed_same_mask_and_off_in_evaluation() -> None:
    norm, x = SwishNorm(64, norm_groups(64), 0.5), torch.randn(2, 64, 8, 8)
    torch.manual_seed(1)
    first = norm(x)
    torch.manual_seed(1)
    assert torch.equal(norm(x), first)
    assert not torch.equal(norm(x), first)
    norm.eval()
    torch.testing.assert_close(norm(x), F.silu(F.group_norm(x, 32, eps=norm.eps)))
    with pytest.raises(ValueError, match="dropout = 1"):
        SwishNorm(32, norm_groups(32), 1.0)


@pytest.mark.parametrize("dropped", [0, 1, 255, 256, 6554, 32768, MOST])
def test_every_place_has_the_rate_to_the_last_digit(dropped: int) -> None:
    """Over all shifts and all bytes, each of the 256 places is dropped ``dropped`` times in 65536; over places too."""
    limits = thresholds(dropped, torch.arange(256)[:, None]).long() + 128  # So many of 256 bytes are below.
    assert limits.min() >= 0 and limits.max() <= 255
    assert limits.sum(dim=0).tolist() == [dropped] * 256
    assert limits.sum(dim=1).tolist() == [dropped] * 256
    assert CHANCES == 256 * 256


def test_the_shift_is_drawn_anew_for_every_picture_and_layer() -> None:
    """At a rate below one in 256, a byte is dropped at some places only: those differ from picture to picture."""
    x = torch.zeros(64, 256, 32, 32).to(memory_format=torch.channels_last)
    with dropout_seeds(range(64)):
        dropped = kept(x, 128, place=0) == 0
        again, other = kept(x, 128, place=0) == 0, kept(x, 128, place=1) == 0
    assert torch.equal(dropped, again) and not torch.equal(dropped, other)
    # Channels lie innermost, 256 of them: a channel is a place.
    places = dropped.any(dim=3).any(dim=2)
    assert 110 < places.sum(dim=1).float().mean() <= 128, "half of the places, of which nearly all are seen dropped"
    assert len({tuple(row.tolist()) for row in places}) > 40
    rate, count = dropped.double().mean().item(), dropped.numel()
    assert abs(rate - 128 / 65536) < 5 * (128 / 65536 / count) ** 0.5


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_in_half_precision_it_is_the_same_but_for_rounding(half: torch.dtype, layout: torch.memory_format) -> None:
    """The mask is that of float32, a picture's whatever is beside it; output and gradients are near float64's."""
    norm = SwishNorm(64, norm_groups(64), 0.3).train()
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    x = torch.randn(4, 64, 8, 8).to(half).to(memory_format=layout)
    direction = torch.randn(x.shape, dtype=half)

    def results(dtype: torch.dtype, rows: slice = slice(None)) -> list[torch.Tensor]:
        part = x[rows].to(dtype).requires_grad_()
        with dropout_seeds(list(range(4))[rows]):
            y = norm(part)
        return [y.detach(), *torch.autograd.grad(y, [part, norm.weight, norm.bias], direction[rows].to(dtype))]

    ours, single = results(half), results(torch.float32)
    assert torch.equal(ours[0] == 0, single[0] == 0)
    assert torch.equal(results(half, slice(1, 3))[0], ours[0][1:3])
    norm.double()
    for mine, true in zip(ours, results(torch.float64), strict=True):
        assert (mine.double() - true).norm() / true.norm() < 3 * torch.finfo(half).eps
