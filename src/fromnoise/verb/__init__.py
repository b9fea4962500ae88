"""What each verb of the command line does with its arguments. Each returns the exit code."""

from fromnoise.verb.average import average
from fromnoise.verb.compare import compare
from fromnoise.verb.estimate import estimate
from fromnoise.verb.inspect import inspect
from fromnoise.verb.likelihood import likelihood
from fromnoise.verb.plot import plot
from fromnoise.verb.sample import sample
from fromnoise.verb.train import demo, train

__all__ = ["average", "compare", "demo", "estimate", "inspect", "likelihood", "plot", "sample", "train"]
