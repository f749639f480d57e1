"""The reports of fetch, prepare and validate, and the seal of the splits that passed."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from checks.formats.data_statistics import Statistics
from checks.formats.report import Count, Fetched, Report, StageReport
from checks.records.record import Digest, Record

MAIN_SOURCE = "main"  # the source that data.uri names, where several are told apart


class FetchReport(StageReport):
    """The report of fetch: its downloads.

    ``data``: what data.uri names; its digest and files are those of data/raw, with all further sources. ``sources``:
    these by name.
    """

    sparse: ClassVar[frozenset[str]] = frozenset({"plugins", "sources"})

    base: Fetched
    data: Fetched
    sources: dict[str, Fetched] = Field(default_factory=dict)

    @property
    def all_data(self) -> dict[str, Fetched]:
        """Return what was fetched of each source of rows, by its name; that of data.uri first."""
        return {MAIN_SOURCE: self.data, **self.sources}


class RuleCount(Record):
    """How many rows a named rule fixed or dropped."""

    rule: str
    kind: Literal["fix", "drop"]
    rows: Count
    examples: tuple[str, ...] = ()  # sources of up to five of them: path:line below the raw data


class Split(Record):
    """One split's file."""

    rows: Count
    groups: Count
    sha256: Digest


class SourceRows(Record):
    """Rows of one of several sources: as they were read, and as they are in the splits."""

    read: Count
    splits: dict[str, Count]


class HeldContract(Record):
    """A data contract that the raw rows of a source met."""

    id: str  # Id and version are those that its owner gives.
    version: str
    sha256: Digest  # The digest of the contract's file.
    expectations: Count
    rows: Count


class PrepareReport(StageReport):
    """Accounting of rows: every input row was kept, or dropped by a named rule.

    ``sources``: the rows of each, if there are several; ``main`` is the one of data.uri. ``contracts``: those that were
    met.
    """

    sparse: ClassVar[frozenset[str]] = frozenset({"plugins", "sources", "contracts"})

    raw: Digest  # The digest of data/raw.
    input_rows: Count
    kept_rows: Count
    dropped_rows: Count
    rules: tuple[RuleCount, ...]
    splits: dict[str, Split]
    sources: dict[str, SourceRows] = Field(default_factory=dict)
    contracts: dict[str, HeldContract] = Field(default_factory=dict)


class Expectation(Record):
    """One expectation on the data, and the observed value."""

    name: str  # unique in the report, a phrase such as "test: prompts are unique"
    expectation: str  # Great Expectations' type
    success: bool
    observed: str
    unexpected: Count
    rows: tuple[dict[str, Any], ...]  # up to five offending rows


class DataReport(StageReport):
    """The result of validate; ``splits`` are the digests of the files it read.

    ``statistics``: what no expectation judges; older versions did not write it.
    """

    sparse: ClassVar[frozenset[str]] = frozenset({"plugins", "statistics"})

    success: bool
    splits: dict[str, Digest]
    rows: dict[str, Count]
    expectations: Annotated[tuple[Expectation, ...], Field(min_length=1)]
    statistics: Statistics | None = None


class Seal(Report):
    """States that these splits passed every expectation. For unchanged splits the seal is unchanged."""

    splits: dict[str, Digest]
