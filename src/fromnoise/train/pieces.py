"""Weights in pieces (FSDP2): how a network is cut, and how a tensor is cut and put together again.

All that is element by element (Adam, averages) works on the pieces as they are. Checkpoints hold whole tensors, so they
open on any number of processes, cut or not.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor


def cut(network: nn.Module, device: torch.device, processes: int) -> None:
    """Move ``network`` to ``device`` in pieces, one for each of all processes.

    Every member of a list of layers is put together and let go of on its own; the rest stays together from its first
    use to the end of the step. No more than one of those parts is whole on the device at any time.
    """
    mesh = init_device_mesh(device.type, (processes,))
    for block in list(_blocks(network)):
        fully_shard(block, mesh=mesh)
    fully_shard(network, mesh=mesh)


def _blocks(network: nn.Module) -> Iterator[nn.Module]:
    for layers in network.modules():
        if isinstance(layers, nn.ModuleList):
            for layer in layers:
                called = type(layer).forward is not nn.Module.forward  # Others only hold layers.
                if called and next(layer.parameters(), None) is not None:
                    yield layer


@contextmanager
def hold_back(network: nn.Module) -> Iterator[None]:
    """In here, gradients stay whole, and on each process its own."""
    parts = [module for module in network.modules() if isinstance(module, FSDPModule)]
    for part in parts:
        part.set_requires_gradient_sync(False, recurse=False)
    try:
        yield
    finally:
        for part in parts:
            part.set_requires_gradient_sync(True, recurse=False)


def full(tensor: Tensor) -> Tensor:
    """The whole of a tensor in pieces; another as it is. All processes must call."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def piece(whole: Tensor, like: Tensor) -> Tensor:
    """``whole``, which every process has, cut as ``like`` is cut and on its device. Nothing travels."""
    if not isinstance(like, DTensor):
        return whole
    whole = whole.to(like.to_local().device)
    return distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=None)
