"""Guidance towards labels and away from worse networks: against scores differentiated from known densities."""

import math
import statistics
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.oracle import Function
from torch import Tensor, nn

from fromnoise.denoiser import Clip, Denoiser, DynamicClip, Estimator, Prediction
from fromnoise.errors import WrongUse
from fromnoise.guidance import Auto, Classifier, ClassifierFree
from fromnoise.network import UNet
from fromnoise.noise import SeededNoise
from fromnoise.parameterization import Epsilon, Sample, Velocity
from fromnoise.sampler import DDIM, Adaptive, trajectory
from fromnoise.schedule import Cosine, Level, Linear, ZeroTerminalSNR, noisy

SCHEDULE = Linear()
TIMES = torch.tensor([1, 40, 300, 650, 1000])
LABELS = torch.tensor([0, 2, 1, 1, 0])
NULL = 3

# Three classes of pictures (1, 1, 3): each pixel normal, with a mean of its own.
PRIOR = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
MEANS = torch.tensor([[0.5, -0.3, 0.1], [-0.6, 0.2, 0.4], [0.0, 0.7, -0.5]], dtype=torch.float64)
DEVIATIONS = torch.tensor([0.3, 0.5, 0.2], dtype=torch.float64)


def joint(x: Tensor, signal: Tensor, sigma: Tensor) -> Tensor:
    """log p(c) p(x_t | c), up to a constant, (B, 3)."""
    variance = (signal[:, None] * DEVIATIONS).square() + sigma[:, None].square()
    off = x.flatten(1)[:, None] - signal[:, None, None] * MEANS
    return PRIOR.log() - 0.5 * (off.square().sum(-1) / variance + MEANS.shape[1] * variance.log())


def levels(t: Tensor) -> tuple[Tensor, Tensor]:
    a = SCHEDULE.alpha_bar[t.long()]
    return a.sqrt(), (1 - a).sqrt()


def score(x_t: Tensor, t: Tensor, log_density: Callable[[Tensor], Tensor]) -> Tensor:
    """∇ log-density at x_t, by autograd."""
    x = x_t.clone().requires_grad_()
    return torch.autograd.grad(log_density(joint(x, *levels(t))).sum(), x)[0]


def of(label: Tensor) -> Callable[[Tensor], Tensor]:
    """log p(x_t | label), up to a constant, from the joint."""
    return lambda log: log.gather(1, label[:, None])


def tweedie(x_t: Tensor, t: Tensor, score: Tensor) -> Tensor:
    signal, sigma = (value[:, None, None, None] for value in levels(t))
    return (x_t + sigma.square() * score) / signal


def posterior_mean(x: Tensor, c_time: Tensor, label: Tensor | None = None) -> Tensor:
    """E[x_0 | x_t, label]; over all classes for the null label. The network, for the parameterization Sample."""
    signal, sigma = levels(c_time + 1)
    gain = signal[:, None] * DEVIATIONS.square()
    gain = gain / ((signal[:, None] * DEVIATIONS).square() + sigma[:, None].square())
    each = MEANS + gain[..., None] * (x.flatten(1)[:, None] - signal[:, None, None] * MEANS)
    weights = joint(x, signal, sigma).softmax(1)
    if label is not None:
        known = torch.eye(4, dtype=torch.float64)[label]
        weights = torch.where(label[:, None] == NULL, weights, known[:, :3])
    return (weights[..., None] * each).sum(1).reshape(x.shape)


def exact() -> Denoiser:
    return Denoiser(Function(posterior_mean), SCHEDULE, Sample())


def exact_classifier(x: Tensor, t: Tensor) -> Tensor:
    return joint(x, *levels(t))


@pytest.fixture
def x_t() -> Tensor:
    signal, sigma = (value[:, None, None, None] for value in levels(TIMES))
    x_0 = MEANS[LABELS].reshape(5, 1, 1, 3)
    return signal * x_0 + sigma * torch.randn(5, 1, 1, 3, dtype=torch.float64)


def unet(*, learned: bool = False, num_classes: int = 3, dtype: torch.dtype = torch.float32) -> UNet:
    """A small network whose last layers are not nearly zero, so that the label matters."""
    network = UNet(2, 4 if learned else 2, 32, 1, (4,), (1, 2), resolution=8, num_classes=num_classes).to(dtype).eval()
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if name.endswith(("conv_2.weight", "out.weight", "head.weight")):
                nn.init.xavier_uniform_(weight)
    return network


def small(parameterization: Any = None, **settings: Any) -> Denoiser:
    return Denoiser(unet(**settings), SCHEDULE, parameterization or Epsilon(), clip=Clip())


def equal(ours: Prediction, theirs: Prediction) -> bool:
    one, other = ours.raw_variance, theirs.raw_variance
    raw = one is other is None or (one is not None and other is not None and torch.equal(one, other))
    return torch.equal(ours.x_0, theirs.x_0) and torch.equal(ours.eps, theirs.eps) and raw


def off(ours: Tensor, expected: Tensor) -> float:
    """The relative error, root mean square."""
    return ((ours - expected).norm() / expected.norm()).item()


# --------------------------------------------------------------------------------------------------------- the formulas


@pytest.mark.parametrize("scale", [0.0, 0.4, 2.5, 8.0])
def test_classifier_free_guidance_is_the_combination_of_the_scores(x_t: Tensor, scale: float) -> None:
    """∇ log p(x_t) + w (∇ log p(x_t | label) − ∇ log p(x_t)), by Tweedie's formula. Ho & Salimans 2022, equation 6."""
    without = score(x_t, TIMES, lambda log: log.logsumexp(1))
    with_ = score(x_t, TIMES, of(LABELS))
    expected = tweedie(x_t, TIMES, without + scale * (with_ - without))
    ours = ClassifierFree(exact(), scale, null_label=NULL)(x_t, SCHEDULE(TIMES), label=LABELS)
    torch.testing.assert_close(ours.x_0, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(noisy(ours.x_0, ours.eps, SCHEDULE(TIMES)), x_t, rtol=0, atol=1e-11)
    assert (with_ - without).abs().max() > 0.3  # the label has something to say


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_classifier_guidance_adds_the_score_of_the_label(x_t: Tensor, scale: float) -> None:
    """With no label in the network, p(x_t) p(label | x_t)^w: the same as classifier-free guidance, by Bayes' rule."""
    without = score(x_t, TIMES, lambda log: log.logsumexp(1))
    label = score(x_t, TIMES, lambda log: log.log_softmax(1).gather(1, LABELS[:, None]))
    expected = tweedie(x_t, TIMES, without + scale * label)
    guided = Classifier(exact(), exact_classifier, scale)
    ours = guided(x_t, SCHEDULE(TIMES), label=LABELS)
    torch.testing.assert_close(ours.x_0, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(noisy(ours.x_0, ours.eps, SCHEDULE(TIMES)), x_t, rtol=0, atol=1e-11)
    free = ClassifierFree(exact(), scale, null_label=NULL)(x_t, SCHEDULE(TIMES), label=LABELS)
    torch.testing.assert_close(ours.x_0, free.x_0, rtol=1e-9, atol=1e-9)


def test_a_classifier_on_top_of_a_conditional_network(x_t: Tensor) -> None:
    """p(x_t | label) p(label | x_t)^w, where the network is given the label too; and nothing beside the two is."""
    with_ = score(x_t, TIMES, of(LABELS))
    label = score(x_t, TIMES, lambda log: log.log_softmax(1).gather(1, LABELS[:, None]))
    ours = Classifier(exact(), exact_classifier, 2.0, conditional=True)(x_t, SCHEDULE(TIMES), label=LABELS)
    torch.testing.assert_close(ours.x_0, tweedie(x_t, TIMES, with_ + 2 * label), rtol=1e-9, atol=1e-9)
    stacked = Classifier(ClassifierFree(exact(), 3.0, null_label=NULL), exact_classifier, 2.0, conditional=True)
    without = score(x_t, TIMES, lambda log: log.logsumexp(1))
    expected = tweedie(x_t, TIMES, without + 3 * (with_ - without) + 2 * label)
    torch.testing.assert_close(stacked(x_t, SCHEDULE(TIMES), label=LABELS).x_0, expected, rtol=1e-9, atol=1e-9)


def test_autoguidance_goes_from_the_weak_network_through_the_good_one(x_t: Tensor) -> None:
    """x_0 = b + w (a − b). With classes forgotten, the weak network makes classifier-free guidance of it."""

    def forgetful(x: Tensor, c_time: Tensor, label: Tensor) -> Tensor:
        return posterior_mean(x, c_time)

    weak = Denoiser(Function(forgetful), SCHEDULE, Sample())
    free = ClassifierFree(exact(), 2.5, null_label=NULL)(x_t, SCHEDULE(TIMES), label=LABELS)
    ours = Auto(exact(), weak, 2.5)(x_t, SCHEDULE(TIMES), label=LABELS)
    torch.testing.assert_close(ours.x_0, free.x_0, rtol=0, atol=1e-12)
    torch.testing.assert_close(ours.eps, free.eps, rtol=0, atol=1e-12)
    only_weak = Auto(exact(), weak, 0.0)(x_t, SCHEDULE(TIMES), label=LABELS)
    torch.testing.assert_close(only_weak.x_0, weak(x_t, SCHEDULE(TIMES), label=LABELS).x_0, rtol=0, atol=1e-15)


def test_each_picture_s_contrast_is_brought_back(x_t: Tensor) -> None:
    """Lin et al. 2023, equations 15 and 16, picture by picture with the standard library's deviations."""
    level = SCHEDULE(TIMES)
    given = exact()(x_t, level, label=LABELS).x_0
    guided = ClassifierFree(exact(), 4.0, null_label=NULL)(x_t, level, label=LABELS).x_0
    for phi in (0.7, 1.0):
        ours = ClassifierFree(exact(), 4.0, null_label=NULL, rescale=phi)(x_t, level, label=LABELS)
        for k in range(5):
            wanted, found = (statistics.pstdev(x[k].flatten().tolist()) for x in (given, guided))
            expected = phi * guided[k] * wanted / found + (1 - phi) * guided[k]
            torch.testing.assert_close(ours.x_0[k], expected, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(noisy(ours.x_0, ours.eps, level), x_t, rtol=0, atol=1e-12)


def test_a_picture_without_contrast_stays_as_it_is() -> None:
    grey = Denoiser(Function(lambda x, c_time, label: 0 * x + label[:, None, None, None]), SCHEDULE, Sample())
    x_t = torch.randn(2, 1, 4, 4)
    label = torch.tensor([1, 2])
    ours = ClassifierFree(grey, 2.0, null_label=0, rescale=1.0)(x_t, SCHEDULE(500), label=label)
    assert torch.equal(ours.x_0, torch.tensor([2.0, 4.0])[:, None, None, None].expand(2, 1, 4, 4))


# ---------------------------------------------------------------------------------------------------------- no guidance


@pytest.mark.parametrize("learned", [False, True], ids=["fixed", "learned variance"])
@pytest.mark.parametrize("ready", [False, True], ids=["as built", "ready"])
def test_no_guidance_is_the_plain_call_bit_for_bit(learned: bool, ready: bool) -> None:
    denoiser, x_t, label = small(learned=learned), torch.randn(3, 2, 8, 8), torch.tensor([2, 0, 1])
    guided: list[Estimator] = [
        ClassifierFree(denoiser, 1.0, null_label=NULL, rescale=0.5),
        Auto(denoiser, small(learned=learned), 1.0),
        Classifier(denoiser, lambda x, t: x.flatten(1), 0.0, conditional=True),
    ]
    plain: Estimator = denoiser
    if ready:
        plain, guided = denoiser.ready(), [each.ready() for each in guided]
    with torch.inference_mode():
        for level in (SCHEDULE(1), SCHEDULE(torch.tensor([999, 40, 3]))):
            expected = plain(x_t, level, label=label)
            other = plain(x_t, level, label=torch.full((3,), NULL))
            assert not torch.allclose(expected.x_0, other.x_0)  # the label matters to this network
            assert all(equal(each(x_t, level, label=label), expected) for each in guided)


@pytest.mark.parametrize("kind", ["classifier-free", "auto"])
def test_the_ends_of_the_interval_are_guided_and_the_rest_is_plain(kind: str) -> None:
    """Of 1000 steps, 0.2 to 0.7 are the times 200 to 700, both included (Kynkäänniemi et al. 2024)."""
    denoiser, weak = small(), small()
    interval, x_t, label = (0.2, 0.7), torch.randn(1, 2, 8, 8), torch.tensor([1])
    guided: Estimator = ClassifierFree(denoiser, 3.0, null_label=NULL, interval=interval)
    everywhere: Estimator = ClassifierFree(denoiser, 3.0, null_label=NULL)
    if kind == "auto":
        guided, everywhere = Auto(denoiser, weak, 3.0, interval=interval), Auto(denoiser, weak, 3.0)
    for t in (1, 199, 200, 201, 699, 700, 701, 1000):
        ours, plain = guided(x_t, SCHEDULE(t), label=label), denoiser(x_t, SCHEDULE(t), label=label)
        assert equal(ours, everywhere(x_t, SCHEDULE(t), label=label)) == (200 <= t <= 700)
        assert equal(ours, plain) == (not 200 <= t <= 700)
    # Every picture has its own time.
    times, many, labels = torch.tensor([199, 200, 700, 701]), torch.randn(4, 2, 8, 8), torch.tensor([0, 1, 2, 0])
    ours = guided(many, SCHEDULE(times), label=labels)
    inside = everywhere(many, SCHEDULE(times), label=labels)
    outside = denoiser(many, SCHEDULE(times), label=labels)
    for k, expected in enumerate([outside, inside, inside, outside]):
        torch.testing.assert_close(ours.x_0[k], expected.x_0[k], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(ours.eps[k], expected.eps[k], rtol=1e-5, atol=1e-5)


# --------------------------------------------------------------------------------------------------- how it is computed


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)], ids=["64", "32"])
def test_one_call_of_twice_the_batch_equals_two_calls(dtype: torch.dtype, tolerance: float) -> None:
    network, sizes = unet(dtype=dtype, learned=True), []
    network.register_forward_pre_hook(lambda module, given: sizes.append(len(given[0])))
    denoiser = Denoiser(network, SCHEDULE, Velocity())
    x_t, label, w = torch.randn(3, 2, 8, 8, dtype=dtype), torch.tensor([2, 0, 1]), 2.0
    for level in (SCHEDULE(400), SCHEDULE(torch.tensor([1, 400, 1000]))):
        sizes.clear()
        ours = ClassifierFree(denoiser, w, null_label=NULL)(x_t, level, label=label)
        assert sizes == [6]
        given = denoiser(x_t, level, label=label)
        none = denoiser(x_t, level, label=torch.full((3,), NULL))
        assert off(ours.x_0, none.x_0 + w * (given.x_0 - none.x_0)) < tolerance
        assert off(ours.eps, none.eps + w * (given.eps - none.eps)) < tolerance
        assert ours.raw_variance is not None and given.raw_variance is not None and none.raw_variance is not None
        assert off(ours.raw_variance, given.raw_variance) < tolerance
        assert not torch.allclose(given.raw_variance, none.raw_variance, atol=1e-3)


def test_every_condition_is_doubled_and_only_the_label_is_forgotten() -> None:
    told = {}

    def spy(x: Tensor, c_time: Tensor, **condition: Tensor | None) -> Tensor:
        told.update(condition)
        return x

    denoiser = Denoiser(Function(spy), SCHEDULE, Sample())
    context = torch.randn(2, 5)
    guided = ClassifierFree(denoiser, 2.0, null_label=7)
    guided(torch.randn(2, 1, 4, 4), SCHEDULE(9), label=torch.tensor([1, 3]), context=context, nothing=None)
    assert told["label"].tolist() == [1, 3, 7, 7]
    assert torch.equal(told["context"], torch.cat([context, context]))
    assert told["nothing"] is None


@pytest.mark.parametrize("clip", [Clip(), DynamicClip(quantile=0.9)], ids=["static", "dynamic"])
def test_estimates_are_combined_before_they_are_limited(clip: Any) -> None:
    free = Denoiser(unet(), SCHEDULE, Epsilon())
    limited = Denoiser(free.network, SCHEDULE, Epsilon(), clip=clip)
    x_t, label, level = torch.randn(4, 2, 8, 8), torch.tensor([2, 0, 1, 1]), SCHEDULE(600)
    pairs: list[tuple[Estimator, Estimator]] = [
        (ClassifierFree(limited, 6.0, null_label=NULL), ClassifierFree(free, 6.0, null_label=NULL)),
        (Auto(limited, small(), 3.0), Auto(free, small(), 3.0)),
        (
            Classifier(limited, lambda x, t: 9 * x.flatten(1).tanh(), 5.0, conditional=True),
            Classifier(free, lambda x, t: 9 * x.flatten(1).tanh(), 5.0, conditional=True),
        ),
    ]
    pairs[1][0].get_submodule("weak").load_state_dict(pairs[1][1].get_submodule("weak").state_dict())
    for ours, unlimited in pairs:
        before, after = unlimited(x_t, level, label=label), ours(x_t, level, label=label)
        assert before.x_0.abs().max() > 1.5  # the limit has something to do
        assert torch.equal(after.x_0, clip(before.x_0))
        assert after.x_0.abs().max() <= 1
        torch.testing.assert_close(noisy(after.x_0, after.eps, level), x_t, rtol=0, atol=1e-6)


def test_a_classifier_s_gradient_survives_inference_mode() -> None:
    """Levels, labels and pictures are made in inference mode, as a solver makes them; the weights are packed."""
    denoiser = small(num_classes=0)
    judge = nn.Sequential(nn.Flatten(), nn.Linear(128, 16), nn.Dropout(0.5), nn.SiLU(), nn.Linear(16, 3))

    def classify(x: Tensor, t: Tensor) -> Tensor:
        return judge(x) * (1 + t[:, None] / 1000)

    judge.eval()
    x_t, label, level = torch.randn(3, 2, 8, 8), torch.tensor([2, 0, 1]), SCHEDULE(torch.tensor([5, 500, 1000]))
    expected = Classifier(denoiser, classify, 3.0)(x_t, level, label=label)
    with torch.inference_mode():
        inner = Level(level.t.clone(), level.signal.clone(), level.sigma.clone())
        ours = Classifier(denoiser, classify, 3.0).ready()(x_t.clone(), inner, label=label.clone())
    torch.testing.assert_close(ours.x_0, expected.x_0, rtol=1e-5, atol=1e-5)
    assert not ours.x_0.requires_grad
    assert all(weight.grad is None for weight in judge.parameters())


def test_ready_keeps_every_setting_and_no_later_weights() -> None:
    good, weak = small(Velocity()), small(Velocity())
    x_t, label = torch.randn(2, 2, 8, 8), torch.tensor([2, 0])
    guided: list[Estimator] = [
        ClassifierFree(good, 3.0, null_label=NULL, interval=(0.1, 0.6), rescale=0.7),
        Auto(good, weak, 3.0, interval=(0.1, 0.6)),
        Classifier(good, lambda x, t: x.flatten(1), 2.0, conditional=True),
    ]
    expected = [[each(x_t, SCHEDULE(t), label=label) for t in (50, 300, 900)] for each in guided]
    ready = [each.ready() for each in guided]
    with torch.no_grad():
        for weight in [*good.parameters(), *weak.parameters()]:
            if weight.ndim == 4:
                weight.zero_()
    for each, wanted in zip(ready, expected, strict=True):
        for t, prediction in zip((50, 300, 900), wanted, strict=True):
            torch.testing.assert_close(each(x_t, SCHEDULE(t), label=label).x_0, prediction.x_0, rtol=0, atol=2e-5)


def test_ready_puts_a_classifier_module_in_evaluation_mode() -> None:
    class Judge(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.drop, self.last = nn.Dropout(0.9), nn.Linear(128, 3)

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return self.last(self.drop(x.flatten(1)))

    ready = Classifier(small(num_classes=0), Judge(), 1.0).ready()
    x_t, label = torch.randn(2, 2, 8, 8), torch.tensor([2, 0])
    assert equal(ready(x_t, SCHEDULE(30), label=label), ready(x_t, SCHEDULE(30), label=label))
    assert not ready.training


@pytest.mark.parametrize("sampler", [DDIM(), Adaptive(rtol=0.1, atol=0.1, last=0.1)], ids=["DDIM", "adaptive"])
def test_ready_samples_the_same_pictures(sampler: Any) -> None:
    """All three around each other, down a whole trajectory, with packed weights and with plain ones."""
    good, weak = small(Velocity()), small(Velocity())
    guided = Classifier(
        Auto(ClassifierFree(good, 1.5, null_label=NULL, interval=(0.0, 0.6)), weak, 1.2, interval=(0.3, 0.8)),
        lambda x, t: x.flatten(1)[:, :3],
        0.5,
        conditional=True,
    )
    times = [1000.0, 800, 600, 300, 100, 0] if sampler.traits.calls else [700.0, 0]
    ladder, label = torch.tensor(times, dtype=torch.float64), torch.tensor([0, 2])
    made = []
    for estimator in (guided, guided.ready()):
        noise = SeededNoise([1, 2], (2, 8, 8))
        steps = trajectory(sampler, estimator, SCHEDULE, ladder, noise(), noise, label=label)
        made.append(deque(steps, maxlen=1).pop().x)
    torch.testing.assert_close(made[0], made[1], rtol=0, atol=2e-4)
    assert made[0].std() > 0.05


def test_where_no_signal_is_left_a_classifier_changes_nothing() -> None:
    schedule = ZeroTerminalSNR(base=Cosine())
    denoiser = Denoiser(Function(lambda x, c_time: 0.3 * x), schedule, Velocity())
    guided = Classifier(denoiser, lambda x, t: x.flatten(1), 2.0)
    x_t, label = torch.randn(2, 1, 2, 2), torch.tensor([0, 3])
    level = schedule(torch.tensor([1000, 999]))
    ours, plain = guided(x_t, level, label=label), denoiser(x_t, level)
    assert bool(ours.x_0.isfinite().all() and ours.eps.isfinite().all())
    assert torch.equal(ours.x_0[0], plain.x_0[0])
    assert (ours.x_0[1] - plain.x_0[1]).abs().max() > 1


# ------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda d: ClassifierFree(d, -1.0, null_label=3), "scale = -1.0: must be a number, at least 0"),
        (lambda d: ClassifierFree(d, math.nan, null_label=3), "scale = nan"),
        (lambda d: ClassifierFree(d, 2.0, null_label=3, interval=(0.5, 0.2)), "interval = 0.5, 0.2"),
        (lambda d: ClassifierFree(d, 2.0, null_label=3, interval=(0.5, 700)), "shares of the clock, 0 to 1"),
        (lambda d: ClassifierFree(d, 2.0, null_label=3, rescale=1.5), "rescale = 1.5: must lie between 0"),
        (lambda d: Auto(d, d, math.inf), "scale = inf"),
        (lambda d: Auto(d, Denoiser(d.network, Linear(steps=500), Epsilon()), 2.0), "another schedule, Linear"),
        (lambda d: Auto(d, d, 2.0, interval=(-0.1, 1)), "interval = -0.1, 1"),
        (lambda d: Classifier(d, lambda x, t: x, -0.5), "scale = -0.5"),
    ],
)
def test_settings_that_make_no_sense(make: Callable[[Denoiser], Estimator], says: str) -> None:
    with pytest.raises(WrongUse, match=says) as caught:
        make(small())
    assert "\n" not in str(caught.value)


def test_guidance_without_a_label_or_with_a_wrong_classifier() -> None:
    x_t, denoiser = torch.randn(2, 2, 8, 8), small()
    for guided in (ClassifierFree(denoiser, 2.0, null_label=3), Classifier(denoiser, lambda x, t: x, 2.0)):
        with pytest.raises(WrongUse, match="label"):
            guided(x_t, SCHEDULE(50))
    flat = Classifier(denoiser, lambda x, t: x.sum((1, 2, 3)), 1.0)
    with pytest.raises(WrongUse, match=r"logits of shape \(2,\) for 2 pictures: should be \(2, classes\)"):
        flat(x_t, SCHEDULE(50), label=torch.tensor([0, 1]))
