"""How large a network is and how much arithmetic it does, without running it.

The network is called once on PyTorch's meta device, where tensors have shapes and no numbers, under PyTorch's own
counter of floating-point operations: multiplications and additions of convolutions, linear layers and attention, two
for each multiply-add, as they are done here (a layer that does its work in fewer operations counts for the fewer).
Norms, activations and sums count as nothing.

Training counts for three forward passes: every product has one gradient for its input and one for its weight. What is
computed a second time to save memory is not counted.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from fromnoise.config import Config, build_network
from fromnoise.train.augment import LABELS

TRAINING_PASSES = 3


@dataclass(frozen=True)
class Counted:
    """Of one network: its parameters, and the operations of one picture's way through it, forward."""

    parameters: int
    forward: int

    @property
    def training(self) -> int:
        """Operations of one picture in a training step."""
        return TRAINING_PASSES * self.forward


def count(config: Config) -> Counted:
    """Of the network that the settled ``config`` describes. Raises ``WrongUse`` for settings that describe none."""
    with torch.device("meta"):
        network = build_network(config)
    return count_network(network, config)


def count_network(network: nn.Module, config: Config) -> Counted:
    """Of a ``network`` on the meta device, called as the settled ``config`` has it called."""
    data = config.data
    assert data.channels is not None and data.height is not None and data.width is not None
    x = torch.empty(1, data.channels, data.height, data.width, device="meta")
    said: dict[str, Tensor] = {}
    if data.class_names:
        said["label"] = torch.zeros(1, dtype=torch.int64, device="meta")
    if data.quantities:
        said["values"] = torch.zeros(1, len(data.quantities), device="meta")
    if config.train.augment.active:
        said["augment"] = torch.zeros(1, LABELS, device="meta")
    # By its formula, attention is two products of matrices; faster kernels do them too, and the counter knows not all.
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        network.eval()(x, torch.zeros(1, device="meta"), **said)
    return Counted(sum(p.numel() for p in network.parameters()), counter.get_total_flops())
