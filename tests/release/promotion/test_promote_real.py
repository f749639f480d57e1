"""The whole way of a model that a real server serves: built, verified, signed, promoted, rolled back and asked again."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from checks.formats.serving import ImageReport
from checks.process.errors import PromotionRefused
from checks.storage import files, layout
from release.cli import main
from tests import overlay_sample, tuned
from tests import promotion_tree as tree
from tests.conftest import REPOSITORY
from tests.ledger_tree import git, identify, keep

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("forked_servers")]

alone = tree.alone


def lockstep(root: Path, *args: str) -> Result:
    result = CliRunner().invoke(main, ["-C", str(root), *args], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


def released(root: Path) -> str:
    lockstep(root, "build")
    lockstep(root, "verify", "--runtime", "transformers")
    lockstep(root, "sign", "--key", str(root / layout.STATE / "keys" / "lockstep.key"))
    return files.read_json(root / layout.IMAGE_REPORT, ImageReport).image


def _takes_a_process(plain: dict[str, Any]) -> None:
    plain["promote"]["environments"]["production"]["served_as_verified"] = False


def test_on_a_laptop_a_model_is_released_and_rolled_back_by_the_command(
    tiny_base: Path, tuned_model: Path, tmp_path: Path
) -> None:
    root = tmp_path / "work"
    document = tuned.document()
    document["gates"] = tree.document()["gates"]
    assert document["promote"]["environments"]["production"]["served_as_verified"] is True
    tuned.record(root, tiny_base, tuned_model, document)
    git(root, "branch", "--move", "--force", "main")
    identify(root, "Ada")
    shutil.copytree(REPOSITORY / layout.ENVIRONMENTS, root / layout.ENVIRONMENTS)
    for name in ("staging", "production"):
        overlay_sample.pin(root / layout.ENVIRONMENTS, name)
    lockstep(root, "keys", "new", "--name", "ada", "--add")
    keep(root, "signers and environments")

    first = released(root)
    assert "v0.1.0" in lockstep(root, "promote", "staging").output
    refused = CliRunner().invoke(main, ["-C", str(root), "promote", "production"], catch_exceptions=False)
    assert refused.exit_code == PromotionRefused.exit_code
    assert "it was not verified the way it will be served: it ran as a process, not in a container" in refused.output
    tree.rewrite(root, layout.PARAMS, _takes_a_process)  # the one line of README
    assert "v0.1.0" in lockstep(root, "promote", "production").output
    assert "not verified as it serves: it ran as a process" in lockstep(root, "status").output
    tree.rewrite(root, layout.PARAMS, lambda plain: plain["serve"].update(max_concurrent_requests=64))
    second = released(root)
    assert second != first
    for name in ("staging", "production"):
        assert "v0.1.1" in lockstep(root, "promote", name, "--why", "fewer at a time").output
    shutil.rmtree(root / layout.MERGED)
    told = json.loads(lockstep(root, "rollback", "production", "--why", "too few", "--ask", "--json").stdout)
    assert told["after"]["image"].endswith(first)
    (asked,) = [check for check in told["checks"] if check["about"] == "serving"]
    assert "it answered after" in asked["note"]
    assert not list((root / layout.STATE).glob("serving-*"))
    assert "too few" in lockstep(root, "quarantine").output
    drilled = lockstep(root, "drill", "staging")
    assert "in all: v0.1.1 to v0.1.0 and back" in drilled.output
