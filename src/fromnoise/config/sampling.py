"""The same model sampled in another way: a few words turned into settings of [sampling]."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from fromnoise.config.tables import TABLES
from fromnoise.config.text import parse, to_tree
from fromnoise.config.tree import Config
from fromnoise.errors import WrongUse, nearest
from fromnoise.sampler import Sampler
from fromnoise.schema import merge

FEW = 20
"""Steps of a sampler that is named without a number of steps."""

_CHAINS = {"ancestral", "ddim_large"}
"""Samplers of the paper's chain, which take every step unless told otherwise."""

_COUNTED = {"ancestral": "strided", "ddim_large": "strided", "ddim": "trailing", "euler": "karras", "heun": "karras"}
_CONTINUOUS = {"ddim": "karras", "euler": "karras", "heun": "karras"}
"""What suits a sampler on a clock that counts steps, and on one that does not and may have any form: that of EDM is the
noise itself, where equal strides would skip the picture. Equal steps in log-SNR suit the others (docs/sampling.md)."""


def sampled_as(
    config: Config,
    *,
    sampler: str | None = None,
    steps: int | None = None,
    eta: float | None = None,
    variance: str | Mapping[str, Any] | None = None,
    guidance: float | None = None,
    more: Mapping[str, Any] | None = None,
) -> Config:
    """``config`` with another sampler, number of steps, η, variance (a word, or a table with ``kind``), guidance scale.

    ``more`` is a tree of other settings and has the last word. A sampler that is not the run's own comes with the
    spacing that suits it and, without ``steps``, takes 20, or all if it is the paper's. Raises ``WrongUse``.
    """
    tree = to_tree(config)["sampling"]
    if sampler is not None and sampler != tree["sampler"]["kind"]:
        _check_known(sampler)
        tree["sampler"] = {"kind": sampler}
        steps = _usual_steps(config, sampler) if steps is None else steps
        tree["spacing"] = {}  # That of another sampler need not suit this one.
    kind = tree["sampler"]["kind"]
    if steps is not None:
        tree["spacing"] = _spacing(config, kind, steps, tree["spacing"])
    if eta is not None:
        _check_has("eta", eta, kind)
        tree["sampler"]["eta"] = eta
    if variance is not None:
        _check_has("variance", variance if isinstance(variance, str) else variance["kind"], kind)
        tree["sampler"]["variance"] = variance
    elif kind == "ancestral" and steps is not None:
        tree["sampler"]["variance"] = _usual_variance(config, tree["sampler"].get("variance"), steps)
    if guidance is not None:
        tree = merge(tree, {"guidance": {"scale": guidance}})
    changed = parse({"sampling": merge(tree, more or {})}, "the settings")
    return replace(config, sampling=changed.sampling)


def _check_known(sampler: str) -> None:
    known = [name for name, cls in TABLES[Sampler].items() if not cls().traits.upward]
    if sampler not in known:
        raise WrongUse(f"sampler {sampler!r} is not known; {nearest(sampler, known)}")


def _check_has(field: str, value: object, sampler: str) -> None:
    having = [name for name, cls in TABLES[Sampler].items() if field in cls.__dataclass_fields__]
    if sampler not in having:
        raise WrongUse(f"{field} = {value}: the sampler {sampler} has none to choose; known: {', '.join(having)}")


def _usual_steps(config: Config, sampler: str) -> int:
    if sampler == "adaptive":
        return 1  # It chooses its own on the way.
    if not config.schedule.whole:
        return FEW
    return int(config.schedule.horizon if sampler in _CHAINS else min(FEW, config.schedule.horizon))


def _spacing(config: Config, sampler: str, steps: int, now: dict[str, Any]) -> dict[str, Any] | str:
    schedule = config.schedule
    if steps < 1 or (schedule.whole and steps > schedule.horizon):
        allowed = f"1 to {schedule.horizon:g}" if schedule.whole else "1 or more"
        raise WrongUse(f"steps = {steps}: this model allows {allowed}")
    if schedule.whole and steps == schedule.horizon:
        return "all"
    if "steps" in now:
        return {**now, "steps": steps}
    return {"kind": (_COUNTED if schedule.whole else _CONTINUOUS).get(sampler, "log_snr"), "steps": steps}


def _usual_variance(config: Config, own: dict[str, Any] | None, steps: int) -> dict[str, Any]:
    """The run's, but small where it would be large on a ladder shorter than the paper's chain."""
    usual: dict[str, Any] = own or to_tree(config)["sampling"]["variance"]
    if own is None and config.objective.learns_variance:
        usual = {"kind": "learned_range"}
    few = not config.schedule.whole or steps < config.schedule.horizon
    # Few large steps with the upper variance leave noise in the picture (Nichol & Dhariwal 2021, section 4).
    return {"kind": "small"} if few and usual["kind"] == "large" else usual
