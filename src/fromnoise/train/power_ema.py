"""Averages of the weights whose length is a share of the run so far, several at once.

θ̂_γ ← β θ̂_γ + (1 − β) θ with β = (1 − 1/n)^(γ+1) after step n: see :mod:`fromnoise.train.posthoc`, which combines what
is stored of them into an average of any other length. The first update copies the weights.

Source: Karras et al. 2024 (arXiv 2312.02696), section 3.1, equation 2.
"""

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from fromnoise.train.posthoc import TRACKED, beta, gamma_of
from fromnoise.train.weights import Listed


class PowerEma:
    """Holds ``networks``, one averaged copy a width (σ_rel), ready for inference and never swapped in.

    A width of 0.10 means: the steps that count spread over a tenth of the run so far (standard deviation).
    Raises ``WrongUse`` for a width that no average has.
    """

    def __init__(self, network: nn.Module, widths: Sequence[float] = TRACKED) -> None:
        self._gammas = {float(width): gamma_of(width) for width in widths}
        self.networks = {width: copy.deepcopy(network).eval().requires_grad_(False) for width in self._gammas}
        self._listed = Listed()

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Take the weights after optimizer step ``step``, counted from 1, into every average; buffers are copied."""
        theirs = self._listed(network)
        numbers = [p.data for p in theirs.parameters]
        for width, averaged in self.networks.items():
            ours = self._listed(averaged)
            torch._foreach_lerp_([p.data for p in ours.parameters], numbers, 1 - beta(step, self._gammas[width]))
            for mine, other in zip(ours.buffers, theirs.buffers, strict=True):
                mine.copy_(other)

    def tensors(self) -> dict[str, Tensor]:
        """Everything to save, by "width/name", for a checkpoint."""
        return {
            f"{width!r}/{name}": value
            for width, averaged in self.networks.items()
            for name, value in averaged.state_dict().items()
        }

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """The inverse of :meth:`tensors`. Raises ``ValueError`` where widths, names or shapes differ."""
        found = sorted({name.partition("/")[0] for name in tensors})
        if found != sorted(repr(width) for width in self.networks):
            raise ValueError(
                f"the averages saved have the widths {', '.join(found) or '(none)'}, and wanted are "
                f"{', '.join(map(repr, self.networks)) or '(none)'}"
            )
        for width, averaged in self.networks.items():
            start = f"{width!r}/"
            own = {name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)}
            try:
                averaged.load_state_dict(own)
            except RuntimeError as error:
                raise ValueError(" ".join(str(error).split())) from error
