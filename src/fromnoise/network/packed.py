"""A network whose weights will not change any more, laid out for the processor it runs on.

On a CPU, oneDNN wants the weights of a convolution in a blocked order that depends on its shapes, and eager PyTorch
puts them in that order at every call: for the paper's network, 143 MB a call. Packed once, the same kernels give the
same results. PyTorch's own compiler uses these operators; they are not part of its public interface, hence the trial
run.
"""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fromnoise.network.layers import Downsample


def pack(network: nn.Module) -> nn.Module:
    """A copy of ``network`` for inference on the CPU; the network itself where packing does not apply.

    That is the case on other devices, for types other than float32, and where oneDNN is missing. Results are equal up
    to rounding, and bit for bit where both ways end in the same kernel. The copy holds the weights at the time of the
    call: pack again after training on.
    """
    weight = next(network.parameters(), None)
    if weight is None or weight.device.type != "cpu" or weight.dtype != torch.float32 or not _works():
        return network
    # Convolutions enter the copy packed, so their plain weights are not held a second time.
    packed = {module: _PackedConv(module) for module in network.modules() if type(module) in {nn.Conv2d, Downsample}}
    return copy.deepcopy(network, memo={id(conv): twin for conv, twin in packed.items()}).eval()


class _PackedConv(nn.Module):
    """A convolution that has its weight in packed form only; the form is chosen when it meets a new input shape."""

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        assert isinstance(conv, nn.Conv2d)
        self._bias = None if conv.bias is None else conv.bias.detach().clone()
        self._stride, self._padding = list(conv.stride), [int(side) for side in conv.padding]
        self._more = (0, 1, 0, 1) if isinstance(conv, Downsample) else (0, 0, 0, 0)
        self._packed, self._shape = _reorder(conv.weight, self._padding, self._stride, None), torch.Size()

    def forward(self, x: Tensor) -> Tensor:
        if any(self._more):
            x = F.pad(x, self._more)
        if torch.is_grad_enabled() or x.dtype != torch.float32:  # For guidance, which differentiates for x.
            weight = self._packed.to_dense().to(x.dtype)
            return F.conv2d(x, weight, self._bias, self._stride, self._padding)
        if x.shape != self._shape:
            self._packed = _reorder(self._packed.to_dense(), self._padding, self._stride, list(x.shape))
            self._shape = x.shape
        return _convolve(x, self._packed, self._bias, self._padding, self._stride)


def _reorder(weight: Tensor, padding: list[int], stride: list[int], shape: list[int] | None) -> Tensor:
    blocked = weight.detach().to_mkldnn()
    return torch.ops.aten.mkldnn_reorder_conv2d_weight(blocked, padding, stride, [1, 1], 1, shape)


def _convolve(x: Tensor, packed: Tensor | None, bias: Tensor | None, padding: list[int], stride: list[int]) -> Tensor:
    return torch.ops.mkldnn._convolution_pointwise(x, packed, bias, padding, stride, [1, 1], 1, "none", [], "")


def _works() -> bool:
    """Whether this build of PyTorch has the operators and they agree with the public convolution."""
    if not torch.backends.mkldnn.is_available():
        return False
    try:
        with torch.inference_mode():
            x = torch.linspace(-1, 1, 2 * 4 * 5 * 5).reshape(2, 4, 5, 5).to(memory_format=torch.channels_last)
            weight = torch.linspace(-1, 1, 4 * 4 * 9).reshape(4, 4, 3, 3)
            ours = _convolve(x, _reorder(weight, [1, 1], [1, 1], list(x.shape)), None, [1, 1], [1, 1])
            return torch.allclose(ours, F.conv2d(x, weight, padding=1), atol=1e-5)
    except (AttributeError, RuntimeError, NotImplementedError):
        return False
