"""One step of training is the paper's, to the letter: against the same step written plainly, and by its formulas."""

import dataclasses
import math
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from tests import tiny
from torch import Tensor, nn

from fromnoise.codec import Pixels
from fromnoise.denoiser import Denoiser
from fromnoise.errors import WrongUse
from fromnoise.objective import Antithetic, LossAware, Objective, Simple
from fromnoise.parameterization import Epsilon
from fromnoise.schedule import Constant, Linear, Schedule
from fromnoise.task.assembly import assemble
from fromnoise.task.train import Trained
from fromnoise.train import Ema, Learner, Report, TrainSettings, train
from fromnoise.train.batches import Batches
from fromnoise.train.optimizer import load_optimizer_tensors, optimizer_tensors


class Small(nn.Module):
    """Sees everything that a network is given. Its gradients are nowhere zero by symmetry, where Adam divides noise
    by noise and no two implementations agree."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(1, 6, 3, padding=1), nn.Conv2d(6, 1, 3, padding=1)
        self.time, self.label, self.dropout = nn.Linear(1, 6), nn.Embedding(11, 6), nn.Dropout(0.0)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor, c_time: Tensor, label: Tensor) -> Tensor:
        self.seen += 1
        h = self.first(x) + (self.time(c_time[:, None] / 50) + self.label(label))[:, :, None, None]
        return self.last(self.dropout(torch.tanh(h)))


def batches(settings: TrainSettings, **changes: Any) -> Batches:
    options: dict[str, Any] = {"batch_size": settings.batch_size, "seed": settings.seed, "null_label": 10, **changes}
    return Batches(pictures=tiny.digits(), shape=(1, 8, 8), **options)


def reports(
    learner: Learner,
    total: int,
    objective: Objective | None = None,
    schedule: Schedule | None = None,
    **changes: Any,
) -> Iterator[Report]:
    autocast = getattr(torch, learner.settings.precision)
    denoiser = Denoiser(
        learner.network,
        schedule or Linear(steps=50),
        Epsilon(),
        autocast=None if autocast is torch.float32 else autocast,
    )
    return train(learner, denoiser, objective or Simple(), Pixels(), batches(learner.settings, **changes), total)


def settings(**changes: Any) -> TrainSettings:
    return TrainSettings(**{"batch_size": 8, "lr": 1e-2, "warmup": 3, "clip": 0.05, "ema_decay": 0.8, **changes})


# ----------------------------------------------------------------------------------------------------- the whole step


def test_a_step_is_the_papers_written_out_plainly() -> None:
    """Algorithm 1 with torch's own Adam, clipping, a warm-up and an average, in a dozen lines of another hand."""
    ours, plain = Learner(Small(), settings()), Small()
    plain.load_state_dict(ours.network.state_dict())
    average = {name: value.clone() for name, value in plain.named_parameters()}
    adam = torch.optim.Adam(plain.parameters(), lr=1e-2, betas=(0.9, 0.999), eps=1e-8, fused=False, foreach=False)
    alpha_bar = (1 - torch.linspace(1e-4 * 20, 0.02 * 20, 50, dtype=torch.float64)).cumprod(0)
    source = batches(ours.settings)
    clipped = 0
    for n, report in enumerate(reports(ours, 6)):
        batch = source(n)
        t = (batch.u * 50).floor().long()  # 0 … T−1
        x_0 = batch.images.double() / 127.5 - 1
        a = alpha_bar[t][:, None, None, None]
        x_t = (a.sqrt() * x_0 + (1 - a).sqrt() * batch.eps).float()
        loss = F.mse_loss(plain(x_t, t.float(), batch.labels), batch.eps)
        adam.zero_grad()
        loss.backward()
        norm = torch.stack([p.grad.square().sum() for p in plain.parameters()]).sum().sqrt()
        for p in plain.parameters():
            p.grad.mul_(min(1.0, 0.05 / (norm.item() + 1e-6)))
        clipped += norm.item() > 0.05
        adam.param_groups[0]["lr"] = 1e-2 * min(n / 3, 1)
        adam.step()
        for name, p in plain.named_parameters():
            average[name] = p.detach().clone() if n == 0 else 0.8 * average[name] + 0.2 * p.detach()
        assert report.loss.item() == pytest.approx(loss.item(), rel=1e-6)
        assert report.grad_norm.item() == pytest.approx(norm.item(), rel=1e-5)
        assert report.lr == adam.param_groups[0]["lr"]
        assert (report.step, report.images) == (n + 1, 8 * (n + 1))
    assert clipped > 2, "the limit should have been at work"
    for (name, mine), theirs in zip(ours.network.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=0)
        torch.testing.assert_close(ours.ema.network.get_parameter(name), average[name], atol=1e-6, rtol=0)


def gradients(learner: Learner, total: int = 1) -> tuple[list[Tensor], list[Report]]:
    made = list(reports(learner, total))
    return [p.grad.clone() for p in learner.network.parameters()], made


def test_a_batch_in_parts_is_the_same_step() -> None:
    def one_step(parts: int) -> tuple[list[Tensor], list[Report], nn.Module]:
        torch.manual_seed(1)
        learner = Learner(Small(), settings(warmup=0, clip=0, accumulate=parts))
        return *gradients(learner), learner.network

    whole, told, network = one_step(1)
    for parts in (2, 4, 8):
        ours, made, other = one_step(parts)
        for mine, theirs in zip(ours, whole, strict=True):
            torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=1e-5)
        assert made[0].loss.item() == pytest.approx(told[0].loss.item(), rel=1e-6)
        for mine, theirs in zip(other.parameters(), network.parameters(), strict=True):
            torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=0)


def test_parts_draw_dropout_of_their_own() -> None:
    """The first part's mask over and over would be no dropout of the batch."""
    seen: list[Tensor] = []

    class Watched(Small):
        def forward(self, x: Tensor, c_time: Tensor, label: Tensor) -> Tensor:
            self.dropout.p = 0.5
            seen.append(self.dropout(torch.ones(64)))
            return super().forward(x, c_time, label)

    list(reports(Learner(Watched(), settings(accumulate=4)), 2))
    assert len({tuple(mask.tolist()) for mask in seen}) == 8


def test_the_clip_can_be_turned_off_and_the_norm_is_told_all_the_same() -> None:
    torch.manual_seed(1)
    free, made = gradients(Learner(Small(), settings(clip=0)))
    norm = torch.cat([g.flatten() for g in free]).norm()
    assert made[0].grad_norm.item() == pytest.approx(norm.item(), rel=1e-5) and norm > 0.2
    torch.manual_seed(1)
    held, made = gradients(Learner(Small(), settings(clip=0.1)))
    assert torch.cat([g.flatten() for g in held]).norm().item() == pytest.approx(0.1, rel=1e-4)
    assert made[0].grad_norm.item() == pytest.approx(norm.item(), rel=1e-5)


def test_the_warm_up_is_linear_from_zero() -> None:
    rates = [report.lr for report in reports(Learner(Small(), settings(warmup=4, lr=0.5)), 7)]
    assert rates == [0.0, 0.125, 0.25, 0.375, 0.5, 0.5, 0.5]
    assert [report.lr for report in reports(Learner(Small(), settings(warmup=0, lr=0.5)), 2)] == [0.5, 0.5]


def test_the_first_step_of_a_warm_up_leaves_the_weights_but_feeds_the_moments() -> None:
    learner = Learner(Small(), settings(warmup=4))
    before = [p.detach().clone() for p in learner.network.parameters()]
    list(reports(learner, 1))
    assert all(torch.equal(a, b) for a, b in zip(before, learner.network.parameters(), strict=True))
    saved = optimizer_tensors(learner.optimizer, learner.network)
    assert saved["step.first.weight"] == 1 and saved["exp_avg.first.weight"].abs().max() > 0


def test_nobody_elses_random_numbers_are_used_up() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    learner = Learner(Small(), settings())
    torch.manual_seed(5)
    list(reports(learner, 2))
    assert torch.equal(torch.get_rng_state(), before)


def test_lower_precision_is_for_the_network_alone() -> None:
    losses = {}
    for precision in ("float32", "bfloat16"):
        torch.manual_seed(2)
        learner = Learner(Small(), settings(precision=precision))
        losses[precision] = [report.loss.item() for report in reports(learner, 4)]
        assert all(value.dtype == torch.float32 for value in learner.network.parameters())
        assert all(value.dtype == torch.float32 for value in learner.ema.network.parameters())
    assert losses["bfloat16"] != losses["float32"]
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.02)


def test_training_learns(tmp_path: Path) -> None:
    events = tiny.run(tiny.config(steps=60, lr=3e-3), tmp_path)
    losses = [event.report.loss.item() for event in events if isinstance(event, Trained)]
    assert losses[0] == pytest.approx(1.0, abs=0.15)  # A network that starts at zero predicts no noise.
    assert sum(losses[-10:]) / 10 < 0.6


def test_only_what_is_asked_for_is_done() -> None:
    learner = Learner(Small(), settings())
    made = reports(learner, 5)
    next(made)
    next(made)
    assert learner.step == 2 and learner.images == 16 and learner.ema.updates == 2
    assert [report.step for report in reports(learner, 4)] == [3, 4]
    assert list(reports(learner, 4)) == []


# ------------------------------------------------------------------------------------------------------------ average


def number(value: float) -> nn.Module:
    module = nn.Linear(1, 1, bias=False)
    nn.init.constant_(module.weight, value)
    return module


def test_the_average_copies_first_and_then_decays() -> None:
    ema, expected = Ema(number(100.0), decay=0.9), 0.0
    for n, value in enumerate([2.0, 3.0, 5.0, -1.0]):
        ema.update(number(value))
        expected = value if n == 0 else 0.9 * expected + 0.1 * value
        assert ema.network.get_parameter("weight").item() == pytest.approx(expected, rel=1e-6)


def test_the_ramp_keeps_the_average_within_the_last_share_of_the_run() -> None:
    ema = Ema(number(0.0), decay=0.99, ramp=0.1)
    decays = []
    for _ in range(2000):
        decays.append(ema.decay_now())
        ema.update(number(0.0))
    assert decays[0] == 0
    for n in (1, 2, 10, 500):
        assert decays[n] == pytest.approx(1 - 1 / (1 + 0.1 * n), rel=1e-12)
    assert decays[991] == decays[1999] == 0.99  # 1 − 1/(1 + 0.1 · 990) is where the ramp meets the decay
    assert decays[980] < 0.99


def test_the_average_is_a_network_of_its_own_with_the_buffers_of_the_other() -> None:
    network = Small()
    ema = Ema(network)
    assert not ema.network.training and not any(p.requires_grad for p in ema.network.parameters())
    network.get_buffer("seen").fill_(7)
    ema.update(network)
    assert ema.network.get_buffer("seen") == 7
    network.get_buffer("seen").fill_(8)
    assert ema.network.get_buffer("seen") == 7


# ------------------------------------------------------------------------------------------------------------- state


def test_moments_go_out_and_in_by_name() -> None:
    torch.manual_seed(0)
    first = Learner(Small(), settings())
    list(reports(first, 3))
    second = Learner(Small(), settings())
    second.load(first.tensors(), first.state())
    assert second.step == 3 and second.ema.updates == 3
    for name, tensors in first.tensors().items():
        tiny.assert_same_bits(second.tensors()[name], tensors)
    for learner in (first, second):
        list(reports(learner, 6))
    for name, tensors in first.tensors().items():
        tiny.assert_same_bits(second.tensors()[name], tensors)


FEW = Constant(steps=4, value=0.3)
"""A schedule of which a batch of 8 sees every time, so that loss-aware times are at work from the third step on."""


@pytest.mark.parametrize(
    "objective", [Simple(times=LossAware(last=2)), Simple(times=Antithetic(base=LossAware(last=2)))]
)
def test_past_losses_are_part_of_the_state(objective: Objective) -> None:
    torch.manual_seed(0)
    straight, first = Learner(Small(), settings()), Learner(Small(), settings())
    first.network.load_state_dict(straight.network.state_dict())
    first.ema.network.load_state_dict(straight.ema.network.state_dict())
    told = [report.loss.item() for report in reports(straight, 9, objective, FEW)]
    before = [report.loss.item() for report in reports(first, 5, objective, FEW)]
    saved = {name: {k: v.clone() for k, v in tensors.items()} for name, tensors in first.tensors().items()}
    assert saved["optimizer"]["history.losses"].shape == (4, 2)
    assert saved["optimizer"]["history.counts"].sum() == 40
    second = Learner(Small(), settings())
    second.load(saved, first.state())
    after = [report.loss.item() for report in reports(second, 9, objective, FEW)]
    assert before + after == told
    for name, tensors in straight.tensors().items():
        tiny.assert_same_bits(second.tensors()[name], tensors)
    for name, tensors in first.tensors().items():  # What was loaded is a copy: going on has not changed it.
        tiny.assert_same_bits(saved[name], tensors)


def test_past_losses_are_kept_only_if_times_depend_on_them_and_are_those_of_each_step() -> None:
    plain = Learner(Small(), settings())
    list(reports(plain, 2, schedule=FEW))
    assert plain.history is None and not any(name.startswith("history") for name in plain.tensors()["optimizer"])
    learner = Learner(Small(), settings(lr=0))  # Weights that stay, so that every loss can be computed afterwards.
    for step, report in enumerate(reports(learner, 1, Simple(times=LossAware(last=8)), FEW)):
        assert learner.history is not None
        batch = batches(learner.settings)(step)
        x_0 = Pixels().encode(batch.images)
        with torch.no_grad():
            loss = Simple()(Denoiser(learner.network, FEW, Epsilon()), x_0, batch.u, batch.eps, label=batch.labels)
        assert report.loss.item() == pytest.approx(loss.value.item(), rel=1e-6)
        for time in range(1, 5):
            kept = learner.history.losses[time - 1][: int(learner.history.counts[time - 1])]
            torch.testing.assert_close(kept, loss.per_example[loss.t == time].double(), rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    "objective",
    [Simple(times=Antithetic()), Simple(times=LossAware(last=1)), Simple(times=Antithetic(base=LossAware(last=1)))],
)
def test_in_parts_a_batch_has_the_same_times(objective: Objective) -> None:
    """Strides go over the whole batch, and all its parts draw from what was known before it."""

    def losses(parts: int) -> list[float]:
        torch.manual_seed(1)
        learner = Learner(Small(), settings(accumulate=parts))
        return [report.loss.item() for report in reports(learner, 6, objective, FEW)]

    whole = losses(1)
    assert losses(2) == pytest.approx(whole, rel=1e-5)
    assert losses(8) == pytest.approx(whole, rel=1e-5)
    torch.manual_seed(1)
    plain = [report.loss.item() for report in reports(Learner(Small(), settings()), 6, schedule=FEW)]
    assert plain != pytest.approx(whole, rel=1e-3), "these times should have made a difference"


def test_moments_of_another_network_are_refused() -> None:
    learner = Learner(Small(), settings())
    with pytest.raises(ValueError, match=r"names 'other\.weight', which this network does not have"):
        load_optimizer_tensors(learner.optimizer, learner.network, {"exp_avg.other.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"Missing key.*first\.weight"):
        learner.load({"model": {}, "ema": {}, "optimizer": {}}, {"step": 1})


# ------------------------------------------------------------------------------------------------------------ batches


@given(st.integers(1, 50), st.integers(1, 70), st.integers(0, 3))
def test_every_pass_shows_every_picture_once(batch_size: int, pictures: int, seed: int) -> None:
    source = Batches(pictures=tiny.digits(pictures), shape=(1, 8, 8), batch_size=batch_size, seed=seed)
    steps = math.ceil(3 * pictures / batch_size)
    shown = [index for step in range(steps) for index in source.indices(step)]
    passes = [shown[k * pictures : (k + 1) * pictures] for k in range(3)]
    assert all(sorted(one) == list(range(pictures)) for one in passes)
    if pictures > 10:
        assert passes[0] != passes[1] != passes[2] and passes[0] != sorted(passes[0])


def same(a: Any, b: Any) -> bool:
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in ("images", "labels", "u", "eps"))


def test_a_batch_depends_on_seed_and_step_alone() -> None:
    source = batches(settings(), flip=True, label_dropout=0.5)
    straight = list(source.stream(0, 9))
    for step in (8, 3, 0, 5):
        assert same(source(step), straight[step])
    assert all(same(a, b) for a, b in zip(source.stream(4, 9), straight[4:], strict=True))
    assert not same(batches(settings(seed=1))(0), batches(settings())(0))


def test_labels_belong_to_their_pictures() -> None:
    digits, source = tiny.digits(), batches(settings())
    for step in range(5):
        batch, indices = source(step), source.indices(step)
        assert torch.equal(batch.labels, digits.labels[indices])  # pyright: ignore[reportArgumentType]
        assert torch.equal(batch.images, torch.from_numpy(digits.images[indices]))


def test_a_flip_mirrors_half_of_the_pictures_from_left_to_right() -> None:
    plain, flipped = batches(settings()), batches(settings(), flip=True)
    count = 0
    for step in range(100):
        before, after = plain(step).images, flipped(step).images
        for one, other in zip(before, after, strict=True):
            mirrored = not torch.equal(one, other)
            assert torch.equal(other, one.flip(2)) if mirrored else True
            count += mirrored
    assert 340 < count < 460  # 800 coins: five standard deviations are 71


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_so_many_labels_are_hidden(share: float) -> None:
    source = batches(settings(), label_dropout=share)
    hidden = torch.cat([source(step).labels == 10 for step in range(100)]).double().mean().item()
    assert hidden == share if share in {0.0, 1.0} else abs(hidden - share) < 0.077


def test_times_are_uniform_and_noise_is_normal_from_picture_to_picture() -> None:
    drawn = [batches(settings())(step) for step in range(300)]
    u, eps = torch.cat([batch.u for batch in drawn]), torch.cat([batch.eps for batch in drawn])
    assert u.dtype == torch.float64 and u.min() >= 0 and u.max() < 1
    counts = torch.histc(u, 10, 0, 1)
    assert ((counts - 240).square() / 240).sum() < 36  # chi-squared of 9 degrees: 1 in 25,000
    assert abs(eps.mean()) < 0.013 and abs(eps.var() - 1) < 0.018  # 153,600 numbers: five standard deviations
    pixels = eps.flatten(1)
    neighbours = (pixels[1:] * pixels[:-1]).mean()
    assert abs(neighbours) < 0.013


def test_what_a_gpu_fetches_is_pinned_in_the_thread_that_makes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    pinned: dict[int, str] = {}

    def pin(self: Tensor) -> Tensor:
        pinned[id(self)] = threading.current_thread().name
        return self

    monkeypatch.setattr(Tensor, "pin_memory", pin)
    [plain] = batches(TrainSettings(batch_size=8)).stream(0, 1)
    assert not pinned
    [batch] = batches(TrainSettings(batch_size=8), pin=True).stream(0, 1)
    sent = [value for value in (batch.images, batch.eps, batch.labels) if value is not None]
    assert all(pinned[id(value)].startswith("batches") for value in sent)
    assert torch.equal(batch.images, plain.images) and torch.equal(batch.eps, plain.eps)


def test_a_run_on_a_gpu_has_its_batches_pinned() -> None:
    config = tiny.config({"network": {"model_channels": 16}}, steps=1)
    assembly = assemble(config, tiny.digits(), tiny.CPU, steps=1)
    assert assembly.batches(0).pin is False
    elsewhere: Any = SimpleNamespace(parameters=[SimpleNamespace(device=torch.device("cuda", 0))])
    assert dataclasses.replace(assembly, learner=elsewhere).batches(0).pin is True


def test_what_fails_in_the_thread_is_told_in_the_loop() -> None:
    class Broken:
        labels = values = None

        def __len__(self) -> int:
            return 8

        def batch(self, indices: Any) -> Tensor:
            raise MemoryError("no room")

    source = Batches(pictures=Broken(), shape=(1, 8, 8), batch_size=4, seed=0)
    with pytest.raises(MemoryError, match="no room"):
        next(source.stream(0, 3))


# ----------------------------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("given", "pictures", "steps"),
    [
        ({"steps": 7}, 1000, 7),
        ({"images": 1280}, 1000, 10),
        ({"images": 1281}, 1000, 11),
        ({"epochs": 2}, 1000, 16),
        ({"epochs": 0.001}, 1000, 1),
    ],
)
def test_a_length_in_any_unit(given: dict[str, Any], pictures: int, steps: int) -> None:
    assert TrainSettings(**given).total_steps(pictures) == steps


def test_a_length_must_be_given() -> None:
    with pytest.raises(WrongUse, match=r"set one of train\.steps, train\.epochs and train\.images"):
        TrainSettings().total_steps(100)


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"steps": 1, "epochs": 1}, "[train] steps and epochs are given: the length of a run needs just one of them"),
        ({"steps": 0}, "[train] steps = 0: must be above 0"),
        ({"epochs": math.nan}, "[train] epochs = nan: must be above 0"),
        ({"batch_size": 0}, "[train] batch_size = 0: must be at least 1"),
        ({"keep": 0}, "[train] keep = 0: must be at least 1"),
        ({"lr": -1.0}, "[train] lr = -1.0: must not be negative"),
        ({"lr": math.nan}, "[train] lr = nan: must not be negative"),
        ({"batch_size": 8, "accumulate": 3}, "[train] accumulate = 3 does not divide batch_size = 8"),
        ({"ema_decay": 1.0}, "[train] ema_decay = 1.0: must lie between 0 and 1, 1 not included"),
        ({"ema_ramp": 5.0}, "[train] ema_ramp = 5.0: a share of the run so far, between 0 and 1"),
        ({"label_dropout": 1.1}, "[train] label_dropout = 1.1: must lie between 0 and 1"),
        ({"precision": "half"}, "[train] precision = 'half': known are float32, tf32, bfloat16, float16"),
        ({"seed": 2**63}, f"[train] seed = {2**63}: must have at most 63 bits"),
    ],
)
def test_settings_that_make_no_sense(given: dict[str, Any], complaint: str) -> None:
    with pytest.raises(WrongUse) as caught:
        TrainSettings(**given)
    assert str(caught.value) == complaint


def test_the_defaults_are_the_papers_for_cifar10() -> None:
    told = TrainSettings()
    assert (told.batch_size, told.lr, told.warmup, told.clip) == (128, 2e-4, 5000, 1.0)
    assert (told.ema_decay, told.ema_ramp, told.precision, told.accumulate) == (0.9999, 0.0, "float32", 1)
    adam = Learner(Small(), told).optimizer.param_groups[0]
    assert (adam["betas"], adam["eps"], adam["weight_decay"], adam["amsgrad"]) == ((0.9, 0.999), 1e-8, 0, False)
