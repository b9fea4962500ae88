"""What a training run can be told, apart from the mathematics."""

from dataclasses import dataclass, field

from fromnoise.errors import WrongUse, nearest
from fromnoise.train.augment import Augment
from fromnoise.train.guard import GuardSettings
from fromnoise.train.optimizer import Adam, Optimizer
from fromnoise.train.posthoc import gamma_of
from fromnoise.train.rate import ConstantRate, Rate

PRECISIONS = ("float32", "tf32", "bfloat16", "float16")
WATCHERS = ("tensorboard", "wandb")


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """The defaults are the paper's for CIFAR-10 (Ho et al. 2020, arXiv 2006.11239, appendix B)."""

    steps: int | None = None
    """Length in optimizer steps. Give one of steps, epochs and images."""
    epochs: float | None = None
    """Length in passes over the data."""
    images: int | None = None
    """Length in pictures seen."""
    batch_size: int = 128
    """Pictures in one optimizer step."""
    accumulate: int = 1
    """Parts in which a batch is computed: more parts, less memory, the same step."""
    recompute: bool = False
    """Compute activations again in the backward pass: the same step in a fraction of the memory, a third slower."""
    shard: bool = False
    """On several processes, give each a piece of weights, average and moments (FSDP2): for networks that do not fit."""
    optimizer: Optimizer = field(default_factory=Adam)
    """How a gradient becomes a step."""
    lr: float = 2e-4
    """The optimizer's step size after the warm-up."""
    warmup: int = 5000
    """Steps over which the step size grows linearly from 0."""
    rate: Rate = field(default_factory=ConstantRate)
    """How the step size goes on from there."""
    clip: float = 1.0
    """Largest global norm of the gradient; 0 for no limit."""
    guard: GuardSettings = field(default_factory=GuardSettings)
    """Which steps are left out, and when the run goes back."""
    ema_decay: float = 0.9999
    """Decay of the averaged weights, per step."""
    ema_ramp: float = 0.0
    """Average over no more than this share of the run so far, so that short runs are not held back; 0: no ramp."""
    flip: bool = False
    """Mirror every second picture, by chance."""
    averages: tuple[float, ...] = ()
    """Widths of further averages, as shares of the run so far. From their snapshots `fromnoise average` makes others
    within reach of these: what would be more than 10 % off is refused, and snapshots that cannot be used are passed
    over. [0.05, 0.1] in Karras et al. 2024 (arXiv 2312.02696). Not with ``shard``."""
    average_every: int = 0
    """Pictures seen between two snapshots of these; 0: with every checkpoint."""
    augment: Augment = field(default_factory=Augment)
    """What is done to pictures, and told to the network, so that few go further."""
    label_dropout: float = 0.0
    """Share of pictures whose label is hidden, so that the network also learns to do without (for guidance)."""
    precision: str = "float32"
    """Of the network in training: float32; tf32 (on NVIDIA GPUs, products of shortened float32); or bfloat16 or float16
    by autocast. The schedule stays in float64."""
    compile: bool | str = "auto"
    """Compile the network: true, false, or auto, where it pays: on a GPU, for a run long enough."""
    deterministic: bool = False
    """Only algorithms that give the same bits each time. On a CPU all of ours do; on a GPU it may cost time."""
    seed: int = 0
    """Of everything random in the run."""
    report_every: int = 10
    """Steps between two lines of metrics.jsonl."""
    sample_every: int = 50_000
    """Pictures seen between two grids of samples; 0 for none."""
    sample_steps: int = 100
    """Most steps of the sampler for these grids."""
    checkpoint_every: int = 50_000
    """Pictures seen between two checkpoints; the last step and an interruption always save."""
    keep: int = 3
    """Newest checkpoints to keep."""
    keep_every: int = 0
    """Pictures seen between two checkpoints that are kept for good; 0 for none."""
    watch: tuple[str, ...] | str = ()
    """Who else is told what metrics.jsonl says: tensorboard, wandb, or both with a comma between them."""
    score_every: int = 0
    """Pictures seen between two scores of a few samples; 0 for none."""
    score_samples: int = 256
    """How many samples are scored: never more than half as many as there are pictures."""
    score_steps: int = 10
    """Steps of their sampler."""

    def __post_init__(self) -> None:
        """Raises ``WrongUse`` for values that make no sense."""
        given = [name for name in ("steps", "epochs", "images") if getattr(self, name) is not None]
        if len(given) > 1:
            raise WrongUse(f"[train] {' and '.join(given)} are given: the length of a run needs just one of them")
        for name in ("steps", "epochs", "images"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise WrongUse(f"[train] {name} = {value}: must be above 0")
            if value == float("inf"):
                raise WrongUse(f"[train] {name} = {value}: a run has an end; give a number")
        for name in ("batch_size", "accumulate", "report_every", "sample_steps", "score_steps", "keep"):
            if getattr(self, name) < 1:
                raise WrongUse(f"[train] {name} = {getattr(self, name)}: must be at least 1")
        times = ("sample_every", "checkpoint_every", "keep_every", "average_every", "score_every")
        for name in ("lr", "warmup", "clip", *times):
            if not getattr(self, name) >= 0:
                raise WrongUse(f"[train] {name} = {getattr(self, name)}: must not be negative")
        if abs(self.seed) >= 2**63:
            raise WrongUse(f"[train] seed = {self.seed}: must have at most 63 bits")
        if self.batch_size % self.accumulate:
            raise WrongUse(f"[train] accumulate = {self.accumulate} does not divide batch_size = {self.batch_size}")
        if not 0 <= self.ema_decay < 1:
            raise WrongUse(f"[train] ema_decay = {self.ema_decay}: must lie between 0 and 1, 1 not included")
        if not 0 <= self.ema_ramp <= 1:
            raise WrongUse(f"[train] ema_ramp = {self.ema_ramp}: a share of the run so far, between 0 and 1")
        for width in self.averages:
            gamma_of(width)  # Refuses what is no length.
        if self.averages and self.shard:
            raise WrongUse("[train] averages need the whole network on every process: leave out shard, or averages")
        if len(set(self.averages)) < len(self.averages):
            raise WrongUse(f"[train] averages = {list(self.averages)}: names a length twice")
        if not 0 <= self.label_dropout <= 1:
            raise WrongUse(f"[train] label_dropout = {self.label_dropout}: must lie between 0 and 1")
        if self.precision not in PRECISIONS:
            raise WrongUse(f"[train] precision = {self.precision!r}: known are {', '.join(PRECISIONS)}")
        if isinstance(self.compile, str) and self.compile != "auto":
            raise WrongUse(f"[train] compile = {self.compile!r}: known are auto, true and false")
        if self.score_samples < 2:
            raise WrongUse(f"[train] score_samples = {self.score_samples}: must be at least 2")
        for name in self.watchers:
            if name not in WATCHERS:
                raise WrongUse(f"[train] watch: {name!r} is not known; {nearest(name, WATCHERS)}")

    @property
    def watchers(self) -> tuple[str, ...]:
        """The names in ``watch``, each once."""
        names = self.watch.split(",") if isinstance(self.watch, str) else self.watch
        return tuple(dict.fromkeys(name.strip() for name in names if name.strip()))

    def total_steps(self, pictures: int) -> int:
        """The length of the run in optimizer steps, for a data set of so many pictures."""
        if self.steps is not None:
            return self.steps
        images = self.images if self.images is not None else (self.epochs or 0) * pictures
        if not images:
            raise WrongUse("how long to train is not given: set one of train.steps, train.epochs and train.images")
        return max(1, -(-int(images) // self.batch_size))
