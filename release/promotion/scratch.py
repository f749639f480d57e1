"""A scratch clone of the ledger, with a remote of its own, for drills: no move there reaches anybody."""

from pathlib import Path

from checks.formats.pointer import Pointer
from checks.process.errors import EvidenceRefused
from checks.records.record import Digest
from checks.storage import digest
from release.adapters import commits
from release.adapters.git import Git
from release.evidence.attached_statements import Released
from release.image import weights
from release.ledger import DEADLINE, Ledger
from release.promotion import environment, move_commit
from release.promotion.checklist import PromotionContext

# Folders of the scratch folder.
REMOTE = "remote.git"
WORK = "clone"
_IDENTITY = (
    "user.name",
    "user.email",
    "user.signingKey",
    "commit.gpgSign",
    "gpg.format",
    "gpg.program",
    "gpg.ssh.program",
)


def clone(context: PromotionContext, folder: Path) -> PromotionContext:
    """The same context on a clone and a bare remote in ``folder``, both at the current tip.

    Commits there are by the same person, and signed if they are here.
    """
    git, branch = Git(context.root, DEADLINE), context.promote.branch
    source = git.line("rev-parse", "--path-format=absolute", "--git-common-dir")
    remote, work = folder / REMOTE, folder / WORK
    here = Git(folder, DEADLINE)
    here.line("clone", "--quiet", "--bare", "--shared", "--no-tags", "--", source, str(remote))
    Git(remote, DEADLINE).line("update-ref", f"refs/heads/{branch}", context.tip)
    here.line(
        "clone", "--quiet", "--shared", "--no-tags", "--no-checkout", "--", str(remote), str(work)
    )
    for key in _IDENTITY:
        if value := git.config(key):
            Git(work, DEADLINE).line("config", key, value)
    # The remote of a rehearsal asks for no signed push.
    Git(work, DEADLINE).line("config", "push.gpgSign", "false")
    inside = commits.prefix(context.root)
    (work / inside).mkdir(parents=True, exist_ok=True)
    ledger = Ledger.open(work / inside, context.promote.model_copy(update={"repository": None}))
    nobody = {
        key: rule.model_copy(update={"approvals": 0})
        for key, rule in context.promote.environments.items()
    }
    # A rehearsal asks nobody for a signature.
    asking = context.promote.model_copy(update={"environments": nobody})
    return context._replace(promote=asking, ledger=ledger, tip=ledger.tip())


def promoted(
    there: PromotionContext, name: str, before: Pointer, worse: Digest, why: str
) -> PromotionContext:
    """The scratch clone after a move to a model that no check let pass: no image has it, and nobody signed it.

    What ``promote`` writes for a cluster is rendered from the statement that runs, with other digests.
    """
    present = environment.look(there, name)
    stated = environment.stated(present, name)
    built = stated.predicate.image.model_copy(update={
        "model": worse, "image": digest.of_bytes(f"a drill's image of {worse}".encode()),
        "path": weights.place(there.records.at(before.commit).serve.name, worse),
    })  # fmt: skip
    stated = stated.model_copy(
        update={"predicate": stated.predicate.model_copy(update={"image": built})}
    )
    unsigned = b'{"drill": "nobody signed this"}\n'
    released = Released(unsigned, digest.of_bytes(unsigned), "nobody", b"", stated)
    place = before.image.rpartition("@")[0]
    after = move_commit.point(there, f"{place}@{built.image}", released, None, "minor")
    there.ledger.commit(
        there.tip, move_commit.move(there, name, "promote", present, after, released, why)
    )
    return arrived(there, name, after)


def arrived(there: PromotionContext, name: str, wanted: Pointer | None) -> PromotionContext:
    """The context after a move; checks that the scratch remote has the move."""
    tip = there.ledger.tip()
    if (pointer := there.ledger.pointer(tip, name)) != wanted:
        shown = pointer.version if pointer else "nothing"
        raise EvidenceRefused(
            f"the drill: {name} runs {shown} after a move to {wanted.version if wanted else 'nothing'}",
            "report this as a bug",
        )
    return there._replace(tip=tip)
