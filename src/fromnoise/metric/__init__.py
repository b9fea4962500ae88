"""Scores of pictures: statistics of two streams of features. Nothing here knows how the pictures were made."""
