"""Training: a generator that gives one report a step and prints nothing."""

from fromnoise.train.ema import Ema
from fromnoise.train.learner import Learner
from fromnoise.train.loop import Report, train
from fromnoise.train.settings import TrainSettings

__all__ = ["Ema", "Learner", "Report", "TrainSettings", "train"]
