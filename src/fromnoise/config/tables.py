"""The only table from names to classes: what stands here can be asked for by ``kind``, and is tested."""

from fromnoise import ladder, parameterization, transition
from fromnoise import objective as objectives
from fromnoise import sampler as samplers
from fromnoise import schedule as schedules
from fromnoise.codec import Codec, Pixels
from fromnoise.config.tree import NetworkSettings, UNetSettings
from fromnoise.denoiser import Clip, Clipping, DynamicClip, NoClip
from fromnoise.train import optimizer as optimizers
from fromnoise.train import rate as rates

TABLES: dict[type, dict[str, type]] = {
    Codec: {"pixels": Pixels},
    NetworkSettings: {"unet": UNetSettings},
    schedules.Schedule: {
        "linear": schedules.Linear,
        "quad": schedules.Quad,
        "constant": schedules.Constant,
        "cosine": schedules.Cosine,
        "scaled_linear": schedules.ScaledLinear,
        "sigmoid": schedules.Sigmoid,
        "warmup": schedules.Warmup,
        "jsd": schedules.Jsd,
        "laplace": schedules.Laplace,
        "given": schedules.Given,
        "zero_terminal_snr": schedules.ZeroTerminalSNR,
        "vp": schedules.VariancePreserving,
        "cosine_continuous": schedules.ContinuousCosine,
        "sigmoid_continuous": schedules.ContinuousSigmoid,
        "edm": schedules.EDM,
        "rectified": schedules.Rectified,
    },
    parameterization.Parameterization: {
        "epsilon": parameterization.Epsilon,
        "sample": parameterization.Sample,
        "velocity": parameterization.Velocity,
        "flow": parameterization.Flow,
        "karras": parameterization.Karras,
        "posterior_mean": parameterization.PosteriorMean,
    },
    transition.Variance: {
        "small": transition.Small,
        "large": transition.Large,
        "learned_range": transition.LearnedRange,
        "analytic": transition.Analytic,
    },
    Clipping: {"static": Clip, "dynamic": DynamicClip, "none": NoClip},
    ladder.Spacing: {
        "all": ladder.All,
        "strided": ladder.Strided,
        "trailing": ladder.Trailing,
        "leading": ladder.Leading,
        "linspace": ladder.Linspace,
        "quadratic": ladder.Quadratic,
        "karras": ladder.Karras,
        "log_snr": ladder.UniformLogSNR,
        "given": ladder.GivenTimes,
    },
    samplers.Sampler: {
        "ancestral": samplers.Ancestral,
        "ddim": samplers.DDIM,
        "ddim_large": samplers.DDIMLarge,
        "inversion": samplers.Inversion,
        "euler": samplers.Euler,
        "euler_ancestral": samplers.EulerAncestral,
        "heun": samplers.Heun,
        "dpm_2s": samplers.DPMSolver2S,
        "dpm_2m": samplers.DPMSolver2M,
        "dpm_2m_sde": samplers.DPMSolver2MSDE,
        "dpm_3m": samplers.DPMSolver3M,
        "unipc": samplers.UniPC,
        "deis": samplers.DEIS,
        "ipndm": samplers.IPNDM,
        "adaptive": samplers.Adaptive,
    },
    objectives.Objective: {"simple": objectives.Simple, "hybrid": objectives.Hybrid, "bound": objectives.Bound},
    objectives.Times: {
        "uniform_steps": objectives.UniformSteps,
        "uniform": objectives.UniformTime,
        "log_normal": objectives.LogNormal,
        "logit_normal": objectives.LogitNormal,
        "antithetic": objectives.Antithetic,
        "loss_aware": objectives.LossAware,
    },
    objectives.Weighting: {
        "even": objectives.Even,
        "min_snr": objectives.MinSNR,
        "p2": objectives.P2,
        "edm": objectives.EDMWeighting,
        "sigmoid_snr": objectives.SigmoidSNR,
    },
    optimizers.Optimizer: {"adam": optimizers.Adam, "adamw": optimizers.AdamW},
    rates.Rate: {
        "constant": rates.ConstantRate,
        "cosine": rates.CosineRate,
        "inverse_sqrt": rates.InverseSqrtRate,
    },
}
TABLES[schedules.DiscreteSchedule] = {
    name: kind for name, kind in TABLES[schedules.Schedule].items() if issubclass(kind, schedules.DiscreteSchedule)
}
