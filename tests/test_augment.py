"""Augmentation says truly what it did: pictures against an independent resampler steered by the labels alone, the share
and the distribution of each transformation, and that nothing is done to the others."""

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import ndimage, stats
from torch import Tensor

from fromnoise.errors import WrongUse
from fromnoise.network import UNet
from fromnoise.train.augment import DRAWS, LABELS, Augment
from fromnoise.train.warp import warp

PAPER = Augment(probability=0.12, flip_x=1.0)

NEVER: dict[str, Any] = {"flip_x": 0.0, "flip_y": False, "scale": 0.0, "rotate": 0.0, "stretch": 0.0, "shift": 0.0}
NEVER |= {"probability": 0.12}


def band_limited(share: float, *, channels: int = 1, height: int = 32, width: int = 32, seed: int = 0) -> Tensor:
    """A random sum of the cosines below ``share`` of the highest frequency: it goes on as its own mirror image."""
    source = np.random.default_rng(seed)
    rows, columns = int(height * share), int(width * share)
    round_ = np.hypot(np.arange(rows)[:, None] / rows, np.arange(columns) / columns) < 1
    coefficients = source.normal(size=(channels, rows, columns)) * round_
    down = np.cos(np.pi * np.arange(rows)[:, None] * (np.arange(height) + 0.5) / height)
    across = np.cos(np.pi * np.arange(columns)[:, None] * (np.arange(width) + 0.5) / width)
    x = np.einsum("crs,rh,sw->chw", coefficients, down, across)
    return torch.from_numpy(x / np.abs(x).max()).float()[None]


def psnr(ours: Tensor, theirs: Tensor, edge: int = 0) -> float:
    """In dB of the range −1 … 1, without so many pixels of the edge."""
    inside = slice(edge, -edge or None)
    return -10 * math.log10(((ours - theirs)[..., inside, inside] ** 2).mean().item() / 4)


def draws(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, DRAWS, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def turn(angle: float) -> Tensor:
    cos, sin = math.cos(angle), math.sin(angle)
    return torch.tensor([[[cos, -sin, 0], [sin, cos, 0]]], dtype=torch.float64)


# ----------------------------------------------------------------------------------------------------------- resampling
def test_a_quarter_turn_of_a_band_limited_picture_is_rot90() -> None:
    x = band_limited(0.5, channels=3)
    assert (warp(x, turn(math.pi / 2)) - torch.rot90(x, 1, (2, 3))).abs().max() < 1e-3
    assert (warp(x, turn(-math.pi / 2)) - torch.rot90(x, -1, (2, 3))).abs().max() < 1e-3
    assert (warp(x, turn(math.pi)) - x.flip(2, 3)).abs().max() < 1e-3


@pytest.mark.parametrize(("share", "least"), [(0.25, 55), (0.5, 50), (0.75, 44)])
def test_there_and_back_is_where_it_was(share: float, least: float) -> None:
    x = band_limited(share)
    back = warp(warp(x, turn(0.5)), turn(-0.5))
    assert psnr(back, x, edge=8) > least

    def plainly(x: Tensor, source: Tensor) -> Tensor:
        return F.grid_sample(
            x, F.affine_grid(source.float(), list(x.shape), align_corners=False), "bilinear", "reflection", False
        )

    assert psnr(back, x, edge=8) > psnr(plainly(plainly(x, turn(0.5)), turn(-0.5)), x, edge=8) + 12


def test_shifts_by_whole_pixels_move_the_mirrored_picture() -> None:
    x = band_limited(0.5, height=16, width=24)
    moved = warp(x, torch.tensor([[[1, 0, 3], [0, 1, -2]]], dtype=torch.float64))
    mirrored = F.pad(torch.cat([x, x.flip(3)], 3), (0, 0, 0, 0))
    mirrored = torch.cat([mirrored.flip(2), mirrored], 2)
    assert (moved - mirrored[:, :, 14:30, 3:27]).abs().max() < 1e-3


def test_the_band_that_a_smaller_picture_cannot_hold_is_removed() -> None:
    """Stripes of 2.5 pixels, shrunk to 1.25 pixels a period, would come back as stripes of another width."""
    stripes = torch.cos(2 * math.pi * (torch.arange(32) + 0.5) / 2.5).expand(1, 1, 32, 32).contiguous()
    half = torch.tensor([[[2.0, 0, 0], [0, 2.0, 0]]], dtype=torch.float64)
    plain = F.grid_sample(stripes, F.affine_grid(half.float(), [1, 1, 32, 32], align_corners=False), "bicubic",
                          "reflection", False)  # fmt: skip
    assert plain[..., 10:22, 10:22].std() > 0.3
    assert warp(stripes, half)[..., 10:22, 10:22].std() < 0.03


def test_even_grey_stays_even() -> None:
    x = torch.full((6, 2, 8, 12), 0.3)
    labels, moved = torch.randn(6, 2, 3, dtype=torch.float64), None
    moved = warp(x, labels)
    assert (moved - 0.3).abs().max() < 1e-6


# --------------------------------------------------------------------------------------------------------------- labels
def by_scipy(x: NDArray[np.float64], label: NDArray[np.float64], augment: Augment) -> NDArray[np.float64]:
    """What the label says was done, by splines of the fifth order in float64, from the table of the paper."""
    flip_x, flip_y, scale, cos_1, sin, stretch_cos, stretch_sin, shift_x, shift_y = label
    height, width = x.shape[-2:]
    x = x[:, :, ::-1] if flip_x else x
    x = x[:, ::-1] if flip_y else x
    rotation = np.array([[cos_1 + 1, -sin], [sin, cos_1 + 1]])
    size, phi = np.hypot(stretch_cos, stretch_sin), np.arctan2(stretch_sin, stretch_cos) / 2
    axes = np.array([[np.cos(phi), -np.sin(phi)], [np.sin(phi), np.cos(phi)]])
    by = 2 ** (augment.stretch * size)
    forward = axes @ np.diag([by, 1 / by]) @ axes.T @ rotation * 2 ** (augment.scale * scale)
    back = np.linalg.inv(forward)[::-1, ::-1]  # scipy counts rows first
    middle = np.array([height - 1, width - 1]) / 2
    moved = np.array([shift_y * height, shift_x * width]) * augment.shift
    offset = middle - back @ (middle + moved)
    return np.stack([ndimage.affine_transform(c, back, offset, order=5, mode="reflect") for c in x])


@pytest.mark.parametrize(("height", "width"), [(32, 32), (32, 48)])
def test_the_label_says_what_was_done(height: int, width: int) -> None:
    augment = Augment(probability=0.7, flip_x=1.0)
    x = band_limited(0.25, channels=2, height=height, width=width).expand(24, -1, -1, -1).contiguous()
    ours, labels = augment(x, draws(24))
    used = (labels != 0).sum(0)
    assert (used > 3).all(), used
    theirs = [
        by_scipy(picture, label, augment)
        for picture, label in zip(x.double().numpy(), labels.double().numpy(), strict=True)
    ]
    for mine, other in zip(ours, theirs, strict=True):
        assert psnr(mine, torch.from_numpy(other).float()) > 55


def test_each_transformation_comes_as_often_and_as_far_as_the_paper_says() -> None:
    n = 20_000
    _, labels = PAPER(torch.zeros(n, 1, 2, 2), draws(n))
    flip_x, flip_y, scale, cos_1, sin, stretch_cos, stretch_sin, shift_x, shift_y = labels.double().numpy().T

    def often(found: NDArray[np.bool_], chance: float) -> None:
        assert stats.binomtest(int(found.sum()), len(found), chance).pvalue > 1e-3

    often(flip_x == 1, 0.5)
    often(flip_y == 1, 0.06)
    assert set(np.unique(flip_x)) == set(np.unique(flip_y)) == {0.0, 1.0}
    for value in (scale, sin, stretch_cos, shift_x, shift_y):
        often(value != 0, 0.12)
    assert np.array_equal(shift_x != 0, shift_y != 0) and np.array_equal(cos_1 != 0, sin != 0)
    often(stretch_sin[stretch_cos != 0] != 0, 0.5)
    for value in (scale, shift_x, shift_y):
        assert stats.kstest(value[value != 0], "norm").pvalue > 1e-3
    turned = sin != 0
    angle = np.arctan2(sin, cos_1 + 1)[turned]
    assert stats.kstest(angle, "uniform", args=(-np.pi, 2 * np.pi)).pvalue > 1e-3
    size = np.hypot(stretch_cos, stretch_sin)[stretch_cos != 0]
    assert stats.kstest(size, "halfnorm").pvalue > 1e-3
    # Of one another they know nothing: all nine are uncorrelated, and so is whether they happen.
    happens = np.array([flip_x, flip_y, scale, sin, stretch_cos, shift_x]) != 0
    apart = np.corrcoef(happens) - np.eye(6)
    assert np.abs(apart).max() < 5 / np.sqrt(n)


def test_what_is_left_alone_is_the_same_to_the_bit() -> None:
    x, u = torch.randn(64, 3, 8, 8), draws(64)
    ours, labels = Augment(**dict(NEVER, scale=0.2))(x, u)
    same = torch.tensor([torch.equal(a, b) for a, b in zip(ours, x, strict=True)])
    assert torch.equal(same, (labels == 0).all(1)) and 40 < same.sum() < 64
    nothing, labels = Augment(**NEVER)(x, u)
    assert torch.equal(nothing, x) and not labels.any()
    nothing, labels = Augment(probability=0.0, flip_x=0.0)(x, u)
    assert torch.equal(nothing, x) and not labels.any()


def test_mirrored_pictures_keep_their_values() -> None:
    x = torch.randn(64, 3, 8, 8)
    ours, labels = Augment(**dict(NEVER, flip_x=1.0, flip_y=True, probability=0.5))(x, draws(64))
    for picture, original, label in zip(ours, x, labels, strict=True):
        axes = [axis for axis, flipped in ((2, label[0]), (1, label[1])) if flipped]
        assert torch.equal(picture, original.flip(axes))
    assert len(torch.unique(labels[:, :2], dim=0)) == 4 and not labels[:, 2:].any()


def test_a_picture_does_not_depend_on_its_batch() -> None:
    x, u, augment = torch.randn(12, 3, 16, 16), draws(12), Augment(probability=0.5, flip_x=1.0)
    before = x.clone()
    whole, labels = augment(x, u)
    parts = [augment(x[rows], u[rows]) for rows in (slice(0, 5), slice(5, 6), slice(6, 12))]
    assert torch.equal(torch.cat([said for _, said in parts]), labels)
    assert torch.allclose(torch.cat([part for part, _ in parts]), whole, atol=1e-6, rtol=0)
    assert torch.equal(x, before)


def test_the_ends_of_the_draws_give_finite_pictures() -> None:
    for u in (torch.zeros(2, DRAWS), torch.full((2, DRAWS), 1 - 2.0**-24), torch.zeros(2, DRAWS).fill_(1 - 2.0**-53)):
        for augment in (PAPER, Augment(probability=1.0, flip_x=1.0, scale=1.0, stretch=1.0)):
            x, labels = augment(torch.randn(2, 1, 8, 8), u)
            assert x.isfinite().all() and labels.isfinite().all() and labels.shape == (2, LABELS)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"probability": 1.5}, r"\[train\.augment\] probability = 1\.5: must lie between 0 and 1"),
        ({"flip_x": float("nan")}, r"\[train\.augment\] flip_x = nan: must lie between 0 and 1"),
        ({"shift": -0.1}, r"\[train\.augment\] shift = -0\.1: must lie between 0 \(none\) and 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], complaint: str) -> None:
    with pytest.raises(WrongUse, match=complaint):
        Augment(**settings)


def test_too_few_draws_are_refused() -> None:
    with pytest.raises(ValueError, match=r"draws should be \(2, 15\) for 2 pictures, not \(2, 9\)"):
        PAPER(torch.zeros(2, 1, 4, 4), torch.zeros(2, 9))


# ---------------------------------------------------------------------------------------------------------- the network
def network(**settings: Any) -> UNet:
    """With no layer nearly zero, so that what goes in is seen in what comes out."""
    net = UNet(1, 1, 32, 1, (), (1, 2), resolution=8, **settings).eval()
    for weight in net.parameters():
        if weight.ndim == 4:
            torch.nn.init.xavier_uniform_(weight)
    return net


def test_nothing_done_adds_nothing_to_the_bit() -> None:
    net, x, t = network(num_augment=LABELS), torch.randn(3, 1, 8, 8), torch.tensor([1.0, 40.0, 900.0])
    untold = net(x, t)
    assert torch.equal(net(x, t, augment=torch.zeros(3, LABELS)), untold)
    plain = network()
    plain.load_state_dict({name: value for name, value in net.state_dict().items() if name != "augment.weight"})
    assert torch.equal(plain(x, t), untold)


def test_every_number_of_the_label_is_seen_in_its_own_row_alone() -> None:
    net, x, t = network(num_augment=LABELS), torch.randn(2, 1, 8, 8), torch.full((2,), 5.0)
    untold = net(x, t)
    for place in range(LABELS):
        label = torch.zeros(2, LABELS)
        label[1, place] = 1
        told = net(x, t, augment=label)
        assert (told[1] - untold[1]).abs().max() > 1e-3
        assert torch.allclose(told[0], untold[0], atol=1e-6)


def test_a_network_that_is_told_has_one_matrix_more_and_learns_it() -> None:
    count = {n: sum(p.numel() for p in network(num_augment=n).parameters()) for n in (0, LABELS)}
    assert count[LABELS] - count[0] == LABELS * 4 * 32
    net = network(num_augment=LABELS)
    net(torch.randn(2, 1, 8, 8), torch.ones(2), augment=torch.ones(2, LABELS)).square().mean().backward()
    gradient = net.get_parameter("augment.weight").grad
    assert gradient.abs().min() > 0


def test_a_network_without_augmentation_takes_no_label_of_it() -> None:
    with pytest.raises(ValueError, match="built without augmentation"):
        network()(torch.randn(1, 1, 8, 8), torch.ones(1), augment=torch.zeros(1, LABELS))
