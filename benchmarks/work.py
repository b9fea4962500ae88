"""What is measured: the paper's CIFAR-10 network, the batch it gets, and how much arithmetic that is.

The count is nominal: multiplications and additions of all convolutions, linear layers and attention products as the
paper defines them, two for each multiply-add. Normalisation, activations, sums and the optimizer count as nothing, and
a side that needs fewer operations for the same result is credited with the nominal ones. A training step is three
forward passes' worth: each product has one gradient for its input and one for its weight.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from fromnoise.network.attention import Attention
from fromnoise.network.unet import UNet
from fromnoise.network.winograd import Conv3x3

TRAINING_PASSES = 3


@dataclass(frozen=True, kw_only=True)
class Work:
    """One layout of the network on one device: "cpu" (float32; bfloat16 autocast if ``half``) or "cuda" (bfloat16)."""

    channels: int = 64
    channel_mult: tuple[int, ...] = (1, 2, 2, 2)
    num_res_blocks: int = 2
    side: int = 32
    batch: int = 16
    dropout: float = 0.1
    device: str = "cpu"
    half: bool = False
    compiled: bool = False

    @property
    def autocast(self) -> bool:
        """Whether convolutions and products are in bfloat16."""
        return self.half or self.device == "cuda"

    def settings(self) -> dict[str, Any]:
        """The arguments of our UNet."""
        return {
            "in_channels": 3,
            "out_channels": 3,
            "model_channels": self.channels,
            "num_res_blocks": self.num_res_blocks,
            "attention_resolutions": (16,),
            "channel_mult": self.channel_mult,
            "resolution": self.side,
            "dropout": self.dropout,
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Work":
        """From fields that came through JSON; those not given have their defaults."""
        fields = dict(values)
        if "channel_mult" in fields:
            fields["channel_mult"] = tuple(fields["channel_mult"])
        return cls(**fields)


@dataclass(frozen=True, kw_only=True)
class Convolution:
    """A 3×3 convolution of the network with stride 1, and how many times a forward pass runs it."""

    in_channels: int
    out_channels: int
    height: int
    width: int
    times: int

    def flops(self, batch: int) -> int:
        """Of one run, forward."""
        return 2 * 9 * self.in_channels * self.out_channels * self.height * self.width * batch


def nominal_flops(work: Work) -> int:
    """Floating-point operations of one forward pass of the whole batch."""
    total = 0

    def count(module: nn.Module, _: Any, out: torch.Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.Conv2d):
            total += 2 * module.weight.numel() * out.shape[0] * out.shape[2] * out.shape[3]
        elif isinstance(module, nn.Linear):
            total += 2 * module.weight.numel() * out.shape[0]
        elif isinstance(module, Attention):
            batch, channels, height, width = out.shape
            total += 2 * 2 * batch * channels * (height * width) ** 2

    _watch(work, count)
    return total


def main_convolutions(work: Work) -> list[Convolution]:
    """The residual blocks' 3×3 convolutions, which are most of the work, by shape."""
    shapes: Counter[tuple[int, int, int, int]] = Counter()

    def count(module: nn.Module, _: Any, out: torch.Tensor) -> None:
        if isinstance(module, Conv3x3):
            shapes[module.in_channels, module.out_channels, out.shape[2], out.shape[3]] += 1

    _watch(work, count)
    return [
        Convolution(in_channels=i, out_channels=o, height=h, width=w, times=times)
        for (i, o, h, w), times in shapes.items()
    ]


def _watch(work: Work, hook: Any) -> None:
    """One forward pass on the meta device (shapes without numbers), ``hook`` called after every module."""
    with torch.device("meta"), torch.no_grad():
        network = UNet(**work.settings())
        for module in network.modules():
            module.register_forward_hook(hook)
        network(torch.empty(work.batch, 3, work.side, work.side), torch.empty(work.batch))
