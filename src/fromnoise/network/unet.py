"""The U-Net of the paper (Ho, Jain, Abbeel 2020, arXiv 2006.11239, section 4 and appendix B)."""

import functools
from collections.abc import Iterable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fromnoise.network.attention import Attention
from fromnoise.network.layers import Block, Downsample, SwishNorm, Upsample, layout, norm_groups, timestep_embedding
from fromnoise.network.recompute import again, at_once
from fromnoise.network.values import Values

_NEARLY_ZERO = 1e-10  # The scale the paper's code gives to layers that should start at zero.


class UNet(nn.Module):
    """(x, c_time, label, values, augment) -> output of ``out_channels`` channels and the size of x.

    * ``x``: (B, in_channels, H, W), H and W divisible by 2^(levels − 1).
    * ``c_time``: (B,), the network's time; the paper's models take the integers 0 … T−1.
    * ``label``: (B,) integers in 0 … num_classes; ``num_classes`` itself is the null label ("no class"). Without it,
      a network with classes uses the null label.
    * ``values``: (B, K) numbers that are said of the pictures, in their own units; the argument ``values`` of the
      network has the (mean, deviation) of each, by which they are made comparable. A row with a NaN, or ``None`` for
      all, says nothing and adds nothing, to the bit. What is said is added to the embedding of the time.
    * ``augment``: (B, num_augment) numbers, what was done to the pictures in training. A linear map of them without
      bias is added to that embedding: zeros, or ``None`` for all, add nothing (Karras et al. 2022, arXiv 2206.00364).

    ``attention_resolutions`` are sizes in pixels of the short side, for pictures whose short side is ``resolution``;
    the network itself takes any size its levels divide.

    With ``recompute`` set, training remembers only what goes into each residual block and computes the block again in
    the backward pass (`recompute`): the same gradients in a fraction of the memory, for a forward pass more of time.

    Raises ``ValueError`` for settings that describe no network and for pictures that do not fit. Labels are not looked
    at here, for on a GPU that would make every call wait; one out of range is PyTorch's ``IndexError``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        model_channels: int = 128,
        num_res_blocks: int = 2,
        attention_resolutions: Sequence[int] = (16,),
        channel_mult: Sequence[int] = (1, 2, 2, 2),
        *,
        resolution: int = 32,
        dropout: float = 0.0,
        num_classes: int = 0,
        values: Sequence[tuple[float, float]] = (),
        num_augment: int = 0,
    ) -> None:
        super().__init__()
        sizes = [resolution / 2**level for level in range(len(channel_mult))]
        if attention_resolutions and not set(attention_resolutions) & set(sizes):
            levels = ", ".join(f"{size:g}" for size in sizes)
            raise ValueError(
                f"attention_resolutions {list(attention_resolutions)}: none is the size of a level; "
                f"at resolution {resolution} the levels are {levels} pixels"
            )
        self.in_channels, self.out_channels = in_channels, out_channels
        self.model_channels, self.num_classes = model_channels, num_classes
        self.divisor = 2 ** (len(channel_mult) - 1)
        self.recompute = False
        width = 4 * model_channels
        self.time = nn.Sequential(nn.Linear(model_channels, width), nn.SiLU(), nn.Linear(width, width))
        self.label = nn.Embedding(num_classes + 1, width) if num_classes else None
        self.values = Values(values, width) if values else None
        self.augment = nn.Linear(num_augment, width, bias=False) if num_augment else None
        self.stem = nn.Conv2d(in_channels, model_channels, 3, padding=1)

        channels, groups = [model_channels * m for m in channel_mult], norm_groups(model_channels)
        attends = [size in attention_resolutions for size in sizes]
        skips, now = [model_channels], model_channels
        down: list[_Level] = []
        for level, wide in enumerate(channels):
            blocks, attentions = nn.ModuleList(), nn.ModuleList()
            for _ in range(num_res_blocks):
                blocks.append(Block(now, wide, groups, dropout))
                attentions.append(Attention(wide, groups) if attends[level] else nn.Identity())
                now = wide
                skips.append(now)
            last = level == len(channels) - 1
            if not last:
                skips.append(now)
            down.append(_Level(blocks, attentions, None if last else Downsample(now, now)))
        self.down = nn.ModuleList(down)
        self.middle = _Level(
            nn.ModuleList([Block(now, now, groups, dropout), Block(now, now, groups, dropout)]),
            nn.ModuleList([Attention(now, groups), nn.Identity()]),
            None,
        )
        up: list[_Level] = []
        for level, wide in reversed(list(enumerate(channels))):
            blocks, attentions = nn.ModuleList(), nn.ModuleList()
            for _ in range(num_res_blocks + 1):
                blocks.append(Block(now + skips.pop(), wide, groups, dropout))
                attentions.append(Attention(wide, groups) if attends[level] else nn.Identity())
                now = wide
            up.append(_Level(blocks, attentions, Upsample(now, now) if level else None))
        self.up = nn.ModuleList(up)
        self.norm = SwishNorm(now, groups)
        self.head = nn.Conv2d(now, out_channels, 3, padding=1)

        for place, norm in enumerate(m for m in self.modules() if isinstance(m, SwishNorm)):
            norm.place = place  # So that dropout can tell them apart.
        # Every block adds its own linear map of the embedding; side by side they are one matrix product.
        self._widths = [b.conv_1.out_channels for b in self.modules() if isinstance(b, Block)]
        self.block_time = nn.Linear(width, sum(self._widths))
        self._initialise()

    @torch.no_grad()
    def _initialise(self) -> None:
        """Xavier uniform with fan average and zero biases; nearly zero where a residual or the output ends."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=module.embedding_dim**-0.5)
        for module in self.modules():
            if isinstance(module, Block):
                nn.init.xavier_uniform_(module.conv_2.weight, gain=_NEARLY_ZERO**0.5)
            elif isinstance(module, Attention):
                for weight in module.qkv.weight.chunk(3):  # q, k and v are three projections in the paper.
                    nn.init.xavier_uniform_(weight)
                nn.init.xavier_uniform_(module.out.weight, gain=_NEARLY_ZERO**0.5)
        for weight in self.block_time.weight.split(self._widths):
            nn.init.xavier_uniform_(weight)
        nn.init.xavier_uniform_(self.head.weight, gain=_NEARLY_ZERO**0.5)

    def forward(
        self,
        x: Tensor,
        c_time: Tensor,
        label: Tensor | None = None,
        values: Tensor | None = None,
        augment: Tensor | None = None,
    ) -> Tensor:
        if x.ndim != 4 or x.shape[1] != self.in_channels:
            raise ValueError(f"pictures should be (B, {self.in_channels}, H, W) for this network, not {tuple(x.shape)}")
        if x.shape[-1] % self.divisor or x.shape[-2] % self.divisor:
            raise ValueError(
                f"pictures of {x.shape[-2]}x{x.shape[-1]} do not fit: with {len(self.down)} levels both sides must be "
                f"multiples of {self.divisor}"
            )
        embedding = self.time(timestep_embedding(c_time, self.model_channels).to(x.dtype))
        if self.label is not None:
            if label is None:
                label = torch.full((x.shape[0],), self.num_classes, device=x.device)
            embedding = embedding + self.label(label)
        elif label is not None:
            raise ValueError("this network was built without classes (num_classes = 0), so it takes no label")
        if values is not None:
            if self.values is None:
                raise ValueError("this network was built without values, so it takes none")
            embedding = self.values(embedding, values)
        if augment is not None:
            if self.augment is None:
                raise ValueError(
                    "this network was built without augmentation (num_augment = 0): it takes no label of it"
                )
            embedding = embedding + self.augment(augment.to(embedding.dtype))
        shifts = iter(self.block_time(F.silu(embedding)).split(self._widths, dim=1))

        few = at_once(x)
        h = self.stem(x.contiguous(memory_format=layout(x)))
        skips = [h]
        for level in _levels(self.down):
            for block, attention in level.parts():
                h = self._call(few, block, attention, next(shifts), h)
                skips.append(h)
            if level.resample is not None:
                h = level.resample(h)
                skips.append(h)
        for block, attention in self.middle.parts():
            h = self._call(few, block, attention, next(shifts), h)
        for level in _levels(self.up):
            for block, attention in level.parts():
                h = self._call(few, block, attention, next(shifts), h, skips.pop())
            if level.resample is not None:
                h = level.resample(h)
        return self.head(self.norm(h))

    def _call(self, few: int, block: nn.Module, attention: nn.Module, *inputs: Tensor) -> Tensor:
        """A block and its attention; where asked for, for a ``few`` pictures at a time and computed again later."""
        part = functools.partial(_through, block, attention)
        return again(part, few, *inputs) if self.recompute and torch.is_grad_enabled() else part(*inputs)


def _through(block: nn.Module, attention: nn.Module, shift: Tensor, *parts: Tensor) -> Tensor:
    """A block and its attention, on ``parts`` laid side by side."""
    return attention(block(parts[0] if len(parts) == 1 else torch.cat(parts, dim=1), shift))


class _Level(nn.Module):
    """The blocks at one resolution, each followed by its attention (or none), and the step to the next one."""

    def __init__(self, blocks: nn.ModuleList, attentions: nn.ModuleList, resample: nn.Module | None) -> None:
        super().__init__()
        self.blocks, self.attentions, self.resample = blocks, attentions, resample

    def parts(self) -> Iterator[tuple[nn.Module, nn.Module]]:
        return zip(self.blocks, self.attentions, strict=True)


def _levels(modules: Iterable[nn.Module]) -> Iterator[_Level]:
    return (module for module in modules if isinstance(module, _Level))
