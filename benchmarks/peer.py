"""diffusers' side; the only file here that needs diffusers."""

from collections.abc import Callable

import torch
from diffusers import UNet2DModel
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from benchmarks.sides import SETTINGS, Side
from benchmarks.work import Work
from fromnoise.interop.diffusers_unet import diffusers_config


class Peer(Side):
    """``UNet2DModel``, averaged by diffusers' own ``EMAModel``."""

    def build(self, work: Work) -> nn.Module:
        """The paper's network."""
        return UNet2DModel(**diffusers_config(**work.settings()))

    def call(self, network: nn.Module, x_t: Tensor, t: Tensor) -> Tensor:
        """The tensor out of the tuple."""
        return network(x_t, t, return_dict=False)[0]

    def optimizer(self) -> torch.optim.Optimizer:
        """As PyTorch makes it by default; fused where the peer is tuned."""
        fused = True if self.tuned else None
        return torch.optim.Adam(self.network.parameters(), lr=SETTINGS.lr, fused=fused)

    def average(self) -> Callable[[], None]:
        """As diffusers makes it by default; in its faster form where the peer is tuned."""
        parameters = list(self.network.parameters())
        ema = EMAModel(parameters, decay=SETTINGS.ema_decay, foreach=self.tuned)
        return lambda: ema.step(parameters)
