"""The documents about GitHub: they name what the workflows use, and their commands do what they say."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from checks.formats import signers
from tests import programs
from tests.conftest import REPOSITORY

pytestmark = pytest.mark.slow

# Without those of Lockstep itself, which a team has no use for.
OURS = ("kubernetes", "publish", "site", "tests")
WORKFLOWS = sorted(path for path in (REPOSITORY / ".github" / "workflows").glob("*.yml") if path.stem not in OURS)
GH = """#!/bin/sh
case "$*" in
  *"--jq .id"*) echo 4242; exit;;
  *"--input -"*) sent=$(cat);;
  *"secret set DVC_CONFIG_LOCAL"*) sent=$(cat);;
esac
printf '%s\\t%s\\n' "$*" "$(printf '%s' "$sent" | tr '\\n' ' ')" >> "$CALLS"
"""


def _doc(name: str) -> str:
    return (REPOSITORY / "docs" / name).read_text()


def test_every_job_stands_in_the_table_with_its_rights_and_its_runner() -> None:
    text = _doc("how-to/github.md")
    what, rights = text.partition("## What each job may do")[::2]
    for path in WORKFLOWS:
        assert f"`{path.name}`" in what
        document = yaml.safe_load(path.read_text())
        assert document["permissions"] == {}
        for job in (each for each in document["jobs"].values() if "uses" not in each):
            name = job["name"].partition("${{")[0]  # A job of a matrix is named by its project, too.
            row = next(line for line in what.splitlines() if f"| {name} |" in line)
            assert row.endswith("| hosted |" if job["runs-on"] == "ubuntu-latest" else "| `[self-hosted, gpu]` |")
            row = next(line for line in rights.splitlines() if re.search(rf"^\|.*\b{name}\b.*\|.*\|", line))
            granted = row.split("|")[2]
            assert all(right in granted for right in job["permissions"]), f"{name}: {granted}"
            assert ("write" in granted) == ("write" in job["permissions"].values()), f"{name}: {granted}"


def test_every_secret_and_variable_of_the_workflows_is_documented() -> None:
    text = _doc("how-to/github.md")
    used = {name for path in WORKFLOWS for name in re.findall(r"\b(?:secrets|vars)\.([A-Z_]+)", path.read_text())}
    assert {"DVC_CONFIG_LOCAL", "LOCKSTEP_TOKEN", "LOCKSTEP_IMAGE"} <= used
    assert {name for name in used if f"`{name}`" not in text} == set()


def test_the_commands_of_the_ladder_make_what_doctor_asks_for(tmp_path: Path) -> None:
    programs.require("jq")
    block = re.compile(r"^## ([123])\..*?^```\n(.*?)^```", re.MULTILINE | re.DOTALL)
    bucket, *_ = block.findall(_doc("tutorial/gpu.md"))
    on_github = re.findall(r"^gh (?!variable delete).*\n", bucket[1], re.MULTILINE)
    blocks = [("bucket", "".join(on_github)), *block.findall(_doc("tutorial/production.md"))]
    assert [number for number, _ in blocks] == ["bucket", "1", "2", "3"]
    shutil.copytree(REPOSITORY / "release" / "thin" / ".github" / "workflows", tmp_path / ".github" / "workflows")
    shutil.copy(REPOSITORY / ".github" / "CODEOWNERS", tmp_path / ".github")
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    for program, called in ((".venv/bin/python", '-P "$@"'), ("lockstep", '-P -m release.cli "$@"')):
        (tmp_path / program).write_text(f"#!/bin/sh\nexec {sys.executable} {called}\n")
        (tmp_path / program).chmod(0o755)
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config.local").write_text("['remote \"storage\"']\n    secret_access_key = x\n")
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "gh").write_text(GH)
    (tools / "git").write_text("#!/bin/sh\n")
    for tool in tools.iterdir():
        tool.chmod(0o755)
    calls = tmp_path / "calls"
    env = {"PATH": f"{tools}:/usr/bin:/bin:/usr/local/bin", "CALLS": str(calls)}
    script = "set -e\n" + "\n".join(block for _, block in blocks)
    subprocess.run(["bash", "-c", script], cwd=tmp_path, env=env, stdin=subprocess.DEVNULL, check=True)
    sent = dict(line.split("\t") for line in calls.read_text().splitlines())
    here = "repos/{owner}/{repo}"
    only_main = {"protected_branches": False, "custom_branch_policies": True}
    assert sent[f"api -X PUT {here}/environments/pipeline"] == ""
    staging = json.loads(sent[f"api -X PUT {here}/environments/staging --input -"])
    production = json.loads(sent[f"api -X PUT {here}/environments/production --input -"])
    assert staging == {"deployment_branch_policy": only_main}
    assert production == staging | {"reviewers": [{"type": "User", "id": 4242}]}
    assert json.loads(sent[f"api -X PUT {here}/environments/registry --input -"]) == staging
    for name in ("registry", "staging", "production"):
        assert f"api {here}/environments/{name}/deployment-branch-policies -f name=main" in sent
    for name in ("staging", "production"):
        assert f"secret set LOCKSTEP_TOKEN --env {name}" in sent
    for name in ("pipeline", "registry", "staging", "production"):
        assert "secret_access_key" in sent[f"secret set DVC_CONFIG_LOCAL --env {name}"]
    rulesets = [line.split("\t")[1] for line in calls.read_text().splitlines() if f"api {here}/rulesets " in line]
    *rulesets, evidence = rulesets
    assert evidence == "", "a file, which nobody passes"
    for text, name in zip(rulesets, ("ruleset.json", "ruleset-tags.json"), strict=True):
        ruleset = json.loads(text)
        assert ruleset.pop("bypass_actors") == [{"actor_type": "User", "actor_id": 4242, "bypass_mode": "always"}]
        assert ruleset == json.loads((REPOSITORY / ".github" / name).read_text())
    found = signers.parse((tmp_path / "release" / "policy" / "signers.yaml").read_text(), "the document")
    home, caller = "OWNER/lockstep/.github/workflows", "acme/router/.github/workflows/release.yml@refs/heads/main"
    assert [(one.name, one.may, one.identities, one.caller) for one in found] == [
        (name, (role,), (f"https://github.com/{home}/{role}.yml@{'0' * 40}",), f"https://github.com/{caller}")
        for name, role in (("ci", "release"), ("verifier", "verify"))
    ]
    assert "your-organization/" not in "".join(
        line for line in (tmp_path / ".github" / "CODEOWNERS").read_text().splitlines() if line.startswith("/")
    )
