"""What each verb of the command line does with its arguments. Each returns the exit code."""

from fromnoise.verb.compare import compare
from fromnoise.verb.inspect import inspect
from fromnoise.verb.likelihood import likelihood
from fromnoise.verb.sample import sample
from fromnoise.verb.train import demo, train

__all__ = ["compare", "demo", "inspect", "likelihood", "sample", "train"]
