"""The reports of evaluate, of references, looks and noise."""

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from checks.formats.decoding import Decoding, draws
from checks.formats.engines import Engine
from checks.formats.report import Count, ModelName, Report
from checks.formats.thinking import Thinking
from checks.records.record import CommitHash, Consistent, Digest, Record, Sparse, problems

# Models released before, named by git.
Earlier = Literal["main", "production", "best"]
EARLIER: tuple[Earlier, ...] = ("main", "production", "best")
# Main stands in for these until production runs something.
RELEASED: tuple[Earlier, ...] = ("production", "best")


class Figures(Record):
    """A value and its interval, as DVC shows it."""

    value: float
    low: float
    high: float


class Interval(Figures):
    """A mean with its confidence interval, over n rows."""

    n: Count


class ValidScores(Record):
    """``reports/metrics.json``: the merged model's scores on the valid split, by scorer. No gate asks them.

    It has numbers alone, because each value becomes a column of `dvc exp show`. ``dvc.lock`` says which model it is of.
    """

    valid: dict[str, Figures]
    rows: Count


class ModelResult(Record):
    """One model's predictions and scores: scorer name to interval, overall and by slice."""

    predictions: Digest  # The digest of the JSON lines file.
    metrics: dict[str, Interval]
    slices: dict[str, dict[str, Interval]]


class Spread(Record):
    """The variance of the candidate's mean: the part of its rows, and the part of their draws."""

    rows: Annotated[float, Field(ge=0)]
    draws: Annotated[float, Field(ge=0)]


class Speed(Sparse):
    """How fast one model answered the test rows, in the batches of the stage evaluate.

    vLLM starts all rows at once and takes each up when there is room: then there are no seconds of one answer.
    """

    sparse: ClassVar[frozenset[str]] = frozenset({"thought_tokens"})

    examples_per_second: Annotated[float, Field(ge=0)]
    # The median time of an answer from the start of its batch, by nearest rank.
    p50_seconds: Annotated[float | None, Field(ge=0)]
    p95_seconds: Annotated[float | None, Field(ge=0)]
    # The mean length of the thought before an answer.
    thought_tokens: Annotated[float | None, Field(ge=0)] = None


class EvaluateMeasured(Report):
    """How fast the models answered; recorded and shown like ``TrainMeasured``. Baselines have no entry."""

    merged: Digest  # Names the evaluation that this is about.
    models: dict[ModelName, Speed]


class Reference(Record):
    """A reference model, from the record at ``commit``."""

    commit: CommitHash
    merged: Digest
    test: Digest
    scorers: Digest
    prompt_format: Digest
    predictions: Digest  # The digest of data/predictions/candidate.jsonl there.


class ReferencesReport(Report, Consistent):
    """The reference models, as git named them; ``absent`` says why there is none yet.

    `lockstep run` writes it. ``main``, and what else a gate names, are in exactly one of the two.
    """

    found: dict[Earlier, Reference]
    absent: dict[Earlier, str]

    def contradictions(self) -> Iterator[str]:
        """Yield each contradiction."""
        both = sorted(set(self.found) & set(self.absent))
        return problems((both, f"{', '.join(both)} is both found and absent"))


class ReferenceUse(Record, Consistent):
    """Where a reference's predictions come from.

    ``stored``: from its own record, with the same test split, scorers and prompt. ``same-model``: it is the candidate.
    ``evaluated``: its weights answered this test split. ``absent``: there is none yet. ``unavailable``: there is one,
    but neither its predictions nor its weights could be obtained.
    """

    how: Literal["stored", "same-model", "evaluated", "absent", "unavailable"]
    merged: Digest | None  # None when absent
    note: str  # a sentence for a person

    def contradictions(self) -> Iterator[str]:
        """Yield each contradiction."""
        model = "no model" if self.merged is None else "a model"
        return problems(
            ((self.how == "absent") != (self.merged is None), f"{self.how} with {model}")
        )


class EvaluationReport(Report, Sparse):
    """The candidate (the merged directory) beside references and baselines, on one test split."""

    sparse: ClassVar[frozenset[str]] = frozenset(
        {"unquantised", "engine", "gguf", "decoding", "spread", "thinking", "json_schema"}
    )

    merged: Digest
    base: Digest
    test: Digest
    rows: Count
    scorers: Digest  # The digest of evaluate.scorers as canonical JSON.
    # Covers the candidate's chat template, the generation settings, the engine, the decoding and the JSON Schema.
    prompt_format: Digest
    base_prompt: Digest  # The digest of the messages that the base was asked.
    confidence: float
    references: dict[Earlier, ReferenceUse]
    # In this order: "candidate", "base", the earlier models that exist, the baselines.
    models: dict[ModelName, ModelResult]
    summary: tuple[str, ...]  # sentences for a person
    # The 16-bit model that answered beside a candidate of fewer bits, or the safetensors beside a GGUF file.
    unquantised: Digest | None = None
    engine: Engine | None = None  # The engine that generated its answers; None: transformers.
    gguf: Digest | None = (
        None  # The GGUF file that gave the candidate's answers, if the engine is llama.cpp.
    )
    # How all models but baselines drew their answers; None: greedily.
    decoding: Decoding | None = None
    # By metric, where there are several draws.
    spread: dict[str, Spread] = Field(default_factory=dict)
    # The marks and the mode that divided thoughts from answers and references; None: the model does not think.
    thinking: Thinking | None = None
    # What all models but baselines had to answer; None: they answered freely.
    json_schema: str | None = None

    @property
    def draws(self) -> int:
        """How often each model but a baseline answered each row."""
        return draws(self.decoding)


class NoiseRun(Record):
    """One evaluation of the unchanged model; ``changed``: rows answered differently from the first run."""

    order: str  # "test order", "reversed", "shuffled 1", …
    batch_tokens: Count
    threads: Count
    metrics: dict[str, float]
    changed: Count


class NoiseReport(Report, Consistent):
    """How far evaluations of one unchanged model differ. No margin may be below that.

    It is valid while base, scorers and prompt format are those of the evaluation.
    """

    merged: Digest
    base: Digest
    test: Digest
    scorers: Digest
    prompt_format: Digest
    device: str
    rows: Count
    runs: Annotated[tuple[NoiseRun, ...], Field(min_length=2)]
    floor: dict[str, float]  # scorer to the largest difference between two runs' means
    # In nats, on reference tokens of the valid split, between two ways of batching.
    max_logprob_diff: Annotated[float, Field(ge=0)]

    def contradictions(self) -> Iterator[str]:
        """Yield each contradiction."""
        for scorer, floor in self.floor.items():
            means = [run.metrics.get(scorer) for run in self.runs]
            known = [mean for mean in means if mean is not None]
            if len(known) < len(means) or abs(max(known) - min(known) - floor) > 1e-6:
                yield f"the floor of {scorer} is not the largest difference between its runs"
