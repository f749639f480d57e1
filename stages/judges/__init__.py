"""Judges of answers, one file each; ``checks.evaluation.judges`` finds them."""
