"""The data of a record as a page: what validate checked, what failed, what prepare dropped. It needs no network.

It shows the same results as Great Expectations' Data Docs, from reports/data.json.
"""

from pathlib import Path
from typing import Literal

from checks.formats.data_reports import DataReport, Expectation, PrepareReport, RuleCount
from checks.formats.data_statistics import Lengths
from checks.formats.report import Fetched
from checks.formats.verdict import Finding, Verdict
from checks.process.errors import EvidenceRefused
from checks.records.rows import Record
from checks.storage import layout
from release.adapters import merge_conflicts
from release.pages import html, templates
from release.record import record_names
from release.record.records import Records
from release.review import training
from release.review.details import columns, shown
from release.review.sides import Side

_SECTIONS = ("failures", "tolerated", "splits", "rules", "gates", "statistics")
_OF_ROWS = ("contamination", "privacy", "exposure")  # Kinds of gates about the rows themselves.
_WIDTH = 12  # characters of the longest bar of the funnel
_FIX = "run `./lockstep run validate`, or name a commit that has the record"


class DataPage(Record):
    """The data of the record ``name``; ``commit`` None: the work tree. ``source`` None: fetch's report is missing.

    ``sources``: those beside the one of data.uri. ``findings``: of gates on rows that overlap or are
    personal, of a verdict on these splits.
    """

    schema_version: Literal[1] = 1
    name: str
    commit: str | None
    source: Fetched | None
    sources: dict[str, Fetched]
    prepare: PrepareReport
    report: DataReport
    findings: tuple[Finding, ...] = ()

    @property
    def failed(self) -> list[Expectation]:
        """The expectations that fail."""
        return [expectation for expectation in self.report.expectations if not expectation.success]

    @property
    def tolerated(self) -> list[Expectation]:
        """The expectations that hold although some rows do not meet them."""
        holding = (expectation for expectation in self.report.expectations if expectation.success)
        return [expectation for expectation in holding if expectation.unexpected]

    @property
    def headline(self) -> str:
        """One sentence: whether the data passed."""
        total, rows = len(self.report.expectations), sum(self.report.rows.values())
        if self.failed:
            return f"{len(self.failed)} of {total} expectations fail: nothing is trained on these {rows:,} rows"
        return f"All {total} expectations hold on {rows:,} rows"


def gather(root: Path, name: str = record_names.WORK_TREE) -> DataPage:
    """Return the data of the record that ``name`` means: see ``record.named``.

    Raises EvidenceRefused if its reports are missing, cannot be read, have conflict markers, or are about other splits;
    as ``named.find``.
    """
    records = Records(root)
    record = record_names.find(records, name)
    if record.commit is None:
        merge_conflicts.check(root)
    side = Side(records, record, name)
    for path, report in ((layout.DATA_REPORT, side.data), (layout.PREPARE_REPORT, side.prepare)):
        if report is None:
            raise EvidenceRefused(f"{path}: is missing, or cannot be read by this version", _FIX)
    assert side.data is not None
    assert side.prepare is not None
    verdict = side.report(layout.VERDICT, Verdict)
    is_of_splits = verdict is not None and set(side.data.splits.values()) <= set(
        verdict.judged.values()
    )
    if side.data.splits != {split: file.sha256 for split, file in side.prepare.splits.items()}:
        raise EvidenceRefused(
            f"{layout.DATA_REPORT}: is about other splits than {layout.PREPARE_REPORT}", _FIX
        )
    return DataPage(
        name=name, commit=record.commit, source=side.fetch.data if side.fetch else None,
        sources=side.fetch.sources if side.fetch else {}, prepare=side.prepare, report=side.data,
        findings=tuple(
            finding for finding in (verdict.findings if verdict and is_of_splits else ()) if finding.kind in _OF_ROWS
        ),
    )  # fmt: skip


def sections(page: DataPage) -> dict[str, str]:
    """Return the Markdown of each section of the page by name."""
    return _markdown(page, (*_SECTIONS, "expectations"), whole=True)


def text_sections(page: DataPage) -> dict[str, str]:
    """Return the Markdown of each section for a terminal, which shows only the rows that fail."""
    return _markdown(page, _SECTIONS, whole=False)


def render(page: DataPage) -> str:
    """Return the page as HTML."""
    return html.render(
        "release.cards",
        "data.html.jinja",
        page=page,
        sections=sections(page),
        folded={} if page.failed else {"expectations": page.headline},
    )


def _markdown(page: DataPage, names: tuple[str, ...], *, whole: bool) -> dict[str, str]:
    values = {
        "page": page,
        "columns": columns,
        "shown": shown,
        "bars": _bars,
        "whole": whole,
        "funnel": _funnel(page.prepare),
        "full_bar": "█" * _WIDTH,
    }
    return templates.sections("release.cards", "data.md.jinja", names, values)


def _funnel(prepare: PrepareReport) -> list[tuple[RuleCount, int, str]]:
    """Return each rule that changed some rows, with the rows that it left and the same as a bar."""
    left, steps = prepare.input_rows, list[tuple[RuleCount, int, str]]()
    for rule in prepare.rules:
        if rule.rows:
            left -= rule.rows if rule.kind == "drop" else 0
            steps.append((rule, left, "█" * round(_WIDTH * left / prepare.input_rows)))
    return steps


def _bars(lengths: Lengths) -> str:
    return training.bars([part.rows for part in lengths.bins], 0, lengths.fullest)
