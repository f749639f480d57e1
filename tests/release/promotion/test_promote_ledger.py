"""Environments, moves, quarantine, approvals and tags that were tampered with promote nothing; approvals count once."""

import base64
import json
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from checks.formats import pointer
from checks.formats.serving import ImageReport
from checks.formats.statement import PAYLOAD
from checks.process.errors import EvidenceRefused, Outrun, PromotionRefused, Refusal, RemoteRefused
from checks.storage import files, layout
from checks.storage.digest import canonical_json
from release.adapters import pin
from release.cli import main
from release.evidence import attach, dsse, keys, sigstore, statement, trust
from release.ledger import Ledger
from release.overlay import overlays
from release.promotion import context
from release.promotion.environment import approvals_folder
from release.record import installed_code
from release.serving.options import VerifyOptions
from release.verbs import admission as admissions
from release.verbs import approve as verb
from release.verbs import checkpoint as checkpoints
from release.verbs import evidence as evidence_verb
from release.verbs import keys as key_verbs
from release.verbs import quarantine as quarantines
from release.verbs import rollback as rollbacks
from release.verbs import sealed
from release.verbs import verify as verifying
from tests import git_service, ledger_tree, spoil
from tests import promotion_tree as tree
from tests.build_tree import BaseLayout
from tests.effort import EXHAUSTIVE
from tests.ledger_tree import git, keep, refs
from tests.promotion_tree import Release, key, move, rewrite

pytestmark = pytest.mark.slow

alone = tree.alone
Tamper = Callable[[Path], object]
OTHER = f"sha256:{'9' * 64}"
STAGING, PRODUCTION = (layout.ENVIRONMENTS / name for name in ("staging", "production"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Release]:
    """A laptop with one release, not promoted yet. Read-only by custom."""
    root = tmp_path_factory.mktemp("made") / "work"
    release = tree.make(root)
    return ledger_tree.packed(root), release


@pytest.fixture(scope="module")
def moved(made: tuple[Path, Release], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, once staging runs it."""
    root = tree.copy(made[0], tmp_path_factory.mktemp("moved") / "work")
    with pytest.MonkeyPatch.context() as patch:
        tree.leave_alone(patch)
        move(root, "staging")
    return ledger_tree.packed(root)


@pytest.fixture
def fresh(made: tuple[Path, Release], tmp_path: Path) -> Path:
    return tree.copy(made[0], tmp_path / "fresh")


@pytest.fixture
def root(moved: Path, tmp_path: Path) -> Path:
    return tree.copy(moved, tmp_path / "work")


def refused(root: Path, *causes: str, environment: str = "production", **options: Any) -> Refusal:
    """It is refused for these reasons, in lines for people, and no ref has moved."""
    before = refs(root)
    with pytest.raises(Refusal) as found:
        move(root, environment, **options)
    lines = [str(found.value), *found.value.others]
    assert [cause for cause in causes if cause not in "\n".join(lines)] == []
    assert all(line.isprintable() for line in lines), lines
    assert refs(root) == before
    return found.value


def rule(root: Path, environment: str = "production", **change: Any) -> None:
    rewrite(root, layout.PARAMS, lambda plain: plain["promote"]["environments"][environment].update(change))


# Environments


RENDERED = "production/kustomization.yaml: is not what environment.yaml gives: run `lockstep render production`"
ENVIRONMENTS: dict[str, tuple[Tamper, str]] = {
    "a file of the release is edited": (
        spoil.edit(STAGING / overlays.DEPLOYMENT, lambda text: text.replace("[]", "[evil.yaml]")),
        "staging/release/deployment/kustomization.yaml: line 4 is 'resources: [evil.yaml]', a promotion writes",
    ),
    "a file of the release more": (spoil.write(STAGING / "release/deployment/evil.yaml", "kind: Pod\n"), "evil.yaml: no promotion writes it"),
    "a file of the release less": (spoil.remove(STAGING / overlays.KSERVE), "kserve/kustomization.yaml: is missing"),
    "a link in the release": (spoil.link(STAGING / overlays.SERVER, "../../../params.yaml"), "server.yaml at"),
    "evidence of something else": (spoil.write(STAGING / layout.EVIDENCE, "{}"), "the pointer names sha256:"),
    "no evidence": (spoil.remove(STAGING / layout.EVIDENCE), "evidence.json: is missing"),
    "another version in the pointer": (spoil.edit(STAGING / layout.POINTER, lambda text: text.replace("v0.1.0", "v9.0.0")), "server.yaml: line 2 is"),
    "another place in the pointer": (
        spoil.edit(STAGING / layout.POINTER, lambda text: text.replace("oci:.lockstep/image", "oci:.lockstep/other")),
        "is not an OCI layout",
    ),
    "another image in the pointer": (
        spoil.edit(STAGING / layout.POINTER, lambda text: f"{text.partition('@')[0]}@{OTHER}\nevidence: {OTHER}\n"),
        "is absent, or is not a manifest",
    ),
    "a pointer that is none": (spoil.write(STAGING / layout.POINTER, "image: evil\n"), "is not the lines model, commit"),
    "a pointer that is a link": (spoil.link(STAGING / layout.POINTER, "../../../params.yaml"), "pointer.yaml at"),
    "an image named by people": (
        spoil.edit(PRODUCTION / "kustomization.yaml", lambda text: f"{text}images:\n  - {{name: server, newName: evil}}\n"),
        RENDERED,
    ),
    "a command in a patch": (
        spoil.edit(PRODUCTION / "kustomization.yaml", lambda text: text.replace("/spec/replicas", "/spec/template/spec/containers/0/command")),
        RENDERED,
    ),
    "a resource from elsewhere": (
        spoil.edit(PRODUCTION / "kustomization.yaml", lambda text: text.replace("- release/deployment", "- release/deployment\n- https://evil.example/x.yaml")),
        RENDERED,
    ),
    "an image in what environments share": (
        spoil.edit(layout.ENVIRONMENTS / "base/objects.yaml", lambda text: text.replace("lockstep.invalid/server", "evil.example/x")),
        "base/objects.yaml: is not the file that Lockstep ships",
    ),
    "no kustomization": (spoil.remove(PRODUCTION / "kustomization.yaml"), RENDERED),
    "no knobs": (spoil.remove(PRODUCTION / "environment.yaml"), "production/environment.yaml: is missing"),
    "a link among the environments": (spoil.link(PRODUCTION / "link.yaml", "../../../params.yaml"), "link.yaml at"),
}  # fmt: skip


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_an_environment_that_was_tampered_with_promotes_nothing(root: Path, name: str) -> None:
    tamper, cause = ENVIRONMENTS[name]
    tamper(root)
    keep(root, "by hand")
    refused(root, cause)


def test_the_same_digest_of_another_place_is_not_what_staging_runs(root: Path, made: tuple[Path, Release]) -> None:
    shutil.copytree(root / layout.IMAGE, root / layout.STATE / "copy")
    refused(root, "staging runs v0.1.0 (oci:.lockstep/image@", image=f"oci:.lockstep/copy@{made[1].digest}")


def test_a_tampered_environment_takes_no_new_release_until_it_is_written_again(root: Path) -> None:
    present = (root / STAGING / layout.POINTER).read_text().split("image: ")[1].split("\n")[0]
    ENVIRONMENTS["a file of the release is edited"][0](root)
    keep(root, "by hand")
    tree.next_model(root, 12)
    refused(root, f"`lockstep promote staging --image {present}` writes it again", environment="staging")
    assert move(root, "staging", image=present).done == "repaired"
    assert move(root, "staging").done == "moved"


# Moves


def restored(root: Path, message: str) -> None:
    """Staging moves on, and a hand brings back what it ran."""
    old = git(root, "rev-parse", "HEAD")
    tree.next_model(root, 12)
    move(root, "staging")
    git(root, "rm", "-r", "--quiet", str(STAGING))
    git(root, "checkout", old, "--", str(STAGING))
    keep(root, message)


def test_a_move_by_hand_counts_from_its_own_time_and_is_told(root: Path) -> None:
    restored(root, "Back to the first")
    planned = move(root, "production", dry_run=True)
    assert [check.failures for check in planned.checks if check.failures] == []
    assert any("moved there by hand" in check.note for check in planned.checks)


def test_a_move_whose_message_lies_does_not_count(root: Path) -> None:
    lies = "\n".join(
        f"Lockstep-{name}: {value}"
        for name, value in (
            ("Move", "production#1"), ("Kind", "promote"), ("From", "none"), ("To", OTHER), ("Evidence", OTHER)
        )
    )  # fmt: skip
    restored(root, f"promote staging\n\nwhy\n\n{lies}")
    refused(root, "its message is about production#1")


def test_soaking_takes_its_time(root: Path) -> None:
    rule(root, soak_hours=1.5)
    refused(root, "staging runs it for 0.0 of 1.5 hours; wait until")


@pytest.mark.parametrize(
    ("days", "cause"),
    [(3, "which is in the future"), (-10, "staging runs it for 0.0 of 24 hours"), (-9000, "for 0.0 of 24 hours")],
)
def test_a_forged_time_does_not_shorten_the_soak(
    fresh: Path, monkeypatch: pytest.MonkeyPatch, days: int, cause: str
) -> None:
    rule(fresh, soak_hours=24)
    for name in ("GIT_COMMITTER_DATE", "GIT_AUTHOR_DATE"):
        monkeypatch.setenv(name, f"@{int(time.time()) + days * 86400} +0000")
    move(fresh, "staging")
    monkeypatch.delenv("GIT_COMMITTER_DATE")
    monkeypatch.delenv("GIT_AUTHOR_DATE")
    refused(fresh, cause)


# Quarantine


@pytest.fixture(scope="module")
def regretted(moved: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first release went to production, a second one too, and that was bad. Read-only by custom."""
    root = tree.copy(moved, tmp_path_factory.mktemp("regretted") / "work")
    with pytest.MonkeyPatch.context() as patch:
        tree.leave_alone(patch)
        move(root, "production")
        tree.next_model(root, 12)
        move(root, "staging")
        move(root, "production")
        rollbacks.rollback(root, "production", why="answers in French")
    return ledger_tree.packed(root)


@pytest.fixture
def held(regretted: Path, tmp_path: Path) -> Path:
    return tree.copy(regretted, tmp_path / "held")


def test_what_is_in_quarantine_is_promoted_neither_again_nor_under_another_tag(held: Path) -> None:
    refused(held, "is in quarantine with v0.2.0, by Ada <ada@example.org>: answers in French")
    git(held, "tag", "good@v1.0.0")
    refused(held, "is in quarantine with v0.2.0", version="v7.0.0")


def test_the_quarantine_is_listed_where_nobody_may_sign_and_says_so(root: Path) -> None:
    quarantines.add(root, "v0.1.0", "answers in French")
    git(root, "rm", "--quiet", str(layout.SIGNERS))
    keep(root, "no signers")
    rule(root, approvals=1)
    shown = CliRunner().invoke(main, ["-C", str(root), "quarantine"])
    assert shown.exit_code == 0, shown.output
    assert "v0.1.0" in shown.stdout
    assert "note: main has no release/policy/signers.yaml: nobody may sign; `./lockstep keys new` makes" in shown.stdout
    refusal = CliRunner().invoke(main, ["-C", str(root), "quarantine", "--release", "v0.1.0", "--why", "a joke"])
    assert refusal.exit_code == 8
    assert "signers.yaml: is missing, so nobody may sign" in refusal.stderr


def test_what_runs_and_is_in_quarantine_is_not_promoted_again(root: Path) -> None:
    """It said "already" and wrote the files of the release again."""
    quarantines.add(root, "v0.1.0", "answers in French")
    for dry in (False, True):
        with pytest.raises(
            PromotionRefused, match=r"staging stays as it is; `lockstep rollback staging` leaves .* is in quarantine"
        ):
            move(root, "staging", dry_run=dry)
    quarantines.release(root, "v0.1.0", "the French was a joke")
    assert move(root, "staging").done == "already"


def test_what_is_in_quarantine_is_not_promoted_inside_another_image(held: Path) -> None:
    home = BaseLayout(held / layout.STATE / "other")
    pinned = home.tag(home.image(layers=3), "1").removeprefix(f"oci:{held}/")
    rewrite(held, layout.PARAMS, lambda plain: plain["serve"].update(base=f"oci:{pinned}"))
    tree.release(held)
    refused(held, ", in another image: is in quarantine with v0.2.0, by Ada", environment="staging")
    quarantines.release(held, "v0.2.0", "the French was a joke")
    assert move(held, "staging").done == "moved"


@pytest.mark.parametrize("text", ["", "- image: x\n"])
def test_a_quarantine_that_cannot_be_read_holds_everything_back(held: Path, text: str) -> None:
    quarantines.release(held, "v0.2.0", "the French was a joke")
    (held / layout.QUARANTINE).write_text(text)
    keep(held, "by hand")
    refused(held, "quarantine.yaml at")


# Approvals


def says(root: Path, who: str, environment: str = "production", image: str | None = None, why: str = "yes") -> bytes:
    """An approval, as its owner would sign it."""
    image = image or _staged(root).digest
    return trust.signatory(key(root, who), trust.known(root), "approve").sign(
        statement.approve(environment, image, why)
    )


def _staged(root: Path) -> pointer.Pointer:
    where = context.find(root)
    found = where.ledger.pointer(where.tip, "staging")
    assert found is not None
    return found


def put(root: Path, **files: bytes) -> None:
    """Approvals beside production's pointer, whatever they are."""
    folder = root / approvals_folder("production", _staged(root).digest)
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / f"{name}.json").write_bytes(data)
    keep(root, "approvals")


def unknown(root: Path) -> bytes:
    text = statement.approve("production", _staged(root).digest, "yes")
    return dsse.sign(text, PAYLOAD, keys.load(key(root, "mallory")))


APPROVALS: dict[str, tuple[Callable[[Path], bytes], str]] = {
    "the same person twice": (lambda root: says(root, "bob", why="yes again"), "bob approved already"),
    "who signed the release": (lambda root: says(root, "ada"), "ada signed the release and so cannot approve it"),
    "of another image": (lambda root: says(root, "cara", image=OTHER), "is about another image"),
    "for another environment": (lambda root: says(root, "cara", "staging"), "is for 'staging', not 'production'"),
    "by a key that nobody knows": (unknown, "that is unknown here"),
    "a release as an approval": (lambda root: (root / STAGING / layout.EVIDENCE).read_bytes(), "predicateType is 'urn:lockstep:release:v1', not urn:lockstep:approval:v1"),
    "no envelope": (lambda _: b"yes", "is not JSON"),
}  # fmt: skip


@pytest.mark.parametrize("name", APPROVALS)
def test_what_is_no_approval_does_not_count(root: Path, name: str) -> None:
    make, cause = APPROVALS[name]
    rule(root, approvals=2)
    put(root, bob=says(root, "bob"), cara=make(root))
    refused(root, "it has 1 of 2 (bob) approvals; `lockstep approve production` by people who may", cause)


def test_two_people_approve_and_it_is_promoted(root: Path) -> None:
    rule(root, approvals=2)
    refused(root, "it has 0 of 2 approvals")
    first = verb.approve(root, "production", key(root, "bob"), "looked at the answers")
    assert (first.done, first.signer, first.required) == ("approved", "bob", 2)
    again = verb.approve(root, "production", key(root, "bob"), "looked at the answers")
    assert (again.done, again.commit) == ("already", first.commit)
    refused(root, "it has 1 of 2 (bob) approvals")
    verb.approve(root, "production", key(root, "cara"), "me too")
    assert git(root, "log", "-1", "--format=%s%n%b", "main").startswith("approve sha256:")
    assert move(root, "production").done == "moved"
    folder = root / approvals_folder("production", _staged(root).digest)
    assert sorted(path.name for path in folder.iterdir()) == ["bob.json", "cara.json"]


def test_an_approval_counts_for_one_move(root: Path) -> None:
    rule(root, approvals=1)
    first = _staged(root)
    verb.approve(root, "production", key(root, "bob"), "yes")
    move(root, "production")
    old = (root / approvals_folder("production", first.digest) / "bob.json").read_bytes()
    tree.next_model(root, 12)
    move(root, "staging")
    verb.approve(root, "production", key(root, "bob"), "yes")
    move(root, "production")
    assert not (root / approvals_folder("production", first.digest)).exists()
    rollbacks.rollback(root, "staging", why="a try")
    quarantines.release(root, "v0.2.0", "it was a try", key(root, "cara"))
    put(root, bob=old)
    refused(root, "was used up by an earlier move: approve again, with a new reason")
    put(root, bob=says(root, "bob", why="yes"))
    refused(root, "was used up by an earlier move")
    with pytest.raises(PromotionRefused, match="with an approval for the same reason; give a new reason"):
        verb.approve(root, "production", key(root, "bob"), "yes")
    verb.approve(root, "production", key(root, "bob"), "yes, once more")
    assert move(root, "production").after == first


# Those that need no record of the past run the code that the target branch has now.
DECIDING: dict[str, Callable[[Path], object]] = {
    "approve": lambda root: verb.approve(root, "production", key(root, "bob"), "yes"),
    "rollback": lambda root: rollbacks.rollback(root, "staging", why="slow", to="none"),
    "quarantine": lambda root: quarantines.add(root, "v0.1.0", "slow"),
    "quarantine --release": lambda root: quarantines.release(root, "v0.1.0", "fast"),
    "checkpoint": lambda root: checkpoints.checkpoint(root, key(root, "ada")),
    "admission": lambda root: admissions.admission(root, "staging", "kubernetes"),
}
OF_A_RECORD: dict[str, Callable[[Path], object]] = {
    "promote": lambda root: move(root, "production"),
    "promote --dry-run": lambda root: move(root, "production", dry_run=True),
    "sign": lambda root: tree.signed(root, files.read_json(root / layout.IMAGE_REPORT, ImageReport)),
    "verify --key": lambda root: verifying.verify(root, VerifyOptions(), trust.Signatory(None, ())),
    "sealed ask": lambda root: sealed.ask(root, key(root, "ada")),
}


@pytest.mark.parametrize("command", [*DECIDING, *OF_A_RECORD])
def test_the_pin_and_the_code_of_a_pull_request_do_not_decide_what_production_trusts(
    root: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = git(root, "rev-parse", "main")
    git(root, "switch", "--quiet", "--create", "upgrade")
    (root / pin.PATH).write_text(pin.written(pin.Pin("dvc", "0.2.0", ("a" * 64,))))
    (root / "kinds/gates").mkdir(parents=True)
    (root / "kinds/gates/easy.py").write_text("X = 1\n")
    keep(root, "a pin and a gate of the pull request's")
    monkeypatch.setattr(installed_code, "check", lambda *_: True)  # As if the wheel that this branch pins ran.
    with pytest.raises(EvidenceRefused) as found:
        (DECIDING | OF_A_RECORD)[command](root)
    todo = "run it in a checkout of main: `git switch main && git pull`"
    assert str(found.value) == f"kinds/gates/easy.py: is not as on main, whose code decides; {todo}"
    assert found.value.others == ("lockstep-requirements.txt: is not as on main",)
    assert git(root, "rev-parse", "main") == before


@pytest.mark.parametrize("command", ["rollback", "promote"])
def test_only_a_release_of_an_earlier_record_runs_the_pin_that_the_branch_had(root: Path, command: str) -> None:
    record = git(root, "rev-parse", "HEAD")
    (root / pin.PATH).write_text(pin.written(pin.Pin("dvc", "0.2.0", ("a" * 64,))))
    keep(root, "an upgrade")
    git(root, "switch", "--quiet", "--detach", record)
    if command == "promote":
        assert move(root, "production").done == "moved"
        return
    with pytest.raises(EvidenceRefused, match=r"lockstep-requirements.txt: is not as on main"):
        DECIDING[command](root)


def test_only_who_may_approves(root: Path) -> None:
    before = refs(root)
    with pytest.raises(EvidenceRefused, match=r"this key is not in release/policy/signers.yaml of the target branch"):
        verb.approve(root, "production", key(root, "mallory"), "trust me")
    with pytest.raises(EvidenceRefused, match="the approval: why"):
        verb.approve(root, "production", key(root, "bob"), "two\nlines")
    with pytest.raises(EvidenceRefused, match="names no such one"):
        verb.approve(root, "canary", key(root, "bob"), "yes")
    assert refs(root) == before


def test_what_is_in_quarantine_is_not_approved(held: Path) -> None:
    with pytest.raises(PromotionRefused, match="is in quarantine"):
        verb.approve(held, "production", key(held, "bob"), "yes")


# Signatures


def signers(root: Path, *names: str, until: str = "") -> None:
    """More people who may release."""
    for name in names:
        made = key_verbs.new(root, name, ("release",), key(root, name))
        key_verbs.add_signer(root, name, ("release",), made.public)
    if until:
        text = (root / layout.SIGNERS).read_text()
        (root / layout.SIGNERS).write_text(
            text.replace(f"- name: {names[-1]}\n", f"- name: {names[-1]}\n  until: {until}\n")
        )
    keep(root, "more signers")


def stated(root: Path) -> dict[str, Any]:
    data = attach.envelope((root / STAGING / layout.EVIDENCE).read_bytes())["payload"]
    plain: dict[str, Any] = json.loads(base64.b64decode(data))
    return plain


def sign(root: Path, who: str, **change: Any) -> None:
    """Attach an envelope of the statement that staging runs on, or of one that differs in these facts."""
    plain = stated(root)
    plain["predicate"] |= change
    tree.attach_to(root, _staged(root).digest, tree.envelope(root, plain, who))


def retired(root: Path) -> None:
    signers(root, "dora", until="2026-01-01")
    sign(root, "dora")


def twice(root: Path) -> None:
    """ada's signature again, in another form: the same key counts once."""
    data = trust.Signatory(keys.load(key(root, "ada")), ()).bundle(canonical_json(stated(root)))
    tree.attach_to(root, _staged(root).digest, data, sigstore.BUNDLE)


NOT_SIGNED: dict[str, tuple[Tamper, str]] = {
    "nobody else": (lambda _: None, "by bea"),
    "the same key twice": (twice, "by bea"),
    "who may only approve": (lambda root: sign(root, "bob"), "bob, who may approve and not release; it does not count"),
    "a key that nobody knows": (lambda root: sign(root, "mallory"), "that is unknown here; it does not count"),
    "a key that is retired": (retired, "dora, whose signatures count until 2026-01-01; it does not count"),
    "another statement": (lambda root: sign(root, "bea", sbom=OTHER), "by bea"),
}  # fmt: skip


@pytest.mark.parametrize("name", NOT_SIGNED)
def test_a_signature_that_is_none_does_not_count(root: Path, name: str) -> None:
    tamper, cause = NOT_SIGNED[name]
    rule(root, signatures=2)
    signers(root, "bea")
    tamper(root)
    found = refused(root, cause)
    assert str(found).startswith(
        "production is not moved to v0.1.0: its statement has 1 of 2 signatures (ada); "
        "`lockstep sign` of the same record and reports by bea"
    )


def test_where_too_few_may_sign_the_refusal_says_so(root: Path) -> None:
    rule(root, signatures=2)
    refused(root, "has 1 of 2 signatures (ada); only 1 may release: let code owners add a signer to release/policy/")


def test_two_signers_sign_and_it_is_promoted(root: Path) -> None:
    signers(root, "bea", "carl")
    report = files.read_json(root / layout.IMAGE_REPORT, ImageReport)
    first, second = tree.signed(root, report), tree.signed(root, report, "bea")
    assert (first.added, second.signer, len(second.added)) == ((), "bea", 3), "the second replaces none"
    assert evidence_verb.show(root, report.image).signer == "ada", "it is one statement"
    rule(root, signatures=3, approvals=1)
    refused(root, "has 2 of 3 signatures (ada, bea); `lockstep sign` of the same record and reports by carl")
    rule(root, signatures=2)
    text = (root / layout.SIGNERS).read_text()
    (root / layout.SIGNERS).write_text(text.replace("- name: bea\n  may: [", "- name: bea\n  may: [approve, "))
    keep(root, "bea approves too")
    put(root, bea=says(root, "bea"))
    refused(root, "bea signed the release and so cannot approve it")
    put(root, bob=says(root, "bob"))
    notes = {check.about: check.note for check in move(root, "production").checks}
    assert notes["evidence"] == f"{_staged(root).evidence}, signed by ada, bea"


# Tags, people, remotes


@pytest.mark.parametrize("tag", ["azure-cli-router@v1.0.0", "azure-cli-router#staging#1"])
def test_a_tag_that_is_taken_does_not_stop_the_move(fresh: Path, tag: str) -> None:
    git(fresh, "tag", "-a", tag, "-m", "mine", "HEAD")
    done = move(fresh, "staging", version="v1.0.0")
    assert done.done == "moved"
    assert len(done.tags) == 1
    assert [note.split(": ")[:2] for note in done.notes if note.startswith("tag")] == [
        [f"tag {tag}", "was not created"]
    ]


def test_files_that_are_edited_in_the_work_tree_are_not_lost(root: Path) -> None:
    (root / PRODUCTION / overlays.SERVER).parent.mkdir(parents=True)
    (root / PRODUCTION / overlays.SERVER).write_text("mine\n")
    refused(root, "has edits of files that the move changes")
    assert (root / PRODUCTION / overlays.SERVER).read_text() == "mine\n"


@pytest.fixture
def remote(root: Path) -> Path:
    ledger_tree.bare(root.parent / "origin.git", root)
    return root.parent / "origin.git"


def test_a_history_that_was_rewritten_promotes_nothing(root: Path, remote: Path) -> None:
    assert move(root, "production", dry_run=True).done == "planned"
    keep(root, "another past", env={"GIT_AUTHOR_NAME": "Mallory"})
    git(root, "push", "--quiet", "origin", "main")
    assert move(root, "production", dry_run=True).done == "planned"
    git(remote, "update-ref", "refs/heads/main", git(root, "rev-parse", "main^"))
    with pytest.raises(RemoteRefused, match="which is older: commits were taken from it"):
        move(root, "production")


@pytest.mark.parametrize(
    ("fault", "cause"), [("fail", "500"), ("cut", "nothing was moved"), ("lie", "said that it took"), ("lost", "")]
)
def test_a_remote_that_fails_or_lies_refuses_or_has_moved(root: Path, remote: Path, fault: Any, cause: str) -> None:
    with git_service.Service(remote.parent) as service:
        git(root, "remote", "set-url", "origin", service.address("origin.git"))
        before = refs(remote)
        if fault == "fail":
            service.fault = fault
        else:  # once it is pushed
            assert move(root, "production", dry_run=True).done == "planned"
            service.fault, service.then = fault, "" if fault == "lost" else None
        if fault == "lost":
            assert move(root, "production").done == "moved"
            return
        with pytest.raises(RemoteRefused) as found:
            move(root, "production")
        assert cause in str(found.value)
        assert refs(remote) == before


def test_a_remote_that_does_not_answer_refuses_before_the_deadline(
    root: Path, remote: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Ledger.open.__func__, "__defaults__", (2.0,))  # type: ignore[attr-defined]
    with git_service.Service(remote.parent) as service:
        git(root, "remote", "set-url", "origin", service.address("origin.git"))
        service.fault = "hang"
        began = time.monotonic()
        with pytest.raises(RemoteRefused, match="no answer before the deadline"):
            move(root, "production")
        assert time.monotonic() - began < 20


def race(root: Path, other: Path, number: int) -> list[str]:
    """Two clones promote at once; what came of it."""

    def go(clone: Path) -> str:
        try:
            return move(clone, "production", why=f"{number} says {clone.name}").done
        except Outrun as refused:
            return str(refused)

    with ThreadPoolExecutor(2) as pool:
        return [*pool.map(go, (root, other))]


def races(moved: Path, scratch: Path, count: int) -> int:
    """So many races, each of a fresh copy; in how many both decided on the same commit."""
    close = 0
    for number in range(count):
        root = tree.copy(moved, scratch / f"{number}" / "ada")
        ledger_tree.bare(root.parent / "origin.git", root)
        other = tree.copy(root, root.parent / "bob")
        ledger_tree.identify(other, "Bob")
        ended = race(root, other, number)
        where = context.find(root)
        (made,) = where.ledger.moves(where.tip, "production")
        assert ended.count("moved") == 1, ended
        (lost,) = (each for each in ended if each != "moved")
        if lost != "already":  # who came so late that it ran already was not in a race
            close += 1
            winner = ("Ada", "Bob")[ended.index("moved")]
            assert f"was moved by somebody else first: {winner} <{winner.lower()}@example.org> committed" in lost
            assert "production runs v0.1.0" in lost
            assert made.by.startswith(winner)
        shutil.rmtree(root.parent)
    return close


def test_of_two_promoters_one_wins_every_time_and_the_other_is_told_who(moved: Path, tmp_path: Path) -> None:
    count = 200 if EXHAUSTIVE else 3
    close = races(moved, tmp_path, count)
    print(f"{count} races, {close} of them for the same commit")
    assert close > count / 4
