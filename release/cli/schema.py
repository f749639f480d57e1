"""The command schema."""

from pathlib import Path

import click

from release.cli.common import refusing, to_json


@click.command()
@click.option("--write", is_flag=True, help="Write docs/params.schema.json instead of printing.")
@click.pass_obj
@refusing
def schema(root: Path, write: bool) -> None:
    """Print the JSON Schema of params.yaml, for editors."""
    from checks.config import params_file
    from checks.storage import files, layout

    if write:
        files.write_json(root / layout.PARAMS_SCHEMA, params_file.schema())
        click.echo(str(layout.PARAMS_SCHEMA))
    else:
        click.echo(to_json(params_file.schema()))
