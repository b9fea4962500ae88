"""Plain networks: (x, c_time, condition) -> output. They know nothing of diffusion."""

from fromnoise.network.layers import timestep_embedding
from fromnoise.network.packed import pack
from fromnoise.network.unet import UNet

__all__ = ["UNet", "pack", "timestep_embedding"]
