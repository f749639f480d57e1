"""`lockstep shadow` and `lockstep canary`: real HTTP servers, captures in the gateway's format, a real git repository."""

import itertools
import json
import random
import re
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import requests
from click.testing import CliRunner, Result

from checks.formats.rollout_report import RolloutReport
from checks.scorers.exact_match import ExactMatch
from checks.storage import files, layout
from release.cli import main
from release.monitoring import canary as captured
from release.monitoring import decision_server, rollout
from release.monitoring.shadow import PairFile
from release.monitoring.store import CaptureStore, GivenLabel, Label
from release.verbs import canary as verb
from release.verbs import shadow as shadow_verb
from tests import captured_rows, ledger_tree, report_tree
from tests.gateway_process import running
from tests.http_standin import Handler, StandIn
from tests.pipeline_repository import write_params

pytestmark = pytest.mark.slow

nobodys_configuration = ledger_tree.nobodys_configuration
CANDIDATE = "c0ffee123456"
SORRY = "I'm sorry, but I can't help with that."
LABELS = ["vm", "storage", "network", "acr", "sql"]
Answer = Callable[[int], str | int]
Edit = Callable[[list[dict[str, Any]]], object]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("rollout") / "pr"
    report_tree.pull_request(root)
    write_params(root, report_tree.document() | {"monitor": {"labels": LABELS, "margin": 0.1}})
    return root


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    for name in ("release", "params.yaml", ".git"):
        copy = shutil.copytree if (made / name).is_dir() else shutil.copy
        copy(made / name, tmp_path / name)
    return tmp_path


def production(root: Path) -> str:
    """The release that production runs."""
    found = re.search(
        r"^model: sha256:([0-9a-f]{12})", (root / "release/environments/production/pointer.yaml").read_text()
    )
    assert found
    return found[1]


def label(number: int) -> str:
    return LABELS[number % 5]


class Model(StandIn):
    """Answers prompt number N, "request N", by ``answer``; a number is a status. ``said``: the release in its header."""

    def __init__(self, release: str | None, answer: Answer = label) -> None:
        super().__init__(_Handler)
        self.release, self.answer, self.said = release, answer, release
        self.asked: list[int] = []
        self.dead = False
        # By name, of a server that adds them to its base.
        self.adapters: dict[str, tuple[str, Answer]] = {}
        self.names: list[str] = []  # that were asked


class _Handler(Handler):
    server: Model
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._live()
        if self.server.adapters:
            listed = [
                {"id": name, "root": f"/adapters/a/models/a-{release}/adapter", "parent": "tiny-base"}
                for name, (release, _) in self.server.adapters.items()
            ]
            self.reply(200, {"data": [{"id": "tiny-base", "root": f"/models/tiny-{self.server.release}"}, *listed]})
            return
        known = self.path == "/v1/models" and self.server.release
        self.reply(200, {"data": [{"id": f"/models/tiny-{self.server.release}" if known else "tiny"}]})

    def do_POST(self) -> None:
        body = json.loads(self.body())
        word = body["messages"][-1]["content"].rpartition(" ")[2]
        number = int(word) if word.isdigit() else 1  # a gateway's hello
        self.server.asked.append(number)
        self.server.names.append(body.get("model"))
        _, answers = self.server.adapters.get(body.get("model"), (None, self.server.answer))
        answer = answers(number)
        self._live()
        if isinstance(answer, int):
            self.reply(answer, {"error": {"message": "out of memory of ada@mail.net"}})
            return
        choice = {"index": 0, "message": {"role": "assistant", "content": answer}, "finish_reason": "stop"}
        said = {"Lockstep-Release": self.server.said} if self.server.said else {}
        self.reply(200, {"choices": [choice]}, said)

    def _live(self) -> None:
        if self.server.dead:
            raise ConnectionResetError


def began() -> datetime:
    """When the traffic began: its last request was more than a day ago, so every label paired."""
    return datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=36)


def traffic(root: Path, edit: Edit | None = None, count: int = 600, share: float = 0.25) -> None:
    """``count`` requests in ten hours, each with its own prompt; a ``share`` goes to the candidate."""
    chance = random.Random(7)
    rows: list[dict[str, Any]] = [
        {
            "time": began() + timedelta(hours=10) * number / count, "id": f"r{number}", "prompt": f"request {number}",
            "answer": label(number), "status": 200, "release": CANDIDATE if chance.random() < share else production(root),
        }
        for number in range(count)
    ]  # fmt: skip
    if edit:
        edit(rows)
    captured_rows.write(root / layout.CAPTURES, rows)


def labelled(root: Path, numbers: Iterable[int] = range(600), after: float = 11) -> None:
    """Store labels ``after`` so many hours since the traffic began."""
    given = [Label(request_id=f"r{number}", label=label(number)) for number in numbers]
    CaptureStore(str(root / layout.CAPTURES)).add(given, began() + timedelta(hours=after))


def lockstep(root: Path, *arguments: str) -> Result:
    done = CliRunner().invoke(main, ["-C", str(root), *arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


def shadow(root: Path, ours: str, theirs: str, *more: str) -> Result:
    arguments = ("production", "--production", ours, "--candidate", theirs, "--candidate-release", CANDIDATE, *more)
    return lockstep(root, "shadow", *arguments)


def report(root: Path, kind: str) -> RolloutReport:
    return files.read_json(root / f"reports/rollout/production-{kind}.json", RolloutReport)


def failing(found: RolloutReport) -> set[str]:
    return {each.name for each in found.findings if each.status == "fail"}


def _wrong_half(number: int) -> str:
    return label(number) if number % 2 else label(number + 1)


@pytest.mark.parametrize(
    ("answer", "labels", "code", "fails", "most"),
    [
        (label, False, 0, set[str](), 120),
        (lambda number: label(number) if number % 3 else SORRY, False, 10, {"no refusals"}, 200),
        (lambda number: label(number) if number % 3 else 500, False, 10, {"answered"}, 200),
        (lambda number: label(number) if number % 3 else "a disk", False, 10, {"valid labels"}, 200),
        (_wrong_half, False, 11, set[str](), 60),  # without labels nobody knows which half is wrong
        (_wrong_half, True, 10, {"quality"}, 200),
    ],
)
def test_a_shadow_decides_by_pairs_and_stops_at_the_first_decision(
    root: Path, answer: Answer, labels: bool, code: int, fails: set[str], most: int
) -> None:
    traffic(root)
    if labels:
        labelled(root)
    with Model(production(root)) as ours, Model(CANDIDATE, answer) as theirs:
        done = shadow(root, ours.url, theirs.url, "--most", str(most))
        found = report(root, "shadow")
        assert (done.exit_code, fails <= failing(found)) == (code, True), done.output
        assert found.decision == {0: "keep", 10: "roll back", 11: "go on"}[code]
        assert len(ours.asked) == len(set(ours.asked)) == found.pairs == len(theirs.asked)
        assert (found.pairs == most) is (code == 11)
        assert sorted(ours.asked) == sorted(theirs.asked)
    assert re.search(rf"^\d+ pairs: {found.decision}$", done.stderr, re.MULTILINE) or code == 11
    kept = (root / layout.SHADOW / "production" / f"{production(root)}-{CANDIDATE}.jsonl").read_text()
    assert len(kept.splitlines()) == found.pairs
    assert "ada@mail.net" not in kept
    assert "request" not in (root / "reports/rollout/production-shadow.json").read_text()


@pytest.mark.parametrize("behind_gateway", [False, True])
def test_a_shadow_of_two_adapters_asks_one_server_for_each_by_its_name(root: Path, behind_gateway: bool) -> None:
    """Neither the base that it lists first, nor another project's adapter, nor the canary where it is not asked for."""
    adapter = {"merge": {"form": "adapter"}, "monitor": {"labels": LABELS, "margin": 0.1}}
    serve = {"name": "tiny", "runtime": "vllm", "base": None, "adapter": {"max_rank": 16, "most": 3}}
    written = report_tree.document()
    write_params(root, written | adapter | {"serve": written["serve"] | serve})
    name = f"tiny-{production(root)}"

    def shared(rows: list[dict[str, Any]]) -> None:
        """Half of the requests are for an adapter of another project."""
        for number, row in enumerate(rows):
            row["model"] = ["tiny", "other", "tiny-canary", "tiny-other"][number % 4]

    traffic(root, shared)
    with Model("b" * 12, lambda _: "of the base") as server:
        server.said = None
        server.adapters = {
            "other": ("d" * 12, lambda _: "of another"), "tiny": (production(root), label), name: (production(root), label),
            "tiny-canary": (CANDIDATE, lambda number: label(number) if number % 3 else SORRY),
        }  # fmt: skip
        if behind_gateway:
            with running(server.url, root, "--canary", "tiny=50") as gateway:
                done = shadow(root, gateway.url, gateway.url)
        else:
            done = shadow(root, server.url, server.url)
        found = report(root, "shadow")
        assert (done.exit_code, failing(found)) == (10, {"no refusals", "valid labels"}), done.output
        asked = server.names[-2 * found.pairs :]
        assert sorted(asked) == sorted([name, "tiny-canary"] * found.pairs)
        assert {number % 2 for number in server.asked[-2 * found.pairs :]} == {0}
        del server.adapters["tiny-canary"]
        gone = shadow(root, server.url, server.url)
    assert (gone.exit_code, "is release 'dddddddddddd', and not c0ffee123456" in gone.stderr) == (14, True), gone.output


def test_a_run_that_was_killed_goes_on_and_labels_that_came_meanwhile_count(root: Path) -> None:
    traffic(root, lambda rows: rows.extend(row | {"id": f"again-{row['id']}"} for row in rows[:50]))
    path = root / layout.SHADOW / "production" / f"{production(root)}-{CANDIDATE}.jsonl"
    with Model(production(root)) as ours, Model(CANDIDATE, _wrong_half) as theirs:
        assert shadow(root, ours.url, theirs.url, "--most", "30").exit_code == 11
        before = path.read_bytes()
        path.write_bytes(before + b'{"time": "2026-')
        assert shadow(root, ours.url, theirs.url, "--most", "50").exit_code == 11
        assert path.read_bytes().startswith(before)
        assert len(ours.asked) == len(set(ours.asked)) == 50
        labelled(root)
        done = shadow(root, ours.url, theirs.url, "--most", "50")
        assert (done.exit_code, len(ours.asked)) == (10, 50), done.output
        assert "quality; do not promote it; figures in" in done.stderr
        assert json.loads(shadow(root, ours.url, theirs.url, "--most", "50", "--json").stdout)["labelled"] > 40


def test_two_runs_of_the_same_releases_do_not_write_one_file(root: Path) -> None:
    traffic(root, count=40)
    path = root / layout.SHADOW / "production" / f"{production(root)}-{CANDIDATE}.jsonl"
    with Model(production(root)) as ours, Model(CANDIDATE) as theirs:
        with closing(PairFile(path)):
            done = shadow(root, ours.url, theirs.url)
        assert (done.exit_code, len(ours.asked)) == (9, 0), done.output
        assert "another `./lockstep shadow` of these releases runs; wait until it ends" in done.stderr
        assert shadow(root, ours.url, theirs.url, "--most", "5").exit_code == 11


def _replaced(root: Path, ours: Model, theirs: Model) -> None:
    del root, theirs

    def answer(number: int) -> str:
        ours.said = "b" * 12
        return label(number)

    ours.answer = answer


def _other(root: Path, ours: Model, theirs: Model) -> None:
    theirs.release = production(root)


def _silent(root: Path, ours: Model, theirs: Model) -> None:
    theirs.release = None


def _broken_file(root: Path, ours: Model, theirs: Model) -> None:
    files.write_text(root / layout.SHADOW / "production" / f"{production(root)}-{CANDIDATE}.jsonl", "{}\n")


def _no_chats(root: Path, ours: Model, theirs: Model) -> None:
    traffic(root, lambda rows: [row.update(role="tool") for row in rows], count=20)


def _nothing(root: Path, ours: Model, theirs: Model) -> None:
    pass


@pytest.mark.parametrize(
    ("change", "more", "code", "said"),
    [
        (_replaced, (), 14, "production at http.*: is release 'bbbbbbbbbbbb', and not .*; give the address"),
        (_other, (), 14, "the candidate at http.*: is release '[0-9a-f]{12}', and not c0ffee123456"),
        (_silent, (), 14, "does not say which release it serves; run `./lockstep gateway --release` before it"),
        (_broken_file, (), 8, r"\.jsonl:1: .*; delete the file"),
        (_no_chats, (), 8, r"no chat with production since .* that can be sent again \(20 requests are left out"),
        (_nothing, ("--candidate-release", "main"), 8, "'main': is neither an environment nor the digest of a model"),
        (_nothing, ("--candidate-release", "staging"), 8, "staging: runs no release"),
        (_nothing, ("--candidate-release", "production"), 8, "production: ran no other model before v0.1.0"),
        (
            _nothing,
            ("--candidate", "http://127.0.0.1:9"),
            14,
            "the candidate at http://127.0.0.1:9: .*refused; start it",
        ),
        (_nothing, ("--candidate", "nowhere"), 14, "'nowhere': is not an address of a server"),
    ],
)
def test_what_a_shadow_refuses_is_one_line_with_its_code(
    root: Path, change: Callable[[Path, Model, Model], None], more: tuple[str, ...], code: int, said: str
) -> None:
    traffic(root, count=40)
    with Model(production(root)) as ours, Model(CANDIDATE) as theirs:
        theirs.said = None
        change(root, ours, theirs)
        done = shadow(root, ours.url, theirs.url, *more)
    assert (done.exit_code, done.stdout) == (code, ""), done.output
    assert len(done.stderr.splitlines()) == 1
    assert re.search(said, done.stderr), done.stderr


def test_a_server_that_goes_away_ends_the_run_and_is_not_held_against_the_candidate(root: Path) -> None:
    traffic(root, count=40)
    with Model(production(root)) as ours, Model(CANDIDATE) as theirs:

        def answer(number: int) -> str:
            theirs.dead = len(theirs.asked) >= 6
            return label(number)

        theirs.answer = answer
        done = shadow(root, ours.url, theirs.url)
    assert done.exit_code == 14, done.output
    assert "the candidate at" in done.stderr
    path = root / layout.SHADOW / "production" / f"{production(root)}-{CANDIDATE}.jsonl"
    assert len(path.read_text().splitlines()) == 5


def _candidates(rows: list[dict[str, Any]]) -> Iterator[tuple[int, dict[str, Any]]]:
    return ((number, row) for number, row in enumerate(rows) if row["release"] == CANDIDATE)


def _refusals(rows: list[dict[str, Any]]) -> None:
    for number, row in _candidates(rows):
        row["answer"] = SORRY if number % 3 == 0 else row["answer"]


def _errors(rows: list[dict[str, Any]]) -> None:
    for number, row in _candidates(rows):
        row["status"] = 500 if number % 3 == 0 else 200


def _wrong(rows: list[dict[str, Any]]) -> None:
    for number, row in _candidates(rows):
        row["answer"] = _wrong_half(number)


def _mistakes_of_clients(rows: list[dict[str, Any]]) -> None:
    for number, row in enumerate(rows):
        row["status"] = (422, 499, 200, 200, 200, 200)[number % 6]


def _takes_less_than_production(rows: list[dict[str, Any]]) -> None:
    for number, row in _candidates(rows):
        row["status"] = (400, 499, 200, 200)[number % 4]


def _one_prompt(rows: list[dict[str, Any]]) -> None:
    for number, row in _candidates(rows):
        row |= {"prompt": "request 1", "answer": SORRY, "status": 200 if number % 2 else 500}


def _harder_with_more_weight(rows: list[dict[str, Any]]) -> None:
    """In the last hours every second answer of both is wrong, and most requests go to the candidate."""
    ours = next(row["release"] for row in rows if row["release"] != CANDIDATE)
    for number, row in enumerate(rows):
        if number >= 360:
            row |= {"release": ours if number % 7 == 0 else CANDIDATE, "answer": _wrong_half(number)}


@pytest.mark.parametrize(
    ("edit", "labels", "code", "fails"),
    [
        (None, True, 0, set[str]()),
        (None, False, 11, set[str]()),
        (_refusals, False, 10, {"no refusals"}),
        (_errors, False, 10, {"answered"}),
        (_wrong, True, 10, {"quality"}),
        (_mistakes_of_clients, True, 11, set[str]()),
        (_takes_less_than_production, True, 10, {"answered"}),
        (_one_prompt, False, 11, set[str]()),
        (_harder_with_more_weight, True, 0, set[str]()),
    ],
)
def test_a_canary_decides_by_the_traffic_of_both(
    root: Path, edit: Edit | None, labels: bool, code: int, fails: set[str]
) -> None:
    traffic(root, edit)
    if labels:
        labelled(root)
    done = lockstep(root, "canary", "production", "--candidate-release", CANDIDATE)
    found = report(root, "canary")
    assert (done.exit_code, fails <= failing(found)) == (code, True), done.output
    assert len(done.stderr.splitlines()) == (code != 0)
    assert found.pairs <= 250
    assert (found.labelled > 60) is labels
    again = lockstep(root, "canary", "production", "--candidate-release", f"sha256:{CANDIDATE}{'0' * 52}", "--json")
    assert json.loads(again.stdout) == json.loads((root / "reports/rollout/production-canary.json").read_text())


def test_a_candidate_is_not_kept_before_requests_that_may_hang_have_ended(root: Path) -> None:
    def within_an_hour(rows: list[dict[str, Any]]) -> None:
        for number, row in enumerate(rows):
            row["time"] = rows[0]["time"] + timedelta(seconds=5 * number)

    traffic(root, within_an_hour, share=0.5)
    labelled(root, after=0)
    document = report_tree.document()
    write_params(root, document | {"monitor": {"labels": LABELS, "margin": 0.1, "label_hours": 0.05}})
    for hours, decision in ((0.9, "go on"), (2, "keep")):
        found = verb.canary(root, "production", CANDIDATE, now=began() + timedelta(hours=hours))
        assert ({each.status for each in found.findings}, found.decision) == ({"pass"}, decision)
        assert any("may still run" in note for note in found.notes) is (decision == "go on")


def test_of_an_environment_that_moved_already_the_candidate_is_what_it_runs_now(root: Path) -> None:
    before = production(root)
    traffic(root, _errors)
    ledger_tree.git(root, "worktree", "add", "--quiet", str(root / "main"), "main")
    path = root / "main/release/environments/production/pointer.yaml"
    moved = re.sub(r"(?m)^model: sha256:.*$", f"model: sha256:{CANDIDATE}{'0' * 52}", path.read_text())
    path.write_text(moved.replace("b" * 64, "d" * 64).replace("v0.1.0", "v0.2.0"))
    ledger_tree.keep(root / "main", "promote")
    done = lockstep(root, "canary", "production", "--candidate-release", "production", "--json")
    assert done.exit_code == 10, done.output
    found = json.loads(done.stdout)
    assert (found["production"], found["candidate"], found["runs_in"]) == (before, CANDIDATE, "production")
    assert "`./lockstep rollback production --why …`" in done.stderr
    done = lockstep(root, "canary", "production", "--candidate-release", CANDIDATE)
    assert (done.exit_code, done.stdout) == (8, ""), done.output
    assert f"production runs the candidate {CANDIDATE} already" in done.stderr


def drawn(count: int, share: float, distinct: int) -> list[captured.CanaryRequest]:
    """Requests of each minute, of ``distinct`` prompts, with ids r0, r1, …; a ``share`` goes to the candidate, b."""
    chance, start = random.Random(3), datetime(2026, 3, 2, tzinfo=UTC)
    return [
        captured.CanaryRequest(
            start + timedelta(minutes=n), f"r{n}", "b" if chance.random() < share else "a",
            (n % distinct).to_bytes(4, "big"), f"{n % 7}",
        )
        for n in range(count)
    ]  # fmt: skip


@pytest.mark.parametrize("share", [0.05, 0.3, 0.5, 0.9])
def test_pairs_are_never_taken_back_when_requests_and_labels_come(share: float) -> None:
    requests, chance, wait = drawn(400, share, 390), random.Random(5), timedelta(hours=2)
    came = {
        request.id: request.time + timedelta(minutes=chance.randrange(150))
        for request in requests
        if chance.random() < 0.8
    }
    scored, pairs = list[list[rollout.Pair]](), list[list[rollout.Pair]]()
    for minutes in range(0, 620, 7):
        now = requests[0].time + timedelta(minutes=minutes)
        known = {name: GivenLabel("3", stored) for name, stored in came.items() if stored <= now}
        arrived = [request for request in requests if request.time <= now]
        paired = captured.pair(arrived, known, "b", ExactMatch(kind="exact-match"), wait, now)
        scored.append(paired.scored)
        pairs.append(paired.pairs)
        assert paired.used + paired.waiting + paired.late + paired.alone <= len(known)
        assert paired.used == sum(len(side) for both in paired.scored for side in both)
    for growing in (pairs, scored):
        assert all(later[: len(early)] == early for early, later in itertools.pairwise(growing))
        assert len(growing[-1]) >= 10
    every = sum(len(side) for both in pairs[-1] for side in both)
    assert every > 200, "all requests of a batch are used, not one for each of the candidate's"


@pytest.mark.parametrize("share", [0.1, 0.5, 0.8])
def test_a_pair_has_one_request_of_the_smaller_release_and_an_equal_part_of_the_other(share: float) -> None:
    requests = drawn(2000, share, 2000)
    paired = captured.pair(
        requests, {}, "b", ExactMatch(kind="exact-match"), timedelta(hours=1), requests[-1].time + timedelta(hours=1)
    )
    ours, theirs = (sum(len(both[side]) for both in paired.pairs) for side in (0, 1))
    assert ours + theirs > 1900
    assert all(min(len(both.production), len(both.candidate)) == 1 for both in paired.pairs)
    assert len(paired.pairs) > 0.8 * min(ours, theirs)


@pytest.mark.parametrize(("wrong", "right"), [(0.5, 2.0), (2.0, 0.5), (0.1, 15.0)])
@pytest.mark.parametrize(("loss", "decision"), [(0.0, "keep"), (0.4, "roll back")])
def test_how_soon_labels_come_for_right_and_for_wrong_answers_decides_nothing(
    root: Path, wrong: float, right: float, loss: float, decision: str
) -> None:
    """Production is right in 85 %, and gets nine of ten requests. Labels come in an order that tells nothing."""
    chance, late = random.Random(1), dict[int, float]()

    def answers(rows: list[dict[str, Any]]) -> None:
        for number, row in enumerate(rows):
            share = 0.85 - loss * (row["release"] == CANDIDATE)
            is_right = chance.random() < share
            row["answer"] = label(number) if is_right else label(number + 1)
            late[number] = 10 * number / len(rows) + (right if is_right else wrong) * (0.5 + chance.random())

    traffic(root, answers, count=3000, share=0.1)
    for half_hour in range(70):
        labelled(root, [n for n, hours in late.items() if half_hour <= 2 * hours < half_hour + 1], half_hour / 2)
    report = verb.canary(root, "production", CANDIDATE, now=began() + timedelta(hours=36))
    quality = next(finding for finding in report.findings if finding.name == "quality")
    assert quality.production == pytest.approx(0.85, abs=0.04), "the mean of production is that of all its answers"
    assert quality.candidate == pytest.approx(0.85 - loss, abs=0.08)
    assert report.decision in (decision, "go on")
    assert quality.status == {"keep": "pass", "roll back": "fail"}[decision] or (loss, quality.status) == (
        0,
        "inconclusive",
    )


@pytest.mark.parametrize(
    ("after", "hours", "said"),
    [
        (11, 25, r"labels wait: one counts 24 h after its request \(monitor\.label_hours\)"),
        (35, 71, r"labels are left out: they came more than 24 h after their requests.* raise monitor\.label_hours"),
    ],
)
def test_labels_that_do_not_count_yet_or_came_too_late_are_told(
    root: Path, after: float, hours: float, said: str
) -> None:
    traffic(root)
    labelled(root, after=after)
    report = verb.canary(root, "production", CANDIDATE, now=began() + timedelta(hours=hours))
    assert any(re.search(said, note) for note in report.notes), report.notes
    assert report.decision == "go on"


def test_that_few_labels_are_used_is_told(root: Path) -> None:
    traffic(root, count=100, share=0.05)
    labelled(root, range(100))
    report = verb.canary(root, "production", CANDIDATE)
    assert any(re.search(r"few labels are used: \d+ of \d+\. .* label more requests", note) for note in report.notes), (
        report
    )


def test_a_file_of_labels_that_does_not_say_when_it_was_stored_is_refused(root: Path) -> None:
    traffic(root, count=20)
    files.write_text(root / layout.CAPTURES / "feedback/mine.jsonl", '{"request_id": "r1", "label": "vm"}\n')
    done = lockstep(root, "canary", "production", "--candidate-release", CANDIDATE)
    assert (done.exit_code, done.stdout, len(done.stderr.splitlines())) == (8, "", 1), done.output
    assert re.search("mine.jsonl: its name does not begin with the time .*`./lockstep feedback FILE`", done.stderr)


def test_a_shadow_counts_no_label_before_its_time(root: Path) -> None:
    """Labels came for production's wrong answers alone, the others come later: nothing is known about quality yet."""
    traffic(root, count=200)
    labelled(root, range(200), after=0.5)
    with Model(production(root), _wrong_half) as ours, Model(CANDIDATE, _wrong_half) as theirs:
        arguments = (root, "production", ours.url, theirs.url, CANDIDATE, 40)
        early = shadow_verb.shadow(*arguments, now=began() + timedelta(hours=11))
        assert (early.labelled, early.decision) == (0, "go on")
        assert shadow_verb.shadow(*arguments, now=began() + timedelta(hours=35)).labelled > 20


def test_common_prompts_are_no_disadvantage_of_the_release_with_less_traffic() -> None:
    """Half of the traffic is 200 prompts that neither answers. Production gets nine of ten, and so all of them sooner."""
    chance, start = random.Random(11), datetime(2026, 3, 2, tzinfo=UTC)
    requests = []
    for number in range(6000):
        hard = chance.random() < 0.5
        prompt = (chance.randrange(200) if hard else 1000 + number).to_bytes(4, "big")
        release = "b" if chance.random() < 0.1 else "a"
        answer = None if hard else "vm"
        requests.append(
            captured.CanaryRequest(start + timedelta(seconds=14 * number), f"r{number}", release, prompt, answer)
        )
    now = requests[-1].time + timedelta(hours=1)
    pairs = captured.pair(requests, {}, "b", ExactMatch(kind="exact-match"), timedelta(hours=1), now).pairs
    unanswered = [
        sum(fmean(side.answer is None for side in sides) for sides in both) for both in zip(*pairs, strict=True)
    ]
    assert len(pairs) > 250
    assert abs(unanswered[0] - unanswered[1]) < 0.04 * len(pairs)


def test_the_first_label_of_a_request_counts_and_the_order_of_labels_is_that_of_their_storing(tmp_path: Path) -> None:
    store = CaptureStore(str(tmp_path))
    first = [Label(request_id=name, label="vm") for name in "zq"]
    for labels in (first, [Label(request_id=name, label="sql") for name in "aq"], first):
        store.add(labels)
    assert [(name, given.label) for name, given in store.first_labels().items()] == [
        ("z", "vm"),
        ("q", "vm"),
        ("a", "sql"),
    ]
    assert len(list((tmp_path / "feedback").iterdir())) == 2


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("production",), 8, "staging: runs no release"),
        (("staging", "--candidate-release", "production"), 8, "staging: runs no release"),
        (("nowhere",), 2, "promote.environments has no 'nowhere'"),
        (("production", "--candidate-release", "a" * 12), 8, "no request to the candidate aaaaaaaaaaaa of production"),
        (
            ("production", "--candidate-release", CANDIDATE, "--from", "March"),
            8,
            "'March': is neither a date nor a time",
        ),
        (("production", "--candidate-release", CANDIDATE, "--serve", "8099"), 14, "--serve 8099; write it as"),
        (
            ("production", "--candidate-release", CANDIDATE, "--rollback"),
            15,
            f"no environment is known that runs {CANDIDATE}",
        ),
        (("production", "--serve", "127.0.0.1:8099", "--rollback"), 14, "a server only answers; run the command again"),
    ],
)
def test_what_a_canary_refuses_is_one_line_with_its_code(
    root: Path, arguments: tuple[str, ...], code: int, said: str
) -> None:
    traffic(root, count=20)
    done = lockstep(root, "canary", *arguments)
    assert (done.exit_code, done.stdout, len(done.stderr.splitlines())) == (code, "", 1), done.output
    assert re.search(said, done.stderr), done.stderr


def test_the_decision_over_http_is_computed_anew_at_each_question(root: Path) -> None:
    traffic(root, count=200)
    with decision_server.server("127.0.0.1", 0, lambda: verb.canary(root, "production", CANDIDATE)) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        asked = [requests.get(f"{url}/decision", timeout=30).json()["decision"]]
        traffic(root, _errors)
        model = {"candidate": f"sha256:{CANDIDATE}{'0' * 52}"}
        asked.append(requests.get(f"{url}/decision", params=model, timeout=30).json()["decision"])
        another = requests.get(f"{url}/decision", params={"candidate": f"sha256:{'0' * 64}"}, timeout=30)
        assert (another.status_code, another.text) == (503, f"the candidate in this clone is {CANDIDATE}: pull it\n")
        shutil.rmtree(root / layout.CAPTURES)
        refused = requests.get(f"{url}/decision", timeout=30)
        assert (asked, refused.status_code) == (["go on", "roll back"], 503)
        assert "no request to the candidate" in refused.text
        assert requests.get(url, timeout=30).status_code == 404
        server.shutdown()


def test_two_real_gateways_capture_what_a_canary_reads(root: Path) -> None:
    options = ("--environment", "production", "--captures", str(root / layout.CAPTURES))
    (root / "a").mkdir()
    (root / "b").mkdir()
    with (
        Model(production(root)) as ours,
        Model(CANDIDATE, lambda number: label(number) if number % 2 else 500) as theirs,
        running(ours.url, root / "a", *options) as one,
        running(theirs.url, root / "b", *options) as two,
    ):
        for number in range(60):
            for gateway, first in ((one, 0), (two, 100)):
                body = {"messages": [{"role": "user", "content": f"request {first + number}"}]}
                requests.post(f"{gateway.url}/v1/chat/completions", json=body, timeout=30)
        done = shadow(root, one.url, two.url, "--most", "1")
        assert done.exit_code == 11, done.output
        assert one.stop() == two.stop() == 0
    kept = "".join(path.read_text() for path in (root / layout.CAPTURES / "production").rglob("*.jsonl"))
    assert (len(kept.splitlines()), "lockstep-shadow" in kept) == (120, False)  # a shadow's requests are no traffic
    done = lockstep(root, "canary", "production", "--candidate-release", CANDIDATE)
    assert done.exit_code == 10, done.output
    assert "answered" in done.stderr
