"""What is attached to an image in a real registry, as the program cosign finds and verifies it.

Debian has version 2, which reads bundles only if it is told so; version 3 always does. It is told so here.
"""

import base64
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from in_toto_attestation.v1.resource_descriptor import ResourceDescriptor  # type: ignore[import-untyped] # has no types
from in_toto_attestation.v1.statement import Statement  # type: ignore[import-untyped] # has no types

from checks.formats.serving import ImageReport
from checks.formats.statement import PREDICATE
from checks.storage import layout
from release.adapters.registry.client import Repository
from release.evidence import attached_statements, slsa, trust
from release.evidence.keys import KEY
from release.verbs import keys as key_verbs
from release.verbs.build import BuildOptions, build
from release.verbs.sign import Signed, sign
from tests import programs, signing_tree
from tests.registry_service import Registry, registry

pytestmark = pytest.mark.slow

OFFLINE = {"mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1"}


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
        image = build(home / "run", BuildOptions(push=f"{service.host}/team/router:v1"))
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


def verify(pushed: Pushed, kind: str, key: Path | None = None) -> subprocess.CompletedProcess[str]:
    trusted = pushed.root / "trusted_root.json"
    trusted.write_text(json.dumps(OFFLINE))
    how = ("--key", key or pushed.key, "--insecure-ignore-tlog", "--new-bundle-format", "--trusted-root", trusted)
    return run("verify-attestation", *how, "--type", kind, pushed.name)


def stated(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The statement in what ``verify`` printed."""
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(base64.b64decode(json.loads(done.stdout)["payload"]))
    return found


def test_cosign_verifies_provenance_and_release_by_the_bundle(pushed: Pushed, eve: Path) -> None:
    """The weights' signature is a bundle about something else, and is passed over."""
    assert stated(verify(pushed, "slsaprovenance1"))["predicateType"] == slsa.PREDICATE
    assert stated(verify(pushed, PREDICATE)) == pushed.signed.statement.model_dump(mode="json", by_alias=True)
    for kind in ("slsaprovenance1", PREDICATE):
        assert verify(pushed, kind, key=eve).returncode == 1


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
    (found,) = attached_statements.search(pushed.place, pushed.image.image, known).releases
    assert (found.envelope, found.digest) == (pushed.signed.envelope, pushed.signed.evidence)


def test_signing_again_attaches_nothing(pushed: Pushed) -> None:
    before = pushed.place.referrers(pushed.image.image)
    assert sign(pushed.root, pushed.place, pushed.root / KEY) == pushed.signed._replace(added=())
    assert pushed.place.referrers(pushed.image.image) == before


def test_in_toto_accepts_the_provenance_and_slsa_finds_its_fields(pushed: Pushed) -> None:
    """The package in-toto-attestation checks the statement; the required fields are those of SLSA v1.0."""
    found = stated(verify(pushed, "slsaprovenance1"))
    subjects = [ResourceDescriptor(each["name"], digest=each["digest"]).pb for each in found["subject"]]
    Statement(subjects, found["predicateType"], found["predicate"]).validate()
    *ours, pack = found["subject"]
    assert ours == [subject.model_dump(mode="json") for subject in pushed.signed.statement.subject]
    assert f"sha256:{pack['digest']['sha256']}" in pushed.signed.added
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
