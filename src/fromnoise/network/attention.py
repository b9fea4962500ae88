"""Self-attention over all pixels of a picture, its products as fast as the processor has them (`products`).

With the tokens Q, K, V of one picture, (N, C) each:

    S = Q Kᵀ / √C,   P = softmax of the rows of S,   O = P V

    dV = Pᵀ dO,   dP = dO Vᵀ,   dS = P ⊙ (dP − Σ P ⊙ dP),   dQ = dS K / √C,   dK = dSᵀ Q / √C

On a CPU, P is kept where it is no larger than q, k and v. In float32, x and P are remembered between the passes; the
norm of x, and Q, K and V of it, are computed again: they are 4 C numbers a token, and P is N of them, which is half as
much for 256 tokens of 128 channels. Under autocast all is remembered, in half as many bytes.

Source: Ho, Jain, Abbeel 2020 (arXiv 2006.11239), appendix B; Vaswani et al. 2017 (arXiv 1706.03762), section 3.2.1.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from fromnoise.network.layers import HALVES, NORM_EPS, layout, normed
from fromnoise.network.products import times, times_transposed, transposed_times

_FEWEST = 64  # Tokens of a picture below which calls cost more than products.


class Attention(nn.Module):
    """One head of self-attention over all pixels with a residual. (B, C, H, W) -> the same shape.

    q, k and v are one 1×1 convolution; the scale is C^−½. On a CPU by plain products where P is no larger than q, k
    and v, and there are enough tokens; else PyTorch's, which never holds P.
    """

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, eps=NORM_EPS)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        norm, qkv = self.norm, self.qkv
        if not _suits(x):
            q, k, v = _tokens(qkv(norm(x)))[:, None].chunk(3, dim=-1)
            y = F.scaled_dot_product_attention(q, k, v)
        elif torch.is_autocast_enabled("cpu"):
            q, k, v = _tokens(qkv(norm(x))).chunk(3, dim=-1)
            y = torch.bmm(torch.softmax(torch.bmm(q * q.shape[2] ** -0.5, k.mT), dim=-1), v)
        elif torch.is_grad_enabled() and isinstance(qkv, nn.Conv2d):  # And not packed, without a weight to learn.
            y = _Mixed.apply(x, norm.weight, norm.bias, qkv.weight, qkv.bias, norm.num_groups)
        else:
            q, k, v = (part.contiguous() for part in _tokens(qkv(norm(x))).chunk(3, dim=-1))
            y, _ = mix(q, k, v)
        b, c, h, w = x.shape
        mixed = y.reshape(b, h, w, c).permute(0, 3, 1, 2).contiguous(memory_format=layout(x))
        return self.out(mixed).add_(x)


def _suits(x: Tensor) -> bool:
    """Whether plain products can be used, and are worth it, for pictures ``x`` (B, C, H, W)."""
    _, c, h, w = x.shape
    return (
        x.device.type == "cpu"
        and (x.dtype == torch.float32 or (torch.is_autocast_enabled("cpu") and x.dtype in HALVES))
        and _FEWEST <= h * w <= 3 * c
        and not torch.compiler.is_compiling()
    )


class _Mixed(torch.autograd.Function):
    """O (B, N, C) of the pictures x (B, C, H, W), remembering x and P."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, shift: Tensor, weight: Tensor, bias: Tensor, groups: int) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        b, c, h, w = x.shape
        y, mean, rstd = torch.native_group_norm(x, scale, shift, b, c, h * w, groups, NORM_EPS)
        q, k, v = _projected(y, weight, bias)
        out, p = mix(q, k, v)
        ctx.save_for_backward(x, scale, shift, weight, bias, mean, rstd, p)
        ctx.groups = groups
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, scale, shift, weight, bias, mean, rstd, p = ctx.saved_tensors
        b, c, h, w = x.shape
        y = normed(x, scale, shift, mean, rstd)
        q, k, v = _projected(y, weight, bias)
        d_tokens = mix_back(grads[0].contiguous(), q, k, v, p)
        d_tokens = d_tokens.view(b, h, w, 3 * c).permute(0, 3, 1, 2)
        dy, d_weight, d_bias = torch.ops.aten.convolution_backward(
            d_tokens, y, weight, [3 * c], [1, 1], [0, 0], [1, 1], False, [0, 0], 1, [True, True, True]
        )
        dx, d_scale, d_shift = torch.ops.aten.native_group_norm_backward(
            dy, x, mean, rstd, scale, b, c, h * w, ctx.groups, [True, True, True]
        )
        return dx, d_scale, d_shift, d_weight, d_bias, None


def mix(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """O (B, N, C) and P (B, N, N) of tokens (B, N, C), contiguous, float32 on the CPU. ``q`` is scaled in place."""
    p = torch.softmax(times_transposed(q.mul_(q.shape[2] ** -0.5), k), dim=-1)
    return times(p, v), p


def mix_back(d_out: Tensor, q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """The gradients of q, k and v side by side, (B, N, 3 · C), from that of O, (B, N, C). ``q`` is scaled in place."""
    b, n, c = q.shape
    scale, found = c**-0.5, q.new_empty(b, n, 3 * c)
    dq, dk, dv = found.chunk(3, dim=-1)
    dv.copy_(transposed_times(p, d_out))
    ds = torch.ops.aten._softmax_backward_data(times_transposed(d_out, v), p, -1, torch.float32)
    torch.mul(times(ds, k), scale, out=dq)
    dk.copy_(transposed_times(ds, q.mul_(scale)))
    return found


def _projected(y: Tensor, weight: Tensor, bias: Tensor) -> list[Tensor]:
    """q, k and v (B, N, C) of ``y`` (B, C, H, W), each in memory of its own."""
    return [_tokens(F.conv2d(y, w, b)) for w, b in zip(weight.chunk(3), bias.chunk(3), strict=True)]


def _tokens(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, H · W, C), contiguous."""
    b, c, h, w = x.shape
    return x.permute(0, 2, 3, 1).reshape(b, h * w, c)
