"""Records the refusal of a command, so that the report can quote it if it is about this commit and params.yaml."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from checks.formats import refused
from checks.process.errors import Refusal
from release.adapters import commits
from release.adapters.dvc import StageRefused


@contextmanager
def recorded(root: Path, verb: str) -> Iterator[None]:
    """Record a refusal of the block (``checks.formats.refused``), and delete the record if the block succeeds.

    Only a record of the same ``verb`` is deleted: an estimate that passes does not hide a training that refused.
    """
    # Read before the work, because both may change meanwhile.
    commit = commits.resolve(root, "HEAD") if commits.has_repository(root) else None
    params = refused.params(root)
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


def current(root: Path, commit: str | None) -> refused.Refused | None:
    """The last refusal, if it is about ``commit`` and the current params.yaml."""
    last = refused.read(root)
    return last if last and (last.commit, last.params) == (commit, refused.params(root)) else None
