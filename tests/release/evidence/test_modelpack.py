"""The ModelPack beside a signed image in a real registry, as oras, skopeo and cosign find and pull it."""

import hashlib
import json
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from checks.formats.serving import ImageReport
from checks.formats.signers import Signers
from checks.storage import layout
from release.adapters.registry.client import Repository
from release.evidence import attach, modelpack, sigstore, slsa, trust
from release.evidence.keys import KEY
from release.image.layout import Layout
from release.verbs.build import BuildOptions, build
from release.verbs.sign import Signed, sign
from tests import build_tree, programs, registry_service, signing_tree
from tests.build_tree import BaseLayout
from tests.registry_service import Registry

pytestmark = pytest.mark.slow

# The fields of a config's descriptor in version 0.0.7 of the specification.
DESCRIPTOR = {
    "createdAt", "authors", "vendor", "family", "name", "version", "title", "description", "docURL", "sourceURL",
    "revision", "licenses",
}  # fmt: skip


class Pushed(NamedTuple):
    """A release that was signed in a registry. ``sent``: digests of the blobs that signing sent. Read-only by custom."""

    root: Path
    service: Registry
    image: ImageReport
    signed: Signed
    sent: list[str]

    @property
    def store(self) -> Repository:
        return Repository(self.service.host, "team/router")

    @property
    def name(self) -> str:
        return f"{self.service.host}/team/router"

    @property
    def pack(self) -> str:
        """The digest of the only ModelPack, as oras finds it."""
        found = json.loads(
            _run("oras", "discover", "--plain-http", "--format", "json", "--artifact-type", modelpack.ARTIFACT,
                 f"{self.name}@{self.image.image}")
        )  # fmt: skip
        (one,) = found.get("referrers") or found["manifests"]
        digest: str = one["digest"]
        return digest

    @property
    def files(self) -> dict[str, str]:
        """The digest of each file of the model, by its path in the image."""
        home = f"models/{self.image.path.rpartition('/')[2].rpartition('-')[0]}"
        return {f"{home}/{path}": value for layer in self.image.layers for path, value in layer.files.items()}


@pytest.fixture(scope="module")
def pushed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pushed]:
    programs.require("docker-registry")
    home = tmp_path_factory.mktemp("modelpack")
    root = home / "run"
    signing_tree.make(root)
    sent: list[str] = []
    inner = Repository.add

    def add(self: Repository, *blob: Any) -> str:
        sent.append(inner(self, *blob))
        return sent[-1]

    with registry_service.registry(home / "registry") as service, pytest.MonkeyPatch.context() as patch:
        image = build(root, BuildOptions(push=f"{service.host}/team/router:v1"))
        signing_tree.served(root, image)
        patch.setattr(Repository, "add", add)
        signed = sign(root, Repository(service.host, "team/router", push=True), root / KEY)
        yield Pushed(root, service, image, signed, sent)


def _run(*command: object) -> str:
    programs.require(str(command[0]))
    return subprocess.run([*map(str, command)], check=True, capture_output=True, text=True).stdout


def _sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _unpacked(tars: list[Path], folder: Path) -> dict[str, str]:
    """The digest of each file in ``tars``, by its path; links are left out."""
    for path in tars:
        with tarfile.open(path, "r:") as archive:
            archive.extractall(folder, filter="data")
    found = [path for path in folder.rglob("*") if path.is_file() and path.parent.name != "models"]
    return {
        path.relative_to(folder).as_posix(): _sha256(path.read_bytes())
        for path in found
        if not any(parent.is_symlink() for parent in path.parents)
    }


def _documents(pushed: Pushed, pack: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The manifest and config of the ModelPack, as the registry gives them."""
    stored = pushed.service.stored
    manifest = json.loads(stored[pack])
    return manifest, json.loads(stored[manifest["config"]["digest"]])


def test_its_layers_are_the_blobs_of_the_image_and_none_is_sent_again(pushed: Pushed) -> None:
    manifest, config = _documents(pushed, pushed.pack)
    layers = [layer.digest for layer in pushed.image.layers]
    assert [layer["digest"] for layer in manifest["layers"]] == layers
    assert config["modelfs"] == {"type": "layers", "diffIds": layers}
    assert not {*layers} & {*pushed.sent}
    assert pushed.pack in pushed.signed.added


def test_its_documents_have_the_media_types_and_fields_of_the_specification(pushed: Pushed) -> None:
    manifest, config = _documents(pushed, pushed.pack)
    assert manifest["mediaType"] == "application/vnd.oci.image.manifest.v1+json"
    assert manifest["artifactType"] == "application/vnd.cncf.model.manifest.v1+json"
    assert manifest["config"]["mediaType"] == "application/vnd.cncf.model.config.v1+json"
    assert manifest["subject"]["digest"] == pushed.image.image
    *shards, rest = [layer["mediaType"] for layer in manifest["layers"]]
    assert {*shards} == {"application/vnd.cncf.model.weight.v1.tar"}
    assert rest == "application/vnd.cncf.model.weight.config.v1.tar"
    assert config.keys() == {"descriptor", "config", "modelfs"}
    assert config["config"] == {"format": "safetensors"}
    described = config["descriptor"]
    assert described.keys() <= DESCRIPTOR
    assert described["revision"] == pushed.image.commit
    assert described["version"] == pushed.image.model.removeprefix("sha256:")[:12]
    assert isinstance(described["licenses"], list)


def test_oras_pulls_the_files_of_the_model(pushed: Pushed, tmp_path: Path) -> None:
    _run("oras", "pull", "--plain-http", "--output", tmp_path / "pulled", f"{pushed.name}@{pushed.pack}")
    tars = sorted((tmp_path / "pulled").iterdir())
    assert [path.suffix for path in tars] == [".tar"] * len(pushed.image.layers)
    assert _unpacked(tars, tmp_path / "unpacked") == pushed.files


def test_skopeo_copies_the_same_bytes(pushed: Pushed, tmp_path: Path) -> None:
    source = f"docker://{pushed.name}@{pushed.pack}"
    _run("skopeo", "copy", "--quiet", "--insecure-policy", "--preserve-digests", "--src-tls-verify=false",
         source, f"dir:{tmp_path / 'copy'}")  # fmt: skip
    assert _sha256((tmp_path / "copy/manifest.json").read_bytes()) == pushed.pack
    tars = [tmp_path / "copy" / layer.digest.removeprefix("sha256:") for layer in pushed.image.layers]
    assert _unpacked(tars, tmp_path / "unpacked") == pushed.files


def test_a_folder_on_another_machine_gets_the_same_bytes(pushed: Pushed, tmp_path: Path) -> None:
    root = shutil.copytree(pushed.root, tmp_path / "elsewhere")
    image = build(root, BuildOptions())
    assert image.image == pushed.image.image
    signing_tree.served(root, image)
    signed = sign(root, Layout(root / layout.IMAGE), root / KEY)
    assert pushed.pack in signed.added
    index = root / layout.IMAGE / "index.json"
    entries = json.loads(index.read_text())
    entries["manifests"] = [entry for entry in entries["manifests"] if entry["digest"] != pushed.pack]
    index.write_text(json.dumps(entries))
    again = sign(root, Layout(root / layout.IMAGE), root / KEY)
    assert again == signed._replace(added=(pushed.pack,)), "a release that lacks one gets it"


def test_the_provenance_that_the_signer_signed_names_it(pushed: Pushed, tmp_path: Path) -> None:
    known = trust.known(pushed.root)
    bundle = _provenance(pushed, known)
    (tmp_path / "provenance.json").write_bytes(bundle)
    (tmp_path / "trusted_root.json").write_text(
        json.dumps({"mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1"})
    )
    _run(
        "oras", "manifest", "fetch", "--plain-http", "--output", tmp_path / "pack.json", f"{pushed.name}@{pushed.pack}"
    )
    (tmp_path / "other.json").write_bytes((tmp_path / "pack.json").read_bytes() + b"\n")
    check = [
        "cosign", "verify-blob-attestation", "--key", pushed.root / KEY.with_suffix(".pub"), "--insecure-ignore-tlog",
        "--new-bundle-format", "--trusted-root", tmp_path / "trusted_root.json",
        "--bundle", tmp_path / "provenance.json", "--type", "slsaprovenance1",
    ]  # fmt: skip
    _run(*check, tmp_path / "pack.json")
    with pytest.raises(subprocess.CalledProcessError):
        _run(*check, tmp_path / "other.json")


def _provenance(pushed: Pushed, known: Signers) -> bytes:
    for one in attach.attached(pushed.store, pushed.image.image, sigstore.BUNDLE, 1 << 20):
        trust.verify(one.data, known, "release", "a bundle")
        if attach.predicate_type(one.data) == slsa.PREDICATE:
            return one.data
    raise AssertionError("no provenance is attached")


def test_of_an_image_with_a_server_it_has_the_weights_alone_and_a_gguf_file_is_weights(tmp_path: Path) -> None:
    root = tmp_path / "run"
    base = BaseLayout(tmp_path / "base")
    config = b'{"model_type": "llama", "head_dim": 64}'
    build_tree.make(root, {"config.json": config, "gguf/model.gguf": b"GGUF"})
    image = build(root, BuildOptions(base=base.pinned(base.image(layers=3))))
    store = Layout(root / layout.IMAGE)
    pack = modelpack.make(store, attach.subject(store, image.image), image)
    (layer,) = json.loads(pack.manifest)["layers"]
    assert layer["digest"] == image.layers[0].digest
    assert layer["mediaType"] == modelpack.WEIGHT
    assert json.loads(pack.config)["config"] == {"format": "gguf"}
