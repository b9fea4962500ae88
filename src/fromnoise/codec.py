"""Between uint8 pictures and x_0, the space in which diffusion happens."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from fromnoise.types import Images, Latents


class Codec(ABC):
    """Pictures to x_0 and back."""

    @abstractmethod
    def encode(self, images: Images) -> Latents:
        """uint8 (B, C, H, W) -> x_0."""

    @abstractmethod
    def decode(self, x_0: Latents) -> Images:
        """x_0 -> uint8 (B, C, H, W)."""


@dataclass(frozen=True, kw_only=True)
class Pixels(Codec):
    """x_0 = image / 127.5 − 1, without dequantisation. Ho et al. 2020, section 3.3.

    Decoding rounds to the nearest grey level (the authors' code cuts off), so decode(encode(image)) is the image.
    """

    def encode(self, images: Images) -> Latents:
        """uint8 (B, C, H, W) -> float32 in −1 … 1. Raises ``ValueError`` for any other type."""
        if images.dtype != torch.uint8:
            raise ValueError(f"pictures are uint8 here, not {str(images.dtype).removeprefix('torch.')}")
        return images.float() / 127.5 - 1

    def decode(self, x_0: Latents) -> Images:
        """Any real x_0 -> uint8; values outside −1 … 1 go to the nearest end, and NaN to 0."""
        levels: Tensor = (x_0.float() + 1) * 127.5
        return levels.nan_to_num(0.0).round().clamp(0, 255).to(torch.uint8)
