"""Two answers to one row, compared by people and by a judge: a real server, the stage, and the gates that ask people."""

import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from checks.config.params import Params
from checks.evaluation import comparisons
from checks.formats import judgements
from checks.formats.evaluation_reports import ReferencesReport
from checks.formats.suite_report import Judgement, SuiteLine, SuiteResult, SuitesReport
from checks.formats.verdict import Finding, Verdict
from checks.kinds.suite import Draw
from checks.process.errors import EvaluationRefused, EvidenceRefused, ParamsRefused
from checks.records.rows import Prediction, Row
from checks.storage import digest, files, layout
from release import runtimes
from release.serving import processes, server
from release.verbs import gate as verb
from stages.suites import suites
from tests import evidence_tree
from tests.conftest import as_params, scaled_down
from tests.pipeline_repository import git, write_params
from tests.release.serving.test_containers import healthy
from tests.stages.judges.test_judges import Endpoint, endpoint

pytestmark = pytest.mark.slow

__all__ = ["endpoint"]  # fixtures

ROWS = 200
PROMPT = "Request: $prompt\nRight: $reference\nLeft: $left\nRight one: $right\nWhich is better? Say left, right or tie."
DRAW = Draw(seed=3, rows=100)


def _answers(wins: int, losses: int) -> tuple[list[Prediction], list[Prediction]]:
    """In each half of the draw the candidate alone is right in the first ``wins`` rows, the base in the next ``losses``."""
    order = [row.id for row in comparisons.drawn(evidence_tree.rows("test", ROWS), Draw(DRAW.seed, ROWS))]
    ours, theirs = [], []
    for row in evidence_tree.rows("test", ROWS):
        place = order.index(row.id) % 100
        ours.append(evidence_tree.predict(row, not wins <= place < wins + losses))
        theirs.append(evidence_tree.predict(row, place >= wins))
    return ours, theirs


class Case:
    """A run without a suite, and what one would be made of."""

    def __init__(self, root: Path, document: dict[str, Any]) -> None:
        self.root, self.document = root, document

    @property
    def suite(self) -> dict[str, Any]:
        found: dict[str, Any] = self.document["suites"]["chat"]
        return found

    def params(self) -> Params:
        return as_params(self.document)

    def answer(self, wins: int, losses: int) -> None:
        """Let the models answer so, and people label the drawn rows as it is."""
        ours, theirs = _answers(wins, losses)
        evidence_tree.evaluated(self.root, self.params(), ours, base=theirs)
        drawn = {row.id for row in comparisons.drawn(evidence_tree.rows("test", ROWS), DRAW)}
        both = [(one, two) for one, two in zip(ours, theirs, strict=True) if one.id in drawn]
        self.label([self.said(one, two) for one, two in both if one.prediction != two.prediction])

    def said(self, one: Prediction, two: Prediction, annotator: str = "ada") -> dict[str, Any]:
        shas = [judgements.answer_sha(each.prediction) for each in (one, two)]
        left = comparisons.left(DRAW.seed, one.id, *shas)
        return {
            "row": one.id, "left_sha": left, "right_sha": next(sha for sha in shas if sha != left),
            "label": "left" if (left == shas[0]) == (one.score > two.score) else "right", "annotator": annotator,
        }  # fmt: skip

    def label(self, lines: list[dict[str, Any]]) -> None:
        self.suite["labels"] = self.pinned("labels.jsonl", lines)

    def pinned(self, name: str, lines: list[dict[str, Any]]) -> dict[str, Any]:
        path = self.root / name
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return {"uri": name, "sha256": digest.of_file(path).sha256.removeprefix("sha256:"), "license": None}

    def labels(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.root / "labels.jsonl").read_text().splitlines()]

    def judged(self) -> Verdict:
        suites(self.params(), self.root)
        return evidence_tree.judged(self.root, self.params())

    def finding(self) -> Finding:
        (found,) = self.judged().findings
        return found

    @property
    def result(self) -> SuiteResult:
        return files.read_json(self.root / layout.SUITES_REPORT, SuitesReport).suites["chat"]


@pytest.fixture
def case(tmp_path: Path, document: dict, endpoint: Endpoint) -> Case:
    document["gates"] = {"sound": {"kind": "data"}}
    evidence_tree.build(tmp_path, as_params(document), test_rows=ROWS)
    endpoint.reply = _better
    document["suites"] = {
        "chat": {
            "kind": "pairwise", "question": "Which answer is better?", "against": "base", "rows": DRAW.rows, "seed": DRAW.seed,
            "labels": None,
            "judge": {
                "kind": "openai", "url_from": "JUDGE_URL", "model": "judge-1", "prompt": PROMPT, "seed": 7, "max_tokens": 16,
                "value": "(left|right|tie)",
            },
        }
    }  # fmt: skip
    document["gates"] = {
        "people_prefer_it": {
            "kind": "improves", "suite": "chat", "metric": "human", "assisted_by": "judge", "against": "base", "margin": 0.0,
            "confidence": 0.95,
        }
    }  # fmt: skip
    found = Case(tmp_path, document)
    found.answer(12, 1)
    return found


def _better(text: str) -> str:
    lines = dict(line.split(": ", 1) for line in text.splitlines() if ": " in line)
    return "left" if lines["Left"] == lines["Right"] else "right" if lines["Right one"] == lines["Right"] else "tie"


def test_people_decide_the_judge_assists_and_all_is_recorded(case: Case, endpoint: Endpoint) -> None:
    found = case.finding()
    assert found.status == "pass", found.reason
    assert (found.value, found.n, found.gained, found.lost, found.suite) == (0.110, 100, 12, 1, "chat")
    assert "people prefer it to base by +0.110 (100 labels, the judge's weight is " in found.reason
    assert found.reason.endswith("better (witnessed: human by ada, openai:judge-1, suite chat)")
    assert found.method == "PPI++, t test, skewness removed"
    assert len(endpoint.asked) == 52  # 26 rows differ, in both orders; equal answers are asked about by nobody
    recorded = files.read_jsonl(case.root / layout.JUDGEMENTS / "chat.jsonl", Judgement)
    assert {(each.by, each.judge) for each in recorded} == {("human", "ada"), ("judge", "openai:judge-1")}
    assert case.result.compared is not None
    assert case.result.compared.model_dump(exclude_none=True) == {
        "against": "base", "differ": 26, "drawn": 100, "labelled": 100, "flips": 0, "unparsed": 0, "several": 0,
    }  # fmt: skip
    lines = files.read_jsonl(case.root / layout.SUITES / "chat.jsonl", SuiteLine)
    assert {(line.metric, line.source) for line in lines} == {("judge", "judge")}
    assert len(lines) == 2 * ROWS


def test_an_answer_that_did_not_change_is_not_compared_again(case: Case, endpoint: Endpoint) -> None:
    case.judged()
    endpoint.reply = lambda _: "tie"
    case.judged()
    assert len(endpoint.asked) == 52
    case.answer(13, 1)  # one row more differs in each half; in another, the two answers have changed places
    case.judged()
    assert len(endpoint.asked) == 56


DECIDED: dict[str, tuple[int, int, dict[str, Any], str, str]] = {
    "better": (12, 1, {}, "pass", "better"),
    "without the judge": (12, 1, {"assisted_by": None}, "pass", "(100 labels; lower 95% bound +0."),
    "worse": (1, 12, {}, "fail", "not better"),
    "too few differ": (5, 2, {}, "inconclusive", "too little to tell; about "),
    "not inferior": (2, 2, {"kind": "non_inferior", "margin": 0.05}, "pass", "not worse by 0.05"),
    "inferior": (1, 20, {"kind": "non_inferior", "margin": 0.05}, "fail", "worse, by more than 0.05"),
    "as they were": (0, 0, {"kind": "non_inferior", "margin": 0.05}, "pass", "by +0.000"),
    "not ruled out": (2, 5, {"kind": "non_inferior", "margin": 0.05}, "inconclusive", "too little to tell"),
}  # fmt: skip


@pytest.mark.parametrize("how", DECIDED)
def test_a_gate_that_asks_people_decides_by_their_labels(case: Case, how: str) -> None:
    wins, losses, change, status, reason = DECIDED[how]
    case.document["gates"]["people_prefer_it"] |= change
    case.answer(wins, losses)
    found = case.finding()
    assert found.status == status, found.reason
    assert reason in found.reason
    write_params(case.root, case.document)
    evidence_tree.judged(case.root, case.params())
    lines = verb.explain(case.root, "people_prefer_it")
    assert "prefer the candidate's answers to those of base by more than" in lines.asks


def _drop(case: Case, count: int) -> None:
    case.label(case.labels()[count:])


INCOMPLETE: dict[str, tuple[Callable[[Case], object], str]] = {
    "no labels yet": (
        lambda case: case.suite.update(labels=None), "people labelled 87 of the 100 rows that were drawn, as they are answered now",
    ),
    "three are missing": (lambda case: _drop(case, 3), "labelled 97 of the 100 rows"),
    "labels of answers that changed": (
        lambda case: case.label([line | {"left_sha": f"sha256:{'9' * 64}"} for line in case.labels()]), "labelled 87 of the 100 rows",
    ),
}  # fmt: skip


@pytest.mark.parametrize("how", INCOMPLETE)
def test_without_all_labels_of_these_answers_it_is_inconclusive_and_says_what_would_do(case: Case, how: str) -> None:
    change, line = INCOMPLETE[how]
    change(case)
    found = case.finding()
    assert found.status == "inconclusive", found.reason
    assert line in found.reason
    assert "the test needs all of them, at least 100; `lockstep label chat` asks for " in found.reason
    assert found.rows_needed == 100


def test_labels_live_on_while_the_answers_do(case: Case) -> None:
    """Another training changed one answer: the labels of all others count, and that one is asked again."""
    case.judged()
    path = case.root / layout.PREDICTIONS / "candidate.jsonl"
    ours, theirs = files.read_jsonl(path, Prediction), files.read_jsonl(path.with_name("base.jsonl"), Prediction)
    at = next(i for i, (one, two) in enumerate(zip(ours, theirs, strict=True)) if one.prediction != two.prediction)
    ours[at] = ours[at].model_copy(update={"prediction": "another", "score": 0.0, "scores": {"exact-match": 0.0}})
    evidence_tree.evaluated(case.root, case.params(), ours, base=theirs)
    found = case.finding()
    assert "people labelled 99 of the 100 rows" in found.reason


def test_a_judge_that_says_another_thing_in_the_other_order_is_taken_for_a_tie(case: Case, endpoint: Endpoint) -> None:
    endpoint.reply = lambda _: "left"
    found = case.finding()
    assert case.result.compared is not None
    assert case.result.compared.flips == 26
    assert "the judge's weight is 0.00" in found.reason  # it says nothing
    assert found.status == "pass"


def test_verdicts_that_cannot_be_read_are_counted_and_bounded(case: Case, endpoint: Endpoint) -> None:
    endpoint.reply = lambda text: "I cannot say" if "Left: sql" in text else _better(text)
    case.suite["max_unparsed"] = 1.0
    case.judged()
    assert case.result.compared is not None
    assert case.result.compared.unparsed == 26
    case.suite["max_unparsed"] = 0.02
    with pytest.raises(EvidenceRefused, match=r"chat\.judge: 26 of 26 comparisons have no verdict, at most 2\.0% may"):
        case.judged()


def test_what_questions_cost_is_counted_before_the_first_one(case: Case, endpoint: Endpoint) -> None:
    case.suite["judge"]["cost"] = {"input": 1000.0, "output": 0.0, "at_most": 1.0}
    with pytest.raises(
        EvaluationRefused,
        match=r"chat\.judge\.cost\.at_most: 52 questions of \d,\d{3} tokens.*could cost \d\.\d\d, and 1 is allowed; none was",
    ):
        case.judged()
    assert not endpoint.asked
    case.suite["judge"]["cost"]["at_most"] = 9.0
    case.judged()
    assert len(endpoint.asked) == 52
    case.suite["judge"]["cost"] = {"input": 1000.0, "output": 0.0, "at_most": 0.001}
    case.judged()  # all of them were asked before


def test_several_people_are_averaged_and_their_agreement_is_reported(case: Case) -> None:
    lines = case.labels()
    second = [line | {"annotator": "bob"} for line in lines[:6]]
    second[0]["label"] = "tie"
    case.label([*lines, *second])
    found = case.finding()
    assert found.value == pytest.approx(0.105)
    assert "human by ada, bob, openai:judge-1" in found.reason
    compared = case.result.compared
    assert compared is not None
    assert compared.several == 6
    assert compared.alpha is not None
    assert 0.5 < compared.alpha < 1


BAD_LABELS: dict[str, tuple[Callable[[list[dict[str, Any]]], object], str]] = {
    "another word": (lambda lines: lines[2].update(label="both"), r"chat\.labels: 3: label: Input should be 'left', 'right' or 'tie'"),
    "one answer": (lambda lines: lines[2].update(left_sha=lines[2]["right_sha"]), r"3: left_sha and right_sha are one"),
    "twice": (lambda lines: lines.append(lines[0]), r"chat\.labels: 14: ada labels these answers to row 'test\d+' twice; keep"),
    "no digest": (lambda lines: lines[2].update(left_sha="router"), r"chat\.labels: 3: left_sha"),
    "nobody's": (lambda lines: lines[2].pop("annotator"), r"chat\.labels: 3: annotator: Field required"),
}  # fmt: skip


@pytest.mark.parametrize("how", BAD_LABELS)
def test_a_label_that_is_none_is_refused(case: Case, how: str) -> None:
    change, line = BAD_LABELS[how]
    lines = case.labels()
    change(lines)
    case.label(lines)
    with pytest.raises(EvidenceRefused, match=line) as caught:
        case.judged()
    assert "\n" not in str(caught.value)


MEAN = r"is the mean of a judge, and a judge that likes long answers passes a worse model; ask people, and let the judge assist"


def _judge_alone(document: dict[str, Any]) -> None:
    prompt = {"prompt": "$prompt $answer", "value": "([1-5])"}
    document["suites"]["chat"] = {
        "kind": "judged", "metrics": {"liked": {"low": 1.0, "high": 5.0}}, "noise": 0.0, "models": ["candidate", "base"],
        "max_unparsed": 0.0, "judge": document["suites"]["chat"]["judge"] | prompt,
    }  # fmt: skip
    gate = document["gates"]["people_prefer_it"]
    gate.update(metric="liked")
    del gate["assisted_by"]


def _gate(**change: Any) -> Callable[[dict[str, Any]], object]:
    return lambda document: document["gates"]["people_prefer_it"].update(change)


def _suite(**change: Any) -> Callable[[dict[str, Any]], object]:
    return lambda document: document["suites"]["chat"].update(change)


IMPOSSIBLE: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "a judge's mean": (_gate(metric="judge", assisted_by=None), rf"gates\.people_prefer_it\.metric: judge of suite chat {MEAN}"),
    "a judge's scores": (_judge_alone, rf"liked of suite chat {MEAN}"),
    "no judge to assist": (_suite(judge=None), r"assisted_by: suite chat has no judge; add suites\.chat\.judge"),
    "a scorer is assisted": (_gate(suite=None, metric="exact-match"), r"assisted_by: exact-match is no label of people; remove it"),
    "another model": (_gate(against="main"), r"against: suite chat has no scores of 'main'; use one of base"),
    "too few labels": (_suite(rows=99), r"suites\.chat\.pairwise\.rows|suites\.chat\.rows"),
    "a margin that is not seen": (
        _gate(kind="non_inferior", margin=0.02),
        r"margin: 100 labelled rows show nothing of a loss of 0\.02 with a chance of 13%; label 149 \(suites\.chat\.rows\)",
    ),
    "a judge of one answer": (
        lambda document: document["suites"]["chat"]["judge"].update(prompt="$answer"),
        r"judge: says what one answer is worth; show it both: \$left and \$right",
    ),
    "half a comparison": (
        lambda document: document["suites"]["chat"]["judge"].update(prompt="$left"), r"does not hold \$answer, or else \$left and",
    ),
    "an anchor without a judge": (
        _suite(judge=None, anchor={"uri": "a", "sha256": "0" * 64, "license": None}), r"anchor: there is no judge to answer it",
    ),
    "a mean of people": (
        lambda document: document["gates"].update(people_prefer_it={
            "kind": "threshold", "suite": "chat", "metric": "human", "at_least": 0.5, "confidence": 0.95, "resolution": 0.2,
        }), r"kind: threshold asks no comparisons by people; use kind improves or non_inferior",
    ),
}  # fmt: skip


@pytest.mark.parametrize("how", IMPOSSIBLE)
def test_a_gate_that_rests_on_a_judge_or_on_too_little_is_refused_when_params_are_read(case: Case, how: str) -> None:
    change, line = IMPOSSIBLE[how]
    change(case.document)
    with pytest.raises(ParamsRefused, match=line):
        case.params()


# --- the judge itself -------------------------------------------------------------------------------------------------

SOUND = {"kind": "judge", "suite": "chat", "min_agreement": 0.8, "max_flips": 0.05, "confidence": 0.95}


@pytest.fixture
def anchored(case: Case) -> Case:
    """An anchor of 60 pairs: the answer "yes" is better, for people and for the judge."""
    pairs = [
        {"id": f"a{i}", "prompt": f"request {i}", "reference": "yes", "left": ("yes", "no")[i % 2], "right": ("no", "yes")[i % 2],
         "label": ("left", "right")[i % 2]}
        for i in range(60)
    ]  # fmt: skip
    case.suite["anchor"] = case.pinned("anchor.jsonl", pairs)
    case.document["gates"]["judge_is_sound"] = dict(SOUND)
    return case


def _sound(case: Case) -> Finding:
    return next(finding for finding in case.judged().findings if finding.kind == "judge")


def _wrong(below: int) -> Callable[[str], str]:
    """Wrong about the first requests of the anchor."""
    turned = {"left": "right", "right": "left", "tie": "tie"}
    return lambda text: turned[_better(text)] if any(f"request {i}\n" in text for i in range(below)) else _better(text)


JUDGES: dict[str, tuple[Callable[[str], str], str, str]] = {
    "as people": (_better, "pass", "agrees with people on 60 of 60 pairs of the anchor (lower 95% bound 0.951); 0 of 60 change"),
    "seldom": (_wrong(30), "fail", r"agrees with people on 30 of 60 pairs of the anchor (upper 95% bound 0.613): below 0.8"),
    "not shown": (_wrong(9), "inconclusive", "51 of 60 pairs of the anchor (lower 95% bound 0.753): 0.8 is not shown; about "),
    "the left one": (
        lambda text: "left" if any(f"request {i}\n" in text for i in range(5)) else _better(text), "fail", "5 of 60 change with the order",
    ),
}  # fmt: skip


@pytest.mark.parametrize("how", JUDGES)
def test_a_judge_is_held_to_people_on_the_anchor(anchored: Case, endpoint: Endpoint, how: str) -> None:
    endpoint.reply, status, line = JUDGES[how]
    found = _sound(anchored)
    assert (found.status, found.evidence, found.suite, found.n) == (status, "witnessed", "chat", 60)
    assert line in found.reason
    write_params(anchored.root, anchored.document)
    evidence_tree.judged(anchored.root, anchored.params())
    assert "agree with people on 80%" in verb.explain(anchored.root, "judge_is_sound").asks


def test_a_judge_that_changed_since_the_last_record_is_seen(anchored: Case, endpoint: Endpoint) -> None:
    """Main's record is in git; the judge behind the same name answers eight pairs otherwise since then."""
    anchored.document["gates"]["judge_is_sound"]["min_agreement"] = 0.7
    assert _sound(anchored).status == "pass"
    git(anchored.root, "add", "reports/suites.json")
    git(anchored.root, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "-m", "main")
    commit = git(anchored.root, "rev-parse", "HEAD").strip()
    evidence_tree.earlier(anchored.root, "main")
    ours, theirs = _answers(12, 1)
    report = files.read_json(anchored.root / layout.REFERENCES, ReferencesReport)
    found = {name: each.model_copy(update={"commit": commit}) for name, each in report.found.items()}
    files.write_json(anchored.root / layout.REFERENCES, report.model_copy(update={"found": found}))
    evidence_tree.evaluated(anchored.root, anchored.params(), ours, base=theirs, main=theirs)
    assert _sound(anchored).status == "pass"  # as it was
    for kept in (anchored.root / layout.JUDGED).iterdir():
        kept.unlink()
    endpoint.reply = _wrong(8)
    finding = _sound(anchored)
    assert finding.status == "inconclusive"
    assert f"52 of 60 pairs of the anchor, and on 60 at {commit[:12]} (McNemar p 0.0078)" in finding.reason
    compared = anchored.result.compared
    assert compared is not None
    assert compared.anchor is not None
    assert compared.anchor.before == "1" * 60
    anchored.suite["judge"]["seed"] = 8  # another judge, openly: its answers are not held to those of the one before
    assert _sound(anchored).status == "pass"


BAD_ANCHORS: dict[str, tuple[dict[str, Any], str]] = {
    "no label": ({"label": None}, r"chat\.anchor: 1: label: Input should be"),
    "equal answers": ({"left": "no", "right": "no"}, r"chat\.anchor: 1: both answers are the same; remove the line"),
}


@pytest.mark.parametrize("how", BAD_ANCHORS)
def test_an_anchor_that_is_none_is_refused(anchored: Case, how: str) -> None:
    change, line = BAD_ANCHORS[how]
    first = {"id": "a", "prompt": "p", "left": "x", "right": "y", "label": "tie"}
    anchored.suite["anchor"] = anchored.pinned("anchor.jsonl", [first | change])
    with pytest.raises(EvidenceRefused, match=line):
        anchored.judged()


def test_a_gate_of_a_judge_without_an_anchor_is_refused(case: Case) -> None:
    case.document["gates"]["judge_is_sound"] = dict(SOUND)
    with pytest.raises(
        ParamsRefused, match=r"gates\.judge_is_sound\.suite: 'chat' has no judge with an anchor; name a suite"
    ):
        case.params()


# --- the draw ---------------------------------------------------------------------------------------------------------


def test_rows_are_drawn_by_whole_groups_and_the_same_ones_each_time() -> None:
    rows = [row.model_copy(update={"group": f"g{i // 3}"}) for i, row in enumerate(evidence_tree.rows("test", 90))]
    drawn = comparisons.drawn(rows, Draw(1, 40))
    assert len(drawn) == 42
    assert comparisons.drawn(rows[::-1], Draw(1, 40)) != drawn[::-1]
    assert {row.id for row in comparisons.drawn(rows[::-1], Draw(1, 40))} == {row.id for row in drawn}
    assert {row.id for row in comparisons.drawn(rows, Draw(2, 40))} != {row.id for row in drawn}
    assert len({row.group for row in drawn}) == 14
    more = comparisons.drawn(rows, Draw(1, 60))
    assert more[:42] == drawn  # whoever labels more keeps what is labelled


def test_the_side_of_an_answer_does_not_tell_whose_it_is() -> None:
    rows: list[Row] = evidence_tree.rows("test", 400)
    lefts = sum(comparisons.left(3, row.id, "sha256:a", "sha256:b") == "sha256:a" for row in rows)
    assert 160 < lefts < 240


# --- a real server ----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("forked_servers")
def test_a_real_server_is_asked_and_a_model_that_cannot_judge_is_no_evidence(
    case: Case, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`transformers serve` with a tiny model of random weights: its replies are kept, and none has a verdict."""
    document = scaled_down()
    document["serve"] |= {"dtype": "fp32"}
    case.suite["judge"] |= {"model": str(tiny_base.resolve()), "max_tokens": 4, "value": "Verdict: (left|right|tie)"}
    with closing(processes.start(runtimes.load("transformers"), as_params(document).serve, tiny_base)) as started:
        server.wait_until(started, lambda: healthy(started), 120)
        monkeypatch.setenv("JUDGE_URL", f"{started.url}/v1")
        with pytest.raises(EvidenceRefused, match=r"chat\.judge: 26 of 26 comparisons have no verdict"):
            case.judged()
        case.suite["judge"] |= {"value": "(?s)^.*()$"}  # nothing, which is no verdict either
        case.suite["max_unparsed"] = 1.0
        found = case.finding()
    assert found.status == "pass", found.reason
    assert case.result.compared is not None
    assert case.result.compared.unparsed == 26
    assert len(list((case.root / layout.JUDGED).iterdir())) == 52
