"""Every sampler that has a name, with the settings in which it is proved: what is listed in the table is tested."""

from typing import Any

from fromnoise.config import TABLES
from fromnoise.sampler import Sampler
from fromnoise.transition import Large, Small

_ORDERS = [{"order": order} for order in (1, 2, 3, 4)]
SETTINGS: dict[str, list[dict[str, Any]]] = {
    "ancestral": [{"variance": Small()}, {"variance": Large()}],
    "ddim": [{"eta": 0.0}, {"eta": 0.5}, {"eta": 1.0}],
    "inversion": [{"iterations": 1}, {"iterations": 8}],
    "euler_ancestral": [{"eta": 0.0}, {"eta": 0.5}, {"eta": 1.0}],
    "heun": [{}, {"churn": 3.0}, {"churn": 5.0, "t_min": 0.5, "t_max": 2.0}],
    "unipc": [{"order": order, "bh2": bh2} for order in (1, 2, 3) for bh2 in (False, True)],
    "deis": _ORDERS,
    "ipndm": _ORDERS,
}
"""A kind that is not here is proved with its defaults."""

RULES: dict[str, Sampler[Any]] = {
    " ".join([kind, *(f"{key}={value}" for key, value in settings.items())]): TABLES[Sampler][kind](**settings)
    for kind in TABLES[Sampler]
    for settings in SETTINGS.get(kind, [{}])
}
DETERMINISTIC = {name: rule for name, rule in RULES.items() if not rule.traits.stochastic}
STOCHASTIC = {name: rule for name, rule in RULES.items() if rule.traits.stochastic}
