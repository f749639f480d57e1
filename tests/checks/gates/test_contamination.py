"""Test rows that training has seen: shared runs of words, and the gate over these and near-duplicates."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from checks.data import contamination
from checks.decision.judging import judge
from checks.evaluation import scoring
from checks.formats.evidence import Evidence
from checks.formats.verdict import Finding
from checks.gates.contamination import ContaminationGate
from checks.gating import chain
from checks.records.rows import Learned, Message, Row
from checks.storage import layout
from tests import evidence_tree
from tests.conftest import as_params, scaled_down

SENTENCE = "Copy one object from the bucket into the archive that belongs to team seven"  # 14 words

# Few words, so that shared runs and near-duplicates are common.
requests = st.lists(st.lists(st.sampled_from(["a", "b", "c,", "D.", "list"]), max_size=6).map(" ".join), max_size=12)


# --- runs of words -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("test", "train", "length", "seen"),
    [
        ("please copy one object from the bucket now", SENTENCE, 6, True),
        ("please copy one object from the bucket now", SENTENCE, 7, False),
        ("COPY: one object, from the BUCKET!", SENTENCE, 6, True),
        ("ＣＯＰＹ one object from the bucket", SENTENCE, 6, True),
        ("copy one object", SENTENCE, 6, False),  # contained, but too short to mean anything
        ("copy one object", "Copy one object.", 6, True),
        ("copy one object from the bucket", "copy one object", 6, False),
        ("copy an object from that bucket here", SENTENCE, 6, False),
        ("…", "…", 3, False),  # without a word there is no run; near-duplicates tell
    ],
)
def test_a_request_is_seen_by_a_run_of_its_words_or_as_a_whole_where_it_is_shorter(
    test: str, train: str, length: int, seen: bool
) -> None:
    assert list(contamination.first_seen([test], ["something else", train], length)) == ([(0, 1)] if seen else [])


@pytest.mark.slow
@given(requests, requests, st.integers(1, 5))
def test_shared_runs_are_those_that_comparing_all_pairs_finds(test: list[str], train: list[str], length: int) -> None:
    def runs(text: str) -> set[tuple[str, ...]]:
        words = contamination.words(text)
        return {words[i : i + length] for i in range(max(1, len(words) - length + 1))} - {()}

    every = {i: [j for j, other in enumerate(train) if runs(text) & runs(other)] for i, text in enumerate(test)}
    assert list(contamination.first_seen(test, train, length)) == [(i, found[0]) for i, found in every.items() if found]


# --- the gate ----------------------------------------------------------------------------------------------------


def rows(split: str, texts: Sequence[str]) -> tuple[Row, ...]:
    """Rows that all have one system message, which must not count."""
    system = Message(role="system", content="Answer with the one service that owns the request, and with nothing else.")
    return tuple(
        Row(
            id=f"{split}-{i}",
            messages=(system, Message(role="user", content=text)),
            reference="vm",
            group=f"{split}{i}",
            slice="all",
            source=f"{split}.py:{i}",
        )
        for i, text in enumerate(texts)
    )


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    """Evidence of a good run."""
    root, params = tmp_path_factory.mktemp("run"), as_params(scaled_down())
    evidence_tree.build(root, params)
    return chain.gather(root, scoring.digest_of(params.evaluate.scorers))


DISTINCT = [
    "start a machine in zone two",
    "rotate every key of the vault",
    "who may read this queue",
    "drop old images",
]


def asked(ground: Evidence, test: Sequence[str], train: Sequence[str | Learned], **bounds: Any) -> Finding:
    settings = {
        "ngram": 8, "max_ngram_share": 0.25, "shingle": 5, "similarity": 0.8, "max_near_duplicate_share": 0.0, **bounds,
    }  # fmt: skip
    gate = ContaminationGate(kind="contamination", **settings)
    learned = tuple(
        each if isinstance(each, Learned) else Learned(each, f"train.py:{number}") for number, each in enumerate(train)
    )
    return evidence_tree.asked("test_is_unseen", gate, replace(ground, test=rows("test", test), train=learned))


def test_splits_that_share_only_the_system_message_pass(ground: Evidence) -> None:
    finding = asked(ground, DISTINCT[:2], DISTINCT[2:])
    assert (finding.status, finding.metric, finding.value, finding.n) == ("pass", "ngram_share", 0.0, 2)
    assert finding.reason == (
        "0 of 2 test rows (0.0%) share 8 words in a row with a train row, at most 25.0% may; "
        "0 of 2 test rows (0.0%) are 0.8 alike to a train row, at most 0.0% may"
    )


@pytest.mark.parametrize(
    ("copies", "bounds", "status", "metric", "value"),
    [
        (1, {}, "fail", "near_duplicate_share", 0.25),
        (1, {"max_near_duplicate_share": 0.25}, "pass", "ngram_share", 0.25),  # at the bound is within it
        (1, {"max_near_duplicate_share": 0.25, "max_ngram_share": 0.24}, "fail", "ngram_share", 0.25),
        (2, {"max_near_duplicate_share": 1.0}, "fail", "ngram_share", 0.5),
        (2, {"max_near_duplicate_share": 1.0, "max_ngram_share": 1.0}, "pass", "ngram_share", 0.5),
    ],
)
def test_a_share_above_its_bound_fails(
    ground: Evidence, copies: int, bounds: dict[str, float], status: str, metric: str, value: float
) -> None:
    copied = [f"{SENTENCE} number {i}" for i in range(copies)]
    finding = asked(ground, copied + DISTINCT[copies:], [SENTENCE, "unlike"], **bounds)
    assert (finding.status, finding.metric, finding.value, finding.n) == (status, metric, value, 4)


def test_a_run_of_words_counts_where_the_whole_is_not_alike(ground: Evidence) -> None:
    hidden = (
        f"As was written in the letter of last week, {SENTENCE.lower()}, and tell nobody about it until Monday noon"
    )
    finding = asked(ground, [hidden], [SENTENCE])
    assert (finding.status, finding.metric) == ("fail", "ngram_share")
    assert "0 of 1 test rows (0.0%) are 0.8 alike" in finding.reason


def test_a_request_that_a_chat_answers_before_its_last_turn_is_seen(ground: Evidence) -> None:
    last = f"{DISTINCT[0]}\nDone. It runs.\nNow tell everybody on the team who asked for it about the new machine"
    assert asked(ground, DISTINCT[:2], [DISTINCT[2], last]).status == "pass"
    chat = Learned(last, "train.py:chat", earlier=(DISTINCT[0],))
    finding = asked(ground, DISTINCT[:2], [DISTINCT[2], chat])
    assert (finding.status, finding.value) == ("fail", 0.5)
    assert finding.reason.count("1 of 2 test rows (50.0%)") == 2
    assert "test-0 (test.py:0) as train.py:chat" in finding.reason


def test_a_failure_names_three_rows_and_counts_the_others(ground: Evidence) -> None:
    finding = asked(ground, [*DISTINCT, SENTENCE, "unlike all"], ["unlike anything here", *DISTINCT, SENTENCE])
    near = "5 of 6 test rows (83.3%) are 0.8 alike to a train row, at most 0.0% may: test-0 (test.py:0) as train.py:1"
    assert near in finding.reason
    assert "test-2 (test.py:2) as train.py:3 and 2 more" in finding.reason
    assert "test-3" not in finding.reason


@pytest.mark.parametrize(("test", "train"), [([], DISTINCT), (DISTINCT, [])])
def test_a_split_without_rows_is_no_evidence(ground: Evidence, test: list[str], train: list[str]) -> None:
    finding = asked(ground, test, train)
    assert finding.status == "fail"
    assert finding.reason == f"no evidence: data/splits/{'train' if test else 'test'}.jsonl has no rows"


PATHS = [layout.TRAIN_REPORT, layout.EVALUATION, layout.SPLITS / "train.jsonl", layout.SPLITS / "test.jsonl"]


@pytest.mark.slow
@pytest.mark.parametrize("gone", PATHS, ids=str)
def test_the_verdict_asks_the_gate_and_misses_what_is_gone(tmp_path: Path, document: dict, gone: Path) -> None:
    document["gates"] = {
        "test_is_unseen": {
            "kind": "contamination", "ngram": 4, "max_ngram_share": 0.0, "shingle": 5, "similarity": 0.9,
            "max_near_duplicate_share": 0.0,
        }
    }  # fmt: skip
    params = as_params(document)
    evidence_tree.build(tmp_path, params)
    scorers = scoring.digest_of(params.evaluate.scorers)
    assert judge(params, chain.gather(tmp_path, scorers)).status == "pass"
    (tmp_path / gone).unlink()
    verdict = judge(params, chain.gather(tmp_path, scorers))
    assert verdict.status == "fail"
    assert gone.as_posix() in verdict.findings[0].reason
