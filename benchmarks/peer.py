"""diffusers' side; the only file here that needs diffusers."""

from collections.abc import Callable

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

    def average(self) -> Callable[[], None]:
        """In its faster form."""
        parameters = list(self.network.parameters())
        ema = EMAModel(parameters, decay=SETTINGS.ema_decay, foreach=True)
        return lambda: ema.step(parameters)
