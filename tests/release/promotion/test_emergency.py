"""Exceptions: two people let a release run for some hours although a gate does not pass, and nobody else can."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from checks.config import params_file
from checks.formats.statement import PAYLOAD, Excepted
from checks.process.errors import PromotionRefused, Refusal, VerdictFailed
from checks.storage import digest, layout
from release.evidence import dsse, keys, statement
from release.promotion import context, emergency
from release.promotion.environment import emergency_folder
from release.verbs import admission, history, reconcile, status
from release.verbs.build import BuildOptions, build
from release.verbs.rollback import rollback
from tests import build_tree, evidence_tree, ledger_tree
from tests import promotion_tree as tree
from tests.ledger_tree import git, keep
from tests.once import once
from tests.promotion_tree import Release, gaps, move
from tests.release.serving.test_verify_evidence import probed

pytestmark = pytest.mark.slow

alone = tree.alone
WHY = "the old release leaks a customer's name"
POLICY = {"gates": ["routes_well"], "hours": 72}
_PAIRED = ("improves", "non_inferior", "slice", "remembers")


class Night(NamedTuple):
    """A clone with a bare remote: v0.1.0 passes and runs everywhere; ``worse`` is signed and fails one gate."""

    root: Path
    worse: Release


def _edit(plain: dict[str, Any]) -> None:
    for name in ("staging", "production"):
        plain["promote"]["environments"][name]["emergency"] = dict(POLICY)
    plain["gates"] = {name: gate for name, gate in plain["gates"].items() if gate["kind"] not in _PAIRED}
    plain["gates"]["routes_well"] |= {"at_least": 0.6}


def worse(root: Path, right: int = 20) -> None:
    """Commit a model that answers ``right`` of 40 rows rightly."""
    build_tree.weigh(root, build_tree.shards(seed=50 + right))
    params = params_file.load(root / layout.PARAMS)
    rows = evidence_tree.rows("test", 40)
    evidence_tree.evaluated(root, params, [evidence_tree.predict(row, i < right) for i, row in enumerate(rows)])
    evidence_tree.judged(root, params)
    probed(root, params)
    keep(root, f"{right} of 40 are right")


def _make(folder: Path) -> None:
    root = folder / "work"
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        tree.leave_alone(patch)
        tree.make(root, _edit)
        move(root, "staging")
        move(root, "production")
        worse(root)
        tree.release(root)
    ledger_tree.packed(root)
    ledger_tree.bare(folder / "origin.git", root)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return once(tmp_path_factory, "night", _make)


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    return tree.copy(made, tmp_path / "night") / "work"


def ask(root: Path, by: str, environment: str = "staging", why: str | None = WHY, **options: Any) -> Any:
    return move(root, environment, emergency=True, key=tree.key(root, by), why=why, **options)


def refused(root: Path, by: str, environment: str = "staging", why: str | None = WHY, **options: Any) -> str:
    return gaps(root, environment, emergency=True, key=tree.key(root, by), why=why, **options)


def signed(root: Path, environment: str = "staging") -> None:
    """Let ada and bob move the environment."""
    assert "has 1 of 2 signatures" in refused(root, "ada", environment)
    assert ask(root, "bob", environment, why=None).done == "moved"


def later(monkeypatch: pytest.MonkeyPatch, hours: float) -> None:
    class Clock(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override] # of the class that it replaces
            return datetime.now(tz) + timedelta(hours=hours)

    monkeypatch.setattr(emergency, "datetime", Clock)


def pull(root: Path) -> None:
    git(root, "pull", "--quiet", "--no-rebase", "--no-edit", "origin", "main")


def push(root: Path) -> None:
    pull(root)
    git(root, "push", "--quiet", "origin", "main")


def change(root: Path, edit: tree.Edit) -> None:
    pull(root)
    tree.rewrite(root, layout.PARAMS, edit)
    push(root)


def place(root: Path) -> Any:
    return context.find(root)


def test_two_people_move_a_release_whose_gate_does_not_pass_and_everybody_is_told(root: Path) -> None:
    with pytest.raises(Refusal) as plain:
        move(root, "staging")
    assert "verdict fail: routes_well" in str(plain.value)
    before = git(root, "rev-parse", "origin/main")
    lines = refused(root, "ada")
    assert "no exception holds: the exception of ada has 1 of 2 signatures" in lines
    assert "lockstep promote staging --emergency --key FILE" in lines
    there = place(root)
    assert there.runs("staging").version == "v0.1.0"
    assert git(root, "rev-list", "--count", f"{before}..{there.tip}") == "1"
    done = ask(root, "bob", why=None)
    assert (done.done, done.after.version) == ("moved", "v0.2.0")
    (last, *_) = history.history(root, "staging").environments["staging"]
    assert last.kind == "promote"
    assert last.why.startswith("EMERGENCY until 2")
    assert last.why.endswith(f"routes_well not passed, signed by ada, bob: {WHY}")
    seen = status.status(root)
    state = seen.environments[0]
    assert state.exemption is not None
    assert (state.exemption.gates, state.exemption.signers) == (("routes_well",), ("ada", "bob"))
    assert state.exemption.expires - state.exemption.issued == timedelta(hours=72)
    assert (state.advice.mark, state.advice.headline) == ("🚫", "v0.2.0 runs on an exception")
    assert status.refusal(seen) is None
    assert seen.environments[1].exemption is None
