"""The tree of settings: TOML in, objects out.

A setting is found by its section and key; ``kind`` picks the class of a section, and the other keys are its fields.
Everything is checked when it is read; an unknown key is refused with the nearest known one.
"""

from fromnoise.config.build import build_denoiser, build_network, build_pipeline
from fromnoise.config.sampling import sampled_as
from fromnoise.config.tables import TABLES
from fromnoise.config.text import parse, preset, preset_for, presets, to_toml, to_tree
from fromnoise.config.tree import (
    Config,
    DataSettings,
    GuidanceSettings,
    NetworkSettings,
    SamplingSettings,
    UNetSettings,
)

__all__ = [
    "TABLES",
    "Config",
    "DataSettings",
    "GuidanceSettings",
    "NetworkSettings",
    "SamplingSettings",
    "UNetSettings",
    "build_denoiser",
    "build_network",
    "build_pipeline",
    "parse",
    "preset",
    "preset_for",
    "presets",
    "sampled_as",
    "to_toml",
    "to_tree",
]
