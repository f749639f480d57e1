"""A judge labels captured requests only where people's labels bound how often its "right" is wrong."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import pytest
from pydantic import ValidationError
from scipy.stats import binom

from checks.config.pipeline_params import Prepare
from checks.data.personal_data import PersonalData
from checks.evaluation import judge_error
from checks.formats.captures import Capture
from checks.formats.harvest import Judged, Origin, request_digest
from checks.formats.suite_report import Judgement, Scale, SourceClass
from checks.kinds.judge import Asked, JudgeKind
from checks.kinds.suite import Material
from checks.scorers.exact_match import ExactMatch
from checks.storage import digest
from checks.suites.judged import Judged as JudgedSuite
from release.monitoring import harvest_rows
from release.monitoring.harvest_judge import HarvestJudge
from release.monitoring.harvest_splits import Splits
from release.monitoring.store import CaptureStore, Label
from release.monitoring.window import TimeSpan
from release.review import harvest_pull
from tests.release.review.test_harvest_close import HARVEST

BEGAN = datetime(2026, 5, 4, tzinfo=UTC)
SPAN = TimeSpan(BEGAN, BEGAN + timedelta(weeks=1))
REQUESTS, LABELLED, RIGHT = 2000, 0.25, 0.8
PREPARE = Prepare.model_validate(
    {
        "loader": {"kind": "table", "files": "*.jsonl", "columns": {"messages": "messages"}},
        "rules": [], "max_prompt_words": 99, "splits": {"valid": 0.1, "test": 0.1},
        "personal_data": PersonalData(detectors=("private_key",)),
    }
)  # fmt: skip


def chance(request: str, use: str) -> float:
    """A number from 0 to 1 that a hash draws."""
    return int(hashlib.sha256(f"{use} {request}".encode()).hexdigest()[:8], 16) / 2**32


def is_right(request: str) -> bool:
    """Whether the model's answer to this request is what people would say."""
    return chance(request, "model") < RIGHT


class Store(CaptureStore):
    """Captures in memory, a quarter of them with people's label."""

    def __init__(self, users: int | None = None) -> None:
        super().__init__("memory")
        self.users = users
        self.given = {name: "acr" for name in map(str, range(REQUESTS)) if chance(name, "people") < LABELLED}

    def requests(self, environment: str, since: datetime, until: datetime) -> Iterator[Capture]:
        for number in range(REQUESTS):
            answer = "acr" if is_right(f"{number}") else "vm"
            yield Capture.model_validate(
                {
                    "time": BEGAN + timedelta(minutes=number), "gen_ai.operation.name": "chat",
                    "gen_ai.input.messages": [
                        {"role": "user", "parts": [{"type": "text", "content": f"push image {number}"}]}
                    ],
                    "gen_ai.output.messages": [
                        {"role": "assistant", "parts": [{"type": "text", "content": answer}], "finish_reason": "stop"}
                    ],
                    "http.response.status_code": 200, "lockstep.request_id": f"{number}",
                    "lockstep.environment": environment, "lockstep.seconds": 0.1, "lockstep.sampled_share": 1.0,
                    "lockstep.user_key": f"{number % self.users:016x}" if self.users else None,
                }
            )  # fmt: skip

    def labels(self) -> Iterator[Label]:
        for name, label in self.given.items():
            yield Label(request_id=name, label=label)


class Judging(JudgeKind):
    """Calls right answers right, and these shares of the wrong ones too: by mistake, and on purpose."""

    kind: Literal["planted"] = "planted"
    prompt: str = "Is it right?"
    deceived: float = 0.0
    hostile: float = 0.0

    @property
    def evidence(self) -> SourceClass:
        return "judge"

    def judge(self, asked: Sequence[Asked], scale: Scale, material: Material) -> Iterable[Judgement]:
        assert [question.row.id for question in asked] == sorted(question.row.id for question in asked)
        for question in asked:
            assert question.row.reference == ""
            name = question.row.prompt.removeprefix("push image ")
            lies = chance(name, "lie") < self.hostile
            right = is_right(name) or lies or chance(name, "judge") < self.deceived
            yield Judgement(
                sample=question.row.id, answer_sha=question.sha, value=scale.high if right else scale.low,
                judge="planted", prompt_sha=None,
            )  # fmt: skip


def suite(judge: JudgeKind, at_most: float | None) -> JudgedSuite:
    return JudgedSuite.model_construct(
        kind="judged", judge=judge, metrics={"right": Scale(low=0.0, high=1.0)}, noise=0.0, models=("candidate",),
        max_unparsed=0.0, suite=None, harvest_error=at_most,
    )  # fmt: skip


def harvest(judge: JudgeKind, tmp_path: Any, users: int | None = None) -> harvest_rows.Harvested:
    asked = HarvestJudge(tmp_path, "right", suite(judge, None), ExactMatch(kind="exact-match"))
    return harvest_rows.choose(Store(users), "production", SPAN, Splits([], [], ()), PREPARE, (), judge=asked)


def true_error(rows: harvest_rows.Harvested) -> float:
    wrong = {request_digest(f"{number}") for number in range(REQUESTS) if not is_right(f"{number}")}
    return len(rows.by_judge & wrong) / len(rows.by_judge)


def refusal(judge: JudgeKind, judged: Judged | None, at_most: float | None) -> str | None:
    assert judged is not None
    return judge_error.problem(judged, {"right": suite(judge, at_most)})


def test_a_judge_that_is_wrong_in_a_tenth_is_refused_below_its_error_and_accepted_above(tmp_path: Any) -> None:
    judge = Judging(deceived=0.45)
    rows = harvest(judge, tmp_path)
    assert rows.judged is not None
    assert true_error(rows) == pytest.approx(0.1, abs=0.02)
    bound = judge_error.upper(rows.judged)
    assert true_error(rows) < bound < 0.15
    assert refusal(judge, rows.judged, 0.15) is None
    for at_most in (0.05, 0.1):
        why = refusal(judge, rows.judged, at_most)
        assert why is not None
        assert f"up to {bound:.1%} may be (95 % bound), and harvest_error is {at_most:.1%}" in why
    # People's labels stay as they are, and the judge adds the model's own answers.
    assert rows.labelled == len(rows.rows) - len(rows.by_judge)
    assert rows.judged.asked == REQUESTS - rows.labelled
    assert {row.messages[-1].content for row in rows.rows if row.id in rows.by_judge} == {"acr", "vm"}


def test_a_judge_that_lies_about_one_request_in_twenty_is_seen(tmp_path: Any) -> None:
    honest, hostile = Judging(), Judging(hostile=0.25)  # Wrong answers are a fifth of all: 5 % of all requests.
    rows = harvest(hostile, tmp_path)
    assert true_error(rows) == pytest.approx(0.05, abs=0.02)
    assert refusal(hostile, rows.judged, 0.05) is not None
    assert refusal(honest, harvest(honest, tmp_path).judged, 0.05) is None


def test_requests_of_one_user_count_once(tmp_path: Any) -> None:
    assert (alone := harvest(Judging(), tmp_path).judged) is not None
    assert alone.labelled > 300
    few = harvest(Judging(), tmp_path, users=40)
    assert few.judged is not None
    assert few.judged.labelled == 40
    why = refusal(Judging(), few.judged, 0.05)
    assert why is not None
    assert "with none wrong it needs 59 labels" in why
    assert few.rows == harvest(Judging(), tmp_path).rows


def test_the_bound_fails_in_at_most_one_harvest_of_twenty() -> None:
    for labelled in (20, 59, 100, 400):
        for error in (0.01, 0.05, 0.1, 0.3):
            passed = [
                wrong
                for wrong in range(labelled + 1)
                if refusal(Judging(), measured(labelled, wrong), error) is None
            ]  # fmt: skip
            assert float(binom.pmf(passed, labelled, error).sum()) <= 0.05
    assert refusal(Judging(), measured(59, 0), 0.05) is None  # the fewest labels that the refusal names


def measured(labelled: int, wrong: int) -> Judged:
    sha = digest.of_json(Judging().model_dump(mode="json"))
    return Judged(suite="right", judge=sha, asked=9, labelled=labelled, wrong=wrong)


@pytest.mark.parametrize(
    ("judge", "labelled", "at_most", "said"),
    [
        (Judging(), 58, 0.05, "with none wrong it needs 59 labels"),
        (Judging(), 0, 0.9, "of 0 answers that its judge calls right are wrong: up to 100.0% may be"),
        (Judging(prompt="Is it right? Yes."), 400, 0.05, "is another judge than the one that labelled these rows"),
        (Judging(), 400, None, "has no harvest_error, so its judge may label no rows"),
    ],
)
def test_a_judge_with_few_labels_another_prompt_or_no_bound_labels_nothing(
    judge: JudgeKind, labelled: int, at_most: float | None, said: str
) -> None:
    why = refusal(judge, measured(labelled, 0), at_most)
    assert why is not None
    assert said in why
    assert len(why.splitlines()) == 1


def test_a_review_says_how_many_rows_a_judge_labelled_and_names_it() -> None:
    by_judge = tuple(Origin(request=request_digest(f"{number}"), release=None, by="judge") for number in range(50))
    content = {**HARVEST.model_dump(), "origins": by_judge, "judged": measured(100, 4).model_dump()}
    review = HARVEST.model_validate(content)
    assert review.by_judge == 50
    assert dict(harvest_pull.judged_rows(review)) == {
        "of the rows, labelled by the judge of suite right": "50",
        "of these, wrong as often as where people labelled too": "about 2 (4 of 100: 4.0%)",
        "of these, wrong by the upper 95 % bound": "at most 5 (8.9%)",
    }
    body = harvest_pull._body(review, (), 9)
    assert all(f"| {name} | {count} |\n" in body for name, count in harvest_pull.judged_rows(review))
    with pytest.raises(ValidationError, match="rows are by a judge that the review does not name"):
        HARVEST.model_validate({**content, "judged": None})
    with pytest.raises(ValidationError, match="a judge labels no rows that test a model"):
        HARVEST.model_validate({**content, "sampling": {"seed": 1, "needed": {}}})
