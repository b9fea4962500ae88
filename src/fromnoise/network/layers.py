"""The parts of the paper's network: each is exact, and each is fast where eager PyTorch is not.

Two identities carry the speed; neither changes a result by more than float rounding:

* swish(norm(x)) keeps only ``x`` for the backward pass and computes the rest again: two tensors of activations less.
* nearest-neighbour up-sampling followed by a 3x3 convolution is one transposed convolution with a 4x4 kernel and
  stride 2, whose kernel is the 3x3 kernel convolved with a 2x2 box: 4/9 of the multiplications.

Pictures travel in channels-last memory throughout, but for half precision on a CPU (`layout`).
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from fromnoise.network.dropout import CHANCES, MOST, kept
from fromnoise.network.winograd import Conv3x3

NORM_GROUPS = 32
HALVES = (torch.bfloat16, torch.float16)  # What autocast makes of activations; weights stay float32.
NORM_EPS = 1e-6  # The paper's TensorFlow default; PyTorch's own is 1e-5.


def timestep_embedding(t: Tensor, dim: int = 128) -> Tensor:
    """Sinusoids of the network's time, as in the paper's code: all sines first, then all cosines.

    ``t`` has shape (B,), any real dtype, and is used as it is (0 … T−1 for the paper's models). The result has shape
    (B, dim) in float32; frequencies are exp(−ln 10000 · i / (dim/2 − 1)). An odd ``dim`` ends with a zero.

    Source: Ho, Jain, Abbeel 2020 (arXiv 2006.11239), appendix B; Vaswani et al. 2017 (arXiv 1706.03762), section 3.5.
    """
    half = dim // 2
    if half < 2:
        raise ValueError(f"a timestep embedding needs dim >= 4 (two frequencies), not {dim}")
    exponent = torch.arange(half, dtype=torch.float32, device=t.device) * (-math.log(10000) / (half - 1))
    angle = t.float()[:, None] * exponent.exp()[None, :]
    embedding = torch.cat([angle.sin(), angle.cos()], dim=-1)
    return F.pad(embedding, (0, 1)) if dim % 2 else embedding


def layout(x: Tensor) -> torch.memory_format:
    """How pictures should lie in memory on their way from ``x`` on.

    Under autocast on a CPU, PyTorch's group norm is five times slower channels-last, and convolutions gain nothing.
    """
    half = x.device.type == "cpu" and torch.is_autocast_enabled("cpu")
    return torch.contiguous_format if half else torch.channels_last


class _SwishNorm(torch.autograd.Function):
    """keep · scale · swish(group_norm(x)), remembering x and the bytes of ``keep``; the backward pass starts anew."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, keep: Tensor | None, scale: float, groups: int, eps: float
    ) -> Tensor:
        n, c, h, w = x.shape
        y, mean, rstd = torch.native_group_norm(x, weight, bias, n, c, h * w, groups, eps)
        ctx.save_for_backward(x, weight, bias, keep, mean, rstd)
        ctx.scale, ctx.groups, ctx.eps = scale, groups, eps
        y = F.silu(y, inplace=True)
        return y if keep is None else y.mul_(keep).mul_(scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight, bias, keep, mean, rstd = ctx.saved_tensors
        n, c, h, w = x.shape
        if x.dtype == weight.dtype:
            y = normed(x, weight, bias, mean, rstd)
        else:  # In half precision `normed` would round on its way.
            y, _, _ = torch.native_group_norm(x, weight, bias, n, c, h * w, ctx.groups, ctx.eps)
        # The kernel takes both in one memory layout, and a gradient may come in the other. It overwrites y: on a CPU,
        # memory that was touched a moment ago costs less than new memory.
        own = torch.channels_last if x.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
        grad = torch.ops.aten.silu_backward.grad_input(grads[0].contiguous(memory_format=own), y, grad_input=y)
        if keep is not None:
            grad.mul_(keep).mul_(ctx.scale)
        dx, dw, db = torch.ops.aten.native_group_norm_backward(
            grad, x, mean, rstd, weight, n, c, h * w, ctx.groups, [True, True, True]
        )
        return dx, dw, db, None, None, None, None


def normed(x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, rstd: Tensor) -> Tensor:
    """The group norm of ``x`` (B, C, H, W) whose statistics (B, groups) are known: one multiplication and one sum."""
    n, c, groups = x.shape[0], x.shape[1], mean.shape[1]
    scale = (rstd[:, :, None] * weight.view(groups, -1)).view(n, c)
    shift = bias - (mean[:, :, None] * scale.view(n, groups, -1)).view(n, c)
    return torch.addcmul(shift[:, :, None, None], x, scale[:, :, None, None])


class SwishNorm(nn.GroupNorm):
    """x * sigmoid(x) of the group-normalised input, then dropout. (B, C, H, W) -> the same shape.

    On a CPU the rate of dropout is a multiple of 1/65536 (`dropout.kept`), and what is kept is scaled by the exact
    inverse.
    """

    def __init__(self, channels: int, groups: int, dropout: float = 0.0) -> None:
        super().__init__(groups, channels, eps=NORM_EPS)
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout = {dropout}: must lie between 0 and 1, 1 not included")
        self.dropout, self.place = dropout, 0  # The network numbers its layers.

    def forward(self, input: Tensor) -> Tensor:
        dropped = min(round(self.dropout * CHANCES), MOST) if self.training else 0
        if input.device.type != "cpu" or input.dtype not in (self.weight.dtype, *HALVES):
            return F.dropout(F.silu(super().forward(input)), self.dropout, self.training)
        if not (input.is_contiguous() or input.is_contiguous(memory_format=torch.channels_last)):
            input = input.contiguous(memory_format=torch.channels_last)  # The kernels take no slices.
        elif len(input) == 1 and input.stride(0) != input.numel():
            input = input.clone(memory_format=torch.channels_last)  # Of one picture, they mind even this stride.
        if not torch.is_grad_enabled() and not dropped:
            return F.silu(super().forward(input), inplace=True)
        keep, scale = kept(input, dropped, self.place) if dropped else None, CHANCES / (CHANCES - dropped)
        return _SwishNorm.apply(input, self.weight, self.bias, keep, scale, self.num_groups, self.eps)


def norm_groups(channels: int) -> int:
    """The groups of every norm in a network of so many base channels: the paper's 32, or the most that divide them.

    Every group holds two channels at least, for a group of one would subtract all that the embedding of the time adds
    to it. Every level is a multiple of the base, so one number serves them all.
    """
    return next((g for g in range(min(NORM_GROUPS, channels // 2), 0, -1) if channels % g == 0), 1)


class Upsample(nn.Conv2d):
    """Nearest-neighbour ×2, then a 3×3 convolution, as one transposed convolution.

    (B, C_in, H, W) -> (B, C_out, 2H, 2W). The weight is the 3×3 kernel, so checkpoints hold the paper's.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 3, padding=1)

    def forward(self, input: Tensor) -> Tensor:
        flipped = self.weight.transpose(0, 1).flip(2, 3)
        rows = F.pad(flipped, (0, 0, 0, 1)) + F.pad(flipped, (0, 0, 1, 0))
        kernel = F.pad(rows, (0, 1)) + F.pad(rows, (1, 0))
        return F.conv_transpose2d(input, kernel, self.bias, stride=2, padding=1)


class Downsample(nn.Conv2d):
    """3×3 convolution with stride 2, padded by one on the right and at the bottom only, as TensorFlow does.

    (B, C, H, W) -> (B, C_out, H/2, W/2) for even H and W.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 3, stride=2)

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(F.pad(input, (0, 1, 0, 1)))


class Block(nn.Module):
    """Residual block: norm, swish, conv, + time, norm, swish, dropout, conv; 1×1 shortcut when channels change.

    ``x`` (B, C_in, H, W) and the time's (and label's) contribution ``shift`` (B, C_out) -> (B, C_out, H, W).
    """

    def __init__(self, in_channels: int, out_channels: int, groups: int, dropout: float) -> None:
        super().__init__()
        self.norm_1 = SwishNorm(in_channels, groups)
        self.conv_1 = Conv3x3(in_channels, out_channels)
        self.norm_2 = SwishNorm(out_channels, groups, dropout)
        self.conv_2 = Conv3x3(out_channels, out_channels)
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()

    def forward(self, x: Tensor, shift: Tensor) -> Tensor:
        # A convolution's output is not needed for its own gradient, so both sums may overwrite it.
        h = self.conv_1(self.norm_1(x)).add_(shift[:, :, None, None])
        h = self.conv_2(self.norm_2(h))
        return h.add_(self.shortcut(x))
