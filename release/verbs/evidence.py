"""evidence: traces an image back to the rows that its weights were trained on, along signed statements.

Every step has a digest, and says whether it was checked or is only signed.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

from pydantic import ValidationError
from tqdm import tqdm

from checks.formats import pointer
from checks.formats.data_reports import FetchReport, PrepareReport
from checks.formats.report import Report
from checks.formats.signers import Signers
from checks.formats.statement import Statement
from checks.formats.training_reports import ParityReport, TrainReport
from checks.process.errors import BuildRefused, EvidenceRefused, MachineRefused
from checks.records.identity import Digest
from checks.records.rows import Record
from checks.storage import digest, files, layout
from checks.storage.digest import FileDigest
from release.adapters import commits
from release.adapters.registry import reference
from release.adapters.registry.types import Store
from release.evidence import attach, dsse, released, sbom, sigstore, trust, verification, weights
from release.evidence.released import Released
from release.evidence.statement import TEMPLATE, tokenizer
from release.image import stores

How = Literal[
    "store",  # the bytes are in the image's store and have this digest
    "here",  # the file is on this machine and has this digest
    "commit",  # the file is in the commit that the statement names and has this digest
    "follows",  # named by something that was checked
    "signed",  # only the signed statement says so
]
_R = TypeVar("_R", bound=Report)


class Step(Record):
    """One step. ``note`` is for a person; ``digest`` is None if the thing is named by another hash than SHA-256."""

    what: str
    digest: Digest | None
    checked: How
    note: str


class Walk(Record):
    """The steps from an image to its rows. ``evidence`` is the digest of the signed statement's envelope."""

    image: str
    evidence: Digest
    signer: str
    steps: tuple[Step, ...]
    statement: Statement


class _Place(NamedTuple):
    """Where an image is stored, and which evidence its environment names."""

    store: Store
    image: str
    evidence: str | None


def show(root: Path, image: str, target: str | None = None) -> Walk:
    """Trace ``image`` back: HOST/NAME@DIGEST, oci:FOLDER@DIGEST, or the digest of an image that runs or was built.

    ``target`` is the branch whose signers count. Raises EvidenceRefused if no valid statement about it exists or the
    statement contradicts what it names, RegistryRefused if the image is missing, BuildRefused for an invalid reference.
    """
    place = _place(root, image)
    # A missing image is refused apart from one without evidence.
    attach.subject(place.store, place.image)
    known = trust.known(root, target)
    release = released.find(place.store, place.image, known, place.evidence)
    steps = (
        *_image(place, release),
        *_attached(place, release, known),
        *_Made(root, release.statement, known).steps(),
    )
    return Walk(
        image=f"{place.store.name}@{place.image}", evidence=release.digest, signer=release.signer, steps=steps,
        statement=release.statement,
    )  # fmt: skip


def _place(root: Path, text: str) -> _Place:
    if not text.startswith("sha256:"):
        named = reference.parse(text)
        if named.digest is None:
            raise BuildRefused(
                f"{text!r}: names no digest", "write it as HOST/NAME@sha256:…: a tag can be moved"
            )
        return _Place(stores.open_store(named, root), named.digest, None)
    # A pointer says where the image is; without one it is where `lockstep build` wrote it.
    built = reference.parse(f"{reference.LAYOUT}{layout.IMAGE}@{text}")
    for path in sorted((root / layout.ENVIRONMENTS).glob(f"*/{layout.POINTER}")):
        if not path.is_file():
            raise EvidenceRefused(
                f"{path.relative_to(root)}: is not a regular file", "restore it from git"
            )
        here = pointer.parse(path.read_bytes(), str(path.relative_to(root)))
        if here.digest == text:
            return _Place(stores.open_store(reference.parse(here.image), root), text, here.evidence)
    return _Place(stores.open_store(built, root), text, None)


def _image(place: _Place, release: Released) -> Iterator[Step]:
    """Yield the image and its layers, read from the store."""
    report = release.statement.predicate.image
    if not attach.has_layers(place.store, place.image, report):
        name = f"{place.store.name}@{place.image}"
        raise EvidenceRefused(
            f"{name}: has other layers than its signed statement says",
            "do not run it; ask who signed",
        )
    yield Step(
        what="image",
        digest=place.image,
        checked="store",
        note=f"runtime {report.runtime}, {report.size:,} bytes",
    )
    if report.base:
        base = report.base
        yield Step(
            what="base image",
            digest=base.manifest,
            checked="signed",
            note=f"{base.name}, {base.platform}",
        )
    for number, layer in enumerate(report.layers, 1):
        names = sorted(layer.files)
        note = names[0] + (f" and {len(names) - 1} more files" if len(names) > 1 else "")
        yield Step(what=f"layer {number}", digest=layer.digest, checked="follows", note=note)


def _attached(place: _Place, signed: Released, known: Signers) -> Iterator[Step]:
    """Yield the signature of the weights and the bill of materials, if they are attached and valid."""
    release = signed.statement.predicate
    listed = weights.of_image(release.image)
    statement = weights.payload(listed, signed.statement.subject[0].name)
    for one in attach.attached(
        place.store, place.image, sigstore.BUNDLE, dsse.LARGEST, lambda _: None
    ):
        with contextlib.suppress(EvidenceRefused):
            note = f"of {len(listed)} files, as OpenSSF model signing defines it, by "
            note += weights.verify(one.data, statement, known)
            yield Step(what="weights signature", digest=one.digest, checked="store", note=note)
            break
    for one in attach.attached(
        place.store, place.image, sbom.MEDIA_TYPE, sbom.LARGEST, lambda _: None
    ):
        if digest.of_bytes(one.data) == release.sbom:
            yield Step(
                what="sbom",
                digest=release.sbom,
                checked="store",
                note="CycloneDX 1.6, with a model card",
            )
            break


class _Made:
    """How the weights were made: from the statement, the commit that it names, and the files on this machine."""

    def __init__(self, root: Path, statement: Statement, known: Signers) -> None:
        self._root, self._known = root, known
        self._release = statement.predicate
        self._materials = statement.predicate.materials
        commit = self._release.commit
        here = commits.has_repository(root) and commits.resolve(root, commit) == commit
        self._commit = commit if here else None

    def steps(self) -> Iterator[Step]:
        """Yield the steps from the weights to the rows, then the verdict and its reports."""
        made, release = self._materials, self._release
        parity = self._report(layout.PARITY_REPORT, ParityReport)
        train = self._report(layout.TRAIN_REPORT, TrainReport)
        fetch = self._report(layout.FETCH_REPORT, FetchReport)
        prepare = self._report(layout.PREPARE_REPORT, PrepareReport)
        self._agree(parity, train, fetch, prepare)
        yield self._folder(
            "weights", layout.MERGED, release.image.model, _files(parity), parity is not None
        )
        yield self._folder(
            "adapter", layout.ADAPTER, made.adapter, _trained(train), train is not None
        )
        yield self._folder(
            "base", layout.BASE, made.base, fetch.base.uri if fetch else "", fetch is not None
        )
        how: How = "follows" if parity else "signed"
        yield Step(
            what="tokenizer", digest=made.tokenizer, checked=how, note="among the weights' files"
        )
        if made.chat_template:
            apart = parity.files.get(TEMPLATE) if parity else None
            how = "follows" if apart and apart.sha256 == made.chat_template else "signed"
            yield Step(
                what="chat template",
                digest=made.chat_template,
                checked=how,
                note="among the weights' files",
            )
        for name, value in made.splits.items():
            rows = (
                f"{prepare.splits[name].rows} rows"
                if prepare and name in prepare.splits
                else "rows"
            )
            yield self._file(f"{name} split", layout.SPLITS / f"{name}.jsonl", value, rows)
        yield self._folder(
            "raw data", layout.RAW, made.raw, fetch.data.uri if fetch else "", fetch is not None
        )
        if prepare:
            yield from _rows(prepare, made.reports[layout.PREPARE_REPORT.as_posix()])
        yield self._file("parameters", layout.PARAMS, made.params, str(layout.PARAMS))
        yield self._file("pipeline", layout.LOCK, made.lock, str(layout.LOCK))
        for path, value in made.reports.items():
            yield self._file("report", Path(path), value, path)
        yield self._file("probes", layout.PROBES, made.probes, "what the model answers offline")
        yield self._file("verdict", layout.VERDICT, made.verdict, f"policy {release.policy[7:19]}")
        note = f"{release.commit}" + ("" if self._commit else ", which this clone does not have")
        yield Step(
            what="commit", digest=None, checked="commit" if self._commit else "signed", note=note
        )
        serving = release.serving
        passed = sum(check.status == "pass" for check in serving.checks)
        server = f" of {serving.server}" if serving.server else ""
        note = f"{serving.status}: {passed} of {len(serving.checks)} checks passed, "
        note += f"by {serving.runtime} as a {serving.how}{server}, {self._verified()}"
        yield Step(what="serving", digest=None, checked="signed", note=note)

    def _verified(self) -> str:
        """Return who verified the served model, for the note."""
        if self._release.verification is None:
            return "not signed by a verifier"
        data, source = self._release.verification.encode(), "the signed verification"
        try:
            return f"verified by {verification.check(data, self._release.serving, self._known, source)}"
        except (EvidenceRefused, MachineRefused) as refused:
            return f"and no current verifier signed that: {refused.what}"

    def _folder(self, what: str, path: Path, value: str, note: str, named: bool) -> Step:
        """Return a directory. It is hashed if it is here; ``named`` says that a checked report names its digest."""
        if (self._root / path).is_dir():
            with tqdm(desc=str(path), unit="B", unit_scale=True, disable=None, leave=False) as bar:
                if digest.of_tree(self._root / path, bar.update).digest == value:
                    return Step(what=what, digest=value, checked="here", note=note)
        return Step(what=what, digest=value, checked="follows" if named else "signed", note=note)

    def _file(self, what: str, path: Path, value: str, note: str) -> Step:
        return Step(what=what, digest=value, checked=self._read(path, value)[0], note=note)

    def _read(self, path: Path, value: str) -> tuple[How, bytes | None]:
        """The file with this digest, from disk or the commit. Raises EvidenceRefused if the commit has other bytes."""
        here = self._root / path
        if here.is_file() and digest.of_file(here).sha256 == value:
            return "here", here.read_bytes()
        data = commits.read(self._root, self._commit, path) if self._commit else None
        if data is None:
            return "signed", None
        if digest.of_bytes(data) != value:
            raise EvidenceRefused(
                f"{path} at {self._release.commit[:12]}: is not what the signed statement names",
                "ask who signed it",
            )
        return "commit", data

    def _report(self, path: Path, kind: type[_R]) -> _R | None:
        """Return a report with the digest in the statement; None if it is neither on disk nor in the commit."""
        value = self._materials.reports.get(path.as_posix())
        data = self._read(path, value)[1] if value else None
        if data is None:
            return None
        try:
            return kind.model_validate_json(data)
        except ValidationError as error:
            raise EvidenceRefused(
                f"{path}: {files.first(error)}", "use the version that signed it"
            ) from error

    def _agree(
        self, parity: ParityReport | None, train: TrainReport | None, fetch: FetchReport | None,
        prepare: PrepareReport | None,
    ) -> None:  # fmt: skip
        """Check that the reports and the statement agree on every digest."""
        made, image = self._materials, self._release.image
        pairs: list[tuple[str, object, object]] = []
        if parity:
            described = {
                path: FileDigest(file.sha256, file.size) for path, file in parity.files.items()
            }
            pairs += [
                ("the weights", digest.of_manifest(described), image.model),
                (
                    "the files of the weights",
                    {path: file.sha256 for path, file in described.items()},
                    weights.of_image(image),
                ),
                ("the adapter", parity.adapter, made.adapter),
                ("the base", parity.base, made.base),
                ("the tokenizer", tokenizer(parity), made.tokenizer),
            ]
        if train:
            pairs += [
                ("the adapter", train.adapter, made.adapter),
                ("the base", train.base, made.base),
            ]
            pairs += [
                (f"the {name} split", value, made.splits.get(name))
                for name, value in train.splits.items()
            ]
        if fetch:
            pairs += [
                ("the base", fetch.base.digest, made.base),
                ("the raw data", fetch.data.digest, made.raw),
            ]
        if prepare:
            pairs += [("the raw data", prepare.raw, made.raw)]
            pairs += [
                (f"the {name} split", one.sha256, made.splits.get(name))
                for name, one in prepare.splits.items()
            ]
        if others := [
            f"the reports name another of {what} than the signed statement"
            for what, a, b in pairs
            if a != b
        ]:
            raise EvidenceRefused(others[0], "ask who signed it", tuple(others[1:]))


def _files(parity: ParityReport | None) -> str:
    if parity is None:
        return ""
    return f"{len(parity.files)} files, {sum(file.size for file in parity.files.values()):,} bytes"


def _trained(train: TrainReport | None) -> str:
    if train is None:
        return ""
    methods = f", {', then '.join(step.method for step in train.chain)}" if train.chain else ""
    return f"{train.rows} rows, {train.steps} steps{methods}"


def _rows(prepare: PrepareReport, report: str) -> Iterator[Step]:
    note = f"{prepare.input_rows} came in, {prepare.kept_rows} kept, {prepare.dropped_rows} dropped"
    yield Step(what="rows", digest=report, checked="follows", note=note)
    for rule in prepare.rules:
        if rule.rows:
            verb = "dropped" if rule.kind == "drop" else "fixed"
            yield Step(
                what="rule",
                digest=report,
                checked="follows",
                note=f"{rule.rule} {verb} {rule.rows}",
            )
