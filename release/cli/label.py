"""The command label: pages for people who say which of two answers is better, and what they said."""

from pathlib import Path

import click

from release.cli.common import JSON, exclusive, refusing, to_json
from release.cli.tables import one_line


@click.command()
@click.argument("suite")
@click.option(
    "--annotator",
    metavar="NAME",
    default="me",
    show_default=True,
    help="Who labels; a tenth is labelled by two people.",
)
@click.option(
    "--import",
    "source",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Take in labels that the page saved, or an export of Label Studio in JSON.",
)
@click.option(
    "--anchor",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the labelled pairs to FILE, for the judge to answer at each release.",
)
@JSON
@click.pass_obj
@refusing
def label(
    root: Path, suite: str, annotator: str, source: Path | None, anchor: Path | None, as_json: bool
) -> None:
    """Let people say which of two answers is better, for SUITE of kind pairwise.

    Draws rows at random, as the suite's seed and number of rows say, and writes a page that works offline and on a
    phone, with the tasks beside it as JSON for Label Studio. Neither shows which model gave an answer. The rows are
    those of the test split, or of another suite if SUITE names one: run `lockstep run suites` first. A label counts
    only for the answers that it was given for: after another training, people label only what changed.
    """
    from release.verbs import label as verb

    exclusive({"--import": source, "--anchor": anchor})
    if source is not None:
        done = verb.take_in(root, suite, source)
        if as_json:
            click.echo(to_json({**done._asdict(), "path": str(done.path)}))
            return
        click.echo(
            f"{done.added} labels added, {done.replaced} replaced; {done.other} are of other answers"
        )
        agree = "not known" if done.alpha is None else f"{done.alpha:.2f}"
        click.echo(
            f"agreement of people: Krippendorff's alpha {agree}, of {done.several} rows that several labelled"
        )
        click.echo(f"wrote {one_line(str(done.path))}: set suites.{suite}.labels in params.yaml to")
        click.echo(f"  {{uri: {one_line(str(done.path))}, sha256: {done.sha256}, license: null}}")
    elif anchor is not None:
        count, sha256 = verb.anchor(root, suite, anchor)
        if as_json:
            click.echo(to_json({"path": str(anchor), "sha256": sha256, "pairs": count}))
            return
        click.echo(f"wrote {count} pairs: set suites.{suite}.anchor in params.yaml to")
        click.echo(f"  {{uri: {one_line(str(anchor))}, sha256: {sha256}, license: null}}")
    else:
        page, tasks, asked = verb.tasks(root, suite, annotator)
        figures = {
            "tasks": len(asked.tasks),
            "drawn": asked.drawn,
            "labelled": asked.labelled,
            "twice": asked.doubled,
        }
        if as_json:
            click.echo(to_json({"page": str(page), "data": str(tasks), **figures}))
            return
        click.echo(
            f"{asked.labelled} of {asked.drawn} drawn rows have a label, or two equal answers"
        )
        click.echo(
            f"{len(asked.tasks)} for {one_line(annotator)}; {asked.doubled} rows are labelled by two people"
        )
        click.echo(f"  page   {one_line(str(page))}")
        click.echo(f"  tasks  {one_line(str(tasks))}, for Label Studio")
        click.echo(f"then: ./lockstep label {suite} --import FILE")
