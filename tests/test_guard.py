"""Which steps are left out, how a run goes back, and the scale of the loss in float16."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tests import tiny
from torch import Tensor

from fromnoise.checkpoint import RunFolder
from fromnoise.console import follow
from fromnoise.errors import FromnoiseError, WrongUse
from fromnoise.schema import merge
from fromnoise.task.train import Ended, Noted, RolledBack, Trained, train_run
from fromnoise.train.guard import WINDOW, Guard, GuardSettings
from fromnoise.train.learner import Learner
from fromnoise.train.scale import FLOOR, LossScale


def judge(guard: Guard, values: list[tuple[float, float]]) -> list[bool]:
    return [bool(guard.judge(torch.tensor(loss), torch.tensor(norm))) for loss, norm in values]


def scattered(count: int, spread: float, seed: int = 0) -> list[tuple[float, float]]:
    """Losses and norms whose logarithms are normal with this standard deviation."""
    draws = torch.randn(count, 2, generator=torch.Generator().manual_seed(seed)).double() * spread
    return [(0.1 * math.exp(a), 2.0 * math.exp(b)) for a, b in draws.tolist()]


@pytest.mark.parametrize("wild", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["loss", "norm"])
def test_what_is_no_number_is_left_out_from_the_first_step_on(wild: float, where: str) -> None:
    guard = Guard(GuardSettings(spike=0), torch.device("cpu"))
    assert judge(guard, [(wild, 1.0) if where == "loss" else (1.0, wild), (1.0, 1.0)]) == [True, False]
    assert guard.taken == 1 and guard.worst == 1 and guard.streak == 0


@pytest.mark.parametrize("spread", [0.01, 0.3, 1.0])
def test_a_spike_stands_out_of_its_own_surroundings(spread: float) -> None:
    """The limit is 20 times the median, or six standard deviations where the values scatter more than that."""
    calm = scattered(400, spread)
    guard = Guard(GuardSettings(), torch.device("cpu"))
    assert not any(judge(guard, calm))
    limit = max(math.log(20), 9 * 0.6745 * spread)
    for factor, left_out in ((limit - 0.9 * max(spread, 0.1), False), (limit + 1.5 * max(spread, 0.1), True)):
        for wild in ((0.1 * math.exp(factor), 2.0), (0.1, 2.0 * math.exp(factor))):
            again = Guard(GuardSettings(), torch.device("cpu"))
            judge(again, calm)
            assert judge(again, [wild]) == [left_out], (factor, wild)


def test_falls_are_no_spikes_and_nothing_is_judged_before_there_is_something_to_judge_by() -> None:
    guard = Guard(GuardSettings(), torch.device("cpu"))
    early = [(10.0 ** (k % 7), 10.0 ** (k % 5)) for k in range(WINDOW // 2)]
    assert not any(judge(guard, early))
    guard = Guard(GuardSettings(), torch.device("cpu"))
    assert not any(judge(guard, [(math.exp(-k / 20), math.exp(-k / 20)) for k in range(400)]))


def test_what_was_left_out_does_not_become_the_usual() -> None:
    guard = Guard(GuardSettings(patience=3), torch.device("cpu"))
    judge(guard, scattered(200, 0.1))
    before = guard.seen.clone()
    assert judge(guard, [(100.0, 2.0)] * 3) == [True] * 3
    assert torch.equal(guard.seen, before) and guard.lost() and guard.alarmed()
    guard.forgive()
    assert not guard.lost() and not guard.alarmed()
    assert judge(guard, [(100.0, 2.0)]) == [False]  # Another stretch of training has other numbers.


def test_memory_goes_out_and_in() -> None:
    guard, other = (Guard(GuardSettings(), torch.device("cpu")) for _ in range(2))
    judge(guard, [*scattered(90, 0.2), (math.nan, 1.0)])
    other.load({name: value.clone() for name, value in guard.tensors().items()})
    rest = [*scattered(20, 0.2, seed=1), (50.0, 2.0), (0.1, 90.0)]
    assert judge(guard, rest) == judge(other, rest)
    tiny.assert_same_bits(guard.tensors(), other.tensors())


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"spike": 1.0}, "spike = 1.0: a multiple of the usual, above 1; or 0 for none"),
        ({"spike": math.inf}, "spike = inf"),
        ({"patience": 0}, "patience = 0: must be at least 1"),
        ({"rollbacks": -1}, "rollbacks = -1: must not be negative"),
    ],
)
def test_settings_that_make_no_sense(given: dict[str, Any], complaint: str) -> None:
    with pytest.raises(WrongUse) as caught:
        GuardSettings(**given)
    assert complaint in str(caught.value)


# ----------------------------------------------------------------------------------------------------------- going back


def ruin(monkeypatch: pytest.MonkeyPatch, *, while_: Any) -> None:
    """Gradients that are no numbers as long as ``while_(learner)`` says so."""
    make = Learner.__init__

    def hooked(self: Learner, *arguments: Any) -> None:
        make(self, *arguments)
        weight = next(self.network.parameters())
        weight.register_hook(lambda grad: grad * math.nan if while_(self) else grad)

    monkeypatch.setattr(Learner, "__init__", hooked)


SMALL: dict[str, Any] = {"network": {"model_channels": 16, "attention_resolutions": []}}
SETTINGS: dict[str, Any] = {"steps": 48, "checkpoint_every": 80, "report_every": 4, "lr": 1e-3, "warmup": 0}


def collect(settings: Any, out: Path, stop_after: int | None = None) -> list[Any]:
    events: list[Any] = []
    for event in train_run(settings, tiny.digits(), out, device=tiny.CPU):
        events.append(event)
        if stop_after is not None and len([e for e in events if isinstance(e, Trained)]) == stop_after:
            break
    return events


def test_a_lost_run_goes_back_with_other_randomness_and_half_the_rate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps 16 to 29 fail at the first attempt; at the second they do not, and the run goes through."""
    ruin(monkeypatch, while_=lambda learner: not learner.rollbacks and 16 <= learner.step < 30)
    events = collect(tiny.config(SMALL, **SETTINGS), tmp_path / "run")
    kinds = [type(event) for event in events]
    at = kinds.index(RolledBack)
    back = events[at]
    assert (back.images, back.step) == (80, 10)  # The checkpoint before; at 160 the alarm was on.
    assert back.why.startswith("too many steps in a row were left out by step 32, the last with a loss of ")
    reports = [event.report for event in events if isinstance(event, Trained)]
    steps = [report.step for report in reports]
    assert steps == [*range(1, 33), *range(11, 49)] and kinds.count(RolledBack) == 1
    assert {report.lr for report in reports[:32]} == {1e-3} and {report.lr for report in reports[32:]} == {5e-4}
    # The same step 11 saw other pictures, times and noise: another loss, from the same weights.
    first, again = reports[10], reports[32]
    assert first.step == again.step == 11 and first.loss != again.loss and not torch.equal(first.t, again.t)
    lines = (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    assert len(lines) == 12 and '"lr": 0.0005' in lines[-1]


@pytest.mark.slow
def test_going_back_is_repeated_bit_for_bit_by_a_run_that_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed among the steps that fail, right after going back, and later: everything is the same."""
    ruin(monkeypatch, while_=lambda learner: not learner.rollbacks and 16 <= learner.step < 30)
    collect(tiny.config(SMALL, **SETTINGS), tmp_path / "whole")
    for name, stops in (("a", [20]), ("b", [33, 25]), ("c", [32, 4, 45])):
        for stop in stops:
            collect(tiny.config(SMALL, **SETTINGS), tmp_path / name, stop_after=stop)
        collect(tiny.config(SMALL, **SETTINGS), tmp_path / name)
        tiny.assert_same_run(tmp_path / name, tmp_path / "whole")


def test_a_person_is_told_what_the_guard_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("fromnoise.console._EVERY", 0.0)  # A line with every step.
    settings = tiny.config(SMALL, **{**SETTINGS, "report_every": 1})
    ruin(monkeypatch, while_=lambda learner: not learner.rollbacks and 16 <= learner.step < 30)
    follow(train_run(settings, tiny.digits(), tmp_path, device=tiny.CPU))
    said = capsys.readouterr().err
    assert "; back to 80 pictures seen, with half the step size and other randomness\n" in said
    assert ", 1 step left out by the guard" in said and "1 steps left out" not in said


def test_it_gives_up_after_so_many_times_with_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ruin(monkeypatch, while_=lambda learner: learner.step >= 12)
    settings = tiny.config(SMALL, {"train": {"guard": {"rollbacks": 1}}}, **SETTINGS)
    with pytest.raises(FromnoiseError, match=r"^training diverges: .* by step 32.*; it went back 1 times") as caught:
        collect(settings, tmp_path)
    assert "\n" not in str(caught.value) and caught.value.exit_code == 1
    assert f"What was saved before is in {tmp_path}/checkpoints; look at the pictures, or start another run with a" in (
        str(caught.value)
    )
    settings = tiny.config(SMALL, {"train": {"guard": {"rollbacks": 0}}}, **{**SETTINGS, "checkpoint_every": 800})
    with pytest.raises(FromnoiseError, match=r"it may not go back, and gives up\. Nothing was saved; look at"):
        collect(settings, tmp_path / "other")


def test_a_run_does_not_end_on_steps_that_were_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer than make it go back on the way: here there is no more to come that could show whether all is well."""
    ruin(monkeypatch, while_=lambda learner: not learner.rollbacks and learner.step >= 45)
    events = collect(tiny.config(SMALL, **SETTINGS), tmp_path)
    [back] = [event for event in events if isinstance(event, RolledBack)]
    assert back.images == 320 and back.why.startswith("the guard was leaving steps out at the end, step 48, the last ")
    assert events[-1] == Ended(tmp_path, 48 * 8, 48, True)
    ruin(monkeypatch, while_=lambda learner: learner.step >= 45)
    with pytest.raises(FromnoiseError, match=r"at the end, step 48.*; it went back 2 times"):
        collect(tiny.config(SMALL, **SETTINGS), tmp_path / "again")


PAST: dict[str, Any] = {  # All that a step may leave a trace in.
    "train": {"averages": [0.1], "precision": "float16", "augment": {"flip_x": 1.0}},
    "objective": {"times": {"kind": "loss_aware", "last": 2}},
    "schedule": {"kind": "constant", "steps": 4, "value": 0.3},
}


@pytest.mark.parametrize(("last", "changes"), [(1, {}), (3, PAST)], ids=["one", "three"])
def test_a_run_whose_weights_are_sound_ends_although_its_last_steps_were_left_out(
    last: int, changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without going back, on the weights of the last step taken; and it goes on as the longer run does, to the bit."""
    ruin(monkeypatch, while_=lambda learner: 5 - last <= learner.step < 5)
    monkeypatch.setattr(LossScale, "excused", lambda self: None)  # In float16 they would count as a search.
    tree = merge(merge(SMALL, changes), {"train": {"guard": {"rollbacks": 0}}})
    short, run, straight = (tmp_path / name for name in ("short", "run", "straight"))
    tiny.run(tiny.config(tree, steps=5 - last), short)
    ended = Ended(run, 40, 5, True)
    events = tiny.run(tiny.config(tree, steps=5), run)
    assert events[-1] == ended and not any(isinstance(event, RolledBack) for event in events)
    ours, theirs = (
        {name: value for name, value in tiny.weights(place).items() if name.startswith("model/")}
        for place in (run, short)
    )
    tiny.assert_same_bits(ours, theirs)
    assert tiny.run(tiny.config(tree, steps=5), run)[-1] == ended, "there is nothing left to do"
    for place in (run, straight):
        tiny.run(tiny.config(tree, steps=7), place)
    tiny.assert_same_bits(tiny.weights(run), tiny.weights(straight))


def test_weights_that_only_the_end_could_hide_are_not_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever would follow is left out as well: that is a row, however few of it the run itself has seen."""
    ruin(monkeypatch, while_=lambda learner: learner.step >= 9)
    settings = tiny.config(SMALL, {"train": {"guard": {"rollbacks": 0}}}, steps=10, checkpoint_every=40)
    with pytest.raises(FromnoiseError, match=r"^training diverges: .* at the end, step 10, .*; it may not go back"):
        tiny.run(settings, tmp_path)
    assert RunFolder(tmp_path).latest()[0].images == 40


def test_a_stop_among_steps_that_are_left_out_saves_nothing_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ruin(monkeypatch, while_=lambda learner: 16 <= learner.step < 20)
    settings = tiny.config(SMALL, **SETTINGS)
    *_, noted, ended = tiny.run(settings, tmp_path / "run", stop_at=18)
    assert isinstance(noted, Noted) and noted.text.startswith("the last steps were left out, so they are not saved")
    assert ended == Ended(tmp_path / "run", 80, 10, False)
    assert RunFolder(tmp_path / "run").latest()[0].images == 80
    tiny.run(settings, tmp_path / "run")
    tiny.run(settings, tmp_path / "whole")
    tiny.assert_same_run(tmp_path / "run", tmp_path / "whole")


# ----------------------------------------------------------------------------------------------------------- loss scale


def test_the_scale_halves_at_an_overflow_doubles_after_many_good_steps_and_has_a_floor() -> None:
    scale, no, yes = LossScale(torch.device("cpu"), enabled=True), torch.tensor(False), torch.tensor(True)
    assert scale.value == 2**16
    for _ in range(1999):
        scale.update(no)
    assert scale.value == 2**16
    scale.update(no)
    assert scale.value == 2**17
    for _ in range(40):
        assert bool(scale.excused()) == (scale.value > FLOOR)
        scale.update(yes)
    assert scale.value == FLOOR == 1 and not bool(scale.excused())
    off = LossScale(torch.device("cpu"), enabled=False)
    off.update(yes)
    assert off.value == 1 and off.excused() is None and off.tensors() == {}


def test_a_search_for_the_scale_is_no_divergence_but_an_overflow_at_the_floor_is() -> None:
    guard, wild = Guard(GuardSettings(), torch.device("cpu")), torch.tensor(math.inf)
    for _ in range(30):
        assert guard.judge(torch.tensor(1.0), wild, excused=torch.tensor(True)) == 1
    assert not guard.lost()
    for _ in range(8):
        guard.judge(torch.tensor(1.0), wild, excused=torch.tensor(False))
    assert guard.lost()


def test_half_precision_finds_its_scale_and_trains(tmp_path: Path) -> None:
    events = collect(tiny.config(SMALL, steps=40, precision="float16", lr=3e-3, warmup=0), tmp_path)
    losses: list[Tensor] = [event.report.loss for event in events if isinstance(event, Trained)]
    assert sum(losses[-10:]) / 10 < 0.75 * losses[0]
    assert tiny.weights(tmp_path)["optimizer/scale.value"] >= 1
