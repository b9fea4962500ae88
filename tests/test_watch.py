"""Watching a run: what metrics.jsonl, TensorBoard and Weights & Biases are told, and that it disturbs nothing."""

import importlib
import importlib.util
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests import tiny

from fromnoise.checkpoint import RunFolder, _digest_of_record
from fromnoise.cli import main
from fromnoise.config import Config, build_pipeline, sampled_as
from fromnoise.console import follow
from fromnoise.errors import FromnoiseError, WrongUse
from fromnoise.metric.colour import Colours, drift
from fromnoise.metric.features import pixel_features
from fromnoise.metric.frechet import Statistics, frechet_distance
from fromnoise.metric.frechet_few import frechet_of_few
from fromnoise.objective import Simple
from fromnoise.objective.times import LogNormal, LossAware, UniformTime
from fromnoise.run import open_run
from fromnoise.schedule import EDM, Linear, Rectified
from fromnoise.task.train import Ended, Noted, Saved, train_run
from fromnoise.task.watch import Guarded, Watcher, scalars
from fromnoise.task.watch.bands import BandedLoss, edges
from fromnoise.train import TrainSettings

# -------------------------------------------------------------------------------------------------------- the bands


def test_bands_are_tenths_of_the_clock_where_times_are_even() -> None:
    assert edges(Simple(), Linear()).tolist() == [101, 201, 301, 401, 501, 601, 701, 801, 901]
    even = edges(Simple(times=UniformTime()), Rectified())
    assert torch.allclose(even, torch.arange(1, 10).double() / 10, atol=1e-5)
    assert torch.equal(edges(Simple(times=LossAware()), Linear()), edges(Simple(), Linear()))


def test_bands_are_deciles_where_times_are_not_even() -> None:
    """log sigma is normal, so the middle edge is its median, and edges lie evenly around it."""
    found = edges(Simple(times=LogNormal(mean=-1.2, deviation=1.2)), EDM()).log()
    assert found[4].item() == pytest.approx(-1.2, abs=1e-6)
    assert torch.allclose((found + found.flip(0)) / 2, torch.full((9,), -1.2, dtype=torch.float64), atol=1e-6)
    drawn = torch.distributions.Normal(-1.2, 1.2).sample(torch.Size([20000])).double()
    counts = torch.bincount(torch.bucketize(drawn, found, right=True), minlength=10)
    assert counts.min() > 1800 and counts.max() < 2200


def test_losses_fall_into_the_band_of_their_time() -> None:
    generator = np.random.default_rng(0)
    banded = BandedLoss(edges(Simple(), Linear()), tiny.CPU, None)
    t, loss = generator.integers(1, 1001, (6, 32)), generator.random((6, 32), dtype=np.float32)
    t[:, 0], t[:, 1] = 100, 101  # the two sides of an edge
    t[t > 900] = 3
    taken = [True, True, False, True, True, True]
    for step in range(6):
        if step == 3:  # a run that is saved and resumed goes on with the same sums
            banded = BandedLoss(edges(Simple(), Linear()), tiny.CPU, json.loads(json.dumps(banded.state())))
        banded.add(torch.from_numpy(t[step]).double(), torch.from_numpy(loss[step]), torch.tensor(taken[step]))
    means = banded.take()
    t, loss = t[taken].ravel(), loss[taken].ravel()
    for k in range(9):
        assert means[k] == pytest.approx(loss[(t > 100 * k) & (t <= 100 * (k + 1))].mean(), rel=1e-5)
    assert means[9] is None, "nothing fell there"
    assert banded.take() == [None] * 10, "the sums start anew"


# ------------------------------------------------------------------------------------------------ colours and scores


def test_colours_are_those_of_numpy_and_do_not_depend_on_batches() -> None:
    images = np.random.default_rng(1).integers(0, 256, (50, 3, 5, 7), dtype=np.uint8)
    images[:, 1] //= 3
    found = Colours.of(torch.from_numpy(part) for part in np.split(images, [7, 8, 30]))
    assert found == Colours.of([torch.from_numpy(images[::-1].copy())])
    assert found.mean == pytest.approx(images.mean((0, 2, 3)), rel=1e-12)
    assert found.deviation == pytest.approx(images.astype(float).std((0, 2, 3)), rel=1e-12)
    assert found.spread == pytest.approx(images.mean((2, 3)).std(0), rel=1e-12)
    with pytest.raises(WrongUse, match=r"^colours are of uint8 pictures \(B, C, H, W\), not torch\.float32 \(2, 3\)$"):
        Colours.of([torch.zeros(2, 3)])
    with pytest.raises(WrongUse, match="there are none"):
        Colours.of([])


def test_drift_tells_a_tint_from_chance() -> None:
    pictures = torch.from_numpy(np.random.default_rng(2).integers(0, 256, (4000, 3, 1, 1), dtype=np.uint8))
    data, tinted = Colours.of([pictures]), pictures[:400].clone()
    tinted[:, 2] = tinted[:, 2] // 2
    far, chance = drift(Colours.of([tinted]), data)
    assert far == pytest.approx(127.5 - 63.5, abs=5) and far > 10 * chance
    # Of uniform values: 255 / √12 a picture, by the square root of their number.
    assert chance == pytest.approx(255 / 12**0.5 / 20, rel=0.05)
    distances = [drift(Colours.of([pictures[k : k + 400]]), data)[0] for k in range(0, 4000, 400)]
    assert 0.3 * chance < sum(distances) / 10 < 3 * chance


@pytest.mark.parametrize("sizes", [(20, 20), (2, 60), (60, 33)])
def test_the_distance_of_few_is_that_of_their_covariances(sizes: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(3)
    a, b = (torch.randint(0, 256, (n, 1, 5, 8), generator=generator, dtype=torch.uint8) for n in sizes)
    b[:, :, 2:] //= 2
    whole = frechet_distance(Statistics.of([pixel_features(a)]), Statistics.of([pixel_features(b)]))
    few = frechet_of_few(a.flatten(1), b.flatten(1)) / 255**2
    assert few == pytest.approx(whole, rel=1e-9) and whole > 1
    assert frechet_of_few(a.flatten(1), a.flatten(1)) / 255**2 == pytest.approx(0, abs=1e-9)


def test_the_distance_of_few_refuses_what_has_none() -> None:
    with pytest.raises(WrongUse, match="at least 2 feature vectors, not 1"):
        frechet_of_few(torch.zeros(1, 4), torch.zeros(5, 4))
    with pytest.raises(WrongUse, match=r"\(3, 4\) and \(3, 5\)"):
        frechet_of_few(torch.zeros(3, 4), torch.zeros(3, 5))


# ------------------------------------------------------------------------------------------------------ the metrics


def looks(**train: Any) -> Config:
    """Six steps of 8 pictures: grids at 2, 4 and 6, scores at 3 and 6."""
    usual = {
        **{"steps": 6, "report_every": 2, "sample_every": 16, "sample_steps": 2, "checkpoint_every": 16},
        **{"score_every": 24, "score_samples": 12, "score_steps": 3},
    }
    return tiny.config({"network": {"attention_resolutions": []}}, **{**usual, **train})


def test_what_the_lines_say_is_true(tmp_path: Path) -> None:
    settings, pictures = looks(), tiny.digits()
    events = tiny.run(settings, tmp_path)
    lines = tiny.lines(tmp_path)
    kinds = [(line["images"], next(k for k in ("loss", "samples", "score") if k in line)) for line in lines]
    assert kinds == [
        *((16, "loss"), (16, "samples"), (24, "score")),
        *((32, "loss"), (32, "samples")),
        *((48, "loss"), (48, "samples"), (48, "score")),
    ]
    assert sum(isinstance(event, Saved) and event.path.suffix == ".png" for event in events) == 3
    for line in lines:
        if "loss" in line:  # 16 pictures, each in one band: the loss lies between the extremes of its bands
            means = [mean for mean in line["loss_t"] if mean is not None]
            assert len(line["loss_t"]) == 10 and min(means) <= line["loss"] <= max(means) and line["skipped"] == 0
    samples = lines[-2]["samples"]
    everything = pictures.images.astype(float)
    assert samples["data_mean"] == pytest.approx([everything.mean()])
    assert samples["data_deviation"] == pytest.approx([everything.std()])
    run = open_run(tmp_path, device=tiny.CPU)
    network: Any = run.pipeline.denoiser.network
    made = build_pipeline(sampled_as(run.config, steps=2), network).images(60, batch_size=8)
    assert samples["samples"] == 60 and samples["mean"] == pytest.approx([made.double().mean().item()])
    assert samples["drift"] == pytest.approx(abs(samples["mean"][0] - samples["data_mean"][0]))
    score = lines[-1]["score"]
    assert {k: score[k] for k in ("features", "samples", "real", "sampler", "steps")} == {
        **{"features": "pixels", "samples": 12, "real": 28},
        **{"sampler": "dpm_2m", "steps": 3},
    }
    assert 0 < score["floor"] < score["frechet"], "a network of six steps is worse than real digits"


def test_few_pictures_lend_at_most_half_of_them_to_a_score(tmp_path: Path) -> None:
    tiny.run(looks(score_samples=1000, steps=3), tmp_path)
    score = next(line["score"] for line in tiny.lines(tmp_path) if "score" in line)
    assert (score["samples"], score["real"]) == (20, 20)


def test_watching_does_not_touch_the_training(tmp_path: Path) -> None:
    tiny.run(looks(), tmp_path / "with")
    tiny.run(looks(sample_every=0, score_every=0), tmp_path / "without")
    ours, theirs = tiny.weights(tmp_path / "with"), tiny.weights(tmp_path / "without")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name].nan_to_num(), theirs[name].nan_to_num()) for name in ours)
    looked = [line for line in tiny.lines(tmp_path / "with") if "loss" in line]
    assert looked == tiny.lines(tmp_path / "without")


@pytest.mark.parametrize("stop_at", [2, 3])
def test_a_stop_when_a_look_is_due_leaves_the_same_metrics(tmp_path: Path, stop_at: int) -> None:
    """At 2 a grid is due, at 3 a score: a stop does not wait for them, and going on makes up for them."""
    tiny.run(looks(), tmp_path / "straight")
    settings = looks(checkpoint_every=0)
    tiny.run(settings, tmp_path / "stopped", stop_at=stop_at)
    assert not any(line["images"] == 8 * stop_at and "loss" not in line for line in tiny.lines(tmp_path / "stopped"))
    last = tiny.run(settings, tmp_path / "stopped")[-1]
    assert isinstance(last, Ended) and last.finished
    assert tiny.lines(tmp_path / "stopped") == tiny.lines(tmp_path / "straight")
    samples = [
        sorted(path.read_bytes() for path in (tmp_path / k / "samples").iterdir()) for k in ("straight", "stopped")
    ]
    assert samples[0] == samples[1]


def test_a_process_that_vanishes_looks_again_at_what_it_repeats(tmp_path: Path) -> None:
    tiny.run(looks(), tmp_path / "straight")
    settings = looks()
    for event in train_run(settings, tiny.digits(), tmp_path / "cut", device=tiny.CPU):
        if isinstance(event, Saved) and event.path.name == "000000032.png":
            break  # After the grid, before its line and the checkpoint.
    tiny.run(settings, tmp_path / "cut")
    assert tiny.lines(tmp_path / "cut") == tiny.lines(tmp_path / "straight")


def test_checkpoints_from_before_there_were_bands_are_read(tmp_path: Path) -> None:
    tiny.run(tiny.config(steps=4, report_every=3), tmp_path, stop_at=2)
    file = tmp_path / "checkpoints/000000016/state.json"
    record = json.loads(file.read_text())
    assert record["state"]["since_report"].pop("bands")["pictures"] != [0] * 10
    del record["state"]["since_report"]["left_out"], record["sha256"]
    file.write_text(json.dumps({**record, "sha256": _digest_of_record(record)}))
    tiny.run(tiny.config(steps=4, report_every=3), tmp_path)
    assert [line["step"] for line in tiny.lines(tmp_path)] == [3, 4]


def test_settings_of_watching_may_change_when_a_run_goes_on(tmp_path: Path) -> None:
    tiny.run(tiny.config(steps=2), tmp_path)
    tiny.run(tiny.config(steps=3, score_every=8, score_samples=4, score_steps=2), tmp_path)
    assert any("score" in line for line in tiny.lines(tmp_path))


# -------------------------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"watch": "tensorbord"}, r"^\[train\] watch: 'tensorbord' is not known; did you mean 'tensorboard'\?$"),
        ({"watch": ("wandb", "mlflow")}, r"^\[train\] watch: 'mlflow' is not known; known: tensorboard, wandb$"),
        ({"score_every": -1}, r"score_every = -1: must not be negative"),
        ({"score_samples": 1}, r"score_samples = 1: must be at least 2"),
        ({"score_steps": 0}, r"score_steps = 0: must be at least 1"),
    ],
)
def test_wrong_settings_are_one_line(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(WrongUse, match=complaint):
        TrainSettings(**changes)


def test_names_may_come_with_commas_or_as_a_list() -> None:
    assert TrainSettings().watchers == ()
    assert TrainSettings(watch="tensorboard, wandb,tensorboard").watchers == ("tensorboard", "wandb")
    assert TrainSettings(watch=("wandb",)).watchers == ("wandb",)


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_missing_package_is_named_before_anything_is_written(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda what, *rest: None if what == name else find(what, *rest))
    preset, run = tiny.preset(tmp_path), tmp_path / "run"
    words = [
        "train",
        "digits",
        "--preset",
        str(preset),
        "--out",
        str(run),
        "--steps",
        "1",
        "--set",
        f"train.watch={name}",
    ]
    assert main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        f"fromnoise: [train] watch: {name} is not installed; pip install 'fromnoise[{name}]', or leave it out "
        f"(metrics.jsonl is written anyway)"
    )
    assert not run.exists()


def test_a_score_of_too_few_pictures_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(WrongUse, match="a score needs at least 4 pictures to hold samples against, and there are 3"):
        tiny.run(looks(), tmp_path / "run", pictures=tiny.digits(3))
    assert not (tmp_path / "run").exists()


# -------------------------------------------------------------------------------------------------------- watchers


class _Failing(Watcher):
    """Works until told to write pictures."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def line(self, line: Mapping[str, Any]) -> None:
        self.told.append(line["images"])

    def picture(self, path: Path, images: int) -> None:
        raise OSError(28, "No space left on device")

    def flush(self) -> None:
        self.told.append("flush")

    def close(self) -> None:
        self.told.append("close")


def test_a_watcher_that_fails_is_left_alone_and_said_once(tmp_path: Path) -> None:
    watcher, said = _Failing(), []
    guarded = Guarded("tensorboard", lambda: watcher, said.append)
    guarded.line({"images": 8})
    guarded.picture(tmp_path, 8)
    guarded.line({"images": 16})
    guarded.picture(tmp_path, 16)
    guarded.flush()
    guarded.close()
    assert watcher.told == [8]
    assert said == [
        "tensorboard watches no more: No space left on device; training goes on, and metrics.jsonl has everything"
    ]


def test_a_watcher_that_cannot_be_opened_is_said_once() -> None:
    said: list[str] = []

    def fail() -> Watcher:
        raise RuntimeError("no way\nto the server")

    guarded = Guarded("wandb", fail, said.append)
    guarded.line({"images": 8})
    guarded.close()
    assert said == ["wandb watches no more: no way to the server; training goes on, and metrics.jsonl has everything"]


def test_scalars_are_flat_and_finite() -> None:
    line = {
        **{"images": 8, "loss": None, "lr": 1e-4, "loss_t": [0.5, None, *range(8)]},
        "score": {"frechet": float("inf"), "floor": 2, "sampler": "ddim", "good": True},
    }
    assert scalars(line) == {
        **{"images": 8.0, "lr": 1e-4, "loss_t/01": 0.5, "score/floor": 2.0},
        **{f"loss_t/{k + 3:02d}": float(k) for k in range(8)},
    }


def read_events(folder: Path) -> tuple[dict[str, list[tuple[int, float]]], list[int]]:
    """Scalars by name, and the steps of the grids, as TensorBoard shows them."""
    reader = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")
    events = reader.EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0})
    events.Reload()
    tags = events.Tags()
    scalars = {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in tags["scalars"]}
    return scalars, [event.step for tag in tags["images"] for event in events.Images(tag)]


def written(run: Path) -> dict[str, list[tuple[int, float]]]:
    """The same from metrics.jsonl, in the precision of TensorBoard."""
    found: dict[str, list[tuple[int, float]]] = {}
    for line in RunFolder(run).metrics.read_text().splitlines():
        values = scalars(json.loads(line))
        images = int(values.pop("images"))
        for name, value in values.items():
            found.setdefault(name, []).append((images, float(np.float32(value))))
    return found


def test_tensorboard_shows_what_the_metrics_say_and_goes_on_after_a_crash(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    settings = looks(watch="tensorboard", report_every=1, sample_every=32, score_every=0)
    for event in train_run(settings, tiny.digits(), tmp_path, device=tiny.CPU):
        if getattr(event, "line", {}).get("step") == 5:
            break  # Steps up to 4 are saved; what is told of the fifth must be forgotten.
    assert [images for images, _ in read_events(tmp_path / "tensorboard")[0]["loss"]] == [8, 16, 24, 32, 40]
    tiny.run(settings, tmp_path)
    shown, grids = read_events(tmp_path / "tensorboard")
    assert shown == written(tmp_path) and len(shown["loss"]) == 6 and "samples/mean/1" in shown
    assert grids == [32, 48]
    assert len(list((tmp_path / "tensorboard").iterdir())) == 2


def test_tensorboard_that_comes_late_is_told_what_was(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    tiny.run(tiny.config(steps=4, report_every=1), tmp_path)
    tiny.run(tiny.config(steps=6, report_every=1, watch="tensorboard"), tmp_path)
    shown = read_events(tmp_path / "tensorboard")[0]
    assert shown == written(tmp_path) and len(shown["loss"]) == 6


def test_training_goes_on_without_tensorboard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(SummaryWriter, "add_scalar", full)
    tiny.run(looks(), tmp_path / "alone")
    events = tiny.run(looks(watch="tensorboard"), tmp_path / "watched")
    assert [event.text for event in events if isinstance(event, Noted)] == [
        "tensorboard watches no more: No space left on device; training goes on, and metrics.jsonl has everything"
    ]
    assert tiny.lines(tmp_path / "watched") == tiny.lines(tmp_path / "alone")


def read_wandb(file: Path) -> list[dict[str, Any]]:
    """The lines of a run's history in its own file: records in LevelDB's log format, each a protocol buffer."""
    record = importlib.import_module("wandb.proto.wandb_internal_pb2").Record
    data, place, content, found = file.read_bytes(), 7, b"", []
    while place + 7 <= len(data):
        if 32768 - place % 32768 < 7:  # No header fits here: the next block.
            place += 32768 - place % 32768
            continue
        length, part = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        content += data[place + 7 : place + 7 + length]
        place += 7 + length
        if part in {1, 4}:  # whole, or the last of several
            history = record.FromString(content).history
            found.append({"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in history.item})
            content = b""
    return [line for line in found if line]


@pytest.mark.slow  # And its own process loses lines now and then on a machine that is very busy.
def test_weights_and_biases_is_told_offline_and_keeps_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.chdir(tmp_path)
    settings = looks(watch="wandb", score_every=0)
    for stop_at in (3, None):
        events = tiny.run(settings, tmp_path / "run", stop_at=stop_at)
        assert not any(isinstance(event, Noted) for event in events)
    folder = tmp_path / "run" / "wandb"
    identity = (folder / "fromnoise-run-id").read_text()
    files = sorted(folder.glob(f"offline-run-*-{identity}/run-{identity}.wandb"))
    assert len(files) == 2, "two processes, one run"
    told = [line for file in files for line in read_wandb(file)]
    losses = [{k: v for k, v in line.items() if not k.startswith("_")} for line in told if "loss" in line]
    expected = [scalars(json.loads(line)) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert losses == [line for line in expected if "loss" in line] and len(losses) == 3
    assert [line["images"] for line in told if "grid/sha256" in line] == [16, 32, 48]
    assert list(folder.glob("offline-run-*/files/media/images/grid_*.png"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"], "nothing is left elsewhere"


def test_without_a_key_it_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    importlib.import_module("wandb").teardown()  # It keeps what it has once read of the environment.
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with pytest.raises(WrongUse, match=r"has no key on this machine: run wandb login, or set WANDB_MODE=offline$"):
        tiny.run(tiny.config(steps=1, watch="wandb"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def fake_wandb(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """A package of that name whose text is ``text``, in place of the real one if there is one."""
    (folder / "wandb").mkdir()
    (folder / "wandb/__init__.py").write_text(text)
    monkeypatch.syspath_prepend(str(folder))
    for name in {"wandb", *(name for name in sys.modules if name.startswith("wandb."))}:
        monkeypatch.setitem(sys.modules, name, None)  # So that what was there, or nothing, is put back afterwards.
        del sys.modules[name]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (
            "import no_such_dependency",
            "cannot be imported (ModuleNotFoundError: No module named 'no_such_dependency'); ",
        ),
        (
            "raise TypeError('Descriptors cannot be created\\nlong')",
            "cannot be imported (Descriptors cannot be created); ",
        ),
        (
            "def setup():\n    raise ValueError('1 error\\nmode\\n  not known' + 'x' * 900)",
            f"wandb cannot be set up (1 error mode not known{'x' * 178}); mend its settings (WANDB_*), or ",
        ),
    ],
)
def test_weights_and_biases_that_is_broken_is_one_line(
    text: str, complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_wandb(tmp_path, monkeypatch, text)
    with pytest.raises(WrongUse) as caught:
        tiny.run(tiny.config(steps=1, watch="wandb"), tmp_path / "run")
    said = str(caught.value)
    assert said.startswith("[train] watch: wandb ") and complaint in said and "\n" not in said
    assert said.endswith("or leave it out (metrics.jsonl is written anyway)")
    assert ("pip install --force-reinstall wandb" in said) == ("imported" in said)
    assert not (tmp_path / "run").exists()


FAKE = """
from types import SimpleNamespace as Settings

def setup():
    return Settings(settings=Settings(mode="offline"))

def init(settings, **_):
    patience = getattr(settings, "init_timeout", "its own time")
    raise RuntimeError(f"\\nno answer in {patience}, " + "x" * 900 + "\\n<html>the server's page</html>")
"""


@pytest.mark.parametrize(("told", "patience"), [(None, "30.0"), ("5", "its own time")])
def test_its_server_is_not_waited_for_long_and_its_errors_are_short(
    told: str | None, patience: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_wandb(tmp_path, monkeypatch, FAKE)
    monkeypatch.delenv("WANDB_INIT_TIMEOUT", raising=False)
    if told:
        monkeypatch.setenv("WANDB_INIT_TIMEOUT", told)
    events = tiny.run(tiny.config(steps=1, watch="wandb"), tmp_path / "run")
    what = f"no answer in {patience}, {'x' * 900}"[:200]
    assert [event.text for event in events if isinstance(event, Noted)] == [
        f"wandb watches no more: {what}; training goes on, and metrics.jsonl has everything"
    ]
    assert len(tiny.lines(tmp_path / "run")) == 1


def test_a_full_disk_for_the_metrics_themselves_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are what a run is resumed with, so they are not guarded as the others are."""

    def full(self: RunFolder, line: dict[str, Any]) -> None:
        raise FromnoiseError(f"cannot write to {self.metrics}: No space left on device")

    monkeypatch.setattr(RunFolder, "append_metrics", full)
    with pytest.raises(FromnoiseError, match="No space left"):
        tiny.run(tiny.config(steps=2, report_every=1), tmp_path / "run")


def test_the_person_reads_the_score_beside_that_of_real_pictures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    events = tiny.run(looks(sample_every=48), tmp_path)
    follow([*events[:-1], Noted("the disk is full"), events[-1]])
    said = capsys.readouterr().err.splitlines()
    samples, score = (tiny.lines(tmp_path)[-k][key] for k, key in ((2, "samples"), (1, "score")))
    assert (
        f"score: {score['frechet']:.4g}, of as many real pictures {score['floor']:.4g} (Fréchet distance in pixel "
        f"space of 12 samples, dpm_2m with 3 steps)"
    ) in said
    off = [line for line in said if line.startswith("colours: ")]
    assert len(off) == (1 if samples["drift"] > 3 * samples["chance"] else 0)
    assert "fromnoise: the disk is full" in said
