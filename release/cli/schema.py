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
    from checks.process import distribution
    from checks.storage import files, layout

    text = distribution.linked(to_json(params_file.schema()))
    if write:
        files.write_text(root / layout.PARAMS_SCHEMA, f"{text}\n")
        click.echo(str(layout.PARAMS_SCHEMA))
    else:
        click.echo(text)
