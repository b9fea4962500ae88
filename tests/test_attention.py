"""Attention by plain products: the same as PyTorch's own, forwards and backwards, and little is remembered between."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fromnoise.network import attention, products
from fromnoise.network.attention import Attention, mix, mix_back

SHAPES = [(2, 64, 8, 8), (3, 128, 16, 16), (1, 96, 8, 12), (5, 33, 8, 8), (2, 22, 8, 8)]

needs_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="PyTorch without oneDNN")


@pytest.fixture(params=[False, pytest.param(True, marks=needs_onednn)], ids=["by MKL", "by convolutions"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Of the products, each in turn, whatever this processor would have."""
    monkeypatch.setattr(products, "mkl_is_narrow", lambda: request.param)
    return request.param


def tokens(*shape: int) -> list[Tensor]:
    return [torch.randn(shape, generator=torch.Generator().manual_seed(k)) for k in range(4)]


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize(("b", "n", "c"), [(2, 64, 64), (3, 96, 33), (1, 256, 128)])
def test_products_and_gradients_are_those_of_the_formulas_in_float64(b: int, n: int, c: int) -> None:
    q, k, v, d_out = tokens(b, n, c)
    exact = [part.double().requires_grad_() for part in (q, k, v)]
    p = torch.softmax(exact[0] @ exact[1].mT / c**0.5, dim=-1)
    out = p @ exact[2]
    gradients = torch.autograd.grad(out, exact, d_out.double())
    ours, kept = mix(q.clone(), k, v)
    torch.testing.assert_close(kept.double(), p, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(ours.double(), out, rtol=1e-5, atol=1e-6)
    back = mix_back(d_out, q.clone(), k, v, kept)
    torch.testing.assert_close(back.double(), torch.cat(gradients, dim=-1), rtol=1e-4, atol=1e-5)


def through(layer: Attention, x: Tensor) -> list[Tensor]:
    """The output and all gradients for one fixed gradient of it."""
    x = x.detach().requires_grad_()
    y = layer(x)
    weight = torch.randn(y.shape, generator=torch.Generator().manual_seed(9))
    return [y.detach(), *torch.autograd.grad(y, [x, *layer.parameters()], weight)]


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("shape", SHAPES)
def test_equal_to_pytorchs_attention(
    shape: tuple[int, ...], layout: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = Attention(shape[1], 1 if shape[1] % 16 else 16)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    x = torch.randn(shape).to(memory_format=layout)
    assert attention._suits(x)
    ours = through(layer, x)
    with torch.no_grad():
        without = layer(x)
    monkeypatch.setattr(attention, "_suits", lambda x: False)
    for one, other in zip(ours, through(layer, x), strict=True):
        torch.testing.assert_close(one, other, rtol=2e-4, atol=2e-5 * max(1.0, other.abs().max().item()))
    torch.testing.assert_close(without, layer(x).detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("way")
def test_pictures_cut_out_of_others_and_single_ones() -> None:
    """Slices, and a batch of one with a stride that means nothing."""
    layer, x = Attention(64, 32), torch.randn(4, 128, 8, 8).to(memory_format=torch.channels_last)
    whole = through(layer, x[:, :64].contiguous())[0]
    torch.testing.assert_close(through(layer, x[:, :64])[0], whole)
    torch.testing.assert_close(through(layer, x[2:3, :64])[0], whole[2:3], rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("way")
def test_only_x_and_the_probabilities_are_remembered() -> None:
    layer, x = Attention(64, 32), torch.randn(4, 64, 8, 8).to(memory_format=torch.channels_last).requires_grad_()
    saved: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        saved[tensor.data_ptr()] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        layer(x)
    known = {p.data_ptr() for p in layer.parameters()} | {x.data_ptr()}
    probabilities, out, statistics = 4 * 64 * 64, 4 * 64 * 64, 4 * 32
    assert sorted(n for place, n in saved.items() if place not in known) == sorted(
        [statistics, statistics, probabilities, out]
    ), "besides what the projection behind it needs"


@pytest.mark.parametrize(
    ("shape", "dtype", "suits"),
    [
        ((2, 64, 8, 8), torch.float32, True),
        ((2, 64, 8, 8), torch.float64, False),  # where exactness is wanted and not speed
        ((2, 64, 4, 4), torch.float32, False),  # small
        ((2, 64, 16, 16), torch.float32, False),  # P is larger than q, k and v
    ],
)
def test_where_it_is_used(shape: tuple[int, ...], dtype: torch.dtype, suits: bool) -> None:
    x = torch.zeros(shape, dtype=dtype)
    assert attention._suits(x) == suits and not attention._suits(x.to("meta"))
    with torch.autocast("cpu", torch.bfloat16):
        assert attention._suits(x) == suits
        assert attention._suits(x.bfloat16()) == (suits or dtype == torch.float64)
    assert not attention._suits(x.bfloat16())  # Weights of that precision have no home here.


def test_which_way_is_taken() -> None:
    """A processor of AMD from Zen 5 on, and no other; in single precision alone."""
    linux = "processor\t: 0\nvendor_id\t: {}\ncpu family\t: {}\nmodel\t\t: 17\n"
    assert products.amd_family(linux.format("AuthenticAMD", 25)) == 25
    assert products.amd_family("AMD64 Family 26 Model 68 Stepping 0, AuthenticAMD") == 26
    for other in (linux.format("GenuineIntel", 6), "Intel64 Family 26 Model 1 Stepping 0, GenuineIntel", "arm", ""):
        assert products.amd_family(other) == 0


@pytest.mark.parametrize(
    ("told", "capability", "narrow"),
    [
        ("vendor_id : AuthenticAMD\ncpu family : 26", "AVX512", torch.backends.mkl.is_available()),
        ("vendor_id : AuthenticAMD\ncpu family : 26", "AVX2", False),  # as ATEN_CPU_CAPABILITY may ask for
        ("vendor_id : AuthenticAMD\ncpu family : 25", "AVX512", False),
        ("vendor_id : GenuineIntel\ncpu family : 26", "AVX512", False),
    ],
)
def test_the_processor_decides(told: str, capability: str, narrow: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products.Path, "read_text", lambda *_, **__: told)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert products.mkl_is_narrow.__wrapped__() == narrow


def test_under_autocast_it_is_as_near_to_the_truth_as_pytorchs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outputs and gradients, in half precision and against float64."""
    layer, x = Attention(128, 32), torch.randn(3, 128, 16, 16, generator=torch.Generator().manual_seed(1))
    for k, parameter in enumerate(layer.parameters()):
        torch.nn.init.normal_(parameter, std=0.2, generator=torch.Generator().manual_seed(k))
    found = []
    for suits in (True, False):
        if not suits:
            monkeypatch.setattr(attention, "_suits", lambda x: False)
        with torch.autocast("cpu", torch.bfloat16):
            assert attention._suits(x) == suits
            found.append(through(layer, x.clone()))
    exact = through(layer.double(), x.double())
    for ours, theirs, true in zip(*found, exact, strict=True):
        assert ours.is_contiguous()  # So that the norms behind it are fast.
        near, usual = ((one.double() - true).norm() / true.norm() for one in (ours, theirs))
        assert near < 1.5 * usual + 1e-3 and usual < 0.05


def test_second_derivatives_are_refused_and_not_wrong() -> None:
    layer, x = Attention(64, 32), torch.randn(1, 64, 8, 8, requires_grad=True)
    (first,) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


def test_the_formula_of_the_paper() -> None:
    """One head over all pixels, scaled by C^−½, with a residual: written out, in float64."""
    layer = Attention(12, 3).double()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    x = torch.randn(2, 12, 3, 5, dtype=torch.float64)
    y = F.group_norm(x, 3, layer.norm.weight, layer.norm.bias, 1e-6).flatten(2)
    q, k, v = (layer.qkv.weight[:, :, 0, 0] @ y + layer.qkv.bias[:, None]).chunk(3, dim=1)
    mixed = v @ torch.softmax(q.mT @ k / 12**0.5, dim=-1).mT
    expected = x + (layer.out.weight[:, :, 0, 0] @ mixed + layer.out.bias[:, None]).view_as(x)
    torch.testing.assert_close(layer(x), expected)
