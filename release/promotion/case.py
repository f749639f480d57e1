"""The case for a promotion: everything that can be lacking is asked, of one image and one environment."""

from typing import Literal, NamedTuple

from checks.errors import EvidenceRefused
from checks.params import Environment
from checks.pointer import Pointer
from checks.statement import Release
from release.adapters.registry.reference import Reference
from release.adapters.registry.types import Store
from release.evidence import released, weights
from release.evidence import served as served_as
from release.evidence.released import Released, Search
from release.ledger import Change
from release.promotion import approvals, change, contents, environment, gaps, image, record, served, site
from release.promotion.asked import Answer, Asked, Check
from release.promotion.environment import Present
from release.promotion.image import There
from release.promotion.record import Recorded
from release.promotion.site import Site

_NO_IMAGE, _NO_EVIDENCE, _NO_RECORD = "there is no image to ask", "no statement holds", "the record does not hold"


class Move(NamedTuple):
    """What is to be moved: ``image`` by digest, to ``environment``, which asks for ``rule``."""

    environment: str
    rule: Environment
    image: Reference
    why: str | None
    version: str | None
    bump: Literal["major", "minor"]

    @property
    def digest(self) -> str:
        """The image's."""
        assert self.image.digest is not None
        return self.image.digest


class Case(NamedTuple):
    """What was found. ``after`` and ``change`` are there where nothing that they need is lacking.

    ``others``: what lies beside the image and does not count.
    """

    checks: tuple[Check, ...]
    present: Present
    released: Released | None
    after: Pointer | None
    change: Change | None
    others: tuple[str, ...]


def ask(where: Site, move: Move) -> Case:
    """Ask everything. Raises MachineRefused and RemoteRefused alone; whatever else refuses is a gap."""
    asked, rule, digest = Asked(), move.rule, move.digest
    present = Present(None, {})
    with asked.asking("environment") as answer:
        present = environment.look(where, move.environment)
        environment.intact(where, move.environment, present, answer)
    with asked.asking("previous") as answer:
        gaps.previous(where, rule, str(move.image), answer)
    store, there = image.open_place(where.root, move.image), None
    with asked.asking("image") as answer:
        there = image.there(store, digest)
        answer.note = f"{len(there.manifest.layers)} layers in {store.name}"
    found, others = None, tuple[str, ...]()
    with asked.asking("evidence") as answer:
        if there is None:
            answer.skip(_NO_IMAGE)
        else:
            found, others = _evidence(where, store, move, present, answer)
    release = found.statement.predicate if found else None
    with asked.asking("quarantine") as answer:
        gaps.held_back(where, digest, release.image.model if release else None, answer)
    recorded = None
    with asked.asking("record") as answer:
        if release is None:
            answer.skip(_NO_EVIDENCE)
        else:
            recorded = record.find(where, release)
            answer.note = f"commit {release.commit[:12]} of {where.target}"
    _of_the_release(asked, where, move, present, release, recorded)
    _of_the_image(asked, where, store, there, release, recorded)
    after, made = _of_the_move(asked, where, move, present, found, recorded)
    return Case(tuple(asked.checks), present, found, after, made, others)


def _evidence(
    where: Site, store: Store, move: Move, present: Present, answer: Answer
) -> tuple[Released, tuple[str, ...]]:
    """The statement that the move is decided on. Raises EvidenceRefused when none holds."""
    search = released.search(store, move.digest, where.signers)
    # Bundles of the weights' signature have the type that bundles of statements have.
    search = search._replace(others=tuple(other for other in search.others if weights.PREDICATE not in other))
    if not search.found:
        first = f": {search.others[0]}" if search.others else " or is there"
        raise EvidenceRefused(
            f"{store.name}@{move.digest}: no signed statement holds{first}",
            "sign the release: `lockstep sign`", search.others[1:],
        )  # fmt: skip
    chosen = _chosen(where, move, present, search)
    answer.note = f"{chosen.digest}, signed by {chosen.signer}"
    return chosen, search.others


def _chosen(where: Site, move: Move, present: Present, search: Search) -> Released:
    """Of several that hold: the one that the environment before was moved on, else the first that agrees."""
    before = where.ledger.pointer(where.tip, move.rule.after) if move.rule.after else None
    ordered = sorted(search.found, key=lambda one: (before is None or one.digest != before.evidence, one.digest))
    for one in ordered if len(ordered) > 1 else ():
        trial = Asked()
        with trial.asking("record"):
            record.find(where, one.statement.predicate)
        with trial.asking("serving") as answer:
            _served(where, move, present, one.statement.predicate, answer)
        if not any(check.gaps for check in trial.checks):
            return one
    return ordered[0]


def _served(where: Site, move: Move, present: Present, release: Release, answer: Answer) -> None:
    served.served(release, where.signers, move.rule, move.environment, present.files, answer)
    gaps.in_place(release.image, str(move.image._replace(digest=None)), answer)


def _of_the_release(
    asked: Asked, where: Site, move: Move, present: Present, release: Release | None, recorded: Recorded | None
) -> None:
    with asked.asking("verdict") as answer:
        if release is None:
            answer.skip(_NO_EVIDENCE)
        elif move.rule.after is None:
            record.holds_here(where, release, answer)
        else:
            answer.note = f"it held when {move.rule.after} was moved; its record passes"
    with asked.asking("policy") as answer:
        if release is None or recorded is None:
            answer.skip(_NO_RECORD)
        else:
            record.policy(where, release, recorded, answer, judged=move.rule.after is None)
    with asked.asking("serving") as answer:
        if release is None:
            answer.skip(_NO_EVIDENCE)
        else:
            _served(where, move, present, release, answer)


def _of_the_image(
    asked: Asked, where: Site, store: Store, there: There | None, release: Release | None, recorded: Recorded | None
) -> None:
    with asked.asking("weights") as answer:
        if release is None or recorded is None:
            answer.skip(_NO_RECORD)
        else:
            contents.held(where.root, store, release, recorded, answer)
    with asked.asking("layers") as answer:
        if release is None or recorded is None or there is None:
            answer.skip(_NO_RECORD)
        else:
            image.composed(where.root, there, release, recorded, answer)
            gaps.based(where, release.image, answer)


def _of_the_move(
    asked: Asked, where: Site, move: Move, present: Present, found: Released | None, recorded: Recorded | None
) -> tuple[Pointer | None, Change | None]:
    after, made = None, None
    with asked.asking("version") as answer:
        if found is None or recorded is None:
            answer.skip(_NO_RECORD)
        else:
            after = change.point(where, str(move.image), found, move.version, move.bump)
            how = served_as.how(found.statement.predicate, move.environment, present.files)
            after = after.model_copy(update={"verified": how})
            why = move.why or site.subject(where.root, found.statement.predicate.commit)
            made = change.move(where, move.environment, "promote", present, after, found, why)
            answer.note = after.version
    with asked.asking("edits") as answer:
        if after is None or found is None:
            answer.skip(_NO_RECORD)
        else:
            environment.unedited(where, move.environment, present, after, found.statement.predicate.image, answer)
    with asked.asking("approvals") as answer:
        if found is None:
            answer.skip(_NO_EVIDENCE)
        else:
            approvals.enough(where, move.environment, move.rule, move.digest, present, found.signer, answer)
    return after, made
