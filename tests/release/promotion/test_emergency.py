"""Exceptions: two people let a release run for some hours although a gate does not pass, and nobody else can."""

import base64
import json
import tempfile
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from click.testing import CliRunner

from checks.config import params_file
from checks.formats.captures import Capture, InputMessage, OutputMessage, Part
from checks.formats.statement import GATE_EXCEPTION, PAYLOAD, Excepted, Release
from checks.process.errors import Contradicted, EvidenceRefused, PromotionRefused, Refusal, VerdictFailed
from checks.storage import layout
from checks.storage.digest import canonical_json
from release.adapters.registry import reference
from release.cards import audit_pack
from release.cli import main
from release.evidence import dsse, keys, statement
from release.promotion import context, emergency, environment
from release.promotion.admission.admitted import admitted
from release.promotion.bad_night import BadNight
from release.promotion.environment import Promotion
from release.verbs import history, reconcile, status
from release.verbs.build import BuildOptions, build
from release.verbs.page import page
from release.verbs.quarantine import free
from release.verbs.report import report
from release.verbs.rollback import rollback
from tests import build_tree, evidence_tree, ledger_tree
from tests import promotion_tree as tree
from tests.ledger_tree import git, keep, refs
from tests.once import once
from tests.promotion_tree import gaps, move
from tests.release.serving.test_verify_evidence import probed

pytestmark = pytest.mark.slow

alone = tree.alone
WHY = "the old release leaks a customer's name"
POLICY = {"gates": ["routes_well"], "hours": 72}
_PAIRED = ("improves", "non_inferior", "slice", "remembers")


def _edit(plain: dict[str, Any]) -> None:
    for name in ("staging", "production"):
        plain["promote"]["environments"][name]["emergency"] = dict(POLICY)
    plain["gates"] = {name: gate for name, gate in plain["gates"].items() if gate["kind"] not in _PAIRED}
    plain["gates"]["routes_well"] |= {"at_least": 0.6}


def recorded(root: Path, right: int) -> None:
    """Commit a model that answers ``right`` of 40 rows rightly: fewer than 30 do not pass."""
    build_tree.weigh(root, build_tree.shards(seed=50 + right))
    params = params_file.load(root / layout.PARAMS)
    rows = evidence_tree.rows("test", 40)
    evidence_tree.evaluated(root, params, [evidence_tree.predict(row, i < right) for i, row in enumerate(rows)])
    evidence_tree.judged(root, params)
    probed(root, params)
    keep(root, f"{right} of 40 are right")


def released(root: Path, right: int) -> None:
    """The same, merged and released."""
    pull(root)
    recorded(root, right)
    git(root, "push", "--quiet", "origin", "main")
    tree.release(root)


def _make(folder: Path) -> None:
    """A clone with a bare remote: v0.1.0 passes and runs everywhere; a worse model is signed and fails one gate."""
    root = folder / "work"
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        tree.leave_alone(patch)
        tree.make(root, _edit)
        move(root, "staging")
        move(root, "production")
        recorded(root, 20)
        tree.release(root)
    ledger_tree.packed(root)
    ledger_tree.bare(folder / "origin.git", root)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return once(tmp_path_factory, "night", _make)


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    return tree.copy(made, tmp_path / "night") / "work"


def ask(root: Path, by: str, environment: str = "staging", why: str | None = WHY, **options: Any) -> Any:
    return move(root, environment, emergency=True, key=tree.key(root, by), why=why, **options)


def refused(root: Path, by: str, environment: str = "staging", why: str | None = WHY, **options: Any) -> str:
    return gaps(root, environment, emergency=True, key=tree.key(root, by), why=why, **options)


def signed(root: Path, environment: str = "staging") -> None:
    """Let ada and bob move the environment."""
    assert "has 1 of 2 signatures" in refused(root, "ada", environment)
    assert ask(root, "bob", environment, why=None).done == "moved"


@pytest.fixture
def excepted(made: Path, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Path:
    """The same, once two people have moved staging to the worse model."""
    moved = once(tmp_path_factory, "excepted-night", lambda folder: signed(tree.copy(made, folder) / "work"))
    return tree.copy(moved, tmp_path / "night") / "work"


def later(monkeypatch: pytest.MonkeyPatch, hours: float) -> None:
    class Clock(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override] # of the class that it replaces
            return datetime.now(tz) + timedelta(hours=hours)

    monkeypatch.setattr(emergency, "datetime", Clock)


def pull(root: Path) -> None:
    git(root, "pull", "--quiet", "--no-rebase", "--no-edit", "origin", "main")


def push(root: Path) -> None:
    keep(root, "by hand")
    git(root, "push", "--quiet", "origin", "main")


def change(root: Path, edit: tree.Edit) -> None:
    pull(root)
    tree.rewrite(root, layout.PARAMS, edit)
    push(root)


def test_two_people_move_a_release_whose_gate_does_not_pass_and_everybody_is_told(root: Path) -> None:
    with pytest.raises(Refusal) as plain:
        move(root, "staging")
    assert "verdict fail: routes_well" in str(plain.value)
    before = git(root, "rev-parse", "origin/main")
    lines = refused(root, "ada")
    assert "no exception holds: the exception of ada has 1 of 2 signatures" in lines
    assert "lockstep promote staging --emergency --key FILE" in lines
    there = context.find(root)
    runs = there.runs("staging")
    assert runs is not None
    assert runs.version == "v0.1.0"
    assert git(root, "rev-list", "--count", f"{before}..{there.tip}") == "1"
    done = ask(root, "bob", why=None)
    assert (done.done, done.after.version) == ("moved", "v0.2.0")
    (last, *_) = history.history(root, "staging").environments["staging"]
    assert last.kind == "promote"
    assert last.why.startswith("EMERGENCY until 2")
    assert last.why.endswith(f"routes_well not passed, signed by ada, bob: {WHY}")
    seen = status.status(root)
    state = seen.environments[0]
    assert state.exemption is not None
    assert (state.exemption.gates, state.exemption.signers) == (("routes_well",), ("ada", "bob"))
    assert state.exemption.expires - state.exemption.issued == timedelta(hours=72)
    assert (state.advice.mark, state.advice.headline) == ("🚫", "v0.2.0 runs on an exception")
    assert status.refusal(seen) is None
    assert seen.environments[1].exemption is None


# Who signed what


class Forged(NamedTuple):
    """A signed release, and what an exception for it says."""

    release: Release
    stated: dict[str, Any]


def honest(root: Path) -> Forged:
    """An exception that holds, before anybody signs it."""
    plain = tree.unsigned(root)["predicate"]
    release = Release.model_validate_json(json.dumps(plain))
    issued = datetime.now(UTC).replace(microsecond=0)
    return Forged(release, {
        "environment": "staging", "verdict": release.materials.verdict, "gates": ("routes_well",), "why": WHY,
        "issued": issued, "expires": issued + timedelta(hours=72),
    })  # fmt: skip


def put(root: Path, payload: bytes, image: str, by: tuple[str, ...] = ("ada", "bob"), at: str = "staging") -> None:
    """Push files that say that these people signed ``payload``."""
    pull(root)
    folder = root / environment.emergency_folder(at, image)
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(by):
        (folder / f"{number}.json").write_bytes(dsse.sign(payload, PAYLOAD, keys.load(tree.key(root, name))))
    push(root)


def found(root: Path, release: Release) -> emergency.Exemption:
    """The exception that a promotion of staging would find."""
    there = context.find(root)
    image = reference.parse(f"oci:{layout.IMAGE}@{release.image.image}")
    promotion = Promotion(there, "staging", image, None, None, "minor", emergency=True)
    promotion.present = environment.look(there, "staging")
    return emergency.find(promotion, release)


def why_not(root: Path, release: Release) -> str:
    with pytest.raises(EvidenceRefused) as none:
        found(root, release)
    return "\n".join([str(none.value), *none.value.others])


def _hours(number: float) -> timedelta:
    return timedelta(hours=number)


def test_an_exception_counts_only_as_two_people_signed_it_for_this_release(root: Path) -> None:
    release, stated = honest(root)
    now = stated["issued"]
    image, model, other = release.image.image, release.image.model, "sha256:" + "7" * 64
    cases: list[tuple[dict[str, Any], tuple[str, ...], str, str, str]] = [
        ({}, ("ada", "ada"), image, model, "has 1 of 2 signatures"),
        ({}, ("ada", "mallory"), image, model, "has 1 of 2 signatures"),
        ({"issued": now - _hours(80), "expires": now - _hours(8)}, ("ada", "bob"), image, model, "expired on"),
        ({"issued": now + _hours(1), "expires": now + _hours(9)}, ("ada", "bob"), image, model, "is in the future"),
        ({"expires": now + _hours(73)}, ("ada", "bob"), image, model, "is for longer than 72 hours"),
        ({"verdict": other}, ("ada", "bob"), image, model, "is about another verdict"),
        ({}, ("ada", "bob"), image, other, "is about another model"),
        ({}, ("ada", "bob"), other, model, "is about another image"),
        ({"environment": "production"}, ("ada", "bob"), image, model, "is for 'production', not 'staging'"),
        ({"gates": ("routes_well", "test_is_unseen")}, ("ada", "bob"), image, model,
         "names test_is_unseen, which the policy does not allow"),
    ]  # fmt: skip
    for change, by, of_image, of_model, reason in cases:
        payload = statement.except_gates(of_image, of_model, Excepted(**stated | change))
        put(root, payload, image, by)
        assert reason in why_not(root, release)
    assert {path for path in context.find(root).ledger.files(git(root, "rev-parse", "HEAD"), layout.ENVIRONMENTS)
            if layout.EMERGENCY in path.parts}  # fmt: skip
    put(root, statement.approve("staging", image, WHY), image)
    assert "predicateType is 'urn:lockstep:approval:v1'" in why_not(root, release)
    put(root, statement.except_gates(image, model, Excepted(**stated)), image)
    assert found(root, release).signers == ("ada", "bob")


def test_a_reason_is_one_line_that_shows_all_that_is_in_it(root: Path) -> None:
    tip = context.find(root).tip
    bad = (
        "",
        " ",
        "one\ntwo",
        "ok \u202e drowssap",
        "zero\u200bwidth",
        "line\u2028line",
        "\x1b[2Jgone",
        "a" * 501,
        "a  b",
    )
    for why in bad:
        lines = refused(root, "ada", why=why)
        assert "the exception: " in lines
        assert "why" in lines
        assert not {"\u202e", "\x1b", "\u200b"} & set(lines)
    assert context.find(root).tip == tip
    release, stated = honest(root)
    plain = json.loads(statement.except_gates(release.image.image, release.image.model, Excepted(**stated)))
    for why in ("ok \u202e drowssap", "one\ntwo"):
        plain["predicate"]["why"] = why
        put(root, canonical_json(plain), release.image.image)
        lines = why_not(root, release)
        assert "why: is not one line without invisible characters" in lines
        assert "\u202e" not in lines


def test_whoever_signs_second_signs_the_words_of_the_first(root: Path) -> None:
    assert "an exception without a reason" in refused(root, "ada", why=None)
    refused(root, "ada")
    tip = context.find(root).tip
    assert f"ada signed an exception for another reason: {WHY}" in refused(root, "bob", why="because")
    assert "this key is not in" in refused(root, "mallory", why=None)
    assert "has 1 of 2 signatures" in refused(root, "ada", why=None)
    assert context.find(root).tip == tip
    refused(root, "ada", why="another reason")
    assert ask(root, "cara", why="another reason").done == "moved"


def test_of_two_people_who_began_at_once_one_signs_the_words_of_the_other(root: Path) -> None:
    release, stated = honest(root)
    refused(root, "ada")
    payload = statement.except_gates(release.image.image, release.image.model, Excepted(**stated | {"why": "because"}))
    put(root, payload, release.image.image, ("bob",))
    assert "has 1 of 2 signatures" in why_not(root, release)
    done = ask(root, "ada", why=None)
    assert done.done == "moved"
    (last, *_) = history.history(root, "staging").environments["staging"]
    assert last.why.endswith("signed by ada, bob: because")


# What the policy allows


def test_without_a_policy_on_the_target_branch_nothing_is_built_and_nothing_excepted(root: Path) -> None:
    change(root, lambda plain: [each.update(emergency=None) for each in plain["promote"]["environments"].values()])
    evidence_tree.recorded(root)
    push(root)
    with pytest.raises(VerdictFailed, match="verdict fail: routes_well"):
        build(root, BuildOptions())
    tip = context.find(root).tip
    assert "allows no exception" in refused(root, "ada")
    assert context.find(root).tip == tip


def test_a_policy_that_came_with_the_record_does_not_count_for_it(root: Path) -> None:
    change(root, lambda plain: [each.update(emergency=None) for each in plain["promote"]["environments"].values()])
    git(root, "switch", "--quiet", "--create", "proposal")
    tree.rewrite(
        root, layout.PARAMS,
        lambda plain: [each.update(emergency=POLICY) for each in plain["promote"]["environments"].values()],
    )  # fmt: skip
    recorded(root, 18)
    git(root, "switch", "--quiet", "main")
    git(root, "merge", "--quiet", "--no-ff", "-m", "merge the proposal", "proposal")
    git(root, "push", "--quiet", "origin", "main")
    tree.release(root)
    tip = context.find(root).tip
    lines = refused(root, "ada")
    assert "gate routes_well is not among the gates that may be excepted" in lines
    assert "counts for records that were merged after it" in lines
    assert context.find(root).tip == tip


def test_a_release_that_passes_needs_no_exception_and_takes_none(root: Path) -> None:
    released(root, 36)
    assert "the verdict is pass, so no exception is needed" in refused(root, "ada")
    assert move(root, "staging").done == "moved"


# The end of an exception


def test_an_exception_that_expired_is_a_contradiction_until_another_release_heals_it(
    excepted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert status.refusal(status.status(excepted)) is None
    later(monkeypatch, 73)
    seen = status.status(excepted)
    end = status.refusal(seen)
    assert isinstance(end, Contradicted)
    assert "staging: staging: verdict: runs v0.2.0 on an exception that expired on" in str(end)
    assert "lockstep rollback staging --why …" in seen.environments[0].advice.todo
    left = reconcile.reconcile(excepted).left
    assert any(finding.what == "staging: verdict" and "expired on" in finding.mirror for finding in left)
    there = context.find(excepted)
    with pytest.raises(PromotionRefused, match=r"staging runs v0\.2\.0 on an exception that expired on"):
        admitted(there, "staging")
    assert "staging runs v0.2.0 on an exception that expired on" in gaps(excepted, "staging")
    released(excepted, 18)
    assert "so its next promotion must pass every gate" in refused(excepted, "ada")
    released(excepted, 36)
    assert move(excepted, "staging").done == "moved"
    assert status.refusal(status.status(excepted)) is None


def test_a_rollback_is_one_commit_and_an_exception_counts_for_one_move(excepted: Path) -> None:
    release, _ = honest(excepted)
    there = context.find(excepted)
    files = dict(there.ledger.files(there.tip, environment.emergency_folder("staging", release.image.image)))
    assert len(files) == 2
    back = rollback(excepted, "staging", why="worse indeed")
    assert (back.done, back.after and back.after.version) == ("moved", "v0.1.0")
    after = context.find(excepted)
    assert git(excepted, "rev-list", "--count", f"{there.tip}..{after.tip}") == "1"
    assert not after.ledger.files(after.tip, environment.emergency_folder("staging", release.image.image))
    assert status.refusal(status.status(excepted)) is None
    free(after, "v0.2.0", "once more")
    pull(excepted)
    for path, data in files.items():
        (excepted / path).parent.mkdir(parents=True, exist_ok=True)
        (excepted / path).write_bytes(data)
    push(excepted)
    assert "was used up by an earlier move" in why_not(excepted, release)


def test_a_release_that_fails_contradicts_git_once_its_exception_is_taken_away(excepted: Path) -> None:
    release, _ = honest(excepted)
    pull(excepted)
    for path in (excepted / environment.emergency_folder("staging", release.image.image)).iterdir():
        path.unlink()
    push(excepted)
    end = status.refusal(status.status(excepted))
    assert "runs v0.2.0, whose verdict is not pass, and no exception holds: there is none" in str(end)


def test_each_environment_needs_an_exception_of_its_own(excepted: Path) -> None:
    assert "verdict fail: routes_well" in gaps(excepted, "production")
    signed(excepted, "production")
    seen = status.status(excepted)
    assert [state.exemption is not None for state in seen.environments] == [True, True]


def test_the_release_page_and_the_comment_say_that_it_runs_on_an_exception(excepted: Path, tmp_path: Path) -> None:
    pull(excepted)
    page(excepted, tmp_path / "pages")
    for name in ("v0.2.0.html", "index.html"):
        assert "🚨 staging: EMERGENCY until " in (tmp_path / "pages" / name).read_text()
    assert "🚨" not in (tmp_path / "pages" / "v0.1.0.html").read_text()
    line = "🚨 **Emergency:** `staging` runs `v0.2.0`, whose verdict is `fail`"
    assert line in report(excepted).markdown


def test_the_audit_pack_has_the_exception_as_each_person_signed_it(
    excepted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pull(excepted)
    monkeypatch.setattr(audit_pack, "_add_record", lambda *_: None)  # Nobody wrote this release a card.
    index, packed = audit_pack.collect(excepted, "staging")
    statements = {stated.path: stated for stated in index.statements if stated.predicate_type == GATE_EXCEPTION}
    assert {stated.signer for stated in statements.values()} == {"ada", "bob"}
    for path in statements:
        payload = json.loads(base64.b64decode(json.loads(packed[path])["payload"]))
        assert (payload["predicate"]["why"], payload["predicate"]["gates"]) == (WHY, ["routes_well"])
    (answer,) = (answer for answer in index.answers if answer.source == "ISO 42001, A.6.2.5")
    assert set(statements) < set(answer.files)
    assert not [left for left in index.left_out if "approvals" in left.what]


def test_watch_ends_with_the_contradiction_once_the_exception_expired(
    excepted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pull(excepted)
    runs = context.find(excepted).runs("staging")
    assert runs is not None
    hour = datetime(2026, 3, 2, 10, tzinfo=UTC)
    asked = InputMessage(role="user", parts=(Part(type="text", content="request ü"),))
    answered = OutputMessage(role="assistant", parts=(Part(type="text", content="vm"),), finish_reason="stop")
    captured = Capture(
        time=hour, operation="chat", status=200, request_id="1", release=runs.model[7:19], input_messages=(asked,),
        output_messages=(answered,), error=None, environment="staging", seconds=0.1, redactions={}, sampled_share=1.0,
        user_key=None,
    )  # fmt: skip
    folder = excepted / layout.CAPTURES / "staging" / f"{hour:%Y-%m-%d}"
    folder.mkdir(parents=True)
    (folder / "10-a-1.jsonl").write_text(f"{captured.model_dump_json()}\n")
    command = ["-C", str(excepted), "watch", "staging", "--from", "2026-03-02", "--to", "2026-03-03"]
    before = CliRunner().invoke(main, command)
    assert (before.exit_code, "note: EMERGENCY until " in before.output) == (11, True), before.output
    later(monkeypatch, 73)
    after = CliRunner().invoke(main, command)
    assert (after.exit_code, "staging runs v0.2.0 on an exception that expired on" in after.stderr) == (19, True)


# The command


def test_the_command_signs_moves_and_says_so(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    run = CliRunner()
    wrong = run.invoke(main, ["promote", "staging", "--key", "x"])
    assert (wrong.exit_code, "add --emergency" in wrong.output) == (2, True)
    key = str(tree.key(root, "ada"))
    planned = run.invoke(main, ["promote", "staging", "--emergency", "--dry-run", "--why", WHY])
    assert (planned.exit_code, "no exception holds: nobody signed one" in planned.output) == (15, True)
    first = run.invoke(main, ["promote", "staging", "--emergency", "--why", WHY, "--key", key])
    assert (first.exit_code, "has 1 of 2 signatures" in first.output) == (15, True)
    done = run.invoke(main, ["promote", "staging", "--emergency", "--key", str(tree.key(root, "bob")), "--json"])
    assert done.exit_code == 0
    notes = {check["about"]: check["note"] for check in json.loads(done.stdout)["checks"]}
    assert notes["emergency"].startswith("EMERGENCY until ")
    told = run.invoke(main, ["status"])
    assert (told.exit_code, "✗ EMERGENCY until " in told.output) == (0, True)
    assert "EMERGENCY until " in run.invoke(main, ["history", "staging"]).output


# The drill


def test_a_drill_rehearses_the_exception_its_end_what_heals_it_and_the_rollback_and_changes_nothing(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    before = (refs(root), refs(root.parent / "origin.git"), git(root, "status", "--porcelain"))
    done = CliRunner().invoke(main, ["-C", str(root), "drill", "production", "--emergency", "--json"])
    assert done.exit_code == 0, done.output
    night = BadNight.model_validate_json(done.stdout)
    assert (night.gate, night.before.version) == ("routes_well", "v0.1.0")
    answers = {step.what: step.answer for step in night.steps}
    ended = "production runs v0.1.1 on an exception that expired on "
    for (what, answer), start in zip(answers.items(), (
        "production is not moved: no exception holds: the exception of drill-1 has 1 of 2 signatures",
        "production runs v0.1.1", "EMERGENCY until ", "EMERGENCY until ", ended, ended,
        "production is not moved: verdict fail: routes_well", "production runs v0.1.0", "production runs v0.1.0",
    ), strict=True):  # fmt: skip
        assert answer.startswith(start), what
    shown = answers["`history` shows it"]
    assert shown == answers["`status` and `watch` show it"]
    assert shown.endswith("routes_well not passed, signed by drill-1, drill-2: a drill of an emergency")
    assert answers["a second exception is refused"].endswith("so its next promotion must pass every gate")
    assert {"image", "weights", "layers", "approvals"} < set(night.unchecked)
    assert not {"emergency", "record", "quarantine"} & set(night.unchecked)
    assert (refs(root), refs(root.parent / "origin.git"), git(root, "status", "--porcelain")) == before
    assert not [*(tmp_path / "temporary").iterdir()]


def test_a_drill_says_what_to_write_where_the_policy_allows_no_exception(excepted: Path) -> None:
    both = CliRunner().invoke(main, ["-C", str(excepted), "drill", "staging", "--emergency", "--incident"])
    assert (both.exit_code, "--incident and --emergency are two drills" in both.output) == (2, True)
    itself = CliRunner().invoke(main, ["-C", str(excepted), "drill", "staging", "--emergency"])
    assert (itself.exit_code, "rehearse once a release that passes runs there" in itself.stderr) == (8, True)
    change(excepted, lambda plain: plain["promote"]["environments"]["staging"].update(emergency=None))
    none = CliRunner().invoke(main, ["-C", str(excepted), "drill", "staging", "--emergency"])
    assert (none.exit_code, len(none.stderr.splitlines())) == (15, 1)
    assert "staging: params.yaml of main allows no exception; " in none.stderr
    assert "let code owners merge promote.environments.staging.emergency: {gates: [NAME], hours: 72}" in none.stderr
    assert "with gates of kind improves, non_inferior, remembers, slice, threshold" in none.stderr
