"""Resampling pictures under an affine map, with little blur and little aliasing.

A picture is taken to twice its size by a windowed sinc, sampled there with a bicubic kernel at twice the density
wanted, and brought back to its size by the same sinc, which removes what the smaller grid cannot hold. Between the two
filters every frequency is at most half of what the grid carries, where the bicubic kernel is nearly exact.

Beyond its edges a picture goes on as its mirror image (the edge pixel is repeated), as far as it is asked for.
"""

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from fromnoise.types import Latents

_TAPS, _SHAPE = 20, 6.0  # Length of the sinc on the fine grid, and how its Kaiser window falls off.
_MARGIN = _TAPS // 2 - 1  # Fine samples that the filter reaches beyond the edge.


def warp(x: Latents, source: Tensor) -> Latents:
    """The picture whose value at a place p is that of ``x`` at ``source`` · (p, 1).

    ``x`` is (B, C, H, W), floating point, on any device; ``source`` is (B, 2, 3), float64, on the CPU. Places are
    (x, y) in pixels from the middle of the picture, x to the right and y downwards. Nothing waits for the device.
    """
    height, width = x.shape[-2:]
    across, down = (_places(side) for side in (width, height))
    grid = torch.empty(len(source), len(down), len(across), 2, dtype=torch.float64)
    for axis, half in enumerate((width / 2, height / 2)):  # -1 … 1 from edge to edge
        by_x, by_y, shift = (source[:, axis, k, None, None] / half for k in range(3))
        grid[..., axis] = by_x * across + by_y * down[:, None] + shift
    fine = F.grid_sample(
        _finer(x), send(grid.to(x.dtype), x.device), mode="bicubic", padding_mode="reflection", align_corners=False
    )
    return _coarser(fine)


def send(value: Tensor, device: torch.device) -> Tensor:
    """``value`` on ``device``; on a GPU without waiting for what it is doing."""
    return value.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else value.to(device)


def _places(side: int) -> Tensor:
    """Of the fine samples, in pixels from the middle, with the margin that the second filter needs."""
    return (torch.arange(-_MARGIN, 2 * side + _MARGIN, dtype=torch.float64) + 0.5) / 2 - side / 2


def _finer(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C, 2H, 2W)."""
    height, width = x.shape[-2:]
    reach = _TAPS // 4 + 1
    x = x[..., _mirror(height, reach), :][..., _mirror(width, reach)].contiguous()
    for axis, kernel in _kernels(x):  # The middle of pixel i of the coarse grid is the place 2i + 1/2 of the fine one.
        x = F.conv_transpose2d(x, 2 * kernel, stride=(2, 1) if axis == 2 else (1, 2), groups=x.shape[1])
    first = 2 * reach + _MARGIN
    return x[..., first : first + 2 * height, first : first + 2 * width]


def _coarser(fine: Tensor) -> Tensor:
    """(B, C, 2H + margins, 2W + margins) -> (B, C, H, W)."""
    for axis, kernel in _kernels(fine):
        fine = F.conv2d(fine, kernel, stride=(2, 1) if axis == 2 else (1, 2), groups=fine.shape[1])
    return fine


def _kernels(x: Tensor) -> list[tuple[int, Tensor]]:
    """The filter along columns and along rows, one copy a channel."""
    taps = send(_sinc(), x.device).to(x.dtype)
    column, row = taps.view(1, 1, -1, 1), taps.view(1, 1, 1, -1)
    return [(axis, kernel.expand(x.shape[1], -1, -1, -1)) for axis, kernel in ((2, column), (3, row))]


@lru_cache(maxsize=1)
def _sinc() -> Tensor:
    """Half-band low-pass. Even and odd taps add up to 1/2 each, so that an even grey stays exactly even."""
    places = torch.arange(_TAPS, dtype=torch.float64) - (_TAPS - 1) / 2
    taps = torch.sinc(places / 2) * torch.kaiser_window(_TAPS, periodic=False, beta=_SHAPE, dtype=torch.float64)
    return (taps.view(-1, 2) / taps.view(-1, 2).sum(0) / 2).reshape(-1)


def _mirror(side: int, reach: int) -> Tensor:
    """Indices of a side continued by ``reach`` on both ends: … 1 0 0 1 … side−1 side−1 side−2 …"""
    places = torch.arange(-reach, side + reach) % (2 * side)
    return torch.minimum(places, 2 * side - 1 - places)
