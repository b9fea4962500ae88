"""Several processes that train one network, through torch.distributed.

DDP: every process holds the whole network; gradients are averaged in buckets while the backward pass still computes.
Li et al. 2020 (arXiv 2006.15704). FSDP2: weights, their average and the optimizer's moments are cut along their first
dimension, each process holding a piece; a block's weights are put together just before it computes and let go of after
it, and gradients are averaged into pieces. Rajbhandari et al. 2020 (ZeRO, arXiv 1910.02054), stage 3; Zhao et al. 2023
(arXiv 2304.11277).

Tensors travel through NCCL on GPUs and gloo elsewhere. What processes agree on (a stop, who may write) goes through
gloo always: nothing waits for a GPU.
"""

import gc
import inspect
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fromnoise.errors import FromnoiseError, Lost
from fromnoise.train.attempt import own_store
from fromnoise.train.team import Team

_PATIENCE = timedelta(days=1)  # The others wait while one decodes all pictures; who has died is noticed at once.
_BUFFERS: dict[str, Any] = {"forward_sync_buffers": False}  # They are constants: never sent.
if not _BUFFERS.keys() <= inspect.signature(nn.parallel.DistributedDataParallel).parameters.keys():
    _BUFFERS = {"broadcast_buffers": False}  # Its name before PyTorch 2.13.
_GONE = ("connection", "gloo", "nccl", "socket", "broken pipe", "timed out", "store")


class Together(Team):
    """The processes of the default group. ``device`` is where this one trains; ``seat`` its number on its machine."""

    def __init__(self, device: torch.device, seat: int) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self._device, self._seat = device, seat
        self._talk = None if device.type == "cpu" else dist.new_group(backend="gloo", timeout=_PATIENCE)

    def gather(self, share: Tensor) -> Tensor:
        """All shares, on the device that processes speak through."""
        share = share.detach().to(self._device).contiguous()
        everyone = share.new_empty(self.size * share.shape[0], *share.shape[1:])
        dist.all_gather(list(everyone.chunk(self.size)), share)
        return everyone

    def agree(self, flag: bool) -> bool:
        """By the largest of all flags."""
        said = torch.tensor([flag], dtype=torch.uint8)
        dist.all_reduce(said, op=dist.ReduceOp.MAX, group=self._talk)
        return bool(said.item())

    def wait(self) -> None:
        """As agreeing on nothing."""
        self.agree(False)

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """The first process of each machine goes through it while the others wait at its door."""
        if self._seat:
            self.wait()
        yield
        if not self._seat:
            self.wait()

    def share(self, network: nn.Module) -> nn.Module:
        """In DDP, unless its weights are in pieces already."""
        if _in_pieces(network):
            return network
        # Of a 1x1 kernel's gradient: the same memory, told by other strides.
        warnings.filterwarnings("ignore", message="Grad strides do not match bucket view")
        return nn.parallel.DistributedDataParallel(
            network,
            device_ids=[self._device] if self._device.type == "cuda" else None,
            gradient_as_bucket_view=True,
            **_BUFFERS,
        )

    @contextmanager
    def unshared(self, called: nn.Module) -> Iterator[None]:
        """Gradients add up on each process until the first backward pass outside."""
        called = getattr(called, "_orig_mod", called)  # Of a compiled network.
        if isinstance(called, nn.parallel.DistributedDataParallel):
            with called.no_sync():
                yield
            return
        from fromnoise.train.pieces import hold_back

        with hold_back(called):
            yield

    def cut(self, network: nn.Module) -> None:
        """FSDP2, block by block."""
        from fromnoise.train.pieces import cut

        cut(network, self._device, self.size)

    def full(self, tensor: Tensor) -> Tensor:
        """Gathered, if it is in pieces; every process must ask."""
        if type(tensor) is Tensor:
            return tensor
        from fromnoise.train.pieces import full

        return full(tensor)

    def piece(self, whole: Tensor, like: Tensor) -> Tensor:
        """Cut as ``like`` is."""
        from fromnoise.train.pieces import piece

        return piece(whole, like)


@contextmanager
def together(device: torch.device) -> Iterator[Together]:
    """Meet the other processes, by the variables that torchrun sets, and part from them at the end.

    Raises :class:`~fromnoise.errors.Lost` as soon as one of them is gone.
    """
    try:
        if device.type == "cuda":
            torch.cuda.set_device(device)
            dist.init_process_group("nccl", device_id=device, **_meeting_place())
        else:
            dist.init_process_group("gloo", timeout=_PATIENCE, **_meeting_place())
        team = Together(device, int(os.environ.get("LOCAL_RANK", os.environ["RANK"])))
        try:
            yield team
        except Lost:
            raise
        except FromnoiseError:  # What all refuse, or one of them: either way nothing of its own is under way.
            _part()
            raise
        team.wait()  # Who leaves first takes nothing with it that others still need.
        _part()
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or any(word in str(error).lower() for word in _GONE):
            raise Lost("another process of this training is gone; from the last checkpoint all can go on") from error
        raise


def _meeting_place() -> dict[str, Any]:
    """Where torchrun lends a store, a part of it that those of earlier attempts do not know."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != str(True):
        return {}
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = dist.TCPStore(address, port, size, is_master=False, timeout=_PATIENCE)
    return {"store": own_store(store, rank, size, _PATIENCE), "rank": rank, "world_size": size}


def _part() -> None:
    """Leave the group, and what DDP has left as well: a thread that outlives Python is a crash at its end."""
    gc.collect()
    dist.destroy_process_group()


def _in_pieces(network: nn.Module) -> bool:
    return any(type(parameter) is not nn.Parameter for parameter in network.parameters())
