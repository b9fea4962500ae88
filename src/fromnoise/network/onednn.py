"""PyTorch's operators for oneDNN's convolutions, whose weights lie in the order that the processor wants.

That order is blocked and depends on the shapes; eager PyTorch puts weights into it at every call: for the paper's
network, 143 MB a call. Packed once, the same kernels give the same results. PyTorch's own compiler uses these
operators; they are not part of its public interface, hence the trial run.
"""

from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Form:
    """How a convolution goes over its pictures."""

    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1


def reorder(weight: Tensor, form: Form, shape: list[int] | None = None) -> Tensor:
    """``weight`` (C_out, C_in / groups, h, w), float32 on the CPU, packed for pictures of ``shape`` (B, C_in, H, W)."""
    return torch.ops.aten.mkldnn_reorder_conv2d_weight(
        weight.detach().to_mkldnn(), list(form.padding), list(form.stride), list(form.dilation), form.groups, shape
    )


def convolve(x: Tensor, packed: Tensor, bias: Tensor | None, form: Form) -> Tensor:
    """The convolution of ``x`` (B, C_in, H, W), in channels-last memory, with packed weights. Gives no gradients."""
    return torch.ops.mkldnn._convolution_pointwise(
        x, packed, bias, list(form.padding), list(form.stride), list(form.dilation), form.groups, "none", [], ""
    )


@cache
def works() -> bool:
    """Whether this build of PyTorch has the operators and they agree with the public convolution."""
    if not torch.backends.mkldnn.is_available():
        return False
    plain, grouped = Form(padding=(1, 1)), Form(padding=(0, 2), dilation=(1, 2), groups=3)
    try:
        with torch.inference_mode():
            for form, height, width in ((plain, 3, 3), (grouped, 1, 3)):
                x = torch.linspace(-1, 1, 2 * 12 * 5 * 6).reshape(2, 12, 5, 6).to(memory_format=torch.channels_last)
                channels = 12 // form.groups
                weight = torch.linspace(-1, 1, 12 * channels * height * width).reshape(12, channels, height, width)
                ours = convolve(x, reorder(weight, form, list(x.shape)), None, form)
                theirs = F.conv2d(x, weight, None, form.stride, form.padding, form.dilation, form.groups)
                if not torch.allclose(ours, theirs, rtol=1e-4, atol=1e-4):
                    return False
    except (AttributeError, RuntimeError, NotImplementedError):
        return False
    return True
