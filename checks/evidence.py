"""The small typed reports that stages pass to the gate and the release tool.

Each has a schema version and the digests of what it is about, so that evidence about other bytes is recognised. Digests
are ``sha256:<hex>`` as ``checks.digest`` defines them.
"""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from checks import digest
from checks.energy import Energy
from checks.engines import Vllm
from checks.identity import Digest as Digest
from checks.identity import Plugin, PluginName
from checks.rows import Record, Sparse

ModelName = Annotated[str, Field(pattern=r"^[a-z0-9-]{1,40}$")]  # also the name of a file
Count = Annotated[int, Field(ge=0, lt=2**63)]


def _named(path: str) -> str:
    if not digest.is_name(path):
        raise ValueError(f"{path!r} cannot be the path of a file in a tree")
    return path


TreePath = Annotated[str, AfterValidator(_named)]  # relative, as a manifest has it
Earlier = Literal["main", "champion", "best"]  # models released before, named by git
MAIN = "main"  # the source that data.uri names, where several are told apart
RELEASED: tuple[Earlier, ...] = ("champion", "best")  # main stands in for them until production runs something


class Report(Record):
    """A report with a schema version; another version is refused."""

    schema_version: Literal[1] = 1


class StageReport(Report, Sparse):
    """The report of a stage that can use kinds from other packages; ``plugins`` has the digests of their code.

    If a stage used only Lockstep's own kinds, ``plugins`` is not written.
    """

    sparse: ClassVar[frozenset[str]] = frozenset({"plugins"})

    plugins: dict[PluginName, Plugin] = Field(default_factory=dict)


class Fetched(Record):
    """One source: its address, the verified pin, and the digest of the directory made from it."""

    uri: str
    sha256: str
    size: Count  # bytes that were hashed
    files: Count
    digest: Digest  # of the output directory
    license: str | None  # as params.yaml states it
    declared: str | None  # what the source says of itself, as it spells it; None when it says nothing
    chat_template: Digest | None = None  # of its text; of a base alone


class FetchReport(StageReport):
    """What fetch downloaded.

    ``data``: what data.uri names; its digest and files are those of data/raw, with all further sources. ``sources``:
    these by name.
    """

    sparse: ClassVar[frozenset[str]] = frozenset({"plugins", "sources"})

    base: Fetched
    data: Fetched
    sources: dict[str, Fetched] = Field(default_factory=dict)

    @property
    def all_data(self) -> dict[str, Fetched]:
        """What was fetched of each source of rows, by its name; that of data.uri first."""
        return {MAIN: self.data, **self.sources}


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


class PrepareReport(StageReport):
    """Accounting of rows: every input row was kept, or dropped by a named rule.

    ``sources``: the rows of each, if there are several; ``main`` is the one of data.uri.
    """

    sparse: ClassVar[frozenset[str]] = frozenset({"plugins", "sources"})

    raw: Digest  # of data/raw
    input_rows: Count
    kept_rows: Count
    dropped_rows: Count
    rules: tuple[RuleCount, ...]
    splits: dict[str, Split]
    sources: dict[str, SourceRows] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _rows_are_conserved(self) -> Self:
        dropped = sum(rule.rows for rule in self.rules if rule.kind == "drop")
        split_rows = sum(split.rows for split in self.splits.values())
        if dropped != self.dropped_rows or self.input_rows != self.kept_rows + dropped or split_rows != self.kept_rows:
            raise ValueError(
                f"rows are not conserved: {self.input_rows} in, {self.kept_rows} kept, {dropped} dropped by rules "
                f"(report says {self.dropped_rows}), {split_rows} in splits"
            )
        return self


class Expectation(Record):
    """One expectation on the data, and the observed value."""

    name: str  # unique in the report, a phrase such as "test: prompts are unique"
    expectation: str  # Great Expectations' type
    success: bool
    observed: str
    unexpected: Count
    rows: tuple[dict[str, Any], ...]  # up to five offending rows


class DataReport(StageReport):
    """The result of validate; ``splits`` are the digests of the files it read."""

    success: bool
    splits: dict[str, Digest]
    rows: dict[str, Count]
    expectations: Annotated[tuple[Expectation, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _success_is_of_all(self) -> Self:
        if self.success != all(e.success for e in self.expectations):
            raise ValueError("success contradicts the expectations")
        return self


class Seal(Report):
    """States that these splits passed every expectation. For unchanged splits the seal is unchanged."""

    splits: dict[str, Digest]


class Quantised(Record):
    """How the linear weights of the base were quantised for training, and the digest of what came out."""

    kind: Literal["nf4"]
    double: bool
    block: Count  # weights that share a scale
    precision: Literal["bf16", "fp32"]  # what was quantised, and what the products are computed in
    bitsandbytes: str  # its version
    weights: Digest  # canonical JSON of QuantisedBase.tensors


class QuantisedBase(Report):
    """``quantization.json`` of an adapter that was trained on a quantised base: exactly what it was trained on.

    ``tensors``: the name of each quantised weight, and the digest of its codes and scales.
    """

    base: Digest  # what was quantised
    quantised: Quantised
    tensors: Annotated[dict[str, Digest], Field(min_length=1)]

    @model_validator(mode="after")
    def _weights_are_the_tensors(self) -> Self:
        if self.quantised.weights != digest.of_json(self.tensors):
            raise ValueError("quantised.weights is not the digest of tensors")
        return self


class Stopping(Record):
    """Early stopping: the adapter has the weights of ``best_step``. ``losses``: steps with their loss on valid."""

    best_step: Count
    losses: tuple[tuple[Count, float], ...]


class TrainedStep(Sparse):
    """One step of a training in several steps. ``data``: digests of the rows that it learned from, by split."""

    sparse: ClassVar[frozenset[str]] = frozenset({"figures", "batch", "stopping", "sequences"})

    method: str
    started_from: Digest | None  # the adapter of the step before; None: a new adapter
    adapter: Digest
    data: dict[str, Digest]
    rows: Count
    sequences: Count | None = None  # as in the report
    steps: Count  # of the optimiser
    batch: Count | None = None  # rows of an optimiser step on several devices together, as in the report
    epochs: float
    final_loss: float
    tokens: Count | None = None
    figures: dict[str, float] = Field(default_factory=dict)
    stopping: Stopping | None = None


class TrainReport(StageReport):
    """The result of training, and its adapter.


    ``figures``: what the training method measured besides the loss. ``optimised_for``: the scorers whose scores were
    the reward, so that a gate which asks the same scorer asks what training raised.

    ``chain`` has the steps of a training in several: each names the adapter that it started from, and the last one's
    adapter is the result. ``steps`` and ``tokens`` are then those of all, ``epochs`` is how often a row was seen on
    average, ``final_loss``, ``figures``, ``batch``, ``sequences`` and ``stopping`` are the last step's.
    """

    sparse: ClassVar[frozenset[str]] = frozenset({
        "plugins", "figures", "optimised_for", "quantised", "devices", "batch", "shard", "stopping", "chain", "full",
        "sequences",
    })  # fmt: skip

    adapter: Digest
    base: Digest
    splits: dict[str, Digest]
    rows: Count
    steps: Count
    epochs: float
    trainable_parameters: Count
    total_parameters: Count
    final_loss: float  # mean of the last tenth of the logged losses; of sft in nats per completion token
    versions: dict[str, str]
    tokens: Count | None = None  # that went through the model: input ids of rows in every epoch, no padding
    figures: dict[str, float] = Field(default_factory=dict)  # means of the last logged values
    optimised_for: tuple[str, ...] = ()
    quantised: Quantised | None = None  # None: the base was trained on as it is
    devices: Count | None = None  # processes that trained; None: one
    batch: Count | None = None  # rows or sequences of a step on all of them together; None: as train.batch_size says
    shard: Literal["fsdp2"] | None = None  # None: each had the whole base
    stopping: Stopping | None = None  # None: the adapter has the last step's weights
    chain: tuple[TrainedStep, ...] = ()  # empty: one step
    sequences: Count | None = None  # that the rows were packed into; None: they were not packed
    full: bool = False  # the weights that learned are the base's own, and what is named adapter has all of them

    @property
    def base_parameters(self) -> int:
        """Of the base, and of the merged model: an adapter is counted beside the base, and merged into it."""
        return self.total_parameters - (0 if self.full else self.trainable_parameters)

    @model_validator(mode="after")
    def _each_goes_on_from_the_one_before(self) -> Self:
        before = None
        for number, step in enumerate(self.chain, 1):
            if step.started_from != before:
                raise ValueError(f"step {number} started from {step.started_from}, the one before made {before}")
            before = step.adapter
        if self.chain and before != self.adapter:
            raise ValueError(f"the last step made {before}, and the adapter is {self.adapter}")
        return self


class TrainMemory(Record):
    """Memory of a training in bytes: of the process on a CPU, of what PyTorch allocates on a GPU.

    ``rows`` sequences of ``tokens`` are the largest batch, padding included. On several devices each number is of one.
    """

    predicted: Count | None  # before the first step; None: the base does not say its sizes
    peak: Count | None  # the largest that was measured; None: this system does not tell
    total: Count | None  # of the device
    rows: Count
    tokens: Count
    logits: Count  # bytes of the logits that were held at once


class MeasuredStep(Record):
    """What differs between two runs of one step; ``resumed_at`` is a step of its own optimiser."""

    adapter: Digest
    mlflow_run: str
    seconds: Annotated[float, Field(ge=0)]
    resumed_at: Count | None = None
    memory: TrainMemory | None = None
    energy: Energy | None = None


class TrainMeasured(Report, Sparse):
    """What differs between two runs of one training: duration, energy, device, and name of the run.

    It is recorded in git and shown. It is no output of DVC, no digest covers it and no gate reads it, so the same data
    and parameters give the same ``dvc.lock`` and the same verdict on a busy machine.
    """

    sparse: ClassVar[frozenset[str]] = frozenset({"chain"})

    adapter: Digest  # which training this is about
    git_commit: str | None
    mlflow_run: str
    seconds: Annotated[float, Field(ge=0)]  # of the whole training, the parts before an interruption included
    device: str
    resumed_at: Count | None = None  # the step of the checkpoint from which this run went on; None: it ran through
    memory: TrainMemory | None = None  # of the step that took most
    tokens_per_second: float | None = None  # without padding, on all devices together
    flop_utilisation: float | None = None  # of the devices' peak (checks.devices); None: that is not known
    energy: Energy | None = None  # in these seconds; None: a version that did not ask recorded it
    chain: tuple[MeasuredStep, ...] = ()  # as in the report


class MergedFile(Record):
    """One file of the merged directory."""

    sha256: Digest
    size: Count


class Distance(Record):
    """How far the merged model is from the 4-bit model that was trained, on the same positions. No bound holds it."""

    max_logprob_diff: Annotated[float, Field(ge=0)]  # nats
    mean_logprob_diff: Annotated[float, Field(ge=0)]
    top1: Annotated[float, Field(ge=0, le=1)]


class Exported(Record):
    """How the directory that ships was quantised, and how far it is from the 16-bit model, on the same positions."""

    kind: Literal["int8", "fp8"]
    compressed_tensors: str  # its version
    unquantised: Digest  # the 16-bit model: base + adapter, merged
    size: Count  # bytes of its files
    max_logprob_diff: Annotated[float, Field(ge=0)]  # nats
    mean_logprob_diff: Annotated[float, Field(ge=0)]
    top1: Annotated[float, Field(ge=0, le=1)]


class ParityReport(Report, Sparse):
    """The merged directory, and its agreement with base + adapter on real prompts.

    ``merged`` and ``files`` are of what ships. If that was ``exported`` to 8 bits, the agreement with base + adapter is
    the 16-bit model's.

    Where the base was quantised for training, ``merged_into`` says which base that is, and ``quantised`` how far the
    merged model is from the quantised one.
    """

    sparse: ClassVar[frozenset[str]] = frozenset({"merged_into", "quantised", "exported"})

    base: Digest
    adapter: Digest
    merged: Digest
    files: dict[TreePath, MergedFile]
    prompts: Count
    positions: Count  # reference tokens compared
    max_logprob_diff: Annotated[float, Field(ge=0)]  # nats
    mean_logprob_diff: Annotated[float, Field(ge=0)]
    top1: Annotated[float, Field(ge=0, le=1)]  # share of positions with the same most likely token
    merged_into: Literal["trained", "original"] | None = None
    quantised: Distance | None = None
    exported: Exported | None = None


class Interval(Record):
    """A mean with its confidence interval, over n rows."""

    value: float
    low: float
    high: float
    n: Count


class ModelResult(Record):
    """One model's predictions and scores: scorer name to interval, overall and by slice."""

    predictions: Digest  # of the JSON lines file
    metrics: dict[str, Interval]
    slices: dict[str, dict[str, Interval]]


class Speed(Record):
    """How fast one model answered the test rows, in the batches of the stage evaluate.

    vLLM starts all rows at once and takes each up when there is room: then there are no seconds of one answer.
    """

    examples_per_second: Annotated[float, Field(ge=0)]
    p50_seconds: Annotated[float | None, Field(ge=0)]  # of one answer, from the start of its batch; by nearest rank
    p95_seconds: Annotated[float | None, Field(ge=0)]


class EvaluateMeasured(Report):
    """How fast the models answered; recorded and shown like ``TrainMeasured``. Baselines have no entry."""

    merged: Digest  # which evaluation this is about
    models: dict[ModelName, Speed]


class Reference(Record):
    """A reference model, from the record at ``commit``."""

    commit: Annotated[str, Field(pattern=r"^[0-9a-f]{40,64}$")]
    merged: Digest
    test: Digest
    scorers: Digest
    prompt_format: Digest
    predictions: Digest  # of data/predictions/candidate.jsonl there


class ReferencesReport(Report):
    """The reference models, as git named them; ``absent`` says why there is none yet.

    ``lockstep references`` writes it. ``main``, and what else a gate names, are in exactly one of the two.
    """

    found: dict[Earlier, Reference]
    absent: dict[Earlier, str]

    @model_validator(mode="after")
    def _each_is_in_one(self) -> Self:
        if both := set(self.found) & set(self.absent):
            raise ValueError(f"{', '.join(sorted(both))} is both found and absent")
        return self


class LooksReport(Report):
    """Which models each test split has judged, as far as git and this work tree know.

    ``models``: by the digest of a test split, the merged models that have a recorded evaluation on it, sorted.
    ``lockstep run`` writes it.
    """

    models: dict[Digest, tuple[Digest, ...]]


class ReferenceUse(Record):
    """Where a reference's predictions come from.

    ``stored``: from its own record, with the same test split, scorers and prompt. ``same-model``: it is the candidate.
    ``evaluated``: its weights answered this test split. ``absent``: there is none yet. ``unavailable``: there is one,
    but neither its predictions nor its weights could be obtained.
    """

    how: Literal["stored", "same-model", "evaluated", "absent", "unavailable"]
    merged: Digest | None  # None when absent
    note: str  # a sentence for a person

    @model_validator(mode="after")
    def _only_the_absent_is_none(self) -> Self:
        if (self.how == "absent") != (self.merged is None):
            raise ValueError(f"{self.how} with {'no model' if self.merged is None else 'a model'}")
        return self


class EvaluationReport(Report, Sparse):
    """The candidate (the merged directory) beside references and baselines, on one test split."""

    sparse: ClassVar[frozenset[str]] = frozenset({"unquantised", "engine"})

    merged: Digest
    base: Digest
    test: Digest
    rows: Count
    scorers: Digest  # of evaluate.scorers, canonical JSON
    prompt_format: Digest  # of the candidate's chat template, the generation settings and the engine
    base_prompt: Digest  # of the messages that the base was asked
    confidence: float
    references: dict[Earlier, ReferenceUse]
    models: dict[ModelName, ModelResult]  # "candidate", "base", then the earlier models where had, then the baselines
    summary: tuple[str, ...]  # sentences for a person
    unquantised: Digest | None = None  # the 16-bit model that answered beside the candidate, where that has 8 bits
    engine: Vllm | None = None  # what generated all of its answers; None: transformers


class NoiseRun(Record):
    """One evaluation of the unchanged model; ``changed``: rows answered differently from the first run."""

    order: str  # "test order", "reversed", "shuffled 1", …
    batch_tokens: Count
    threads: Count
    metrics: dict[str, float]
    changed: Count


class NoiseReport(Report):
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
    max_logprob_diff: Annotated[
        float, Field(ge=0)
    ]  # nats, on reference tokens of the valid split, between two batchings

    @model_validator(mode="after")
    def _floor_is_of_the_runs(self) -> Self:
        for scorer, floor in self.floor.items():
            means = [run.metrics.get(scorer) for run in self.runs]
            known = [mean for mean in means if mean is not None]
            if len(known) < len(means) or abs(max(known) - min(known) - floor) > 1e-6:
                raise ValueError(f"the floor of {scorer} is not the largest difference between its runs")
        return self
