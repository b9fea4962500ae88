"""Names for the shapes that travel through the house; all are plain tensors or arrays.

The comments are the contract: B pictures of C channels, H rows and W columns.
"""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Images: TypeAlias = Tensor
"""uint8, (B, C, H, W): pictures as people and files hold them."""

Latents: TypeAlias = Tensor
"""floating point, (B, C, H, W): x_0, x_t, eps and everything else the mathematics touches."""

Labels: TypeAlias = Tensor
"""int64, (B,): class numbers, 0 … classes − 1."""

ImageArray: TypeAlias = NDArray[np.uint8]
"""uint8, (B, H, W, C): finished pictures, as NumPy, Pillow and matplotlib like them."""

Shape: TypeAlias = tuple[int, int, int]
"""(C, H, W) of one picture."""

Network: TypeAlias = Callable[..., Tensor]
"""(x, c_time, **condition) -> output: anything that may be called so."""
