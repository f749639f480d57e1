"""Finds the context of a move: rules and signers of the target branch, and the ledger with the environments.

The work tree and the pull request are never read: whoever proposes a release chooses neither who may sign it nor what
an environment requires. Only the sections of params.yaml that decide a move are read, so that a mistake elsewhere
cannot stop a rollback.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel

from checks.config.release_params import Promote, Serve
from checks.process.errors import EvidenceRefused, Outrun
from checks.process.text import redact
from checks.storage import layout
from release.adapters import commits
from release.adapters.git import Git
from release.evidence import freshness, trust
from release.ledger import DEADLINE, Ledger
from release.ledger.write import identity
from release.promotion.checklist import PromotionContext
from release.record import running_code
from release.record.records import Records

T = TypeVar("T")
_REFS = "--format=%(refname) %(symref)"
_TRIES = 5


class _Rules(BaseModel):
    promote: Promote
    serve: Serve


def find(
    root: Path, target: str | None = None, *, stale: bool = False, unsigned: bool = False
) -> PromotionContext:
    """The context of the clone in ``root``. ``target`` is the branch; default: ``commits.target``.

    Fetches the tip from the remote. ``stale``: ask for no checkpoint. ``unsigned``: for a command that only lists;
    where no file of signers exists, no signature and no checkpoint counts. Raises EvidenceRefused if there is no such
    branch, nobody may sign or the clone is shallow, ParamsRefused if the rules cannot be read, RemoteRefused if the
    remote fails or a checkpoint contradicts it (``freshness.check``), MachineRefused if git fails.
    """
    seen = commits.target(root, target)
    if commits.is_shallow(root):
        raise EvidenceRefused(
            "the clone is shallow: records and moves may be missing",
            "git fetch --unshallow (in GitHub Actions: fetch-depth: 0)",
        )
    if seen[1] is None:
        raise EvidenceRefused(
            f"{root.resolve()}: git has no commit that holds the rules", f"commit {layout.PARAMS}"
        )
    branch = _branch(root, seen[0])
    records = Records(root)
    known = rules_of(records, seen[1], branch).promote
    home = Ledger.open(root, known.model_copy(update={"repository": None, "branch": branch}))
    trunk = home.tip()
    rules = rules_of(records, trunk, branch)
    here = rules.promote.repository is None and rules.promote.branch == branch
    same = here and rules.promote.environments == known.environments
    ledger = home if same else Ledger.open(root, rules.promote)
    tip = trunk if here else ledger.tip()
    try:
        signers = trust.known(root, trunk, branch)
    except trust.NoSigners:
        if not unsigned:
            raise
        signers, stale = (), True
    if not stale:
        freshness.check(ledger, tip, rules.promote, signers)
    return PromotionContext(
        records, branch, trunk, rules.promote, rules.serve, signers, ledger, tip
    )


def deciding(
    root: Path, target: str | None = None, *, stale: bool = False, earlier: bool = False
) -> PromotionContext:
    """As ``find``, for a command that decides or writes what production trusts.

    Raises EvidenceRefused, too, if HEAD has another pin or other code than the target branch (``earlier``: than it has
    or had, see ``running_code.check_target``).
    """
    context = find(root, target, stale=stale)
    running_code.check_target(root, context.target, context.trunk, earlier=earlier)
    return context


def decided(
    find: Callable[[], PromotionContext], decide: Callable[[PromotionContext], T]
) -> tuple[PromotionContext, T]:
    """Return the context that ``find`` returns, and what was decided and written in it.

    While checks run, which can take minutes, other people merge. If nothing of an environment changed by that, all is
    decided anew on what the branch has now. Raises as ``find`` and ``decide``, Outrun also if that happens too often.
    """
    for _ in range(_TRIES - 1):
        promotion_context = find()
        try:
            return promotion_context, decide(promotion_context)
        except Outrun:
            if not promotion_context.ledger.only_merged_since(promotion_context.tip):
                raise
    promotion_context = find()
    return promotion_context, decide(promotion_context)


def check_signing(root: Path, target: str | None = None) -> None:
    """Check, before a signature, that the code that runs is committed, and that the target branch has it or had it.

    This clone's knowledge of the branch counts. Raises EvidenceRefused as ``running_code.check`` and as
    ``running_code.check_target``.
    """
    running_code.check(root, committed=True)
    name, commit = commits.target(root, target)
    if commit is not None and commit != commits.resolve(root, "HEAD"):
        running_code.check_target(root, _branch(root, name), commit, earlier=True)


def whoami(root: Path) -> str:
    """The name and address that git commits with. Raises PromotionRefused if git has none."""
    author = identity(Git(root, DEADLINE), "GIT_AUTHOR_IDENT").decode(errors="replace")
    return redact(author.rpartition(">")[0] + ">", 200)


def subject(root: Path, commit: str) -> str:
    """The first line of a commit's message."""
    git = Git(root, DEADLINE)
    return redact(git.line("show", "--no-patch", "--no-show-signature", "--format=%s", commit), 200)


def _branch(root: Path, name: str) -> str:
    """The branch that a name stands for; origin/HEAD is resolved to the branch that it points to."""
    git = Git(root, DEADLINE)
    if name == "HEAD":
        name = git.found("symbolic-ref", "--quiet", name) or name
    for ref in (
        (name,) if name.startswith("refs/") else (f"refs/remotes/{name}", f"refs/heads/{name}")
    ):
        # for-each-ref takes the full name; rev-parse might pick a local branch that is called refs/remotes/main.
        links = dict(
            line.split(" ") for line in git.line("for-each-ref", _REFS, ref).split("\n") if line
        )
        full = links[ref] or ref if ref in links else ""
        if full.startswith("refs/heads/"):
            return full.removeprefix("refs/heads/")
        if full.startswith("refs/remotes/"):
            remotes = git.line("remote").split("\n")
            short = full.removeprefix("refs/remotes/")
            remote = max(
                (one for one in remotes if short.startswith(f"{one}/")), key=len, default=""
            )
            if remote:
                return short.removeprefix(f"{remote}/")
    raise EvidenceRefused(
        f"{redact(name, 100)}: is not a branch", "name the target branch, such as main"
    )


def rules_of(records: Records, commit: str, branch: str) -> _Rules:
    """The rules in a commit, which refusals call ``branch``. Raises ParamsRefused if they cannot be read."""
    return records.at(commit).sections(
        _Rules, f"{branch}:{layout.PARAMS}", "fix it on the target branch"
    )
