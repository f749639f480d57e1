"""Types of the serving reports: probes of the model, the image, and the verification of a server.

``stages.probe`` writes the probes, `lockstep build` the image report, `lockstep verify` the serving report. Digests are
``sha256:<hex>``: of a model as ``checks.storage.digest`` defines it, of images, manifests and layers as OCI does.
"""

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal, get_args

from pydantic import Field, JsonValue

from checks.formats.energy import Energy
from checks.formats.report import Count, Report, TreePath
from checks.records.record import CommitHash, Consistent, Digest, Record, Sparse, problems
from checks.records.rows import Message

Seconds = Annotated[float, Field(ge=0)]
PinnedImage = Annotated[str, Field(pattern=r"^[^\s@]{1,400}@sha256:[0-9a-f]{64}$")]


class ProbeToken(Record):
    """One greedy token and the second best at its position; log-probabilities in nats."""

    id: Count
    text: str  # The text that it adds to the answer; special tokens add none.
    logprob: Annotated[float, Field(le=0)]
    runner_up: Count
    runner_up_logprob: Annotated[float, Field(le=0)]

    @property
    def lead(self) -> float:
        """Its log-probability minus that of the second best, in nats."""
        return self.logprob - self.runner_up_logprob


class Probe(Sparse):
    """One prompt and the merged model's own answer.

    ``prompt_tokens``: the ids of the templated prompt. ``tokens``: the greedy answer, with the token that ended it if
    it ``ended``. ``unended``: the greedy answer in which no token may end it, so that it is long for any model.
    ``base_text`` and ``base_unended``: the untuned base's answers to the same messages. ``tools``: the functions that
    the prompt describes.
    """

    sparse: ClassVar[frozenset[str]] = frozenset({"base_unended", "tools"})

    id: str
    messages: Annotated[tuple[Message, ...], Field(min_length=1)]
    prompt_tokens: Annotated[tuple[Count, ...], Field(min_length=1)]
    tokens: Annotated[tuple[ProbeToken, ...], Field(min_length=1)]
    ended: bool
    base_text: str
    unended: tuple[ProbeToken, ...] = ()
    base_unended: str = ""
    tools: tuple[dict[str, JsonValue], ...] = ()

    @property
    def text(self) -> str:
        """Return the answer."""
        return "".join(token.text for token in self.tokens)

    def without_end(self) -> "Probe":
        """Return the same prompt with the long answers."""
        return self.model_copy(
            update={"tokens": self.unended, "ended": False, "base_text": self.base_unended}
        )


class ProbeReport(Report):
    """The merged model's answers offline, token by token."""

    merged: Digest
    base: Digest
    valid: Digest  # The split that the prompts are from.
    max_new_tokens: Count
    precision: str
    device: str
    probes: Annotated[tuple[Probe, ...], Field(min_length=1)]
    ends: tuple[
        Count, ...
    ] = ()  # tokens that end an answer; those that ``unended`` answers are made without


class Layer(Record):
    """One layer of the weights. It is uncompressed, so its digest is also its diff_id."""

    digest: Digest
    size: Count
    # Each file's digest by its path below the model's folder.
    files: Annotated[dict[TreePath, Digest], Field(min_length=1)]


class BaseImage(Record):
    """The image that weights were added to. ``index``: the pinned digest, if that is an index of platforms."""

    name: str  # The text in params.yaml.
    index: Digest | None
    manifest: Digest
    platform: str  # such as linux/amd64
    layers: Count
    size: Count  # bytes of its layers


class ImageReport(Report, Sparse):
    """An image: its weights, layers, base and verdict."""

    sparse: ClassVar[frozenset[str]] = frozenset({"server"})

    image: Digest  # The digest of its manifest.
    place: str  # where it was put: HOST/NAME, or oci:FOLDER
    model: Digest  # The merged folder's digest.
    verdict: Digest  # The digest of reports/verdict.json.
    commit: CommitHash  # The commit that holds the model's record.
    runtime: str
    path: str  # The path of the weights in the image.
    base: BaseImage | None  # None: the weights alone
    server: PinnedImage | None = (
        None  # the server that weights alone run in; None: environments name it
    )
    # The layers of the weights, in order.
    layers: Annotated[tuple[Layer, ...], Field(min_length=1)]
    size: Count  # bytes of all its blobs
    tool: str  # version of Lockstep


CheckName = Literal[
    "start",  # answered within the deadline
    "identity",  # says that it serves this model's folder
    "template",  # makes the same token ids of a chat
    "parity",  # answers the probes as the offline model does
    "adapter",  # answers otherwise than the base
    "score",  # scores the same on the test rows
    "neighbours",  # answers for the other adapters of an environment as these do offline
    "contract",  # puts calls, thoughts and JSON into the fields that clients read
    "errors",  # refuses a prompt too long, a malformed request, an unknown model
    "metrics",  # exposes metrics, and they move
    "latency",  # answers streams, several at once; the times are only recorded
    "egress",  # ran without a way out
    "read-only",  # ran on a root file system that cannot be written
    "drain",  # SIGTERM lets a request in flight finish
]

# Checks that are made only where params.yaml or an option asks for them.
OPTIONAL: tuple[CheckName, ...] = ("contract", "neighbours")


class ServingCheck(Record):
    """The result of one check. ``unavailable``: this runtime, or this way to run it, does not support it."""

    name: CheckName
    status: Literal["pass", "fail", "unavailable"]
    reason: str  # one sentence for a person
    value: float | None = None
    bound: float | None = None


class Load(Record):
    """Latency at one level of concurrency. Seconds from sending a request; the first token only for streams."""

    concurrency: Annotated[int, Field(ge=1)]
    requests: Annotated[int, Field(ge=1)]
    p50: Seconds
    p95: Seconds
    first_token_p50: Seconds | None
    first_token_p95: Seconds | None
    tokens_per_second: Annotated[float, Field(ge=0)]  # generated, of all requests together


LONG_ENOUGH = 5.0  # seconds: NVML's counter goes on every 0.1 s, and the requests at the ends are fewer at a time


class Throughput(Record):
    """The speed of a server that always has so many requests in flight. They are the probes' prompts, streamed.

    ``machine``: its class, as ``checks.machine.meters`` names it; None: not known. ``energy``: of all that ran on it
    meanwhile, the client included.
    """

    machine: str | None
    concurrency: Annotated[int, Field(ge=1)]
    requests: Annotated[int, Field(ge=1)]
    seconds: Annotated[float, Field(gt=0)]
    energy: Energy

    @property
    def watt_hours(self) -> float | None:
        """Of 1,000 requests; None: not measured, or not for long enough.

        Of GPUs alone where they serve: who verifies may not be allowed to read the processors' counters.
        """
        gpus = tuple(counter for counter in self.energy.counted if counter.kind == "nvml")
        hours = Energy(counted=gpus).watt_hours if gpus else self.energy.watt_hours
        return None if hours is None or self.seconds < LONG_ENOUGH else 1000 * hours / self.requests

    def price(self, hourly: float) -> float:
        """Of 1,000 requests, where the machine costs ``hourly`` an hour."""
        return 1000 * self.seconds / 3600 * hourly / self.requests


class ServerComparison(Sparse):
    """A server beside the one that an environment runs: with the same weights, asked the same rows.

    ``lower``: one-sided bound, at ``confidence``, of the mean of the differences row by row. A loss of ``margin`` is
    too much. ``slower``: the largest ratio of the 95th percentiles of latency, over the levels of concurrency; with a
    bound the ratio of mean times by turns, with its interval, at the level that is slowest for certain.
    """

    sparse: ClassVar[frozenset[str]] = frozenset(
        {"process", "slower_low", "slower_high", "slower_on"}
    )

    environment: str
    version: str  # of the release that it runs
    server: PinnedImage  # what runs there: the server of weights alone, else the image
    # The package and version of a process that stood for it; None: the image itself ran.
    process: str | None = None
    metric: str
    rows: Annotated[int, Field(ge=1)]
    differ: Count  # rows whose answers differ
    mean: float
    mean_before: float
    lower: float
    margin: Annotated[float, Field(ge=0)]
    confidence: Annotated[float, Field(gt=0, lt=1)]
    slower: Annotated[float, Field(gt=0)] | None  # None: a load was not measured
    slower_bound: Annotated[float, Field(gt=0)] | None  # serve.verify.slower
    slower_low: Annotated[float, Field(gt=0)] | None = None
    slower_high: Annotated[float, Field(gt=0)] | None = None
    slower_on: str | None = None  # The class of the machine that timed both; None: not known.
    status: Literal["pass", "fail"]
    reason: str  # one sentence for a person


class LoadedAdapter(Record):
    """Another adapter on the server. ``probes``: the digest of the answers that the check ``neighbours`` compared."""

    project: str  # its folder below the git root
    version: str
    model: Digest
    probes: Digest


class Neighbours(Record):
    """The other adapters of an environment that the server had loaded, on which the result depends.

    ``server``: the project whose parameters the server was started with.
    """

    environment: str
    server: str
    adapters: tuple[LoadedAdapter, ...]


class ServingReport(Report, Sparse, Consistent):
    """The result of a verification. It passes if no check fails and the essential ones pass."""

    sparse: ClassVar[frozenset[str]] = frozenset({"throughput", "against", "beside"})

    image: Digest | None  # None: a server that was running already, or a folder of weights
    # The server's own image, NAME@sha256:…, in whose container weights were served that come alone; else None.
    server: PinnedImage | None = None
    model: Digest
    verdict: Digest  # The digest of reports/verdict.json.
    probes: Digest  # The digest of data/probes.json.
    runtime: str
    how: Literal["container", "process", "url"]
    device: str
    checks: tuple[ServingCheck, ...]
    load: tuple[Load, ...]
    # None if the server failed before, or an older version asked.
    throughput: Throughput | None = None
    against: ServerComparison | None = None  # None: not asked
    beside: Neighbours | None = None  # None: the server had this release alone
    status: Literal["pass", "fail"]
    tool: str

    def contradictions(self) -> Iterator[str]:
        """Yield each contradiction."""
        names = [check.name for check in self.checks]
        every = [*names, *(name for name in OPTIONAL if name not in names)]
        return problems(
            (
                sorted(every) != sorted(get_args(CheckName)),
                "every check is made once, or said to be unavailable",
            ),
            (
                ("neighbours" in names) != (self.beside is not None),
                "beside: names what the check neighbours was about",
            ),
            (
                self.status != combine(self.checks, self.against),
                f"status {self.status} contradicts the checks",
            ),
        )


ESSENTIAL: tuple[CheckName, ...] = ("start", "parity", "adapter", "score")


def combine(
    checks: tuple[ServingCheck, ...], against: ServerComparison | None = None
) -> Literal["pass", "fail"]:
    """``pass`` if no check fails, each essential one passes, and so does the comparison, if there is one."""
    passed = {check.name for check in checks if check.status == "pass"}
    failed = any(check.status == "fail" for check in checks) or (
        against is not None and against.status == "fail"
    )
    return "fail" if failed or not passed.issuperset(ESSENTIAL) else "pass"
