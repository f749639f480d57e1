"""Nothing that was tampered with is promoted, from the weights to the overlay, and each refusal names its cause.

Every test starts from a release that would be promoted (``test_without_tampering_it_is_promoted``) and changes one
thing. Whoever tampers with a statement holds a key that counts, unless the test is about the key.
"""

import base64
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from checks.config import params_file
from checks.formats.serving import ImageReport
from checks.formats.statement import ENVELOPE
from checks.kinds.plugins import Plugin
from checks.process.errors import Refusal
from checks.storage import digest, files, layout
from release.adapters.registry.documents import LAYER
from release.evidence import attach
from release.image.layout import Bytes, Layout
from release.promotion import context, record_checks
from release.record import committed_code
from release.verbs import keys as key_verbs
from tests import build_tree, signing_tree, spoil
from tests import promotion_tree as tree
from tests.ledger_tree import git, keep, packed, refs
from tests.promotion_tree import about, attach_to, envelope, key, move, remade, rewrite, unsigned

pytestmark = pytest.mark.slow

alone = tree.alone
Plain = dict[str, Any]
Tamper = Callable[[Path], str | None]  # an image to name, other than the one that was built


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A record whose image is built and verified, and not signed. Read-only by custom."""
    root = tmp_path_factory.mktemp("built") / "work"
    tree.prepare(root)
    tree.built(root)
    return packed(root)


@pytest.fixture
def root(built: Path, tmp_path: Path) -> Path:
    return tree.copy(built, tmp_path / "work")


def report(root: Path) -> ImageReport:
    return files.read_json(root / layout.IMAGE_REPORT, ImageReport)


def refused(root: Path, *why: str, environment: str = "staging", **options: Any) -> Refusal:
    """It is refused for these reasons, in lines for people, and no ref has moved."""
    before = refs(root)
    with pytest.raises(Refusal) as found:
        move(root, environment, **options)
    lines = [str(found.value), *found.value.others]
    assert [reason for reason in why if reason not in "\n".join(lines)] == []
    assert all(line.isprintable() for line in lines), lines
    assert refs(root) == before
    return found.value


def test_without_tampering_it_is_promoted(root: Path) -> None:
    attach_to(root, report(root).image, envelope(root, unsigned(root)))
    assert move(root, "staging").done == "moved"
    assert move(root, "production").done == "moved"


# What was signed, and by whom


def by(name: str) -> Tamper:
    def tamper(root: Path) -> None:
        attach_to(root, report(root).image, envelope(root, unsigned(root), name))

    return tamper


def saying(change: Callable[[Path, Plain], object]) -> Tamper:
    """A statement that says something else, signed by one who may."""

    def tamper(root: Path) -> None:
        plain = unsigned(root)
        change(root, plain)
        attach_to(root, report(root).image, envelope(root, plain))

    return tamper


def enveloped(change: Callable[[Path, Plain], object]) -> Tamper:
    """The right statement, and another envelope around it."""

    def tamper(root: Path) -> None:
        plain = json.loads(envelope(root, unsigned(root)))
        change(root, plain)
        attach_to(root, report(root).image, json.dumps(plain).encode())

    return tamper


def release(*path: str, to: Any) -> Callable[[Path, Plain], None]:
    """Sets one value of the predicate."""

    def change(_: Path, plain: Plain) -> None:
        at = plain["predicate"]
        for part in path[:-1]:
            at = at[part]
        at[path[-1]] = to

    return change


def verdict(_: Path, plain: Plain) -> None:
    """A verdict of another record, everywhere."""
    for part in (plain["predicate"]["materials"], plain["predicate"]["image"], plain["predicate"]["serving"]):
        part["verdict"] = OTHER


def commit(name: str) -> Callable[[Path, Plain], None]:
    """Another commit, everywhere."""

    def change(root: Path, plain: Plain) -> None:
        at = git(root, "rev-parse", name)
        plain["predicate"]["commit"] = plain["predicate"]["image"]["commit"] = at

    return change


def later(root: Path, plain: Plain) -> None:
    """A commit after the record's, which has the same record."""
    git(root, "commit", "--quiet", "--allow-empty", "-m", "later")
    commit("HEAD")(root, plain)


def unmerged(root: Path, plain: Plain) -> None:
    """A commit that holds the same record, on no branch that counts."""
    tree_of = git(root, "rev-parse", "HEAD^{tree}")
    at = git(root, "commit-tree", tree_of, "-m", "aside")
    plain["predicate"]["commit"] = plain["predicate"]["image"]["commit"] = at


def bare(root: Path, plain: Plain) -> None:
    """A commit without any record, which the branch contains."""
    empty = git(root, "commit-tree", git(root, "mktree", given=""), "-m", "nothing")
    merged = git(root, "commit-tree", git(root, "rev-parse", "HEAD^{tree}"), "-p", "HEAD", "-p", empty, "-m", "merge")
    git(root, "update-ref", "refs/heads/main", merged)
    plain["predicate"]["commit"] = plain["predicate"]["image"]["commit"] = empty


def nowhere(_: Path, plain: Plain) -> None:
    """A commit that git does not have."""
    plain["predicate"]["commit"] = plain["predicate"]["image"]["commit"] = "1" * 40


def claimed(root: Path, plain: Plain) -> None:
    """A check that failed, and a report that passed."""
    failed(root, plain)
    plain["predicate"]["serving"]["status"] = "pass"


def served(**change: Any) -> Callable[[Path, Plain], None]:
    def tamper(_: Path, plain: Plain) -> None:
        plain["predicate"]["serving"] |= change

    return tamper


def failed(_: Path, plain: Plain) -> None:
    serving = plain["predicate"]["serving"]
    serving["checks"][3]["status"] = serving["status"] = "fail"


def other_model(_: Path, plain: Plain) -> None:
    plain["subject"][1]["digest"]["lockstepTreeV1"] = OTHER.removeprefix("sha256:")
    plain["predicate"]["image"]["model"] = plain["predicate"]["serving"]["model"] = OTHER


def swapped(_: Path, plain: Plain) -> None:
    """Another shard, in the report of the build and in nothing else."""
    layer = plain["predicate"]["image"]["layers"][0]
    layer["files"] = dict.fromkeys(layer["files"], OTHER)


def gone(root: Path, plain: Plain) -> None:
    """A base for other processors, which nobody can look at any more."""
    shutil.rmtree(root / tree.BASE)
    release("image", "base", "platform", to="linux/arm64")(root, plain)


def payload(_: Path, plain: Plain) -> None:
    """What was signed, replaced under its signature."""
    said = json.loads(base64.b64decode(plain["payload"]))
    said["predicate"]["serving"]["device"] = "GPU"
    text = json.dumps(said, sort_keys=True, separators=(",", ":")).encode()
    plain["payload"] = base64.b64encode(text).decode()


OTHER = f"sha256:{'9' * 64}"
STATEMENTS: dict[str, tuple[Tamper, str]] = {
    "it was not signed": (lambda _: None, "no signed statement holds or is there; sign the release"),
    "by a key that nobody knows": (by("mallory"), "that is unknown here"),
    "by one who may only approve": (by("bob"), "is signed by bob, who may approve and not release"),
    "the payload was replaced": (enveloped(payload), "its signature is not by ada over this payload"),
    "the signature was taken away": (enveloped(lambda _, plain: plain.update(signatures=[])), "has 0 signatures, it takes exactly one"),
    "it was signed twice": (enveloped(lambda _, plain: plain.update(signatures=plain["signatures"] * 2)), "has 2 signatures"),
    "the envelope says another type": (enveloped(lambda _, plain: plain.update(payloadType="text/plain")), "payloadType is 'text/plain'"),
    "it is an approval": (saying(lambda _, plain: plain.update(predicateType="urn:lockstep:approval:v1")), "predicateType is 'urn:lock"),
    "of another image": (saying(lambda _, plain: about(plain, OTHER)), f"is about the image {OTHER}, not"),
    "subjects and predicate differ": (
        saying(lambda _, plain: plain["subject"][0]["digest"].update(sha256="9" * 64)), "the subjects are not the image"
    ),
    "of another model": (saying(other_model), "models/merged than the signed one"),
    "of another verdict": (saying(verdict), "reports/verdict.json at"),
    "reports of two verdicts": (saying(release("serving", "verdict", to=OTHER)), "the reports are about another verdict"),
    "of another policy": (saying(release("policy", to=OTHER)), "is about another policy than the signed one"),
    "of a later commit": (saying(later), "annotation org.opencontainers.image.revision is"),
    "of a commit without the record": (saying(bare), "params.yaml at"),
    "of a commit that is not merged": (saying(unmerged), "of its record is not in the history of main"),
    "of a commit that is nowhere": (saying(nowhere), "commit 111111111111 of its record is not in the history of main"),
    "another shard in the report": (saying(swapped), "lists other files than the signed ones"),
    "another path": (saying(release("image", "path", to="/models/x-123456789abc")), "its weights are at /models/x-1234"),
    "put elsewhere": (saying(release("image", "place", to="registry.example/team/router")), "was built and verified in registry.example"),
    "of another runtime": (saying(release("image", "runtime", to="vllm")), "a build gives"),
    "of another base image": (saying(release("image", "base", "layers", to=1)), "are not 1 of its base and then those"),
    "of a base for other processors": (saying(release("image", "base", "platform", to="linux/arm64")), "is for linux/amd64, not for linux/arm64"),
    "of such a base, which is gone": (saying(gone), "its base is for linux/arm64, but a build would use linux/amd64"),
    "served and failed": (saying(failed), "the serving report did not pass (parity)"),
    "served and failed, and said to pass": (saying(claimed), "contradicts the checks"),
    "served of another image": (saying(served(image=OTHER)), f"the serving report is of the image {OTHER}"),
    "served of no image": (saying(served(image=None)), "is of a folder of weights, not of an image"),
    "served of another model": (saying(served(model=OTHER)), "about another model than the image"),
    "served in a way that does not count": (saying(served(how="url")), "verified as a url; staging takes container"),
    "served by a runtime that does not count": (saying(served(runtime="llamafile")), "it was served by llamafile; stag"),
    "a check left out": (saying(lambda _, plain: plain["predicate"]["serving"]["checks"].pop()), "every check is made once"),
}  # fmt: skip


@pytest.mark.parametrize("name", STATEMENTS)
def test_a_statement_that_was_tampered_with_promotes_nothing(root: Path, name: str) -> None:
    tamper, why = STATEMENTS[name]
    tamper(root)
    refused(root, why)


FILES: dict[str, tuple[str, ...]] = {
    "params.yaml at": ("params",),
    "dvc.lock at": ("lock",),
    "reports/train.json at": ("reports", "reports/train.json"),
    "data/probes.json: is not what was signed": ("probes",),
}
JUDGED: dict[str, tuple[str, ...]] = {
    "about another models/adapter than the signed one": ("adapter",),
    "about another models/base than the signed one": ("base",),
    "about another data/raw than the signed one": ("raw",),
    "about another data/splits/test.jsonl than the signed one": ("splits", "test"),
}


@pytest.mark.parametrize("materials", [FILES, JUDGED])
def test_each_material_of_another_release_is_named(root: Path, materials: dict[str, tuple[str, ...]]) -> None:
    plain = unsigned(root)
    for path in materials.values():
        release("materials", *path, to=OTHER)(root, plain)
    attach_to(root, report(root).image, envelope(root, plain))
    refused(root, *materials)


def test_one_statement_that_holds_is_enough_whatever_lies_beside_it(root: Path) -> None:
    image = report(root).image
    attach_to(root, image, envelope(root, unsigned(root), "mallory"))
    attach_to(root, image, b"{}")
    attach_to(root, image, envelope(root, unsigned(root)))
    moved = move(root, "staging")
    assert moved.done == "moved"
    assert len([note for note in moved.notes if "/.lockstep/image@sha256:" in note]) == 2


def test_of_two_that_hold_the_one_that_agrees_is_taken(root: Path) -> None:
    plain = unsigned(root)
    served(how="url")(root, plain)
    image = report(root).image
    attach_to(root, image, envelope(root, plain))
    right = envelope(root, unsigned(root))
    attach_to(root, image, right)
    moved = move(root, "staging").after
    assert (moved and moved.evidence) == digest.of_bytes(right)


# The image


def test_an_image_that_was_built_before_layers_had_this_annotation_is_promoted(root: Path) -> None:
    def rename(_: Layout, manifest: Plain, __: Plain) -> None:
        for layer in manifest["layers"]:
            if title := layer.get("annotations", {}).pop("lockstep.layer", None):
                layer["annotations"]["org.opencontainers.image.title"] = title

    image = remade(root, rename)
    older = report(root).model_copy(update={"image": image})
    files.write_json(root / layout.IMAGE_REPORT, older)
    tree.served(root, older)
    attach_to(root, image, envelope(root, unsigned(root)))
    assert move(root, "staging", image=f"oci:{layout.IMAGE}@{image}").done == "moved"


def signed_of(change: Callable[[Layout, Plain, Plain], object]) -> Callable[[Path], str]:
    """Another image than was built, and a statement about it by one who may sign."""

    def tamper(root: Path) -> str:
        plain = unsigned(root)
        image = remade(root, change)
        attach_to(root, image, envelope(root, about(plain, image)))
        return f"oci:{layout.IMAGE}@{image}"

    return tamper


def over(store: Layout, manifest: Plain, config: Plain) -> None:
    """One more layer, which hides a file of the model."""
    data = build_tree.tar({"models/azure-cli-router/.wh.config.json": b""})
    found = store.add(Bytes(data), None, lambda _: None)
    manifest["layers"].append({"mediaType": LAYER, "digest": found, "size": len(data)})
    config["rootfs"]["diff_ids"].append(found)


def of_another_shard(store: Layout, manifest: Plain, config: Plain) -> None:
    data = build_tree.tar({"models/azure-cli-router/model-00001-of-00003.safetensors": b"evil"})
    found = store.add(Bytes(data), None, lambda _: None)
    manifest["layers"][2] |= {"digest": found, "size": len(data)}
    config["rootfs"]["diff_ids"][2] = found


def below(store: Layout, manifest: Plain, config: Plain) -> None:
    """Another file in the base's place."""
    data = build_tree.tar({"layer0": b"evil"})
    found = store.add(Bytes(data), None, lambda _: None)
    manifest["layers"][0] |= {"digest": found, "size": len(data)}
    config["rootfs"]["diff_ids"][0] = found


def setting(**change: Any) -> Callable[[Layout, Plain, Plain], None]:
    return lambda _, __, config: config["config"].update(change)


def preloaded(_: Layout, __: Plain, config: Plain) -> None:
    config["config"]["Env"].append("LD_PRELOAD=/evil.so")


IMAGES: dict[str, tuple[Callable[[Layout, Plain, Plain], object], str]] = {
    "a layer on top": (over, "1 layers come after those of the weights and may hide them"),
    "a layer less": (lambda _, manifest, __: manifest["layers"].pop(), "layers are not 2 of its base and then those"),
    "a shard swapped": (of_another_shard, "layers are not 2 of its base and then those of the weights"),
    "two shards in another order": (
        lambda _, manifest, __: manifest["layers"].insert(2, manifest["layers"].pop(3)), "are not 2 of its base and then"
    ),
    "another base": (below, "its lowest 2 layers are not those of oci:.lockstep/base"),
    "another entrypoint": (setting(Entrypoint=["/evil"]), 'config Entrypoint is ["/evil"], a build gives'),
    "a volume over the weights": (setting(Volumes={"/models": {}}), "config Volumes"),
    "other layers unpacked": (lambda _, __, config: config["rootfs"]["diff_ids"].reverse(), "config rootfs is"),
}  # fmt: skip


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_that_was_tampered_with_is_not_promoted_even_when_it_is_signed(root: Path, name: str) -> None:
    change, why = IMAGES[name]
    refused(root, why, image=signed_of(change)(root))


def retold(_: Layout, manifest: Plain, config: Plain) -> None:
    """Another word wherever a build says one about the image."""
    config["config"] |= {"Cmd": ["--trust-remote-code"], "User": "0", "WorkingDir": "/evil"}
    config["config"]["Env"].append("LD_PRELOAD=/evil.so")
    config["config"]["Labels"]["lockstep.model"] = OTHER
    config["architecture"] = "arm64"
    manifest["annotations"]["lockstep.model"] = OTHER
    manifest["layers"][2]["annotations"]["lockstep.layer"] = "x"


def test_each_word_about_the_image_is_that_of_a_build(root: Path) -> None:
    refused(
        root,
        'config Cmd is ["--trust-remote-code"], a build gives', 'config User is "0", a build gives', 'config WorkingDir is "/evil"',
        "LD_PRELOAD=/evil.so", "config Labels is", 'config architecture is "arm64"', "annotation lockstep.model is", "list of layers is",
        image=signed_of(retold)(root),
    )  # fmt: skip


@pytest.mark.parametrize("name", ["a volume over the weights", "another base", "another entrypoint"])
def test_nor_where_the_base_cannot_be_asked(root: Path, name: str) -> None:
    image = signed_of(IMAGES[name][0])(root)
    shutil.rmtree(root / tree.BASE)
    if name == "another base":  # it is what was signed, and nobody else knows the base
        assert move(root, "staging", image=image, dry_run=True).done == "planned"
    else:
        refused(root, "declares a volume" if "volume" in name else IMAGES[name][1], image=image)


def of_base(change: Callable[[Path], object], part: str) -> Callable[[Path], object]:
    """Change the file that the base's folder has for its ``part``."""

    def tamper(root: Path) -> None:
        base = report(root).base
        assert base is not None
        blobs = root / tree.BASE / "blobs" / "sha256"
        manifest = blobs / base.manifest.removeprefix("sha256:")
        of_config = json.loads(manifest.read_bytes())["config"]["digest"].removeprefix("sha256:")
        change({"manifest": manifest, "config": blobs / of_config, "mark": root / tree.BASE / "oci-layout"}[part])

    return tamper


BASES: dict[str, tuple[Callable[[Path], object], str | None]] = {
    "the manifest is another": (of_base(spoil.flip(at=60), "manifest"), "has other bytes than its name says"),
    "the config is another": (of_base(spoil.flip(at=60), "config"), "has other bytes than its name says"),
    "the folder is none": (of_base(lambda path: path.write_text("{}"), "mark"), "is of another version than 1.0.0"),
    "the config is gone": (of_base(Path.unlink, "config"), None),
    "the folder is gone": (lambda root: shutil.rmtree(root / tree.BASE), None),
}


@pytest.mark.parametrize("name", BASES)
def test_a_base_that_is_gone_is_as_signed_and_one_of_other_bytes_stops_the_promotion(root: Path, name: str) -> None:
    change, why = BASES[name]
    attach_to(root, report(root).image, envelope(root, unsigned(root)))
    change(root)
    if why:
        refused(root, why)
    else:
        found = move(root, "staging", dry_run=True)
        assert found.done == "planned"
        assert any("signed layer digests are used" in check.note for check in found.checks if check.about == "layers")


def replayed(root: Path) -> str:
    """The statement of the right image, beside another."""
    image = remade(root, preloaded)
    attach_to(root, image, envelope(root, unsigned(root)))
    return f"oci:{layout.IMAGE}@{image}"


def retagged(root: Path) -> str:
    """The tag of the image leads to another one, which nobody signed."""
    attach_to(root, report(root).image, envelope(root, unsigned(root)))
    image = remade(root, preloaded)
    return f"oci:{layout.IMAGE}:{report(root).model[7:19]}@{image}"


def indexed(root: Path) -> str:
    store = Layout(root / layout.IMAGE)
    entry = {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": report(root).image, "size": 1}
    kind = "application/vnd.oci.image.index.v1+json"
    with store.held():
        image = store.put(
            json.dumps({"schemaVersion": 2, "mediaType": kind, "manifests": [entry]}).encode(), kind, None
        )
    return f"oci:{layout.IMAGE}@{image}"


def elsewhere(root: Path) -> str:
    """The same image with its evidence, in another place."""
    attach_to(root, report(root).image, envelope(root, unsigned(root)))
    shutil.copytree(root / layout.IMAGE, root / layout.STATE / "copy")
    return f"oci:{layout.STATE}/copy@{report(root).image}"


def blob(root: Path, number: int = 2) -> Path:
    """The file of a layer of the image."""
    manifest = json.loads(Layout(root / layout.IMAGE).document(report(root).image).data)
    return root / layout.IMAGE / "blobs/sha256" / manifest["layers"][number]["digest"].removeprefix("sha256:")


def stored(change: Callable[[Path], object], number: int = 2) -> Tamper:
    def tamper(root: Path) -> None:
        attach_to(root, report(root).image, envelope(root, unsigned(root)))
        change(blob(root, number))

    return tamper


PLACES: dict[str, tuple[Tamper, str]] = {
    "the evidence of another image": (replayed, "is about the image sha256"),
    "a tag that leads to another image": (retagged, "no signed statement holds or is there"),
    "an index of images": (indexed, "is an index, not an image"),
    "the same image elsewhere": (elsewhere, "was built and verified in oci:.lockstep/image; promote it from there"),
    "no such image": (lambda _: f"oci:{layout.IMAGE}@{OTHER}", "is absent, or is not a manifest"),
    "no such folder": (lambda _: f"oci:nowhere@{OTHER}", "is not an OCI layout"),
    "a shard is gone": (stored(spoil.remove()), "is missing or incomplete"),
    "a shard is cut": (stored(spoil.cut()), "is missing or incomplete"),
    "a shard is another": (stored(spoil.flip(at=600)), "is missing or incomplete"),
    "a layer of the base is another": (stored(lambda path: path.write_bytes(b"x" * path.stat().st_size), 0), "incomplete"),
}  # fmt: skip


@pytest.mark.parametrize("name", PLACES)
def test_a_place_that_holds_something_else_promotes_nothing(root: Path, name: str) -> None:
    tamper, why = PLACES[name]
    image = tamper(root)
    refused(root, why, image=image)


# The record, as it lies here and in git


def edited(path: Path, **change: Any) -> Tamper:
    return lambda root: signing_tree.edit(root / path, **change)


def appended(path: Path, text: str) -> Tamper:
    def tamper(root: Path) -> None:
        with (root / path).open("a") as stream:
            stream.write(text)

    return tamper


def another_verdict(root: Path) -> None:
    """The record of the next model, which nobody has built."""
    build_tree.weigh(root, build_tree.shards(seed=5))
    build_tree.judge(root, params_file.load(root / layout.PARAMS))
    keep(root, "next")


def lowered(root: Path) -> None:
    """A gate asks for less in this checkout, and everything here agrees with it."""
    rewrite(root, layout.PARAMS, lambda plain: plain["gates"]["routes_well"].update(at_least=0.001))


def approving(root: Path) -> None:
    lowered(root)
    path = root / layout.APPROVALS
    path.write_text(f"- policy: {OTHER}\n  by: mallory\n  why: trust me\n")


RECORDS: dict[str, tuple[spoil.Spoil, str]] = {
    "a verdict that says pass": (edited(layout.VERDICT, findings=[]), "the verdict does not hold"),
    "a verdict that says fail": (edited(layout.VERDICT, status="fail"), "the verdict does not hold"),
    "a verdict of another model": (another_verdict, "reports/verdict.json: is not what was signed"),
    "another report of the training": (edited(layout.TRAIN_REPORT, steps=9), "reports/train.json"),
    "other predictions": (appended(layout.PREDICTIONS / "candidate.jsonl", "\n"), "data/predictions/candidate.jsonl"),
    "another test split": (appended(layout.SPLITS / "test.jsonl", "\n"), "data/splits/test.jsonl"),
    "other probes": (edited(layout.PROBES, device="gpu"), "data/probes.json"),
    "a shard with one bit more": (spoil.flip(layout.MERGED / "model-00002-of-00003.safetensors", at=600), "is not the file that the verdict is about"),
    "a file among the weights": (appended(layout.MERGED / "evil.py", "x"), "evil.py: is not of the model"),
    "another dvc.lock": (spoil.write(layout.LOCK, "{}\n"), "dvc.lock: no record of this pipeline: it has no stages"),
    "a gate that asks for less": (lowered, "the gates are not those of the verdict"),
    "a policy that approves itself": (approving, "the gates are not those of the verdict"),
}  # fmt: skip


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_that_was_tampered_with_promotes_nothing(root: Path, name: str) -> None:
    image = report(root).image
    attach_to(root, image, envelope(root, unsigned(root)))
    RECORDS[name][0](root)
    refused(root, RECORDS[name][1], image=f"oci:{layout.IMAGE}@{image}")


# Rules and signers


def test_who_signs_is_read_on_the_target_branch_and_not_in_a_proposal(root: Path) -> None:
    attach_to(root, report(root).image, envelope(root, unsigned(root), "mallory"))
    git(root, "checkout", "--quiet", "-b", "proposal")
    key_verbs.add_signer(root, "mallory", ("release",), key(root, "mallory").with_suffix(".pub"))
    refused(root, "that is unknown here")
    keep(root, "mallory signs")
    refused(root, "that is unknown here")


def test_what_is_asked_for_is_read_on_the_target_branch_and_not_in_a_proposal(root: Path) -> None:
    attach_to(root, report(root).image, envelope(root, unsigned(root)))
    rules = lambda plain, count: plain["promote"]["environments"]["staging"].update(approvals=count)  # noqa: E731
    rewrite(root, layout.PARAMS, lambda plain: rules(plain, 1))
    git(root, "checkout", "--quiet", "-b", "proposal")
    rewrite(root, layout.PARAMS, lambda plain: rules(plain, 0))
    refused(root, "it has 0 of 1 approvals")


def test_a_key_that_was_taken_from_its_owner_signs_nothing(root: Path) -> None:
    attach_to(root, report(root).image, envelope(root, unsigned(root)))
    text = (root / layout.SIGNERS).read_text()
    (root / layout.SIGNERS).write_text(text[text.index("- name: bob") :])
    keep(root, "ada has left")
    refused(root, "that is unknown here")
    (root / layout.SIGNERS).unlink()
    keep(root, "nobody signs")
    refused(root, "main:release/policy/signers.yaml: is missing, so nobody may sign")
    (root / layout.SIGNERS).write_text(text)
    assert "merge the branch that adds it here into main" in refused(root, "so nobody may sign").todo


def test_a_branch_that_is_called_like_another_s_ref_is_not_taken_for_it(root: Path) -> None:
    attach_to(root, report(root).image, envelope(root, unsigned(root)))
    git(root, "branch", "refs/remotes/main")
    git(root, "commit", "--quiet", "--allow-empty", "-m", "on main")
    assert context.find(root, "main").target == "main"
    assert move(root, "staging").commit != git(root, "rev-parse", "refs/heads/refs/remotes/main")
    assert git(root, "log", "-1", "--format=%s", "refs/heads/main") == "promote staging to v0.1.0"


def test_code_that_git_never_had_is_not_released_by_whatever_version_built_it(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_tree.ran_ignored_code(root, monkeypatch)
    keep(root, "a lock that names it")
    with monkeypatch.context() as older:
        older.setattr(committed_code, "differences", lambda *_: [])
        tree.release(root)
    assert "code.lock at " in str(refused(root, "gate ran other code than this commit has"))


def test_a_policy_that_became_stricter_is_asked_again(root: Path) -> None:
    attach_to(root, report(root).image, envelope(root, unsigned(root)))
    move(root, "staging")
    rewrite(root, layout.PARAMS, lambda plain: plain["gates"]["routes_well"].update(at_least=0.95, resolution=0.3))
    git(root, "checkout", "--quiet", "HEAD^")
    refused(root, "policy", environment="production")
    shutil.rmtree(root / "reports")
    refused(root, "it was judged under another policy than main has now", environment="production")


def test_too_many_artifacts_hide_nothing_they_refuse(root: Path) -> None:
    store, image = Layout(root / layout.IMAGE), report(root).image
    attach_to(root, image, envelope(root, unsigned(root)))
    with store.held():
        for number in range(101):
            attach.attach(store, attach.subject(store, image), ENVELOPE, b"%d" % number, "release.json")
    refused(root, "102 artifacts of application/vnd.dsse.envelope.v1+json are attached")


def test_a_verdict_of_packages_that_are_not_those_here_releases_nothing(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attach_to(root, report(root).image, envelope(root, unsigned(root)))
    asked = []

    def differences(recorded: dict[str, Plugin]) -> list[str]:
        asked.append(recorded)
        return ["plugin lockstep.gates:x: package acme 1.0 is not installed"]

    monkeypatch.setattr(record_checks, "plugins", SimpleNamespace(differences=differences))
    refused(root, "package acme 1.0 is not installed")
    assert asked == [{}]


def test_looks_that_the_record_omits_promote_nothing(root: Path) -> None:
    """25 models stood on the branch lockstep/looks, and the list had one."""
    attach_to(root, report(root).image, envelope(root, unsigned(root)))
    others = root.parent / "looks"
    git(root, "worktree", "add", "--quiet", "--detach", str(others))
    git(others, "checkout", "--quiet", "--orphan", "lockstep/looks")
    evaluation = json.loads((root / layout.EVALUATION).read_text())
    for number in range(25):
        files.write_json(others / layout.EVALUATION, evaluation | {"merged": f"sha256:{number:064x}"})
        git(others, "add", "--all")
        git(others, "commit", "--quiet", "-m", f"look {number}")
    refused(root, "reports/looks.json: lacks 25 of the models that these test rows judged (sha256:000000000000…, ")


def test_looks_of_a_remote_that_does_not_answer_promote_nothing(root: Path) -> None:
    attach_to(root, report(root).image, envelope(root, unsigned(root)))
    git(root, "remote", "add", "elsewhere", str(root.parent / "work.git"))
    git(root, "clone", "--quiet", "--bare", str(root), str(root.parent / "work.git"))
    git(root, "config", "branch.main.remote", "elsewhere")
    git(root, "remote", "add", "origin", str(root.parent / "nowhere"))
    refused(root, "lockstep/looks of origin: ")
