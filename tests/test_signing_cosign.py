"""What is attached to an image in a real registry, as the program cosign finds and verifies it.

Debian has version 2, which reads the old form unless it is told otherwise; version 3 does it the other way round. Both
forms are asked for by name here, so that either version passes.
"""

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from in_toto_attestation.v1.resource_descriptor import ResourceDescriptor  # type: ignore[import-untyped] # has no types
from in_toto_attestation.v1.statement import Statement  # type: ignore[import-untyped] # has no types

from checks import layout
from checks.errors import RegistryRefused
from checks.formats.serving import ImageReport
from checks.formats.statement import PREDICATE
from release.adapters.registry.client import Repository
from release.adapters.registry.documents import write
from release.adapters.registry.types import INDEX
from release.evidence import attach, bundles, cosign, keys, released, slsa, trust
from release.evidence.keys import KEY
from release.verbs import keys as key_verbs
from release.verbs.build import Options, build
from release.verbs.sign import Signed, sign
from tests import programs, signing_tree
from tests.registry_service import Registry, registry

pytestmark = pytest.mark.slow

OFFLINE = {"mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1"}
TAG = ("--new-bundle-format=false",)


class Pushed(NamedTuple):
    """A release that was signed in a registry. Read-only by custom, but for what a test adds to the registry."""

    root: Path
    service: Registry
    image: ImageReport
    signed: Signed

    @property
    def place(self) -> Repository:
        return Repository(self.service.host, "team/router", push=True)

    @property
    def name(self) -> str:
        return f"{self.service.host}/team/router@{self.image.image}"

    @property
    def key(self) -> Path:
        return self.root / KEY.with_suffix(".pub")


@pytest.fixture(scope="module")
def pushed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pushed]:
    home = tmp_path_factory.mktemp("cosign")
    signing_tree.make(home / "run")
    with registry(home / "registry") as service:
        image = build(home / "run", Options(push=f"{service.host}/team/router:v1"))
        signing_tree.served(home / "run", image)
        place = Repository(service.host, "team/router", push=True)
        yield Pushed(home / "run", service, image, sign(home / "run", place, home / "run" / KEY))


@pytest.fixture(scope="module")
def eve(pushed: Pushed) -> Path:
    """The public key of somebody who signs nothing; the private one lies beside it."""
    return key_verbs.new(pushed.root, "eve", ("release",), pushed.root / ".lockstep/keys/eve.key").public


def run(*command: object, program: str = "cosign") -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"COSIGN_PASSWORD": ""}
    return subprocess.run([program, *map(str, command)], capture_output=True, text=True, check=False, env=environment)


def verify(
    pushed: Pushed, kind: str, how: tuple[object, ...] = TAG, key: Path | None = None
) -> subprocess.CompletedProcess[str]:
    where = ("--key", key or pushed.key, "--insecure-ignore-tlog")
    return run("verify-attestation", *where, "--type", kind, *how, pushed.name)


def signatures(pushed: Pushed, key: Path | None = None) -> subprocess.CompletedProcess[str]:
    return run("verify", "--key", key or pushed.key, "--insecure-ignore-tlog", *TAG, pushed.name)


def stated(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The statement in what ``verify`` printed."""
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(base64.b64decode(json.loads(done.stdout)["payload"]))
    return found


def test_cosign_verifies_provenance_and_release_by_the_tag(pushed: Pushed, eve: Path) -> None:
    assert stated(verify(pushed, "slsaprovenance1"))["predicateType"] == slsa.PREDICATE
    assert stated(verify(pushed, PREDICATE)) == pushed.signed.statement.model_dump(mode="json", by_alias=True)
    for kind in ("slsaprovenance1", PREDICATE):
        assert "Found: 0, Expected 1" in verify(pushed, kind, key=eve).stderr
    assert "none of the attestations matched" in verify(pushed, "spdx").stderr


def test_cosign_verifies_provenance_and_release_by_the_bundle_as_its_version_3_does(
    pushed: Pushed, eve: Path, tmp_path: Path
) -> None:
    """The weights' signature is a bundle about something else, and is passed over."""
    (tmp_path / "root.json").write_text(json.dumps(OFFLINE))
    how = ("--new-bundle-format", "--trusted-root", tmp_path / "root.json")
    assert stated(verify(pushed, "slsaprovenance1", how))["predicateType"] == slsa.PREDICATE
    assert stated(verify(pushed, PREDICATE, how)) == pushed.signed.statement.model_dump(mode="json", by_alias=True)
    for kind in ("slsaprovenance1", PREDICATE):
        assert verify(pushed, kind, how, key=eve).returncode == 1


def test_cosign_3_finds_all_that_is_there_without_being_told_where(pushed: Pushed, eve: Path) -> None:
    program = programs.cosign3()
    for command in (
        ["verify-attestation", "--type", "slsaprovenance1"],
        ["verify-attestation", "--type", PREDICATE],
        ["verify"],
    ):
        for key, holds in ((pushed.key, True), (eve, False)):
            how = [*command, "--insecure-ignore-tlog", "--key", key, pushed.name]
            assert (run(*how, program=program).returncode == 0) is holds, (command, key)
    shown = run("tree", pushed.name, program=program).stdout
    assert f"{slsa.PREDICATE} artifacts via OCI referrer" in shown
    assert f"{PREDICATE} artifacts via OCI referrer" in shown


def test_lockstep_counts_an_envelope_and_its_bundle_once(pushed: Pushed) -> None:
    known = trust.known(pushed.root)
    (found,) = released.search(pushed.place, pushed.image.image, known).found
    assert (found.envelope, found.digest) == (pushed.signed.envelope, pushed.signed.evidence)


def test_cosign_lists_the_attestations_and_the_signature(pushed: Pushed) -> None:
    shown = run("tree", pushed.name).stdout
    name = pushed.name.partition("@")[0]
    assert f"Attestations for an image tag: {name}:{cosign.tag(pushed.image.image)}" in shown
    assert f"Signatures for an image tag: {name}:{cosign.tag(pushed.image.image, 'sig')}" in shown
    assert shown.count("🍒") >= 3  # version 3 lists the bundles too


def test_cosign_verifies_the_signature_of_the_image_by_each_signer(pushed: Pushed, eve: Path) -> None:
    (claim,) = json.loads(signatures(pushed).stdout)
    assert claim["critical"]["image"] == {"docker-manifest-digest": pushed.image.image}
    assert signatures(pushed, eve).returncode != 0
    name = cosign.tag(pushed.image.image, "sig")
    (layer,) = json.loads(pushed.place.document(name).data)["layers"]
    ours, another = keys.load(pushed.root / KEY), keys.load(eve.with_suffix(".key"))
    to = attach.subject(pushed.place, pushed.image.image)
    for _ in range(2):  # what is there is not written again
        for key in (another, ours):
            one, two = (bundles.sign(b'{"predicateType":"urn:%d"}' % number, key) for number in range(2))
            cosign.write(pushed.place, to, one, two, key)
    layers = json.loads(pushed.place.document(name).data)["layers"]
    assert (layers[0], [one["digest"] for one in layers]) == (layer, [layer["digest"]] * 2)
    assert signatures(pushed).returncode == signatures(pushed, eve).returncode == 0


def test_an_attestation_that_cosign_added_stays_and_ours_are_written_once(pushed: Pushed, tmp_path: Path) -> None:
    (tmp_path / "scan.json").write_text("{}")
    theirs = tmp_path / "theirs"
    assert run("generate-key-pair", "--output-key-prefix", theirs).returncode == 0
    how = ["--yes", "--tlog-upload=false", "--key", theirs.with_suffix(".key"), "--predicate", tmp_path / "scan.json"]
    if "--use-signing-config" in run("attest", "--help").stdout:
        how += ["--use-signing-config=false", *TAG]
    name = cosign.tag(pushed.image.image)
    ours = json.loads(pushed.place.document(name).data)["layers"]
    added = run("attest", *how, "--type", "custom", pushed.name)
    assert added.returncode == 0, added.stderr
    before = pushed.place.document(name)
    assert [*ours, json.loads(before.data)["layers"][-1]] == json.loads(before.data)["layers"]
    assert sign(pushed.root, pushed.place, pushed.root / KEY) == pushed.signed._replace(added=())
    assert pushed.place.document(name) == before
    assert verify(pushed, "custom", key=theirs.with_suffix(".pub")).returncode == 0
    assert verify(pushed, "slsaprovenance1").returncode == 0


def test_the_tag_is_made_again_where_it_was_removed_and_refused_where_it_is_an_index(pushed: Pushed) -> None:
    name, place = cosign.tag(pushed.image.image), pushed.place
    folder = next(pushed.service.folder.glob(f"data/**/_manifests/tags/{name}"))
    shutil.rmtree(folder)
    assert place.tagged(name) is None
    sign(pushed.root, place, pushed.root / KEY)
    assert verify(pushed, PREDICATE).returncode == 0
    kept = json.loads(place.document(name).data)
    place.put(write({"schemaVersion": 2, "mediaType": INDEX, "manifests": []}), INDEX, name)
    with pytest.raises(RegistryRefused, match="is an index, not a list of signatures"):
        sign(pushed.root, place, pushed.root / KEY)
    shutil.rmtree(folder)
    sign(pushed.root, place, pushed.root / KEY)
    assert json.loads(place.document(name).data) == kept


def test_in_toto_accepts_the_provenance_and_slsa_finds_its_fields(pushed: Pushed) -> None:
    """The package in-toto-attestation checks the statement; the required fields are those of SLSA v1.0."""
    found = stated(verify(pushed, "slsaprovenance1"))
    subjects = [ResourceDescriptor(each["name"], digest=each["digest"]).pb for each in found["subject"]]
    Statement(subjects, found["predicateType"], found["predicate"]).validate()
    assert found["subject"] == [subject.model_dump(mode="json") for subject in pushed.signed.statement.subject]
    definition, details = found["predicate"]["buildDefinition"], found["predicate"]["runDetails"]
    its = pushed.signed.statement.predicate
    assert (definition["buildType"], details["builder"]["id"]) == (slsa.BUILD, "urn:lockstep:builder:ada")
    assert definition["externalParameters"]["commit"] == its.commit
    listed = (*definition["resolvedDependencies"], *details["byproducts"])
    for each in listed:
        ResourceDescriptor(each["name"], digest=each["digest"]).validate()
    digests = {each["name"]: next(iter(each["digest"].values())) for each in listed}
    assert len(digests) == len(listed)
    assert digests["source"] == its.commit
    for path in (layout.BASE, layout.RAW, layout.ADAPTER):
        assert f"sha256:{digests[path.as_posix()]}" in its.materials.model_dump().values()
