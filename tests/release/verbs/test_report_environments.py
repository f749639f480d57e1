"""What the comment says of environments: weights in quarantine, what runs unverified, a repository that is gone."""

from pathlib import Path

import pytest

from checks.storage import layout
from release.record import references
from release.verbs.report import report
from tests import report_tree
from tests.pipeline_repository import git, write_params
from tests.release.verbs.test_report import FOR, _passing, _recorded

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("by_hand", [False, True], ids=["in the file", "deleted from the file by hand"])
def test_weights_in_quarantine_are_so_first_and_nobody_is_told_to_merge(tmp_path: Path, by_hand: bool) -> None:
    _passing(tmp_path)
    delete = report_tree.hold_back(tmp_path, "answers *French*")
    if by_hand:
        delete()
    found = report(tmp_path, **FOR)
    assert found.markdown.startswith("### 🚫 Quarantined: `answers *French*`\n\n`v1.1.0` had these weights")
    assert "`./lockstep quarantine --release v1.1.0 --why TEXT`" in found.markdown
    assert "merge it" not in found.markdown
    assert "✅" not in found.markdown.partition("<details>")[0]
    assert (found.passes, found.title) == (False, "🚫 Quarantined: answers *French*")


def test_a_record_that_cannot_be_judged_here_is_quarantined_first_too(tmp_path: Path) -> None:
    _recorded(tmp_path)
    report_tree.hold_back(tmp_path, "answers in French")
    assert report(tmp_path, **FOR).title == "🚫 Quarantined: answers in French"


def test_a_quarantine_that_cannot_be_read_lets_nothing_pass(tmp_path: Path) -> None:
    _passing(tmp_path)
    git(tmp_path, "switch", "--quiet", "main")
    (tmp_path / layout.QUARANTINE).write_text("x: 1\n")
    report_tree.commit(tmp_path, "by hand")
    git(tmp_path, "switch", "--quiet", "-")
    found = report(tmp_path, **FOR)
    assert (found.passes, found.state) == (False, "not-held")
    assert "quarantine.yaml" in found.markdown.partition("\n")[0]


@pytest.mark.parametrize(("verified", "says"), [("process", "as a process"), ("container", "in another container")])
def test_a_release_that_runs_and_was_verified_otherwise_is_named(tmp_path: Path, verified: str, says: str) -> None:
    _passing(tmp_path)
    assert "not as it serves" not in report(tmp_path, **FOR).markdown
    git(tmp_path, "switch", "--quiet", "main")
    path = tmp_path / references.PRODUCTION
    path.write_bytes(path.read_bytes() + f"verified: {verified}\n".encode())
    report_tree.commit(tmp_path, "as a promotion writes it")
    git(tmp_path, "switch", "--quiet", "-")
    found = report(tmp_path, **FOR)
    assert found.passes
    said = f"`production` runs `v0.1.0`, which was verified {says}, not as it serves there."
    assert said in found.markdown


def test_environments_that_cannot_be_asked_make_the_verdict_void_and_still_a_comment(tmp_path: Path) -> None:
    _passing(tmp_path)
    git(tmp_path, "switch", "--quiet", "main")
    value = report_tree.document()
    value["promote"] |= {"repository": str(tmp_path / "nowhere.git")}
    write_params(tmp_path, value)
    report_tree.commit(tmp_path, "environments elsewhere")
    git(tmp_path, "switch", "--quiet", "-")
    found = report(tmp_path, **FOR)
    assert (found.state, found.passes) == ("not-held", False)
    assert "nowhere.git" in found.markdown
