"""What refused is what the comment says first: left by stages, `lockstep run` and `lockstep estimate`, for one commit."""

import dataclasses
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from checks.config.params import Params
from checks.formats import refused
from checks.formats.refused import Refused
from checks.process.errors import (
    DataRefused,
    MachineRefused,
    ParamsRefused,
    Refusal,
    SourceRefused,
    TrainingRefused,
    VerdictFailed,
)
from checks.storage import layout
from release.adapters import dvc
from release.cli import terminal
from release.record import refusals
from release.record.records import Records
from release.review import gathering
from release.verbs.report import Report, report
from stages import entry
from tests import pipeline_repository, report_tree
from tests.conftest import REPOSITORY
from tests.pipeline_repository import git, write_params
from tests.release.pages.test_report_text import LINKED, NASTY, RENDERER, Seen, gfm

pytestmark = pytest.mark.slow

FOR: dict[str, Any] = {"target": "main", "number": 7}
NOT_FINITE = TrainingRefused("the loss is not finite at step 12", "lower train.learning_rate, or raise train.warmup")


def leave(root: Path, stage: str, refusal: Refusal, **change: Any) -> None:
    """Word of ``refusal`` about what lies below ``root``, as ``lockstep run`` leaves it."""
    word = refused.of(stage, refusal, refused.params(root), git(root, "rev-parse", "HEAD").strip())
    refused.write(root, word.model_copy(update=change))


@pytest.fixture(scope="module")
def proposed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A learning rate that was committed and not trained with: its verdict does not hold. Read-only: take a copy."""
    root = tmp_path_factory.mktemp("proposed") / "pr"
    report_tree.pull_request(root)
    value = report_tree.document()
    value["train"]["learning_rate"] = 0.5
    write_params(root, value)
    report_tree.commit(root, "a higher learning rate")
    return root


@pytest.fixture
def root(proposed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(proposed, tmp_path / "pr"))


def first(found: Report) -> str:
    return found.markdown.partition("\n")[0]


def test_what_a_stage_said_is_the_first_line_the_title_and_what_to_do(root: Path) -> None:
    assert report(root, **FOR).state == "not-held"
    leave(root, "train", NOT_FINITE)
    found = report(root, **FOR)
    assert (found.state, found.status, found.passes) == ("refused", None, False)
    assert first(found) == "### ❌ train refused: the loss is not finite at step 12"
    assert found.title == "❌ train refused: the loss is not finite at step 12"
    assert "- **Changed:** `train.learning_rate` `0.004` → `0.5`\n" in found.markdown
    assert "- **Do:** lower train.learning_rate, or raise train.warmup\n" in found.markdown
    assert [part.name for part in found.parts] == ["verdict", "data", "places", "reproduce", "digests"]


@pytest.mark.parametrize(
    ("refusal", "line", "todo"),
    [
        (ParamsRefused("params.yaml: train.lora.r: 0", "write 16"), "### ❌ Parameters refused: params.yaml: train.lora.r: 0", "correct `params.yaml`, and push: write 16"),
        (MachineRefused("1 GB is free", "end what else runs"), "### ❌ train refused: 1 GB is free", "end what else runs; then run the job again. The cause is the machine, not the change."),
    ],
    ids=["parameters", "a busy machine"],
)  # fmt: skip
def test_the_cause_is_named_and_not_blamed_on_the_change(root: Path, refusal: Refusal, line: str, todo: str) -> None:
    leave(root, "train", refusal)
    found = report(root, **FOR)
    assert first(found) == line
    assert f"- **Do:** {todo}\n" in found.markdown


def test_an_estimate_over_the_budget_is_called_by_its_name(root: Path) -> None:
    leave(
        root, "estimate", VerdictFailed("over the budget before training: train_minutes, 40 exceeds 25", "train less")
    )
    found = report(root, **FOR)
    assert first(found) == "### ❌ Estimate refused: over the budget before training: train_minutes, 40 exceeds 25"
    assert "lockstep estimate" in found.markdown.partition("Reproduce it on your machine")[2]


def test_all_further_problems_are_listed(root: Path) -> None:
    leave(root, "fetch", SourceRefused("one", "fix them", tuple(f"problem {i}" for i in range(25))))
    text = terminal.text(report(root, **FOR).whole)
    assert "  - problem 0\n" in text
    assert "  - …and 5 more\n" in text


def test_a_verdict_that_holds_is_not_shadowed(root: Path) -> None:
    git(root, "reset", "--quiet", "--hard", "HEAD~1")
    leave(root, "train", NOT_FINITE)
    assert (report(root, **FOR).state, report(root, **FOR).passes) == ("held", True)


def _commit(root: Path) -> None:
    report_tree.commit(root, "another")


def _params(root: Path) -> None:
    with (root / layout.PARAMS).open("a") as stream:
        stream.write("# a remark\n")


@pytest.mark.parametrize("move", [_commit, _params])
def test_a_refusal_about_another_commit_or_other_parameters_is_stale(root: Path, move: Callable[[Path], None]) -> None:
    leave(root, "train", NOT_FINITE)
    move(root)
    assert report(root, **FOR).state == "not-held"


def test_a_stage_that_dvc_ran_by_itself_is_about_no_commit_that_is_known(root: Path) -> None:
    leave(root, "train", NOT_FINITE, commit=None)
    assert report(root, **FOR).state == "not-held"


def test_data_of_an_earlier_run_is_not_shown_beside_a_refusal_of_new_data(root: Path) -> None:
    value = report_tree.document()
    value["data"]["sha256"] = "0" * 64
    write_params(root, value)
    report_tree.bad_data(root)  # of before: prepare's report still matches it
    report_tree.commit(root, "other data")
    assert report(root, **FOR).state == "bad-data"
    leave(root, "fetch", SourceRefused("data: are not the pinned bytes", "pin what is there"))
    found = report(root, **FOR)
    assert found.state == "refused"
    assert not {"data", "places"} & {part.name for part in found.parts}


def test_bad_data_is_told_by_its_rows_whoever_refused_it(root: Path) -> None:
    report_tree.bad_data(root)
    for stage in ("validate", "estimate"):
        leave(root, stage, DataRefused("an expectation fails", "fix the data"))
        assert first(report(root, **FOR)).startswith("### ❌ Data refused: 1 of 2 expectations fail")


def test_parameters_that_cannot_be_read_are_told_by_the_stage_that_read_them(root: Path) -> None:
    (root / layout.PARAMS).write_text("train: [")
    leave(root, "fetch", SourceRefused("params.yaml:1: not YAML", "fix that line"))
    assert report(root, **FOR).state == "refused"


def _word(root: Path, **change: Any) -> str:
    leave(root, "train", NOT_FINITE)
    return json.dumps(json.loads((root / layout.REFUSAL).read_text()) | change)


@pytest.mark.parametrize(
    "change",
    [
        {"schema_version": 2},
        {"exit_code": 0},
        {"exit_code": 1},
        {"stage": "**x**"},
        {"stage": ""},
        {"what": None},
        {"commit": "HEAD"},
        {"passes": True},
        {"others": "x"},
        {"todo": "x" * (1 << 20)},
    ],
)
def test_a_file_that_is_no_refusal_says_nothing(root: Path, change: dict[str, Any]) -> None:
    (root / layout.REFUSAL).write_text(_word(root, **change))
    found = report(root, **FOR)
    assert (found.state, found.passes) == ("not-held", False)


NO_FILES: dict[str, Callable[[Path], object]] = {
    "nothing": lambda path: path.write_bytes(b""),
    "no text": lambda path: path.write_bytes(b"\xff\xfe{"),
    "a folder": Path.mkdir,
    "a device": lambda path: path.symlink_to("/dev/zero"),
}


@pytest.mark.parametrize("what", NO_FILES)
def test_what_is_no_file_of_ours_is_neither_read_nor_a_traceback(root: Path, what: str) -> None:
    (root / layout.STATE).mkdir(exist_ok=True)
    NO_FILES[what](root / layout.REFUSAL)
    assert report(root, **FOR).state == "not-held"
    if what == "a folder":
        with pytest.raises(MachineRefused, match="remove it by hand"):
            dvc.python(root, ["-c", ""], "nothing")


def test_a_refusal_of_nasty_words_is_nothing_but_text(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leave(root, "train", NOT_FINITE)
    usual = Seen(RENDERER.render(report(root, **FOR).markdown))
    # Facts are gathered once: with another text, only the refusal differs.
    facts = gathering.gather(Records(root), FOR["target"])
    assert facts.state == "refused"
    for text in NASTY:
        leave(root, "train", TrainingRefused(text, text, (text,)))
        refusal = refusals.current(root, facts.commit)
        assert refusal is not None
        of_text = dataclasses.replace(facts, refused=refusal)
        monkeypatch.setattr(gathering, "gather", lambda *_, facts=of_text: facts)
        found = report(root, **FOR)
        assert found.title.isprintable()
        assert all(line.isprintable() for line in terminal.text(found.whole).splitlines())
        for render in (RENDERER.render, gfm):
            seen = Seen(render(found.markdown))
            assert set(seen.tags) <= set(usual.tags) | {"em", "li", "ul"}
            assert not LINKED.search(seen.loose), LINKED.search(seen.loose)


def test_a_verdict_is_not_passed_by_any_word(root: Path) -> None:
    leave(root, "gate", VerdictFailed("✅ **Pass**: all 7 gates hold.", "merge it"))
    found = report(root, **FOR)
    assert not found.passes
    assert first(found).startswith("### ❌ gate refused: `")


# who leaves it


def test_a_stage_leaves_its_refusal_with_the_parameters_it_read(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    read = refused.params(root)

    def stage(_: Params, here: Path) -> str:
        _params(here)  # somebody edits them while it works
        raise TrainingRefused("no \udcff room", "make some", ("and more",))

    with pytest.raises(SystemExit) as ended:
        entry.run("train", stage)
    assert ended.value.code == 5
    assert refused.read(root) == Refused(
        stage="train", exit_code=5, what="no ? room", todo="make some", others=("and more",), params=read
    )
    entry.run("train", lambda _params, _root: "done")
    assert refused.read(root) is None


def test_only_the_same_command_takes_its_word_back(root: Path) -> None:
    leave(root, "train", NOT_FINITE)
    with refusals.recorded(root, "estimate"):
        pass
    assert refused.read(root) is not None
    leave(root, "estimate", NOT_FINITE)
    with refusals.recorded(root, "estimate"):
        pass
    assert refused.read(root) is None


def test_a_run_that_breaks_off_without_a_word_is_told_too(root: Path) -> None:
    with pytest.raises(MachineRefused), refusals.recorded(root, "run"):
        dvc.python(root, ["-c", "raise SystemExit(255)"], "dvc repro")
    assert first(report(root, **FOR)) == "### ❌ run refused: dvc repro ended with 255"


def test_lockstep_run_leaves_why_fetch_refused_and_takes_it_back_when_it_succeeds(
    tmp_path: Path, tiny_base: Path, document: dict
) -> None:
    """By the real command, through DVC."""
    root = tmp_path / "work"
    pipeline_repository.make(root, tiny_base, document, pipeline_repository.table())
    good = document["data"]["sha256"]
    document["data"]["sha256"] = "0" * 64
    write_params(root, document)
    report_tree.commit(root, "other data")
    assert _run(root, "fetch") == SourceRefused.exit_code
    word = refused.read(root)
    assert word is not None
    assert (word.stage, word.exit_code, word.params) == ("fetch", SourceRefused.exit_code, refused.params(root))
    assert word.commit == git(root, "rev-parse", "HEAD").strip()
    found = report(root)
    assert found.state == "refused"
    assert first(found).startswith("### ❌ fetch refused: ")
    document["data"]["sha256"] = good
    write_params(root, document)
    assert _run(root, "fetch") == 0
    assert not (root / layout.REFUSAL).exists()


def _run(root: Path, *args: str) -> int:
    return subprocess.run(
        [pipeline_repository.interpreter(), "-m", "release.cli", "-C", str(root), "run", *args],
        cwd=REPOSITORY, env=pipeline_repository.environment(PYTHONPATH=str(REPOSITORY)), capture_output=True, check=False,
    ).returncode  # fmt: skip
