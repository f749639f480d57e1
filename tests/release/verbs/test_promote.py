"""promote: one commit moves an environment when nothing is lacking; again it changes nothing; a dry run writes nothing."""

import shutil
from pathlib import Path

import pytest

from checks.formats import placeholder_cards, pointer
from checks.process.errors import EvidenceRefused, PromotionRefused
from checks.storage import digest, layout
from release.image.layout import Layout
from release.ledger import disagreements
from release.promotion import context
from release.verbs import monitor
from release.verbs import promote as verb
from release.verbs.promote import Promoted, promote
from tests import ledger_tree, spoil
from tests import promotion_tree as tree
from tests.ledger_tree import git, keep, refs
from tests.overlay_sample import edit, watched
from tests.promotion_tree import Release, move

pytestmark = pytest.mark.slow

alone = tree.alone


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Release]:
    """A laptop: a clone without a remote, an image in an OCI layout, a local key. Read-only by custom."""
    root = tmp_path_factory.mktemp("laptop") / "work"
    root.mkdir()
    release = tree.make(root)
    return ledger_tree.packed(root), release


@pytest.fixture
def root(made: tuple[Path, Release], tmp_path: Path) -> Path:
    return tree.copy(made[0], tmp_path / "work folder ü")


@pytest.fixture
def released(made: tuple[Path, Release]) -> Release:
    return made[1]


def runs(root: Path, environment: str) -> pointer.Pointer | None:
    where = context.find(root)
    return where.ledger.pointer(where.tip, environment)


# The laptop's journey


def test_on_a_laptop_a_release_goes_to_staging_and_then_to_production(root: Path, released: Release) -> None:
    first = move(root, "staging")
    assert (first.done, first.before) == ("moved", None)
    assert "v0.1.0 lies in a folder of one machine: no cluster can pull it" in first.notes
    assert first.after == pointer.Pointer(
        model=released.report.model, commit=released.report.commit, version="v0.1.0", image=released.image,
        evidence=released.signed.evidence, verified="process",
    )  # fmt: skip
    second = move(root, "production", why="staging was quiet")
    assert second.after == first.after
    assert git(root, "log", "--format=%s", "-3") == (
        "promote production to v0.1.0\npromote staging to v0.1.0\nsigners and environments"
    )
    assert set(refs(root)) == {
        "refs/heads/main", "refs/tags/azure-cli-router@v0.1.0", "refs/tags/azure-cli-router#staging#1",
        "refs/tags/azure-cli-router#production#1",
    }  # fmt: skip
    for name in ("staging", "production"):
        folder = root / layout.ENVIRONMENTS / name
        assert pointer.parse((folder / layout.POINTER).read_bytes(), name) == first.after
        assert digest.of_bytes((folder / layout.EVIDENCE).read_bytes()) == released.signed.evidence
    assert (
        git(root, "status", "--porcelain")
        == "?? reports/image.json\n?? reports/serving.intoto.json\n?? reports/serving.json"
    )


def test_a_pointer_of_an_older_version_is_read_and_has_one_spelling(root: Path) -> None:
    moved = move(root, "staging").after
    assert moved is not None
    new = pointer.write(moved)
    assert new.endswith(b"\nverified: process\n")
    old = new.removesuffix(b"verified: process\n")
    assert pointer.parse(new, "x") == moved
    assert pointer.parse(old, "x") == moved.model_copy(update={"verified": None})
    assert pointer.write(pointer.parse(old, "x")) == old
    for other in (b"verified: None\n", b"verified: \n", b"verified: as served\n", b"verified: url\nverified: url\n"):
        with pytest.raises(EvidenceRefused):
            pointer.parse(old + other, "x")


def test_the_ledger_tells_who_moved_what_and_why(root: Path, released: Release) -> None:
    move(root, "staging", why="better on rare services\n\nLockstep-To: sha256:forged")
    where = context.find(root)
    (told,) = where.ledger.moves(where.tip, "staging")
    assert (told.kind, told.by, told.problem) == ("promote", "Ada <ada@example.org>", "")
    assert told.why == "better on rare services Lockstep-To: sha256:forged"
    assert (told.after and told.after.evidence) == released.signed.evidence
    assert disagreements(where.name, where.ledger.tags(), where.moves()) == []


def test_without_a_reason_the_record_says_why(root: Path) -> None:
    promote(root, "staging")
    where = context.find(root)
    assert where.ledger.moves(where.tip, "staging")[0].why == "signers and environments"


# Again, and dry


def test_again_it_changes_nothing_and_says_so(root: Path) -> None:
    move(root, "staging")
    before = refs(root)
    again = move(root, "staging")
    assert (again.done, again.commit, again.diff, again.tags) == ("already", before["refs/heads/main"], "", ())
    assert verb.refusal(again) is None
    assert refs(root) == before


def test_again_it_makes_tags_that_were_taken_away(root: Path) -> None:
    move(root, "staging")
    before = refs(root)
    git(root, "tag", "--delete", "azure-cli-router#staging#1")
    assert move(root, "staging").tags == ("azure-cli-router#staging#1",)
    assert refs(root).keys() == before.keys()


def test_again_it_writes_the_files_that_were_edited(root: Path) -> None:
    moved = move(root, "staging")
    path = root / layout.ENVIRONMENTS / "staging" / "release" / "deployment" / "kustomization.yaml"
    text = path.read_text()
    path.write_text(text + "namePrefix: evil-\n")
    (path.parent / "extra.yaml").write_text("kind: Secret\n")
    keep(root, "by hand")
    fixed = move(root, "staging")
    assert fixed.done == "repaired"
    assert len(fixed.notes) == 3
    assert path.read_text() == text
    assert not (path.parent / "extra.yaml").exists()
    assert runs(root, "staging") == moved.after
    assert move(root, "staging").done == "already"


def test_a_dry_run_asks_everything_shows_the_change_and_writes_nothing(root: Path) -> None:
    before = (refs(root), git(root, "count-objects"), git(root, "status", "--porcelain"))
    planned = move(root, "staging", dry_run=True)
    assert planned.done == "planned"
    assert verb.refusal(planned) is None
    assert [check.about for check in planned.checks] == [
        "environment", "previous", "image", "evidence", "quarantine", "emergency", "record", "verdict", "policy", "sealed",
        "serving", "weights", "layers", "version", "edits", "approvals",
    ]  # fmt: skip
    assert "+version: v0.1.0" in planned.diff
    assert "staging/evidence.json: new" in planned.diff
    assert planned.tags == ("azure-cli-router@v0.1.0", "azure-cli-router#staging#1")
    assert (refs(root), git(root, "count-objects"), git(root, "status", "--porcelain")) == before
    assert Promoted.model_validate_json(planned.model_dump_json()) == planned


def test_a_dry_run_tells_every_gap_and_its_refusal_too(root: Path) -> None:
    tree.rewrite(root, layout.PARAMS, lambda plain: plain["promote"]["environments"]["staging"].update(approvals=2))
    planned = move(root, "staging", dry_run=True)
    refused = verb.refusal(planned)
    assert isinstance(refused, PromotionRefused)
    assert [check.about for check in planned.checks if check.failures] == ["approvals"]


def test_all_gaps_are_told_at_once(root: Path, released: Release) -> None:
    def edit(plain: dict) -> None:
        plain["promote"]["environments"]["staging"] |= {"approvals": 1, "verified": ["container"], "runtimes": ["tgi"]}

    tree.rewrite(root, layout.PARAMS, edit)
    (root / layout.ENVIRONMENTS / "staging" / "kustomization.yaml").write_text("resources: []\n")
    keep(root, "edit")
    with pytest.raises(PromotionRefused) as refused:
        move(root, "staging")
    lines = [str(refused.value), *refused.value.others]
    wanted = ("served by", "verified as a", "of the runtime", "run `lockstep render staging`", "0 of 1")
    assert len(lines) == len(wanted)
    for line, words in zip(lines, wanted, strict=True):
        assert words in line
        assert "\n" not in line


# Which image, which version


def test_the_next_model_is_the_next_version_and_moves_follow_in_order(root: Path) -> None:
    first = move(root, "staging").after
    assert move(root, "production").after == first
    second = tree.next_model(root, 7)
    with pytest.raises(PromotionRefused, match=r"staging runs v0\.1\.0 .*, not "):
        move(root, "production", image=second.image)
    assert move(root, "production").done == "already"
    moved = move(root, "staging").after
    assert moved is not None
    assert (moved.version, moved.image) == ("v0.2.0", second.image)
    assert move(root, "production").after == moved


@pytest.mark.parametrize(
    ("options", "version"), [({"version": "v2.5.1"}, "v2.5.1"), ({"bump": "major"}, "v1.0.0"), ({}, "v0.2.0")]
)
def test_a_version_is_chosen_or_the_next(root: Path, options: dict, version: str) -> None:
    move(root, "staging")
    tree.next_model(root, 7)
    moved = move(root, "staging", **options)
    assert (moved.after and moved.after.version) == version


def test_a_version_is_of_one_image(root: Path) -> None:
    move(root, "staging")
    with pytest.raises(PromotionRefused, match=r"version v3.0.0: this image is v0.1.0 already"):
        move(root, "production", version="v3.0.0")
    tree.next_model(root, 7)
    with pytest.raises(PromotionRefused, match=r"version v0.1.0: is the image sha256"):
        move(root, "staging", version="v0.1.0")
    with pytest.raises(PromotionRefused, match="no pointer can name it: version"):
        move(root, "staging", version="1.2")


def test_a_tag_names_no_image(root: Path, released: Release) -> None:
    with pytest.raises(PromotionRefused, match="names no digest, and a tag can be moved"):
        move(root, "staging", image=f"{released.report.place}:{released.report.model[7:19]}")


def test_production_waits_for_staging(root: Path) -> None:
    with pytest.raises(PromotionRefused, match="staging runs nothing"):
        move(root, "production")


def test_an_unknown_environment_is_named(root: Path) -> None:
    with pytest.raises(
        EvidenceRefused, match=r"'canary': params.yaml of main names no such one; use one of staging, pro"
    ):
        move(root, "canary")


def test_without_a_build_there_is_nothing_to_promote(root: Path) -> None:
    (root / layout.IMAGE_REPORT).unlink()
    with pytest.raises(EvidenceRefused, match=r"image.json: .*; run `lockstep build`, or name an image"):
        move(root, "staging")


# What it needs, and what it does not


def test_a_clone_without_the_weights_reads_them_in_the_store(root: Path) -> None:
    shutil.rmtree(root / layout.MERGED)
    found = move(root, "staging", dry_run=True)
    assert verb.refusal(found) is None
    assert any("read from" in check.note for check in found.checks if check.about == "weights")
    assert move(root, "staging").done == "moved"


def test_production_needs_no_data_no_model_and_no_reports_here(root: Path) -> None:
    move(root, "staging")
    for name in ("models", "data", "reports"):
        shutil.rmtree(root / name)
    assert move(root, "production").done == "moved"


def test_weights_alone_are_promoted_where_people_name_their_server(tmp_path: Path) -> None:
    root = tmp_path / "work"
    root.mkdir()
    tree.make(root, base=False)
    assert move(root, "staging").done == "moved"
    assert move(root, "production").done == "moved"


def test_a_release_whose_cards_are_placeholders_goes_nowhere_until_they_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree.prepare(tmp_path)
    cards = placeholder_cards.PLACEHOLDERS
    for path, text in cards.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    (tmp_path / layout.PARAMS).open("a").write("# ours\n")
    keep(tmp_path, "a record, with the cards of init")
    with monkeypatch.context() as older:  # as a version that did not look would have built it
        older.setattr(placeholder_cards, "PLACEHOLDERS", {})
        tree.release(tmp_path)
    with pytest.raises(PromotionRefused, match=r"docs/cards/model\.md:1: is a placeholder of `lockstep init`"):
        move(tmp_path, "staging")
    for path, text in cards.items():
        (tmp_path / path).write_text(text.replace("TODO:", "Ours:"))
    keep(tmp_path, "cards")
    tree.release(tmp_path)
    moved = move(tmp_path, "staging")
    assert moved.after is not None
    assert git(tmp_path, "show", "--no-patch", "--format=%s", moved.after.commit) == "cards"


def test_alerts_that_nobody_generated_stop_a_promotion_until_the_command_writes_them(root: Path) -> None:
    watched(root / layout.ENVIRONMENTS, root, "staging")
    spoil.replace("staging/monitoring/prometheusrule.yaml", "> 0.144", "> 0.9")(root / layout.ENVIRONMENTS)
    keep(root, "by hand")
    refused = (
        r"staging/monitoring/\S+: is not what the section monitor gives: `lockstep monitor component staging` writes it"
    )
    with pytest.raises(PromotionRefused, match=refused):
        move(root, "staging")
    monitor.write_component(root, "staging")
    tree.rewrite(root, layout.PARAMS, lambda plain: plain.update(monitor={"objectives": {"availability": 0.95}}))
    with pytest.raises(PromotionRefused, match=refused):
        move(root, "staging")
    monitor.write_component(root, "staging")
    keep(root, "generated")
    assert move(root, "staging").done == "moved"


def test_a_scaler_that_came_since_the_last_move_is_warned_of_until_the_next(root: Path) -> None:
    def warned(done: Promoted) -> bool:
        return any("hand the number over first, else it falls to 1" in note for note in done.notes)

    assert not warned(move(root, "staging"))
    edit(root / layout.ENVIRONMENTS, "staging", lambda knobs: knobs.update(replicas=None))
    keep(root, "scale it")
    tree.next_model(root, 11)
    (note,) = [note for note in move(root, "staging").notes if "scaler" in note]
    assert "kubectl -n model-staging apply --server-side --field-manager=handover -f -" in note
    tree.next_model(root, 12)
    assert not warned(move(root, "staging"))


# With a remote


@pytest.fixture
def work(root: Path) -> Path:
    ledger_tree.bare(root.parent / "origin.git", root)
    return root


def test_with_a_remote_its_branch_is_moved_and_nothing_here(work: Path) -> None:
    before = refs(work)
    moved = move(work, "staging")
    assert "main of this clone is behind main of origin: `git switch main && git pull`" in moved.notes
    assert refs(work) == before
    there = refs(work.parent / "origin.git")
    assert there["refs/heads/main"] == moved.commit
    assert "refs/tags/azure-cli-router@v0.1.0" in there
    assert not (work / layout.ENVIRONMENTS / "staging" / layout.POINTER).exists()
    assert move(work, "production").done == "moved"


def _in_another_repository(root: Path) -> None:
    """From now on the environments are those of branch live of live.git, beside ``root``."""
    other = root.parent / "environments"
    git(root.parent, "init", "--quiet", "--initial-branch=live", str(other))
    ledger_tree.identify(other, "Eve")
    shutil.copytree(root / layout.ENVIRONMENTS, other / layout.ENVIRONMENTS)
    (other / layout.PARAMS).write_text("promote: {}\n")  # of no account
    keep(other, "environments")
    git(root.parent, "clone", "--quiet", "--bare", str(other), str(root.parent / "live.git"))
    tree.rewrite(
        root, layout.PARAMS,
        lambda plain: plain["promote"].update(repository=str(root.parent / "live.git"), branch="live"),
    )  # fmt: skip


def test_environments_in_another_repository_keep_the_rules_of_this_one(root: Path) -> None:
    _in_another_repository(root)
    before = refs(root)
    assert move(root, "staging").done == "moved"
    assert move(root, "production").done == "moved"
    assert refs(root) == before
    assert git(root.parent / "live.git", "log", "--format=%s", "-1", "live") == "promote production to v0.1.0"


def test_what_environments_in_another_repository_run_stays_in_the_layout(root: Path, released: Release) -> None:
    _in_another_repository(root)
    move(root, "staging")
    tree.next_model(root, 5)
    assert move(root, "staging").done == "moved"
    shutil.rmtree(root.parent / "live.git")  # nobody says any more what runs: all stays
    tree.next_model(root, 6)
    assert Layout(root / layout.IMAGE).document(released.digest)


def test_rules_are_read_on_the_remote_and_not_in_the_clone(work: Path) -> None:
    """The clone was fetched before the rule was tightened."""
    other = ledger_tree.clone(work.parent / "other", str(work.parent / "origin.git"), "Bob")
    tree.rewrite(other, layout.PARAMS, lambda plain: plain["promote"]["environments"]["staging"].update(approvals=1))
    git(other, "push", "--quiet")
    with pytest.raises(PromotionRefused) as refused:
        move(work, "staging")
    assert "0 of 1 approvals" in str([str(refused.value), *refused.value.others])
