"""Whatever stands in the tables of schedules, spacings and parameterizations keeps their contracts."""

from typing import Any

import pytest
import torch

from fromnoise.config import TABLES
from fromnoise.ladder import Spacing
from fromnoise.parameterization import Parameterization
from fromnoise.sampler import Adaptive, check
from fromnoise.schedule import EDM, Cosine, Given, Level, Linear, Schedule, VariancePreserving, noisy

SETTINGS: dict[tuple[type, str], dict[str, Any]] = {
    (Schedule, "given"): {"values": (0.01, 0.05, 0.2, 0.4)},
    (Schedule, "zero_terminal_snr"): {"base": Cosine(steps=100)},
    (Spacing, "given"): {"times": (1.0, 0.5, 0.25)},
}


def made(table: type, kind: str) -> Any:
    return TABLES[table][kind](**SETTINGS.get((table, kind), {}))


def inner_times(schedule: Schedule) -> torch.Tensor:
    """Times above 0, the last of them the end of the clock."""
    if schedule.whole:
        return torch.arange(1, int(schedule.horizon) + 1, dtype=torch.float64)
    return torch.linspace(0, 1, 101, dtype=torch.float64)[1:] ** 2 * schedule.horizon


@pytest.mark.parametrize("kind", TABLES[Schedule])
def test_a_schedule_goes_from_the_picture_to_noise_and_knows_its_way_back(kind: str) -> None:
    schedule = made(Schedule, kind)
    clean = schedule(0.0)
    assert (clean.signal.item(), clean.sigma.item()) == (1.0, 0.0)
    times = inner_times(schedule)
    levels = schedule(times)
    assert levels.signal.dtype == torch.float64 and bool((levels.sigma > 0).all() and (levels.signal >= 0).all())
    assert bool((levels.log_snr.diff() < 0).all())  # Every step loses some of the picture.
    some = levels.signal > 0
    torch.testing.assert_close(schedule.time(levels.log_snr[some]), times[some], rtol=1e-9, atol=1e-12)
    for outside in (-0.5, schedule.horizon * 1.01):
        with pytest.raises(ValueError, match="knows the times"):
            schedule(outside)


@pytest.mark.parametrize("schedule", [Linear(), Given(values=(0.1,) * 60), VariancePreserving(), EDM()], ids=str)
@pytest.mark.parametrize("kind", TABLES[Spacing])
def test_a_spacing_falls_to_the_picture_or_says_what_it_needs(kind: str, schedule: Schedule) -> None:
    spacing = made(Spacing, kind)
    if kind == "given" and schedule.whole:
        spacing = TABLES[Spacing]["given"](times=(50.0, 20.0, 3.0))
    elif "steps" in spacing.__dataclass_fields__:
        spacing = TABLES[Spacing][kind](steps=12)
    if not schedule.whole and kind in {"all", "strided", "leading", "quadratic"}:
        with pytest.raises(ValueError, match="needs a schedule that counts steps"):
            spacing.ladder(schedule)
        return
    ladder = spacing.ladder(schedule)
    check(Adaptive(), schedule, ladder)  # Falls strictly, and ends at 0.
    assert ladder.dtype == torch.float64 and ladder[0] <= schedule.horizon
    if "steps" in spacing.__dataclass_fields__:
        assert ladder.numel() == 13
    if schedule.whole:
        assert torch.equal(ladder, ladder.round())


@pytest.mark.parametrize("kind", TABLES[Parameterization])
def test_a_parameterization_reads_its_own_target_as_the_picture_and_the_noise(kind: str) -> None:
    schedule, told = Linear(), made(Parameterization, kind)
    x_0, eps = torch.randn(2, 6, 1, 2, 2, dtype=torch.float64)
    level: Level = schedule(torch.tensor([1.0, 2.0, 10.0, 100.0, 700.0, 1000.0]))
    x_t = noisy(x_0, eps, level)
    target = told.target(x_0, eps, level)
    torch.testing.assert_close(told.x_0(x_t, target, level), x_0, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(told.eps(x_t, target, level), eps, rtol=1e-6, atol=1e-6)
    assert bool(told.c_time(level).isfinite().all() and (told.c_in(level) > 0).all())
