"""promote: move an environment to an image by one commit when nothing is lacking; else say all that is.

Nothing is believed: the verdict, the layers, the image and the overlay are computed again, every signature is checked,
and who may sign, and what an environment asks for, is read on the target branch. The threat
model is in docs/explanation/threat-model.md.
"""

import time
from pathlib import Path
from typing import Literal, NamedTuple

from checks import layout
from checks.errors import EvidenceRefused, Refusal
from checks.pointer import Pointer
from checks.rows import Record
from checks.serving import Seconds
from release.evidence import released
from release.evidence.released import Released
from release.ledger import Change
from release.mirrors import update
from release.overlay import overlays
from release.promotion import asked, case, change, environment, pull_request, site, wanted
from release.promotion.asked import Answer, Check
from release.promotion.case import Move
from release.promotion.environment import Present
from release.promotion.site import Site


class Options(NamedTuple):
    """What is promoted, and how.

    ``image``: HOST/NAME@sha256:… or oci:FOLDER@sha256:…; None: what the environment before runs, or for the first one
    what `lockstep build` reported. ``why``: for the ledger; None: the subject of the record's commit. ``version``:
    None: the next one, by ``bump``. ``dry_run``: ask everything and write nothing. ``pr``: propose the commit in a pull
    request. ``target``: the branch with rules and signers; None: as ``commits.target`` finds it.
    """

    image: str | None = None
    why: str | None = None
    version: str | None = None
    bump: Literal["major", "minor"] = "minor"
    dry_run: bool = False
    pr: bool = False
    target: str | None = None


class Promoted(Record):
    """What became of it. ``notes``: what does not count and was passed over, what could not follow, a line each.

    ``done``: ``moved``; ``already``: it runs that, and at most tags were missing; ``mended``: it runs that, and its
    files were written again; ``proposed``: the commit waits in a pull request at ``url``; ``planned``: a dry run.
    """

    environment: str
    done: Literal["moved", "already", "mended", "proposed", "planned"]
    before: Pointer | None
    after: Pointer | None  # None: what it would be is not known, for what is lacking
    commit: str | None  # of the ledger
    tags: tuple[str, ...]
    checks: tuple[Check, ...]
    diff: str
    notes: tuple[str, ...]
    url: str | None
    seconds: Seconds


def promote(root: Path, name: str, options: Options | None = None) -> Promoted:
    """Move the environment ``name``, or with ``dry_run`` say what would happen (then ask ``refusal``).

    Raises PromotionRefused with every gap when anything is lacking, RegistryRefused when only a registry's answer is;
    EvidenceRefused and ParamsRefused when there are no rules to go by; Outrun when somebody else moved the branch
    first; RemoteRefused, MachineRefused. The environment is then what it was.
    """
    options, began = options or Options(), time.perf_counter()
    where = site.find(root, options.target)
    image = wanted.image(where, where.rule(name), options.image)
    if not options.dry_run:
        where.ledger.settle(where.tip)
    if (runs := _runs(where, name)) and runs.image == str(image):
        return _again(where, name, options, began)
    found = case.ask(where, Move(name, where.rule(name), image, options.why, options.version, options.bump))
    made = found.change or Change({}, "")
    local = overlays.unreachable(found.after) if found.after else None
    untagged = change.untagged(where, name, found.after) if found.change else []
    notes = (*found.others, *([local] if local else []), *untagged)
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
            *update.after_move(where.records, where.target, where.trunk, name, found.after, found.released.statement),
        )
        done = {"done": "moved", "commit": commit, "notes": (*result.notes, *late), "tags": where.made(made)}
    return result.model_copy(update={**done, "seconds": time.perf_counter() - began})


def refusal(promoted: Promoted) -> Refusal | None:
    """What a dry run found lacking; None when nothing is."""
    to = f" to {promoted.after.version}" if promoted.after else ""
    return asked.refusal(f"{promoted.environment} is not moved{to}", promoted.checks)


def _again(where: Site, name: str, options: Options, began: float) -> Promoted:
    """What runs already stays. Its files are written again where they were changed, and tags made that lack."""
    present, answer = environment.look(where, name), Answer()
    runs = present.pointer
    assert runs is not None
    statement = environment.stated(present, name)
    holds = _holds(where, name, present, runs)
    environment.intact(where, name, present, answer)
    made = Change({}, "", where.lacking_tags())
    if answer.gaps:
        message = f"Write {name} again\n\n{runs.version}, as `lockstep promote` writes it.\n"
        made = made._replace(files=change.written(where, name, present, runs, holds), message=message)
    commit, notes = where.tip, [gap.what for gap in answer.gaps]
    if not options.dry_run:
        commit = where.ledger.commit(where.tip, made)
        notes += [
            *where.ledger.untagged,
            *update.after_move(where.records, where.target, where.trunk, name, runs, statement),
        ]
    return Promoted(
        environment=name, done="planned" if options.dry_run else "mended" if answer.gaps else "already", before=runs,
        after=runs, commit=commit, tags=where.made(made), checks=(), notes=tuple(notes), url=None,
        diff=change.diff(present.files, made.files), seconds=time.perf_counter() - began,
    )  # fmt: skip


def _holds(where: Site, name: str, present: Present, runs: Pointer) -> Released:
    """The evidence that the pointer names, signed by one who may sign today: else nobody says that this may run."""
    envelope = present.files[environment.folder(name) / layout.EVIDENCE]
    try:
        return released.check(envelope, runs.digest, where.signers, f"the evidence of {name}")
    except EvidenceRefused as refused:
        raise EvidenceRefused(
            f"{name} runs {runs.image}, and nobody who may stands for it: {refused.what}",
            f"see who moved it (`lockstep history {name}`), then `lockstep rollback {name}`, or promote another image",
        ) from refused


def _runs(where: Site, name: str) -> Pointer | None:
    """What it runs; None also where its pointer cannot be read, which is asked about later."""
    try:
        return where.ledger.pointer(where.tip, name)
    except EvidenceRefused:
        return None
