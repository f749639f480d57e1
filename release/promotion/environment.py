"""An environment as one commit of the ledger has it, and whether anybody changed it since it was moved."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from checks import layout
from checks.errors import MachineRefused
from checks.pointer import Pointer
from checks.serving import ImageReport
from checks.statement import Statement
from release import runtimes
from release.ledger import past
from release.overlay import edits, overlays
from release.promotion.asked import Answer
from release.promotion.site import Site
from release.record.records import Records


class Present(NamedTuple):
    """What an environment runs, and every file below release/environments."""

    pointer: Pointer | None
    files: Mapping[Path, bytes]


def folder(environment: str) -> Path:
    """Where it lies."""
    return layout.ENVIRONMENTS / environment


def look(site: Site, environment: str) -> Present:
    """As the tip has it. Raises EvidenceRefused when the pointer cannot be read, or something is a link."""
    pointer = site.ledger.pointer(site.tip, environment)
    return Present(pointer, site.ledger.files(site.tip, layout.ENVIRONMENTS))


def rendered(records: Records, environment: str, pointer: Pointer, built: ImageReport) -> dict[Path, bytes]:
    """The files that a move to ``pointer`` writes for a cluster. Raises as ``render``, and as ``Commit.serve``."""
    serve = records.at(pointer.commit).serve
    return overlays.render(environment, pointer, built, runtimes.load(built.runtime), serve)


def _checked(site: Site, environment: str, pointer: Pointer, built: ImageReport) -> dict[Path, bytes]:
    serve = site.records.at(pointer.commit).serve
    return overlays.checked(environment, pointer, built, runtimes.load(built.runtime), serve)


def intact(site: Site, environment: str, present: Present, answer: Answer) -> None:
    """What a promotion wrote there must be as it wrote it: nobody builds on a tampered environment."""
    if present.pointer is None:
        if not any(folder(environment) / overlays.FOLDER in path.parents for path in present.files):
            return  # a new environment
        todo = "restore it from git's history: nothing has been promoted there"
        wanted = overlays.nothing(environment)
    else:
        todo = f"`lockstep promote {environment} --image {present.pointer.image}` writes it again"
        built = stated(present, environment).predicate.image
        wanted = rendered(site.records, environment, present.pointer, built)
    for gap in overlays.check(environment, present.files, wanted):
        answer.lacks(gap, todo)


def unedited(
    site: Site, environment: str, present: Present, after: Pointer, built: ImageReport, answer: Answer
) -> None:
    """What people wrote there must leave the release as it is, or another thing runs than the pointer says.

    Raises MachineRefused when kustomize is needed for that and is not installed.
    """
    wanted, pulled = _checked(site, environment, after, built), overlays.unreachable(after) is None
    for gap in edits.gaps(environment, present.files, wanted, site.promote.ordered, pulled=pulled):
        answer.lacks(gap, "change that file as docs/reference/environment-files.md says, and commit that")


def unedited_since(
    site: Site, environment: str, present: Present, after: Pointer, built: ImageReport, last: str | None, answer: Answer
) -> None:
    """As ``unedited``, for a rollback, which another environment cannot stop and a missing program seldom.

    Where kustomize is needed and is not installed, the files must be those that the move in the commit ``last`` had,
    since that move built them. Whether another environment has the same namespace is not asked.
    """
    wanted = _checked(site, environment, after, built)
    try:
        gaps = edits.gaps(environment, present.files, wanted, pulled=overlays.unreachable(after) is None)
    except MachineRefused as refused:
        before = site.ledger.files(last, layout.ENVIRONMENTS) if last else {}
        if edits.theirs(environment, before) != edits.theirs(environment, present.files):
            raise MachineRefused(
                f"{refused.what}, nor those of the last move", f"{refused.todo}; or restore the files of that move"
            ) from refused
        answer.note = "kustomize is not installed: the files are those that the last move built"
        return
    for gap in gaps:
        answer.lacks(gap, "change that file as docs/reference/environment-files.md says, and commit that")


def stated(present: Present, environment: str) -> Statement:
    """The statement that the pointer names by digest. Whether its signer still counts is not asked.

    Raises EvidenceRefused when it is not there, or another one.
    """
    assert present.pointer is not None
    where = past.path(environment)
    return past.envelope(present.files.get(where), present.pointer, str(where)).statement
