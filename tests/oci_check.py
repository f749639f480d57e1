"""An independent reader of OCI layouts, written from the specification: it shares no code with ``release.image``."""

import gzip
import hashlib
import io
import json
import re
import tarfile
from pathlib import Path
from typing import Any, NamedTuple

_LAYER = "application/vnd.oci.image.layer.v1.tar"


class Checked(NamedTuple):
    """One image that was found whole: its documents, and the files of its layers by path, the last one winning."""

    digest: str
    manifest: dict[str, Any]
    config: dict[str, Any]
    files: dict[str, bytes]
    members: list[tarfile.TarInfo]


def check(folder: Path) -> dict[str, Checked]:
    """Hold every byte that the layout's index reaches to the specification; return its images by tag.

    One without a tag is called by its digest.
    """
    assert json.loads((folder / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}
    index = json.loads((folder / "index.json").read_text())
    assert index["schemaVersion"] == 2
    name = "org.opencontainers.image.ref.name"
    return {
        (entry.get("annotations") or {}).get(name, entry["digest"]): _image(folder, entry)
        for entry in index["manifests"]
    }


def only(folder: Path) -> Checked:
    """The layout's one image."""
    ((_, image),) = check(folder).items()
    return image


def blobs(folder: Path) -> set[str]:
    """Names of all blobs that are there."""
    return {path.name for path in (folder / "blobs" / "sha256").iterdir()}


def _image(folder: Path, entry: dict[str, Any]) -> Checked:
    assert entry["mediaType"] == "application/vnd.oci.image.manifest.v1+json"
    manifest = json.loads(_blob(folder, entry))
    assert manifest["schemaVersion"] == 2
    assert manifest["mediaType"] == entry["mediaType"]
    assert manifest["config"]["mediaType"] == "application/vnd.oci.image.config.v1+json"
    config = json.loads(_blob(folder, manifest["config"]))
    assert {"os", "architecture", "rootfs", "config"} <= config.keys()
    assert config["rootfs"]["type"] == "layers"
    assert len(config["rootfs"]["diff_ids"]) == len(manifest["layers"])
    assert sum(not step.get("empty_layer") for step in config["history"]) == len(manifest["layers"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", config["created"])
    files: dict[str, bytes] = {}
    members = []
    for layer, diff_id in zip(manifest["layers"], config["rootfs"]["diff_ids"], strict=True):
        data = _blob(folder, layer)
        assert layer["mediaType"] in (_LAYER, f"{_LAYER}+gzip")
        plain = gzip.decompress(data) if layer["mediaType"].endswith("+gzip") else data
        assert f"sha256:{hashlib.sha256(plain).hexdigest()}" == diff_id
        assert len(plain) % 512 == 0
        with tarfile.open(fileobj=io.BytesIO(plain)) as archive:
            for member in archive:
                members.append(member)
                if member.isfile():
                    content = archive.extractfile(member)
                    assert content is not None
                    files[member.name] = content.read()
    return Checked(entry["digest"], manifest, config, files, members)


def _blob(folder: Path, descriptor: dict[str, Any]) -> bytes:
    algorithm, _, name = descriptor["digest"].partition(":")
    assert algorithm == "sha256"
    data = (folder / "blobs" / algorithm / name).read_bytes()
    assert len(data) == descriptor["size"]
    assert hashlib.sha256(data).hexdigest() == name
    return data
