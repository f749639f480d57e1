"""``python -m release.cli``: the command, where the console script is not on the path."""

import os

from release.cli import main

main(prog_name=os.environ.get("LOCKSTEP_CALLED", "lockstep"))
