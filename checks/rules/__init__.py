"""The rules that ``prepare.rules`` of params.yaml can name, one file each: ``checks.kinds.rule``."""
