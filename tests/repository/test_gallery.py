"""The site's gallery: its pages are made from records, whose bytes must be those that record.json names."""

import itertools
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from mkdocs.exceptions import PluginError

from benchmarks import gallery as making
from benchmarks.loop import Loop
from checks.records.rows import Message, Row
from checks.storage import files, layout
from release.cards import gathering
from release.promotion.incident_report import Back, Incident, IncidentLook
from tests import page_tree
from tests import promotion_tree as tree
from tests.conftest import REPOSITORY
from tests.ledger_tree import keep
from tests.release.cards.test_production import a_report, sign

alone = tree.alone
ENTRIES = sorted((REPOSITORY / "docs" / "gallery").glob("*/record.json"))
MOST = 10_000_000  # Bytes of all entries in git.


@pytest.fixture
def gallery(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The hook of the site."""
    monkeypatch.syspath_prepend(str(REPOSITORY / ".ci"))
    return runpy.run_path(str(REPOSITORY / ".ci" / "gallery.py"))


@pytest.fixture
def entry(tmp_path: Path) -> Path:
    """An entry of a release with two windows, and of a drill."""
    root = tree.copy(page_tree.ledger(), tmp_path / "work")
    release = next(page.pointer for page in gathering.gather(root, None).pages if page.version == "v0.2.0")
    days = []
    for week in (0, 1):
        window = a_report(release, week)
        sign(root, window)
        days.append({"date": f"{window.since:%Y-%m-%d}", "seconds": 7.0, "shifted": week / 2})
    (root / making.MONTH).write_text(json.dumps(days))
    look = IncidentLook(seconds=12.0, requests=48, pairs=20, labelled=20, decision="roll back")
    incident = Incident(
        environment="production", production=release, worse=release.model, worse_from="models/base", rate=4, share=0.5,
        labelled=1, label_delay=5, window=10, looks=(look,), detected=look, why="worse", requests=60, reached=4,
        back=Back(to=release, seconds=0.5, signed=False), rolled_back_after=12.5, worse_requests=24, lost=11, right=0.5,
        margin=0.05, false_rollbacks=0.05, expected=(), simulated=("no cluster followed the rollback",),
    )  # fmt: skip
    files.write_json(root / making.INCIDENT, incident)
    keep(root, "A month of operation")
    making.keep(root, tmp_path / "router")
    return tmp_path / "router"


@pytest.mark.slow
def test_an_entry_has_its_pages_from_the_record_alone(gallery: dict[str, Any], entry: Path) -> None:
    made = gallery["read"](entry)
    overview = "\n".join(gallery["overview"](made))
    assert "| 2&nbsp;Mar | 0% | **fail**: prompts | 12,345 | 0.432 | 1.5 | 17 | 0.25 | 0.812 |" in overview
    assert "| 9&nbsp;Mar | 50% | **fail**: prompts | 12,345 | – | – | – | – | – |" in overview
    assert "rolled back after 48 requests, 12 s" in overview
    assert "* no cluster followed the rollback" in overview
    assert "exact-match **0.9**; " in overview
    assert "24,690 requests, 2 of 2 windows fail" in "\n".join(gallery["index"]([made]))
    assert set(made.files) == {"index.html", "v0.1.0.html", "v0.2.0.html", "v0.3.0.html"}
    assert "12,345" in made.documents["report"]
    assert "<h3>" in made.documents["comment"]
    assert "<h2>Evaluation</h2>" in made.documents["model"]
    assert "<h2>Source</h2>" in made.documents["data"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["record.bundle", "record.tar.xz", "params.yaml"])
def test_a_changed_byte_of_a_record_is_refused(gallery: dict[str, Any], entry: Path, name: str) -> None:
    data = bytearray((entry / name).read_bytes())
    data[len(data) // 2] ^= 1
    (entry / name).write_bytes(data)
    with pytest.raises(PluginError, match=rf"{name}: is not the file that record.json names; restore it from git"):
        gallery["read"](entry)


@pytest.mark.slow
def test_the_site_has_the_pages_of_an_entry(entry: Path, tmp_path: Path) -> None:
    docs = tmp_path / "docs" / "gallery"
    shutil.copytree(entry, docs / "router")
    shutil.copy(REPOSITORY / "docs" / "gallery" / "index.md", docs)
    whole = (REPOSITORY / ".ci" / "mkdocs.yml").read_text()
    kept = re.findall(
        r"^(?:strict|use_directory_urls|not_in_nav): .*\n|^exclude_docs: .*\n(?:  .*\n)+", whole, re.MULTILINE
    )
    settings = yaml.safe_load("".join(kept))
    settings |= {"site_name": "Gallery", "hooks": [str(REPOSITORY / ".ci" / "gallery.py")]}
    (tmp_path / "mkdocs.yml").write_text(yaml.safe_dump(settings))
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", str(tmp_path / "mkdocs.yml")]
    env = os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(build, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    made = tmp_path / "site" / "gallery"
    pages = {path.relative_to(made).as_posix(): path for path in made.rglob("*.html")}
    assert 'href="router/index.html"' in pages["index.html"].read_text()
    assert 'href="release/v0.2.0.html"' in pages["router/index.html"].read_text()
    assert "<h3>" in pages["router/comment.html"].read_text()
    assert "12,345" in pages["router/report.html"].read_text()
    assert (entry / "params.yaml").read_bytes() == (made / "router" / "params.yaml").read_bytes()
    assert not list((tmp_path / "site").rglob("record.*"))


NOW = datetime(2026, 12, 1, tzinfo=UTC)


def drawn(size: int) -> list[making.Window]:
    """A month of rows that are of three slices in equal shares."""
    told = (Message(role="user", content="List every disk."),)
    rows = [
        Row(id=f"{number}", messages=told, reference="vm", group="1", slice=name, source="a:1")
        for number, name in enumerate(["list", "show", "create"] * 20)
    ]
    return list(making.month(rows, size, NOW))


def test_a_month_has_drift_in_some_windows_alone_and_ends_now() -> None:
    windows = drawn(300)
    assert [window.shifted for window in windows] == [0, 0, 0.3, 0.6, 0]
    assert {len(part) for window in windows for part in (window.rows, window.users)} == {300}
    assert all(max(Counter(window.users).values()) == 3 for window in windows)
    assert (windows[0].began, windows[-1].until) == (NOW - timedelta(days=30), NOW)
    assert all(before.until == after.began for before, after in itertools.pairwise(windows))
    most = [max(Counter(row.slice for row in window.rows).values()) / 300 for window in windows]
    assert max(range(5), key=most.__getitem__) == 3
    assert most[3] > 0.6


def test_requests_are_dated_over_the_days_of_their_window(tmp_path: Path) -> None:
    windows = drawn(3)
    replayed = tmp_path / "production" / "2026-12-01" / "09-gateway.jsonl"
    replayed.parent.mkdir(parents=True)
    names = [window.request_id(number) for window in windows for number in range(3)]
    rows = [{"lockstep.request_id": name, "time": "2026-12-01T09:00:00Z"} for name in names]
    replayed.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    making.date(tmp_path, windows)
    days = sorted(path.parent.name for path in tmp_path.rglob("*.jsonl"))
    assert days == [f"{NOW - timedelta(days=30 - day):%Y-%m-%d}" for day in range(0, 30, 2)]
    kept = (tmp_path / "production" / "2026-11-03" / "00-gateway.jsonl").read_text()
    assert json.loads(kept) == {"lockstep.request_id": "w01-0001", "time": "2026-11-03T00:00:00Z"}


class Prepared(Loop):
    """A repository whose splits are there already."""

    def lockstep(self, *arguments: str, code: int | None = 0) -> str:
        assert (arguments, code) == (("dvc", "repro", "prepare"), 0)
        return ""

    def commit(self, message: str) -> None:
        """Commit nothing."""


def test_a_worse_answer_is_that_of_the_most_similar_request_to_learn_from(tmp_path: Path) -> None:
    splits = {
        "train": [("Stop the machine", "vm"), ("List the disks", "disk"), ("Stop the cluster", "aks")],
        "valid": [("Start the cluster", "aks"), ("Show the cluster disks", "disk")],
        "test": [("Stop the machine now", "unheard of"), ("List the machines", "vm")],
    }
    for name, rows in splits.items():
        lines = [
            Row(
                id=f"{name}-{number}", messages=(Message(role="user", content=prompt),), reference=answer, group="1",
                slice=answer, source="a:1",
            )
            for number, (prompt, answer) in enumerate(rows)
        ]  # fmt: skip
        files.write_jsonl(tmp_path / layout.SPLITS / f"{name}.jsonl", lines)
    making.prefer(Prepared(tmp_path))
    written = [json.loads(line) for line in (tmp_path / "sources" / "answers.jsonl").read_text().splitlines()]
    assert [(row["question"], row["team"]) for row in written] == list(itertools.chain(*splits.values()))
    # Never "unheard of", which only a test row has, and never the right answer itself.
    assert [row["worse"] for row in written] == ["aks", None, "vm", None, "aks", None, "disk"]
    assert (tmp_path / "params.yaml").read_text() == making.params_of("steps")


def test_a_configuration_that_does_not_exist_is_refused_with_those_that_do() -> None:
    with pytest.raises(SystemExit, match=r"nothing: is no configuration; there are .*service-router"):
        making.params_of("nothing")


def test_every_entry_in_git_has_the_bytes_and_the_parameters_that_it_names(gallery: dict[str, Any]) -> None:
    for record in ENTRIES:
        gallery["check"](record.parent)
    kept = {record.parent.name: (record.parent / "params.yaml").read_text() for record in ENTRIES}
    assert kept == {name: making.params_of(name) for name in kept}, "record it again: python -m benchmarks.gallery NAME"


def test_the_entries_are_small() -> None:
    sizes = [path.stat().st_size for path in (REPOSITORY / "docs" / "gallery").rglob("*") if path.is_file()]
    assert sum(sizes) <= MOST
