"""What several tests compare with: the reference figures, networks in closed form, and the paper's tables exactly.

Nothing here uses a formula of the package: what is proved must not be its own proof.
"""

from collections.abc import Callable, Iterator
from decimal import Decimal, localcontext
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fromnoise.noise import GivenNoise
from fromnoise.transition import Large, LearnedRange, Small, Variance

VARIANCES: dict[str, Variance] = {"fixed_small": Small(), "fixed_large": Large(), "learned_range": LearnedRange()}
"""The names in the fixture, and ours."""


@cache
def _figures() -> dict[str, NDArray[np.generic]]:
    with np.load(Path(__file__).parent / "fixtures" / "openai_linear_1000.npz", allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def figure(name: str) -> Tensor:
    """A reference figure; the file's README says what each one is."""
    return torch.from_numpy(_figures()[name].copy())


def pictures() -> Tensor:
    """x_0 of the fixture's pictures, float32, (2, 1, 4, 4)."""
    return figure("images_uint8").float() / 127.5 - 1


class ClosedForm(nn.Module):
    """The fixture's network: eps = 0.1 x + 0.01 cos(t / 100), and v = 0.5 tanh(x) where the variance is learned."""

    def __init__(self, *, learned: bool = False) -> None:
        super().__init__()
        self.learned = learned

    def forward(self, x: Tensor, c_time: Tensor) -> Tensor:
        eps = 0.1 * x + 0.01 * torch.cos(c_time / 100)[:, None, None, None]
        return torch.cat([eps, 0.5 * torch.tanh(x)], 1) if self.learned else eps


class Function(nn.Module):
    """Any function of (x, c_time) as a network."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor, c_time: Tensor, **condition: object) -> Tensor:
        return self.function(x, c_time, **condition)


class Tables(NamedTuple):
    """The paper's tables as decimal numbers of 60 digits. Entry 0 of ``alpha_bar`` is 1; the rest count from t = 1."""

    beta: list[Decimal]
    alpha_bar: list[Decimal]
    posterior_variance: list[Decimal]


@cache
def exact_linear(steps: int = 1000, first: str = "1e-4", last: str = "0.02") -> Tables:
    """β_t = first + (last − first)(t − 1)/(T − 1), its running product, and β̃ = β (1 − ᾱ_{t−1})/(1 − ᾱ_t)."""
    with localcontext(prec=60):
        low, high = Decimal(first), Decimal(last)
        beta = [low + (high - low) * i / (steps - 1) for i in range(steps)]
        alpha_bar = [Decimal(1)]
        for b in beta:
            alpha_bar.append(alpha_bar[-1] * (1 - b))
        tilde = [b * (1 - s) / (1 - t) for b, s, t in zip(beta, alpha_bar, alpha_bar[1:], strict=False)]
    return Tables(beta, alpha_bar, tilde)


def relative_error(ours: Tensor, exact: list[Decimal]) -> float:
    """The largest |ours − exact| / exact over a table."""
    assert ours.dtype == torch.float64
    assert ours.shape == (len(exact),)
    with localcontext(prec=60):
        return max(abs(float((Decimal(o) - e) / e)) for o, e in zip(ours.tolist(), exact, strict=True))


def gaussian_mean(x_t: Tensor, signal: Tensor, sigma: Tensor, mean: float, deviation: float) -> Tensor:
    """E[x_0 | x_t] for data N(mean, deviation²): the estimate no denoiser can better."""
    gain = signal * deviation**2 / (signal**2 * deviation**2 + sigma**2)
    return mean + gain * (x_t - signal * mean)


def gaussian_network(alpha_bar: Tensor, mean: float, deviation: float) -> Function:
    """The best noise prediction for data N(mean, deviation²), on the table ᾱ_0 … ᾱ_T; told t − 1 like the paper's."""

    def eps(x_t: Tensor, c_time: Tensor) -> Tensor:
        a = alpha_bar[c_time.long() + 1].to(x_t.dtype)[:, None, None, None]
        signal, sigma = a.sqrt(), (1 - a).sqrt()
        return (x_t - signal * gaussian_mean(x_t, signal, sigma, mean, deviation)) / sigma

    return Function(eps)


def impulses(draws: int) -> tuple[Tensor, GivenNoise]:
    """x_T and noise for which picture j of a linear sampler is its answer to draw j alone (0 is x_T itself).

    All draws being independent of variance 1, the variance of what the sampler makes is the sum of the squares.
    """
    unit = torch.eye(draws + 1, dtype=torch.float64).reshape(draws + 1, draws + 1, 1, 1, 1)

    def rest() -> Iterator[Tensor]:
        yield from unit[1:]

    return unit[0], GivenNoise(rest())
