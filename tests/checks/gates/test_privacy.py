"""Personal data in training rows: refused before training, and found again by the gate in the rows themselves."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from checks.evaluation import scoring
from checks.formats.evidence import Evidence
from checks.gates.privacy import PrivacyGate
from checks.gating import chain
from checks.process.errors import ParamsRefused
from checks.records.rows import Learned
from tests import evidence_tree
from tests.conftest import as_params, scaled_down


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    """Evidence of a good run."""
    root, params = tmp_path_factory.mktemp("run"), as_params(scaled_down())
    evidence_tree.build(root, params)
    return chain.gather(root, scoring.digest_of(params.evaluate.scorers))


MAIL, PHONE, KEY = "ada@bank.example", "+44 20 7946 0958", "hf_" + "c" * 34
ALL = ["email", "phone", "secret"]


@pytest.mark.parametrize(
    ("texts", "wanted", "count", "said"),
    [
        ([("list disks", "az disk list"), ("show a disk", "az disk show")], {}, 0, "0 of 2 train rows have personal data or a secret"),
        ([(f"mail {MAIL}", "x"), ("y", "z")], {}, 1, "1 of 2 train rows have personal data or a secret: email 1; f.py:0"),
        ([("y", "z"), ("x", f"call {PHONE} or {MAIL}")], {}, 1, ": phone 1, email 1; f.py:1"),
        ([("y", "z", f"system {KEY}")], {}, 1, "1 of 1 train rows have personal data or a secret: secret 1; f.py:0"),
        ([(MAIL, MAIL)] * 5, {}, 5, ": email 10; f.py:0, f.py:1, f.py:2 and 2 more"),
        ([(f"mail {MAIL}", PHONE)], {"detectors": ["secret"]}, 0, "0 of 1"),
        ([("mail Ada@Bank.Example", "")], {"allow": [MAIL]}, 0, "0 of 1"),
        ([(MAIL, "")], {"allow": ["@bank.example"]}, 0, "0 of 1"),
        ([(MAIL, "")], {"allow": ["@ank.example", "da@bank.example", "bank.example"]}, 1, "email 1"),
    ],
)  # fmt: skip
def test_rows_with_personal_data_are_counted_and_no_word_of_it_is_told(
    ground: Evidence, texts: Sequence[Sequence[str]], wanted: dict[str, Any], count: int, said: str
) -> None:
    gate = PrivacyGate.model_validate({"kind": "privacy", "detectors": ALL, **wanted})
    rows = tuple(Learned(text, f"f.py:{number}", tuple(further)) for number, (text, *further) in enumerate(texts))
    finding = evidence_tree.asked("private", gate, replace(ground, train=rows))
    assert (finding.status, finding.value, finding.n) == ("fail" if count else "pass", count, len(texts))
    assert said in finding.reason
    assert not any(each in finding.reason for each in (MAIL, PHONE, KEY))


def test_the_gate_reads_the_split_itself(ground: Evidence, tmp_path: Path) -> None:
    del ground
    document = scaled_down()
    document["prepare"]["personal_data"] = {"detectors": ALL}
    document["gates"] = {"private": {"kind": "privacy", "detectors": ALL}}
    params = as_params(document)
    evidence_tree.build(tmp_path, params)
    evidence = chain.gather(tmp_path, scoring.digest_of(params.evaluate.scorers))
    assert all(row.further for row in evidence.train)
    assert evidence_tree.asked("private", params.gates["private"], evidence).status == "pass"
    gone = replace(evidence, gaps={"data/splits/train.jsonl": "data/splits/train.jsonl: is missing"})
    for without in (gone, replace(evidence, train=())):
        assert evidence_tree.asked("private", params.gates["private"], without).reason.startswith(
            "no evidence: data/spl"
        )


@pytest.mark.parametrize(
    ("before", "said"),
    [
        (None, "prepare.personal_data: is not written, so rows that gate 'private' refuses would be trained on first"),
        ({"detectors": ["email", "secret"]}, "prepare.personal_data.detectors: lacks phone, which gates.private"),
        ({"detectors": ALL, "allow": ["@bank.example"]}, "prepare.personal_data.allow: '@bank.example' is not in gates.private"),
        ({"detectors": ["mail"]}, "prepare.personal_data.detectors.0: "),
        ({"detectors": []}, "prepare.personal_data.detectors: "),
    ],
)  # fmt: skip
def test_what_the_gate_refuses_is_refused_before_training(before: dict[str, Any] | None, said: str) -> None:
    document = scaled_down()
    document["prepare"]["personal_data"] = before
    document["gates"]["private"] = {"kind": "privacy", "detectors": ALL}
    with pytest.raises(ParamsRefused) as refused:
        as_params(document)
    assert said in str(refused.value)
