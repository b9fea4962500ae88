"""The scores against independent implementations and against answers known in closed form."""

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from fromnoise.errors import WrongUse
from fromnoise.metric.features import pixel_features
from fromnoise.metric.frechet import Statistics, frechet_distance
from fromnoise.metric.nearest import nearest_indices, nearest_labels


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rotation(seed: int, dim: int) -> Tensor:
    return torch.linalg.qr(draw(seed, dim, dim))[0]


def with_spectrum(spectrum: Tensor, turn: Tensor, mean: Tensor) -> Statistics:
    cov = turn @ torch.diag(spectrum) @ turn.T
    return Statistics(mean=mean, cov=(cov + cov.T) / 2, count=1000)


def by_scipy(a: Statistics, b: Statistics) -> float:
    root = scipy.linalg.sqrtm((a.cov @ b.cov).numpy())
    apart = (a.mean - b.mean).square().sum().item()
    return apart + a.cov.trace().item() + b.cov.trace().item() - 2 * float(np.trace(root).real)


@pytest.fixture(scope="module")
def digits() -> tuple[Tensor, Tensor]:
    pixels, labels = load_digits(return_X_y=True)
    images = torch.from_numpy((pixels * 255 / 16).round().astype(np.uint8)).reshape(-1, 1, 8, 8)
    return images, torch.from_numpy(labels)


@pytest.mark.parametrize("dim", [1, 2, 17, 96])
def test_frechet_is_the_formula_with_scipys_matrix_root(dim: int) -> None:
    a = Statistics.of([draw(1, 400, dim) @ draw(2, dim, dim) + 3])
    b = Statistics.of([draw(3, 500, dim) @ draw(4, dim, dim)])
    assert frechet_distance(a, b) == pytest.approx(by_scipy(a, b), rel=1e-9)


def test_frechet_of_one_dimension_is_the_textbooks() -> None:
    a, b = (
        with_spectrum(torch.tensor([v], dtype=torch.float64), torch.eye(1).double(), torch.tensor([m]).double())
        for v, m in ((4.0, 1.0), (9.0, -2.0))
    )
    assert frechet_distance(a, b) == pytest.approx(3**2 + (2 - 3) ** 2, abs=1e-14)


def test_frechet_of_singular_covariances_is_exact() -> None:
    """Where both spectra share their directions the answer is Σ(√a − √b)², zeros or not."""
    dim, turn = 64, rotation(0, 64)
    spectrum_a, spectrum_b = draw(1, dim).square(), draw(2, dim).square()
    spectrum_a[:40], spectrum_b[20:50] = 0, 0
    a, b = (with_spectrum(s, turn, torch.zeros(dim).double()) for s in (spectrum_a, spectrum_b))
    exact = (spectrum_a.sqrt() - spectrum_b.sqrt()).square().sum().item()
    assert frechet_distance(a, b) == pytest.approx(exact, rel=1e-10)
    assert frechet_distance(b, a) == pytest.approx(exact, rel=1e-10)


def test_frechet_between_a_point_and_a_gaussian_is_the_variance_and_the_way_between() -> None:
    a = Statistics.of([torch.ones(5, 3)])
    b = Statistics.of([draw(1, 50, 3)])
    exact = (1 - b.mean).square().sum().item() + b.cov.trace().item()
    assert frechet_distance(a, b) == pytest.approx(exact, rel=1e-13)


def test_frechet_on_real_digits_with_pixels_that_never_change(digits: tuple[Tensor, Tensor]) -> None:
    x = pixel_features(digits[0])
    halves = [Statistics.of([x[k::2]]) for k in (0, 1)]
    assert (halves[0].cov.diag() == 0).any()
    a, b = halves
    overlap = np.sqrt(np.linalg.eigvals((a.cov @ b.cov).numpy()).real.clip(0)).sum()  # Good to about 1e-8 a zero.
    apart = (a.mean - b.mean).square().sum() + a.cov.trace() + b.cov.trace()
    assert frechet_distance(a, b) == pytest.approx(apart.item() - 2 * overlap, rel=1e-5)
    assert frechet_distance(halves[0], halves[0]) == pytest.approx(0, abs=1e-12)
    assert frechet_distance(*halves) == pytest.approx(frechet_distance(*reversed(halves)), rel=1e-11)


@settings(max_examples=30, deadline=None)
@given(cuts=st.lists(st.integers(0, 60), max_size=6), offset=st.sampled_from([0.0, 1.0, 1e6]))
def test_statistics_of_a_stream_are_those_of_the_whole(cuts: list[int], offset: float) -> None:
    x = draw(7, 60, 5) + offset
    stats = Statistics.of(x[i:j] for i, j in zip([0, *sorted(cuts)], [*sorted(cuts), 60], strict=True))
    assert stats.count == 60
    torch.testing.assert_close(stats.mean, x.mean(0), rtol=1e-14, atol=1e-14)
    exact = torch.from_numpy(np.cov((x - offset).numpy(), rowvar=False))  # The subtraction itself rounds at 1e6.
    torch.testing.assert_close(stats.cov, exact, rtol=1e-12 if offset < 2 else 1e-8, atol=1e-9 if offset > 2 else 1e-14)


def test_statistics_of_float32_features_accumulate_in_float64() -> None:
    x = (draw(1, 4000, 3) + 1000).float()
    stats = Statistics.of(x.split(7))
    exact = torch.from_numpy(np.cov(x.double().numpy(), rowvar=False))
    torch.testing.assert_close(stats.cov, exact, rtol=1e-12, atol=1e-13)


def test_statistics_leave_the_callers_batches_alone() -> None:
    x = draw(1, 9, 4)
    before = x.clone()
    Statistics.of([x, x])
    assert torch.equal(x, before)


@pytest.mark.parametrize(
    ("batches", "says"),
    [
        ([], "at least 2 feature vectors, not 0"),
        ([torch.zeros(1, 3)], "at least 2 feature vectors, not 1"),
        ([torch.zeros(2, 3), torch.zeros(2, 4)], r"\(B, 3\), not \(2, 4\)"),
        ([torch.zeros(2, 3, 4)], r"\(B, D\), not \(2, 3, 4\)"),
        ([torch.zeros(2, 3), torch.tensor([[0.0, float("nan"), 1.0]])], "features 2 to 2 hold values"),
    ],
)
def test_statistics_refuse_what_has_none(batches: list[Tensor], says: str) -> None:
    with pytest.raises(WrongUse, match=says):
        Statistics.of(batches)


def test_frechet_refuses_different_lengths() -> None:
    with pytest.raises(WrongUse, match="lengths 3 and 4"):
        frechet_distance(Statistics.of([draw(1, 9, 3)]), Statistics.of([draw(1, 9, 4)]))


def test_nearest_labels_are_scikit_learns(digits: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fromnoise.metric.nearest._CHUNK_ELEMENTS", 100_000)  # Several chunks, the last one short.
    images, labels = digits
    x = pixel_features(images)
    known, asked = x[:1200], x[1200:]
    ours = nearest_labels(known, labels[:1200], asked)
    theirs = KNeighborsClassifier(1, algorithm="brute").fit(known.numpy(), labels[:1200].numpy()).predict(asked.numpy())
    assert torch.equal(ours, torch.from_numpy(theirs))
    assert (ours == labels[1200:]).double().mean() > 0.95  # So its word on a generated digit means something.


def test_nearest_does_not_cancel_far_from_zero() -> None:
    """At an offset of 1e7 the expanded square |a|² − 2ab + |b|² has lost all distances below 0.1."""
    known = torch.tensor([[0.0], [3e-3], [1e-2]], dtype=torch.float64) + 1e7
    assert nearest_indices(known, known + 1e-3).tolist() == [0, 1, 2]


def test_nearest_takes_the_first_of_equals() -> None:
    known = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    assert nearest_indices(known, torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 2.0]])).tolist() == [0, 0, 1]


def test_nearest_refuses_what_does_not_fit() -> None:
    x, labels = torch.zeros(4, 3), torch.zeros(4, dtype=torch.int64)
    with pytest.raises(WrongUse, match="one D"):
        nearest_labels(x, labels, torch.zeros(2, 5))
    with pytest.raises(WrongUse, match="as many labels"):
        nearest_labels(x, labels[:3], x)
    with pytest.raises(WrongUse, match="at least one"):
        nearest_labels(x[:0], labels[:0], x)


def test_pixel_features_have_the_unit_white() -> None:
    images = torch.tensor([0, 51, 255, 102], dtype=torch.uint8).reshape(1, 1, 2, 2)
    assert pixel_features(images).tolist() == [[0.0, 0.2, 1.0, 0.4]]
    with pytest.raises(WrongUse, match="uint8"):
        pixel_features(images.float())
    with pytest.raises(WrongUse, match=r"\(B, C, H, W\)"):
        pixel_features(images[0])
