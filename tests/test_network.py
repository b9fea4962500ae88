"""The network's parts against their definitions, its start, its labels, and what it refuses."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import gradcheck

from fromnoise.interop.diffusers_unet import to_diffusers
from fromnoise.network.attention import Attention
from fromnoise.network.layers import Downsample, SwishNorm, Upsample, norm_groups, timestep_embedding
from fromnoise.network.unet import UNet

SETTINGS = {
    "in_channels": 3,
    "out_channels": 3,
    "model_channels": 32,
    "num_res_blocks": 1,
    "attention_resolutions": (8,),
    "channel_mult": (1, 2),
    "resolution": 16,
}


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def trained(seed: int = 1, **changes: object) -> UNet:
    """A network whose every weight matters: as made, its output is nearly zero whatever the weights."""
    network = UNet(**{**SETTINGS, **changes})
    with torch.no_grad():
        for k, weight in enumerate(network.parameters()):
            scale = weight[0].numel() ** -0.5 if weight.ndim > 1 else 0.3
            weight.add_(draw(*weight.shape, seed=1000 * seed + k, dtype=torch.float32) * scale)
    return network


# Parts


@pytest.mark.parametrize("dim", [4, 32, 128])
def test_timestep_embedding_is_the_seed_documents(dim: int) -> None:
    def the_page(t: Tensor, dim: int) -> Tensor:
        half_dim = dim // 2
        emb = math.log(10000) / (half_dim - 1)
        emb = torch.exp(torch.arange(half_dim) * -emb)
        emb = t[:, None] * emb[None, :]
        return torch.cat([torch.sin(emb), torch.cos(emb)], dim=-1)

    t = torch.arange(1000)
    assert torch.equal(timestep_embedding(t, dim), the_page(t, dim))


def test_timestep_embedding_is_the_formula_in_float64() -> None:
    t = torch.arange(0, 1000, 7)
    i = torch.arange(64, dtype=torch.float64)
    angle = t[:, None] * torch.exp(-math.log(10000) * i / 63)
    exact = torch.cat([angle.sin(), angle.cos()], dim=1)
    torch.testing.assert_close(timestep_embedding(t, 128).double(), exact, rtol=0, atol=1e-4)  # 1000 · 2^-24, twice.
    assert timestep_embedding(torch.tensor([0]), 128).tolist() == [[0.0] * 64 + [1.0] * 64]


def test_timestep_embedding_takes_real_times_and_odd_dims() -> None:
    between = timestep_embedding(torch.tensor([2.5]), 8)
    assert between[0, 0].item() == pytest.approx(math.sin(2.5), abs=1e-6)
    odd = timestep_embedding(torch.tensor([2.5]), 9)
    assert torch.equal(odd, F.pad(between, (0, 1)))
    with pytest.raises(ValueError, match="dim >= 4"):
        timestep_embedding(torch.tensor([1]), 3)


@pytest.mark.parametrize(
    ("channels", "groups"), [(128, 32), (64, 32), (32, 16), (24, 12), (48, 24), (96, 32), (37, 1), (8, 4), (1, 1)]
)
def test_norm_groups_divide(channels: int, groups: int) -> None:
    assert norm_groups(channels) == groups


def plain_swish_norm(layer: SwishNorm, x: Tensor) -> Tensor:
    return F.silu(F.group_norm(x, layer.num_groups, layer.weight, layer.bias, 1e-6))


@pytest.mark.parametrize("grad_layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("shape", [(3, 64, 6, 10), (1, 48, 1, 1), (2, 32, 5, 3)])
def test_swish_norm_is_swish_of_group_norm(
    shape: tuple[int, ...], layout: torch.memory_format, grad_layout: torch.memory_format
) -> None:
    layer = SwishNorm(shape[1], norm_groups(shape[1])).double()
    layer.weight.data, layer.bias.data = draw(shape[1], seed=1), draw(shape[1], seed=2)
    x = (draw(*shape, seed=3) * 2 + 1).contiguous(memory_format=layout)
    direction = draw(*shape, seed=4).contiguous(memory_format=grad_layout)
    grads = []
    for function in (layer, lambda x: plain_swish_norm(layer, x)):
        leaf = x.clone().requires_grad_()
        y = function(leaf)
        grads.append((y.detach(), *torch.autograd.grad(y, [leaf, layer.weight, layer.bias], direction)))
    for ours, exact in zip(*grads, strict=True):
        torch.testing.assert_close(ours, exact, rtol=1e-12, atol=1e-12)
    with torch.no_grad():  # Another path: nothing is kept for a backward pass.
        before = x.clone()
        torch.testing.assert_close(layer(x), grads[1][0], rtol=1e-12, atol=1e-12)
        assert torch.equal(x, before)


def test_swish_norm_gradients_are_the_functions() -> None:
    layer = SwishNorm(8, norm_groups(8)).double()
    weight, bias = draw(8, seed=1).requires_grad_(), draw(8, seed=2).requires_grad_()

    def function(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return torch.func.functional_call(layer, {"weight": weight, "bias": bias}, (x,))

    layer.num_groups = 4
    assert gradcheck(function, (draw(2, 8, 3, 2, seed=3).requires_grad_(), weight, bias))


def plain_upsample(layer: Upsample, x: Tensor) -> Tensor:
    return F.conv2d(F.interpolate(x, scale_factor=2, mode="nearest"), layer.weight, layer.bias, padding=1)


@pytest.mark.parametrize("shape", [(2, 5, 4, 7), (1, 5, 1, 1), (3, 5, 2, 1)])
def test_upsample_is_nearest_then_convolution(shape: tuple[int, ...]) -> None:
    layer = Upsample(5, 6).double()
    x = draw(*shape).requires_grad_()
    ours, exact = layer(x), plain_upsample(layer, x)
    assert ours.shape == (shape[0], 6, 2 * shape[2], 2 * shape[3])
    torch.testing.assert_close(ours, exact, rtol=1e-13, atol=1e-13)
    direction = draw(*ours.shape, seed=1)
    leaves = [x, layer.weight, layer.bias]
    for a, b in zip(
        torch.autograd.grad(ours, leaves, direction), torch.autograd.grad(exact, leaves, direction), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_upsample_gradients_are_the_functions() -> None:
    layer = Upsample(2, 3).double()
    weight, bias = layer.weight.detach().clone().requires_grad_(), layer.bias.detach().clone().requires_grad_()

    def function(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return torch.func.functional_call(layer, {"weight": weight, "bias": bias}, (x,))

    assert gradcheck(function, (draw(2, 2, 3, 2).requires_grad_(), weight, bias))


def test_downsample_pads_right_and_bottom_only() -> None:
    """With a kernel that picks one tap, the output shows which input pixel that tap sees."""
    layer = Downsample(1, 1).double()
    x = draw(1, 1, 6, 4)
    for row, column, seen in ((0, 0, x[..., 0::2, 0::2]), (1, 2, F.pad(x, (0, 1))[..., 1::2, 2::2])):
        layer.weight.data.zero_()[0, 0, row, column] = 1
        layer.bias.data.zero_()
        assert torch.equal(layer(x), seen)


def test_attention_is_one_head_of_softmax_with_a_residual() -> None:
    layer = Attention(64, norm_groups(64)).double()
    layer.out.weight.data = draw(64, 64, 1, 1)
    x = draw(2, 64, 3, 5, seed=1)
    flat = F.group_norm(x, 32, layer.norm.weight, layer.norm.bias, 1e-6).flatten(2)  # (B, C, N)
    q, k, v = (
        w[:, :, 0, 0] @ flat + b[:, None]
        for w, b in zip(layer.qkv.weight.chunk(3), layer.qkv.bias.chunk(3), strict=True)
    )
    weights = torch.softmax(q.transpose(1, 2) @ k / math.sqrt(64), dim=-1)  # (B, query, key)
    y = layer.out.weight[:, :, 0, 0] @ (v @ weights.transpose(1, 2)) + layer.out.bias[:, None]
    torch.testing.assert_close(layer(x), x + y.unflatten(2, (3, 5)), rtol=1e-12, atol=1e-12)


# The start


def test_every_weight_starts_as_in_the_paper() -> None:
    """Xavier uniform of every single map (q, k, v and each block's time projection for themselves), or nearly zero."""
    settings = {**SETTINGS, "model_channels": 64, "num_res_blocks": 2}
    torch.manual_seed(0)
    network = UNet(**settings)
    seen = set()
    for name, weight in to_diffusers(network.state_dict(), settings).items():
        if name.endswith("bias"):
            assert not weight.any(), name
        elif "norm" in name:
            assert (weight == 1).all(), name
        else:
            taps = weight[0, 0].numel() if weight.ndim == 4 else 1
            ends = any(end in name for end in (".conv2.", ".to_out.", "conv_out."))
            bound = math.sqrt(6 / ((weight.shape[0] + weight.shape[1]) * taps)) * (1e-5 if ends else 1)
            assert 0.97 * bound < weight.abs().max() <= bound * (1 + 1e-6), name
            assert weight.double().std().item() == pytest.approx(bound / math.sqrt(3), rel=0.06), name
            seen.add(name.split(".")[-2])
    assert {
        "conv1",
        "conv2",
        "conv_shortcut",
        "to_q",
        "to_k",
        "to_v",
        "0",
        "time_emb_proj",
        "conv_in",
        "conv_out",
    } <= seen


def test_labels_start_as_embeddings_of_length_one() -> None:
    torch.manual_seed(0)
    network = UNet(3, 3, 32, num_classes=50)
    assert network.label is not None
    assert network.label.weight.shape == (51, 128)
    assert network.label.weight.norm(dim=1).mean().item() == pytest.approx(1, abs=0.05)


def test_a_new_network_predicts_nearly_nothing_and_learns_at_once() -> None:
    network = UNet(**SETTINGS)
    x = draw(2, 3, 16, 16, dtype=torch.float32)
    out = network(x, torch.tensor([0, 999]))
    assert 0 < out.abs().max() < 1e-3
    F.mse_loss(out, x).backward()
    grad = network.head.weight.grad
    assert grad is not None and grad.abs().max() > 1e-3


# The whole


def test_pictures_of_a_batch_do_not_mix() -> None:
    network = trained(num_classes=5).double()
    x, t, label = draw(3, 3, 16, 24), torch.tensor([1, 500, 998]), torch.tensor([0, 4, 5])
    with torch.no_grad():
        together = network(x, t, label)
        for k in range(3):
            alone = network(x[k : k + 1], t[k : k + 1], label[k : k + 1])
            torch.testing.assert_close(alone, together[k : k + 1], rtol=1e-12, atol=1e-12)
        others = network(torch.stack([x[2], x[1], x[0] * 5]), torch.tensor([7, 500, 3]), torch.tensor([1, 4, 2]))
    torch.testing.assert_close(others[1], together[1], rtol=1e-12, atol=1e-12)
    assert (others[0] - together[0]).abs().max() > 0.1


def test_training_and_sampling_paths_agree() -> None:
    network = trained()
    x, t = draw(2, 3, 16, 16, dtype=torch.float32), torch.tensor([10, 900])
    with torch.no_grad():
        sampling = network(x, t)
    torch.testing.assert_close(network(x, t).detach(), sampling, rtol=1e-5, atol=1e-5)
    assert sampling.std() > 0.1


def test_the_picture_is_left_alone_in_either_memory_format() -> None:
    network = trained()
    x, t = draw(2, 3, 16, 16, dtype=torch.float32), torch.tensor([10, 900])
    before = x.clone()
    with torch.no_grad():
        plain, last = network(x, t), network(x.contiguous(memory_format=torch.channels_last), t)
    assert torch.equal(x, before)
    torch.testing.assert_close(plain, last, rtol=1e-5, atol=1e-5)


def test_dropout_works_in_training_only() -> None:
    network = trained(dropout=0.5)
    x, t = draw(2, 3, 16, 16, dtype=torch.float32), torch.tensor([10, 900])
    without = UNet(**SETTINGS)
    without.load_state_dict(network.state_dict())
    with torch.no_grad():
        torch.manual_seed(0)
        first, second = network(x, t), network(x, t)
        assert (first - second).abs().max() > 0.1
        network.eval()
        assert torch.equal(network(x, t), without(x, t))


def test_time_matters_and_is_used_as_it_is() -> None:
    network = trained()
    x = draw(1, 3, 16, 16, dtype=torch.float32).expand(3, -1, -1, -1)
    with torch.no_grad():
        whole = network(x, torch.tensor([5, 6, 500]))
        real = network(x, torch.tensor([5.0, 5.5, 500.0]))
    assert torch.equal(whole[0], real[0])
    steps = [(whole[0] - other).abs().max().item() for other in (real[1], whole[1], whole[2])]
    assert 0 < steps[0] < steps[1] < steps[2]


def test_null_label_is_the_last_row_and_the_default() -> None:
    network = trained(num_classes=3)
    x = draw(1, 3, 16, 16, dtype=torch.float32).expand(4, -1, -1, -1)
    t = torch.full((4,), 100)
    assert network.label is not None
    out = network(x, t, torch.arange(4))
    with torch.no_grad():
        assert torch.equal(network(x, t)[3], network(x, t, torch.full((4,), 3))[3])
        torch.testing.assert_close(network(x, t)[3], out[3].detach(), rtol=1e-5, atol=1e-5)
        gaps = [(out[i] - out[j]).abs().max().item() for i in range(4) for j in range(i)]
        assert min(gaps) > 1e-3

    network(x, t, torch.tensor([0, 2, 2, 0])).sum().backward()
    grad = network.label.weight.grad
    assert grad is not None
    assert grad.abs().amax(dim=1).gt(0).tolist() == [True, False, True, False]


def test_a_label_adds_its_row_to_the_time_embedding() -> None:
    """So a network whose time layer's bias holds that row, and that has no classes, gives the same."""
    with_labels = trained(num_classes=3)
    assert with_labels.label is not None
    state = {name: weight for name, weight in with_labels.state_dict().items() if not name.startswith("label.")}
    state["time.2.bias"] = state["time.2.bias"] + with_labels.label.weight.detach()[2]
    without = UNet(**SETTINGS)
    without.load_state_dict(state)
    x, t = draw(2, 3, 16, 16, dtype=torch.float32), torch.tensor([10, 900])
    with torch.no_grad():
        torch.testing.assert_close(with_labels(x, t, torch.tensor([2, 2])), without(x, t), rtol=1e-5, atol=1e-5)


def test_bfloat16_autocast_stays_near_and_trains() -> None:
    network = trained()
    x, t = draw(2, 3, 16, 16, dtype=torch.float32), torch.tensor([10, 900])
    exact = network(x, t).detach()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = network(x, t)
    assert ((out.float() - exact).square().mean() / exact.square().mean()).sqrt() < 0.05
    out.float().square().mean().backward()
    assert all(
        p.grad is not None and torch.isfinite(p.grad).all() and p.dtype == torch.float32 for p in network.parameters()
    )


def test_in_half_precision_every_norm_gets_pictures_in_the_layout_that_is_fast() -> None:
    """Five times as fast (`layout`); one layer that turns them round would slow down all behind it."""
    network, layouts = trained(), list[bool]()
    for module in network.modules():
        if isinstance(module, torch.nn.GroupNorm):
            module.register_forward_pre_hook(lambda _, inputs: layouts.append(inputs[0].is_contiguous()))
    x, t = draw(2, 3, 16, 16, dtype=torch.float32), torch.tensor([10, 900])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        network(x, t)
    assert len(layouts) > 10 and all(layouts)


# Refusals


def test_sides_that_the_levels_do_not_divide() -> None:
    network = UNet(3, 3, 32, 1, (), (1, 1, 1))
    for height, width in ((30, 32), (32, 30), (33, 33)):
        with pytest.raises(ValueError, match=rf"{height}x{width} .* multiples of 4"):
            network(torch.zeros(1, 3, height, width), torch.zeros(1))
    assert network(torch.zeros(1, 3, 12, 20), torch.zeros(1)).shape == (1, 3, 12, 20)


def test_labels_for_a_network_without_classes() -> None:
    with pytest.raises(ValueError, match="without classes"):
        UNet(**SETTINGS)(torch.zeros(1, 3, 16, 16), torch.zeros(1), torch.zeros(1, dtype=torch.int64))


def test_attention_at_a_size_that_no_level_has() -> None:
    with pytest.raises(ValueError, match=r"\[16\].*resolution 28 the levels are 28, 14, 7 pixels"):
        UNet(3, 3, 32, 1, (16,), (1, 2, 2), resolution=28)


def test_attention_sits_where_it_is_asked_for_and_in_the_middle() -> None:
    with torch.device("meta"):
        network = UNet(3, 3, 32, 2, (16, 8), (1, 2, 4, 4), resolution=64)
    paths = {name for name, module in network.named_modules() if isinstance(module, Attention)}
    down = {f"down.{level}.attentions.{k}" for level in (2, 3) for k in range(2)}
    up = {f"up.{level}.attentions.{k}" for level in (0, 1) for k in range(3)}  # From the deepest level upwards.
    assert paths == down | up | {"middle.attentions.0"}


@pytest.mark.parametrize("channels", [16, 32, 64])
def test_narrow_networks_still_see_the_time(channels: int) -> None:
    """A norm over single channels would take the embedding out again: the output must depend on t at every width."""
    network = UNet(1, 1, channels, 1, (), (1,), resolution=8)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)) * 0.2)
    x = draw(1, 1, 8, 8).float()
    early, late = network(x, torch.tensor([3.0])), network(x, torch.tensor([900.0]))
    assert (early - late).std() > 0.01 * early.std()


@pytest.mark.parametrize("recompute", [False, True])
def test_on_a_gpu_the_whole_network_compiles_as_one_graph(recompute: bool) -> None:
    """Every break would be a wait for Python; the meta device takes the way of all but CPUs, and has no kernels."""
    with torch.device("meta"):
        network = UNet(3, 3, 32, 1, (16,), (1, 2), dropout=0.1, num_classes=10, values=[(0.0, 1.0)], num_augment=9)
        x, t, label = torch.empty(4, 3, 32, 32), torch.zeros(4, dtype=torch.float64), torch.zeros(4, dtype=torch.int64)
        more = torch.zeros(4, 1), torch.zeros(4, 9)
    network.recompute = recompute
    torch.compiler.reset()
    # What is computed again saves the state of random numbers, which the meta device has not, in its backward pass.
    call = torch.compile(network, fullgraph=True, backend="eager" if recompute else "aot_eager")
    found = call(x, t, label, *more)
    assert found.shape == x.shape
    if not recompute:
        found.sum().backward()
        assert all(p.grad is not None for p in network.parameters())
