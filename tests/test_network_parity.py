"""The network against diffusers' UNet2DModel carrying the same weights: outputs, gradients, names."""

from typing import Any

import pytest
import torch
from diffusers import UNet2DModel
from diffusers.models.embeddings import get_timestep_embedding
from torch import Tensor, nn

from fromnoise.errors import FromnoiseError
from fromnoise.interop.diffusers_unet import diffusers_config, from_diffusers, to_diffusers
from fromnoise.network import winograd
from fromnoise.network.layers import timestep_embedding
from fromnoise.network.unet import UNet

Settings = dict[str, Any]

CIFAR10: Settings = {"in_channels": 3, "out_channels": 3, "resolution": 32}
LSUN256: Settings = {"in_channels": 3, "out_channels": 3, "channel_mult": (1, 1, 2, 2, 4, 4), "resolution": 256}
CELEBA64: Settings = {"in_channels": 3, "out_channels": 3, "channel_mult": (1, 2, 2, 2, 4), "resolution": 64}
PAGE: Settings = {
    "in_channels": 3,
    "out_channels": 3,
    "attention_resolutions": (16, 8),
    "channel_mult": (1, 2, 4, 4),
    "resolution": 64,
}
SMALL: dict[str, tuple[Settings, tuple[int, int]]] = {
    "one level": ({"channel_mult": (1,), "attention_resolutions": ()}, (8, 8)),
    "no attention but the middle's": ({"attention_resolutions": ()}, (16, 12)),
    "grey, two levels with attention": (
        {"in_channels": 1, "out_channels": 1, "attention_resolutions": (16, 8)},
        (16, 16),
    ),
    "four channels, learned range, wide": (
        {
            "in_channels": 4,
            "out_channels": 8,
            "num_res_blocks": 2,
            "channel_mult": (1, 1, 2),
            "attention_resolutions": (4,),
        },
        (16, 40),
    ),
    "labels, tall": ({"num_classes": 3, "channel_mult": (1, 3), "attention_resolutions": (8,)}, (24, 8)),
    "the paper's, narrow": ({"num_res_blocks": 2, "channel_mult": (1, 2, 2, 2), "resolution": 32}, (32, 32)),
}


def full(settings: Settings) -> Settings:
    base = {"in_channels": 3, "out_channels": 3, "model_channels": 32, "num_res_blocks": 1, "channel_mult": (1, 2)}
    return {**base, "resolution": 16, "attention_resolutions": (16,), **settings}


def randomise(network: nn.Module, seed: int) -> None:
    """Weights as a trained network has them: nothing zero, nothing one, signals of about unit size."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if weight.ndim > 1:
                weight.normal_(0, weight[0].numel() ** -0.5, generator=generator)
            else:
                weight.normal_(float("norm" in name and name.endswith("weight")), 0.3, generator=generator)


class _OurSinusoids(nn.Module):
    """In float64 the last bit of a float32 sinusoid would drown everything else, so both sides get the same one."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, t: Tensor) -> Tensor:
        return timestep_embedding(t, self.dim)


def pair(settings: Settings, dtype: torch.dtype) -> tuple[UNet, nn.Module]:
    ours = UNet(**settings).to(dtype)
    randomise(ours, 1)
    peer: Any = UNet2DModel(**diffusers_config(**settings))
    peer.to(dtype)
    peer.load_state_dict(to_diffusers(ours.state_dict(), settings))
    if dtype == torch.float64:
        peer.time_proj = _OurSinusoids(settings["model_channels"])
    return ours, peer


def agree(settings: Settings, size: tuple[int, int], dtype: torch.dtype, tolerance: float) -> None:
    """Outputs, and the gradients of a random projection of them for the pictures and for every weight."""
    ours, peer = pair(settings, dtype)
    generator = torch.Generator().manual_seed(2)
    shape = (2, settings["in_channels"], *size)
    x = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
    t = torch.tensor([3, 977])
    label = torch.tensor([1, settings["num_classes"]]) if settings.get("num_classes") else None
    x_ours, x_peer = x.clone().requires_grad_(), x.clone().requires_grad_()
    out_ours, out_peer = ours(x_ours, t, label), peer(x_peer, t, class_labels=label).sample
    assert out_peer.std() > 0.1  # A difference could not hide in a small output.
    torch.testing.assert_close(out_ours, out_peer, rtol=tolerance, atol=tolerance)

    direction = torch.randn(out_ours.shape, generator=generator, dtype=torch.float64).to(dtype)
    out_ours.backward(direction)
    out_peer.backward(direction)
    assert x_ours.grad is not None and x_peer.grad is not None
    torch.testing.assert_close(
        x_ours.grad, x_peer.grad, rtol=tolerance, atol=tolerance * x_peer.grad.abs().max().item()
    )
    # The map only renames, cuts and joins, so gradients travel through it as weights do.
    mapped = to_diffusers({name: p.grad for name, p in ours.named_parameters() if p.grad is not None}, settings)
    grads = {name: p.grad for name, p in peer.named_parameters()}
    assert mapped.keys() == grads.keys()
    largest = max(grad.abs().max().item() for grad in grads.values() if grad is not None)
    for name, grad in grads.items():
        torch.testing.assert_close(
            mapped[name], grad, rtol=tolerance, atol=tolerance * largest, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("name", SMALL)
def test_same_function_and_gradients_in_float64(name: str) -> None:
    settings, size = SMALL[name]
    agree(full(settings), size, torch.float64, 1e-12)


@pytest.mark.parametrize("name", SMALL)
def test_same_function_and_gradients_in_float32(name: str) -> None:
    settings, size = SMALL[name]
    agree(full(settings), size, torch.float32, 1e-5)


def test_same_function_and_gradients_with_half_of_the_multiplications(monkeypatch: pytest.MonkeyPatch) -> None:
    """Winograd's algorithm in every block whose width eight divides, wherever it would be worth it."""
    used: list[int] = []
    forward = winograd._Convolution.forward
    monkeypatch.setattr(winograd, "_WORTH", winograd.Worth(pixels=0, channels=32))
    monkeypatch.setattr(
        winograd._Convolution,
        "forward",
        staticmethod(lambda ctx, x, *rest: used.append(x.shape[3]) or forward(ctx, x, *rest)),
    )
    settings, size = SMALL["the paper's, narrow"]
    agree(full(settings), size, torch.float32, 1e-5)
    assert set(used) == ({8, 16, 32} if torch.backends.mkl.is_available() else set())


def test_the_page_s_model_in_float32_at_its_size() -> None:
    agree({**PAGE, "model_channels": 32, "num_res_blocks": 2}, (64, 64), torch.float32, 1e-5)


@pytest.mark.parametrize(
    ("settings", "parameters"),
    [
        (CIFAR10, 35_746_307),
        (LSUN256, 113_673_219),
        ({**CIFAR10, "out_channels": 6}, 35_749_766),
        (CELEBA64, 78_700_803),
        (PAGE, None),
        ({**CIFAR10, "num_classes": 10}, 35_746_307 + 11 * 512),
    ],
)
def test_parameters_of_the_paper_s_networks(settings: Settings, parameters: int | None) -> None:
    """Their number, and that each has its name and shape in UNet2DModel; on the meta device, so no memory is used."""
    with torch.device("meta"):
        ours, peer = UNet(**settings), UNet2DModel(**diffusers_config(**settings))
    count = sum(p.numel() for p in ours.parameters())
    assert count == (parameters or count) == sum(p.numel() for p in peer.parameters())
    mapped = {name: weight.shape for name, weight in to_diffusers(ours.state_dict(), settings).items()}
    assert mapped == {name: weight.shape for name, weight in peer.state_dict().items()}


def test_timestep_embedding_is_diffusers() -> None:
    t = torch.arange(1000)
    peer = get_timestep_embedding(t, 128, flip_sin_to_cos=False, downscale_freq_shift=1)
    torch.testing.assert_close(timestep_embedding(t, 128), peer, rtol=0, atol=4e-5)  # The last bit of t·frequency.


@pytest.mark.parametrize("name", SMALL)
def test_there_and_back_is_bit_for_bit(name: str) -> None:
    settings = full(SMALL[name][0])
    network = UNet(**settings)
    randomise(network, 3)
    state = network.state_dict()
    theirs = to_diffusers(state, settings)
    back = from_diffusers(theirs, settings)
    assert list(back) == list(state)
    assert all(torch.equal(back[name], weight) for name, weight in state.items())
    storages = {weight.untyped_storage().data_ptr() for weight in theirs.values()}
    assert len(storages) == len(theirs)  # Each its own memory, as a safetensors file wants.
    assert all(weight.is_contiguous() for weight in theirs.values())


def test_attention_names_of_old_diffusers_files_are_read() -> None:
    settings = full({})
    network = UNet(**settings)
    randomise(network, 3)
    theirs = to_diffusers(network.state_dict(), settings)
    names = (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn"))
    old = {}
    for name, weight in theirs.items():
        for new_name, old_name in names:
            name = name.replace(f".{new_name}.", f".{old_name}.")
        old[name] = weight
    assert "mid_block.attentions.0.proj_attn.bias" in old and not any("to_" in name for name in old)
    back = from_diffusers(old, settings)
    assert all(torch.equal(back[name], weight) for name, weight in network.state_dict().items())


def test_weights_of_another_network_are_refused_in_one_line() -> None:
    settings = full({})
    state = UNet(**settings).state_dict()
    theirs = to_diffusers(state, settings)

    def refused(call: Any, weights: dict[str, Tensor], with_settings: Settings, *words: str) -> None:
        with pytest.raises(FromnoiseError) as caught:
            call(weights, with_settings)
        message = str(caught.value)
        assert "\n" not in message
        assert all(word in message for word in words), message

    one_less = {name: weight for name, weight in theirs.items() if name != "conv_in.bias"}
    refused(from_diffusers, one_less, settings, "conv_in.bias is missing")
    refused(from_diffusers, {**theirs, "foreign": theirs["conv_in.bias"]}, settings, "foreign is not expected")
    refused(from_diffusers, theirs, full({"num_res_blocks": 2}), "resnets.1.norm1.weight", "more are missing")
    refused(from_diffusers, theirs, full({"attention_resolutions": ()}), "more are not expected")
    refused(from_diffusers, theirs, full({"in_channels": 1}), "conv_in.weight is 32x3x3x3, expected 32x1x3x3")
    refused(to_diffusers, theirs, settings, "the network", "more are missing")
    refused(to_diffusers, state, full({"model_channels": 64}), "time.0.weight is 128x32, expected 256x64")


def test_a_network_that_diffusers_cannot_express_is_refused() -> None:
    small = {"in_channels": 1, "out_channels": 1, "attention_resolutions": ()}
    settings = {**small, "model_channels": 32, "channel_mult": (2, 2)}
    with pytest.raises(FromnoiseError, match="begin with 1"):
        diffusers_config(**settings)
    with pytest.raises(FromnoiseError, match="begin with 1"):
        to_diffusers(UNet(**settings).state_dict(), settings)
    assert diffusers_config(**small, model_channels=24, channel_mult=(1,))["norm_num_groups"] == 12
