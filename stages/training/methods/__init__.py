"""Training methods, one file each. The interface is in ``checks.kinds.method``."""
