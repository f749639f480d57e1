"""Defines the values of a release's page, for JSON and the template."""

from datetime import datetime
from typing import Literal

from checks.decision.policy import Change
from checks.formats.evaluation_reports import Interval
from checks.formats.pointer import Pointer
from checks.formats.serving import ImageReport, ServingReport
from checks.formats.verdict import Verdict
from checks.records.record import Digest
from checks.records.rows import Record
from checks.stats.paired import Difference
from release.cards.production import Production
from release.cards.trade import Trade
from release.ledger import Kind, Move
from release.review.advice import Advised
from release.review.comparison import Answer, Comparison, Cost

# The boxes of the lineage before the environments, in order.
STAGES = ("fetched", "prepared", "trained", "merged", "judged", "built and signed")


class Home(Record):
    """An environment that runs the release, since when, and who moved it.

    ``emergency``: the exception that it runs on, or why none holds; empty if its verdict passes.
    """

    environment: str
    since: datetime
    by: str
    why: str
    kind: Kind
    doubt: str
    emergency: str = ""


class Against(Record):
    """The release's score by its first metric beside another model's, and the difference on the same rows.

    ``note``: why there is no difference. ``allowed``: change and allowance, as a sentence.
    """

    what: str
    metric: str
    ours: Interval | float | None
    theirs: Interval | float | None
    difference: Difference | None
    note: str
    allowed: str = ""


class Part(Record):
    """A part of the evidence, by digest, and what ties it to the part before. ``stage``: the box of the lineage."""

    what: str
    digest: Digest | None
    says: str
    stage: str = ""


class ReleasePage(Record):
    """One release. ``suites``: each metric of its suites beside the base.

    ``before``: the version of the release before, which ``comparison`` calls A; None: it is the first. ``signer`` None:
    no current signer signed it, for the reason ``unsigned``. ``policy`` None: the first release has none to differ
    from, or ``notes`` say why it is not known. ``cards``: the text of each card, as Markdown.
    ``mistakes``: of the first release, the rows that it gets wrong.
    ``tries``, ``checks`` and ``rollbacks`` are lines for a shell; nobody is to try a release in quarantine.
    """

    schema_version: Literal[1] = 1
    name: str
    version: str
    file: str
    pointer: Pointer
    homes: tuple[Home, ...]
    quarantined: str | None
    advice: Advised
    verdict: Verdict
    signer: str | None
    unsigned: str
    headline: str
    test: Digest | None  # the test split that it was scored on
    confidence: float
    against: tuple[Against, ...]
    suites: tuple[Against, ...]
    before: str | None
    comparison: Comparison | None
    mistakes: tuple[Answer, ...] = ()
    policy: tuple[Change, ...] | None
    cost: tuple[Cost, ...]
    image: ImageReport
    serving: ServingReport
    tries: tuple[str, ...]
    cards: dict[str, str]
    parts: tuple[Part, ...]
    checks: tuple[str, ...]
    moves: tuple[Move, ...]
    production: Production
    rollbacks: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def lineage(self) -> dict[str, list[Part]]:
        """Return the parts by the stage that made them, from the sources to the environments that run the release."""
        homes = [
            Part(what=home.environment, digest=None, says=f"since {home.since:%Y-%m-%d}")
            for home in self.homes
        ]
        nowhere = Part(what="nowhere", digest=None, says="no environment runs it now")
        boxes = {stage: [part for part in self.parts if part.stage == stage] for stage in STAGES}
        return {stage: parts for stage, parts in boxes.items() if parts} | {
            "promoted to": homes or [nowhere]
        }


class LeftOut(Record):
    """A release without a page, and why."""

    version: str
    image: str
    why: str


class NoPages(Record):
    """The reason why a project has no pages."""

    why: str


class Site(Record):
    """The pages of a ledger at the commit ``tip`` of ``branch``. ``alone``: one page, without an index."""

    schema_version: Literal[1] = 1
    name: str
    branch: str
    tip: str
    alone: bool
    environments: dict[str, str | None]  # to the version that runs
    pages: tuple[ReleasePage, ...]
    left_out: tuple[LeftOut, ...]
    # The gains and losses of all releases; empty for one page alone.
    trades: tuple[Trade, ...] = ()
