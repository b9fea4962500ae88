"""The training step's parts: rates, optimizers, dropout by the picture, activations computed again, averages."""

import copy
import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from tests import tiny
from torch import Tensor, nn
from torch.backends import cudnn

from fromnoise.codec import Pixels
from fromnoise.config import build_denoiser, build_network
from fromnoise.errors import WrongUse
from fromnoise.network import UNet, recompute
from fromnoise.network.dropout import dropout_seeds
from fromnoise.task.precision import computing, pays_to_compile
from fromnoise.task.train import train_run
from fromnoise.train import Learner, TrainSettings, train
from fromnoise.train.augment import DRAWS
from fromnoise.train.batches import Batches
from fromnoise.train.optimizer import Adam, AdamW, optimizer_tensors
from fromnoise.train.rate import ConstantRate, CosineRate, InverseSqrtRate

# --------------------------------------------------------------------------------------------------------------- rates


def test_rates_are_their_formulas() -> None:
    assert [ConstantRate()(n, 10) for n in (0, 5, 10)] == [1, 1, 1]
    cosine = CosineRate(end=0.2)
    assert [cosine(n, 8) for n in (0, 4, 8, 9)] == pytest.approx([1, 0.6, 0.2, 0.2])
    assert cosine(2, 8) == pytest.approx(0.2 + 0.8 * (1 + math.sqrt(0.5)) / 2)
    falling = InverseSqrtRate(after=100)
    assert [falling(n, 10**6) for n in (0, 100, 400, 10_000)] == pytest.approx([1, 1, 0.5, 0.1])


def test_the_rate_is_that_of_pytorchs_own_schedulers() -> None:
    weight = nn.Parameter(torch.zeros(1))
    peer = torch.optim.SGD([weight], lr=1.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(peer, T_max=50, eta_min=0.1)
    for step in range(50):
        assert CosineRate(end=0.1)(step, 50) == pytest.approx(schedule.get_last_lr()[0], rel=1e-9)
        peer.step()
        schedule.step()


def test_the_warm_up_goes_before_and_going_back_halves() -> None:
    learner = Learner(nn.Linear(2, 2), TrainSettings(lr=0.4, warmup=4, rate=InverseSqrtRate(after=16)))
    seen = []
    for learner.step in (0, 1, 2, 4, 16, 64):
        seen.append(learner.rate(100))
    assert seen == pytest.approx([0.0, 0.1, 0.2, 0.4, 0.4, 0.2])
    learner.rollbacks = ["", ""]
    assert learner.rate(100) == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: CosineRate(end=1.5), "[train.rate] end = 1.5: is a share"),
        (lambda: InverseSqrtRate(after=0), "[train.rate] after = 0: must be at least 1 step"),
        (lambda: Adam(beta_2=1.0), "[train.optimizer] beta_2 = 1.0: must lie between 0 and 1"),
        (lambda: Adam(eps=0.0), "[train.optimizer] eps = 0.0: must be above 0"),
        (lambda: AdamW(weight_decay=-1.0), "[train.optimizer] weight_decay = -1.0: must not be negative"),
        (lambda: TrainSettings(averages=(0.05, 0.05)), "names a length twice"),
        (lambda: TrainSettings(averages=(0.5,)), "0.5"),
        (lambda: TrainSettings(compile="perhaps"), "known are auto, true and false"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(make: Any, complaint: str) -> None:
    with pytest.raises(WrongUse) as caught:
        make()
    assert complaint in str(caught.value) and "\n" not in str(caught.value)


# ---------------------------------------------------------------------------------------------------------- optimizers


@pytest.mark.parametrize("kind", [Adam(beta_1=0.8, beta_2=0.9, eps=1e-3), AdamW(weight_decay=0.3, beta_2=0.95)])
def test_optimizers_are_their_papers_recursions(kind: Any) -> None:
    """In float64, against the recursions written out; the divisor is the clipping, and 1 leaves a step out."""
    torch.manual_seed(0)
    network = nn.Linear(3, 2).double()
    learner = Learner(network, TrainSettings(optimizer=kind))
    plain = {name: p.detach().clone() for name, p in network.named_parameters()}
    first = {name: torch.zeros_like(p) for name, p in plain.items()}
    second = {name: torch.zeros_like(p) for name, p in plain.items()}
    taken, lr = 0, 0.05
    for step in range(6):
        gradients = {name: torch.randn_like(p) for name, p in plain.items()}
        for name, p in network.named_parameters():
            p.grad = gradients[name].clone()
        divisor, left_out = 1.0 + step % 3, float(step == 2)
        learner.take(lr, torch.tensor(divisor, dtype=torch.float32), torch.tensor(left_out))
        if not left_out:
            taken += 1
            for name, p in plain.items():
                gradient = gradients[name] / divisor
                if isinstance(kind, AdamW) and p.ndim > 1:
                    p *= 1 - lr * kind.weight_decay
                first[name] = kind.beta_1 * first[name] + (1 - kind.beta_1) * gradient
                second[name] = kind.beta_2 * second[name] + (1 - kind.beta_2) * gradient**2
                mean, square = first[name] / (1 - kind.beta_1**taken), second[name] / (1 - kind.beta_2**taken)
                p -= lr * mean / (square.sqrt() + kind.eps)
        for name, p in network.named_parameters():
            torch.testing.assert_close(p.detach(), plain[name], rtol=1e-9, atol=1e-12)
    assert {v.item() for k, v in optimizer_tensors(learner.optimizer, network).items() if k.startswith("step.")} == {5}


def test_without_a_fused_form_the_step_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def weights(fused: set[str]) -> list[Tensor]:
        monkeypatch.setattr("fromnoise.train.optimizer.FUSED", fused)
        torch.manual_seed(0)
        network = nn.Linear(5, 5)
        learner = Learner(network, TrainSettings())
        for step in range(4):
            for p in network.parameters():
                p.grad = torch.randn_like(p)
            learner.take(0.1, torch.tensor(2.0), torch.tensor(float(step == 1)))
        return [p.detach().clone() for p in network.parameters()]

    for ours, theirs in zip(weights({"cpu"}), weights(set()), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


# --------------------------------------------------------------------------------------------- dropout by the picture


def unet(dropout: float = 0.3) -> UNet:
    torch.manual_seed(0)
    network = UNet(3, 3, 32, 1, (8,), (1, 2), resolution=16, dropout=dropout)
    with torch.no_grad():
        for p in network.parameters():
            p.add_(torch.randn_like(p) * 0.02)  # The paper's start multiplies everything by nearly zero.
    return network.train()


def test_a_pictures_masks_do_not_depend_on_the_others() -> None:
    network, x, t = unet(), torch.randn(6, 3, 16, 16), torch.arange(6.0)
    seeds = [11, 22, 33, 44, 55, 66]
    with torch.no_grad():
        with dropout_seeds(seeds):
            whole = network(x, t)
        for rows in ([0, 1], [2], [5, 3, 4]):
            with dropout_seeds([seeds[k] for k in rows]):
                torch.testing.assert_close(network(x[rows], t[rows]), whole[rows], rtol=1e-4, atol=1e-5)
        with dropout_seeds([k + 1 for k in seeds]):
            assert (network(x, t) - whole).abs().max() > 0.01
        network.eval()
        assert (network(x, t) - whole).abs().max() > 0.01, "dropout should have been at work"


def test_layers_and_pictures_have_masks_of_their_own() -> None:
    masks: list[Tensor] = []
    network = unet(0.5)
    noisy = [m for m in network.modules() if getattr(m, "dropout", 0) and hasattr(m, "place")]
    for module in noisy:
        module.register_forward_hook(lambda _m, _i, out: masks.append((out[:, :16, :8, :8] != 0).flatten(1)))
    with torch.no_grad(), dropout_seeds([7, 8]):
        network(torch.randn(2, 3, 16, 16), torch.zeros(2))
    rows = torch.cat(masks).double() - 0.5
    assert len(rows) == 2 * len(noisy) >= 12
    agreement = (rows @ rows.T / rows.shape[1] * 4).fill_diagonal_(0)
    assert agreement.abs().max() < 6 / rows.shape[1] ** 0.5  # correlation of independent bits
    with pytest.raises(ValueError, match="3 seeds for 2 pictures"), dropout_seeds([1, 2, 3]):
        network(torch.randn(2, 3, 16, 16), torch.zeros(2))


def test_a_batch_in_parts_is_the_same_step_with_dropout_flips_and_augmentation() -> None:
    """Gradient accumulation changes nothing but memory."""
    changes = {"network": {"dropout": 0.3}, "train": {"augment": {"probability": 0.5, "flip_x": 1.0}}}

    def losses(parts: int) -> tuple[list[float], Tensor]:
        config = tiny.config(changes, steps=4, accumulate=parts, flip=True, label_dropout=0.3, lr=1e-3)
        network = build_network(config)
        learner = Learner(network, config.train)
        batches = Batches(
            pictures=tiny.digits(), shape=(1, 8, 8), batch_size=8, seed=0, flip=True, label_dropout=0.3, null_label=10,
            draws=DRAWS,
        )  # fmt: skip
        denoiser = build_denoiser(config, network, training=True)
        told = [report.loss.item() for report in train(learner, denoiser, config.objective, Pixels(), batches, 4)]
        return told, torch.cat([p.detach().flatten() for p in network.parameters()])

    whole, weights = losses(1)
    for parts in (2, 8):
        told, other = losses(parts)
        assert told == pytest.approx(whole, rel=1e-5)
        torch.testing.assert_close(other, weights, atol=2e-5, rtol=0)


# ----------------------------------------------------------------------------------------------- activations again


def test_activations_computed_again_give_the_same_bits() -> None:
    plain, again = unet(), unet()
    again.recompute = True
    x, t, seeds = torch.randn(4, 3, 16, 16), torch.arange(4.0), [5, 6, 7, 8]
    outputs = []
    for network in (plain, again):
        with dropout_seeds(seeds):
            y = network(x, t)
            y.square().sum().backward()
        outputs.append(y.detach())
    assert torch.equal(*outputs)
    for (name, ours), theirs in zip(again.named_parameters(), plain.parameters(), strict=True):
        assert ours.grad is not None and theirs.grad is not None
        assert torch.equal(ours.grad, theirs.grad), name


def test_a_batch_that_is_computed_again_in_parts_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten pictures, four at a time: 4, 4 and 2, with every picture's own dropout."""
    monkeypatch.setattr(recompute, "_PIXELS", 4 * 16 * 16)
    calls: list[int] = []
    real = recompute.checkpoint

    def counted(function: Any, *inputs: Any, **how: Any) -> Any:
        calls.append(len(inputs[-1]))
        return real(function, *inputs, **how)

    monkeypatch.setattr(recompute, "checkpoint", counted)
    plain, again = unet(), unet()
    again.recompute = True
    x, t, seeds = torch.randn(10, 3, 16, 16), torch.arange(10.0), range(10)
    found = []
    for network in (plain, again):
        pictures = x.clone().requires_grad_()
        with dropout_seeds(seeds):
            y = network(pictures, t)
            found.append([y.detach(), *torch.autograd.grad(y.square().sum(), [pictures, *network.parameters()])])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5 * max(1.0, one.abs().max().item()))
    assert calls[:6] == [4, 4, 2] * 2, "at lower levels too"


def test_activations_computed_again_are_not_remembered() -> None:
    """Bytes that the graph holds after a forward pass, counted by what autograd packs."""

    def held(network: UNet) -> int:
        kept: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        own = {p.untyped_storage().data_ptr() for p in network.parameters()}
        x = torch.randn(4, 3, 16, 16)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            y = network(x, torch.zeros(4))
        total = sum(size for pointer, size in kept.items() if pointer not in own)
        del y
        return total

    plain, again = unet(), unet()
    again.recompute = True
    assert held(again) < 0.35 * held(plain)


# ---------------------------------------------------------------------------------------------------------- precision


def test_precision_that_the_device_lacks_is_refused_before_anything_is_written(tmp_path: Any) -> None:
    with pytest.raises(WrongUse, match="'tf32' needs an NVIDIA GPU of 2020 or later, and this run is on cpu; take"):
        list(train_run(tiny.config(steps=1, precision="tf32"), tiny.digits(), tmp_path / "run", device=tiny.CPU))
    assert not (tmp_path / "run").exists()
    with computing("float32", torch.device("cpu")), computing("bfloat16", torch.device("cpu")):
        pass


def test_when_compiling_pays() -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    wanted = [
        ("auto", cpu, 10**6),
        ("auto", cuda, 10**6),
        ("auto", cuda, 100),
        (True, cpu, 1),
        (False, cuda, 10**6),
    ]
    assert [pays_to_compile(*each) for each in wanted] == [False, True, False, True, False]


# ----------------------------------------------------------------------------------------------------- the same bits

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
EVERYTHING: dict[str, Any] = {
    "network": {"model_channels": 8, "dropout": 0.3, "attention_resolutions": [8]},
    "train": {
        **{"accumulate": 2, "recompute": True, "flip": True, "label_dropout": 0.3, "averages": [0.1], "lr": 1e-3},
        **{"augment": {"probability": 0.5, "flip_x": 1.0}, "sample_every": 32, "sample_steps": 4},
    },
}


def modes() -> tuple[Any, ...]:
    """Everything of PyTorch's that makes its algorithms deterministic, and whether what has none only warns."""
    memory: Any = torch.utils.deterministic
    algorithms = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    return (*algorithms, cudnn.benchmark, cudnn.deterministic, memory.fill_uninitialized_memory)


def test_deterministic_algorithms_are_asked_for_while_a_run_computes(tmp_path: Path) -> None:
    """Of all that a run can have, nothing is without one; and on a CPU the bits are those without asking."""
    before = modes()
    for name, asked in (("plain", False), ("asked", True)):
        seen = set()
        settings = tiny.config(EVERYTHING, steps=6, deterministic=asked)
        for _ in train_run(settings, tiny.digits(), tmp_path / name, device=tiny.CPU):
            seen.add(modes())
        assert seen == {(True, False, False, True, False) if asked else before}
        assert modes() == before
    tiny.assert_same_run(tmp_path / "plain", tmp_path / "asked")


def test_a_run_may_go_on_with_them_or_without(tmp_path: Path) -> None:
    tiny.run(tiny.config(EVERYTHING, steps=6), tmp_path / "straight")
    tiny.run(tiny.config(EVERYTHING, steps=6), tmp_path / "run", stop_at=2)
    tiny.run(tiny.config(EVERYTHING, steps=6, deterministic=True), tmp_path / "run", stop_at=4)
    tiny.run(tiny.config(EVERYTHING, steps=6), tmp_path / "run")
    tiny.assert_same_run(tmp_path / "run", tmp_path / "straight")


def test_what_was_set_before_is_set_again_also_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cudnn, "benchmark", True)
    before, cpu = modes(), torch.device("cpu")

    def fail() -> None:
        with computing("float32", cpu, deterministic=True):
            assert modes() == (True, False, False, True, False)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert modes() == before
    with pytest.raises(WrongUse, match="tf32"), computing("tf32", cpu, deterministic=True):
        pass
    assert modes() == before
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with computing("float32", cpu, deterministic=True):
            assert modes()[:2] == (True, False)
        assert modes()[:2] == (True, True)
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize(
    ("found", "given", "complaint"),
    [
        (None, None, None),
        (None, [0, 0], None),
        (":4096:8", [512, 0], None),
        (":16:8", None, None),
        (None, [0, 512], f"a GPU has computed without {WORKSPACE}; set {WORKSPACE}=:4096:8 and start again"),
        (":0:0", None, f"{WORKSPACE} is ':0:0'; set {WORKSPACE}=:4096:8 and start again"),
    ],
)
def test_a_gpu_is_told_before_it_computes_or_it_is_too_late(
    monkeypatch: pytest.MonkeyPatch, found: str | None, given: list[int] | None, complaint: str | None
) -> None:
    """NVIDIA's documentation of cuBLAS: results repeat themselves with a workspace of :4096:8 or :16:8.

    ``given`` are the bytes that each GPU has been given, ever; ``None`` if CUDA has not started.
    """
    before, cuda = modes(), torch.device("cuda")
    monkeypatch.setenv(WORKSPACE, found or "")  # So that it is put back afterwards, also if it was not there.
    if found is None:
        monkeypatch.delenv(WORKSPACE)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: given is not None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    stats = [{"allocated_bytes.all.allocated": count} for count in given or ()]
    monkeypatch.setattr(torch.cuda, "memory_stats", stats.__getitem__)
    if complaint is None:
        with computing("float32", cuda, deterministic=True):
            assert os.environ[WORKSPACE] == (found or ":4096:8")
    else:
        with pytest.raises(WrongUse) as caught, computing("float32", cuda, deterministic=True):
            pass
        assert str(caught.value) == f"[train] deterministic = true: {complaint}"
        assert os.environ.get(WORKSPACE) == found
    assert modes() == before


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_on_a_gpu_a_run_that_goes_on_is_the_run_uninterrupted_bit_for_bit(tmp_path: Path, precision: str) -> None:
    """In processes of their own, in which CUDA has not started."""
    changes = {"network": {"model_channels": 48}, "train": {"deterministic": True, "precision": precision}}
    preset = tiny.preset(tmp_path, EVERYTHING, changes)
    for name, steps in (("run", 5), ("run", 12), ("straight", 12)):
        words = ["train", "digits", "--preset", preset, "--device", "cuda", "--steps", str(steps)]
        with tiny.command(*words, "--out", tmp_path / name) as process:
            _, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
    tiny.assert_same_run(tmp_path / "run", tmp_path / "straight")


# ----------------------------------------------------------------------------------------------- averages afterwards


def test_several_averages_follow_the_weights_each_at_its_own_pace() -> None:
    """Against the profile summed directly over the history of the weights."""
    torch.manual_seed(0)
    network = nn.Linear(4, 4)
    learner = Learner(network, TrainSettings(averages=(0.05, 0.2)))
    past = []
    for learner.step in range(1, 41):
        with torch.no_grad():
            network.weight.add_(torch.randn(4, 4))
        past.append(network.weight.detach().double().clone())
        learner.average()
    assert learner.averages is not None
    for width, averaged in learner.averages.networks.items():
        gamma = next(g for g in torch.linspace(0.5, 30, 300_000).tolist() if _width(g) <= width)
        # The recursion's own weights: beta products.
        shares = torch.ones(1, dtype=torch.float64)
        for n in range(2, 41):
            beta = (1 - 1 / n) ** (gamma + 1)
            shares = torch.cat([shares * beta, torch.tensor([1 - beta], dtype=torch.float64)])
        wanted = sum(share * value for share, value in zip(shares, past, strict=True))
        torch.testing.assert_close(averaged.weight.double(), wanted, rtol=1e-3, atol=1e-3)
    other = Learner(copy.deepcopy(network), TrainSettings(averages=(0.05, 0.2)))
    other.load({k: {n: v.clone() for n, v in f.items()} for k, f in learner.tensors().items()}, learner.state())
    assert other.averages is not None
    tiny.assert_same_bits(other.averages.tensors(), learner.averages.tensors())


def _width(gamma: float) -> float:
    """Karras et al. 2024 (arXiv 2312.02696), equation 11: σ_rel of a power function's profile."""
    return math.sqrt((gamma + 1) / ((gamma + 2) ** 2 * (gamma + 3)))
