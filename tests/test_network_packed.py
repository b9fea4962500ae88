"""A packed network is the same function, bit for bit where the kernels are, and the network itself stays as it was."""

import pytest
import torch
from torch import Tensor, nn

from fromnoise.network import onednn, packed, winograd
from fromnoise.network.packed import pack
from fromnoise.network.unet import UNet


@pytest.fixture
def network() -> UNet:
    generator = torch.Generator().manual_seed(0)
    network = UNet(3, 3, 32, 1, (8,), (1, 2), resolution=16, dropout=0.3, num_classes=2).eval()
    with torch.no_grad():
        for weight in network.parameters():
            scale = weight[0].numel() ** -0.5 if weight.ndim > 1 else 0.3
            weight.add_(torch.randn(weight.shape, generator=generator) * scale)
    return network


def inputs(batch: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(batch)
    return torch.randn(batch, 3, height, width, generator=generator), torch.arange(batch) * 300


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """No Winograd, which a packed network uses for smaller sizes than one whose weights change."""
    monkeypatch.setattr(winograd, "suits", lambda *_: False)


@torch.inference_mode()
def test_the_same_network_for_every_size_in_turn() -> None:
    """With the algorithms that it chooses for itself: Winograd's for some layers and sizes."""
    network = UNet(3, 3, 64, 1, (8,), (1, 2), resolution=16).eval()
    fast = pack(network)
    for batch, height, width in ((2, 16, 16), (3, 16, 16), (2, 8, 24), (2, 16, 12), (2, 16, 16)):
        x, t = inputs(batch, height, width)
        torch.testing.assert_close(fast(x, t), network(x, t), rtol=1e-5, atol=1e-5)
    chosen = {type(module._kernel) for module in fast.modules() if isinstance(module, packed._PackedConv)}
    assert chosen == ({packed._Direct, packed._Fast} if torch.backends.mkl.is_available() else {packed._Direct})


@torch.inference_mode()
@pytest.mark.usefixtures("plain")
def test_same_bits_for_every_size_in_turn(network: UNet) -> None:
    fast = pack(network)
    assert any(isinstance(module, packed._PackedConv) for module in fast.modules()) == onednn.works()
    for batch, height, width in ((2, 16, 16), (3, 16, 16), (2, 8, 24), (2, 16, 16)):
        x, t = inputs(batch, height, width)
        label = torch.arange(batch) % 3
        assert torch.equal(fast(x, t, label), network(x, t, label))
        assert torch.equal(fast(x, t), network(x, t))


@pytest.mark.usefixtures("plain")
def test_the_network_itself_stays_and_trains_on(network: UNet) -> None:
    network.train()
    names = list(network.state_dict())
    x, t = inputs(2, 16, 16)
    fast = pack(network)
    assert network.training and list(network.state_dict()) == names
    with torch.no_grad():
        before = fast(x, t)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    network(x, t).square().mean().backward()
    optimizer.step()
    network.eval()
    with torch.no_grad():
        assert torch.equal(fast(x, t), before)  # The weights at the time of packing.
        assert torch.equal(pack(network)(x, t), network(x, t))  # Packed again: the new ones.
        assert not torch.equal(network(x, t), before)


def test_a_packed_network_still_differentiates_for_its_input(network: UNet) -> None:
    fast = pack(network)
    x, t = inputs(2, 16, 16)
    grads = []
    for which in (fast, network):
        leaf = x.clone().requires_grad_()
        (grad,) = torch.autograd.grad(which(leaf, t).square().sum(), leaf)
        grads.append(grad)
    torch.testing.assert_close(*grads, rtol=1e-5, atol=1e-5)


def test_other_types_and_networks_without_weights_come_back_as_they_are(network: UNet) -> None:
    double = network.double()
    assert pack(double) is double
    nothing = nn.Identity()
    assert pack(nothing) is nothing


def test_without_the_operators_the_network_is_used_as_it_is(network: UNet, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> Tensor:
        raise AttributeError("mkldnn_reorder_conv2d_weight")

    monkeypatch.setattr(onednn, "reorder", missing)
    monkeypatch.setattr(packed, "works", onednn.works.__wrapped__)  # What it found out before does not count.
    assert pack(network) is network
