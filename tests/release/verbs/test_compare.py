"""`lockstep compare`: two records of a real git repository, their names, and what cannot be paired."""

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from checks.formats import pointer
from checks.formats.energy import Counted, Energy
from checks.formats.suite_report import Compared
from checks.process.errors import EvidenceRefused, ParamsRefused, Refusal
from checks.records.rows import Prediction
from checks.stats import paired
from checks.storage import layout
from release.cli import main
from release.record import record_names
from release.record.records import Records
from release.review import same_rows
from release.review.comparison import Comparison, verdict
from release.verbs.compare import compare
from tests import compare_tree, ledger_tree, pipeline_repository, report_tree
from tests.compare_tree import answers, changed, rewrite
from tests.ledger_tree import git
from tests.pipeline_repository import write_params

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("forking")]

nobodys_configuration = ledger_tree.nobodys_configuration
IMAGE = f"sha256:{'b' * 64}"  # what report_tree says that production runs
OTHER = f"sha256:{'5' * 64}"
Change = Callable[[Path], object]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The history of a pull request: production, main and the branch have different models."""
    root = tmp_path_factory.mktemp("compare") / "pr"
    report_tree.pull_request(root)
    git(root, "tag", "-a", "-m", "x", "azure-cli-router@v0.1.0", "main~1")  # where the move is, not the record
    git(root, "tag", "-a", "-m", "x", "azure-cli-router#production#1", "main~1")
    git(root, "tag", "a-tag", "main")
    git(root, "branch", "staging", "main")  # called like an environment that runs nothing
    return root


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    """A copy, to be changed."""
    shutil.copytree(made, tmp_path / "pr")
    return tmp_path / "pr"


def hashes(root: Path) -> dict[str, str]:
    """Each file of the work tree and git's index, and each ref."""
    paths = [path for path in sorted(root.rglob("*")) if path.is_file() and ".git" not in path.parts]
    found = {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in (*paths, root / ".git" / "index")}
    return found | {"HEAD": (root / ".git" / "HEAD").read_text(), "refs": git(root, "for-each-ref")}


# --- names -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "commit"),
    [
        (".", None),
        ("HEAD", "HEAD"),
        ("main", "main"),
        ("main~2", "main~2"),
        ("refs/heads/main", "main"),
        ("a-tag", "main"),
        ("staging", "main"),  # a branch, since the environment runs nothing
        ("production", "main~2"),
        ("v0.1.0", "main~2"),
        ("azure-cli-router@v0.1.0", "main~2"),
        ("azure-cli-router#production#1", "main~2"),
        (IMAGE, "main~2"),
        (f"registry.example/router@{IMAGE}", "main~2"),
    ],
)
def test_a_name_means_a_commit_of_git_or_the_record_of_a_release(made: Path, name: str, commit: str | None) -> None:
    found = record_names.find(Records(made), name)
    assert found.commit == (commit and git(made, "rev-parse", commit))


def test_gits_own_names_need_no_remote(root: Path) -> None:
    _dead_remote(root)
    assert compare(root, "a-tag").rows is not None


def test_a_hash_that_is_cut_short_is_found(made: Path) -> None:
    whole = git(made, "rev-parse", "main")
    assert record_names.find(Records(made), whole[:9]).commit == whole


def _branch_called_like_an_environment(root: Path) -> None:
    git(root, "branch", "production", "main")


def _two_models_of_one_version(root: Path) -> None:
    git(root, "switch", "--quiet", "main")
    path = root / layout.ENVIRONMENTS / "staging" / layout.POINTER
    there = pointer.parse((root / layout.ENVIRONMENTS / "production" / layout.POINTER).read_bytes(), "x")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pointer.write(there.model_copy(update={"model": OTHER, "image": f"r.example/x@{OTHER}"})))
    report_tree.commit(root, "by hand")


def _unborn_record(root: Path) -> None:
    git(root, "checkout", "--quiet", "--orphan", "empty")
    git(root, "rm", "-r", "--quiet", "--cached", ".")
    git(root, "commit", "--quiet", "--allow-empty", "-m", "nothing")


def _dead_remote(root: Path) -> None:
    git(root, "remote", "add", "origin", str(root / "no" / "such.git"))
    git(root, "update-ref", "refs/remotes/origin/main", "main")


def _nothing(root: Path) -> None:
    pass


def _no_git(root: Path) -> None:
    shutil.rmtree(root / ".git")


@pytest.mark.parametrize(
    ("change", "name", "code", "said"),
    [
        (_nothing, "no-such", 8, "no-such: neither git nor the ledger knows such a record here; name a commit, branch or"),
        (_nothing, "v9.9.9", 8, "v9.9.9: neither git nor the ledger knows such a record here; .* such as v0.1.0"),
        (_nothing, OTHER, 8, f"{OTHER}: neither git nor the ledger knows"),
        (_nothing, "other@v0.1.0", 8, "neither git nor the ledger knows"),
        (_nothing, "azure-cli-router#production#2", 8, "neither git nor the ledger knows"),
        (_nothing, "0" * 40, 8, "neither git nor the ledger knows"),
        (_nothing, "-x", 2, "No such option"),
        (_nothing, "evil\x1b[31m\nname", 8, r"evil \[31m name: neither git"),
        (_branch_called_like_an_environment, "production", 8, "git knows commit .* by it, and the ledger a release of"),
        (_two_models_of_one_version, "v0.1.0", 8, "the ledger knows releases of 2 models by it; name one by its image"),
        (_unborn_record, "empty", 8, "A: commit .*: has neither parameters nor a record; name a commit of this pipeline"),
        (_dead_remote, "v0.1.0", 17, "such.git"),
        (_no_git, "main", 8, "is not a git repository, and main is to be found in one; clone it"),
    ],
)  # fmt: skip
def test_what_is_refused_is_one_line_with_its_code(root: Path, change: Change, name: str, code: int, said: str) -> None:
    change(root)
    done = CliRunner().invoke(main, ["-C", str(root), "compare", name])
    assert isinstance(done.exception, SystemExit), done.exception
    assert done.exit_code == code, done.stderr
    assert re.search(said, done.stderr), done.stderr
    if code != 2:
        assert len(done.stderr.splitlines()) == 1
        assert done.stderr.startswith("lockstep: ")
    assert done.stdout == ""


# --- what is compared --------------------------------------------------------------------------------------------


def test_two_records_are_compared_in_all_that_both_have_and_nothing_is_changed(root: Path) -> None:
    before = hashes(root)
    found = compare(root, "main")
    assert found.headline.startswith("B is better than A by exact-match: +10.0 points (")
    (metric,) = found.metrics
    assert metric.difference is not None
    assert (metric.difference.wins, metric.difference.losses, metric.difference.n) == (20, 0, 200)
    assert metric.difference.p == pytest.approx(2 * 0.5**20)  # McNemar's exact test, both sides
    assert metric.difference.value == pytest.approx(0.1)
    assert metric.difference.low < 0.1 < metric.difference.high
    assert {each.name: each.difference.wins for each in found.slices} == {"create": 10, "list": 10}
    assert [(each.what, each.a, each.b) for each in found.parameters] == [("train.learning_rate", "0.004", "0.002")]
    assert (found.data, set(found.same)) == ((), {"base model", "raw data", "rows", "train split", "valid split", "test split"})  # fmt: skip
    assert (found.a.verdict, found.b.verdict, found.a.commit, found.b.commit) == (
        "pass", "pass", git(root, "rev-parse", "main"), None,
    )  # fmt: skip
    assert found.tally == {"B": 20}
    assert {(each.a, each.right, each.score_a, each.score_b) for each in found.answers} == {("sql", "B", 0.0, 1.0)}
    assert found.notes == ()
    assert hashes(root) == before


def test_a_release_is_the_record_that_its_pointer_names_and_not_the_move(root: Path) -> None:
    found = compare(root, "production", "main")
    assert (found.a.version, found.a.image) == ("v0.1.0", f"registry.example/router@{IMAGE}")
    assert found.metrics[0].difference is not None
    assert found.metrics[0].difference.wins == 10  # 160 of main over 150 of production


def test_the_other_way_round_everything_changes_its_sign(root: Path) -> None:
    one, two = compare(root, "main", "."), compare(root, ".", "main")
    ours, theirs = one.metrics[0].difference, two.metrics[0].difference
    assert ours is not None
    assert theirs is not None
    assert (ours.value, ours.low, ours.high) == pytest.approx((-theirs.value, -theirs.high, -theirs.low))
    assert (ours.wins, ours.losses) == (theirs.losses, theirs.wins)
    assert ours.p == pytest.approx(theirs.p)
    assert two.headline.startswith("B is worse than A")
    assert [(each.a, each.b) for each in two.parameters] == [("0.002", "0.004")]
    assert two.tally == {"A": 20}


def test_the_same_record_differs_in_nothing(root: Path) -> None:
    found = compare(root, "HEAD", ".")
    assert found.headline == "A and B are the same model"
    assert found.metrics[0].difference is not None
    assert (found.metrics[0].difference.value, found.metrics[0].difference.p) == (0, 1)
    assert (found.parameters, found.data, found.answers) == ((), (), ())


def _fewer_rows(root: Path) -> None:
    mine = answers(root)
    rewrite(root, [*mine[:150], *(changed(each, id=f"f{each.id[1:]}") for each in mine[150:170])], test=OTHER)


def _no_common_row(root: Path) -> None:
    rewrite(root, [changed(each, id=f"f{each.id[1:]}") for each in answers(root)], test=OTHER)


def _another_text_of_one_id(root: Path) -> None:
    mine = answers(root)
    rewrite(root, [changed(mine[0], reference="another"), *mine[1:]], test=OTHER)


def _scored_otherwise(root: Path) -> None:
    value = report_tree.document()
    value["train"]["learning_rate"] = 0.002
    value["evaluate"]["scorers"][0]["lower"] = True  # as another version may have it
    write_params(root, value)
    rewrite(root, answers(root), scorers=OTHER)


def _scored_by_another_package(root: Path) -> None:
    rewrite(root, answers(root), scorers=OTHER)


def _another_metric(root: Path) -> None:
    rewrite(root, [each.model_copy(update={"scores": {"token-f1": 0.5}}) for each in answers(root)])


def _another_prompt(root: Path) -> None:
    rewrite(root, answers(root), prompt_format=OTHER)


def _no_evaluation(root: Path) -> None:
    (root / layout.EVALUATION).unlink()


def _unreadable(root: Path) -> None:
    text = json.loads((root / layout.EVALUATION).read_text())
    (root / layout.EVALUATION).write_text(json.dumps(text | {"from": "the future"}))


def _no_answers(root: Path) -> None:
    (root / layout.PREDICTIONS / "candidate.jsonl").unlink()


def _other_answers(root: Path) -> None:
    path = root / layout.PREDICTIONS / "candidate.jsonl"
    path.write_text(path.read_text().replace("sql", "vm"))


@pytest.mark.parametrize(
    ("change", "rows", "note", "said"),
    [
        (_fewer_rows, (150, 50, 20, 0), "the test sets differ: only rows that both have are paired", ""),
        (_no_common_row, None, "no row is in both test sets: nothing is paired", "no rows are paired"),
        (_another_text_of_one_id, (199, 0, 0, 1), "the test sets differ", ""),
        (_scored_otherwise, (200, 0, 0, 0), "", "scored with other settings"),
        (_scored_by_another_package, (200, 0, 0, 0), "", "scored by code of another package, which may differ"),
        (_another_metric, (200, 0, 0, 0), "", "B has no such metric"),
        (_another_prompt, (200, 0, 0, 0), "A and B were asked in another prompt format", ""),
        (_no_evaluation, None, "B: the work tree has no evaluation", "B has no such metric"),
        (_unreadable, None, "B: reports/evaluation.json: from: Extra inputs are not permitted", "B has no such metric"),
        (_no_answers, None, "B: data/predictions/candidate.jsonl is not here; `./lockstep dvc pull data/predictions` fetches it", "no rows are paired"),
        (_other_answers, None, "B: data/predictions/candidate.jsonl is not what the reports are about; `./lockstep run`", "no rows are paired"),
    ],
)  # fmt: skip
def test_what_cannot_be_paired_is_said_and_the_rest_is_shown(
    root: Path, change: Change, rows: tuple[int, int, int, int] | None, note: str, said: str
) -> None:
    change(root)
    found = compare(root, "main")
    counted = found.rows and (found.rows.both, found.rows.only_a, found.rows.only_b, found.rows.other)
    assert counted == rows
    assert any(each.startswith(note) for each in found.notes) or not note, found.notes
    of_main = next(each for each in found.metrics if each.name == "exact-match")
    assert of_main.note == said
    assert (of_main.difference is None) == bool(said)
    assert of_main.a is not None
    assert any(each.what == "train.learning_rate" for each in found.parameters)
    assert [each.what for each in found.cost]
    assert found.b.commit is None


def test_a_note_reads_the_same_in_the_folder_itself(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _no_answers(root)
    outside = compare(root, "main").notes
    monkeypatch.chdir(root)
    assert compare(Path(), "main").notes == outside
    assert "`./lockstep dvc pull data/predictions`" in outside[0]


def test_answers_of_a_commit_that_cannot_be_had_are_said_in_one_line_with_the_command(root: Path) -> None:
    shutil.rmtree(root / layout.PREDICTIONS)
    done = CliRunner().invoke(main, ["-C", str(root), "compare", "main", "HEAD", "--json"])
    assert done.exit_code == 0, done.output
    notes = [note for note in json.loads(done.stdout)["notes"] if note.startswith("A: ")]
    commit = git(root, "rev-parse", "main")[:12]
    assert len(notes) == 1
    assert notes[0].startswith(f"A: data/predictions/candidate.jsonl of commit {commit} is not here, and DVC cannot")
    assert notes[0].endswith(f"then `./lockstep dvc get . data/predictions/candidate.jsonl --rev {commit}`")
    assert "\n" not in notes[0]


def _rights(root: Path) -> list[Prediction]:
    mine = answers(root)
    texts = [("vm", 1.0), ("VM ", 1.0), ("x", 0.0), ("vm", 1.0), ("almost", 0.7), ("far", 0.2)]
    return [changed(each, prediction=text, score=score) for each, (text, score) in zip(mine, texts, strict=False)]


def test_who_is_right_is_said_of_each_answer_that_differs(root: Path) -> None:
    rewrite(root, _rights(root))
    report_tree.commit(root, "earlier")
    compare_tree.keep(root)
    other = [("x", 0.0), ("vm", 1.0), ("y", 0.0), ("vm\n", 1.0), ("so so", 0.4), ("nearer", 0.5)]
    rewrite(root, [changed(each, prediction=t, score=s) for each, (t, s) in zip(answers(root), other, strict=True)])
    found = compare(root, "HEAD")
    assert [(each.a, each.b, each.right) for each in found.answers] == [
        ("vm", "x", "A"), ("almost", "so so", "A closer"), ("far", "nearer", "B closer"), ("x", "y", "neither"),
        ("VM ", "vm", "both"),
    ]  # fmt: skip
    assert found.tally == {"A": 1, "A closer": 1, "B closer": 1, "neither": 1, "both": 1}
    searched = compare(root, "HEAD", ".", "NEARER")
    assert [each.b for each in searched.answers] == ["nearer"]
    assert searched.tally == found.tally


@pytest.mark.parametrize(
    ("one", "two", "wanted"),
    [
        ("abc", "abc", (0, 1, 2)),
        ("aab", "xyz", (0, 0, 1)),
        ("abc", "xxy", (0, 0, 1)),
        ("aabb", "wxxz", (0, 0, 0, 0)),  # the second and third row join the groups of both
        ("", "", ()),
    ],
)
def test_rows_that_either_side_puts_in_one_group_are_in_one_group(one: str, two: str, wanted: tuple[int, ...]) -> None:
    assert tuple(same_rows.together(list(one), list(two))) == wanted


def test_a_difference_in_groups_is_less_certain_than_one_in_single_rows() -> None:
    old, new = [0.0] * 60, [1.0] * 20 + [0.0] * 40
    alone = paired.two_sided(old, new, np.arange(60), 0.95)
    grouped = paired.two_sided(old, new, np.arange(60) // 10, 0.95)
    assert alone is not None
    assert grouped is not None
    assert alone.p < 1e-5 < 0.05 < grouped.p
    assert grouped.low < 0 < alone.low
    assert paired.two_sided([], [], np.zeros(0, np.intp), 0.95) is None
    assert paired.two_sided([1.5], [0.5], np.zeros(1, np.intp), 0.95) is None


def _suites(root: Path, **result: Any) -> None:
    write_params(root, report_tree.document() | {"suites": {"general": compare_tree.SUITE}})
    compare_tree.suite(root, {f"s{n}": 1.0 + n % 3 for n in range(30)})
    report_tree.commit(root, "earlier")
    compare_tree.keep(root)
    compare_tree.suite(root, {f"s{n}": 2.0 + n % 3 for n in range(5, 35)}, **result)


def test_samples_of_suites_are_paired_in_the_scale_of_the_metric(root: Path) -> None:
    _suites(root)
    found = next(each for each in compare(root, "HEAD").metrics if each.suite == "general")
    assert found.difference is not None
    assert found.difference.value == pytest.approx(1.0)
    assert (found.difference.wins, found.difference.losses, found.difference.n) == (25, 0, 25)
    assert (found.a, found.b) == (2.0, 3.0)
    assert found.note == "5 samples only in A; 5 samples only in B"


@pytest.mark.parametrize(
    ("scorers", "said"), [([{"kind": "contains"}], None), ([{"kind": "token-f1"}], "other scorers")]
)
def test_answers_to_questions_are_paired_as_shares_by_the_same_scorers(
    root: Path, scorers: list[dict[str, str]], said: str | None
) -> None:
    def write(used: list[dict[str, str]]) -> None:
        write_params(root, report_tree.document() | {"suites": {"general": {"kind": "rows", "scorers": used}}})

    write([{"kind": "contains"}])
    compare_tree.suite(root, {f"s{n}": float(n % 3 == 0) for n in range(30)}, kind="rows", source="pure")
    report_tree.commit(root, "earlier")
    compare_tree.keep(root)
    write(scorers)
    compare_tree.suite(root, {f"s{n}": float(n % 2 == 0) for n in range(30)}, kind="rows", source="pure")
    found = next(each for each in compare(root, "HEAD").metrics if each.suite == "general")
    if said:
        assert (found.difference, found.note) == (None, said)
    else:
        assert found.difference is not None
        assert found.difference.value == pytest.approx(5 / 30)
        assert (found.difference.wins, found.difference.losses, found.difference.n) == (10, 5, 30)


def test_of_a_loss_less_is_better_and_it_has_no_scale(root: Path) -> None:
    write_params(root, report_tree.document())
    compare_tree.suite(root, {f"s{n}": 1.0 + n % 3 for n in range(60)}, kind="loss")
    report_tree.commit(root, "earlier")
    compare_tree.keep(root)
    compare_tree.suite(root, {f"s{n}": 2.0 + n % 3 + n % 4 / 100 for n in range(60)}, kind="loss")
    found = next(each for each in compare(root, "HEAD").metrics if each.suite == "general")
    assert found.difference is not None
    assert (found.difference.wins, found.difference.losses) == (0, 60)
    assert found.difference.value == pytest.approx(1.015)
    assert 1.0 < found.difference.low < 1.015 < found.difference.high < 1.03
    assert found.difference.p < 1e-6
    assert verdict(found.difference, 0.95) == "worse"


@pytest.mark.parametrize(
    ("result", "said"),
    [
        ({"source": "human"}, "another kind of suite"),
        ({"judges": ("someone",)}, "another judge"),
        (
            {"compared": Compared(against="base", differ=1, drawn=1, labelled=1, flips=0, unparsed=0, several=0)},
            "it compares answers with those of base: see its gates",
        ),
    ],
)
def test_suites_of_another_kind_or_judge_are_not_paired(root: Path, result: dict[str, Any], said: str) -> None:
    _suites(root, **result)
    found = next(each for each in compare(root, "HEAD").metrics if each.suite == "general")
    assert (found.difference, found.note) == (None, said)


def test_data_licences_and_cost_that_differ_are_listed(root: Path) -> None:
    less, more = (Energy(counted=(Counted(kind="rapl", device="package-0", joules=j),)) for j in (400, 600))
    compare_tree.trained(root, tokens=1000, seconds=10.0, device="cpu (2 threads)", energy=less)
    report_tree.commit(root, "earlier")
    compare_tree.trained(root, tokens=1500, seconds=15.0, device="cpu (2 threads)", energy=more)
    compare_tree.fetched(root, license="CC-BY-4.0", digest=OTHER)
    found = compare(root, "HEAD")
    assert {each.what: (each.a, each.b) for each in found.data}["raw data: licence"] == ("MIT", "CC-BY-4.0")
    assert {each.what: each.b for each in found.data}["raw data: digest"] == OTHER
    assert "raw data" not in found.same
    costs = {each.what: (each.a, each.b) for each in found.cost}
    assert costs["training tokens"] == (1000, 1500)
    assert costs["training time on cpu (2 threads)"] == (10.0, 15.0)
    assert costs["training energy of 1 processor"] == (400, 600)
    compare_tree.trained(root, energy=Energy(missing=("no counter",)))
    assert not any("energy" in each.what for each in compare(root, "HEAD").cost)
    compare_tree.trained(root, device="cuda (NVIDIA H100)")
    found = compare(root, "HEAD")
    assert "training times are not compared: A on cpu (2 threads), B on cuda (NVIDIA H100)" in found.notes
    assert not any(each.unit == "seconds" for each in found.cost)


def test_parameters_that_cannot_be_read_do_not_hide_the_rest(root: Path) -> None:
    (root / layout.PARAMS).write_text("a: [\n")
    found = compare(root, "main")
    assert found.metrics[0].difference is not None
    assert found.parameters == ()
    (note,) = found.notes
    assert note.startswith("B: params.yaml:")
    with pytest.raises(ParamsRefused):
        compare(root, "production")  # only params.yaml says what an environment is


def test_parameters_that_the_reports_do_not_have_are_said(root: Path) -> None:
    value = report_tree.document()
    value["train"]["learning_rate"] = 0.5
    write_params(root, value)
    (note,) = compare(root, "main").notes
    assert (
        note
        == "B: its reports are of an earlier run than its parameters: params.yaml: train is not what train ran with"
    )


# --- output ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def showy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("showy") / "pr"
    compare_tree.showy(root)
    return root


def test_the_text_has_every_part_and_no_control_character(showy: Path) -> None:
    done = CliRunner().invoke(main, ["-C", str(showy), "compare", "before", "--search", ""])
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    assert all(line.isprintable() for line in lines), [line for line in lines if not line.isprintable()]
    for part in ("METRICS", "SLICES", "PARAMETERS", "DATA", "COST", "ANSWERS"):
        assert part in lines
    assert "190 test rows are in both, 10 only in A, 10 only in B." in lines
    assert "  - `train.lora.r` `4` → `16`" in lines
    assert "  - `raw data: licence` `MIT` → `CC-BY-4.0`" in lines
    assert any(line.startswith("48 of 190 differ: ") for line in lines)
    assert sum(line.startswith("  - B is right: ") for line in lines) == done.output.count("B is right: ") > 5


@pytest.mark.parametrize(("env", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False), ({"NO_COLOR": ""}, True)])
def test_colour_is_for_terminals_that_want_it(showy: Path, env: dict[str, str], coloured: bool) -> None:
    command = ["-C", str(showy), "compare", "before"]
    assert ("\x1b[" in CliRunner().invoke(main, command, env=env, color=True).output) == coloured
    assert "\x1b[" not in CliRunner().invoke(main, command, env=env).output  # a pipe


def test_the_json_has_every_answer_word_for_word(showy: Path) -> None:
    done = CliRunner().invoke(main, ["-C", str(showy), "compare", "before", "--json"])
    found = Comparison.model_validate_json(done.stdout)
    assert found == compare(showy, "before")
    assert len(found.answers) == 48
    assert any("\x1b[31m" in each.prompt for each in found.answers)


# --- answers from DVC --------------------------------------------------------------------------------------------


def test_answers_of_a_commit_come_from_dvc_as_of_that_commit_or_are_not_used(tmp_path: Path) -> None:
    """A real DVC repository with a folder for a remote: from the cache, from the remote, spoilt, and gone."""
    root, remote = tmp_path / "a réposit ory", tmp_path / "remote"
    root.mkdir()
    git(root, "init", "--quiet", "--initial-branch=main")
    (root / ".gitignore").write_text("/models/\n/data/\n/.lockstep/\n")
    report_tree.record(root, report_tree.document(), b"first", 150)
    (root / layout.PIPELINE).write_text("stages:\n  evaluate:\n    cmd: 'true'\n    outs: [data/predictions]\n")
    (root / layout.LOCK).unlink()
    for command in (
        ("init", "--quiet"), ("config", "core.analytics", "false"), ("remote", "add", "--default", "folder", str(remote)),
        ("commit", "--force", "--quiet"), ("push", "--quiet"),
    ):  # fmt: skip
        done = pipeline_repository.dvc(root, *command)
        assert done.returncode == 0, done.stderr
    ledger_tree.keep(root, "the record")
    mine = answers(root)
    rewrite(root, [changed(each, prediction="sql", score=0.0) for each in mine])
    before = hashes(root)

    def wins_of_a() -> int | None:
        found = compare(root, "HEAD").metrics[0].difference
        return found.losses if found else None

    assert wins_of_a() == 150  # from the cache
    assert hashes(root) == before
    shutil.rmtree(root / ".dvc" / "cache")
    assert wins_of_a() == 150  # from the remote
    stored = [each for each in remote.rglob("*") if each.is_file() and b'"prediction"' in each.read_bytes()]
    assert stored
    for path in stored:
        path.chmod(0o644)
        path.write_bytes(path.read_bytes().replace(b"sql", b"vm!"))
    assert wins_of_a() is None  # spoilt
    shutil.rmtree(remote)
    shutil.rmtree(root / ".dvc" / "cache", ignore_errors=True)
    (note,) = [each for each in compare(root, "HEAD").notes if each.startswith("A: data/")]
    assert "is not here, and DVC cannot fetch it (" in note


def test_refusals_are_refusals(tmp_path: Path) -> None:
    with pytest.raises(EvidenceRefused) as caught:
        compare(tmp_path, ".")
    assert isinstance(caught.value, Refusal)
