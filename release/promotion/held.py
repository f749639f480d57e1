"""What is in quarantine by the rules of the target branch: which releases from it count.

A release is a commit of Lockstep's own form. Where an environment asks for approvals it must also be signed by one who
may approve: else whoever may push could run again what was found bad, without any of the people who are asked about
what is new.
"""

from contextlib import suppress
from pathlib import Path

from checks import layout
from checks.errors import EvidenceRefused, MachineRefused
from checks.quarantine import Entry
from checks.release_params import Promote
from checks.signers import Signers
from release.ledger import Counts, Held, Ledger, Release
from release.promotion.context import PromotionContext


def read(context: PromotionContext) -> Held:
    """What is held back as of the tip."""
    return context.ledger.quarantine(context.tip, counts(context.promote, context.signers))


def here(root: Path, ledger: Ledger, tip: str, promote: Promote) -> Held:
    """The same, by the rules in the work tree and the signers of the target branch as git here has it.

    For verbs that look and decide nothing.
    """
    from release.evidence import trust

    signers: Signers = ()
    if asking(promote):
        with suppress(EvidenceRefused):  # nobody may sign: no release counts
            signers = trust.known(root)
    return ledger.quarantine(tip, counts(promote, signers))


def asking(promote: Promote) -> str | None:
    """The first environment that asks for approvals; None when none does."""
    return next((name for name, rule in promote.environments.items() if rule.approvals), None)


def counts(promote: Promote, signers: Signers) -> Counts:
    """Says why a release does not count."""
    name = asking(promote)

    def why_not(release: Release) -> str:
        if name is None:
            return ""
        if release.signed is None:
            return f"nobody signed it, and {name} asks for approvals"
        from release.evidence import statement, trust

        where = f"the release in commit {release.commit[:12]}"
        try:
            found = trust.verify(release.signed, signers, "approve", where, offline=True)
            images = [entry.image for entry in release.entries]
            statement.parse_free(found.payload, images, release.parent, where)
        except (EvidenceRefused, MachineRefused) as refused:
            return refused.what
        return ""

    return why_not


def contradictions(held: Held) -> list[tuple[str, str]]:
    """Where the file says other than its history: what is wrong, and what is to be done about it."""
    if held.unreadable:
        return [(held.unreadable.what, held.unreadable.todo)]
    return [
        (f"{layout.QUARANTINE}: {entry.shown} is still held back ({entry.why}), and not there: {became}", todo(entry))
        for entry, became in held.gone
    ]


def todo(entry: Entry) -> str:
    """What to do about an entry that is gone."""
    return (
        f"restore it: `lockstep quarantine {entry.name} --why …`; "
        f"or free it: `lockstep quarantine --release {entry.name} --why …`"
    )
