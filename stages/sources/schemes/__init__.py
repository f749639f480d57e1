"""Kinds of source, one file each. The interface is in ``stages.sources.location``."""
