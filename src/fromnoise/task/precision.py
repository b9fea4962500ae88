"""How a training computes on the device it is on: what that device can do, and what pays there."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from fromnoise.errors import WrongUse

_LONG = 2000  # Steps; compiling costs about as long as some hundreds of them.


@contextmanager
def computing(precision: str, device: torch.device) -> Iterator[None]:
    """In here, products and convolutions have the precision asked for.

    Raises ``WrongUse`` if the device lacks it.
    """
    cuda = device.type == "cuda"
    if precision == "bfloat16" and cuda and not torch.cuda.is_bf16_supported(including_emulation=False):
        name = torch.cuda.get_device_name(device)
        raise WrongUse(f"[train] precision = 'bfloat16': {name} has none; take float16, or float32")
    if precision != "tf32":
        yield
        return
    if not cuda or torch.cuda.get_device_capability(device) < (8, 0):
        what = "this GPU is older" if cuda else f"this run is on {device.type}"
        raise WrongUse(f"[train] precision = 'tf32' needs an NVIDIA GPU of 2020 or later, and {what}; take float32")
    parts = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)  # pyright: ignore - not in the stubs
    before = [part.fp32_precision for part in parts]
    for part in parts:
        part.fp32_precision = "tf32"
    try:
        yield
    finally:
        for part, old in zip(parts, before, strict=True):
            part.fp32_precision = old


def pays_to_compile(wanted: bool | str, device: torch.device, steps: int) -> bool:
    """Whether to compile the network for a run of so many steps: as wanted, or for "auto" by device and length."""
    return wanted if isinstance(wanted, bool) else device.type == "cuda" and steps >= _LONG
