"""The command schema."""

import click

from release.cli.common import refusing, to_json


@click.command()
@refusing
def schema() -> None:
    """Print the JSON Schema of params.yaml, for editors."""
    from checks.config import params_file
    from checks.process import distribution

    click.echo(distribution.linked(to_json(params_file.schema())))
