"""diffusers' side; the only file here that needs diffusers."""

from collections.abc import Callable

import numpy as np
import torch
from diffusers import DDIMPipeline, DDIMScheduler, UNet2DModel
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from benchmarks.sides import DDIM_STEPS, SETTINGS, Side
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

    def sampler(self) -> Callable[[], Tensor]:
        """``DDIMPipeline`` with its usual ladder, without a progress bar; eps agrees with the clipped x_0, as ours."""
        network = self.network.eval()
        assert isinstance(network, UNet2DModel)
        pipeline = DDIMPipeline(network, DDIMScheduler())
        pipeline.set_progress_bar_config(disable=True)

        def draw() -> Tensor:
            done = pipeline(
                batch_size=self.work.batch,
                generator=torch.Generator().manual_seed(2),
                num_inference_steps=DDIM_STEPS,
                use_clipped_model_output=True,
                output_type="np",
                return_dict=False,
            )
            return torch.from_numpy((np.asarray(done[0]) * 255).round()).to(torch.uint8)

        return draw

    def average(self) -> Callable[[], None]:
        """As diffusers makes it by default; in its faster form where the peer is tuned."""
        parameters = list(self.network.parameters())
        ema = EMAModel(parameters, decay=SETTINGS.ema_decay, foreach=self.tuned)
        return lambda: ema.step(parameters)
