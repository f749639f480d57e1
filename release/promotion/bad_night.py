"""Rehearses an emergency in a scratch clone: a signed exception lets a failing release move, and expires.

The release is invented: what the environment runs under another digest, with a verdict in which one gate fails. No
store has such an image, so only the checks in ``CHECKED`` run on it. Its approvers are keys that end with the clone.
"""

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import NamedTuple

from checks.decision import held
from checks.formats.pointer import Pointer
from checks.formats.signers import Signer
from checks.formats.statement import PAYLOAD
from checks.formats.verdict import Verdict
from checks.process.errors import EvidenceRefused, PromotionRefused
from checks.records.rows import Record
from checks.storage import digest, layout
from release.adapters import commits
from release.adapters.git import Git
from release.adapters.registry import reference
from release.adapters.registry.reference import Reference
from release.evidence import dsse, keys, statement
from release.evidence.attached_statements import Released
from release.ledger import DEADLINE
from release.promotion import (
    checklist,
    emergency,
    environment,
    promote_checks,
    record_checks,
    scratch,
)
from release.promotion.checklist import About, PromotionContext
from release.promotion.environment import Promotion
from release.record.records import Records

# The other checks need the image, its server, or weights and data.
CHECKED: tuple[About, ...] = ("environment", "quarantine", "emergency", "record", "version")
_WHY = "a drill of an emergency"
_COMMIT = ("-c", "user.name=lockstep drill", "-c", "user.email=drill@localhost", "commit-tree")


class NightStep(Record):
    """One step, and what Lockstep answered."""

    what: str
    answer: str


class BadNight(Record):
    """A rehearsed emergency of ``environment``, which runs ``before`` and did so again at the end.

    ``gate``: the one that failed. ``unchecked``: the checks of a promotion that no invented image can have.
    """

    environment: str
    before: Pointer
    gate: str
    steps: tuple[NightStep, ...]
    unchecked: tuple[About, ...]


class Scene(NamedTuple):
    """The scratch clone after the failing record was merged.

    ``keys``: of the approvers. ``runs``: what ran before. ``failing``: the commit of the failing record and the digest
    of its verdict, in which ``gate`` fails.
    """

    context: PromotionContext
    environment: str
    keys: tuple[Path, ...]
    runs: Released
    place: str
    gate: str
    failing: tuple[str, str]


def stage(context: PromotionContext, name: str, folder: Path) -> Scene:
    """Return a scratch clone in ``folder`` in which throw-away keys approve and a failing record was merged.

    Raises PromotionRefused if the policy allows no exception, EvidenceRefused if none of its gates judged the release,
    or if that runs on an exception itself.
    """
    policy, before = emergency.policy_of(context, name), context.must_run(name)
    if line := emergency.of(context, name).line:
        raise EvidenceRefused(
            f"{name} {before.version}: {line}", "rehearse once a release that passes runs there"
        )
    record = context.records.at(before.commit)
    verdict = record_checks.report(record, layout.VERDICT, Verdict)
    excusable = [one.gate for one in verdict.findings if not held.unexcused(one, policy.gates)]
    if not excusable:
        raise EvidenceRefused(
            f"{name}: none of {', '.join(policy.gates)} judged {before.version}, so none can fail in a drill",
            f"name such a gate in promote.environments.{name}.emergency.gates",
        )
    findings = tuple(
        finding.model_copy(update={"status": "fail", "reason": _WHY})
        if finding.gate == excusable[0]
        else finding
        for finding in verdict.findings
    )
    failed = verdict.model_copy(update={"status": "fail", "findings": findings})
    data = failed.model_dump_json().encode()
    there = scratch.clone(context, folder)
    commit, trunk = _merged(context, before.commit, data, folder / scratch.REMOTE)
    approvers = tuple(folder / f"drill-{number}.key" for number in range(1, policy.signers + 1))
    signers = [_approver(path) for path in approvers]
    there = there._replace(
        records=Records(folder / scratch.WORK / commits.prefix(context.root)),
        trunk=trunk,
        signers=(*there.signers, *signers),
    )
    runs = environment.running(there, name, environment.look(there, name))
    place = before.image.rpartition("@")[0]
    return Scene(there, name, approvers, runs, place, excusable[0], (commit, digest.of_bytes(data)))


def play(scene: Scene, roll_back: Callable[[PromotionContext], Pointer | None]) -> BadNight:
    """Play two nights: one's exception expires, and a passing release heals it; the other's release is rolled back.

    ``roll_back`` moves the environment of a clone back. Raises whatever a promotion would raise, and EvidenceRefused
    if a step did not end as it must.
    """
    name, bad, other = scene.environment, _invented(scene, 1), _invented(scene, 2)
    alone = _signed(scene, bad, scene.context, scene.keys[:-1])
    excepted = partial(_promoted, scene, bad, excepted=True)
    moved = excepted(_signed(scene, bad, alone, scene.keys[-1:]))
    standing, why = emergency.of(moved, name), moved.ledger.moves(moved.tip, name)[0].why
    late = standing.exemption.expires + timedelta(minutes=1) if standing.exemption else None
    ended = emergency.of(moved, name, late).refusal(name)
    sign_again = partial(_signed, scene, other, moved, scene.keys[:1], late)
    healed = _promoted(scene, scene.runs, moved, excepted=False)
    again = _promoted(scene, other, _signed(scene, other, healed, scene.keys), excepted=True)
    after = roll_back(again)
    back = again._replace(tip=again.ledger.tip())
    made = len(back.ledger.moves(back.tip, name)) - len(again.ledger.moves(again.tip, name))
    answers = {
        f"{len(scene.keys) - 1} of {len(scene.keys)} signed: nothing moves": _refusal(partial(excepted, alone)),
        "all signed: it moves": _runs(moved, name),
        "`status` and `watch` show it": standing.line if standing.exemption else "",
        "`history` shows it": why if why == standing.line else "",
        "after its end `status` and `watch` exit with 19": ended.what if ended else "",
        "a second exception is refused": _refusal(sign_again),
        "so is a promotion whose gate fails": _refusal(partial(_promoted, scene, other, moved, excepted=False)),
        "one that passes heals it": _runs(healed, name, late),
        "another night is rolled back by one commit, without a signature":
            _runs(back, name) if after and made == 1 else "",
    }  # fmt: skip
    if missing := [what for what, answer in answers.items() if not answer]:
        raise EvidenceRefused(f"the drill: did not end so: {missing[0]}", "report this as a bug")
    return BadNight(
        environment=name, before=scene.context.must_run(name), gate=scene.gate,
        steps=tuple(NightStep(what=what, answer=answer) for what, answer in answers.items()),
        unchecked=tuple(about for about in promote_checks.CHECKS if about not in CHECKED),
    )  # fmt: skip


def _runs(there: PromotionContext, name: str, now: datetime | None = None) -> str:
    """Return what the environment runs; empty if an exception that expired, or none, allows it there."""
    problem = emergency.of(there, name, now).problem
    return "" if problem else f"{name} runs {there.must_run(name).version}"


def _merged(
    context: PromotionContext, record: str, verdict: bytes, remote: Path
) -> tuple[str, str]:
    """Commit ``record`` with another verdict, and merge that to the target branch. Return both commits.

    They are objects of the scratch remote; no branch has them.
    """
    git = Git(remote, DEADLINE)
    blob = git.line("hash-object", "-w", "--stdin", given=verdict)
    git.line("read-tree", record)
    path = commits.prefix(context.root) / layout.VERDICT
    git.line("update-index", "--cacheinfo", f"100644,{blob},{path.as_posix()}")
    failing = git.line(*_COMMIT, git.line("write-tree"), "-p", record, "-m", _WHY)
    parents = ("-p", context.trunk, "-p", failing)
    return failing, git.line(*_COMMIT, f"{context.trunk}^{{tree}}", *parents, "-m", _WHY)


def _approver(path: Path) -> Signer:
    """Write a new private key to ``path``, and return its owner, who may only approve."""
    key = keys.generate()
    keys.write_new(key, path, path.with_suffix(".pub"))
    return Signer(name=path.stem, may=("approve",), key=keys.pem(key.public_key))


def _invented(scene: Scene, number: int) -> Released:
    """Return a release of the failing record: what runs, in an image that nobody built, signed by no one who may."""
    stated, (commit, verdict) = scene.runs.statement, scene.failing
    release = stated.predicate
    image = digest.of_bytes(f"the image {number} of a drill of {release.image.image}".encode())
    subjects = tuple(
        subject.model_copy(update={"digest": {"sha256": image.removeprefix("sha256:")}})
        if subject.digest == {"sha256": release.image.image.removeprefix("sha256:")}
        else subject
        for subject in stated.subject
    )
    judged = {"verdict": verdict}
    release = release.model_copy(update={
        "commit": commit, "materials": release.materials.model_copy(update=judged),
        "image": release.image.model_copy(update=judged | {"image": image, "commit": commit}),
        "serving": release.serving.model_copy(update=judged),
    })  # fmt: skip
    payload = statement.write(stated.model_copy(update={"subject": subjects, "predicate": release}))
    envelope = dsse.sign(payload, PAYLOAD, keys.load(scene.keys[0]))
    return Released(
        envelope, digest.of_bytes(envelope), scene.keys[0].stem, payload, statement.parse(payload)
    )


def _image(scene: Scene, released: Released) -> Reference:
    return reference.parse(f"{scene.place}@{released.statement.predicate.image.image}")


def _signed(
    scene: Scene,
    released: Released,
    there: PromotionContext,
    approvers: Iterable[Path],
    now: datetime | None = None,
) -> PromotionContext:
    """Return the clone after the owners of these keys signed the exception of a release."""
    image, release = _image(scene, released), released.statement.predicate
    for key in approvers:
        there = emergency.sign(there, scene.environment, image, _WHY, key, release=release, now=now)
    return there


def _promoted(
    scene: Scene, released: Released, there: PromotionContext, *, excepted: bool
) -> PromotionContext:
    """Return the clone after a promotion to a release that the checks in ``CHECKED`` let pass. Raises as they do."""
    name, image = scene.environment, _image(scene, released)
    promotion = Promotion(there, name, image, _WHY, None, "minor", excepted)
    # No store has the image of an invented release.
    promotion.released.needs = None
    promotion.released.value = released
    checks = [
        checklist.run(about, partial(promote_checks.CHECKS[about], promotion)) for about in CHECKED
    ]
    if refused := checklist.refusal(f"{name} is not moved", checks):
        raise refused
    there.ledger.commit(there.tip, promotion.change)
    return scratch.arrived(there, name, promotion.after.get())


def _refusal(do: Callable[[], object]) -> str:
    """Return what ``do`` is refused for; empty if it is not refused."""
    try:
        do()
    except (EvidenceRefused, PromotionRefused) as refused:
        return refused.what
    return ""
