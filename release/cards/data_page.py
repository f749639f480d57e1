"""The data of a record as a page: what validate checked, what failed, what prepare dropped. It needs no network.

It shows the same results as Great Expectations' Data Docs, from reports/data.json.
"""

from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from checks import files, layout
from checks.errors import EvidenceRefused
from checks.formats.data_reports import DataReport, Expectation, PrepareReport
from checks.formats.report import Fetched
from checks.rows import Record
from release.pages import html
from release.record import named
from release.record.records import Records
from release.review.details import columns, shown
from release.review.sides import Side

_FIX = "run `./lockstep run validate`, or name a commit that has the record"


class DataPage(Record):
    """The data of the record ``name``; ``commit`` None: the work tree. ``source`` None: fetch's report is missing.

    ``sources``: those beside the one of data.uri.
    """

    schema_version: Literal[1] = 1
    name: str
    commit: str | None
    source: Fetched | None
    sources: dict[str, Fetched]
    prepare: PrepareReport
    report: DataReport

    @property
    def failed(self) -> list[Expectation]:
        """The expectations that fail."""
        return [each for each in self.report.expectations if not each.success]

    @property
    def tolerated(self) -> list[Expectation]:
        """The expectations that hold although some rows do not meet them."""
        return [each for each in self.report.expectations if each.success and each.unexpected]

    @property
    def headline(self) -> str:
        """One sentence: whether the data passed."""
        total, rows = len(self.report.expectations), sum(self.report.rows.values())
        if self.failed:
            return f"{len(self.failed)} of {total} expectations fail: nothing is trained on these {rows:,} rows"
        return f"All {total} expectations hold on {rows:,} rows"


def gather(root: Path, name: str) -> DataPage:
    """The data of the record that ``name`` means: see ``record.named``.

    Raises EvidenceRefused if its reports are missing, cannot be read, or are about other splits; as ``named.find``.
    """
    records = Records(root)
    found = named.find(records, name)
    side = Side(records, found, name)
    report = _report(records, found.commit)
    if side.prepare is None:
        raise EvidenceRefused(f"{layout.PREPARE_REPORT}: is missing, or cannot be read by this version", _FIX)
    if report.splits != {split: its.sha256 for split, its in side.prepare.splits.items()}:
        raise EvidenceRefused(f"{layout.DATA_REPORT}: is about other splits than {layout.PREPARE_REPORT}", _FIX)
    return DataPage(
        name=name, commit=found.commit, source=side.fetch.data if side.fetch else None,
        sources=side.fetch.sources if side.fetch else {}, prepare=side.prepare, report=report,
    )  # fmt: skip


def render(page: DataPage) -> str:
    """The page as HTML."""
    return html.render("release.cards", "data.html.jinja", page=page, columns=columns, shown=shown)


def _report(records: Records, commit: str | None) -> DataReport:
    if commit is None:
        return records.work_tree.report(layout.DATA_REPORT, DataReport)
    try:
        found = records.at(commit).report(layout.DATA_REPORT, DataReport)
    except ValidationError as error:
        raise EvidenceRefused(f"{layout.DATA_REPORT} at {commit[:12]}: {files.first(error)}", _FIX) from error
    if found is None:
        raise EvidenceRefused(f"{layout.DATA_REPORT}: commit {commit[:12]} has none", _FIX)
    return found
