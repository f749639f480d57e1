"""Describes who moved the ledger's branch first, for the refusal of the second."""

from collections.abc import Sequence

from checks.formats import pointer
from checks.process.errors import EvidenceRefused, Outrun
from checks.process.text import redact
from checks.storage import layout
from release.ledger import trees
from release.ledger.types import Place


def outrun(where: Place, tip: str, now: str | None, environments: Sequence[str]) -> Outrun:
    """Who moved the branch from ``tip`` to ``now``, and which environments to what."""
    todo = "look at `lockstep status`, and run it again if it is still wanted"
    if now is None:
        return Outrun(f"{where.shown}: was taken away meanwhile", todo)
    form = "--format=%an <%ae> committed %h: %s"
    who = redact(
        where.git.line("log", "--max-count=1", "--no-show-signature", form, now, f"^{tip}")
    )
    runs = [_runs(where, name, tip, now) for name in environments]
    happened = "; ".join([who or f"it is at {now[:12]}", *filter(None, runs)])
    return Outrun(f"{where.shown} was moved by somebody else first: {happened}", todo)


def _runs(where: Place, environment: str, tip: str, now: str) -> str:
    """Return what the environment runs now, if it was moved."""
    path = f"{where.prefix}{layout.ENVIRONMENTS}/{environment}/{layout.POINTER}"
    try:
        old, new = (trees.read(where.git, commit, path) for commit in (tip, now))
        if old == new:
            return ""
        running = pointer.parse(new, path) if new is not None else None
    except EvidenceRefused as refused:
        return refused.what
    return f"{environment} runs {f'{running.version} ({running.digest[:19]}…)' if running else 'nothing'} now"
