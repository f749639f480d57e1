"""The stage evaluate on a tiny model that is both merged and base: what it writes, what it refuses."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from checks.config.params import Params
from checks.config.pipeline_params import BasePrompt
from checks.evaluation import scoring
from checks.evaluation.baselines import NAMES as BASELINES
from checks.evaluation.baselines import Baseline
from checks.formats.evaluation_reports import EvaluateMeasured, EvaluationReport, Interval, ReferencesReport
from checks.formats.thinking import Thinking
from checks.formats.training_reports import ParityReport
from checks.gating import chain
from checks.process.errors import EvaluationRefused, EvidenceRefused, ParamsRefused, Refusal
from checks.records.rows import Message, Prediction, Row
from checks.storage import digest, files, layout
from stages import evaluate as stage
from stages.inference import baselines, prompts
from stages.inference.answers import Answered
from stages.reporting import page, plots
from tests.conftest import as_params, scaled_down

pytestmark = pytest.mark.slow

LABELS = ("vm", "storage", "queue & <b>vault</b>", "ключ|☁")
NASTY = "<script>alert(1)</script> | [x](http://evil) `code` @all $\\f$ \u202egnp\x1b[31m www.evil.example"


def row(number: int, label: str, prompt: str = "", group: str = "", system: str = "Name it.") -> Row:
    words = f"{prompt or 'show the'} {label} image {number}"
    turns = (Message(role="system", content=system), Message(role="user", content=words))
    return Row(
        id=f"{number:016x}", messages=turns, reference=label, group=group or f"g{number}", slice=f"s{number % 3}",
        source=f"file:{number}",
    )  # fmt: skip


def split(start: int, count: int) -> list[Row]:
    return [row(start + i, LABELS[i % len(LABELS)], NASTY if i == 2 else "") for i in range(count)]


def lay_out(root: Path, base: Path, train: list[Row], test: list[Row]) -> None:
    """What the stages before leave: weights, splits, a parity report; and that git names no earlier model."""
    for folder in (layout.BASE, layout.MERGED):
        shutil.copytree(base, root / folder)
    files.write_jsonl(root / layout.SPLITS / "train.jsonl", train)
    files.write_jsonl(root / layout.SPLITS / "test.jsonl", test)
    write_parity(root, digest.of_tree(root / layout.MERGED).digest)
    files.write_json(root / layout.REFERENCES, ReferencesReport(found={}, absent={"production": "nothing | runs yet"}))


def write_parity(root: Path, merged: str) -> None:
    report = ParityReport(
        base=digest.of_bytes(b"base"), adapter=digest.of_bytes(b"adapter"), merged=merged, files={}, prompts=1,
        positions=2, max_logprob_diff=0.0, mean_logprob_diff=0.0, top1=1.0,
    )  # fmt: skip
    files.write_json(root / layout.PARITY_REPORT, report)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> tuple[Path, Params, str]:
    """A finished evaluation of 36 rows: its repository, parameters and line."""
    root = tmp_path_factory.mktemp("evaluated")
    document = scaled_down()
    document["evaluate"] |= {
        "scorers": [{"kind": "exact-match"}, {"kind": "edit-similarity"}],
    }
    params = as_params(document)
    lay_out(root, tiny_base, split(1000, 60), split(0, 36))
    return root, params, stage.evaluate(params, root)


def read(done: tuple[Path, Params, str]) -> EvaluationReport:
    return files.read_json(done[0] / layout.EVALUATION, EvaluationReport)


def test_every_model_answers_every_row_once_in_order(done: tuple[Path, Params, str]) -> None:
    root, _, line = done
    test = files.read_jsonl(root / layout.SPLITS / "test.jsonl", Row)
    report = read(done)
    assert list(report.models) == ["candidate", "base", "majority", "naive-bayes"]
    for name, model in report.models.items():
        path = root / layout.PREDICTIONS / f"{name}.jsonl"
        found = files.read_jsonl(path, Prediction)
        assert [(p.id, p.reference, p.group, p.slice) for p in found] == [
            (r.id, r.reference, r.group, r.slice) for r in test
        ]
        assert digest.of_file(path).sha256 == model.predictions
        assert sum(p.score for p in found) / len(found) == pytest.approx(model.metrics["exact-match"].value)
    assert line.startswith("36 rows: exact-match 0.")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> tuple[Path, Params, str]:
    """As ``done``, with three answers to each row, drawn from a wide distribution."""
    root, document = tmp_path_factory.mktemp("drawn"), scaled_down()
    document["evaluate"] |= {
        "scorers": [{"kind": "exact-match"}, {"kind": "edit-similarity"}],
        "decoding": {"temperature": 1.5, "top_p": 0.95, "draws": 3, "seed": 17},
    }
    document["gates"]["is_consistent"] = {
        "kind": "threshold", "metric": "edit-similarity in all draws", "at_least": 0.9, "confidence": 0.95,
        "resolution": 0.3,
    }  # fmt: skip
    params = as_params(document)
    lay_out(root, tiny_base, split(1000, 60), split(0, 36))
    return root, params, stage.evaluate(params, root)


def test_a_row_has_the_mean_of_its_draws(drawn: tuple[Path, Params, str]) -> None:
    root, params, _ = drawn
    report, (exact, similar) = read(drawn), params.evaluate.scorers
    assert (report.decoding, report.draws) == (params.evaluate.decoding, 3)
    for name, model in report.models.items():
        predictions = files.read_jsonl(root / layout.PREDICTIONS / f"{name}.jsonl", Prediction)
        baseline = name in ("majority", "naive-bayes")
        assert {len(prediction.draws) for prediction in predictions} == {1 if baseline else 3}
        assert baseline or len({prediction.draws for prediction in predictions}) > 30
        for prediction in predictions:
            scores = [scoring.score(similar, text, prediction.reference) for text in prediction.draws]
            by = (prediction.scores[f"edit-similarity{end}"] for end in ("", " in all draws", " in any draw"))
            assert list(by) == pytest.approx([sum(scores) / len(scores), min(scores), max(scores)])
        assert model.metrics["edit-similarity"].value == pytest.approx(
            sum(prediction.scores["edit-similarity"] for prediction in predictions) / 36
        )
    page = (root / layout.SUMMARY).read_text()
    assert "Answers are sampled: temperature 1.5, top_p 0.95, 3 of each row." in page
    assert [part for part in report.summary if part.startswith(f"{similar.kind} is a mean over 3 draws")]
    assert set(report.spread) == {exact.kind, similar.kind}
    assert report.spread[similar.kind].draws > 0


def test_the_same_draws_come_again_and_are_another_evaluation_than_greedy_answers(
    drawn: tuple[Path, Params, str], done: tuple[Path, Params, str], tmp_path: Path
) -> None:
    lay_out(tmp_path, drawn[0] / layout.MERGED, split(1000, 60), split(0, 36))
    stage.evaluate(drawn[1], tmp_path)
    assert (tmp_path / layout.EVALUATION).read_bytes() == (drawn[0] / layout.EVALUATION).read_bytes()
    assert read(drawn).prompt_format != read(done).prompt_format  # So models of before answer anew.
    assert {"decoding", "spread", "further"}.isdisjoint(
        {*json.loads((done[0] / layout.EVALUATION).read_text())}
        | {*json.loads((done[0] / layout.PREDICTIONS / "candidate.jsonl").read_text().splitlines()[0])}
    )


def test_answers_under_a_schema_are_another_evaluation_and_the_page_says_so(
    tmp_path: Path, tiny_base: Path, done: tuple[Path, Params, str]
) -> None:
    pytest.importorskip("llguidance", reason="pip install -c constraints.txt -e '.[grammar]'")
    document = scaled_down()
    document["evaluate"] |= {
        "scorers": [{"kind": "exact-match"}, {"kind": "json-valid"}],
        "json_schema": '{"type": "boolean"}',
    }
    document["serve"] |= {"runtime": "vllm", "json_schema": {"type": "boolean"}}
    params = as_params(document)
    lay_out(tmp_path, tiny_base, split(1000, 60), split(0, 36))
    stage.evaluate(params, tmp_path)
    report = read((tmp_path, params, ""))
    assert {name: model.metrics["json-valid"].value for name, model in report.models.items()} == {
        "candidate": 1.0, "base": 1.0, "majority": 0.0, "naive-bayes": 0.0,
    }  # fmt: skip
    assert report.json_schema == '{"type": "boolean"}'
    assert report.prompt_format != read(done).prompt_format
    sentence = "Answers are made to fit a JSON Schema"
    assert sentence in (tmp_path / layout.SUMMARY).read_text()
    assert sentence not in (done[0] / layout.SUMMARY).read_text()
    assert "json_schema" not in json.loads((done[0] / layout.EVALUATION).read_text())


@pytest.mark.parametrize("change", [{"further": ("vm",)}, {"further": ()}])
def test_an_answer_with_another_number_of_draws_is_no_evidence(
    drawn: tuple[Path, Params, str], tmp_path: Path, change: dict[str, Any]
) -> None:
    root, params, _ = drawn
    shutil.copytree(root, tmp_path / "damaged")
    path = tmp_path / "damaged" / layout.PREDICTIONS / "candidate.jsonl"
    first, *others = files.read_jsonl(path, Prediction)
    scorers = scoring.digest_of(params.evaluate.scorers)
    assert not [line for line in chain.gather(root, scorers).breaks if "draws" in line]
    files.write_jsonl(path, [first.model_copy(update=change), *others])
    (found,) = [line for line in chain.gather(tmp_path / "damaged", scorers).breaks if "draws" in line]
    assert (
        f"candidate.jsonl:1: row {first.id} has {1 + len(change['further'])} draws, reports/evaluation.json says 3"
        in found
    )


def test_the_report_names_the_bytes_it_is_about(done: tuple[Path, Params, str]) -> None:
    root, params, _ = done
    report = read(done)
    assert report.merged == digest.of_tree(root / layout.MERGED).digest
    assert report.base == digest.of_tree(root / layout.BASE).digest
    assert report.test == digest.of_file(root / layout.SPLITS / "test.jsonl").sha256
    assert report.scorers == scoring.digest_of(params.evaluate.scorers)


def test_the_candidates_answers_are_those_of_the_model_itself(done: tuple[Path, Params, str]) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    root, params, _ = done
    model = AutoModelForCausalLM.from_pretrained(root / layout.MERGED)
    tokenizer = AutoTokenizer.from_pretrained(root / layout.MERGED)
    test = files.read_jsonl(root / layout.SPLITS / "test.jsonl", Row)
    found = files.read_jsonl(root / layout.PREDICTIONS / "candidate.jsonl", Prediction)
    for asked, answer in list(zip(test, found, strict=True))[:6]:
        turns = [m.model_dump() for m in asked.messages]
        ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=True, return_tensors="pt")
        out = model.generate(**ids, max_new_tokens=params.evaluate.max_new_tokens, do_sample=False)
        text = tokenizer.decode(out[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)
        assert answer.prediction == text.strip()


def test_the_report_has_intervals_and_slices_and_the_time_is_apart(done: tuple[Path, Params, str]) -> None:
    models = read(done).models
    bayes = models["naive-bayes"].metrics["exact-match"]
    assert 0 <= bayes.low <= bayes.value <= bayes.high <= 1
    assert set(models["candidate"].slices) == {"s0", "s1", "s2"}
    measured = files.read_json(done[0] / layout.EVALUATE_MEASURED, EvaluateMeasured)
    assert set(measured.models) == {"candidate", "base"}  # nothing was generated for the others
    assert all(0 < (speed.p50_seconds or 0) <= (speed.p95_seconds or 0) for speed in measured.models.values())


def test_the_confusion_has_a_line_a_row_and_folds_answers_outside_the_labels(done: tuple[Path, Params, str]) -> None:
    with (done[0] / layout.CONFUSION).open(newline="", encoding="utf-8") as stream:
        header, *rows = csv.reader(stream)
    assert header == ["reference", "predicted"]
    assert len(rows) == 36
    assert {reference for reference, _ in rows} == set(LABELS)
    assert {predicted for _, predicted in rows} <= {*LABELS, plots.OTHER}


def test_the_confusion_of_a_model_that_thinks_is_one_of_answers(tmp_path: Path, tiny_base: Path) -> None:
    base = shutil.copytree(tiny_base, tmp_path / "base")
    files.write_json(base / layout.THINKING, Thinking(mode="always"))
    train, test = ([row(start + i, f"<think>case {i}</think>{LABELS[i % 2]}") for i in range(8)] for start in (50, 0))
    root, document = tmp_path / "root", scaled_down()
    document["evaluate"] |= {"scorers": [{"kind": "exact-match"}], "baselines": ["majority"]}
    document["evaluate"]["base_prompt"]["labels"] = False
    document["gates"] = {"data_is_sound": {"kind": "data"}}
    lay_out(root, base, train, test)
    stage.evaluate(as_params(document), root)
    with (root / layout.CONFUSION).open(newline="", encoding="utf-8") as stream:
        _, *rows = csv.reader(stream)
    assert [reference for reference, _ in rows] == [LABELS[i % 2] for i in range(8)]


def test_plots_are_pictures_in_both_forms(done: tuple[Path, Params, str]) -> None:
    folder = done[0] / layout.PLOTS
    assert {path.name for path in folder.iterdir()} == {
        f"{name}.{kind}" for name in ("scores", "slices", "confusion") for kind in ("png", "svg")
    }
    for path in folder.glob("*.png"):
        assert path.read_bytes().startswith(b"\x89PNG")
    assert b"<b>" not in (folder / "confusion.svg").read_bytes()


def test_the_same_report_gives_the_same_plots(done: tuple[Path, Params, str], tmp_path: Path) -> None:
    pairs = [("vm", "vm"), ("$x$", plots.OTHER)]
    for name in ("one", "two"):
        plots.draw(tmp_path / name, read(done), [], pairs)
    assert digest.of_tree(tmp_path / "one").digest == digest.of_tree(tmp_path / "two").digest


def test_slices_of_few_rows_are_one_bar_of_all_their_rows(done: tuple[Path, Params, str], tmp_path: Path) -> None:
    report = read(done)
    scorer = next(iter(report.models["candidate"].metrics))
    sizes = {"large": 40, "small": 3, "tiny": 1}
    answers = [
        Prediction(
            id=f"{i:016x}",
            prompt="p",
            reference="r",
            prediction="r",
            group=f"{i}",
            slice=name,
            score=1.0,
            scores={scorer: 1.0},
        )
        for i, name in enumerate(name for name, rows in sizes.items() for _ in range(rows))
    ]
    slices = {name: {scorer: Interval(value=1.0, low=0.9, high=1.0, n=rows)} for name, rows in sizes.items()}
    models = report.models | {"candidate": report.models["candidate"].model_copy(update={"slices": slices})}
    plots.draw(tmp_path, report.model_copy(update={"models": models}), answers, [])
    svg = (tmp_path / "slices.svg").read_text()
    assert ("large (40)" in svg, "2 smaller ones (4)" in svg, "tiny" in svg) == (True, True, False)


def test_the_page_says_first_who_wins_and_shows_rows_as_inert_text(done: tuple[Path, Params, str]) -> None:
    text = (done[0] / layout.SUMMARY).read_text()
    assert "![" not in text  # git has no picture: the link would be broken where the page is read
    assert text.startswith("Naive Bayes beats the fine-tuned model: Naive Bayes scores 1.000 [")
    assert "does not earn its cost" in text
    assert text.splitlines()[0] == read(done).summary[0]
    for raw in ("<script", "<b>", "http://", "`code`", "@all", "\u202e", "\x1b", "www.evil", "[x]"):
        assert raw not in text
    assert "&lt;script&gt;alert(1)" in text
    assert text.count("\n| <code>0000") == 10
    assert "\n## Earlier models\n\n- Production's model: absent: nothing &#124; runs yet.\n" in text


def test_the_training_run_is_told_what_judged_it_and_no_score_on_the_test_split(done: tuple[Path, Params, str]) -> None:
    from mlflow import MlflowClient

    from stages import tracking

    root, params, _ = done
    client = MlflowClient(tracking.address(params.tracking, root))
    experiment = client.get_experiment_by_name(params.tracking.experiment)
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.data.metrics == {}
    assert (run.data.tags["lockstep.merged"], run.data.tags["lockstep.test"]) == (read(done).merged, read(done).test)


def test_free_text_has_an_empty_confusion_and_no_picture_of_it(tmp_path: Path, tiny_base: Path) -> None:
    document = scaled_down()
    document["evaluate"] |= {"scorers": [{"kind": "token-f1"}], "baselines": []}
    document["evaluate"]["base_prompt"]["labels"] = False
    document["gates"] = {"data_is_sound": {"kind": "data"}}
    train, test = ([row(s + i, f"say {s + i} words") for i in range(8)] for s in (50, 0))
    lay_out(tmp_path, tiny_base, train, test)
    # Nobody listens there: the mirror is gone, the evaluation is not.
    document["tracking"]["uri"] = "http://127.0.0.1:9"
    line = stage.evaluate(as_params(document), tmp_path)
    assert "not in MLflow" in line
    assert (tmp_path / layout.CONFUSION).read_text() == "reference,predicted\n"
    assert not list((tmp_path / layout.PLOTS).glob("confusion.*"))
    assert list(files.read_json(tmp_path / layout.EVALUATION, EvaluationReport).models) == ["candidate", "base"]


Break = Callable[[Path], object]


@pytest.mark.parametrize(
    ("spoil", "error", "problem"),
    [
        (lambda root: shutil.rmtree(root / layout.MERGED), EvidenceRefused, "models/merged: not a directory"),
        (lambda root: shutil.rmtree(root / layout.BASE), EvidenceRefused, "models/base: not a directory"),
        (lambda root: (root / layout.SPLITS / "test.jsonl").unlink(), EvidenceRefused, "test.jsonl: not a regular"),
        (lambda root: (root / layout.SPLITS / "train.jsonl").unlink(), EvidenceRefused, "train.jsonl: No such file"),
        (lambda root: (root / layout.PARITY_REPORT).unlink(), EvidenceRefused, "parity.json: No such file"),
        (lambda root: (root / layout.REFERENCES).unlink(), EvidenceRefused, "references.json: No such .* `lockstep run`"),
        (lambda root: write_parity(root, digest.of_bytes(b"x")), EvidenceRefused, "parity.json is about"),
        (lambda root: (root / layout.SPLITS / "test.jsonl").write_text("{}\n"), EvidenceRefused, "test.jsonl:1: id"),
    ],
)  # fmt: skip
def test_missing_or_foreign_evidence_refuses_before_any_model_runs(
    tmp_path: Path, tiny_base: Path, params: Params, spoil: Break, error: type[Refusal], problem: str
) -> None:
    lay_out(tmp_path, tiny_base, split(1000, 12), split(0, 8))
    spoil(tmp_path)
    with pytest.raises(error, match=problem):
        stage.evaluate(params, tmp_path)
    assert not (tmp_path / layout.EVALUATION).exists()


def test_a_prompt_without_room_for_an_answer_refuses_and_names_the_row(
    tmp_path: Path, tiny_base: Path, params: Params
) -> None:
    test = [*split(0, 8), row(99, "vm", "disk " * 300)]
    lay_out(tmp_path, tiny_base, split(1000, 12), test)
    with pytest.raises(EvaluationRefused, match=r"test.jsonl:9: row 0+63: a prompt of \d+ tokens is too long .* 248 "):
        stage.evaluate(params, tmp_path)


def test_an_impossible_pattern_refuses_before_any_model_runs(tmp_path: Path, tiny_base: Path, document: dict) -> None:
    lay_out(tmp_path, tiny_base, split(1000, 12), split(0, 8))
    document["evaluate"]["scorers"].append({"kind": "regex", "pattern": "("})
    with pytest.raises(ParamsRefused, match="is not a regular expression"):
        stage.evaluate(as_params(document), tmp_path)


def test_a_missing_prediction_refuses_and_names_the_row(params: Params) -> None:
    with pytest.raises(EvaluationRefused, match=r"1 predictions for 2 rows .*without one: 0+1\)"):
        stage.predict(params, [row(0, "vm"), row(1, "vm")], Answered(["vm"], [0.1], None))


def test_the_base_is_told_the_labels_and_shown_different_answers() -> None:
    train, test = split(1000, 40), split(0, 2)
    (first, _) = prompts.for_base(test, train, BasePrompt(labels=True, shots=3))
    assert [m.role for m in first] == ["system", *["user", "assistant"] * 3, "user"]
    assert first[0].content.startswith("Name it.\nAnswer with one of these labels and nothing else: ")
    assert all(label in first[0].content for label in LABELS)
    assert len({first[i].content for i in (2, 4, 6)}) == 3
    assert first[-1] == test[0].messages[-1]
    assert prompts.for_base(test, train[::-1], BasePrompt(labels=True, shots=3))[0] == first


def test_without_labels_and_examples_the_base_is_asked_what_the_candidate_is() -> None:
    test = split(0, 3)
    asked = prompts.for_base(test, split(1000, 8), BasePrompt(labels=False, shots=0))
    assert asked == [row.messages for row in test]


def test_system_messages_that_differ_stand_in_their_own_questions_so_that_all_prompts_begin_alike() -> None:
    train = [row(i, LABELS[i % 4], system=f"Name it. Team: {i % 3}") for i in range(9)]
    test = [row(20, "vm", system="Name it. Team: 1"), row(21, "vm", system="Name it. Team: 2")]
    one, two = prompts.for_base(test, train, BasePrompt(labels=False, shots=2))
    assert [message.role for message in one] == [*["user", "assistant"] * 2, "user"]
    assert one[:-1] == two[:-1]
    assert one[0].content == f"Name it. Team: 0\n{train[0].prompt}"
    assert [asked[-1].content for asked in (one, two)] == [
        f"Name it. Team: {team}\n{each.prompt}" for team, each in zip((1, 2), test, strict=True)
    ]
    told = prompts.for_base(test, train, BasePrompt(labels=True, shots=2))[0][0]
    assert (told.role, told.content.partition(":")[0]) == ("system", "Answer with one of these labels and nothing else")
    assert prompts.for_base(test, train, BasePrompt(labels=False, shots=0)) == [each.messages for each in test]


def test_labels_for_free_text_and_more_examples_than_rows_refuse() -> None:
    free = [row(i, f"answer {i}") for i in range(80)]
    with pytest.raises(EvaluationRefused, match=r"80 distinct answers in 80 rows .*; set it to false"):
        prompts.for_base(free, free, BasePrompt(labels=True, shots=0))
    with pytest.raises(EvaluationRefused, match="5 examples, and train has 4 rows"):
        prompts.for_base(free, free[:4], BasePrompt(labels=False, shots=5))


def test_a_model_without_a_template_or_whose_template_refuses_is_refused(tiny_base: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    test = [row(0, "vm")]
    where = layout.SPLITS / "test.jsonl"
    tokenizer.chat_template = "{{ raise_exception('no system role') }}"
    with pytest.raises(EvaluationRefused, match=r"test.jsonl:1: row 0+: the chat template refuses it: no system role"):
        prompts.tokens(tokenizer, [test[0].messages], test, None, where)
    tokenizer.chat_template = None
    with pytest.raises(EvaluationRefused, match="has no chat template"):
        prompts.tokens(tokenizer, [test[0].messages], test, None, where)


def test_baselines_are_deterministic_and_the_majority_is_the_commonest() -> None:
    train = [*split(0, 40), row(500, "vm"), row(501, "vm")]
    test = split(2000, 12)
    assert baselines.answer("majority", train, test) == ["vm"] * 12
    answers = baselines.answer("naive-bayes", train, test)
    assert answers == baselines.answer("naive-bayes", train, test)
    assert sum(a == r.reference for a, r in zip(answers, test, strict=True)) >= 9


def test_the_nearest_request_is_looked_for_among_those_with_the_same_system_message() -> None:
    def asked(system: str, prompt: str, reference: str) -> Row:
        turns = (Message(role="system", content=system), Message(role="user", content=prompt))
        return row(len(prompt), reference).model_copy(update={"messages": turns})

    train = [
        asked("vm", "list all disks", "az vm disk list"), asked("vm", "start one", "az vm start"),
        asked("aks", "list all disks of a cluster", "az aks list"), asked("vm", "list all disks", "second"),
    ]  # fmt: skip
    test = [
        asked("vm", "list the disks of a cluster", ""), asked("aks", "start one", ""),
        asked("other", "start one", ""), asked("vm", "!?", ""),
    ]  # fmt: skip
    assert baselines.answer("nearest", train, test) == [
        "az vm disk list",
        "az aks list",
        "az vm start",
        "az vm disk list",
    ]


def test_a_baseline_knows_what_was_said_before_the_last_question() -> None:
    def chat(number: int, about: str, reference: str) -> Row:
        said = (("user", about), ("assistant", "Done."), ("user", "and once more in the other region"))
        turns = tuple(Message.model_validate({"role": role, "content": text}) for role, text in said)
        return row(number, reference).model_copy(update={"messages": turns})

    train = [
        chat(1, "list all disks", "disk"),
        chat(2, "restart the queue", "queue"),
        chat(3, "list the disks", "disk"),
    ]
    test = [chat(4, "restart my queue", ""), chat(5, "list my disks", "")]
    for kind in ("nearest", "naive-bayes"):
        assert baselines.answer(kind, train, test) == ["queue", "disk"]


def test_what_a_judge_reads_of_a_chat_is_all_of_it_but_the_system_message() -> None:
    said = (("system", "Be brief."), ("user", "hi"), ("assistant", "yes?"), ("user", "and now?"))
    turns = tuple(Message.model_validate({"role": role, "content": text}) for role, text in said)
    assert row(1, "").model_copy(update={"messages": turns[:2]}).transcript == "hi"
    assert (
        row(1, "").model_copy(update={"messages": turns}).transcript == "user: hi\n\nassistant: yes?\n\nuser: and now?"
    )


def test_a_baseline_refuses_prompts_without_words_and_answers_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    turns = (Message(role="user", content="!?"),)
    silent = [row(i, "vm").model_copy(update={"messages": turns}) for i in range(3)]
    for kind in ("naive-bayes", "nearest"):
        with pytest.raises(EvaluationRefused, match=rf"{kind}: .*hold no words.*evaluate\.baselines"):
            baselines.answer(kind, silent, silent)
    monkeypatch.setattr(baselines, "_MAX_TABLE", 10)
    with pytest.raises(EvaluationRefused, match=r"make a table of .*evaluate\.baselines"):
        baselines.answer("naive-bayes", split(0, 8), split(0, 8))
    with pytest.raises(EvaluationRefused, match="no rows"):
        baselines.answer("majority", [], split(0, 8))


def predicted(score: list[float]) -> list[Prediction]:
    return [
        Prediction(
            id=str(i), prompt="p", prediction="a", reference="b", score=s, scores={"exact-match": s}, group=str(i),
            slice="s",
        )
        for i, s in enumerate(score)
    ]  # fmt: skip


def said(ours: list[float], theirs: list[float], other: str = "naive-bayes") -> str:
    found = {"candidate": predicted(ours), other: predicted(theirs)}
    spans = {
        name: {"exact-match": Interval(value=sum(s) / len(s), low=0, high=1, n=len(s))}
        for name, s in (("candidate", ours), (other, theirs))
    }
    return page.summary(found, spans, 0.95)[0]


def test_every_baseline_has_a_name_on_the_page() -> None:
    for name in get_args(Baseline):
        sentence = said([0.0] * 100, [1.0] * 100, name)
        assert BASELINES[name].lower() in sentence.lower()
        assert sentence.endswith("The fine-tuned model does not earn its cost.")


def test_the_first_sentence_says_win_loss_or_neither() -> None:
    good, bad = [1.0] * 80 + [0.0] * 20, [1.0] * 50 + [0.0] * 50
    assert said(good, bad).startswith("The fine-tuned model beats Naive Bayes: Naive Bayes scores 0.500")
    assert said(bad, good).startswith("Naive Bayes beats the fine-tuned model: Naive Bayes scores 0.800")
    tie = said(good, [1.0] * 81 + [0.0] * 19)
    assert tie.startswith("The fine-tuned model does not beat Naive Bayes")
    assert "too little to tell them apart" in tie


@given(st.text(max_size=300))
def test_no_text_becomes_markup(text: str) -> None:
    inner = page.plain(text).removeprefix("<code>").removesuffix("</code>")
    if inner != "*(empty)*":
        assert not set(inner) & set("<>\"'`*_[]|~@$\\\n\r\x1b\u202e")
        assert "://" not in inner
