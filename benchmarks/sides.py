"""The two sides and the work they do: a network call, a training step (loss, gradient clip, Adam, average), and
pictures from 20 steps of DDIM, from the noise to the bytes.

The loop is the same code for both; network, optimizer, average and allocator setting are each side's own:

* CPU: float32. CUDA: float32 weights, bfloat16 autocast, channels-last memory, cuDNN's own search.
* Our side calls ``keep_freed_memory`` on a CPU and packs the network for inference, as our commands do. Its step is
  that of our training loop: dropout by the picture, the guard, clipping and Adam in one pass. "ours, again" computes
  the activations again in the backward pass.
* The peer is ``diffusers.UNet2DModel`` with one head of attention and the paper's constants, averaged by diffusers'
  own ``EMAModel``, with Adam and the average as they come by default, which is how diffusers' own training example
  runs them; "peer, tuned" has fused Adam, the average's ``foreach`` form and ``keep_freed_memory``, as our side has.
"""

import contextlib
import functools
import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor, nn

from benchmarks.work import Work
from fromnoise.codec import Pixels
from fromnoise.denoiser import Clip, Denoiser
from fromnoise.interop.diffusers_unet import to_diffusers
from fromnoise.ladder import Leading
from fromnoise.memory import keep_freed_memory
from fromnoise.network.dropout import dropout_seeds
from fromnoise.network.packed import pack
from fromnoise.network.unet import UNet
from fromnoise.parameterization import Epsilon
from fromnoise.pipeline import Pipeline
from fromnoise.sampler import DDIM
from fromnoise.schedule import Linear
from fromnoise.train.learner import Learner
from fromnoise.train.loop import update
from fromnoise.train.settings import TrainSettings

SETTINGS = TrainSettings()  # The paper's: Adam with 2e-4, clipping at 1, EMA 0.9999.
DDIM_STEPS = 20


class Side(ABC):
    """A network for one piece of work, with the weights of a file."""

    def __init__(self, work: Work, weights: Path, tuned: bool) -> None:
        self.work, self.tuned = work, tuned
        if tuned and work.device == "cpu":
            keep_freed_memory()
        network = self.build(work)
        with safe_open(weights, "pt") as file, torch.no_grad():
            for name, parameter in network.named_parameters():
                parameter.copy_(file.get_tensor(name))
        if work.device == "cuda":
            torch.backends.cudnn.benchmark = True
            network = nn.utils.convert_conv2d_weight_memory_format(network.cuda(), torch.channels_last)
        self.network: nn.Module = network

    @abstractmethod
    def build(self, work: Work) -> nn.Module:
        """The network, its weights whatever they are."""

    @abstractmethod
    def call(self, network: nn.Module, x_t: Tensor, t: Tensor) -> Tensor:
        """Its output."""

    @abstractmethod
    def step(self) -> Callable[[Tensor], None]:
        """What to call with the loss once the gradients are there: clipping, Adam, the average of all weights."""

    @abstractmethod
    def masks(self, number: int) -> contextlib.AbstractContextManager[None]:
        """Where step ``number`` computes: says what dropout draws from."""

    @abstractmethod
    def sampler(self) -> Callable[[], Tensor]:
        """A whole batch by DDIM, always from the same noise: pictures as bytes, (B, H, W, C)."""

    def for_inference(self) -> nn.Module:
        """The network as this side would sample with it."""
        return self.network.eval()

    def compiled(self, network: nn.Module) -> nn.Module:
        """The network, compiled if the work asks for it."""
        return torch.compile(network) if self.work.compiled else network  # type: ignore[return-value]


class Ours(Side):
    """fromnoise; with ``again``, activations are computed again."""

    def __init__(self, work: Work, weights: Path, tuned: bool, again: bool = False) -> None:
        self.again = again
        super().__init__(work, weights, tuned)

    def build(self, work: Work) -> nn.Module:
        """Our U-Net."""
        network = UNet(**work.settings())
        network.recompute = self.again
        return network

    def call(self, network: nn.Module, x_t: Tensor, t: Tensor) -> Tensor:
        """The tensor as it is."""
        return network(x_t, t)

    def step(self) -> Callable[[Tensor], None]:
        """That of our training loop."""
        learner = Learner(self.network, SETTINGS)

        def step(loss: Tensor) -> None:
            update(learner, loss, SETTINGS.lr)
            learner.optimizer.zero_grad()
            learner.step += 1
            learner.average()

        return step

    def masks(self, number: int) -> contextlib.AbstractContextManager[None]:
        """One seed a picture."""
        return dropout_seeds(range(number * self.work.batch, (number + 1) * self.work.batch))

    def sampler(self) -> Callable[[], Tensor]:
        """Our pipeline, with DDIM's usual ladder on the paper's schedule."""
        shape = (3, self.work.side, self.work.side)
        pipeline = Pipeline(
            denoiser=Denoiser(self.network, Linear(), Epsilon(), clip=Clip()),
            codec=Pixels(),
            shape=shape,
            sampler=DDIM(),
            spacing=Leading(steps=DDIM_STEPS),
        ).ready()
        start = torch.randn((self.work.batch, *shape), generator=torch.Generator().manual_seed(2))

        def begin(_: Tensor, ladder: Tensor) -> tuple[Tensor, Tensor]:
            return start.to(pipeline.device), ladder

        return lambda: pipeline.finish(range(self.work.batch), begin=begin).permute(0, 2, 3, 1)

    def for_inference(self) -> nn.Module:
        """Packed where that applies."""
        return pack(self.network.eval())


Maker = Callable[[Work, Path], Side]


def _ours(again: bool) -> Maker:
    return functools.partial(Ours, tuned=True, again=again)


def _peer(tuned: bool) -> Maker:
    from benchmarks.peer import Peer

    return functools.partial(Peer, tuned=tuned)


SIDES: dict[str, Callable[[], Maker]] = {
    "ours": functools.partial(_ours, again=False),
    "ours, again": functools.partial(_ours, again=True),
    "peer": functools.partial(_peer, tuned=False),
    "peer, tuned": functools.partial(_peer, tuned=True),
}
"""What loads a side's libraries and answers with what makes the side."""


def random_weights(work: Work) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Weights of about the size that training gives them, under our names and under diffusers'."""
    network, generator = UNet(**work.settings()), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, parameter[0].numel() ** -0.5, generator=generator)
    state = network.state_dict()
    return state, to_diffusers(state, work.settings())


def batch(work: Work) -> tuple[Tensor, Tensor]:
    """Always the same pictures and times: (B, 3, H, W) in [−1, 1] and (B,)."""
    generator = torch.Generator().manual_seed(1)
    x_0 = torch.rand((work.batch, 3, work.side, work.side), generator=generator) * 2 - 1
    t = torch.randint(0, 1000, (work.batch,), generator=generator)
    if work.device == "cuda":
        return x_0.to("cuda", memory_format=torch.channels_last), t.cuda()
    return x_0, t


def inference(side: Side) -> Iterator[Tensor]:
    """Network calls without end; each yields the output."""
    network = side.compiled(side.for_inference())
    x_t, t = batch(side.work)
    while True:
        with torch.inference_mode(), _precision(side.work):
            yield side.call(network, x_t, t)


def training(side: Side) -> Iterator[Tensor]:
    """Training steps without end (Ho et al. 2020, algorithm 1); each yields its loss.

    The first is no step: it yields the output for the fixed batch with dropout off, so that sides can be compared.
    """
    work = side.work
    x_0, t = batch(work)
    with torch.no_grad(), _precision(work):
        yield side.call(side.network.eval(), x_0, t)
    network = side.compiled(side.network.train())
    take = side.step()
    alpha_bar = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64).neg().add(1).cumprod(0)
    signal, sigma = (table.sqrt().float().to(work.device) for table in (alpha_bar, 1 - alpha_bar))
    for number in itertools.count():
        t = torch.randint(0, 1000, (work.batch,), device=work.device)
        eps = torch.randn_like(x_0)
        x_t = signal[t][:, None, None, None] * x_0 + sigma[t][:, None, None, None] * eps
        with side.masks(number):
            with _precision(work):
                output = side.call(network, x_t, t)
            loss = F.mse_loss(output.float(), eps)
            loss.backward()
        take(loss.detach())
        yield loss.detach()


def sampling(side: Side) -> Iterator[Tensor]:
    """Batches of finished pictures without end."""
    draw = side.sampler()
    while True:
        with _precision(side.work):
            yield draw()


TASKS: dict[str, Callable[[Side], Iterator[Tensor]]] = {
    "train": training,
    "inference": inference,
    "sampling": sampling,
}


def _precision(work: Work) -> contextlib.AbstractContextManager[object]:
    return torch.autocast(work.device, dtype=torch.bfloat16, enabled=work.autocast)
