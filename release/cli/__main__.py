"""``python -m release.cli``: the command, where the console script is not on the path."""

from release.cli import main

main(prog_name="lockstep")
