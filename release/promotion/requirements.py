"""What can be lacking, one function a thing; ``image``, ``contents``, ``record``, ``served``, ``approvals`` have more.

Each notes its gaps in an CheckResult, and reads of the target branch, of the ledger's tip and of what was signed alone.
"""

from datetime import UTC, datetime, timedelta

from checks import quarantine
from checks.pointer import Pointer
from checks.release_params import Environment
from checks.serving import ImageReport
from release.promotion import environment as environments
from release.promotion import held
from release.promotion.checklist import CheckResult
from release.promotion.context import PromotionContext


def previous(context: PromotionContext, rule: Environment, image: str, result: CheckResult) -> None:
    """The environment before must run this very image, whole, and for long enough.

    Since when is what git can say: ``release.ledger.moves`` says what of it is believed.
    """
    name = rule.after
    if name is None:
        result.note = "the first environment"
        return
    present = environments.look(context, name)
    runs = present.pointer
    if runs is None or runs.image != image:
        result.fail(f"{name} runs {_shown(runs)}, not {image}", f"`lockstep promote {name}` it first")
        return
    environments.intact(context, name, present, result)
    last = context.ledger.moves(context.tip, name)[0]
    if last.problem:
        result.fail(f"{name}: {last.problem}", f"move {name} by `lockstep promote` or `lockstep rollback`")
    since = context.ledger.since(context.tip, name)
    assert since is not None  # it runs something
    ran, asked = datetime.now(UTC) - since, timedelta(hours=rule.soak_hours)
    result.note = f"{name} runs it since {since:%Y-%m-%d %H:%M} UTC"
    if last.kind == "other":
        result.note += f", moved there by hand: commit {last.commit[:12]} by {last.by}"
    if ran < asked:
        until = since + asked
        result.fail(
            f"{name} runs it for {max(0.0, ran / timedelta(hours=1)):.1f} of {rule.soak_hours:g} hours",
            f"wait until {until:%Y-%m-%d %H:%M} UTC",
        )


def held_back(context: PromotionContext, digest: str, model: str | None, result: CheckResult) -> None:
    """Neither the image nor the weights, in whatever image, may be in quarantine, by the history of its file.

    Where the file says other than its history nothing moves: somebody took out what no release had freed.
    """
    known = held.read(context)
    for what, todo in held.contradictions(known):
        result.fail(what, todo)
    entries = known.entries
    found = quarantine.find(entries, digest, model or "")
    if found is None:
        result.note = f"{len(entries)} are held back, not this one" if entries else "nothing is held back"
        return
    what = f"the image {digest}" if found.image == digest else f"the model {model}, in another image"
    result.fail(
        f"{what}: is in quarantine with {found.name}, by {found.by}: {found.why}",
        f"`lockstep quarantine --release {found.name} --why …` when it may run again",
    )


def based(context: PromotionContext, image: ImageReport, result: CheckResult) -> None:
    """The image must be made on what the target branch says: its base decides what runs before any weights do."""
    made, wanted = image.base.name if image.base else None, context.serve.base
    if made != wanted:
        result.fail(
            f"it is made on {made or 'no base'}; serve.base of {context.target} is {wanted or 'null: none'}",
            f"build on that, or let its owners merge this base to {context.target}",
        )


def in_place(image: ImageReport, place: str, result: CheckResult) -> None:
    """The image must be where the signed report says that it was put: a copy elsewhere may go, or be of others."""
    if place != image.place:
        result.fail(
            f"it is promoted from {place}, and was built and verified in {image.place}", "promote it from there"
        )


def _shown(pointer: Pointer | None) -> str:
    return f"{pointer.version} ({pointer.image})" if pointer else "nothing"
