"""A 3×3 convolution with half of the multiplications: Winograd's F(4, 3) along the rows of pictures.

Four neighbouring outputs of a correlation with three weights, y_i = Σ_k w_k d_{i+k}, are twelve multiplications.
As polynomials evaluated at six points (Toom and Cook) they are six:

    y = Aᵀ [ (G w) ⊙ (B d) ],   A, G: powers of the points, B = V⁻ᵀ, V the powers up to the fifth.

Here this is done along the width alone, so that a 3×3 convolution becomes three matrix products in which the channels
stay the innermost axis of memory, and nothing is ever copied into another order:

1. spread: every eight columns of a row are multiplied by B (12×8), two tiles of six values; each tile also takes one
   column from its neighbour to either side, which is one sum a block.
2. the six values of a tile are six groups of channels, and what is left of the kernel is a column of three weights. A
   step up or down is a step of so many tiles in memory: one grouped 1×3 convolution, dilated, over rows laid end to
   end.
3. gather: Aᵀ makes four columns of six values.

The gradient for the pictures is the same backwards, with the mirrored kernel. The gradient for the weights is
left to the direct convolution: what it gains of it, one step in a hundred, is paid for in memory and rounding.

The points 0, ±3/4, ±3/2, ∞ give an error of 1.6 times that of the direct sum in float32; the usual 0, ±1, ±2, ∞ give
one of 2.2 times (256 channels, normal weights, swish of normal pictures).

Sources: Winograd 1980, Arithmetic Complexity of Computations; Lavin and Gray 2016 (arXiv 1509.09308).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from fromnoise.network.onednn import Form, convolve, reorder, works

_POINTS = (0.0, 0.75, -0.75, 1.5, -1.5)  # And infinity. Dyadic, so most of the matrices' entries are exact.
_OUTPUTS, _VALUES = 4, 6  # Of a tile.
_COLUMNS, _SPREAD = 2 * _OUTPUTS, 2 * _VALUES  # Two tiles are one product: of one alone, MKL is no faster.

_PART_NUMBERS = 6 << 18
"""How many numbers spread pictures and their products may be at once: more, and they leave the cache on their way."""


class Conv3x3(nn.Conv2d):
    """3×3 convolution of stride 1, padded by one all around. (B, C_in, H, W) -> (B, C_out, H, W).

    On a CPU, in float32, by Winograd's algorithm where the sizes are worth it; else PyTorch's.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 3, padding=1)

    def forward(self, input: Tensor) -> Tensor:
        if suits(input, self.weight, _WORTH) and not torch.is_autocast_enabled("cpu"):
            return _Convolution.apply(input, self.weight, self.bias)
        return super().forward(input)


class Worth(NamedTuple):
    """From where on the algorithm is faster than the direct convolution."""

    pixels: int
    """Of all pictures together: the kernel's values are computed once for all of them."""
    channels: float
    """Harmonic mean of those before and behind: products go with both, the work around them with their sum."""


_WORTH, WORTH_PACKED = Worth(pixels=4096, channels=128), Worth(pixels=0, channels=64)
"""For weights that change, and for packed ones. Taken on a processor with 512-bit vectors, slow memory beside fast
products; where products are slower, it would be worth it from fewer channels on."""


def suits(x: Tensor, weight: Tensor, worth: Worth) -> bool:
    """Whether the algorithm can be used for, and is ``worth``, pictures ``x`` (B, C_in, H, W) under ``weight``."""
    wide, deep, *_ = weight.shape
    return (
        x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and x.shape[3] % _COLUMNS == 0
        and wide % 16 == deep % 16 == 0
        and 2 * wide * deep >= worth.channels * (wide + deep)
        and x.shape[0] * x.shape[2] * x.shape[3] >= worth.pixels
        and not torch.compiler.is_compiling()
        and torch.backends.mkl.is_available()
        and works()
    )


class Packed:
    """The kernel of a 3×3 convolution, (C_out, C_in, 3, 3), made ready for pictures of one size, once and for all."""

    def __init__(self, weight: Tensor, bias: Tensor | None, batch: int, height: int, width: int) -> None:
        self._parts, self._form = _Parts.of(weight, batch, height, width), _form(width)
        shape = [1, _VALUES * weight.shape[1], self._parts.pictures, height * width // _OUTPUTS]
        self._weight, self._bias = reorder(_points(weight), self._form, shape), _values_of(bias)

    def weight(self, middle: Tensor) -> Tensor:
        """The plain kernel again, bit for bit; ``middle`` (C_out, C_in, 3) is its middle column.

        Its value at 0 is the first column, at infinity the last.
        """
        points = self._weight.to_dense()
        points = points.view(_VALUES, -1, *points.shape[1:])[:, :, :, 0]
        return torch.stack([points[0], middle, points[-1]], dim=-1)

    def __call__(self, x: Tensor) -> Tensor:
        """The convolution of ``x`` (B, C_in, H, W). Gives no gradients."""
        return _through(x, len(self._weight) // _VALUES, self._parts, self._products)

    def _products(self, values: Tensor) -> Tensor:
        return convolve(values, self._weight, self._bias, self._form)


class _Convolution(torch.autograd.Function):
    """The convolution with weights that may change: made ready anew forward and backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.biased = bias is not None
        points, ones, form = _points(weight), _values_of(bias), _form(x.shape[3])
        parts = _Parts.of(weight, x.shape[0], *x.shape[2:])
        return _through(
            x,
            len(weight),
            parts,
            lambda values: F.conv2d(values, points, ones, form.stride, form.padding, form.dilation, form.groups),
        )

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight = ctx.saved_tensors
        dy = grads[0].contiguous(memory_format=torch.channels_last)
        dx = dw = db = None
        if ctx.needs_input_grad[0]:
            dx = _gradient(dy, weight)
        if any(ctx.needs_input_grad[1:]):
            _, dw, db = torch.ops.aten.convolution_backward(
                dy, x, weight, [len(weight)], [1, 1], [1, 1], [1, 1], False, [0, 0], 1, [False, True, ctx.biased]
            )
        return dx, dw, db


def _through(x: Tensor, channels: int, parts: "_Parts", products: Callable[[Tensor], Tensor]) -> Tensor:
    """Spread, multiplied, gathered: ``x`` (B, C_in, H, W) -> (B, ``channels``, H, W), so many pictures at a time."""
    pictures, y = x.permute(0, 2, 3, 1).contiguous(), _pictures_like(x, channels)
    into = y.permute(0, 2, 3, 1)
    for part in parts:
        gather(_tiles(products(_rows(spread(pictures[part]))), into[part]), into[part])
    return y


def _gradient(dy: Tensor, weight: Tensor) -> Tensor:
    """Of the pictures, (B, C_in, H, W), from that of the convolution (B, C_out, H, W): the same way backwards."""
    gradients, dx = dy.permute(0, 2, 3, 1).contiguous(), _pictures_like(dy, weight.shape[1])
    into, points, form = dx.permute(0, 2, 3, 1), _points(weight), _form(dy.shape[3])
    for part in _Parts.of(weight, dy.shape[0], *dy.shape[2:]):
        values = _rows(gather_back(gradients[part]))
        like = _pictures_like(values, _VALUES * weight.shape[1])  # Asked for its shape alone.
        products, _, _ = torch.ops.aten.convolution_backward(
            values,
            like,
            points,
            None,
            [1, 1],
            form.padding,
            form.dilation,
            False,
            [0, 0],
            _VALUES,
            [True, False, False],
        )
        spread_back(_tiles(products, into[part]), into[part])
    return dx


def spread(x: Tensor) -> Tensor:
    """B: pictures (B, H, W, C), contiguous, as tiles of six values, (B, H, W / 4 · 6, C)."""
    matrices, (b, h, w, c) = _matrices(), x.shape
    blocks = x.view(-1, _COLUMNS, c)
    values = torch.bmm(matrices.spread.expand(len(blocks), -1, -1), blocks)
    if w > _COLUMNS:
        columns, tiles = x.view(b * h, -1, _COLUMNS, c), values.view(b * h, -1, _SPREAD, c)
        tiles[:, 1:, 0].add_(columns[:, :-1, -1], alpha=matrices.first)
        tiles[:, :-1, -1].add_(columns[:, 1:, 0], alpha=matrices.last)
    return values.view(b, h, -1, c)


def spread_back(values: Tensor, into: Tensor) -> None:
    """Bᵀ, the transpose of `spread`, into ``into`` (B, H, W, C), contiguous."""
    matrices, (b, h, w, c) = _matrices(), into.shape
    blocks, columns = values.view(-1, _SPREAD, c), into.view(-1, _COLUMNS, c)
    torch.bmm(matrices.spread_back.expand(len(blocks), -1, -1), blocks, out=columns)
    if w > _COLUMNS:
        columns, tiles = into.view(b * h, -1, _COLUMNS, c), values.view(b * h, -1, _SPREAD, c)
        columns[:, :-1, -1].add_(tiles[:, 1:, 0], alpha=matrices.first)
        columns[:, 1:, 0].add_(tiles[:, :-1, -1], alpha=matrices.last)


def gather(values: Tensor, into: Tensor) -> None:
    """Aᵀ: tiles of six values, (B, H, W / 4 · 6, C), as four columns each, into ``into`` (B, H, W, C), contiguous."""
    blocks, columns = values.view(-1, _SPREAD, values.shape[3]), into.view(-1, _COLUMNS, into.shape[3])
    torch.bmm(_matrices().gather.expand(len(blocks), -1, -1), blocks, out=columns)


def gather_back(x: Tensor) -> Tensor:
    """A, the transpose of `gather`: (B, H, W, C), contiguous, -> (B, H, W / 4 · 6, C)."""
    blocks = x.view(-1, _COLUMNS, x.shape[3])
    return torch.bmm(_matrices().gather_back.expand(len(blocks), -1, -1), blocks).view(*x.shape[:2], -1, x.shape[3])


class _Matrices(NamedTuple):
    spread: Tensor  # (12, 8), of two tiles without what they take from their neighbours
    first: float  # what the first value of a tile takes from the column before it
    last: float  # and the last from the column behind it
    gather: Tensor  # (8, 12)
    kernel: Tensor  # G, (6, 3)
    one: Tensor  # (6,): values that are gathered as ones, to add a bias before
    spread_back: Tensor  # (8, 12)
    gather_back: Tensor  # (12, 8)


@cache
@torch.inference_mode(False)
def _matrices() -> _Matrices:
    """In float64, cast once."""
    points = torch.tensor(_POINTS, dtype=torch.float64)[:, None]

    def powers(count: int) -> Tensor:
        """Of every point; a polynomial's value at infinity is its last coefficient."""
        infinity = torch.zeros(1, count, dtype=torch.float64)
        infinity[0, -1] = 1
        return torch.cat([points ** torch.arange(count), infinity])

    gather = powers(_OUTPUTS).T  # (4, 6)
    spread = torch.linalg.inv(powers(_VALUES)).T  # (6, 6), of the columns -1 … 4 around a tile's 0 … 3
    two = torch.zeros(_SPREAD, _COLUMNS + 2, dtype=torch.float64)
    two[:_VALUES, :_VALUES], two[_VALUES:, _OUTPUTS:] = spread, spread
    inner, both = two[:, 1:-1], torch.block_diag(gather, gather)
    one = torch.linalg.lstsq(gather, torch.ones(_OUTPUTS, 1, dtype=torch.float64), driver="gelsd").solution[:, 0]
    return _Matrices(
        spread=inner.float().contiguous(),
        first=spread[0, 0].item(),
        last=spread[-1, -1].item(),
        gather=both.float(),
        kernel=powers(3).float(),
        one=one.float(),
        spread_back=inner.T.float().contiguous(),
        gather_back=both.T.float().contiguous(),
    )


@dataclass(frozen=True, kw_only=True)
class _Parts:
    """Which pictures go through together: parts of even size."""

    batch: int
    pictures: int

    @classmethod
    def of(cls, weight: Tensor, batch: int, height: int, width: int) -> "_Parts":
        """For a kernel (C_out, C_in, 3, 3), whose weights go through the cache once a part."""
        values = height * width // _OUTPUTS * _VALUES * (weight.shape[0] + weight.shape[1])
        most = max(1, max(_PART_NUMBERS, 4 * weight.numel()) // values)
        return cls(batch=batch, pictures=-(-batch // -(-batch // most)))

    def __iter__(self) -> Iterator[slice]:
        return (slice(start, start + self.pictures) for start in range(0, self.batch, self.pictures))


def _points(weight: Tensor) -> Tensor:
    """G · w: the rows of a kernel (C_out, C_in, 3, 3) at the six points, (6 · C_out, C_in, 1, 3), channels last."""
    wide, deep, *_ = weight.shape
    columns = weight.permute(3, 0, 2, 1).reshape(3, -1)  # MKL is slow where the three columns lie innermost.
    return torch.mm(_matrices().kernel, columns).view(_VALUES * wide, 1, 3, deep).permute(0, 3, 1, 2)


def _values_of(bias: Tensor | None) -> Tensor | None:
    """What to add before gathering, (6 · C_out,), so that ``bias`` (C_out,) is added behind it."""
    return None if bias is None else torch.outer(_matrices().one, bias).flatten()


def _form(width: int) -> Form:
    tiles = width // _OUTPUTS  # In a row: so far away is the next row, with all rows laid end to end.
    return Form(padding=(0, tiles), dilation=(1, tiles), groups=_VALUES)


def _rows(values: Tensor) -> Tensor:
    """Tiles (B, H, W / 4 · 6, C) for the convolution: (1, 6 · C, B, H · W / 4), a picture a row."""
    b, h, w, c = values.shape
    return values.view(1, b, h * w // _VALUES, _VALUES * c).permute(0, 3, 1, 2)


def _tiles(rows: Tensor, like: Tensor) -> Tensor:
    """The other way: tiles of the pictures ``like`` (B, H, W, C)."""
    b, h, w, c = like.shape
    return rows.permute(0, 2, 3, 1).view(b, h, w // _OUTPUTS * _VALUES, c)


def _pictures_like(x: Tensor, channels: int) -> Tensor:
    shape = (x.shape[0], channels, x.shape[2], x.shape[3])
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
