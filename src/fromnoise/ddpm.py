"""The paper's own vocabulary, over the rooms of the house: what an introductory page on DDPM writes runs on it.

Times count 0 … T−1 here, as in most code on the paper; inside fromnoise they are the paper's 1 … T, and 0 is clean.

>>> from fromnoise.ddpm import DiffusionModel, NoiseSchedule, sample_ddpm
>>> model, noise_schedule = DiffusionModel(image_channels=1, model_channels=32, resolution=16), NoiseSchedule(T=4)
>>> sample_ddpm(model, (2, 1, 16, 16), noise_schedule).shape
torch.Size([2, 1, 16, 16])

Source: Ho, Jain, Abbeel 2020 (arXiv 2006.11239), algorithms 1 and 2.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from fromnoise import grid, network
from fromnoise.codec import Pixels
from fromnoise.denoiser import Denoiser
from fromnoise.ladder import All
from fromnoise.network import timestep_embedding
from fromnoise.noise import Noise
from fromnoise.objective import Simple
from fromnoise.parameterization import Epsilon
from fromnoise.sampler import Ancestral, trajectory
from fromnoise.schedule import Linear
from fromnoise.transition import Large

__all__ = [
    "DiffusionModel",
    "NoiseSchedule",
    "UNet",
    "generate_and_save_samples",
    "sample_ddpm",
    "timestep_embedding",
    "train_ddpm",
    "train_step",
]


def UNet(
    in_channels: int,
    out_channels: int,
    model_channels: int = 128,
    num_res_blocks: int = 2,
    attention_resolutions: Sequence[int] = (16, 8),
    channel_mult: Sequence[int] = (1, 2, 4, 4),
    resolution: int = 64,
) -> network.UNet:
    """:class:`fromnoise.network.UNet` with the page's defaults, for pictures of 64×64 unless told otherwise."""
    return network.UNet(
        in_channels,
        out_channels,
        model_channels,
        num_res_blocks,
        attention_resolutions,
        channel_mult,
        resolution=resolution,
    )


class DiffusionModel(nn.Module):
    """A U-Net that predicts noise: two blocks a level, attention at 16×16 and 8×8, multipliers 1, 2, 4, 4.

    ``resolution`` is the side of the pictures in pixels, a multiple of 8; it decides at which levels 16 and 8 are.
    """

    def __init__(self, image_channels: int = 3, model_channels: int = 128, resolution: int = 64) -> None:
        super().__init__()
        self.image_channels, self.resolution = image_channels, resolution
        self.unet = UNet(
            in_channels=image_channels,
            out_channels=image_channels,
            model_channels=model_channels,
            num_res_blocks=2,
            attention_resolutions=[16, 8],
            channel_mult=[1, 2, 4, 4],
            resolution=resolution,
        )

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """The noise in ``x`` (B, C, H, W) at times ``t`` (B,), of the shape of x."""
        return self.unet(x, t)


class NoiseSchedule:
    """``T`` and the tables ``beta``, ``alpha``, ``alpha_bar``: float32, (T,), indexed by times 0 … T−1.

    β is linear from ``beta_1`` to ``beta_T``. The tables are rounded once, from float64; ``schedule`` is the exact one.
    """

    def __init__(
        self, T: int = 1000, beta_1: float = 1e-4, beta_T: float = 0.02, device: torch.device | str = "cpu"
    ) -> None:
        self.T, self._ends = T, (beta_1, beta_T)
        self.schedule = Linear(steps=T, first=beta_1, last=beta_T)
        beta = self.schedule.beta
        self.beta, self.alpha, self.alpha_bar = (
            table.to(device=device, dtype=torch.float32) for table in (beta, 1 - beta, self.schedule.alpha_bar[1:])
        )

    def to(self, device: torch.device | str) -> "NoiseSchedule":
        """The same schedule with its tables on ``device``."""
        return NoiseSchedule(self.T, self._ends[0], self._ends[1], device)


class _WholeTimes(nn.Module):
    """Tells a model the time as the page does: integers, which a table may be indexed by."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.model(x, t.round().long())


class _GlobalNoise(Noise):
    """Draws from PyTorch's global generator, as the page does."""

    def __init__(self, shape: Sequence[int], device: torch.device) -> None:
        self._shape, self._device = tuple(shape), device

    def __call__(self) -> Tensor:
        return torch.randn(self._shape, device=self._device)


def train_step(model: nn.Module, x0: Tensor, noise_schedule: NoiseSchedule, optimizer: torch.optim.Optimizer) -> float:
    """One step of algorithm 1 on ``x0`` (B, C, H, W) in −1 … 1; returns the loss, the mean squared error of the noise.

    Draws times, then noise, from PyTorch's global generator.
    """
    t = torch.randint(0, noise_schedule.T, (x0.shape[0],), device=x0.device)
    noise = torch.randn_like(x0)
    denoiser = Denoiser(_WholeTimes(model), noise_schedule.schedule, Epsilon())
    loss = Simple()(denoiser, x0, (t.double() + 0.5) / noise_schedule.T, noise).value
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def train_ddpm(
    model: nn.Module,
    dataloader: Iterable[tuple[Tensor, Tensor]],
    noise_schedule: NoiseSchedule,
    num_epochs: int = 100,
    lr: float = 2e-4,
) -> list[float]:
    """Train with Adam on batches (pictures in −1 … 1, ignored labels); returns the mean loss of every epoch.

    Samples are saved every tenth epoch. For runs that can be resumed, averaged weights and the rest, train with
    ``fromnoise train`` instead.
    """
    device = next(model.parameters()).device
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    means, shape = [], None
    for epoch in range(num_epochs):
        model.train()
        losses = []
        for batch_idx, (images, _) in enumerate(dataloader):
            shape = images.shape[1:]
            losses.append(train_step(model, images.to(device), noise_schedule, optimizer))
            if batch_idx % 100 == 0:
                print(f"Epoch {epoch}, Batch {batch_idx}, Loss: {losses[-1]:.4f}")
        means.append(sum(losses) / max(len(losses), 1))
        print(f"Epoch {epoch} completed. Average Loss: {means[-1]:.4f}")
        if epoch % 10 == 0:
            generate_and_save_samples(model, noise_schedule, epoch, shape=shape)
    return means


@torch.no_grad()
def sample_ddpm(
    model: nn.Module,
    shape: Sequence[int],
    noise_schedule: NoiseSchedule,
    device: torch.device | str | None = None,
) -> Tensor:
    """Algorithm 2 with variance β_t and without clipping, as the page writes it; returns x_0 of ``shape``.

    The model is left in evaluation mode. ``device`` defaults to the model's.
    """
    model.eval()
    where = torch.device(device) if device is not None else next(model.parameters()).device
    noise, schedule = _GlobalNoise(shape, where), noise_schedule.schedule
    denoiser = Denoiser(_WholeTimes(model), schedule, Epsilon())
    x = noise()
    for step in trajectory(Ancestral(variance=Large()), denoiser, schedule, All().ladder(schedule), x, noise):
        x = step.x
    return x.clone()


def generate_and_save_samples(
    model: nn.Module,
    noise_schedule: NoiseSchedule,
    epoch: int,
    *,
    n: int = 16,
    shape: Sequence[int] | None = None,
    folder: str | Path = "samples",
) -> Path:
    """Sample ``n`` pictures into one grid, ``folder``/epoch_0000.png; returns its path.

    ``shape`` is (C, H, W); a :class:`DiffusionModel` knows its own. Raises ``ValueError`` if neither is known.
    """
    if shape is None:
        if not isinstance(model, DiffusionModel):
            raise ValueError("the shape (C, H, W) of a picture must be given for a model that is no DiffusionModel")
        shape = (model.image_channels, model.resolution, model.resolution)
    x_0 = sample_ddpm(model, (n, *shape), noise_schedule)
    path = Path(folder) / f"epoch_{epoch:04d}.png"
    grid.write_png(grid.to_grid(Pixels().decode(x_0)), path)
    return path
