"""Self-attention over all pixels of a picture, and its products at the speed of convolutions.

With the tokens Q, K, V of one picture, (N, C) each:

    S = Q Kᵀ / √C,   P = softmax of the rows of S,   O = P V

    dV = Pᵀ dO,   dP = dO Vᵀ,   dS = P ⊙ (dP − Σ P ⊙ dP),   dQ = dS K / √C,   dK = dSᵀ Q / √C

PyTorch leaves such products to MKL, which reaches half of oneDNN's rate where it does not use a processor's widest
vectors. They are convolutions as well: of a grouped 1×1 convolution with a picture a group, a row of a matrix a
channel, and the columns as pixels, there are the forward pass W X, the gradient Wᵀ G of the input and G Xᵀ of the
weights. Those are the three kinds of product above, for matrices as they lie in memory: nothing is transposed.

Between the passes x and P are remembered. The norm of x, and Q, K and V of it, are computed again: they are 4 C numbers
a token, and P is N of them, which is half as much for 256 tokens of 128 channels.

Source: Ho, Jain, Abbeel 2020 (arXiv 2006.11239), appendix B; Vaswani et al. 2017 (arXiv 1706.03762), section 3.2.1.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from fromnoise.network.layers import NORM_EPS, normed

_FEWEST = 64  # Tokens of a picture below which calls cost more than products.

_DILATION = [2, 2]
"""Nothing to a 1×1 kernel; but undilated ones PyTorch keeps from oneDNN where there is one thread."""


class Attention(nn.Module):
    """One head of self-attention over all pixels with a residual. (B, C, H, W) -> the same shape.

    q, k and v are one 1×1 convolution; the scale is C^−½. On a CPU, in float32, by convolutions where P is no larger
    than q, k and v; else PyTorch's, which never holds P.
    """

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, eps=NORM_EPS)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        norm, qkv = self.norm, self.qkv
        if _suits(x) and not torch.is_grad_enabled():
            q, k, v = (part.contiguous() for part in _tokens(qkv(norm(x))).chunk(3, dim=-1))
            y, _ = mix(q, k, v)
        elif _suits(x) and isinstance(qkv, nn.Conv2d):  # And not packed, without a weight to be differentiated for.
            y = _Mixed.apply(x, norm.weight, norm.bias, qkv.weight, qkv.bias, norm.num_groups)
        else:
            q, k, v = _tokens(qkv(norm(x)))[:, None].chunk(3, dim=-1)
            y = F.scaled_dot_product_attention(q, k, v)
        return self.out(y.reshape(b, h, w, c).permute(0, 3, 1, 2)).add_(x)


def _suits(x: Tensor) -> bool:
    """Whether convolutions can be used, and are worth it, for pictures ``x`` (B, C, H, W)."""
    _, c, h, w = x.shape
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and _FEWEST <= h * w <= 3 * c
        and not torch.compiler.is_compiling()
        and torch.backends.mkldnn.is_available()
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
    b, n, c = q.shape
    p = torch.softmax(_times_transposed(q.mul_(c**-0.5), k, q.new_empty(b, n, n)), dim=-1)
    return _times(p, v), p


def mix_back(d_out: Tensor, q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """The gradients of q, k and v side by side, (B, N, 3 · C), from that of O, (B, N, C). ``q`` is scaled in place."""
    b, n, c = q.shape
    scale, found = c**-0.5, q.new_empty(b, n, 3 * c)
    dq, dk, dv = found.chunk(3, dim=-1)
    dv.copy_(_transposed_times(p, d_out, v))
    ds = torch.ops.aten._softmax_backward_data(_times_transposed(d_out, v, p), p, -1, torch.float32)
    torch.mul(_times(ds, k), scale, out=dq)
    dk.copy_(_transposed_times(ds, q.mul_(scale), k))
    return found


def _times(w: Tensor, x: Tensor) -> Tensor:
    """W X of every picture: (B, I, J), (B, J, K) -> (B, I, K), all contiguous."""
    return F.conv2d(_image(x), _kernel(w), dilation=_DILATION, groups=len(w)).view(len(w), w.shape[1], x.shape[2])


def _transposed_times(w: Tensor, g: Tensor, like: Tensor) -> Tensor:
    """Wᵀ G: (B, I, J), (B, I, K) -> (B, J, K), the shape of ``like``."""
    return _backward(g, like, w, of_input=True).view(like.shape)


def _times_transposed(g: Tensor, x: Tensor, like: Tensor) -> Tensor:
    """G Xᵀ: (B, I, K), (B, J, K) -> (B, I, J), the shape of ``like``."""
    return _backward(g, x, like, of_input=False).view(like.shape)


def _backward(g: Tensor, x: Tensor, w: Tensor, *, of_input: bool) -> Tensor:
    """The gradient of ``_times(w, x)`` for x or w from its output's, ``g``; of that x or w only the shape matters."""
    found = torch.ops.aten.convolution_backward(
        _image(g),
        _image(x),
        _kernel(w),
        None,
        [1, 1],
        [0, 0],
        _DILATION,
        False,
        [0, 0],
        len(w),
        [of_input, not of_input, False],
    )
    return found[0 if of_input else 1]


def _image(matrices: Tensor) -> Tensor:
    """(B, I, K) -> (1, B · I, 1, K): a channel a row."""
    b, i, k = matrices.shape
    return matrices.view(1, b * i, 1, k)


def _kernel(matrices: Tensor) -> Tensor:
    """(B, I, J) -> (B · I, J, 1, 1), for B groups."""
    b, i, j = matrices.shape
    return matrices.view(b * i, j, 1, 1)


def _projected(y: Tensor, weight: Tensor, bias: Tensor) -> list[Tensor]:
    """q, k and v (B, N, C) of ``y`` (B, C, H, W), each in memory of its own."""
    return [_tokens(F.conv2d(y, w, b)) for w, b in zip(weight.chunk(3), bias.chunk(3), strict=True)]


def _tokens(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, H · W, C), contiguous."""
    b, c, h, w = x.shape
    return x.permute(0, 2, 3, 1).reshape(b, h * w, c)
