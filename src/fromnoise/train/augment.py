"""Augmentation that does not leak: the network is told what was done to a picture, and told nothing when it samples.

Each picture passes a chain of transformations of the plane; each of them is applied with a probability of its own, and
says what it did in a label that is zero if it did nothing:

    flip_x, flip_y    mirrored, half of the time                      1, 1
    scale             by 2^(0.2 n), n ~ N(0, 1)                       n
    rotate            by θ, uniform in the circle                     cos θ − 1, sin θ
    stretch           by 2^(0.2 n) along the direction φ and by the   n cos 2φ, n sin 2φ
                      inverse across it; φ uniform, or 0
    shift             by n/8 of the sides, n_x and n_y ~ N(0, 1)      n_x, n_y

The network learns the distribution for every label, and shares among them what it learns; with the label 0 it draws
pictures as they are, even though few of those that it saw were. It helps where pictures are few.

Sources: Karras, Aittala, Aila, Laine 2022 (arXiv 2206.00364), appendix F.2, table 6; for the transformations Karras et
al. 2020 (arXiv 2006.06676); for telling the network Jun et al. 2020. There the label of a stretch is n cos φ, n sin φ,
the same for −n in the opposite direction, which shrinks along that line; with 2φ a label is one transformation.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fromnoise.errors import WrongUse
from fromnoise.train.warp import send, warp
from fromnoise.types import Latents

LABELS = 9
"""Numbers that say what was done to a picture."""

DRAWS = 15
"""Random numbers that a picture needs."""


@dataclass(frozen=True, kw_only=True)
class Augment:
    """(x_0, draws) -> (x_0, labels). As it comes, it does nothing."""

    probability: float = 0.0
    """Of each transformation but flip_x; 0.12 in the paper."""
    flip_x: float = 0.0
    """Probability that left and right are up to chance, 1 in the paper; half of those pictures are mirrored."""
    flip_y: bool = True
    """Whether up and down may be exchanged."""
    scale: float = 0.2
    """Standard deviation of the binary logarithm of the size; 0 for none."""
    rotate: float = 1.0
    """Largest angle as a share of the half circle; 0 for none."""
    stretch: float = 0.2
    """Standard deviation of the binary logarithm of the stretch in one direction; 0 for none."""
    oblique: float = 0.5
    """Share of the stretched pictures whose direction is any, and not that of the rows."""
    shift: float = 0.125
    """Standard deviation of the shift as a share of each side; 0 for none."""

    def __post_init__(self) -> None:
        """Raises ``WrongUse`` for values that make no sense."""
        for name in ("probability", "flip_x", "rotate", "oblique"):
            if not 0 <= getattr(self, name) <= 1:
                raise WrongUse(f"[train.augment] {name} = {getattr(self, name)}: must lie between 0 and 1")
        for name in ("scale", "stretch", "shift"):
            if not 0 <= getattr(self, name) <= 1:
                raise WrongUse(f"[train.augment] {name} = {getattr(self, name)}: must lie between 0 (none) and 1")

    @property
    def active(self) -> bool:
        """Whether anything is ever done to a picture."""
        return self.probability > 0 or self.flip_x > 0

    def __call__(self, x_0: Latents, draws: Tensor) -> tuple[Latents, Tensor]:
        """``x_0`` (B, C, H, W) on any device, ``draws`` (B, DRAWS) uniform in [0, 1), on the CPU -> x_0, labels (B, 9).

        Nothing is random but ``draws``; row i of the results depends on row i of the inputs alone. A picture to which
        nothing was done is returned as it is, and one that was only mirrored has the same values. Both results are on
        the device of ``x_0``, which is not waited for.
        """
        if draws.shape != (len(x_0), DRAWS):
            raise ValueError(f"draws should be ({len(x_0)}, {DRAWS}) for {len(x_0)} pictures, not {tuple(draws.shape)}")
        u = draws.double().unbind(1)
        n = [torch.special.ndtri(value.clamp(_TINY, 1 - _TINY)) for value in u]  # standard normal
        zero = torch.zeros_like(u[0])

        def chosen(place: int, value: Tensor, wanted: bool | float, chance: float = self.probability) -> Tensor:
            return torch.where((u[place] < chance) & bool(wanted), value, zero)

        flip_x = chosen(0, (u[1] < 0.5).double(), True, self.flip_x)
        flip_y = chosen(2, (u[3] < 0.5).double(), self.flip_y)
        scale = chosen(4, n[5], self.scale)
        angle = chosen(6, (2 * u[7] - 1) * math.pi * self.rotate, self.rotate)
        stretch = chosen(8, n[9], self.stretch)
        along = torch.where(u[10] < self.oblique, (2 * u[11] - 1) * math.pi, zero)
        shift_x, shift_y = chosen(12, n[13], self.shift), chosen(12, n[14], self.shift)

        said = [flip_x, flip_y, scale, angle.cos() - 1, angle.sin()]
        said += [stretch * (2 * along).cos(), stretch * (2 * along).sin(), shift_x, shift_y]
        labels = torch.stack(said, dim=1).to(torch.float32)

        height, width = x_0.shape[-2:]
        turned = _turned_back(angle) / (self.scale * scale).exp2()[:, None, None]
        longer = (self.stretch * stretch).exp2()
        squeeze = torch.diag_embed(torch.stack([1 / longer, longer], dim=1))
        # Where a place of the new picture lies in the old one: the last transformation is undone first.
        linear = turned @ _turned_back(-along) @ squeeze @ _turned_back(along)
        moved = torch.stack([shift_x * self.shift * width, shift_y * self.shift * height], dim=1)[..., None]
        source = torch.cat([linear, -linear @ moved], dim=2)

        for axis, flips in ((3, flip_x > 0), (2, flip_y > 0)):
            if flips.any():  # Known on the CPU.
                x_0 = torch.where(send(flips, x_0.device)[:, None, None, None], x_0.flip(axis), x_0)
        rows = torch.nonzero(torch.stack([scale, angle, stretch, shift_x, shift_y]).any(dim=0)).flatten()
        if len(rows):
            index = send(rows, x_0.device)
            x_0 = x_0.index_copy(0, index, warp(x_0.index_select(0, index), source[rows]))
        return x_0, send(labels, x_0.device)


_TINY = 2.0**-53


def _turned_back(angle: Tensor) -> Tensor:
    """(B,) -> (B, 2, 2): where a place was before a rotation by ``angle``, clockwise as seen since y goes down."""
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([torch.stack([cos, sin], dim=1), torch.stack([-sin, cos], dim=1)], dim=1)
