"""A sampler by its name alone: with what steps, spacing and variance it comes, and that it then does its work.

The work: data N(0.1, 0.2²) and its exact network, on clocks of every sort; what is sampled must be such data.
"""

import dataclasses
import math
from functools import cache
from typing import Any

import pytest
import torch
from tests import tiny
from tests.oracle import Function, gaussian_mean
from torch import Tensor

from fromnoise.config import TABLES, Config, build_pipeline, parse, sampled_as, to_tree
from fromnoise.errors import WrongUse
from fromnoise.ladder import All, Karras, Strided, Trailing, UniformLogSNR
from fromnoise.pipeline import Pipeline
from fromnoise.sampler import DDIM, Ancestral, DPMSolver2M, Sampler, UniPC
from fromnoise.schedule import Schedule
from fromnoise.transition import Analytic, Large, LearnedRange, Small

MEAN, DEVIATION = 0.1, 0.2
MODELS: dict[str, dict[str, Any]] = {
    "chain": {"schedule": "linear", "parameterization": "epsilon"},
    "short": {
        "schedule": {"kind": "cosine", "steps": 12},
        "parameterization": "sample",
        "sampling": {"spacing": {"kind": "log_snr", "steps": 12}},
    },
    "vp": {
        "schedule": "vp",
        "parameterization": {"kind": "velocity", "time_scale": 1000.0, "time_shift": 0.0},
        "objective": {"times": "uniform"},
    },
    "edm": {"schedule": "edm", "parameterization": "karras", "objective": {"times": "log_normal"}},
    "rectified": {
        "schedule": "rectified",
        "parameterization": {"kind": "flow", "time_scale": 1000.0, "time_shift": 0.0},
        "objective": {"times": "uniform"},
    },
}
NAMES = [name for name in TABLES[Sampler] if name != "inversion"]


@cache
def config(model: str) -> Config:
    data = {"path": "digits", "height": 8, "width": 8, "channels": 1}
    return parse({"data": data, **MODELS[model]}, "test")


def exact_network(config: Config) -> Function:
    """What the best network says, written out for each of the parameterizations above."""
    kind, schedule = to_tree(config)["parameterization"]["kind"], config.schedule

    def output(x: Tensor, c_time: Tensor) -> Tensor:
        if kind == "karras":
            rho = (4 * c_time.double()).exp()
            scale = (rho.square() + 0.25).sqrt()
            x_t, signal, sigma = x.double() * column(scale), torch.ones_like(rho), rho
        else:
            told = to_tree(config)["parameterization"]
            t = (c_time.double() - told["time_shift"]) / told["time_scale"]
            level = schedule((t.round() if schedule.whole and bool((t - t.round() < 1e-3).all()) else t).cpu())
            x_t, signal, sigma = x.double(), level.signal, level.sigma
        x_0 = gaussian_mean(x_t, column(signal), column(sigma), MEAN, DEVIATION)
        eps = (x_t - column(signal) * x_0) / column(sigma)
        if kind == "karras":
            skip, out = 0.25 / (sigma.square() + 0.25), 0.5 * sigma / (sigma.square() + 0.25).sqrt()
            made = (x_0 - column(skip) * x_t) / column(out)
        elif kind == "velocity":
            made = column(signal) * eps - column(sigma) * x_0
        else:
            made = {"epsilon": eps, "sample": x_0, "flow": eps - x_0}[kind]
        return made.float()

    return Function(output)


def column(values: Tensor) -> Tensor:
    return values.reshape(-1, 1, 1, 1)


def pipeline(config: Config) -> Pipeline:
    network = exact_network(config)
    network.register_parameter("device", torch.nn.Parameter(torch.zeros(1)))
    return build_pipeline(config, network)


@pytest.mark.parametrize("more", [False, True])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("model", MODELS)
def test_every_sampler_works_by_its_name(model: str, name: str, more: bool) -> None:
    """With its usual steps, and with 40: the deviation of what it makes comes near that of the data.

    First orders fall short of it, the upper variance goes beyond it. A spacing that does not suit misses it by far: in
    equal strides on EDM's clock, 20 steps of DDIM make a twentieth of it.
    """
    schedule = config(model).schedule
    most = int(schedule.horizon) if schedule.whole else 1000
    changed = sampled_as(config(model), sampler=name, steps=min(40, most) if more else None)
    steps = list(pipeline(changed).stream(range(40)))
    chain = name in {"ancestral", "ddim_large"} and schedule.whole
    assert len(steps) == (min(40, most) if more else 1 if name == "adaptive" else most if chain else min(20, most))
    assert steps[0].t == schedule.horizon and steps[-1].s == 0
    calls = changed.sampling.sampler.traits.calls
    assert not calls or len(steps) <= steps[-1].nfe <= calls * len(steps)
    assert abs(steps[-1].x.mean() - MEAN) < 0.02
    low, high = (0.75, 1.2) if more and model != "short" else (0.65, 1.4)
    assert low < steps[-1].x.std() / DEVIATION < high


def changes(base: str = "chain", **words: Any) -> Config:
    return sampled_as(config(base), **words)


def test_what_suits_a_sampler_comes_with_it() -> None:
    assert (changes(sampler="ancestral").sampling.sampler, changes(sampler="ancestral").sampling.spacing) == (
        Ancestral(variance=Large()),
        All(),
    )
    few = changes(sampler="ancestral", steps=50).sampling
    assert (few.sampler, few.spacing) == (Ancestral(variance=Small()), Strided(steps=50))
    assert changes(sampler="ddim", steps=7).sampling.spacing == Trailing(steps=7)
    assert changes(sampler="heun").sampling.spacing == Karras(steps=20)
    assert changes(sampler="deis").sampling.spacing == UniformLogSNR(steps=20)
    assert changes(sampler="deis", steps=1000).sampling.spacing == All()
    assert changes("vp", sampler="ddim").sampling.spacing == Karras(steps=20)
    edm = changes("edm", sampler="ancestral").sampling
    assert (edm.sampler, edm.spacing) == (Ancestral(variance=Small()), UniformLogSNR(steps=20))
    assert changes(sampler="ddim", eta=0.5).sampling.sampler == DDIM(eta=0.5)
    assert changes(sampler="ancestral", variance="large", steps=50).sampling.sampler == Ancestral(variance=Large())
    assert changes(guidance=3.0).sampling.guidance.scale == 3


def test_nothing_said_changes_nothing() -> None:
    for name in MODELS:
        assert sampled_as(config(name)) == config(name)
    mine = tiny.config({"sampling": {"sampler": {"kind": "unipc", "order": 3}, "spacing": {"kind": "leading"}}})
    assert sampled_as(mine, sampler="unipc") == mine
    assert sampled_as(mine, sampler="unipc", steps=9).sampling.sampler == UniPC(order=3)
    assert to_tree(sampled_as(mine, steps=9))["sampling"]["spacing"] == {"kind": "leading", "steps": 9, "offset": 0}
    assert sampled_as(mine, sampler="dpm_2m").sampling.sampler == DPMSolver2M()
    assert to_tree(sampled_as(mine, sampler="dpm_2m"))["sampling"]["spacing"]["kind"] == "log_snr"


def test_a_variance_that_was_chosen_is_kept() -> None:
    """Only the large one gives way, where the ladder is shorter than the chain."""
    table = {"kind": "analytic", "times": [1.0, 50.0], "gamma": [0.1, 0.9], "limit": 1.0}
    for told, whole, few in [
        ("small", Small(), Small()),
        ("large", Large(), Small()),
        (table, Analytic(times=(1.0, 50.0), gamma=(0.1, 0.9)), Analytic(times=(1.0, 50.0), gamma=(0.1, 0.9))),
    ]:
        mine = tiny.config({"sampling": {"sampler": {"kind": "ancestral", "variance": told}}})
        assert sampled_as(mine, steps=50).sampling.sampler == Ancestral(variance=whole)
        assert sampled_as(mine, steps=10).sampling.sampler == Ancestral(variance=few)
        assert sampled_as(mine, sampler="ancestral") == mine
        of_chain = tiny.config({"sampling": {"sampler": "ddim", "variance": told}})
        assert sampled_as(of_chain, sampler="ancestral").sampling.sampler == Ancestral(variance=whole)
    learned = tiny.config({"objective": "hybrid", "sampling": {"sampler": "ddim"}})
    for steps in (None, 10, 50):
        found = sampled_as(learned, sampler="ancestral", steps=steps)
        assert found.sampling.sampler == Ancestral(variance=LearnedRange())


def test_other_settings_have_the_last_word() -> None:
    more = {"sampler": {"order": 3}, "spacing": {"steps": 9}, "clip": "none"}
    found = to_tree(changes(sampler="unipc", steps=5, more=more))["sampling"]
    assert found["sampler"] == {"kind": "unipc", "order": 3, "bh2": True}
    assert found["spacing"]["steps"] == 9 and found["clip"]["kind"] == "none"
    assert changes(sampler="unipc", more={"sampler": "deis"}).sampling.sampler == TABLES[Sampler]["deis"]()


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ({"sampler": "unpic"}, "sampler 'unpic' is not known; did you mean 'unipc'?"),
        ({"sampler": "inversion"}, "sampler 'inversion' is not known; known: adaptive, ancestral, ddim, "),
        ({"steps": 0}, "steps = 0: this model allows 1 to 1000"),
        ({"steps": 1001}, "steps = 1001: this model allows 1 to 1000"),
        ({"eta": 0.5}, "eta = 0.5: the sampler dpm_2m has none to choose; known: ddim, euler_ancestral"),
        ({"sampler": "ddim", "eta": 1.5}, "the settings: [sampling.sampler] eta = 1.5: must lie between 0"),
        ({"sampler": "ddim", "variance": "small"}, "variance = small: the sampler ddim has none to choose; known: anc"),
        ({"sampler": "ancestral", "variance": "smal"}, "kind = 'smal' is not known; did you mean 'small'?"),
        ({"guidance": math.nan}, "[sampling.guidance] scale = nan: must be a number"),
        ({"more": {"clp": 3}}, "the settings: [sampling] clp: no such key; did you mean 'clip'?"),
    ],
)
def test_words_that_make_no_sense(words: dict[str, Any], complaint: str) -> None:
    with pytest.raises(WrongUse) as caught:
        changes(**words)
    assert complaint in str(caught.value) and "\n" not in str(caught.value)


def test_a_clock_without_steps_has_no_most() -> None:
    assert changes("vp", steps=5000).sampling.spacing == UniformLogSNR(steps=5000)
    with pytest.raises(WrongUse, match="steps = 0: this model allows 1 or more"):
        changes("vp", steps=0)


@pytest.mark.parametrize(
    ("base", "more", "complaint"),
    [
        ("chain", {"sampler": "inversion"}, "[sampling.sampler] inversion goes from the picture to the noise"),
        (
            "chain",
            {"sampler": {"kind": "unipc", "order": 3}, "spacing": {"steps": 2}},
            "[sampling.sampler] UniPC as it is set needs at least 3 steps, not 2",
        ),
        ("edm", {"spacing": "all"}, "[sampling.spacing] All needs a schedule that counts steps"),
        ("edm", {"spacing": {"kind": "karras", "sigma_max": 200.0}}, "[sampling.spacing] sigma_max = 200"),
        ("chain", {"sampler": {"kind": "ancestral", "variance": "learned_range"}}, "[sampling.sampler.variance] lear"),
        ("chain", {"variance": "learned_range"}, "[sampling.variance] learned_range: this model has no learned"),
        ("chain", {"guidance": {"scale": 2.0}}, "guidance = 2: this model was trained without classes"),
    ],
)
def test_parts_that_do_not_fit(base: str, more: dict[str, Any], complaint: str) -> None:
    with pytest.raises(WrongUse) as caught:
        pipeline(changes(base, more=more))
    assert complaint in str(caught.value) and "\n" not in str(caught.value)


def test_guidance_needs_a_model_that_has_gone_without_labels() -> None:
    network = torch.nn.Conv2d(1, 1, 1)
    with pytest.raises(WrongUse, match=r"guidance = 2: this model has never gone without labels .*label_dropout=0\.1"):
        build_pipeline(sampled_as(tiny.config(), guidance=2.0), network)
    build_pipeline(sampled_as(tiny.config(), guidance=1.0), network)
    build_pipeline(sampled_as(tiny.config(label_dropout=0.1), guidance=2.0), network)


@pytest.mark.parametrize("schedule", ["rectified", {"kind": "zero_terminal_snr", "base": "linear"}])
def test_a_network_cannot_be_told_an_infinite_ratio(schedule: Any) -> None:
    """Its pictures would be no numbers, and nobody would say so."""
    broken = dataclasses.replace(config("edm"), schedule=parse({"schedule": schedule}, "test").schedule)
    with pytest.raises(WrongUse, match=r"karras tells the network the log of .*take flow, velocity or sample"):
        pipeline(broken)


def test_the_table_above_has_every_sort_of_clock() -> None:
    kinds = {type(config(model).schedule) for model in MODELS}
    assert kinds == {TABLES[Schedule][name] for name in ("linear", "cosine", "vp", "edm", "rectified")}
