"""What a model is held against must be what it sees; and the small options of drawing: columns, compiling."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests import tiny

from fromnoise.config import Config
from fromnoise.errors import WrongUse
from fromnoise.network import compiled
from fromnoise.network.compiled import Compiled
from fromnoise.task.prepare import known_pictures

COLOURFUL = np.tile(np.array([250, 10, 90], np.uint8), (8, 8, 1))


@pytest.fixture
def config() -> Config:
    return tiny.config({"data": {"class_names": []}})


def folder(path: Path, *arrays: np.ndarray) -> str:
    path.mkdir()
    for k, array in enumerate(arrays):
        Image.fromarray(array).save(path / f"{k}.png")
    return str(path)


def test_pictures_of_the_model_s_size_are_taken_as_they_are(config: Config, tmp_path: Path) -> None:
    arrays = [np.arange(k, k + 64, dtype=np.uint8).reshape(8, 8) for k in range(3)]
    known = known_pictures(config, folder(tmp_path / "d", *arrays))
    assert np.array_equal(known.pictures.images[:, 0], np.stack(arrays))
    assert [Path(name).name for name in known.names] == ["0.png", "1.png", "2.png"]


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        (np.zeros((8, 9), np.uint8), "1.png has 8x9 pixels (height x width), and this model sees 8x8 in grey"),
        (COLOURFUL, "the pictures show colour, and this model sees 8x8 in grey"),
    ],
)
def test_others_are_refused_unless_they_may_be_fitted(
    config: Config, tmp_path: Path, wrong: np.ndarray, complaint: str
) -> None:
    data = folder(tmp_path / "d", np.zeros((8, 8), np.uint8), wrong)
    with pytest.raises(WrongUse) as caught:
        known_pictures(config, data)
    assert complaint in str(caught.value) and "or --fit" in str(caught.value)
    assert known_pictures(config, data, fit=True).pictures.images.shape == (2, 1, 8, 8)


def test_a_grid_has_as_many_columns_as_are_asked_for(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from fromnoise.cli import main

    run, out = tiny.trained(tmp_path / "run", steps=1), tmp_path / "g.png"
    words = ["sample", str(run), "-n", "6", "--steps", "3", "--sampler", "ddim", "--out", str(out)]
    assert main([*words, "--columns", "6"]) == 0
    with Image.open(out) as picture:
        assert picture.width == 6 * picture.height - 5 * 2 * 4  # Six pictures and seven gaps against one and two.
    assert main([*words, "--overwrite", "--columns", "0"]) == 2
    assert main([*words, "--overwrite", "--compile", "--device", "cpu"]) == 2
    said = capfd.readouterr().err
    assert "--columns 0: must be at least 1" in said and "--compile pays on a GPU only" in said


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # of PyTorch's own compiler, as it loads
def test_what_a_compiled_network_gave_is_not_overwritten_by_its_next_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with CUDA graphs: every call answers in the same memory."""
    memory = torch.empty(2, 1, 2, 2)

    def recorded(network: torch.nn.Module, mode: str) -> object:
        assert mode == "reduce-overhead"
        return lambda x, c_time: memory.copy_(network(x) + c_time[:, None, None, None])

    monkeypatch.setattr(compiled.torch, "compile", recorded)
    network = Compiled(torch.nn.Conv2d(1, 1, 1))
    x, times = torch.randn(2, 1, 2, 2), (torch.zeros(2), torch.ones(2))
    first, second = (network(x, t) for t in times)
    torch.testing.assert_close(second - first, torch.ones(2, 1, 2, 2))
