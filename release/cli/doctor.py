"""The command doctor."""

from pathlib import Path

import click

from release.cli import tables
from release.cli.common import refusing, to_json
from release.cli.wrapping import hanging


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@click.option(
    "--github",
    is_flag=True,
    help="Check the settings of the repository on GitHub instead of this machine.",
)
@click.pass_obj
@refusing
def doctor(root: Path, as_json: bool, github: bool) -> None:
    """Check what this machine lacks, and print the fixes.

    Checks what each stage and command needs. Exits with 9 if the pipeline cannot run here. What only some commands
    need is listed, but is no error. With --github it checks the repository settings that the workflows need, with
    GITHUB_TOKEN or the login of gh. Settings that the token may not read are listed as unknown: no error, but not
    ready either.
    """
    from checks.process.errors import MachineRefused
    from release import doctor as verb

    checks = verb.on_github(root) if github else verb.doctor(root)
    missing, unknown = (
        [check.name for check in checks if check.status == status]
        for status in ("missing", "unknown")
    )
    if as_json:
        click.echo(to_json([check._asdict() for check in checks]))
    else:
        width = max(16, *(len(check.name) + 2 for check in checks))
        for check in checks:
            status = click.style(f"{check.status:<9}", fg=tables.COLOURS[check.status])
            click.echo(
                hanging(
                    f"{status}{check.name:<{width}}{check.found}  [{', '.join(check.needed_by)}]"
                )
            )
            if check.fix:
                click.echo(hanging(f"{'':<{9 + width}}→ {check.fix}"))
        if unknown:
            click.echo(
                f"not known to be ready: {len(unknown)} of {len(checks)} settings could not be read"
            )
        elif github and not missing:
            click.echo("ready for a pull request")
    if missing:
        problem = (
            "the workflows cannot run, or are not safe"
            if github
            else "the pipeline cannot run here"
        )
        raise MachineRefused(f"{problem}: {', '.join(missing)}", "run the commands named above")
