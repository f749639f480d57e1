"""Ways around a promotion that somebody found: each is shut, and stays so."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from checks import layout
from checks.errors import PromotionRefused
from release.ledger import disagreements
from release.promotion import site
from release.rollback import Options, RolledBack, rollback
from tests import promotion_tree as tree
from tests.ledger_tree import git, keep
from tests.promotion_tree import Release, move

alone = tree.alone
PRODUCTION, STAGING = (layout.ENVIRONMENTS / name for name in ("production", "staging"))


@pytest.fixture(scope="module")
def moved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[Release, Release, Release]]:
    """Three releases went to staging, the first two to production as well. Read-only by custom."""
    root = tmp_path_factory.mktemp("moved") / "work"
    releases = []
    for number in range(3):
        releases.append(tree.next_model(root, 20 + number) if number else tree.make(root))
        move(root, "staging")
        if number < 2:
            move(root, "production")
    return root, (releases[0], releases[1], releases[2])


@pytest.fixture
def root(moved: tuple[Path, Any], tmp_path: Path) -> Path:
    return tree.copy(moved[0], tmp_path / "work")


@pytest.fixture
def releases(moved: tuple[Path, tuple[Release, Release, Release]]) -> tuple[Release, Release, Release]:
    return moved[1]


def back(root: Path, **options: Any) -> RolledBack:
    return rollback(root, "production", Options(why="answers in French", **options))


def as_staging(root: Path) -> None:
    """Production's pointer and evidence are those of staging, by hand."""
    for name in (layout.POINTER, layout.EVIDENCE):
        shutil.copy(root / STAGING / name, root / PRODUCTION / name)
    keep(root, "tidy up")


def taken_back(root: Path) -> None:
    """Merge a proposal that has made what ``root`` has now, and takes it back: it shows no difference."""
    made = git(root, "rev-parse", "HEAD")
    git(root, "checkout", "--quiet", "-b", "proposal")
    git(root, "branch", "--force", "main", f"{made}~1")
    git(root, "revert", "--no-edit", "HEAD")
    assert git(root, "diff", "main", "proposal") == ""
    (root / "notes.md").write_text("more\n")
    keep(root, "notes")
    git(root, "checkout", "--quiet", "main")
    git(root, "merge", "--quiet", "--no-ff", "-m", "a merge", "proposal")


# A side branch moves nothing


def test_what_a_proposal_made_and_took_back_is_not_rolled_back_to(root: Path, releases: tuple[Release, ...]) -> None:
    as_staging(root)
    taken_back(root)
    with pytest.raises(PromotionRefused, match=r"v0\.3\.0: never ran in production"):
        back(root, to="v0.3.0")
    assert back(root).after.image == releases[0].image


def test_a_proposal_that_takes_back_what_it_made_does_not_hide_a_rollback(root: Path) -> None:
    done = back(root)
    as_staging(root)
    taken_back(root)
    assert back(root).done == "already"
    where = site.find(root)
    assert where.ledger.pointer(where.tip, "production") == done.after


def test_what_a_hand_moved_is_rolled_back_to_by_name_alone(root: Path, releases: tuple[Release, ...]) -> None:
    before = (root / PRODUCTION / layout.POINTER).read_bytes()
    as_staging(root)
    git(root, "revert", "--no-edit", "HEAD")
    assert (root / PRODUCTION / layout.POINTER).read_bytes() == before
    assert back(root, dry_run=True).after.image == releases[0].image
    assert back(root, dry_run=True, to="v0.3.0").after.image == releases[2].image


def test_a_version_of_a_side_branch_is_nobodys(root: Path) -> None:
    """The largest of all would leave none for the next promotion; and it gets no tag."""
    path = root / PRODUCTION / layout.POINTER
    path.write_text(path.read_text().replace("v0.2.0", "v0.999999999.0"))
    keep(root, "a version")
    taken_back(root)
    where = site.find(root)
    assert "v0.999999999.0" not in "".join(tag.name for tag in where.lacking_tags())
    assert disagreements(where.name, where.ledger.tags(), where.moves()) == [
        "tag azure-cli-router#production#4: is missing"
    ]
    tree.next_model(root, 30)
    done = move(root, "staging").after
    assert done is not None
    assert done.version == "v0.4.0"
