"""Attacks on adapters that share a server, moved by one commit or as a canary: no check is left out."""

from pathlib import Path

import pytest

from checks.process.errors import PromotionRefused
from checks.storage import layout
from release.verbs import render
from release.verbs.promote import promote_together
from release.verbs.rollback import rollback, rollback_together
from tests import promotion_tree as tree
from tests.adapters_tree import STAGING, Begin, released
from tests.conftest import dumped
from tests.ledger_tree import git, keep
from tests.promotion_tree import gaps, move
from tests.release.promotion.test_promote_together import runs

pytestmark = pytest.mark.slow

alone = tree.alone


def test_what_is_back_already_is_not_rolled_back_again(begin: Begin) -> None:
    top = begin("router and writer released")
    old = runs(top)
    promote_together(top / "support", "staging", why="both")
    for name in ("router", "writer"):
        rollback(top / name, "staging", why="worse")
    assert runs(top) == old
    start = git(top, "rev-parse", "HEAD")
    done = rollback_together(top / "support", "staging", why="worse")
    assert {name: move.done for name, move in done.moves.items()} == {"router": "already", "writer": "already"}
    assert git(top, "rev-parse", "HEAD") == start


def test_a_release_that_a_hand_put_there_is_not_brought_back(begin: Begin, place: str) -> None:
    """No check let it pass. A rollback of one adapter asks for its name, so one of several does not bring it back."""
    top = begin("router and writer released")
    router = top / "router"
    keep(top, "what building left")
    start = git(top, "rev-parse", "HEAD")
    move(router, "staging")
    made = git(top, "rev-parse", "HEAD")
    git(top, "reset", "--quiet", "--hard", start)
    git(top, "tag", "--delete", *git(top, "tag", "--points-at", made).splitlines())
    git(top, "checkout", "--quiet", made, "--", f"router/{STAGING}")
    keep(top, "by hand")
    released(router, place, 33)
    promote_together(top / "support", "staging", why="both")
    before = runs(top)
    with pytest.raises(PromotionRefused, match=r"router: v0\.2\.0 was moved to staging by hand"):
        rollback_together(top / "support", "staging", why="worse")
    assert runs(top) == before


def test_no_file_of_another_environment_hides_a_move_from_the_checks_of_its_server(top: Path, place: str) -> None:
    """A canary has a name of its own, and its server is that of another environment."""
    router, support = top / "router", top / "support"
    (router / STAGING / "environment.yaml").write_text(dumped({"variant": "adapter", "canary": "staging"}))
    render.render(router, "staging")
    tree.rewrite(router, layout.PARAMS, lambda plain: plain["serve"].update(name="writer"))
    released(router, place, 8)
    assert "staging: is the canary of staging, but support runs it as an adapter too" in gaps(router, "staging")

    other = support / layout.ENVIRONMENTS / "other" / "environment.yaml"
    other.parent.mkdir()
    other.write_text(dumped({"variant": "adapter", "canary": "staging"}))
    released(support, place, 9, base=2)
    assert "writer v0.1.0: its base is sha256" in gaps(support, "staging")
