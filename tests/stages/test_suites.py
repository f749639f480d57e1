"""Suites: scores that others gave become neutral lines, bound by digest; what is about something else is refused."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from checks.decision import policy
from checks.formats.suite_report import SuiteLine, SuitesReport
from checks.process.errors import EvidenceRefused, ParamsRefused, Refusal
from checks.records.rows import Prediction
from checks.storage import digest, files, layout
from release.record.records import Records
from release.record.verdict_check import hold
from release.verbs import gate as verb
from stages.suites import suites
from tests import evidence_tree
from tests.conftest import as_params
from tests.pipeline_repository import write_params
from tests.suite_tree import OTHER, SAMPLES, Run, edit, lines_of, pinned
from tests.suite_tree import run as run  # a fixture


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
        said = verb.of(name, gate, verdict)
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
        lines = lines_of(run.merged if role == "candidate" else run.base, 54)
        change(lines)
        run.log(role, lines)

    return changed


def _other_bytes(run: Run) -> None:
    with (run.root / "candidate.jsonl").open("a") as stream:
        stream.write("\n")


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
        lambda run: run.log("main", lines_of(OTHER, 54)), r"logs\.main: git names no main that a gate compares with; remove",
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
        lambda run: run.suite["logs"].update(candidate=pinned(run.root / "dvc.yaml")),
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


def _more_liked(run: Run) -> None:
    """Of the base's lines too, so that the file is consistent."""
    path = run.root / layout.SUITES / "chat.jsonl"
    path.write_text(path.read_text().replace('"value":1.0', '"value":5.0').replace('"value": 1.0', '"value": 5.0'))


def _forged(run: Run) -> None:
    """The file and the report that names it."""
    _more_liked(run)
    sha = digest.of_file(run.root / layout.SUITES / "chat.jsonl").sha256
    edit(run.root / layout.SUITES_REPORT, lambda report: report["suites"]["chat"].update(lines=sha))


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
        lambda run: edit(
            run.root / layout.SUITES_REPORT, lambda report: report["suites"]["chat"]["models"].update(candidate=OTHER)
        ),
        r"about different bytes: candidate of suite chat: suites says 9{12}, merge says \w+",
    ),
    "scores of a main that is none": (
        lambda run: edit(
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
        lambda run: edit(run.root / layout.SUITES_REPORT, lambda report: report.update(suites={})),
        r"no evidence: reports/suites\.json has no suite chat",
    ),
    "a report of nonsense": (
        lambda run: edit(run.root / layout.SUITES_REPORT, lambda report: report["suites"]["chat"].update(lines=1)),
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
    edit(run.root / layout.SUITES_REPORT, lambda report: report["suites"]["chat"].update(lines=sha))
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
    run.log("main", lines_of(f"sha256:{'7' * 64}", 50))
    (finding,) = run.judged().findings
    assert (finding.status, finding.against, finding.value) == ("pass", "main", 0.066667)
    run.log("main", lines_of(run.merged, 50))
    with pytest.raises(EvidenceRefused, match=r"logs\.main: is about model sha256:\w{12}…, the main is sha256:7{64};"):
        run.judged()


def test_a_candidate_that_is_main_is_written_once(run: Run) -> None:
    evidence_tree.earlier(run.root, "main")
    edit(run.root / layout.REFERENCES, lambda report: report["found"]["main"].update(merged=run.merged))
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


@pytest.mark.slow
def test_what_a_stage_that_was_killed_left_is_replaced(run: Run) -> None:
    run.judged()
    stale = run.root / layout.SUITES / "gone.jsonl"
    shutil.copy(run.root / layout.SUITES / "chat.jsonl", stale)
    run.judged()
    assert not stale.exists()
