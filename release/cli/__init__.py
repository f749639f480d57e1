"""The command ``lockstep``: parses arguments, calls one function, prints its result. Only this package prints or exits.

Each verb is a command of its name in a module of its name, which is imported when the verb is called. Heavy imports
live inside the commands.
"""

import atexit
import gc
import io
import os
import sys
from pathlib import Path

import click

from checks.machine import arithmetic
from checks.process import distribution
from release.cli.common import use_kinds
from release.cli.package_verbs import Verbs

# The sections of `lockstep --help`, in the order in which a team meets them.
SECTIONS = {
    "Begin": ("init", "server", "upgrade", "doctor", "schema"),
    "Train and judge": (
        "run",
        "start",
        "gate",
        "data",
        "estimate",
        "compare",
        "sweep",
        "calibrate",
        "label",
        "sealed",
    ),
    "Propose": (
        "projects",
        "record",
        "resolve",
        "report",
        "comment",
    ),
    "Release": ("build", "verify", "keys", "sign", "evidence"),
    "Move environments": (
        "render",
        "promote",
        "rollback",
        "approve",
        "quarantine",
        "drill",
        "admission",
        "checkpoint",
    ),
    "Watch production": (
        "status",
        "history",
        "reconcile",
        "gateway",
        "capture",
        "monitor",
        "watch",
        "feedback",
        "harvest",
        "shadow",
        "canary",
    ),
    "Publish": ("page", "card", "audit", "publish"),
}


@click.group(
    cls=Verbs,
    sections=SECTIONS,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "max_content_width": 110,
        "auto_envvar_prefix": "LOCKSTEP",  # LOCKSTEP_VERIFY_RUNTIME is verify's --runtime
    },
)
@click.version_option(package_name=distribution.NAME, prog_name="lockstep")
@click.option(
    "-C",
    "root",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=Path(),
    help="Folder of the repository. Default: the current directory.",
)
@click.pass_context
def main(context: click.Context, root: Path) -> None:
    """Train, evaluate, package and release fine-tuned language models. A model is released only if every gate passes.

    Exit codes: docs/reference/exit-codes.md
    """
    context.obj = root
    # Nearly every object lives until the command ends. To look for cycles among them, again and again and once more at
    # the end, took a fourth of `status`.
    gc.set_threshold(100_000)
    atexit.register(gc.freeze)
    # `gate` and `promote` make a verdict again, and refuse it where a last digit differs from the stage's.
    arithmetic.settle()
    use_kinds(root)
    # Pydantic would read the metadata of every installed package, for plugins that Lockstep does not use.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    if os.environ.get("NO_COLOR"):  # https://no-color.org
        context.color = False
    # Characters that the terminal's encoding lacks are printed as escapes.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
