"""Our U-Net's weights under the names of diffusers' ``UNet2DModel``, and back, without importing diffusers.

Both hold the same numbers; three things differ besides names:

* attention: our one 1×1 convolution ``qkv`` is three matrices there, and our 1×1 kernels (C, C, 1, 1) are (C, C);
* the blocks' time projections: our ``block_time`` is one matrix, there each block has its rows of it;
* labels: the null label is the last row of the embedding here; there it is a class like the others.

``settings`` are the arguments of :class:`fromnoise.network.unet.UNet` by name. Every function raises
:class:`~fromnoise.errors.FromnoiseError` (one line) for weights that do not belong to them; nothing is guessed.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fromnoise.errors import FromnoiseError
from fromnoise.network.layers import NORM_EPS
from fromnoise.network.unet import UNet

Settings = Mapping[str, Any]

_RENAMES = (
    (r"^time\.0\.", "time_embedding.linear_1."),
    (r"^time\.2\.", "time_embedding.linear_2."),
    (r"^label\.", "class_embedding."),
    (r"^stem\.", "conv_in."),
    (r"^norm\.", "conv_norm_out."),
    (r"^head\.", "conv_out."),
    (r"^(down|up)\.(\d+)\.resample\.", r"\1_blocks.\2.\1samplers.0.conv."),
    (r"^(down|up)\.(\d+)\.", r"\1_blocks.\2."),
    (r"^middle\.", "mid_block."),
    (r"\.blocks\.(\d+)\.(norm|conv)_(\d)\.", r".resnets.\1.\2\3."),
    (r"\.blocks\.(\d+)\.shortcut\.", r".resnets.\1.conv_shortcut."),
    (r"(\.attentions\.\d+)\.norm\.", r"\1.group_norm."),
    (r"(\.attentions\.\d+)\.out\.", r"\1.to_out.0."),
)
# Files written by diffusers before its version 0.17, the paper's CIFAR-10 and LSUN weights among them.
_OLD_ATTENTION = (("query", "to_q"), ("key", "to_k"), ("value", "to_v"), ("proj_attn", "to_out.0"))


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """One tensor of ours and the tensors of theirs that are its slices along the first axis."""

    ours: str
    shape: tuple[int, ...]
    theirs: tuple[str, ...]
    rows: tuple[int, ...]
    is_matrix: bool  # A 1×1 convolution here, a matrix there.


def to_diffusers(state: Mapping[str, Tensor], settings: Settings) -> dict[str, Tensor]:
    """Weights of our ``UNet(**settings)`` -> a state dict for ``UNet2DModel(**diffusers_config(**settings))``.

    Types and devices stay; every tensor is a contiguous copy of its own.
    """
    entries = _entries(settings)
    _check(state, {entry.ours: entry.shape for entry in entries}, "the network")
    out: dict[str, Tensor] = {}
    for entry in entries:
        weight = state[entry.ours].detach()
        if entry.is_matrix:
            weight = weight[:, :, 0, 0]
        for name, part in zip(entry.theirs, weight.split(entry.rows), strict=True):
            out[name] = part.clone(memory_format=torch.contiguous_format)
    return out


def from_diffusers(state: Mapping[str, Tensor], settings: Settings) -> dict[str, Tensor]:
    """The inverse of :func:`to_diffusers`; also takes the attention names of old diffusers files."""
    entries = _entries(settings)
    state = {_modern(name): weight for name, weight in state.items()}
    expected: dict[str, tuple[int, ...]] = {}
    for entry in entries:
        rest = entry.shape[1:2] if entry.is_matrix else entry.shape[1:]
        expected |= {name: (rows, *rest) for name, rows in zip(entry.theirs, entry.rows, strict=True)}
    _check(state, expected, "UNet2DModel")
    out: dict[str, Tensor] = {}
    for entry in entries:
        weight = torch.cat([state[name].detach() for name in entry.theirs])
        out[entry.ours] = weight[:, :, None, None] if entry.is_matrix else weight
    return out


def diffusers_config(
    *,
    in_channels: int,
    out_channels: int,
    model_channels: int = 128,
    num_res_blocks: int = 2,
    attention_resolutions: Sequence[int] = (16,),
    channel_mult: Sequence[int] = (1, 2, 2, 2),
    resolution: int = 32,
    dropout: float = 0.0,
    num_classes: int = 0,
    values: Sequence[tuple[float, float]] = (),
) -> dict[str, Any]:
    """The keyword arguments that make ``UNet2DModel`` the network that our ``UNet`` with these arguments is.

    Raises :class:`~fromnoise.errors.FromnoiseError` for the networks that ``UNet2DModel`` cannot be: those whose first
    level is wider than ``model_channels``, and those that are told values.
    """
    network = _network(
        {
            "in_channels": in_channels,
            "out_channels": out_channels,
            "model_channels": model_channels,
            "num_res_blocks": num_res_blocks,
            "attention_resolutions": attention_resolutions,
            "channel_mult": channel_mult,
            "resolution": resolution,
            "dropout": dropout,
            "num_classes": num_classes,
            "values": values,
        }
    )
    groups = next(module.num_groups for module in network.modules() if isinstance(module, nn.GroupNorm))
    attends = [resolution / 2**level in attention_resolutions for level in range(len(channel_mult))]
    config: dict[str, Any] = {
        "sample_size": resolution,
        "in_channels": in_channels,
        "out_channels": out_channels,
        "layers_per_block": num_res_blocks,
        "block_out_channels": tuple(model_channels * m for m in channel_mult),
        "down_block_types": tuple("AttnDownBlock2D" if a else "DownBlock2D" for a in attends),
        "up_block_types": tuple("AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)),
        "attention_head_dim": None,  # One head as wide as the level; its default is heads of 8.
        "norm_num_groups": groups,
        "norm_eps": NORM_EPS,
        "downsample_padding": 0,  # Its name for padding on the right and at the bottom only.
        "flip_sin_to_cos": False,
        "freq_shift": 1,
        "dropout": dropout,
    }
    if num_classes:
        config["num_class_embeds"] = num_classes + 1
    return config


def _network(settings: Settings) -> UNet:
    """Our network without memory for its weights, if UNet2DModel can be the same."""
    if settings.get("values"):
        raise FromnoiseError("UNet2DModel takes a class and no numbers; this network is told values of its pictures")
    with torch.device("meta"):
        network = UNet(**settings)
    first = network.get_submodule("down.0.blocks.0.conv_1").out_channels
    if first != network.model_channels:
        raise FromnoiseError(
            f"UNet2DModel has one width for the stem and the first level, this network has {network.model_channels} "
            f"and {first}: channel_mult would have to begin with 1"
        )
    return network


def _entries(settings: Settings) -> list[_Entry]:
    shapes = {name: tuple(weight.shape) for name, weight in _network(settings).state_dict().items()}
    return [_entry(name, shape, shapes) for name, shape in shapes.items()]


def _entry(name: str, shape: tuple[int, ...], shapes: Mapping[str, tuple[int, ...]]) -> _Entry:
    path, kind = name.rsplit(".", 1)
    if path == "block_time":
        convs = [other for other in shapes if other.endswith(".conv_1.weight")]  # In the order of the blocks.
        theirs = tuple(f"{_renamed(conv)[: -len('conv1.weight')]}time_emb_proj.{kind}" for conv in convs)
        rows = tuple(shapes[conv][0] for conv in convs)
    elif path.endswith(".qkv"):
        stem = _renamed(path.removesuffix("qkv"))
        theirs, rows = tuple(f"{stem}to_{letter}.{kind}" for letter in "qkv"), (shape[0] // 3,) * 3
    else:
        theirs, rows = (_renamed(name),), shape[:1]
    is_matrix = ".attentions." in name and len(shape) == 4
    return _Entry(ours=name, shape=shape, theirs=theirs, rows=rows, is_matrix=is_matrix)


def _renamed(name: str) -> str:
    for pattern, replacement in _RENAMES:
        name = re.sub(pattern, replacement, name)
    return name


def _modern(name: str) -> str:
    for old, new in _OLD_ATTENTION:
        name = re.sub(rf"(\.attentions\.\d+)\.{old}\.(weight|bias)$", rf"\1.{new}.\2", name)
    return name


def _check(state: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]], what: str) -> None:
    """Raises unless the names are the expected ones and every tensor has its shape."""
    if missing := [name for name in expected if name not in state]:
        raise FromnoiseError(f"weights for {what}: {_some(missing)} missing; they belong to another network's settings")
    if unexpected := [name for name in state if name not in expected]:
        raise FromnoiseError(
            f"weights for {what}: {_some(unexpected)} not expected; they belong to another network's settings"
        )
    for name, shape in expected.items():
        if tuple(state[name].shape) != shape:
            found = "x".join(map(str, state[name].shape))
            raise FromnoiseError(f"weights for {what}: {name} is {found}, expected {'x'.join(map(str, shape))}")


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{names[0]}{more} {'are' if more else 'is'}"
