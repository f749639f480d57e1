"""The kinds of gate that params.yaml can name, one file each: ``checks.kinds.gate``."""
