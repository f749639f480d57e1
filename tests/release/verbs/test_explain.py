"""gate --explain: five lines for every kind, whatever it found."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from checks.formats.verdict import Finding, Verdict
from checks.kinds import gate as gate_kinds
from checks.kinds.gate import Gate
from checks.storage import files, layout
from release.cli import main
from release.verbs import gate as verb
from tests import evidence_tree, gate_samples
from tests.conftest import as_params
from tests.pipeline_repository import write_params

SAMPLES = gate_samples.samples()
GATES: dict[str, dict[str, Any]] = {
    **gate_samples.gates(),
    "first": {"kind": "non_inferior", "metric": "exact-match", "against": "production", "margin": 0.2, "confidence": 0.95},
    "liked": {
        "kind": "improves", "suite": "compared", "metric": "human", "assisted_by": "judge", "against": "base", "margin": 0.0,
        "confidence": 0.95,
    },
}  # fmt: skip
SUITES = gate_samples.suites()
# What the question must say of each gate: its own numbers.
SAYS: dict[str, Sequence[str]] = {
    **{name: sample.says for name, sample in SAMPLES.items()},
    "first": ("production",),
    "liked": ("do people, as the judge assists them, prefer", "base", "more than 0 of all rows", "99.75%"),
}


def _finding(gate: Gate, **figures: Any) -> Finding:
    values: dict[str, Any] = {"gate": "it", "kind": gate.kind, "status": "fail", "reason": "what was found"}
    return Finding(**values | figures)


def _explained(gate: Gate, finding: Finding) -> verb.Explanation:
    digest = "sha256:" + "0" * 64
    verdict = Verdict(status=finding.status, model=digest, policy=digest, judged={}, findings=(finding,))
    return verb.of("it", gate, verdict)


@pytest.fixture
def run(tmp_path: Path, document: dict) -> Path:
    """A repository with one gate of every kind, judged."""
    document |= {"gates": GATES, "suites": SUITES}
    document["prepare"]["personal_data"] = {"detectors": ["email", "phone"]}
    document["base"]["thinking"] = {"mode": "always"}
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
        lines = verb.explain(run, finding.gate)
        assert len(lines) == 5
        assert all(line and "\n" not in line and "None" not in line for line in lines), lines
        assert all(number in lines.asks for number in SAYS[finding.gate]), lines.asks
        assert lines.found.startswith(f"{finding.status}: ")
        assert str(layout.VERDICT) in lines.look
        if finding.p is None:
            assert finding.reason in lines.found
        else:
            assert f"on {finding.n} rows" in lines.found
            assert f"p {finding.p:.3g}" in lines.found
            assert finding.method is not None
            assert finding.method in lines.decided


def test_every_kind_has_a_sample_that_says_something() -> None:
    assert {gate["kind"] for gate in GATES.values()} == set(gate_kinds.GATES.kinds)
    assert all(SAYS[name] for name in GATES)


@pytest.mark.parametrize("status", ["pass", "fail", "inconclusive"])
@pytest.mark.parametrize("name", GATES)
def test_a_finding_without_figures_is_explained_too(document: dict, name: str, status: str) -> None:
    document |= {"gates": GATES, "suites": SUITES}
    document["prepare"]["personal_data"] = {"detectors": ["email", "phone"]}
    document["base"]["thinking"] = {"mode": "always"}
    gate = as_params(document).gates[name]
    lines = _explained(gate, _finding(gate, status=status))
    assert lines.found == f"{status}: what was found"
    assert all(line and "None" not in line for line in lines), lines


def test_what_would_pass_is_said_with_the_field_that_says_it(document: dict) -> None:
    document |= {"gates": GATES, "suites": SUITES}
    document["prepare"]["personal_data"] = {"detectors": ["email", "phone"]}
    document["base"]["thinking"] = {"mode": "always"}
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
    assert "gates.it.at_most down to 0.09" in change("few_errors", **figures)
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
    assert json.loads(output)["decided"] == verb.explain(tmp_path, "routes").decided
    assert _lockstep(tmp_path)[0] == 10


@pytest.mark.slow
def test_a_name_that_no_gate_has_is_refused_with_the_names_there_are(run: Path) -> None:
    code, output = _lockstep(run, "--explain", "rotes")
    assert code == 8
    assert output.startswith(f"lockstep: no gate is called 'rotes'; name one of {', '.join(GATES)}")


@pytest.mark.slow
def test_a_void_verdict_is_not_explained(run: Path) -> None:
    (run / "models/merged/weights.bin").write_bytes(b"other")
    code, output = _lockstep(run, "--explain", "routes")
    assert code == 8
    assert "the verdict does not hold" in output


@pytest.mark.slow
def test_two_questions_at_once_are_a_wrong_command_line(run: Path) -> None:
    assert _lockstep(run, "--explain", "routes", "--policy-from", "main")[0] == 2
