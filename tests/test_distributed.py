"""A run on several processes is the run on one: the same pictures, times and noise, and losses equal but for rounding.

And it cannot be lost either: a dead process, Ctrl-C, and another number of processes afterwards.
"""

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from benchmarks import scale
from tests import tiny
from tests.together import seen, train
from torch.distributed import HashStore, Store

from fromnoise.cli import main
from fromnoise.errors import FromnoiseError, Lost, WrongUse
from fromnoise.network.layers import SwishNorm
from fromnoise.run import open_run
from fromnoise.schema import merge
from fromnoise.task.precision import computing
from fromnoise.task.sample import Drawn, draw
from fromnoise.train.attempt import own_store
from fromnoise.train.distributed import together
from fromnoise.train.team import Alone
from fromnoise.worker import FOLDER, Worker, here

Json = dict[str, Any]

HERE = Path(__file__).resolve().parent
NET: Json = {"network": {"model_channels": 16}}
ALL: Json = {
    **{"network": {"model_channels": 16, "dropout": 0.3}, "data": {"classes": True}},
    "train": {"steps": 6, "flip": True, "label_dropout": 0.3, "report_every": 2, "checkpoint_every": 24},
}
PAST: Json = {  # A batch sees all four times, so they depend on past losses from the second step on.
    "objective": {"times": {"kind": "loss_aware", "last": 2}},
    "schedule": {"kind": "constant", "steps": 4, "value": 0.3},
}
CASES: dict[str, Json] = {
    "whole": ALL,
    "parts": merge(ALL, {"train": {"accumulate": 2}}),
    "past losses": merge(ALL, PAST),
    "in pieces": merge(ALL, {"train": {"shard": True, "accumulate": 2}}),
    "watched": merge(NET, {"train": {"steps": 3, "sample_every": 16, "sample_steps": 5, "score_every": 16}}),
}


LOST: Json = {  # Saved after 5 and 10 steps; from step 12 on all are left out, which is seen after step 16.
    **{"network": {"model_channels": 16}},
    "train": {"steps": 20, "checkpoint_every": 40, "report_every": 5, "lr": 1e-3, "guard": {"patience": 4}},
}
CASES |= {"back": LOST, "back, in pieces": merge(LOST, {"train": {"shard": True}})}
RUINED = {"back": (11, 30), "back, in pieces": (11, 30)}


def team_of(size: int, jobs: list[Json], folder: Path, warnings: str = "error") -> list[list[Any]]:
    """The answers of every process to every job. Warnings are errors there too, unless said otherwise."""
    folder.mkdir()
    (folder / "jobs").write_text("".join(json.dumps(job) + "\n" for job in jobs))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {
        **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(size), "OMP_NUM_THREADS": "1"},
        **{"PYTHONPATH": os.pathsep.join([str(tiny.SOURCE), str(HERE.parent)]), "PYTHONWARNINGS": warnings},
    }
    if sys.platform == "linux":
        shared["GLOO_SOCKET_IFNAME"] = "lo"
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.together", str(folder / "jobs"), str(folder)],
            env={**os.environ, **shared, "RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]
    told = [process.communicate(timeout=110)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * size, "\n".join(told)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(size)]


HOW: Json = {"n": 11, "batch_size": 3, "seed": 5, "labels": [k % 10 for k in range(11)]}


@cache
def alone(folder: Path) -> dict[str, Any]:
    """Every case on one process, and what it drew."""
    answers: dict[str, Any] = {
        name: train(tiny.config(tree), folder / "1" / name, Alone(), RUINED.get(name)) for name, tree in CASES.items()
    }
    answers["seen"] = seen(tiny.config(ALL), 3, Alone())
    *_, last = draw(open_run(folder / "1" / "whole", device=tiny.CPU), **HOW)
    assert isinstance(last, Drawn)
    answers["drawn"] = last.images.tolist()
    return answers


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, Any]]]:
    folder, threads = tmp_path_factory.mktemp("distributed"), torch.get_num_threads()
    torch.set_num_threads(1)  # As each of the others has.
    yield folder, alone(folder)
    torch.set_num_threads(threads)


def compared(one: tuple[Path, dict[str, Any]], size: int) -> None:
    folder, answers = one
    runs = folder / str(size)
    jobs: list[Json] = [
        {"do": "train", "run": str(runs / name), "tree": tree, "ruined": RUINED.get(name)}
        for name, tree in CASES.items()
    ]
    jobs.append({"do": "see", "tree": ALL, "steps": 3})
    jobs.append({"do": "draw", "run": str(folder / "1" / "whole"), "how": HOW})
    longer = {
        name: merge(tree, {"train": {"steps": 9}}) for name, tree in CASES.items() if name in {"whole", "in pieces"}
    }
    jobs += [{"do": "train", "run": str(folder / str(size) / name), "tree": tree} for name, tree in longer.items()]
    every = team_of(size, jobs, folder / f"team of {size}")
    for (name, tree), told in zip(CASES.items(), every[0], strict=False):
        same = {json.dumps(other[list(CASES).index(name)]) for other in every}
        assert len(same) == 1, f"{name}: processes disagree on what was done"
        ours, theirs = (np.array([step["numbers"] for step in run]) for run in (told, answers[name]))
        np.testing.assert_allclose(ours[:, 0], theirs[:, 0], rtol=1e-5, err_msg=name)
        np.testing.assert_allclose(ours[:, 1], theirs[:, 1], rtol=1e-4, err_msg=name)
        assert any("back" in step for step in told) == (name in RUINED)
        for step, other in zip(told, answers[name], strict=True):
            assert (step["t"], step.get("back")) == (other["t"], other.get("back")), name
            np.testing.assert_allclose(step["losses"], other["losses"], rtol=1e-4, atol=1e-5, err_msg=name)
        his = flat(tiny.lines(folder / "1" / name))
        mine = flat(tiny.lines(folder / str(size) / name)[: len(tiny.lines(folder / "1" / name))])
        assert mine.keys() == his.keys(), name
        for key, value in mine.items():
            wanted = his[key] if not isinstance(his[key], float) else pytest.approx(his[key], rel=1e-4, abs=1e-5)
            assert value == wanted, f"{name}: {key}"
        weights, wanted = (model(folder / which / name, tree["train"]["steps"]) for which in (str(size), "1"))
        for key, value in wanted.items():
            torch.testing.assert_close(weights[key], value, atol=1e-4, rtol=1e-3)
    for step in range(3):  # Side by side, the shares are the whole.
        for whole, *parts in zip(answers["seen"][step], *(answer[len(CASES)][step] for answer in every), strict=True):
            assert [row for part in parts for row in part] == whole
    for answer in every:
        assert answer[len(CASES) + 1] == answers["drawn"], "pictures depend on how many processes draw them"


def model(run: Path, steps: int) -> dict[str, torch.Tensor]:
    """The weights and their average after so many steps."""
    place = run / "checkpoints" / f"{8 * steps:09d}"
    files = {name: safetensors.torch.load_file(place / f"{name}.safetensors") for name in ("model", "ema")}
    return {f"{name}/{key}": value for name, tensors in files.items() for key, value in tensors.items()}


def flat(lines: list[Json]) -> dict[str, Any]:
    """All numbers of metrics.jsonl, by line and name."""

    def walk(value: Any, name: str) -> Iterator[tuple[str, Any]]:
        if isinstance(value, dict | list):
            for key, item in value.items() if isinstance(value, dict) else enumerate(value):
                yield from walk(item, f"{name}/{key}")
        else:
            yield name, value

    return dict(walk(lines, ""))


def test_two_processes_train_and_draw_what_one_does(one: tuple[Path, dict[str, Any]]) -> None:
    """In parts and whole, with dropout, hidden labels, mirrored pictures, times by past losses, and in pieces."""
    compared(one, 2)
    for name in ("whole", "in pieces"):
        reopened(one[0], name, 2)


def reopened(folder: Path, name: str, size: int) -> None:
    """What several processes saved opens under one, and the run goes on to the losses that they go on to."""
    told = json.loads((folder / f"team of {size}" / "0.json").read_text())
    longer = told[len(CASES) + 2 + ["whole", "in pieces"].index(name)]
    assert len(longer) == 3, "the run should have gone on at step 6"
    for later in (folder / str(size) / name / "checkpoints").iterdir():
        if int(later.name) > 48:
            (later / "state.json").unlink()  # So that one process goes on from where they went on.
    again = train(tiny.config(merge(CASES[name], {"train": {"steps": 9}})), folder / str(size) / name, Alone())
    ours, theirs = ([step["numbers"][0] for step in run] for run in (again, longer))
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)


@pytest.mark.slow
def test_four_processes_train_and_draw_what_one_does(one: tuple[Path, dict[str, Any]]) -> None:
    compared(one, 4)
    for name in ("whole", "in pieces"):
        reopened(one[0], name, 4)


@pytest.mark.slow
@pytest.mark.parametrize("cut", [False, True], ids=["in DDP", "in pieces"])
def test_a_compiled_network_trains_as_a_plain_one(cut: bool, tmp_path: Path) -> None:
    """In two parts a step, with dropout and activations computed again."""
    tree = {"network": {"model_channels": 16, "dropout": 0.3}, "train": {"steps": 3, "accumulate": 2, "shard": cut}}
    compiled = merge(tree, {"train": {"compile": True, "recompute": True}})
    jobs = [{"do": "train", "run": str(tmp_path / "compiled"), "tree": compiled}]
    every = team_of(2, jobs, tmp_path / "team", warnings="ignore")  # PyTorch's compiler uses what it deprecates.
    wanted = train(tiny.config(tree), tmp_path / "plain", Alone())
    for [told] in every:
        for step, other in zip(told, wanted, strict=True):
            np.testing.assert_allclose(step["numbers"], other["numbers"], rtol=1e-4)
            np.testing.assert_allclose(step["losses"], other["losses"], rtol=1e-4, atol=1e-5)


# --------------------------------------------------------------------------------------------- the command and mishaps


LONG = ["--steps", "90", "--set", "train.checkpoint_every=80", "--set", "train.report_every=10"]


def started(folder: Path, name: str, *more: str) -> subprocess.Popen[str]:
    """By a script whose path has a space in it."""
    script = folder / "a place" / "fromnoise"
    script.parent.mkdir(exist_ok=True)
    script.write_text(f"#!{sys.executable}\nfrom fromnoise.cli import main\nraise SystemExit(main())\n")
    script.chmod(0o755)
    words = [str(script), "train", "digits", "--preset", str(folder / "tiny.toml"), "--out", str(folder / name)]
    return tiny.typed(f"exec {shlex.join([*words, *LONG, '--processes', '2', *more])}")


def until(there: Path, process: subprocess.Popen[str]) -> None:
    while not there.exists():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)


def worker_of(out: Path, rank: int) -> int:
    for place in Path("/proc").iterdir():
        try:
            said, words = (place / "environ").read_bytes().split(b"\0"), (place / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if f"RANK={rank}".encode() in said and str(out).encode() in words:
            return int(place.name)
    raise AssertionError(f"no worker {rank} is training {out}")


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks for the worker in /proc")
@pytest.mark.slow
def test_a_killed_process_and_ctrl_c_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", tiny.another_python(tmp_path / "bin"))
    tiny.preset(tmp_path, NET)
    undisturbed, disturbed = (started(tmp_path, name, "--json") for name in ("undisturbed", "disturbed"))
    saved = tmp_path / "disturbed" / "checkpoints"
    until(saved / "000000080", disturbed)
    os.kill(worker_of(tmp_path / "disturbed", 1), signal.SIGKILL)
    until(saved / "000000240", disturbed)  # Which one process cannot reach: all have been started anew.
    os.kill(disturbed.pid, signal.SIGINT)

    out, err = disturbed.communicate(timeout=100)
    assert disturbed.returncode == 130, err
    assert "Traceback" not in err and "torch" not in err and "fault" not in err
    assert err.count("going on at step") == 1, "it should have gone on once, from a checkpoint"
    assert err.count("stopping after this step") == 1
    [said] = re.findall("stopped and saved at .* pictures .*; go on with: (.*)\n", err)
    assert said.startswith(f"'{tmp_path}/a place/fromnoise' train digits")
    images = max(int(path.name) for path in saved.iterdir())
    assert 240 <= images < 720
    assert json.loads(out) == {**json.loads(out), "step": images // 8, "images": images, "finished": False}

    again = tiny.typed(said)
    out, err = undisturbed.communicate(timeout=100)
    assert undisturbed.returncode == 0, err
    assert json.loads(out) == {**json.loads(out), "step": 90, "images": 720, "finished": True}
    _, err = again.communicate(timeout=100)
    assert again.returncode == 0 and f"going on at step {images // 8} of 90" in err, err
    tiny.assert_same_run(tmp_path / "disturbed", tmp_path / "undisturbed")


def torchrun(*words: str) -> tuple[int, str, str]:
    """The code, stdout and stderr of fromnoise under torchrun, on two processes."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    known = {**os.environ, "PYTHONPATH": str(tiny.SOURCE), "OMP_NUM_THREADS": "1"}
    command = [*launcher, "--max-restarts", "1", "-m", "fromnoise", *words]
    done = subprocess.run(command, env=known, capture_output=True, text=True, timeout=100, check=False)
    return done.returncode, done.stdout, done.stderr


def test_torchrun_sees_the_losses_of_one_process(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny.preset(tmp_path, NET)
    words = ["train", "digits", "--preset", str(tmp_path / "tiny.toml"), "--steps", "4", "--json"]
    words += ["--set", "train.report_every=1", "--out"]
    assert main([*words, str(tmp_path / "one")]) == 0
    told = json.loads(capsys.readouterr().out)
    code, out, err = torchrun(*words, str(tmp_path / "two"))
    assert code == 0, err
    assert {**json.loads(out), "run": None, "seconds": None} == {**told, "run": None, "seconds": None}
    ours, theirs = ([line["loss"] for line in tiny.lines(tmp_path / name)[:4]] for name in ("two", "one"))
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)


@pytest.mark.slow
def test_what_comes_next_needs_no_torchrun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", tiny.another_python(tmp_path / "bin"))
    preset, out = tiny.preset(tmp_path, NET), tmp_path / "run"
    code, said, err = torchrun("train", "digits", "--preset", str(preset), "--steps", "1", "--out", str(out))
    assert code == 0, err
    assert said.splitlines()[-1] == f"next: {shlex.quote(sys.executable)} -m fromnoise sample {out} --out s.png"


@pytest.mark.slow
def test_torchrun_hears_of_wrong_use_once(tmp_path: Path) -> None:
    """And is not kept waiting by the second start, which it makes whatever went wrong."""
    tiny.preset(tmp_path, NET)
    words = ["train", "digits", "--preset", str(tmp_path / "tiny.toml"), "--out", str(tmp_path / "run")]
    code, out, err = torchrun(*words, "--steps", "2", "--set", "train.batch_size=1")
    assert code == 1 and out == ""  # torchrun's own code for any failure
    assert err.count("cannot be shared evenly by 2 processes") == 1 and "Gloo" not in err


def test_what_all_processes_refuse_is_said_once(tmp_path: Path) -> None:
    tiny.preset(tmp_path, NET)
    words = ["train", "digits", "--preset", str(tmp_path / "tiny.toml"), "--out", str(tmp_path / "run")]
    refused = tiny.command(*words, "--steps", "2", "--set", "train.batch_size=9", "--processes", "2", "--json")
    out, err = refused.communicate(timeout=100)
    assert refused.returncode == 2 and out == ""
    lines = [line for line in err.splitlines() if "threads each" not in line and "thread each" not in line]
    assert lines == [
        "fromnoise: [train] batch_size = 9 cannot be shared evenly by 2 processes in 1 parts each: take a multiple of 2"
    ]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train", "digits", "--processes", "0"], "--processes 0: must be at least 1"),
        (["sample", "nowhere", "--out", "s.png", "--processes", "-2"], "--processes -2: must be at least 1"),
    ],
)
def test_no_processes_are_refused(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert capsys.readouterr().err == f"fromnoise: {said}\n"


@pytest.mark.parametrize("rank", [0, 1])
def test_processes_within_torchrun_are_refused_by_one_voice(
    rank: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    assert main(["train", "digits", "--processes", "2"]) == 2
    said = "fromnoise: --processes 2: torchrun has started 2 already; leave it out\n"
    assert capsys.readouterr().err == ("" if rank else said)


def test_gpus_are_counted_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("fromnoise.verb.processes.pick_device", lambda said: torch.device(said or "cuda"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for words, said in (
        ([], "2 processes on this machine need a GPU each, and it has 1: start so many, or say --device cpu"),
        (["--device", "cuda:0"], "--device cuda:0: 2 processes need a GPU each; say cuda, and they take one each"),
        (["--device", "mps"], "2 processes cannot share mps: take one, or --device cpu"),
    ):
        assert main(["train", "digits", "--processes", "2", *words]) == 2
        assert capsys.readouterr().err == f"fromnoise: {said}\n"


def test_the_first_to_know_the_end_speaks_and_nobody_is_started_anew(tmp_path: Path) -> None:
    first, second = (Worker(rank, 2, tmp_path, None) for rank in (0, 1))
    assert first.begin() is None and (tmp_path / "0").read_text() == str(os.getpid())
    assert first.end(1, died=True) == (False, 1), "another start may mend that: no verdict"
    assert first.begin() is None
    assert second.end(2, died=False) == (True, 2)
    assert first.end(1, died=False) == (False, 1) and first.end(130, died=False) == (False, 0)
    assert (tmp_path / "verdict").read_text() == "2"
    assert first.begin() == second.begin() == 0, "there is nothing left to do"
    elsewhere = Worker(0, 2, None, None)
    assert elsewhere.begin() is None and elsewhere.end(2, died=False) == (True, 2)
    assert elsewhere.end(130, died=False)[1] == 0, "torchrun would start anew what was stopped and saved"
    known = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "x"}
    assert here(known) == Worker(1, 2, None, None) and here({**known, FOLDER: "/a"}) == Worker(1, 2, Path("/a"), None)
    assert here({}) is None and here({**known, "WORLD_SIZE": "1", "RANK": "0"}) is None


def test_under_torchrun_what_starting_anew_cannot_mend_ends_every_other_start(tmp_path: Path) -> None:
    """Its folder: attempt_0/0/error.json and so on, here as torchrun tells it."""

    def started(attempt: int, rank: int) -> Worker:
        place = tmp_path / f"attempt_{attempt}" / str(rank)
        place.mkdir(parents=True)
        torchrun = {"TORCHELASTIC_ERROR_FILE": str(place / "error.json"), "MASTER_ADDR": "x"}
        found = here({"RANK": str(rank), "WORLD_SIZE": "2", **torchrun})
        assert found is not None
        return found

    first, second = (started(0, rank) for rank in (0, 1))
    assert first.begin() is second.begin() is None and first.shared == tmp_path
    assert first.end(1, died=True) == (False, 1)
    again, other = (started(1, rank) for rank in (0, 1))
    assert again.begin() is other.begin() is None, "a death may be mended"
    assert other.end(2, died=False) == (True, 2) and again.end(2, died=False) == (False, 2)
    assert started(2, 0).begin() == started(2, 1).begin() == 2


def test_a_stop_asked_for_before_a_worker_is_known_is_heard(tmp_path: Path) -> None:
    worker = Worker(0, 2, tmp_path, None)
    assert worker.torn_down(), "a signal without a wish comes from the launcher"
    launcher = threading.Timer(0.2, (tmp_path / "stop").touch)
    launcher.start()
    assert not worker.torn_down(), "told of the stop itself, a moment before the launcher"
    launcher.join()
    assert worker.begin() == 0 and (tmp_path / "verdict").read_text() == "130"


def test_an_attempt_has_a_store_of_its_own_whatever_the_dead_have_left() -> None:
    """Of the first attempt two processes came, asked, and died; the second has one more, and the last comes late."""
    store, patience = HashStore(), timedelta(seconds=20)

    def attempt(size: int, late: float = 0.0) -> list[Store]:
        def come(rank: int) -> Store:
            time.sleep(late * (rank == size - 1))
            return own_store(store, rank, size, patience)

        with ThreadPoolExecutor(size) as pool:
            return list(pool.map(come, range(size)))

    first = attempt(2)
    first[1].set("address", "of the dead")
    assert first[0].get("address") == b"of the dead"
    store.set("asks/2", "a word of one who died before the answer")
    second = attempt(3, late=0.3)
    assert not any(each.check(["address"]) for each in second)
    second[2].set("address", "of the living")
    assert [each.get("address") for each in second] == [b"of the living"] * 3
    assert first[1].get("address") == b"of the dead"
    with pytest.raises(RuntimeError, match="timed out: process 1 of 2 has not come"):
        own_store(store, 0, 2, timedelta(seconds=0.1))


# ------------------------------------------------------------------------------------------------------ shares of work


@pytest.mark.parametrize(
    ("words", "files"),
    [
        (
            ["likelihood", "-n", "11", "--batch-size", "4", "--estimate", "3"],
            ["likelihood.json", "pictures.csv", "rate-distortion.csv", "progressive.png"],
        ),
        pytest.param(
            ["likelihood", "-n", "3", "--batch-size", "4", "--flow", "--steps", "2"],
            ["flow.json", "flow-pictures.csv"],
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ["compare", "-n", "9", "--batch-size", "4", "--samplers", "ddim", "--steps", "5"],
            ["compare.csv"],
            marks=pytest.mark.slow,
        ),
    ],
    ids=["bound", "flow, of which one process has nothing", "compare"],
)
def test_two_processes_score_as_one_does(
    words: list[str], files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """To the bit, but for the seconds that a comparison took."""
    run = tiny.trained(tmp_path / "run", NET, steps=1)
    verb, *rest = words
    assert main([verb, str(run), *rest, "--out", str(tmp_path / "one"), "--json"]) == 0
    alone = json.loads(capsys.readouterr().out)
    shared = tiny.command(verb, run, *rest, "--out", str(tmp_path / "two"), "--json", "--processes", "2")
    out, err = shared.communicate(timeout=100)
    assert shared.returncode == 0, err
    told = json.loads(out)
    assert told.keys() == alone.keys() and len(told["files"]) == len(alone["files"])
    assert {Path(file).name for file in told["files"]} == {path.name for path in (tmp_path / "two").iterdir()}
    for name in files:
        one, two = ((tmp_path / place / name).read_bytes() for place in ("one", "two"))
        if verb == "compare":
            one, two = ([row.rsplit(b",", 1)[0] for row in table.splitlines()] for table in (one, two))
        assert one == two, name


# ------------------------------------------------------------------------------------------------ the model of the cost


def test_the_tables_of_the_docs_are_what_the_model_says() -> None:
    text = (HERE.parent / "docs" / "scale.md").read_text()
    assert scale.table(64, None) in text and scale.table(None, 512) in text


def test_the_model_is_its_formulas() -> None:
    """Worked out by hand for 16 GPUs on two machines."""
    given = scale.Machines(
        operations=1e12, on_each=8, inside=4e9, between=1e9, message=1e-3, agreement=1e-3, overlap=0.5
    )
    step = scale.predict(given, 16, 10, 1e9, 25 * 2**20)  # four buckets
    assert step.compute == pytest.approx(0.01)
    assert step.bytes == pytest.approx(2 * 15 / 16 * 100 * 2**20)
    assert step.reduce == pytest.approx(step.bytes / 1e9 + 0.008)
    assert step.exposed == pytest.approx(step.reduce - 0.01 / 3)
    assert step.agree == pytest.approx(0.008 + 0.030)
    assert step.seconds == pytest.approx(0.01 + step.exposed)
    long = scale.predict(given, 16, 10_000, 1e9, 25 * 2**20)
    assert long.exposed == pytest.approx(long.reduce / 4), "the last bucket has nothing to hide behind"
    assert scale.predict(given, 16, 0.001, 1e9, 1.0).seconds == pytest.approx(0.038), "waits for the agreement"
    assert scale.predict(given, 1, 10, 1e9, 1e9).seconds == pytest.approx(0.01)


def test_a_single_picture_may_lie_in_memory_in_any_way() -> None:
    """Weights in pieces make such activations; the kernels behind the norm mind the stride over one picture."""
    norm, x = SwishNorm(16, 4), torch.randn(1, 16, 8, 8)
    odd = torch.empty_strided(x.shape, (16, 1, 128, 16)).copy_(x).requires_grad_()
    torch.testing.assert_close(norm(odd), torch.nn.functional.silu(torch.nn.functional.group_norm(x, 4, eps=1e-6)))


# -------------------------------------------------------------------------------------------- deaths that may be mended


def as_worker(monkeypatch: pytest.MonkeyPatch, attempt: Path, rank: int, **more: str) -> Path:
    """This process is worker ``rank`` of two, as torchrun tells it; the folder that its attempts share."""
    (attempt / str(rank)).mkdir(parents=True)
    told = {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "x", "TORCHELASTIC_RUN_ID": "a", **more}
    for name, value in {**told, "TORCHELASTIC_ERROR_FILE": str(attempt / str(rank) / "error.json")}.items():
        monkeypatch.setenv(name, value)
    return attempt.parent


@pytest.mark.parametrize("lent", [False, True], ids=["torchrun", "--processes"])
@pytest.mark.parametrize(
    ("error", "final", "said"),
    [
        (
            RuntimeError("CUDA error: uncorrectable ECC error"),
            None,
            "RuntimeError: CUDA error: uncorrectable ECC error (",
        ),
        (KeyError("odd"), None, "KeyError: 'odd' ("),
        (Lost("another process is gone"), None, None),
        (FromnoiseError("the disk is full"), "1", "the disk is full"),
        (WrongUse("no such picture"), "2", "no such picture"),
        (RuntimeError("CUDA out of memory"), "1", "not enough memory: "),
    ],
)
def test_what_nobody_foresaw_is_a_death_that_a_new_start_may_mend(
    error: Exception,
    final: str | None,
    said: str | None,
    lent: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Said once an attempt by whoever meets it first; what a new start cannot mend is final."""

    def fail(*_: object) -> int:
        raise error

    monkeypatch.setattr("fromnoise.verb.inspect", fail)
    for attempt in ("attempt_0", "attempt_1"):
        for rank in (1, 0):
            more = {FOLDER: str(tmp_path)} if lent else {}
            shared = as_worker(monkeypatch, tmp_path / attempt, rank, **more)
            verdict = shared / ("verdict" if lent else "fromnoise-verdict")
            ended = verdict.exists()
            code, err = main(["inspect", "digits"]), capsys.readouterr().err
            if ended:  # There was nothing to do any more.
                assert final is not None and err == "" and code == (0 if lent else int(final))
                continue
            assert code == int(final or 1)
            assert (verdict.read_text() if verdict.exists() else None) == final
            if rank == 1 and said is not None:
                assert err.startswith(f"fromnoise: {said}") and err.count("\n") == 1
            else:
                assert err == ""


def test_one_process_that_torchrun_has_started_is_a_worker() -> None:
    """It would be started anew when it is stopped and saved; by the other variables alone anybody may be meant."""
    alone = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "x"}
    assert here(alone) is None
    worker = here({**alone, "TORCHELASTIC_RUN_ID": "none"})
    assert worker == Worker(0, 1, None, None) and worker.end(130, died=False) == (True, 0)


def test_gpus_that_have_met_can_still_be_told_to_repeat_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA starts when processes meet through NCCL, before the settings are known; nothing is computed until then."""
    cuda, started, begin = torch.device("cuda", 0), [], torch.distributed.init_process_group

    def meet(backend: str, *, device_id: torch.device) -> None:
        assert backend == "nccl" and device_id == cuda and started
        begin("gloo", store=HashStore(), rank=0, world_size=1)

    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")  # So that it is put back afterwards.
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    monkeypatch.setattr(torch.distributed, "init_process_group", meet)
    monkeypatch.setattr(torch.cuda, "set_device", started.append)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: bool(started))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "memory_stats", lambda device: {"allocated_bytes.all.allocated": 0})
    with together(cuda), computing("float32", cuda, deterministic=True):
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
