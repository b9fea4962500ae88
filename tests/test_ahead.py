"""Work done ahead: the same answers in order, by threads and by copies, and what becomes of one that kills a copy."""

import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from fromnoise.data import ahead as room
from fromnoise.data.ahead import ahead


@dataclass
class Plain:
    """What a source may hold for copies of the process to read it."""

    names: tuple[str, ...] = ("a", "b")
    home: int = field(default_factory=os.getpid)


class Locked:
    """What it may not hold."""

    def __init__(self) -> None:
        self.lock = threading.Lock()


def where(index: int) -> tuple[int, int, str]:
    return index, os.getpid(), threading.current_thread().name


def no_loss(index: int, how: str) -> tuple[int, int, str]:
    raise AssertionError((index, how))


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies are made for the least of work, on two cores."""
    monkeypatch.setattr(room, "_WORTH_IT", 0.0)
    monkeypatch.setattr(room, "_MOST", 5)
    monkeypatch.setattr(room, "_cores", lambda: 2)


@pytest.mark.usefixtures("eager")
def test_small_work_is_done_by_copies_and_comes_in_order() -> None:
    answers = list(ahead(where, 203, lost=no_loss, uses=Plain()))
    assert [index for index, _, _ in answers] == list(range(203))
    assert {process for _, process, _ in answers[:4]} == {os.getpid()}
    assert len({process for _, process, _ in answers[4:]} - {os.getpid()}) == 2


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("uses", [Locked(), Plain()])
def test_threads_do_what_takes_long_and_what_cannot_be_copied(uses: object, monkeypatch: pytest.MonkeyPatch) -> None:
    if isinstance(uses, Plain):
        monkeypatch.setattr(room, "_LONG", 0.0)
    answers = list(ahead(where, 203, lost=no_loss, uses=uses))
    assert [index for index, _, _ in answers] == list(range(203))
    assert {process for _, process, _ in answers} == {os.getpid()}
    assert all(name.startswith("ahead") for _, _, name in answers[4:])


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("fatal", [{11}, {4, 60, 61, 102}])
def test_a_picture_that_ends_its_copy_is_told_and_the_others_go_on(fatal: set[int]) -> None:
    uses = Plain()

    def work(index: int) -> str:
        if index in fatal and os.getpid() != uses.home:
            os.kill(os.getpid(), signal.SIGKILL)
        return str(index)

    answers = list(ahead(work, 103, lost=lambda index, how: f"{index} {how}", uses=uses))
    assert answers == [f"{k} SIGKILL" if k in fatal else str(k) for k in range(103)]


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("long", [0.0, 1.0])
def test_an_error_of_the_work_comes_out(long: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_LONG", long)

    def work(index: int) -> int:
        if index == 50:
            raise RuntimeError("fifty")
        return index

    got: list[int] = []
    with pytest.raises(RuntimeError, match="fifty"):
        list(map(got.append, ahead(work, 100, lost=lambda index, how: -1, uses=Plain())))
    assert got == list(range(len(got))) and 40 < len(got) <= 50


@pytest.mark.parametrize("count", [0, 1, 4, 5])
@pytest.mark.usefixtures("eager")
def test_few_pictures(count: int) -> None:
    assert [index for index, _, _ in ahead(where, count, lost=no_loss, uses=Plain())] == list(range(count))


@pytest.mark.usefixtures("eager")
def test_who_stops_listening_stops_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_LONG", 0.0)
    started: list[int] = []
    work: Callable[[int], None] = started.append
    answers = ahead(work, 10_000, lost=lambda index, how: None, uses=Plain())
    for _ in range(20):
        next(answers)
    answers.close()  # pyright: ignore[reportAttributeAccessIssue] - a generator
    seen = len(started)
    assert seen < 100
    threading.Event().wait(0.05)
    assert len(started) == seen
