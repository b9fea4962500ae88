"""What to train with: the preset, the side, and for how long, as training would choose them (:mod:`.fitting`).

How long to train is a guess, and says so.
"""

from collections.abc import Mapping

from fromnoise.config import parse, preset, preset_for
from fromnoise.data import Fit
from fromnoise.data.auto import usual_side
from fromnoise.task.fitting import fitted
from fromnoise.task.inspect_facts import Advice


def advise(pictures: int, short_sides: Mapping[int, int], fit: Fit) -> Advice:
    """For so many different pictures."""
    side = min(fit.height, fit.width)
    name = preset_for(side)
    train = parse(fitted(side, pictures, {}), f"preset {name}").train
    steps = train.total_steps(pictures)
    shortened = steps < parse(preset(name), f"preset {name}").train.total_steps(pictures)
    epochs = steps * train.batch_size / pictures
    shown = {"steps": steps, "batch_size": train.batch_size, "epochs": epochs, "shortened": shortened}
    return Advice(preset=name, side=usual_side(short_sides), **shown)
