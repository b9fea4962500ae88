"""Which optimizer, and its state as plain named tensors."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fromnoise.errors import WrongUse

FUSED = {"cpu", "cuda"}
"""Devices on which PyTorch has Adam as one kernel."""


@dataclass(frozen=True, kw_only=True)
class Optimizer(ABC):
    """How a gradient becomes a step."""

    @abstractmethod
    def build(self, network: nn.Module, lr: float) -> torch.optim.Optimizer:
        """For the parameters of ``network``; in the fused form where the device has one."""


@dataclass(frozen=True, kw_only=True)
class Adam(Optimizer):
    """Kingma & Ba 2015 (arXiv 1412.6980); the paper's, with its defaults."""

    beta_1: float = 0.9
    """Decay of the mean of the gradient."""
    beta_2: float = 0.999
    """Decay of the mean of its square."""
    eps: float = 1e-8
    """Added to the root of the second, so that nothing is divided by 0."""

    def __post_init__(self) -> None:
        """Raises ``WrongUse`` for numbers that make no sense."""
        _check(self.beta_1, self.beta_2, self.eps)

    def build(self, network: nn.Module, lr: float) -> torch.optim.Optimizer:
        """PyTorch's Adam."""
        return torch.optim.Adam(
            network.parameters(), lr=lr, betas=(self.beta_1, self.beta_2), eps=self.eps, fused=_fused(network)
        )


@dataclass(frozen=True, kw_only=True)
class AdamW(Optimizer):
    """Adam that also shrinks weights towards 0, by lr · weight_decay a step. Loshchilov & Hutter 2019 (1711.05101).

    Matrices and kernels are shrunk; biases and the scales of norms, which have one dimension, are not.
    """

    weight_decay: float = 0.01
    """How much."""
    beta_1: float = 0.9
    """Decay of the mean of the gradient."""
    beta_2: float = 0.999
    """Decay of the mean of its square."""
    eps: float = 1e-8
    """Added to the root of the second, so that nothing is divided by 0."""

    def __post_init__(self) -> None:
        """Raises ``WrongUse`` for numbers that make no sense."""
        _check(self.beta_1, self.beta_2, self.eps)
        if not 0 <= self.weight_decay < float("inf"):
            raise WrongUse(f"[train.optimizer] weight_decay = {self.weight_decay}: must not be negative")

    def build(self, network: nn.Module, lr: float) -> torch.optim.Optimizer:
        """PyTorch's AdamW, its parameters in two groups."""
        wide = [p for p in network.parameters() if p.ndim > 1]
        flat = [p for p in network.parameters() if p.ndim <= 1]
        groups = [{"params": wide, "weight_decay": self.weight_decay}, {"params": flat, "weight_decay": 0.0}]
        return torch.optim.AdamW(
            [group for group in groups if group["params"]],
            lr=lr,
            betas=(self.beta_1, self.beta_2),
            eps=self.eps,
            fused=_fused(network),
        )


def optimizer_tensors(optimizer: torch.optim.Optimizer, network: nn.Module) -> dict[str, Tensor]:
    """The moments and counts by "kind.parameter name", for a safetensors file. Empty before the first step."""
    return {
        f"{kind}.{name}": value
        for name, parameter in network.named_parameters()
        for kind, value in optimizer.state.get(parameter, {}).items()
    }


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, network: nn.Module, tensors: dict[str, Tensor]) -> None:
    """The inverse of :func:`optimizer_tensors`. Raises ``ValueError`` for names the network does not have."""
    parameters = dict(network.named_parameters())
    optimizer.state.clear()
    for key, value in tensors.items():
        kind, _, name = key.partition(".")
        if name not in parameters:
            raise ValueError(f"the optimizer's state names {name!r}, which this network does not have")
        parameter = parameters[name]
        if kind == "step":  # The fused form counts on the device, the others on the CPU.
            device = parameter.device if optimizer.defaults["fused"] else "cpu"
            optimizer.state[parameter][kind] = value.to(device, copy=True)
        else:  # Laid out in memory like the parameter.
            optimizer.state[parameter][kind] = torch.empty_like(parameter).copy_(value)


def _fused(network: nn.Module) -> bool:
    return all(p.device.type in FUSED for p in network.parameters())


def _check(beta_1: float, beta_2: float, eps: float) -> None:
    for name, value in (("beta_1", beta_1), ("beta_2", beta_2)):
        if not 0 <= value < 1:
            raise WrongUse(f"[train.optimizer] {name} = {value}: must lie between 0 and 1, 1 not included")
    if not 0 < eps < float("inf"):
        raise WrongUse(f"[train.optimizer] eps = {eps}: must be above 0")
