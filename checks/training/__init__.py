"""Training as params.yaml describes it: methods, steps, memory, time."""
