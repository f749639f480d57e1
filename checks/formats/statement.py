"""The in-toto statements (Statement v1) about an image that are signed.

The evidence of one release is about an image and its weights.
It names by digest all that the release came from, and carries the reports of build and verify whole, so that one signed
document leads from a running image back to the rows that the weights were trained on. A verification is what
`lockstep verify` saw of the running model, signed on the machine that saw it; a release carries it as it was signed. An
approval is one person's word that an image may run in an environment, a quarantine release that images may be moved
again. A gate exception is several people's word that an image may run for some hours although gates do not pass. A
checkpoint is about the branch of the environments. A sealed look is one bit about a model. A window is what production
did with a model for some days. A harvest is one person's word that captured requests may be trained on.
"""

import re
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import AwareDatetime, ConfigDict, Field

from checks.formats.harvest import Review
from checks.formats.serving import ImageReport, ServingReport
from checks.formats.training_reports import Start
from checks.formats.verdict import Inside
from checks.formats.watch_report import WatchReport
from checks.process.text import escape
from checks.records.record import CommitHash, Consistent, Digest, Record, Sparse, problems
from checks.records.sections import Name
from checks.storage import layout

STATEMENT: Final = "https://in-toto.io/Statement/v1"
PREDICATE: Final = "urn:lockstep:release:v1"
VERIFICATION: Final = "urn:lockstep:verification:v1"
APPROVAL: Final = "urn:lockstep:approval:v1"
QUARANTINE_RELEASE: Final = "urn:lockstep:quarantine-release:v1"
CHECKPOINT: Final = "urn:lockstep:checkpoint:v1"
SEALED_LOOK: Final = "urn:lockstep:sealed-look:v1"
WINDOW: Final = "urn:lockstep:window:v1"
HARVEST: Final = "urn:lockstep:harvest:v1"
GATE_EXCEPTION: Final = "urn:lockstep:gate-exception:v1"
PAYLOAD = "application/vnd.in-toto+json"  # DSSE's payloadType of a statement
ENVELOPE = "application/vnd.dsse.envelope.v1+json"  # The signed statement is an artifact of its image, of this type.
# A directory's digest, as checks.storage.digest defines it: in-toto's sha256 is of a file's bytes.
TREE = "lockstepTreeV1"


class Subject(Record):
    """A subject of a statement: a name, and its digest by algorithm, hexadecimal."""

    name: str
    digest: Annotated[dict[str, str], Field(min_length=1)]


class Materials(Sparse):
    """The origins of the weights. Directories by ``checks.storage.digest``'s tree digest, files by SHA-256."""

    sparse: ClassVar[frozenset[str]] = frozenset({"start"})

    base: Digest
    raw: Digest
    splits: Annotated[dict[str, Digest], Field(min_length=1)]
    adapter: Digest
    tokenizer: Digest  # The tree digest of its files.
    chat_template: Digest | None  # The digest of its text.
    params: Digest
    lock: Digest  # dvc.lock
    verdict: Digest
    probes: Digest
    reports: dict[Inside, Digest]
    start: Start | None = None  # None: the adapter was a new one


class Release(Record, Consistent):
    """The predicate."""

    materials: Materials
    commit: CommitHash
    policy: Digest  # The gates that the verdict answers.
    sbom: Digest  # The bill of materials that is attached to the image.
    image: ImageReport
    serving: ServingReport
    # The signed verification whose report ``serving`` is, envelope or bundle, as text; older versions had none.
    verification: Annotated[str, Field(max_length=256 << 10)] | None = None
    tool: str

    def contradictions(self) -> Iterator[str]:
        """Yield each contradiction."""
        return problems(
            (
                self.serving.model != self.image.model,
                "the serving report is about another model than the image",
            ),
            (
                {self.image.verdict, self.serving.verdict} != {self.materials.verdict},
                "the reports are about another verdict",
            ),
            (self.image.commit != self.commit, "the image is of another commit"),
        )


def schema() -> dict[str, Any]:
    """JSON Schema of a release's predicate, for whoever reads one without Lockstep (docs/release.schema.json)."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": PREDICATE,
        **Release.model_json_schema(by_alias=True),
        "description": f"The predicate of an in-toto statement whose predicateType is {PREDICATE}.",
    }


class _InToto(Record):
    """The fields of every statement."""

    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)

    type: Annotated[Literal["https://in-toto.io/Statement/v1"], Field(alias="_type")] = STATEMENT
    subject: tuple[Subject, ...]

    def is_of(self, image: str, model: str) -> bool:
        """Whether it is about this image and these weights."""
        wanted = [{"sha256": image.removeprefix("sha256:")}, {TREE: model.removeprefix("sha256:")}]
        return [subject.digest for subject in self.subject] == wanted


class Statement(_InToto, Consistent):
    """One release, as it is signed."""

    subject: Annotated[tuple[Subject, ...], Field(min_length=2, max_length=2)]
    predicate_type: Annotated[Literal["urn:lockstep:release:v1"], Field(alias="predicateType")] = (
        PREDICATE
    )
    predicate: Release

    def contradictions(self) -> Iterator[str]:
        """Yield each contradiction."""
        image = self.predicate.image
        return problems(
            (
                not self.is_of(image.image, image.model),
                "the subjects are not the image and the weights of the predicate",
            )
        )


class Observed(Record):
    """The predicate of a verification."""

    report: ServingReport


class Verification(_InToto, Consistent):
    """The behaviour of a server that `lockstep verify` saw.

    Subjects: the report's file, the weights, and the image where there is one.
    """

    subject: Annotated[tuple[Subject, ...], Field(min_length=2, max_length=3)]
    predicate_type: Annotated[
        Literal["urn:lockstep:verification:v1"], Field(alias="predicateType")
    ] = VERIFICATION
    predicate: Observed

    @property
    def file(self) -> str:
        """Return the digest of the report's file."""
        return f"sha256:{self.subject[0].digest.get('sha256', '')}"

    def contradictions(self) -> Iterator[str]:
        """Yield each contradiction."""
        report = self.predicate.report
        image = [{"sha256": report.image.removeprefix("sha256:")}] if report.image else []
        wanted = [{TREE: report.model.removeprefix("sha256:")}, *image]
        file, *others = self.subject
        return problems(
            (
                file.name != layout.SERVING_REPORT.as_posix()
                or [other.digest for other in others] != wanted,
                "the subjects are not the report, its weights and its image",
            )
        )


class Approved(Record):
    """The predicate of an approval."""

    environment: Annotated[str, Field(min_length=1, max_length=100)]
    why: Annotated[str, Field(min_length=1, max_length=500, pattern=r"^[^\x00-\x1f\x7f]+$")]


class Approval(_InToto):
    """One person's word that an image may run in an environment."""

    subject: Annotated[tuple[Subject, ...], Field(min_length=1, max_length=1)]
    predicate_type: Annotated[Literal["urn:lockstep:approval:v1"], Field(alias="predicateType")] = (
        APPROVAL
    )
    predicate: Approved


class Excepted(Record, Consistent):
    """The predicate of a gate exception. ``verdict``: the digest of the file in which these gates do not pass."""

    environment: Annotated[str, Field(min_length=1, max_length=100)]
    verdict: Digest
    gates: Annotated[tuple[Name, ...], Field(min_length=1, max_length=100)]
    why: Annotated[str, Field(min_length=1, max_length=500)]
    issued: AwareDatetime
    expires: AwareDatetime

    def contradictions(self) -> Iterator[str]:
        """Yield each contradiction."""
        return problems(
            (
                self.why != escape(" ".join(self.why.split())),
                "why: is not one line without invisible characters",
            ),
            (
                self.gates != tuple(sorted(set(self.gates))),
                "gates: are not sorted, or one is written twice",
            ),
            (self.expires <= self.issued, "expires: is not after issued"),
        )


class GateException(_InToto):
    """Several people's word that an image may run in an environment although some gates do not pass.

    Subjects: the image and the weights.
    """

    subject: Annotated[tuple[Subject, ...], Field(min_length=2, max_length=2)]
    predicate_type: Annotated[
        Literal["urn:lockstep:gate-exception:v1"], Field(alias="predicateType")
    ] = GATE_EXCEPTION
    predicate: Excepted


class Freed(Record):
    """The predicate of a quarantine release. ``parent``: the commit of the ledger that it was made on, and no other."""

    parent: CommitHash
    why: Annotated[str, Field(min_length=1, max_length=500, pattern=r"^[^\x00-\x1f\x7f]+$")]


class QuarantineRelease(_InToto):
    """One person's word that the images of some entries are held back no longer."""

    subject: Annotated[tuple[Subject, ...], Field(min_length=1, max_length=1000)]
    predicate_type: Annotated[
        Literal["urn:lockstep:quarantine-release:v1"], Field(alias="predicateType")
    ] = QUARANTINE_RELEASE
    predicate: Freed


class Checked(Record):
    """The predicate of a checkpoint. ``number``: how many there are, this one included."""

    number: Annotated[int, Field(ge=1)]
    at: AwareDatetime


class Checkpoint(_InToto, Consistent):
    """Somebody's word that at a time the branch of the environments was at a commit, and had this history."""

    subject: Annotated[tuple[Subject, ...], Field(min_length=1, max_length=1)]
    predicate_type: Annotated[
        Literal["urn:lockstep:checkpoint:v1"], Field(alias="predicateType")
    ] = CHECKPOINT
    predicate: Checked

    @property
    def head(self) -> str:
        """Return the commit."""
        return self.subject[0].digest["gitCommit"]

    def contradictions(self) -> Iterator[str]:
        """Yield each contradiction."""
        commit = re.fullmatch("[0-9a-f]{40}", self.subject[0].digest.get("gitCommit", ""))
        return problems((commit is None, "the subject is not a commit"))


class Looked(Record):
    """The predicate of a sealed look: the only thing that is ever said of the answers to the sealed rows.

    ``split``: SHA-256 of the encrypted file. ``asked``: ``checks.config.sealed.Sealed.asked``. ``number``: how many
    looks the split has had, this one included.
    """

    split: Digest
    asked: Digest
    number: Annotated[int, Field(ge=1)]
    passed: bool


class SealedLook(_InToto):
    """Somebody's word that the weights pass the sealed gates, or that they do not."""

    subject: Annotated[tuple[Subject, ...], Field(min_length=1, max_length=1)]
    predicate_type: Annotated[
        Literal["urn:lockstep:sealed-look:v1"], Field(alias="predicateType")
    ] = SEALED_LOOK
    predicate: Looked


class Watched(Record):
    """The predicate of a window."""

    report: WatchReport


class Window(_InToto, Consistent):
    """The report of one window of production, as `lockstep watch` made it. The subject is the weights."""

    subject: Annotated[tuple[Subject, ...], Field(min_length=1, max_length=1)]
    predicate_type: Annotated[Literal["urn:lockstep:window:v1"], Field(alias="predicateType")] = (
        WINDOW
    )
    predicate: Watched

    def contradictions(self) -> Iterator[str]:
        """Yield each contradiction."""
        weights = {TREE: self.predicate.report.model.removeprefix("sha256:")}
        return problems(
            (self.subject[0].digest != weights, "the subject is not the weights of the report")
        )


class Harvested(Record):
    """The predicate of a harvest."""

    review: Review


class Harvest(_InToto, Consistent):
    """One person's word that the rows of a review may be trained on. The subject is the source that it names."""

    subject: Annotated[tuple[Subject, ...], Field(min_length=1, max_length=1)]
    predicate_type: Annotated[Literal["urn:lockstep:harvest:v1"], Field(alias="predicateType")] = (
        HARVEST
    )
    predicate: Harvested

    def contradictions(self) -> Iterator[str]:
        """Yield each contradiction."""
        source = {"sha256": self.predicate.review.sha256}
        return problems(
            (self.subject[0].digest != source, "the subject is not the source of the review")
        )
