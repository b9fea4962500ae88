"""diffusers' side; the only file here that needs diffusers."""

import contextlib
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

    def step(self) -> Callable[[Tensor], None]:
        """Adam as PyTorch makes it by default and the average as diffusers does; faster forms where tuned."""
        parameters = list(self.network.parameters())
        optimizer = torch.optim.Adam(parameters, lr=SETTINGS.lr, fused=True if self.tuned else None)
        ema = EMAModel(parameters, decay=SETTINGS.ema_decay, foreach=self.tuned)

        def step(_: Tensor) -> None:
            nn.utils.clip_grad_norm_(parameters, SETTINGS.clip)
            optimizer.step()
            optimizer.zero_grad()
            ema.step(parameters)

        return step

    def masks(self, number: int) -> contextlib.AbstractContextManager[None]:
        """PyTorch's own generator."""
        return contextlib.nullcontext()

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
