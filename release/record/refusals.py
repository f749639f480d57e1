"""Which refusal the report speaks of: that of a command about this very commit and params.yaml."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from checks import refused
from checks.errors import Refusal
from checks.refused import Refused
from release.adapters import commits
from release.adapters.dvc import StageRefused


@contextmanager
def recorded(root: Path, verb: str) -> Iterator[None]:
    """Leave word of what refuses in the block, as ``checks.refused`` has it; take it away when the block ends well.

    Only ``verb``'s own is taken away: an estimate that passes does not undo a training that refused.
    """
    commit, params = _commit(root), refused.params(root)  # of before: both may move while it works
    try:
        yield
    except StageRefused as refusal:
        refused.write(root, refusal.word.model_copy(update={"commit": commit}))
        raise
    except Refusal as refusal:
        refused.write(root, refused.of(verb, refusal, params, commit))
        raise
    if (last := refused.read(root)) and last.stage == verb:
        refused.forget(root)


def current(root: Path, commit: str | None) -> Refused | None:
    """The last refusal, if it is about ``commit`` and params.yaml as it is now."""
    last = refused.read(root)
    return last if last and (last.commit, last.params) == (commit, refused.params(root)) else None


def _commit(root: Path) -> str | None:
    return commits.resolve(root, "HEAD") if commits.has_repository(root) else None
