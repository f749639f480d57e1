"""The state of an environment in one commit of the ledger, and whether it was changed after its last move."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from checks.formats.pointer import Pointer
from checks.formats.serving import ImageReport
from checks.formats.statement import Statement
from checks.storage import layout
from release.evidence import attached_statements
from release.ledger import released_pointers
from release.overlay import overlays
from release.promotion.checklist import CheckResult, PromotionContext
from release.record.records import Records
from release.runtimes import lookup


class EnvironmentState(NamedTuple):
    """The release that an environment runs, and every file below release/environments."""

    pointer: Pointer | None
    files: Mapping[Path, bytes]


def folder(environment: str) -> Path:
    """The folder of the environment."""
    return layout.ENVIRONMENTS / environment


def approvals_folder(environment: str, image: str) -> Path:
    """The folder with the approvals of the image with the digest ``image`` in an environment."""
    return folder(environment) / layout.APPROVED / image.removeprefix("sha256:")


def look(context: PromotionContext, environment: str) -> EnvironmentState:
    """The state at the tip. Raises EvidenceRefused if the pointer cannot be read or a file is a symbolic link."""
    pointer = context.ledger.pointer(context.tip, environment)
    return EnvironmentState(pointer, context.ledger.files(context.tip, layout.ENVIRONMENTS))


def rendered(
    records: Records, environment: str, pointer: Pointer, built: ImageReport
) -> dict[Path, bytes]:
    """The files that a move to ``pointer`` writes for a cluster. Raises as ``render`` and ``Commit.serve``."""
    serve = records.at(pointer.commit).serve
    runtime = lookup.at(records.root, built.commit, built.runtime)
    return overlays.render(environment, pointer, built, runtime, serve)


def intact(
    context: PromotionContext, environment: str, present: EnvironmentState, result: CheckResult
) -> None:
    """Check that the files written by the last promotion are unchanged. Nothing is built on a changed environment."""
    if present.pointer is None:
        if not any(folder(environment) / overlays.FOLDER in path.parents for path in present.files):
            return  # a new environment
        todo = "restore it from git's history: nothing has been promoted there"
        wanted = overlays.nothing(environment)
    else:
        todo = f"`lockstep promote {environment} --image {present.pointer.image}` writes it again"
        built = stated(present, environment).predicate.image
        wanted = rendered(context.records, environment, present.pointer, built)
    for failure in overlays.check(environment, present.files, wanted):
        result.fail(failure, todo)


def signed(
    context: PromotionContext, environment: str, pointer: Pointer, evidence: bytes, called: str
) -> attached_statements.Released:
    """The release that ``evidence`` states, signed by someone who may sign, today or when the ledger recorded it.

    Raises as ``released.check``.
    """
    recorded = context.ledger.recorded(context.tip, environment, pointer)
    return attached_statements.check(evidence, pointer.digest, context.signers, called, recorded)


def stated(present: EnvironmentState, environment: str) -> Statement:
    """The statement whose digest the pointer names. Whether its signer may still sign is not checked.

    Raises EvidenceRefused if it is missing or has another digest.
    """
    assert present.pointer is not None
    where = released_pointers.path(environment)
    return released_pointers.envelope(
        present.files.get(where), present.pointer, str(where)
    ).statement
