"""promote: moves an environment to an image by one commit if every check passes, else lists all failures.

The verdict, the layers, the image and the overlay are computed again, and every signature is checked. Who may sign and
what an environment requires is read from the target branch. Threat model: docs/explanation/threat-model.md.
"""

import time
from pathlib import Path
from typing import Literal, NamedTuple

from checks.formats.pointer import Pointer
from checks.formats.serving import Seconds
from checks.process.errors import EvidenceRefused, Refusal
from checks.records.rows import Record
from checks.storage import layout
from release.evidence import released
from release.evidence.released import Released
from release.ledger import Change
from release.mirrors import update
from release.overlay import overlays
from release.promotion import (
    case,
    change,
    checklist,
    context,
    default_image,
    environment,
    pull_request,
    requirements,
    scaling,
)
from release.promotion.case import Move
from release.promotion.checklist import Check, Checklist, CheckResult
from release.promotion.environment import EnvironmentState
from release.promotion.types import PromotionContext
from release.record import running_code


class PromoteOptions(NamedTuple):
    """The options of a promotion.

    ``image``: HOST/NAME@sha256:… or oci:FOLDER@sha256:…; None: what the previous environment runs, for the first one
    what `lockstep build` reported. ``why``: the reason for the ledger; None: the subject of the record's commit.
    ``version``: None: the next one, by ``bump``. ``dry_run``: run all checks and write nothing. ``pr``: open a pull
    request with the commit. ``target``: the branch with rules and signers; None: ``commits.target``.
    """

    image: str | None = None
    why: str | None = None
    version: str | None = None
    bump: Literal["major", "minor"] = "minor"
    dry_run: bool = False
    pr: bool = False
    target: str | None = None


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
    checks: tuple[Check, ...]
    diff: str
    notes: tuple[str, ...]
    url: str | None
    seconds: Seconds


def promote(root: Path, name: str, options: PromoteOptions | None = None) -> Promoted:
    """Move the environment ``name``. With ``dry_run`` say what would happen; ``refusal`` then has the failures.

    Raises PromotionRefused with every failure, RegistryRefused if only a registry did not answer, EvidenceRefused or
    ParamsRefused if the rules cannot be read, Outrun if the branch moved meanwhile, RemoteRefused, MachineRefused.
    After any of them the environment is unchanged.
    """
    options, began = options or PromoteOptions(), time.perf_counter()
    running_code.check(root, committed=True)
    where = context.find(root, options.target)
    image = default_image.find(where, where.rule(name), options.image)
    if not options.dry_run:
        where.ledger.settle(where.tip)
    if (runs := _runs(where, name)) and runs.image == str(image):
        return _again(where, name, options, began)
    found = case.run_checks(
        where, Move(name, where.rule(name), image, options.why, options.version, options.bump)
    )
    made = found.change or Change({}, "")
    local = overlays.unreachable(found.after) if found.after else None
    untagged = change.untagged(where, name, found.after) if found.change else []
    scaler = scaling.warning(where, name, found.present)
    notes = (*found.others, *([local] if local else []), *untagged, *([scaler] if scaler else []))
    result = Promoted(
        environment=name, done="planned", before=found.present.pointer, after=found.after, commit=None,
        tags=tuple(tag.name for tag in made.tags), checks=found.checks, notes=notes, url=None,
        diff=change.diff(found.present.files, made.files), seconds=time.perf_counter() - began,
    )  # fmt: skip
    if options.dry_run:
        return result
    if refused := refusal(result):
        raise refused
    assert found.after is not None
    assert found.released is not None
    done: dict[str, object]
    if options.pr:
        commit, url = pull_request.propose(where, name, found.after, made)
        done = {"done": "proposed", "commit": commit, "url": url, "tags": ()}
    else:
        commit = where.ledger.commit(where.tip, made)
        late = (
            *where.ledger.untagged,
            *change.behind(where, commit),
            *update.after_move(
                where.records,
                where.target,
                where.trunk,
                name,
                found.after,
                found.released.statement,
            ),
        )
        done = {
            "done": "moved",
            "commit": commit,
            "notes": (*result.notes, *late),
            "tags": where.made(made),
        }
    return result.model_copy(update={**done, "seconds": time.perf_counter() - began})


def refusal(promoted: Promoted) -> Refusal | None:
    """The refusal with the failures of a dry run; None if there are none."""
    to = f" to {promoted.after.version}" if promoted.after else ""
    return checklist.refusal(f"{promoted.environment} is not moved{to}", promoted.checks)


def _again(where: PromotionContext, name: str, options: PromoteOptions, began: float) -> Promoted:
    """The environment already runs the image: restore release files that were changed, and create missing tags.

    Raises PromotionRefused if the image or its weights are in quarantine.
    """
    present, result = environment.look(where, name), CheckResult()
    runs = present.pointer
    assert runs is not None
    statement = environment.stated(present, name)
    trial = Checklist()
    with trial.run("quarantine") as about_quarantine:
        requirements.held_back(where, runs.digest, runs.model, about_quarantine)
    if refused := checklist.refusal(
        f"{name} stays as it is; `lockstep rollback {name}` leaves the release", trial.checks
    ):
        raise refused
    holds = _holds(where, name, present, runs)
    environment.intact(where, name, present, result)
    made = Change({}, "", where.missing_tags())
    if result.failures:
        message = f"Write {name} again\n\n{runs.version}, as `lockstep promote` writes it.\n"
        made = made._replace(
            files=change.written(where, name, present, runs, holds), message=message
        )
    commit, notes = where.tip, [failure.what for failure in result.failures]
    if not options.dry_run:
        commit = where.ledger.commit(where.tip, made)
        notes += [
            *where.ledger.untagged,
            *update.after_move(where.records, where.target, where.trunk, name, runs, statement),
        ]
    return Promoted(
        environment=name, done="planned" if options.dry_run else "repaired" if result.failures else "already",
        before=runs, after=runs, commit=commit, tags=where.made(made), checks=(), notes=tuple(notes), url=None,
        diff=change.diff(present.files, made.files), seconds=time.perf_counter() - began,
    )  # fmt: skip


def _holds(
    where: PromotionContext, name: str, present: EnvironmentState, runs: Pointer
) -> Released:
    """Check that someone who may sign, today or when it was moved there, signed the evidence that the pointer names."""
    envelope = present.files[environment.folder(name) / layout.EVIDENCE]
    try:
        recorded = where.ledger.recorded(where.tip, name, runs)
        return released.check(
            envelope, runs.digest, where.signers, f"the evidence of {name}", recorded
        )
    except EvidenceRefused as refused:
        raise EvidenceRefused(
            f"{name} runs {runs.image}, and no current signer signed its evidence: {refused.what}",
            f"see who moved it (`lockstep history {name}`), then `lockstep rollback {name}`, or promote another image",
        ) from refused


def _runs(where: PromotionContext, name: str) -> Pointer | None:
    """Return what the environment runs; None also if its pointer cannot be read, which a later check reports."""
    try:
        return where.ledger.pointer(where.tip, name)
    except EvidenceRefused:
        return None
