"""rollback: back to what ran, by one commit, with what was bad held back; quarantine: released by name; drill."""

import json
import re
import shutil
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from checks.config import params_file
from checks.formats import pointer, quarantine, signers
from checks.formats.signers import Role
from checks.formats.statement import ENVELOPE
from checks.process.errors import EvidenceRefused, PromotionRefused, Refusal, RegistryRefused
from checks.storage import digest, layout
from release.cli import environment_tables, main
from release.evidence import attach
from release.image.layout import Layout
from release.ledger import disagreements
from release.overlay import overlays
from release.promotion import context, quarantined
from release.promotion.rollback_plan import RolledBack
from release.verbs import drill as drills
from release.verbs import history as histories
from release.verbs import keys as key_verbs
from release.verbs import quarantine as quarantines
from release.verbs import rollback as verb
from release.verbs.approve import approve
from release.verbs.reconcile import reconcile
from release.verbs.render import render
from release.verbs.rollback import rollback
from release.verbs.status import status
from tests import captured_rows, ledger_tree, overlay_sample
from tests import promotion_tree as tree
from tests.build_tree import BaseLayout
from tests.conftest import REPOSITORY, read_yaml, written
from tests.ledger_tree import git, keep, refs
from tests.promotion_tree import Release, move

pytestmark = pytest.mark.slow

alone, trio, root, releases = tree.alone, tree.trio, tree.root, tree.releases
BAD = "answers in French"


def back(root: Path, environment: str = "production", why: str = BAD, **options: Any) -> RolledBack:
    return rollback(root, environment, why=why, **options)


def runs(root: Path, environment: str = "production") -> pointer.Pointer | None:
    where = context.find(root)
    return where.ledger.pointer(where.tip, environment)


def gone_to(done: RolledBack) -> pointer.Pointer:
    assert done.after is not None
    return done.after


def refused(root: Path, cause: str, environment: str = "production", **options: Any) -> Refusal:
    before = refs(root)
    with pytest.raises(Refusal) as found:
        back(root, environment, **options)
    assert cause in "\n".join([str(found.value), *found.value.others])
    assert refs(root) == before
    return found.value


# Back


def test_it_goes_back_to_what_ran_before_and_holds_the_bad_one_back(root: Path, releases: tuple[Release, ...]) -> None:
    done = back(root)
    assert done.done == "moved"
    assert (done.before, done.after) == (done.before, runs(root))
    assert gone_to(done).image == releases[0].image
    assert "v0.1.0 lies in a folder of one machine: no cluster can pull it" in done.notes
    assert (gone_to(done).version, gone_to(done).evidence) == ("v0.1.0", releases[0].signed.evidence)
    where = context.find(root)
    assert where.ledger.quarantine(where.tip).entries == (
        quarantine.Entry(
            image=releases[1].digest, model=releases[1].report.model, version="v0.2.0", by="Ada <ada@example.org>", why=BAD
        ),
    )  # fmt: skip
    last = where.ledger.moves(where.tip, "production")[0]
    assert (last.kind, last.why, last.number, last.problem) == ("rollback", BAD, 3, "")
    assert "refs/tags/azure-cli-router#production#3" in refs(root)
    assert disagreements(where.name, where.ledger.tags(), where.moves()) == []
    evidence = (root / layout.ENVIRONMENTS / "production" / layout.EVIDENCE).read_bytes()
    assert digest.of_bytes(evidence) == gone_to(done).evidence
    assert git(root, "status", "--porcelain", "--", "release") == ""


def test_a_canary_rolls_back_what_runs_its_candidate_and_nothing_else(
    root: Path, releases: tuple[Release, ...]
) -> None:
    ours, theirs = (each.report.model.removeprefix("sha256:")[:12] for each in releases[1:])
    began = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=1)
    captured_rows.write(root / layout.CAPTURES, [
        {
            "time": began + timedelta(seconds=number), "id": f"r{number}", "prompt": f"request {number}", "answer": "az group",
            "status": 500 if number % 4 == 0 else 200, "release": ours if number % 2 else theirs,
        }
        for number in range(200)
    ])  # fmt: skip
    before = runs(root)
    done = CliRunner().invoke(main, ["-C", str(root), "canary", "production", "--rollback"])
    assert done.exit_code == 10, done.output
    assert "`./lockstep rollback staging --why …`" in done.stderr
    where = context.find(root)
    (last, *_) = where.ledger.moves(where.tip, "staging")
    assert (last.kind, last.after and last.after.image, runs(root)) == ("rollback", releases[1].image, before)
    assert last.why.startswith(f"canary of production against {ours}, sha256:"), last.why
    assert "answered: 0.500 against 1.000 on 100 pairs" in last.why
    assert [entry.model for entry in where.ledger.quarantine(where.tip).entries] == [releases[2].report.model]
    done = CliRunner().invoke(main, ["-C", str(root), "canary", "production", "--rollback"])
    assert (done.exit_code, done.stdout) == (8, ""), done.output
    assert f"production runs the candidate {ours} already" in done.stderr
    done = CliRunner().invoke(main, ["-C", str(root), "canary", "staging", "--candidate-release", "staging"])
    assert "staging: was rolled back to v0.2.0, so no candidate runs there" in done.stderr
    refused(root, f"production does not run {theirs}", runs=theirs)


def test_another_environment_s_files_do_not_stop_a_rollback_and_stop_a_promotion(root: Path) -> None:
    overlay_sample.edit(root / layout.ENVIRONMENTS, "staging", lambda knobs: knobs.update(namespace="model-production"))
    keep(root, "by hand")
    with pytest.raises(PromotionRefused, match="'model-production' is the namespace of staging too"):
        move(root, "production")
    assert [found.what for state in status(root).environments for found in state.drift] == [
        "staging: overlay", "production: overlay",
    ]  # fmt: skip
    assert back(root).done == "moved"


def test_after_an_upgrade_that_changes_the_base_a_promotion_waits_for_render_and_a_rollback_does_not(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overlay_sample.upgraded(monkeypatch)
    found = status(root)
    assert found.contradictions == ()
    production = found.environments[1]
    assert production.older.startswith(
        f"{overlay_sample.BASE}: of an earlier version of Lockstep: `lockstep render production`"
    )
    assert environment_tables.status(found).count(production.older) == 1
    assert production.advice.headline == "v0.3.0 of staging can follow once production is rendered"
    with pytest.raises(PromotionRefused, match=re.escape(production.older)):
        move(root, "production")
    assert back(root).done == "moved"
    assert {path.parent for path in render(root, "staging")} == {overlay_sample.BASE}
    keep(root, "rendered")
    assert move(root, "production").done == "moved"
    assert [(state.older, state.drift) for state in status(root).environments] == [("", ()), ("", ())]


def test_an_update_that_leaves_no_server_stops_a_promotion_until_that_is_allowed_and_no_rollback(root: Path) -> None:
    environments = root / layout.ENVIRONMENTS
    overlay_sample.edit(environments, "production", lambda knobs: knobs.update(update="pause", gpus=1, capacity=1))
    keep(root, "pause")
    found = status(root)
    assert (found.contradictions, found.environments[0].stuck) == ((), ())
    production = found.environments[1]
    file = "release/environments/production/environment.yaml"
    fix = "write fewer `replicas` or `gpus`, or `capacity: 2` if there are so many"
    assert production.stuck == (
        f"{file}: update: pause: all servers end before a new one starts: write `downtime: allowed`",
        f"{file}: capacity: is 1, but 2 GPUs are needed, 1 each for 2 servers: {fix}",
    )
    shown = environment_tables.status(found)
    assert all(shown.count(line) == 1 for line in production.stuck)
    assert production.advice.headline.endswith("can follow once environment.yaml of production lets an update end")
    gaps = tree.gaps(root, "production")
    assert all(f"{line}; fix that as docs/reference/environment-files.md says" in gaps for line in production.stuck)
    assert back(root).done == "moved"
    overlay_sample.edit(environments, "production", lambda knobs: knobs.update(downtime="allowed", capacity=2))
    keep(root, "allowed")
    assert status(root).environments[1].stuck == ()
    assert move(root, "production").done == "moved"


def test_alerts_of_the_last_move_do_not_stop_a_rollback_and_edited_ones_do(root: Path) -> None:
    overlay_sample.watched(root / layout.ENVIRONMENTS, root, "production")
    keep(root, "alerts")
    move(root, "production")
    tree.rewrite(root, layout.PARAMS, lambda plain: plain.update(monitor={"objectives": {"availability": 0.95}}))
    path = root / layout.ENVIRONMENTS / "production" / "monitoring" / "prometheusrule.yaml"
    text = path.read_text()
    path.write_text(text.replace("> 0.144", "> 0.9"))
    keep(root, "by hand")
    refused(root, "prometheusrule.yaml: is not what the section monitor gives: `lockstep monitor component production`")
    path.write_text(text)
    keep(root, "restored")
    assert back(root).done == "moved"


def test_a_work_tree_that_changes_the_section_monitor_is_no_drift_and_a_commit_without_the_alerts_is(
    root: Path,
) -> None:
    overlay_sample.watched(root / layout.ENVIRONMENTS, root, "production")
    keep(root, "alerts")
    plain = read_yaml((root / layout.PARAMS).read_text())
    (root / layout.PARAMS).write_text(written(plain | {"monitor": {"objectives": {"availability": 0.95}}}))
    assert status(root).environments[-1].drift == ()
    keep(root, "another objective")
    assert "is not what the section monitor gives" in status(root).environments[-1].drift[0].mirror


def test_what_is_held_back_is_promoted_nowhere_until_it_is_released_by_name(root: Path) -> None:
    back(root)
    with pytest.raises(PromotionRefused) as refused:
        move(root, "production", image=runs_image(root, "v0.2.0"))
    assert "is in quarantine with v0.2.0, by Ada <ada@example.org>: answers in French" in "".join(refused.value.others)
    freed = quarantines.release(root, "v0.2.0", "the French was a joke")
    assert [entry.version for entry in freed.entries] == ["v0.2.0"]
    assert quarantines.held(root).entries == ()
    text = git(root, "log", "-1", "--format=%B", "main")
    assert text.startswith("release v0.2.0 from quarantine\n\nthe French was a joke\n\nLockstep-Release: sha256:")
    with pytest.raises(EvidenceRefused, match=r"v0.2.0: is not in quarantine"):
        quarantines.release(root, "v0.2.0", "again")


def runs_image(root: Path, version: str) -> str:
    where = context.find(root)
    return next(move.after.image for move in where.moves() if move.after and move.after.version == version)


def test_the_same_again_as_after_a_crash_does_not_go_back_twice(root: Path) -> None:
    done = back(root)
    before = refs(root)
    again = back(root)
    assert (again.done, again.after) == ("already", done.after)
    assert refs(root) == before


@pytest.mark.parametrize("to", [None, "v0.1.0", "none"])
def test_a_job_that_is_run_again_takes_back_no_release_that_came_since(
    root: Path, tmp_path: Path, to: str | None
) -> None:
    """Such a job has the commit that it had at first."""
    ledger_tree.bare(tmp_path / "origin.git", root)
    job = tree.copy(root, tmp_path / "job")
    assert back(root, to=to).done == "moved"
    assert back(job, to=to).done == "already"
    now = runs(root)
    assert now is None if to == "none" else now and now.version == "v0.1.0"
    assert move(root, "production").done == "moved"
    ada = "Ada <ada@example.org>"
    since = f"production was rolled back for this reason already, by {ada}, and then moved to v0.3.0, by {ada}; "
    with pytest.raises(PromotionRefused, match=f"^{since}if that is to go, too: git pull, or say why in other words$"):
        back(job, to=to)
    git(job, "pull", "--quiet", "--ff-only", "origin", "main")
    assert back(job, to=to).done == "moved"


def test_a_second_rollback_is_one_that_is_named(root: Path) -> None:
    move(root, "production")
    assert gone_to(back(root)).version == "v0.2.0"
    refused(
        root, "production was rolled back from v0.3.0 already, by Ada <ada@example.org>: answers in French", why="so"
    )
    assert gone_to(back(root, why="this one too", to="v0.1.0")).version == "v0.1.0"
    assert [entry.version for entry in quarantines.held(root).entries] == ["v0.3.0", "v0.2.0"]


def test_it_goes_to_what_is_named(root: Path, releases: tuple[Release, ...]) -> None:
    for named in ("v0.1.0", releases[0].digest, releases[0].image):
        assert gone_to(back(root, to=named, dry_run=True)).image == releases[0].image


def test_it_stays_where_it_is_when_that_is_named(root: Path) -> None:
    before = refs(root)
    assert back(root, to="v0.2.0").done == "already"
    assert refs(root) == before


def test_a_release_is_held_back_by_its_image_where_the_good_one_has_the_same_weights(tmp_path: Path) -> None:
    root = tmp_path / "work"
    first = tree.make(root)
    move(root, "staging")
    home = BaseLayout(root / layout.STATE / "other")
    pinned = home.tag(home.image(layers=3), "1").removeprefix(f"oci:{root}/")
    was = params_file.load(root / layout.PARAMS).serve.base
    tree.rewrite(root, layout.PARAMS, lambda plain: plain["serve"].update(base=f"oci:{pinned}"))
    second = tree.release(root)
    assert second.report.model == first.report.model
    moved = move(root, "staging").after
    assert moved is not None
    assert moved.version == "v0.1.1"
    held = back(root, "staging").held
    assert held is not None
    assert (held.image, held.model) == (second.digest, None)
    tree.rewrite(root, layout.PARAMS, lambda plain: plain["serve"].update(base=was))
    assert move(root, "production").done == "moved"


def test_without_data_weights_verdict_and_keys_it_goes_back(root: Path) -> None:
    for name in ("models", "data", "reports", ".lockstep/keys"):
        shutil.rmtree(root / name)
    assert back(root).done == "moved"


def test_a_dry_run_asks_and_writes_nothing(root: Path) -> None:
    before = (refs(root), git(root, "count-objects"))
    planned = back(root, dry_run=True)
    assert (planned.done, verb.refusal(planned)) == ("planned", None)
    assert "-version: v0.2.0\n" in planned.diff
    assert "+version: v0.1.0\n" in planned.diff
    assert "+  why: answers in French" in planned.diff
    assert (refs(root), git(root, "count-objects")) == before


def test_a_pointer_that_cannot_be_read_is_rolled_back_too(root: Path) -> None:
    path = root / layout.ENVIRONMENTS / "production" / layout.POINTER
    path.write_text("model: evil\n")
    keep(root, "by hand")
    done = back(root)
    assert (done.before, done.held, gone_to(done).version) == (None, None, "v0.2.0")
    assert len([note for note in done.notes if "is not the lines" in note]) == 1
    where = context.find(root)
    assert where.ledger.moves(where.tip, "production")[0].kind == "rollback"


def test_a_broken_pointer_of_another_environment_holds_up_no_rollback(root: Path) -> None:
    (root / layout.ENVIRONMENTS / "staging" / layout.POINTER).write_text("model: evil\n")
    keep(root, "by hand")
    assert back(root).done == "moved"
    assert quarantines.add(root, "v0.3.0", BAD).runs == ()


def test_another_environment_that_runs_the_bad_one_is_told(root: Path) -> None:
    move(root, "production")
    assert "staging runs v0.3.0 too" in back(root).notes


# Not back


def cut(root: Path, releases: tuple[Release, ...]) -> None:
    layer = releases[0].report.layers[0].digest.removeprefix("sha256:")
    path = root / layout.IMAGE / "blobs" / "sha256" / layer
    path.write_bytes(path.read_bytes()[:-1])


def test_an_image_that_is_gone_is_not_gone_back_to(root: Path, releases: tuple[Release, ...]) -> None:
    cut(root, releases)
    assert isinstance(refused(root, "is missing or incomplete; push the image again"), RegistryRefused)


def test_an_image_that_a_build_dropped_is_named(tmp_path: Path, root: Path) -> None:
    shutil.rmtree(root / layout.IMAGE)
    refused(root, "is not an OCI layout")


def test_images_that_environments_run_are_kept_by_later_builds(root: Path, releases: tuple[Release, ...]) -> None:
    """Production ran the second when the third was built."""
    assert move(root, "production").done == "moved"
    assert gone_to(back(root)).image == releases[1].image


def test_a_signer_who_left_signs_for_nothing_old_either(root: Path) -> None:
    text = (root / layout.SIGNERS).read_text()
    (root / layout.SIGNERS).write_text(text[text.index("- name: bob") :])
    keep(root, "ada has left")
    refused(root, "that is unknown here; choose another release with --to, or sign this one again in a checkout of")


def retire(root: Path, until: date) -> None:
    """ada's signatures count until this day; nia has the same roles."""
    roles: tuple[Role, ...] = ("verify", "release", "approve")
    made = key_verbs.new(root, "nia", roles, tree.key(root, "nia"))
    key_verbs.add_signer(root, "nia", roles, made.public)
    text = (root / layout.SIGNERS).read_text()
    (root / layout.SIGNERS).write_text(text.replace("- name: ada\n", f"- name: ada\n  until: {until}\n"))
    keep(root, "nia signs in place of ada")


def test_a_signer_who_is_retired_signs_for_what_ran_by_then_and_for_nothing_new(
    root: Path, releases: tuple[Release, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = status(root).contradictions
    retire(root, datetime.now(UTC).date())
    monkeypatch.setattr(signers, "datetime", ledger_tree.Tomorrow)
    assert status(root).contradictions == before, "what runs is as valid as before"
    assert move(root, "staging").done == "already"
    with pytest.raises(PromotionRefused, match=r"signed by ada, whose signatures count until \d{4}-\d\d-\d\d"):
        move(root, "production")
    with pytest.raises(EvidenceRefused, match="this key: is signed by ada, whose signatures count until"):
        tree.signed(root, releases[2].report)
    assert gone_to(back(root)).evidence == releases[0].signed.evidence
    assert gone_to(back(root, to="v0.2.0", dry_run=True)).version == "v0.2.0"


def by_hand(root: Path, releases: tuple[Release, ...]) -> None:
    """Production runs the third release, which somebody wrote there."""
    for name in (layout.POINTER, layout.EVIDENCE):
        shutil.copy(root / layout.ENVIRONMENTS / "staging" / name, root / layout.ENVIRONMENTS / "production" / name)
    keep(root, "by hand")


@pytest.mark.parametrize(
    ("days", "change", "to"),
    [(-1, lambda *_: None, None), (0, by_hand, "v0.3.0")],
    ids=["retired before it ran", "written by hand"],
)
def test_a_signer_who_is_retired_signs_for_no_other_release(
    days: int, change: Callable[[Path, tuple[Release, ...]], None], to: str | None, root: Path,
    releases: tuple[Release, ...], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    change(root, releases)
    if to:  # it runs something else again
        back(root)
        quarantines.release(root, to, "a try", tree.key(root, "bob"))
    retire(root, datetime.now(UTC).date() + timedelta(days=days))
    monkeypatch.setattr(signers, "datetime", ledger_tree.Tomorrow)
    refused(root, "is signed by ada, whose signatures count until", to=to)


def test_a_release_that_was_signed_again_is_gone_back_to(root: Path, releases: tuple[Release, ...]) -> None:
    key_verbs.add_signer(root, "mallory", ("release",), tree.key(root, "mallory").with_suffix(".pub"))
    text = (root / layout.SIGNERS).read_text()
    (root / layout.SIGNERS).write_text(text[text.index("- name: bob") :])
    keep(root, "ada has left, mallory came")
    plain = json.loads(releases[0].signed.statement.model_dump_json(by_alias=True))
    data = tree.envelope(root, plain, "mallory")
    store = Layout(root / layout.IMAGE)
    with store.held():
        attach.attach(store, attach.subject(store, releases[0].digest), ENVELOPE, data, "release.json")
    done = back(root)
    assert gone_to(done).evidence == digest.of_bytes(data)
    assert gone_to(done).evidence != releases[0].signed.evidence


def test_evidence_of_something_else_in_the_past_is_refused(root: Path, releases: tuple[Release, ...]) -> None:
    """A hand moved production, with evidence that the pointer there does not name."""
    folder = root / layout.ENVIRONMENTS / "production"
    text = (folder / layout.POINTER).read_text()
    (folder / layout.POINTER).write_text(text.replace(releases[1].report.image, releases[2].report.image))
    (folder / layout.EVIDENCE).write_bytes(releases[2].signed.envelope)
    keep(root, "by hand")
    git(root, "revert", "--no-edit", "HEAD")
    refused(root, "evidence.json at", to=releases[2].digest)


def test_what_never_ran_there_is_promoted_and_not_rolled_back_to(root: Path) -> None:
    refused(root, "v0.3.0: never ran in production; name what did, or promote it: v0.2.0 (sha256:", to="v0.3.0")
    refused(root, f"sha256:{'9' * 64}: never ran in production", to=f"sha256:{'9' * 64}")


def test_what_is_in_quarantine_is_not_gone_back_to(root: Path) -> None:
    move(root, "production")
    back(root, to="v0.2.0")
    refused(root, "v0.3.0 is in quarantine, by Ada <ada@example.org>: answers in French", to="v0.3.0", why="and again")


def test_where_nothing_else_ran_there_is_nothing_to_go_back_to(tmp_path: Path) -> None:
    root = tmp_path / "work"
    tree.make(root)
    refused(root, "staging runs nothing", "staging")
    move(root, "staging")
    told = refused(root, "staging: there is nothing to go back to: nothing else ran there", "staging")
    assert "to run nothing instead: `lockstep rollback staging --to none --why …`" in told.todo


# To nothing


@pytest.fixture(scope="module")
def made_first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Release]:
    """One release, which runs in staging and in production."""
    home = tmp_path_factory.mktemp("first") / "work"
    with pytest.MonkeyPatch.context() as patch:
        tree.leave_alone(patch)
        release = tree.make(home)
        for name in ("staging", "production"):
            move(home, name)
    return ledger_tree.packed(home), release


@pytest.fixture
def first(made_first: tuple[Path, Release], tmp_path: Path) -> Path:
    return tree.copy(made_first[0], tmp_path / "first")


def files(root: Path, environment: str = "production") -> dict[Path, bytes]:
    where = context.find(root)
    return where.ledger.files(where.tip, layout.ENVIRONMENTS / environment)


def test_a_first_release_is_withdrawn(first: Path, made_first: tuple[Path, Release]) -> None:
    """All that its promotion wrote is gone but for files that build to nothing, by which a cluster deletes its server."""
    release = made_first[1]
    planned = back(first, to="none", dry_run=True)
    assert (planned.done, planned.after, verb.refusal(planned)) == ("planned", None, None)
    assert "-version: v0.1.0\n" in planned.diff
    done = back(first, to="none")
    assert (done.done, done.after, done.tags) == ("moved", None, ("azure-cli-router#production!#2",))
    assert runs(first) is None
    assert "staging runs v0.1.0 too" in done.notes
    scaffold = layout.ENVIRONMENTS / "production"
    wanted = {path.relative_to(REPOSITORY): path.read_bytes() for path in (REPOSITORY / scaffold).rglob("*.yaml")}
    assert files(first) == wanted | overlays.nothing("production")
    assert git(first, "status", "--porcelain", "--", "release") == ""
    assert [(entry.image, entry.model, entry.version, entry.why) for entry in quarantines.held(first).entries] == [
        (release.digest, release.report.model, "v0.1.0", BAD)
    ]
    last = histories.history(first, "production").environments["production"][0]
    assert (last.kind, last.after, last.why, last.problem, last.number) == ("rollback", None, BAD, "", 2)
    assert "production#2" in environment_tables.history(histories.history(first))
    found = status(first)
    assert found.environments[1].runs is None
    assert found.contradictions == (f"staging: in quarantine: {BAD}",)
    assert [finding for finding in reconcile(first).findings if finding.where in ("tags", "environments")] == []


def test_an_environment_that_is_emptied_twice_is_emptied_once(first: Path) -> None:
    back(first, to="none")
    before = refs(first)
    assert back(first, to="none", why="and again").done == "already"
    assert refs(first) == before
    told = refused(first, "production runs nothing: it was emptied by Ada <ada@example.org>: answers in French")
    assert "or name the release to go back to: --to" in told.todo


def test_what_follows_an_emptied_environment_is_a_promotion_or_a_release_that_ran(first: Path) -> None:
    back(first, to="none")
    back(first, "staging", to="none")
    refused(first, "is in quarantine, by Ada", to="v0.1.0")
    tree.next_model(first, 77)
    for name in ("staging", "production"):
        done = move(first, name)
        assert (done.done, done.before, done.after and done.after.version) == ("moved", None, "v0.2.0")
    assert status(first).contradictions == ()
    quarantines.release(first, "v0.1.0", "a joke")
    assert back(first, to="v0.1.0").done == "moved"


def test_an_approval_of_what_was_withdrawn_is_gone(first: Path) -> None:
    tree.rewrite(first, layout.PARAMS, lambda plain: plain["promote"]["environments"]["production"].update(approvals=1))
    approve(first, "production", tree.key(first, "bob"), "yes")
    back(first, to="none")
    assert not [path for path in files(first) if layout.APPROVED in path.parts]


def test_an_environment_whose_image_and_evidence_are_gone_is_emptied(first: Path) -> None:
    """It waits for nothing: nothing is to run."""
    for name in ("models", "data", "reports", ".lockstep"):
        shutil.rmtree(first / name)
    (first / layout.ENVIRONMENTS / "production" / layout.EVIDENCE).unlink()
    keep(first, "by hand")
    assert back(first, to="none").done == "moved"


@pytest.mark.parametrize("text", [None, "model: evil\n"])
def test_a_pointer_that_was_taken_away_or_broken_by_hand_is_emptied(first: Path, text: str | None) -> None:
    path = first / layout.ENVIRONMENTS / "production" / layout.POINTER
    if text is None:
        path.unlink()
    else:
        path.write_text(text)
    keep(first, "by hand")
    done = back(first, to="none")
    assert (done.done, done.held) == ("repaired" if text is None else "moved", None)
    assert {path.name for path in files(first)} == {"environment.yaml", "kustomization.yaml", "server.yaml"}
    assert [line for line in status(first).contradictions if line.startswith("production")] == []


def test_an_environment_is_emptied_at_its_remote_too(first: Path, tmp_path: Path) -> None:
    ledger_tree.bare(tmp_path / "origin.git", first)
    done = back(first, to="none")
    assert refs(tmp_path / "origin.git")["refs/heads/main"] == done.commit
    assert "refs/tags/azure-cli-router#production!#2" in refs(tmp_path / "origin.git")


def test_a_drill_of_a_first_release_empties_and_fills_again(first: Path) -> None:
    tree.rewrite(first, layout.PARAMS, lambda plain: plain["promote"]["environments"]["production"].update(approvals=1))
    before = refs(first)
    done = drills.drill(first, "production")
    assert (done.before.version, done.to) == ("v0.1.0", None)
    assert refs(first) == before
    shown = CliRunner().invoke(main, ["-C", str(first), "drill", "production"])
    assert "v0.1.0 to nothing and back" in shown.output


# Held back by name


def test_what_ran_is_held_back_by_any_of_its_names(first: Path, made_first: tuple[Path, Release]) -> None:
    release = made_first[1]
    for name in ("v0.1.0", release.digest, release.image, release.report.model):
        added = quarantines.add(first, name, BAD)
        assert (added.entry.image, added.entry.model, added.entry.version) == (
            release.digest, release.report.model, "v0.1.0",
        )  # fmt: skip
        assert added.done == ("held" if name == "v0.1.0" else "already")
        assert added.runs == ("staging", "production")
    with pytest.raises(PromotionRefused, match="an entry without a reason"):
        quarantines.add(first, "v0.1.0", " ")
    with pytest.raises(
        EvidenceRefused, match=r"v9\.9\.9: is neither a version that ran nor a digest; name it by its digest"
    ):
        quarantines.add(first, "v9.9.9", BAD)


@pytest.mark.parametrize("known", [True, False])
def test_what_never_ran_is_held_back_before_it_does(first: Path, known: bool) -> None:
    release = tree.next_model(first, 78)
    if not known:  # another clone built it: git does not say what it is
        shutil.move(first / layout.IMAGE_REPORT, first / "kept")
    added = quarantines.add(first, release.report.model, "leaks a key")
    assert (added.entry.version, added.runs) == (None, ())
    if known:
        for name in (release.digest, release.image):
            assert quarantined.entry(context.find(first), name, "leaks a key") == added.entry
    else:
        assert added.entry.image == added.entry.model == release.report.model
        shutil.move(first / "kept", first / layout.IMAGE_REPORT)
    with pytest.raises(PromotionRefused) as found:
        move(first, "staging")
    told = "\n".join([str(found.value), *found.value.others])
    assert f"is in quarantine with {added.entry.image}, by Ada <ada@example.org>: leaks a key" in told
    assert quarantines.release(first, added.entry.image, "it does not").left == ()
    assert move(first, "staging").done == "moved"


def test_the_command_holds_back_and_releases(first: Path) -> None:
    def run(*args: str) -> tuple[int, str]:
        done = CliRunner().invoke(main, ["-C", str(first), "quarantine", *args])
        return done.exit_code, done.output

    code, output = run("v0.1.0", "--why", BAD)
    assert (code, output.count("runs it: `./lockstep rollback")) == (0, 2)
    assert run()[1].startswith("v0.1.0  ")
    assert run("v0.1.0")[0] == run("--why", "x")[0] == run("v0.1.0", "--release", "v0.1.0", "--why", "x")[0] == 2
    assert run("--release", "v0.1.0", "--why", "a joke") == (0, "the quarantine is empty\n")
    assert run(f"sha256:{'9' * 64}", "--why", BAD)[1].startswith("-  999999999999  answers in French")


def test_without_a_reason_nothing_is_rolled_back_or_released(root: Path) -> None:
    refused(root, "a rollback without a reason", why=" \n ")
    back(root)
    with pytest.raises(PromotionRefused, match="a release without a reason"):
        quarantines.release(root, "v0.2.0", "\t")


def test_an_overlay_that_people_made_speak_of_the_image_is_told(root: Path) -> None:
    path = root / layout.ENVIRONMENTS / "production" / "kustomization.yaml"
    path.write_text(path.read_text() + "images:\n  - {name: x, newName: evil}\n")
    keep(root, "by hand")
    refused(root, "production/kustomization.yaml: is not what environment.yaml gives: run `lockstep render production`")


def test_only_what_is_held_back_is_released(root: Path) -> None:
    back(root)
    for name in ("v9.9.9", f"sha256:{'9' * 64}", "\x1b[31mred"):
        with pytest.raises(EvidenceRefused, match="is not in quarantine") as found:
            quarantines.release(root, name, "why not")
        assert str(found.value).isprintable()


# A drill


def test_a_drill_goes_back_and_forward_in_a_scratch_clone_and_leaves_nothing(root: Path, tmp_path: Path) -> None:
    ledger_tree.bare(tmp_path / "origin.git", root)
    before = (refs(root), refs(tmp_path / "origin.git"), git(root, "status", "--porcelain"))
    scratch = {*Path("/tmp").glob("lockstep-drill-*")}
    done = drills.drill(root, "production")
    assert (done.before.version, done.to and done.to.version) == ("v0.2.0", "v0.1.0")
    assert [step.what for step in done.steps] == [
        "ask the ledger", "make a scratch clone and remote", "roll back", "let it out of quarantine", "move forward again",
    ]  # fmt: skip
    assert all(step.seconds > 0 for step in done.steps)
    assert (refs(root), refs(tmp_path / "origin.git"), git(root, "status", "--porcelain")) == before
    assert {*Path("/tmp").glob("lockstep-drill-*")} == scratch


def test_a_drill_without_a_remote_is_one_too(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gitconfig").write_text("[push]\n\tgpgSign = true\n")  # which a scratch remote would refuse
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    before = refs(root)
    to = drills.drill(root, "staging").to
    assert (to and to.version) == "v0.2.0"
    assert refs(root) == before


def test_a_drill_tells_what_a_rollback_would_be_refused_for(root: Path, releases: tuple[Release, ...]) -> None:
    cut(root, releases)
    with pytest.raises(RegistryRefused, match="is missing or incomplete"):
        drills.drill(root, "production")
