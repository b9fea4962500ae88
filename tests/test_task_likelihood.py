"""Scoring pictures with a trained run: what comes out, what is written, and what is refused."""

import csv
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests import tiny
from torch import Tensor

from fromnoise.codec import Codec
from fromnoise.config import parse, to_tree
from fromnoise.data import Dataset
from fromnoise.errors import FromnoiseError, WrongUse
from fromnoise.gaussian import bits_per_dim
from fromnoise.likelihood import Flow, RatePoint
from fromnoise.noise import SeededNoise, key_to_seed
from fromnoise.run import Run, open_run, with_config
from fromnoise.runge_kutta import DormandPrince, Heun
from fromnoise.schedule import noisy
from fromnoise.schema import merge
from fromnoise.task.likelihood import LikelihoodEvent, MeasuredLikelihood, Scoring, as_dict, likelihood
from fromnoise.transition import LearnedRange, Small, posterior

STEPS = 50


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return open_run(tiny.trained(tmp_path_factory.mktemp("runs") / "run", steps=40), device="cpu")


def changed(run: Run, change: dict[str, Any]) -> Run:
    return with_config(run, parse(merge(to_tree(run.config), change), "test"))


def score(run: Run, data: Dataset, **settings: Any) -> tuple[list[LikelihoodEvent], MeasuredLikelihood]:
    *events, last = likelihood(run, data, **settings)
    assert isinstance(last, MeasuredLikelihood)
    return events, last


def assert_close(ours: MeasuredLikelihood, theirs: MeasuredLikelihood, k: int = 0, count: int | None = None) -> None:
    """Pictures k, k + 1, … of ``theirs`` are those of ``ours``, up to the rounding of float32 networks."""
    for name, values in ours.each.items():
        other = theirs.each[name][k : None if count is None else k + count]
        np.testing.assert_allclose(values, other, rtol=2e-4, atol=1e-5)


# --------------------------------------------------------------------------------------------------- what is found


def test_the_bound_is_put_together_from_the_run_s_own_parts(run: Run) -> None:
    """One term and the decoder of one picture by hand: its noise, its label, the run's variance, x_0 clipped."""
    data = tiny.digits(6)
    _, found = score(run, data, seed=3)
    k, network, schedule = 4, run.network, run.config.schedule
    x_0 = torch.from_numpy(data.images[k : k + 1]).float() / 127.5 - 1
    noise = SeededNoise([key_to_seed("likelihood", 3, k)], (1, 8, 8))
    assert data.labels is not None
    rate = torch.zeros(())
    for t in range(STEPS, 0, -1):
        high, low = schedule(t), schedule(t - 1)
        x_t = noisy(x_0, noise(), high)
        with torch.inference_mode():
            eps = network(x_t, torch.tensor([t - 1.0]), label=data.labels[k : k + 1])
        guess = ((x_t - high.sigma * eps) / high.signal).clamp(-1, 1).float()
        q, p = posterior(x_t, x_0, high, low), posterior(x_t, guess, high, low)
        if t > 1:  # The chain's β, the variance of the tiny run.
            large = replace(p, log_variance=(1 - (high.signal / low.signal) ** 2).log().float())
            rate = rate + bits_per_dim(q.kl(large))
    assert found.each["rate"][k] == pytest.approx(rate.item(), rel=1e-4)
    assert found.how == "the bound of the chain of 50 steps, variance large, every term"
    parts = [np.array(found.each[name]) for name in ("prior", "rate", "decoder", "bits_per_dim")]
    np.testing.assert_allclose(sum(parts[:3]), parts[3], rtol=1e-12)
    means = [found.prior, found.rate, found.decoder, found.bits_per_dim]
    assert means == pytest.approx([part.mean() for part in parts], rel=1e-12)
    assert found.standard_error == pytest.approx(parts[3].std(ddof=1) / math.sqrt(6), rel=1e-9)
    assert found.rate_distortion[0].rate == pytest.approx(found.rate, rel=1e-6)
    assert found.rate_distortion[0].rmse == found.rmse
    assert [row.steps for row in found.rate_distortion] == [50, 45, 40, 35, 30, 25, 20, 15, 10, 5]


@pytest.mark.parametrize(
    "settings",
    [{"steps": 10}, {"estimate": 6}, {"flow": Flow(solver=Heun(steps=3), probes=2)}],
    ids=["bound", "estimate", "flow"],
)
def test_a_picture_s_result_depends_on_nothing_but_itself(run: Run, settings: dict[str, Any]) -> None:
    """Not on the size of the batches, nor on how many pictures are scored; but on the seed."""
    data = tiny.digits(9)
    _, whole = score(run, data, **settings)
    _, parts = score(run, data, batch_size=4, **settings)
    assert_close(parts, whole)
    _, some = score(run, data, limit=3, **settings)
    assert len(set(some.indices)) == 3
    for position, index in enumerate(some.indices):
        one = {name: [values[position]] for name, values in some.each.items()}
        assert_close(replace(some, each=one), whole, index, 1)
    _, other = score(run, data, seed=1, **settings)
    assert not np.allclose(other.each["bits_per_dim"], whole.each["bits_per_dim"], rtol=1e-3)


def test_estimates_agree_with_the_bound(run: Run) -> None:
    """The mean over six seeds, against that of the bound over three; the label says what it is."""
    data = tiny.digits(24)
    exact = np.array([score(run, data, steps=20, seed=seed)[1].each["bits_per_dim"] for seed in range(3)])
    found = [score(run, data, steps=20, seed=seed, estimate=6)[1] for seed in range(6)]
    assert found[0].how == "estimate of the bound of the chain of 20 steps, variance large, from 6 of its terms"
    bits = np.array([one.each["bits_per_dim"] for one in found])
    apart = bits.mean(0) - exact.mean(0)  # Of the same pictures, so what is left is chance alone.
    error = apart.std(ddof=1) / math.sqrt(24)
    assert error < 0.05 * exact.mean()
    assert abs(apart.mean()) < 4 * error
    # A single run's own error is about what its results scatter by, and pictures differ on top.
    scatter = bits.mean(1).std(ddof=1)
    assert found[0].standard_error is not None and found[0].standard_error > 0.5 * scatter


def test_an_estimate_from_every_term_is_the_bound(run: Run) -> None:
    data = tiny.digits(3)
    assert_close(score(run, data, steps=7, estimate=7)[1], score(run, data, steps=7)[1])
    assert score(run, data, steps=7, estimate=7)[1].how.endswith("every term")


def test_the_flow_is_told_apart(run: Run) -> None:
    data = tiny.digits(3)
    events, found = score(run, data, flow=Flow(solver=Heun(steps=4)), batch_size=2)
    assert found.how == "probability flow, Hutchinson's estimate with 1 probe, 4 steps of Heun's rule"
    assert (found.prior, found.rate, found.decoder, found.rmse, found.rate_distortion) == (None,) * 4 + ((),)
    expected = [math.log2(127.5) - nats / (64 * math.log(2)) for nats in found.each["log_density"]]
    assert found.each["bits_per_dim"] == pytest.approx(expected, rel=1e-12)
    assert [event.done for event in events if isinstance(event, Scoring)] == [25, 50, 75, 100, 125, 150, 175, 200]


def test_progress_counts_to_its_end(run: Run) -> None:
    events, found = score(run, tiny.digits(5), batch_size=2, steps=4)
    assert [event.done for event in events if isinstance(event, Scoring)] == list(range(1, 13))
    assert {event.total for event in events if isinstance(event, Scoring)} == {12}
    last = events[-1]
    assert isinstance(last, Scoring) and last.pictures == 4 and last.bits_per_dim is not None
    assert last.bits_per_dim == pytest.approx(np.mean(found.each["bits_per_dim"][:4]), rel=1e-6)


# ------------------------------------------------------------------------------------------------- labels, variance


def test_classes_are_matched_by_name(run: Run) -> None:
    data = tiny.digits(8)
    assert data.labels is not None
    backwards = Dataset(images=data.images, labels=9 - data.labels, classes=data.classes[::-1])
    assert_close(score(run, backwards, steps=5)[1], score(run, data, steps=5)[1])
    wrong = Dataset(images=data.images, labels=(data.labels + 1) % 10, classes=data.classes)
    told, misled = score(run, data, steps=5)[1], score(run, wrong, steps=5)[1]
    assert not np.allclose(told.each["bits_per_dim"], misled.each["bits_per_dim"], rtol=1e-5)


def test_without_labels_the_null_label_is_meant(run: Run) -> None:
    data = tiny.digits(4)
    bare = Dataset(images=data.images, labels=None, classes=())
    with pytest.raises(WrongUse, match=r"trained with labels only .* sub-folders named as its classes \(0, 1, 2 …\)"):
        score(run, bare, steps=5)
    dropped = changed(run, {"train": {"label_dropout": 0.1}})
    _, found = score(dropped, bare, steps=5)
    network = run.network

    class Told(torch.nn.Module):
        def forward(self, x: Tensor, c_time: Tensor) -> Tensor:
            return network(x, c_time, label=torch.full((x.shape[0],), 10))

    blind = replace(run, network=Told(), pipeline=replace(run.pipeline, classes=()))
    assert_close(found, score(blind, bare, steps=5)[1])


def test_variances(run: Run) -> None:
    data = tiny.digits(4)
    large, small = score(run, data, steps=5)[1], score(run, data, steps=5, variance=Small())[1]
    assert "variance large" in large.how and "variance small" in small.how
    assert large.rate != pytest.approx(small.rate, rel=1e-2)
    ddim = changed(run, {"sampling": {"sampler": {"kind": "ddim"}}})
    assert "variance large" in score(ddim, data, steps=5)[1].how
    own = changed(run, {"sampling": {"sampler": {"kind": "ancestral", "variance": "small"}}})
    assert_close(score(own, data, steps=5)[1], small)
    with pytest.raises(WrongUse, match="without a learned variance; take small or large"):
        score(run, data, variance=LearnedRange())


def test_guidance_is_left_out(run: Run) -> None:
    data = tiny.digits(4)
    guided = changed(run, {"sampling": {"guidance": {"scale": 3.0}}, "train": {"label_dropout": 0.1}})
    assert_close(score(guided, data, steps=5)[1], score(run, data, steps=5)[1])


# ---------------------------------------------------------------------------------------------------- what is written


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as text:
        return list(csv.DictReader(text))


def test_the_bound_s_files(run: Run, tmp_path: Path) -> None:
    data, names = tiny.digits(9), [f"file {k}, with a comma.png" for k in range(9)]
    _, found = score(run, data, limit=5, names=names, seed=2, out=tmp_path / "new" / "scores")
    out = tmp_path / "new" / "scores"
    written = ["likelihood.json", "pictures.csv", "progressive.png", "rate-distortion.csv", "rate-distortion.png"]
    assert sorted(file.name for file in out.iterdir()) == [*written, "terms.png"]
    assert sorted(found.files) == sorted(out.iterdir())
    report = json.loads((out / "likelihood.json").read_text())
    assert report == {
        **json.loads(json.dumps(as_dict(found))),
        "run": str(run.path),
        "images": run.images,
        "data": data.fingerprint,
        "seed": 2,
    }
    assert RatePoint(**report["rate_distortion"][0]) == found.rate_distortion[0]

    table = rows(out / "pictures.csv")
    assert [row["picture"] for row in table] == [names[k] for k in found.indices]
    assert data.labels is not None
    assert [row["label"] for row in table] == [data.classes[int(data.labels[k])] for k in found.indices]
    for name in ("prior", "rate", "decoder", "bits_per_dim"):
        assert [float(row[name]) for row in table] == pytest.approx(found.each[name], abs=1e-6)

    curve = rows(out / "rate-distortion.csv")
    assert [row["reverse_steps"] for row in curve] == [str(k) for k in range(50, 0, -1)]
    at = {float(row["reverse_steps"]): row for row in curve}
    for point in found.rate_distortion:
        assert float(at[point.steps]["rate_bits_per_dim"]) == pytest.approx(point.rate, abs=1e-6)
        assert float(at[point.steps]["distortion_rmse"]) == pytest.approx(point.rmse, abs=1e-6)
    for name in ("terms.png", "rate-distortion.png"):
        with Image.open(out / name) as picture:
            assert picture.size[0] > 600 and len(picture.convert("L").getcolors() or []) > 3


def test_reconstructions_end_at_the_picture(run: Run, tmp_path: Path) -> None:
    """A row a picture: eleven cells, the last the picture itself, the one before nearer to it than the first."""
    data = tiny.digits(5)
    score(run, data, estimate=4, out=tmp_path)
    strip = np.asarray(Image.open(tmp_path / "progressive.png").convert("L")).astype(float)[::4, ::4]
    assert strip.shape == (5 * 10 + 2, 11 * 10 + 2)
    cells = strip[2:].reshape(5, 10, -1)[:, :8, 2:].reshape(5, 8, 11, 10)[..., :8]
    np.testing.assert_array_equal(cells[:, :, 10], data.images[:, 0])
    apart = np.abs(cells[:, :, :10] - cells[:, :, 10:]).mean((0, 1, 3))
    assert apart[9] < 0.2 * apart[0]


def test_the_flow_s_files_stand_beside_the_bound_s(run: Run, tmp_path: Path) -> None:
    data = tiny.digits(3)
    score(run, data, steps=4, out=tmp_path)
    before = tiny.contents(tmp_path)
    _, found = score(run, data, flow=Flow(solver=Heun(steps=2)), out=tmp_path)
    after = tiny.contents(tmp_path)
    assert after.keys() - before.keys() == {"flow.json", "flow-pictures.csv"}
    assert {name: after[name] for name in before} == before
    assert json.loads(after["flow.json"])["how"] == found.how
    table = rows(tmp_path / "flow-pictures.csv")
    assert [row["picture"] for row in table] == ["0", "1", "2"]
    assert [float(row["log_density"]) for row in table] == pytest.approx(found.each["log_density"], abs=1e-5)


def test_one_picture_has_no_standard_error_and_json_no_nan(run: Run, tmp_path: Path) -> None:
    _, found = score(run, tiny.digits(1), steps=4, estimate=2, out=tmp_path)
    assert found.standard_error is None
    assert json.loads((tmp_path / "likelihood.json").read_text())["standard_error"] is None


# ---------------------------------------------------------------------------------------------------------- refusals


@dataclass(frozen=True, kw_only=True)
class Latents(Codec):
    """Half the size: no pixels."""

    def encode(self, images: Tensor) -> Tensor:
        raise AssertionError

    def decode(self, x_0: Tensor) -> Tensor:
        raise AssertionError


def _latent(run: Run) -> Run:
    return replace(run, pipeline=replace(run.pipeline, codec=Latents()))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"limit": 0}, "limit = 0"),
        ({"batch_size": 0}, "batch_size = 0"),
        ({"steps": 1}, "steps = 1: .* 2 steps or more, up to 50"),
        ({"steps": 51}, "steps = 51"),
        ({"estimate": 1}, "estimate = 1: should be 2 to 50"),
        ({"estimate": 11, "steps": 10}, "estimate = 11: should be 2 to 10"),
        ({"names": ["a"]}, "4 pictures need 4 names, not 1"),
        ({"flow": Flow(), "steps": 10}, "the flow has a solver of its own"),
    ],
    ids=lambda value: "" if isinstance(value, str) else "-".join(value),
)
def test_settings_that_make_no_sense_are_refused(run: Run, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(WrongUse, match=message) as caught:
        score(run, tiny.digits(4), **settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("alter", "data", "message"),
    [
        (_latent, lambda d: d, "bits per dimension are of pixels; this is a latent model"),
        (
            lambda run: run,
            lambda d: Dataset(images=np.zeros((2, 3, 16, 8), np.uint8), labels=None, classes=()),
            r"of shape 3x16x8 and the model's of 1x8x8 \(channels x height x width\)",
        ),
        (
            lambda run: run,
            lambda d: Dataset(images=d.images, labels=d.labels % 2, classes=("7", "77")),
            "class '77' is not one of the model's; did you mean '7'",
        ),
    ],
    ids=["latent", "shape", "classes"],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(
    run: Run, tmp_path: Path, alter: Callable[[Run], Run], data: Callable[[Dataset], Dataset], message: str
) -> None:
    with pytest.raises(WrongUse, match=message) as caught:
        score(alter(run), data(tiny.digits(4)), out=tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_file_in_the_place_of_the_folder_is_refused(run: Run, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(WrongUse, match="is a file; name a folder"):
        score(run, tiny.digits(2), out=tmp_path / "taken")
    with pytest.raises(FromnoiseError, match="cannot write to"):
        score(run, tiny.digits(2), out=tmp_path / "taken" / "below")
    assert (tmp_path / "taken").read_text() == "mine"


def test_a_broken_model_is_told_and_nothing_written(run: Run, tmp_path: Path) -> None:
    class Broken(torch.nn.Module):
        def forward(self, x: Tensor, c_time: Tensor, label: Tensor) -> Tensor:
            return x * torch.nan

    broken, data = replace(run, network=Broken()), tiny.digits(3)
    with pytest.raises(FromnoiseError, match="result of picture 0 is not a number"):
        score(broken, data, steps=4, out=tmp_path)
    with pytest.raises(FromnoiseError, match="result of picture 0 is not a number"):
        score(broken, data, flow=Flow(solver=Heun(steps=2)), out=tmp_path)
    with pytest.raises(FromnoiseError, match="pictures 0 to 2: the adaptive solver met values that are not numbers"):
        score(broken, data, flow=Flow(solver=DormandPrince()), out=tmp_path)
    assert not any(tmp_path.iterdir())
