"""Settings into the things they describe."""

from dataclasses import replace

import torch
from torch import nn

from fromnoise.config.tree import Config
from fromnoise.denoiser import Denoiser, Estimator
from fromnoise.errors import WrongUse
from fromnoise.guidance import ClassifierFree
from fromnoise.parameterization import Karras, PosteriorMean
from fromnoise.pipeline import Pipeline
from fromnoise.sampler import check
from fromnoise.schedule import DiscreteSchedule
from fromnoise.train.augment import LABELS
from fromnoise.transition import LearnedRange

_AUTOCAST = {"bfloat16": torch.bfloat16, "float16": torch.float16}  # The other precisions are no autocast.


def build_network(config: Config) -> nn.Module:
    """The network that the resolved settings describe, freshly initialised from the run's seed."""
    data = config.data
    if data.height is None or data.width is None or data.channels is None:
        raise WrongUse("[data] height, width and channels must be known before the network can be built")
    doubled = 2 if config.objective.learns_variance else 1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.train.seed)
        return config.network.build(
            data.channels,
            doubled * data.channels,
            (data.height, data.width),
            len(data.class_names),
            data.quantities.standard,
            LABELS if config.train.augment.active else 0,
        )


def build_denoiser(config: Config, network: nn.Module, *, training: bool) -> Denoiser:
    """Clipping belongs to sampling, lower precision to training. Raises ``WrongUse`` for parts that do not fit."""
    clip = None if training else config.sampling.clip
    autocast = _AUTOCAST.get(config.train.precision) if training else None
    parameterization = config.parameterization
    if isinstance(parameterization, PosteriorMean) and isinstance(config.schedule, DiscreteSchedule):
        parameterization = replace(parameterization, schedule=config.schedule)  # A level does not know its neighbours.
    try:
        _check_time(config)
        denoiser = Denoiser(network, config.schedule, parameterization, clip=clip, autocast=autocast)
        if training:
            config.objective.check(denoiser)
    except ValueError as error:
        raise WrongUse(f"the settings do not fit together: {error}") from error
    return denoiser


def build_pipeline(config: Config, network: nn.Module) -> Pipeline:
    """The trained thing. Raises ``WrongUse`` for parts that do not fit."""
    data, sampling = config.data, config.sampling
    assert data.channels is not None and data.height is not None and data.width is not None
    denoiser: Estimator = build_denoiser(config, network, training=False)
    _check_sampling(config)
    guidance, classes = sampling.guidance, len(data.class_names)
    if guidance.scale != 1:
        _check_guidable(config)
        denoiser = ClassifierFree(
            denoiser,
            guidance.scale,
            null_label=classes,
            interval=(guidance.low, guidance.high),
            rescale=guidance.rescale,
        )
    return Pipeline(
        denoiser=denoiser,
        codec=config.codec,
        shape=(data.channels, data.height, data.width),
        sampler=sampling.sampler,
        spacing=sampling.spacing,
        classes=data.class_names,
        quantities=data.quantities,
    )


def _check_time(config: Config) -> None:
    end = config.schedule(config.schedule.horizon)
    if isinstance(config.parameterization, Karras) and end.signal == 0:
        raise ValueError(
            f"karras tells the network the log of the noise-to-signal ratio, which has no value at the end of "
            f"{type(config.schedule).__name__}, where no signal is left; take flow, velocity or sample"
        )


def _check_sampling(config: Config) -> None:
    sampling = config.sampling
    for where, variance in (("sampler.variance", sampling.sampler.traits.variance), ("variance", sampling.variance)):
        if isinstance(variance, LearnedRange) and not config.objective.learns_variance:
            raise WrongUse(
                f"[sampling.{where}] learned_range: this model has no learned variance (objective hybrid or bound "
                f"trains one); take small or large"
            )
    if sampling.sampler.traits.upward:
        raise WrongUse("[sampling.sampler] inversion goes from the picture to the noise, so it draws no pictures")
    where = "spacing"
    try:
        ladder, where = sampling.spacing.ladder(config.schedule), "sampler"
        check(sampling.sampler, config.schedule, ladder)
    except ValueError as error:
        raise WrongUse(f"[sampling.{where}] {error}") from error


def _check_guidable(config: Config) -> None:
    what = f"guidance = {config.sampling.guidance.scale:g}"
    if not config.data.class_names and not config.data.quantities:
        raise WrongUse(
            f"{what}: this model was trained without classes, so there is none to push towards; train with --classes, "
            f"or guide by a weaker run (--weak)"
        )
    if not config.train.label_dropout:
        known = "labels" if config.data.class_names else "values"
        raise WrongUse(
            f"{what}: this model has never gone without {known} (train.label_dropout = 0); train with --set "
            f"train.label_dropout=0.1, or guide by a weaker run (--weak)"
        )
