"""rollback: back to what ran, by one commit, with what was bad held back; quarantine: released by name; drill."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from checks import digest, layout, params_file, pointer, quarantine
from checks.errors import EvidenceRefused, MachineRefused, PromotionRefused, Refusal, RegistryRefused
from checks.statement import ENVELOPE
from release import drill as drills
from release import keys as key_verbs
from release import quarantine as quarantines
from release import rollback as verb
from release.edits import kustomize
from release.ledger import disagreements
from release.oci.layout import Layout
from release.promotion import site
from release.rollback import Options, RolledBack, rollback
from release.signing import attach
from release.status import status
from tests import kubernetes_tools, ledger_tree
from tests import promotion_tree as tree
from tests.build_tree import BaseLayout
from tests.ledger_tree import git, keep, refs
from tests.promotion_tree import Release, move

pytestmark = pytest.mark.slow

alone, trio, root, releases = tree.alone, tree.trio, tree.root, tree.releases
BAD = "answers in French"


def back(root: Path, environment: str = "production", why: str = BAD, **options: Any) -> RolledBack:
    return rollback(root, environment, Options(why=why, **options))


def runs(root: Path, environment: str = "production") -> pointer.Pointer | None:
    where = site.find(root)
    return where.ledger.pointer(where.tip, environment)


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
    assert done.after.image == releases[0].image
    assert "v0.1.0 lies in a folder of one machine: no cluster can pull it" in done.notes
    assert (done.after.version, done.after.evidence) == ("v0.1.0", releases[0].signed.evidence)
    where = site.find(root)
    assert where.ledger.quarantine(where.tip) == (
        quarantine.Entry(
            image=releases[1].digest, model=releases[1].report.model, version="v0.2.0", by="Ada <ada@example.org>", why=BAD
        ),
    )  # fmt: skip
    last = where.ledger.moves(where.tip, "production")[0]
    assert (last.kind, last.why, last.number, last.problem) == ("rollback", BAD, 3, "")
    assert "refs/tags/azure-cli-router#production#3" in refs(root)
    assert disagreements(where.name, where.ledger.tags(), where.moves()) == []
    evidence = (root / layout.ENVIRONMENTS / "production" / layout.EVIDENCE).read_bytes()
    assert digest.of_bytes(evidence) == done.after.evidence
    assert git(root, "status", "--porcelain", "--", "release") == ""


def edited(root: Path, old: str, new: str) -> None:
    path = root / layout.ENVIRONMENTS / "base/deployment.yaml"
    path.write_text(path.read_text().replace(old, new))
    keep(root, "by hand")


def test_without_kustomize_files_that_the_last_move_built_are_enough_and_others_are_not(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kubernetes_tools.needs_kustomize()
    edited(root, "memory: 8Gi", "memory: 9Gi")
    move(root, "production")
    with monkeypatch.context() as context:
        context.setattr(kustomize, "PROGRAM", "no-such-program")
        done = back(root, dry_run=True)
        (check,) = [check for check in done.checks if check.about == "edits"]
        assert check.note == "kustomize is not installed: the files are those that the last move built"
        assert verb.refusal(done) is None
        drift = [found for state in status(root).environments for found in state.drift]
        assert {(found.severity, found.what) for found in drift} == {
            ("unreachable", "staging: overlay"), ("unreachable", "production: overlay"),
        }  # fmt: skip
        with pytest.raises(MachineRefused, match=r"kustomize is not installed.*; install kustomize"):
            move(root, "staging", image=runs_image(root, "v0.1.0"))
        edited(root, "memory: 9Gi", "memory: 10Gi")
        with pytest.raises(MachineRefused, match=r"nor those of the last move; .* or restore the files of that move"):
            back(root)
    assert back(root).done == "moved"


def test_another_environment_s_files_do_not_stop_a_rollback_and_stop_a_promotion(root: Path) -> None:
    path = root / layout.ENVIRONMENTS / "staging/kustomization.yaml"
    path.write_text(path.read_text().replace("model-staging", "model-production"))
    keep(root, "by hand")
    with pytest.raises(PromotionRefused, match="'model-production' is the namespace of staging too"):
        move(root, "production")
    assert [found.what for state in status(root).environments for found in state.drift] == [
        "staging: overlay", "production: overlay",
    ]  # fmt: skip
    assert back(root).done == "moved"


def test_what_is_held_back_is_promoted_nowhere_until_it_is_released_by_name(root: Path) -> None:
    back(root)
    with pytest.raises(PromotionRefused) as refused:
        move(root, "production", image=runs_image(root, "v0.2.0"))
    assert "is in quarantine with v0.2.0, by Ada <ada@example.org>: answers in French" in "".join(refused.value.others)
    freed = quarantines.release(root, "v0.2.0", "the French was a joke")
    assert [entry.version for entry in freed.entries] == ["v0.2.0"]
    assert quarantines.held(root) == ()
    assert git(root, "log", "-1", "--format=%B", "main") == "release v0.2.0 from quarantine\n\nthe French was a joke"
    with pytest.raises(EvidenceRefused, match=r"v0.2.0: is not in quarantine"):
        quarantines.release(root, "v0.2.0", "again")


def runs_image(root: Path, version: str) -> str:
    where = site.find(root)
    return next(move.after.image for move in where.moves() if move.after and move.after.version == version)


def test_the_same_again_as_after_a_crash_does_not_go_back_twice(root: Path) -> None:
    done = back(root)
    before = refs(root)
    again = back(root)
    assert (again.done, again.after) == ("already", done.after)
    assert refs(root) == before


def test_a_second_rollback_is_one_that_is_named(root: Path) -> None:
    move(root, "production")
    assert back(root).after.version == "v0.2.0"
    refused(
        root, "production was rolled back from v0.3.0 already, by Ada <ada@example.org>: answers in French", why="so"
    )
    assert back(root, why="this one too", to="v0.1.0").after.version == "v0.1.0"
    assert [entry.version for entry in quarantines.held(root)] == ["v0.3.0", "v0.2.0"]


@pytest.mark.parametrize("name", ["version", "digest", "image"])
def test_it_goes_to_what_is_named(root: Path, releases: tuple[Release, ...], name: str) -> None:
    named = {"version": "v0.1.0", "digest": releases[0].digest, "image": releases[0].image}[name]
    assert back(root, to=named).after.image == releases[0].image


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
    assert (done.before, done.held, done.after.version) == (None, None, "v0.2.0")
    assert len([note for note in done.notes if "is not the lines" in note]) == 1
    where = site.find(root)
    assert where.ledger.moves(where.tip, "production")[0].kind == "rollback"


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
    assert isinstance(refused(root, "is not there, or not whole; push the image again"), RegistryRefused)
    assert back(root, check_image=False).done == "moved"


def test_an_image_that_a_build_dropped_is_named(tmp_path: Path, root: Path) -> None:
    shutil.rmtree(root / layout.IMAGE)
    refused(root, "is no OCI layout")


def test_images_that_environments_run_are_kept_by_later_builds(root: Path, releases: tuple[Release, ...]) -> None:
    """Production ran the second when the third was built."""
    assert move(root, "production").done == "moved"
    assert back(root).after.image == releases[1].image


def test_a_signer_who_left_signs_for_nothing_old_either(root: Path) -> None:
    text = (root / layout.SIGNERS).read_text()
    (root / layout.SIGNERS).write_text(text[text.index("- name: bob") :])
    keep(root, "ada has left")
    refused(root, "that is unknown here; go --to another release, or sign this one again in a checkout of")


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
    assert done.after.evidence == digest.of_bytes(data)
    assert done.after.evidence != releases[0].signed.evidence


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
    refused(root, "staging: there is nothing to go back to: nothing else ran there", "staging")


def test_without_a_reason_nothing_is_rolled_back_or_released(root: Path) -> None:
    refused(root, "a rollback without a reason", why=" \n ")
    back(root)
    with pytest.raises(PromotionRefused, match="a release without a reason"):
        quarantines.release(root, "v0.2.0", "\t")


def test_an_overlay_that_people_made_speak_of_the_image_is_told(root: Path) -> None:
    path = root / layout.ENVIRONMENTS / "production" / "kustomization.yaml"
    path.write_text(path.read_text() + "images:\n  - {name: x, newName: evil}\n")
    keep(root, "by hand")
    refused(root, "images: only lockstep.invalid/server may be given, by digest")


@pytest.mark.parametrize("name", ["v9.9.9", f"sha256:{'9' * 64}", "\x1b[31mred"])
def test_only_what_is_held_back_is_released(root: Path, name: str) -> None:
    back(root)
    with pytest.raises(EvidenceRefused, match="is not in quarantine") as found:
        quarantines.release(root, name, "why not")
    assert str(found.value).isprintable()


# A drill


def test_a_drill_goes_back_and_forward_in_a_scratch_clone_and_leaves_nothing(root: Path, tmp_path: Path) -> None:
    ledger_tree.bare(tmp_path / "origin.git", root)
    before = (refs(root), refs(tmp_path / "origin.git"), git(root, "status", "--porcelain"))
    scratch = {*Path("/tmp").glob("lockstep-drill-*")}
    done = drills.drill(root, "production")
    assert (done.before.version, done.to.version) == ("v0.2.0", "v0.1.0")
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
    assert drills.drill(root, "staging").to.version == "v0.2.0"
    assert refs(root) == before


def test_a_drill_tells_what_a_rollback_would_be_refused_for(root: Path, releases: tuple[Release, ...]) -> None:
    cut(root, releases)
    with pytest.raises(RegistryRefused, match="is not there, or not whole"):
        drills.drill(root, "production")
