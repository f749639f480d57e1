"""The kinds of suite that params.yaml can name, one file each: ``checks.kinds.suite``."""
