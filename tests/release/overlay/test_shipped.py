"""The shared folders: which an environment needs, and what counts as one of an earlier version."""

from pathlib import Path
from typing import Any

import pytest

from checks.storage import layout
from release.overlay import edits
from release.overlay.environment_file import EnvironmentFile
from tests.conftest import REPOSITORY
from tests.overlay_sample import BASE, GATEWAY, edit, failures, lying, put, rendered, upgraded

COMPONENTS = layout.ENVIRONMENTS / "components"
WITH_KEYS = {"image": GATEWAY, "settings": {"LOCKSTEP_GATEWAY_KEYS": "/etc/lockstep/keys"}}
CANARY = {"environment": "production", "namespace": "model-production"}
USED: list[tuple[dict[str, Any], set[str]]] = [
    ({}, set()),
    ({"gateway": {"image": GATEWAY}}, {"gateway"}),
    ({"gateway": WITH_KEYS, "route": {"hosts": ["a.example"]}}, {"gateway", "exposure"}),
    ({"gateway": {"image": GATEWAY}, "canary_of": CANARY}, {"gateway", "canary"}),
    ({"variant": "kserve"}, {"kserve", "kserve/copied"}),
    ({"variant": "kserve-llm"}, {"kserve-llm", "kserve-llm/copied"}),
    ({"variant": "rollout"}, {"rollout"}),
]


@pytest.mark.parametrize(("knobs", "components"), USED)
def test_an_environment_uses_the_base_and_what_its_knobs_ask_for(knobs: dict[str, Any], components: set[str]) -> None:
    files = edits.shared_files(EnvironmentFile.model_validate({"namespace": "model-staging", **knobs}))
    assert {path.parent for path in files} == {BASE, *(COMPONENTS / name for name in components)}
    assert all((REPOSITORY / path).read_bytes() == data for path, data in files.items())
    assert {path.name for path in files} == {"kustomization.yaml", "objects.yaml"}


def test_a_folder_that_no_knob_asks_for_may_be_absent_and_is_held_to_its_bytes_if_it_is_there(tree: Path) -> None:
    objects = tree / "components" / "gateway" / "objects.yaml"
    objects.write_text(f"{objects.read_text()}# mine\n")
    (failure,) = failures(tree)
    assert failure.endswith("gateway/objects.yaml: is not the file that Lockstep ships: run `lockstep render staging`")
    for path in objects.parent.iterdir():
        path.unlink()
    assert failures(tree) == []
    edit(tree, "staging", lambda own: own.update(gateway={"image": GATEWAY}))
    missing = [
        f"{COMPONENTS}/gateway/{name}: is missing: run `lockstep render staging`"
        for name in ("kustomization.yaml", "objects.yaml")
    ]
    assert failures(tree) == missing


def test_the_base_of_an_earlier_version_stops_a_promotion_by_one_line_and_no_rollback(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upgraded(monkeypatch)
    (failure,) = failures(tree)
    todo = "`lockstep render staging` writes those of this version, for every environment"
    assert failure == f"{BASE}: of an earlier version of Lockstep: {todo}"
    assert edits.older("staging", lying(tree)) == failure
    assert edits.failures("staging", lying(tree), rendered(), lambda: (), rollback=True) == []


@pytest.mark.parametrize("name", ["objects.yaml", "kustomization.yaml", "more.yaml"])
def test_an_edited_base_is_of_no_earlier_version(tree: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    upgraded(monkeypatch)
    put(tree, {BASE / name: b"kind: Pod\n"})
    assert edits.older("staging", lying(tree)) == ""
    assert any(f"{BASE}/{name}: " in failure for failure in failures(tree))
    assert edits.failures("staging", lying(tree), rendered(), lambda: (), rollback=True) != []


def test_a_link_in_the_base_is_of_no_earlier_version(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    upgraded(monkeypatch)
    (tree / "base" / "more.yaml").symlink_to("objects.yaml")
    assert edits.older("staging", lying(tree)) == ""


def test_todays_folders_are_those_of_no_earlier_version() -> None:
    assert edits.earlier_folders(lying(REPOSITORY / layout.ENVIRONMENTS)) == {}
