r"""The Fréchet distance between two streams of features, each seen as one Gaussian.

    d² = |m_a − m_b|² + tr(C_a + C_b − 2 (C_a C_b)^½)

It has the features' unit squared. On features of the Inception network this number is the FID; on any other features
it is not, and is never called so.

The trace of the root needs no matrix root of a non-symmetric product: with the symmetric roots A and B of the two
covariances, (C_a C_b)^½ has the trace of (A C_b A)^½ = |B A|, which is the sum of the singular values of A B. That form
is symmetric in its arguments and, unlike roots of eigenvalues of the product, does not turn a rounding error of 1e-16
into one of 1e-8. Covariances may be singular (fewer pictures than features, pixels that never change): nothing is
inverted and no epsilon is added; eigenvalues that float64 cannot tell from zero count as zero.

Source: Dowson and Landau 1982 (J. Multivariate Anal. 12, 450), eq. 4; Heusel et al. 2017 (arXiv 1706.08500), eq. 6.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from fromnoise.errors import WrongUse


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """A Gaussian fitted to ``count`` feature vectors.

    ``mean`` (D,) and ``cov`` (D, D), float64 on the CPU; the covariance is the unbiased one, divided by count − 1.
    """

    mean: Tensor
    cov: Tensor
    count: int

    @classmethod
    def of(cls, batches: Iterable[Tensor]) -> Self:
        """Fits a stream of batches (B, D) of any sizes, one batch in memory at a time, in float64.

        Each batch is merged by its own mean and its own sum of squares about it (Chan, Golub and LeVeque 1983), so
        nothing cancels however far the mean is from zero. Batches may be empty.

        Raises :class:`~fromnoise.errors.WrongUse` for fewer than two vectors, other shapes and values that are not
        finite.
        """
        count, mean, scatter = 0, torch.zeros(()), torch.zeros(())
        for batch in batches:
            x = batch.detach().to("cpu", torch.float64)
            if x.ndim != 2 or (count and x.shape[1] != mean.shape[0]):
                wanted = f"(B, {mean.shape[0]})" if count else "(B, D)"
                raise WrongUse(f"features must come as {wanted}, not {tuple(x.shape)}")
            if not torch.isfinite(x).all():
                raise WrongUse(f"features {count} to {count + len(x) - 1} hold values that are not finite")
            if len(x) == 0:
                continue
            if count == 0:
                mean, scatter = x.new_zeros(x.shape[1]), x.new_zeros(x.shape[1], x.shape[1])
            own = x.mean(0)
            x = x - own
            apart = own - mean
            scatter.addmm_(x.T, x)
            scatter.addr_(apart, apart, alpha=count * len(x) / (count + len(x)))
            mean += apart * (len(x) / (count + len(x)))
            count += len(x)
        if count < 2:
            raise WrongUse(f"a covariance needs at least 2 feature vectors, not {count}")
        return cls(mean=mean, cov=scatter / (count - 1), count=count)


def frechet_distance(a: Statistics, b: Statistics) -> float:
    """d² of the two Gaussians, at least 0; symmetric up to rounding; 0 for equal ones.

    Raises :class:`~fromnoise.errors.WrongUse` for features of different lengths.
    """
    if a.mean.shape != b.mean.shape:
        raise WrongUse(f"features of lengths {len(a.mean)} and {len(b.mean)} cannot be compared")
    overlap = torch.linalg.svdvals(_root(a.cov) @ _root(b.cov)).sum()
    distance = (a.mean - b.mean).square().sum() + a.cov.trace() + b.cov.trace() - 2 * overlap
    return max(0.0, distance.item())


def _root(cov: Tensor) -> Tensor:
    """The symmetric root of a covariance; eigenvalues within rounding of zero (the usual rank rule) are zero."""
    values, vectors = torch.linalg.eigh(cov)
    negligible = values[-1:] * len(values) * torch.finfo(values.dtype).eps
    return (vectors * torch.where(values > negligible, values, 0).clamp(min=0).sqrt()) @ vectors.T
