"""``fromnoise plot``: what it reads, what it draws, and what it says of folders that are no runs."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fromnoise.cli import main
from fromnoise.errors import FromnoiseError
from fromnoise.task import plot
from fromnoise.task.curves import Curve, Curves, read_all, read_curves, read_lines, summary
from fromnoise.task.plot import plot_curves


def line(k: int, **more: Any) -> dict[str, Any]:
    """The k-th line of a run whose loss is 1 / k."""
    bands = [None if band == 3 else (10 - band) / k for band in range(10)]
    return {
        **{"step": k, "images": 100 * k, "loss": 1 / k, "loss_t": bands, "grad_norm": 2 / k, "skipped": 0},
        **{"lr": 1e-3, "images_per_second": 50.0, **more},
    }


def look(k: int) -> list[dict[str, Any]]:
    """A look at samples, and a score."""
    head = {"step": k, "images": 100 * k}
    return [
        {**head, "samples": {"mean": [100.0], "drift": 20 / k, "chance": 1.5}},
        {**head, "score": {"frechet": 30 / k, "floor": 0.5}},
    ]


def run_of(folder: Path, *lines: dict[str, Any], end: str = "") -> Path:
    """A run folder with these metrics."""
    folder.mkdir()
    (folder / "metrics.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines) + end)
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Forty lines, and looks at two places."""
    lines = [each for k in range(1, 41) for each in (line(k), *(look(k) if k % 20 == 0 else ()))]
    return run_of(tmp_path / "run", *lines)


def test_lines_that_are_not_whole_are_left_out(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    assert read_lines(file) == read_lines(tmp_path / "nothing") and not read_lines(file).lines
    file.write_bytes(b'{"images": 8}\n\0\0\0\n[1]\n{"images": 16}\n{"images": 2')
    read = read_lines(file)
    assert [each["images"] for each in read.lines] == [8, 16]
    assert read.unread == 2, "the last line is only being written"


def test_a_curve_is_what_the_lines_hold(tmp_path: Path) -> None:
    lines = (
        line(1),
        line(2, loss=None),
        {"images": 200, "samples": {"drift": 4.5}},
        line(3, loss=float("nan")),
        line(4),
    )
    curves = Curves("run", lines)
    assert curves.of("loss").images.tolist() == [100, 400] and curves.of("loss").values.tolist() == [1, 0.25]
    assert curves.of("samples", "drift").images.tolist() == [200]
    assert curves.of("loss_t", 1).values.tolist() == [9 / k for k in (1, 2, 3, 4)]
    assert not len(curves.of("loss_t", 3).smooth().values) and not len(curves.of("loss_t", 10).values)
    assert not len(curves.of("score", "frechet").values) and curves.images == 400


def test_a_smooth_curve_is_neither_late_nor_shifted() -> None:
    images = np.arange(1.0, 101.0)
    straight = Curve(images, 3 * images + 2).smooth(share=0.07)
    assert len(straight.images) == 94 and np.allclose(straight.values, 3 * straight.images + 2)
    noisy = np.random.default_rng(0).normal(size=100)
    assert Curve(images, noisy).smooth(share=0.1).values[0] == pytest.approx(noisy[:10].mean())
    few = Curve(images[:5], noisy[:5])
    assert np.array_equal(few.smooth().values, few.values)


def shown(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB"))


def test_there_is_a_panel_for_whatever_was_measured(run: Path, tmp_path: Path) -> None:
    """Four rows of two panels with looks at samples, three without; the old lines of earlier versions make two."""
    everything = shown(plot_curves([read_curves(run)], tmp_path / "everything.png"))
    plain = run_of(tmp_path / "plain", *(line(k) for k in range(1, 41)))
    without = shown(plot_curves([read_curves(plain)], tmp_path / "plain.png"))
    old = [{k: v for k, v in line(k).items() if k not in {"loss_t", "skipped"}} for k in range(1, 41)]
    earlier = shown(plot_curves([read_curves(run_of(tmp_path / "old", *old))], tmp_path / "old.png"))
    row = (len(everything) - len(earlier)) / 2
    assert len(everything) - len(without) == pytest.approx(row, abs=2) and row > 300
    assert not np.array_equal(everything[: len(without)], without)


def test_curves_go_where_the_numbers_are(tmp_path: Path) -> None:
    """The loss, seen in the pixels: a falling one goes down, a rising one up; a second run has a colour of its own."""

    def heights(losses: list[float], name: str) -> tuple[int, int]:
        where = run_of(tmp_path / name, *({"images": 100 * k + 100, "loss": loss} for k, loss in enumerate(losses)))
        pixels = shown(plot.plot_loss(where, tmp_path / f"{name}.png")).astype(int)
        blue = np.abs(pixels - (0x1F, 0x4E, 0x79)).sum(-1) < 60
        body = blue[:, int(0.42 * blue.shape[1]) : int(0.58 * blue.shape[1])]  # the legend is in a corner
        columns = np.flatnonzero(body.any(0))
        first, last = (int(np.flatnonzero(body[:, k]).mean()) for k in (columns[0], columns[-1]))
        return first, last

    falling, rising = heights([2.0**-k for k in range(12)], "falling"), heights([2.0**k for k in range(12)], "rising")
    assert falling[0] + 30 < falling[1] and rising[0] > rising[1] + 30


def test_runs_lie_over_one_another(run: Path, tmp_path: Path) -> None:
    other = run_of(tmp_path / "other", *(line(k, loss=2 / k) for k in range(1, 31)))
    one, two = (
        shown(plot_curves([read_curves(each) for each in runs], tmp_path / f"{len(runs)}.png"))
        for runs in ([run], [run, other])
    )

    def orange(pixels: np.ndarray) -> int:  # matplotlib's second colour, #ff7f0e
        return int((np.abs(pixels.astype(int) - (0xFF, 0x7F, 0x0E)).sum(-1) < 30).sum())

    assert orange(two) > 1000 > orange(one)


def test_two_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    runs = [run_of(tmp_path / name / "digits", line(1)) for name in ("a", "b")]
    told: list[str] = []
    assert {path: curves.name for path, curves in read_all(runs, told.append).items()} == {p: str(p) for p in runs}
    assert not told
    assert read_curves(runs[0]).name == "digits"


def test_a_single_line_is_enough(tmp_path: Path) -> None:
    shown(plot_curves([read_curves(run_of(tmp_path / "young", line(1)))], tmp_path / "curves.png"))


def test_the_command_says_where_a_run_stands(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = (run / "metrics.jsonl").read_text()
    (run / "metrics.jsonl").write_text(lines + 'broken\n{"images": 9')
    assert main(["plot", str(run), "--json"]) == 0
    said = capsys.readouterr()
    assert said.err == "fromnoise: 1 of the lines of run could not be read; passed over\n"
    found = json.loads(said.out)
    assert found["out"] == str(run / "curves.png") and len(shown(run / "curves.png")) > 1000
    (fact,) = found["runs"]
    assert fact == {"run": str(run), **summary(read_curves(run))}
    assert (fact["images"], fact["score"], fact["floor"], fact["drift"]) == (4000, 30 / 40, 0.5, 0.5)
    assert fact["loss"] == pytest.approx((1 / 39 + 1 / 40) / 2)  # the mean of a twentieth of forty
    assert main(["plot", str(run)]) == 0
    assert capsys.readouterr().out.startswith("run: 4,000 pictures seen, loss 0.02532, gradient 0.05064, pictures/s 50")


def test_several_runs_make_one_picture_here(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other = run_of(tmp_path / "other", line(1))
    monkeypatch.chdir(tmp_path)
    assert main(["plot", str(run), str(other), str(run)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3 and (tmp_path / "curves.png").is_file()
    assert main(["plot", str(run), str(other), "--out", "new/both.png"]) == 0
    assert (tmp_path / "new/both.png").is_file() and not (run / "curves.png").exists()


def test_a_run_without_metrics_does_not_keep_the_others_from_being_drawn(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    young, torn = run_of(tmp_path / "young"), run_of(tmp_path / "torn", end="x\n")
    monkeypatch.chdir(tmp_path)
    assert main(["plot", "young", "run", "torn", "--json"]) == 0
    said = capsys.readouterr()
    assert said.err == (
        "fromnoise: young/metrics.jsonl has no lines yet, so there is no curve to draw; the other runs are drawn\n"
        "fromnoise: torn/metrics.jsonl: none of its lines could be read (1 tried), so there is no curve to draw; the "
        "other runs are drawn\n"
    )
    assert [fact["run"] for fact in json.loads(said.out)["runs"]] == ["run"]
    assert np.array_equal(shown(tmp_path / "curves.png"), shown(plot_curves([read_curves(run)], tmp_path / "one.png")))
    before = sorted(tmp_path.rglob("*"))
    assert main(["plot", str(young), str(torn)]) == 1
    assert capsys.readouterr().err == (
        f"fromnoise: {young}/metrics.jsonl has no lines yet, so there is no curve to draw\n"
    )
    assert main(["plot", str(run), str(tmp_path / "rnu")]) == 2, "a slip of the pen is none of these"
    assert sorted(tmp_path.rglob("*")) == before


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is drawn from here on, as matplotlib holds it."""
    made, make = [], plot._figure
    monkeypatch.setattr(plot, "_figure", lambda *size: made.append(make(*size)) or made[-1])
    return made


def words(legend: Any) -> list[str]:
    return [text.get_text() for text in legend.get_texts()]


def many(n: int) -> list[Curves]:
    lines = [each for k in range(1, 41) for each in (line(k), *(look(k) if k % 20 == 0 else ()))]
    return [Curves(f"run {k}", tuple(lines)) for k in range(n)]


@pytest.mark.parametrize("n", [1, 3])
def test_what_is_dotted_is_explained_in_its_panel(n: int, figures: list[Any], tmp_path: Path) -> None:
    plot_curves(many(n), tmp_path / "curves.png")
    panels = {axes.get_ylabel(): axes for axes in figures[0].axes}
    for label, what in (("colour drift, of 255", "real pictures, by chance"), ("Fréchet", "as many real pictures")):
        axes = next(axes for name, axes in panels.items() if name.startswith(label))
        assert sum(each.get_linestyle() == ":" for each in axes.lines) == n
        dotted = dict(zip(words(axes.legend_), axes.legend_.get_lines(), strict=True))
        assert list(dotted) == (["samples", what] if n == 1 else [what])
        assert dotted[what].get_linestyle() == ":" and dotted[what].get_color() == "#777777"


def test_no_two_of_many_runs_look_alike(figures: list[Any], tmp_path: Path) -> None:
    plot_curves(many(35), tmp_path / "curves.png")
    (legend,) = figures[0].legends
    assert words(legend) == [f"run {k}" for k in range(35)]
    handles = [
        (each.get_color(), each._dash_pattern[1] and tuple(each._dash_pattern[1])) for each in legend.get_lines()
    ]
    assert len(set(handles)) == 35
    for axes in figures[0].axes:  # In every panel the k-th run looks as the legend says.
        strong = [each for each in axes.lines if each.get_alpha() is None and each.get_color() != "#777777"]
        assert [each.get_color() for each in strong] == [colour for colour, _ in handles]
        assert [each.get_linestyle() for each in strong] == [each.get_linestyle() for each in legend.get_lines()]


def test_names_of_runs_are_no_formulas_and_bring_no_warning(figures: list[Any], tmp_path: Path) -> None:
    names = [r"$\frac$", "_hidden", "猫", "x" * 400]
    plot_curves([Curves(name, (line(1), line(2))) for name in names], tmp_path / "curves.png")
    shown_names = words(figures[0].legends[0])
    assert shown_names[:3] == [r"\$\frac\$", "_hidden", "猫"] and len(shown_names[3]) == 120
    plot_curves([Curves(names[0], (line(1),))], tmp_path / "curves.png")


def test_a_loss_of_nothing_but_zeros_brings_no_warning(figures: list[Any], tmp_path: Path) -> None:
    """Warnings are errors here; on the command line they were two lines that said nothing of the run."""
    zeros = [line(k, loss=0.0, grad_norm=0.0, loss_t=[0.0] * 10) for k in range(1, 5)]
    score = [{"images": 400, "score": {"frechet": 0.0, "floor": 0.0}}]
    for runs in ([Curves("zeros", (*zeros, *score))], [Curves("zeros", tuple(zeros)), Curves("two", tuple(zeros))]):
        plot_curves(runs, tmp_path / "curves.png")
        assert {axes.get_yscale() for axes in figures[-1].axes} == {"linear"}
    plot_curves([Curves("some", (*zeros, line(5)))], tmp_path / "curves.png")
    assert [axes.get_yscale() for axes in figures[-1].axes][:3] == ["log"] * 3


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("bands", [[0.61 + 0.01 * k for k in range(10)], [0.2 + 0.1 * k for k in range(10)]])
def test_every_logarithmic_axis_has_plain_numbers(
    n: int, bands: list[float], figures: list[Any], tmp_path: Path
) -> None:
    lines = tuple(line(k, loss=bands[k % 10], grad_norm=bands[k % 10], loss_t=bands) for k in range(1, 21))
    plot_curves([Curves(f"run {k}", lines) for k in range(n)], tmp_path / "curves.png")
    panels = [axes for axes in figures[0].axes if axes.get_yscale() == "log"]
    assert len(panels) == 3
    for axes in panels:
        low, high = axes.get_ylim()
        ticks = [*axes.yaxis.get_major_ticks(), *axes.yaxis.get_minor_ticks()]
        texts = [tick.label1.get_text() for tick in ticks if low <= tick.get_loc() <= high]
        texts = [text for text in texts if text]
        assert len(texts) >= 2 and all(float(text) > 0 for text in texts), texts


@pytest.mark.parametrize(
    ("make", "code", "complaint"),
    [
        (lambda path: None, 2, "{run} is not there; name a run folder"),
        (lambda path: path.write_text("x"), 2, "{run} is a file; name a run folder"),
        (lambda path: path.mkdir(), 2, "{run} is no run folder: it holds neither config.toml nor metrics.jsonl"),
        (
            lambda path: run_of(path, end='{"images": 1'),
            1,
            "{run}/metrics.jsonl has no lines yet, so there is no curve to draw",
        ),
        (
            lambda path: run_of(path, end='nothing\n[1]\n{"images": "8"}\n{"imag'),
            1,
            "{run}/metrics.jsonl: none of its lines could be read (3 tried), so there is no curve to draw",
        ),
        (lambda path: run_of(path, {"images": 8}), 1, "it has measured nothing yet, so there is no curve to draw"),
    ],
)
def test_what_is_no_run_is_one_line(
    make: Any, code: int, complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path / "it")
    before = sorted(tmp_path.rglob("*"))
    assert main(["plot", str(tmp_path / "it")]) == code
    said = capsys.readouterr()
    assert said.err == f"fromnoise: {complaint.format(run=tmp_path / 'it')}\n" and not said.out
    assert sorted(tmp_path.rglob("*")) == before


def test_the_picture_has_a_name_of_a_picture(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "curves.jpg"
    assert main(["plot", str(run), "--out", str(out)]) == 2
    assert capsys.readouterr().err == f"fromnoise: --out {out}: curves are written as a picture; end its name in .png\n"
    (run / "curves.png").mkdir()
    for folder, words in ((tmp_path, ["--out", str(tmp_path)]), (run / "curves.png", [])):
        assert main(["plot", str(run), *words]) == 2
        assert capsys.readouterr().err == (
            f"fromnoise: {folder} is a folder, and curves are written as a file: "
            f"name one that ends in .png with --out\n"
        )
    (tmp_path / "file").write_text("")
    with pytest.raises(FromnoiseError, match=r"^cannot write .*file/curves\.png: "):
        plot_curves([read_curves(run)], tmp_path / "file/curves.png")
