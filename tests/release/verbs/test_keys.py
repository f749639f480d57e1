"""keys workflows: the workflows of GitHub that sign become signers. Keys themselves: tests/release/evidence/test_signing_keys.py."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from checks.formats import signers
from checks.formats.signers import GITHUB
from checks.process.errors import EvidenceRefused
from checks.storage import layout
from release.cli import main
from release.evidence import workflow_signers
from release.verbs import keys

OWN = "https://github.com/acme/router/.github/workflows"
SHARED = "https://github.com/tools/lockstep/.github/workflows"


def _release(root: Path, text: str) -> None:
    (root / workflow_signers.FOLDER).mkdir(parents=True)
    (root / workflow_signers.RELEASE).write_text(text)


def _signers(root: Path) -> signers.Signers:
    return signers.parse((root / layout.SIGNERS).read_text(), "it")


def test_workflows_of_the_repository_itself_sign_on_their_branch(tmp_path: Path) -> None:
    _release(tmp_path, "jobs: {release: {runs-on: ubuntu-latest}}\n")
    done = CliRunner().invoke(main, ["-C", str(tmp_path), "keys", "workflows", "acme/router", "--branch", "trunk"])
    assert done.exit_code == 0, done.output
    assert [(one.name, one.may, one.identities, one.caller, one.issuer) for one in _signers(tmp_path)] == [
        ("ci", ("release",), (f"{OWN}/release.yml@refs/heads/trunk",), None, GITHUB),
        ("verifier", ("verify",), (f"{OWN}/verify.yml@refs/heads/trunk",), None, GITHUB),
    ]


@pytest.mark.parametrize("commit", ["0" * 40, "a" * 40], ids=["digits alone, which YAML would read as a number", "hex"])
def test_workflows_that_release_yml_calls_sign_at_their_commit_when_it_calls_them(tmp_path: Path, commit: str) -> None:
    _release(tmp_path, f"jobs:\n  run:\n    uses: tools/lockstep/.github/workflows/release.yml@{commit} # v1\n")
    keys.add_workflows(tmp_path, "acme/router", "main")
    assert [(one.name, one.identities, one.caller) for one in _signers(tmp_path)] == [
        (name, (f"{SHARED}/{file}@{commit}",), f"{OWN}/release.yml@refs/heads/main")
        for name, file in (("ci", "release.yml"), ("verifier", "verify.yml"))
    ]


def test_a_called_workflow_in_a_comment_or_at_a_branch_is_not_pinned() -> None:
    for line in ("    # uses: {}@" + "0" * 40, "    uses: {}@main", "    uses: {}@" + "0" * 41, "    uses: $/{}"):
        assert workflow_signers.pinned(line.format("tools/lockstep/.github/workflows/release.yml").encode()) is None


def test_workflows_are_added_once_and_only_where_they_are(tmp_path: Path) -> None:
    with pytest.raises(EvidenceRefused, match="lockstep upgrade --workflows OWNER/lockstep"):
        keys.add_workflows(tmp_path, "acme/router", "main")
    _release(tmp_path, "jobs: {}\n")
    with pytest.raises(EvidenceRefused, match="ci: a workflow of GitHub has the issuer"):
        keys.add_workflows(tmp_path, "acme", "main")
    keys.add_workflows(tmp_path, "acme/router", "main")
    with pytest.raises(EvidenceRefused, match="two signers have the same name"):
        keys.add_workflows(tmp_path, "acme/router", "main")
