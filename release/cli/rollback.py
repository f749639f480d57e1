"""The command rollback."""

from pathlib import Path

import click

from release.cli import environment_tables
from release.cli.common import JSON, TARGET, refuse, refusing, show


@click.command()
@click.argument("environment")
@click.option(
    "--why",
    required=True,
    metavar="TEXT",
    help="What was wrong, for the history and the quarantine.",
)
@click.option(
    "--to",
    metavar="RELEASE",
    help="A version, digest or image that ran there; `none` empties the environment. Default: the last good release.",
)
@click.option("--ask", is_flag=True, help="Also start the old image and send it a request.")
@click.option(
    "--dry-run", is_flag=True, help="Run all checks and show the change, but write nothing."
)
@click.option(
    "--adapters", is_flag=True,
    help="Take back the last commit that moved several of the projects that ENVIRONMENT lists in `adapters`.",
)  # fmt: skip
@TARGET
@JSON
@click.pass_obj
@refusing
def rollback(
    root: Path,
    environment: str,
    why: str,
    to: str | None,
    ask: bool,
    dry_run: bool,
    adapters: bool,
    target: str | None,
    as_json: bool,
) -> None:
    """Move ENVIRONMENT back to an earlier release.

    The release that it ran is put into quarantine. --to none empties the environment.
    """
    from release.promotion import together
    from release.verbs import rollback as verb

    if adapters:
        if to:
            raise click.UsageError("--adapters takes back the last move: leave out --to")
        moves = verb.rollback_together(
            root, environment, why=why, ask=ask, dry_run=dry_run, target=target
        )
        show(moves, as_json, environment_tables.moved_together)
        if dry_run:
            refuse(together.refusal(moves))
        return
    done = verb.rollback(root, environment, why=why, to=to, ask=ask, dry_run=dry_run, target=target)
    show(done, as_json, environment_tables.moved)
    if dry_run:
        refuse(verb.refusal(done))
