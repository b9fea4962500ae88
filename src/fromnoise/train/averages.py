"""Snapshots of averaged weights on the disk, and their weighted sum.

    RUN/averages/000050000-0.050.safetensors        by pictures seen and relative width

A snapshot is written aside, synced and renamed: it is whole or absent. It carries its settings like every file of ours,
so it may be sampled from as it is. Half precision (float16) halves the disk; its rounding, 2⁻¹¹ of a weight, adds up to
no more than Σ|w_i| of that in a combination, which is below 2 between the tracked widths.
"""

import contextlib
import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import safetensors
import torch
from torch import Tensor

from fromnoise.checkpoint import Damaged, write_weights
from fromnoise.errors import FromnoiseError
from fromnoise.files import explained, sync
from fromnoise.train.posthoc import NARROWEST, WIDEST

_ENDING = ".safetensors"


@dataclass(frozen=True)
class Snapshot:
    """One stored average: the file, pictures seen, and relative width."""

    path: Path
    images: int
    sigma_rel: float


@dataclass(frozen=True)
class Head:
    """What a snapshot says of itself before its numbers are read: its settings, and a digest of names and shapes."""

    config: str
    network: str


@dataclass(frozen=True)
class Averages:
    """The snapshots of a run. ``path`` is their folder; it is made by the first one."""

    path: Path

    @staticmethod
    def of(run: Path) -> "Averages":
        """Those of a run folder."""
        return Averages(run / "averages")

    def file(self, images: int, sigma_rel: float) -> Path:
        """Where the snapshot of a width after so many pictures lies."""
        width = f"{sigma_rel:.3f}"
        return self.path / f"{images:09d}-{width if float(width) == sigma_rel else repr(sigma_rel)}{_ENDING}"

    def write(
        self, images: int, sigma_rel: float, tensors: Mapping[str, Tensor], *, config: str, half: bool = False
    ) -> Path:
        """Write one snapshot, in float16 if ``half``; one that is there is replaced.

        Raises ``FromnoiseError`` if the disk is full or refuses, or if a weight is too large for float16.
        """
        final = self.file(images, sigma_rel)
        if half:
            tensors = {name: _halved(name, value) for name, value in tensors.items()}
        write_single(final, tensors, config=config, images=images, what=f"average {sigma_rel!r}")
        return final

    def found(self) -> list[Snapshot]:
        """All snapshots, the earliest first. Files with other names are not ours and are passed over."""
        snapshots = []
        for path in self.path.glob(f"*{_ENDING}") if self.path.is_dir() else ():
            images, _, width = path.name.removesuffix(_ENDING).partition("-")
            with contextlib.suppress(ValueError):
                snapshot = Snapshot(path, int(images), float(width))
                if NARROWEST <= snapshot.sigma_rel <= WIDEST and path == self.file(snapshot.images, snapshot.sigma_rel):
                    snapshots.append(snapshot)
        return sorted(snapshots, key=lambda snapshot: (snapshot.images, snapshot.sigma_rel))

    def rewind(self, images: int) -> None:
        """Remove snapshots later than ``images``, of a future that a resumed run will not repeat; and left-overs."""
        with explained(f"cannot write to {self.path}"):
            for snapshot in self.found():
                if snapshot.images > images:
                    snapshot.path.unlink(missing_ok=True)
            for pattern in (".*.part", ".tmp*"):  # Ours, and what safetensors itself writes aside.
                for left_over in self.path.glob(pattern) if self.path.is_dir() else ():
                    left_over.unlink(missing_ok=True)


def read_head(path: Path) -> Head:
    """That of a snapshot. Raises :class:`Damaged` for a file that is not whole, or was written by somebody else."""
    with _whole(path) as file:
        config = (file.metadata() or {}).get("config")
        if config is None:
            raise Damaged(f"{path} was not written by fromnoise: it carries no settings")
        shapes = sorted((name, tuple(file.get_slice(name).get_shape())) for name in file.keys())  # noqa: SIM118
        return Head(config, hashlib.sha256(repr(shapes).encode()).hexdigest())


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[safetensors.safe_open]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            yield file
    except (safetensors.SafetensorError, OSError) as error:
        raise Damaged(f"{path} is not a whole safetensors file: {' '.join(str(error).split())}") from error


def write_single(path: Path, tensors: Mapping[str, Tensor], *, config: str, images: int, what: str) -> None:
    """One safetensors file with its settings, whole or absent. Raises ``FromnoiseError`` if the disk refuses."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    with explained(f"cannot write {path}"):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_weights(aside, tensors, config=config, images=images, what=what)
            os.replace(aside, path)
            sync(path.parent)
        finally:
            aside.unlink(missing_ok=True)


def _halved(name: str, value: Tensor) -> Tensor:
    if not value.is_floating_point():
        return value
    half = value.detach().half()
    if not torch.isfinite(half).all():
        raise FromnoiseError(f"{name} holds weights that float16 cannot (beyond 65504, or no number): store float32")
    return half


class Blend:
    """A weighted sum of networks that grows one network, and in it one tensor, at a time.

    It holds one network in float64, however many are added; integers and truth values are those of the last one.
    """

    def __init__(self) -> None:
        self._sum: dict[str, Tensor] = {}

    def add(self, source: Path | Mapping[str, Tensor], weight: float) -> dict[str, str]:
        """Add ``weight`` times a safetensors file or a state dict; returns what the file says of itself.

        Raises :class:`Damaged` for a file that is not whole, holds no numbers or does not fit the others.
        """
        if isinstance(source, Mapping):
            self._add("a state dict", source, weight)
            return {}
        with _whole(source) as file:
            self._add(str(source), _Lazy(file), weight)
            return file.metadata() or {}

    def result(self) -> dict[str, Tensor]:
        """The sum, on the CPU, floating-point tensors in float32. The blend is empty afterwards."""
        names = list(self._sum)
        return {name: _single(self._sum.pop(name)) for name in names}

    def _add(self, where: str, tensors: "Mapping[str, Tensor] | _Lazy", weight: float) -> None:
        names = set(tensors.keys())
        if self._sum and names != self._sum.keys():
            odd = sorted(names ^ self._sum.keys())[0]
            raise Damaged(f"{where} is of another network than the others: {odd!r} is only in some of them")
        for name in names:
            value = tensors[name].detach().cpu()
            known = self._sum.get(name)
            if known is not None and known.shape != value.shape:
                raise Damaged(f"{where} is of another network than the others: {name!r} has another shape")
            if not value.is_floating_point():
                self._sum[name] = value.clone()
                continue
            if not torch.isfinite(value).all():
                raise Damaged(f"{where} holds values that are no numbers, in {name!r}")
            if known is None:
                self._sum[name] = value.double() * weight
            else:
                known.add_(value.double(), alpha=weight)


class _Lazy:
    """A safetensors file whose tensors are read when they are asked for."""

    def __init__(self, file: safetensors.safe_open) -> None:
        self._file = file

    def keys(self) -> Iterable[str]:
        return self._file.keys()

    def __getitem__(self, name: str) -> Tensor:
        return self._file.get_tensor(name)


def _single(value: Tensor) -> Tensor:
    return value.float() if value.is_floating_point() else value


def reconstruct(sources: Sequence[Path | Mapping[str, Tensor]], weights: Sequence[float]) -> dict[str, Tensor]:
    """Σ w_i θ_i of safetensors files or state dicts, summed in float64, given in float32.

    Sources of weight 0 are not opened. Raises :class:`Damaged` as :meth:`Blend.add` does, and ``ValueError`` if all the
    weights are 0 or their number is another one.
    """
    blend = Blend()
    for source, weight in zip(sources, weights, strict=True):
        if weight:
            blend.add(source, float(weight))
    tensors = blend.result()
    if not tensors:
        raise ValueError("nothing to combine: every weight is 0")
    return tensors
