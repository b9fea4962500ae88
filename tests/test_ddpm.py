"""The introductory page's own code, as it writes it, on our objects: it runs, and gives the numbers that ours give."""

import doctest
import math
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from fromnoise import ddpm
from fromnoise.ddpm import DiffusionModel, NoiseSchedule, UNet, generate_and_save_samples

device = torch.device("cpu")

# --------------------------------------------------------------------------------------------- what the page writes
# Its functions under their own names; only the types are ours.


def timestep_embedding(t: Tensor, dim: int = 128) -> Tensor:
    """Convert timestep to embedding (sinusoidal like Transformers)"""
    half_dim = dim // 2
    emb: Any = math.log(10000) / (half_dim - 1)
    emb = torch.exp(torch.arange(half_dim) * -emb)
    emb = t[:, None] * emb[None, :]
    emb = torch.cat([torch.sin(emb), torch.cos(emb)], dim=-1)
    return emb


class PageModel(nn.Module):
    def __init__(self, image_channels: int = 3, model_channels: int = 128) -> None:
        super().__init__()
        self.unet = UNet(
            in_channels=image_channels,
            out_channels=image_channels,  # Predict noise (same shape as input)
            model_channels=model_channels,
            num_res_blocks=2,
            attention_resolutions=[16, 8],
            channel_mult=[1, 2, 4, 4],
        )

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.unet(x, t)


def train_step(model: nn.Module, x0: Tensor, noise_schedule: Any, optimizer: torch.optim.Optimizer) -> float:
    """Single training step for DDPM"""
    batch_size = x0.shape[0]
    device = x0.device
    # 1. Sample random timesteps for each image in the batch
    t = torch.randint(0, noise_schedule.T, (batch_size,), device=device)
    # 2. Sample noise
    noise = torch.randn_like(x0)
    # 3. Create noisy images
    alpha_bar_t = noise_schedule.alpha_bar[t].view(-1, 1, 1, 1)
    x_t = torch.sqrt(alpha_bar_t) * x0 + torch.sqrt(1 - alpha_bar_t) * noise
    # 4. Predict noise
    predicted_noise = model(x_t, t)
    # 5. Compute loss (MSE between predicted and actual noise)
    loss = F.mse_loss(predicted_noise, noise)
    # 6. Backpropagation
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def train_ddpm(model: nn.Module, dataloader: Any, noise_schedule: Any, num_epochs: int = 100) -> None:
    """Train DDPM model"""
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-4)
    model.train()
    for epoch in range(num_epochs):
        epoch_loss = 0.0
        for batch_idx, (images, _) in enumerate(dataloader):
            images = images.to(device)
            # Training step
            loss = train_step(model, images, noise_schedule, optimizer)
            epoch_loss += loss
            if batch_idx % 100 == 0:
                print(f"Epoch {epoch}, Batch {batch_idx}, Loss: {loss:.4f}")
        avg_loss = epoch_loss / len(dataloader)
        print(f"Epoch {epoch} completed. Average Loss: {avg_loss:.4f}")
        # Generate samples periodically
        if epoch % 10 == 0:
            generate_and_save_samples(model, noise_schedule, epoch)


@torch.no_grad()
def sample_ddpm(model: nn.Module, shape: Any, noise_schedule: Any, device: Any) -> Tensor:
    """Generate samples using DDPM"""
    model.eval()
    T = noise_schedule.T
    # Start from pure noise
    x = torch.randn(shape, device=device)
    # Iteratively denoise
    for t in reversed(range(T)):
        # Create batch of timesteps
        t_batch = torch.full((shape[0],), t, device=device, dtype=torch.long)
        # Predict noise
        predicted_noise = model(x, t_batch)
        # Get schedule values
        alpha_t = noise_schedule.alpha[t]
        alpha_bar_t = noise_schedule.alpha_bar[t]
        beta_t = noise_schedule.beta[t]
        # Compute mean of reverse distribution
        mean = (x - (beta_t / torch.sqrt(1 - alpha_bar_t)) * predicted_noise) / torch.sqrt(alpha_t)
        # Add noise (except for final step)
        if t > 0:
            variance = beta_t
            noise = torch.randn_like(x)
            x = mean + torch.sqrt(variance) * noise
        else:
            # Final step: no noise
            x = mean
    return x


# --------------------------------------------------------------------------------------------------------- the tests

SCHEDULE = NoiseSchedule(T=20, beta_1=1e-4, beta_T=0.02)


def model() -> DiffusionModel:
    """Narrow, and with weights far from their start, so that its noise depends on everything."""
    torch.manual_seed(7)
    made = DiffusionModel(image_channels=1, model_channels=8, resolution=16)
    with torch.no_grad():
        for p in made.parameters():
            p.add_(0.03 * torch.randn_like(p))
    return made


def pictures(count: int = 4) -> Tensor:
    return torch.linspace(-1, 1, count * 256).reshape(count, 1, 16, 16).sin()


def test_the_embedding_is_the_pages() -> None:
    t = torch.tensor([0, 1, 7, 500, 999])
    for dim in (8, 128, 320):
        torch.testing.assert_close(ddpm.timestep_embedding(t, dim), timestep_embedding(t, dim), atol=1e-6, rtol=0)
    assert ddpm.timestep_embedding(t).shape == (5, 128)


def test_the_pages_model_is_ours_and_takes_whole_numbers_for_times() -> None:
    with torch.device("meta"):
        theirs, ours = PageModel(), DiffusionModel(image_channels=3, model_channels=128)
    assert {k: v.shape for k, v in theirs.state_dict().items()} == {k: v.shape for k, v in ours.state_dict().items()}
    made, x = model().eval(), pictures()
    with torch.no_grad():
        assert torch.equal(made(x, torch.tensor([0, 3, 5, 9])), made(x, torch.tensor([0.0, 3.0, 5.0, 9.0])))


def test_the_tables_are_the_papers_and_indexed_by_times() -> None:
    schedule = NoiseSchedule()
    beta = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    alpha_bar = (1 - beta).cumprod(0)
    for ours, exact in [(schedule.beta, beta), (schedule.alpha, 1 - beta), (schedule.alpha_bar, alpha_bar)]:
        assert ours.dtype == torch.float32 and torch.equal(ours, exact.float())
    assert schedule.T == 1000 and schedule.alpha_bar[-1].item() == pytest.approx(4.0358e-5, rel=1e-4)
    t = torch.tensor([0, 999, 3])
    assert schedule.alpha_bar[t].view(-1, 1, 1, 1).shape == (3, 1, 1, 1)
    moved = SCHEDULE.to("cpu")
    assert moved.T == 20 and torch.equal(moved.beta, SCHEDULE.beta)


def test_the_training_step_gives_the_same_loss_and_the_same_weights() -> None:
    made = {"page": model(), "ours": model()}
    losses: dict[str, list[float]] = {}
    for name, step in [("page", train_step), ("ours", ddpm.train_step)]:
        optimizer = torch.optim.SGD(made[name].parameters(), lr=0.01)
        torch.manual_seed(3)
        losses[name] = [step(made[name], pictures(), SCHEDULE, optimizer) for _ in range(3)]
    assert losses["ours"] == pytest.approx(losses["page"], abs=1e-6)
    assert losses["ours"][0] != losses["ours"][1]
    for a, b in zip(made["ours"].parameters(), made["page"].parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


def test_the_sampling_loop_gives_the_same_pictures() -> None:
    made = model()
    torch.manual_seed(4)
    theirs = sample_ddpm(made, (3, 1, 16, 16), SCHEDULE, device)
    torch.manual_seed(4)
    ours = ddpm.sample_ddpm(made.train(), (3, 1, 16, 16), SCHEDULE, device)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)
    assert theirs.abs().max() > 1, "were x_0 clipped here, it would show"
    assert not made.training
    ours.add_(1).requires_grad_()  # An ordinary tensor, to go on with.


def test_the_training_loop_runs_as_the_page_writes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    dataloader = DataLoader(TensorDataset(pictures(6), torch.zeros(6)), batch_size=4)
    printed, grids, last = [], [], []
    for loop in (train_ddpm, ddpm.train_ddpm):
        made = model()
        torch.manual_seed(5)
        loop(made, dataloader, SCHEDULE, num_epochs=2)
        printed.append(capsys.readouterr().out)
        grids.append((tmp_path / "samples/epoch_0000.png").read_bytes())
        last.append(torch.cat([p.detach().flatten() for p in made.parameters()]))
    assert [line.partition("Loss: ")[0] for line in printed[0].splitlines()] == [
        "Epoch 0, Batch 0, ",
        "Epoch 0 completed. Average ",
        "Epoch 1, Batch 0, ",
        "Epoch 1 completed. Average ",
    ]
    ours, theirs = ([float(line.rpartition(" ")[2]) for line in text.splitlines()] for text in printed[::-1])
    assert ours == pytest.approx(theirs, abs=1.01e-4)
    assert not (tmp_path / "samples/epoch_0001.png").exists()
    with Image.open(tmp_path / "samples/epoch_0000.png") as picture:
        assert picture.size == (2 * (4 * 18 + 2), 2 * (4 * 18 + 2)) and picture.mode == "L"


def test_the_training_loop_returns_the_mean_loss_of_every_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    seen: list[float] = []
    step = ddpm.train_step

    def watched(*arguments: Any) -> float:
        seen.append(step(*arguments))
        return seen[-1]

    monkeypatch.setattr(ddpm, "train_step", watched)
    dataloader = DataLoader(TensorDataset(pictures(6), torch.zeros(6)), batch_size=4)
    means = ddpm.train_ddpm(model(), dataloader, SCHEDULE, num_epochs=2)
    assert means == [sum(seen[:2]) / 2, sum(seen[2:]) / 2]


def test_samples_of_any_model_can_be_saved(tmp_path: Path) -> None:
    class Zero(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return self.weight * x

    with pytest.raises(ValueError, match=r"the shape \(C, H, W\) of a picture must be given"):
        generate_and_save_samples(Zero(), SCHEDULE, 3)
    path = generate_and_save_samples(Zero(), SCHEDULE, 3, n=2, shape=(3, 32, 40), folder=tmp_path / "new")
    assert path == tmp_path / "new" / "epoch_0003.png"
    with Image.open(path) as picture:
        assert picture.mode == "RGB" and picture.size == (2 * 42 + 2, 34 + 2)


def test_the_example_in_the_docstring_runs() -> None:
    with warnings.catch_warnings():
        result = doctest.testmod(ddpm)
    assert result.attempted >= 3 and result.failed == 0
