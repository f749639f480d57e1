"""promote: moves an environment to an image by one commit if every check passes, else lists all failures.

The verdict, the layers, the image and the overlay are computed again, and every signature is checked. Who may sign and
what an environment requires is read from the target branch. Threat model: docs/explanation/threat-model.md.
"""

import time
from pathlib import Path
from typing import Literal

from checks.formats.pointer import Pointer
from checks.process.errors import PromotionRefused, Refusal
from release.evidence import keys
from release.ledger import Change
from release.mirrors import update
from release.promotion import (
    checklist,
    context,
    default_image,
    edit_checks,
    environment,
    move_commit,
    promote_checks,
    together,
)
from release.promotion import emergency as emergencies
from release.promotion.environment import Promotion
from release.promotion.together import Together
from release.record import running_code


class Promoted(move_commit.MoveResult):
    """The result of a promotion. ``after`` None: what it would be is not known, for what is lacking.

    ``url``: of the pull request that was proposed.
    """

    url: str | None = None


def promote(
    root: Path,
    name: str,
    *,
    image: str | None = None,
    why: str | None = None,
    version: str | None = None,
    bump: Literal["major", "minor"] = "minor",
    dry_run: bool = False,
    pr: bool = False,
    emergency: bool = False,
    key: Path | None = None,
    target: str | None = None,
) -> Promoted:
    """Move the environment ``name`` to ``image``, HOST/NAME@sha256:… or oci:FOLDER@sha256:….

    Without ``image``: what the previous environment runs, for the first one what `lockstep build` reported. ``why``:
    the reason for the ledger; None: the subject of the record's commit. ``version``: None: the next one, by ``bump``.
    ``dry_run``: run all checks, write nothing, and say what would happen; ``refusal`` then has the failures. ``pr``:
    open a pull request with the commit. ``emergency``: sign with ``key`` the exception that the failing gates need, and
    move once enough people did. ``target``: the branch with rules and signers; None: ``commits.target``.

    Raises PromotionRefused with every failure, RegistryRefused if only a registry did not answer, EvidenceRefused if
    HEAD has code that the target branch never had, this or ParamsRefused if the rules cannot be read, Outrun if an
    environment moved meanwhile, RemoteRefused, MachineRefused. After any of them the environment is unchanged.
    """
    began = time.perf_counter()
    running_code.check(root, committed=True)

    def decide(promotion_context: checklist.PromotionContext) -> Promoted:
        chosen = default_image.find(promotion_context, name, image)
        if not dry_run:
            promotion_context.ledger.settle(promotion_context.tip)
        runs = promotion_context.runs(name)
        if runs and runs.image == str(chosen):
            return _again(promotion_context, name, runs, dry_run, began)
        if emergency and not dry_run:
            promotion_context = emergencies.sign(
                promotion_context, name, chosen, why, key or root / keys.KEY
            )
        case = Promotion(promotion_context, name, chosen, why, version, bump, emergency)
        result = _checked(case, began)
        if dry_run:
            return result
        if refused := refusal(result):
            raise refused
        (done,) = _done(promotion_context, [case], [result], case.change, pr, began)
        return done

    return context.decided(lambda: context.deciding(root, target, earlier=True), decide)[1]


def promote_together(
    root: Path,
    name: str,
    *,
    why: str | None = None,
    bump: Literal["major", "minor"] = "minor",
    dry_run: bool = False,
    pr: bool = False,
    target: str | None = None,
) -> Together[Promoted]:
    """Move the environment ``name`` of a project and of all whose adapters its server has, by one commit or not at all.

    Each moves to the image that ``promote`` would choose; what runs its image already stays. The arguments, and what it
    raises, are those of ``promote``. PromotionRefused also if no other project is listed, or all run their images.
    """
    began = time.perf_counter()
    members = together.contexts(root, name, target, earlier=True)
    wanted = []
    for member in members:
        running_code.check(member.root, committed=True)
        chosen = default_image.find(member, name, None)
        runs = member.runs(name)
        if runs is None or runs.image != str(chosen):
            wanted.append((member, chosen))
    if not wanted:
        raise PromotionRefused(
            f"--adapters: all projects run their images in {name} already", "build what should move"
        )
    if not dry_run:
        members[0].ledger.settle(members[0].tip)
    first_cases = [Promotion(member, name, chosen, why, None, bump) for member, chosen in wanted]
    planned = together.planned((case.context, promote_checks.written(case)) for case in first_cases)
    cases = [
        Promotion(member._replace(planned=planned), name, chosen, why, None, bump)
        for member, chosen in wanted
    ]
    results = [_checked(case, began) for case in cases]
    names = [together.project(case.context) for case in cases]
    planned_moves = Together[Promoted](moves=dict(zip(names, results, strict=True)))
    if dry_run:
        return planned_moves
    if refused := together.refusal(planned_moves):
        raise refused
    change = together.one_commit([(case.context, case.change) for case in cases])
    done = _done(members[0], cases, results, change, pr, began)
    return Together[Promoted](moves=dict(zip(names, done, strict=True)))


def _checked(case: Promotion, began: float) -> Promoted:
    """Run every check of a promotion, and return what it would do."""
    checks = promote_checks.run(case)
    return Promoted(
        environment=case.environment, done="planned", before=case.present.pointer, after=case.after.value,
        tags=tuple(tag.name for tag in case.change.tags), checks=checks, notes=tuple(promote_checks.notes(case)),
        diff=move_commit.diff(case.present.files, case.change.files), seconds=time.perf_counter() - began,
    )  # fmt: skip


def _done(
    home: checklist.PromotionContext, cases: list[Promotion], results: list[Promoted], change: Change, pr: bool,
    began: float,
) -> list[Promoted]:  # fmt: skip
    """Make the commit ``change`` of all cases in the ledger of ``home``, or propose it, and return what was done."""
    late: tuple[str, ...] = ()
    url = None
    if pr:
        first = cases[0]
        commit, url = move_commit.propose(home, first.environment, first.after.get(), change)
    else:
        commit, late = move_commit.commit(home, change)
    promoted = []
    for case, result in zip(cases, results, strict=True):
        context = case.context
        notes = [*result.notes, *late]
        if not pr:
            notes += update.after_move(
                context.records, context.target, context.trunk, case.environment, case.after.get(),
                case.released.get().statement,
            )  # fmt: skip
        promoted.append(result.model_copy(update={
            "done": "proposed" if pr else "moved", "commit": commit, "url": url,
            "tags": () if pr else home.made(case.change), "notes": tuple(notes), "seconds": time.perf_counter() - began,
        }))  # fmt: skip
    return promoted


def refusal(promoted: Promoted) -> Refusal | None:
    """The refusal with the failures of a dry run; None if there are none."""
    to = f" to {promoted.after.version}" if promoted.after else ""
    return checklist.refusal(f"{promoted.environment} is not moved{to}", promoted.checks)


def _again(
    promotion_context: checklist.PromotionContext,
    name: str,
    runs: Pointer,
    dry_run: bool,
    began: float,
) -> Promoted:
    """Restore release files that were changed, and create missing tags: the environment already runs the image.

    Raises PromotionRefused if it runs on an exception that expired, or although no exception holds.
    """
    standing = emergencies.of(promotion_context, name)
    if standing.problem:
        raise PromotionRefused(f"{name} {standing.problem}", standing.todo)
    present = environment.look(promotion_context, name)
    statement = environment.stated(present, name)
    made, notes = edit_checks.repaired(promotion_context, name, present, runs)
    done: Literal["planned", "repaired", "already"] = "repaired" if notes else "already"
    commit = promotion_context.tip
    if not dry_run:
        commit = promotion_context.ledger.commit(commit, made)
        notes += promotion_context.ledger.untagged
        notes += update.after_move(
            promotion_context.records, promotion_context.target, promotion_context.trunk, name, runs, statement
        )  # fmt: skip
    return Promoted(
        environment=name, done="planned" if dry_run else done, before=runs, after=runs, commit=commit,
        tags=promotion_context.made(made),
        notes=tuple(notes), diff=move_commit.diff(present.files, made.files),
        seconds=time.perf_counter() - began,
    )  # fmt: skip
