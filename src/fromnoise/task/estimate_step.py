"""Some steps of a training, exactly as a run would do them, and nothing written.

For a look before the run: the first step with its loss, the time of a step, the memory it takes.
"""

from collections.abc import Generator

import torch

from fromnoise.config import Config, build_denoiser, build_network, build_pipeline
from fromnoise.data import Dataset
from fromnoise.errors import WrongUse
from fromnoise.task.assembly import assemble, let_recompute
from fromnoise.task.precision import computing
from fromnoise.train import Learner, Report, train


def refuse_misfits(config: Config, device: torch.device) -> None:
    """Raises ``WrongUse`` for settings that :func:`steps` would refuse, before anything is computed."""
    settings = config.train
    with computing(settings.precision, device, deterministic=settings.deterministic), torch.device("meta"):
        network = build_network(config)
    let_recompute(config, network)
    build_pipeline(config, network)
    build_denoiser(config, network, training=True)


def refuse_uneven(config: Config, processes: int) -> None:
    """Raises ``WrongUse`` for a batch that so many processes would refuse to share, as each of them would say it."""
    train = config.train
    if train.batch_size % (processes * train.accumulate):
        raise WrongUse(
            f"[train] batch_size = {train.batch_size} cannot be shared evenly by {processes} processes in "
            f"{train.accumulate} parts each: take a multiple of {processes * train.accumulate}"
        )


def steps(
    config: Config, pictures: Dataset, device: torch.device, *, count: int, total: int
) -> Generator[tuple[Learner, Report], None, None]:
    """The first ``count`` steps of a run of ``total``, each when it is done.

    ``config`` is settled. Raises ``WrongUse`` for settings that do not fit together or ask for what the device lacks.
    """
    settings = config.train
    with computing(settings.precision, device, deterministic=settings.deterministic):
        made = assemble(config, pictures, device, steps=total)
        batches = made.batches(settings.seed)
        for report in train(made.learner, made.denoiser, config.objective, config.codec, batches, count):
            yield made.learner, report
