"""Training with TRL and PEFT: the parts that all methods share. ``methods`` has one file for each method."""
