"""Promotion checks that need one function each. ``image``, ``contents``, ``record``, ``served`` and ``approvals`` have
the rest.

Each check records its failures in a CheckResult. It reads only the target branch, the ledger's tip and signed
statements.
"""

from datetime import UTC, datetime, timedelta

from checks.formats import quarantine
from checks.formats.serving import ImageReport
from release.promotion import environment as environments
from release.promotion import quarantined
from release.promotion.checklist import CheckResult, PromotionContext
from release.promotion.environment import Promotion


def previous(promotion: Promotion, result: CheckResult) -> None:
    """Check that the previous environment runs this very image, unchanged, for at least the soak time.

    ``release.ledger.moves`` decides since when it runs.
    """
    context = promotion.context
    image = str(promotion.reference)
    name = promotion.rule.after
    if name is None:
        result.note = "the first environment"
        return
    present = environments.look(context, name)
    runs = present.pointer
    if runs is None or runs.image != image:
        there = f"{runs.version} ({runs.image})" if runs else "nothing"
        result.fail(f"{name} runs {there}, not {image}", f"`lockstep promote {name}` it first")
        return
    environments.intact(context, name, present, result)
    last = context.ledger.moves(context.tip, name)[0]
    if last.problem:
        result.fail(
            f"{name}: {last.problem}", f"move {name} by `lockstep promote` or `lockstep rollback`"
        )
    since = context.ledger.since(context.tip, name)
    assert since is not None  # it runs something
    ran = datetime.now(UTC) - since
    needed = timedelta(hours=promotion.rule.soak_hours)
    result.note = f"{name} runs it since {since:%Y-%m-%d %H:%M} UTC"
    if last.kind == "other":
        result.note += f", moved there by hand: commit {last.commit[:12]} by {last.by}"
    if ran < needed:
        until = since + needed
        result.fail(
            f"{name} runs it for {max(0.0, ran / timedelta(hours=1)):.1f} of {promotion.rule.soak_hours:g} hours",
            f"wait until {until:%Y-%m-%d %H:%M} UTC",
        )


def held_back(
    context: PromotionContext,
    digest: str,
    model: str | None,
    result: CheckResult,
    image: ImageReport | None = None,
) -> None:
    """Check that neither the image nor its weights, in any image, are in quarantine, nor these in the same server.

    If the quarantine file disagrees with its history, nothing moves: someone deleted an entry by hand.
    """
    known = quarantined.read(context)
    for what, todo in quarantined.contradictions(known):
        result.fail(what, todo)
    entries = known.entries
    entry = quarantine.find(entries, digest, model or "")
    if entry is None and image is not None:
        entry = quarantined.by_server(context, entries, image)
    if entry is None:
        result.note = (
            f"{len(entries)} in quarantine, not this one" if entries else "the quarantine is empty"
        )
        return
    what = f"the model {model}, in another image"
    if entry.image == digest:
        what = f"the image {digest}"
    elif entry.model is None:
        what += " with the same server"
    result.fail(
        f"{what}: is in quarantine with {entry.name}, by {entry.by}: {entry.why}",
        f"`lockstep quarantine --release {entry.name} --why …` when it may run again",
    )


def based(context: PromotionContext, image: ImageReport, result: CheckResult) -> None:
    """Check that the image's base and server are those that the target branch names: their code runs the weights."""
    base = image.base.name if image.base else None
    for how, name, made, wanted in (
        ("is made on", "base", base, context.serve.base),
        ("runs in", "server", image.server, context.serve.server),
    ):
        if made != wanted:
            result.fail(
                f"it {how} {made or f'no {name}'}; serve.{name} of {context.target} is {wanted or 'null: none'}",
                f"build on that, or let its owners merge this {name} to {context.target}",
            )
