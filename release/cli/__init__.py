"""The command ``lockstep``: parses arguments, calls one function, prints its result. Only this package prints or exits.

Heavy imports live inside the commands, so that ``lockstep --help`` is fast.
"""

import io
import os
import sys
from pathlib import Path

import click

from checks.process import distribution
from release.cli import (
    admission,
    approve,
    audit,
    build,
    calibrate,
    canary,
    capture,
    card,
    checkpoint,
    comment,
    compare,
    data,
    doctor,
    drill,
    estimate,
    evidence,
    feedback,
    gate,
    gateway,
    harvest,
    history,
    init,
    keys,
    label,
    monitor,
    page,
    projects,
    promote,
    publish,
    quarantine,
    reconcile,
    record,
    render,
    report,
    resolve,
    rollback,
    run,
    schema,
    sealed,
    server,
    shadow,
    sign,
    start,
    status,
    sweep,
    upgrade,
    verify,
    watch,
)
from release.cli.common import use_kinds
from release.cli.package_verbs import WithPackages


@click.group(
    cls=WithPackages,
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
    use_kinds(root)
    # Pydantic would read the metadata of every installed package, for plugins that Lockstep does not use.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    if os.environ.get("NO_COLOR"):  # https://no-color.org
        context.color = False
    # Characters that the terminal's encoding lacks are printed as escapes.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


SECTIONS: dict[
    str, tuple[click.Command, ...]
] = {  # of `lockstep --help`, in the order in which a team meets them
    "Begin": (init.init, server.server, upgrade.upgrade, doctor.doctor, schema.schema),
    "Train and judge": (
        run.run,
        start.start,
        gate.gate,
        data.data,
        estimate.estimate,
        compare.compare,
        sweep.sweep,
        calibrate.calibrate,
        label.label,
        sealed.sealed,
    ),
    "Propose": (
        projects.projects,
        record.record,
        resolve.resolve,
        report.report,
        comment.comment,
    ),
    "Release": (build.build, verify.verify, keys.keys, sign.sign, evidence.evidence),
    "Move environments": (
        render.render,
        promote.promote,
        rollback.rollback,
        approve.approve,
        quarantine.quarantine,
        drill.drill,
        admission.admission,
        checkpoint.checkpoint,
    ),
    "Watch production": (
        status.status,
        history.history,
        reconcile.reconcile,
        gateway.gateway,
        capture.capture,
        monitor.monitor,
        watch.watch,
        feedback.feedback,
        harvest.harvest,
        shadow.shadow,
        canary.canary,
    ),
    "Publish": (page.page, card.card, audit.audit, publish.publish),
}
for section, commands in SECTIONS.items():
    for command in commands:
        main.add_command(command, section=section)
