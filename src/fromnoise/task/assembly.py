"""What trains: network, learner, denoiser and batches, put together as the settings say. Nothing here is written."""

from dataclasses import dataclass

import torch
from torch import nn

from fromnoise.config import Config, build_denoiser, build_network, build_pipeline
from fromnoise.data import Dataset
from fromnoise.denoiser import Denoiser
from fromnoise.errors import WrongUse
from fromnoise.network import UNet
from fromnoise.task.precision import pays_to_compile
from fromnoise.train import Learner
from fromnoise.train.augment import DRAWS
from fromnoise.train.batches import Batches
from fromnoise.train.team import Alone, Team
from fromnoise.types import Shape


@dataclass(frozen=True)
class Assembly:
    """The parts of a training. ``shape`` is that of x_0, (C, H, W); ``denoiser`` calls the learner's network."""

    config: Config
    pictures: Dataset
    team: Team
    shape: Shape
    learner: Learner
    denoiser: Denoiser

    def batches(self, seed: int) -> Batches:
        """What the steps see, on this process."""
        settings = self.config.train
        return Batches(
            pictures=self.pictures,
            shape=self.shape,
            batch_size=settings.batch_size,
            seed=seed,
            flip=settings.flip,
            label_dropout=settings.label_dropout,
            null_label=len(self.config.data.class_names),
            rank=self.team.rank,
            size=self.team.size,
            draws=DRAWS if settings.augment.active else 0,
            pin=self.learner.parameters[0].device.type == "cuda",
        )


def assemble(
    config: Config, pictures: Dataset, device: torch.device, *, steps: int, team: Team | None = None
) -> Assembly:
    """For a run of so many steps with settled settings. Raises ``WrongUse`` for parts that do not fit together."""
    settings, team = config.train, team or Alone()
    if settings.batch_size % (team.size * settings.accumulate):
        raise WrongUse(
            f"[train] batch_size = {settings.batch_size} cannot be shared evenly by {team.size} processes in "
            f"{settings.accumulate} parts each: take a multiple of {team.size * settings.accumulate}"
        )
    network = build_network(config)
    shape = build_pipeline(config, network).shape
    let_recompute(config, network)
    if not (settings.shard and team.size > 1):  # Else it may not fit there; the learner takes it there in pieces.
        network = network.to(device)
        if device.type == "cuda":
            network = network.to(memory_format=torch.channels_last)  # pyright: ignore - a missing overload
    learner = Learner(network, settings, team)
    called: nn.Module = team.share(network)
    if pays_to_compile(settings.compile, device, steps):
        # From outside DDP the compiler sees its buckets, and cuts the backward pass where they can begin to travel.
        called = torch.compile(called)  # pyright: ignore[reportAssignmentType] - it is a module
    denoiser = build_denoiser(config, called, training=True)
    return Assembly(config, pictures, team, shape, learner, denoiser)


def let_recompute(config: Config, network: nn.Module) -> None:
    """Tell the network to compute its activations again, if asked for. Raises ``WrongUse`` if it cannot."""
    if not config.train.recompute:
        return
    if not isinstance(network, UNet):
        raise WrongUse("[train] recompute = true: this network cannot compute its activations again")
    network.recompute = True
