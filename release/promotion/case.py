"""The checks of a promotion, as functions over one ``Case`` that finds each part once and keeps it.

``CHECKS`` lists them in order. A check is skipped if a part that it needs was not found; the check that failed to find
the part has the failure.
"""

import functools
from collections.abc import Callable
from typing import Literal, NamedTuple, TypeVar

from checks.config.release_params import Environment
from checks.formats.pointer import Pointer
from checks.formats.statement import Release
from checks.process.errors import EvidenceRefused, Refusal
from release.adapters.registry.reference import Reference
from release.adapters.registry.types import Store
from release.evidence import released, weights
from release.evidence import served as served_as
from release.evidence.released import Released, Search
from release.ledger import Change
from release.promotion import (
    approvals,
    change,
    contents,
    context,
    edits,
    environment,
    image,
    record,
    requirements,
    sealed,
    served,
    signatures,
)
from release.promotion.checklist import About, Check, Checklist, CheckResult, Unavailable
from release.promotion.environment import EnvironmentState
from release.promotion.image import StoredImage
from release.promotion.types import ImageRecord, PromotionContext

_T = TypeVar("_T")


class Move(NamedTuple):
    """The requested move: ``image`` (by digest) to ``environment``, whose rules are ``rule``."""

    environment: str
    rule: Environment
    image: Reference
    why: str | None
    version: str | None
    bump: Literal["major", "minor"]

    @property
    def digest(self) -> str:
        """The digest of the image."""
        assert self.image.digest is not None
        return self.image.digest


class Found(NamedTuple):
    """The results of all checks. ``after`` and ``change`` are None unless everything that they need was found.

    ``others``: evidence beside the image that does not count, one line each.
    """

    checks: tuple[Check, ...]
    present: EnvironmentState
    released: Released | None
    after: Pointer | None
    change: Change | None
    others: tuple[str, ...]


class Case:
    """One image and one environment. Each part is found at first use; a part that was not found stays unavailable."""

    def __init__(self, where: PromotionContext, move: Move) -> None:
        self.where, self.move = where, move
        self.present = EnvironmentState(None, {})
        self.others: tuple[str, ...] = ()
        self.signed_by: tuple[str, ...] = ()
        self.missing: set[str] = set()

    @functools.cached_property
    def store(self) -> Store:
        """The store that holds the image."""
        return image.open_place(self.where.root, self.move.image)

    @functools.cached_property
    def image(self) -> StoredImage:
        """The complete image. Raises as ``image.there``."""
        return self._once(
            "the image was not found", lambda: image.there(self.store, self.move.digest)
        )

    @functools.cached_property
    def released(self) -> Released:
        """The signed statement that the move relies on. Raises EvidenceRefused if none is valid."""
        return self._once("no statement holds", self._released)

    @property
    def release(self) -> Release:
        """The content of that statement. Raises as ``released``."""
        return self.released.statement.predicate

    @functools.cached_property
    def recorded(self) -> ImageRecord:
        """The record in the commit that the statement names. Raises as ``record.find``."""
        release = self.release
        return self._once("the record does not hold", lambda: record.find(self.where, release))

    @functools.cached_property
    def after(self) -> Pointer:
        """The pointer that the move will write. Raises PromotionRefused for an invalid version."""
        self.recorded  # noqa: B018 - no pointer to a record that does not hold
        return self._once("no version could be chosen", self._after)

    @functools.cached_property
    def change(self) -> Change:
        """The files that the move will commit. Raises as ``after``."""
        why = self.move.why or context.subject(self.where.root, self.release.commit)
        return change.move(
            self.where,
            self.move.environment,
            "promote",
            self.present,
            self.after,
            self.released,
            why,
        )

    def available(self, part: str) -> bool:
        """Whether a part was found."""
        return part in self.__dict__

    def served(self, release: Release, result: CheckResult) -> None:
        """Check the verification, and that the image is stored where it was verified."""
        move = self.move
        served.served(
            release, self.where.signers, move.rule, move.environment, self.present.files, result
        )
        requirements.in_place(release.image, str(move.image._replace(digest=None)), result)

    def _once(self, why: str, find: Callable[[], _T]) -> _T:
        """The result of ``find``. After a refusal the part is unavailable, and the reason is ``why``."""
        if why in self.missing:
            raise Unavailable(why)
        try:
            return find()
        except Refusal:
            self.missing.add(why)
            raise

    def _released(self) -> Released:
        self.image  # noqa: B018 - no statement without its image
        search = released.search(self.store, self.move.digest, self.where.signers)
        # The weights' signature has the same media type as a signed statement; it is not a failed statement.
        search = search._replace(
            others=tuple(other for other in search.others if weights.PREDICATE not in other)
        )
        if not search.found:
            first = f": {search.others[0]}" if search.others else " or is there"
            raise EvidenceRefused(
                f"{self.store.name}@{self.move.digest}: no signed statement holds{first}",
                "sign the release: `lockstep sign`", search.others[1:],
            )  # fmt: skip
        self.others = search.others
        chosen = self._chosen(search)
        self.signed_by = signatures.by(chosen, search.found)
        return chosen

    def _chosen(self, search: Search) -> Released:
        """The statement to rely on: the one that moved the previous environment, else one that matches the record.

        One that enough signers signed comes before both. If none matches, the first; the checks then report what is
        wrong with it.
        """
        where, rule = self.where, self.move.rule
        before = where.ledger.pointer(where.tip, rule.after) if rule.after else None
        ordered = sorted(
            search.found,
            key=lambda one: (
                len(signatures.by(one, search.found)) < rule.signatures,
                before is None or one.digest != before.evidence,
                one.digest,
            ),
        )
        for one in ordered if len(ordered) > 1 else ():
            trial = Checklist()
            with trial.run("record"):
                record.find(where, one.statement.predicate)
            with trial.run("serving") as result:
                self.served(one.statement.predicate, result)
            if not any(check.failures for check in trial.checks):
                return one
        return ordered[0]

    def _after(self) -> Pointer:
        move = self.move
        after = change.point(self.where, str(move.image), self.released, move.version, move.bump)
        how = served_as.how(self.release, move.environment, self.present.files)
        return after.model_copy(update={"verified": how})


def _environment(case: Case, result: CheckResult) -> None:
    case.present = environment.look(case.where, case.move.environment)
    environment.intact(case.where, case.move.environment, case.present, result)


def _previous(case: Case, result: CheckResult) -> None:
    requirements.previous(case.where, case.move.rule, str(case.move.image), result)


def _image(case: Case, result: CheckResult) -> None:
    result.note = f"{len(case.image.manifest.layers)} layers in {case.store.name}"


def _evidence(case: Case, result: CheckResult) -> None:
    found, required = case.released, case.move.rule.signatures
    by = ", ".join(case.signed_by) if required > 1 else found.signer
    result.note = f"{found.digest}, signed by {by}"
    signatures.enough(required, case.signed_by, case.where.signers, case.others, result)


def _quarantine(case: Case, result: CheckResult) -> None:
    model = case.release.image.model if case.available("released") else None
    requirements.held_back(case.where, case.move.digest, model, result)


def _record(case: Case, result: CheckResult) -> None:
    case.recorded  # noqa: B018 - this check is that it is found
    result.note = f"commit {case.release.commit[:12]} of {case.where.target}"


def _verdict(case: Case, result: CheckResult) -> None:
    if case.move.rule.after is None:
        record.holds_here(case.where, case.release, result)
    else:
        case.release  # noqa: B018 - without a statement there is no verdict to speak of
        result.note = f"it held when {case.move.rule.after} was moved; its record passes"


def _policy(case: Case, result: CheckResult) -> None:
    record.policy(
        case.where, case.release, case.recorded, result, judged=case.move.rule.after is None
    )


def _sealed(case: Case, result: CheckResult) -> None:
    if case.move.rule.sealed:
        sealed.passed(case.where, case.release.image.model, result)
    else:
        result.note = "not asked here"


def _serving(case: Case, result: CheckResult) -> None:
    case.served(case.release, result)


def _weights(case: Case, result: CheckResult) -> None:
    contents.held(case.where.root, case.store, case.release, case.recorded, result)


def _layers(case: Case, result: CheckResult) -> None:
    image.composed(case.where.root, case.image, case.release, case.recorded, result)
    requirements.based(case.where, case.release.image, result)


def _version(case: Case, result: CheckResult) -> None:
    case.change  # noqa: B018 - this check is that the move can be written
    result.note = case.after.version


def _edits(case: Case, result: CheckResult) -> None:
    built = case.release.image
    edits.unedited(case.where, case.move.environment, case.present, case.after, built, result)


def _approvals(case: Case, result: CheckResult) -> None:
    move = case.move
    releaser = case.released.signer
    by = case.signed_by if move.rule.signatures > 1 else (releaser,)
    approvals.enough(case.where, move.environment, move.rule, move.digest, case.present, by, result)


CHECKS: dict[About, Callable[[Case, CheckResult], None]] = {
    "environment": _environment,
    "previous": _previous,
    "image": _image,
    "evidence": _evidence,
    "quarantine": _quarantine,
    "record": _record,
    "verdict": _verdict,
    "policy": _policy,
    "sealed": _sealed,
    "serving": _serving,
    "weights": _weights,
    "layers": _layers,
    "version": _version,
    "edits": _edits,
    "approvals": _approvals,
}


def run_checks(where: PromotionContext, move: Move) -> Found:
    """Run every check. Raises only MachineRefused and RemoteRefused; any other refusal is recorded as a failure."""
    case, checklist = Case(where, move), Checklist()
    for about, check in CHECKS.items():
        with checklist.run(about) as result:
            check(case, result)
    found = case.__dict__
    return Found(
        tuple(checklist.checks),
        case.present,
        found.get("released"),
        found.get("after"),
        found.get("change"),
        case.others,
    )
