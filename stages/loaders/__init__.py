"""Loaders: raw data to drafts of rows, one file for each kind. The interface is in ``checks.kinds.loader``."""
