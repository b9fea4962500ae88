"""What was trained is opened from a folder or from one file, and draws the same pictures, in five lines of Python."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from tests import tiny

import fromnoise
from fromnoise.errors import FromnoiseError, WrongUse
from fromnoise.run import Run, open_run, pick_device, with_config

NEWEST = "checkpoints/000000160"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.trained(tmp_path_factory.mktemp("trained") / "run", steps=20, checkpoint_every=80)


def test_five_lines_of_python(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(trained.parent)
    run = fromnoise.open("run")
    images = run.sample(3, seed=1, labels=7)
    assert isinstance(run, fromnoise.Run) and images.shape == (3, 8, 8, 1) and images.dtype == np.uint8
    assert len(np.unique(images)) > 20 and images.flags.c_contiguous
    assert run.images == 160 and run.classes == tuple("0123456789") and run.warnings == ()
    assert run.config == tiny.config(steps=20, checkpoint_every=80)


def test_a_name_that_the_package_has_not_is_an_ordinary_mistake() -> None:
    with pytest.raises(AttributeError, match="module 'fromnoise' has no attribute 'openrun'"):
        _ = fromnoise.openrun


def test_one_file_moved_elsewhere_gives_the_same_pictures(trained: Path, tmp_path: Path) -> None:
    from_folder = {
        weights: open_run(trained, weights=weights).sample(3, labels=[1, 2, 3]) for weights in ("ema", "model")
    }
    assert not np.array_equal(from_folder["ema"], from_folder["model"])
    for weights, images in from_folder.items():
        file = shutil.copy(trained / NEWEST / f"{weights}.safetensors", tmp_path / "any name")
        run = open_run(file)
        assert np.array_equal(run.sample(3, labels=[1, 2, 3]), images)
        assert run.images == 160 and run.config == open_run(trained).config


def test_the_weights_are_those_of_the_file(trained: Path) -> None:
    for weights in ("ema", "model"):
        stored = safetensors.torch.load_file(trained / NEWEST / f"{weights}.safetensors")
        tiny.assert_same_bits(dict(open_run(trained, weights=weights).network.state_dict()), stored)


def test_an_opened_run_is_for_inference(trained: Path) -> None:
    network = open_run(trained).network
    assert not network.training and not any(p.requires_grad for p in network.parameters())


def test_the_newest_whole_checkpoint_is_taken(trained: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(trained, tmp_path / "copy")
    (copy / NEWEST / "model.safetensors").write_bytes(b"")
    run = open_run(copy)
    assert run.images == 80
    assert run.warnings == (f"checkpoint {copy / NEWEST}: model.safetensors is missing or damaged; passed over",)


def test_a_run_can_be_opened_before_the_end_and_read_only(trained: Path, tmp_path: Path) -> None:
    """What training writes at the same time does not disturb: a checkpoint half written is not looked at."""
    copy = shutil.copytree(trained, tmp_path / "copy")
    shutil.copytree(copy / NEWEST, copy / "checkpoints/.writing-000000999-1")
    before = tiny.contents(copy)
    assert open_run(copy).images == 160
    assert tiny.contents(copy) == before


def test_other_settings_of_sampling_on_the_same_weights(trained: Path) -> None:
    run = open_run(trained)
    small = with_config(run, tiny.config({"sampling": {"sampler": {"variance": "small"}}}, steps=20))
    assert small.pipeline.denoiser.network is run.pipeline.denoiser.network
    assert not np.array_equal(small.sample(2, labels=1), run.sample(2, labels=1))
    with pytest.raises(WrongUse, match=r"this model has no learned variance .* take small or large"):
        with_config(run, tiny.config({"sampling": {"sampler": {"variance": "learned_range"}}}))


def test_weights_of_no_such_kind(trained: Path) -> None:
    with pytest.raises(WrongUse, match=r"^weights = 'best': should be 'ema' or 'model'$"):
        open_run(trained, weights="best")


def test_weights_that_do_not_fit_their_settings(trained: Path, tmp_path: Path) -> None:
    file = trained / NEWEST / "ema.safetensors"
    with safetensors.safe_open(file, framework="pt") as opened:
        metadata = dict(opened.metadata())
    tensors = safetensors.torch.load_file(file)
    wider = metadata["config"].replace("model_channels = 48", "model_channels = 64")
    for change in ({"config": wider}, {"config": "not toml"}, {"images": "many"}):
        safetensors.torch.save_file(tensors, tmp_path / "a.safetensors", metadata={**metadata, **change})
        with pytest.raises(
            FromnoiseError, match=r"a\.safetensors does not fit the settings that it carries: "
        ) as caught:
            open_run(tmp_path / "a.safetensors")
        assert caught.value.exit_code == 1 and "\n" not in str(caught.value) and len(str(caught.value)) < 600


def test_devices(trained: Path) -> None:
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device() == pick_device("auto")
    for wrong in ("gpu", "cpu0", "cuda:99"):
        with pytest.raises(WrongUse, match=f"^device '{wrong}' is not to be had here: ") as caught:
            pick_device(wrong)
        assert "\n" not in str(caught.value)
    run = open_run(trained, device="cpu")
    assert isinstance(run, Run) and run.to("cpu") is run and run.pipeline.device == torch.device("cpu")
