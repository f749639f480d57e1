"""The cost of a training: forecast from a recorded one, and measured."""
