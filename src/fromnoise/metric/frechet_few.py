r"""The Fréchet distance of a few long vectors, without their covariances.

Of n and m vectors of length D, centred, as the rows of A (n, D) and B (m, D), the covariances are C_a = AᵀA / (n − 1)
and C_b = BᵀB / (m − 1). With polar decompositions A = U (AᵀA)^½ and B = V (BᵀB)^½,

    tr (C_a C_b)^½ = ‖C_a^½ C_b^½‖_* = ‖A Bᵀ‖_* / √((n − 1)(m − 1))

where ‖·‖_* is the sum of the singular values. So the whole distance

    d² = |m_a − m_b|² + tr C_a + tr C_b − 2 ‖A Bᵀ‖_* / √((n − 1)(m − 1))

takes a matrix of n × m instead of D × D: 256 against 1024 pictures of 256² pixels fit a laptop, where two covariances
of 196,608² do not. It is the distance of :mod:`fromnoise.metric.frechet`, not an estimate of it. Like that one it is
far above zero for few pictures, though they be real: compare it only with the distance of as many real ones.

Source: Heusel et al. 2017 (arXiv 1706.08500), eq. 6; the identity is that of the polar decomposition.
"""

import torch
from torch import Tensor

from fromnoise.errors import WrongUse

_CHUNK_ELEMENTS = 2**22  # 32 MiB of float64 at a time.


def frechet_of_few(a: Tensor, b: Tensor) -> float:
    """d² between the rows of ``a`` (n, D) and of ``b`` (m, D), in their unit squared; float64 whatever they are.

    Columns are taken a few at a time, so memory goes with n · m. Raises :class:`~fromnoise.errors.WrongUse` for fewer
    than two rows and for vectors of different lengths.
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise WrongUse(f"features of shapes {tuple(a.shape)} and {tuple(b.shape)} cannot be compared")
    if min(len(a), len(b)) < 2:
        raise WrongUse(f"a covariance needs at least 2 feature vectors, not {min(len(a), len(b))}")
    n, m = len(a) - 1, len(b) - 1
    distance, product = 0.0, torch.zeros(len(a), len(b), dtype=torch.float64)
    width = max(1, _CHUNK_ELEMENTS // (len(a) + len(b)))
    for start in range(0, a.shape[1], width):
        x, y = (rows[:, start : start + width].to("cpu", torch.float64) for rows in (a, b))
        here, there = x.mean(0), y.mean(0)
        x, y = x - here, y - there
        distance += ((here - there).square().sum() + x.square().sum() / n + y.square().sum() / m).item()
        product.addmm_(x, y.T)
    overlap = torch.linalg.svdvals(product).sum().item() / (n * m) ** 0.5
    return max(0.0, distance - 2 * overlap)
