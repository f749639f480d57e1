"""A ledger whose pages have something of everything, with texts as people and attackers write them. No torch.

v0.1.0 ran in production, v0.2.0 runs there, v0.3.0 was rolled back in staging and is in quarantine.
"""

import random
import shutil
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from checks.config.params import Params
from checks.formats.suite_report import SuiteLine, SuiteResult, SuitesReport
from checks.formats.training_reports import ParityReport
from checks.records.rows import Prediction, Row
from checks.storage import digest, files, layout
from release.verbs.rollback import rollback
from tests import build_tree, evidence_tree, promotion_tree
from tests.conftest import REPOSITORY, as_params, read_yaml, written
from tests.ledger_tree import keep, packed
from tests.once import shared
from tests.release.serving.test_verify_evidence import probed

ATTACK = "</code></pre><script>alert('{}')</script>\x1b[31m\u202e"
WHY = "better on <b>rare</b> services; see https://tracker.example/77"
BAD = "answers in French: « créer »"


def ledger() -> Path:
    """The clone, made once. Read-only by custom."""
    return shared("pages", _make_ledger) / "work"


def _make_ledger(folder: Path) -> None:
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        promotion_tree.leave_alone(patch)
        make(folder / "work")
    packed(folder / "work")


def make(root: Path) -> None:
    """Lay out the clone below ``root``, with one environment after the other moved."""
    root.mkdir(parents=True)
    shutil.copytree(REPOSITORY / "docs" / "cards", root / "docs" / "cards")
    promotion_tree.prepare(root)
    plain = read_yaml((root / layout.PARAMS).read_text())
    for number, (right, seed) in enumerate(((33, 10), (36, 11), (30, 12))):
        _change(plain, number)
        _record(root, plain, right, seed)
        promotion_tree.release(root)
        promotion_tree.move(root, "staging", why=WHY)
        if number < 2:
            promotion_tree.move(root, "production", why=WHY)
    rollback(root, "staging", why=BAD)


def _change(plain: dict[str, Any], number: int) -> None:
    """What the release ``number`` changes of params.yaml."""
    plain["gates"]["earns_its_cost"] = {
        "kind": "improves", "metric": "exact-match", "against": "naive-bayes", "margin": 0.0, "confidence": 0.95,
    }  # fmt: skip
    plain["suites"] = {
        "english": {
            "kind": "loss", "text": {"uri": "texts.jsonl", "sha256": "0" * 64, "license": "MIT"},
            "precision": "bf16" if number else "fp32", "models": ["candidate", "base"],
        }
    }  # fmt: skip
    if number == 1:
        plain["train"]["lora"]["r"] = 16
        plain["train"]["learning_rate"] = 0.002
        plain["gates"]["routes_well"]["at_least"] = 0.3
        plain["evaluate"]["max_new_tokens"] = 24
    if number == 2:
        plain["gates"]["routes_well"]["at_least"] = 0.2


def _record(root: Path, plain: dict[str, Any], right: int, seed: int) -> None:
    """Commit the record of a run that answers ``right`` of 40 rows; its answers stay beside those of the next."""
    (root / layout.PARAMS).write_text(written(plain))
    params = as_params(plain)
    kept = root / layout.STATE / "kept"
    kept_suites = root / layout.STATE / "kept-suites"
    if (root / layout.SUITES).exists():
        shutil.copytree(root / layout.SUITES, kept_suites, dirs_exist_ok=True)
    if (root / layout.PREDICTIONS).exists():
        shutil.copytree(root / layout.PREDICTIONS, kept, dirs_exist_ok=True)
    for folder in ("data", "models", "reports"):
        shutil.rmtree(root / folder)
    evidence_tree.build(root, params)
    build_tree.weigh(root, build_tree.shards(seed=seed))
    _forgot(root, params, seed)
    test = files.read_jsonl(root / layout.SPLITS / "test.jsonl", Row)
    answers = [_worded(evidence_tree.predict(row, (n * 7 + seed) % 40 < right), n) for n, row in enumerate(test)]
    cheap = {
        "naive-bayes": [evidence_tree.predict(row, n % 2 == 0) for n, row in enumerate(test)],
        "majority": [evidence_tree.predict(row, n % 4 == 0) for n, row in enumerate(test)],
    }
    evidence_tree.evaluated(root, params, answers, **cheap)
    for path in kept_suites.glob("*-[0-9]*.jsonl"):
        shutil.copy(path, root / layout.SUITES)
    for path in kept.glob("*-[0-9]*.jsonl"):
        shutil.copy(path, root / layout.PREDICTIONS)
    for name in ("candidate", *cheap):
        shutil.copy(root / layout.PREDICTIONS / f"{name}.jsonl", root / layout.PREDICTIONS / f"{name}-{seed}.jsonl")
    evidence_tree.judged(root, params)
    probed(root, params)
    keep(root, f"a record of {right}")


def _forgot(root: Path, params: Params, seed: int) -> None:
    """Scores of a suite of texts, of which each release forgets more; the first was asked in another precision."""
    draw, result = random.Random(seed), {}
    parity = files.read_json(root / layout.PARITY_REPORT, ParityReport)
    ours, base = parity.merged, parity.base
    for name, suite in params.suites.items():
        lines = [
            SuiteLine(
                sample=f"t{number}", sample_sha=base, model=model, metric="bits-per-byte", group=f"t{number}", slice="all",
                value=round(1 + by * (seed - 9) * draw.uniform(0.5, 1.5), 6), source="pure", source_digest=base,
            )
            for model, by in ((ours, 0.02), (base, 0.0)) for number in range(24)
        ]  # fmt: skip
        path = root / layout.SUITES / f"{name}.jsonl"
        files.write_jsonl(path, lines)
        files.write_jsonl(path.with_name(f"{name}-{seed}.jsonl"), lines)
        means = [fmean(line.value for line in lines if line.model == model) for model in (ours, base)]
        result[name] = SuiteResult(
            kind="loss", asked=digest.of_json(suite.model_dump(mode="json")), source="pure", lines=digest.of_file(path).sha256,
            samples=24, models={"candidate": ours, "base": base}, files={}, chance=4.0,
            means={"candidate": {"bits-per-byte": means[0]}, "base": {"bits-per-byte": means[1]}},
        )  # fmt: skip
    files.write_json(root / layout.SUITES_REPORT, SuitesReport(suites=result))


def _worded(each: Prediction, number: int) -> Prediction:
    """The answer; a wrong one is what an attacker would have a model answer."""
    return each if each.score else each.model_copy(update={"prediction": ATTACK.format(number)})
