"""reconcile: git against all its mirrors at once, and mirrors written again from git."""

import json
import os
import shutil
from pathlib import Path

import pytest

from checks.formats import pointer
from checks.process.errors import Drifted, RemoteRefused
from checks.storage import layout
from release.cli import environment_tables
from release.mirrors.types import MirrorFinding
from release.verbs.reconcile import Reconciled, reconcile, refusal
from tests import ledger_tree, mirrors_tree, mlflow_service
from tests.ledger_tree import git, keep
from tests.mirrors_tree import NAME, World, edit, hold, move
from tests.ports import unused_port

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("forking")]

nobodys_configuration, made, world = ledger_tree.nobodys_configuration, mirrors_tree.made, mirrors_tree.world
tables = mlflow_service.tables
PRODUCTION = layout.ENVIRONMENTS / "production"


@pytest.fixture
def database(world: World, tables: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The default store, with its tables."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    path = world.root / layout.STATE / "mlflow.db"
    shutil.copyfile(tables, path)
    return path


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """No cluster of whoever runs the tests plays a part."""
    monkeypatch.setenv("KUBECONFIG", os.devnull)


def told(found: Reconciled) -> set[tuple[str, str, bool]]:
    return {(finding.where, finding.what, finding.fixed) for finding in found.findings}


def test_mirrors_are_fixed_from_git_and_git_stays_as_it_is(world: World, database: Path) -> None:
    found = reconcile(world.root)
    assert told(found) == {("MLflow", f"registered model {NAME}", False)}
    assert found.skipped in (
        ("cluster: kubectl is not installed here",),
        ("cluster: kubectl has no current context",),
    )
    refused = refusal(found)
    assert isinstance(refused, Drifted)
    assert str(refused) == "mirrors of main: 1 drifted from git; `lockstep reconcile --fix`"
    before = ledger_tree.refs(world.root)
    after = reconcile(world.root, fix=True)
    assert told(after) == {("MLflow", f"registered model {NAME}", True)}
    assert refusal(after) is None
    assert refusal(reconcile(world.root)) is None
    assert environment_tables.reconciled(reconcile(world.root)).splitlines()[0] == "git and its mirrors agree"
    assert ledger_tree.refs(world.root) == before
    assert git(world.root, "status", "--porcelain") == ""


def test_a_fresh_clone_has_no_store_and_is_not_told_that_it_drifted(world: World, database: Path) -> None:
    database.unlink()
    found = reconcile(world.root)
    assert found.skipped[0] == f"MLflow: sqlite:///{database} does not exist; --fix creates it"
    assert refusal(found) is None
    assert not database.exists()
    assert told(reconcile(world.root, fix=True)) == {("MLflow", f"registered model {NAME}", True)}
    assert database.exists()


def test_everything_that_was_changed_is_found_in_one_go_and_what_can_be_is_fixed(world: World, database: Path) -> None:
    reconcile(world.root, fix=True)
    client = mlflow_service.client(f"sqlite:///{database}")
    client.set_registered_model_alias(NAME, "champion", client.get_model_version_by_alias(NAME, "staging").version)
    git(world.root, "tag", "-d", f"{NAME}#production#1")
    index = world.root / layout.STATE / "image1" / "index.json"
    entries = json.loads(index.read_text())
    entries["manifests"] = [each for each in entries["manifests"] if each["digest"] == world.old.digest]
    index.write_text(json.dumps(entries))
    edit(world.root, PRODUCTION / "release" / "deployment" / "kustomization.yaml", "[]", "[evil]")
    expected = {
        ("environments", "production: release", False), ("MLflow", "alias champion", False),
        ("tags", f"tag {NAME}#production#1", False), ("registry", "evidence of v0.1.0", False),
    }  # fmt: skip
    found = reconcile(world.root)
    assert told(found) == expected
    assert str(refusal(found)).startswith("mirrors of main: 4 drifted from git; `lockstep reconcile --fix`")
    shown = environment_tables.reconciled(found)
    for word in ("alias champion", "→ --fix: set it", "→ restore it from git's history, or promote again"):
        assert word in shown
    after = reconcile(world.root, fix=True)
    assert {(where, what) for where, what, fixed in told(after) if not fixed} == {
        ("environments", "production: release")
    }
    assert str(refusal(after)) == "mirrors of main: 1 drifted from git; follow the fix beside each"
    assert told(reconcile(world.root)) == {("environments", "production: release", False)}
    assert client.get_model_version_by_alias(NAME, "champion").tags["lockstep.version"] == "v0.1.0"


def test_an_alias_follows_a_rollback(world: World, database: Path) -> None:
    move(world.root, "production", world.releases[1])
    reconcile(world.root, fix=True)
    move(world.root, "production", world.releases[0], "answers in French", "rollback")
    hold(world.root, world.new, "answers in French")
    found = reconcile(world.root, fix=True)
    assert {(each.what, each.git) for each in found.findings} == {
        ("alias production", "v0.1.0"),
        ("alias champion", "v0.1.0"),
    }
    assert all(each.fixed for each in found.findings)


def test_the_image_that_a_rollback_would_go_to_is_looked_for_as_well(world: World, database: Path) -> None:
    move(world.root, "production", world.releases[1])
    reconcile(world.root, fix=True)
    shutil.rmtree(world.root / layout.STATE / "image1" / "blobs")
    (found,) = reconcile(world.root).findings
    assert (found.where, found.what) == ("registry", "image of v0.1.0")
    assert found.git.endswith("a rollback of staging goes to it")
    hold(world.root, world.old, "bad")
    assert reconcile(world.root).findings == (), "nothing goes back to what is held back"


def test_an_environment_that_was_emptied_loses_its_aliases(world: World, database: Path) -> None:
    reconcile(world.root, fix=True)
    git(world.root, "rm", "--quiet", "-r", str(PRODUCTION / layout.POINTER), str(PRODUCTION / "release"))
    keep(world.root, "empty it")
    found = reconcile(world.root, fix=True)
    assert {(each.what, each.git, each.fixed) for each in found.findings} == {
        ("alias production", "nothing runs there", True), ("alias champion", "nothing runs there", True),
        (f"tag {NAME}#production!#2", "a move made it", True),
    }  # fmt: skip


def test_a_pointer_that_cannot_be_read_moves_no_alias(world: World, database: Path) -> None:
    reconcile(world.root, fix=True)
    edit(world.root, PRODUCTION / layout.POINTER, "model: ", "modell: ")
    found = reconcile(world.root, fix=True)
    assert told(found) == {("environments", "production: pointer", False)}
    client = mlflow_service.client(f"sqlite:///{database}")
    assert client.get_model_version_by_alias(NAME, "champion").tags["lockstep.version"] == "v0.1.0"


def test_a_version_whose_evidence_is_gone_from_git_is_compared_by_its_pointer(world: World, database: Path) -> None:
    reconcile(world.root, fix=True)
    its = world.old.model_copy(update={"evidence": ledger_tree.sha("lost")})
    (world.root / PRODUCTION / layout.POINTER).write_bytes(pointer.write(its))
    keep(world.root, "by hand")
    found = reconcile(world.root, fix=True)
    assert ("environments", "production: evidence", False) in told(found)
    assert any(each.where == "MLflow" and each.fixed and "lockstep.evidence" in each.git for each in found.findings)


def test_what_cannot_be_asked_is_no_agreement(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://ada:hunter2@127.0.0.1:{unused_port()}")
    shutil.rmtree(world.root / layout.STATE / "image1")
    found = reconcile(world.root, fix=True)
    assert [(each.where, each.severity) for each in found.findings] == [
        ("MLflow", "unreachable"), ("registry", "unreachable"),
    ]  # fmt: skip
    assert str(refusal(found)) == "mirrors of main: 2 could not be reached; follow the fix beside each"
    assert "hunter2" not in found.model_dump_json()


def test_nothing_released_agrees_with_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    root = mirrors_tree.make(tmp_path / "root")
    assert reconcile(root, fix=True).findings == ()
    assert not (root / layout.STATE / "mlflow.db").exists()


def test_without_git_there_is_nothing_to_compare_with(world: World) -> None:
    git(world.root, "remote", "add", "origin", os.devnull)
    with pytest.raises(RemoteRefused, match="main of origin"):
        reconcile(world.root, fix=True)


def test_a_quarantine_that_says_other_than_its_history_is_drift(world: World) -> None:
    hold(world.root, world.new, "bad")
    git(world.root, "rm", "--quiet", str(layout.QUARANTINE))
    keep(world.root, "by hand")
    (found,) = [finding for finding in reconcile(world.root).findings if finding.what == "quarantine"]
    assert (found.where, found.severity, found.fix) == ("environments", "drift", "")
    assert "is still in quarantine (bad), but missing from the file: commit" in found.mirror


def test_the_answer_is_plain_json(world: World, database: Path) -> None:
    found = reconcile(world.root)
    assert Reconciled.model_validate_json(found.model_dump_json()) == found
    assert all(isinstance(each, MirrorFinding) for each in found.findings)
