"""A tiny model that really thinks: its answers are scored, its thoughts are kept and counted, an endless one is wrong."""

import shutil
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from checks.config.params import Params
from checks.config.pipeline_params import Evaluate
from checks.formats.evaluation_reports import EvaluationReport
from checks.formats.thinking import Thinking
from checks.records.rows import Prediction, Row, Thought
from checks.storage import digest, files, layout
from stages import evaluate as stage
from stages.evaluate import _speed
from stages.inference import answers, thoughts
from stages.inference.answers import Answered
from stages.score import scored
from stages.suite_models import SuiteModels, SuiteQuestions
from stages.weights import chat_template
from tests import tuned
from tests.conftest import as_params, scaled_down
from tests.once import once
from tests.stages.test_evaluate import lay_out, row
from tests.stages.weights.test_thinking import _model
from tests.thinking_template import TEMPLATE

pytestmark = pytest.mark.slow

# Of each row: what the model learns to write. The last row's thought has no end.
WRITES = (
    ("vm", "<think>\nlist it\n</think>\n\nvm"),
    ("disk", "<think>\nshow\n</think>\n\ndisk"),
    ("queue", "<think>\n\n</think>\n\nqueue"),
    ("vault", "<think>\nvault " + "the " * 60),
)


def _rows() -> list[Row]:
    return [row(number, label) for number, (label, _) in enumerate(WRITES)]


@pytest.fixture(scope="module")
def thinker(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Path:
    """The tiny model, once it thinks by heart before it answers, asked to do so. Read-only by custom."""

    def make(folder: Path) -> None:
        base = _model(tiny_base, folder.parent / "thinking-base", TEMPLATE)
        chat_template.give_thinking(base, Thinking(mode="always"))
        known = [(one.messages, said) for one, (_, said) in zip(_rows(), WRITES, strict=True)]
        tuned.tune(base, folder, known, steps=150)

    return once(tmp_path_factory, "thinker", make)


def _params() -> Params:
    document = scaled_down()
    document["base"]["thinking"] = {"mode": "always"}
    document["evaluate"] |= {"scorers": [{"kind": "exact-match"}], "max_new_tokens": 48, "precision": "fp32"}
    document["evaluate"]["baselines"] = ["majority"]
    document["evaluate"]["base_prompt"] = {"labels": False, "shots": 0}
    return as_params(document)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, thinker: Path) -> tuple[Path, Params]:
    root, params = tmp_path_factory.mktemp("thought"), _params()
    lay_out(root, thinker, [row(1000 + i, "vm") for i in range(8)], _rows())
    stage.evaluate(params, root)
    return root, params


def _predictions(done: tuple[Path, Params], name: str) -> list[Prediction]:
    return files.read_jsonl(done[0] / layout.PREDICTIONS / f"{name}.jsonl", Prediction)


def test_only_the_answer_is_scored_and_a_thought_without_an_end_has_none(done: tuple[Path, Params]) -> None:
    predictions = _predictions(done, "candidate")
    assert [p.prediction for p in predictions] == ["vm", "disk", "queue", ""]
    assert [p.score for p in predictions] == [1, 1, 1, 0]
    assert [p.thoughts[0].closed for p in predictions] == [True, True, True, False]
    assert [p.thoughts[0].text for p in predictions[:3]] == ["list it", "show", ""]
    assert predictions[3].thoughts[0].text.startswith("vault the the")


def test_thoughts_are_counted_by_the_candidates_tokenizer(done: tuple[Path, Params], thinker: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(thinker)
    counts = [p.thoughts[0].tokens for p in _predictions(done, "candidate")]
    assert counts[:3] == [len(tokenizer.encode(text)) for text in ("list it", "show", "")]
    assert counts[2] == 0
    assert 30 < counts[3] <= 48


def test_baselines_do_not_think(done: tuple[Path, Params]) -> None:
    predictions = _predictions(done, "majority")
    assert [p.prediction for p in predictions] == ["vm"] * 4
    assert not any(p.thoughts for p in predictions)
    assert b"thoughts" not in (done[0] / layout.PREDICTIONS / "majority.jsonl").read_bytes()


def test_the_marks_belong_to_how_a_model_is_asked(done: tuple[Path, Params], tmp_path: Path) -> None:
    root, params = done
    merged = root / layout.MERGED
    before = answers.prompt_format(merged, params.evaluate)
    copy = tmp_path / "merged"
    shutil.copytree(merged, copy, ignore=shutil.ignore_patterns(layout.THINKING))
    assert answers.prompt_format(copy, params.evaluate) != before
    files.write_json(copy / layout.THINKING, Thinking(mode="always"))
    assert answers.prompt_format(copy, params.evaluate) == before


def test_the_valid_rows_and_suites_are_scored_by_their_answers_too(done: tuple[Path, Params]) -> None:
    root, params = done
    merged = root / layout.MERGED
    model = digest.of_tree(merged).digest
    assert scored(params, root, merged, model, _rows()) == {"exact-match": [1, 1, 1, 0]}
    questions = SuiteQuestions(SuiteModels.of(root), params.evaluate, "asked")
    for _ in ("asked", "answered before"):
        assert list(questions.ask("candidate", _rows(), 48)) == ["vm", "disk", "queue", ""]


def test_kept_answers_are_whole(done: tuple[Path, Params]) -> None:
    root, params = done
    settings: Evaluate = params.evaluate
    model = digest.of_tree(root / layout.MERGED).digest
    known = answers.known(root, settings, model, _rows(), [one.messages for one in _rows()])
    assert known is not None
    assert known.texts[0] == WRITES[0][1]
    assert known.thoughts == ()


def test_each_draw_has_its_thought_and_what_is_divided_stays(thinker: Path) -> None:
    answered = Answered(["<think>a</think>b", "c"], [], None, (("d</think>e",), ("<think></think>f",)))
    divided = thoughts.divided(answered, thinker)
    assert divided.draws == [("b", "e"), ("", "f")]
    assert [[thought.text for thought in row] for row in divided.thoughts] == [["a", "d"], ["c", ""]]
    assert divided.thoughts[1][0] == Thought(text="c", tokens=1, closed=False)
    assert thoughts.divided(divided, thinker) is divided


def test_a_model_that_does_not_think_keeps_its_texts(tiny_base: Path) -> None:
    answered = Answered(["<think>a</think>b"], [], None)
    assert thoughts.divided(answered, tiny_base) is answered


def test_a_reference_is_compared_without_its_thought(done: tuple[Path, Params], tmp_path: Path, thinker: Path) -> None:
    test = [one.model_copy(update={"reference": f"<think>why</think>{one.reference}"}) for one in _rows()]
    lay_out(tmp_path, thinker, [row(1000, "<think>why</think>vm")], test)
    stage.evaluate(done[1], tmp_path)
    predictions = _predictions((tmp_path, done[1]), "candidate")
    assert [p.score for p in predictions] == [1, 1, 1, 0]
    assert [p.reference for p in predictions] == [one.reference for one in test]
    assert [p.prediction for p in _predictions((tmp_path, done[1]), "majority")] == ["vm"] * 4
    report = files.read_json(tmp_path / layout.EVALUATION, EvaluationReport)
    assert report.thinking == Thinking(mode="always")
    merged = tmp_path / layout.MERGED
    assert scored(done[1], tmp_path, merged, report.merged, test) == {"exact-match": [1, 1, 1, 0]}


def test_the_record_has_the_mean_length_of_a_thought_and_only_where_the_model_thinks() -> None:
    given_thoughts = tuple((Thought(text="a", tokens=tokens, closed=True),) for tokens in (10, 31))
    answered = Answered(["a", "b"], [0.5, 0.7], 2.0)
    plain, thinks = (_speed(answered._replace(thoughts=given)) for given in ((), given_thoughts))
    assert plain is not None
    assert thinks is not None
    assert (plain.thought_tokens, thinks.thought_tokens) == (None, 20.5)
    assert "thought_tokens" not in plain.model_dump()
