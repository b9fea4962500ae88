"""A network without its weights, kept to be filled with some later.

Weights that are in pieces on many processes cannot be copied as a module; a shell filled with the whole tensors is a
plain network again, for sampling.
"""

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn


def shell(network: nn.Module) -> nn.Module:
    """A copy of ``network`` whose parameters have shapes and types but take no memory."""
    hollow = {
        id(p): nn.Parameter(torch.empty_like(p, device="meta"), requires_grad=False) for p in network.parameters()
    }
    return copy.deepcopy(network, memo=hollow)


def filled(hollow: nn.Module, tensors: Mapping[str, Tensor], device: torch.device) -> nn.Module:
    """A network of its own with these parameters and buffers, which it takes over; ``hollow`` stays as it is."""
    network = copy.deepcopy(hollow)
    network.load_state_dict(dict(tensors), assign=True)
    return network.requires_grad_(False).to(device)
