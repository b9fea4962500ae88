"""A network compiled for sampling on a GPU: the same call again and again, so that it pays to record it once.

``torch.compile`` in its mode "reduce-overhead" records CUDA graphs: the processor then says one word a call instead of
a thousand. What a graph returns lies in memory that its next run overwrites, while samplers remember estimates of
earlier steps; hence the copy.
"""

import torch
from torch import Tensor, nn


class Compiled(nn.Module):
    """(x, c_time, …) -> output, as ``network`` gives it. The first call of every new shape compiles."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self._call = torch.compile(network, mode="reduce-overhead")

    def forward(self, x: Tensor, c_time: Tensor, **condition: Tensor) -> Tensor:
        torch.compiler.cudagraph_mark_step_begin()
        output: Tensor = self._call(x, c_time, **condition)
        return output.clone()
