"""Shared by shadow and canary: the option that names a candidate, and their report as text."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from release.cli.common import refuse, show
from release.cli.tables import COLOURS, one_line

if TYPE_CHECKING:
    from checks.formats.rollout_report import RolloutReport


_DECISIONS = {"keep": "green", "roll back": "red", "go on": "yellow"}
CANDIDATE_RELEASE = click.option(
    "--candidate-release",
    "release",
    metavar="RELEASE",
    help="The candidate: an environment that runs it, or the digest of its model. "
    "Default: the environment before ENV.",
)


def end(report: "RolloutReport", as_json: bool) -> None:
    from release.verbs.shadow import refusal

    show(report, as_json, lambda report: "\n".join(_shown(report)))
    refuse(refusal(report))


def _shown(report: "RolloutReport") -> Iterator[str]:
    title = f"{report.environment}: {report.decision}: candidate {report.candidate} against {report.production}"
    yield click.style(one_line(title), bold=True, fg=_DECISIONS[report.decision])
    same = "" if report.agreement is None else f", {report.agreement:.1%} of the answers are equal"
    since = f"since {report.since:%Y-%m-%d %H:%M} UTC"
    yield f"{report.kind}, {since}: {report.pairs:,} pairs, {report.labelled:,} with labels{same}"
    width = max(len(finding.name) for finding in report.findings)
    for finding in report.findings:
        status = click.style(f"{finding.status:<12}", fg=COLOURS[finding.status])
        yield f"  {finding.name:<{width}}  {status}  {one_line(finding.reason)}"
    for note in report.notes:
        yield f"note: {one_line(note)}"
    yield f"at any number of looks, at most {report.alpha:.2%} of candidates within the margin are rolled back"
