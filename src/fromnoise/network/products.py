"""Products of two matrices for every picture, in the faster of two ways.

PyTorch leaves such products to MKL. On processors of AMD, MKL takes kernels of 256 bits: all there is up to Zen 4, and
half of what Zen 5 can do, where oneDNN's convolutions run at the full rate. There the products are left to these. Of a
grouped 1×1 convolution with a picture a group, a row of a matrix a channel, and the columns as pixels, there are the
forward pass W X, the gradient Wᵀ G of the input and G Xᵀ of the weights, for matrices as they lie in memory.

The processor decides, and not a clock: the two ways round differently, and a run that goes on must be the run
uninterrupted, bit for bit.
"""

import platform
import re
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

_ZEN_5 = 26
"""The family of AMD's first processors whose vector units are 512 bits wide."""

_DILATION = [2, 2]
"""Nothing to a 1×1 kernel; but undilated ones PyTorch keeps from oneDNN where there is one thread."""


def times(w: Tensor, x: Tensor) -> Tensor:
    """W X of every picture: (B, I, J), (B, J, K) -> (B, I, K). Here as below, all are contiguous."""
    if not _by_convolution(w):
        return torch.bmm(w, x)
    return F.conv2d(_image(x), _kernel(w), dilation=_DILATION, groups=len(w)).view(len(w), w.shape[1], x.shape[2])


def transposed_times(w: Tensor, g: Tensor) -> Tensor:
    """Wᵀ G: (B, I, J), (B, I, K) -> (B, J, K)."""
    if not _by_convolution(w):
        return torch.bmm(w.mT, g)
    like = g.new_empty(len(w), w.shape[2], g.shape[2])
    return _backward(g, like, w, of_input=True).view(like.shape)


def times_transposed(g: Tensor, x: Tensor) -> Tensor:
    """G Xᵀ: (B, I, K), (B, J, K) -> (B, I, J)."""
    if not _by_convolution(g):
        return torch.bmm(g, x.mT)
    like = g.new_empty(len(g), g.shape[1], x.shape[1])
    return _backward(g, x, like, of_input=False).view(like.shape)


def _by_convolution(x: Tensor) -> bool:
    return x.dtype == torch.float32 and mkl_is_narrow()


@cache
def mkl_is_narrow() -> bool:
    """Whether MKL's products take half of this processor's vector width, and oneDNN's convolutions all of it."""
    libraries = torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()
    if not libraries or torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    try:
        told = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        told = platform.processor()
    return amd_family(told) >= _ZEN_5


def amd_family(told: str) -> int:
    """The family of an AMD processor by what Linux or Windows says of it; 0 for other makers."""
    found = re.search(r"family\s*:?\s*(\d+)", told, re.IGNORECASE)
    return int(found[1]) if found and "AuthenticAMD" in told else 0


def _backward(g: Tensor, x: Tensor, w: Tensor, *, of_input: bool) -> Tensor:
    """The gradient of ``times(w, x)`` for x or w from its output's, ``g``; of that x or w only the shape matters."""
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
