"""Training: a generator that gives one report a step and prints nothing."""

from fromnoise.train.ema import Ema
from fromnoise.train.loop import Learner, Report, train
from fromnoise.train.settings import TrainSettings

__all__ = ["Ema", "Learner", "Report", "TrainSettings", "train"]
