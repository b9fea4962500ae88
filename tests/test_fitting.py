"""What is chosen where no preset is named: the rule's table, that whatever is said wins, and that runs go on."""

import json
import math
import shutil
from collections.abc import Generator
from contextlib import closing
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fromnoise import cli
from fromnoise.checkpoint import RunFolder
from fromnoise.config import Config, build_network, parse, preset, preset_for, presets, to_toml, to_tree
from fromnoise.data import Dataset, Fit
from fromnoise.errors import WrongUse
from fromnoise.network import UNet
from fromnoise.schema import merge
from fromnoise.task import fitting
from fromnoise.task.estimate_plan import plan
from fromnoise.task.fitting import fitted, told
from fromnoise.task.inspect_advice import advise
from fromnoise.task.prepare import prepare, settle
from fromnoise.task.resume import refuse_other
from fromnoise.task.train import Ended, train_run
from fromnoise.train import Ema
from fromnoise.train.augment import DRAWS

SIDES = (8, 16, 24, 32, 48, 64, 96, 128, 256)
NUMBERS = (1, 30, 200, 1911, 15_803, 50_000, 70_000, 299_999, 300_000, 1_281_167, 20_000_000)
SMALL: dict[str, Any] = {
    "network": {"model_channels": 4, "num_res_blocks": 1, "channel_mult": [1, 1], "attention_resolutions": []},
    "train": {"batch_size": 8, "sample_every": 0},
}


def chosen(side: int, pictures: int, said: dict[str, Any] | None = None) -> Config:
    """What a run would have for so many square pictures."""
    found = {"data": {"height": side, "width": side, "channels": 3}}
    return parse(merge(merge(fitted(side, pictures, said or {}), said or {}), found), "the test")


def protection(config: Config) -> tuple[float, float]:
    network: Any = config.network
    return network.dropout, config.train.augment.probability


def array(path: Path, pictures: int, side: int = 16) -> Path:
    """Different pictures of noise."""
    rng = np.random.default_rng(pictures)
    np.save(path, rng.integers(0, 256, (pictures, side, side, 3), dtype=np.uint8))
    return path


# ------------------------------------------------------------------------------------------------------------ the rule


@pytest.mark.parametrize(
    ("side", "pictures", "expected"),
    [
        (32, 50_000, (0.13, 0.12)),  # CIFAR-10
        (32, 2_000, (0.13, 0.12)),
        (16, 100, (0.13, 0.12)),
        (64, 15_803, (0.25, 0.15)),  # AFHQv2
        (64, 29_999, (0.25, 0.15)),
        (64, 30_000, (0.05, 0.15)),
        (64, 70_000, (0.05, 0.15)),  # FFHQ
        (48, 1_000, (0.25, 0.15)),
        (128, 299_999, (0.05, 0.15)),
        (64, 1_281_167, (0.10, 0.0)),  # ImageNet
        (32, 300_000, (0.10, 0.0)),
    ],
)
def test_a_long_run_is_protected_as_the_nearest_data_set_was(
    side: int, pictures: int, expected: tuple[float, float]
) -> None:
    """Karras et al. 2022, table 7; here every picture is shown 1,000 times."""
    config = chosen(side, pictures, {"train": {"epochs": 1000}})
    assert protection(config) == expected
    assert config.train.augment.active == (expected[1] > 0)


@pytest.mark.parametrize("side", [16, 32, 64, 128, 256])
def test_protection_begins_where_pictures_are_shown_often(side: int) -> None:
    untouched = preset(preset_for(side))["network"]["dropout"]
    for pictures in (300, 2000, 100_000):
        batch = preset(preset_for(side))["train"]["batch_size"]
        seldom = chosen(side, pictures, {"train": {"steps": math.ceil(200 * pictures / batch) - 1}})
        often = chosen(side, pictures, {"train": {"steps": math.ceil(200 * pictures / batch)}})
        assert protection(seldom) == (untouched, 0.0) and not seldom.train.augment.active
        assert protection(often)[1] > 0


def test_augmentation_is_on_only_where_the_rule_says_so() -> None:
    """With the presets' own lengths; which have it is worked out here from steps and batches."""
    for side, pictures in product(SIDES, NUMBERS):
        tree = preset(preset_for(side))["train"]
        shown = min(max(tree["steps"] * tree["batch_size"] / pictures, 1), 2048)
        wanted = shown >= 200 and pictures < 300_000 and side >= 12
        assert chosen(side, pictures).train.augment.active == wanted, (side, pictures)


def test_the_digits_preset_is_as_it_is() -> None:
    for pictures, epochs in product((500, 1797, 60_000), (10, 2000)):
        said = {"train": {"epochs": epochs}}
        network, train = to_tree(chosen(8, pictures, said))["network"], to_tree(chosen(8, pictures, said))["train"]
        own = preset("digits")
        own["train"].pop("steps")
        steps = epochs * pictures / 128
        decay = own["train"].pop("ema_decay")
        assert train.pop("ema_decay") == (decay if steps <= 200_000 else pytest.approx(1 - 20 / steps, abs=1e-7))
        assert {key: train[key] for key in own["train"]} == own["train"] and train["augment"]["probability"] == 0
        assert network == {**own["network"], "attention_resolutions": [4]}


@pytest.mark.parametrize(
    ("side", "pictures", "steps"),
    [(32, 100, 3200), (32, 1562, 49_984), (32, 1563, 50_000), (32, 3_200_000, 50_000), (32, 10_000_000, 156_250)],
)
def test_no_picture_is_shown_more_often_than_the_paper_did_nor_less_than_once(
    side: int, pictures: int, steps: int
) -> None:
    train = chosen(side, pictures).train
    assert train.total_steps(pictures) == steps
    assert 1 <= math.ceil(steps * train.batch_size / pictures) <= 2048


def test_the_average_is_over_a_twentieth_to_a_tenth_of_the_run() -> None:
    """Of any run: 1 / (1 − decay) of the last update, against the number of updates."""
    lengths: list[dict[str, float]] = [{}, {"steps": 1000}, {"steps": 400_000}, {"epochs": 3.5}, {"images": 10**9}]
    for side, pictures, length in product((8, 16, 64, 256), (50, 2000, 10**6), lengths):
        train = chosen(side, pictures, {"train": length}).train
        steps = train.total_steps(pictures)
        ema = Ema(torch.nn.Linear(1, 1), decay=train.ema_decay, ramp=train.ema_ramp)
        ema.updates = steps
        assert 0.05 * steps * 0.999 <= 1 / (1 - ema.decay_now()) <= 0.1 * steps + 1.001


def test_nothing_is_mirrored_unless_asked() -> None:
    draws = torch.rand(500, DRAWS, generator=torch.Generator().manual_seed(0))
    for side, pictures in product((8, 16, 64), (100, 2000, 10**6)):
        train = chosen(side, pictures).train
        _, labels = train.augment(torch.zeros(500, 1, 8, 8), draws)
        assert not train.flip and not labels[:, :2].any()
        assert labels[:, 2:].any() == train.augment.active
    asked = chosen(64, 100, {"train": {"augment": {"flip_x": 1.0}}}).train.augment
    assert (asked.flip_x, asked.probability) == (1.0, 0.15)


def test_every_preset_builds_its_network_and_so_does_every_fitted_one() -> None:
    for name in presets():
        with torch.device("meta"):
            build_network(parse(merge(preset(name), {"data": {"channels": 3}}), name))
    for side, pictures in product(SIDES, (300, 3000, 400_000)):
        config = chosen(side, pictures)
        with torch.device("meta"):
            network = build_network(config)
        assert isinstance(network, UNet) and (network.augment is not None) == config.train.augment.active


# ---------------------------------------------------------------------------------------------------- what is said wins


def test_whatever_is_said_wins_over_the_rule(tmp_path: Path) -> None:
    path = str(array(tmp_path / "some.npy", 50))
    said = {
        "network": {"dropout": 0.02},
        "train": {"epochs": 3000, "ema_decay": 0.99, "augment": {"probability": 0.0}, "flip": True},
    }
    config, _ = settle({"data": {"path": path}, **said}, preset_name=None, source="test")
    open_, _ = settle({"data": {"path": path}}, preset_name=None, source="test")
    assert protection(config) == (0.02, 0.0) and protection(open_) == (0.13, 0.12)
    assert (config.train.epochs, config.train.steps, config.train.ema_decay) == (3000, None, 0.99)
    assert config.train.flip and not config.train.augment.active
    assert (open_.train.epochs, open_.train.steps) == (2048, None)


def test_a_preset_that_is_named_is_taken_as_it_is(tmp_path: Path) -> None:
    path = str(array(tmp_path / "some.npy", 50))
    config, _ = settle({"data": {"path": path}}, preset_name="small16", source="test")
    assert (config.train.steps, protection(config)) == (20_000, (0.1, 0.0))
    prepared = prepare({"data": {"path": path}}, preset_name="small16")
    assert not any("preset" in remark for remark in prepared.remarks)


def test_a_batch_or_a_part_held_out_changes_how_often_pictures_are_shown(tmp_path: Path) -> None:
    path = str(array(tmp_path / "some.npy", 100))

    def augmented(**said: Any) -> bool:
        tree = {"data": {"path": path, "held_out": said.pop("held_out", 0.0)}, "train": said}
        return settle(tree, preset_name=None, source="test")[0].train.augment.active

    assert augmented(steps=400, batch_size=50) and not augmented(steps=399, batch_size=50)
    assert augmented(steps=200, batch_size=50, held_out=0.5)


def test_mistakes_are_still_one_line_that_names_the_settings(tmp_path: Path) -> None:
    path = str(array(tmp_path / "some.npy", 5))
    for said, what in (({"stepz": 3}, "stepz: no such key"), ({"steps": 3, "images": 3}, "steps and images are given")):
        with pytest.raises(WrongUse, match=rf"^the test: \[train\] {what}"):
            settle({"data": {"path": path}, "train": said}, preset_name=None, source="the test")


# ------------------------------------------------------------------------------------------------------ it is all told


def test_the_choice_is_told_in_one_line_that_says_what_the_settings_hold(tmp_path: Path) -> None:
    data = {"data": {"path": str(array(tmp_path / "some.npy", 50)), "held_out": 0.2}}
    prepared = prepare(data, preset_name=None)
    assert prepared.remarks[0] == (
        "preset small16, fitted to 40 pictures: 1,280 steps of 64, each picture seen about 2,048 times; dropout 0.13, "
        "augmentation 0.12, never mirrored; --preset small16 takes it as it is"
    )
    config = chosen(64, 40_000, {"train": {"epochs": 2.5, "flip": True}})
    line = told(config, 40_000)
    assert "each picture seen about 2.5 times; dropout 0.1, no augmentation, mirrored by chance" in line


@pytest.mark.parametrize("pictures", [30, 170, 2500])
def test_inspect_estimate_and_train_agree(
    pictures: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    path = array(tmp_path / "some.npy", pictures)
    assert cli.main(["inspect", str(path), "--json"]) == 0
    advice = json.loads(capsys.readouterr().out)["advice"]
    config, _ = settle({"data": {"path": str(path)}}, preset_name=None, source="test")
    steps = config.train.total_steps(pictures)
    assert (advice["preset"], advice["steps"], advice["batch_size"]) == ("small16", steps, config.train.batch_size)
    assert to_tree(plan({"data": {"path": str(path)}}, preset_name=None).config) == to_tree(config)
    assert f"{advice['preset']}, fitted to {pictures:,} pictures: {steps:,} steps" in told(config, pictures)


def test_advice_is_what_would_be_fitted_at_any_number() -> None:
    for side, pictures in product(SIDES, NUMBERS):
        advice = advise(pictures, {side: pictures}, Fit(height=side, width=side, channels=3))
        train = chosen(side, pictures).train
        assert (advice.steps, advice.batch_size) == (train.total_steps(pictures), train.batch_size)
        assert advice.shortened == (advice.steps < preset(advice.preset)["train"]["steps"])


# ------------------------------------------------------------------------------------------------------ a run goes on


def going_on(config: Config, pictures: Dataset, out: Path) -> Generator[Any, None, None]:
    yield from train_run(config, pictures, out, device=torch.device("cpu"))


def begun(tmp_path: Path, *changes: dict[str, Any], epochs: float | None = 1.0) -> tuple[dict[str, Any], Path]:
    """What was said, and a run of 24 pictures that it has trained."""
    path, out = array(tmp_path / "some.npy", 24), tmp_path / "run"
    said = merge({"data": {"path": str(path)}, "train": {} if epochs is None else {"epochs": epochs}}, SMALL)
    for change in changes:
        said = merge(said, change)
    prepared = prepare(said, preset_name=None, run=out)
    *_, last = going_on(prepared.config, prepared.training, out)
    assert isinstance(last, Ended) and last.finished
    return said, out


def test_a_run_that_is_prolonged_goes_on_as_it_began(tmp_path: Path) -> None:
    """Longer than the rule's bound, the same command would choose augmentation, and the run would be refused."""
    said, out = begun(tmp_path)
    longer = merge(said, {"train": {"epochs": 250.0}})
    other = prepare(longer, preset_name=None)
    with pytest.raises(WrongUse, match=r"network\.dropout was 0\.1, now 0\.13, train\.augment\.flip_y"):
        refuse_other(RunFolder(out), other.config)
    prepared = prepare(longer, preset_name=None, run=out)
    assert protection(prepared.config) == (0.1, 0.0) and prepared.config.train.epochs == 250
    assert "dropout 0.1, no augmentation" in prepared.remarks[0]
    with closing(going_on(prepared.config, prepared.training, out)) as events:
        assert next(events).step == 3  # one pass over 24 in batches of 8


def test_a_run_that_has_lost_its_settings_is_prolonged_by_those_of_its_checkpoints(tmp_path: Path) -> None:
    said, out = begun(tmp_path)
    (out / "config.toml").unlink()
    prepared = prepare(merge(said, {"train": {"epochs": 250.0}}), preset_name=None, run=out)
    assert protection(prepared.config) == (0.1, 0.0) and prepared.config.train.epochs == 250
    with closing(going_on(prepared.config, prepared.training, out)) as events:
        assert next(events).step == 3
    assert (out / "config.toml").read_text() == to_toml(prepared.config)


def test_a_run_goes_on_after_the_rule_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the very command that began it, whatever a later rule would choose for its pictures."""
    said, out = begun(tmp_path)
    before = (out / "config.toml").read_text()
    monkeypatch.setattr(fitting, "OFTEN", 1)
    monkeypatch.setattr(fitting, "_EMA_STEPS", 2)
    monkeypatch.setattr(fitting, "_EMA_SHARE", 0.9)
    fresh, prepared = prepare(said, preset_name=None), prepare(said, preset_name=None, run=out)
    assert protection(fresh.config) == (0.13, 0.12) and fresh.config.train.ema_decay == pytest.approx(1 - 1 / 2.7)
    assert to_toml(prepared.config) == before
    with closing(going_on(prepared.config, prepared.training, out)) as events:
        assert next(events).step == 3


def test_a_rate_that_falls_to_its_end_keeps_the_end_it_knew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "MOST_PASSES", 1)
    said, out = begun(tmp_path, {"train": {"rate": "cosine"}}, epochs=None)
    monkeypatch.setattr(fitting, "MOST_PASSES", 2)
    assert settle(said, preset_name=None, source="test")[0].train.epochs == 2
    config, _ = settle(said, preset_name=None, source="test", run=out)
    assert config.train.epochs == 1
    refuse_other(RunFolder(out), config)


def test_another_setting_that_is_said_is_refused_as_ever(tmp_path: Path) -> None:
    said, out = begun(tmp_path)
    config, _ = settle(merge(said, {"network": {"dropout": 0.3}}), preset_name=None, source="test", run=out)
    with pytest.raises(WrongUse, match=r"network\.dropout was 0\.1, now 0\.3"):
        refuse_other(RunFolder(out), config)


def test_where_there_is_nothing_to_go_on_with_the_rule_decides(tmp_path: Path) -> None:
    said, out = begun(tmp_path)
    longer = merge(said, {"train": {"epochs": 250.0}})

    def protected() -> tuple[float, float]:
        return protection(settle(longer, preset_name=None, source="test", run=out)[0])

    assert protected() == (0.1, 0.0)
    text = (out / "config.toml").read_text()
    (out / "config.toml").write_text("steps = =")
    assert protected() == (0.13, 0.12)  # and refuse_other says that the file is none
    (out / "config.toml").write_text(text)
    shutil.rmtree(out / "checkpoints")
    assert protected() == (0.13, 0.12)
    shutil.rmtree(out)
    assert protected() == (0.13, 0.12)
