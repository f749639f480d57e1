"""gate --explain: five lines for every kind, whatever it found."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from checks import files, gates, layout
from checks.formats.verdict import Finding, Verdict
from checks.gates import Gate
from release.cli import main
from release.verbs import explain
from tests import evidence_tree
from tests.conftest import as_params
from tests.pipeline_repository import write_params

GATES: dict[str, dict[str, Any]] = {
    "routes": {"kind": "threshold", "metric": "exact-match", "at_least": 0.7, "confidence": 0.95, "resolution": 0.4},
    "errs_little": {"kind": "threshold", "metric": "exact-match", "at_most": 0.999, "confidence": 0.95, "resolution": 0.4},
    "beats": {"kind": "improves", "metric": "exact-match", "against": "base", "margin": 0.0, "confidence": 0.95},
    "keeps": {"kind": "non_inferior", "metric": "exact-match", "against": "base", "margin": 0.2, "confidence": 0.95},
    "first": {"kind": "non_inferior", "metric": "exact-match", "against": "production", "margin": 0.2, "confidence": 0.95},
    "slices": {"kind": "slice", "metric": "exact-match", "against": "base", "margin": 0.3, "confidence": 0.95, "min_rows": 10},
    "data": {"kind": "data"},
    "parity": {"kind": "parity", "max_logprob_diff": 0.25, "min_top1": 0.97},
    "unseen": {"kind": "contamination", "ngram": 13, "max_ngram_share": 0.01, "shingle": 5, "similarity": 0.8, "max_near_duplicate_share": 0.02},
    "private": {"kind": "privacy", "detectors": ["email", "phone"]},
    "own_words": {"kind": "regurgitation", "words": 30, "at_most": 0.02, "confidence": 0.95},
    "license": {"kind": "license", "allow": ["MIT", "Apache-2.0"], "adapter": "Apache-2.0", "commercial": True},
    "budget": {"kind": "budget", "artifact_mb": 600, "parameters_millions": 200},
    "fresh": {"kind": "looks", "most": 20},
    "remembers": {
        "kind": "remembers", "suite": "english", "metric": "bits-per-byte", "against": "base", "allowance": 0.2,
        "confidence": 0.95,
    },
    "secrets": {
        "kind": "exposure", "suite": "canaries", "metric": "exposure", "bits": 5, "at_most": 0.25, "confidence": 0.95,
    },
    "sound": {"kind": "judge", "suite": "chat", "min_agreement": 0.8, "max_flips": 0.05, "confidence": 0.95},
    "liked": {
        "kind": "improves", "suite": "chat", "metric": "human", "assisted_by": "judge", "against": "base", "margin": 0.0,
        "confidence": 0.95,
    },
}  # fmt: skip
_PINNED = {"uri": "texts.jsonl", "sha256": "0" * 64, "license": None}
SUITES = {
    "english": {
        "kind": "loss", "text": {"uri": "texts.jsonl", "sha256": "0" * 64, "license": None}, "precision": "bf16",
        "models": ["candidate", "base"],
    },
    "canaries": {
        "kind": "exposure", "file": _PINNED, "samples": 20, "candidates": 63, "precision": "bf16",
        "models": ["candidate", "base"],
    },
    "chat": {
        "kind": "pairwise", "question": "Which?", "against": "base", "rows": 100, "seed": 1, "labels": None, "anchor": _PINNED,
        "judge": {
            "kind": "openai", "url_from": "JUDGE", "model": "m", "prompt": "$left $right", "value": "(left|right|tie)",
            "seed": 1, "max_tokens": 9,
        },
    },
}  # fmt: skip
# What the question must say of each gate: its own numbers.
NUMBERS: dict[str, tuple[str, ...]] = {
    "routes": ("at least 0.7", "99.75%", "±0.4", "exact-match"),
    "errs_little": ("at most 0.999",),
    "beats": ("better than that of base at all", "99.75%"),
    "keeps": ("not lower than that of base by 0.2 or more",),
    "first": ("production",),
    "slices": ("under 10 rows", "0.3", "base"),
    "data": ("expectation",),
    "parity": ("0.25 nats", "97.0%"),
    "unseen": ("13 words", "1.0%", "2.0%", "5-character", "0.8"),
    "private": ("email, phone", "train split"),
    "own_words": ("30 words or more", "2.00%", "99.75%"),
    "license": ("Apache-2.0", "commercially", "MIT"),
    "budget": ("artifact_mb 600", "parameters_millions 200"),
    "fresh": ("one of the first 20 models",),
    "sound": ("judge of suite chat", "80%", "95%", "5%"),
    "liked": ("do people, as the judge assists them, prefer", "base", "more than 0 of all rows", "99.75%"),
    "secrets": ("secrets of suite canaries", "25.00%", "5 bits", "99.75%"),
    "remembers": ("samples of suite english", "less than 0.2 bits per byte", "base", "99.75%"),
}


def _finding(gate: Gate, **figures: Any) -> Finding:
    values: dict[str, Any] = {"gate": "it", "kind": gate.kind, "status": "fail", "reason": "what was found"}
    return Finding(**values | figures)


def _explained(gate: Gate, finding: Finding) -> explain.Explanation:
    digest = "sha256:" + "0" * 64
    verdict = Verdict(status=finding.status, model=digest, policy=digest, judged={}, findings=(finding,))
    return explain.of("it", gate, verdict)


@pytest.fixture
def run(tmp_path: Path, document: dict) -> Path:
    """A repository with one gate of every kind, judged."""
    document |= {"gates": GATES, "suites": SUITES}
    document["prepare"]["personal_data"] = {"detectors": ["email", "phone"]}
    write_params(tmp_path, document)
    params = as_params(document)
    evidence_tree.build(tmp_path, params, 200, 180)
    evidence_tree.judged(tmp_path, params)
    return tmp_path


def _lockstep(root: Path, *args: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["-C", str(root), "gate", *args])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


@pytest.mark.slow
def test_every_kind_is_explained_with_its_numbers_and_its_finding(run: Path) -> None:
    verdict = files.read_json(run / layout.VERDICT, Verdict)
    for finding in verdict.findings:
        lines = explain.explain(run, finding.gate)
        assert len(lines) == 5
        assert all(line and "\n" not in line and "None" not in line for line in lines), lines
        assert all(number in lines.asks for number in NUMBERS[finding.gate]), lines.asks
        assert lines.found.startswith(f"{finding.status}: ")
        assert str(layout.VERDICT) in lines.look
        if finding.p is None:
            assert finding.reason in lines.found
        else:
            assert f"on {finding.n} rows" in lines.found
            assert f"p {finding.p:.3g}" in lines.found
            assert finding.method is not None
            assert finding.method in lines.decided


def test_the_table_of_this_test_has_every_kind() -> None:
    assert {gate["kind"] for gate in GATES.values()} == set(gates.KINDS.kinds)
    assert set(NUMBERS) == set(GATES)


@pytest.mark.parametrize("status", ["pass", "fail", "inconclusive"])
@pytest.mark.parametrize("name", GATES)
def test_a_finding_without_figures_is_explained_too(document: dict, name: str, status: str) -> None:
    document |= {"gates": GATES, "suites": SUITES}
    document["prepare"]["personal_data"] = {"detectors": ["email", "phone"]}
    gate = as_params(document).gates[name]
    lines = _explained(gate, _finding(gate, status=status))
    assert lines.found == f"{status}: what was found"
    assert all(line and "None" not in line for line in lines), lines


def test_what_would_pass_is_said_with_the_field_that_says_it(document: dict) -> None:
    document |= {"gates": GATES, "suites": SUITES}
    document["prepare"]["personal_data"] = {"detectors": ["email", "phone"]}
    asked = as_params(document).gates
    figures: dict[str, Any] = {
        "metric": "exact-match", "value": 0.05, "low": 0.01, "high": 0.09, "bound": 0.0, "p": 0.01, "p_holm": 0.02,
        "detectable": 0.06, "n": 200, "method": "exact McNemar test",
    }  # fmt: skip
    paired = figures | {"against": "base", "gained": 12, "lost": 2}
    lost = paired | {"value": -0.05, "low": -0.09, "high": -0.01, "gained": 2, "lost": 12}

    def change(name: str, **found: Any) -> str:
        return _explained(asked[name], _finding(asked[name], **found)).change

    assert "gates.it.at_least up to 0.01" in change("routes", **figures)
    assert "gates.it.at_most down to 0.09" in change("errs_little", **figures)
    assert "gates.it.margin below 0.01" in change("beats", **paired)
    assert "clear no gates.it.margin" in change("beats", **lost)
    assert "gates.it.margin above 0.09" in change("keeps", **lost)
    level = paired | {"value": 0.0, "low": -0.02}
    assert "gates.it.margin above 0.02" in change("keeps", **level)
    assert "every gates.it.margin is cleared" in change("keeps", **paired)
    assert "the rows of that slice clear" in change("slices", **lost, slice="create")
    assert "about 700 rows like these would decide (before" in change("keeps", **paired, rows_needed=700)
    clustered = change("keeps", **paired, rows_needed=700, groups_needed=70)
    assert "about 700 rows in 70 groups like these would decide" in clustered
    assert "gates.it.artifact_mb: 4 is the figure" in change("budget", metric="artifact_mb", value=4.0)


@pytest.mark.slow
def test_the_command_prints_five_lines_and_exits_with_0_whatever_the_gate_says(tmp_path: Path, document: dict) -> None:
    document["gates"] = {"routes": GATES["routes"]}
    write_params(tmp_path, document)
    params = as_params(document)
    evidence_tree.build(tmp_path, params, 40, 5)
    evidence_tree.judged(tmp_path, params)
    code, output = _lockstep(tmp_path, "--explain", "routes")
    assert code == 0
    assert [line.split()[0] for line in output.splitlines()] == ["asks", "found", "decided", "change", "look"]
    assert "fail: exact-match 0.1250" in output
    code, output = _lockstep(tmp_path, "--explain", "routes", "--json")
    assert code == 0
    assert json.loads(output)["decided"] == explain.explain(tmp_path, "routes").decided
    assert _lockstep(tmp_path)[0] == 10


@pytest.mark.slow
def test_a_name_that_no_gate_has_is_refused_with_the_names_there_are(run: Path) -> None:
    code, output = _lockstep(run, "--explain", "rotes")
    assert code == 8
    assert output.startswith("lockstep: no gate is called 'rotes'; name one of routes, errs_little, beats")


@pytest.mark.slow
def test_a_void_verdict_is_not_explained(run: Path) -> None:
    (run / "models/merged/weights.bin").write_bytes(b"other")
    code, output = _lockstep(run, "--explain", "routes")
    assert code == 8
    assert "the verdict does not hold" in output


@pytest.mark.slow
def test_two_questions_at_once_are_a_wrong_command_line(run: Path) -> None:
    assert _lockstep(run, "--explain", "routes", "--policy-from", "main")[0] == 2
