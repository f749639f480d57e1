"""audit: the pack of a release, verified as a stranger does: in an empty folder, by public tools, without Lockstep."""

import base64
import json
import shutil
import subprocess
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from checks.formats.harvest import Review
from checks.formats.serving import ImageReport, ServingReport
from checks.formats.signers import Signer
from checks.formats.statement import PAYLOAD, Looked
from checks.records.rows import Row
from checks.storage import digest, files, layout
from release.cards import audit_index, audit_pack, audit_questions
from release.cards.audit_index import INDEX
from release.cli import main
from release.evidence import (
    attached_statements,
    dsse,
    harvest_reviews,
    keys,
    sigstore,
    slsa,
    statement,
    trust,
    verification,
)
from release.image.layout import Layout
from release.promotion.environment import approvals_folder
from release.verbs import keys as key_verbs
from release.verbs.approve import approve
from release.verbs.audit import audit
from release.verbs.rollback import rollback
from release.verbs.sign import sign
from tests import promotion_tree as tree
from tests.checks.machine.test_full_disk import full, refused, small
from tests.conftest import REPOSITORY
from tests.ledger_tree import keep, packed
from tests.once import once
from tests.release.promotion import test_promote_harvest
from tests.sigstore_standin import Standin

pytestmark = pytest.mark.slow

alone = tree.alone
__all__ = ["small"]  # a fixture

# What a stranger has: the tools that AUDIT.md names, and those of every system.
TOOLS = (
    "sh", "sha256sum", "base64", "jq", "openssl", "cat", "cmp", "comm", "cut", "dirname", "find", "mktemp", "rm", "sed",
    "sort", "tail", "tar", "wc",
)  # fmt: skip
WHY, BAD = "soaked well <b>ü</b>", "answers in French: « créer »"
ANNEX_XI = "EU AI Act, Article 53(1)(a), Annex XI"
ENERGY = f"{ANNEX_XI}, 2(e)"
COUNTED = {"counted": [{"kind": "nvml", "device": "0: NVIDIA L4", "joules": 7.2e6}]}
ISSUER = "https://token.actions.githubusercontent.com"
HOME = "https://github.com/team/router/.github/workflows"
RELEASES, VERIFIES = f"{HOME}/release.yml@refs/heads/main", f"{HOME}/verify.yml@refs/heads/main"


def _prepared(root: Path, edit: tree.Edit = lambda _: None) -> None:
    root.mkdir(parents=True)
    shutil.copytree(REPOSITORY / "docs" / "cards", root / "docs" / "cards")
    tree.prepare(root, edit)


def _make(folder: Path) -> None:
    """v0.1.0 runs everywhere; bob approved it. v0.2.0, of measured energy, was rolled back to it. A look is sealed."""
    root = folder / "work"
    with pytest.MonkeyPatch.context() as patch:
        tree.leave_alone(patch)
        _prepared(root)
        key_verbs.new(root, "carl", ("sealed",), tree.key(root, "carl"))
        key_verbs.add_signer(root, "carl", ("sealed",), tree.key(root, "carl").with_suffix(".pub"))
        keep(root, "carl")
        first = tree.release(root)
        patch.setenv("GIT_COMMITTER_DATE", f"{int(time.time())} +0000")  # All moves are of one second.
        tree.move(root, "staging")
        approve(root, "production", tree.key(root, "bob"), WHY)
        tree.move(root, "production")
        _edit(root / layout.TRAIN_MEASURED, lambda measured: measured.update(energy=COUNTED))
        tree.next_model(root, 11)
        tree.move(root, "staging")
        rollback(root, "staging", why=BAD)
        looked = Looked(split=digest.of_bytes(b"split"), asked=digest.of_bytes(b"asked"), number=1, passed=True)
        signed = trust.signatory(tree.key(root, "carl"), trust.known(root), "sealed").sign(
            statement.sealed_look(first.report.model, looked)
        )
        _write(root, layout.SEALED_LOOKS / "1" / f"{first.report.model.removeprefix('sha256:')}.json", signed)
        _write(root, approvals_folder("staging", first.digest) / "mallory.json", b"{}")
        keep(root, "a sealed look, and what is no approval")
    packed(root)


def _write(root: Path, path: Path, data: bytes) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_bytes(data)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The clone. Read-only by custom."""
    return once(tmp_path_factory, "audit", _make) / "work"


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    return tree.copy(made, tmp_path / "copy" / "work ü")


@pytest.fixture(scope="module")
def archive(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pack of v0.1.0."""
    path = tmp_path_factory.mktemp("audit") / "pack.tar"
    with pytest.MonkeyPatch.context() as patch:
        tree.leave_alone(patch)
        audit(made, "v0.1.0", path)
    return path


@pytest.fixture
def pack(archive: Path, tmp_path: Path) -> Path:
    """The folder of the pack, as a stranger unpacks it."""
    return _unpacked(archive, tmp_path / "stranger")


def _unpacked(archive: Path, home: Path) -> Path:
    home.mkdir()
    subprocess.run(["tar", "-xf", archive], cwd=home, check=True)
    (folder,) = home.iterdir()
    return folder


def _verify(pack: Path, *arguments: object, tools: tuple[str, ...] = TOOLS) -> subprocess.CompletedProcess[str]:
    """Run the pack's own commands, where nothing but ``tools`` is installed."""
    programs = pack.parent / "bin"
    programs.mkdir(exist_ok=True)
    for name in tools:
        found = shutil.which(name)
        assert found, name
        if not (programs / name).exists():
            (programs / name).symlink_to(found)
    return subprocess.run(
        ["sh", "verify.sh", *map(str, arguments)], cwd=pack, env={"PATH": str(programs), "HOME": str(pack.parent)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def _index(pack: Path) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads((pack / INDEX).read_text())
    return plain


def _lockstep(root: Path, *arguments: object) -> Result:
    return CliRunner().invoke(main, ["-C", str(root), "audit", *map(str, arguments)])


def _answer(pack: Path, source: str) -> dict[str, Any]:
    return next(answer for answer in _index(pack)["answers"] if answer["source"] == source)


def test_a_stranger_verifies_every_statement_with_public_tools(pack: Path) -> None:
    done = _verify(pack)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    statements = _index(pack)["statements"]
    assert [line.split(",")[0] for line in lines[:-1]] == [
        f"ok  {signed['path']}: {signed['predicate_type']}" for signed in statements
    ]
    assert [(signed["path"], signed["signer"]) for signed in statements] == [
        ("statements/release.json", "ada"), ("statements/verification.json", "ada"),
        ("statements/approvals/production-1-bob.json", "bob"), ("statements/sealed/1.json", "carl"),
        ("statements/provenance.json", "ada"),
    ]  # fmt: skip
    key = digest.of_file(pack / "keys" / "ada.pub").sha256.removeprefix("sha256:")
    assert lines[0].endswith(f"signed by ada, the key with SHA-256 {key}")
    assert lines[-1].startswith(f"ok  {len(_index(pack)['files'])} files of azure-cli-router v0.1.0, sha256:")


def test_the_same_release_and_commit_give_the_same_bytes_in_another_clone(archive: Path, root: Path) -> None:
    other = root / "again.tar"
    audit(root, "production", other)
    assert other.read_bytes() == archive.read_bytes()
    with tarfile.open(archive) as packed:
        assert {(member.mtime, member.uid, member.uname) for member in packed} == {(0, 0, "")}
        names = [member.name for member in packed if member.isfile()]
    assert names[:2] == ["audit-v0.1.0/AUDIT.md", "audit-v0.1.0/index.json"]


def test_the_index_lists_each_file_and_fits_its_published_schema(pack: Path) -> None:
    from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

    published = json.loads((REPOSITORY / "docs" / "audit.schema.json").read_text())
    assert published == audit_index.schema(), "run .ci/reference.py"
    index = _index(pack)
    assert Draft202012Validator(published).is_valid(index)
    assert not Draft202012Validator(published).is_valid(index | {"schema_version": 2})
    listed = {file["path"]: file["sha256"] for file in index["files"]}
    present = [path for path in pack.rglob("*") if path.is_file() and path.name != INDEX]
    assert listed == {path.relative_to(pack).as_posix(): digest.of_file(path).sha256 for path in present}
    assert {path for answer in index["answers"] for path in answer["files"]} <= set(listed)


def test_the_bill_of_materials_fits_cyclonedx_and_has_the_quantitative_analysis(pack: Path) -> None:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    text = (pack / audit_pack.BILL).read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    card = json.loads(text)["metadata"]["component"]["modelCard"]
    assert [metric["type"] for metric in card["quantitativeAnalysis"]["performanceMetrics"]] == ["exact-match"]


def test_each_question_has_its_files_or_says_that_it_is_not_in_the_record(pack: Path) -> None:
    text = (pack / audit_pack.OVERVIEW).read_text()
    compute = _answer(pack, f"{ANNEX_XI}, 2(d)")
    lacks = "the number of floating-point operations"
    paths = ["record/reports/train.json", "record/reports/measured/train.json"]
    assert (compute["files"], compute["lacks"]) == (paths, lacks)
    assert f"| `{paths[0]}`, `{paths[1]}`; not in the record: {lacks} |" in text
    for source, asks in (("EU AI Act, Annex IV, 2(e)", "human oversight (Article 14)"), (ENERGY, "energy consumption")):
        assert (_answer(pack, source)["files"], _answer(pack, source)["lacks"]) == ([], "all of it")
        assert f"| {source} | {asks} | **not in the record** |" in text
    assert "approvals" not in _answer(pack, "ISO 42001, A.6.2.5")["lacks"]
    assert "harvest" not in text  # This release learned no captured request.
    asked = [question.source for question in audit_questions.QUESTIONS]
    assert len(set(asked)) == len(asked) == text.count("| EU AI Act, ") + text.count("| ISO 42001, ")


def test_the_pack_says_who_moved_rolled_back_and_quarantined_while_it_ran(pack: Path) -> None:
    moves = json.loads((pack / "ledger" / "moves.json").read_text())
    assert [(move["environment"], move["kind"], move["after"]["version"]) for move in moves] == [
        ("staging", "promote", "v0.1.0"), ("production", "promote", "v0.1.0"), ("staging", "promote", "v0.2.0"),
        ("staging", "rollback", "v0.1.0"),
    ]  # fmt: skip
    assert moves[-1]["why"] == BAD
    (entry,) = yaml.safe_load((pack / "ledger" / "quarantine.yaml").read_text())
    assert (entry["version"], entry["why"]) == ("v0.2.0", BAD)
    assert _index(pack)["until"] is None
    assert BAD in (pack / audit_pack.OVERVIEW).read_text()


def test_of_a_release_that_ended_the_pack_ends_with_it(root: Path, tmp_path: Path) -> None:
    """v0.2.0 ran in staging until it was rolled back; its quarantine is the only incident of its own."""
    audit(root, "v0.2.0", tmp_path / "two.tar")
    pack = _unpacked(tmp_path / "two.tar", tmp_path / "stranger")
    assert _verify(pack).returncode == 0
    moves = json.loads((pack / "ledger" / "moves.json").read_text())
    assert [(move["kind"], move["after"]["version"]) for move in moves] == [
        ("promote", "v0.2.0"),
        ("rollback", "v0.1.0"),
    ]
    assert _index(pack)["until"] == moves[-1]["at"]
    assert _answer(pack, "ISO 42001, A.6.2.5")["lacks"] == "approvals"
    energy = _answer(pack, ENERGY)
    assert (energy["files"], energy["lacks"]) == (["record/reports/measured/train.json"], "serving energy")


def test_the_signed_reviews_of_captured_requests_are_in_the_pack_and_no_other(tmp_path: Path) -> None:
    root, review = tmp_path / "work", test_promote_harvest.REVIEW
    _prepared(root, test_promote_harvest.edit)
    key = test_promote_harvest.add(root, "eve", "harvest")
    files.write_json(root / review.path, review)
    signatory = trust.signatory(key, trust.known(root), "harvest")
    harvest_reviews.sign(root, review, test_promote_harvest.ROWS, signatory)
    tree.next_model(root, 7)
    tree.move(root, "staging")
    audit(root, "staging", tmp_path / "pack.tar")
    pack = _unpacked(tmp_path / "pack.tar", tmp_path / "stranger")
    done, path = _verify(pack), "statements/harvests/users.json"
    assert (done.returncode, done.stderr) == (0, "")
    assert f"ok  {path}: urn:lockstep:harvest:v1, signed by eve, the key with SHA-256 " in done.stdout
    payload = json.loads(base64.b64decode(json.loads((pack / path).read_text())["payload"]))
    assert Review.model_validate(payload["predicate"]["review"]) == review
    for source in (f"{ANNEX_XI}, 2(c)", "EU AI Act, Annex IV, 2(d)", "ISO 42001, A.7.5"):
        assert path in _answer(pack, source)["files"]

    other = review.model_copy(update={"sha256": "7" * 64})
    (pack / path).write_bytes(dsse.sign(statement.harvest(other), PAYLOAD, keys.load(key)))
    _hashed(pack)
    forged = _verify(pack)
    assert (forged.returncode, "is about a source that record/params.yaml does not pin" in forged.stderr) == (1, True)

    # Who may not sign harvests any more counts for nothing, and the pack says so.
    signers = root / layout.SIGNERS
    signers.write_text(signers.read_text().replace("harvest", "checkpoint"))
    keep(root, "eve does something else")
    audit(root, "staging", tmp_path / "later.tar")
    later = _unpacked(tmp_path / "later.tar", tmp_path / "another")
    (left,) = [left for left in _index(later)["left_out"] if "labels/harvest" in left["what"]]
    assert "is signed by eve, who may checkpoint and not harvest" in left["why"]
    assert _verify(later).returncode == 0
    assert "harvest reviews" in _answer(later, "ISO 42001, A.7.5")["lacks"]


def test_an_approval_that_does_not_count_is_left_out_and_said(pack: Path, made: Path) -> None:
    left = {left["what"]: left["why"] for left in _index(pack)["left_out"]}
    image = _index(pack)["image"].rpartition("@")[2]
    path = str(approvals_folder("staging", image) / "mallory.json")
    assert left[path].startswith(f"{path}: is not a DSSE envelope")
    assert left["reports/data.json"].startswith("it can quote rows")


def test_no_row_is_in_the_pack(pack: Path, made: Path) -> None:
    rows = [row for name in layout.SPLIT_NAMES for row in files.read_jsonl(made / layout.SPLITS / f"{name}.jsonl", Row)]
    texts = {message.content for row in rows for message in row.messages if message.role == "user"}
    assert len(texts) == len(rows) > 100
    for path in (path for path in pack.rglob("*") if path.is_file()):
        text = path.read_text()
        if path.parts[-2] == "statements":
            plain = json.loads(text)
            text += base64.b64decode(plain.get("dsseEnvelope", plain)["payload"]).decode()
        assert [one for one in texts if one in text] == [], path


def _edit(path: Path, change: Callable[[Any], object]) -> None:
    """Change a JSON file as plain values."""
    plain = json.loads(path.read_text())
    change(plain)
    path.write_text(json.dumps(plain))


def _hashed(pack: Path) -> None:
    """Let the index say what lies here, as a forger does."""
    _edit(
        pack / INDEX,
        lambda index: [file.update(sha256=digest.of_file(pack / file["path"]).sha256) for file in index["files"]],
    )


def _resigned(pack: Path) -> None:
    """Sign the approval again as somebody else."""
    key, path = keys.generate(), pack / "statements/approvals/production-1-bob.json"
    plain = json.loads(path.read_text())
    path.write_bytes(dsse.sign(base64.b64decode(plain["payload"]), PAYLOAD, key))


def _about_another(pack: Path) -> None:
    """An approval of another image, by a key that the forger put in the place of bob's."""
    key = keys.generate()
    payload = statement.approve("production", digest.of_bytes(b"another"), WHY)
    (pack / "statements/approvals/production-1-bob.json").write_bytes(dsse.sign(payload, PAYLOAD, key))
    (pack / "keys/bob.pub").write_text(keys.pem(key.public_key))


def _drop_statement(index: dict[str, Any]) -> None:
    index["statements"] = [signed for signed in index["statements"] if "approvals" not in signed["path"]]


def _relabelled(path: str, bound_by: str) -> Callable[[Path], object]:
    """Let the index say that something else binds a file."""

    def relabel(index: dict[str, Any]) -> None:
        for file in index["files"]:
            file["bound_by"] = bound_by if file["path"] == path else file["bound_by"]

    return lambda pack: _edit(pack / INDEX, relabel)


def _says(**change: str) -> Callable[[Path], object]:
    return lambda pack: _edit(pack / INDEX, lambda index: index.update(change))


def _wrote(path: str) -> Callable[[Path], object]:
    return lambda pack: (pack / path).write_text("{}")


VERIFICATION_FILE = "statements/verification.json"
FORGERIES: dict[str, tuple[str, tuple[Callable[[Path], object], ...]]] = {
    "another file": ("not the one that index.json lists", (_wrote("cards/model.md"),)),
    "one file more": ("that index.json does not list", (_wrote("more.md"),)),
    "a link": ("that index.json does not list", (lambda pack: (pack / "more.md").symlink_to("AUDIT.md"),)),
    "one file less": ("not the one that index.json lists", (lambda pack: (pack / "keys/bob.pub").unlink(),)),
    "another report": ("names another file", (_wrote("record/reports/evaluation.json"), _hashed)),
    "another report that nothing binds": (
        "names another file", (_wrote("record/params.yaml"), _relabelled("record/params.yaml", "git"), _hashed)
    ),
    "another bill": ("names another file", (_wrote("bom.cdx.json"), _hashed)),
    "a card that nobody signed": ("binds a file that nobody signed", (_relabelled("cards/model.md", "statement"),)),
    "another signer": ("keys/bob.pub did not sign it", (_resigned, _hashed)),
    "about another image": ("is about another image", (_about_another, _hashed)),
    "another verification": (
        f"{VERIFICATION_FILE}: is not a statement urn:lockstep:verification:v1",
        (lambda pack: shutil.copy(pack / "statements/release.json", pack / VERIFICATION_FILE), _hashed),
    ),
    "a statement without a signer": ("and not by whom", (lambda pack: _edit(pack / INDEX, _drop_statement),)),
    "a statement that is said to be none": (
        "a statement has no signer",
        (
            lambda pack: _edit(pack / INDEX, _drop_statement),
            _relabelled("statements/approvals/production-1-bob.json", "git"),
        ),
    ),
    "another image": ("index.json is about another image", (_says(image=f"a/b@{digest.of_bytes(b'x')}"),)),
    "other weights": ("index.json is about other weights", (_says(model=digest.of_bytes(b"x")),)),
}  # fmt: skip


@pytest.mark.parametrize(("why", "steps"), FORGERIES.values(), ids=FORGERIES)
def test_a_forged_pack_is_refused_by_its_own_commands(
    pack: Path, why: str, steps: tuple[Callable[[Path], object], ...]
) -> None:
    for step in steps:
        step(pack)
    done = _verify(pack)
    assert done.returncode == 1, done.stdout
    assert why in done.stderr.splitlines()[-1]


def test_the_command_prints_what_it_wrote(root: Path, tmp_path: Path) -> None:
    done = _lockstep(root, "v0.1.0", "--out", tmp_path / "ü" / "a.tar", "--json")
    plain = json.loads(done.stdout)
    assert (done.exit_code, plain["version"], plain["statements"]) == (0, "v0.1.0", 5)
    assert plain["sha256"] == digest.of_file(tmp_path / "ü" / "a.tar").sha256
    assert 0 < plain["unanswered"] < plain["asked"] == len(audit_questions.QUESTIONS)
    again = _lockstep(root, "v0.1.0", "--out", tmp_path / "b.tar")
    assert again.stdout.split("\n", 1)[1].startswith(
        f"{plain['sha256']}\n{plain['unanswered']} of {plain['asked']} questions"
    )


def _without_bill(root: Path) -> None:
    """Take every bill of materials from the list of what is attached to images."""

    def is_bill(entry: dict[str, Any]) -> bool:
        blob = root / layout.IMAGE / "blobs" / "sha256" / entry["digest"].removeprefix("sha256:")
        return bool(json.loads(blob.read_text()).get("artifactType") == attached_statements.BILL)

    def detach(index: dict[str, Any]) -> None:
        index["manifests"] = [entry for entry in index["manifests"] if not is_bill(entry)]

    _edit(root / layout.IMAGE / "index.json", detach)


def _without_ada(root: Path) -> None:
    """Take ada from the signers; her key counts for nothing any more."""
    signers = yaml.safe_load((root / layout.SIGNERS).read_text())
    _write(root, layout.SIGNERS, yaml.safe_dump([one for one in signers if one["name"] != "ada"]).encode())
    keep(root, "ada left")


def _other_evidence(root: Path) -> None:
    """Another statement beside the pointer, as somebody who may push can put it there."""
    path = layout.ENVIRONMENTS / "staging" / layout.EVIDENCE
    _write(root, path, b"{}")
    pointer = layout.ENVIRONMENTS / "staging" / layout.POINTER
    text = (root / pointer).read_text()
    _write(root, pointer, text.replace("v0.1.0", "v0.9.0").encode())
    keep(root, "by hand")


REFUSED: dict[str, tuple[Callable[[Path], object], str, int, str]] = {
    "an unknown version": (lambda _: None, "v9.9.9", 8, "'v9.9.9' is no release that ran"),
    "a signer who is gone": (_without_ada, "v0.1.0", 8, "no current signer signed it"),
    "another statement": (_other_evidence, "v0.9.0", 8, "is not the signed statement that the pointer names"),
    "no image": (lambda root: shutil.rmtree(root / layout.IMAGE), "v0.1.0", 13, "is not an OCI layout"),
    "no bill of materials": (_without_bill, "v0.1.0", 8, "that the signed statement names is not attached"),
    "a word of an attacker": (lambda _: None, "\x1b[31m../..", 8, "is no release that ran"),
}  # fmt: skip


@pytest.mark.parametrize(("spoil", "name", "code", "why"), REFUSED.values(), ids=REFUSED)
def test_what_is_missing_or_does_not_hold_refuses_in_one_line_and_writes_nothing(
    root: Path, spoil: Callable[[Path], object], name: str, code: int, why: str
) -> None:
    spoil(root)
    done = _lockstep(root, name, "--out", root / "a.tar")
    assert done.exit_code == code, done.output
    assert "Traceback" not in done.output
    assert why in " ".join(done.stderr.split())
    assert not list(root.glob("*a.tar*"))


def test_a_full_disk_is_named_and_nothing_is_left(root: Path, small: Path) -> None:
    with full(small):
        refused(_lockstep(root, "v0.1.0", "--out", small / "a.tar"), small)
    assert list(small.iterdir()) == []


def test_a_release_of_before_verifications_were_signed_says_so(root: Path, tmp_path: Path) -> None:
    """Its statement lacks the verification, as those of the first versions do."""
    folder = root / layout.ENVIRONMENTS / "production"
    payload = json.loads(base64.b64decode(json.loads((folder / layout.EVIDENCE).read_text())["payload"]))
    del payload["predicate"]["verification"]
    old = digest.of_file(folder / layout.EVIDENCE).sha256
    (folder / layout.EVIDENCE).write_bytes(tree.envelope(root, payload))
    text = (folder / layout.POINTER).read_text()
    (folder / layout.POINTER).write_text(text.replace(old, digest.of_file(folder / layout.EVIDENCE).sha256))
    keep(root, "as it was signed then")
    audit(root, "production", tmp_path / "a.tar")
    pack = _unpacked(tmp_path / "a.tar", tmp_path / "stranger")
    assert _verify(pack).returncode == 0
    assert not (pack / "statements" / "verification.json").exists()
    hardware = _answer(pack, "EU AI Act, Annex IV, 1(e)")
    assert (hardware["files"], hardware["lacks"]) == ([], "all of it")


@pytest.mark.parametrize("kind", ["file", "folder", "dangling link"])
def test_what_lies_there_is_not_replaced(root: Path, kind: str) -> None:
    out = root / "a.tar"
    if kind == "file":
        out.write_text("x")
    elif kind == "folder":
        out.mkdir()
    else:
        out.symlink_to("nothing")
    done = _lockstep(root, "v0.1.0", "--out", out)
    assert done.exit_code == 9
    assert "a.tar: exists; name a new file" in " ".join(done.stderr.split())
    assert _lockstep(root, "v0.1.0", "--out", root / "params.yaml" / "a.tar").exit_code == 9


def test_a_release_by_identities_is_verified_with_cosign_and_a_root_of_trust(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stand-in signs in place of Sigstore's services; cosign gets its roots as a stranger has Sigstore's."""
    from sigstore._internal.tuf import DEFAULT_TUF_URL, _get_dirs
    from sigstore.verify import Verifier

    for name in ("XDG_DATA_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
    standin, real = Standin(), Verifier.production
    trusted = _get_dirs(DEFAULT_TUF_URL)[1] / "trusted_root.json"
    standin.trusted(trusted)
    monkeypatch.setattr(Verifier, "production", lambda **_: real(offline=True))
    monkeypatch.setattr(sigstore, "identity", lambda: "a token")

    def sign_as(identity: str) -> None:
        monkeypatch.setattr(
            sigstore, "sign", lambda payloads: [standin.bundle(one, identity, ISSUER) for one in payloads]
        )

    root = tmp_path / "work"
    _prepared(root)
    people = [
        Signer(name="verifier", may=("verify",), identity=VERIFIES, issuer=ISSUER),
        Signer(name="ci", may=("release",), identity=RELEASES, issuer=ISSUER),
    ]
    signers = yaml.safe_dump([one.model_dump(mode="json", exclude_none=True) for one in people])
    _write(root, layout.SIGNERS, (root / layout.SIGNERS).read_bytes() + signers.encode())
    keep(root, "identities sign")
    image = tree.built(root)
    sign_as(VERIFIES)
    by, _ = verification.verifier(root, keyless=True)
    assert by is not None
    verification.write(root, files.read_json(root / layout.SERVING_REPORT, ServingReport), by)
    sign_as(RELEASES)
    sign(root, Layout(root / layout.IMAGE), keyless=True)
    tree.move(root, "staging")
    audit(root, "v0.1.0", tmp_path / "a.tar")
    pack = _unpacked(tmp_path / "a.tar", tmp_path / "stranger")
    assert isinstance(image, ImageReport)
    assert [(one["signer"], one["key"]) for one in _index(pack)["statements"]] == [
        ("ci", None), ("verifier", None), ("ci", None),
    ]  # fmt: skip
    with_cosign = (*TOOLS, "cosign")
    done = _verify(pack, trusted, tools=with_cosign)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"statements/provenance.json: {slsa.PREDICATE}, signed by ci, {RELEASES} of {ISSUER}" in done.stdout
    done = _verify(pack, tools=with_cosign)
    assert done.returncode == 1
    assert done.stderr.endswith("an identity signed it: give Sigstore's trusted_root.json\n")
    Standin().trusted(tmp_path / "other.json")
    assert "ci did not sign it" in _verify(pack, tmp_path / "other.json", tools=with_cosign).stderr
    _edit(pack / INDEX, lambda index: index["statements"][0].update(identities=[VERIFIES]))
    assert "statements/release.json: ci did not sign it" in _verify(pack, trusted, tools=with_cosign).stderr
    _edit(pack / INDEX, lambda index: index["statements"][0].update(identities=[RELEASES], ref="refs/heads/other"))
    assert "statements/release.json: ci did not sign it" in _verify(pack, trusted, tools=with_cosign).stderr
