"""publish: a promoted release as one revision of a hub's repository. The hub is a stand-in; huggingface_hub is real."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from huggingface_hub import constants

from checks.process.errors import EvidenceRefused, MachineRefused, Refusal, RegistryRefused
from checks.storage import digest, layout
from release.cli import main
from release.verbs.publish import publish
from tests import build_tree, page_tree
from tests import promotion_tree as tree
from tests.conftest import REPOSITORY as HERE
from tests.hub_standin import READER, REPOSITORY, WRITER, HubStandIn
from tests.ledger_tree import keep

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("forking")]  # three releases are made

alone = tree.alone
TO = f"hf://{REPOSITORY}"
PRODUCTION = 11  # the seed of its weights


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The clone, with the weights of production."""
    root = tree.copy(page_tree.ledger(), tmp_path / "work")
    build_tree.weigh(root, build_tree.shards(seed=PRODUCTION))
    return root


@pytest.fixture
def hub() -> Iterator[HubStandIn]:
    with HubStandIn() as server:
        yield server


def process(root: Path, hub: HubStandIn, *args: str) -> tuple[int, str]:
    """The command in a process of its own: huggingface_hub reads its environment when it is imported."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    env |= {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(root.parent / "hf")}
    env |= {"PYTHONPATH": str(HERE), "HF_TOKEN": WRITER}
    command = [sys.executable, "-m", "release.cli", "-C", str(root), "publish", *args]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300, check=False)
    return done.returncode, done.stdout if done.returncode == 0 else done.stderr


Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(root: Path, hub: HubStandIn, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command in this process: huggingface_hub has what it reads of its environment when it is imported."""
    read = {"ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": True, "HF_HUB_OFFLINE": False, "HF_TOKEN_PATH": "nowhere"}
    for name, value in read.items():
        monkeypatch.setattr(constants, name, value)

    def asked(*args: str, token: str | None = WRITER) -> tuple[int, str]:
        monkeypatch.setenv("HF_TOKEN", token or "")
        done = CliRunner().invoke(main, ["-C", str(root), "publish", *args])
        assert isinstance(done.exception, SystemExit | None), done.exception
        return done.exit_code, done.output

    return asked


def test_one_revision_has_exactly_the_release_and_a_tag_of_its_version(root: Path, hub: HubStandIn) -> None:
    code, said = process(root, hub, TO, "--json")
    assert code == 0, said
    found = json.loads(said)
    assert (found["version"], found["done"], found["commit"]) == ("v0.2.0", "published", hub.head)
    assert hub.tags == {"v0.2.0": hub.head}
    assert len(hub.commits) == 2
    files = hub.commits[hub.head]
    assert found["removed"] == ["old-00001.safetensors"]
    assert set(files) == {".gitattributes", *found["files"]}
    for path in (root / layout.MERGED).iterdir():
        assert files[path.name][0] == path.read_bytes()
    for path in (root / layout.ADAPTER).iterdir():
        assert files[f"adapter/{path.name}"][0] == path.read_bytes()
    readme = files["README.md"][0].decode()
    assert "value: 0.9\n" in readme
    assert f"| weights | `{digest.of_tree(root / layout.MERGED).digest}` |" in readme
    assert {"DATA.md", "REPORT.md", "evidence.json"} <= set(files)
    assert json.loads(files["croissant.json"][0])["version"] == "0.2.0"

    code, said = process(root, hub, TO)  # again, as after a crash
    assert code == 0, said
    assert f"v0.2.0 was published already as {TO} at {hub.head}" in said
    assert len(hub.commits) == 2


def test_a_run_that_was_killed_before_the_tag_goes_on(run: Run, hub: HubStandIn) -> None:
    assert run(TO)[0] == 0
    hub.tags.clear()
    assert run(TO)[0] == 0
    assert hub.tags == {"v0.2.0": hub.head}
    assert len(hub.commits) == 2


def test_a_plan_needs_no_token_and_asks_no_hub(run: Run, hub: HubStandIn) -> None:
    code, said = run(TO, "production", "--dry-run", token=None)
    assert code == 0, said
    assert "model-00001-of-00003.safetensors" in said
    assert f"v0.2.0 would be published as {TO}" in said
    assert hub.asked == []


@pytest.mark.parametrize(
    ("token", "to", "code", "why"),
    [
        (None, TO, MachineRefused, "the hub needs a token that may write; set HF_TOKEN"),
        ("hf_nobody", TO, RegistryRefused, "HTTP 401"),
        (READER, TO, RegistryRefused, "HTTP 403"),
        (WRITER, "hf://team/nothing", RegistryRefused, "is not there, or this token may not see it; make it first"),
    ],
)
def test_who_may_not_write_is_refused(
    run: Run, hub: HubStandIn, token: str | None, to: str, code: type[Refusal], why: str
) -> None:
    found, said = run(to, token=token)
    assert found == code.exit_code, said
    assert why in said
    assert len(hub.commits) == 1


def test_who_comes_second_is_refused(run: Run, hub: HubStandIn) -> None:
    hub.outrun = True
    code, said = run(TO)
    assert (code, hub.tags) == (RegistryRefused.exit_code, {})
    assert "HTTP 412" in said
    assert "somebody else committed there: run it again" in said


def test_what_the_hub_lists_otherwise_gets_no_tag(run: Run, hub: HubStandIn) -> None:
    hub.spoils = "model-00002-of-00003.safetensors"
    code, said = run(TO)
    assert (code, hub.tags) == (RegistryRefused.exit_code, {})
    assert "lists another model-00002-of-00003.safetensors at " in said


def test_a_published_version_is_not_changed(run: Run, hub: HubStandIn) -> None:
    hub.tags["v0.2.0"] = hub.head
    code, said = run(TO)
    assert code == EvidenceRefused.exit_code
    assert "v0.2.0 was published there with another " in said
    assert len(hub.commits) == 1


def test_a_hub_that_is_not_there_is_refused(run: Run, hub: HubStandIn) -> None:
    hub.stop()
    code, said = run(TO)
    assert code == RegistryRefused.exit_code, said
    assert "does not answer" in said


def test_only_what_was_promoted_and_holds_is_published(root: Path) -> None:
    for name, why in (
        ("v0.3.0", "v0.3.0: is in quarantine: answers in French"),
        ("v7.0.0", "is no release that ran"),
        ("v0.1.0", "models/merged: is sha256:[0-9a-f]{64}, the release has sha256:"),
    ):
        with pytest.raises(EvidenceRefused, match=why):
            publish(root, TO, name, dry_run=True)
    with pytest.raises(EvidenceRefused, match="is not hf://ORGANISATION/NAME"):
        publish(root, "hf://router", dry_run=True)
    (root / layout.MERGED / "config.json").write_text("{}")
    with pytest.raises(EvidenceRefused, match="models/merged: is "):
        publish(root, TO, dry_run=True)
    (root / layout.SIGNERS).write_text("[]\n")
    keep(root, "nobody may sign")
    with pytest.raises(EvidenceRefused, match=r"v0\.2\.0: no current signer signed it"):
        publish(root, TO, dry_run=True)
