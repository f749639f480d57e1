"""Describes rows beside validate's expectations. No gate reads it, and nothing is dropped by it."""

from typing import Annotated, ClassVar

from pydantic import Field

from checks.records.record import Digest, Record, Sparse

Count = Annotated[int, Field(ge=0)]


class Bin(Record):
    """How many rows have ``low`` to ``high`` tokens, both included."""

    low: Count
    high: Count
    rows: Count


class Place(Record):
    """A row."""

    where: str  # path:line of the split
    id: str


class LongRow(Place):
    """A row of unusual length."""

    tokens: Count


class Lengths(Record):
    """Tokens of the prompts or of the references, and the rows outside ``low`` to ``high``, which are outliers."""

    least: Count
    median: Count
    p95: Count
    most: Count
    bins: tuple[Bin, ...]
    low: Count
    high: Count
    outliers: Count
    rows: tuple[LongRow, ...]  # the furthest outliers

    @property
    def fullest(self) -> int:
        """Return the rows of the bin with the most of them."""
        return max(bin_.rows for bin_ in self.bins)


class MarkedRow(Place):
    """A row, and what is to be seen in it: a script, or the garbled characters."""

    shown: str


class Writing(Record):
    """In which scripts the rows are written, and rows whose text was decoded wrongly before it came here."""

    # The number of rows by the script of most of their letters (Unicode's name), the commonest first.
    scripts: dict[str, Count]
    others: tuple[MarkedRow, ...]  # some of those that are not in the commonest script
    garbled: Count
    garbled_rows: tuple[MarkedRow, ...]  # some of these


class Suspect(Place):
    """A row whose label is improbable to a model that did not see the row."""

    label: str
    likelier: str  # the label that the model takes for the most probable of those that reach their threshold
    confidence: float  # the model's probability of the row's own label


class LabelNoise(Record):
    """Labels that may be wrong, by confident learning: see ``stages.quality.label_noise``."""

    judged: Count  # rows that were looked at
    suspects: Count
    rows: tuple[Suspect, ...]  # the least confident


class OtherLanguage(Place):
    """A text that is probably in none of the expected languages."""

    text: str  # request, reference or document
    language: str  # ISO 639
    probability: float
    shown: str  # its first characters


class Judged(Record):
    """The texts of one kind: how many were judged, and in which languages they are."""

    judged: Count
    not_judged: Count  # too short, or no language is probable enough
    languages: dict[str, Count]  # The judged texts, the commonest language first.
    others: Count  # Texts in none of the expected languages.
    rows: tuple[OtherLanguage, ...]  # the most probable of these


class Detector(Record):
    """A package that detects languages; ``sha256`` is the digest of its model."""

    name: str
    version: str
    sha256: Digest


class Languages(Record):
    """The languages that a detector finds in texts: see ``stages.quality.languages``."""

    detector: Detector
    texts: dict[str, Judged]  # Kinds are request, reference, document.


class Documents(Record):
    """The documents for continued pre-training, which the other statistics leave out.

    ``tokens``: of all of them, with the end-of-sequence token of each. All but the first of each are learned.
    """

    tokens: Count
    lengths: Lengths
    writing: Writing


class Statistics(Sparse):
    """The statistics of all splits together.

    ``labels``: only where validate.labels says that answers are labels. ``languages``: with validate.languages.
    """

    sparse: ClassVar[frozenset[str]] = frozenset({"labels", "documents", "languages"})

    prompts: Lengths
    references: Lengths
    writing: Writing
    labels: LabelNoise | None = None
    documents: Documents | None = None
    languages: Languages | None = None
