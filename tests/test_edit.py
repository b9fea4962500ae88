"""Pictures made of given pictures: what is kept, what changes, and that picture k is the same in any batch."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests import tiny
from torch import Tensor
from torch.nn.functional import avg_pool2d

from fromnoise.cli import main
from fromnoise.config import Config, parse
from fromnoise.errors import WrongUse
from fromnoise.run import Run, open_run
from fromnoise.task.edit import Between, Edit, Inpaint, Plain, Upscale, Variation
from fromnoise.task.given import read_hole, read_picture, read_small
from fromnoise.task.sample import Drawing, Drawn, draw

HOLE = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
HOLE[..., 4:, 2:] = True


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("runs") / "run"
    small = {"network": {"model_channels": 16, "attention_resolutions": []}}
    return open_run(tiny.trained(out, small, steps=60, label_dropout=0.1)).sampled_as("dpm_2m", steps=12)


def digit(k: int) -> Tensor:
    return torch.from_numpy(tiny.digits().images[k : k + 1].copy())


def small() -> Tensor:
    return avg_pool2d(digit(0).float(), 2).round().to(torch.uint8)


EDITS: dict[str, Callable[[], Edit]] = {
    "variation": lambda: Variation(picture=digit(0), strength=0.5),
    "hole": lambda: Inpaint(picture=digit(0), hole=HOLE),
    "repaint": lambda: Inpaint(picture=digit(0), hole=HOLE, resamples=2),
    "upscale": lambda: Upscale(small=small(), factor=2),
    "between": lambda: Between(first=digit(0), last=digit(1), n=6, strength=0.5),
}


def drawn(run: Run, edit: Edit, n: int = 6, **settings: Any) -> Tensor:
    *_, last = draw(run, n, labels=settings.pop("labels", [3] * n), edit=edit, **settings)
    assert isinstance(last, Drawn) and last.images.shape == (n, 1, 8, 8)
    return last.images.float()


def apart(a: Tensor, b: Tensor) -> float:
    """In grey levels, the mean."""
    return (a.float() - b.float()).abs().mean().item()


@pytest.mark.parametrize("name", EDITS)
def test_picture_k_does_not_depend_on_the_batch(run: Run, name: str) -> None:
    """Up to rounding, as without an edit; and the bar of progress is filled exactly."""
    *events, last = draw(run, 6, labels=range(6), edit=EDITS[name](), batch_size=6)
    assert isinstance(last, Drawn)
    for size in (1, 4):
        parts = drawn(run, EDITS[name](), labels=list(range(6)), batch_size=size)
        assert (parts - last.images.float()).abs().max() <= 1
    assert all(isinstance(event, Drawing) for event in events)
    assert [(event.done, event.total) for event in events] == [  # pyright: ignore[reportAttributeAccessIssue]
        (k + 1, len(events)) for k in range(len(events))
    ]
    if name != "between":  # The first three are then others.
        few = drawn(run, EDITS[name](), 3, labels=[0, 1, 2])
        assert (few - last.images[:3].float()).abs().max() <= 1


def test_a_variation_is_the_nearer_the_weaker(run: Run) -> None:
    """From a picture hardly touched to one that has nothing to do with it."""
    plain = drawn(run, Plain())
    found = [apart(drawn(run, Variation(picture=digit(0), strength=s)), digit(0)) for s in (0.06, 0.2, 0.5, 1.0)]
    assert found == sorted(found) and found[0] < 0.25 * apart(plain, digit(0))
    ancestral = run.sampled_as("ancestral", steps=50)
    assert apart(drawn(ancestral, Variation(picture=digit(0), strength=0.02)), digit(0)) < 6
    others = drawn(run, Variation(picture=digit(0), strength=0.5))
    assert len({bytes(picture.byte().numpy()) for picture in others}) == 6, "one seed each"


def test_all_the_strength_begins_where_pictures_do(run: Run) -> None:
    """x_T of a picture is noise all but for √ᾱ_T of it: with a grey picture nearly that of plain sampling."""
    grey = torch.full((1, 1, 8, 8), 128, dtype=torch.uint8)
    assert apart(drawn(run, Variation(picture=grey, strength=1.0)), drawn(run, Plain())) < 12


@pytest.mark.parametrize("resamples", [0, 2])
@pytest.mark.parametrize("sampler", ["dpm_2m", "ancestral"])
def test_what_is_known_is_kept_to_the_last_bit(run: Run, sampler: str, resamples: int) -> None:
    edit = Inpaint(picture=digit(0), hole=HOLE, resamples=resamples)
    made = drawn(run.sampled_as(sampler, steps=10), edit)
    kept = ~HOLE.expand(6, 1, 8, 8)
    assert torch.equal(made[kept], digit(0).float().expand(6, 1, 8, 8)[kept])
    assert all(apart(a[HOLE[0]], b[HOLE[0]]) > 5 for a, b in itertools.pairwise(made)), "a seed each"


def test_the_rest_of_the_picture_has_a_say_in_the_hole(run: Run) -> None:
    """Black above gives another lower half than white above, from the same noise."""
    for resamples in (0, 2):
        dark, light = (
            drawn(run, Inpaint(picture=torch.full((1, 1, 8, 8), grey, dtype=torch.uint8), hole=HOLE, **more))
            for more in ({"resamples": resamples},)
            for grey in (0, 255)
        )
        assert apart(dark[HOLE.expand_as(dark)], light[HOLE.expand_as(light)]) > 8


def test_repaint_calls_the_network_more_often(run: Run) -> None:
    """r times in every step but the last."""
    *_, last = draw(run, 1, labels=[3], edit=Inpaint(picture=digit(0), hole=HOLE, resamples=3))
    assert last.nfe == 3 * 11 + 1


def test_a_larger_picture_has_the_small_one_s_means(run: Run) -> None:
    made = drawn(run, EDITS["upscale"]())
    off = (avg_pool2d(made, 2) - small().float()).abs()
    plain = (avg_pool2d(drawn(run, Plain()), 2) - small().float()).abs()
    assert off.mean() < 3 and off.mean() < 0.1 * plain.mean()
    assert apart(made[0], made[1]) > 0.3, "what the small picture leaves open, a seed decides"


def test_between_two_pictures(run: Run) -> None:
    """Near both at little strength; all with one seed, so that equal ends give equal pictures."""
    made = drawn(run, Between(first=digit(0), last=digit(1), n=6, strength=0.1))
    ends = apart(digit(0), digit(1))
    assert apart(made[0], digit(0)) < 0.3 * ends and apart(made[5], digit(1)) < 0.3 * ends
    to_first, to_last = ([apart(picture, digit(k)) for picture in made] for k in (0, 1))
    assert to_first == sorted(to_first) and to_last == sorted(to_last, reverse=True)
    same = drawn(run, Between(first=digit(0), last=digit(0), n=6, strength=0.5), batch_size=4)
    assert (same - same[:1]).abs().max() <= 1
    assert Between(first=digit(0), last=digit(1), n=6).seeds(7, 6) == [7] * 6
    alone = drawn(run, Between(first=digit(0), last=digit(1), n=1, strength=0.1), 1)
    assert torch.equal(alone[0], drawn(run, Variation(picture=digit(0), strength=0.1), 1)[0])


@pytest.mark.parametrize("strength", [0.0, -1.0, 1.01, float("nan")])
def test_a_strength_is_a_share(strength: float) -> None:
    with pytest.raises(WrongUse, match=r"strength = .*: must lie above 0 .* at most 1"):
        Variation(picture=digit(0), strength=strength)
    with pytest.raises(WrongUse, match=r"strength = "):
        Between(first=digit(0), last=digit(1), n=2, strength=strength)


def test_too_few_steps_below_the_strength(run: Run) -> None:
    with pytest.raises(WrongUse, match=r"this strength leaves 1 of 12 steps, and DPMSolver2M .* at least 2 steps"):
        drawn(run, Variation(picture=digit(0), strength=0.001))
    assert apart(drawn(run.sampled_as("ddim", steps=12), Variation(picture=digit(0), strength=0.001)), digit(0)) < 40


# ------------------------------------------------------------------------------------------------------------ reading


def save(array: np.ndarray, path: Path) -> Path:
    Image.fromarray(array.squeeze().astype(np.uint8)).save(path)
    return path


def config(**data: Any) -> Config:
    return parse({"data": {"path": "digits", "height": 8, "width": 8, "channels": 1, **data}}, "test")


def test_a_picture_of_the_model_s_size_is_taken_as_it_is(tmp_path: Path) -> None:
    path = save(digit(0).numpy(), tmp_path / "a.png")
    assert torch.equal(read_picture(path, config()), digit(0))
    assert torch.equal(read_picture(path, config(), fit=True), digit(0))
    assert torch.equal(read_picture(path, config(channels=3)), digit(0).expand(1, 3, 8, 8))


def test_another_size_is_fitted_only_if_asked_for(tmp_path: Path) -> None:
    big = np.kron(digit(0).numpy()[0, 0], np.ones((2, 2)))
    path = save(np.pad(big, ((0, 0), (4, 4))), tmp_path / "wide.png")
    with pytest.raises(WrongUse, match=r"wide\.png has 16x24 pixels .*makes 8x8: give a .* or --fit to resize"):
        read_picture(path, config())
    assert apart(read_picture(path, config(), fit=True), digit(0)) < 8
    mask = np.zeros((16, 24))
    mask[:, 12:] = 255
    picture, hole = read_hole(path, save(mask, tmp_path / "m.png"), config(), fit=True)
    assert torch.equal(picture, read_picture(path, config(), fit=True))
    assert torch.equal(hole[0, 0], (torch.arange(8) >= 4).expand(8, 8)), "through what the picture goes through"


def test_a_mask_is_white_where_to_fill_in(tmp_path: Path) -> None:
    path, white = save(digit(0).numpy(), tmp_path / "a.png"), 255 * HOLE.numpy()[0, 0]
    clear = np.zeros((8, 8, 4))
    clear[HOLE.numpy()[0, 0]] = 255  # white where it is opaque, nothing elsewhere
    clear[0, 0] = (255, 0, 0, 255)  # red is not white
    coloured = np.repeat(white[..., None], 3, axis=-1)
    for name, array in (("grey", white), ("rgb", coloured), ("clear", clear)):
        assert torch.equal(read_hole(path, save(array, tmp_path / f"{name}.png"), config())[1], HOLE)
        assert torch.equal(read_hole(path, tmp_path / f"{name}.png", config(channels=3))[1], HOLE)
    with pytest.raises(WrongUse, match=r"the mask .*black\.png has no white, so there is nothing to fill in"):
        read_hole(path, save(0 * white, tmp_path / "black.png"), config())
    with pytest.raises(WrongUse, match=r"the mask .*other\.png has 4x8 pixels \(height x width\), the picture 8x8"):
        read_hole(path, save(white[:4], tmp_path / "other.png"), config())


def test_a_small_picture_is_a_whole_part(tmp_path: Path) -> None:
    found, factor = read_small(save(small().numpy(), tmp_path / "s.png"), config())
    assert factor == 2 and torch.equal(found, small())
    wide = save(np.zeros((2, 4)), tmp_path / "w.png")
    assert read_small(wide, config(width=16))[1] == 4
    for shape in ((8, 8), (3, 3), (2, 4), (16, 16)):
        path = save(np.zeros(shape), tmp_path / "x.png")
        with pytest.raises(WrongUse, match=r"this model makes 8x8, so .* a whole part of that, for one 4x4 or 2x2"):
            read_small(path, config())


def test_what_is_no_picture(tmp_path: Path) -> None:
    (tmp_path / "notes.png").write_text("no picture")
    for path, why in [
        (tmp_path / "none.png", "No such file"),
        (tmp_path, "directory"),
        (tmp_path / "notes.png", "not"),
    ]:
        for read in (read_picture, read_small):
            with pytest.raises(WrongUse, match=f"cannot read .*{why}") as caught:
                read(path, config())
            assert "\n" not in str(caught.value)


# ---------------------------------------------------------------------------------------------------- the command line


def test_files_in_files_out(run: Run, tmp_path: Path) -> None:
    """The command line draws the pictures that Python draws; known pixels are those of the file."""
    a, b = (save(digit(k).numpy(), tmp_path / f"{k}.png") for k in (0, 1))
    mask = save(255 * HOLE.numpy(), tmp_path / "mask.png")
    little = save(small().numpy(), tmp_path / "small.png")
    words: dict[str, list[Any]] = {
        "variation": ["--from", a],
        "hole": ["--inpaint", a, "--mask", mask],
        "repaint": ["--inpaint", a, "--mask", mask, "--repaint", 2],
        "upscale": ["--upscale", little],
        "between": ["--interpolate", a, b],
    }
    common = ["-n", 6, "--label", 3, "--sampler", "dpm_2m", "--steps", 12]
    for name, said in words.items():
        out = tmp_path / name
        assert main([str(word) for word in ["sample", run.path, *common, *said, "--out", out]]) == 0
        files = sorted(out.iterdir())
        made = torch.stack([torch.from_numpy(np.asarray(Image.open(file)).copy()) for file in files])[:, None]
        assert torch.equal(made.float(), drawn(run, EDITS[name]())), name
        if name in {"hole", "repaint"}:
            kept = ~HOLE.expand(6, 1, 8, 8)
            assert torch.equal(made[kept], digit(0).expand(6, 1, 8, 8)[kept])
        numbers = [int(file.name.partition("-")[0]) for file in files]
        assert numbers == list(range(6)), "by seed, or by their place where all have one"


def test_pictures_in_colour_through_every_door(tmp_path: Path) -> None:
    """Three channels, not square."""
    change: dict[str, Any] = {"data": {"channels": 3, "width": 4, "class_names": []}}
    change |= {"network": {"attention_resolutions": []}}
    colour = np.random.default_rng(0).integers(0, 256, (9, 3, 8, 4), dtype=np.uint8)
    pictures = tiny.other(tiny.digits(9), images=colour, labels=None, classes=())
    tiny.run(tiny.config(change, steps=2), tmp_path / "run", pictures=pictures)
    run = open_run(tmp_path / "run").sampled_as("dpm_2m", steps=4)
    first, last, hole = torch.from_numpy(colour[:1]), torch.from_numpy(colour[1:2]), HOLE[..., :4]
    edits = [
        Variation(picture=first),
        Inpaint(picture=first, hole=hole),
        Inpaint(picture=first, hole=hole, resamples=2),
        Upscale(small=first[..., ::2, ::2], factor=2),
        Between(first=first, last=last, n=2),
    ]
    for edit in edits:
        *_, made = draw(run, 2, edit=edit)
        assert isinstance(made, Drawn) and made.images.shape == (2, 3, 8, 4)
        if isinstance(edit, Inpaint):
            assert torch.equal(made.images[:, :, ~hole[0, 0]], first[:, :, ~hole[0, 0]].expand(2, -1, -1))
