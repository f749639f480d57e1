"""`lockstep init`: from a file of rows to a params.yaml that the pipeline runs with."""

import csv
import json
import os
import random
import shlex
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from checks.config import params_file, starting
from checks.config.starting import Choice
from checks.formats.engines import LlamaCpp
from checks.formats.survey import Column, Measured, Request, guess
from checks.gates.threshold import ThresholdGate
from checks.kinds.gate import decided_at
from checks.kinds.loader import LOADERS
from checks.process import distribution
from checks.process.errors import DataRefused, MachineRefused, ParamsRefused
from checks.stats import mean_planning
from checks.stats.intervals import Mean
from checks.storage import layout
from release.adapters.team_folder import TeamFolder
from release.cards import card_facts
from release.cli import main, margins
from release.verbs import init as init_verb
from stages import survey
from tests import pipeline_repository as repository
from tests.conftest import REPOSITORY
from tests.release.adapters import test_pin

WORDS = [
    "cable",
    "paper",
    "desk",
    "lamp",
    "badge",
    "floor",
    "printer",
    "screen",
    "door",
    "window",
    "garden",
    "coffee",
    "table",
    "invoice",
    "travel",
    "hotel",
    "train",
    "ticket",
    "camera",
    "phone",
    "battery",
    "mouse",
    "locker",
    "server",
    "router",
    "folder",
    "letter",
    "stamp",
    "parcel",
    "receipt",
    "budget",
    "meeting",
    "calendar",
    "visa",
    "insurance",
    "holiday",
    "salary",
    "contract",
    "training",
    "uniform",
]
TEAMS = ("network", "travel", "people")
CHOICE = Choice("rows.jsonl", "LicenseRef-Own", "router", True, {"prompt": "question", "reference": "team"}, None, 0.05)
MEASURED = Measured(
    sha256="0" * 64, base_sha256=None, rows=5000, dropped={}, valid=0.06, test=0.25,
    split_rows={"train": 3450, "valid": 300, "test": 1250}, test_size=1200, distinct=3, label_shares=(0.2, 0.5),
    majority=0.45, words=40, prompt_tokens=128, reference_tokens=32, personal={}, personal_rows=(),
)  # fmt: skip


def rows(count: int) -> list[dict[str, str]]:
    """Rows of a question and a team; hardly any two are near-duplicates."""
    draw = random.Random(5)
    return [{"question": " ".join(draw.sample(WORDS, 6)), "team": TEAMS[i % len(TEAMS)]} for i in range(count)]


def jsonl(path: Path, found: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in found))
    return path


def column(name: str, kind: Any = "text", distinct: int = 900, *, closed: bool = False, in_all: bool = True) -> Column:
    return Column(name=name, kind=kind, distinct=distinct, closed=closed, in_all=in_all, sample="")


@pytest.mark.parametrize(
    ("columns", "found"),
    [
        pytest.param(
            [column("Question"), column("team", distinct=5, closed=True)],
            {"prompt": "Question", "reference": "team"}, id="by name, whatever its case",
        ),
        pytest.param(
            [column("kind", distinct=5, closed=True), column("what was said")],
            {"prompt": "what was said", "reference": "kind"}, id="of two texts the one with more values is the prompt",
        ),
        pytest.param(
            [column("ID"), column("request"), column("command")],
            {"prompt": "request", "reference": "command", "id": "ID"}, id="of two texts beside an id one is known",
        ),
        pytest.param([column("a"), column("b"), column("c")], {}, id="three texts without known names"),
        pytest.param(
            [column("messages", "chat"), column("id", "other"), column("prompt")],
            {"messages": "messages", "id": "id"}, id="chats",
        ),
        pytest.param(
            [column("completion", "chat"), column("prompt", "chat"), column("system")],
            {"prompt": "prompt", "reference": "completion", "system": "system"}, id="chats in two columns",
        ),
        pytest.param(
            [column("text"), column("label"), column("id", in_all=False), column("user", in_all=False)],
            {"prompt": "text", "reference": "label"}, id="an id or group that some rows lack",
        ),
        pytest.param([column("label", "other"), column("text")], {"prompt": "text"}, id="labels that are numbers"),
    ],
)  # fmt: skip
def test_columns_are_guessed_where_only_one_choice_is_left(columns: list[Column], found: dict[str, str]) -> None:
    assert guess(columns) == found


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_a_file_is_described_by_its_columns(tmp_path: Path, kind: str) -> None:
    found = rows(60)
    path = tmp_path / f"rows.{kind}"
    if kind == "jsonl":
        jsonl(path, found)
    elif kind == "csv":
        with path.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, ["question", "team"])
            writer.writeheader()
            writer.writerows(found)
    else:
        pq.write_table(pa.Table.from_pylist(found), path)
    contents = survey.contents(path)
    assert contents.rows == 60
    assert [(each.name, each.distinct, each.closed) for each in contents.columns] == [
        ("question", 60, False), ("team", 3, True),
    ]  # fmt: skip


def test_parquet_without_pyarrow_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "rows.parquet").touch()
    with pytest.raises(MachineRefused, match=r"^rows\.parquet: Parquet needs pyarrow.*\[parquet\]'; or save the rows"):
        survey.contents(tmp_path / "rows.parquet")


def request(path: Path, **changed: Any) -> Request:
    choice = CHOICE._replace(uri=str(path))
    asked = {"labels": True, "test_rows": 40, "max_test_share": 0.3, "longest": 2048, "base": None} | changed
    return Request(file=str(path), prepare=starting.prepare(choice, path.name, 100, (0.1, 0.1)), **asked)


def test_the_test_split_gets_the_rows_that_are_wanted_and_bounds_that_its_rows_meet(tmp_path: Path) -> None:
    found = survey.measure(request(jsonl(tmp_path / "a[1].jsonl", [*rows(300), *rows(2)])), Path("/"))
    assert found.dropped == {"drop-duplicates": 2}
    assert found.rows == 302
    assert 40 <= found.test_size <= 50
    assert sum(found.split_rows.values()) == 300
    assert found.label_shares[0] <= 1 / 3 <= found.label_shares[1]
    assert found.words == 6


@pytest.mark.parametrize(
    ("lines", "labels", "said"),
    [
        pytest.param([], True, "rows.jsonl: holds no row", id="an empty file"),
        pytest.param([{"question": "", "team": "x"}] * 3, True, "the rules drop every row", id="nothing is left"),
        pytest.param([*rows(90), {"question": "who", "team": "rare"}], True, "the label 'rare'", id="a rare label"),
        pytest.param(
            [{"question": row["question"], "team": str(i)} for i, row in enumerate(rows(90))], True,
            "are no list of labels", id="labels that are none",
        ),
        pytest.param([{"question": "a", "team": 5}], False, '5 is not text: write it as text, "5"', id="a number"),
        pytest.param(rows(2), False, "empty", id="two rows"),
    ],
)  # fmt: skip
def test_rows_that_no_configuration_helps_are_refused(
    tmp_path: Path, lines: list[Any], labels: bool, said: str
) -> None:
    with pytest.raises(DataRefused) as refusal:
        survey.measure(request(jsonl(tmp_path / "rows.jsonl", lines), labels=labels), Path("/"))
    assert said in str(refusal.value)


def test_rare_labels_and_long_prompts_are_refused_at_once_with_their_rows_and_a_limit(tmp_path: Path) -> None:
    odd = [{"question": "who", "team": "rare"}, {"question": "far " * 2000, "team": "people"}]
    asked = request(jsonl(tmp_path / "rows.jsonl", [*rows(90), *odd]))
    with pytest.raises(DataRefused) as refusal:
        survey.measure(asked.model_copy(update={"prepare": asked.prepare | {"max_prompt_words": 10**6}}), Path("/"))
    assert "to have the label 'rare' (rows.jsonl:91); add rows of it" in str(refusal.value)
    (other,) = refusal.value.others
    assert other.startswith("rows.jsonl:92: the longest prompt has 2,000 words; 1 rows have more than 2,048 tokens")
    assert other.endswith("give --max-prompt-words 1999, which drops 1 of 92 rows")


def test_personal_data_is_counted_and_its_rows_are_named(tmp_path: Path) -> None:
    odd = [{"question": "write to ada@corp.example and bob@corp.example", "team": "people"}]
    found = survey.measure(request(jsonl(tmp_path / "rows.jsonl", [*rows(90), *odd])), Path("/"))
    assert (found.personal, found.personal_rows) == ({"email": 2}, ("rows.jsonl:91",))


@pytest.mark.parametrize(
    ("margin", "shares", "low", "high"), [(0.05, 1, 400, 600), (0.05, 20, 950, 1250), (0.1, 20, 240, 340)]
)
def test_the_rows_that_a_margin_needs_show_it_and_far_fewer_do_not(
    margin: float, shares: int, low: int, high: int
) -> None:
    needed = starting.rows_needed(margin, shares)
    assert low <= needed <= high
    shown = starting.margin_of(needed, shares)
    assert shown is not None
    assert shown <= margin + 0.01
    few = starting.margin_of(needed // 2, shares)
    assert few is None or few > margin


def test_a_margin_that_the_file_is_too_small_for_is_widened_unless_it_was_given() -> None:
    small = MEASURED.model_copy(update={"test_size": 300, "split_rows": {"train": 900, "valid": 60, "test": 310}})
    assert starting.held_margin(MEASURED, 0.05, 20, given=True) == 0.05
    wide = starting.held_margin(small, 0.05, 20, given=False)
    assert 0.05 < wide < 0.15
    with pytest.raises(DataRefused, match=rf"give --margin {wide:g}, or bring about [\d,]+ rows"):
        starting.held_margin(small, 0.05, 20, given=True)
    with pytest.raises(DataRefused, match="too few to rule out even a loss"):
        starting.held_margin(small.model_copy(update={"test_size": 12}), 0.05, 20, given=False)


def test_the_table_before_the_margin_says_what_a_file_of_300_rows_can_show() -> None:
    lines = margins.table(300, 8).split("\n")
    assert max(map(len, lines)) <= 80
    header, *_, own = (line.split() for line in lines[2:])
    assert " ".join(header) == "margin 1 model 5 models 8 models 20 models"
    assert own[:3] == ["your", "90", "rows"]
    shown = [starting.margin_of(90, number) for number in (1, 5, 8, 20)]
    assert shown == sorted(margin for margin in shown if margin is not None)
    assert own[3::2] == [f"{100 * (margin or 0):.0f}" for margin in shown]
    five = next(line.split() for line in lines if line.startswith("  5 points"))
    assert five[2:] == [f"{starting.rows_needed(0.05, number):,}" for number in (1, 5, 8, 20)]
    assert margins.table(20, 20).split("\n")[-1].split()[3:] == ["none"] * 3


def test_a_resolution_is_planned_with_the_size_that_the_gate_uses() -> None:
    """Of 200 customers, each with 1 to 10 rows that are answered alike: they count as some 100 rows, not as 200."""
    draw = np.random.default_rng(3)
    groups = np.repeat(np.arange(200), draw.choice([1, 1, 2, 3, 10], 200))
    size = survey._size([str(each) for each in groups])
    assert 90 < size < 120
    measured = MEASURED.model_copy(
        update={"test_size": size, "split_rows": {"train": 3450, "valid": 300, "test": len(groups)}}
    )
    text = (REPOSITORY / layout.PARAMS).read_text()
    prepared = starting.prepare(CHOICE, "rows.jsonl", 60, (0.06, 0.25))
    params = params_file.parse(starting.written(text, params_file.parse(text), CHOICE, prepared, measured))
    gate = decided_at(params.gates)["answers_well"]
    assert isinstance(gate, ThresholdGate)
    means = [Mean.of((draw.random(200) < 0.5).astype(float)[groups], groups) for _ in range(100)]
    resolved = sum(mean_planning.resolves(mean, gate.resolution, gate.confidence) for mean in means)
    assert resolved >= 80


@pytest.mark.parametrize(
    ("base", "data", "found"),
    [
        ("Apache-2.0", "LicenseRef-Own", ("Apache-2.0", True)),
        ("gemma", "MIT", ("gemma", True)),
        ("Apache-2.0", "CC-BY-NC-4.0", ("Apache-2.0", False)),
        ("Apache-2.0", "CC-BY-SA-3.0", ("CC-BY-SA-3.0", True)),
        ("gemma", "CC-BY-SA-4.0", "no licence fits"),
        ("Apache-2.0", "CC-BY-ND-4.0", "no licence fits"),
        ("Apache-2.0", "ours", "the table of licences has no 'ours'"),
    ],
)
def test_the_adapters_licence_follows_from_those_of_base_and_data(base: str, data: str, found: Any) -> None:
    if isinstance(found, tuple):
        assert starting.adapter(base, data) == found
    else:
        with pytest.raises(ParamsRefused, match=found):
            starting.adapter(base, data)


@pytest.mark.parametrize(
    "choice",
    [
        CHOICE,
        CHOICE._replace(labels=False, instruction='Answer: "no", # or yes'),
        CHOICE._replace(columns={"messages": "chat", "slice": "product", "group": "customer", "id": "number"}),
        CHOICE._replace(base="sources/base", base_license="llama3.2", margin=0.25),
    ],
    ids=["labels", "free text", "chats", "another base"],
)
@pytest.mark.parametrize("old", ["params.yaml", "docs/configurations/service-router.yaml"])
def test_what_is_about_the_data_is_new_and_the_rest_stays_as_it_was(choice: Choice, old: str) -> None:
    text = (REPOSITORY / old).read_text()
    before = params_file.parse(text)
    prepared = starting.prepare(choice, "rows.jsonl", 60, (0.06, 0.25))
    after = params_file.parse(starting.written(text, before, choice, prepared, MEASURED))
    assert (after.data.uri, after.data.sha256, after.data.license) == ("rows.jsonl", "0" * 64, "LicenseRef-Own")
    assert after.prepare.loader == LOADERS.kinds["table"].model_validate(prepared["loader"])
    assert (after.validate_.labels is not None) is choice.labels
    assert (after.base == before.base) is (choice.base is None)
    assert (after.suites, after.merge, after.promote) == (before.suites, before.merge, before.promote)
    assert after.train.model_copy(update={"max_length": before.train.max_length}) == before.train
    kinds = {gate.kind for gate in after.gates.values()}
    assert kinds >= {"data", "license", "contamination", "improves", "non_inferior", "parity", "remembers"}
    assert ("slice" in kinds) is ("slice" in choice.columns)
    assert ("threshold" in kinds) is choice.labels
    assert "azure" not in starting.written(text, before, choice, prepared, MEASURED)


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """What init looks at first in a clone."""
    root = tmp_path / "clone"
    cards = (str(card_facts.MODEL), str(card_facts.DATA))
    for name in ("params.yaml", "dvc.yaml", ".dvc/config", "stages/prepare.py", "checks/config/params.py", *cards):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / name, root / name)
    repository.git(root, "init", "--quiet", "--initial-branch=main")
    repository.commit(root, "start")
    return root


@pytest.mark.parametrize(
    ("spoil", "code", "said"),
    [
        (lambda root: shutil.rmtree(root / ".git"), 2, "is not in a git repository; git init"),
        (lambda root: (root / "params.yaml").open("a").write("# mine\n"), 2, "has changes that git does not have; commit"),
        (lambda root: shutil.copy(REPOSITORY / "docs/configurations/preferences.yaml", root / "params.yaml"), 2,
         "is about data of your own already; give --force to replace it"),
        (lambda _: None, 4, "rows.jsonl: no such file; give one file in JSONL, CSV or Parquet"),
        (lambda root: (root / "rows.jsonl").mkdir(), 4, "rows.jsonl: is a folder; give one file"),
    ],
    ids=["no git", "uncommitted", "own", "no file", "a folder"],
)  # fmt: skip
def test_a_folder_that_init_cannot_start_from_is_refused(clone: Path, spoil: Any, code: int, said: str) -> None:
    spoil(clone)
    before = (clone / "params.yaml").read_bytes()
    done = CliRunner().invoke(main, ["-C", str(clone), "init", str(clone / "rows.jsonl"), "--yes"])
    assert done.exit_code == code
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert (clone / "params.yaml").read_bytes() == before


def test_rows_in_a_folder_that_the_pipeline_writes_are_refused(clone: Path) -> None:
    (clone / "data").mkdir()
    file = jsonl(clone / "data" / "rows.jsonl", rows(3))
    done = CliRunner().invoke(main, ["-C", str(clone), "init", str(file), "--yes"])
    assert done.exit_code == 4
    assert "data/rows.jsonl: the pipeline writes data/ itself; mkdir -p datasets && mv data/rows.jsonl" in done.stderr


@pytest.mark.parametrize(
    ("configuration", "stays"), [("params.yaml", False), ("docs/configurations/preferences.yaml", True)]
)
def test_the_examples_record_goes_and_one_of_your_own_model_stays(clone: Path, configuration: str, stays: bool) -> None:
    for path in (layout.LOCK, layout.VERDICT, layout.TRAIN_MEASURED, layout.NOISE):
        (clone / path).parent.mkdir(parents=True, exist_ok=True)
        (clone / path).write_text("of a run")
    choice = Choice(uri="rows.jsonl", license="MIT", name="x", labels=True, columns={}, instruction=None, margin=0.05)
    old = params_file.load(REPOSITORY / configuration)
    place = TeamFolder(clone, None, "old", old)
    begun = init_verb.Begun("new", choice, MEASURED, 1, (), () if stays else (card_facts.MODEL,))
    assert init_verb.write(place, begun).removed_record is not stays
    assert [(clone / path).exists() for path in (layout.LOCK, layout.VERDICT, layout.TRAIN_MEASURED)] == [stays] * 3
    assert (clone / layout.NOISE).exists(), "the stage gate cannot run without it"
    assert (clone / layout.PARAMS).read_text() == "new"
    assert (clone / card_facts.MODEL).read_text().startswith("TODO: ") is not stays
    assert "azure-cli" in (clone / card_facts.DATA).read_text()


@pytest.mark.parametrize(
    ("edit", "committed", "replaced"),
    [
        (lambda _: None, False, True),
        (lambda card: card.write_text(card.read_text() + "\nMore.\n"), False, False),
        (lambda card: card.write_text("Ours.\n"), True, False),
        (lambda card: card.unlink(), False, False),
        (lambda card: (card.rename(card.with_name("other")), card.symlink_to("other")), True, False),
    ],
)
def test_only_the_examples_text_for_the_cards_is_replaced(
    clone: Path, edit: Any, committed: bool, replaced: bool
) -> None:
    edit(clone / card_facts.MODEL)
    if committed:
        repository.commit(clone, "our card")
    place = TeamFolder(clone, None, "", params_file.load(clone / layout.PARAMS))
    assert place.example_cards() == (*([card_facts.MODEL] if replaced else []), card_facts.DATA)
    shutil.rmtree(clone / ".git")
    repository.git(clone, "init", "--quiet")
    assert place.example_cards() == (), "git has no commit"


def test_what_protected_the_example_and_is_left_out_is_named() -> None:
    text = (REPOSITORY / layout.PARAMS).read_text()
    before = params_file.parse(text)
    prepared = starting.prepare(CHOICE, "rows.jsonl", 60, (0.06, 0.25))
    after = params_file.parse(starting.written(text, before, CHOICE, prepared, MEASURED))
    assert starting.left_out(before, after) == (
        "prepare.personal_data", "data.sources", "gates.rows_are_private", "gates.writes_commands",
        "gates.no_slice_falls_behind", "gates.no_slice_falls_behind_production", "gates.still_answers",
    )  # fmt: skip
    assert starting.left_out(after, after) == ()


@pytest.mark.slow
def test_init_and_run_are_all_that_own_data_needs(tmp_path: Path, tiny_base: Path, document: dict[str, Any]) -> None:
    root = tmp_path / "work"
    document["gates"]["test_is_fresh"] = {"kind": "looks", "most": 20}
    document["validate"]["min_rows"]["test"] = 26
    repository.make(root, tiny_base, document, rows(5))
    file = jsonl(root / "sources" / "tickets.jsonl", rows(240))
    before = (root / layout.PARAMS).read_bytes()
    done = init(root, file, "--yes")
    assert (done.returncode, (root / layout.PARAMS).read_bytes()) == (2, before)
    assert "the licence of the data is not known; give --license, LicenseRef-Own" in done.stderr
    # columns, labels, instruction, licence, margin (after one that is none), and no name
    done = init(root, file, asked="\n\n\n\nMIT\nmuch\n0.15\n")
    assert "your 72 rows" in done.stderr
    given = ["--prompt", "question", "--reference", "team", "--answers", "labels", "--instruction", "Name the team.",
             "--license", "MIT", "--margin", "0.15"]  # fmt: skip
    assert (
        done.stderr.splitlines()[-1]
        == f"lockstep: your answers so far, as flags for the same command: {shlex.join(given)}"
    )
    done = init(root, file, *given, "--runtime", "transformers", "--looks", "1", asked="help-desk\n")
    assert done.returncode == 0, done.stderr
    assert "next: ./lockstep run" in done.stdout
    params = params_file.load(root / layout.PARAMS)
    assert (params.serve.name, params.serve.runtime, params.data.license) == ("help-desk", "transformers", "MIT")
    assert "margin: 0.15\n" in (root / layout.PARAMS).read_text()
    assert {gate.shares for gate in params.gates.values() if gate.kind == "looks"} == {1}
    assert repository.repro(root, "validate") == ["fetch", "prepare", "validate"]


@pytest.mark.slow
def test_for_llama_cpp_init_writes_the_file_that_it_serves_and_what_judges_it(
    tmp_path: Path, tiny_base: Path, document: dict[str, Any]
) -> None:
    root = tmp_path / "work"
    document["gates"]["test_is_fresh"] = {"kind": "looks", "most": 20}
    document["validate"]["min_rows"]["test"] = 26
    repository.make(root, tiny_base, document, rows(5))
    file = jsonl(root / "sources" / "tickets.jsonl", rows(240))
    done = init(root, file, "--yes", "--license", "MIT", "--runtime", "llamacpp", "--margin", "0.15", "--looks", "1")
    assert done.returncode == 0, done.stderr
    params = params_file.load(root / layout.PARAMS)
    (export,) = params.merge.export or ()
    gate: Any = params.gates["file_loses_nothing"]
    assert (params.serve.runtime, export.type) == ("llamacpp", "q8_0")
    assert isinstance(params.evaluate.engine, LlamaCpp)
    assert (gate.kind, gate.against, gate.margin) == ("non_inferior", "unquantised", 0.15)
    # A second time the keys are there, and their values are replaced.
    done = init(root, file, "--yes", "--license", "MIT", "--runtime", "llamacpp", "--margin", "0.2", "--looks", "1")
    assert done.returncode == 0, done.stderr
    gate = params_file.load(root / layout.PARAMS).gates["file_loses_nothing"]
    assert gate.margin == 0.2


@pytest.mark.slow
@pytest.mark.parametrize("workflows", [(), ("--workflows", f"acme/lockstep@{'a' * 40}")], ids=["alone", "workflows"])
def test_nothing_is_missing_in_a_repository_that_init_just_made(tmp_path: Path, workflows: tuple[str, ...]) -> None:
    team, wheels = tmp_path / "team", tmp_path / "wheels"
    wheels.mkdir()
    test_pin.wheel(wheels, distribution.NAME, distribution.version())
    team.mkdir()
    file = jsonl(team / "tickets.jsonl", rows(1500))
    environment = os.environ | {
        "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels), "GITHUB_SERVER_URL": f"file://{tmp_path}"
    }  # fmt: skip
    lockstep = partial(
        subprocess.run, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )  # fmt: skip
    start = [sys.executable, "-P", "-m", "release.cli", "-C", str(team)]
    made = lockstep([*start, "init", str(file), "--yes", "--license", "LicenseRef-Own", *workflows])
    assert made.returncode == 0, made.stderr
    # The server that is proposed.
    assert params_file.load(team / layout.PARAMS).serve.runtime == "vllm"
    before = repository.git(team, "status", "--short", "--untracked-files=all")
    done = lockstep([*start, "upgrade", "--check"])
    assert (done.returncode, done.stderr) == (0, "")
    assert f"this repository is of Lockstep {distribution.version()}" in done.stdout
    assert repository.git(team, "status", "--short", "--untracked-files=all") == before
    (team / layout.LOCK).write_text("stages: {}\n")
    done = lockstep([*start, "upgrade", "--check"])
    assert done.returncode == 8, done.stdout
    assert "code.lock in .: not of Lockstep" in done.stderr


def init(root: Path, file: Path, *flags: str, asked: str = "") -> "subprocess.CompletedProcess[str]":
    command = ["-C", str(root), "init", str(file), "--force", "--base", "sources/base", "--base-license", "Apache-2.0"]
    return subprocess.run(
        [repository.interpreter(), "-m", "release.cli", *command, *flags], cwd=REPOSITORY, input=asked,
        env=repository.environment(PYTHONPATH=str(REPOSITORY)), capture_output=True, text=True, check=False,
    )  # fmt: skip
