"""Classifier guidance: the score of p(label | x_t), times a scale, added to the network's own.

    x_0 + w (sigma² / signal) ∇ log p(label | x_t)

Dhariwal & Nichol 2021 (arXiv 2105.05233), section 4 and algorithm 2. Their algorithm 1 adds the same gradient, times
the step's variance, to its mean; in ever smaller steps that is the same.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fromnoise.denoiser import Estimator, Prediction
from fromnoise.errors import WrongUse
from fromnoise.guidance.base import Guided, check_scale, steer, thaw
from fromnoise.schedule import Level

Classify = Callable[[Tensor, Tensor], Tensor]
"""(x_t (B, C, H, W), t (B,)) -> logits (B, classes), differentiable; trained on noisy pictures."""


class Classifier(Guided):
    """``inner`` guided by ``classifier`` towards ``label`` (B,) from the condition.

    ``classifier`` is told the schedule's own time t, (B,); one whose training counted 0 … T−1 is given as
    ``lambda x, t: network(x, t - 1)``. ``inner`` sees the label only if it is ``conditional``. With ``scale`` 0 this is
    the plain call. Raises ``WrongUse`` for a scale below 0, a call without a label, and logits of another shape.
    """

    def __init__(self, inner: Estimator, classifier: Classify, scale: float, *, conditional: bool = False) -> None:
        super().__init__(inner)
        check_scale(scale)
        self.classifier, self.scale, self.conditional = classifier, scale, conditional

    def unclipped(self, x_t: Tensor, level: Level, **condition: Any) -> Prediction:
        """One call of the inner estimator, one of the classifier and its gradient."""
        label = condition.get("label")
        if label is None:
            raise WrongUse("a classifier guides towards a label: give one a picture")
        if not self.conditional:
            condition = {name: value for name, value in condition.items() if name != "label"}
        estimate = self.inner.unclipped(x_t, level, **condition)
        if self.scale == 0:
            return estimate
        return steer(estimate, self.scale * self._gradient(x_t, level, label), level)

    def _gradient(self, x_t: Tensor, level: Level, label: Tensor) -> Tensor:
        """∇ log p(label | x_t), a picture each."""
        with torch.inference_mode(False), torch.enable_grad():
            x, label = thaw(x_t).requires_grad_(), thaw(label)
            t = thaw(level.to(x_t).t.reshape(-1).expand(x_t.shape[0]))
            logits = self.classifier(x, t)
            if logits.ndim != 2 or logits.shape[0] != x.shape[0]:
                raise WrongUse(
                    f"the classifier gave logits of shape {tuple(logits.shape)} for {x.shape[0]} pictures: "
                    f"should be ({x.shape[0]}, classes)"
                )
            chosen = logits.log_softmax(1).gather(1, label.reshape(-1, 1))
            return torch.autograd.grad(chosen.sum(), x)[0]

    def ready(self) -> "Classifier":
        """Around the inner one's; a classifier that is a module is put in evaluation mode."""
        return Classifier(self.inner.ready(), self.classifier, self.scale, conditional=self.conditional).eval()
