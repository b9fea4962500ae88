"""What a training run can be told, apart from the mathematics."""

from dataclasses import dataclass

from fromnoise.errors import WrongUse

PRECISIONS = ("float32", "bfloat16", "float16")


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
    lr: float = 2e-4
    """Adam's step size after the warm-up."""
    warmup: int = 5000
    """Steps over which the step size grows linearly from 0."""
    clip: float = 1.0
    """Largest global norm of the gradient; 0 for no limit."""
    ema_decay: float = 0.9999
    """Decay of the averaged weights, per step."""
    ema_ramp: float = 0.0
    """Average over no more than this share of the run so far, so that short runs are not held back; 0: no ramp."""
    flip: bool = False
    """Mirror every second picture, by chance."""
    label_dropout: float = 0.0
    """Share of pictures whose label is hidden, so that the network also learns to do without (for guidance)."""
    precision: str = "float32"
    """Of the network in training: float32, or bfloat16 or float16 by autocast. The schedule stays in float64."""
    compile: bool = False
    """Compile the network. Pays on a GPU; on a CPU it costs minutes before the first step."""
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
        for name in ("batch_size", "accumulate", "report_every", "sample_steps", "keep"):
            if getattr(self, name) < 1:
                raise WrongUse(f"[train] {name} = {getattr(self, name)}: must be at least 1")
        for name in ("lr", "warmup", "clip", "ema_ramp", "sample_every", "checkpoint_every"):
            if not getattr(self, name) >= 0:
                raise WrongUse(f"[train] {name} = {getattr(self, name)}: must not be negative")
        if abs(self.seed) >= 2**63:
            raise WrongUse(f"[train] seed = {self.seed}: must have at most 63 bits")
        if self.batch_size % self.accumulate:
            raise WrongUse(f"[train] accumulate = {self.accumulate} does not divide batch_size = {self.batch_size}")
        if not 0 <= self.ema_decay < 1:
            raise WrongUse(f"[train] ema_decay = {self.ema_decay}: must lie between 0 and 1, 1 not included")
        if not 0 <= self.label_dropout <= 1:
            raise WrongUse(f"[train] label_dropout = {self.label_dropout}: must lie between 0 and 1")
        if self.precision not in PRECISIONS:
            raise WrongUse(f"[train] precision = {self.precision!r}: known are {', '.join(PRECISIONS)}")

    def total_steps(self, pictures: int) -> int:
        """The length of the run in optimizer steps, for a data set of so many pictures."""
        if self.steps is not None:
            return self.steps
        images = self.images if self.images is not None else (self.epochs or 0) * pictures
        if not images:
            raise WrongUse("how long to train is not given: set one of train.steps, train.epochs and train.images")
        return max(1, -(-int(images) // self.batch_size))
