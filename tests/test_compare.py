"""Samplers side by side: the figures are what they are called, the files say the same, the fewest calls are found."""

import csv
import json
import os
import signal
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from PIL import Image
from tests import tiny

from fromnoise.cli import main
from fromnoise.config import TABLES
from fromnoise.data import Dataset
from fromnoise.errors import FromnoiseError, WrongUse
from fromnoise.run import Run, open_run
from fromnoise.sampler import Sampler
from fromnoise.task.compare import SAMPLERS, STEPS, Compared, Comparing, as_dict, compare
from fromnoise.task.compare_report import Row, plot, rows_table

N = 70
"""More than there are pixels, so that a covariance has an inverse."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    change = {"schedule": {"steps": 25}, "data": {"held_out": 0.25}}
    change |= {"network": {"model_channels": 16, "attention_resolutions": []}}
    return open_run(tiny.trained(tmp_path_factory.mktemp("runs") / "run", change, steps=60, lr=5e-3))


@pytest.fixture(scope="module")
def real() -> Dataset:
    return tiny.digits(200)


@pytest.fixture(scope="module")
def result(run: Run, real: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Compared:
    out = tmp_path_factory.mktemp("compared") / "new" / "folder"
    samplers = ("ddim", "heun", "deis", "dpm_2m_sde")
    *events, last = compare(run, real, samplers=samplers, steps=(2, 5, 25), n=N, seed=3, batch_size=32, out=out)
    assert isinstance(last, Compared)
    assert all(isinstance(event, Comparing) for event in events)
    done = [(event.done, event.total) for event in events if isinstance(event, Comparing) and event.row is None]
    assert done == [(k + 1, len(done)) for k in range(len(done))], "a step at a time, up to the last"
    assert [event.row for event in events if isinstance(event, Comparing) and event.row] == list(last.rows)
    return last


def row(result: Compared, sampler: str, steps: int) -> Row:
    (found,) = [row for row in result.rows if (row.sampler, row.steps) == (sampler, steps)]
    return found


def labels(real: Dataset, n: int) -> list[int]:
    """Of pictures spread over all the real ones."""
    assert real.labels is not None
    return [int(real.labels[k * len(real) // n]) for k in range(n)]


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    """The textbook formula, with SciPy's matrix root."""
    a, b = (x.reshape(len(x), -1) / 255 for x in (a, b))
    ridge = 1e-12 * np.eye(a.shape[1])
    root = np.real(scipy.linalg.sqrtm((np.cov(a.T) + ridge) @ (np.cov(b.T) + ridge)))
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(np.cov(a.T) + np.cov(b.T) - 2 * root))


def test_which_rows_there_are(result: Compared) -> None:
    """First the paper's sampler and DDIM with all steps; each way once; none with fewer steps than its rule needs."""
    assert [(row.sampler, row.steps) for row in result.rows] == [
        ("ancestral", 25),
        ("ddim", 25),
        *[("ddim", steps) for steps in (2, 5)],
        *[("heun", steps) for steps in (2, 5, 25)],
        *[("deis", steps) for steps in (5, 25)],
        *[("dpm_2m_sde", steps) for steps in (2, 5, 25)],
    ]
    assert result.reference is result.rows[0] and result.pictures == N
    assert [row.nfe for row in result.rows if row.sampler == "heun"] == [3, 9, 49]
    assert all(row.nfe == row.steps for row in result.rows if row.sampler != "heun")
    assert all(row.seconds > 0 for row in result.rows)


def test_the_scores_are_those_of_the_pictures_that_the_run_draws(run: Run, real: Dataset, result: Compared) -> None:
    chosen = labels(real, N)
    exact = run.sampled_as("ddim", steps=25).sample(N, seed=3, labels=chosen, batch_size=32).astype(float)
    for name, steps in [("ancestral", 25), ("ddim", 25), ("ddim", 5), ("heun", 5), ("dpm_2m_sde", 5)]:
        images = run.sampled_as(name, steps=steps).sample(N, seed=3, labels=chosen, batch_size=32)
        found = row(result, name, steps)
        assert found.frechet == pytest.approx(frechet(images, real.images), rel=1e-4, abs=1e-4), name
        if name in {"ancestral", "dpm_2m_sde"}:
            assert found.to_flow is None
        else:
            apart = ((images.astype(float) - exact) ** 2).mean() ** 0.5
            assert found.to_flow == pytest.approx(apart, rel=1e-5, abs=1e-9)
    assert row(result, "ddim", 25).to_flow == 0
    far, near = (row(result, "ddim", steps).to_flow for steps in (2, 5))
    assert far is not None and near is not None and far > near > 0


def test_the_floor_is_between_two_halves_of_the_real_ones(real: Dataset, result: Compared) -> None:
    places = torch.randperm(len(real), generator=torch.Generator().manual_seed(0)).numpy()
    halves = real.images[places[:100]], real.images[places[100:]]
    assert result.floor == pytest.approx(frechet(*halves), abs=1e-4)
    assert 0 < result.floor < result.reference.frechet


def test_the_fewest_calls_within_five_per_cent(result: Compared) -> None:
    """Of all the others; of as few calls the better, and nothing if nothing is near."""
    near = [row for row in result.rows[1:] if row.frechet <= 1.05 * result.reference.frechet]
    if near:
        assert result.fewest is not None
        best = min(near, key=lambda row: row.nfe)
        assert result.fewest.nfe == best.nfe and result.fewest.frechet <= best.frechet
    assert (result.fewest is None) == (not near)


@pytest.mark.parametrize(
    ("scores", "fewest"),
    [
        ({"ancestral 25": 1.0, "ddim 25": 2.0, "ddim 5": 3.0, "unipc 5": 2.0}, None),
        ({"ancestral 25": 1.0, "ddim 25": 0.5, "ddim 5": 3.0, "unipc 5": 2.0}, "ddim 25"),
        ({"ancestral 25": 1.0, "ddim 25": 0.5, "ddim 5": 1.04, "unipc 5": 1.03}, "unipc 5"),
        ({"ancestral 25": 1.0, "ddim 25": 0.5, "ddim 5": 1.04, "unipc 5": 1.06}, "ddim 5"),
    ],
)
def test_what_the_fewest_are(
    run: Run, real: Dataset, monkeypatch: pytest.MonkeyPatch, scores: dict[str, float], fewest: str | None
) -> None:
    told = iter([0.1, *scores.values()])  # The floor first.
    monkeypatch.setattr("fromnoise.task.compare.frechet_distance", lambda *_: next(told))
    *_, last = compare(run, real, samplers=("ddim", "unipc"), steps=(5,), n=2)
    assert isinstance(last, Compared) and last.floor == 0.1
    assert (f"{last.fewest.sampler} {last.fewest.steps}" if last.fewest else None) == fewest


def test_the_files_say_the_same(result: Compared) -> None:
    kept, table, picture = result.files
    assert [path.name for path in result.files] == ["compare.json", "compare.csv", "compare.png"]
    assert json.loads(kept.read_text()) == as_dict(result)
    with table.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["sampler"] for row in rows] == [row.sampler for row in result.rows]
    assert float(rows[3]["frechet"]) == pytest.approx(result.rows[3].frechet, rel=1e-5)
    assert rows[0]["to_flow"] == "" and float(rows[1]["to_flow"]) == 0
    with Image.open(picture) as opened:
        assert opened.size == (960, 540) and opened.format == "PNG"
    assert sorted(path.name for path in kept.parent.iterdir()) == ["compare.csv", "compare.json", "compare.png"]
    assert as_dict(result)["rows"][2] == asdict(result.rows[2])


def test_the_plot_shows_every_sampler(result: Compared) -> None:
    """One colour each, apart from the line of the reference."""
    some = [Row(name, 5, 5 + k, 1.0 + k, None, 1.0) for k, name in enumerate(SAMPLERS)]
    more = [replace(row, nfe=50, frechet=row.frechet / 2) for row in some]
    path = result.files[2].parent / "more.png"
    path.write_bytes(plot([*some, *more], some[0], 1.05))
    with Image.open(path) as picture:
        colours = {colour for _, colour in picture.convert("RGB").getcolors(1_000_000) or []}
    assert {(31, 119, 180), (255, 127, 14), (44, 160, 44), (214, 39, 40)} <= colours
    path.unlink()
    assert rows_table(some[:1]).decode().splitlines() == [
        "sampler,steps,nfe,frechet,to_flow,seconds",
        "ancestral,5,5,1.000000,,1.000000",
    ]


def test_what_is_compared_unless_told_otherwise(run: Run, real: Dataset) -> None:
    """Every sampler listed is known; of the usual numbers of steps, those that the clock has."""
    assert set(SAMPLERS) <= set(TABLES[Sampler])
    *_, last = compare(run, real.subset(range(5)), samplers=("ddim",))
    assert isinstance(last, Compared) and last.pictures == 5
    assert [row.steps for row in last.rows[2:]] == [steps for steps in STEPS if steps < 25]


def test_labels(run: Run, real: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the real pictures, spread or in turn; every class in turn where these have none, or others."""
    seen: list[Any] = []
    known = run.pipeline.__class__.stream

    def stream(self: Any, seeds: Any, labels: Any = None, **more: Any) -> Any:
        seen.append((list(seeds), labels))
        return known(self, seeds, labels, **more)

    monkeypatch.setattr(run.pipeline.__class__, "stream", stream)
    few = real.subset(range(6))
    assert few.labels is not None

    def told(pictures: Dataset, n: int, **more: Any) -> list[Any]:
        seen.clear()
        *_, last = compare(run, pictures, samplers=("unipc",), steps=(2,), n=n, **more)
        assert isinstance(last, Compared)
        return seen[: len(seen) // 3]

    assert told(few, 3) == [([0, 1, 2], few.labels[::2].tolist())]
    assert told(few, 8, seed=5, batch_size=5) == [
        ([5, 6, 7, 8, 9], few.labels[:5].tolist()),
        ([10, 11, 12], [*few.labels[5:].tolist(), *few.labels[:2].tolist()]),
    ]
    assert told(tiny.other(few, labels=None, classes=()), 3) == [([0, 1, 2], [0, 1, 2])]
    assert told(tiny.other(few, classes=("a", "b")), 3) == [([0, 1, 2], [0, 1, 2])]


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"samplers": ("ddmi",)}, "sampler 'ddmi' is not known; did you mean 'ddim'?"),
        ({"samplers": ("inversion",)}, "sampler 'inversion' is not known"),
        ({"steps": (5, 26)}, "steps = 26: this model allows 1 to 25"),
        ({"steps": (0,)}, "steps = 0: this model allows 1 to 25"),
        ({"samplers": ("deis", "unipc"), "steps": (1,)}, "nothing to compare: all the samplers need more steps than"),
        ({"n": 1}, "1 pictures of each in batches of 256: a distance between distributions needs at least 2"),
        ({"batch_size": 0}, "pictures of each in batches of 0: "),
    ],
)
def test_what_makes_no_sense_is_told_at_once(
    run: Run, real: Dataset, tmp_path: Path, settings: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(WrongUse) as caught:
        next(compare(run, real, **settings))
    assert complaint in str(caught.value) and "\n" not in str(caught.value)


def test_pictures_that_do_not_fit(run: Run, real: Dataset, tmp_path: Path) -> None:
    wide = tiny.other(real, images=np.zeros((5, 3, 8, 8), np.uint8), labels=None, classes=())
    with pytest.raises(WrongUse, match="the pictures are of shape 3x8x8 and the model's of 1x8x8"):
        next(compare(run, wide))
    with pytest.raises(WrongUse, match="3 pictures to compare with: two halves are needed"):
        next(compare(run, real.subset(range(3))))
    (tmp_path / "file").write_text("precious")
    with pytest.raises(WrongUse, match="file is a file; name a folder for the results"):
        next(compare(run, real, out=tmp_path / "file"))
    with pytest.raises(FromnoiseError, match=r"cannot write to .*: Not a directory"):
        next(compare(run, real, out=tmp_path / "file" / "folder"))
    assert (tmp_path / "file").read_text() == "precious"


# ---------------------------------------------------------------------------------------------------- the command line

Say = Callable[..., tuple[int, str, str]]


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    def run(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(["compare", *[str(word) for word in words]])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_a_table_for_people_and_one_object_for_machines(say: Say, run: Run, tmp_path: Path) -> None:
    words = [run.path, "--samplers", "ddim,heun", "--steps", "3,5", "-n", 8, "--out", tmp_path / "out"]
    code, out, err = say(*words, "--json")
    told = json.loads(out)
    assert code == 0 and out.count("\n") == 1 and err.count("Traceback") == 0
    assert [row["sampler"] for row in told["rows"]] == ["ancestral", "ddim", "ddim", "ddim", "heun", "heun"]
    assert told["files"] == [str(tmp_path / "out" / f"compare.{end}") for end in ("json", "csv", "png")]
    held_out = "to 451 real pictures"
    assert told["how"].endswith(held_out) and "8 samples (seeds 0 to 7)" in told["how"]
    code, out, err = say(*words)
    lines = out.splitlines()
    assert code == 0 and lines[0].split() == ["sampler", "steps", "calls", "Fréchet", "to", "flow", "seconds"]
    assert lines[2].split()[:5] == ["ddim", "25", "25", f"{told['rows'][1]['frechet']:.4f}", "0.00"]
    assert len(lines[1].split()) == 5, "a sampler that adds noise is no distance from the flow"
    assert held_out in lines[7] and f"between two real halves: {told['floor']:.4f}" in lines[7]
    if told["fewest"] is None:
        assert lines[8].startswith("nothing is within 5 % of ancestral with 25 steps")
    else:
        assert f": {told['fewest']['nfe']}, by {told['fewest']['sampler']} --steps" in lines[8]
    assert lines[9].startswith(f"written: {tmp_path / 'out' / 'compare.json'}, ")


def test_it_lands_in_the_run(say: Say, run: Run) -> None:
    assert say(run.path, "digits", "--samplers", "ddim", "--steps", "2", "-n", 4)[0] == 0
    assert sorted(path.name for path in (run.path / "compare").iterdir()) == [
        "compare.csv",
        "compare.json",
        "compare.png",
    ]
    assert "to 1797 real pictures" in json.loads((run.path / "compare" / "compare.json").read_text())["how"]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--steps", "5,x"], "--steps 5,x: should be whole numbers with commas between them, for one 5,10,20"),
        (["--steps", "5,0"], "--steps 5,0: should be whole numbers"),
        (["--steps", "5,,6"], "--steps 5,,6: should be whole numbers"),
        (["--steps", "26"], "steps = 26: this model allows 1 to 25"),
        (["--samplers", "ddim,heum"], "sampler 'heum' is not known; did you mean 'heun'?"),
        (["--samplers", "ddim,"], "sampler '' is not known; known: adaptive, ancestral, "),
        (["-n", "0"], "0 pictures of each in batches of 256"),
        (["missing"], "there is no folder missing, and no built-in data of that name"),
    ],
)
def test_wrong_words(say: Say, run: Run, tmp_path: Path, words: list[str], complaint: str) -> None:
    code, out, err = say(run.path, *words, "--out", tmp_path / "out")
    assert (code, out) == (2, "") and complaint in err.splitlines()[-1]
    assert not list(tmp_path.rglob("compare.*"))


def test_data_that_is_gone_or_holds_no_pictures(say: Say, tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for k in range(4):
        Image.fromarray(tiny.digits().images[k, 0]).save(pictures / f"{k}.png")
    change = {"data": {"path": str(pictures), "class_names": []}}
    bare = tiny.other(tiny.digits(), labels=None, classes=())
    tiny.run(tiny.config(change, steps=1), tmp_path / "run", pictures=bare)
    words = ["--samplers", "ddim", "--steps", "2"]
    (pictures / "bad.png").write_bytes(b"\x89PNG nonsense")
    code, _, err = say(tmp_path / "run", *words)
    assert code == 0 and f"fromnoise: skipped 1 unreadable pictures, the first: {pictures}/bad.png: " in err
    for path in pictures.iterdir():
        path.unlink()
    code, out, err = say(tmp_path / "run", *words)
    assert (code, out) == (2, "")
    assert err.startswith(f"fromnoise: the run's own pictures are not to be had: no pictures in {pictures}: ")
    assert err.endswith("; name others: compare RUN DATA\n") and err.count("\n") == 1
    code, out, err = say(tmp_path / "run", pictures, *words)
    assert code == 2 and err.startswith(f"fromnoise: no pictures in {pictures}: looked for names ending in")


@pytest.mark.parametrize("moment", ["sampling", "plotting"])
@pytest.mark.usefixtures("undisturbed")
def test_ctrl_c_leaves_nothing_half_written(
    say: Say, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    def pressed(*_: Any, **__: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)

    place = {"sampling": "fromnoise.sampler.ddim.DDIM.step", "plotting": "fromnoise.task.compare.plot"}[moment]
    monkeypatch.setattr(place, pressed)
    code, out, err = say(run.path, "--samplers", "ddim", "--steps", "2", "-n", 4, "--out", tmp_path / "out")
    assert (code, out, err.splitlines()[-1]) == (130, "", "fromnoise: interrupted")
    left = {path.name: path.read_text() for path in (tmp_path / "out").iterdir()}
    assert not [name for name in left if name.startswith(".")]
    if moment == "sampling":
        assert left == {}
    else:
        assert json.loads(left["compare.json"])["rows"] and left["compare.csv"].count("\n") == 4
