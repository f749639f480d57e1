"""`lockstep label`: blind tasks, a page that a browser labels by keyboard, and what it takes in."""

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
import yaml
from click.testing import CliRunner, Result

from checks.config import params_file
from checks.evaluation import comparisons
from checks.formats.labels import Label
from checks.records.rows import Message
from checks.storage import layout
from release.cli import main
from release.review import label_plan
from release.review.label_tasks import Task, render
from stages.suites import suites
from tests import browser, evidence_tree, programs
from tests.browser import WIDTHS, Parsed
from tests.checks.suites.test_pairwise import Case, case
from tests.conftest import REPOSITORY
from tests.pipeline_repository import write_params
from tests.release.verbs.test_report_picture import colours
from tests.stages.judges.test_judges import Endpoint, endpoint

pytestmark = pytest.mark.slow

__all__ = ["case", "endpoint"]  # fixtures

STYLE = Path(label_plan.__file__).with_name("label.css").read_text()


def _label(case: Case, *arguments: str) -> Result:
    write_params(case.root, case.document)
    return CliRunner().invoke(main, ["-C", str(case.root), "label", *arguments])


def _said(case: Case, *arguments: str) -> dict[str, Any]:
    done = _label(case, *arguments, "--json")
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture
def fresh(case: Case) -> Case:
    """Nobody has labelled yet."""
    case.suite["labels"] = None
    (case.root / "labels.jsonl").unlink()
    return case


def _tasks(said: dict[str, Any]) -> list[dict[str, Any]]:
    return [task["data"] for task in json.loads(Path(said["data"]).read_text())]


def test_tasks_are_blind_and_ask_only_about_answers_that_differ(fresh: Case) -> None:
    said = _said(fresh, "chat", "--annotator", "ada")
    assert {name: said[name] for name in ("tasks", "drawn", "labelled", "twice")} == {
        "tasks": 13, "drawn": 100, "labelled": 87, "twice": 2,
    }  # fmt: skip
    text = Path(said["data"]).read_text() + Path(said["page"]).read_text()
    assert not re.search("candidate|base[^-64]|merged|router", text.replace("base-uri", ""))
    for task in _tasks(said):
        assert {task["left"], task["right"]} == {task["reference"], "sql"}
        assert task["left_sha"] == comparisons.left(3, task["row"], task["left_sha"], task["right_sha"])
    assert _label(fresh, "chat").stdout.startswith(
        "87 of 100 drawn rows have a label, or two equal answers\n13 for me; 2 rows"
    )


def test_a_tenth_is_labelled_by_a_second_person_and_never_twice_by_one(fresh: Case, tmp_path: Path) -> None:
    saved = tmp_path / "ada.jsonl"
    saved.write_text(
        "".join(json.dumps(line) + "\n" for line in _right(_tasks(_said(fresh, "chat", "--annotator", "ada"))))
    )
    done = _label(fresh, "chat", "--import", str(saved))
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[:2] == [
        "13 labels added, 0 replaced; 0 are of other answers",
        "agreement of people: Krippendorff's alpha not known, of 0 rows that several labelled",
    ]
    assert _said(fresh, "chat", "--annotator", "ada")["tasks"] == 0
    bob = _said(fresh, "chat", "--annotator", "bob")
    assert (bob["tasks"], bob["labelled"]) == (2, 100)
    saved.write_text("".join(json.dumps(line) + "\n" for line in _right(_tasks(bob), "bob")))
    again = _said(fresh, "chat", "--import", str(saved))
    assert (again["added"], again["several"]) == (2, 2)
    assert _said(fresh, "chat", "--import", str(saved))["replaced"] == 2
    assert len((fresh.root / "labels" / "chat.jsonl").read_text().splitlines()) == 15


def _right(tasks: list[dict[str, Any]], annotator: str = "ada") -> list[dict[str, str]]:
    return [
        {"row": task["row"], "left_sha": task["left_sha"], "right_sha": task["right_sha"], "annotator": annotator,
         "label": "left" if task["left"] == task["reference"] else "right"}
        for task in tasks
    ]  # fmt: skip


def test_an_export_of_label_studio_is_taken_in(fresh: Case, tmp_path: Path) -> None:
    """As its JSON export is: by choice or by side of a pair, with who completed it, and what was skipped left out."""
    tasks, export = _tasks(_said(fresh, "chat")), tmp_path / "export.json"
    wanted = _right(tasks, "ada@example.org")
    kinds = [
        {"type": "choices", "from_name": "label", "to_name": "prompt", "value": {"choices": [wanted[0]["label"]]}},
        {"type": "pairwise", "from_name": "label", "to_name": "left,right", "value": {"selected": wanted[1]["label"]}},
        {"type": "choices", "from_name": "label", "to_name": "prompt", "value": {"choices": ["tie"]}},
    ]
    made = [
        {"id": at, "data": task, "annotations": [{
            "id": at, "completed_by": {"id": 1, "email": "ada@example.org"} if at < 2 else 7, "was_cancelled": at == 3,
            "result": [kinds[at % 3]] if at != 4 else [],
        }]}
        for at, task in enumerate(tasks[:5])
    ]  # fmt: skip
    export.write_text(json.dumps(made))
    assert _said(fresh, "chat", "--import", str(export))["added"] == 3
    lines = [json.loads(line) for line in (fresh.root / "labels" / "chat.jsonl").read_text().splitlines()]
    assert lines[:2] == wanted[:2]
    assert (lines[2]["label"], lines[2]["annotator"]) == ("tie", "7")


NOT_LABELS: dict[str, tuple[str, int, str]] = {
    "another word": ('{"row": "a", "label": "both"}', 8, "no labels: left_sha: Field required; give what the page saved"),
    "no JSON": ("<html>", 8, "no labels: Invalid JSON"),
    "an export without annotations": ('[{"data": {}}]', 8, "no labels: KeyError: 'annotations'"),
    "no list of tasks": ("[3]", 8, "no labels: TypeError"),
    "another row": (json.dumps({
        "row": "nobody", "left_sha": f"sha256:{'1' * 64}", "right_sha": f"sha256:{'2' * 64}", "label": "tie", "annotator": "ada",
    }), 8, "row 'nobody' was not answered; label what `./lockstep label chat` wrote"),
}  # fmt: skip


@pytest.mark.parametrize("how", NOT_LABELS)
def test_a_file_that_has_no_labels_is_refused_and_changes_nothing(fresh: Case, tmp_path: Path, how: str) -> None:
    text, code, line = NOT_LABELS[how]
    path = tmp_path / "saved.jsonl"
    path.write_text(text)
    done = _label(fresh, "chat", "--import", str(path))
    assert done.exit_code == code
    assert line in done.output
    assert len(done.output.splitlines()) == 1
    assert not (fresh.root / "labels").exists()


def _other_answers(case: Case) -> None:
    (case.root / layout.PREDICTIONS / "candidate.jsonl").write_text("")


REFUSED: dict[str, tuple[Callable[[Case], object], tuple[str, ...], int, str]] = {
    "no such suite": (lambda _: None, ("other",), 2, "'other' is no suite of kind pairwise; name one of chat"),
    "answers that are not the evaluation's": (
        _other_answers, ("chat",), 8, "candidate.jsonl: is not what reports/evaluation.json is about; run `./lockstep run evaluate`",
    ),
    "nobody to compare with": (
        lambda it: (it.suite.update(against="main"), it.document["gates"]["people_prefer_it"].update(against="main")),
        ("chat",), 8, "there are no answers of main to compare with; set suites.chat.against to base",
    ),
    "a name in two lines": (lambda _: None, ("chat", "--annotator", "ada\nbob"), 8, "--annotator 'ada\\nbob': String should match"),
    "labels elsewhere": (
        lambda it: it.suite.update(labels={"uri": "s3://b/l.jsonl", "sha256": "0" * 64, "license": None}), ("chat",), 2,
        "suites.chat.labels.uri: is no path in this repository",
    ),
    "no labels for an anchor": (lambda _: None, ("chat", "--anchor", "a.jsonl"), 8, "has no label of these answers"),
}  # fmt: skip


@pytest.mark.parametrize("how", REFUSED)
def test_what_cannot_be_labelled_is_refused_in_one_line(fresh: Case, how: str) -> None:
    change, arguments, code, line = REFUSED[how]
    change(fresh)
    done = _label(fresh, *arguments)
    assert done.exit_code == code, done.output
    assert line in done.output
    assert len(done.output.splitlines()) == 1


def test_labelled_pairs_become_an_anchor_that_the_judge_answers(case: Case, endpoint: Endpoint, tmp_path: Path) -> None:
    target = case.root / "anchor.jsonl"
    said = _said(case, "chat", "--anchor", str(target))
    assert said["pairs"] == 13
    case.suite["anchor"] = {"uri": "anchor.jsonl", "sha256": said["sha256"], "license": None}
    case.judged()
    compared = case.result.compared
    assert compared is not None
    assert compared.anchor is not None
    assert compared.anchor.agrees == "1" * 13


# --- the page ---------------------------------------------------------------------------------------------------------

NASTY = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\u202e"
# Labels as a person does: a wrong key first, back, then the answer that is the reference; a tie at the end; saves.
PERSON = """
const press = (key) => document.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
const text = (id) => document.getElementById(id).textContent;
let saved = "";
window.Blob = class { constructor(parts) { saved = parts.join(""); } };
URL.createObjectURL = () => "blob:none";
let file = "";
HTMLAnchorElement.prototype.click = function () { file = this.download; };
press("ArrowDown"); press("Backspace");
const seen = [text("count")];
while (!document.getElementById("task").hidden) {
  if (text("asked").includes("TIE")) press("ArrowDown");
  else press(text("left") === text("reference") ? "ArrowLeft" : "ArrowRight");
}
seen.push(text("count"));
press("s");
document.title = encodeURIComponent(JSON.stringify({ saved, file, shown: text("saved"), seen, wide: document.documentElement.scrollWidth }));
"""


def _page(tasks: int) -> tuple[str, list[Task]]:
    made = [
        Task(
            row=row.id, messages=(*row.messages, Message(role="user", content=f"{'TIE' * (at == 2)} {NASTY}")), reference="right",
            left=("right", "wrong " * 80)[at % 2], right=("right", "wrong " * 80)[1 - at % 2], left_sha=f"sha256:{at % 2:064x}",
            right_sha=f"sha256:{1 - at % 2:064x}",
        )
        for at, row in enumerate(evidence_tree.rows("test", tasks))
    ]  # fmt: skip
    return render("chat", "Which answer is better?", "ada", made), made


def _as_a_person(html: str, width: int, folder: Path) -> dict[str, Any]:
    """What the page saves and says, in a frame of this width."""
    said: dict[str, Any] = json.loads(unquote(browser.told(html, PERSON, width, folder)))
    return said


@pytest.mark.parametrize("where", WIDTHS)
def test_a_browser_labels_by_keyboard_and_what_it_saves_are_labels(where: str, tmp_path: Path) -> None:
    programs.require("chromium-headless-shell")
    html, tasks = _page(5)
    said = _as_a_person(html, WIDTHS[where], tmp_path)
    assert said["saved"] == said["shown"]
    assert said["file"] == "chat-ada.jsonl"
    labels = [Label.model_validate_json(line) for line in said["saved"].splitlines()]
    assert [(label.row, label.label) for label in labels] == [
        (task.row, "tie" if at == 2 else ("left", "right")[at % 2]) for at, task in enumerate(tasks)
    ]
    assert {label.annotator for label in labels} == {"ada"}
    assert said["seen"] == ["1 of 5 labelled", "All 5 labelled. Save, and send the file back."]
    assert said["wide"] <= WIDTHS[where], "a line is wider than the screen"
    picture = tmp_path / f"label-{where}.png"
    browser.picture(html, WIDTHS[where], "light", picture, 900)
    assert colours(picture) > 3, "nothing is to be seen"


def test_what_a_browser_saved_decides_the_gate(fresh: Case, tmp_path: Path) -> None:
    programs.require("chromium-headless-shell")
    said = _as_a_person(Path(_said(fresh, "chat", "--annotator", "ada")["page"]).read_text(), 390, tmp_path)
    (tmp_path / "saved.jsonl").write_text(said["saved"])
    taken = _said(fresh, "chat", "--import", str(tmp_path / "saved.jsonl"))
    assert taken["added"] == 13
    fresh.suite["labels"] = {"uri": taken["path"], "sha256": taken["sha256"], "license": None}
    found = fresh.finding()
    assert found.status == "pass", found.reason


def test_no_text_of_a_row_is_markup_and_nothing_is_loaded_from_elsewhere() -> None:
    html, _ = _page(3)
    parsed = Parsed(html)
    assert len(parsed.every("script")) == 2
    assert not parsed.every("img", "link", "iframe", "object", "embed", "base")
    (policy,) = [each["content"] for each in parsed.every("meta") if each.get("http-equiv")]
    assert (policy or "").startswith("default-src 'none'")
    assert "unsafe" not in (policy or "")
    assert not re.search(r"url\(|@import|https?:", STYLE)
    assert parsed.every("html") == [{"lang": "en"}]


@pytest.mark.parametrize("mode", browser.MODES)
def test_axe_finds_nothing_serious(mode: str, tmp_path: Path) -> None:
    assert list(browser.serious(_page(3)[0], mode, tmp_path)) == []


# --- the page of the documentation ------------------------------------------------------------------------------------

GUIDE = (REPOSITORY / "docs" / "how-to" / "judge.md").read_text()


def test_the_guide_is_short_and_has_three_commands() -> None:
    assert len(GUIDE.split()) <= 450
    assert len(_commands()) == 3


def _commands() -> list[str]:
    """The lines of the page's block of commands."""
    return _block("").splitlines()


def _block(language: str) -> str:
    """The page's only block in a language."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", GUIDE, re.S | re.M)
    (block,) = (block for named, block in blocks if named == language)
    return str(block)


def test_the_commands_of_the_guide_lead_from_a_prompt_to_a_gate_that_passes(
    fresh: Case, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last command is a run: the stage `suites` and the gates, without a training."""
    root = fresh.root
    fresh.document |= yaml.safe_load(_block("yaml"))
    fresh.document["suites"]["helpful"]["seed"] = 3  # The answers of this run are laid out for it.
    write_params(root, fresh.document)
    endpoint.reply = _judged
    monkeypatch.chdir(root)
    label, take_in, run = (shlex.split(command)[1:] for command in _commands())

    said = CliRunner().invoke(main, label)
    assert said.exit_code == 0, said.output
    plan = said.stderr.splitlines()
    assert plan[0] == "answers to 26 of 200 rows differ (13%); the others are ties without a label"
    assert [line.split()[-4:] for line in plan if "people_prefer_it, +10 points" in line] == [
        ["130", "100", "100", "100"]
    ]
    assert plan[-1] == "suites.helpful.rows draws 100"
    tasks = [task["data"] for task in json.loads((root / ".lockstep/label/helpful-ada.json").read_text())]
    (root / "helpful-ada.jsonl").write_text("".join(json.dumps(line) + "\n" for line in _right(tasks)))

    took = CliRunner().invoke(main, take_in)
    assert took.exit_code == 0, took.output
    assert took.stdout.endswith(
        "wrote labels/helpful.jsonl and its digest in params.yaml; commit both\nthen: ./lockstep run\n"
    )

    # A licence that a person wrote beside the digest stays.
    path = root / layout.PARAMS
    path.write_text(path.read_text().replace("license: null}", "license: MIT}"))
    assert CliRunner().invoke(main, take_in).exit_code == 0
    pinned = params_file.load(path).suites["helpful"].labels  # type: ignore[attr-defined]
    assert pinned.license == "MIT"

    assert run == ["run"]
    params = params_file.load(root / layout.PARAMS)
    suites(params, root)
    (finding,) = evidence_tree.judged(root, params).findings
    assert finding.status == "pass", finding.reason
    assert "100 labels, the judge's weight is " in finding.reason


def _judged(asked: str) -> str:
    """The side whose answer is right, as the stand-in for a judge sees it: only a wrong answer is `sql`."""
    left = re.search(r"^Answer A, the left one: (.*)$", asked, re.M)
    assert left
    return "Verdict: right" if left[1] == "sql" else "Verdict: left"


@pytest.mark.parametrize(("gain", "right", "limit"), [(0.1, None, 0.0), (0.05, 0.95, 0.0), (0.0, 0.9, -0.05)])
def test_as_many_labels_as_the_plan_says_have_about_the_power_that_it_says(
    gain: float, right: float | None, limit: float
) -> None:
    differ = np.random.default_rng(3).random(1000) < 0.3
    rows = label_plan._Rows(np.arange(1000), differ)
    needed = label_plan._needed(rows, gain, right, limit, 0.05, 100)
    assert needed is not None
    tests = list(label_plan.simulated(rows, gain, right, needed, 500))
    assert 0.74 < np.mean([test.p_above(limit) <= 0.05 for test in tests]) < 0.9


def test_a_gate_for_which_all_rows_are_too_few_needs_more_of_them() -> None:
    rows = label_plan._Rows(np.arange(300), np.arange(300) % 3 == 0)
    assert label_plan._needed(rows, 0.02, None, 0.0, 0.05, 100) is None
    assert label_plan._needed(rows, 0.5, None, 0.0, 0.05, 100) is None  # fewer answers differ
