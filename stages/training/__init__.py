"""Training with TRL and PEFT: what all methods share. ``methods`` holds one file for each method."""
