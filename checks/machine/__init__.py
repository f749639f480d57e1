"""The machine: GPUs, energy counters, the disk."""
