"""Some steps of a training, exactly as a run would do them, and nothing written.

For a look before the run: the first step with its loss, the time of a step, the memory it takes.
"""

from collections.abc import Generator

import torch
from torch import nn

from fromnoise.config import Config, build_denoiser, build_network, build_pipeline
from fromnoise.data import Dataset
from fromnoise.errors import WrongUse
from fromnoise.network import UNet
from fromnoise.task.precision import computing, pays_to_compile
from fromnoise.train import Learner, Report, train
from fromnoise.train.augment import DRAWS
from fromnoise.train.batches import Batches


def refuse_misfits(config: Config, device: torch.device) -> None:
    """Raises ``WrongUse`` for settings that :func:`steps` would refuse, before anything is computed."""
    with computing(config.train.precision, device), torch.device("meta"):
        network = build_network(config)
    _may_recompute(config, network)
    build_pipeline(config, network)
    build_denoiser(config, network, training=True)


def steps(
    config: Config, pictures: Dataset, device: torch.device, *, count: int, total: int
) -> Generator[tuple[Learner, Report], None, None]:
    """The first ``count`` steps of a run of ``total``, each when it is done.

    ``config`` is settled. Raises ``WrongUse`` for settings that do not fit together or ask for what the device lacks.
    """
    settings = config.train
    with computing(settings.precision, device):
        network = build_network(config)
        shape = build_pipeline(config, network).shape
        _may_recompute(config, network)
        network = network.to(device)
        if device.type == "cuda":
            network = network.to(memory_format=torch.channels_last)  # pyright: ignore - a missing overload
        called: nn.Module = network
        if pays_to_compile(settings.compile, device, total):
            called = torch.compile(network)  # pyright: ignore[reportAssignmentType] - it is a module
        denoiser, learner = build_denoiser(config, called, training=True), Learner(network, settings)
        batches = Batches(
            pictures=pictures,
            shape=shape,
            batch_size=settings.batch_size,
            seed=settings.seed,
            flip=settings.flip,
            label_dropout=settings.label_dropout,
            null_label=len(config.data.class_names),
            draws=DRAWS if settings.augment.active else 0,
        )
        for report in train(learner, denoiser, config.objective, config.codec, batches, count):
            yield learner, report


def _may_recompute(config: Config, network: nn.Module) -> None:
    if config.train.recompute:
        if not isinstance(network, UNet):
            raise WrongUse("[train] recompute = true: this network cannot compute its activations again")
        network.recompute = True
