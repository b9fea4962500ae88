"""A network whose weights will not change any more, laid out for the processor it runs on.

On a CPU, convolutions keep their weights in the order that oneDNN wants (`onednn`), or as Winograd's algorithm wants
them (`winograd`), and do not make either anew at every call.
"""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fromnoise.network import winograd
from fromnoise.network.layers import Downsample
from fromnoise.network.onednn import Form, convolve, reorder, works


def pack(network: nn.Module) -> nn.Module:
    """A copy of ``network`` for inference on the CPU; the network itself where packing does not apply.

    That is the case on other devices, for types other than float32, and where oneDNN is missing. Results are equal up
    to rounding, and bit for bit where both ways end in the same kernel. The copy holds the weights at the time of the
    call: pack again after training on.
    """
    weight = next(network.parameters(), None)
    if weight is None or weight.device.type != "cpu" or weight.dtype != torch.float32 or not works():
        return network
    # Convolutions enter the copy packed, so their plain weights are not held a second time.
    kinds = {nn.Conv2d, Downsample, winograd.Conv3x3}
    packed = {module: _PackedConv(module) for module in network.modules() if type(module) in kinds}
    return copy.deepcopy(network, memo={id(conv): twin for conv, twin in packed.items()}).eval()


class _PackedConv(nn.Module):
    """A convolution that has its weight in packed form only; the form is chosen when it meets a new input shape."""

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        assert isinstance(conv, nn.Conv2d)
        self._bias = None if conv.bias is None else conv.bias.detach().clone()
        self._form = Form(stride=(conv.stride[0], conv.stride[1]), padding=(int(conv.padding[0]), int(conv.padding[1])))
        self._more = (0, 1, 0, 1) if isinstance(conv, Downsample) else (0, 0, 0, 0)
        self._may_be_fast = isinstance(conv, winograd.Conv3x3)
        self._kernel: _Direct | _Fast = _Direct(conv.weight, self._bias, self._form, None)
        self._shape = torch.Size()

    def forward(self, x: Tensor) -> Tensor:
        if any(self._more):
            x = F.pad(x, self._more)
        if torch.is_grad_enabled() or x.dtype != torch.float32:  # For guidance, which differentiates for x.
            weight = self._kernel.weight().to(x.dtype)
            return F.conv2d(x, weight, self._bias, self._form.stride, self._form.padding)
        if x.shape != self._shape:
            weight = self._kernel.weight()
            if self._may_be_fast and winograd.suits(x, weight, winograd.WORTH_PACKED):
                self._kernel = _Fast(weight, self._bias, list(x.shape))
            else:
                self._kernel = _Direct(weight, self._bias, self._form, list(x.shape))
            self._shape = x.shape
        return self._kernel(x)


class _Direct:
    """A convolution as it is, for pictures of ``shape`` (B, C, H, W)."""

    def __init__(self, weight: Tensor, bias: Tensor | None, form: Form, shape: list[int] | None) -> None:
        self._packed, self._bias, self._form = reorder(weight, form, shape), bias, form

    def weight(self) -> Tensor:
        return self._packed.to_dense()

    def __call__(self, x: Tensor) -> Tensor:
        return convolve(x, self._packed, self._bias, self._form)


class _Fast:
    """The same by Winograd's algorithm, with what it takes to have the weight back."""

    def __init__(self, weight: Tensor, bias: Tensor | None, shape: list[int]) -> None:
        self._packed, self._middle = winograd.Packed(weight, bias, shape[0], *shape[2:]), weight[..., 1].clone()

    def weight(self) -> Tensor:
        return self._packed.weight(self._middle)

    def __call__(self, x: Tensor) -> Tensor:
        return self._packed(x)
