"""A run with a suite of scores that another tool gave, without a model."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from checks.config.params import Params
from checks.decision import judging
from checks.evaluation import scoring
from checks.formats.suite_report import SuiteLine
from checks.formats.verdict import Verdict
from checks.gating import chain
from checks.process.errors import EvidenceRefused
from checks.storage import digest, files, layout
from stages.suites import suites
from tests import evidence_tree
from tests.conftest import as_params
from tests.pipeline_repository import write_params

SAMPLES = 60
OTHER = f"sha256:{'9' * 64}"  # Of no model here.
GATES = {
    "is_liked": {"kind": "threshold", "metric": "liked", "at_least": 0.5, "confidence": 0.95, "resolution": 0.2},
    "is_liked_more": {"kind": "improves", "metric": "liked", "against": "base", "margin": 0.0, "confidence": 0.95},
    "remembers": {"kind": "non_inferior", "metric": "liked", "against": "base", "margin": 0.1, "confidence": 0.95},
}


def lines_of(model: str, right: int, **change: Any) -> list[dict[str, Any]]:
    """A log of kind ``external``: the first ``right`` of the samples are liked, on a scale of 1 to 5."""
    return [
        {
            "sample": f"q{i}", "sample_sha": digest.of_json(i), "model": model, "metric": "liked",
            "value": 5.0 if i < right else 1.0, "group": f"g{i}", "slice": "even" if i % 2 else "odd",
        } | change
        for i in range(SAMPLES)
    ]  # fmt: skip


def pinned(path: Path, lines: list[dict[str, Any]] | None = None) -> dict[str, str]:
    """A file as params.yaml pins it, after ``lines`` were written to it."""
    if lines is not None:
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return {"uri": path.name, "sha256": digest.of_file(path).sha256.removeprefix("sha256:"), "license": "CC0-1.0"}


@dataclasses.dataclass
class Run:
    """A run without a suite, and what one would be made of."""

    root: Path
    document: dict[str, Any]
    merged: str
    base: str

    @property
    def suite(self) -> dict[str, Any]:
        found: dict[str, Any] = self.document["suites"]["chat"]
        return found

    def log(self, role: str, lines: list[dict[str, Any]]) -> None:
        """Pin a log of ``role``."""
        self.suite["logs"][role] = pinned(self.root / f"{role}.jsonl", lines)

    def params(self) -> Params:
        write_params(self.root, self.document)
        return as_params(self.document)

    def judged(self) -> Verdict:
        """The stage and the gates."""
        params = self.params()
        suites(params, self.root)
        return evidence_tree.judged(self.root, params)

    def again(self) -> Verdict:
        """The gates alone, on what lies there."""
        params = self.params()
        return judging.judge(params, chain.gather(self.root, scoring.digest_of(params.evaluate.scorers)))


@pytest.fixture
def run(tmp_path: Path, document: dict) -> Run:
    """With a suite ``chat`` of kind ``external``, whose candidate is liked in 54 samples and the base in 30."""
    document["gates"] = {"sound": {"kind": "data"}}
    evidence_tree.build(tmp_path, as_params(document))
    merged, base = (digest.of_tree(tmp_path / folder).digest for folder in (layout.MERGED, layout.BASE))
    liked = {"liked": {"low": 1.0, "high": 5.0}}
    external = {"kind": "external", "source": "human", "metrics": liked, "noise": 0.0, "samples": SAMPLES, "logs": {}}
    document["suites"] = {"chat": external}
    document["gates"] = {name: {**gate, "suite": "chat"} for name, gate in GATES.items()}
    found = Run(tmp_path, document, merged, base)
    found.log("candidate", lines_of(merged, 54))
    found.log("base", lines_of(base, 30))
    return found


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a JSON file."""
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def ask_of_log(run: Run, kind: str, metric: str) -> None:
    """Replace the suite by a log of ``kind`` with four samples, and the gates by one that asks ``metric``."""
    scale = {"low": 0.0, "high": 1.0}
    suite = {"kind": kind, "metrics": {metric: scale}, "noise": 0.0, "samples": 4, "group": "family", "slice": "topic"}
    gate = {"kind": "threshold", "metric": metric, "at_least": 0.1, "confidence": 0.8, "resolution": 0.4}
    run.document["suites"] = {"chat": {**suite, "logs": {}}}
    run.document["gates"] = {"knows": {**gate, "suite": "chat"}}


def pin_document(run: Run, document: Any) -> None:
    """Write a log that is one JSON document, and pin it as the candidate's."""
    path = run.root / "candidate.json"
    path.write_text(json.dumps(document))
    run.suite["logs"]["candidate"] = pinned(path)


def suite_lines(run: Run) -> list[SuiteLine]:
    """Run the stage suites, and return what it wrote."""
    suites(run.params(), run.root)
    return files.read_jsonl(run.root / layout.SUITES / "chat.jsonl", SuiteLine)


def refused(run: Run, line: str) -> None:
    """Check that the candidate's log is refused in one line, which has the words ``line``."""
    with pytest.raises(EvidenceRefused, match=rf"^params\.yaml: suites\.chat\.logs\.candidate: .*{line}") as caught:
        suite_lines(run)
    assert "\n" not in str(caught.value)
