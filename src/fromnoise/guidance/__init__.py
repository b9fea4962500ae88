"""Estimators that wrap estimators, to steer what is sampled: towards a label, away from mistakes, to a measurement."""

from fromnoise.guidance.auto import Auto
from fromnoise.guidance.classifier import Classifier, Classify
from fromnoise.guidance.classifier_free import ClassifierFree
from fromnoise.guidance.measurement import PseudoInverse
from fromnoise.guidance.operator import Downscale, Mask, Operator

__all__ = ["Auto", "Classifier", "ClassifierFree", "Classify", "Downscale", "Mask", "Operator", "PseudoInverse"]
