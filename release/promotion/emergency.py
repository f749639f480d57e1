"""Exceptions: several people allow an image to run in an environment for some hours although gates do not pass.

An exception is one statement that each of them signs. It names the image, the weights, the verdict, every gate that did
not pass, the reason, and when it expires. The files are <environment>/approvals/<image>/emergency/<signer>.json.

The policy is the section ``emergency`` of the environment on the target branch, and counts only for records that came
to the branch after it: nobody can bring a release and the right to except its gates in one merge. An exception excuses
gates and nothing else, counts for one move, and expires. From then on what it let run contradicts the policy, until
another release is promoted or the environment is rolled back.
"""

import functools
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from pydantic import ValidationError

from checks.config.release_params import EXCUSABLE, Emergency, Promote
from checks.decision import held
from checks.formats.pointer import Pointer
from checks.formats.signers import Signers
from checks.formats.statement import Excepted, GateException, Release
from checks.formats.verdict import Verdict
from checks.process.errors import (
    Contradicted,
    EvidenceRefused,
    MachineRefused,
    ParamsRefused,
    PromotionRefused,
    Refusal,
)
from checks.process.text import redact
from checks.records.rows import Record
from checks.storage import digest, files, layout
from release.adapters import commits
from release.adapters.registry.reference import Reference
from release.evidence import statement, trust
from release.ledger import Change, Ledger, released_pointers
from release.ledger.released_pointers import Envelope
from release.promotion import approvals
from release.promotion.checklist import PromotionContext
from release.promotion.context import rules_of
from release.promotion.environment import Promotion, emergency_folder
from release.record.records import Records

_AHEAD = timedelta(minutes=5)  # clocks of two machines
_HEAL = "promote a release whose verdict is pass, or go back: `lockstep rollback {} --why …`"


class Exemption(Record):
    """An exception that enough people signed."""

    gates: tuple[str, ...]
    why: str
    issued: datetime
    expires: datetime
    signers: tuple[str, ...]

    @property
    def line(self) -> str:
        """The exception on one line."""
        gates, names = ", ".join(self.gates), ", ".join(self.signers)
        return f"EMERGENCY until {_shown(self.expires)}, {gates} not passed, signed by {names}: {self.why}"


class Standing(NamedTuple):
    """On what the release of an environment runs there, if its verdict is not ``pass``.

    ``problem``: why that does not allow it, or no longer; ``todo`` is the fix. Both are empty if all is well.
    """

    exemption: Exemption | None = None
    problem: str = ""
    todo: str = ""

    @property
    def line(self) -> str:
        """Say on one line what a reader must know about the release; empty if its verdict passes."""
        return self.problem or (self.exemption.line if self.exemption else "")

    def refusal(self, environment: str) -> Refusal | None:
        """Return the refusal if the release may not run there any more."""
        return Contradicted(f"{environment} {self.problem}", self.todo) if self.problem else None


class _Signed(NamedTuple):
    """One statement, and who signed it."""

    exception: GateException
    payload: bytes
    signers: set[str]

    def exemption(self) -> Exemption:
        stated = self.exception.predicate
        return Exemption(
            gates=stated.gates, why=stated.why, issued=stated.issued, expires=stated.expires,
            signers=tuple(sorted(self.signers)),
        )  # fmt: skip


def sign(
    context: PromotionContext,
    environment: str,
    image: Reference,
    why: str | None,
    key: Path,
    *,
    release: Release | None = None,
    now: datetime | None = None,
) -> PromotionContext:
    """Sign with ``key`` the exception that ``image`` needs, and commit that. Return the context at the new commit.

    Signs the statement that others signed, if there is one, else a new one with the reason ``why``. Does nothing if
    enough people or this person signed it before. ``release``: None: what is signed beside the image. ``now``: the time
    at which the last exception is asked for its end. Raises PromotionRefused if the policy of the target branch allows
    no exception for this verdict, or if no exception is needed; EvidenceRefused if the release is not signed, or if the
    owner of the key may not approve; Outrun or RemoteRefused if the push fails.
    """
    assert image.digest is not None
    policy = policy_of(context, environment)
    _refuse_a_second(context, environment, now)
    release = release or _release(context, image)
    gates = _gates(context, environment, release)
    used = approvals.used_up(context, environment, image.digest, statement.parse_exception)
    stored = context.ledger.files(context.tip, emergency_folder(environment, image.digest))
    exceptions, _ = _read(stored, environment, image.digest, context.signers)
    opened = [
        signed
        for signed in exceptions
        if signed.payload not in used
        and signed.exception.predicate.gates == gates
        and not _problem(signed.exception, release, policy)
    ]
    if any(len(signed.signers) >= policy.signers for signed in opened):
        return context
    approver = trust.signatory(key, context.signers, "approve")
    (own,) = {signer.name for signer in approver.own("approve")}
    chosen = _chosen(opened, own, why)
    if chosen and own in chosen.signers:
        return context
    asked = chosen.payload if chosen else _new(environment, release, gates, policy, why)
    name = emergency_folder(environment, image.digest) / f"{own}.json"
    reason = statement.parse_exception(asked, environment, image.digest).predicate.why
    message = f"except {', '.join(gates)} of {image.digest[:19]} for {environment}\n\n{redact(reason, 500)}\n"
    change = Change({name: approver.sign(asked)}, message)
    return context._replace(tip=context.ledger.commit(context.tip, change))


def find(promotion: Promotion, release: Release) -> Exemption:
    """Return the exception that ``release`` is moved by. Raises EvidenceRefused if none counts, with every reason.

    Whether it names every gate that did not pass is asked where the verdict is read (``held.refusal``).
    """
    context, environment = promotion.context, promotion.environment
    policy = policy_of(context, environment)
    _refuse_a_second(context, environment)
    exceptions, reasons = _read(
        promotion.present.files, environment, promotion.digest, context.signers
    )
    used = approvals.used_up(context, environment, promotion.digest, statement.parse_exception)
    allowed = _allowed(context, environment, release.commit)
    for signed in exceptions:
        names = f"the exception of {', '.join(sorted(signed.signers))}"
        beyond = [gate for gate in signed.exception.predicate.gates if gate not in allowed]
        if problem := _problem(signed.exception, release, policy):
            reasons.append(f"{names} {problem}")
        elif beyond:
            reasons.append(f"{names} names {beyond[0]}, and {_since(context, environment)}")
        elif signed.payload in used:
            reasons.append(f"{names} was used up by an earlier move")
        elif len(signed.signers) < policy.signers:
            reasons.append(f"{names} has {len(signed.signers)} of {policy.signers} signatures")
        else:
            return signed.exemption()
    raise EvidenceRefused(
        f"no exception holds: {reasons[0] if reasons else 'nobody signed one'}",
        f"let another person sign it: `lockstep promote {environment} --emergency --key FILE`",
        tuple(reasons[1:]),
    )


def running(
    records: Records,
    ledger: Ledger,
    tip: str,
    promote: Promote,
    signers: Callable[[], Signers],
    environment: str,
    now: datetime | None = None,
    released: tuple[Pointer, Envelope] | None = None,
) -> Standing:
    """Return on what the release of ``environment`` runs there as of ``tip``; an empty Standing if its verdict passes.

    ``now``: the time at which exceptions are asked for their end; None: this one. ``released``: the pointer at ``tip``
    and its evidence; None: they are read. ``signers`` is called if the verdict does not pass. The verdict is that of
    the signed statement's commit. What cannot be read is left to the checks of pointer and evidence.
    """
    released = released or _released(ledger, tip, environment)
    if released is None:
        return Standing()
    pointer, envelope = released
    release, policy = envelope.statement.predicate, promote.environments[environment].emergency
    if _recorded(records, release) in (None, "pass"):
        return Standing()
    todo = _HEAL.format(environment)
    runs = f"runs {pointer.version}, whose verdict is not pass"
    if policy is None:
        return Standing(None, f"{runs}, and no exception is allowed there", todo)
    at = ledger.recorded(tip, environment, pointer)
    stored = ledger.files(tip, emergency_folder(environment, pointer.digest))
    exceptions, reasons = _read(stored, environment, pointer.digest, signers(), at)
    for signed in exceptions:
        problem = _problem(signed.exception, release, policy, now)
        if len(signed.signers) >= policy.signers and problem in (
            "",
            _expired(signed.exception, now),
        ):
            exemption = signed.exemption()
            if not problem:
                return Standing(exemption)
            return Standing(
                exemption, f"runs {pointer.version} on an exception that {problem}", todo
            )
        reasons.append(problem or f"it has {len(signed.signers)} of {policy.signers} signatures")
    reason = reasons[0] if reasons else "there is none"
    return Standing(None, f"{runs}, and no exception holds: {reason}", todo)


def of(context: PromotionContext, environment: str, now: datetime | None = None) -> Standing:
    """Return ``running`` of an environment in a context."""
    return running(
        context.records,
        context.ledger,
        context.tip,
        context.promote,
        lambda: context.signers,
        environment,
        now,
    )


def here(
    records: Records,
    ledger: Ledger,
    tip: str,
    promote: Promote,
    released: Mapping[str, tuple[Pointer, Envelope] | None] = MappingProxyType({}),
) -> dict[str, Standing]:
    """Return ``running`` of every environment, with the signers of the target branch as this clone has them."""
    signers = functools.cache(functools.partial(trust.signers_or_nobody, records.root))
    return {
        name: running(records, ledger, tip, promote, signers, name, released=released.get(name))
        for name in promote.ordered
    }


def _released(ledger: Ledger, tip: str, environment: str) -> tuple[Pointer, Envelope] | None:
    path = released_pointers.path(environment)
    try:
        pointer = ledger.pointer(tip, environment)
        if pointer is None:
            return None
        return pointer, released_pointers.envelope(ledger.read(tip, path), pointer, str(path))
    except EvidenceRefused:
        return None


def policy_of(context: PromotionContext, environment: str) -> Emergency:
    """Return the policy of the target branch. Raises PromotionRefused, with what to write, if it allows none."""
    policy = context.rule(environment).emergency
    if policy is None:
        raise PromotionRefused(
            f"{environment}: {layout.PARAMS} of {context.target} allows no exception",
            f"make a release that passes; for the next emergency let code owners merge promote.environments."
            f"{environment}.emergency: {{gates: [NAME], hours: 72}}, with gates of kind {', '.join(sorted(EXCUSABLE))}",
        )
    return policy


def _release(context: PromotionContext, image: Reference) -> Release:
    """Return the signed release. All statements about an image are about one verdict, which the image names."""
    from release.evidence import attached_statements
    from release.promotion import image_checks

    assert image.digest is not None
    store = image_checks.open_place(context.root, image)
    statements = attached_statements.search(store, image.digest, context.signers).releases
    if not statements:
        raise EvidenceRefused(
            f"{store.name}@{image.digest}: no signed statement holds",
            "sign the release: `lockstep sign`",
        )
    return statements[0].statement.predicate


def _gates(context: PromotionContext, environment: str, release: Release) -> tuple[str, ...]:
    """Return the gates that did not pass, sorted.

    Raises PromotionRefused if there are none, or if no exception can excuse one of them.
    """
    from release.promotion import record_checks

    commit = release.commit
    record = context.records.at(commit)
    data = record.data(layout.VERDICT)
    if data is None or digest.of_bytes(data) != release.materials.verdict:
        raise EvidenceRefused(
            f"{layout.VERDICT} at {commit[:12]}: is not what was signed",
            "sign the release of a record that is committed: `lockstep sign`",
        )
    verdict = record_checks.report(record, layout.VERDICT, Verdict)
    if verdict.status == "pass":
        raise PromotionRefused(
            f"{environment}: the verdict is pass, so no exception is needed",
            f"`lockstep promote {environment}`",
        )
    allowed = _allowed(context, environment, commit)
    undone = held.not_passed(verdict)
    PromotionRefused.raise_for(
        (
            f"{environment}: gate {finding.gate} {why}"
            for finding in undone
            if (why := held.unexcused(finding, allowed))
        ),
        f"make a release that passes it; {_since(context, environment)}",
    )
    return tuple(sorted(finding.gate for finding in undone))


def _since(context: PromotionContext, environment: str) -> str:
    return (
        f"promote.environments.{environment}.emergency.gates of {context.target} counts for records that were merged "
        "after it"
    )


def _allowed(context: PromotionContext, environment: str, commit: str) -> Collection[str]:
    """Return the gates that the target branch lets people except, now and before it had the record of ``commit``."""
    before = commits.before(context.root, commit, context.trunk)
    if before is None:
        return ()
    try:
        then = rules_of(context.records, before, before[:12]).promote.environments.get(environment)
    except (EvidenceRefused, ParamsRefused):
        return ()
    policy = then.emergency if then else None
    return set(policy_of(context, environment).gates) & set(policy.gates if policy else ())


def _refuse_a_second(
    context: PromotionContext, environment: str, now: datetime | None = None
) -> None:
    """Refuse an exception where the last one expired and nothing healed that."""
    standing = of(context, environment, now)
    if standing.problem:
        raise EvidenceRefused(
            f"{environment} {standing.problem}, so its next promotion must pass every gate",
            standing.todo,
        )


def _read(
    stored: Mapping[Path, bytes],
    environment: str,
    image: str,
    signers: Signers,
    at: datetime | None = None,
) -> tuple[list[_Signed], list[str]]:
    """Return the statements about this image and environment, and why each other file does not count."""
    statements = dict[bytes, _Signed]()
    reasons = list[str]()
    folder = emergency_folder(environment, image)
    for path in sorted(path for path in stored if path.parent == folder):
        try:
            verified = trust.verify(
                stored[path], signers, "approve", str(path), offline=True, at=at
            )
            exception = statement.parse_exception(verified.payload, environment, image, str(path))
        except (EvidenceRefused, MachineRefused) as refused:
            reasons.append(refused.what)
            continue
        signed = _Signed(exception, verified.payload, set())
        statements.setdefault(verified.payload, signed).signers.add(verified.signer)
    return list(statements.values()), reasons


def _problem(
    exception: GateException, release: Release, policy: Emergency, now: datetime | None = None
) -> str:
    """Return why the exception does not count for ``release`` under ``policy``; that it expired is asked last."""
    stated = exception.predicate
    if not exception.is_of(release.image.image, release.image.model):
        return "is about another model"
    if stated.verdict != release.materials.verdict:
        return "is about another verdict"
    if beyond := [gate for gate in stated.gates if gate not in policy.gates]:
        return f"names {beyond[0]}, which the policy does not allow"
    if stated.expires - stated.issued > timedelta(hours=policy.hours):
        return f"is for longer than {policy.hours:g} hours"
    if stated.issued > datetime.now(UTC) + _AHEAD:
        return f"is dated {_shown(stated.issued)}, which is in the future"
    return _expired(exception, now)


def _expired(exception: GateException, now: datetime | None) -> str:
    expires = exception.predicate.expires
    return f"expired on {_shown(expires)}" if (now or datetime.now(UTC)) >= expires else ""


def _chosen(opened: list[_Signed], own: str, why: str | None) -> _Signed | None:
    """Return the statement to sign; None for a new one.

    Raises PromotionRefused if others gave another reason than ``why``.
    """
    fitting = [signed for signed in opened if why in (None, signed.exception.predicate.why)]
    if fitting:
        # Of two people who began at once, each signs the words of the other.
        return max(
            fitting,
            key=lambda signed: (own not in signed.signers, len(signed.signers), signed.payload),
        )
    if others := [signed for signed in opened if signed.signers != {own}]:
        stated = others[0].exception.predicate
        raise PromotionRefused(
            f"{', '.join(sorted(others[0].signers))} signed an exception for another reason: {stated.why}",
            "sign that exception: leave --why out",
        )
    return None


def _new(
    environment: str, release: Release, gates: tuple[str, ...], policy: Emergency, why: str | None
) -> bytes:
    if why is None:
        raise PromotionRefused("an exception without a reason", "say why, in one line: --why")
    issued = datetime.now(UTC).replace(microsecond=0)
    expires = issued + timedelta(hours=policy.hours)
    try:
        excepted = Excepted(
            environment=environment, verdict=release.materials.verdict, gates=gates, why=why,
            issued=issued, expires=expires,
        )  # fmt: skip
    except ValidationError as error:
        raise PromotionRefused(
            f"the exception: {files.first(error)}", "say why, in one line of text"
        ) from error
    return statement.except_gates(release.image.image, release.image.model, excepted)


def _recorded(records: Records, release: Release) -> str | None:
    """Return the status of the verdict that the release was signed with; None if this clone does not have it."""
    verdict = records.at(release.commit).readable(layout.VERDICT, Verdict)
    return verdict.status if verdict is not None else None


def _shown(time: datetime) -> str:
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
