"""The tree of settings: its sections, their keys, and what they allow."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from fromnoise.codec import Codec, Pixels
from fromnoise.data.conditions import Columns
from fromnoise.data.fit import FILTERS
from fromnoise.data.placement import PLACEMENTS
from fromnoise.data.quantities import Quantities
from fromnoise.denoiser import Clip, Clipping
from fromnoise.errors import WrongUse, nearest
from fromnoise.ladder import Spacing, UniformLogSNR
from fromnoise.network import UNet
from fromnoise.objective import Objective, Simple
from fromnoise.parameterization import Epsilon, Parameterization
from fromnoise.sampler import DPMSolver2M, Sampler
from fromnoise.schedule import Linear, Schedule
from fromnoise.schema import fields_of
from fromnoise.train.settings import TrainSettings
from fromnoise.transition import Large, Variance


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """[data]: which pictures, and what the network sees of them."""

    path: str = "digits"
    """A folder, a file or a pattern of files, hub:OWNER/NAME, or "digits" or "emoji" for the embedded ones."""
    height: int | None = None
    """In pixels; left out, a size that fits the pictures."""
    width: int | None = None
    """In pixels; left out, as the height."""
    channels: int | None = None
    """1, 3 or 4; left out, 1 if all pictures looked at are grey, else 3."""
    fit: str = "crop"
    """What becomes of pictures of other proportions: crop, pad or stretch."""
    filter: str = "lanczos"
    """How pixels are weighed in resizing: lanczos, bicubic, bilinear, box or nearest."""
    background: tuple[int, int, int] = (255, 255, 255)
    """What transparent pictures are laid over, unless channels = 4."""
    classes: bool = False
    """Whether the labels that the pictures have are classes: sub-folders, or what a table says. The embedded pictures
    always have theirs."""
    labels: str | None = None
    """A table of labels, captions or values beside the pictures: CSV, JSON, JSONL, or EDM's dataset.json."""
    columns: Columns = field(default_factory=Columns)
    """What the columns of such a table, or of a parquet file, are called."""
    split: str | None = None
    """Which split, of a data set that has several."""
    class_names: tuple[str, ...] = ()
    """Found in the data; saved with the run."""
    quantities: Quantities = field(default_factory=Quantities)
    """The numbers that the pictures are told with: found in the data; saved with the run."""
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
        for name, known in (("fit", PLACEMENTS), ("filter", FILTERS)):
            if getattr(self, name) not in known:
                value = getattr(self, name)
                raise WrongUse(f"[data] {name} = {value!r} is not known; {nearest(value, known)}")
        if self.channels not in {None, 1, 3, 4}:
            raise WrongUse(f"[data] channels = {self.channels}: known are 1 (grey), 3 (RGB) and 4 (RGBA)")
        if not 0 <= self.held_out < 1:
            raise WrongUse(f"[data] held_out = {self.held_out}: is a share, from 0 up to but not including 1")


class NetworkSettings(ABC):
    """[network]: which network, and of what size."""

    @abstractmethod
    def build(
        self,
        in_channels: int,
        out_channels: int,
        size: tuple[int, int],
        num_classes: int,
        values: tuple[tuple[float, float], ...] = (),
        num_augment: int = 0,
    ) -> nn.Module:
        """The network, freshly initialised, for pictures of ``size`` (height, width).

        ``values`` has the (mean, deviation) of every number that pictures are told with; ``num_augment`` is how many
        numbers tell what was done to a picture in training.
        """


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

    def build(
        self,
        in_channels: int,
        out_channels: int,
        size: tuple[int, int],
        num_classes: int,
        values: tuple[tuple[float, float], ...] = (),
        num_augment: int = 0,
    ) -> nn.Module:
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
            return UNet(
                in_channels,
                out_channels,
                **fields_of(self),
                resolution=min(size),
                num_classes=num_classes,
                values=values,
                num_augment=num_augment,
            )
        except ValueError as error:
            raise WrongUse(f"[network] {error}") from error


@dataclass(frozen=True, kw_only=True)
class GuidanceSettings:
    """[sampling.guidance]: how strongly a model is pushed towards the class or the values asked for."""

    scale: float = 1.0
    """w in u + w(c − u): 1 for none, above 1 for more."""
    low: float = 0.0
    """Guided only at times from this share of the clock …"""
    high: float = 1.0
    """… up to this one."""
    rescale: float = 0.0
    """How much of the contrast that guidance adds is taken back, 0 to 1."""

    def __post_init__(self) -> None:
        """Raises ``WrongUse`` for values that make no sense."""
        if not 0 <= self.low <= self.high <= 1:
            raise WrongUse(f"[sampling.guidance] low = {self.low}, high = {self.high}: need 0 <= low <= high <= 1")
        if not 0 <= self.rescale <= 1:
            raise WrongUse(f"[sampling.guidance] rescale = {self.rescale}: must lie between 0 and 1")
        if not abs(self.scale) < float("inf"):
            raise WrongUse(f"[sampling.guidance] scale = {self.scale}: must be a number; 1 is none")


@dataclass(frozen=True, kw_only=True)
class SamplingSettings:
    """[sampling]: how the model is sampled unless told otherwise."""

    sampler: Sampler[Any] = field(default_factory=DPMSolver2M)
    spacing: Spacing = field(default_factory=UniformLogSNR)
    variance: Variance = field(default_factory=Large)
    """Of the paper's chain, where it goes through all its steps: for the ancestral sampler, and in the bound."""
    clip: Clipping = field(default_factory=Clip)
    """What is done to estimates of x_0 that lie outside the range of pictures."""
    guidance: GuidanceSettings = field(default_factory=GuidanceSettings)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Every setting of a run, checked."""

    data: DataSettings = field(default_factory=DataSettings)
    codec: Codec = field(default_factory=Pixels)
    network: NetworkSettings = field(default_factory=UNetSettings)
    schedule: Schedule = field(default_factory=Linear)
    parameterization: Parameterization = field(default_factory=Epsilon)
    objective: Objective = field(default_factory=Simple)
    sampling: SamplingSettings = field(default_factory=SamplingSettings)
    train: TrainSettings = field(default_factory=TrainSettings)
