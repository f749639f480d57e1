"""The scorers that params.yaml can name, one file each: ``checks.kinds.scorer``."""
