"""A diagonal Gaussian, and the arithmetic the variational bound needs from it. All results are in nats.

Source: Ho, Jain, Abbeel 2020 (arXiv 2006.11239), equations 5 and 13; the tanh form of the normal CDF is that of the
authors' code.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

HALF_BIN = 1 / 255
"""Half the distance between two grey levels when 0 … 255 is mapped to −1 … 1."""


@dataclass(frozen=True)
class Gaussian:
    """Independent normals: ``mean`` (B, C, H, W) and ``log_variance`` that broadcasts with it.

    A variance of 0 (log −inf) is a point: its sample is the mean.
    """

    mean: Tensor
    log_variance: Tensor

    def sample(self, eps: Tensor) -> Tensor:
        """mean + deviation · eps, with the standard normal ``eps`` of the mean's shape."""
        return self.mean + (0.5 * self.log_variance).exp() * eps

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density at ``x``, per element."""
        square = (x - self.mean).square() * (-self.log_variance).exp()
        return -0.5 * (math.log(2 * math.pi) + self.log_variance + square)

    def kl(self, other: "Gaussian") -> Tensor:
        """KL(self ‖ other), per element."""
        ratio = self.log_variance - other.log_variance
        square = (self.mean - other.mean).square() * (-other.log_variance).exp()
        return 0.5 * (ratio.exp() - 1 - ratio + square)

    def discretized_log_prob(self, x: Tensor) -> Tensor:
        """Log-probability of the grey level at ``x`` (in −1 … 1), per element: the paper's decoder, equation 13.

        The bin reaches half a level to each side, and to infinity at the two ends; probabilities are floored at 1e-12.
        """
        inverse = (-0.5 * self.log_variance).exp()
        above = _normal_cdf(inverse * (x - self.mean + HALF_BIN))
        below = _normal_cdf(inverse * (x - self.mean - HALF_BIN))
        inside = torch.where(x < -0.999, above, torch.where(x > 0.999, 1 - below, above - below))
        return inside.clamp(min=1e-12).log()


def _normal_cdf(x: Tensor) -> Tensor:
    """The tanh approximation of the standard normal CDF, off by at most 2e-4; the paper's figures are made with it."""
    return 0.5 * (1 + (math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)).tanh())


def bits_per_dim(nats: Tensor) -> Tensor:
    """Per-element nats (B, ...) -> bits per dimension (B,): the mean over dimensions divided by ln 2."""
    return nats.flatten(1).mean(1) / math.log(2)
