"""`lockstep evidence show`: from an image back to the rows, and who says so at each step."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from checks.formats.pointer import Pointer
from checks.formats.pointer import write as pointed
from checks.formats.statement import ENVELOPE, PAYLOAD
from checks.process.errors import BuildRefused, EvidenceRefused, Refusal, RegistryRefused
from checks.storage import digest, layout
from checks.storage.digest import canonical_json
from release.adapters.registry.client import Repository
from release.cli import tables
from release.evidence import attach, attached_statements, dsse, keys, trust
from release.verbs.build import BuildOptions, build
from release.verbs.evidence import Walk, show
from release.verbs.sign import Signed, sign
from tests import build_tree, signing_tree
from tests.ledger_tree import packed
from tests.registry_service import registry
from tests.release.verbs.test_signing import KEY, image_of, store

pytestmark = pytest.mark.slow

OTHER = "sha256:" + "0" * 64
WAY = [
    "image", "layer 1", "layer 2", "layer 3", "layer 4", "weights signature", "sbom", "weights", "adapter", "base",
    "tokenizer", "test split", "train split", "valid split", "raw data", "rows", "rule", "parameters", "pipeline",
    "report", "probes", "verdict", "commit", "serving",
]  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Signed]:
    """A signed release. Read-only by custom."""
    root = tmp_path_factory.mktemp("evidence") / "run"
    key = signing_tree.make(root)
    return packed(root), sign(root, store(root), key)


@pytest.fixture
def run(finished: tuple[Path, Signed], tmp_path: Path) -> Path:
    """A copy of it, to damage."""
    return shutil.copytree(finished[0], tmp_path / "run")


def _walk(root: Path) -> Walk:
    return show(root, image_of(root).image)


def _how(walk: Walk) -> dict[str, str]:
    return {step.what: step.checked for step in walk.steps}


def test_the_walk_goes_from_the_image_to_the_rows(finished: tuple[Path, Signed]) -> None:
    root, done = finished
    walk = _walk(root)
    assert list(dict.fromkeys(step.what for step in walk.steps if step.what != "chat template")) == WAY
    assert (walk.signer, walk.evidence, walk.statement) == ("ada", done.evidence, done.statement)
    rows = next(step for step in walk.steps if step.what == "rows")
    assert rows.note == "110 came in, 108 kept, 2 dropped"
    assert next(step for step in walk.steps if step.what == "rule").note == "drop-duplicates dropped 2"
    assert Walk.model_validate_json(walk.model_dump_json()) == walk


def test_each_step_says_how_it_was_checked(finished: tuple[Path, Signed]) -> None:
    how = _how(_walk(finished[0]))
    assert how["image"] == how["weights signature"] == how["sbom"] == "store"
    assert {how[what] for what in ("weights", "adapter", "base", "raw data", "train split", "verdict")} == {"here"}
    assert how["rows"] == how["tokenizer"] == "follows"
    assert how["commit"] == "commit"
    assert how["serving"] == "signed"


def test_a_clone_checks_what_git_has_and_says_what_is_only_signed(run: Path, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", run, clone], check=True)
    shutil.copytree(run / layout.IMAGE, clone / layout.IMAGE)
    how = _how(show(clone, image_of(run).image))
    assert {how[what] for what in ("weights", "adapter", "base", "raw data", "rows")} == {"follows"}
    assert {how[what] for what in ("train split", "test split", "probes")} == {"signed"}
    for path in (layout.PARAMS, layout.LOCK, layout.VERDICT, layout.PREPARE_REPORT):
        (clone / path).write_text("another release's\n")
    how = _how(show(clone, image_of(run).image))
    assert {how[what] for what in ("parameters", "pipeline", "verdict")} == {"commit"}
    assert how["rows"] == "follows"


def test_without_git_all_but_the_image_is_as_it_was_signed(run: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    (bare / layout.SIGNERS).parent.mkdir(parents=True)
    shutil.copy(run / layout.SIGNERS, bare / layout.SIGNERS)
    shutil.copytree(run / layout.IMAGE, bare / layout.IMAGE)
    walk = show(bare, f"oci:{layout.IMAGE}@{image_of(run).image}")
    assert {step.checked for step in walk.steps if step.what in WAY[7:]} == {"signed"}
    assert "which this clone does not have" in tables.walk(walk)


def test_other_weights_that_lie_here_are_not_taken_for_these(run: Path) -> None:
    (run / layout.MERGED / "config.json").write_text("{}")
    shutil.rmtree(run / layout.ADAPTER)
    how = _how(_walk(run))
    assert (how["weights"], how["adapter"], how["base"]) == ("follows", "follows", "here")


def test_a_digest_that_an_environment_runs_is_found_where_its_pointer_says(run: Path, tmp_path: Path) -> None:
    with registry(tmp_path / "registry") as service:
        image = build(run, BuildOptions(push=f"{service.host}/team/router:v1"))
        signing_tree.served(run, image)
        done = sign(run, Repository(service.host, "team/router", push=True), run / KEY)
        shutil.rmtree(run / layout.IMAGE)
        pointer = Pointer(
            model=image.model, commit=image.commit, version="v1.0.0", image=f"{service.host}/team/router@{image.image}",
            evidence=done.evidence,
        )  # fmt: skip
        path = run / layout.ENVIRONMENTS / "staging" / layout.POINTER
        path.parent.mkdir(parents=True)
        path.write_bytes(pointed(pointer))
        walk = show(run, image.image)
        assert walk.image == pointer.image
        assert show(run, pointer.image).steps == walk.steps
        path.write_bytes(pointed(pointer.model_copy(update={"evidence": OTHER})))
        with pytest.raises(EvidenceRefused, match=f"no signed statement with the digest {OTHER}"):
            show(run, image.image)
        path.unlink()
        path.mkdir()
        with pytest.raises(EvidenceRefused, match="is not a regular file; restore it from git"):
            show(run, image.image)


def test_lines_are_for_people_one_a_step(finished: tuple[Path, Signed]) -> None:
    walk = _walk(finished[0])
    text = tables.walk(walk).splitlines()
    assert len(text) == len(walk.steps) + 3
    assert text[1] == f"signed by ada, evidence {walk.evidence}"
    assert all(line.isprintable() for line in text)


@pytest.mark.parametrize(
    ("image", "kind", "cause"),
    [
        (f"oci:.lockstep/image@{OTHER}", RegistryRefused, OTHER[7:]),
        (f"oci:nowhere@{OTHER}", RegistryRefused, "nowhere"),
        ("oci:.lockstep/image:v1", BuildRefused, "names no digest"),
        ("127.0.0.1:1/team/router:v1", BuildRefused, "names no digest"),
        (OTHER, RegistryRefused, OTHER[7:]),
        ("sha256:12", BuildRefused, "no digest"),
        ("../x@" + OTHER, BuildRefused, "no reference"),
    ],
)
def test_an_image_that_is_not_there_is_refused(image: str, kind: type[Refusal], cause: str, run: Path) -> None:
    with pytest.raises(kind, match=cause):
        show(run, image)


def _resigned(root: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Put a statement that was changed and signed again by a trusted key in place of the one that is there."""
    at = store(root)
    image = image_of(root).image
    (one,) = attach.attached(at, image, ENVELOPE, 1 << 20, pytest.fail)
    plain = json.loads(dsse.verify(one.data, trust.known(root), "release").payload)
    change(plain)
    index = json.loads((root / layout.IMAGE / "index.json").read_text())
    index["manifests"] = [entry for entry in index["manifests"] if entry["digest"] != one.digest]
    (root / layout.IMAGE / "index.json").write_text(json.dumps(index))
    envelope = dsse.sign(canonical_json(plain), PAYLOAD, keys.load(root / KEY))
    with at.held():
        attach.attach(at, attach.subject(at, image), ENVELOPE, envelope, "release.json")


def _material(**values: str) -> Callable[[dict[str, Any]], object]:
    return lambda plain: plain["predicate"]["materials"].update(values)


def _layer(plain: dict[str, Any]) -> None:
    plain["predicate"]["image"]["layers"][0]["digest"] = OTHER


def _fewer_layers(plain: dict[str, Any]) -> None:
    del plain["predicate"]["image"]["layers"][0]


def _file(plain: dict[str, Any]) -> None:
    files = plain["predicate"]["image"]["layers"][0]["files"]
    files[next(iter(files))] = OTHER


def _split(plain: dict[str, Any]) -> None:
    plain["predicate"]["materials"]["splits"]["train"] = OTHER


def _report(plain: dict[str, Any]) -> None:
    plain["predicate"]["materials"]["reports"][str(layout.PREPARE_REPORT)] = OTHER


LIES: list[tuple[str, Callable[[dict[str, Any]], object], str]] = [
    ("another adapter", _material(adapter=OTHER), "another of the adapter"),
    ("another base", _material(base=OTHER), "another of the base"),
    ("other raw data", _material(raw=OTHER), "another of the raw data"),
    ("another tokenizer", _material(tokenizer=OTHER), "another of the tokenizer"),
    ("another split", _split, "another of the train split"),
    ("other parameters", _material(params=OTHER), "params.yaml at"),
    ("another lock", _material(lock=OTHER), "dvc.lock at"),
    ("another report", _report, "reports/prepare.json at"),
    ("another layer", _layer, "has other layers"),
    ("a layer left out", _fewer_layers, "has other layers"),
    ("another file in a layer", _file, "another of the files of the weights"),
]


@pytest.mark.parametrize(("what", "change", "cause"), LIES, ids=[what for what, _, _ in LIES])
def test_a_trusted_signer_who_contradicts_the_record_is_found_out(
    what: str, change: Callable[[dict[str, Any]], object], cause: str, run: Path
) -> None:
    _resigned(run, change)
    with pytest.raises(EvidenceRefused) as caught:
        _walk(run)
    assert cause in "\n".join((str(caught.value), *caught.value.others))


def test_a_bill_of_materials_that_was_not_signed_for_is_not_shown(run: Path) -> None:
    at, image = store(run), image_of(run).image
    index = json.loads((run / layout.IMAGE / "index.json").read_text())
    (one,) = attach.attached(at, image, attached_statements.BILL, 1 << 20, pytest.fail)
    index["manifests"] = [entry for entry in index["manifests"] if entry["digest"] != one.digest]
    (run / layout.IMAGE / "index.json").write_text(json.dumps(index))
    with at.held():
        attach.attach(at, attach.subject(at, image), attached_statements.BILL, one.data + b" ", "sbom.cdx.json")
    assert "sbom" not in _how(_walk(run))


def test_a_damaged_artifact_is_refused_by_its_digest(run: Path) -> None:
    at, image = store(run), image_of(run).image
    (one,) = attach.attached(at, image, ENVELOPE, 1 << 20, pytest.fail)
    path = run / layout.IMAGE / "blobs/sha256" / digest.of_bytes(one.data).removeprefix("sha256:")
    path.write_bytes(one.data[:-1] + b"]")
    with pytest.raises(RegistryRefused, match="other bytes"):
        _walk(run)


def test_two_statements_are_told_apart_by_their_digest(run: Path) -> None:
    signing_tree.edit(run / layout.SERVING_REPORT, device="cuda")
    signing_tree.attest(run)
    sign(run, store(run), run / KEY)
    with pytest.raises(EvidenceRefused, match="2 signed statements hold") as caught:
        _walk(run)
    assert len(caught.value.others) == 2


def test_the_walk_says_who_verified_and_whether_that_still_counts(run: Path) -> None:
    (step,) = [step for step in _walk(run).steps if step.what == "serving"]
    assert step.note == "pass: 12 of 12 checks passed, by transformers as a process, verified by ada"
    path = run / layout.SIGNERS
    path.write_text(path.read_text().replace("[verify, release", "[release"))
    build_tree.commit(run, "ada verifies no more")
    (step,) = [step for step in _walk(run).steps if step.what == "serving"]
    assert "and no current verifier signed that: the signed verification: is signed by ada, who may" in step.note


def test_signers_are_those_of_the_target_branch(run: Path) -> None:
    subprocess.run(["git", "checkout", "--quiet", "-b", "feature"], cwd=run, check=True)
    subprocess.run(["git", "branch", "--force", "main", "HEAD~1"], cwd=run, check=True)
    with pytest.raises(EvidenceRefused, match=r"main:release/policy/signers\.yaml: is missing"):
        _walk(run)
    assert show(run, image_of(run).image, "feature").signer == "ada"


def test_layouts_keep_what_is_attached_when_the_image_is_built_again(run: Path) -> None:
    before = _walk(run)
    build(run, BuildOptions())
    assert _walk(run) == before
