"""What to train with: the preset, the side, and for how long.

How long to train is a guess, and says so. A preset's length in steps does not ask how many pictures there are: the
time in which a model learns to make pictures hardly depends on it, while the time after which it repeats those that it
has seen grows with their number (T. Bonnaire et al., "Why Diffusion Models Don't Memorize", 2025, arXiv 2505.17638).
So the preset's length is kept, but no picture is shown more often than the paper showed those of CIFAR-10: in 800,000
steps of 128 out of 50,000, 2048 times (Ho et al. 2020, arXiv 2006.11239, appendix B); nor any less often than once.
"""

from collections.abc import Mapping

from fromnoise.config import parse, preset, preset_for
from fromnoise.data import Fit
from fromnoise.data.auto import usual_side
from fromnoise.task.inspect_facts import Advice

_EPOCHS = 2048


def advise(pictures: int, short_sides: Mapping[int, int], fit: Fit) -> Advice:
    """For so many different pictures."""
    name = preset_for(min(fit.height, fit.width))
    train = parse(preset(name), f"preset {name}").train
    wanted = train.total_steps(pictures)
    most = -(-_EPOCHS * pictures // train.batch_size)
    least = -(-pictures // train.batch_size)
    steps = max(least, min(wanted, most))
    epochs = steps * train.batch_size / pictures
    shown = {"steps": steps, "batch_size": train.batch_size, "epochs": epochs, "shortened": steps < wanted}
    return Advice(preset=name, side=usual_side(short_sides), **shown)
