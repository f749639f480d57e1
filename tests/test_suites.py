"""Suites: scores that others gave become neutral lines, bound by digest; what is about something else is refused."""

import dataclasses
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from checks import digest, files, layout
from checks.config.params import Params
from checks.decision import judging, policy
from checks.errors import EvidenceRefused, ParamsRefused, Refusal
from checks.evaluation import scoring
from checks.formats.evaluation_reports import EvaluationReport
from checks.formats.suite_report import SuiteLine, SuitesReport
from checks.formats.verdict import Verdict
from checks.gating import chain
from checks.rows import Prediction
from release.record.held import hold
from release.record.records import Records
from release.verbs import explain
from stages.suites import suites
from tests import evidence_tree
from tests.conftest import REPOSITORY, as_params
from tests.pipeline_repository import write_params

SAMPLES = 60
INSPECT = json.loads((REPOSITORY / "tests" / "logs" / "inspect.json").read_text())  # as Inspect AI 0.3.285 wrote it
GATES = {
    "is_liked": {"kind": "threshold", "metric": "liked", "at_least": 0.5, "confidence": 0.95, "resolution": 0.2},
    "is_liked_more": {"kind": "improves", "metric": "liked", "against": "base", "margin": 0.0, "confidence": 0.95},
    "remembers": {"kind": "non_inferior", "metric": "liked", "against": "base", "margin": 0.1, "confidence": 0.95},
}


def _lines(model: str, right: int, **change: Any) -> list[dict[str, Any]]:
    """A log of kind ``external``: the first ``right`` of the samples are liked, on a scale of 1 to 5."""
    return [
        {
            "sample": f"q{i}", "sample_sha": digest.of_json(i), "model": model, "metric": "liked",
            "value": 5.0 if i < right else 1.0, "group": f"g{i}", "slice": "even" if i % 2 else "odd",
        } | change
        for i in range(SAMPLES)
    ]  # fmt: skip


def _pinned(path: Path, lines: list[dict[str, Any]] | None = None) -> dict[str, str]:
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
        self.suite["logs"][role] = _pinned(self.root / f"{role}.jsonl", lines)

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
    found.log("candidate", _lines(merged, 54))
    found.log("base", _lines(base, 30))
    return found


@pytest.mark.slow
def test_a_gate_asks_the_samples_of_a_suite_and_says_that_they_are_witnessed(run: Run) -> None:
    verdict = run.judged()
    assert verdict.status == "pass"
    for finding in verdict.findings:
        assert (finding.suite, finding.evidence, finding.n) == ("chat", "witnessed", SAMPLES)
        assert finding.reason.endswith("(witnessed: human, suite chat)")
    is_liked, more, remembers = verdict.findings
    assert is_liked.value == 0.9  # 54 of 60 at the top of the scale
    assert (more.value, more.gained, more.lost) == (0.4, 24, 0)
    assert more.p_holm >= more.p  # type: ignore[operator]  # both are there
    assert remembers.against == "base"
    paths = {"reports/suites.json", "data/suites/chat.jsonl"}
    assert paths <= set(verdict.judged)
    for path in paths:
        assert verdict.judged[path] == digest.of_file(run.root / path).sha256
    assert hold(Records(run.root)).verdict == verdict


@pytest.mark.slow
def test_an_explanation_says_of_which_samples_it_is_and_what_they_are_worth(run: Run) -> None:
    verdict = run.judged()
    for name, gate in run.params().gates.items():
        said = explain.of(name, gate, verdict)
        assert "samples of suite chat" in said.asks
        assert "(witnessed, by suite chat), on 60 rows" in said.found
        assert "data/suites/chat.jsonl" in said.look


def test_a_suite_is_written_as_neutral_lines_and_a_report(run: Run) -> None:
    run.judged()
    lines = files.read_jsonl(run.root / layout.SUITES / "chat.jsonl", SuiteLine)
    assert [line.model for line in lines] == [run.merged] * SAMPLES + [run.base] * SAMPLES
    assert {(line.source, line.source_digest) for line in lines} == {
        ("human", f"sha256:{run.suite['logs'][role]['sha256']}") for role in ("candidate", "base")
    }
    result = files.read_json(run.root / layout.SUITES_REPORT, SuitesReport).suites["chat"]
    assert result.means == {"candidate": {"liked": 4.6}, "base": {"liked": 3.0}}
    assert (result.samples, result.files["logs.base"].license) == (SAMPLES, "CC0-1.0")


@pytest.mark.slow
def test_without_suites_nothing_is_bound_and_no_finding_mentions_them(run: Run) -> None:
    run.document["suites"] = {}
    for gate in run.document["gates"].values():
        del gate["suite"]
        gate |= {"metric": "exact-match"} | ({"resolution": 0.3} if gate["kind"] == "threshold" else {})
    verdict = run.judged()
    assert files.read_json(run.root / layout.SUITES_REPORT, SuitesReport).suites == {}
    assert not [path for path in verdict.judged if "suites" in path or "judgements" in path]
    text = (run.root / layout.VERDICT).read_text()
    assert "witnessed" not in text
    assert '"suite' not in text
    params = run.params()
    assert "suites" not in json.dumps(params.model_dump(mode="json")["gates"])
    bare = {key: value for key, value in run.document.items() if key != "suites"}
    assert policy.of(as_params(bare), None).digest == policy.of(params, None).digest


def _change(role: str, change: Callable[[list[dict[str, Any]]], object]) -> Callable[[Run], None]:
    def changed(run: Run) -> None:
        lines = _lines(run.merged if role == "candidate" else run.base, 54)
        change(lines)
        run.log(role, lines)

    return changed


def _other_bytes(run: Run) -> None:
    with (run.root / "candidate.jsonl").open("a") as stream:
        stream.write("\n")


OTHER = f"sha256:{'9' * 64}"
REFUSED: dict[str, tuple[Callable[[Run], object], str]] = {
    "the log of another model": (
        _change("candidate", lambda lines: [line.update(model=OTHER) for line in lines]),
        r"logs\.candidate: is about model sha256:9{12}…, the candidate is sha256:[0-9a-f]{64}; run the suite on that model in",
    ),
    "a reference of another model": (
        _change("base", lambda lines: lines[3].update(model=OTHER)),
        r"logs\.base: is about model sha256:999999999999…, the base is sha256:[0-9a-f]{64}",
    ),
    "a model that git does not name": (
        lambda run: run.log("main", _lines(OTHER, 54)), r"logs\.main: git names no main that a gate compares with; remove",
    ),
    "a missing sample": (
        _change("candidate", lambda lines: lines.pop()), r"logs\.candidate: has 59 samples, and the suite has 60;",
    ),
    "a doubled sample": (
        _change("candidate", lambda lines: lines.append(lines[7])),
        r"logs\.candidate: sample 'q7' is scored more than once by liked;",
    ),
    "other samples than the reference's": (
        _change("base", lambda lines: lines[5].update(sample="another")),
        r"logs\.base: sample 'q5' is not scored by liked;",
    ),
    "more samples than the candidate's": (
        _change("base", lambda lines: lines.append(lines[0] | {"sample": "more"})),
        r"logs\.base: sample 'more' is scored by liked, and not a sample of the candidate's;",
    ),
    "a sample that was asked otherwise": (
        _change("base", lambda lines: lines[5].update(sample_sha=OTHER)),
        r"logs\.base: sample 'q5' is not what the candidate was asked \(sample_sha, group or slice\);",
    ),
    "a sample in another group": (
        _change("base", lambda lines: [line.update(group="one") for line in lines]),
        r"logs\.base: samples 'q0', 'q1', 'q2' and 57 more are not what the candidate was asked",
    ),
    "a value above the scale": (
        _change("candidate", lambda lines: lines[9].update(value=5.01)),
        r"logs\.candidate: sample 'q9': liked 5\.01 is not from 1 to 5;",
    ),
    "a value below the scale": (
        _change("base", lambda lines: lines[9].update(value=0)), r"logs\.base: sample 'q9': liked 0 is not from 1 to 5;",
    ),
    "NaN": (
        _change("candidate", lambda lines: lines[2].update(value=float("nan"))),
        r"logs\.candidate: 3: .*.*(finite|NaN|expected value)",
    ),
    "infinity": (
        _change("candidate", lambda lines: lines[2].update(value=float("inf"))),
        r"logs\.candidate: 3: .*.*(finite|Infinity|expected value)",
    ),
    "a field that is none": (
        _change("candidate", lambda lines: lines[2].update(score=1)),
        r"logs\.candidate: 3: score: Extra inputs are not permitted; pin a log of kind external",
    ),
    "no line of the metric": (
        _change("candidate", lambda lines: [line.update(metric="other") for line in lines]),
        r"logs\.candidate: has no sample that liked scores;",
    ),
    "no JSON": (
        lambda run: run.suite["logs"].update(candidate=_pinned(run.root / "dvc.yaml")),
        r"logs\.candidate: 1: Invalid JSON",
    ),
    "other bytes than the pinned": (
        _other_bytes, r"suites\.chat\.logs\.candidate\.sha256: [0-9a-f]{64} is pinned, but candidate\.jsonl is [0-9a-f]{64};",
    ),
    "no pin": (
        lambda run: run.suite["logs"]["base"].update(sha256=None),
        r"suites\.chat\.logs\.base\.sha256: base\.jsonl is not pinned; pin it: sha256: [0-9a-f]{64}",
    ),
    "a folder": (
        lambda run: run.suite["logs"]["base"].update(
            uri="data/splits", sha256=digest.of_tree(run.root / "data/splits").digest.removeprefix("sha256:")
        ),
        r"suites\.chat\.logs\.base\.uri: data/splits is no file; name the file itself",
    ),
    "predictions that are not those of the report": (
        lambda run: (run.root / layout.PREDICTIONS / "base.jsonl").write_text(""),
        r"data/predictions/base\.jsonl: is not what reports/evaluation\.json is about; run `\./lockstep run evaluate`",
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("how", REFUSED)
def test_a_log_that_is_about_something_else_is_refused_in_one_line(run: Run, how: str) -> None:
    change, line = REFUSED[how]
    (run.root / "dvc.yaml").write_text("stages: {}")
    change(run)
    with pytest.raises(Refusal, match=line) as caught:
        suites(run.params(), run.root)
    assert caught.value.others == ()
    assert "\n" not in str(caught.value)
    assert not (run.root / layout.SUITES).exists()


def test_a_log_that_changes_while_it_is_read_is_refused(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = shutil.copyfile

    def late(source: Path, target: Path) -> Path:
        with Path(source).open("a") as stream:
            stream.write("\n")
        return copy(source, target)

    monkeypatch.setattr(shutil, "copyfile", late)
    with pytest.raises(Refusal, match=r"suites\.chat\.logs\.candidate\.uri: changed while it was read; run again"):
        suites(run.params(), run.root)


def _edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def _more_liked(run: Run) -> None:
    """Of the base's lines too, so that the file is consistent."""
    path = run.root / layout.SUITES / "chat.jsonl"
    path.write_text(path.read_text().replace('"value":1.0', '"value":5.0').replace('"value": 1.0', '"value": 5.0'))


def _forged(run: Run) -> None:
    """The file and the report that names it."""
    _more_liked(run)
    sha = digest.of_file(run.root / layout.SUITES / "chat.jsonl").sha256
    _edit(run.root / layout.SUITES_REPORT, lambda report: report["suites"]["chat"].update(lines=sha))


TAMPERED: dict[str, tuple[Callable[[Run], object], str]] = {
    "other scores": (_more_liked, r"data/suites/chat\.jsonl: is [0-9a-f]{12}, the verdict is about"),
    "other scores, and the report too": (_forged, r"data/suites/chat\.jsonl: is [0-9a-f]{12}, the verdict is about"),
    "no scores": (
        lambda run: (run.root / layout.SUITES / "chat.jsonl").unlink(), r"data/suites/chat\.jsonl: is missing",
    ),
    "no report": (lambda run: (run.root / layout.SUITES_REPORT).unlink(), r"reports/suites\.json: is missing"),
    "another pin": (
        lambda run: run.suite["logs"]["base"].update(sha256="0" * 64), r"params\.yaml: suites is not what suites ran with",
    ),
    "a wider scale": (
        lambda run: run.suite["metrics"]["liked"].update(low=-5.0), r"params\.yaml: suites is not what suites ran with",
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("how", TAMPERED)
def test_a_verdict_is_void_once_what_it_read_is_changed_or_gone(run: Run, how: str) -> None:
    change, line = TAMPERED[how]
    run.judged()
    change(run)
    write_params(run.root, run.document)
    with pytest.raises(EvidenceRefused, match=r"the verdict does not hold: ") as caught:
        hold(Records(run.root))
    assert [each for each in (str(caught.value), *caught.value.others) if re.search(line, each)]


UNFIT: dict[str, tuple[Callable[[Run], object], str]] = {
    "other scores": (_more_liked, r"about different bytes: suite chat: data/suites/chat\.jsonl says \w+, suites says \w+"),
    "scores of another candidate": (
        lambda run: _edit(
            run.root / layout.SUITES_REPORT, lambda report: report["suites"]["chat"]["models"].update(candidate=OTHER)
        ),
        r"about different bytes: candidate of suite chat: suites says 9{12}, merge says \w+",
    ),
    "scores of a main that is none": (
        lambda run: _edit(
            run.root / layout.SUITES_REPORT, lambda report: report["suites"]["chat"]["models"].update(main=OTHER)
        ),
        r"about different bytes: main of suite chat: suites says 9{12}, reports/references\.json says ",
    ),
    "another section": (
        lambda run: run.suite.update(noise=0.01), r"reports/suites\.json: is about another section suites\.chat; run ",
    ),
    "no report": (lambda run: (run.root / layout.SUITES_REPORT).unlink(), r"no evidence: reports/suites\.json: No such"),
    "no scores": (
        lambda run: (run.root / layout.SUITES / "chat.jsonl").unlink(), r"no evidence: data/suites/chat\.jsonl: not a regular file",
    ),
    "no such suite in the report": (
        lambda run: _edit(run.root / layout.SUITES_REPORT, lambda report: report.update(suites={})),
        r"no evidence: reports/suites\.json has no suite chat",
    ),
    "a report of nonsense": (
        lambda run: _edit(run.root / layout.SUITES_REPORT, lambda report: report["suites"]["chat"].update(lines=1)),
        r"no evidence: reports/suites\.json: suites\.chat\.lines: Input should be a valid string",
    ),
}  # fmt: skip


@pytest.mark.parametrize("how", UNFIT)
def test_a_gate_fails_without_its_evidence(run: Run, how: str) -> None:
    change, reason = UNFIT[how]
    run.judged()
    change(run)
    for finding in run.again().findings:
        assert (finding.status, finding.evidence) == ("fail", "witnessed")
        assert re.search(reason, finding.reason), finding.reason


def test_lines_are_held_to_the_suite_at_the_gate_too(run: Run) -> None:
    """A report and lines that agree with each other, and not with the samples that params.yaml declares."""
    run.judged()
    path = run.root / layout.SUITES / "chat.jsonl"
    path.write_text("".join(line for line in path.read_text().splitlines(True) if '"q3"' not in line))
    sha = digest.of_file(path).sha256
    _edit(run.root / layout.SUITES_REPORT, lambda report: report["suites"]["chat"].update(lines=sha))
    for finding in run.again().findings:
        assert "data/suites/chat.jsonl: candidate: has 59 samples, and the suite has 60" in finding.reason


@pytest.mark.slow
def test_main_is_compared_with_by_its_own_log(run: Run) -> None:
    run.document["gates"] = {"keeps": {**run.document["gates"]["remembers"], "against": "main"}}
    (finding,) = run.judged().findings
    assert (finding.status, "nothing to compare with" in finding.reason) == ("pass", True)  # there is no main yet
    evidence_tree.earlier(run.root, "main")
    answers = {
        role: files.read_jsonl(run.root / layout.PREDICTIONS / f"{role}.jsonl", Prediction)
        for role in ("candidate", "base")
    }
    evidence_tree.evaluated(run.root, run.params(), answers["candidate"], base=answers["base"], main=answers["base"])
    (finding,) = run.judged().findings
    assert (finding.status, "suite chat has no scores of main" in finding.reason) == ("fail", True)
    run.log("main", _lines(f"sha256:{'7' * 64}", 50))
    (finding,) = run.judged().findings
    assert (finding.status, finding.against, finding.value) == ("pass", "main", 0.066667)
    run.log("main", _lines(run.merged, 50))
    with pytest.raises(EvidenceRefused, match=r"logs\.main: is about model sha256:\w{12}…, the main is sha256:7{64};"):
        run.judged()


def test_a_candidate_that_is_main_is_written_once(run: Run) -> None:
    evidence_tree.earlier(run.root, "main")
    _edit(run.root / layout.REFERENCES, lambda report: report["found"]["main"].update(merged=run.merged))
    run.suite["logs"]["main"] = run.suite["logs"]["candidate"]
    suites(run.params(), run.root)
    lines = files.read_jsonl(run.root / layout.SUITES / "chat.jsonl", SuiteLine)
    assert [line.model for line in lines] == [run.merged] * SAMPLES + [run.base] * SAMPLES


def test_the_noise_that_is_declared_bounds_the_margin(run: Run) -> None:
    run.suite["noise"] = 0.2
    by_name = {finding.gate: finding for finding in run.judged().findings}
    assert by_name["remembers"].status == "fail"
    assert "a margin of 0.1 means nothing: one unchanged model scores up to 0.2 apart" in by_name["remembers"].reason
    assert by_name["is_liked_more"].status == "pass"  # it asks for no margin


CHANCE: dict[str, tuple[float | None, bool]] = {  # on the scale of 1 to 5, where the base's mean is 3
    "nothing is said": (None, True),
    "the base is above it": (2.0, True),
    "the base is not above it": (3.0, False),
    "the base is not shown to be above it": (2.9, False),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CHANCE)
def test_a_suite_of_another_tool_whose_base_guesses_cannot_show_forgetting(run: Run, case: str) -> None:
    """Of the gates that rule out a loss; a gain over a base that guesses is one."""
    chance, shows = CHANCE[case]
    run.suite["metrics"]["liked"]["chance"] = chance
    by_name = {finding.gate: finding for finding in run.judged().findings}
    statuses = {name: finding.status for name, finding in by_name.items()}
    assert statuses == {"is_liked": "pass", "is_liked_more": "pass", "remembers": "pass" if shows else "fail"}
    said = re.search(
        r"liked 0\.500 .* not above the 0\.\d+ of .* cannot show what was lost", by_name["remembers"].reason
    )
    assert bool(said) is not shows


@pytest.mark.slow
def test_gates_of_two_suites_make_two_claims(run: Run) -> None:
    """The same question of other samples is another question, so that Holm's correction counts both."""
    run.document["suites"]["more"] = json.loads(json.dumps(run.suite))
    alone = {finding.gate: finding for finding in run.judged().findings}
    run.document["gates"]["is_liked_more_too"] = {**run.document["gates"]["is_liked_more"], "suite": "more"}
    both = {finding.gate: finding for finding in run.judged().findings}
    assert (both["is_liked_more"].p, both["is_liked_more"].p_holm) != (
        alone["is_liked_more"].p, alone["is_liked_more"].p_holm,
    )  # fmt: skip


def test_a_slice_of_a_suite_can_be_asked(run: Run) -> None:
    run.document["gates"] = {
        "each": {
            "kind": "slice", "metric": "liked", "against": "base", "margin": 0.3, "confidence": 0.95, "min_rows": 10,
            "suite": "chat",
        }
    }  # fmt: skip
    (finding,) = run.judged().findings
    assert (finding.status, finding.slice in {"odd", "even"}) == ("pass", True)


IMPOSSIBLE: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "no such suite": (
        lambda d: d["gates"]["is_liked"].update(suite="chats"), r"gates\.is_liked\.suite: 'chats' is no suite; use one of chat",
    ),
    "no suite at all": (lambda d: d.update(suites={}), r"'chat' is no suite; there is none: add it to suites"),
    "another metric": (
        lambda d: d["gates"]["is_liked"].update(metric="exact-match"),
        r"gates\.is_liked\.metric: suite chat has no 'exact-match'; use one of liked",
    ),
    "a model without scores": (
        lambda d: d["suites"]["chat"]["logs"].pop("base"),
        r"gates\.is_liked_more\.against: suite chat has no scores of 'base'; use one of none, or add it there",
    ),
    "a baseline": (
        lambda d: d["gates"]["remembers"].update(against="majority"),
        r"gates\.remembers\.against: suite chat has no scores of 'majority'; use one of base, or add it there",
    ),
    "too few samples": (
        lambda d: d["gates"]["is_liked"].update(resolution=0.05),
        r"gates\.is_liked\.resolution: 60 samples of suite chat cannot give ±0\.05; widen it: 385 samples would",
    ),
    "no candidate": (lambda d: d["suites"]["chat"]["logs"].pop("candidate"), r"has none of the candidate; add it"),
    "an unknown model": (
        lambda d: d["suites"]["chat"]["logs"].update(majority=d["suites"]["chat"]["logs"]["base"]), r"logs\.majority",
    ),
    "a scale without length": (
        lambda d: d["suites"]["chat"]["metrics"]["liked"].update(low=5.0), r"low 5 is not below high 5; swap or widen",
    ),
    "chance that is the best": (
        lambda d: d["suites"]["chat"]["metrics"]["liked"].update(chance=5.0), r"chance 5 is not from 1 to below 5; give it on",
    ),
    "chance as a share": (
        lambda d: d["suites"]["chat"]["metrics"]["liked"].update(chance=0.2), r"chance 0\.2 is not from 1 to below 5",
    ),
    "an unknown kind": (lambda d: d["suites"]["chat"].update(kind="helm"), r"unknown kind of suite 'helm'; one of: "),
    "an unknown key": (lambda d: d["suites"]["chat"].update(sample=3), r"suites\.chat\.sample: unknown key"),
}  # fmt: skip


@pytest.mark.parametrize("how", IMPOSSIBLE)
def test_a_suite_that_cannot_be_asked_is_refused_when_params_are_read(run: Run, how: str) -> None:
    change, line = IMPOSSIBLE[how]
    change(run.document)
    with pytest.raises(ParamsRefused, match=line):
        as_params(run.document)


CHANGES: dict[str, tuple[Callable[[dict[str, Any]], object], tuple[str, str, bool, bool]]] = {
    "another log": (
        lambda d: d["suites"]["chat"]["logs"]["candidate"].update(sha256="0" * 64),
        ("suites.chat.logs", "changed", True, True),
    ),
    "another scale": (
        lambda d: d["suites"]["chat"]["metrics"]["liked"].update(low=0.0),
        ("suites.chat.metrics", "changed", True, False),
    ),
    "less noise": (lambda d: d["suites"]["chat"].update(noise=0.0), ("suites.chat.noise", "weaker", True, False)),
    "no suite": (lambda d: d.update(suites={}), ("suites.chat", "removed", True, False)),
    "one more": (lambda d: d["suites"].update(more=d["suites"]["chat"]), ("suites.more", "added", False, False)),
}


@pytest.mark.parametrize("how", CHANGES)
def test_suites_are_policy_and_their_logs_belong_to_one_model(run: Run, how: str) -> None:
    change, expected = CHANGES[how]
    run.suite["noise"] = 0.1
    run.document["gates"] = {"sound": {"kind": "data"}}
    old = policy.of(as_params(run.document), None)
    change(run.document)
    (found,) = policy.changes(old, policy.of(as_params(run.document), None))
    assert (found.path, found.kind, found.needs_approval, found.is_input) == expected
    assert not found.is_judged


# --- inspect -------------------------------------------------------------------------------------------------------


@pytest.fixture
def inspected(run: Run) -> Run:
    """The suite is a log of Inspect, about this candidate."""
    scale = {"low": 0.0, "high": 1.0}
    run.document["suites"] = {
        "chat": {
            "kind": "inspect", "metrics": {"match": scale}, "noise": 0.0, "samples": 4, "group": "family",
            "slice": "topic", "logs": {},
        }
    }  # fmt: skip
    run.document["gates"] = {
        "knows": {
            "kind": "threshold",
            "suite": "chat",
            "metric": "match",
            "at_least": 0.1,
            "confidence": 0.8,
            "resolution": 0.4,
        }
    }
    _inspect(run, dict)
    return run


def _inspect(run: Run, change: Callable[[dict[str, Any]], object]) -> None:
    log = json.loads(json.dumps(INSPECT))
    log["eval"]["metadata"]["lockstep_model"] = run.merged
    change(log)
    path = run.root / "candidate.json"
    path.write_text(json.dumps(log))
    run.suite["logs"]["candidate"] = _pinned(path)


@pytest.mark.slow
def test_a_log_of_inspect_becomes_neutral_lines(inspected: Run) -> None:
    (finding,) = inspected.judged().findings
    assert (finding.value, finding.n, finding.evidence) == (0.5, 4, "witnessed")
    lines = files.read_jsonl(inspected.root / layout.SUITES / "chat.jsonl", SuiteLine)
    assert {(line.sample, line.value, line.group, line.slice) for line in lines} == {
        ("sum", 1.0, "a", "maths"), ("capital", 1.0, "b", "places"), ("river", 0.0, "b", "places"), ("4", 0.0, "b", "places"),
    }  # fmt: skip
    assert {(line.metric, line.source, line.model) for line in lines} == {("match", "external", inspected.merged)}
    assert lines[0].sample_sha == digest.of_json(["Largest sea?", None, "Pacific"])


def test_messages_that_inspect_named_anew_are_the_same_question(inspected: Run) -> None:
    def asked(name: str) -> str:
        message = {"id": name, "role": "user", "content": "Largest sea?"}
        _inspect(inspected, lambda log: log["samples"][0].update(input=[message]))
        suites(inspected.params(), inspected.root)
        return files.read_jsonl(inspected.root / layout.SUITES / "chat.jsonl", SuiteLine)[0].sample_sha

    assert asked("mejb7gQADWDXsGrDCwcAQe") == asked("BhUQEeE4nZwPzdAU4Gktzo")


def _sample(change: Callable[[dict[str, Any]], object]) -> Callable[[dict[str, Any]], object]:
    return lambda log: change(log["samples"][1])


NOT_OF_INSPECT: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "no model": (
        lambda log: log["eval"].pop("metadata"), r"names no model: run `inspect eval` with --metadata lockstep_model=sha256:…;",
    ),
    "a model that is no digest": (
        lambda log: log["eval"]["metadata"].update(lockstep_model="router"), r"logs\.candidate: model: String should match",
    ),
    "another model": (
        lambda log: log["eval"]["metadata"].update(lockstep_model=OTHER), r"is about model sha256:999999999999…, the candidate",
    ),
    "a run that failed": (lambda log: log.update(status="error"), r"the run ended with 'error';"),
    "an invalidated run": (lambda log: log.update(invalidated=True), r"the run ended with 'success', and is invalidated"),
    "a sample that failed": (
        _sample(lambda sample: sample.update(error={"message": "no"})), r"sample 'capital' did not end well;",
    ),
    "a sample without scores": (_sample(lambda sample: sample.update(scores={})), r"sample 'capital' has no score;"),
    "a sample that is gone": (lambda log: log["samples"].pop(1), r"sample 'capital' of the data set is not in it;"),
    "a part of the data set": (
        lambda log: (log["samples"].pop(1), log["eval"]["dataset"]["sample_ids"].remove("capital")),
        r"logs\.candidate: has 3 samples, and the suite has 4;",
    ),
    "a sample twice": (
        lambda log: log["samples"].append(log["samples"][1]), r"sample 'capital' is scored more than once by match;",
    ),
    "epochs": (_sample(lambda sample: sample.update(epoch=2)), r"sample 'capital' has several epochs: run it with --epochs 1"),
    "NaN": (
        _sample(lambda sample: sample["scores"]["match"].update(value=float("nan"))), r"value: Input should be a finite number",
    ),
    "a value of another kind": (
        _sample(lambda sample: sample["scores"]["match"].update(value={"a": 1})),
        r"sample 'capital': match is \{'a': 1\}, which is no number;",
    ),
    "no such metadata": (
        _sample(lambda sample: sample["metadata"].pop("family")), r"sample 'capital' has no 'family' in its metadata;",
    ),
    "a metric that one sample lacks": (
        _sample(lambda sample: sample["scores"].pop("match")), r"logs\.candidate: has 3 samples, and the suite has 4;",
    ),
    "no samples": (lambda log: log.pop("samples"), r"no log of Inspect in JSON with samples \(KeyError: 'samples'\);"),
    "another shape": (lambda log: log.update(samples=3), r"no log of Inspect in JSON with samples \(TypeError"),
}  # fmt: skip


@pytest.mark.parametrize("how", NOT_OF_INSPECT)
def test_a_log_of_inspect_that_does_not_say_all_is_refused(inspected: Run, how: str) -> None:
    change, line = NOT_OF_INSPECT[how]
    _inspect(inspected, change)
    with pytest.raises(EvidenceRefused, match=line) as caught:
        suites(inspected.params(), inspected.root)
    assert str(caught.value).startswith("params.yaml: suites.chat.logs.candidate: ")
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_json_is_no_log_of_inspect(inspected: Run) -> None:
    (inspected.root / "candidate.json").write_bytes(b"PK\x03\x04\xff")  # as an .eval file begins
    inspected.suite["logs"]["candidate"] = _pinned(inspected.root / "candidate.json")
    with pytest.raises(EvidenceRefused, match=r"logs\.candidate: no log of Inspect in JSON"):
        suites(inspected.params(), inspected.root)


# --- judged --------------------------------------------------------------------------------------------------------


def _judgements(run: Run, value: Callable[[Prediction], float | None]) -> list[dict[str, Any]]:
    """A judgement of every answer of candidate and base to the 40 test rows, by Ada."""
    found = {}
    for role in ("candidate", "base"):
        for answer in files.read_jsonl(run.root / layout.PREDICTIONS / f"{role}.jsonl", Prediction):
            sha = digest.of_bytes(answer.prediction.encode())
            found[answer.id, sha] = {
                "sample": answer.id, "answer_sha": sha, "value": value(answer), "judge": "ada", "prompt_sha": OTHER,
            }  # fmt: skip
    return list(found.values())


@pytest.fixture
def labelled(run: Run) -> Run:
    """A suite of people's judgements: right answers get 1."""
    run.document["suites"] = {
        "chat": {
            "kind": "judged", "metrics": {"liked": {"low": 0.0, "high": 1.0}}, "noise": 0.0,
            "models": ["candidate", "base"], "max_unparsed": 0.05, "judge": {"kind": "recorded", "source": "human"},
        }
    }  # fmt: skip
    run.document["gates"]["is_liked"]["resolution"] = 0.3
    _label(run, _judgements(run, lambda answer: answer.score))
    return run


def _label(run: Run, lines: list[dict[str, Any]]) -> None:
    run.suite["judge"]["log"] = _pinned(run.root / "labels.jsonl", lines)


@pytest.mark.slow
def test_judgements_are_recorded_with_who_made_them_and_bound_to_the_answers(labelled: Run) -> None:
    verdict = labelled.judged()
    assert verdict.status == "pass"
    assert [finding.reason.partition("(witnessed: ")[2] for finding in verdict.findings] == [
        "human by ada, suite chat)"
    ] * 3
    path = layout.JUDGEMENTS / "chat.jsonl"
    sha = digest.of_file(labelled.root / path).sha256
    assert verdict.judged[path.as_posix()] == sha
    evaluation = files.read_json(labelled.root / layout.EVALUATION, EvaluationReport)
    result = files.read_json(labelled.root / layout.SUITES_REPORT, SuitesReport).suites["chat"]
    assert (result.judgements, result.judges) == (sha, ("ada",))
    assert result.answers == {role: evaluation.models[role].predictions for role in ("candidate", "base")}
    first = json.loads((labelled.root / path).read_text().splitlines()[0])
    assert (first["judge"], first["prompt_sha"]) == ("ada", OTHER)
    lines = files.read_jsonl(labelled.root / layout.SUITES / "chat.jsonl", SuiteLine)
    assert {(line.source, line.source_digest) for line in lines} == {("human", sha)}
    assert len(lines) == 80


@pytest.mark.slow
def test_an_answer_without_a_value_counts_against_the_candidate(labelled: Run) -> None:
    """One row of each model, the candidate's right answer and the base's wrong one, has none."""
    lines = _judgements(labelled, lambda answer: answer.score)
    rows = {line["sample"]: line for line in lines}
    candidate = next(line for line in lines if line["value"] == 1)
    candidate["value"] = None
    base = next(line for line in lines if line["value"] == 0 and rows[line["sample"]] is line)
    lines.remove(base)
    _label(labelled, lines)
    labelled.judged()
    result = files.read_json(labelled.root / layout.SUITES_REPORT, SuitesReport).suites["chat"]
    assert result.unparsed["candidate"] >= 1
    found = {
        (line.model, line.sample): line.value
        for line in files.read_jsonl(labelled.root / layout.SUITES / "chat.jsonl", SuiteLine)
    }
    assert found[labelled.merged, candidate["sample"]] == 0
    assert found[labelled.base, base["sample"]] == 1


NOT_JUDGED: dict[str, tuple[Callable[[list[dict[str, Any]]], object], str]] = {
    "another answer": (
        lambda lines: lines[4].update(answer_sha=OTHER),
        r"suites\.chat\.judge: judgement 5: row 'test\d+': the judged answer is sha256:999999999999…, the candidate's is sha256:",
    ),
    "another row": (lambda lines: lines[4].update(sample="nobody"), r"judgement 5: row 'nobody' was not answered;"),
    "an answer twice": (
        lambda lines: lines.append(lines[4] | {"value": 1.0}), r"judgement \d+: row 'test\d+': this answer is judged already;",
    ),
    "too many missing": (
        lambda lines: lines.__delitem__(slice(0, 8)), r"judge: 8 of 40 answers of candidate have no value, at most 5\.0% may;",
    ),
    "too many without a value": (
        lambda lines: [line.update(value=None) for line in lines[:8]], r"8 of 40 answers of candidate have no value",
    ),
    "a value off the scale": (
        lambda lines: lines[4].update(value=2.0), r"judge\.log: 5: 2 is not from 0 to 1;",
    ),
    "NaN": (lambda lines: lines[4].update(value=float("nan")), r"judge\.log: 5: "),
    "of a name in two lines": (lambda lines: lines[4].update(judge="ada\n::x"), r"judge\.log: 5: judge: String should match"),
    "nobody's": (lambda lines: lines[4].pop("judge"), r"judge\.log: 5: judge: Field required;"),
}  # fmt: skip


@pytest.mark.parametrize("how", NOT_JUDGED)
def test_a_judgement_of_something_else_is_refused(labelled: Run, how: str) -> None:
    change, line = NOT_JUDGED[how]
    lines = _judgements(labelled, lambda answer: answer.score)
    change(lines)
    _label(labelled, lines)
    with pytest.raises(EvidenceRefused, match=line) as caught:
        suites(labelled.params(), labelled.root)
    assert "\n" not in str(caught.value)
    assert not (labelled.root / layout.JUDGEMENTS).exists()


def test_labels_of_other_bytes_than_the_pinned_are_refused(labelled: Run) -> None:
    with (labelled.root / "labels.jsonl").open("a") as stream:
        stream.write("\n")
    with pytest.raises(
        Refusal, match=r"suites\.chat\.judge\.log\.sha256: [0-9a-f]{64} is pinned, but labels\.jsonl is"
    ):
        suites(labelled.params(), labelled.root)


@pytest.mark.slow
def test_a_judgement_that_was_changed_after_the_stage_makes_the_gates_fail(labelled: Run) -> None:
    labelled.judged()
    path = labelled.root / layout.JUDGEMENTS / "chat.jsonl"
    path.write_text(path.read_text().replace("ada", "eve"))
    assert {finding.status for finding in labelled.again().findings} == {"fail"}
    with pytest.raises(
        EvidenceRefused, match=r"does not hold: data/judgements/chat\.jsonl: is [0-9a-f]{12}, the verdict"
    ):
        hold(Records(labelled.root))
    path.unlink()
    with pytest.raises(EvidenceRefused, match=r"does not hold: data/judgements/chat\.jsonl: is missing"):
        hold(Records(labelled.root))


@pytest.mark.slow
def test_judgements_of_other_answers_are_none_at_the_gate(labelled: Run) -> None:
    """All digests agree, and still the judge saw another text than the model's answer."""
    labelled.judged()
    path = labelled.root / layout.JUDGEMENTS / "chat.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[0]["answer_sha"] = OTHER
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    sha = digest.of_file(path).sha256
    _edit(labelled.root / layout.SUITES_REPORT, lambda report: report["suites"]["chat"].update(judgements=sha))
    for finding in labelled.again().findings:
        assert "data/judgements/chat.jsonl:1: row 'test" in finding.reason
        assert "the judged answer is sha256:999999999999…" in finding.reason


@pytest.mark.slow
def test_answers_that_were_not_judged_break_the_chain(labelled: Run) -> None:
    labelled.judged()
    _edit(
        labelled.root / layout.SUITES_REPORT, lambda report: report["suites"]["chat"]["answers"].update(candidate=OTHER)
    )
    for finding in labelled.again().findings:
        assert "candidate predictions of suite chat: suites says 999999999999, evaluate says" in finding.reason


@pytest.mark.slow
def test_under_another_test_set_only_its_rows_count(labelled: Run) -> None:
    """As the policy of another commit asks: its rows, where all of them were judged; none where one was not."""
    labelled.judged()
    params = labelled.params()
    evidence = chain.gather(labelled.root, scoring.digest_of(params.evaluate.scorers))
    fewer = {name: found[:30] for name, found in evidence.answers.items()}
    found = judging.judge(params, dataclasses.replace(evidence, test=evidence.test[:30], answers=fewer)).findings
    assert {finding.n for finding in found} == {30}
    other = evidence.test[0].model_copy(update={"id": "another"})
    found = judging.judge(params, dataclasses.replace(evidence, test=(*evidence.test, other))).findings
    assert {finding.status for finding in found} == {"fail"}
    assert "has no score of row another" in found[0].reason


IMPOSSIBLE_TO_JUDGE: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "two metrics": (
        lambda s: s["metrics"].update(more={"low": 0.0, "high": 1.0}),
        r"metrics: has 2, and a judge gives one value; name one",
    ),
    "no candidate": (lambda s: s.update(models=["base"]), r"models: must name the candidate, and each model once"),
    "a model twice": (
        lambda s: s.update(models=["candidate", "base", "base"]),
        r"models: must name the candidate, and each",
    ),
    "an unknown judge": (
        lambda s: s.update(judge={"kind": "oracle"}),
        r"unknown judge 'oracle'; one of: openai, recorded",
    ),
}


@pytest.mark.parametrize("how", IMPOSSIBLE_TO_JUDGE)
def test_a_judge_that_cannot_be_asked_is_refused_when_params_are_read(labelled: Run, how: str) -> None:
    change, line = IMPOSSIBLE_TO_JUDGE[how]
    change(labelled.suite)
    with pytest.raises(ParamsRefused, match=line):
        as_params(labelled.document)


@pytest.mark.slow
def test_what_a_stage_that_was_killed_left_is_replaced(run: Run) -> None:
    run.judged()
    stale = run.root / layout.SUITES / "gone.jsonl"
    shutil.copy(run.root / layout.SUITES / "chat.jsonl", stale)
    run.judged()
    assert not stale.exists()
