"""The explorer of answers and the dumbbells of slices: kinds of mistakes, and what a browser shows of many rows."""

import time
from pathlib import Path
from typing import Any

import pytest

from checks.formats.thinking import Thinking
from checks.records.rows import Prediction
from checks.stats.paired import Difference
from release.pages import html as pages
from release.review import comparison, same_rows
from release.review.comparison import Comparison, Slice
from release.verbs.compare import compare
from tests import browser, compare_tree

REFERENCES = {"az vm list", "az disk create"}


@pytest.mark.parametrize(
    ("prediction", "kind"),
    [
        (" \n", "empty"),
        ("AZ  vm-list", "other case, spaces or signs"),
        ("az vm", "ends too early"),
        ("az vm list --all", "goes on after the right answer"),
        ("az disk create", "the right answer to another row"),
        ("list az vm", "the right words in another order"),
        ("az vm show", "at least half of the words"),
        ("az network nic", "another answer"),
        ("<script>alert(1)</script>", "another answer"),
    ],
)
def test_a_wrong_answer_has_a_kind(prediction: str, kind: str) -> None:
    assert same_rows.mistake(prediction, "az vm list", REFERENCES) == kind


@pytest.mark.parametrize(
    ("gates", "margin"),
    [
        (None, None),
        ({"a": {"kind": "non_inferior", "metric": "f1", "margin": 0.1}}, None),
        ({"a": {"kind": "slice", "metric": "em", "margin": 0.1, "min_rows": 5}}, None),
        ({"a": {"kind": "slice", "metric": "f1", "margin": 0.1, "min_rows": 11}}, None),
        ({"a": {"kind": "slice", "metric": "f1", "margin": 0.1, "min_rows": 10}}, 0.1),
        ({"a": {"kind": "slice", "metric": "f1", "margin": 0.1}, "b": {"kind": "slice", "metric": "f1", "margin": 0.05}}, 0.05),
    ],
)  # fmt: skip
def test_the_margin_of_a_slice_is_the_least_that_a_gate_asks_of_it_alone(gates: Any, margin: float | None) -> None:
    assert same_rows._margin(gates, "f1", 10) == margin


def part(name: str, a: float, b: float, half: float, rows: int = 40, margin: float | None = None) -> Slice:
    far = Difference(
        value=b - a, low=b - a - half, high=b - a + half, n=rows, wins=1, losses=1, p=0.5, p_holm=0.5, method="test"
    )
    return Slice(metric="f1", name=name, a=a, b=b, difference=far, margin=margin)


def test_a_dumbbell_has_both_scores_the_interval_and_the_margin_on_a_line_from_0_to_1() -> None:
    slices = (
        part("safe", 0.5, 0.625, 0.0625, margin=0.25),
        part("lost", 0.5, 0.25, 0.125, margin=0.25),
        part("free", 0.9, 0.95, 0.2),
    )
    (_, safe), (_, lost), (_, free) = comparison.dumbbells(slices, "main", "new")
    assert (safe.before, safe.value, safe.low, safe.high) == pytest.approx((50, 62.5, 56.25, 68.75))
    assert safe.bound == pytest.approx(25)
    assert safe.passes == pytest.approx((25, 100))
    assert lost.passes is None
    assert lost.bound == lost.value == pytest.approx(25)
    assert free.high == pytest.approx(100)  # a score is at most 1
    assert free.bound == free.before
    assert safe.words == "main 0.500, new 0.625: +0.125, from +0.062 to +0.188; the gate allows a loss of 0.25"
    assert free.words == "main 0.900, new 0.950: +0.050, from −0.150 to +0.250"
    assert comparison.dumbbells((), "main", "new") == []


def test_small_slices_are_drawn_only_where_there_are_few() -> None:
    small = [part(f"slice {number}", 0.5, 0.5, 0.5, rows=2) for number in range(40)]
    assert len(comparison.dumbbells(small, "A", "B")) == 12
    assert len(comparison.dumbbells([part("large", 0.5, 0.5, 0.5)] * 40, "A", "B")) == 40


ROW = {"prompt": "Ask", "prediction": "right", "reference": "right", "score": 1.0, "slice": "vm"}
STRANGE = "<b>&amp;</b> \u202e\x1b[31m سلام 😀 ``` | </li></ol><script>alert(1)</script>"
LONG = "word " * 40_000


def row(number: int, **changed: Any) -> Prediction:
    values = ROW | {"id": f"{number:016x}", "group": str(number)} | changed
    return Prediction(**values, scores={"exact-match": values["score"]})


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    """A comparison whose answers a test replaces."""
    root = tmp_path_factory.mktemp("explorer") / "pr"
    compare_tree.showy(root)
    return compare(root, "before")


def shown(compared: Comparison, old: list[Prediction], new: list[Prediction]) -> str:
    """The page of the answers ``old`` and ``new``."""
    changed, alike = same_rows.answers(same_rows.pair(old, new), "exact-match", None)
    tally = {right: sum(row.right == right for row in changed) for right in comparison.ORDER}
    update = {
        "answers": tuple(changed), "alike": tuple(alike), "tally": {right: rows for right, rows in tally.items() if rows},
    }  # fmt: skip
    return comparison.render(compared.model_copy(update=update))


FIND = """
const seen = [], by = (id) => document.getElementById(id);
const look = () => seen.push([...document.querySelectorAll("#answers-list > li")].filter((li) => !li.hidden).length);
const choose = (id, value) => { by(id).value = value; by(id).dispatchEvent(new Event("input", { bubbles: true })); look(); };
look(); choose("right", "A"); choose("right", "all"); choose("mistake", "empty"); choose("mistake", "all");
choose("slice", "</option><b>"); choose("slice", "all"); choose("wanted", "سلام"); choose("wanted", "ALERT(1)");
document.title = `seen=${seen}`;
"""


@pytest.mark.slow
def test_rows_that_broke_were_mended_or_stay_wrong_are_found(compared: Comparison, tmp_path: Path) -> None:
    wrong = {"score": 0.0}
    old = [row(0), row(1, prediction="no", **wrong), row(2, prediction=STRANGE, **wrong), row(3), row(4)]
    new = [
        row(0, prediction="", **wrong), row(1), row(2, prediction=STRANGE, **wrong),
        row(3, prediction=LONG, slice="</option><b>", **wrong), row(4),
    ]  # fmt: skip
    html = shown(compared, old, new)
    browser.loads_nothing(html)
    browser.can_be_read(html)
    assert "3 of 190 differ: A is right in 2, B is right in 1." in html
    assert "Both give the same wrong answer to 1 more." in html
    assert f"{len(LONG) - pages.LONGEST:,} characters more" in html
    assert len(html) < 60_000
    assert browser.told(html, FIND, browser.WIDTHS["phone"], tmp_path) == "seen=4,2,4,1,4,1,4,1,1"
    assert browser.wide(html, browser.WIDTHS["phone"], tmp_path) <= browser.WIDTHS["phone"]
    assert list(browser.serious(html, "dark", tmp_path)) == []


@pytest.mark.slow
@pytest.mark.parametrize("rows", [0, 3])
def test_without_a_wrong_row_there_is_nothing_to_search(compared: Comparison, rows: int) -> None:
    answered = [row(number) for number in range(rows)]
    html = shown(compared, answered, answered)
    browser.can_be_read(html)
    assert "None of 190 differs." in html
    assert 'id="search"' not in html


@pytest.mark.slow
def test_of_5000_wrong_rows_a_page_lists_what_a_phone_shows(compared: Comparison, tmp_path: Path) -> None:
    wrong = {"score": 0.0, "prediction": "another answer of some length " * 5}
    old = [row(number) for number in range(5000)]
    new = [row(number, slice=f"slice {number % 30}", **wrong) for number in range(5000)]
    begun = time.process_time()
    html = shown(compared, old, new)
    spent = time.process_time() - begun
    assert "2,000 of 5,000 rows are listed here" in html
    assert html.count("<li data-right=") == pages.ANSWERS
    assert len(html) < 2_500_000
    assert spent < 60
    count = "document.title = document.getElementById('count').textContent"
    assert browser.told(html, count, browser.WIDTHS["phone"], tmp_path) == "2000 of 2000 shown"
    long = [row(number, score=0.0, prediction=LONG) for number in range(5000)]
    assert len(shown(compared, old, long)) < 4_500_000


def test_a_page_of_one_model_lists_its_mistakes_alone() -> None:
    rows = same_rows.mistakes(
        [row(0), row(1, prediction="", score=0.0), row(2, prediction="x", score=0.5)], "exact-match", None
    )
    explorer = comparison.explorer(rows, "", "new")
    assert [(each.id[-1], each.mistake) for each in explorer.listed] == [("1", "empty"), ("2", "another answer")]
    assert [choice.field for choice in explorer.choices] == ["mistake"]
    assert explorer.choices[0].values == {"empty": "empty (1)", "another answer": "another answer (1)"}
    assert comparison.explorer(()).choices == ()


def test_a_thought_in_a_reference_is_no_part_of_the_right_answer() -> None:
    wrong = {"score": 0.0}
    ours = [
        row(0, reference="<think>26-8=18</think>18", prediction="1", **wrong),
        row(1, reference="<think>4+4=8</think>8", prediction="18", **wrong),
        row(2, reference="<think>1+1=2</think>2", prediction="2.", **wrong),
    ]
    kinds = ["ends too early", "the right answer to another row", "other case, spaces or signs"]
    always = Thinking(mode="always")
    assert [answer.mistake for answer in same_rows.mistakes(ours, "exact-match", always)] == kinds
    _, alike = same_rows.answers(same_rows.pair(ours, ours), "exact-match", always)
    assert [answer.mistake for answer in alike] == kinds
    assert [answer.mistake for answer in same_rows.mistakes(ours, "exact-match", None)] == ["another answer"] * 3
