"""How a training computes on the device it is on: what it can do, what pays there, what gives the same bits."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch.backends import cudnn

from fromnoise.errors import WrongUse

_LONG = 2000  # Steps; compiling costs about as long as some hundreds of them.
_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
_REPEATABLE = (":4096:8", ":16:8")  # The two with which cuBLAS repeats itself: NVIDIA, cuBLAS, section 2.1.4.


@contextmanager
def computing(precision: str, device: torch.device, *, deterministic: bool = False) -> Iterator[None]:
    """In here, products and convolutions have the precision asked for; if ``deterministic``, the same bits each time.

    Raises ``WrongUse`` if the device lacks the precision, or if it is too late to make it deterministic.
    """
    cuda = device.type == "cuda"
    with ExitStack() as until:
        if deterministic:  # First, before anything is computed.
            until.enter_context(_repeatable(device))
        if precision == "bfloat16" and cuda and not torch.cuda.is_bf16_supported(including_emulation=False):
            name = torch.cuda.get_device_name(device)
            raise WrongUse(f"[train] precision = 'bfloat16': {name} has none; take float16, or float32")
        if precision == "tf32":
            if not cuda or torch.cuda.get_device_capability(device) < (8, 0):
                what = "this GPU is older" if cuda else f"this run is on {device.type}"
                raise WrongUse(
                    f"[train] precision = 'tf32' needs an NVIDIA GPU of 2020 or later, and {what}; take float32"
                )
            until.enter_context(_shortened())
        yield


@contextmanager
def _shortened() -> Iterator[None]:
    """In here, products and convolutions of float32 are tf32's."""
    parts = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)  # pyright: ignore - not in the stubs
    before = [part.fp32_precision for part in parts]
    for part in parts:
        part.fp32_precision = "tf32"
    try:
        yield
    finally:
        for part, old in zip(parts, before, strict=True):
            part.fp32_precision = old


@contextmanager
def _repeatable(device: torch.device) -> Iterator[None]:
    """In here, PyTorch takes deterministic algorithms, and refuses operations that have none.

    The variable of cuBLAS is read once, so it stays set. Raises ``WrongUse`` if it is too late for it.
    """
    if device.type == "cuda":
        _set_workspace()
    memory: Any = torch.utils.deterministic  # Whose one setting the stubs do not know.
    mode = torch.are_deterministic_algorithms_enabled()
    only_warns = torch.is_deterministic_algorithms_warn_only_enabled()
    before = (cudnn.benchmark, cudnn.deterministic, memory.fill_uninitialized_memory)
    try:
        torch.use_deterministic_algorithms(True)
        cudnn.benchmark, cudnn.deterministic = False, True
        memory.fill_uninitialized_memory = False  # It is for finding mistakes, and costs time.
        yield
    finally:
        torch.use_deterministic_algorithms(mode, warn_only=only_warns)
        cudnn.benchmark, cudnn.deterministic, memory.fill_uninitialized_memory = before


def _set_workspace() -> None:
    found = os.environ.get(_WORKSPACE)
    if found in _REPEATABLE:
        return
    if found or _has_computed():
        why = f"{_WORKSPACE} is {found!r}" if found else f"a GPU has computed without {_WORKSPACE}"
        raise WrongUse(f"[train] deterministic = true: {why}; set {_WORKSPACE}={_REPEATABLE[0]} and start again")
    os.environ[_WORKSPACE] = _REPEATABLE[0]


def _has_computed() -> bool:
    """Whether a GPU has been given anything, and cuBLAS may have read its variable.

    cuBLAS and PyTorch read it at the first product. CUDA itself has often started before: processes that train together
    meet through NCCL first, and a device that is named is tried.
    """
    if not torch.cuda.is_initialized():
        return False
    each = (torch.cuda.memory_stats(index) for index in range(torch.cuda.device_count()))
    return any(stats.get("allocated_bytes.all.allocated", 0) for stats in each)


def pays_to_compile(wanted: bool | str, device: torch.device, steps: int) -> bool:
    """Whether to compile the network for a run of so many steps: as wanted, or for "auto" by device and length."""
    return wanted if isinstance(wanted, bool) else device.type == "cuda" and steps >= _LONG
