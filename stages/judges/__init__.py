"""Judges of answers, one file each; ``checks.kinds.judge`` finds them."""
