"""The processes that train together: who takes which share, and how they agree.

Every process sees its share of each step's pictures; gradients are averaged over them, so the step is that of one
process with the whole batch. Each holds the whole network, or a piece of it if the network is too large for that.
`Alone` is a team of one, and the only one without a network of machines; `distributed.Together` speaks through
torch.distributed.
"""

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext

from torch import Tensor, nn


class Team(ABC):
    """``rank`` is this process's number, 0 … ``size`` − 1; number 0 alone writes."""

    rank: int
    size: int

    @property
    def leads(self) -> bool:
        """Whether this process is the one that writes and speaks."""
        return self.rank == 0

    @abstractmethod
    def gather(self, share: Tensor) -> Tensor:
        """The shares (n, …) of all processes, one after the other: (size · n, …)."""

    @abstractmethod
    def agree(self, flag: bool) -> bool:
        """Whether any process says yes: the same answer everywhere."""

    @abstractmethod
    def wait(self) -> None:
        """Until all processes are here."""

    @abstractmethod
    def in_turn(self) -> AbstractContextManager[None]:
        """In here, of the processes of one machine, the others do what the first has done, after it."""

    @abstractmethod
    def share(self, network: nn.Module) -> nn.Module:
        """``network`` as it is to be called, so that its backward passes average the gradients over the team."""

    @abstractmethod
    def unshared(self, called: nn.Module) -> AbstractContextManager[None]:
        """In here, backward passes of ``called`` keep their gradients to themselves: for all parts but the last."""

    @abstractmethod
    def cut(self, network: nn.Module) -> None:
        """Lay the weights of ``network``, which is not on the device yet, out over the team: each has a piece."""

    @abstractmethod
    def full(self, tensor: Tensor) -> Tensor:
        """The whole of a tensor that may be in pieces. All processes must call."""

    @abstractmethod
    def piece(self, whole: Tensor, like: Tensor) -> Tensor:
        """This process's part of ``whole``, which all have, cut as ``like`` is."""


class Alone(Team):
    """One process."""

    rank = 0
    size = 1

    def gather(self, share: Tensor) -> Tensor:
        """Itself."""
        return share

    def agree(self, flag: bool) -> bool:
        """Itself."""
        return flag

    def wait(self) -> None:
        """Nobody to wait for."""

    def in_turn(self) -> AbstractContextManager[None]:
        """At once."""
        return nullcontext()

    def share(self, network: nn.Module) -> nn.Module:
        """Itself."""
        return network

    def unshared(self, called: nn.Module) -> AbstractContextManager[None]:
        """Nothing to keep back."""
        return nullcontext()

    def cut(self, network: nn.Module) -> None:
        """One piece is the whole."""

    def full(self, tensor: Tensor) -> Tensor:
        """Itself."""
        return tensor

    def piece(self, whole: Tensor, like: Tensor) -> Tensor:
        """The whole."""
        return whole
