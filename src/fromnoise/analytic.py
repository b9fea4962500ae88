"""How much of the noise a denoiser knows, estimated from data: Γ_t, the mean square of its eps at time t.

The best estimate of eps is E[eps | x_t], so 1 − Γ_t is the mean variance of eps given x_t, and from it follows the best
variance of any step down from t (:class:`fromnoise.transition.Analytic`).
Source: Bao, Li, Zhu, Zhang 2022 (Analytic-DPM, arXiv 2201.06503), theorem 1; they find 10 to 100 pictures enough.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fromnoise.denoiser import Estimator
from fromnoise.noise import generator
from fromnoise.schedule import noisy
from fromnoise.transition import Analytic


def estimates(
    denoiser: Estimator,
    batches: Iterable[tuple[Tensor, Mapping[str, Any]]],
    times: Sequence[float],
    *,
    seed: int = 0,
    limit: float = 1.0,
) -> Iterator[Analytic]:
    """Γ at the increasing ``times``, from ``batches`` of (x_0, condition): after every batch, what is known so far.

    x_0 (B, C, H, W) lies where the denoiser computes; the condition is handed to it as keywords. Each picture is noised
    at every time, one network call a time and batch, with noise that depends on ``seed`` and the picture's place alone,
    not on the size of the batches. ``limit`` is that of :class:`~fromnoise.transition.Analytic`. Raises ``ValueError``
    for ``times`` that do not increase or are not on the schedule's clock.
    """
    levels = denoiser.schedule(torch.tensor(times, dtype=torch.float64))
    total, seen = torch.zeros(len(times), dtype=torch.float64), 0
    for x_0, condition in batches:
        sources = [generator("analytic", seed, seen + place) for place in range(len(x_0))]
        squares = []
        for i in range(len(times)):
            eps = torch.stack([torch.randn(x_0.shape[1:], dtype=x_0.dtype, generator=source) for source in sources])
            with torch.inference_mode():
                x_t = noisy(x_0, eps.to(x_0.device, non_blocking=True), levels[i])
                estimate = denoiser.unclipped(x_t, levels[i], **condition).eps
                squares.append(estimate.square().flatten(1).mean(1).sum())
        total += torch.stack(squares).cpu().double()  # Read once a batch, so that no call waits for the one before.
        seen += len(x_0)
        yield Analytic(times=tuple(times), gamma=tuple((total / seen).tolist()), limit=limit)


def estimate(
    denoiser: Estimator,
    batches: Iterable[tuple[Tensor, Mapping[str, Any]]],
    times: Sequence[float],
    *,
    seed: int = 0,
    limit: float = 1.0,
) -> Analytic:
    """The last of :func:`estimates`. Raises ``ValueError`` if there is no picture."""
    made = deque(estimates(denoiser, batches, times, seed=seed, limit=limit), maxlen=1)
    if not made:
        raise ValueError("the analytic variance is estimated from pictures, and there are none")
    return made[0]
