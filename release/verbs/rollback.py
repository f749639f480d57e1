"""rollback: moves an environment back to an image that ran there, by one commit, and quarantines the one it leaves.

It needs only a clone and the image's registry: no weights, verdict or data. The old release passed all checks when it
was promoted. The rollback checks that its image is complete, that a current signer signed it, and that files written by
people do not change it.

``--to none`` empties the environment, as before its first promotion. That needs no image.
"""

import time
from pathlib import Path

from checks.process.errors import Refusal
from release.ledger import Change, released_pointers
from release.mirrors import update
from release.promotion import checklist, context, move_commit, rollback_plan, together
from release.promotion.rollback_plan import RolledBack
from release.promotion.together import Together


def rollback(
    root: Path,
    name: str,
    *,
    why: str,
    to: str | None = None,
    ask: bool = False,
    dry_run: bool = False,
    target: str | None = None,
    runs: str | None = None,
) -> RolledBack:
    """Move the environment ``name`` back. With ``dry_run`` say what would happen; ``refusal`` then has the failures.

    ``why``: the reason, for the ledger and the quarantine. ``to``: a release that ran there, by version, digest or
    image; "none" empties the environment; None: the last other release that is not in quarantine. ``ask``: also start
    the image and send it a request. ``dry_run``: run all checks and write nothing. ``target``: as for ``promote``.
    ``runs``: the first digits of the model that must run there, or nothing is rolled back.

    Raises PromotionRefused with every failure if there is nothing to go back to or it cannot run, RegistryRefused if
    only a registry did not answer, EvidenceRefused, ParamsRefused, Outrun, RemoteRefused, MachineRefused. After any of
    them the environment is unchanged.
    """
    promotion_context, done = context.decided(
        lambda: context.deciding(root, target),
        lambda found: move(found, name, why=why, to=to, ask=ask, dry_run=dry_run, runs=runs),
    )
    return done if dry_run else _mirrored(promotion_context, done)


def rollback_together(
    root: Path,
    name: str,
    *,
    why: str,
    ask: bool = False,
    dry_run: bool = False,
    target: str | None = None,
) -> Together[RolledBack]:
    """Take back the last commit that moved the environment ``name`` of several projects, by one commit.

    The arguments, and what it raises, are those of ``rollback``. PromotionRefused also if there is no such commit.
    """
    began = time.perf_counter()
    members = together.contexts(root, name, target)
    if not dry_run:
        members[0].ledger.settle(members[0].tip)
    back = together.before_last_move(members, name)
    first_plans = [
        (member, rollback_plan.make(member, name, why, to, None, False)[1]) for member, to in back
    ]
    planned = together.planned(first_plans)
    plans = [
        (member, *rollback_plan.make(member._replace(planned=planned), name, why, to, None, ask))
        for member, to in back
    ]
    rolled = Together[RolledBack](
        moves={together.project(member): plan for member, plan, _ in plans}
    )
    if dry_run:
        return rolled
    if refused := together.refusal(rolled):
        raise refused
    change = together.one_commit([(member, change) for member, _, change in plans])
    commit, late = move_commit.commit(members[0], change)
    for member, plan, own in plans:
        if plan.done != "already":
            done = _moved(members[0], plan, own, commit, late, began)
            rolled.moves[together.project(member)] = _mirrored(member, done)
    return rolled


def _mirrored(promotion_context: checklist.PromotionContext, done: RolledBack) -> RolledBack:
    """Update the mirrors after a rollback, and add what failed to its notes."""
    statement = None
    if done.after is not None:
        path = released_pointers.path(done.environment)
        data = promotion_context.ledger.read(done.commit or promotion_context.tip, path)
        statement = released_pointers.envelope(data, done.after, str(path)).statement
    late = update.after_move(
        promotion_context.records, promotion_context.target, promotion_context.trunk, done.environment, done.after,
        statement,
    )  # fmt: skip
    return done.model_copy(update={"notes": (*done.notes, *late)})


def refusal(rolled: RolledBack) -> Refusal | None:
    """The refusal with the failures of a dry run; None if there are none."""
    to = rolled.after.version if rolled.after else "nothing"
    return checklist.refusal(f"{rolled.environment} is not rolled back to {to}", rolled.checks)


def move(
    promotion_context: checklist.PromotionContext,
    name: str,
    *,
    why: str,
    to: str | None = None,
    ask: bool = False,
    dry_run: bool = False,
    runs: str | None = None,
) -> RolledBack:
    """As ``rollback``, in a given context; mirrors are not updated."""
    began = time.perf_counter()
    promotion_context.rule(name)
    if not dry_run:
        promotion_context.ledger.settle(promotion_context.tip)
    plan, change = rollback_plan.make(promotion_context, name, why, to, runs, ask)
    rolled = plan.model_copy(update={"seconds": time.perf_counter() - began})
    if dry_run or plan.done == "already":
        return rolled
    if refused := refusal(rolled):
        raise refused
    commit, late = move_commit.commit(promotion_context, change)
    return _moved(promotion_context, plan, change, commit, late, began)


def _moved(
    home: checklist.PromotionContext, plan: RolledBack, change: Change, commit: str, late: tuple[str, ...],
    began: float,
) -> RolledBack:  # fmt: skip
    """Return a plan as what was done by ``commit``."""
    return plan.model_copy(update={
        "done": "moved" if plan.done == "planned" else plan.done, "commit": commit, "notes": (*plan.notes, *late),
        "tags": home.made(change), "seconds": time.perf_counter() - began,
    })  # fmt: skip
