"""`lockstep run` looks at local sources before DVC does: DVC tracks params.yaml, and not what a path in it names."""

import re
import subprocess
from pathlib import Path

import pytest

from checks.formats import refused
from checks.process.errors import RemoteRefused, SourceRefused
from checks.storage import digest, layout
from tests import ledger_tree
from tests import pipeline_repository as repository
from tests.conftest import REPOSITORY, scaled_down

pytestmark = pytest.mark.slow  # DVC itself, a process or more each


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Path:
    """A repository with local sources in which fetch has run and was committed. Copy it before anything is changed."""
    root = tmp_path_factory.mktemp("made") / "work"
    repository.make(root, tiny_base, scaled_down(), repository.table())
    assert run(root, "fetch").returncode == 0
    repository.commit(root, "fetched")
    return ledger_tree.packed(root)


@pytest.fixture
def fetched(made: Path, tmp_path: Path) -> Path:
    """A copy of that repository."""
    return repository.copied(made, tmp_path / "work")


def run(root: Path, *args: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [repository.interpreter(), "-m", "release.cli", "-C", str(root), "run", *args],
        cwd=REPOSITORY, env=repository.environment(PYTHONPATH=str(REPOSITORY)), capture_output=True, text=True,
        check=False,
    )  # fmt: skip


@pytest.mark.parametrize("way", ["lockstep run", "dvc repro"])
def test_a_default_that_dvc_tracks_and_nobody_wrote_is_refused_before_any_stage(fetched: Path, way: str) -> None:
    path = fetched / layout.PARAMS
    path.write_text(path.read_text().replace("suites: {}\n", ""))
    if way == "dvc repro":
        command = [repository.interpreter(), "-m", "stages.tools.guarded_dvc", "repro", "--force"]
        environment = repository.environment(PYTHONPATH=str(REPOSITORY))
        done = subprocess.run(command, cwd=fetched, env=environment, capture_output=True, text=True, check=False)
    else:
        done = run(fetched)
    assert done.returncode != 0
    line = "params.yaml: suites: is not written, and DVC tracks it; write `suites: {}`, as `"
    assert line in done.stderr, done.stderr
    assert "are missing from" not in done.stdout + done.stderr
    assert "fetch: models/base" not in done.stderr
    word = refused.read(fetched)
    assert word is not None
    assert (word.exit_code, word.what) == (2, "params.yaml: suites: is not written, and DVC tracks it")


@pytest.mark.parametrize("targets", [[], ["fetch"], ["prepare"]], ids=["all", "fetch", "a later stage"])
def test_an_edited_source_stops_the_run_before_dvc_and_leaves_the_record(fetched: Path, targets: list[str]) -> None:
    rows = fetched / "sources/rows.jsonl"
    pinned = digest.of_file(rows).sha256.removeprefix("sha256:")
    rows.write_text(rows.read_text() + '{"prompt": "one more", "reference": "vm", "slice": "show"}\n')
    found = digest.of_file(rows).sha256.removeprefix("sha256:")
    done = run(fetched, *targets)
    assert done.returncode == SourceRefused.exit_code
    assert done.stdout == ""
    assert re.sub(r"\d:\d\d", "0:00", done.stderr).splitlines() == [
        "  > sources",
        "  ✗ sources     0:00  failed",
        f"    fetch: params.yaml: data.sha256: {pinned} is pinned, but sources/rows.jsonl is {found}; nothing of it was used; restore it, or only if the new bytes are right pin sha256: {found}",
        f"    all that was printed: {fetched / layout.STATE / 'run.log'}",
        "lockstep: fetch refused; fix what it says above, then run again; finished stages are kept",
    ]
    assert (word := refused.read(fetched)) is not None
    assert word.stage == "fetch"
    assert repository.git(fetched, "status", "--porcelain").split() == ["M", "sources/rows.jsonl"]


@pytest.mark.parametrize(
    ("shared", "local", "owner"),
    [
        ("url = s3://bucket/here\nversion_aware = false\n", "['remote \"store\"']\nversion_aware = True\n", "store"),
        ("url = remote://other/here\n", "['remote \"other\"']\nurl = s3://bucket\nversion_aware = true\n", "other"),
    ],
)
def test_a_cloud_versioned_remote_stops_the_run_before_anything_is_asked_of_it(
    tmp_path: Path, shared: str, local: str, owner: str
) -> None:
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text(f"[core]\nremote = Store\n['remote \"store\"']\n{shared}")
    (tmp_path / ".dvc" / "config.local").write_text(local)
    done = run(tmp_path, "--remote")
    assert done.returncode == RemoteRefused.exit_code
    (said,) = done.stderr.splitlines()
    assert said.startswith(
        "lockstep: DVC's default remote store has version_aware: with it `dvc push` removes the MD5 "
    )
    assert f"./lockstep dvc remote modify --unset {owner} version_aware" in said


def test_a_source_that_is_absent_refuses_only_when_fetch_has_to_run(fetched: Path) -> None:
    (fetched / "sources/rows.jsonl").rename(fetched / "sources/row.jsonl")
    done = run(fetched, "fetch")
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"  > sources\n  ✓ sources     \d:\d\d  nothing changed, no stage has to run\n", done.stderr)
    (fetched / layout.FETCH_REPORT).unlink()
    done = run(fetched, "fetch")
    assert done.returncode == SourceRefused.exit_code
    assert "sources/rows.jsonl: no such file or folder; did you mean row.jsonl?" in done.stderr


def test_the_new_hash_pinned_is_a_run_on_the_new_bytes(fetched: Path) -> None:
    rows = fetched / "sources/rows.jsonl"
    old = digest.of_file(rows).sha256.removeprefix("sha256:")
    rows.write_text(rows.read_text() + '{"prompt": "one more", "reference": "vm", "slice": "show"}\n')
    params = fetched / layout.PARAMS
    params.write_text(params.read_text().replace(old, digest.of_file(rows).sha256.removeprefix("sha256:")))
    done = run(fetched, "fetch")
    assert done.returncode == 0, done.stderr
    assert (fetched / layout.RAW / "rows.jsonl").read_bytes() == rows.read_bytes()
