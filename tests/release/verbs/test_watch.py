"""`lockstep watch`: real captures of a gateway's format, in a real git repository whose production runs a release."""

import json
import random
import re
import shutil
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from checks.decision import policy
from checks.formats.captures import Capture, InputMessage, OutputMessage, Part
from checks.formats.evaluation_reports import EvaluationReport
from checks.formats.watch_report import Service, WatchReport
from checks.records.rows import Prediction, Row
from checks.storage import files, layout
from release.cli import main
from release.evidence import trust, windows
from release.monitoring import window
from release.verbs import keys as key_verbs
from tests import ledger_tree, report_tree
from tests.conftest import as_params
from tests.github_api_standin import READ_ONLY, TOKEN, StandIn
from tests.pipeline_repository import git, write_params
from tests.release.monitoring.test_evaluation_events import Collector, received

pytestmark = pytest.mark.slow

nobodys_configuration = ledger_tree.nobodys_configuration
SINCE = datetime(2026, 3, 2, tzinfo=UTC)  # a Monday
WINDOW = ("--from", "2026-03-02", "--to", "2026-03-09")
MONITOR: dict[str, Any] = {
    "labels": ["vm", "storage", "network", "acr", "sql"], "margin": 0.1, "drift": {"auc": 0.2, "w": 0.5},
    "objectives": {"availability": 0.9, "latency": {"seconds": 2.0, "share": 0.9}, "whole_answers": 0.9},
}  # fmt: skip
Edit = Callable[[list[dict[str, Any]]], object]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("watch") / "pr"
    report_tree.pull_request(root)
    return root


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    """A copy, with the parameters of this test and a week of traffic as before release."""
    shutil.copytree(made, tmp_path / "pr")
    root = tmp_path / "pr"
    set_monitor(root)
    capture(root)
    return root


def set_monitor(root: Path, **change: Any) -> None:
    write_params(root, report_tree.document() | {"monitor": MONITOR | change})


def release(root: Path) -> str:
    """The model that production runs."""
    found = re.search(
        r"^model: sha256:([0-9a-f]{12})", (root / "release/environments/production/pointer.yaml").read_text()
    )
    assert found
    return found[1]


def requests(root: Path) -> list[dict[str, Any]]:
    """A request for each of 240 pinned rows; three of four answers are right, as production's model answered before."""
    rows = [row for name in layout.SPLIT_NAMES for row in files.read_jsonl(root / layout.SPLITS / f"{name}.jsonl", Row)]
    chance = random.Random(5)
    return [
        {
            "time": SINCE + timedelta(minutes=40 * number), "prompt": row.prompt, "system": row.messages[0].content,
            "answer": row.reference if chance.random() < 0.75 else "sql", "status": 200, "seconds": 0.3 + 0.001 * number,
            "finish": "stop", "id": f"request-{number}", "release": release(root), "share": 1.0, "user": f"{number:016x}",
        }
        for number, row in enumerate(chance.sample(rows, 240))
    ]  # fmt: skip


def capture(root: Path, edit: Edit | None = None, name: str = "10-a-1.jsonl") -> None:
    """Write them as the gateway does."""
    said = requests(root)
    if edit:
        edit(said)
    shutil.rmtree(root / layout.CAPTURES, ignore_errors=True)
    for each in said:
        row = Capture(
            time=each["time"], operation="chat", status=each["status"], request_id=each["id"], release=each["release"],
            input_messages=(_message(InputMessage, "system", each["system"]), _message(InputMessage, "user", each["prompt"])),
            output_messages=(_message(OutputMessage, "assistant", each["answer"], finish_reason=each["finish"]),)
            if each["status"] < 400 else (),
            error=None if each["status"] < 400 else str(each["status"]), environment="production",
            seconds=each["seconds"], redactions={}, sampled_share=each["share"], user_key=each["user"],
            input_tokens=each.get("input_tokens"), output_tokens=each.get("output_tokens"),
        )  # fmt: skip
        path = root / layout.CAPTURES / "production" / f"{each['time']:%Y-%m-%d}" / f"{each['time']:%H}-{name}"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as stream:
            stream.write(row.model_dump_json().encode() + b"\n")


def _message(kind: type[Any], role: str, text: str, **more: str) -> Any:
    return kind(role=role, parts=(Part(type="text", content=text),), **more)


def lockstep(root: Path, *arguments: str) -> Result:
    done = CliRunner().invoke(main, ["-C", str(root), *arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


def statuses(root: Path) -> dict[str, str]:
    return {
        each.name: each.status for each in files.read_json(root / "reports/watch/production.json", WatchReport).findings
    }


def test_a_window_as_before_release_passes_and_leaves_a_report_and_a_picture_without_any_text(root: Path) -> None:
    done = lockstep(root, "watch", "production", *WINDOW)
    assert (done.exit_code, done.stderr) == (0, ""), done.output
    report = files.read_json(root / "reports/watch/production.json", WatchReport)
    assert set(statuses(root)) == {
        "availability", "latency", "whole answers", "prompts", "labels", "valid labels", "length", "no refusals", "no repetition",
    }  # fmt: skip
    assert (report.status, report.requests, report.prompts, report.version) == ("pass", 240, 240, "v0.1.0")
    assert report.alpha == pytest.approx(7 / 365.25, abs=1e-6)
    for each in report.findings:
        assert each.low is not None, each
        assert each.high is not None, each
        assert each.detectable is not None, each
        assert each.p_holm is not None, each
    text = (root / "reports/watch/production.json").read_text() + (root / "reports/watch/production.svg").read_text()
    assert "request 1" not in text
    picture = ET.fromstring((root / "reports/watch/production.svg").read_text())
    assert sum(each.tag.endswith("}g") for each in picture.iter()) == len(report.findings)
    assert json.loads(lockstep(root, "watch", "production", *WINDOW, "--json").stdout) == json.loads(
        (root / "reports/watch/production.json").read_text()
    )


def test_with_a_verifiers_key_the_window_is_signed_into_a_file_of_its_own(root: Path) -> None:
    """The first run has a key that nobody knows. Code that is not committed signs nothing."""
    made = key_verbs.new(root, "ada", ("verify",))
    lockstep(root, "watch", "production", *WINDOW)
    assert sorted(path.name for path in (root / layout.WATCH).iterdir()) == ["production.json", "production.svg"]
    refused = lockstep(root, "watch", "production", *WINDOW, "--key", str(made.private))
    assert refused.exit_code == 8, refused.output
    key_verbs.add_signer(root, "ada", ("verify",))
    git(root, "add", str(layout.SIGNERS))
    git(root, "commit", "-m", "signers")
    git(root, "update-ref", "refs/remotes/origin/main", "HEAD")
    kind = root / "kinds" / "extra.py"
    files.write_text(kind, "")
    refused = lockstep(root, "watch", "production", *WINDOW)
    assert (refused.exit_code, len(refused.stderr.splitlines())) == (8, 1), refused.output
    assert "kinds/extra.py: is not the code that git has" in refused.stderr
    kind.unlink()
    assert lockstep(root, "watch", "production", *WINDOW).exit_code == 0
    report = files.read_json(root / "reports/watch/production.json", WatchReport)
    assert report.service == Service(errors=0, p50=0.419, p95=0.527)
    signed = root / windows.path(report)
    assert signed.name == f"production-2026-03-02-{release(root)}.intoto.json"
    assert windows.read(root, trust.known(root), report.model) == ((report,), [])


def test_a_window_is_sent_as_events_before_its_verdict_refuses(root: Path) -> None:
    capture(root, _slow)
    with Collector() as collector:
        done = lockstep(root, "watch", "production", *WINDOW, "--otlp", collector.url)
        labels = {
            event["gen_ai.evaluation.name"]: event["gen_ai.evaluation.score.label"] for event in received(collector)
        }
    assert (done.exit_code, labels) == (10, statuses(root)), done.output


def test_the_same_traffic_in_other_files_gives_the_same_bytes(root: Path) -> None:
    lockstep(root, "watch", "production", *WINDOW)
    before = (root / "reports/watch/production.json").read_bytes()
    capture(root, lambda said: said.reverse(), name="10-z-9.jsonl")
    capture_again = (root / "reports/watch/production.json").read_bytes()
    lockstep(root, "watch", "production", *WINDOW)
    assert (root / "reports/watch/production.json").read_bytes() == before == capture_again


def _other_prompts(said: list[dict[str, Any]]) -> None:
    for number, each in enumerate(said[:120]):
        each["prompt"] = f"How do I bake bread with {number} grams of flour and sugar?"


def _one_label(said: list[dict[str, Any]]) -> None:
    for each in said[::2]:
        each["answer"] = "vm"


def _no_labels(said: list[dict[str, Any]]) -> None:
    for each in said[::3]:
        each["answer"] = "a disk"


def _refusals(said: list[dict[str, Any]]) -> None:
    for each in said[::2]:
        each["answer"] = "I'm sorry, but I can't help with that."


def _loops(said: list[dict[str, Any]]) -> None:
    for each in said[::2]:
        each["answer"] = "az vm list and so " * 20


def _slow(said: list[dict[str, Any]]) -> None:
    for each in said[::3]:
        each["seconds"] = 9.0


def _failing(said: list[dict[str, Any]]) -> None:
    for number, each in enumerate(said):
        each["status"] = (500, 200, 429, 200)[number % 4]


def _an_outage(said: list[dict[str, Any]]) -> None:
    """A fifth of the requests, all in one minute, is one cluster: it cannot show that the service is bad as a rule."""
    for each in said[:48]:
        each["status"], each["time"] = 500, SINCE


def _clients_mistakes(said: list[dict[str, Any]]) -> None:
    for number, each in enumerate(said):
        each["status"] = (422, 200, 499, 200)[number % 4]


def _cut_off(said: list[dict[str, Any]]) -> None:
    for each in said[::2]:
        each["finish"] = "length"


def _few(said: list[dict[str, Any]]) -> None:
    del said[12:]


def _one_prompt(said: list[dict[str, Any]]) -> None:
    for each in said:
        each["prompt"] = said[0]["prompt"]


@pytest.mark.parametrize(
    ("edit", "code", "expected"),
    [
        (_other_prompts, 10, {"prompts": "fail", "labels": "pass", "latency": "pass"}),
        (_one_label, 10, {"labels": "fail", "prompts": "pass", "valid labels": "pass"}),
        (_no_labels, 10, {"valid labels": "fail", "no refusals": "pass"}),
        (_refusals, 10, {"no refusals": "fail", "length": "fail", "no repetition": "pass"}),
        (_loops, 10, {"no repetition": "fail", "length": "fail", "no refusals": "pass"}),
        (_slow, 10, {"latency": "fail", "availability": "pass"}),
        (_failing, 10, {"availability": "fail", "latency": "pass"}),
        (_an_outage, 11, {"availability": "inconclusive"}),
        (_clients_mistakes, 0, {"availability": "pass"}),
        (_cut_off, 10, {"whole answers": "fail", "availability": "pass"}),
        (_few, 11, {"availability": "inconclusive", "prompts": "inconclusive", "labels": "inconclusive"}),
        (_one_prompt, 11, {"prompts": "inconclusive", "no refusals": "inconclusive", "availability": "pass"}),
    ],
)
def test_what_changed_is_what_fails(root: Path, edit: Edit, code: int, expected: dict[str, str]) -> None:
    capture(root, edit)
    done = lockstep(root, "watch", "production", *WINDOW)
    found = statuses(root)
    assert {name: found[name] for name in expected} == expected, done.output
    assert done.exit_code == code, done.output
    failing = [name for name, status in found.items() if status == "fail"]
    assert all(name in done.stderr for name in failing)
    assert len(done.stderr.splitlines()) == (code != 0)


def _without_users(said: list[dict[str, Any]]) -> None:
    for each in said:
        each["user"] = None


def _weeks(said: list[dict[str, Any]], weeks: int) -> None:
    """As many weeks before, each with some of these requests."""
    chance, now = random.Random(7), list(said)
    for week in range(1, weeks + 1):
        said += [
            each | {"id": f"{each['id']}-{week}", "time": each["time"] - timedelta(weeks=week)}
            for each in chance.sample(now, 160)
        ]


@pytest.mark.parametrize(("weeks", "status"), [(0, "inconclusive"), (2, "inconclusive"), (8, "fail")])
def test_without_users_keys_a_change_is_an_alarm_once_usual_weeks_are_known(
    root: Path, weeks: int, status: str
) -> None:
    def edit(said: list[dict[str, Any]]) -> None:
        _without_users(said)
        now = len(said)
        _weeks(said, weeks)
        _other_prompts(said[:now])

    capture(root, edit)
    done = lockstep(root, "watch", "production", *WINDOW)
    report = files.read_json(root / "reports/watch/production.json", WatchReport)
    prompts = next(each for each in report.findings if each.name == "prompts")
    assert (prompts.status, done.exit_code) == (status, 10 if status == "fail" else 11), done.output
    assert "bread" in prompts.reason
    note = f"drift raises no alarm yet, because .* for 3 earlier windows of this release \\({weeks} captured so far\\)"
    assert bool(re.search(note, " ".join(done.stdout.split()))) == (status == "inconclusive"), done.stdout
    assert sum(name.startswith("window of") for name in report.reference) == weeks
    if status == "fail":
        assert "not those of the windows before" in prompts.reason


def test_a_user_who_sends_half_of_the_requests_is_no_change(root: Path) -> None:
    def edit(said: list[dict[str, Any]]) -> None:
        _other_prompts(said)
        for each in said[:120]:
            each["user"] = "f" * 16

    capture(root, edit)
    lockstep(root, "watch", "production", *WINDOW)
    assert statuses(root)["prompts"] == "inconclusive"


def test_the_first_screen_says_what_happened_what_fails_and_what_to_do(root: Path) -> None:
    capture(root, _other_prompts)
    lines = lockstep(root, "watch", "production", *WINDOW).stdout.splitlines()
    assert lines[0] == "production v0.1.0: what people ask has changed (answers have not been shown to be worse)"
    assert lines[2].startswith("  ✗ prompts")
    assert "  ✓ 8 other checks pass: " in "\n".join(lines)
    assert " ".join(" ".join(lines).split()).endswith(
        "What to do: label some of the requests and train: `./lockstep watch production --pr`. A rollback would not help."
    )


def test_ten_prompts_that_are_new_and_ten_that_are_missed_are_printed_and_stored_nowhere(root: Path) -> None:
    capture(root, _other_prompts)
    rows = [row for name in layout.SPLIT_NAMES for row in files.read_jsonl(root / layout.SPLITS / f"{name}.jsonl", Row)]
    released = {f"{row.messages[0].content} {row.prompt}" for row in rows}
    done = lockstep(root, "watch", "production", *WINDOW, "--prompts")
    assert done.exit_code == 10, done.output
    lines = [
        line.strip()
        for line in done.stdout[done.stdout.index("prompts now and in the release's data: AUC ") :].splitlines()
    ]
    middle = lines.index("of the data, missed now:")
    now, missed = set(lines[2:middle]), set(lines[middle + 1 :])
    assert (lines[1], len(now), len(missed & released)) == ("least like the data:", 10, 10)
    assert all("How do I bake bread with" in prompt for prompt in now)
    reports = "".join(path.read_text() for path in (root / layout.WATCH).iterdir())
    assert not any(prompt in reports for prompt in ("How do I bake bread with 1", *missed))
    assert lockstep(root, "watch", "production", *WINDOW, "--prompts", "--json").exit_code == 2


def test_evidently_gets_figures_of_window_and_reference_and_no_text(root: Path, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\ncat > "$2"\n')  # in place of the page it leaves what it was given
    python.chmod(0o755)
    done = lockstep(root, "watch", "production", *WINDOW, "--evidently", str(python))
    assert done.exit_code == 0, done.output
    given = json.loads((root / layout.STATE / "watch" / "production.html").read_text())
    assert given["categorical"] == ["answer declines", "answer repeats itself", "label"]
    assert given["current"].keys() == given["reference"].keys() > set(given["categorical"])
    assert {len(values) for values in given["current"].values()} == {240}
    assert {len(values) for values in given["reference"].values()} == {200}
    labels = {row["answer"] for row in requests(root)}
    for side in (given["current"], given["reference"]):
        assert {*side.pop("label")} <= {*labels, "(no label)"}
        assert {*side.pop("answer declines"), *side.pop("answer repeats itself")} <= {"True", "False"}
        assert {type(value) for values in side.values() for value in values} == {int}


def test_labels_that_come_later_are_joined_and_a_fall_of_quality_fails(root: Path) -> None:
    said = [{"request_id": f"request-{number}", "label": "vm"} for number in range(0, 240, 2)]
    given = root / "labels.jsonl"
    given.write_text("".join(f"{json.dumps(each)}\n" for each in said))
    for _ in range(2):  # the same file again changes nothing
        done = lockstep(root, "feedback", str(given))
        assert (done.exit_code, done.stdout[:35]) == (0, "stored 120 labels of 120 requests: "), done.output
    # Two labels of one request name neither. The file is as an editor on Windows writes it.
    given.write_text(json.dumps({"request_id": "request-0", "label": "acr"}) + "\r\n", encoding="utf-8-sig", newline="")
    lockstep(root, "feedback", str(given))
    done = lockstep(root, "watch", "production", *WINDOW)
    assert done.exit_code == 10, done.output
    report = files.read_json(root / "reports/watch/production.json", WatchReport)
    quality = next(each for each in report.findings if each.name == "quality")
    assert (quality.status, quality.n, quality.reference) == ("fail", 119, 0.75)  # 150 of 200 before release
    assert report.labelled == 119
    assert "1 labels are left out: two for one request" in done.stdout


def test_free_text_has_no_labels_and_its_answers_are_compared_as_texts(root: Path) -> None:
    value = report_tree.document() | {"monitor": MONITOR | {"labels": None}}
    value["validate"]["labels"] = None
    write_params(root, value)
    capture(root, lambda said: [each.update(answer=f"{each['answer']} please wait a moment") for each in said])
    lockstep(root, "watch", "production", *WINDOW)
    found = statuses(root)
    assert (found["answers"], "labels" in found, "valid labels" in found) == ("fail", False, False)


def test_cost_is_of_the_devices_and_of_all_requests_that_a_sample_stands_for(root: Path) -> None:
    assert "cost" not in lockstep(root, "watch", "production", *WINDOW).stdout
    set_monitor(root, cost={"devices": 2, "hourly_price": 1.5})
    capture(root, lambda said: [each.update(share=0.5) for each in said])
    done = lockstep(root, "watch", "production", *WINDOW)
    assert f"cost: about {1000 * 168 * 2 * 1.5 / 480:,.4g} per 1,000 requests (336 device hours)" in done.stdout


def test_releases_on_one_server_share_its_cost_by_their_tokens(root: Path) -> None:
    set_monitor(root, cost={"devices": 1, "hourly_price": 2.0})
    other = {"release": "0" * 12, "input_tokens": 25, "output_tokens": 5}
    capture(
        root,
        lambda said: [
            each.update({"input_tokens": 8, "output_tokens": 2} | (other if number % 2 else {}))
            for number, each in enumerate(said)
        ],
    )
    done = lockstep(root, "watch", "production", *WINDOW)
    # 120 requests of 10 tokens each have a quarter of all tokens.
    assert f"cost: {1000 * 168 / 4 * 2 / 120:,.4g} per 1,000 requests (42 device hours)" in done.stdout


def test_requests_to_another_release_are_left_out_and_reported(root: Path) -> None:
    capture(root, lambda said: [each.update(release="0" * 12, status=500) for each in said[:60]])
    done = lockstep(root, "watch", "production", *WINDOW)
    assert "note: 60 requests to another release are left out: 000000000000" in done.stdout
    assert statuses(root)["availability"] == "pass"


def _broken_line(root: Path) -> None:
    path = next((root / layout.CAPTURES / "production").rglob("*.jsonl"))
    path.write_bytes(path.read_bytes() + b'{"time": 1}\n')


def _no_split(root: Path) -> None:
    (root / layout.SPLITS / "train.jsonl").unlink()


def _changed_split(root: Path) -> None:
    path = root / layout.SPLITS / "train.jsonl"
    path.write_text(path.read_text().replace("request", "question"))


def _nothing(root: Path) -> None:
    pass


def _no_captures(root: Path) -> None:
    shutil.rmtree(root / layout.CAPTURES)


def _other_release(root: Path) -> None:
    capture(root, lambda said: [each.update(release="0" * 12) for each in said])


@pytest.mark.parametrize(
    ("change", "arguments", "code", "said"),
    [
        (_nothing, ("nowhere",), 2, "params.yaml: promote.environments has no 'nowhere'; use one of staging, production"),
        (_nothing, ("staging",), 8, "staging: runs no release; `./lockstep promote staging`"),
        (_nothing, ("production", "--from", "2026-03-02"), 8, "--from and --to: one is missing; give both"),
        (_nothing, ("production", "--from", "2026-03-09", "--to", "2026-03-02"), 8, "is not after --from 2026-03-09; swap"),
        (_nothing, ("production", "--from", "March", "--to", "2026-03-02"), 8, "'March': is neither a date nor a time"),
        (_nothing, ("production",), 8, "no request to release .* of production from .*; name the gateway's folder"),
        (_no_captures, ("production", *WINDOW), 8, "no request to release"),
        (_other_release, ("production", *WINDOW), 8, "there are 240 requests to another release are left out: 0000"),
        (_broken_line, ("production", *WINDOW), 8, r"jsonl:\d+: .*; move the file out of the captures"),
        (_no_split, ("production", *WINDOW), 8, "data/splits/train.jsonl of commit .* is not here, and DVC cannot"),
        (_changed_split, ("production", *WINDOW), 8, "data/splits/train.jsonl of commit .* is not here, and DVC cannot"),
        (_nothing, ("production", "--captures", "nosuch://bucket/x"), 9, "nosuch.*; install what reads it"),
    ],
)  # fmt: skip
def test_what_is_refused_is_one_line_with_its_code(
    root: Path, change: Callable[[Path], object], arguments: tuple[str, ...], code: int, said: str
) -> None:
    change(root)
    done = lockstep(root, "watch", *arguments)
    assert (done.exit_code, done.stdout) == (code, ""), done.output
    assert len(done.stderr.splitlines()) == 1
    assert re.search(said, done.stderr), done.stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has no label; write a line"),
        (
            '{"request_id": "a", "label": "vm"}\n{"request_id": "a"}\n',
            r"labels.jsonl:2: label: Field required; write each",
        ),
        ("vm\n", r"labels.jsonl:1: Invalid JSON"),
        ('{"request_id": "../../x y", "label": "vm"}\n', r"labels.jsonl:1: request_id"),
    ],
)
def test_labels_that_are_none_are_refused_and_nothing_is_stored(root: Path, text: str, said: str) -> None:
    (root / "labels.jsonl").write_text(text)
    done = lockstep(root, "feedback", str(root / "labels.jsonl"))
    assert done.exit_code == 8, done.output
    assert re.search(said, done.stderr), done.stderr
    assert not (root / layout.CAPTURES / "feedback").exists()


@pytest.mark.parametrize(
    ("now", "days", "since"),
    [
        (datetime(2026, 3, 11, 15, tzinfo=UTC), 7, SINCE),
        (datetime(2026, 3, 9, tzinfo=UTC), 7, SINCE),
        (datetime(2026, 3, 8, 23, 59, tzinfo=UTC), 7, SINCE - timedelta(days=7)),
        (datetime(2026, 3, 9, 1, tzinfo=UTC), 1, datetime(2026, 3, 8, tzinfo=UTC)),
    ],
)
def test_the_last_whole_window_begins_on_a_monday_and_has_ended(now: datetime, days: int, since: datetime) -> None:
    assert window.last_whole(now, days) == (since, since + timedelta(days=days))


def test_captures_elsewhere_are_read_through_fsspec(root: Path) -> None:
    pytest.importorskip("fsspec")
    moved = root.parent / "elsewhere"
    shutil.move(root / layout.CAPTURES, moved)
    done = lockstep(root, "watch", "production", *WINDOW, "--captures", f"file://{moved}")
    assert done.exit_code == 0, done.output


def test_the_section_is_in_no_policy_and_the_answers_of_a_release_are_those_of_its_own_record(root: Path) -> None:
    plain, other = (as_params(report_tree.document() | {"monitor": each}) for each in ({}, MONITOR))
    assert policy.of(plain, None).digest == policy.of(other, None).digest
    assert policy.changes(policy.of(plain, None), policy.of(other, None)) == ()
    lockstep(root, "watch", "production", *WINDOW)
    report = files.read_json(root / "reports/watch/production.json", WatchReport)
    here = files.read_json(root / layout.EVALUATION, EvaluationReport)
    assert report.reference["data/predictions/candidate.jsonl"] != here.models["candidate"].predictions
    assert len(files.read_jsonl(root / layout.PREDICTIONS / "production.jsonl", Prediction)) == 200


# The pull request


@pytest.fixture
def remote(root: Path) -> Path:
    ledger_tree.identify(root, "Ada")
    ledger_tree.bare(root.parent / "origin.git", root)
    return root.parent / "origin.git"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    with StandIn("team/router") as running:
        for name, value in {"API_URL": running.url, "REPOSITORY": "team/router", "TOKEN": TOKEN}.items():
            monkeypatch.setenv(f"GITHUB_{name}", value)
        yield running


@pytest.mark.parametrize(("hours", "status", "counted"), [(120, "inconclusive", 61), (1, "fail", 100)])
def test_a_label_counts_when_those_of_right_answers_have_come_too(
    root: Path, hours: float, status: str, counted: int
) -> None:
    """Of 160 hours until now, wrong answers were reported after an hour and right ones known after 120, as sales are.

    Three of four answers are right, as before release. With the wrong `monitor.label_hours` a fall is seen that is none.
    """
    set_monitor(root, label_hours=hours)
    now = datetime.now(UTC).replace(second=0, microsecond=0)
    references = {
        row.prompt: row.reference
        for name in layout.SPLIT_NAMES
        for row in files.read_jsonl(root / layout.SPLITS / f"{name}.jsonl", Row)
    }
    given = list[dict[str, str]]()

    def recent(said: list[dict[str, Any]]) -> None:
        for number, each in enumerate(said):
            each["time"] = now - timedelta(hours=160) + timedelta(minutes=40 * number)
            label = references[each["prompt"]]
            came = each["time"] + timedelta(hours=120 if each["answer"] == label else 1)
            given.extend([{"request_id": each["id"], "label": label}] if came <= now else [])

    capture(root, recent)
    (root / "labels.jsonl").write_text("".join(f"{json.dumps(each)}\n" for each in given))
    lockstep(root, "feedback", str(root / "labels.jsonl"))
    times = [f"{time:%Y-%m-%dT%H:%MZ}" for time in (now - timedelta(hours=160), now)]
    done = lockstep(root, "watch", "production", "--from", times[0], "--to", times[1])
    assert done.exit_code in (10, 11), done.output
    report = files.read_json(root / "reports/watch/production.json", WatchReport)
    quality = next(each for each in report.findings if each.name == "quality")
    assert (quality.status, quality.n, report.labelled) == (status, counted, counted)
    waiting = f"{len(given) - counted:,} labels wait: one counts 120 h after its request (monitor.label_hours)"
    assert (waiting in report.notes) is (hours == 120)


BRANCH, QUEUE = "lockstep/watch-production-2026-03-02", "labels/watch/production-2026-03-02.jsonl"


def show(remote: Path, path: str, branch: str = BRANCH) -> str:
    return ledger_tree.git(remote, "show", f"{branch}:{path}")


def test_a_change_opens_one_pull_request_and_the_next_window_is_a_commit_on_it(
    root: Path, remote: Path, server: StandIn
) -> None:
    before = ledger_tree.refs(remote)
    capture(root, _other_prompts)
    done = lockstep(root, "watch", "production", *WINDOW, "--pr", "--rows", "5")
    assert (done.exit_code, done.stderr) == (0, ""), done.output
    assert done.stdout.splitlines()[-1] == "pull request: opened https://github.com/team/router/pull/1"
    after = ledger_tree.refs(remote)
    assert set(after) - set(before) == {f"refs/heads/{BRANCH}"}
    assert before.items() <= after.items()  # nothing else has moved
    (opened,) = server.pulls.values()
    assert (opened["head"]["ref"], opened["base"]["ref"]) == (BRANCH, "main")
    assert opened["title"] == "Watch production 2026-03-02: prompts"
    assert "| prompts |" in opened["body"]
    assert "`data.uri`, `data.sha256`: train and test rows like these requests" in opened["body"]
    changed = ledger_tree.git(remote, "diff", "--name-only", "main", BRANCH).splitlines()
    assert changed == [QUEUE, "reports/watch/production.json", "reports/watch/production.svg"]
    assert show(remote, "reports/watch/production.json") == (root / "reports/watch/production.json").read_text().strip()
    tasks = [json.loads(line) for line in show(remote, QUEUE).splitlines()]
    assert [set(each) for each in tasks] == [{"request_id", "label", "prompt", "answer"}] * 5
    assert all(each["label"] is None for each in tasks)

    # Somebody labels on the branch. The same window again leaves that alone; the next one is another commit.
    clone = ledger_tree.clone(root.parent / "labelling", str(remote), "Bob")
    ledger_tree.git(clone, "switch", "--quiet", BRANCH)
    tasks[0]["label"] = "vm"
    (clone / QUEUE).write_text("".join(f"{json.dumps(each)}\n" for each in tasks))
    theirs = ledger_tree.keep(clone, "one label")
    ledger_tree.git(clone, "push", "--quiet")
    assert "stored 1 labels" in lockstep(root, "feedback", str(clone / QUEUE)).stdout
    again = lockstep(root, "watch", "production", *WINDOW, "--pr", "--rows", "5")
    assert again.stdout.splitlines()[-1] == "pull request: updated https://github.com/team/router/pull/1"
    assert json.loads(show(remote, QUEUE).splitlines()[0])["label"] == "vm"
    later = ("--from", "2026-03-03", "--to", "2026-03-09")
    lockstep(root, "watch", "production", *later, "--pr", "--rows", "5")
    assert list(server.pulls) == [1]
    assert server.pulls[1]["title"] == "Watch production 2026-03-03: prompts"
    assert ledger_tree.git(remote, "merge-base", theirs, BRANCH) == theirs
    assert len(show(remote, "labels/watch/production-2026-03-03.jsonl").splitlines()) == 5
    assert server.refused == []

    # People say no: this window is not proposed again.
    server.pulls[1]["state"] = "closed"
    done = lockstep(root, "watch", "production", *WINDOW, "--pr")
    assert (
        done.stdout.splitlines()[-1]
        == "pull request: none, because people closed https://github.com/team/router/pull/1"
    )
    assert list(server.pulls) == [1]


def test_a_signed_window_is_a_file_of_the_pull_request(root: Path, remote: Path, server: StandIn) -> None:
    key_verbs.new(root, "ada", ("verify",))
    key_verbs.add_signer(root, "ada", ("verify",))
    git(root, "add", str(layout.SIGNERS))
    git(root, "commit", "-m", "signers")
    git(root, "push", "--quiet", "origin", "HEAD:main")
    capture(root, _other_prompts)
    done = lockstep(root, "watch", "production", *WINDOW, "--pr", "--rows", "5")
    assert done.exit_code == 0, done.output
    report = files.read_json(root / "reports/watch/production.json", WatchReport)
    signed = windows.path(report)
    assert show(remote, signed.as_posix()) == (root / signed).read_text()


@pytest.mark.parametrize("edit", [None, _failing, _few], ids=["pass", "a failing service", "too few"])
def test_what_no_training_mends_opens_none(root: Path, remote: Path, server: StandIn, edit: Edit | None) -> None:
    capture(root, edit)
    before = ledger_tree.refs(remote)
    done = lockstep(root, "watch", "production", *WINDOW, "--pr")
    assert (done.exit_code, done.stdout.splitlines()[-1]) == (0, "pull request: none"), done.output
    assert (ledger_tree.refs(remote), server.asked) == (before, [])


def test_without_rows_no_text_of_a_request_leaves_the_captures_and_a_branch_that_is_there_is_taken(
    root: Path, remote: Path, server: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    capture(root, _other_prompts)
    for token, code in ((READ_ONLY, 17), (TOKEN, 0)):  # the first may push, and opens nothing
        monkeypatch.setenv("GITHUB_TOKEN", token)
        assert lockstep(root, "watch", "production", *WINDOW, "--pr", "--rows", "0").exit_code == code
    assert "labels" not in ledger_tree.git(remote, "ls-tree", "--name-only", BRANCH).splitlines()
    assert "feedback" not in server.pulls[1]["body"]


def _no_token(patch: pytest.MonkeyPatch, server: StandIn, root: Path) -> None:
    patch.delenv("GITHUB_TOKEN")


def _read_only(patch: pytest.MonkeyPatch, server: StandIn, root: Path) -> None:
    patch.setenv("GITHUB_TOKEN", READ_ONLY)


def _no_remote(patch: pytest.MonkeyPatch, server: StandIn, root: Path) -> None:
    ledger_tree.git(root, "remote", "remove", "origin")


def _nobody(patch: pytest.MonkeyPatch, server: StandIn, root: Path) -> None:
    ledger_tree.git(root, "config", "--unset", "user.email")


def _gone(patch: pytest.MonkeyPatch, server: StandIn, root: Path) -> None:
    server.pull("lockstep/watch-production-2026-02-02")


def _down(patch: pytest.MonkeyPatch, server: StandIn, root: Path) -> None:
    server.faults.reply = (404, b"{}")


@pytest.mark.parametrize(
    ("fault", "code", "said"),
    [
        (_no_token, 17, "GITHUB_TOKEN: is not set"),
        (_read_only, 17, "POST /repos/team/router/pulls: 403 .*; give GITHUB_TOKEN the permissions contents: write and"),
        (_no_remote, 8, "has no remote origin; git remote add origin URL"),
        (_gone, 17, "lockstep/watch-production-2026-02-02 of origin: there is no such branch; restore it, or close"),
        (_nobody, 15, "git does not know who commits; git config user.name"),
        (_down, 17, "GET /repos/team/router/pulls: 404"),
    ],
)  # fmt: skip
def test_a_pull_request_that_cannot_be_is_one_line(
    root: Path, remote: Path, server: StandIn, monkeypatch: pytest.MonkeyPatch, fault: Any, code: int, said: str
) -> None:
    capture(root, _other_prompts)
    fault(monkeypatch, server, root)
    done = lockstep(root, "watch", "production", *WINDOW, "--pr")
    assert (done.exit_code, len(done.stderr.splitlines())) == (code, 1), done.output
    assert re.search(said, done.stderr), done.stderr
