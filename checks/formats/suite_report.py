"""Files of suites: neutral lines of scores, answers, judgements of answers, and the report that binds all by digest.

``data/suites/NAME.jsonl`` has one ``SuiteLine`` for each model, metric and sample. ``data/suites/NAME.answers.jsonl``
has one ``SuiteAnswer`` for each model and sample of a suite that models answered. ``data/judgements/NAME.jsonl`` has
one ``Judgement`` for each answer that was judged. ``reports/suites.json`` is the ``SuitesReport``. Gates read these
files. They score answers again, and no other sample: docs/explanation/evidence.md#recomputed-or-witnessed.
"""

from collections.abc import Iterator, Sequence
from typing import Annotated, ClassVar, Literal, get_args

from pydantic import Field, JsonValue

from checks.formats.report import Count, Report, StageReport
from checks.records.record import CommitHash, Digest, Record, Sparse, problems
from checks.records.rows import Message
from checks.records.sections import Name, Section
from checks.storage import digest

# What a score rests on: a pure function, a judge (a model), people, or another tool's word.
SourceClass = Literal["pure", "judge", "human", "external"]
Role = Literal["candidate", "base", "unquantised", "main", "production", "best"]
ROLES: tuple[Role, ...] = get_args(Role)
HUMAN = "human"  # the metric of gates that ask people which of two answers is better
SampleId = Annotated[str, Field(min_length=1, max_length=500)]
Metric = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:/-]{0,59}$")]
Word = Annotated[str, Field(min_length=1, max_length=200)]
# A finding quotes the name in its reason.
Who = Annotated[str, Field(pattern=r"^[\w.:@/+-][\w .:@/+-]{0,149}$")]


def asked_sha(
    messages: Sequence[Message], reference: str, tools: Sequence[dict[str, JsonValue]] = ()
) -> str:
    """Return the ``sample_sha`` of a chat, its reference, and the functions that it could call."""
    content = [[message.model_dump() for message in messages], reference]
    return digest.of_json([*content, list(tools)] if tools else content)


class Scale(Section):
    """The values that a metric can have, both ends among them; a value outside is refused.

    Gates count a value as its share of the scale: ``low`` is 0, ``high`` is 1. ``chance``: the mean of a model that
    knows nothing, such as 0.25 of four choices.
    """

    low: float
    high: float
    chance: Annotated[
        float | None,
        Field(
            description="mean of a model that knows nothing, on this scale; null: it is not known"
        ),
    ] = None

    def contradictions(self) -> Iterator[str]:
        """Yield each contradiction."""
        chance = self.low if self.chance is None else self.chance
        return problems(
            (
                self.low >= self.high,
                f"low {self.low:g} is not below high {self.high:g}|swap or widen them",
            ),
            (
                not self.low <= chance < self.high,
                f"chance {chance:g} is not from {self.low:g} to below {self.high:g}|give it on this scale",
            ),
        )


class Scored(Record):
    """One model's score of one sample by one metric: a line that any tool can write (kind ``external``).

    ``model`` is the digest of the model's directory, as `lockstep` prints it. ``sample_sha`` is the digest of what was
    asked and of the reference, so that two models were asked the same. ``group`` is the cluster that the sample is in.
    """

    sample: SampleId
    sample_sha: Digest
    model: Digest
    metric: Metric
    value: float
    group: Word
    slice: Word


class SuiteLine(Scored):
    """A score with where it comes from: ``source_digest`` is of the log, or of the file of judgements."""

    source: SourceClass
    source_digest: Digest


class Passage(Record):
    """A passage of a corpus: a document, or a part of one."""

    id: SampleId
    text: str


class Gold(Record):
    """A document that answers a question; ``quote``: the words of it that do, None: any.

    ``passages`` are the ids of the passages of which each has them.
    """

    id: SampleId
    quote: str | None
    passages: Annotated[tuple[SampleId, ...], Field(min_length=1)]


class Reading(Record):
    """The passages that a model read before it answered ``question``: those of ``gold``, or those that were retrieved.

    Retrieved ones are in the order of their rank. Without ``gold``, nothing in the corpus answers the question.
    """

    setting: Literal["gold", "retrieved"]
    question: Annotated[tuple[Message, ...], Field(min_length=1)]
    gold: tuple[Gold, ...]
    passages: tuple[Passage, ...]


class SuiteAnswer(Sparse):
    """One model's answer to one sample. Without a reference it is empty. ``tools``: the functions that it could call.

    ``reading``: of kind ``rag``. What was asked then is the question; passages are how it was asked, so two retrievers
    can be compared on it.
    """

    sparse: ClassVar[frozenset[str]] = frozenset({"reading", "tools"})

    sample: SampleId
    model: Digest
    messages: Annotated[tuple[Message, ...], Field(min_length=1)]
    reference: str
    answer: str
    reading: Reading | None = None
    tools: tuple[dict[str, JsonValue], ...] = ()

    @property
    def sample_sha(self) -> str:
        """Of what was asked and of the reference."""
        if self.reading is None:
            return asked_sha(self.messages, self.reference, self.tools)
        gold = [[fact.id, fact.quote] for fact in self.reading.gold]
        return digest.of_json([asked_sha(self.reading.question, self.reference), gold])


class Judgement(Sparse):
    """A judge's value for one answer to one row; None if its reply has none.

    ``answer_sha`` is the digest of the answer's text, as the model gave it. ``judge`` says who judged, ``prompt_sha``
    is the digest of what the judge was told to do (None: nothing is on record), ``response`` is what it said.
    Where two answers were compared, ``answer_sha`` is the one that was shown first, on the left, and ``other_sha`` the
    other; the value is 1 where the first is better, 0 where the other is, 0.5 for a tie. ``by``: people or a model.
    """

    sparse: ClassVar[frozenset[str]] = frozenset({"other_sha", "by"})

    sample: SampleId
    answer_sha: Digest
    other_sha: Digest | None = None
    by: Literal["human", "judge"] | None = None
    value: float | None
    judge: Who
    prompt_sha: Digest | None
    response: str = ""


class Pinned(Record):
    """A file that a suite was made of."""

    uri: str
    sha256: Digest
    license: str | None


class Anchored(Sparse):
    """The judge's values for the anchor: pairs of answers with people's labels that stay the same.

    ``agrees`` has a digit for each pair, in the file's order: 1 where judge and people say the same, else 0. ``before``
    has those of the record at ``commit``, where the anchor and the judge's section in params.yaml (``judge``) were the
    same.
    """

    sparse: ClassVar[frozenset[str]] = frozenset({"before", "commit"})

    anchor: Digest
    judge: Digest
    agrees: Annotated[str, Field(pattern=r"^[01]+$")]
    flips: Count
    unparsed: Count
    before: Annotated[str, Field(pattern=r"^[01]+$")] | None = None
    commit: CommitHash | None = None


class Compared(Sparse):
    """Comparisons of two models' answers: counts of rows, and what they say of the people and of the judge.

    ``differ``: rows whose answers differ, which the judge was asked about. ``drawn``: rows that people label;
    ``labelled``: those of them with a label, or with equal answers, which are a tie. ``flips``: rows where the judge
    says another thing when the answers change places. ``alpha``: Krippendorff's, of rows that several people labelled.
    """

    sparse: ClassVar[frozenset[str]] = frozenset({"alpha", "anchor"})

    against: Role
    differ: Count
    drawn: Count
    labelled: Count
    flips: Count
    unparsed: Count
    several: Count  # rows that several people labelled
    alpha: float | None = None
    anchor: Anchored | None = None


class SuiteResult(Sparse):
    """One suite: what was asked, of which models, and the digests of the files that say what came of it."""

    sparse: ClassVar[frozenset[str]] = frozenset(
        {"given", "judgements", "judges", "answers", "answers_of", "unparsed", "chance", "compared"}
    )

    kind: str
    asked: Digest  # The digest of the suite's section in params.yaml as canonical JSON.
    source: SourceClass
    lines: Digest  # The digest of data/suites/NAME.jsonl.
    samples: Count
    models: dict[Role, Digest]  # trees
    means: dict[Role, dict[Metric, float]]  # Means are in the metric's own scale.
    files: dict[str, Pinned]
    given: Digest | None = None  # The digest of data/suites/NAME.answers.jsonl.
    judgements: Digest | None = None  # The digest of data/judgements/NAME.jsonl.
    judges: tuple[Who, ...] = ()
    # The digests of the files with the judged answers.
    answers: dict[Role, Digest] = Field(default_factory=dict)
    answers_of: Name | None = None  # the suite that these are of; None: the test rows
    unparsed: dict[Role, Count] = Field(default_factory=dict)  # answers without a value
    chance: float | None = None  # the mean of a model that knows nothing
    compared: Compared | None = None  # Only suites of kind pairwise have it.


class SuitesReport(StageReport):
    """All suites of params.yaml."""

    suites: dict[Name, SuiteResult]


class SuitesMeasured(Report):
    """How long each suite took; recorded and shown like ``EvaluateMeasured``.

    Answers that were kept count with the time that they took when they were made; judgements that were kept take none.
    """

    merged: Digest  # Names the evaluation that this is about.
    seconds: dict[Name, Annotated[float, Field(ge=0)]]
