"""One move of all adapters on a server, as when their base is replaced: each is checked, and one commit has all.

The checks see the files that this commit writes, so that each release is compared with the others that come with it.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

from checks.process.errors import EvidenceRefused, Outrun, PromotionRefused, Refusal
from checks.records.rows import Record
from checks.storage import layout
from release.adapters import projects
from release.ledger import Change, Move, message
from release.ledger.message import NONE
from release.overlay import environment_file
from release.promotion import checklist, context, rollback_targets
from release.promotion.checklist import Failure, PromotionContext
from release.promotion.environment import shared

M = TypeVar("M", bound=Record)


class Together(Record, Generic[M]):
    """The result by project, of those that move."""

    moves: dict[str, M]


def contexts(
    root: Path, environment: str, target: str | None, *, earlier: bool = False
) -> list[PromotionContext]:
    """Return the context of the project with the server, and of each project that its environment lists.

    The arguments are those of ``context.deciding``. Raises as it does, PromotionRefused if the environment lists no
    project, EvidenceRefused if one of them is missing here, Outrun if it keeps its environments elsewhere, or if the
    branch moved meanwhile.
    """
    first = context.deciding(root, target, earlier=earlier)
    first.rule(environment)
    files = first.ledger.files(first.tip, layout.ENVIRONMENTS)
    server = shared(first, environment, files)
    if server is None or not environment_file.read(environment, files).adapters:
        raise PromotionRefused(
            f"--adapters: {environment} lists no adapter of another project",
            "run it for the project whose environment.yaml has `adapters`: `lockstep -C PROJECT …`",
        )
    members = [first]
    for project in server.guests(server.own):
        folder = projects.top(root) / project
        if not (folder / layout.PARAMS).is_file():
            raise EvidenceRefused(f"{project}: is not in this clone", "git pull")
        guest = context.deciding(folder, target, earlier=earlier)
        if (guest.ledger.shown, guest.tip) != (first.ledger.shown, first.tip):
            raise Outrun(
                f"{first.ledger.shown} moved meanwhile, or does not have the environments of {project}",
                "run it again, or move that project by itself",
            )
        members.append(guest)
    return members


def project(member: PromotionContext) -> str:
    """Return the folder of a member below the git root."""
    return member.ledger.folder or "."


def planned(changes: Iterable[tuple[PromotionContext, Change]]) -> Mapping[Path, bytes | None]:
    """Return the files of all changes, below the git root."""
    return {
        Path(member.ledger.folder) / path: data
        for member, change in changes
        for path, data in change.files.items()
    }


def one_commit(changes: Sequence[tuple[PromotionContext, Change]]) -> Change:
    """Return the change that makes all of ``changes``. A commit of any of these projects before it is not apart."""
    moving = [(member, change) for member, change in changes if change.message]
    if not moving:
        return Change({}, "")
    folders = [Path(member.ledger.folder) for member, _ in moving]
    beside = {path for _, change in moving for path in change.beside}
    return Change(
        {},
        message.together([change.message for _, change in moving]),
        tuple(tag for _, change in moving for tag in change.tags),
        (*sorted(beside), *folders),
        planned(moving),
    )


def refusal(result: Together[Any]) -> Refusal | None:
    """Return the refusal with the failures of all projects, each with its name; None if there are none."""
    checks = [
        check.model_copy(update={"failures": tuple(_named(name, check.failures))})
        for name, move in result.moves.items()
        for check in move.checks
    ]
    return checklist.refusal("nothing moves", checks)


def _named(name: str, failures: Iterable[Failure]) -> Iterator[Failure]:
    for failure in failures:
        yield failure.model_copy(update={"what": f"{name}: {failure.what}"})


def before_last_move(
    members: Sequence[PromotionContext], environment: str
) -> list[tuple[PromotionContext, str]]:
    """Return each project that the last commit of several moved, with the digest that it ran before, or none.

    Raises PromotionRefused if no commit moved several of them, or if one ran what no check let pass.
    """
    moves = defaultdict[str, list[tuple[PromotionContext, Move]]](list)
    for member in members:
        for move in rollback_targets.moves(member, environment):
            moves[move.commit].append((member, move))
    places = members[0].ledger.places(members[0].tip)
    several = [moved for moved in moves.values() if len(moved) > 1]
    if not several:
        raise PromotionRefused(
            f"--adapters: no commit moved several adapters of {environment}",
            f"`lockstep rollback {environment} --why …` without --adapters",
        )
    last = max(several, key=lambda moved: places[moved[0][1].landed])
    for member, move in last:
        checked = rollback_targets.earlier(rollback_targets.moves(member, environment), None)
        digests = {target.pointer.digest for target in checked}
        if move.before and move.before.digest not in digests:
            name, version = project(member), move.before.version
            raise PromotionRefused(
                f"{name}: {version} was moved to {environment} by hand, so no check let it pass",
                f"promote another, or name it: `lockstep -C {name} rollback {environment} --to {version} --why …`",
            )
    return [(member, move.before.digest if move.before else NONE) for member, move in last]
