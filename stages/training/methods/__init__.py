"""Training methods: one file each. What a method is: ``checks.training``."""
