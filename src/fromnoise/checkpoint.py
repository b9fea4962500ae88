"""How a run lies on disk; no other file knows.

    RUN/config.toml                     the resolved settings
    RUN/metrics.jsonl                   one line a report
    RUN/captions.jsonl                  a line on every picture trained on, if they have captions: name and caption
    RUN/samples/000050000.png           grids, by pictures seen
    RUN/checkpoints/000050000/          model, ema, optimizer (.safetensors), state.json, and averages if tracked

A checkpoint is written aside, synced, and renamed: it is whole or absent. ``state.json`` holds the size and the SHA-256
of every file, and one of itself, so that damage is noticed before anything is built on it. Nothing here reads or writes
a pickle.
"""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from fromnoise.errors import FromnoiseError
from fromnoise.files import digest, explained, sync, write_whole

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

FORMAT = "fromnoise-1"
_FILES = ("model", "ema", "optimizer")
_ASIDE = ".writing-"
_PARTS = (".config.toml.*.part", ".metrics.jsonl.*.part", ".captions.jsonl.*.part", "samples/.[0-9]*.png.*.part")


class Damaged(FromnoiseError):
    """A file is not what it should be."""


@dataclass(frozen=True)
class RunFolder:
    """The paths of a run, and how its files are written and read. Nothing is made before it is needed."""

    path: Path

    @property
    def config(self) -> Path:
        """The resolved settings."""
        return self.path / "config.toml"

    @property
    def metrics(self) -> Path:
        """One JSON object a line."""
        return self.path / "metrics.jsonl"

    @property
    def captions(self) -> Path:
        """One JSON object a line, with the keys ``name`` and ``caption``."""
        return self.path / "captions.jsonl"

    @property
    def checkpoints(self) -> Path:
        """One folder a checkpoint, named by pictures seen."""
        return self.path / "checkpoints"

    def sample(self, images: int) -> Path:
        """The grid made after so many pictures."""
        return self.path / "samples" / f"{images:09d}.png"

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run against a second training; the system lets go of it when the process ends, however it ends.

        Raises ``FromnoiseError`` if another process holds it. Where the system has no such locks, nothing is held.
        """
        with explained(f"cannot write to {self.path}"):
            self.path.mkdir(parents=True, exist_ok=True)
            file = (self.path / ".lock").open("a")
        with file:
            if fcntl is not None:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError as error:
                    raise FromnoiseError(
                        f"another training is writing to {self.path}: wait for it, or choose another --out"
                    ) from error
                except OSError:  # A network disk without locks: train all the same.
                    pass
            yield

    def start(self, config: str) -> None:
        """Make the folder and write the settings. Left-overs of writes that were cut off are removed."""
        with explained(f"cannot write to {self.path}"):
            self.path.mkdir(parents=True, exist_ok=True)
            write_whole(self.config, config.encode())
            for left_over in self.checkpoints.glob(f"{_ASIDE}*"):
                shutil.rmtree(left_over)
            for pattern in _PARTS:
                for left_over in self.path.glob(pattern):
                    left_over.unlink(missing_ok=True)

    def save(
        self, images: int, tensors: Mapping[str, Mapping[str, Tensor]], state: dict[str, Any], config: str
    ) -> Path:
        """Write a checkpoint: ``tensors`` by file (model, ema, optimizer and any more), ``state`` a small JSON object.

        Raises ``FromnoiseError`` if the disk is full or refuses; earlier checkpoints are untouched then.
        """
        final = self.checkpoints / f"{images:09d}"
        aside = self.checkpoints / f"{_ASIDE}{final.name}-{os.getpid()}"
        with explained(f"could not write the checkpoint {final}; the earlier ones are untouched"):
            try:
                if self.metrics.exists():  # Else a power cut could leave a checkpoint whose past is not on record.
                    sync(self.metrics)
                shutil.rmtree(aside, ignore_errors=True)
                aside.mkdir(parents=True)
                files = {}
                for name, content in tensors.items():
                    file = aside / f"{name}.safetensors"
                    write_weights(file, content, config=config, images=images, what=name)
                    files[file.name] = {"bytes": file.stat().st_size, "sha256": digest(file)}
                record = {"format": FORMAT, "images": images, "files": files, "state": state}
                record["sha256"] = _digest_of_record(record)
                write_whole(aside / "state.json", json.dumps(record, indent=1).encode())
                sync(aside)
                if final.exists():  # Only after a damaged one was passed over, or nothing was trained in between.
                    _remove(final)
                os.rename(aside, final)
                sync(self.checkpoints)
            finally:
                shutil.rmtree(aside, ignore_errors=True)
        return final

    def prune(self, keep: int, images: int, *, every: int = 0) -> None:
        """Remove all but the newest ``keep`` checkpoints, the one of ``images`` just written being the newest.

        Later ones than that were damaged, or the run would have gone on from them; they must not count as kept. With
        ``every``, of all older ones the first at or after each multiple of so many pictures stays as well.
        """
        whole = [folder for folder in self._newest_first() if int(folder.name) <= images]
        kept = set(whole[:keep])
        if every:
            kept |= {min(part, key=_images) for _, part in groupby(reversed(whole), lambda f: _images(f) // every)}
        for old in set(self._newest_first()) - kept:
            with contextlib.suppress(OSError):
                _remove(old)

    def has_checkpoints(self) -> bool:
        """Whether there are any, whole or damaged."""
        return bool(self._newest_first())

    def latest(self, *, below: int | None = None) -> "tuple[Checkpoint | None, list[Damaged]]":
        """The newest checkpoint that verifies, or ``None``, and what was wrong with the newer ones.

        With ``below``, only those of fewer pictures seen count.
        """
        damaged: list[Damaged] = []
        for folder in self._newest_first():
            if below is not None and _images(folder) >= below:
                continue
            try:
                return Checkpoint.open(folder), damaged
            except Damaged as error:
                damaged.append(error)
        return None, damaged

    def write_captions(self, captions: Iterable[tuple[str, str]] | None) -> None:
        """Write (name, caption) of every picture, all or nothing; with ``None``, remove those of an earlier start.

        Raises ``FromnoiseError`` if the disk is full or refuses.
        """
        with explained(f"cannot write to {self.captions}"):
            if captions is None:
                self.captions.unlink(missing_ok=True)
                return
            lines = (json.dumps({"name": name, "caption": text}, ensure_ascii=False) for name, text in captions)
            # What UTF-8 has no bytes for is written as JSON's own escape.
            write_whole(self.captions, "".join(f"{line}\n" for line in lines).encode("utf-8", "backslashreplace"))

    def append_metrics(self, line: dict[str, Any]) -> None:
        """Add one line."""
        with explained(f"cannot write to {self.metrics}"), self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def rewind_metrics(self, images: int) -> None:
        """Drop the lines of steps that a resumed run will do again, and a last line that was cut off.

        Raises ``FromnoiseError``, and leaves the file as it is, if there is a line in it that no run has written.
        """
        with explained(f"cannot read {self.metrics}"):
            if not self.metrics.exists():
                return
            lines = self.metrics.read_bytes().splitlines(keepends=True)
        kept = []
        for number, line in enumerate(lines, 1):
            seen = _images_of_line(line)
            if seen is None and line.strip() and not (number == len(lines) and _is_cut(line)):
                raise FromnoiseError(
                    f'{self.metrics}: line {number} was not written by a run, it is no object with a number "images": '
                    f"remove the line, or move the file away; nothing was changed"
                )
            if seen is not None and line.endswith(b"\n") and seen <= images:
                kept.append(line)
        with explained(f"cannot write to {self.metrics}"):
            write_whole(self.metrics, b"".join(kept))

    def carried_settings(self) -> tuple[Path, str] | None:
        """The newest file of weights that tells the settings of the run, and these; ``None`` if none does.

        Quick, for it looks at the file's head alone: whether the checkpoint is whole, :meth:`latest` says.
        """
        for folder in self._newest_first():
            file = folder / f"{_FILES[0]}.safetensors"
            with contextlib.suppress(Damaged), _opened(file) as (metadata, _):
                return file, metadata["config"]
        return None

    def _newest_first(self) -> list[Path]:
        if not self.checkpoints.is_dir():
            return []
        with explained(f"cannot list {self.checkpoints}"):
            # More characters than these ten count as digits: "²" does, and is no number.
            found = [path for path in self.checkpoints.iterdir() if path.name.isascii() and path.name.isdecimal()]
        return sorted(found, key=lambda path: -int(path.name))


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose files were found whole."""

    path: Path
    images: int
    state: dict[str, Any]
    names: tuple[str, ...]

    @staticmethod
    def open(folder: Path) -> "Checkpoint":
        """Check sizes and digests. Raises :class:`Damaged` naming the first file that is wrong."""
        try:
            record = json.loads((folder / "state.json").read_text(encoding="utf-8"))
            if record.pop("sha256") != _digest_of_record(record):
                raise ValueError("not what was written")
            files, images, state = record["files"], record["images"], record["state"]
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise Damaged(f"checkpoint {folder}: state.json is missing or damaged") from error
        names = [f"{stem}.safetensors" for stem in _FILES]
        for name in names + sorted(files.keys() - names):
            file = folder / name
            wanted = files.get(name, {})
            try:
                whole = file.stat().st_size == wanted.get("bytes") and digest(file) == wanted.get("sha256")
            except OSError:
                whole = False
            if not whole:
                raise Damaged(f"checkpoint {folder}: {name} is missing or damaged")
        return Checkpoint(folder, images, state, tuple(name.removesuffix(".safetensors") for name in files))

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """Everything that was saved, by file."""
        return {name: read_weights(self.file(name))[0] for name in self.names}

    def file(self, name: str) -> Path:
        """The path of one of its files: model, ema or optimizer."""
        return self.path / f"{name}.safetensors"


def write_weights(path: Path, tensors: Mapping[str, Tensor], *, config: str, images: int, what: str) -> None:
    """One safetensors file that carries its settings, synced to disk."""
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    metadata = {"format": FORMAT, "what": what, "images": str(images), "config": config}
    try:
        safetensors.torch.save_file(plain, path, metadata=metadata)
    except safetensors.SafetensorError as error:  # Raised in place of OSError when the disk is full.
        raise OSError(str(error)) from error
    sync(path)


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a file of ours. Raises :class:`Damaged` if it is damaged or somebody else's."""
    with _opened(path) as (metadata, file):
        return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118 - not a dict


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[dict[str, str], Any]]:
    """Metadata of a file of ours, and the open file. Raises as :func:`read_weights` does."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT or "config" not in metadata:
                raise Damaged(f"{path} was not written by fromnoise: it carries no settings, so the network is unknown")
            yield metadata, file
    except FileNotFoundError as error:
        raise Damaged(f"{path} is not there") from error
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise Damaged(f"{path} is not a whole safetensors file: {' '.join(str(error).split())}") from error


def _remove(checkpoint: Path) -> None:
    """All at once to whoever looks: cut off in the middle, it would be a damaged checkpoint."""
    aside = checkpoint.with_name(f"{_ASIDE}not-{checkpoint.name}-{os.getpid()}")
    os.rename(checkpoint, aside)
    shutil.rmtree(aside, ignore_errors=True)


def _images(folder: Path) -> int:
    return int(folder.name)


def _images_of_line(line: bytes) -> float | None:
    """How many pictures had been seen by a line of metrics; ``None`` if it is none."""
    try:
        seen = json.loads(line)["images"]
    except (ValueError, KeyError, TypeError, IndexError, RecursionError):
        return None
    return seen if isinstance(seen, int | float) and not isinstance(seen, bool) else None


def _is_cut(line: bytes) -> bool:
    """Whether a last line may be what a process that was killed, or a power cut, has left of one."""
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return True
    return not line.endswith(b"\n")


def _digest_of_record(record: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
