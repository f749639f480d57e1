"""The image in a real Docker Engine: pulled by digest, its files as they were judged, on a base that Docker saved."""

import json
import subprocess
from pathlib import Path

import pytest

from checks.storage import digest, layout
from checks.storage.digest import FileDigest
from release.verbs.build import BuildOptions, build
from tests import build_tree, registry_service, serving_base

pytestmark = pytest.mark.slow

HASHES = """
import hashlib, json, os, sys
folder = sys.argv[1]
print(json.dumps({
    name: [hashlib.sha256(open(os.path.join(folder, name), "rb").read()).hexdigest(), os.stat(os.path.join(folder, name)).st_size]
    for name in os.listdir(folder)
}))
"""


def test_an_engine_pulls_the_image_by_digest_and_runs_it_with_the_models_bytes(tmp_path: Path) -> None:
    base = serving_base.layout(serving_base.plain_image(), tmp_path / "base")
    pinned = json.loads((base / "index.json").read_text())["manifests"][0]["digest"]
    root = tmp_path / "root"
    build_tree.make(root, build_tree.shards(2, 1 << 20))
    with registry_service.registry(tmp_path / "registry") as registry:
        report = build(root, BuildOptions(base=f"oci:{base}@{pinned}", push=f"{registry.host}/team/model"))
        image = f"{registry.host}/team/model@{report.image}"
        subprocess.run(["docker", "pull", "--quiet", image], check=True, capture_output=True)
    try:
        shown = json.loads(subprocess.run(["docker", "inspect", image], check=True, capture_output=True).stdout)[0]
        assert shown["Config"]["Labels"]["lockstep.model"] == report.model
        assert f"MODEL_ID={report.path}" in shown["Config"]["Env"]
        command = ["docker", "run", "--rm", "--network=none", "--read-only", "--user=2000:2000", "--entrypoint=python3"]
        done = subprocess.run([*command, image, "-c", HASHES, report.path], check=True, capture_output=True, text=True)
    finally:
        subprocess.run(["docker", "rmi", image], check=False, capture_output=True)
    found = {name: FileDigest(f"sha256:{value}", size) for name, (value, size) in json.loads(done.stdout).items()}
    assert digest.of_manifest(found) == report.model == digest.of_tree(root / layout.MERGED).digest
