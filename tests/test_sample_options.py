"""The options of ``fromnoise sample``: each does what it says; what makes no sense is told before anything is done."""

import importlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests import tiny

from fromnoise.cli import main
from fromnoise.denoiser import Denoiser
from fromnoise.errors import FromnoiseError, WrongUse
from fromnoise.guidance import Auto
from fromnoise.run import Run, open_run, with_config
from fromnoise.sampler import Ancestral
from fromnoise.task.analytic import store_variance, stored_variance
from fromnoise.task.sample import Drawn, draw
from fromnoise.transition import Analytic

SMALL = {"network": {"model_channels": 16, "attention_resolutions": []}}
Sample = Callable[..., np.ndarray]
Refused = Callable[..., str]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With classes, a tenth of the labels hidden; and a picture, a mask and a small picture beside it."""
    folder = tmp_path_factory.mktemp("trained")
    digit, mask = tiny.digits().images[0, 0], np.zeros((8, 8), np.uint8)
    mask[4:] = 255
    for name, array in {"a": digit, "mask": mask, "small": digit[::2, ::2], "half": digit[:4]}.items():
        Image.fromarray(array).save(folder / f"{name}.png")
    return tiny.trained(folder / "run", SMALL, steps=40, label_dropout=0.1)


@pytest.fixture(scope="module")
def weak(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, trained for less long."""
    return tiny.trained(tmp_path_factory.mktemp("weak") / "run", SMALL, steps=4, label_dropout=0.1)


@pytest.fixture(scope="module")
def classless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("classless") / "run"
    pictures = tiny.other(tiny.digits(), labels=None, classes=())
    tiny.run(tiny.config(SMALL, {"data": {"class_names": []}}, steps=10), out, pictures=pictures)
    return out


@pytest.fixture
def sample(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Sample:
    """What is drawn by these words, (n, 8, 8)."""

    def run(path: Path, *words: object) -> np.ndarray:
        out = tmp_path / "made.npz"
        code = main([str(word) for word in ["sample", path, "-n", 4, *words, "--out", out, "--overwrite"]])
        assert code == 0, capsys.readouterr().err
        with np.load(out) as stored:
            return stored["images"][..., 0].astype(int)

    return run


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Refused:
    """The one line by which these words are refused: exit code 2, nothing on stdout, nothing drawn, nothing written."""

    def too_late(*_: Any, **__: Any) -> Any:
        raise AssertionError("sampling has begun")

    def run(path: Path, *words: object) -> str:
        before = tiny.contents(path.parent)
        capsys.readouterr()
        with monkeypatch.context() as patch:
            patch.setattr("fromnoise.pipeline.trajectory", too_late)
            code = main([str(word) for word in ["sample", path, "--out", tmp_path / "new" / "s.png", *words]])
        out, err = capsys.readouterr()
        (line,) = err.splitlines()
        assert (code, out) == (2, "") and line.startswith("fromnoise: ")
        assert not (tmp_path / "new").exists() and tiny.contents(path.parent) == before
        return line.removeprefix("fromnoise: ")

    return run


# --------------------------------------------------------------------------------------------------------------- how


def test_sampler_steps_eta_and_guidance_are_those_of_python(trained: Path, sample: Sample) -> None:
    run = open_run(trained)
    seen = []
    for words, settings in [
        ([], {}),
        (["--sampler", "unipc"], {"sampler": "unipc"}),
        (["--sampler", "unipc", "--steps", 8], {"sampler": "unipc", "steps": 8}),
        (["--sampler", "ddim", "--steps", 8], {"sampler": "ddim", "steps": 8}),
        (["--sampler", "ddim", "--steps", 8, "--eta", 0.7], {"sampler": "ddim", "steps": 8, "eta": 0.7}),
        (["--steps", 8], {"steps": 8}),
        (["--steps", 8, "--variance", "large"], {"steps": 8, "variance": "large"}),
        (["--guidance", 3], {"guidance": 3.0}),
    ]:
        made = sample(trained, *words, "--label", 5)
        assert np.array_equal(made, run.sampled_as(**settings).sample(4, labels=5)[..., 0]), words
        seen.append(made.tobytes())
    assert len(set(seen)) == len(seen), "every option makes a difference"


def test_set_has_the_last_word(trained: Path, sample: Sample) -> None:
    unipc = ["--sampler", "unipc", "--steps", 8]
    third = sample(trained, *unipc, "--set", "sampling.sampler.order=3")
    assert not np.array_equal(third, sample(trained, *unipc))
    nine = sample(trained, *unipc, "--set", "sampling.spacing.steps=9")
    assert np.array_equal(nine, sample(trained, "--sampler", "unipc", "--steps", 9))
    assert np.array_equal(
        sample(trained, "--guidance", 3, "--set", "sampling.guidance.scale=1"), sample(trained, "--guidance", 1)
    )


def test_guidance_of_1_is_none_bit_for_bit(trained: Path, weak: Path, tmp_path: Path) -> None:
    files = []
    for words in ([], ["--guidance", "1"], ["--guidance", "1", "--weak", str(weak)], ["--guidance", "2"]):
        files.append(tmp_path / f"{len(files)}.png")
        assert main(["sample", str(trained), "-n", "4", "--steps", "9", *words, "--out", str(files[-1])]) == 0
    plain, one, auto, two = (file.read_bytes() for file in files)
    assert plain == one == auto != two


def test_guidance_of_the_run_s_own_settings_gives_way(tmp_path: Path, weak: Path, sample: Sample) -> None:
    """To another scale, to none, and to a weaker run, whose scale is then the one that was typed."""
    strong = {"sampling": {"guidance": {"scale": 3.0}, "spacing": {"kind": "strided", "steps": 9}}}
    run = tiny.trained(tmp_path / "run", SMALL, strong, steps=8, label_dropout=0.1)
    opened = open_run(run)
    found = {scale: opened.sampled_as(guidance=scale).sample(4)[..., 0] for scale in (1.0, 2.0, 3.0)}
    assert np.array_equal(sample(run), found[3.0]) and not np.array_equal(found[3.0], found[1.0])
    assert np.array_equal(sample(run, "--guidance", 2), found[2.0])
    assert np.array_equal(sample(run, "--guidance", 1), found[1.0])
    assert np.array_equal(sample(run, "--guidance", 1, "--weak", weak), found[1.0])
    itself = sample(run, "--guidance", 5, "--weak", run)
    assert np.abs(itself - found[1.0]).max() <= 1, "away from itself is nowhere, though its own settings say 3"


def test_guidance_makes_the_class_more_so(trained: Path, sample: Sample) -> None:
    """u + w (c − u): linear in w before the first step's limits, so doubled twice from w = 1 to 3 as from 1 to 2."""
    run = open_run(trained)

    def first(scale: float) -> torch.Tensor:
        pipeline = run.sampled_as("ddim", steps=5, guidance=scale).pipeline
        level = pipeline.denoiser.schedule(50)
        x_t = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        return pipeline.denoiser.unclipped(x_t, level, label=torch.tensor([3, 4])).x_0.detach()

    torch.testing.assert_close(first(3.0) - first(1.0), 2 * (first(2.0) - first(1.0)), rtol=1e-3, atol=1e-3)
    assert (first(2.0) - first(1.0)).abs().mean() > 1e-3


def test_a_weaker_run_to_be_guided_away_from(trained: Path, weak: Path, sample: Sample) -> None:
    made = sample(trained, "--weak", weak, "--guidance", 2, "--sampler", "ddim", "--steps", 8, "--label", 3)
    run, bad = open_run(trained).sampled_as("ddim", steps=8), open_run(weak)
    denoiser = Auto(run.pipeline.denoiser, bad.pipeline.denoiser, 2.0)
    expected = replace(run.pipeline, denoiser=denoiser).sample(4, labels=3)[..., 0]
    assert np.array_equal(made, expected)
    assert not np.array_equal(made, run.sample(4, labels=3)[..., 0])


@pytest.mark.parametrize(
    "words",
    [
        ["--guidance", 3],
        ["--sampler", "dpm_2m_sde"],
        ["--strip", 4],
        ["--weak", "weak", "--guidance", 2],
    ],
)
def test_picture_k_does_not_depend_on_the_batch(trained: Path, weak: Path, sample: Sample, words: list[Any]) -> None:
    words = [weak if word == "weak" else word for word in words]
    whole = sample(trained, "--steps", 8, "--label", "1,2,3,4", *words)
    for size in (1, 3):
        parts = sample(trained, "--steps", 8, "--label", "1,2,3,4", *words, "--batch-size", size)
        assert np.abs(parts - whole).max() <= 1
    few = sample(trained, "--steps", 8, "--label", "1,2,3,4", *words, "-n", 2)
    assert np.abs(few - whole[: len(few)]).max() <= 1


def test_one_object_with_a_label_a_picture(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, labels in [
        (["--strip", 3], [0, 1]),
        (["--from", trained.parent / "a.png"], [0, 1]),
        (["--interpolate", *[trained.parent / "a.png"] * 2], None),
    ]:
        said = ["sample", trained, "-n", 2, "--steps", 5, *words, "--json", "--overwrite", "--out", tmp_path / "s.png"]
        assert main([str(word) for word in said]) == 0
        out = capsys.readouterr().out
        told = json.loads(out)
        assert out.count("\n") == 1 and (told["n"], told["labels"]) == (2, labels)


# ------------------------------------------------------------------------------------------------------------- strips


def test_a_strip_shows_how_a_picture_came_to_be(trained: Path, sample: Sample, tmp_path: Path) -> None:
    """What the network took it for, in equal steps from the first on; at last the picture itself."""
    words = ["--sampler", "dpm_2m", "--steps", 9, "--label", 3, "--batch-size", 3]
    plain, strip = sample(trained, *words), sample(trained, *words, "--strip", 4).reshape(4, 4, 8, 8)
    assert np.array_equal(strip[:, 3], plain)
    pipeline = open_run(trained).sampled_as("dpm_2m", steps=9).pipeline.ready()
    for k in range(4):
        steps = list(pipeline.stream([k], [3]))
        expected = [pipeline.decode(steps[i].prediction.x_0)[0, 0].numpy() for i in (0, 3, 5)]
        assert np.abs(strip[k, :3] - np.stack(expected)).max() <= 1
    assert np.array_equal(sample(trained, *words, "--strip", 1), plain)
    every = sample(trained, *words, "--strip", 9).reshape(4, 9, 8, 8)
    assert np.array_equal(every[:, [0, 8]], strip[:, [0, 3]])
    out = tmp_path / "strip.png"
    assert main([str(word) for word in ["sample", trained, "-n", 4, *words, "--strip", 4, "--out", out]]) == 0
    grid = np.asarray(Image.open(out))[::4, ::4]
    assert grid.shape == (42, 42) and np.array_equal(grid[12:20, 32:40], plain[1]), "a row a picture"


# ---------------------------------------------------------------------------------------------------------- classifiers

CLASSIFIERS = """
import torch

class Brightness(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(40.0))
    def forward(self, x, t):
        assert t.shape == x.shape[:1] and not self.training
        bright = self.scale * x.mean((1, 2, 3))
        return torch.stack([-bright, bright], 1)

dark_or_bright = Brightness()

def ten(x, t):
    bright = 40 * x.mean((1, 2, 3))
    return torch.stack([(k - 4.5) * bright for k in range(10)], 1)

def flat(x, t): return x.mean((1, 2, 3))
def deaf(x, t): return torch.zeros(len(x), 10)
def words(x, t): return "seven"
def three(x, t): return ten(x, t)[:, :3]
def broken(x, t): raise RuntimeError("out of\\nideas")
value = 3
"""


@pytest.fixture
def classifiers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of one's own in the folder where one stands; its name is new each time, as Python remembers modules."""
    name = f"mine_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(CLASSIFIERS)
    monkeypatch.chdir(tmp_path)
    return name


def test_a_classifier_of_one_s_own_guides_a_model_without_classes(
    classless: Path, classifiers: str, sample: Sample
) -> None:
    words = ["--classifier", f"{classifiers}:dark_or_bright", "--guidance", 6, "--sampler", "ddim", "--steps", 10]
    dark, bright = (sample(classless, *words, "--label", label) for label in (0, 1))
    plain = sample(classless, "--sampler", "ddim", "--steps", 10)
    assert dark.mean() + 8 < plain.mean() < bright.mean() - 8
    turns = sample(classless, *words)  # Its classes in turn.
    assert np.abs(turns[::2] - dark[::2]).max() <= 1 and np.abs(turns[1::2] - bright[1::2]).max() <= 1
    parts = sample(classless, *words, "--batch-size", 3)
    assert np.abs(parts - turns).max() <= 1
    none = sample(classless, *words[:2], "--guidance", 0, *words[4:])
    assert np.array_equal(none, plain)


def test_a_classifier_of_one_s_own_guides_a_model_with_classes(trained: Path, classifiers: str, sample: Sample) -> None:
    """The label goes to both."""
    words = ["--classifier", f"{classifiers}:ten", "--guidance", 1, "--sampler", "ddim", "--steps", 10]
    low, high = (sample(trained, *words, "--label", label) for label in (0, 9))
    plain = [sample(trained, "--sampler", "ddim", "--steps", 10, "--label", label) for label in (0, 9)]
    assert low.mean() + 10 < plain[0].mean() and plain[1].mean() < high.mean() - 10


def test_classifiers_that_are_none(trained: Path, classless: Path, classifiers: str, refused: Refused) -> None:
    odd, bad = f"odd_{classifiers}", f"bad_{classifiers}"
    Path(f"{odd}.py").write_text("raise ValueError('no\\nweights')")
    Path(f"{bad}.py").write_text("def f(:")
    for name, complaint in {
        "nope": "should look like module:name, a callable (x_t, t) -> logits",
        ":x": "should look like module:name",
        "nope:": "should look like module:name",
        "nope:x": "cannot import nope from here: ModuleNotFoundError: No module named 'nope'",
        f"{odd}:x": f"cannot import {odd} from here: ValueError: no weights",
        f"{bad}:f": f"cannot import {bad} from here: SyntaxError: ",
        f"{classifiers}:nobody": f"{classifiers} has no callable 'nobody'",
        f"{classifiers}:value": f"{classifiers} has no callable 'value'",
        f"{classifiers}:flat": "gives (1,) for one picture; should be logits of shape (1, classes)",
        f"{classifiers}:words": "gives str for one picture; should be logits of shape (1, classes)",
        f"{classifiers}:deaf": "its logits have no gradient for x_t, so nothing can be guided by them",
        f"{classifiers}:broken": "fails on x_t of shape (1, 1, 8, 8) and t of shape (1,): RuntimeError: out of ideas",
        f"{classifiers}:three": "knows 3 classes, and this model 10",
    }.items():
        line = refused(trained, "--classifier", name, "--guidance", 2)
        assert line.startswith(f"--classifier {name}: ") and complaint in line
    words = ["--classifier", f"{classifiers}:three"]
    line = refused(classless, *words, "--guidance", 2, "--label", 3)
    assert line == "--label 3: out of range; this model's classes are numbered 0 to 2"
    assert refused(classless, *words).startswith("--weak and --classifier need --guidance W, how strongly to push")
    assert refused(classless, *words, "--guidance", -1) == "guidance scale = -1.0: must be a number, at least 0"


# --------------------------------------------------------------------------------------------------- analytic variance


def test_an_analytic_variance_is_estimated_kept_and_used(
    trained: Path,
    tmp_path: Path,
    sample: Sample,
    refused: Refused,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importlib.import_module("fromnoise.verb.likelihood"), "_ANALYTIC_PICTURES", 24)
    run = shutil.copytree(trained, tmp_path / "run")
    few = ["--sampler", "ancestral", "--steps", 20]
    line = refused(run, *few, "--variance", "analytic")
    assert line.startswith(f"variance analytic: {run / 'analytic.json'} is not there; estimate it with: ")
    told = line.split("estimate it with: fromnoise ")[1].split()
    assert main([*told, "-n", "3", "--estimate", "2"]) == 0
    assert f"analytic variance from 24 pictures kept in {run / 'analytic.json'}" in capsys.readouterr().err
    content = json.loads((run / "analytic.json").read_text())
    assert (content["images"], content["weights"], content["pictures"]) == (320, "ema", 24)
    assert content["times"] == list(range(1, 51)) and len(content["gamma"]) == 50
    variance = Analytic(times=tuple(content["times"]), gamma=tuple(content["gamma"]))
    opened = open_run(run)
    assert stored_variance(opened, weights="ema")["gamma"] == content["gamma"]
    own = replace(opened.sampled_as("ancestral", steps=20).pipeline, sampler=Ancestral(variance=variance))
    made = sample(run, *few, "--variance", "analytic", "--label", 3)
    assert np.array_equal(made, own.sample(4, labels=3)[..., 0])
    assert not np.array_equal(made, sample(run, *few, "--label", 3))
    # A sampler that has none to choose is told first, then weights that it is not of.
    assert "the sampler ddim has none to choose" in refused(run, "--sampler", "ddim", "--variance", "analytic")
    line = refused(run, *few, "--variance", "analytic", "--weights", "model")
    assert "is of the ema weights at 320 pictures seen, and these are the model weights at 320" in line
    assert line.endswith("--variance analytic --weights model")


def test_an_analytic_variance_of_an_earlier_checkpoint(trained: Path, tmp_path: Path, refused: Refused) -> None:
    run = shutil.copytree(trained, tmp_path / "run")
    earlier = replace(open_run(run), images=160)
    store_variance(earlier, Analytic(times=(1.0,), gamma=(0.5,)), weights="ema", pictures=3)
    line = refused(run, "--variance", "analytic")
    assert "is of the ema weights at 160 pictures seen, and these are the ema weights at 320; estimate it with" in line
    file = next((run / "checkpoints").iterdir()) / "ema.safetensors"
    assert refused(file, "--variance", "analytic").startswith("variance analytic is kept in the run folder: name that")
    for content in ("", "[]", '{"times": [1], "images": "many"}'):
        (run / "analytic.json").write_text(content)
        with pytest.raises(FromnoiseError, match=r"analytic\.json is damaged; estimate it with") as caught:
            stored_variance(open_run(run), weights="ema")
        assert caught.value.exit_code == 1


# ------------------------------------------------------------------------------------------------------------ mistakes


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--sampler", "unpic"], "sampler 'unpic' is not known; did you mean 'unipc'?"),
        (["--sampler", "inversion"], "sampler 'inversion' is not known; known: adaptive, ancestral, ddim"),
        (["--set", "sampling.sampler=inversion"], "inversion goes from the picture to the noise, so it draws no pic"),
        (["--sampler", "unipc", "--steps", 0], "steps = 0: this model allows 1 to 50"),
        (["--sampler", "unipc", "--steps", 51], "steps = 51: this model allows 1 to 50"),
        (["--sampler", "dpm_3m", "--steps", 2], "DPMSolver3M as it is set needs at least 3 steps, not 2; take more"),
        (
            ["--sampler", "unipc", "--steps", 2, "--set", "sampling.sampler.order=3"],
            "[sampling.sampler] UniPC as it is set needs at least 3 steps, not 2; take more steps or a lower order",
        ),
        (["--eta", 0.5], "eta = 0.5: the sampler ancestral has none to choose; known: ddim, euler_ancestral"),
        (["--sampler", "ddim", "--eta", 2], "eta = 2.0: must lie between 0 (no noise) and 1"),
        (
            ["--sampler", "unipc", "--variance", "small"],
            "variance = small: the sampler unipc has none to choose; known",
        ),
        (["--variance", "lrage"], "kind = 'lrage' is not known; did you mean 'large'?"),
        (["--variance", "learned_range"], "learned_range: this model has no learned variance"),
        (["--guidance", -1], "guidance scale = -1.0: must be a number, at least 0"),
        (["--guidance", "nan"], "scale = nan: must be a number"),
        (["--weak", "{run}"], "--weak and --classifier need --guidance W, how strongly to push (for one 1.5)"),
        (["--weak", "missing", "--guidance", 2], "missing is not there: expected a run folder or a .safetensors file"),
        (["--from", "{a}", "--strength", 0], "strength = 0: must lie above 0 (the picture itself) and be at most 1"),
        (["--from", "{a}", "--strength", 1.5], "strength = 1.5: must lie above 0"),
        (["--from", "{half}"], "half.png has 4x8 pixels (height x width), and this model makes 8x8"),
        (["--from", "{half}", "--strip", 2], "argument --strip: not allowed with argument --from"),
        (["--from", "missing.png"], "cannot read missing.png: No such file"),
        (["--strength", 0], "--strength belongs to --from or --interpolate, which is missing"),
        (["--inpaint", "{a}", "--mask", "{mask}", "--strength", 0.5], "--strength belongs to --from or --interpolate"),
        (["--mask", "{mask}"], "--mask belongs to --inpaint, which is missing"),
        (["--repaint", 0], "--repaint belongs to --inpaint, which is missing"),
        (["--inpaint", "{a}"], "--inpaint needs --mask, a picture of the same size that is white where to fill in"),
        (["--inpaint", "{a}", "--mask", "{half}"], "half.png has 4x8 pixels (height x width), the picture 8x8"),
        (["--inpaint", "{a}", "--mask", "{mask}", "--repaint", 0], "--repaint 0: must be at least 1"),
        (["--upscale", "{a}"], "this model makes 8x8, so the picture to enlarge should be a whole part of that"),
        (["--upscale", "{small}", "--fit"], "--fit belongs to --from or --inpaint or --interpolate, which is missing"),
        (["--fit"], "--fit belongs to --from"),
        (["--interpolate", "{a}", "{half}"], "half.png has 4x8 pixels"),
        (["--strip", 0], "--strip 0: must be at least 1"),
        (["--strip", 51], "a strip of 51 moments needs as many steps; the sampler takes 50"),
        (["--strip", 4, "--out", "folder"], "folder: a strip is one picture; end the name in .png (or .npz)"),
        (["--sampler", "adaptive", "--strip", 2], "a strip of 2 moments needs as many steps; the sampler takes 1"),
    ],
)
def test_what_makes_no_sense_draws_nothing(trained: Path, refused: Refused, words: list[Any], complaint: str) -> None:
    places = {name: str(trained.parent / f"{name}.png") for name in ("a", "mask", "small", "half")}
    said = [word.format(run=trained, **places) if isinstance(word, str) else word for word in words]
    assert complaint in refused(trained, *said)


def test_guidance_that_nothing_can_give(
    classless: Path, trained: Path, weak: Path, tmp_path: Path, refused: Refused
) -> None:
    line = refused(classless, "--guidance", 2)
    assert line.startswith("guidance = 2: this model was trained without classes, so there is none to push towards")
    always = tiny.trained(tmp_path / "always", SMALL, steps=1)
    for words in (["--guidance", 2], ["--set", "sampling.guidance.scale=2"]):
        line = refused(always, *words)
        assert line.startswith("guidance = 2: this model has never gone without labels (train.label_dropout = 0)")
    line = refused(always, "--interpolate", *[trained.parent / "a.png"] * 2)
    assert line.startswith("--interpolate needs --label: this model has never gone without one")
    line = refused(classless, "--weak", weak, "--guidance", 2)
    assert "makes pictures of (channels x height x width) 1x8x8 with 10 classes; this model makes 1x8x8 with 0" in line
    other = tiny.trained(tmp_path / "other", SMALL, {"data": {"class_names": list("abcdefghij")}}, steps=1)
    assert "1x8x8 with 10 classes, but others; this model" in refused(trained, "--weak", other, "--guidance", 2)
    slower = tiny.trained(tmp_path / "slower", SMALL, {"schedule": {"steps": 60}}, steps=1)
    line = refused(trained, "--weak", slower, "--guidance", 2)
    assert line.startswith("the guiding model was trained on another schedule, Linear(steps=60")


def test_labels_of_pictures_in_between(trained: Path, sample: Sample) -> None:
    """Without --label none is told, so that pictures differ by their place alone; guidance then has nothing to add."""
    a = trained.parent / "a.png"
    made = sample(trained, "--interpolate", a, a, "--steps", 10)
    assert np.abs(made - made[:1]).max() <= 1
    labelled = sample(trained, "--interpolate", a, a, "--steps", 10, "--label", "1,8")
    assert np.abs(labelled[2:] - labelled[:2]).max() <= 1 < np.abs(labelled[0] - labelled[1]).max()


def test_guidance_towards_no_label_is_told(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--interpolate", *[trained.parent / "a.png"] * 2, "--guidance", 3, "--out", tmp_path / "s.png"]
    assert main([str(word) for word in ["sample", trained, *words]]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "fromnoise: guidance needs to know the label or the values that it should strengthen: give some"
    ]
    assert not (tmp_path / "s.png").exists()


# -------------------------------------------------------------------------------------------------------------- Python


def test_from_python(trained: Path) -> None:
    run = open_run(trained, device="cpu")
    unipc = run.sampled_as("unipc", steps=10)
    assert isinstance(unipc, Run) and unipc.network is run.network
    assert unipc.sample(4, labels=3).shape == (4, 8, 8, 1)
    assert np.array_equal(unipc.sampled_as("unipc").sample(2, labels=3), unipc.sample(2, labels=3))
    assert unipc.sampled_as(guidance=2.0).config.sampling.guidance.scale == 2
    assert unipc.sampled_as(guidance=2.0).to("cpu").pipeline.device == torch.device("cpu")
    assert run.sampled_as("ancestral", steps=10, variance="large").pipeline.sampler == run.pipeline.sampler
    with pytest.raises(WrongUse, match="did you mean 'unipc'"):
        run.sampled_as("unicp")
    with pytest.raises(WrongUse, match="at least 3 steps, not 2"):
        run.sampled_as("dpm_3m", steps=2)


def test_a_stream_may_begin_anywhere(trained: Path) -> None:
    """From a picture of one's own, down a part of the ladder."""
    pipeline = open_run(trained).sampled_as("ddim", steps=10).pipeline
    x_0 = pipeline.codec.encode(torch.from_numpy(tiny.digits().images[:2].copy()))
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def begin(eps: torch.Tensor, ladder: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        seen.append((eps, ladder))
        level = pipeline.denoiser.schedule(ladder[-3])
        return level.signal.float() * x_0 + level.sigma.float() * eps, ladder[-3:]

    steps = list(pipeline.stream([5, 6], [1, 2], begin=begin))
    ((eps, ladder),) = seen
    assert eps.shape == x_0.shape and len(ladder) == 11 and ladder[0] == 50
    assert [(step.t, step.s) for step in steps] == [(10, 5), (5, 0)]
    assert isinstance(pipeline.denoiser, Denoiser)
    assert torch.equal(pipeline.finish([5, 6], [1, 2], begin=begin), pipeline.decode(steps[-1].x))
    assert (steps[-1].x - x_0).abs().mean() < 0.3


def test_a_strip_of_an_edited_run_and_other_settings(trained: Path) -> None:
    """draw() is the same task for a run under any settings."""
    run = open_run(trained)
    changed = with_config(run, run.sampled_as("heun", steps=4).config)
    *_, last = draw(changed, 2, labels=[1, 2], strip=4)
    assert (
        isinstance(last, Drawn)
        and last.images.shape == (8, 1, 8, 8)
        and last.nfe == 7
        and last.labels == (1, 1, 1, 1, 2, 2, 2, 2)
    )
