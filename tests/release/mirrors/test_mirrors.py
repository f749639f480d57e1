"""Mirrors outside git: images and evidence in a real registry and in folders, tags, and MLflow told at once."""

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from checks.formats import pointer
from checks.formats.pointer import Pointer
from checks.storage import digest, layout
from release.adapters import retries
from release.ledger import Ledger, released_pointers
from release.mirrors import mlmodel, registry, tags, update
from release.mirrors.registry import Image
from release.mirrors.types import MirrorFinding
from tests import ledger_tree, mirrors_tree, mlflow_service, registry_service
from tests.ledger_tree import git, keep
from tests.mirrors_tree import NAME, World
from tests.mlflow_service import Fault
from tests.ports import unused_port
from tests.registry_service import Registry

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("forking")]

nobodys_configuration, made, world = ledger_tree.nobodys_configuration, mirrors_tree.made, mirrors_tree.world
tables = mlflow_service.tables
ENVIRONMENTS = ("staging", "production")


def ledger_of(root: Path) -> tuple[Ledger, str]:
    ledger = Ledger.open(root, mirrors_tree.load(root).promote)
    return ledger, ledger.tip()


def shown(found: list[MirrorFinding]) -> list[tuple[str, str, bool]]:
    return [(finding.what, finding.severity, finding.fixed) for finding in found]


# Images in a registry


@pytest.fixture(scope="module")
def pushed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Registry, World]]:
    """A registry with two releases."""
    folder = tmp_path_factory.mktemp("pushed")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ledger_tree.CLEAN.items():
            patch.setenv(name, value)
        with registry_service.registry(folder / "registry") as service:
            yield service, mirrors_tree.running(mirrors_tree.make(folder / "root"), f"{service.host}/team/router")


@pytest.fixture
def served(pushed: tuple[Registry, World], tmp_path: Path) -> Iterator[tuple[Registry, World]]:
    """As it was, whatever a test did to it."""
    service, world = pushed
    shutil.copytree(service.folder / "data", tmp_path / "data")
    yield service, world._replace(root=shutil.copytree(world.root, tmp_path / "root"))
    shutil.rmtree(service.folder / "data")
    shutil.copytree(tmp_path / "data", service.folder / "data")


def image(world: World, its: Pointer) -> Image:
    found = released_pointers.releases(*ledger_of(world.root), ENVIRONMENTS)
    return Image(its, found[its.image][1], "staging runs it")


def check(world: World, its: Pointer, *, fix: bool = False) -> list[MirrorFinding]:
    return registry.check(world.root, [image(world, its)], fix)


def blob(service: Registry, name: str) -> Path:
    return next(path for path in service.blobs if path.parent.name == name.removeprefix("sha256:"))


def manifest(service: Registry, its: Pointer) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(blob(service, its.digest).read_bytes())
    return found


def unlink(service: Registry, name: str, kind: str = "_layers") -> None:
    """Take a blob or a manifest out of the repository, as an administrator does."""
    for path in service.folder.glob(f"data/**/{kind}/**/{name.removeprefix('sha256:')}"):
        shutil.rmtree(path)


def retag(service: Registry, its: Pointer) -> None:
    subprocess.run(
        ["skopeo", "copy", "--quiet", "--insecure-policy", "--src-tls-verify=false", "--dest-tls-verify=false",
         f"docker://{its.image}", f"docker://{service.host}/team/router:v0.1.0"], check=True,
    )  # fmt: skip


Tamper = Callable[[Registry, Pointer], object]
GONE: dict[str, tuple[Tamper, str]] = {
    "the manifest": (lambda s, its: unlink(s, its.digest, "revisions"), "404"),
    "the config": (lambda s, its: unlink(s, manifest(s, its)["config"]["digest"]), "its config sha256:"),
    "a layer": (lambda s, its: unlink(s, manifest(s, its)["layers"][1]["digest"]), "layer 2 sha256:"),
    "the manifest's bytes": (lambda s, its: blob(s, its.digest).write_bytes(b"{}"), "500"),
    "the repository": (lambda s, _: shutil.rmtree(s.folder / "data" / "docker" / "registry" / "v2" / "repositories"), "404"),
}  # fmt: skip


@pytest.mark.parametrize("name", GONE)
def test_an_image_that_is_not_there_whole_is_drift_that_git_cannot_fix(
    served: tuple[Registry, World], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    service, world = served
    waits: list[float] = []
    monkeypatch.setattr(retries, "time", SimpleNamespace(sleep=waits.append))
    assert check(world, world.new) == []
    tamper, words = GONE[name]
    tamper(service, world.new)
    (found,) = check(world, world.new, fix=True)
    assert (found.what, found.severity, found.fix, found.fixed) == ("image of v0.2.0", "drift", "", False)
    assert words in found.mirror
    # Asked for bytes that are not the digest's, this registry fails, and may do better at another try.
    assert bool(waits) == (name == "the manifest's bytes")
    assert found.git == f"{world.new.image}: staging runs it"
    if name not in ("the repository",):
        assert check(world, world.old) == [], "the other release is whole"


def test_a_tag_that_was_moved_changes_nothing(served: tuple[Registry, World]) -> None:
    service, world = served
    retag(service, world.new)
    assert [*check(world, world.old), *check(world, world.new)] == []


def forget_referrers(service: Registry, its: Pointer) -> None:
    """What stands in for the referrers API in this registry is a tag."""
    shutil.rmtree(next(service.folder.glob(f"data/**/tags/{its.digest.replace(':', '-')}")))


@pytest.mark.parametrize("how", [forget_referrers, lambda s, its: unlink(s, its.evidence)])
def test_evidence_that_is_gone_is_attached_again_from_git(
    served: tuple[Registry, World], how: Callable[[Registry, Pointer], object]
) -> None:
    service, world = served
    how(service, world.new)
    (found,) = check(world, world.new)
    assert (found.what, found.severity, found.fix, found.fixed) == ("evidence of v0.2.0", "drift", "attach it", False)
    assert check(world, world.new) == [found], "asking attaches nothing"
    assert shown(check(world, world.new, fix=True)) == [("evidence of v0.2.0", "drift", True)]
    assert check(world, world.new) == []


def test_other_evidence_of_the_image_is_not_what_the_pointer_names(served: tuple[Registry, World]) -> None:
    _, world = served
    its = world.new.model_copy(update={"evidence": digest.of_bytes(b"x")})
    (found,) = registry.check(world.root, [Image(its, None, "staging runs it")], True)
    assert (found.what, found.fix, found.fixed) == ("evidence of v0.2.0", "", False)
    assert found.todo == "sign it again: `lockstep sign`"


def test_a_registry_that_is_not_there_is_unreachable_and_not_drift(
    served: tuple[Registry, World], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, world = served
    monkeypatch.setattr(registry, "DEADLINE", 2.0)
    its = world.new.model_copy(update={"image": f"127.0.0.1:{unused_port()}/team/router@{world.new.digest}"})
    (found,) = registry.check(world.root, [Image(its, None, "x")], True)
    assert (found.severity, found.fix, found.fixed) == ("unreachable", "", False)


def test_a_registry_that_hangs_is_unreachable_in_time(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "DEADLINE", 1.0)
    started = time.monotonic()
    with mlflow_service.FaultyServer("hang") as running:
        host = running.url.removeprefix("http://")
        its = world.new.model_copy(update={"image": f"{host}/team/router@{world.new.digest}"})
        (found,) = registry.check(world.root, [Image(its, None, "x")], False)
    assert (found.severity, found.mirror) == ("unreachable", "no answer within 1 s")
    assert time.monotonic() - started < 15


# Images in folders


def folder_of(world: World, its: Pointer) -> Path:
    return world.root / its.image.removeprefix("oci:").partition("@")[0]


def test_an_image_in_a_folder_is_held_to_its_digest(world: World) -> None:
    assert check(world, world.old) == []
    blobs = (folder_of(world, world.old) / "blobs" / "sha256").iterdir()
    layers = sorted(
        (path for path in blobs if path.name not in world.old.evidence), key=lambda path: path.stat().st_size
    )
    data = layers[-1].read_bytes()
    layers[-1].write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    (found,) = check(world, world.old)
    assert layers[-1].name in found.mirror
    assert found.severity == "drift"
    layers[-1].write_bytes(data)
    layers[-1].unlink()
    (found,) = check(world, world.old)
    assert (found.what, found.severity) == ("image of v0.1.0", "drift")
    shutil.rmtree(folder_of(world, world.old) / "blobs")
    (found,) = check(world, world.old)
    assert (found.what, found.severity) == ("image of v0.1.0", "drift")


def test_evidence_in_a_folder_is_attached_again(world: World) -> None:
    path = folder_of(world, world.old) / "index.json"
    index = json.loads(path.read_text())
    index["manifests"] = [entry for entry in index["manifests"] if entry["digest"] == world.old.digest]
    path.write_text(json.dumps(index))
    assert shown(check(world, world.old, fix=True)) == [("evidence of v0.1.0", "drift", True)]
    assert check(world, world.old) == []


def test_a_folder_of_another_machine_is_unreachable(world: World) -> None:
    shutil.rmtree(folder_of(world, world.old))
    (found,) = check(world, world.old)
    assert (found.severity, found.mirror) == ("unreachable", ".lockstep/image1 is not on this machine")


# Tags


def test_a_tag_that_was_taken_away_is_made_again(world: World) -> None:
    assert tags.check(*ledger_of(world.root), NAME, ENVIRONMENTS, False) == []
    before = ledger_tree.refs(world.root)
    for tag in (f"{NAME}@v0.1.0", f"{NAME}#production#1"):
        git(world.root, "tag", "-d", tag)
    found = tags.check(*ledger_of(world.root), NAME, ENVIRONMENTS, False)
    assert {(each.what, each.fix) for each in found} == {
        (f"tag {NAME}@v0.1.0", "make it"), (f"tag {NAME}#production#1", "make it"),
    }  # fmt: skip
    assert f"refs/tags/{NAME}@v0.1.0" not in ledger_tree.refs(world.root)
    assert all(each.fixed for each in tags.check(*ledger_of(world.root), NAME, ENVIRONMENTS, True))
    after = ledger_tree.refs(world.root)
    assert after.keys() == before.keys()
    assert after["refs/heads/main"] == before["refs/heads/main"]
    assert tags.check(*ledger_of(world.root), NAME, ENVIRONMENTS, True) == []


@pytest.mark.parametrize("tag", ["{}@v9.0.0", "{}#production#9", "{}#staging#1"])
def test_a_forged_tag_is_told_and_left(world: World, tag: str) -> None:
    name = tag.format(NAME)
    git(world.root, "tag", "-f", "-a", "-m", "x", name, "main")
    (found,) = tags.check(*ledger_of(world.root), NAME, ENVIRONMENTS, True)
    assert (found.what, found.fix, found.fixed) == (f"tag {name}", "", False)
    assert "git push" in found.todo
    assert f"refs/tags/{name}" in ledger_tree.refs(world.root)


def test_tags_that_cannot_be_pushed_are_told(world: World, tmp_path: Path) -> None:
    ledger_tree.bare(tmp_path / "origin.git", world.root)
    git(tmp_path / "origin.git", "tag", "-d", f"{NAME}@v0.1.0")
    hook = tmp_path / "origin.git" / "hooks" / "pre-receive"
    hook.write_text("#!/bin/sh\necho no tags today\nexit 1\n")
    hook.chmod(0o755)
    found = tags.check(*ledger_of(world.root), NAME, ENVIRONMENTS, True)
    assert [(each.severity, each.fixed) for each in found] == [("drift", False), ("unreachable", False)]
    assert "no tags today" in found[1].mirror


# A promotion tells MLflow


def follow(world: World, environment: str = "production") -> list[str]:
    its = pointer.parse((world.root / layout.ENVIRONMENTS / environment / layout.POINTER).read_bytes(), "x")
    envelope = released_pointers.envelope((world.root / released_pointers.path(environment)).read_bytes(), its, "x")
    return update.update_mirrors(world.root, mirrors_tree.load(world.root), environment, its, envelope.statement)


def test_a_promotion_is_told_to_mlflow_with_its_lineage(
    world: World, tables: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copyfile(tables, world.root / layout.STATE / "mlflow.db")
    assert follow(world) == []
    assert follow(world, "staging") == []
    client = mlflow_service.client(f"sqlite:///{world.root / layout.STATE / 'mlflow.db'}")
    champion, staging = (client.get_model_version_by_alias(NAME, alias) for alias in ("champion", "staging"))
    assert client.get_model_version_by_alias(NAME, "production").version == champion.version
    made = world.releases[0].statement.predicate.materials
    assert champion.tags == {
        "lockstep.version": "v0.1.0", "lockstep.image": world.old.digest, "lockstep.model": world.old.model,
        "lockstep.commit": world.old.commit, "lockstep.evidence": world.old.evidence, "lockstep.verdict": made.verdict,
        "lockstep.signature": mlmodel.SIGNATURE, "lockstep.base": made.base, "lockstep.raw": made.raw, "lockstep.adapter": made.adapter,
        **{f"lockstep.split.{name}": value for name, value in made.splits.items()},
    }  # fmt: skip
    assert champion.source == f"oci:///{world.old.image.removeprefix('oci:')}"
    assert staging.tags["lockstep.version"] == "v0.2.0"


def test_the_signature_is_one_that_mlflow_reads_and_holds_requests_to() -> None:
    from mlflow.exceptions import MlflowException
    from mlflow.models import ModelSignature
    from mlflow.models.utils import _enforce_schema

    signature = ModelSignature.from_dict(json.loads(mlmodel.SIGNATURE))
    turn = {"role": "user", "content": "list every disk"}
    assert signature.outputs.input_names() == ["choices"]
    _enforce_schema([{"messages": [turn], "temperature": 0.0}], signature.inputs)
    with pytest.raises(MlflowException, match="messages"):
        _enforce_schema([{"prompt": "list every disk"}], signature.inputs)


@pytest.mark.parametrize("fault", ["hang", "drip", "fail", "garbage", "lie"])
def test_a_server_that_goes_wrong_holds_no_promotion_up(
    world: World, monkeypatch: pytest.MonkeyPatch, fault: Fault
) -> None:
    monkeypatch.setattr(update, "DEADLINE", 4.0)
    started = time.monotonic()
    with mlflow_service.FaultyServer(fault) as running:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", running.url.replace("http://", "http://ada:hunter2@"))
        said = follow(world)
    assert time.monotonic() - started < 15
    assert said
    for line in said:
        assert line.startswith(f"MLflow at {running.url}")
        assert line.endswith("`lockstep reconcile --fix` fixes it")
        assert line.isprintable()
        assert "hunter2" not in line


def test_a_promotion_of_a_model_whose_record_is_not_here_is_told_without_its_run(
    world: World, tables: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{world.root / 'm.db'}")
    shutil.copyfile(tables, world.root / "m.db")
    its = world.old.model_copy(update={"commit": "1" * 40})
    assert (
        update.update_mirrors(world.root, mirrors_tree.load(world.root), "production", its, world.releases[0].statement)
        == []
    )


def test_the_run_of_a_release_is_the_one_that_the_record_of_its_commit_names(world: World) -> None:
    other = keep(world.root, "other")
    report = world.root / layout.TRAIN_MEASURED
    value = json.loads(report.read_text())
    report.write_text(json.dumps(value | {"mlflow_run": "c" * 32}))
    named = keep(world.root, "named")
    report.write_text(json.dumps(value | {"mlflow_run": "../" * 9}))
    odd = keep(world.root, "odd")
    git(world.root, "rm", "--quiet", str(layout.TRAIN_MEASURED))
    gone = keep(world.root, "gone")
    found = released_pointers.runs(world.root, [other, named, odd, gone, "1" * 40, named], 10)
    assert found == {other: value["mlflow_run"], named: "c" * 32}
