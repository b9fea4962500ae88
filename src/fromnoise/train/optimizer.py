"""Adam as the paper uses it, and its state as plain named tensors."""

import torch
from torch import Tensor, nn

from fromnoise.train.settings import TrainSettings


def build_optimizer(network: nn.Module, settings: TrainSettings) -> torch.optim.Adam:
    """Adam with betas 0.9 and 0.999 and eps 1e-8, in the fused form where the device has one."""
    fused = all(p.device.type in {"cpu", "cuda"} for p in network.parameters())
    return torch.optim.Adam(network.parameters(), lr=settings.lr, betas=(0.9, 0.999), eps=1e-8, fused=fused)


def learning_rate(step: int, settings: TrainSettings) -> float:
    """The step size of the update after ``step`` finished ones: linear from 0 over the warm-up, then constant."""
    return settings.lr * min(step / settings.warmup, 1.0) if settings.warmup else settings.lr


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
