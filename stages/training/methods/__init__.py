"""Training methods, one file each. The interface is in ``checks.training.interface``."""
