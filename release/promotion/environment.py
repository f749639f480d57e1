"""The state of an environment in one commit of the ledger, whether it was changed since, and a move of it.

A move is one image and one environment, as far as the checks of the move have found their parts.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Generic, Literal, NamedTuple, TypeVar

from checks.formats.pointer import Pointer
from checks.formats.serving import ImageReport
from checks.formats.statement import Release, Statement
from checks.process.errors import EvidenceRefused
from checks.storage import layout
from release.adapters.registry.reference import Reference
from release.evidence.attached_statements import Released, check
from release.ledger import Change, released_pointers
from release.overlay import overlays
from release.promotion.checklist import (
    CheckResult,
    ImageRecord,
    PromotionContext,
    StoredImage,
    Unavailable,
)
from release.record.records import Records
from release.serving import shared_server
from release.serving.shared_server import SharedServer

T = TypeVar("T")


class EnvironmentState(NamedTuple):
    """The release that an environment runs, and every file below release/environments."""

    pointer: Pointer | None
    files: Mapping[Path, bytes]


class CasePart(Generic[T]):
    """A part that one check finds and later checks need. ``needs``: the part that it is found with."""

    def __init__(self, missing: str, needs: "CasePart[Any] | None" = None) -> None:
        self.value: T | None = None
        self._missing = missing
        self.needs = needs

    def get(self) -> T:
        """Return the part. Raises Unavailable if its check, or the check of a part that it needs, did not find it."""
        if self.needs is not None:
            self.needs.get()
        if self.value is None:
            raise Unavailable(self._missing)
        return self.value


class Case:
    """A move of ``environment`` to ``image``, which names a digest. ``change``: empty until it can be written."""

    def __init__(self, context: PromotionContext, environment: str, image: Reference) -> None:
        assert image.digest is not None
        self.context = context
        self.environment = environment
        self.reference = image
        self.digest = image.digest
        self.present = EnvironmentState(None, {})
        self.image = CasePart[StoredImage]("the image was not found")
        self.released = CasePart[Released]("no statement holds", self.image)
        self.after = CasePart[Pointer]("no version could be chosen")
        self.change = Change({}, "")

    def release(self) -> Release:
        """Return the content of the signed statement that the move relies on."""
        return self.released.get().statement.predicate


class Promotion(Case):
    """The requested promotion. ``others``: evidence beside the image that does not count, one line each.

    ``signed_by``: who signed the statement that the move relies on. ``emergency``: whether it relies on an exception.
    ``excepted``: the gates that this names.
    """

    def __init__(
        self,
        context: PromotionContext,
        environment: str,
        image: Reference,
        why: str | None,
        version: str | None,
        bump: Literal["major", "minor"],
        emergency: bool = False,
    ) -> None:
        super().__init__(context, environment, image)
        self.emergency = emergency
        self.rule = context.rule(environment)
        self.why = why
        self.version = version
        self.bump = bump
        self.recorded = CasePart[ImageRecord]("the record does not hold", self.released)
        self.after.needs = self.recorded
        self.excepted: tuple[str, ...] = ()
        self.others: tuple[str, ...] = ()
        self.signed_by: tuple[str, ...] = ()


def folder(environment: str) -> Path:
    """The folder of the environment."""
    return layout.ENVIRONMENTS / environment


def approvals_folder(environment: str, image: str) -> Path:
    """The folder with the approvals of the image with the digest ``image`` in an environment."""
    return folder(environment) / layout.APPROVED / image.removeprefix("sha256:")


def emergency_folder(environment: str, image: str) -> Path:
    """The folder with the exceptions for the image with the digest ``image`` in an environment."""
    return approvals_folder(environment, image) / layout.EMERGENCY


def look(context: PromotionContext, environment: str) -> EnvironmentState:
    """The state at the tip. Raises EvidenceRefused if the pointer cannot be read or a file is a symbolic link."""
    pointer = context.ledger.pointer(context.tip, environment)
    return EnvironmentState(pointer, context.ledger.files(context.tip, layout.ENVIRONMENTS))


def shared(
    context: PromotionContext, environment: str, files: Mapping[Path, bytes]
) -> SharedServer | None:
    """Return the server that an environment shares with other adapters; None if it shares none.

    ``files``: of all environments at the tip.
    """
    return shared_server.of_environment(
        context.records, context.ledger, context.tip, environment, files, context.planned
    )


def rendered(
    records: Records, environment: str, pointer: Pointer, built: ImageReport
) -> dict[Path, bytes]:
    """The files that a move to ``pointer`` writes for a cluster. Raises as ``render`` and ``Commit.serve``."""
    serve = records.at(pointer.commit).serve
    runtime = records.at(built.commit).runtime(built.runtime)
    return overlays.render(environment, pointer, built, runtime, serve)


def intact(
    context: PromotionContext, environment: str, present: EnvironmentState, result: CheckResult
) -> None:
    """Check that the files written by the last promotion are unchanged. Nothing is built on a changed environment."""
    if present.pointer is None:
        if not any(folder(environment) / overlays.FOLDER in path.parents for path in present.files):
            return  # a new environment
        todo = "restore it from git's history: nothing has been promoted there"
        is_adapter = overlays.uses(environment, present.files, overlays.ADAPTER)
        wanted = overlays.nothing(environment, adapter=is_adapter)
    else:
        todo = f"`lockstep promote {environment} --image {present.pointer.image}` writes it again"
        built = stated(present, environment).predicate.image
        wanted = rendered(context.records, environment, present.pointer, built)
    result.fail_each(overlays.check(environment, present.files, wanted), todo)


def signed(
    context: PromotionContext, environment: str, pointer: Pointer, evidence: bytes, called: str
) -> Released:
    """The release that ``evidence`` states, signed by someone who may sign, today or when the ledger recorded it.

    Raises as ``released.check``.
    """
    recorded = context.ledger.recorded(context.tip, environment, pointer)
    return check(evidence, pointer.digest, context.signers, called, recorded)


def running(context: PromotionContext, environment: str, present: EnvironmentState) -> Released:
    """The release that the environment runs, signed as for ``signed``. Raises EvidenceRefused, too, as ``stated``."""
    stated(present, environment)
    assert present.pointer is not None
    runs, data = present.pointer, present.files[released_pointers.path(environment)]
    try:
        return signed(context, environment, runs, data, f"the evidence of {environment}")
    except EvidenceRefused as refused:
        raise EvidenceRefused(
            f"{environment} runs {runs.image}, and no current signer signed its evidence: {refused.what}",
            f"see who moved it (`lockstep history {environment}`), then `lockstep rollback {environment}`, or promote "
            "another image",
        ) from refused


def stated(present: EnvironmentState, environment: str) -> Statement:
    """The statement whose digest the pointer names. Whether its signer may still sign is not checked.

    Raises EvidenceRefused if it is missing or has another digest.
    """
    assert present.pointer is not None
    path = released_pointers.path(environment)
    return released_pointers.envelope(present.files.get(path), present.pointer, str(path)).statement
