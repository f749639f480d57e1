"""Records: a command parses each file of a record at most once for each place that holds it, and each shape it asks."""

import collections
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from checks.storage import layout, plain_yaml
from release.cost import estimate
from release.record.records import Commit, Records
from release.verbs import build, gate, page, promote, record, report, rollback, sign, status
from tests import promotion_tree as tree
from tests.ledger_tree import packed

pytestmark = pytest.mark.slow

alone = tree.alone


class Parses:
    """How often each text was parsed, by its digest, and the places that were asked for it."""

    def __init__(self) -> None:
        self.times: collections.Counter[tuple[str, str]] = collections.Counter()
        self.places: collections.defaultdict[str, set[str]] = collections.defaultdict(set)

    def saw(self, text: str | bytes, shape: str) -> None:
        self.times[_digest(text), shape] += 1


def _digest(text: str | bytes) -> str:
    return hashlib.sha256(text.encode() if isinstance(text, str) else text).hexdigest()


@pytest.fixture
def parses(monkeypatch: pytest.MonkeyPatch) -> Parses:
    found = Parses()
    read, data = plain_yaml.read, Commit.data
    validate = BaseModel.model_validate_json.__func__  # type: ignore[attr-defined]

    def counted(text: str) -> Any:
        found.saw(text, "YAML")
        return read(text)

    def validated(cls: type[BaseModel], text: str | bytes, /, **more: Any) -> Any:
        found.saw(text, cls.__qualname__)
        return validate(cls, text, **more)

    def asked(self: Commit, path: Path) -> bytes | None:
        if (text := data(self, path)) is not None:
            found.places[_digest(text)].add(self.name)
        return text

    monkeypatch.setattr(plain_yaml, "read", counted)
    monkeypatch.setattr(BaseModel, "model_validate_json", classmethod(validated))
    monkeypatch.setattr(Commit, "data", asked)
    return found


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone in which staging runs one release, and production an earlier one. Read-only by custom."""
    root = tmp_path_factory.mktemp("records") / "work"
    root.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        tree.leave_alone(patch)
        tree.make(root)
        tree.move(root, "staging")
        tree.move(root, "production")
        tree.next_model(root, 2)
        tree.move(root, "staging")
    return packed(root)


COMMANDS: dict[str, Callable[[Path], object]] = {
    "gate": gate.gate,
    "gate --policy-from": lambda root: gate.judge_from(root, "main"),
    "gate --explain": lambda root: gate.explain(root, "routes_well"),
    "report": lambda root: report.report(root),
    "estimate": estimate.estimate,
    "record": record.commit_record,
    "build --dry-run": lambda root: build.plan(root, build.BuildOptions()),
    "sign": lambda root: sign.collect(Records(root)),
    "status": status.status,
    "page": lambda root: page.page(root, root / "pages"),
    "promote --dry-run": lambda root: promote.promote(root, "production", dry_run=True),
    "rollback --dry-run": lambda root: rollback.rollback(root, "staging", why="slow", dry_run=True),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_parses_each_file_of_a_record_once(command: str, made: Path, tmp_path: Path, parses: Parses) -> None:
    root = tree.copy(made, tmp_path / "work")
    names = (
        layout.PARAMS,
        layout.LOCK,
        layout.PIPELINE,
        *(path.relative_to(root) for path in (root / layout.REPORTS).rglob("*.json")),
    )
    parses.times.clear()
    COMMANDS[command](root)
    here = {_digest((root / path).read_bytes()): path for path in names if (root / path).exists()}
    too_often = {
        (str(here[text]), shape): times
        for (text, shape), times in parses.times.items()
        if text in here and times > 1 + len(parses.places[text])
    }
    assert parses.times[_digest((root / layout.PARAMS).read_bytes()), "YAML"] >= 1
    assert too_often == {}
