"""A promotion holds harvested rows to their review, in the record's commit, by the signers of the target branch."""

from pathlib import Path
from typing import Any

import pytest

from checks.formats.harvest import ERASED, Erased, HarvestedRow, Origin, Review, request_digest, source_bytes
from checks.formats.signers import Role
from checks.records.rows import Message
from checks.storage import digest, files
from release.evidence import harvest_reviews, trust
from release.verbs import keys as key_verbs
from tests import ledger_tree
from tests import promotion_tree as tree

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


def _of_policy(root: Path) -> str:
    """What the check of the policy says of the last release."""
    planned = tree.move(root, "staging", dry_run=True)
    return "\n".join(failure.what for check in planned.checks if check.about == "policy" for failure in check.failures)
