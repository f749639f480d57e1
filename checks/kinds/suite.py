"""The interface of suites: samples beside the test rows, with scores that this pipeline does not compute.

A kind is one file of ``checks/suites``, or of a package of a user (entry points ``lockstep.suites``). It defines one
class below ``SuiteKind``: its fields are its parameters, ``sources`` are the pinned files that it reads, ``scored``
makes scores of them. A kind whose metrics have a top and a bottom is a class below ``BoundedSuite``, and below
``ScaledSuite`` where params.yaml says which. A kind that reads logs of other tools is a class below ``LogSuite`` and
defines ``convert`` alone; where a log is one JSON document, a class below ``DocumentSuite`` that defines ``parse``.

The stage suites brings the files, holds the scores (``checks.evaluation.suite_lines``) and writes them. Gates read
what it wrote.
"""

import abc
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, NamedTuple

from pydantic import Field, ValidationError

from checks.formats.suite_report import (
    ROLES,
    Compared,
    Judgement,
    Metric,
    Role,
    Scale,
    Scored,
    SourceClass,
    SuiteAnswer,
    SuiteResult,
)
from checks.kinds.registry import Registry
from checks.kinds.retriever import Encode, Relate, no_model
from checks.process.errors import EvidenceRefused
from checks.records.rows import Message, Row
from checks.records.sections import (
    Log,
    Positive,
    Section,
    Source,
    problems,
    sources_in,
    stricter,
)
from checks.storage import digest, files, layout


class Draw(NamedTuple):
    """How rows are drawn for people: see ``checks.evaluation.comparisons``."""

    seed: int
    rows: int


class Answered(NamedTuple):
    """A chat, and answers of which a model is asked how likely they are."""

    messages: Sequence[Message]
    answers: Sequence[str]


# A model's role to its directory, verified, for as long as the context lasts.
Weights = Callable[[Role], AbstractContextManager[Path]]
# A model's role, texts, and the precision of its weights, to the nats that the model needs for each text.
Nats = Callable[[Role, Sequence[str], str], Sequence[float]]
# A model's role, chats with answers, and the precision of its weights, to the nats of each token of each answer.
AnswerNats = Callable[[Role, Sequence[Answered], str], Sequence[Sequence[Sequence[float]]]]
# A model's role, rows, and the most tokens of an answer, to the model's answers, as the test rows are answered.
Ask = Callable[[Role, Sequence[Row], int], Sequence[str]]


@dataclass(frozen=True)
class Material:
    """The input that a kind scores. ``files`` are its pinned files, verified, by the names of ``sources``.

    ``models`` has the tree digest of each model that there is, ``answers`` the answers to ``rows``, by model and row:
    the test rows, or the samples that a suite is about (``checks.evaluation.answered``). ``nats`` asks one of the
    models how likely texts are, ``ask`` has it answer other rows, ``weights`` gives its directory to another program.
    ``earlier`` has the suites of main's last record, and ``earlier_commit`` says which that is. ``encode`` makes
    vectors of texts, and ``relate`` scores pairs of texts, for kinds that retrieve. ``answer_nats`` asks a model how
    likely given answers are after a chat.
    """

    name: str
    root: Path
    files: Mapping[str, Path]
    models: Mapping[Role, str]
    rows: Sequence[Row]
    answers: Mapping[Role, Mapping[str, str]]
    nats: Nats
    ask: Ask
    weights: Weights
    earlier: Mapping[str, SuiteResult] = field(default_factory=dict)
    earlier_commit: str | None = None
    encode: Encode = no_model
    relate: Relate = no_model
    answer_nats: AnswerNats = no_model


@dataclass(frozen=True)
class Made:
    """Scores of each model; and, where answers were judged, the judgements and how many answers have no value.

    ``chance``: the mean of a model that knows nothing of the language, where the kind can say it.
    ``given``: what each model answered to the suite's samples, where gates score the answers again.
    """

    scored: Mapping[Role, Sequence[Scored]]
    judgements: Sequence[Judgement] = ()
    unparsed: Mapping[Role, int] = field(default_factory=dict)
    chance: float | None = None
    given: Mapping[Role, Sequence[SuiteAnswer]] = field(default_factory=dict)
    compared: Compared | None = None


class SuiteKind(Section, abc.ABC):
    """The parameters of a suite in params.yaml, and how its scores are made."""

    ability: ClassVar[bool] = True  # whether its scores say what a model can do
    # The kind of gate that asks its metrics without a scale.
    asked_by: ClassVar[str] = "remembers"
    # Whether gates score its answers again, by ``score``. Else its scores are witnessed.
    recomputed: ClassVar[bool] = False

    kind: str

    @property
    @abc.abstractmethod
    def scales(self) -> Mapping[str, Scale | None]:
        """Return what gates may name, with its scale. None: any number from 0 up, and less is better."""

    @property
    @abc.abstractmethod
    def evidence(self) -> SourceClass:
        """Return what the scores rest on."""

    @property
    def sources(self) -> Mapping[str, Source]:
        """Return the pinned files that ``scored`` reads; refusals call one ``suites.NAME.<path of its parameter>``."""
        return sources_in(self)

    @property
    def folders(self) -> frozenset[str]:
        """Return the names of ``sources`` that are folders; each other one is a file."""
        return frozenset()

    @property
    @abc.abstractmethod
    def scores_of(self) -> Sequence[Role]:
        """Return the models that it has scores of, where there are such models."""

    @property
    def judged_by(self) -> str | None:
        """Return the kind of its judge; None: it has none."""
        return None

    @property
    def scored_by(self) -> Sequence[str]:
        """Return the kinds of its scorers."""
        return ()

    @property
    def retrieved_by(self) -> str | None:
        """Return the kind of its retriever; None: it has none."""
        return None

    def score(self, metric: str, answer: str, reference: str) -> float:
        """The score of an answer by ``metric``, for a kind that is ``recomputed``. Raises ParamsRefused as a scorer."""
        raise NotImplementedError(
            f"{type(self).__name__} is not recomputed: nothing scores its answers again"
        )

    def scored_again(
        self, given: Sequence[SuiteAnswer]
    ) -> Iterator[tuple[SuiteAnswer, str, float]]:
        """Every score that ``given`` answers give, with its metric, for a kind that is ``recomputed``."""
        for metric in self.scales:
            for answer in given:
                yield answer, metric, self.score(metric, answer.answer, answer.reference)

    def to_judge(self, given: Iterable[SuiteAnswer]) -> Iterable[SuiteAnswer]:
        """Return those of ``given`` that people and judges are asked about: one answer of each model to each sample."""
        return given

    @property
    def partial(self) -> frozenset[str]:
        """Metrics that score some samples only; never the first of ``scales``."""
        return frozenset()

    @property
    def served_tokens(self) -> int | None:
        """Most tokens of an answer, where `lockstep verify` asks the server, too; None: it does not."""
        return None

    @property
    def answer_schema(self) -> str | None:
        """Return the JSON Schema, as text, that models' answers are made to fit; None: they answer freely."""
        return None

    def chance_of(self, metric: str, references: Sequence[str]) -> float | None:
        """Return the mean, as a share, of a model that knows nothing; None: it is not known.

        ``references``: those of the samples, for a ``recomputed`` kind; else there are none.
        """
        return None

    def impossible(self, name: str, suites: Mapping[str, "SuiteKind"]) -> str | None:
        """Why the suite called ``name`` cannot be made beside ``suites``, as "path: problem|fix"; None: it can."""
        return None

    @property
    def draw(self) -> Draw | None:
        """Return the rows on which people compare two models' answers: gates then ask the metric ``human`` alone.

        None: people compare none.
        """
        return None

    @property
    def declared_size(self) -> int | None:
        """How many samples it must have; None: params.yaml does not say."""
        return None

    @abc.abstractmethod
    def size(self, test_rows: int) -> int:
        """How many samples it has at least, where the test split has at least ``test_rows``."""

    def size_of(self, metric: str, test_rows: int) -> int:
        """How many of them ``metric`` scores."""
        return self.size(test_rows)

    @abc.abstractmethod
    def scored(self, material: Material) -> Made:
        """Make the scores. Raises EvidenceRefused when a file is about something else, EvaluationRefused otherwise."""


class BoundedSuite(SuiteKind, abc.ABC):
    """A suite whose metrics have scales.

    ``noise`` is a share of the scale: by how much the mean of one unchanged model differed between runs of the suite.
    No margin of a gate may be below it.
    """

    noise: Annotated[
        float,
        Field(
            ge=0,
            lt=1,
            description="by how much the mean of one unchanged model differs between runs",
        ),
        stricter("higher"),  # no margin may be below it
    ]


class ScaledSuite(BoundedSuite, abc.ABC):
    """A suite whose metrics and their scales are in params.yaml."""

    metrics: Annotated[
        dict[Metric, Scale], Field(min_length=1, description="what gates may name, with its scale")
    ]

    @property
    def scales(self) -> Mapping[str, Scale | None]:
        """Return those of ``metrics``."""
        return self.metrics

    def chance_of(self, metric: str, references: Sequence[str]) -> float | None:
        """As declared with the scale: nothing here says how many choices a question had."""
        scale = self.metrics[metric]
        return (
            None if scale.chance is None else (scale.chance - scale.low) / (scale.high - scale.low)
        )


class AskedSuite(SuiteKind, abc.ABC):
    """A suite that the stage asks ``models`` itself."""

    models: Annotated[
        tuple[Role, ...],
        Field(
            strict=False,
            description="which models it asks; the weights of earlier models come from a DVC remote",
        ),
    ]

    def contradictions(self) -> Iterator[str]:
        """Yield each contradiction, as "problem|remedy"."""

        return problems(
            (
                "candidate" not in self.models or len(set(self.models)) < len(self.models),
                "models: must name the candidate, and each model once|name candidate, and base or main",
            )
        )

    @property
    def scores_of(self) -> Sequence[Role]:
        """Return the models that it asks."""
        return self.models


class SizedSuite(SuiteKind, abc.ABC):
    """A suite that says how many samples it has."""

    samples: Annotated[Positive, Field(description="how many samples it has, no more and no fewer")]

    @property
    def declared_size(self) -> int:
        """No more and no fewer."""
        return self.samples

    def size(self, test_rows: int) -> int:
        """As it is declared."""
        return self.samples


class LogSuite(ScaledSuite, SizedSuite, abc.ABC):
    """A suite that another tool ran: a pinned log for each model."""

    logs: Annotated[
        dict[Role, Log],
        Field(min_length=1, description=f"the log of each model: {', '.join(ROLES)}"),
    ]

    def contradictions(self) -> Iterator[str]:
        """Yield each contradiction, as "problem|remedy"."""

        return problems(("candidate" not in self.logs, "logs: has none of the candidate|add it"))

    @property
    def scores_of(self) -> Sequence[Role]:
        """Return the models with a log."""
        return tuple(self.logs)

    def scored(self, material: Material) -> Made:
        """Convert each log; metrics that params.yaml does not name are left out."""
        return Made(
            {
                role: self._read(material.name, role, material.files[f"logs.{role}"])
                for role in self.logs
            }
        )

    def _read(self, name: str, role: Role, log: Path) -> list[Scored]:
        """The scores of the declared metrics in one log. Raises EvidenceRefused in one line for a log that is none."""
        try:
            return [line for line in self.convert(log) if line.metric in self.metrics]
        except ValidationError as error:
            why = files.first(error)
        except (ValueError, OSError) as error:
            why = str(error)
        except EvidenceRefused as refused:
            why = refused.what.removeprefix(f"{log}:").strip()
        raise EvidenceRefused(
            f"{layout.PARAMS}: suites.{name}.logs.{role}: {' '.join(why.split())}",
            f"pin a log of kind {self.kind}: docs/how-to/suites.md",
        )

    @abc.abstractmethod
    def convert(self, log: Path) -> Iterable[Scored]:
        """The scores in a log. Raises ValueError, with what is wrong in a few words, when it is no log of this kind."""


class LoggedSample(NamedTuple):
    """A sample of a log. ``asked``: the question and the reference, as JSON. ``scores``: values by the log's names."""

    name: str
    asked: Any
    scores: Iterable[tuple[str, Any]]
    metadata: Mapping[str, Any]


class DocumentSuite(LogSuite, abc.ABC):
    """A log that is one JSON document, in which ``MODEL`` is the tree digest of the model that answered.

    ``group`` and ``slice`` are keys of each sample's metadata. A metric is called after the log's name of the score,
    with ``-`` in place of characters that a metric's name cannot have.
    """

    MODEL: ClassVar[str] = "lockstep_model"
    evidence: ClassVar[SourceClass] = "external"  # its scorers may be functions or models
    log_of: ClassVar[str]  # The name of a log, for refusals.
    names_model: ClassVar[str]  # how to write MODEL into a log, for refusals

    group: Annotated[str | None, Field(description="null: each sample is its own group")] = None
    slice: Annotated[str | None, Field(description="null: there are no slices")] = None

    def convert(self, log: Path) -> Iterator[Scored]:
        """Yield the scores of every sample. Raises ValueError unless the log names its model and scores each sample."""
        try:
            model, samples = self.parse(json.loads(log.read_bytes()))
        except (
            UnicodeDecodeError,
            json.JSONDecodeError,
            LookupError,
            TypeError,
            AttributeError,
            RecursionError,
        ) as error:
            problem = f"{type(error).__name__}: {error}"
            raise ValueError(f"no {self.log_of} ({problem})") from error
        if model is None:
            raise ValueError(f"names no model: {self.names_model}")
        for sample in samples:
            asked = digest.of_json(sample.asked)
            for name, value in sample.scores:
                metric = re.sub(r"[^A-Za-z0-9_.:/-]+", "-", name).strip("-")
                if metric not in self.metrics:
                    continue
                if not isinstance(value, bool | int | float):
                    raise ValueError(
                        f"sample {sample.name!r}: {metric} is {value!r}, which is no number"
                    )
                yield Scored(
                    sample=sample.name, sample_sha=asked, model=model, metric=metric, value=float(value),
                    group=sample.name if self.group is None else _key(sample, self.group),
                    slice="all" if self.slice is None else _key(sample, self.slice),
                )  # fmt: skip

    @abc.abstractmethod
    def parse(self, document: Any) -> tuple[Any, Sequence[LoggedSample]]:
        """Return what the log has under the key ``MODEL``, or None, and the samples.

        Raises ValueError for a run that is not whole. A missing key or another type may raise as Python does.
        """


def _key(sample: LoggedSample, key: str) -> str:
    value = sample.metadata.get(key)
    if value is None:
        raise ValueError(f"sample {sample.name!r} has no {key!r} in its metadata")
    return str(value)


SUITES: Registry[SuiteKind] = Registry("lockstep.suites", SuiteKind)
Suite = Annotated[SuiteKind, SUITES]
