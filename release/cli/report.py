"""The command report."""

from pathlib import Path

import click

from release.cli import terminal
from release.cli.common import JSON, OTLP, TARGET_BRANCH, refusing, to_json
from release.cli.wrapping import hanging

LINKS = click.option(
    "--link",
    "links",
    metavar="LABEL=URL",
    multiple=True,
    help="A link to add to the comment. Can be repeated.",
)
NUMBER = click.option(
    "--number",
    type=int,
    help="Number of the pull request or merge request. Default: taken from the workflow.",
)


@click.command()
@TARGET_BRANCH
@LINKS
@NUMBER
@click.option("--text", is_flag=True, help="Print plain text instead of Markdown.")
@OTLP
@JSON
@click.pass_obj
@refusing
def report(
    root: Path,
    target: str | None,
    links: tuple[str, ...],
    number: int | None,
    text: bool,
    otlp: str | None,
    as_json: bool,
) -> None:
    """Print the pull request's comment as Markdown.

    It has the verdict, metrics, changes and how to reproduce it. Exits with 0 whatever the verdict; `lockstep gate`
    enforces it.
    """
    from release.verbs import report as verb

    made = verb.report(root, target=target, links=pairs(links), number=number)
    if otlp:
        verb.send(root, made, otlp)
    if as_json:
        answer = made.model_dump(mode="json").items()
        shown = ("text", terminal.text(made.whole))
        click.echo(
            to_json(dict(shown if name == "whole" else (name, part) for name, part in answer))
        )
    else:
        click.echo(hanging(terminal.text(made.whole)) if text else made.markdown)


def pairs(links: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """Split each LABEL=URL into its parts. Raises UsageError for anything else."""
    pairs = []
    for link in links:
        label, equals, url = link.partition("=")
        if not label or not equals or not url.startswith(("https://", "http://")):
            raise click.UsageError(f"--link {link!r}: write it as LABEL=https://…")
        pairs.append((label, url))
    return tuple(pairs)
