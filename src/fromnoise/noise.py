"""Where randomness comes from. Nothing here has a state worth saving.

* Sampling has one seed a picture: picture k is the same in any batch, on any number of processes.
* Training draws from keys such as (seed, step, index): a run resumed is the run uninterrupted.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor


def key_to_seed(*key: int | str) -> int:
    """A 63-bit seed that depends on every part of the key; near keys give unrelated seeds.

    ``(1, 23)`` and ``(12, 3)`` differ, and so do ``1`` and ``"1"``.
    """
    plain = tuple(part if isinstance(part, str) else int(part) for part in key)  # NumPy's integers print otherwise.
    digest = hashlib.blake2b(repr(plain).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(*key: int | str) -> torch.Generator:
    """A generator on the CPU that depends on nothing but the key."""
    return torch.Generator().manual_seed(key_to_seed(*key))


class Noise(ABC):
    """A source of standard normal noise for a batch: each call gives the next draw, (B, C, H, W), float32."""

    @abstractmethod
    def __call__(self) -> Tensor:
        """The next draw."""


class SeededNoise(Noise):
    """One generator a picture. ``shape`` is (C, H, W); draws are made on the CPU and moved to ``device``.

    Drawn on the CPU so that the same seeds give the same pictures on every device.
    """

    def __init__(self, seeds: Sequence[int], shape: Sequence[int], device: torch.device | str = "cpu") -> None:
        self._generators = [generator("sample", int(seed)) for seed in seeds]
        self._shape, self._device = tuple(shape), torch.device(device)

    def __call__(self) -> Tensor:
        """The next draw, (B, C, H, W), float32."""
        out = torch.empty((len(self._generators), *self._shape), pin_memory=self._device.type == "cuda")
        for row, source in zip(out, self._generators, strict=True):
            row.normal_(generator=source)
        return out.to(self._device, non_blocking=True)


class GivenNoise(Noise):
    """Draws that were made elsewhere, in their order: for comparing with other implementations.

    Raises ``ValueError`` when asked for more than there are.
    """

    def __init__(self, draws: Iterable[Tensor]) -> None:
        self._draws = iter(draws)

    def __call__(self) -> Tensor:
        """The next draw."""
        draw = next(self._draws, None)
        if draw is None:
            raise ValueError("more noise was asked for than was given")
        return draw
