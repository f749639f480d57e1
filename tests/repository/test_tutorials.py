"""The tutorials, word for word: their commands are run in repositories with a tiny model, and leave what they promise."""

import contextlib
import json
import os
import re
import shutil
import sqlite3
import subprocess
from pathlib import Path
from typing import Any

import pytest

from checks.config import params_file
from checks.formats import pointer
from checks.formats.verdict import Verdict
from checks.records.rows import Message
from checks.storage import files, layout
from tests import overlay_sample, tuned, workflow_repository
from tests import pipeline_repository as repository
from tests.conftest import REPOSITORY, scaled_down
from tests.pipeline_repository import git
from tests.release.verbs.test_init import jsonl, rows

pytestmark = pytest.mark.slow

LAUNCHER = """#!/bin/sh
# As ./lockstep, without the virtual environment.
mkdir -p .lockstep/code
for name in checks release stages; do ln -sfn "$PWD/$name" ".lockstep/code/$name"; done
export PYTHONSAFEPATH=1 PYTHONPATH="$PWD/.lockstep/code" LOCKSTEP_ROOT="$PWD" LOCKSTEP_CALLED=./lockstep
if [ "$1" = dvc ]; then shift; exec @PYTHON@ -m stages.tools.guarded_dvc "$@"; fi
exec @PYTHON@ -m release.cli "$@"
"""


def blocks(page: str, heading: str) -> list[str]:
    """The blocks of commands below the heading that begins so."""
    text = (REPOSITORY / page).read_text()
    section = re.search(rf"^## {re.escape(heading)}.*?(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    assert section, heading
    return re.findall(r"^```\n(.*?)^```", section[0], re.DOTALL | re.MULTILINE)


def follow(root: Path, commands: str, answers: str = "", **more: str) -> str:
    """Type the commands at a shell that stops at the first failure; return what they print."""
    who = {
        f"GIT_{role}_{what}": f"{what}@ada.example" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
    }
    env = repository.environment(**who, **more)
    env["PATH"] = os.pathsep.join([str(root.parent / "tools"), env["PATH"]])
    script = ["bash", "-e", "-c", commands]
    done = subprocess.run(script, cwd=root, env=env, input=answers, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{commands}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def tool(root: Path, name: str, script: str) -> None:
    """Put a program on the path."""
    path = root.parent / "tools" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def laid_out(root: Path, base: Path, document: dict[str, Any], table: list[dict[str, str]]) -> None:
    root.mkdir(parents=True)
    repository.make(root, base, document, table)
    (root / "lockstep").write_text(LAUNCHER.replace("@PYTHON@", repository.interpreter(PYTHONSAFEPATH="1")))
    (root / "lockstep").chmod(0o755)
    for name in ("staging", "production"):
        overlay_sample.pin(root / layout.ENVIRONMENTS, name)
    shutil.copytree(REPOSITORY / "docs" / "cards", root / "docs" / "cards")


@pytest.fixture(scope="module")
def laptop(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone with a record, as this repository has one."""
    root = tmp_path_factory.mktemp("laptop") / "lockstep"
    table = repository.table()
    workflow_repository.taught(tiny_base, table, root.parent / "taught")
    laid_out(root, root.parent / "taught", workflow_repository.document(), table)
    follow(root, "\n".join(blocks("docs/tutorial/first-release.md", "1.")))
    repository.commit(root, "Record")
    return root


def test_the_first_release_reaches_staging_and_goes_back(laptop: Path) -> None:
    tutorial = "docs/tutorial/first-release.md"
    with contextlib.closing(sqlite3.connect(laptop / layout.STATE / "mlflow.db")) as store:
        logged = store.execute("SELECT value FROM tags WHERE key = 'lockstep.verdict'").fetchall()
    assert logged == [(files.read_json(laptop / layout.VERDICT, Verdict).status,)]
    tool(laptop, "edit", 'sed -i "s/learning_rate: 0.01/learning_rate: 0.012/" "$1"')
    said = follow(laptop, blocks(tutorial, "2.")[0], EDITOR="edit")
    assert "train.learning_rate" in said
    assert git(laptop, "status", "--porcelain") == ""
    (release,) = blocks(tutorial, "3.")
    assert release in (REPOSITORY / "README.md").read_text()
    first, *others = release.splitlines(keepends=True)
    assert first == './lockstep run && git commit -am "First record"\n'  # step 2 committed it, and the text says so
    said = follow(laptop, "".join(others))
    assert "staging runs v0.1.0 now" in said
    assert (
        pointer.parse((laptop / layout.ENVIRONMENTS / "staging" / layout.POINTER).read_bytes(), "it").version
        == "v0.1.0"
    )
    follow(laptop, blocks(tutorial, "5.")[0])
    assert not (laptop / layout.ENVIRONMENTS / "staging" / layout.POINTER).exists()


@pytest.fixture
def template(tiny_base: Path, tmp_path: Path) -> Path:
    """A repository that was made from the template: the example's parameters, cards and noise, a remote, a DVC remote."""
    root = tmp_path / "router"
    document = scaled_down()
    loader = params_file.parse((REPOSITORY / "params.yaml").read_text()).prepare.loader
    told = Message(role="system", content="Name the team.")
    asked = [((told, Message(role="user", content=row["question"])), row["team"]) for row in rows(240)]
    tuned.tune(tiny_base, tmp_path / "taught", asked)  # a model that is never right shows no noise
    laid_out(root, tmp_path / "taught", document, rows(5))
    document["prepare"] |= {"loader": loader.model_dump(mode="json", exclude_none=True)}
    repository.write_params(root, document)
    git(tmp_path, "init", "--quiet", "--bare", "--initial-branch=main", "origin.git")
    git(root, "remote", "add", "origin", str(tmp_path / "origin.git"))
    follow(root, f"./lockstep dvc remote add --default storage {tmp_path / 'store'}")
    (root / layout.SIGNERS).parent.mkdir(parents=True)  # as step 4 does
    (root / layout.SIGNERS).write_text("[]\n")
    repository.commit(root, "Owners, and who signs")
    git(root, "push", "--quiet", "--set-upstream", "origin", "main")
    return root


def test_the_first_pull_request_commits_rows_cards_and_noise(template: Path) -> None:
    tutorial = "docs/tutorial/first-pull-request.md"
    jsonl(template.parent / "tickets.jsonl", rows(240))
    tool(template, "gh", 'echo "$*" >> "$DESK/gh"')
    tool(
        template,
        "edit",
        'for file; do case "$file" in *.md) sed -i "s/TODO: /Of our tickets: /" "$file";; *) cp "$DESK/approved" "$file";; esac; done',
    )
    more = {"DESK": str(template.parent), "EDITOR": "edit"}
    row, begin, pushed = blocks(tutorial, "7.")
    assert json.loads(row).keys() == {"question", "team", "product"}
    flags = " --base sources/base --base-license Apache-2.0 --margin 0.15"  # of the tiny model and these few rows
    begin = begin.replace("datasets/tickets.jsonl\n", f"datasets/tickets.jsonl{flags}\n")
    follow(template, begin, "\n" * 9, HOME=more["DESK"], **more)
    params = template / layout.PARAMS  # the tiny model has little room
    params.write_text(re.sub(r"shots: \d+", "shots: 1", params.read_text()))
    follow(template, pushed, **more)
    assert git(template, "status", "--porcelain") == ""
    assert (template.parent / "gh").read_text() == "pr create --fill\n"
    there = git(template, "ls-tree", "-r", "--name-only", "origin/our-data").splitlines()
    assert {"datasets/tickets.jsonl", "docs/cards/model.md", "docs/cards/data.md", "dvc.lock"} <= set(there)
    assert "TODO: " not in git(template, "show", "origin/our-data:docs/cards/model.md")
    judged(template)
    assert not noise_counts(template), (
        "the next pull request, which main's model is compared with, would be inconclusive"
    )
    (template.parent / "approved").write_text("[]\n")
    follow(template, blocks(tutorial, "8.")[0], **more)
    assert "reports/noise.json" in git(template, "show", "--name-only", "--format=", "origin/our-data")
    assert noise_counts(template)
    judged(template)
    assert git(template, "status", "--porcelain") == ""


def noise_counts(root: Path) -> bool:
    """Whether the noise is that of the evaluation, as a gate with a margin asks."""
    noise, evaluation = (json.loads((root / path).read_text()) for path in (layout.NOISE, layout.EVALUATION))
    return all(noise[key] == evaluation[key] for key in ("base", "scorers", "prompt_format"))


def judged(root: Path) -> None:
    """What the workflow does with a push: run what changed, keep it on the DVC remote, commit the record."""
    follow(root, "./lockstep run || true; ./lockstep dvc push")
    repository.commit(root, "Record")
    git(root, "push", "--quiet", "origin", "our-data")
