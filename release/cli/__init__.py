"""The command ``lockstep``: parses arguments, calls one function, prints its result. Only this package prints or exits.

Heavy imports live inside the commands, so that ``lockstep --help`` is fast.
"""

import io
import os
import sys
from pathlib import Path

import click

from release.cli import (
    card,
    compare,
    cost,
    data,
    drill,
    environments,
    evidence,
    gateway,
    image,
    init,
    label,
    monitor,
    page,
    pipeline,
    publish,
    pull_request,
    rollout,
    sealed,
)
from release.cli.common import Group


@click.group(
    cls=Group,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "max_content_width": 110,
        "auto_envvar_prefix": "LOCKSTEP",  # LOCKSTEP_VERIFY_RUNTIME is verify's --runtime
    },
)
@click.version_option(package_name="lockstep", prog_name="lockstep")
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

    Exit codes are listed in docs/reference/exit-codes.md.
    """
    context.obj = root
    if os.environ.get("NO_COLOR"):  # https://no-color.org
        context.color = False
    # Characters that the terminal's encoding lacks are printed as escapes.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


SECTIONS: dict[
    str, tuple[click.Command, ...]
] = {  # of `lockstep --help`, in the order in which a team meets them
    "Begin": (init.init, pipeline.doctor, pipeline.schema),
    "Train and judge": (
        pipeline.run,
        pipeline.gate,
        data.data,
        cost.estimate,
        compare.compare,
        pipeline.sweep,
        pipeline.recipe,
        pipeline.calibrate,
        pipeline.references,
        label.label,
        sealed.sealed,
    ),
    "Propose": (pull_request.record, pull_request.report, pull_request.comment),
    "Release": (image.build, image.verify, evidence.keys, evidence.sign, evidence.evidence),
    "Move environments": (
        environments.render,
        environments.promote,
        environments.rollback,
        environments.approve,
        environments.quarantine,
        drill.drill,
        environments.admission,
        environments.checkpoint,
    ),
    "Watch production": (
        environments.status,
        environments.history,
        environments.reconcile,
        gateway.gateway,
        gateway.capture,
        monitor.monitor,
        monitor.watch,
        monitor.feedback,
        rollout.shadow,
        rollout.canary,
    ),
    "Publish": (page.page, card.card, publish.publish),
}
for section, commands in SECTIONS.items():
    for command in commands:
        main.add_command(command, section=section)
