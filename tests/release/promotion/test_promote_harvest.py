"""A promotion holds harvested rows to their review, in the record's commit, by the signers of the target branch."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from checks.config import params_file
from checks.formats.harvest import ERASED, Erased, HarvestedRow, Judged, Origin, Review, request_digest, source_bytes
from checks.formats.signers import Role
from checks.process.errors import EvidenceRefused
from checks.records.rows import Message
from checks.storage import digest, files, layout
from release.evidence import harvest_reviews, trust
from release.promotion import record_checks
from release.record.records import Records
from release.verbs import keys as key_verbs
from tests import ledger_tree
from tests import pipeline_repository as repository
from tests import promotion_tree as tree
from tests.conftest import REPOSITORY

pytestmark = pytest.mark.slow

alone = tree.alone
ROW = HarvestedRow(
    id=request_digest("r1"), environment="production", release="2bf8835691b3",
    messages=(Message(role="user", content="Restore a vault"), Message(role="assistant", content="vm")),
)  # fmt: skip
ROWS = source_bytes([ROW])
SHA256 = digest.of_bytes(ROWS).removeprefix("sha256:")
REVIEW = Review(
    environment="production", since=None, until=None, uri="s3://bucket/rows.jsonl", sha256=SHA256, license="MIT",
    consent="Terms, section 4", compared=("test", "valid"), requests=1, labelled=1, refused={}, as_answered=0,
    origins=(Origin(request=ROW.id, release=ROW.release),),
)  # fmt: skip


def edit(plain: dict[str, Any]) -> None:
    del plain["gates"]["licences_agree"]  # It reads what fetch says of each source, and nothing is fetched here.
    columns = {"messages": "messages", "id": "id"}
    plain["data"]["sources"] = {
        "users": {
            "uri": REVIEW.uri, "sha256": SHA256, "license": "MIT", "splits": ["train"],
            "review": "labels/harvest/production.json",
            "loader": {"kind": "table", "files": "*.jsonl", "columns": columns},
        }
    }  # fmt: skip


def add(root: Path, name: str, role: Role) -> Path:
    made = key_verbs.new(root, name, (role,), root / ".lockstep" / "keys" / f"{name}.key")
    key_verbs.add_signer(root, name, (role,), made.public)
    ledger_tree.keep(root, f"{name} signs")
    return made.private


def test_a_promotion_needs_the_signature_and_no_erased_request(tmp_path: Path) -> None:
    root = tmp_path / "work"
    tree.make(root, edit)
    missing = "labels/harvest/production.json and labels/harvest/production.intoto.json: missing"
    assert missing in tree.gaps(root, "staging")

    key = add(root, "eve", "harvest")
    signatory = trust.signatory(key, trust.known(root), "harvest")
    files.write_json(root / "labels/harvest/production.json", REVIEW)
    harvest_reviews.sign(root, REVIEW, ROWS, signatory)
    tree.next_model(root, 7)
    assert _of_policy(root) == ""

    files.write_jsonl(root / ERASED, [Erased(request=ROW.id)])
    ledger_tree.keep(root, "somebody left")
    assert "data.sources.users: 1 of its 1 requests were erased" in tree.gaps(root, "staging")


def test_a_record_that_was_merged_with_a_weaker_judge_is_no_measure_of_its_own_rows(tmp_path: Path) -> None:
    """A proposal allows more errors, takes that back in its next commit, and is merged."""

    def weaker(plain: dict[str, Any]) -> None:
        edit(plain)
        plain["suites"] = {"right": suite(0.9)}

    root = tmp_path / "work"
    tree.make(root, weaker)
    key = add(root, "eve", "harvest")
    judge = params_file.load(root / layout.PARAMS).suites["right"].model_dump(mode="json")["judge"]
    judged = Judged(suite="right", judge=digest.of_json(judge), asked=1, labelled=20, wrong=2)
    by_judge = Origin(request=ROW.id, release=ROW.release, by="judge")
    review = REVIEW.model_copy(update={"judged": judged, "origins": (by_judge,)})
    files.write_json(root / "labels/harvest/production.json", review)
    harvest_reviews.sign(root, review, ROWS, trust.signatory(key, trust.known(root), "harvest"))
    tree.next_model(root, 7)
    assert _of_policy(root) == ""
    tree.rewrite(root, layout.PARAMS, lambda plain: plain.update(suites={"right": suite(0.1)}))
    said = "people say that 2 of 20 answers that its judge calls right are wrong: up to 28.3% may be (95 % bound)"
    assert f"{said}, and harvest_error is 10.0%" in _of_policy(root)
    tree.rewrite(root, layout.PARAMS, lambda plain: plain.update(suites={}))
    assert "suites.right: has no harvest_error, so its judge may label no rows" in _of_policy(root)


def suite(at_most: float) -> dict[str, Any]:
    """A suite whose judge may label requests."""
    return {
        "kind": "judged", "metrics": {"right": {"low": 0.0, "high": 1.0}}, "noise": 0.0, "models": ["candidate"],
        "max_unparsed": 0.0, "harvest_error": at_most,
        "judge": {
            "kind": "openai", "url_from": "JUDGE_URL", "model": "judge-1", "prompt": "Is it right? $answer", "seed": 1,
            "max_tokens": 9, "value": "Score: ([01])",
        },
    }  # fmt: skip


def test_a_model_that_went_on_from_one_that_learned_an_erased_request_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "work"
    repository.git(tmp_path, "init", "--quiet", "work")
    report = json.loads((REPOSITORY / layout.TRAIN_REPORT).read_text())
    files.write_json(root / "labels/harvest/production.json", REVIEW)
    files.write_text(root / layout.LOCK, f"schema: '2.0'\nstages: {{fetch: {SHA256}}}\n")
    files.write_text(root / layout.TRAIN_REPORT, json.dumps(report))
    first = ledger_tree.keep(root, "it learned the request")
    some = digest.of_bytes(b"")
    start = {"commit": first, "model": some, "adapter": some, "learned": some, "licenses": {"main": None}}
    files.write_text(root / layout.LOCK, "schema: '2.0'\nstages: {}\n")
    files.write_text(root / layout.TRAIN_REPORT, json.dumps({**report, "start": start}))
    second = ledger_tree.keep(root, "it went on, without the source")

    def context(trunk: str) -> Any:
        return SimpleNamespace(root=root, trunk=trunk, records=Records(root))

    record_checks._learned_what_was_erased(context(second), second)
    files.write_jsonl(root / ERASED, [Erased(request=ROW.id)])
    trunk = ledger_tree.keep(root, "somebody left")
    with pytest.raises(
        EvidenceRefused, match=f"the model of commit {first[:12]}, which learned requests that were erased"
    ):
        record_checks._learned_what_was_erased(context(trunk), second)


def _of_policy(root: Path) -> str:
    """What the check of the policy says of the last release."""
    planned = tree.move(root, "staging", dry_run=True)
    return "\n".join(failure.what for check in planned.checks if check.about == "policy" for failure in check.failures)
