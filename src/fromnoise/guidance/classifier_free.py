"""Classifier-free guidance: away from what a network says without the condition, beyond what it says with it.

    x_0 = u + w (c − u)

with c the estimate given the label, or the values, and u the one given none. Ho & Salimans 2022 (arXiv 2207.12598),
whose own w is ours less 1: here 1 is no guidance, and 0 forgets the condition.
"""

import torch
from torch import Tensor

from fromnoise.denoiser import Estimator, Prediction, from_x_0
from fromnoise.errors import WrongUse
from fromnoise.guidance.base import Guided, Interval, check_interval, check_scale, choose, extrapolate, inside
from fromnoise.schedule import Level


class ClassifierFree(Guided):
    """``inner`` twice in one batch: with ``label`` (B,) and ``values`` (B, K) from the condition, and without.

    Without means ``null_label`` in place of a label, and NaN in place of values.

    * ``interval``: guided only where t / horizon lies in it (Kynkäänniemi et al. 2024, arXiv 2404.07724); elsewhere,
      and everywhere with ``scale`` 1, this is the plain call.
    * ``rescale`` φ, 0 to 1: how much of its excess contrast the result loses (Lin et al. 2023, arXiv 2305.08891,
      equations 15 and 16).

    The raw variance is that of the conditional half. Raises ``WrongUse`` for numbers out of range, and when called
    without label and values.
    """

    def __init__(
        self,
        inner: Estimator,
        scale: float,
        *,
        null_label: int,
        interval: Interval = (0.0, 1.0),
        rescale: float = 0.0,
    ) -> None:
        super().__init__(inner)
        check_scale(scale)
        check_interval(interval)
        if not 0 <= rescale <= 1:
            raise WrongUse(f"guidance rescale = {rescale}: must lie between 0 (none) and 1 (all)")
        self.scale, self.null_label, self.interval, self.rescale = scale, null_label, interval, rescale

    def unclipped(self, x_t: Tensor, level: Level, **condition: Tensor | None) -> Prediction:
        """One call of the inner estimator, on 2B pictures where it is guided."""
        where = inside(self.interval, level, self.schedule)
        if self.scale == 1 or not bool(where.any()):
            return self.inner.unclipped(x_t, level, **condition)
        nothing = {"label": self.null_label, "values": torch.nan}
        said = {name: value for name in nothing if (value := condition.get(name)) is not None}
        if not said:
            raise WrongUse("guidance needs to know the label or the values that it should strengthen: give some")
        doubled = {name: None if value is None else _twice(value) for name, value in condition.items()}
        for name, value in said.items():
            doubled[name] = torch.cat([value, torch.full_like(value, nothing[name])])
        levels = Level(*map(_twice, (level.t, level.signal, level.sigma))) if level.t.ndim else level
        both = self.inner.unclipped(_twice(x_t), levels, **doubled)
        (with_, without), (eps_with, eps_without) = both.x_0.chunk(2), both.eps.chunk(2)
        given = Prediction(with_, eps_with, None if both.raw_variance is None else both.raw_variance.chunk(2)[0])
        guided = extrapolate(Prediction(without, eps_without, None), given, self.scale)
        if self.rescale > 0:
            guided = from_x_0(x_t, self._rescaled(guided.x_0, given.x_0), level, given.raw_variance)
        return choose(where, guided, given)

    def _rescaled(self, guided: Tensor, given: Tensor) -> Tensor:
        """Each picture brought back, by the share φ, to the standard deviation it has without guidance."""
        wanted, found = given.flatten(1).std(1), guided.flatten(1).std(1)
        ratio = torch.where(found > 0, wanted / found, torch.ones_like(found))
        return guided * (self.rescale * ratio + 1 - self.rescale).reshape(-1, *[1] * (guided.ndim - 1))

    def ready(self) -> "ClassifierFree":
        """Around the inner one's."""
        return ClassifierFree(
            self.inner.ready(),
            self.scale,
            null_label=self.null_label,
            interval=self.interval,
            rescale=self.rescale,
        ).eval()


def _twice(tensor: Tensor) -> Tensor:
    return torch.cat([tensor, tensor])
