"""A run cannot be lost: stopped anywhere, by anything, it goes on as if it had never been stopped, bit for bit."""

import json
import math
import os
import re
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests import tiny

from fromnoise.checkpoint import RunFolder, read_weights
from fromnoise.data import Dataset
from fromnoise.errors import FromnoiseError, WrongUse
from fromnoise.task.train import Ended, Looked, Measured, RolledBack, Saved, Started, Trained, train_run
from fromnoise.train import Learner
from fromnoise.verb import common
from fromnoise.verb.common import stopping

EVERYTHING: dict[str, Any] = {
    "network": {"dropout": 0.3},
    "train": {"flip": True, "label_dropout": 0.3, "accumulate": 2, "ema_ramp": 0.5},
}

# A batch of 8 sees all times, so that loss-aware ones depend on the past from the third step or so.
FEW_TIMES: dict[str, Any] = {"schedule": {"kind": "constant", "steps": 4, "value": 0.3}}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"network": {"dropout": 0.3}},
        {"train": {"label_dropout": 0.5, "flip": True}},
        {"train": {"accumulate": 4}},
        {"train": {"precision": "bfloat16"}},
        {"parameterization": {"kind": "velocity"}, **EVERYTHING},
        {"objective": {"times": {"kind": "antithetic"}, "weighting": "min_snr"}, **EVERYTHING},
        {"objective": {"kind": "hybrid", "times": {"kind": "loss_aware", "last": 2}}, **FEW_TIMES, **EVERYTHING},
        {"objective": {"kind": "bound", "variance": "learned_range"}, **EVERYTHING},
    ],
    ids=[
        "plain",
        "dropout",
        "labels and flips",
        "accumulate",
        "bfloat16",
        "everything",
        "antithetic",
        "past losses",
        "bound",
    ],
)
def test_stopped_in_the_middle_of_a_report_is_as_if_never_stopped(tmp_path: Path, changes: dict[str, Any]) -> None:
    settings = tiny.config(changes, steps=8, report_every=3)
    tiny.run(settings, tmp_path / "straight")
    for stop_at in (4, 5, None):  # between the reports of 3 and 6
        *_, last = events = tiny.run(settings, tmp_path / "stopped", stop_at=stop_at)
        assert isinstance(last, Ended) and last.finished is (stop_at is None) and last.step == (stop_at or 8)
        assert isinstance(events[0], Started)
    assert events[0].step == 5
    tiny.assert_same_run(tmp_path / "stopped", tmp_path / "straight")
    assert [line["step"] for line in tiny.lines(tmp_path / "stopped")] == [3, 6, 8]


def test_the_variants_above_do_change_the_run(tmp_path: Path) -> None:
    """Else they would prove nothing."""
    times = ("uniform_steps", {"kind": "loss_aware", "last": 2})
    even, aware = (
        tiny.trained(tmp_path / str(k), {"objective": {"times": kind}}, FEW_TIMES, steps=5)
        for k, kind in enumerate(times)
    )
    history = tiny.weights(aware)
    assert history["optimizer/history.counts"].sum() == 40 and history["optimizer/history.counts"].min() >= 2
    assert tiny.lines(even) != tiny.lines(aware)
    plain = tiny.weights(tiny.trained(tmp_path / "plain", steps=2))
    for k, changes in enumerate(
        [
            {"objective": {"times": "antithetic"}},
            {"network": {"dropout": 0.3}},
            *({"train": {key: EVERYTHING["train"][key]}} for key in EVERYTHING["train"]),
        ]
    ):
        other = tiny.weights(tiny.trained(tmp_path / f"other {k}", changes, steps=2, warmup=0))
        assert any(not torch.equal(plain[name], value) for name, value in other.items()), changes


def test_a_process_that_vanishes_between_checkpoints_repeats_its_steps(tmp_path: Path) -> None:
    settings = tiny.config(EVERYTHING, steps=9, report_every=1, checkpoint_every=32)
    tiny.run(settings, tmp_path / "straight")
    for event in train_run(settings, tiny.digits(), tmp_path / "cut", device=tiny.CPU):
        if isinstance(event, Measured) and event.line["step"] == 7:
            break  # Nobody asks for more, so nothing is saved: steps 5 to 7 are in metrics.jsonl alone.
    assert [line["step"] for line in tiny.lines(tmp_path / "cut")] == [1, 2, 3, 4, 5, 6, 7]
    assert RunFolder(tmp_path / "cut").latest()[0].images == 32
    assert tiny.run(settings, tmp_path / "cut")[0].step == 4  # pyright: ignore[reportAttributeAccessIssue]
    tiny.assert_same_run(tmp_path / "cut", tmp_path / "straight")


def test_a_damaged_checkpoint_costs_its_own_steps_only(tmp_path: Path) -> None:
    settings = tiny.config(steps=6, checkpoint_every=16, report_every=1)
    tiny.run(settings, tmp_path / "straight")
    tiny.run(settings, tmp_path / "hurt", stop_at=4)
    os.truncate(tmp_path / "hurt/checkpoints/000000032/ema.safetensors", 1000)
    started = tiny.run(replace(settings, train=replace(settings.train, keep=1)), tmp_path / "hurt")[0]
    assert isinstance(started, Started)
    assert started.step == 2
    assert started.warnings == (
        f"checkpoint {tmp_path}/hurt/checkpoints/000000032: ema.safetensors is missing or damaged; passed over",
    )
    tiny.assert_same_run(tmp_path / "hurt", tmp_path / "straight")


def test_when_all_checkpoints_are_damaged_it_says_so_and_touches_nothing(tmp_path: Path) -> None:
    settings = tiny.config(steps=2)
    tiny.run(settings, tmp_path)
    os.truncate(tmp_path / "checkpoints/000000016/model.safetensors", 1000)
    before = tiny.contents(tmp_path)
    with pytest.raises(FromnoiseError, match=r"000000016: model\.safetensors is missing or damaged$") as caught:
        tiny.run(settings, tmp_path)
    assert caught.value.exit_code == 1
    assert tiny.contents(tmp_path) == before


def test_a_run_at_its_end_is_left_as_it_is_and_may_be_made_longer(tmp_path: Path) -> None:
    tiny.run(tiny.config(steps=3), tmp_path / "run")
    before = tiny.contents(tmp_path / "run")
    events = tiny.run(tiny.config(steps=3), tmp_path / "run")
    assert [type(event) for event in events] == [Started, Ended]
    assert tiny.contents(tmp_path / "run") == before
    tiny.run(tiny.config(steps=5), tmp_path / "run")
    tiny.run(tiny.config(steps=5), tmp_path / "straight")
    tiny.assert_same_bits(tiny.weights(tmp_path / "run"), tiny.weights(tmp_path / "straight"))


def test_rate_is_of_the_steps_that_were_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of ten steps between reports nine were done yesterday: they do not count as done in the time of one."""
    clock = iter(range(10**6))
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(clock)))  # Every look at the clock is a second later.
    settings = tiny.config(steps=20, report_every=10)
    rates = []
    for stop_at in (9, None):
        for event in tiny.run(settings, tmp_path, stop_at=stop_at):
            if isinstance(event, Measured):
                rates.append(event.line["images_per_second"])
    assert rates == [4.0, 7.273]  # 8 / 2 and 80 / 11: a second a step, and one for reading the sums.


# ------------------------------------------------------------------------------------------------------------ signals


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 50 steps that nobody has stopped."""
    out = tmp_path_factory.mktemp("straight") / "run"
    tiny.run(tiny.config(EVERYTHING, steps=50, report_every=7), out, pictures=tiny.digits(1797))
    return out


def stopped(folder: Path, number: int, after: Callable[[Path], bool], *more: str) -> tuple[int, str, Path]:
    """A process that trains, and is sent a signal once ``after`` is true of its run folder."""
    out = folder / "a run"
    preset = tiny.preset(folder, EVERYTHING)
    arguments = ["train", "digits", "--out", out, "--preset", preset, "--steps=50", "--set", "train.report_every=7"]
    with tiny.command(*arguments, *more) as process:
        until = time.monotonic() + 100
        while not after(out) and process.poll() is None and time.monotonic() < until:
            time.sleep(0.002)
        process.send_signal(number)
        _, err = process.communicate(timeout=100)
    return process.returncode, err, out


def has_reported(out: Path) -> bool:
    return (out / "metrics.jsonl").exists()


@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGTERM])
def test_a_signal_saves_and_the_line_it_prints_goes_on_when_typed(
    tmp_path: Path, straight: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", tiny.another_python(tmp_path / "bin"))
    code, err, out = stopped(tmp_path, number, has_reported)
    assert code == 130, err
    *_, last = err.splitlines()
    said = re.fullmatch(r"fromnoise: stopped and saved at ([\d,]+) pictures in (.+); go on with: (.+)", last)
    assert said is not None, err
    found, damaged = RunFolder(out).latest()
    assert damaged == [] and 56 <= found.images < 400
    assert int(said[1].replace(",", "")) == found.images and said[2] == str(out)
    _, err = (again := tiny.typed(said[3])).communicate(timeout=100)  # The very line it has printed.
    assert again.returncode == 0 and f"going on at step {found.images // 8} of 50" in err, err
    tiny.assert_same_run(out, straight)


@pytest.mark.slow
def test_killed_outright_while_it_saves_at_every_step(tmp_path: Path, straight: Path) -> None:
    def has_saved(out: Path) -> bool:
        return (out / "checkpoints/000000040").exists()

    code, _, out = stopped(tmp_path, signal.SIGKILL, has_saved, "--set", "train.checkpoint_every=8")
    assert code == -signal.SIGKILL
    found, damaged = RunFolder(out).latest()
    assert damaged == [] and 40 <= found.images < 400
    tiny.run(tiny.config(EVERYTHING, steps=50, report_every=7), out, pictures=tiny.digits(1797))
    tiny.assert_same_run(out, straight)
    assert all(path.name.isdigit() for path in (out / "checkpoints").iterdir())


@pytest.mark.usefixtures("undisturbed")
def test_a_second_wish_ends_at_once_and_the_handlers_are_put_back(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A queue tells every process, and torchrun passes on what it was told: two signals, and one wish."""
    before, now = (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)), 100.0
    monkeypatch.setattr(common.time, "monotonic", lambda: now)
    with stopping() as stop:
        assert not stop.is_set()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.is_set()
        now += 1.9
        os.kill(os.getpid(), signal.SIGTERM)
        said = "fromnoise: stopping after this step, and saving (once more after 2 seconds to stop at once)\n"
        assert capsys.readouterr().err == said
        now += 0.2
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


# -------------------------------------------------------------------------------------------------- the same settings


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"train": {"lr": 1e-3}}, "train.lr was 0.01, now 0.001"),
        ({"train": {"seed": 1}}, "train.seed was 0, now 1"),
        ({"train": {"batch_size": 16}}, "train.batch_size was 8, now 16"),
        ({"train": {"accumulate": 2}}, "train.accumulate was 1, now 2"),
        ({"network": {"dropout": 0.1}}, "network.dropout was 0.0, now 0.1"),
        ({"schedule": {"kind": "cosine"}}, "schedule.kind was 'linear', now 'cosine'"),
        ({"parameterization": {"kind": "velocity"}}, "parameterization.kind was 'epsilon', now 'velocity'"),
        ({"data": {"height": 16, "width": 16}}, "data.height was 8, now 16, data.width was 8, now 16"),
        ({"sampling": {"sampler": {"variance": "small"}}}, "sampling.sampler.variance.kind was 'large', now 'small'"),
    ],
)
def test_another_setting_is_refused_by_name_and_nothing_is_touched(
    tmp_path: Path, changes: dict[str, Any], told: str
) -> None:
    tiny.run(tiny.config(steps=1), tmp_path)
    before = tiny.contents(tmp_path)
    with pytest.raises(WrongUse) as caught:
        tiny.run(tiny.config(changes, steps=1), tmp_path)
    assert str(caught.value).startswith(f"{tmp_path} was started with other settings: {told}")
    assert str(caught.value).endswith("; give the same ones to go on, or begin a new run with another --out")
    assert tiny.contents(tmp_path) == before


def test_settings_that_no_step_depends_on_may_change(tmp_path: Path) -> None:
    tiny.run(tiny.config(steps=2), tmp_path / "run")
    changed = {"steps": None, "images": 32, "report_every": 2, "sample_every": 16, "sample_steps": 2}
    kept = {name: value for name, value in changed.items() if value is not None}
    moved = {"data": {"path": "./digits", "strict": True}}  # The pictures themselves are compared, not their place.
    tiny.run(tiny.config(moved, **kept, checkpoint_every=8, keep=2), tmp_path / "run")
    tiny.run(tiny.config(steps=4), tmp_path / "straight")
    tiny.assert_same_bits(tiny.weights(tmp_path / "run"), tiny.weights(tmp_path / "straight"))
    assert sorted(path.name for path in (tmp_path / "run/checkpoints").iterdir()) == ["000000024", "000000032"]
    grids = sorted(path.name for path in (tmp_path / "run/samples").iterdir())
    assert grids == ["000000016.png", "000000032.png"]  # The first is made up for: it is due where the run goes on.


def other_pixels(digits: Dataset) -> Dataset:
    images = digits.images.copy()
    images[3, 0, 4, 4] ^= 1
    return tiny.other(digits, images=images)


def other_labels(digits: Dataset) -> Dataset:
    labels = digits.labels.clone()
    labels[5] = (labels[5] + 1) % 10
    return tiny.other(digits, labels=labels)


def fewer(digits: Dataset) -> Dataset:
    return digits.subset(range(len(digits) - 1))


@pytest.mark.parametrize("change", [other_pixels, other_labels, fewer])
def test_other_pictures_are_refused_and_nothing_is_touched(tmp_path: Path, change: Any) -> None:
    tiny.run(tiny.config(steps=1), tmp_path)
    before = tiny.contents(tmp_path)
    with pytest.raises(WrongUse, match="was trained on other pictures: the data has changed since"):
        tiny.run(tiny.config(steps=2), tmp_path, pictures=change(tiny.digits()))
    assert tiny.contents(tmp_path) == before


@pytest.mark.parametrize("name", ["thesis.tex", "config.json", "checkpoints/old.pt"])
def test_a_folder_that_holds_something_else_is_untouched(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("precious")
    with pytest.raises(WrongUse, match="is not empty and holds no run; choose another --out, nothing was changed"):
        tiny.run(tiny.config(steps=1), tmp_path)
    assert tiny.contents(tmp_path) == {name: b"precious"}


@pytest.mark.parametrize("content", ["[tool]\nname = 1\n", "not toml", "\udcff"])
def test_settings_of_somebody_else_are_untouched(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.toml").write_bytes(content.encode(errors="surrogateescape"))
    before = tiny.contents(tmp_path)
    with pytest.raises(FromnoiseError, match=r"config\.toml"):
        tiny.run(tiny.config(steps=1), tmp_path)
    assert tiny.contents(tmp_path) == before


def test_a_file_where_the_run_should_be_is_untouched(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("precious")
    with pytest.raises(WrongUse, match="is a file; --out should name a new folder or a run"):
        tiny.run(tiny.config(steps=1), tmp_path / "run")
    assert (tmp_path / "run").read_text() == "precious"


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"schedule": {"steps": 10}}, "a linear schedule of 10 steps reaches beta = 2"),
        ({"schedule": {"kind": "zero_terminal_snr", "base": "linear"}}, "Epsilon cannot be used with ZeroTerminalSNR"),
        (
            {"sampling": {"sampler": {"variance": "learned_range"}}},
            "learned_range: this model has no learned variance (objective hybrid or bound",
        ),
        ({"objective": {"times": "log_normal"}}, "times log_normal are those of a continuous clock, and Linear counts"),
        (
            {"objective": "bound", "schedule": {"kind": "constant", "steps": 1}},
            "a bound needs a schedule of at least 2",
        ),
        ({"sampling": {"spacing": {"kind": "strided", "steps": 51}}}, "steps = 51: this schedule allows 1 to 50"),
        ({"data": {"height": 9}, "network": {"channel_mult": [1, 1]}}, "height = 9: the network's 2 levels"),
        ({"network": {"attention_resolutions": [7]}}, "none is the size of a level"),
    ],
)
def test_what_does_not_fit_is_refused_before_a_folder_is_made(
    tmp_path: Path, changes: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(WrongUse, match=re.escape(complaint)):
        tiny.run(tiny.config(changes, steps=1), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_settings_may_change_after_a_start_that_saved_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the message about too little memory asks for must be possible."""

    def no_memory(*_: Any, **__: Any) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr("fromnoise.train.loop.update", no_memory)
        with pytest.raises(MemoryError):
            tiny.run(tiny.config(steps=1), tmp_path)
    tiny.run(tiny.config(steps=1, accumulate=4), tmp_path)
    assert RunFolder(tmp_path).latest()[0].images == 8


# ------------------------------------------------------------------------------------------------------- not a number


def assert_all_finite(out: Path) -> list[str]:
    """Every tensor of every checkpoint."""
    found = sorted((out / "checkpoints").iterdir())
    for file in (file for folder in found for file in folder.glob("*.safetensors")):
        assert all(value.isfinite().all() for value in read_weights(file)[0].values()), file
    return [folder.name for folder in found]


def test_a_loss_that_is_not_a_number_stops_the_run_and_is_not_saved(tmp_path: Path) -> None:
    settings = tiny.config(steps=200, lr=1e30, warmup=0, clip=0, checkpoint_every=8, report_every=1)
    events: list[Any] = []
    with pytest.raises(FromnoiseError) as caught:
        events.extend(train_run(settings, tiny.digits(), tmp_path, device=tiny.CPU))
    back = [event for event in events if isinstance(event, RolledBack)]
    # The checkpoint of step 1 holds ruined weights, so the second time the run goes back further: to its start.
    assert [event.images for event in back] == [8, 0]
    assert re.fullmatch(
        r"training diverges: too many steps in a row were left out by step \d+, the last with a loss of \w+ and a "
        r"gradient of norm \w+; it went back 2 times, each time to a lower rate, and gives up\. What was saved before "
        r"is in \S+; look at the pictures, or start another run with a lower train\.lr and train\.clip = 1",
        str(caught.value),
    )
    assert caught.value.exit_code == 1
    assert_all_finite(tmp_path)
    assert all(
        "NaN" not in line and "Inf" not in line for line in (tmp_path / "metrics.jsonl").read_text().splitlines()
    )


def test_a_gradient_that_is_not_finite_costs_its_own_step_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss is fine, yet the weights after the step would be ruined: it is left out, counted, and all is well."""
    make = Learner.__init__

    def hooked(self: Learner, *arguments: Any) -> None:
        make(self, *arguments)
        weight = next(self.network.parameters())
        weight.register_hook(lambda grad: grad * float("inf") if self.step == 2 else grad)

    monkeypatch.setattr(Learner, "__init__", hooked)
    tiny.run(tiny.config(steps=6, checkpoint_every=8, report_every=2), tmp_path)
    names = assert_all_finite(tmp_path)
    assert names == [f"{8 * step:09d}" for step in (1, 2, 4, 5, 6)]  # Nothing is saved right after a step left out.
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["skipped"] for line in lines] == [0, 1, 0]
    assert all(math.isfinite(line["loss"]) and math.isfinite(line["grad_norm"]) for line in lines)
    steps = {name: read_weights(tmp_path / "checkpoints" / name / "optimizer.safetensors")[0] for name in names}
    counts = {name: {v.item() for k, v in kept.items() if k.startswith("step.")} for name, kept in steps.items()}
    assert counts["000000016"] == {2} and counts["000000032"] == {3}  # Adam has not seen the third gradient.


# -------------------------------------------------------------------------------------------------------------- grids


def test_grids_have_the_same_noise_every_time(tmp_path: Path) -> None:
    """Weights that stand still give the same grid at every moment; weights that move give another."""
    many = {"sample_every": 16, "sample_steps": 3, "steps": 6}
    still = tiny.run(tiny.config(lr=0.0, **many), tmp_path / "still")
    drawn = [event.path for event in still if isinstance(event, Saved) and event.path.suffix == ".png"]
    assert [path.name for path in drawn] == ["000000016.png", "000000032.png", "000000048.png"]
    assert len({path.read_bytes() for path in drawn}) == 1
    tiny.run(tiny.config(**many), tmp_path / "moving")
    assert len({path.read_bytes() for path in (tmp_path / "moving/samples").iterdir()}) == 3


def test_drawing_grids_does_not_touch_the_training(tmp_path: Path) -> None:
    tiny.run(tiny.config(EVERYTHING, steps=4, sample_every=8, sample_steps=2), tmp_path / "with")
    tiny.run(tiny.config(EVERYTHING, steps=4), tmp_path / "without")
    tiny.assert_same_bits(tiny.weights(tmp_path / "with"), tiny.weights(tmp_path / "without"))


def test_events_tell_the_whole_story(tmp_path: Path) -> None:
    settings = tiny.config(steps=4, report_every=2, sample_every=16, sample_steps=2, checkpoint_every=24)
    kinds = [type(event) for event in tiny.run(settings, tmp_path)]
    # A grid, and what its colours are, at 16 and 32 pictures; a checkpoint at 24 and, as the last step, at 32.
    step_2, step_4 = [Trained, Measured, Saved, Looked], [Trained, Measured, Saved, Looked, Saved]
    assert kinds == [Started, Trained, *step_2, Trained, Saved, *step_4, Ended]


def test_two_trainings_of_one_run_are_refused(tmp_path: Path) -> None:
    """The second gets one line and touches nothing; when the first is done, the folder is free again."""
    first, second = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "run")
    with first.lock(), pytest.raises(FromnoiseError, match="another training is writing"), second.lock():
        pass
    with second.lock():
        pass
