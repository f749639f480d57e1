"""The repository that a released version made is upgraded, and a new model goes to staging beside what it has released.

All is done by the launcher that the upgrade writes, in an environment with the wheel that it pins. The record and the
serving report are written by hand: no model is trained and no server is asked.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from checks.config import params_file
from checks.formats.serving import ImageReport
from checks.process import distribution
from checks.storage import files, layout
from release.adapters import pin
from tests import build_tree, evidence_tree, signing_tree
from tests.act_service import Act
from tests.build_tree import BaseLayout
from tests.conftest import read_yaml, written
from tests.ledger_tree import CLEAN, git, identify, keep
from tests.pipeline_repository import LOADER
from tests.promotion_tree import BASE, NOBODY
from tests.release.serving.test_verify_evidence import probed
from tests.released_repository import HOME, WORKFLOWS

pytestmark = pytest.mark.slow

KEY = layout.STATE / "keys" / "lockstep.key"  # where `keys new` writes it


class Team(NamedTuple):
    """A clone, with an environment in which the wheel of this repository is installed."""

    root: Path
    act: Act

    def lockstep(self, *arguments: str) -> str:
        """Run a verb by the launcher, and return what it prints."""
        return self.run([sys.executable, "lockstep", *arguments])

    def new(self, *arguments: str, code: int = 0) -> str:
        """The same by the new version itself, whatever is pinned."""
        return self.run([str(self.act.venv() / "bin" / "lockstep"), *arguments], code)

    def run(self, command: list[str], code: int = 0) -> str:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("LOCKSTEP_", "PYTHON"))}
        index = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(self.act.wheel.parent)}
        more = {"LOCKSTEP_VENV": str(self.act.venv()), "MLFLOW_TRACKING_URI": NOBODY} | index | CLEAN
        done = subprocess.run(command, cwd=self.root, env=kept | more, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr if code else done.stdout

    def keep(self, message: str) -> None:
        """Commit, and push to main."""
        keep(self.root, message)
        git(self.root, "push", "--quiet", "origin", "main")


@pytest.fixture(params=sorted(HOME.glob("*.bundle")), ids=lambda bundle: bundle.stem)
def team(request: pytest.FixtureRequest, wheel: Path, tmp_path: Path) -> Team:
    git(tmp_path, "clone", "--quiet", "--bare", str(request.param), "origin.git")
    git(tmp_path, "clone", "--quiet", "--branch=main", "origin.git", "work")
    identify(tmp_path / "work", "Ada")
    (tmp_path / "act").mkdir()
    return Team(tmp_path / "work", Act(tmp_path / "act", tmp_path / "origin.git", "", "", wheel=wheel))


def own_rows(root: Path) -> None:
    """Say in params.yaml what the repository of a team has: rows of its own, and a base image that is here."""
    plain = read_yaml((root / layout.PARAMS).read_text())
    plain["prepare"] |= {"loader": LOADER, "rules": ["drop-duplicates"]}
    home = BaseLayout(root / BASE)
    plain["serve"]["base"] = f"oci:{home.tag(home.image(), '1').removeprefix(f'oci:{root}/')}"
    (root / layout.PARAMS).write_text(written(plain))


def record(root: Path) -> None:
    """Write the record of another model, as the stages leave it. The pipeline is that of the upgrade."""
    pipeline = (root / layout.PIPELINE).read_bytes()
    params = params_file.load(root / layout.PARAMS)
    evidence_tree.build(root, params)
    build_tree.weigh(root, build_tree.shards(seed=21))
    build_tree.judge(root, params)
    probed(root, params)
    (root / layout.PIPELINE).write_bytes(pipeline)


def test_a_model_is_released_after_an_upgrade_and_what_the_version_before_released_is_still_there(team: Team) -> None:
    root = team.root
    own_rows(root)
    team.keep("rows of our own")
    refused = team.new("gate", code=8)
    assert f"lockstep-requirements.txt pins {distribution.version()}, cccccccccccc; use the launcher" in refused
    done = team.new("upgrade", "--workflows", WORKFLOWS)
    assert "stages of .: run again: code, fetch, " in done
    assert (root / pin.PATH).read_text() == team.act.pin()
    team.lockstep("render", "staging")
    team.lockstep("keys", "new", "--name", "eve", "--add")
    team.keep("an upgrade, and a signer")
    record(root)
    team.keep("a record")
    team.lockstep("upgrade", "--check", "--workflows", WORKFLOWS)

    team.lockstep("build")
    signing_tree.served(root, files.read_json(root / layout.IMAGE_REPORT, ImageReport), KEY)
    team.lockstep("sign", "--key", str(KEY))
    team.lockstep("promote", "staging", "--why", "rows of our own")
    states = json.loads(team.lockstep("status", "--json"))["environments"]
    assert [state["runs"]["pointer"]["version"] for state in states] == ["v0.3.0", "v0.1.0"]
    moves = json.loads(team.lockstep("history", "staging", "--json"))["environments"]["staging"]
    assert [move["kind"] for move in moves] == ["promote", "rollback", "promote", "promote"]
