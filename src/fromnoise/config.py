"""The tree of settings: TOML in, objects out. The only table from names to classes is here.

A setting is found by its section and key; ``kind`` picks the class of a section, and the other keys are its fields.
Everything is checked when it is read; an unknown key is refused with the nearest known one.
"""

import importlib.resources
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomli_w
import torch
from torch import nn

from fromnoise import schedule as schedules
from fromnoise.codec import Codec, Pixels
from fromnoise.denoiser import Clip, Denoiser
from fromnoise.errors import WrongUse, nearest
from fromnoise.ladder import All, Spacing, Strided
from fromnoise.network import UNet
from fromnoise.objective import Even, Objective, Times, UniformSteps, Weighting
from fromnoise.parameterization import Epsilon, Parameterization, Sample, Velocity
from fromnoise.pipeline import Pipeline
from fromnoise.sampler import Ancestral, Sampler
from fromnoise.schedule import DiscreteSchedule, Linear, Schedule
from fromnoise.schema import decode, encode, fields_of, read_toml
from fromnoise.train.settings import TrainSettings
from fromnoise.transition import Large, LearnedRange, Small, Variance


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """[data]: which pictures, and what the network sees of them."""

    path: str = "digits"
    """A folder, or "digits" for the embedded ones."""
    height: int | None = None
    """In pixels; left out, a size that fits the pictures."""
    width: int | None = None
    """In pixels; left out, as the height."""
    channels: int | None = None
    """1, 3 or 4; left out, 1 if all pictures looked at are grey, else 3."""
    background: tuple[int, int, int] = (255, 255, 255)
    """What transparent pictures are laid over, unless channels = 4."""
    classes: bool = False
    """Whether the sub-folders are classes. The embedded digits always have theirs."""
    class_names: tuple[str, ...] = ()
    """Found in the data; saved with the run."""
    held_out: float = 0.0
    """Share of the pictures, of every class alike, that training does not see and scores are taken against."""
    strict: bool = False
    """Refuse a folder with unreadable pictures, where they are otherwise skipped."""

    def __post_init__(self) -> None:
        """Raises ``WrongUse`` for values that make no sense."""
        for name in ("height", "width"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise WrongUse(f"[data] {name} = {value}: must be at least 1 pixel")
        if self.channels not in {None, 1, 3, 4}:
            raise WrongUse(f"[data] channels = {self.channels}: known are 1 (grey), 3 (RGB) and 4 (RGBA)")
        if not 0 <= self.held_out < 1:
            raise WrongUse(f"[data] held_out = {self.held_out}: is a share, from 0 up to but not including 1")


class NetworkSettings(ABC):
    """[network]: which network, and of what size."""

    @abstractmethod
    def build(self, in_channels: int, out_channels: int, size: tuple[int, int], num_classes: int) -> nn.Module:
        """The network, freshly initialised, for pictures of ``size`` (height, width)."""


@dataclass(frozen=True, kw_only=True)
class UNetSettings(NetworkSettings):
    """The paper's U-Net; the defaults are those for CIFAR-10."""

    model_channels: int = 128
    num_res_blocks: int = 2
    attention_resolutions: tuple[int, ...] = (16,)
    channel_mult: tuple[int, ...] = (1, 2, 2, 2)
    dropout: float = 0.0

    def __post_init__(self) -> None:
        """Raises ``WrongUse`` for values that describe no network."""
        if self.model_channels < 4 or self.num_res_blocks < 1:
            wrong = "model_channels" if self.model_channels < 4 else "num_res_blocks"
            least = 4 if self.model_channels < 4 else 1
            raise WrongUse(f"[network] {wrong} = {getattr(self, wrong)}: must be at least {least}")
        if not self.channel_mult or min(self.channel_mult) < 1:
            raise WrongUse(f"[network] channel_mult = {list(self.channel_mult)}: needs a number, at least 1, a level")
        if not 0 <= self.dropout < 1:
            raise WrongUse(f"[network] dropout = {self.dropout}: must lie between 0 and 1, 1 not included")

    def build(self, in_channels: int, out_channels: int, size: tuple[int, int], num_classes: int) -> nn.Module:
        """Raises ``WrongUse`` for settings that describe no network, and for a size its levels do not divide."""
        step = 2 ** (len(self.channel_mult) - 1)
        for name, side in zip(("height", "width"), size, strict=True):
            if side % step or side < step:
                near = sorted({max(step, side // step * step), side // step * step + step})
                raise WrongUse(
                    f"[data] {name} = {side}: the network's {len(self.channel_mult)} levels need a multiple of {step}; "
                    f"take {' or '.join(str(n) for n in near)}"
                )
        try:
            return UNet(in_channels, out_channels, **fields_of(self), resolution=min(size), num_classes=num_classes)
        except ValueError as error:
            raise WrongUse(f"[network] {error}") from error


@dataclass(frozen=True, kw_only=True)
class SamplingSettings:
    """[sampling]: how the model is sampled unless told otherwise."""

    sampler: Sampler[Any] = field(default_factory=Ancestral)
    spacing: Spacing = field(default_factory=All)
    clip: float = 1.0
    """x_0 is kept within ± this; 0 for no limit."""

    def __post_init__(self) -> None:
        """Raises ``WrongUse`` for a negative limit."""
        if not self.clip >= 0:
            raise WrongUse(f"[sampling] clip = {self.clip}: must not be negative")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Every setting of a run, checked."""

    data: DataSettings = field(default_factory=DataSettings)
    codec: Codec = field(default_factory=Pixels)
    network: NetworkSettings = field(default_factory=UNetSettings)
    schedule: Schedule = field(default_factory=Linear)
    parameterization: Parameterization = field(default_factory=Epsilon)
    objective: Objective = field(default_factory=Objective)
    sampling: SamplingSettings = field(default_factory=SamplingSettings)
    train: TrainSettings = field(default_factory=TrainSettings)


TABLES: dict[type, dict[str, type]] = {
    Codec: {"pixels": Pixels},
    NetworkSettings: {"unet": UNetSettings},
    Schedule: {
        "linear": Linear,
        "quad": schedules.Quad,
        "constant": schedules.Constant,
        "cosine": schedules.Cosine,
        "scaled_linear": schedules.ScaledLinear,
        "sigmoid": schedules.Sigmoid,
        "given": schedules.Given,
        "zero_terminal_snr": schedules.ZeroTerminalSNR,
    },
    Parameterization: {
        "epsilon": Epsilon,
        "sample": Sample,
        "velocity": Velocity,
    },
    Variance: {
        "small": Small,
        "large": Large,
        "learned_range": LearnedRange,
    },
    Spacing: {"all": All, "strided": Strided},
    Sampler: {"ancestral": Ancestral},
    Times: {"uniform_steps": UniformSteps},
    Weighting: {"even": Even},
}
TABLES[DiscreteSchedule] = TABLES[Schedule]


def parse(tree: Mapping[str, Any], source: str) -> Config:
    """A tree of plain values, as TOML gives it -> :class:`Config`. ``source`` is named in complaints.

    Raises ``WrongUse``, one line, for an unknown section, key or kind, a wrong type, and values that make no sense.
    """
    return decode(Config, tree, TABLES, source)


def to_tree(config: Config) -> dict[str, Any]:
    """The inverse of :func:`parse`; settings left out (``None``) stay out."""
    return encode(config, TABLES, Config)


def to_toml(config: Config) -> str:
    """The resolved settings as a file."""
    return tomli_w.dumps(to_tree(config))


def presets() -> list[str]:
    """The names of the presets that are shipped."""
    folder = importlib.resources.files("fromnoise") / "presets"
    return sorted(file.name.removesuffix(".toml") for file in folder.iterdir() if file.name.endswith(".toml"))


def preset(name: str) -> dict[str, Any]:
    """The tree of a shipped preset, or of a TOML file given by its path. Raises ``WrongUse`` if there is none."""
    if name.endswith(".toml"):
        try:
            return read_toml(Path(name).read_text(encoding="utf-8"), name)
        except (OSError, UnicodeDecodeError) as error:
            raise WrongUse(f"cannot read the settings in {name}: {error}") from error
    if name not in presets():
        raise WrongUse(f"there is no preset {name!r}; {nearest(name, presets())}")
    file = importlib.resources.files("fromnoise") / "presets" / f"{name}.toml"
    return read_toml(file.read_text(encoding="utf-8"), f"preset {name}")


_AUTOMATIC = ((12, "digits"), (24, "small16"), (48, "small32"), (96, "small64"), (192, "small128"))


def preset_for(side: int) -> str:
    """The preset for pictures with this short side in pixels, when none is named."""
    return next((name for limit, name in _AUTOMATIC if side < limit), "small256")


def build_network(config: Config) -> nn.Module:
    """The network that the resolved settings describe, freshly initialised from the run's seed."""
    data = config.data
    if data.height is None or data.width is None or data.channels is None:
        raise WrongUse("[data] height, width and channels must be known before the network can be built")
    doubled = 2 if learns_variance(config) else 1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.train.seed)
        return config.network.build(
            data.channels, doubled * data.channels, (data.height, data.width), len(data.class_names)
        )


def build_denoiser(config: Config, network: nn.Module, *, training: bool) -> Denoiser:
    """Clipping belongs to sampling, lower precision to training. Raises ``WrongUse`` for parts that do not fit."""
    if training and learns_variance(config):
        raise WrongUse(
            "[sampling.sampler.variance] learned_range cannot be trained by this objective: take small or large"
        )
    clip = None if training or not config.sampling.clip else Clip(limit=config.sampling.clip)
    precision: torch.dtype = getattr(torch, config.train.precision)
    autocast = precision if training and precision != torch.float32 else None
    try:
        return Denoiser(network, config.schedule, config.parameterization, clip=clip, autocast=autocast)
    except ValueError as error:
        raise WrongUse(str(error)) from error


def build_pipeline(config: Config, network: nn.Module) -> Pipeline:
    """The trained thing. Raises ``WrongUse`` for parts that do not fit."""
    data, sampling = config.data, config.sampling
    assert data.channels is not None and data.height is not None and data.width is not None
    denoiser = build_denoiser(config, network, training=False)
    try:
        sampling.spacing.ladder(config.schedule)
    except ValueError as error:
        raise WrongUse(f"[sampling.spacing] {error}") from error
    return Pipeline(
        denoiser=denoiser,
        codec=config.codec,
        shape=(data.channels, data.height, data.width),
        sampler=sampling.sampler,
        spacing=sampling.spacing,
        classes=data.class_names,
    )


def learns_variance(config: Config) -> bool:
    """Whether the network has a second output for the variance."""
    return isinstance(getattr(config.sampling.sampler, "variance", None), LearnedRange)
