"""The command data: what was checked of the data, as text, JSON, or a page."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from release.cli.common import refusing, to_json
from release.cli.tables import one_line
from release.cli.wrapping import hanging

if TYPE_CHECKING:
    from release.cards.data_page import DataPage


_SUSPECTS = 5  # labels that may be wrong; the page has more


@click.command()
@click.argument("record", default=".")
@click.option("--html", "file", metavar="FILE", type=click.Path(path_type=Path), help="Write a page of it to FILE.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.pass_obj
@refusing
def data(root: Path, record: str, file: Path | None, as_json: bool) -> None:
    """Show what was checked of the data, what failed, and what was dropped.

    RECORD is a commit, branch or tag, an environment, a version, or `.` for the work tree. Shows the same results as
    Great Expectations' Data Docs; the page loads nothing, so it works without a network. Exits with 0 whatever it
    finds, and with 8 if the record has no results for these splits.
    """
    from release.cards import data_page
    from release.verbs import data as verb

    report = verb.data(root, record)
    if file is not None:
        from release.pages import html

        html.write(file, data_page.render(report))
    if as_json:
        click.echo(to_json(report.model_dump(mode="json")))
    elif file is not None:
        click.echo(f"{one_line(report.headline)}\n{one_line(str(file))}")
    else:
        click.echo(hanging("\n".join(_text(report))))


def _text(found: "DataPage") -> Iterator[str]:
    yield click.style(found.headline, fg="red" if found.failed else "green", bold=True)
    for expectation in found.failed:
        observed = f"{expectation.unexpected:,} rows; observed {one_line(expectation.observed)}"
        yield f"  ✗ {one_line(expectation.name)}: {observed}"
    for expectation in found.tolerated:
        yield f"  {one_line(expectation.name)}: observed {one_line(expectation.observed)}"
    for name, split in found.prepare.splits.items():
        yield f"  {name:<6}{split.rows:>8,} rows in {split.groups:,} groups"
    for source, rows in found.prepare.sources.items():
        counts = ", ".join(f"{split} {count:,}" for split, count in rows.splits.items())
        yield f"  {source}: {rows.read:,} rows were read; {counts}"
    for source, contract in found.prepare.contracts.items():
        yield one_line(f"  {source}: {contract.rows:,} rows met the contract {contract.id} {contract.version}")
    if (statistics := found.report.statistics) is not None:
        for what, of in (("prompts", statistics.prompts), ("references", statistics.references)):
            yield f"  {what}: {of.least:,} to {of.most:,} tokens, median {of.median:,}; {of.outliers:,} outliers"
        if (texts := statistics.documents) is not None:
            of, garbled = texts.lengths, texts.writing.garbled
            yield f"  documents: {texts.tokens:,} tokens, {of.least:,} to {of.most:,} each; {of.outliers:,} outliers"
            if garbled:
                yield f"  {garbled:,} documents have characters from text that was decoded wrongly"
        if statistics.labels is not None:
            yield f"  labels: {statistics.labels.suspects:,} of {statistics.labels.judged:,} may be wrong"
            for row in statistics.labels.rows[:_SUSPECTS]:
                yield f"    {one_line(f'{row.where}: {row.label!r}, likelier {row.likelier!r}')}"
        if statistics.writing.garbled:
            yield f"  {statistics.writing.garbled:,} rows have characters from text that was decoded wrongly"
    yield f"  {found.prepare.input_rows:,} rows were read, {found.prepare.dropped_rows:,} dropped:"
    for rule in found.prepare.rules:
        if rule.rows:
            yield f"    {rule.kind:<5}{rule.rows:>8,}  {rule.rule}"
