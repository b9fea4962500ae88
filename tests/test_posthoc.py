"""Averages of any length after training: the profiles by numerical integration, the recursion by its weights, and what
is put together from snapshots against the average taken directly."""

import json
import shutil
from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.torch import save_file
from scipy.integrate import quad
from tests import tiny
from torch import Tensor, nn

from fromnoise.checkpoint import Damaged
from fromnoise.cli import main
from fromnoise.config import build_network, to_toml
from fromnoise.errors import FromnoiseError, WrongUse
from fromnoise.run import open_run
from fromnoise.task.average import Averaged, Averaging, average
from fromnoise.train.averages import Averages, Blend, reconstruct
from fromnoise.train.posthoc import (
    TRACKED,
    WIDEST,
    Profile,
    beta,
    gamma_of,
    inner,
    mismatch,
    sigma_rel_of,
    solve_weights,
)
from fromnoise.train.power_ema import PowerEma


def density(tau: float, t: float, gamma: float) -> float:
    return (gamma + 1) * tau**gamma / t ** (gamma + 1) if tau <= t else 0.0


# ------------------------------------------------------------------------------------------------------------- profiles
@pytest.mark.parametrize("gamma", [0.0, 0.5, 6.94, 16.97, 60.0])
def test_the_width_is_the_standard_deviation_of_the_profile(gamma: float) -> None:
    moments = [quad(lambda tau, k=k: tau**k * density(tau, 1.0, gamma), 0, 1, epsabs=1e-13)[0] for k in range(3)]
    assert moments[0] == pytest.approx(1, abs=1e-12)
    assert sigma_rel_of(gamma) == pytest.approx(np.sqrt(moments[2] - moments[1] ** 2), rel=1e-9)


def test_the_exponents_of_the_tracked_widths_are_the_papers() -> None:
    """Section 3.1: 6.94 for a width of 0.10, 16.97 for 0.05."""
    assert gamma_of(0.10) == pytest.approx(6.94, abs=5e-3)
    assert gamma_of(0.05) == pytest.approx(16.97, abs=5e-3)


@given(st.floats(1e-4, WIDEST))
def test_the_exponent_is_the_largest_root_of_the_cubic(sigma: float) -> None:
    gamma = gamma_of(sigma)
    assert sigma_rel_of(gamma) == pytest.approx(sigma, rel=1e-12)
    roots = np.roots([1, 7, 16 - sigma**-2, 12 - sigma**-2])
    assert gamma == pytest.approx(max(roots.real), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("sigma", [0.0, -0.1, 1e-200, 0.2887, 0.29, 1.0, float("nan")])
def test_a_width_that_no_average_has_is_refused(sigma: float) -> None:
    with pytest.raises(WrongUse, match=r"at most 0\.2886, the mean"):
        gamma_of(sigma)


@pytest.mark.parametrize(("a", "b"), [((3.0, 1.5), (3.0, 7.0)), ((2.0, 16.97), (5.0, 0.3)), ((9.0, 6.94), (4.0, 40.0))])
def test_inner_products_are_the_integrals(a: Profile, b: Profile) -> None:
    integral, _ = quad(lambda tau: density(tau, *a) * density(tau, *b), 0, min(a[0], b[0]), epsabs=1e-13)
    assert inner(*a, *b) == pytest.approx(integral, rel=1e-9)
    assert inner(*b, *a) == pytest.approx(integral, rel=1e-9)


def test_inner_products_of_long_runs_are_finite() -> None:
    assert 0 < inner(1e12, 1000.0, 2e12, 900.0) < 1e-12


# ------------------------------------------------------------------------------------------------------------ recursion
class Numbers(nn.Module):
    """A network that is a vector, and a count in a buffer."""

    count: Tensor

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.values = nn.Parameter(values.clone())
        self.register_buffer("count", torch.zeros(()))

    def forward(self) -> Tensor:
        return self.values


def weights_of_steps(n: int, sigma: float) -> NDArray[np.float64]:
    """What each of n steps counts in the average: step i has the weights e_i."""
    network = Numbers(torch.full((n,), 7.0, dtype=torch.float64))  # The start must not count at all.
    ema = PowerEma(network, [sigma])
    for step in range(1, n + 1):
        network.values.data.zero_()[step - 1] = 1
        ema.update(network, step)
    return ema.networks[sigma].get_parameter("values").numpy()


@pytest.mark.parametrize("sigma", [0.05, 0.1, 0.2])
def test_the_recursion_integrates_the_profile_over_each_step(sigma: float) -> None:
    gamma, found = gamma_of(sigma), weights_of_steps(64, sigma)
    exact = [quad(density, i, i + 1, args=(64.0, gamma), epsabs=1e-15)[0] for i in range(64)]
    np.testing.assert_allclose(found, exact, atol=1e-14)


@pytest.mark.parametrize("sigma", [0.05, 0.1])  # From γ = 2 on: below, the second derivative is infinite at the start.
def test_profile_and_width_are_met_to_second_order_in_the_steps(sigma: float) -> None:
    gamma, profile, width = gamma_of(sigma), [], []
    for n in (64, 128, 256):
        weights, middle = weights_of_steps(n, sigma), np.arange(n) + 0.5
        assert weights.sum() == pytest.approx(1, abs=1e-13)
        exact = np.array([density(tau / n, 1.0, gamma) for tau in middle])
        profile.append(np.abs(weights * n - exact).max())
        mean = weights @ middle
        width.append(abs(np.sqrt(weights @ (middle - mean) ** 2) / n - sigma))
    for errors in (profile, width):
        orders = np.log2(np.array(errors[:-1]) / errors[1:])
        assert (orders > 1.9).all(), (errors, orders)


def test_the_first_update_copies_and_buffers_are_never_averaged() -> None:
    network = Numbers(torch.randn(5))
    ema = PowerEma(network)
    network.values.data.normal_()
    network.count.fill_(3)
    ema.update(network, 1)
    for averaged in ema.networks.values():
        assert torch.equal(averaged.get_parameter("values"), network.values)
        assert averaged.get_buffer("count") == 3 and not averaged.get_parameter("values").requires_grad
    assert beta(1, 16.97) == 0
    with pytest.raises(ValueError, match="counted from 1"):
        ema.update(network, 0)


def test_averages_saved_and_loaded_go_on_bit_for_bit() -> None:
    steps = [torch.randn(6) for _ in range(9)]

    def follow(ema: PowerEma, network: Numbers, first: int, last: int) -> None:
        for step in range(first, last):
            network.values.data.copy_(steps[step])
            ema.update(network, step + 1)

    network = Numbers(steps[0])
    whole, part = PowerEma(network), PowerEma(network)
    follow(whole, network, 0, 9)
    follow(part, network, 0, 5)
    saved = {name: value.clone() for name, value in part.tensors().items()}
    resumed = PowerEma(Numbers(torch.zeros(6)))
    resumed.load(saved)
    follow(resumed, network, 5, 9)
    tiny.assert_same_bits(resumed.tensors(), whole.tensors())


def test_saved_averages_that_do_not_fit_are_refused() -> None:
    ema = PowerEma(Numbers(torch.zeros(3)), [0.05])
    with pytest.raises(ValueError, match=r"widths 0\.1, and wanted are 0\.05"):
        ema.load(PowerEma(Numbers(torch.zeros(3)), [0.1]).tensors())
    with pytest.raises(ValueError, match="size mismatch"):
        ema.load(PowerEma(Numbers(torch.zeros(4)), [0.05]).tensors())


# ------------------------------------------------------------------------------------------------------- reconstruction
def stored_at(times: Sequence[float] | NDArray[Any], widths: Sequence[float] = TRACKED) -> list[Profile]:
    return [(float(t), gamma_of(width)) for t in times for width in widths]


def by_brute_force(stored: list[Profile], target: Profile) -> NDArray[np.float64]:
    """Least squares on a fine grid of τ, with the sum of the weights put in for the last of them."""
    nodes, sizes = np.polynomial.legendre.leggauss(24)
    ends = np.unique([0.0, *np.linspace(0, target[0], 9), *(t for t, _ in stored)])
    tau = np.concatenate([(b - a) / 2 * nodes + (a + b) / 2 for a, b in pairwise(ends)])
    root = np.sqrt(np.concatenate([(b - a) / 2 * sizes for a, b in pairwise(ends)]))
    columns = np.array([[density(x, *profile) for x in tau] for profile in [*stored, target]]).T * root[:, None]
    ours, wanted, last = columns[:, :-2], columns[:, -1], columns[:, -2]
    free = np.linalg.lstsq(ours - last[:, None], wanted - last, rcond=None)[0]
    return np.array([*free, 1 - free.sum()])


@pytest.mark.parametrize("sigma", [0.03, 0.07, 0.15])
@pytest.mark.parametrize("times", [[5, 10], [1, 2, 3, 4, 5, 6, 7, 8], [3, 5.5, 6, 20]])
def test_the_weights_are_those_of_brute_force(times: list[float], sigma: float) -> None:
    stored, target = stored_at(times), (float(times[-1]), gamma_of(sigma))
    np.testing.assert_allclose(solve_weights(stored, target), by_brute_force(stored, target), rtol=1e-6, atol=1e-8)


def test_the_unit_of_time_does_not_matter() -> None:
    pictures = solve_weights(stored_at(range(128, 2049, 128)), (2048.0, gamma_of(0.08)))
    steps = solve_weights(stored_at(range(1, 17)), (16.0, gamma_of(0.08)))
    np.testing.assert_allclose(pictures, steps, rtol=1e-9)


def test_a_tracked_average_is_its_own_snapshot() -> None:
    stored = stored_at(range(1, 17))
    np.testing.assert_array_equal(solve_weights(stored, stored[9]), np.eye(32)[9])
    # And not by that shortcut alone: a profile next to it is combined, and comes to the same.
    late = (16.0, gamma_of(0.1 * (1 + 1e-9)))
    np.testing.assert_allclose(solve_weights(stored, late), np.eye(32)[-1], atol=1e-6)


@given(st.integers(1, 12), st.floats(0.02, 0.28), st.integers(0, 2**32 - 1))
def test_weights_that_do_not_move_come_out_as_they_are(n: int, sigma: float, seed: int) -> None:
    times = np.sort(np.random.default_rng(seed).uniform(1, 100, n))
    weights = solve_weights(stored_at(times), (float(times[-1]), gamma_of(sigma)))
    assert weights.sum() == pytest.approx(1, abs=1e-9)


def test_two_snapshots_of_almost_the_same_time_do_no_harm() -> None:
    times = [*range(1, 17)]
    target = (16.0, gamma_of(0.07))
    plain = mismatch(stored_at(times), solve_weights(stored_at(times), target), target)
    for near in (16.0, 16 * (1 - 1e-12), 16 * (1 - 1e-6)):
        stored = stored_at([*times[:-1], near, 16.0])
        weights = solve_weights(stored, target)
        assert np.abs(weights).sum() < 2
        assert mismatch(stored, weights, target) <= plain * 1.01


def test_without_snapshots_there_is_nothing() -> None:
    with pytest.raises(ValueError, match="no snapshots"):
        solve_weights([], (1.0, 1.0))


STEPS = 4096


@cache
def walk() -> NDArray[np.float64]:
    """64 weights on a random walk: each settles on a level of its own and shakes about it."""
    source = np.random.default_rng(3)
    drift = np.cumsum(source.normal(size=(STEPS, 64)), axis=0)
    return drift + 10 * source.normal(size=(STEPS, 64)) + 100


def averaged(n: int, sigma: float) -> NDArray[np.float64]:
    """Of the first n steps of the walk, directly and in closed form."""
    powers = (np.arange(n + 1) / n) ** (gamma_of(sigma) + 1)
    return np.diff(powers) @ walk()[:n]


def error(snapshots: int, sigma: float, n: int = STEPS) -> float:
    """RMS of what is reconstructed minus the average itself, in units of the average minus the last weights."""
    times = np.arange(1, snapshots + 1) * (n // snapshots)
    weights = solve_weights(stored_at(times), (float(n), gamma_of(sigma)))
    found = weights @ np.array([averaged(int(t), width) for t in times for width in TRACKED])
    exact = averaged(n, sigma)
    return float(np.sqrt(np.mean((found - exact) ** 2) / np.mean((exact - walk()[n - 1]) ** 2)))


@pytest.mark.parametrize(("sigma", "limit"), [(0.04, 4e-3), (0.06, 1e-3), (0.07, 1e-3), (0.08, 1e-3), (0.15, 1e-3)])
def test_of_a_random_walk_any_width_is_rebuilt_from_16_snapshots(sigma: float, limit: float) -> None:
    assert error(16, sigma) < limit


def test_of_a_random_walk_an_earlier_time_is_rebuilt_as_well() -> None:
    assert error(16, 0.07, n=STEPS // 2) < 1e-3


@pytest.mark.parametrize("sigma", [0.07, 0.13])
def test_twice_the_snapshots_give_a_quarter_of_the_mismatch(sigma: float) -> None:
    target, found = (1.0, gamma_of(sigma)), []
    for n in (16, 32, 64):
        stored = stored_at(np.arange(1, n + 1) / n)
        found.append(mismatch(stored, solve_weights(stored, target), target))
    orders = np.log2(np.array(found[:-1]) / found[1:])
    assert (orders > 1.8).all(), (found, orders)
    # A mismatch is a norm: of the difference of the profiles, here by integration.
    weights = solve_weights(stored, target)

    def squared(tau: float) -> float:
        ours = sum(w * density(tau, *profile) for w, profile in zip(weights, stored, strict=True))
        return (ours - density(tau, *target)) ** 2

    total = sum(quad(squared, k / 64, (k + 1) / 64, epsabs=1e-16)[0] for k in range(64))
    assert found[-1] == pytest.approx(np.sqrt(total / inner(*target, *target)), rel=1e-3)


# ------------------------------------------------------------------------------------------------------------- the disk
def states(count: int) -> list[dict[str, Tensor]]:
    return [{"a.weight": torch.randn(4, 3), "b": torch.randn(7), "n": torch.tensor(k)} for k in range(count)]


def test_files_and_state_dicts_add_up_alike(tmp_path: Path) -> None:
    folder, parts, weights = Averages.of(tmp_path), states(3), [0.5, -1.25, 1.75]
    files = [folder.write(100 * k, 0.1, part, config="x") for k, part in enumerate(parts)]
    found = reconstruct(files, weights)
    tiny.assert_same_bits(found, reconstruct(parts, weights))
    for name in ("a.weight", "b"):
        exact = sum(w * part[name].double().numpy() for w, part in zip(weights, parts, strict=True))
        np.testing.assert_allclose(found[name].numpy(), exact, rtol=1e-6, atol=1e-7)
        assert found[name].dtype == torch.float32
    assert found["n"] == 2
    tiny.assert_same_bits(reconstruct([tmp_path / "absent", files[1], files[2]], [0, 1, 0]), parts[1])


def test_half_precision_takes_half_the_disk_and_rounds_once(tmp_path: Path) -> None:
    folder, state = Averages.of(tmp_path), {"w": torch.randn(5000)}
    half = folder.write(1, 0.05, state, config="x", half=True)
    assert half.stat().st_size < 0.55 * folder.write(1, 0.1, state, config="x").stat().st_size
    assert torch.equal(reconstruct([half], [1.0])["w"], state["w"].half().float())
    with pytest.raises(FromnoiseError, match="w holds weights that float16 cannot"):
        folder.write(2, 0.05, {"w": torch.tensor([1e5])}, config="x", half=True)
    assert len(folder.found()) == 2


def test_snapshots_are_found_in_order_and_strangers_are_passed_over(tmp_path: Path) -> None:
    folder = Averages.of(tmp_path)
    assert folder.found() == []
    for images, width in [(2000, 0.1), (2000, 0.05), (12_345_678_900, 0.1), (1000, 0.0525)]:
        folder.write(images, width, {"w": torch.zeros(1)}, config="x")
    for name in ("notes.safetensors", "000000001-nan.safetensors", "1-0.1.safetensors", ".000000001-0.050.77.part"):
        (folder.path / name).write_bytes(b"")
    assert [(s.path.name, s.images, s.sigma_rel) for s in folder.found()] == [
        ("000001000-0.0525.safetensors", 1000, 0.0525),
        ("000002000-0.050.safetensors", 2000, 0.05),
        ("000002000-0.100.safetensors", 2000, 0.1),
        ("12345678900-0.100.safetensors", 12_345_678_900, 0.1),
    ]
    folder.rewind(1999)
    assert [s.images for s in folder.found()] == [1000]
    assert not list(folder.path.glob(".*")) and (folder.path / "notes.safetensors").exists()


def test_a_write_that_fails_leaves_the_earlier_snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Averages.of(tmp_path)
    file = folder.write(1, 0.1, {"w": torch.ones(3)}, config="x")

    def full(path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fromnoise.checkpoint.sync", full)
    with pytest.raises(FromnoiseError, match="No space left on device"):
        folder.write(1, 0.1, {"w": torch.zeros(3)}, config="x")
    assert torch.equal(reconstruct([file], [1.0])["w"], torch.ones(3))
    assert [path.name for path in folder.path.iterdir()] == [file.name]


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-5])


@pytest.mark.parametrize(
    ("harm", "complaint"),
    [
        (_cut, "is not a whole safetensors file"),
        (lambda file: file.unlink(), "is not a whole safetensors file"),
        (
            lambda file: _replace(file, {"w": torch.tensor([1.0, float("nan")])}),
            "holds values that are no numbers, in 'w'",
        ),
        (lambda file: _replace(file, {"w": torch.zeros(3)}), "'w' has another shape"),
        (lambda file: _replace(file, {"v": torch.zeros(2)}), "is only in some of them"),
    ],
)
def test_a_snapshot_that_is_not_right_is_named(tmp_path: Path, harm: Callable[[Path], object], complaint: str) -> None:
    folder = Averages.of(tmp_path)
    good, bad = (folder.write(images, 0.1, {"w": torch.zeros(2)}, config="x") for images in (1, 2))
    harm(bad)
    blend = Blend()
    blend.add(good, 0.5)
    with pytest.raises(Damaged, match=complaint) as caught:
        blend.add(bad, 0.5)
    assert str(bad) in str(caught.value) and "\n" not in str(caught.value)


def _replace(file: Path, tensors: dict[str, Tensor]) -> None:
    Averages(file.parent).write(int(file.name[:9]), float(file.stem[10:]), tensors, config="x")


# ----------------------------------------------------------------------------------------------------- task and command
BATCH = 8


@cache
def _trajectory() -> tuple[list[dict[str, Tensor]], nn.Module]:
    """A network's weights over 96 steps, and the network."""
    network, source = build_network(tiny.config()), torch.Generator().manual_seed(5)
    steps = []
    for _ in range(96):
        for parameter in network.parameters():
            parameter.data += 0.01 * torch.randn(parameter.shape, generator=source)
        steps.append({name: value.clone() for name, value in network.state_dict().items()})
    return steps, network


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder with snapshots every 8 of 96 steps."""
    steps, network = _trajectory()
    ema, out = PowerEma(network), tmp_path / "run"
    for step, weights in enumerate(steps, 1):
        network.load_state_dict(weights)
        ema.update(network, step)
        if step % 8 == 0:
            for width, averaged in ema.networks.items():
                Averages.of(out).write(step * BATCH, width, averaged.state_dict(), config=to_toml(tiny.config()))
    return out


def _far(found: dict[str, Tensor], n: int, sigma: float) -> float:
    """Largest distance to the direct average, in units of that average's largest distance to the last weights."""
    steps, _ = _trajectory()
    shares = np.diff((np.arange(n + 1) / n) ** (gamma_of(sigma) + 1))
    far = apart = 0.0
    for name, value in found.items():
        exact = sum(float(share) * weights[name].double() for share, weights in zip(shares, steps, strict=False))
        assert isinstance(exact, Tensor)
        far = max(far, (value - exact).abs().max().item())
        apart = max(apart, (steps[n - 1][name] - exact).abs().max().item())
    return far / apart


@pytest.mark.parametrize(("images", "n"), [(None, 96), (48 * BATCH, 48)])
def test_the_command_writes_the_average_as_a_model(
    run: Path, capsys: pytest.CaptureFixture[str], images: int | None, n: int
) -> None:
    out = run / "a.safetensors"
    words = ["average", str(run), "--width", "0.08", "--out", str(out), "--json"]
    assert main(words if images is None else [*words, "--images", str(images)]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["images"] == n * BATCH and said["snapshots"] == n // 4 and said["mismatch"] < 0.02
    opened = open_run(out)
    assert opened.images == n * BATCH and opened.sample(2).shape == (2, 8, 8, 1)
    assert _far(opened.network.state_dict(), n, 0.08) < 0.02
    assert _far(opened.network.state_dict(), n, 0.10) > 0.1


def test_a_tracked_width_is_copied_from_its_snapshot(run: Path) -> None:
    events = list(average(run, 0.05, out=run / "a.safetensors"))
    assert events[:-1] == [Averaging(1, 1)]
    last = events[-1]
    assert isinstance(last, Averaged) and last.mismatch == 0 and last.gain == 1 and last.tracked == TRACKED
    snapshot = open_run(run / "averages" / "000000768-0.050.safetensors")
    tiny.assert_same_bits(open_run(last.out).network.state_dict(), snapshot.network.state_dict())


def test_the_command_says_how_near_it_comes(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["average", str(run), "--width", "0.2"]) == 0
    out, err = capsys.readouterr()
    off = f"{100 * _off(0.2):.2g} %"
    assert f"what each step counts in it is off by {off} (root mean square)" in err and err.count("\n") == 1
    assert "the snapshots are of the widths 0.05, 0.1; a width between or near those comes closer" in err
    assert (
        f"average-0.2.safetensors: weights averaged with a width of 0.2 of 768 pictures, from 24 snapshots; what each "
        f"step counts in it is off by {off} (root mean square)\n" in out
    )
    assert main(["average", str(run), "--width", "0.08"]) == 0
    out, err = capsys.readouterr()
    assert not err and "from 24 snapshots; what each step counts in it is off by 0.52 % (root mean square)" in out
    assert main(["average", str(run), "--width", "0.05"]) == 0
    assert "from 1 snapshot; what each step counts in it is exact\n" in capsys.readouterr().out


def _off(width: float, stored: list[Profile] | None = None) -> float:
    """How far the average of 12 times is from the one wanted, on a fine grid of the times."""
    stored, target = stored or stored_at(range(1, 13)), (12.0, gamma_of(width))
    weights, tau = by_brute_force(stored, target), (np.arange(24_000) + 0.5) / 2000
    ours = sum(
        w * np.where(tau <= t, (g + 1) * tau**g / t ** (g + 1), 0) for w, (t, g) in zip(weights, stored, strict=True)
    )
    exact = (target[1] + 1) * tau ** target[1] / 12 ** (target[1] + 1)
    return float(np.sqrt(np.mean((ours - exact) ** 2) / np.mean(exact**2)))


@pytest.mark.parametrize(("width", "reach"), [(0.28, "up to 0.24"), (0.01, "down to 0.026")])
def test_an_average_that_would_be_another_one_is_not_written(
    run: Path, capsys: pytest.CaptureFixture[str], width: float, reach: str
) -> None:
    before = tiny.contents(run)
    assert main(["average", str(run), "--width", str(width)]) == 2
    said = capsys.readouterr().err
    off = f"{100 * _off(width):.3g} % off, and 10 % is the limit"
    assert f"width {width:g} cannot be had: its average would be {off}" in said and said.count("\n") == 1
    assert f"the 24 snapshots in {run / 'averages'}, of the widths 0.05, 0.1, reach {reach}: choose" in said
    assert tiny.contents(run) == before
    found = float(reach.split()[-1])
    assert _off(found) <= 0.1 < _off(found + 0.01 * np.sign(width - found) * (1 if found > 0.1 else 0.2))
    assert main(["average", str(run), "--width", str(found)]) == 0


def test_widths_between_two_that_are_far_apart_are_refused_as_well(run: Path) -> None:
    """One time, two widths: what lies in the middle cannot be had, and the nearer of both is where it is sought."""
    folder = Averages.of(run.parent / "other")
    for width in (0.01, 0.28):
        folder.write(64, width, {"w": torch.zeros(1)}, config="x")
    with pytest.raises(WrongUse, match=r"of the widths 0\.01, 0\.28, reach up to 0\.01\d?: "):
        list(average(folder.path.parent, 0.04, out=run / "a.safetensors"))
    with pytest.raises(WrongUse, match=r"of the widths 0\.01, 0\.28, reach down to 0\.2\d+: "):
        list(average(folder.path.parent, 0.1, out=run / "a.safetensors"))


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--width", "0.3"], "must be above 0 (at least 1e-06) and at most 0.2886, the mean of all steps"),
        (["--width", "0.08", "--images", "100"], "no snapshot after 100 pictures"),
        (["--width", "0.08", "--images", "390"], "the nearest is after 384, of 12 from 64 to 768"),
        (["--width", "0.08", "--out", "a.pt"], "a.pt: an average is written as one .safetensors file"),
        ([], "the following arguments are required: --width"),
    ],
)
def test_a_mistake_is_one_line(run: Path, capsys: pytest.CaptureFixture[str], words: list[str], complaint: str) -> None:
    before = tiny.contents(run)
    assert main(["average", str(run), *words]) == 2
    said = capsys.readouterr().err
    assert complaint in said and said.count("\n") == 1
    assert tiny.contents(run) == before


def test_what_is_there_is_not_overwritten_unasked(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["average", str(run), "--width", "0.08", "--out", str(run / "a.safetensors")]
    assert main(words) == 0
    assert main(words) == 2 and "exists already" in capsys.readouterr().err
    assert main([*words, "--overwrite"]) == 0


def test_what_is_no_run_with_snapshots_is_said(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("file", "empty", "plain"):
        (run / name).mkdir() if name != "file" else (run / name).write_bytes(b"x")
    (run / "plain" / "config.toml").write_text("")
    for name, complaint in (
        ("none", "{} is not there: expected a run folder"),
        ("file", "{} is a file: expected a run folder"),
        ("empty", "{0} is no run folder: it holds neither config.toml nor snapshots in {0}/averages"),
        ("averages", "{0} is no run folder: it holds neither config.toml nor snapshots in {0}/averages"),
        ("plain", "{}/averages holds no snapshots of averages: train with train.averages = [0.05, 0.1]"),
    ):
        assert main(["average", str(run / name), "--width", "0.08"]) == 2
        assert capsys.readouterr().err == f"fromnoise: {complaint.format(run / name)}\n"


def _without_settings(file: Path) -> None:
    save_file({"w": torch.zeros(2)}, file)


def _of_another_network(file: Path) -> None:
    _replace(file, {"w": torch.zeros(3)})


def _no_numbers(file: Path) -> None:
    _, network = _trajectory()
    _replace(file, {name: value * float("nan") for name, value in network.state_dict().items()})


@pytest.mark.parametrize(
    ("harm", "bad", "complaint"),
    [
        (_cut, "000000512-0.100", "{} is not a whole safetensors file: "),
        (_without_settings, "000000512-0.050", "{} was not written by fromnoise: it carries no settings; passed over"),
        (_of_another_network, "000000064-0.050", "{} is of another network than the other snapshots; passed over"),
        (_no_numbers, "000000704-0.100", "{} holds values that are no numbers, in "),
    ],
)
def test_a_snapshot_that_cannot_be_used_is_passed_over(
    run: Path, capsys: pytest.CaptureFixture[str], harm: Callable[[Path], object], bad: str, complaint: str
) -> None:
    """What comes out is what comes out where the snapshot was never taken."""
    file = run / "averages" / f"{bad}.safetensors"
    shutil.copytree(run, other := run.with_name("other"))
    (other / "averages" / file.name).unlink()
    harm(file)
    assert main(["average", str(run), "--width", "0.08", "--json"]) == 0
    out, err = capsys.readouterr()
    assert err.startswith(f"fromnoise: {complaint.format(file)}") and err.endswith("; passed over\n")
    assert err.count("\n") == 1 and json.loads(out)["snapshots"] == 23
    list(average(other, 0.08, out=other / "a.safetensors"))
    ours, theirs = (open_run(path) for path in (run / "average-0.08.safetensors", other / "a.safetensors"))
    assert ours.images == theirs.images == 768
    tiny.assert_same_bits(ours.network.state_dict(), theirs.network.state_dict())


def test_damage_of_the_time_asked_for_and_of_everything(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "averages" / "000000768-0.100.safetensors").unlink()
    assert main(["average", str(run), "--width", "0.08"]) == 2
    assert ": choose a width that they reach, or an earlier end with --images 704, or train" in capsys.readouterr().err
    assert list(average(run, 0.08, images=704, out=run.with_name("earlier.safetensors")))
    for width in ("0.050", "0.100"):
        _cut(run / "averages" / f"000000512-{width}.safetensors")
    assert main(["average", str(run), "--width", "0.08", "--images", "512"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert [line.endswith("; passed over") for line in said] == [True, True, False]
    assert "no snapshot after 512 pictures" in said[-1]
    for file in (run / "averages").iterdir():
        _cut(file)
    assert main(["average", str(run), "--width", "0.08"]) == 1
    assert capsys.readouterr().err.endswith(f"\nfromnoise: {run}/averages: none of its 23 snapshots can be used\n")
    assert not list(run.glob("*.safetensors"))
