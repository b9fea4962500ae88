"""A mask says what of a picture is known: bool, true there. It broadcasts with (B, C, H, W): (H, W), (1, H, W), ….

Inpainting by resampling and by measurement share it, so that they cannot disagree about which part is painted.
"""

import torch
from torch import Tensor

from fromnoise.errors import WrongUse


def check_mask(mask: Tensor) -> None:
    """Raises ``WrongUse`` for a mask that is not bool."""
    if mask.dtype != torch.bool:
        kind = str(mask.dtype).removeprefix("torch.")
        raise WrongUse(f"a mask is bool, true where a pixel is known, not {kind}: compare it with a threshold")


def keep(mask: Tensor, known: Tensor, x: Tensor) -> Tensor:
    """``known`` where the mask is true, ``x`` (B, C, H, W) elsewhere, bit for bit.

    Raises ``WrongUse`` for a mask of another size than ``x``.
    """
    sides = tuple(mask.shape)
    padded = (1,) * (4 - len(sides)) + sides
    fits = len(padded) == 4 and all(n in {1, m} for n, m in zip(padded, x.shape, strict=True))
    if not fits or padded[2:] != x.shape[2:]:
        raise WrongUse(
            f"a mask of {'x'.join(map(str, sides)) or 'one number'} does not fit pictures of {x.shape[2]}x{x.shape[3]} "
            f"with channels = {x.shape[1]}: it should have their height and width"
        )
    return torch.where(mask.to(x.device), known, x)
