"""Ways around a promotion that somebody found: each is shut, and stays so."""

import base64
import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from checks.config import params_file
from checks.formats import pointer, signers
from checks.formats.statement import PAYLOAD
from checks.process.errors import EvidenceRefused, PromotionRefused, RegistryRefused
from checks.storage import digest, layout
from release.cli import environment_tables
from release.evidence import dsse, keys, statement
from release.image.hash_cache import state
from release.image.layout import Layout
from release.image.recipe import KNOWN
from release.ledger import compose_release, disagreements
from release.promotion import context
from release.promotion.environment import approvals_folder
from release.promotion.rollback_plan import RolledBack
from release.record import lock_check
from release.verbs import quarantine as quarantines
from release.verbs.approve import approve
from release.verbs.build import BuildOptions, build
from release.verbs.promote import Promoted
from release.verbs.reconcile import reconcile
from release.verbs.rollback import rollback
from release.verbs.status import refusal, status
from tests import ledger_tree, spoil
from tests import promotion_tree as tree
from tests.build_tree import BaseLayout
from tests.ledger_tree import git, keep, refs
from tests.promotion_tree import Release, move

pytestmark = pytest.mark.slow

alone, trio, root, releases, gaps = tree.alone, tree.trio, tree.root, tree.releases, tree.gaps
PRODUCTION, STAGING = (layout.ENVIRONMENTS / name for name in ("production", "staging"))


def back(root: Path, **options: Any) -> RolledBack:
    return rollback(root, "production", **({"why": "answers in French"} | options))


def gone_to(done: RolledBack) -> pointer.Pointer:
    assert done.after is not None
    return done.after


def as_staging(root: Path) -> None:
    """Production's pointer and evidence are those of staging, by hand."""
    for name in (layout.POINTER, layout.EVIDENCE):
        shutil.copy(root / STAGING / name, root / PRODUCTION / name)
    keep(root, "tidy up")


def taken_back(root: Path) -> None:
    """Merge a proposal that has made what ``root`` has now, and takes it back: it shows no difference."""
    made = git(root, "rev-parse", "HEAD")
    git(root, "checkout", "--quiet", "-b", "proposal")
    git(root, "branch", "--force", "main", f"{made}~1")
    git(root, "revert", "--no-edit", "HEAD")
    assert git(root, "diff", "main", "proposal") == ""
    (root / "notes.md").write_text("more\n")
    keep(root, "notes")
    git(root, "checkout", "--quiet", "main")
    git(root, "merge", "--quiet", "--no-ff", "-m", "a merge", "proposal")


# A side branch moves nothing


def test_what_a_proposal_made_and_took_back_is_not_rolled_back_to(root: Path, releases: tuple[Release, ...]) -> None:
    as_staging(root)
    taken_back(root)
    with pytest.raises(PromotionRefused, match=r"v0\.3\.0: never ran in production"):
        back(root, to="v0.3.0")
    assert gone_to(back(root)).image == releases[0].image


def test_a_proposal_that_takes_back_what_it_made_does_not_hide_a_rollback(root: Path) -> None:
    done = back(root)
    as_staging(root)
    taken_back(root)
    assert back(root).done == "already"
    where = context.find(root)
    assert where.ledger.pointer(where.tip, "production") == done.after


def test_what_a_hand_moved_is_rolled_back_to_by_name_alone(root: Path, releases: tuple[Release, ...]) -> None:
    before = (root / PRODUCTION / layout.POINTER).read_bytes()
    as_staging(root)
    git(root, "revert", "--no-edit", "HEAD")
    assert (root / PRODUCTION / layout.POINTER).read_bytes() == before
    assert gone_to(back(root, dry_run=True)).image == releases[0].image
    assert gone_to(back(root, dry_run=True, to="v0.3.0")).image == releases[2].image


def test_a_version_of_a_side_branch_is_nobodys(root: Path) -> None:
    """The largest of all would leave none for the next promotion; and it gets no tag."""
    path = root / PRODUCTION / layout.POINTER
    path.write_text(path.read_text().replace("v0.2.0", "v0.999999999.0"))
    keep(root, "a version")
    taken_back(root)
    where = context.find(root)
    assert "v0.999999999.0" not in "".join(tag.name for tag in where.missing_tags())
    assert disagreements(where.name, where.ledger.tags(), where.moves()) == [
        "tag azure-cli-router#production#4: is missing"
    ]
    tree.next_model(root, 30)
    done = move(root, "staging").after
    assert (done and done.version) == "v0.4.0"


# An approval counts once


@pytest.fixture
def approved(root: Path) -> Path:
    """Production asks for one approval; bob's of what staging runs lies there."""
    tree.rewrite(root, layout.PARAMS, lambda plain: plain["promote"]["environments"]["production"].update(approvals=1))
    approve(root, "production", tree.key(root, "bob"), "yes")
    return root


def approval(root: Path) -> Path:
    where = context.find(root)
    found = where.ledger.pointer(where.tip, "staging")
    assert found is not None
    return root / approvals_folder("production", found.digest) / "bob.json"


def back_and_free(root: Path) -> None:
    quarantines.release(root, "v0.3.0", f"after all: {back(root).commit}", tree.key(root, "bob"))


def again(root: Path, data: bytes) -> str:
    """What a promotion says to bob's approval, put there by somebody else."""
    path = approval(root)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    keep(root, "approved")
    return gaps(root, "production")


SPENT = "was used up by an earlier move: approve again, with a new reason"


def test_a_branch_that_is_merged_into_a_copy_of_itself_gives_no_approval_back(approved: Path) -> None:
    """As by `git pull`: the move is on a side branch now, and so is what took it back."""
    data = approval(approved).read_bytes()
    git(approved, "branch", "copy")
    move(approved, "production")
    back_and_free(approved)
    git(approved, "checkout", "--quiet", "copy")
    keep(approved, "notes")
    git(approved, "merge", "--quiet", "-m", "pull", "main")
    git(approved, "checkout", "--quiet", "-B", "main")
    where = context.find(approved)
    assert [each.ran for each in where.ledger.moves(where.tip, "production") if each.number == 3] == [False]
    assert SPENT in again(approved, data)


def test_a_hand_that_moves_and_takes_the_approval_away_has_spent_it(approved: Path) -> None:
    data = approval(approved).read_bytes()
    approval(approved).unlink()
    as_staging(approved)
    back_and_free(approved)
    assert SPENT in again(approved, data)


def test_a_proposal_that_spends_an_approval_and_takes_that_back_costs_another_word(approved: Path) -> None:
    as_staging(approved)
    taken_back(approved)
    assert SPENT in gaps(approved, "production")
    assert approve(approved, "production", tree.key(approved, "bob"), "still yes").done == "approved"
    assert move(approved, "production").done == "moved"


def test_a_link_in_the_past_of_a_proposal_stops_no_approval(approved: Path) -> None:
    """Nobody can take it out of the history."""
    (approval(approved).parent / "x.json").symlink_to("/etc/passwd")
    as_staging(approved)
    taken_back(approved)
    assert approve(approved, "production", tree.key(approved, "bob"), "still yes").done == "approved"
    assert move(approved, "production").done == "moved"


# The base that was reviewed


def another_base(root: Path) -> str:
    home = BaseLayout(root / layout.STATE / "evil")
    return "oci:" + home.tag(home.image(settings={"Entrypoint": ["/evil"]}), "1").removeprefix(f"oci:{root}/")


def test_an_image_on_a_base_of_the_command_line_is_not_signed(tmp_path: Path) -> None:
    root = tmp_path / "work"
    tree.prepare(root)
    report = build(root, BuildOptions(base=another_base(root)))
    tree.served(root, report)
    with pytest.raises(EvidenceRefused, match=r"image\.json: is made on oci:.*/evil.*, serve\.base of params\.yaml is"):
        tree.signed(root, report)


def test_an_image_on_another_base_than_the_target_has_is_not_promoted(tmp_path: Path) -> None:
    """The target had it once, and took it back."""
    root = tmp_path / "work"
    tree.prepare(root)
    wanted, other = params_file.load(root / layout.PARAMS).serve.base, another_base(root)
    tree.rewrite(root, layout.PARAMS, lambda plain: plain["serve"].update(base=other))
    tree.release(root)
    tree.rewrite(root, layout.PARAMS, lambda plain: plain["serve"].update(base=wanted))
    assert f"it is made on {other}; serve.base of main is {wanted}" in gaps(root, "staging")


def test_a_base_that_was_changed_since_is_asked_of_the_next_environment(root: Path) -> None:
    tree.rewrite(root, layout.PARAMS, lambda plain: plain["serve"].update(base=None))
    assert "serve.base of main is null: none; build on that" in gaps(root, "production")


# A policy that became stricter


@pytest.mark.parametrize(
    "stricter",
    [
        lambda plain: plain["serve"]["verify"].update(max_logprob_diff=1e-9),
        lambda plain: plain["validate"]["min_rows"].update(test=1_000_000),
        lambda plain: plain["evaluate"]["scorers"].append({"kind": "token-f1"}),
    ],
)
def test_scorers_and_bounds_are_of_the_policy_as_gates_are(root: Path, stricter: tree.Edit) -> None:
    tree.rewrite(root, layout.PARAMS, stricter)
    git(root, "checkout", "--quiet", "HEAD^")
    shutil.rmtree(root / "reports")
    assert "it was judged under another policy than main has now: against that, " in gaps(root, "production")


# What a model and its image are made of is policy too


def test_a_release_of_inputs_that_main_had_may_move_on_when_main_has_others(root: Path) -> None:
    def others(plain: dict[str, Any]) -> None:
        plain["data"]["sha256"] = "0" * 64
        plain["serve"]["max_concurrent_requests"] = 7

    tree.rewrite(root, layout.PARAMS, others)
    assert move(root, "production").done == "moved"


@pytest.mark.parametrize("place", ["main", "its record"])
def test_inputs_that_only_a_merged_branch_had_are_not_released(root: Path, place: str) -> None:
    """A branch changes what is served, is recorded and released, changes it back, and is merged: no difference."""
    git(root, "checkout", "--quiet", "-b", "proposal")
    tree.rewrite(root, layout.PARAMS, lambda plain: plain["serve"].update(max_concurrent_requests=7))
    made = tree.release(root)
    recorded = git(root, "rev-parse", "HEAD")
    tree.rewrite(root, layout.PARAMS, lambda plain: plain["serve"].update(max_concurrent_requests=128))
    git(root, "checkout", "--quiet", "main")
    git(root, "merge", "--quiet", "--no-ff", "-m", "a merge", "proposal")
    if place == "its record":
        git(root, "checkout", "--quiet", recorded)
    told = gaps(root, "staging", image=made.image)
    if place == "main":
        assert "judged under another policy than main has now: against that, serve.max_concurrent_requests" in told
    else:
        assert "no gate can judge serve.max_concurrent_requests, so code owners must approve the policy" in told


# A record that DVC did not write

THINNED: dict[str, tuple[tree.Edit, str]] = {
    "dependencies": (
        lambda lock: [stage.pop("deps") for stage in lock["stages"].values()],
        "dvc.lock: train does not have data/splits among its deps",
    ),
    "outputs": (lambda lock: [stage.pop("outs") for stage in lock["stages"].values()], "dvc.lock: merge does not have models/merged among its outs"),
    "a command": (lambda lock: lock["stages"]["train"].update(cmd="true"), "dvc.lock: train ran true, not python -P -m stages.train"),
    "a parameter": (
        lambda lock: lock["stages"]["merge"]["params"]["params.yaml"]["merge"].update(shard_mb=7),
        "params.yaml: merge is not what merge ran with",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", THINNED)
def test_a_thinned_lock_is_not_released_by_whatever_version_built_it(
    root: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    thin, line = THINNED[what]
    tree.rewrite(root, layout.LOCK, thin)
    with monkeypatch.context() as older:
        older.setattr(lock_check, "differences", lambda *_, **__: [])
        made = tree.release(root)
    assert f"{line} (at {git(root, 'rev-parse', 'HEAD')[:12]})" in gaps(root, "staging", image=made.image)


# A move by hand with evidence that nobody may sign


def forged(root: Path) -> str:
    """Production's pointer names another image, and evidence about it that mallory signed."""
    image, path = f"sha256:{'e' * 64}", root / PRODUCTION / layout.POINTER
    data = (root / PRODUCTION / layout.EVIDENCE).read_bytes()
    plain = tree.about(json.loads(base64.b64decode(json.loads(data)["payload"])), image)
    data = tree.envelope(root, plain, "mallory")
    was = pointer.parse(path.read_bytes(), "x")
    named = f"{was.image.rpartition('@')[0]}@{image}"
    path.write_bytes(
        pointer.write(was.model_copy(update={"version": "v9.0.0", "image": named, "evidence": digest.of_bytes(data)}))
    )
    (root / PRODUCTION / layout.EVIDENCE).write_bytes(data)
    keep(root, "docs")
    return named


def test_a_pointer_with_evidence_of_nobody_is_never_said_to_be_so_already(root: Path) -> None:
    image, before = forged(root), refs(root)
    told = gaps(root, "production", image=image)
    assert "and no current signer signed its evidence: the evidence of production" in told
    assert "`lockstep rollback production`" in told
    assert refs(root) == {**before, "refs/heads/main": git(root, "rev-parse", "main")}
    assert "v9.0.0" not in git(root, "tag", "--list")
    assert any(
        "production" in line or "evidence" in line for line in environment_tables.status(status(root)).splitlines()
    )
    state = next(each for each in status(root).environments if each.environment == "production")
    assert [each.git for each in state.drift if "evidence" in each.what] == ["signed by one who may"]


def test_status_says_who_no_longer_stands_for_what_runs(root: Path) -> None:
    assert [each.drift for each in status(root).environments] == [(), ()]
    text = (root / layout.SIGNERS).read_text()
    (root / layout.SIGNERS).write_text(text[text.index("- name: bob") :])
    keep(root, "ada has left")
    told = [line for line in environment_tables.status(status(root)).splitlines() if "that is unknown here" in line]
    assert len(told) == 4  # the release and the verification of each


# What a build remembers is a file


def test_a_memory_that_was_written_by_hand_makes_no_blob_whole(root: Path, releases: tuple[Release, ...]) -> None:
    known = json.loads((root / KNOWN).read_text()) if (root / KNOWN).exists() else {}
    for release in (releases[0], releases[2]):
        for layer in json.loads(Layout(root / layout.IMAGE).document(release.digest).data)["layers"]:
            path = root / layout.IMAGE / "blobs" / "sha256" / layer["digest"].removeprefix("sha256:")
            path.write_bytes(b"E" * path.stat().st_size)
            known[str(path.absolute())] = state(path)
    (root / KNOWN).write_text(json.dumps(known))
    assert "is missing or incomplete" in gaps(root, "production")
    with pytest.raises(RegistryRefused, match="is missing or incomplete"):
        back(root)


# The quarantine: a digest is freed by a release alone


def emptied(root: Path) -> None:
    (root / layout.QUARANTINE).write_text("[]\n")
    keep(root, "tidy up")


def deleted(root: Path) -> None:
    (root / layout.QUARANTINE).unlink()
    keep(root, "tidy up")


def picked(root: Path) -> None:
    """The release of an earlier time, once more."""
    made = quarantines.release(root, "v0.2.0", "a joke", tree.key(root, "bob")).commit
    quarantines.add(root, "v0.2.0", "no joke")
    (root / layout.QUARANTINE).write_text("[]\n")
    keep(root, git(root, "log", "-1", "--format=%B", made))


def released(root: Path, by: str | None = None) -> None:
    """The message and the parent are as Lockstep writes them; it is signed by nobody who may, or by nobody."""
    tip = git(root, "rev-parse", "main")
    (entry,) = quarantines.held(root).entries
    signed = None
    if by:
        signer = keys.load(tree.key(root, by))
        signed = dsse.sign(statement.free([entry.image], tip, "a joke"), PAYLOAD, signer)
    (root / layout.QUARANTINE).write_text("[]\n")
    keep(root, compose_release([entry.image], "v0.2.0", tip, "a joke", signed))


# What somebody who may push does after a rollback of production, where production asks for approvals.
FREEING: dict[str, Callable[[Path], object]] = {
    "the entry is deleted": emptied,
    "the file is deleted": deleted,
    "an old release is picked": picked,
    "a release is signed by nobody": released,
    "a release is signed by a stranger": lambda root: released(root, "mallory"),
}


@pytest.mark.parametrize("name", FREEING)
def test_what_is_held_back_stays_so_whatever_becomes_of_its_file(root: Path, name: str) -> None:
    tree.rewrite(root, layout.PARAMS, lambda plain: plain["promote"]["environments"]["production"].update(approvals=1))
    bad = back(root).before
    assert bad is not None
    FREEING[name](root)
    assert [entry.image for entry in quarantines.held(root).entries] == [bad.digest]
    told = gaps(root, "production", image=bad.image)
    assert "is in quarantine with v0.2.0, by Ada" in told
    assert "quarantine.yaml: v0.2.0 (sha256:" in told
    assert "restore it: `lockstep quarantine v0.2.0 --why …`; or free it: `lockstep quarantine --release v0.2.0" in told
    assert "quarantine.yaml: v0.2.0" in gaps(root, "production"), "nor is anything else promoted until that is settled"
    with pytest.raises(PromotionRefused, match=r"v0\.2\.0 is in quarantine, by Ada"):
        back(root, to="v0.2.0", why="after all")
    found = status(root)
    assert [line for line in found.contradictions if line.startswith("release/environments/quarantine.yaml: v0.2.0")]
    refused = refusal(found)
    assert (refused and refused.exit_code) == 19
    assert any("quarantine" in finding.what for finding in reconcile(root).findings)


def test_a_reverted_rollback_brings_the_pointer_back_and_not_the_release(root: Path) -> None:
    back(root)
    git(root, "revert", "--no-edit", "HEAD")
    assert [entry.version for entry in quarantines.held(root).entries] == ["v0.2.0"]
    found = status(root)
    assert "production: in quarantine: answers in French" in found.contradictions
    assert "removed or changed it" in "".join(found.quarantine)


def test_a_rollback_waits_for_no_quarantine_and_writes_back_what_was_taken_out(root: Path) -> None:
    move(root, "production")
    quarantines.add(root, "v0.2.0", "answers in Dutch")
    emptied(root)
    done = back(root)
    assert (done.done, done.after and done.after.version) == ("moved", "v0.1.0")
    assert any("v0.2.0" in note and "still in quarantine" in note for note in done.notes)
    assert [entry.version for entry in quarantines.held(root).entries] == ["v0.2.0", "v0.3.0"]
    assert status(root).quarantine == ()


@pytest.mark.parametrize("settle", ["restore", "release"])
def test_what_was_taken_out_is_restored_or_released(root: Path, settle: str) -> None:
    back(root)
    deleted(root)
    if settle == "restore":
        assert quarantines.add(root, "v0.2.0", "as it was").done == "held"
        assert [entry.why for entry in quarantines.held(root).entries] == ["answers in French"]
    else:
        assert quarantines.release(root, "v0.2.0", "a joke").left == ()
    assert status(root).contradictions == ()


def test_a_signed_release_frees_for_good(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree.rewrite(root, layout.PARAMS, lambda plain: plain["promote"]["environments"]["production"].update(approvals=1))
    back(root)
    with pytest.raises(EvidenceRefused, match="production requires approvals, so an approver must sign a removal"):
        quarantines.release(root, "v0.2.0", "a joke")
    with pytest.raises(EvidenceRefused, match="this key is not in"):
        quarantines.release(root, "v0.2.0", "a joke", tree.key(root, "mallory"))
    freed = quarantines.release(root, "v0.2.0", "a joke", tree.key(root, "bob"))
    assert freed.signed
    assert (quarantines.held(root).entries, status(root).contradictions) == ((), ())
    until = f"- name: bob\n  until: {datetime.now(UTC):%Y-%m-%d}\n"
    spoil.edit(layout.SIGNERS, lambda text: text.replace("- name: bob\n", until))(root)
    keep(root, "bob signs no more")
    monkeypatch.setattr(signers, "datetime", ledger_tree.Tomorrow)
    assert quarantines.held(root).entries == (), "what a replaced key released stays released"
    spoil.edit(layout.SIGNERS, lambda text: text.replace(until, "- name: bob\n  until: 2020-01-01\n"))(root)
    keep(root, "and did not when he released it")
    assert [entry.version for entry in quarantines.held(root).entries] == ["v0.2.0"]


# A tag is anybody's

NAME = "azure-cli-router"


@pytest.mark.parametrize("remote", [False, True])
@pytest.mark.parametrize(
    ("verb", "tag"),
    [
        ("promote", f"{NAME}#production#3"),
        ("promote", f"{NAME}@v0.3.0"),
        ("rollback", f"{NAME}#production#3"),
        ("rollback", f"{NAME}@v0.1.0"),
        ("empty", f"{NAME}#production!#3"),
    ],
)
def test_a_squatted_tag_holds_up_no_move_and_is_reported(
    root: Path, tmp_path: Path, verb: str, tag: str, remote: bool
) -> None:
    if remote:
        ledger_tree.bare(tmp_path / "origin.git", root)
    home = tmp_path / "origin.git" if remote else root
    git(home, "tag", "--force", "-a", "-m", "x", tag, "main~1")
    to = {"to": "none"} if verb == "empty" else {}
    done: RolledBack | Promoted = move(root, "production") if verb == "promote" else back(root, **to)
    assert done.done == "moved"
    assert tag not in done.tags
    assert any(note.startswith(f"tag {tag}: was not created: ") for note in done.notes)
    assert any(line.startswith(f"tag {tag}: is foreign, no move made it") for line in status(root).contradictions)
    assert any(finding.what == f"tag {tag}" for finding in reconcile(root).findings)
