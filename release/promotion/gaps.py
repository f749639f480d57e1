"""What can be lacking, one function a thing; ``image``, ``contents``, ``record``, ``served``, ``approvals`` have more.

Each notes its gaps in an Answer, and reads of the target branch, of the ledger's tip and of what was signed alone.
"""

from datetime import UTC, datetime, timedelta

from checks import quarantine
from checks.params import Environment
from checks.pointer import Pointer
from checks.serving import ImageReport
from release.promotion import environment as environments
from release.promotion import held
from release.promotion.asked import Answer
from release.promotion.site import Site


def previous(site: Site, rule: Environment, image: str, answer: Answer) -> None:
    """The environment before must run this very image, whole, and for long enough.

    Since when is what git can say: ``release.ledger.moves`` says what of it is believed.
    """
    name = rule.after
    if name is None:
        answer.note = "the first environment"
        return
    present = environments.look(site, name)
    runs = present.pointer
    if runs is None or runs.image != image:
        answer.lacks(f"{name} runs {_shown(runs)}, not {image}", f"`lockstep promote {name}` it first")
        return
    environments.intact(site, name, present, answer)
    last = site.ledger.moves(site.tip, name)[0]
    if last.problem:
        answer.lacks(f"{name}: {last.problem}", f"move {name} by `lockstep promote` or `lockstep rollback`")
    since = site.ledger.since(site.tip, name)
    assert since is not None  # it runs something
    ran, asked = datetime.now(UTC) - since, timedelta(hours=rule.soak_hours)
    answer.note = f"{name} runs it since {since:%Y-%m-%d %H:%M} UTC"
    if last.kind == "other":
        answer.note += f", moved there by hand: commit {last.commit[:12]} by {last.by}"
    if ran < asked:
        until = since + asked
        answer.lacks(
            f"{name} runs it for {max(0.0, ran / timedelta(hours=1)):.1f} of {rule.soak_hours:g} hours",
            f"wait until {until:%Y-%m-%d %H:%M} UTC",
        )


def held_back(site: Site, digest: str, model: str | None, answer: Answer) -> None:
    """Neither the image nor the weights, in whatever image, may be in quarantine, by the history of its file.

    Where the file says other than its history nothing moves: somebody took out what no release had freed.
    """
    known = held.read(site)
    for what, todo in held.contradictions(known):
        answer.lacks(what, todo)
    entries = known.entries
    found = quarantine.find(entries, digest, model or "")
    if found is None:
        answer.note = f"{len(entries)} are held back, not this one" if entries else "nothing is held back"
        return
    what = f"the image {digest}" if found.image == digest else f"the model {model}, in another image"
    answer.lacks(
        f"{what}: is in quarantine with {found.name}, by {found.by}: {found.why}",
        f"`lockstep quarantine --release {found.name} --why …` when it may run again",
    )


def based(site: Site, image: ImageReport, answer: Answer) -> None:
    """The image must be made on what the target branch says: its base decides what runs before any weights do."""
    made, wanted = image.base.name if image.base else None, site.serve.base
    if made != wanted:
        answer.lacks(
            f"it is made on {made or 'no base'}; serve.base of {site.target} is {wanted or 'null: none'}",
            f"build on that, or let its owners merge this base to {site.target}",
        )


def in_place(image: ImageReport, place: str, answer: Answer) -> None:
    """The image must be where the signed report says that it was put: a copy elsewhere may go, or be of others."""
    if place != image.place:
        answer.lacks(
            f"it is promoted from {place}, and was built and verified in {image.place}", "promote it from there"
        )


def _shown(pointer: Pointer | None) -> str:
    return f"{pointer.version} ({pointer.image})" if pointer else "nothing"
