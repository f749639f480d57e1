"""The in-toto statements: of a release, a verification, an approval, an exception, a removal from quarantine, a
checkpoint, a look, a window, a harvest.

The same evidence gives the same bytes on every machine.
"""

import json
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from checks.decision.held import HeldVerdict
from checks.formats.harvest import Review
from checks.formats.serving import ImageReport, ServingReport
from checks.formats.statement import (
    TREE,
    Approval,
    Approved,
    Checked,
    Checkpoint,
    Excepted,
    Freed,
    GateException,
    Harvest,
    Harvested,
    Looked,
    Materials,
    Observed,
    QuarantineRelease,
    Release,
    SealedLook,
    Statement,
    Subject,
    Verification,
    Watched,
    Window,
)
from checks.formats.training_reports import ParityReport
from checks.formats.watch_report import WatchReport
from checks.process import distribution
from checks.process.errors import EvidenceRefused
from checks.storage import digest, files, layout
from release.evidence import dsse, strict

MODEL = layout.MERGED.as_posix()  # the weights' name among the subjects
TEMPLATE = "chat_template.jinja"
TOKENIZER_CONFIG = "tokenizer_config.json"
# The files that transformers reads for a tokenizer; the chat template has its own digest.
TOKENIZER = frozenset(
    (
        "added_tokens.json", "merges.txt", "sentencepiece.bpe.model", "special_tokens_map.json", "spiece.model",
        "tokenizer.json", "tokenizer.model", TOKENIZER_CONFIG, "vocab.json", "vocab.txt",
    )
)  # fmt: skip
_REPRO = "run `./lockstep run`, then `lockstep build` and `lockstep verify`"
_S = TypeVar(
    "_S",
    Statement,
    Verification,
    Approval,
    GateException,
    QuarantineRelease,
    Checkpoint,
    SealedLook,
    Window,
    Harvest,
)
_A = TypeVar("_A", Approval, GateException)


def make(
    root: Path,
    held: HeldVerdict,
    image: ImageReport,
    serving: ServingReport,
    verified: str,
    sbom: str,
) -> bytes:
    """Return the statement of the release of ``image``, whose bill of materials has the digest ``sbom``.

    ``verified`` is the signed verification of the report ``serving``. Files below ``root`` are hashed; the digests of
    directories come from ``held``, which checked them. Raises EvidenceRefused if a file is missing or the parts are
    about different things.
    """
    judged = held.evidence.judged
    parity, train = held.evidence.reports.parity, held.evidence.reports.train
    if parity is None:
        raise EvidenceRefused(f"{layout.PARITY_REPORT}: is not here", _REPRO)
    materials = Materials(
        base=_judged(judged, layout.BASE),
        raw=_judged(judged, layout.RAW),
        splits={
            name: _judged(judged, layout.SPLITS / f"{name}.jsonl") for name in layout.SPLIT_NAMES
        },
        adapter=_judged(judged, layout.ADAPTER),
        tokenizer=tokenizer(parity),
        chat_template=_template(root, parity),
        params=digest.of_file(root / layout.PARAMS).sha256,
        lock=digest.of_file(root / layout.LOCK).sha256,
        verdict=digest.of_file(root / layout.VERDICT).sha256,
        probes=digest.of_file(root / layout.PROBES).sha256,
        reports={
            path: value for path, value in judged.items() if path.startswith(f"{layout.REPORTS}/")
        },
        start=train.start if train else None,
    )
    subjects = (
        Subject(
            name=held.params.serve.name, digest={"sha256": image.image.removeprefix("sha256:")}
        ),
        Subject(name=MODEL, digest={TREE: _judged(judged, layout.MERGED).removeprefix("sha256:")}),
    )
    try:
        release = Release(
            materials=materials, commit=image.commit, policy=held.verdict.policy, sbom=sbom, image=image,
            serving=serving, verification=verified, tool=f"lockstep {distribution.version()}",
        )  # fmt: skip
        return write(Statement(subject=subjects, predicate=release))
    except ValidationError as error:
        raise EvidenceRefused(f"the release: {files.first(error)}", _REPRO) from error


def parse(payload: bytes, where: str = "the statement") -> Statement:
    """Parse a release's statement whose signature was checked. Raises EvidenceRefused if it is invalid."""
    return parse_as(payload, where, Statement)


def verification(report: ServingReport, file: str) -> bytes:
    """Return the statement of a verification: ``report``, whose file has the digest ``file``."""
    subjects = [
        Subject(
            name=layout.SERVING_REPORT.as_posix(), digest={"sha256": file.removeprefix("sha256:")}
        ),
        Subject(name=MODEL, digest={TREE: report.model.removeprefix("sha256:")}),
    ]
    if report.image:
        subjects.append(
            Subject(name="image", digest={"sha256": report.image.removeprefix("sha256:")})
        )
    return write(Verification(subject=tuple(subjects), predicate=Observed(report=report)))


def window(report: WatchReport) -> bytes:
    """Return the statement of a window of production."""
    weights = Subject(name=MODEL, digest={TREE: report.model.removeprefix("sha256:")})
    return write(Window(subject=(weights,), predicate=Watched(report=report)))


def approve(environment: str, image: str, why: str) -> bytes:
    """Return the statement that the image with digest ``image`` may run in ``environment``."""
    subject = Subject(name="image", digest={"sha256": image.removeprefix("sha256:")})
    try:
        approved = Approved(environment=environment, why=why)
    except ValidationError as error:
        raise EvidenceRefused(
            f"the approval: {files.first(error)}", "say why, in one line"
        ) from error
    return write(Approval(subject=(subject,), predicate=approved))


def parse_approval(
    payload: bytes, environment: str, image: str, where: str = "the approval"
) -> Approval:
    """Parse an approval whose signature was checked. It must be of this image and environment."""
    todo = "let it be approved again: `lockstep approve`"
    return _parse_for(payload, Approval, environment, image, where, todo)


def except_gates(image: str, model: str, excepted: Excepted) -> bytes:
    """Return the statement that the image with these weights may run although gates do not pass."""
    subjects = (
        Subject(name="image", digest={"sha256": image.removeprefix("sha256:")}),
        Subject(name=MODEL, digest={TREE: model.removeprefix("sha256:")}),
    )
    return write(GateException(subject=subjects, predicate=excepted))


def parse_exception(
    payload: bytes, environment: str, image: str, where: str = "the exception"
) -> GateException:
    """Parse an exception whose signature was checked. It must be of this image and environment."""
    todo = "sign one about this image and for this environment"
    return _parse_for(payload, GateException, environment, image, where, todo)


def _parse_for(
    payload: bytes, kind: type[_A], environment: str, image: str, where: str, todo: str
) -> _A:
    parsed = parse_as(payload, where, kind)
    stated = parsed.predicate.environment
    if parsed.subject[0].digest != {"sha256": image.removeprefix("sha256:")}:
        raise EvidenceRefused(f"{where}: is about another image", todo)
    if stated != environment:
        raise EvidenceRefused(f"{where}: is for {stated!r}, not {environment!r}", todo)
    return parsed


def free(images: Iterable[str], parent: str, why: str) -> bytes:
    """Return the statement that ``images`` (digests) leave the quarantine with the commit after ``parent``."""
    digests = [image.removeprefix("sha256:") for image in sorted(images)]
    subjects = tuple(Subject(name="image", digest={"sha256": value}) for value in digests)
    try:
        return write(QuarantineRelease(subject=subjects, predicate=Freed(parent=parent, why=why)))
    except ValidationError as error:
        raise EvidenceRefused(
            f"the release: {files.first(error)}", "say why, in one line"
        ) from error


def parse_free(payload: bytes, images: Iterable[str], parent: str, where: str) -> QuarantineRelease:
    """Parse a removal from quarantine whose signature was checked. It must be of these images, on this commit."""
    release = parse_as(payload, where, QuarantineRelease)
    wanted = [{"sha256": image.removeprefix("sha256:")} for image in sorted(images)]
    if [
        subject.digest for subject in release.subject
    ] != wanted or release.predicate.parent != parent:
        raise EvidenceRefused(
            f"{where}: is about other images or another commit", "release them again"
        )
    return release


def checkpoint(branch: str, head: str, number: int, at: datetime) -> bytes:
    """Return the statement that ``branch`` was at the commit ``head``."""
    subject = Subject(name=branch, digest={"gitCommit": head})
    return write(Checkpoint(subject=(subject,), predicate=Checked(number=number, at=at)))


def parse_checkpoint(payload: bytes, branch: str, where: str) -> Checkpoint:
    """Parse a checkpoint whose signature was checked. It must be of this branch."""
    checkpoint = parse_as(payload, where, Checkpoint)
    if checkpoint.subject[0].name != branch:
        name = checkpoint.subject[0].name[:80]
        raise EvidenceRefused(f"{where}: is about the branch {name!r}", "sign a new checkpoint")
    return checkpoint


def sealed_look(model: str, looked: Looked) -> bytes:
    """Return the statement that the sealed split was asked about the weights ``model``."""
    return write(
        SealedLook(
            subject=(Subject(name=MODEL, digest={TREE: model.removeprefix("sha256:")}),),
            predicate=looked,
        )
    )


def parse_sealed_look(payload: bytes, model: str, where: str) -> SealedLook:
    """Parse a sealed look whose signature was checked. It must be of this model."""
    look = parse_as(payload, where, SealedLook)
    if look.subject[0].digest != {TREE: model.removeprefix("sha256:")}:
        raise EvidenceRefused(
            f"{where}: is about another model", "ask about this one: `lockstep sealed ask`"
        )
    return look


def harvest(review: Review) -> bytes:
    """Return the statement that the rows of ``review`` may be trained on, or test a model."""
    subject = Subject(name=review.path.as_posix(), digest={"sha256": review.sha256})
    return write(Harvest(subject=(subject,), predicate=Harvested(review=review)))


def tokenizer(parity: ParityReport) -> str:
    """Return the tree digest of the tokenizer's files. Raises EvidenceRefused if there are none."""
    tokens = {
        name: digest.FileDigest(file.sha256, file.size)
        for name, file in parity.files.items()
        if name in TOKENIZER
    }
    if not tokens:
        raise EvidenceRefused(
            f"{layout.MERGED}: has no tokenizer",
            "merge it with its tokenizer: run `./lockstep run merge`",
        )
    return digest.of_manifest(tokens)


def write(statement: BaseModel) -> bytes:
    """Return the canonical bytes of a statement."""
    return digest.canonical_json(statement.model_dump(mode="json", by_alias=True))


def parse_as(payload: bytes, where: str, kind: type[_S]) -> _S:
    """Parse a statement of a ``kind`` whose signature was checked. Raises EvidenceRefused if it is invalid."""
    predicate_type = strict.read_canonical(payload, where, dsse.LARGEST).get("predicateType")
    wanted = kind.model_fields["predicate_type"].default
    if predicate_type != wanted:
        files.refuse_format(where, str(predicate_type), wanted)
        raise EvidenceRefused(
            f"{where}: predicateType is {str(predicate_type)[:80]!r}, not {wanted}",
            "sign the right statement",
        )
    try:
        return kind.model_validate_json(payload)
    except ValidationError as error:
        raise files.unfit(where, error, "sign it again with this version") from error


def _judged(judged: dict[str, str], path: Path) -> str:
    value = judged.get(path.as_posix())
    if value is None:
        raise EvidenceRefused(f"{layout.VERDICT}: does not name its {path}", _REPRO)
    return value


def _template(root: Path, parity: ParityReport) -> str | None:
    """Return the digest of the chat template's text: a file, or a field of the tokenizer's configuration."""
    if TEMPLATE in parity.files:
        return parity.files[TEMPLATE].sha256
    if TOKENIZER_CONFIG not in parity.files:
        return None
    path = root / layout.MERGED / TOKENIZER_CONFIG
    if digest.of_file(path).sha256 != parity.files[TOKENIZER_CONFIG].sha256:
        raise EvidenceRefused(
            f"{path}: is not the file that was merged",
            "run `./lockstep dvc checkout models/merged`",
        )
    template = json.loads(path.read_bytes()).get("chat_template")
    if template is None:
        return None
    return digest.of_bytes(
        template.encode() if isinstance(template, str) else digest.canonical_json(template)
    )
