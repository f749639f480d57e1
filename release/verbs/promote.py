"""promote: moves an environment to an image by one commit if every check passes, else lists all failures.

The verdict, the layers, the image and the overlay are computed again, and every signature is checked. Who may sign and
what an environment requires is read from the target branch. Threat model: docs/explanation/threat-model.md.
"""

import time
from pathlib import Path
from typing import Literal

from checks.formats.pointer import Pointer
from checks.formats.serving import Seconds
from checks.process.errors import PromotionRefused, Refusal
from checks.records.rows import Record
from release.evidence import keys
from release.mirrors import update
from release.promotion import (
    checklist,
    context,
    default_image,
    edit_checks,
    environment,
    move_commit,
    promote_checks,
)
from release.promotion import emergency as emergencies
from release.promotion.environment import Promotion
from release.record import running_code


class Promoted(Record):
    """The result. ``notes``: what was ignored and why, and mirrors or tags that failed, one line each.

    ``done``: ``moved``; ``already``: it ran the image, at most tags were missing; ``repaired``: it ran the image, and
    changed files were restored; ``proposed``: the commit is in the pull request at ``url``; ``planned``: a dry run.
    """

    environment: str
    done: Literal["moved", "already", "repaired", "proposed", "planned"]
    before: Pointer | None
    after: Pointer | None  # None: what it would be is not known, for what is lacking
    commit: str | None  # The ledger's commit.
    tags: tuple[str, ...]
    checks: tuple[checklist.Check, ...]
    diff: str
    notes: tuple[str, ...]
    url: str | None
    seconds: Seconds


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
    HEAD has code that the target branch never had, this or ParamsRefused if the rules cannot be read, Outrun if the
    branch moved meanwhile, RemoteRefused, MachineRefused. After any of them the environment is unchanged.
    """
    began = time.perf_counter()
    running_code.check(root, committed=True)
    promotion_context = context.deciding(root, target, earlier=True)
    chosen = default_image.find(promotion_context, promotion_context.rule(name), image)
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
    checks = promote_checks.run(case)
    notes = promote_checks.notes(case)
    result = Promoted(
        environment=name, done="planned", before=case.present.pointer, after=case.after.value, commit=None,
        tags=tuple(tag.name for tag in case.change.tags), checks=checks, notes=tuple(notes), url=None,
        diff=move_commit.diff(case.present.files, case.change.files), seconds=time.perf_counter() - began,
    )  # fmt: skip
    if dry_run:
        return result
    if refused := refusal(result):
        raise refused
    pointer = case.after.get()
    if pr:
        commit, url = move_commit.propose(promotion_context, name, pointer, case.change)
        done: dict[str, object] = {"done": "proposed", "commit": commit, "url": url, "tags": ()}
    else:
        commit, late = move_commit.commit(promotion_context, case.change)
        notes += [*late, *update.after_move(
            promotion_context.records, promotion_context.target, promotion_context.trunk, name, pointer,
            case.released.get().statement,
        )]  # fmt: skip
        done = {"done": "moved", "commit": commit, "tags": promotion_context.made(case.change)}
    done |= {"notes": tuple(notes), "seconds": time.perf_counter() - began}
    return result.model_copy(update=done)


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
        checks=(), notes=tuple(notes), url=None, diff=move_commit.diff(present.files, made.files),
        seconds=time.perf_counter() - began,
    )  # fmt: skip
