"""Opens what was trained: a run folder, or a single file of weights that carries its settings."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from fromnoise import checkpoint
from fromnoise.config import Config, build_network, build_pipeline, parse, sampled_as
from fromnoise.errors import FromnoiseError, WrongUse
from fromnoise.pipeline import Pipeline, Values
from fromnoise.schema import read_toml
from fromnoise.types import ImageArray


@dataclass(frozen=True)
class Run:
    """A trained model with its settings: ``pipeline`` draws, ``images`` is how many pictures training has seen.

    ``warnings`` says what was passed over when opening, such as a damaged checkpoint.
    """

    path: Path
    config: Config
    network: nn.Module
    pipeline: Pipeline
    images: int
    warnings: tuple[str, ...] = ()

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the labels; empty for a model without."""
        return self.pipeline.classes

    def sample(
        self,
        n: int = 16,
        *,
        seed: int = 0,
        labels: int | Sequence[int] | None = None,
        values: Values | None = None,
        batch_size: int = 64,
    ) -> ImageArray:
        """``n`` pictures, uint8 (n, H, W, C). See :meth:`fromnoise.pipeline.Pipeline.sample`."""
        return self.pipeline.sample(n, seed=seed, labels=labels, values=values, batch_size=batch_size)

    def sampled_as(
        self,
        sampler: str | None = None,
        *,
        steps: int | None = None,
        eta: float | None = None,
        variance: str | None = None,
        guidance: float | None = None,
    ) -> "Run":
        """The same model with another sampler ("unipc", "ancestral", …), number of steps, η, variance, guidance scale.

        Raises ``WrongUse`` for what is not known or does not fit.
        """
        changed = sampled_as(self.config, sampler=sampler, steps=steps, eta=eta, variance=variance, guidance=guidance)
        return with_config(self, changed)

    def to(self, device: str | torch.device) -> "Run":
        """The same run with its network on ``device``."""
        self.pipeline.denoiser.to(device)
        return self


def open_run(path: str | Path, *, weights: str = "ema", device: str | torch.device | None = None) -> Run:
    """Open a run folder (its newest whole checkpoint) or one of our ``.safetensors`` files.

    ``weights`` is "ema" (the averaged ones) or "model", for a folder. ``device`` defaults to the GPU if there is one.
    Raises ``WrongUse`` if nothing of ours is there, ``FromnoiseError`` if what is there is damaged.
    """
    path = Path(path)
    warnings: tuple[str, ...] = ()
    if weights not in {"ema", "model"}:
        raise WrongUse(f"weights = {weights!r}: should be 'ema' or 'model'")
    if path.is_dir():
        folder = checkpoint.RunFolder(path)
        found, damaged = folder.latest()
        if found is None:
            if damaged:
                many = "" if len(damaged) == 1 else f"none of the {len(damaged)} checkpoints is whole; the newest: "
                raise FromnoiseError(f"{many}{damaged[0]}")
            what = "no checkpoint yet" if folder.config.is_file() else "no run: config.toml is missing"
            raise WrongUse(f"{path} holds {what}")
        warnings, file = tuple(f"{error}; passed over" for error in damaged), found.file(weights)
    elif path.is_file():
        file = path
    else:
        raise WrongUse(f"{path} is not there: expected a run folder or a .safetensors file")
    tensors, metadata = checkpoint.read_weights(file)
    if metadata.get("what") == "optimizer":
        raise WrongUse(f"{file} is an optimizer's state; sample from model.safetensors or ema.safetensors")
    try:
        config = parse(read_toml(metadata["config"], str(file)), str(file))
        network = build_network(config)
        with _misfits_named():
            network.load_state_dict(tensors)
        images = int(metadata["images"])
    except (WrongUse, KeyError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise FromnoiseError(f"{file} does not fit the settings that it carries: {reason}") from error
    network.to(pick_device(device)).eval().requires_grad_(False)
    return Run(path, config, network, build_pipeline(config, network), images, warnings)


@contextlib.contextmanager
def _misfits_named() -> Iterator[None]:
    """PyTorch tells of wrong names and shapes by the same error as of too little memory."""
    try:
        yield
    except RuntimeError as error:
        raise ValueError(str(error)) from error


def pick_device(device: str | torch.device | None = None) -> torch.device:
    """``device``, or the first GPU, or the CPU. Raises ``WrongUse`` for a device that is not there."""
    if device is None or device == "auto":
        return torch.device(
            "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        )
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise WrongUse(f"device {str(device)!r} is not to be had here: {str(error).splitlines()[0]}") from error
    return chosen


def with_config(run: Run, config: Config) -> Run:
    """The same trained network under other settings of sampling. Raises ``WrongUse`` for parts that do not fit."""
    return replace(run, config=config, pipeline=build_pipeline(config, run.network))
