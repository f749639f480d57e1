"""Kinds of source: one file each. What a kind is: ``stages.sources.location``."""
