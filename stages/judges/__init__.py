"""Judges of answers, one file each; ``checks.judges`` finds them."""
