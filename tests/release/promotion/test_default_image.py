"""The image that is promoted if none is named: not one that is older than what runs."""

import shutil
from pathlib import Path

import pytest

from checks.formats.serving import ImageReport
from checks.storage import files, layout
from tests import ledger_tree
from tests import promotion_tree as tree
from tests.ledger_tree import git
from tests.promotion_tree import gaps, move

pytestmark = pytest.mark.slow

alone = tree.alone
root = tree.root
trio = tree.trio


def test_a_release_job_that_is_run_again_does_not_put_an_older_model_in_the_place_of_a_newer(
    root: Path, tmp_path: Path
) -> None:
    """A job that is run again has the commit that it had at first; so has one that GitHub starts late."""
    ledger_tree.bare(tmp_path / "origin.git", root)
    tree.next_model(root, 20, compared=True)
    git(root, "push", "--quiet", "origin", "main")
    job = tmp_path / "job"
    shutil.copytree(root, job, symlinks=True)
    tree.next_model(root, 21, compared=True)
    git(root, "push", "--quiet", "origin", "main")
    assert move(root, "staging").done == "moved"
    before = git(tmp_path / "origin.git", "show-ref")
    newer = "staging runs v0.4.0, whose record came to main after what was built here"
    assert newer in gaps(job, "staging")
    assert newer in gaps(job, "staging", dry_run=True)
    assert git(tmp_path / "origin.git", "show-ref") == before
    built = files.read_json(job / layout.IMAGE_REPORT, ImageReport)
    back = move(job, "staging", image=f"{built.place}@{built.image}")
    assert (back.done, back.after and back.after.version) == ("moved", "v0.5.0")
