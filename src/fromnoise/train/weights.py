"""A network's parameters and buffers, listed once.

A walk through all modules takes longer than the optimizer's arithmetic does for a small network, and a training step
needs several.
"""

from typing import NamedTuple
from weakref import WeakKeyDictionary

from torch import Tensor, nn


class Weights(NamedTuple):
    """In the network's own order."""

    parameters: list[nn.Parameter]
    buffers: list[Tensor]


class Listed:
    """Remembers the lists of every network it was asked for, which must not get other parameters from then on."""

    def __init__(self) -> None:
        self._known: WeakKeyDictionary[nn.Module, Weights] = WeakKeyDictionary()

    def __call__(self, network: nn.Module) -> Weights:
        if network not in self._known:
            self._known[network] = Weights(list(network.parameters()), list(network.buffers()))
        return self._known[network]
