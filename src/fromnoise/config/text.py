"""Settings as text: TOML in and out, and the presets that are shipped."""

import importlib.resources
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomli_w

from fromnoise.config.tables import TABLES
from fromnoise.config.tree import Config
from fromnoise.errors import WrongUse, nearest
from fromnoise.schema import decode, encode, read_toml


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
