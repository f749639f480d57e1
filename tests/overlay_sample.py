"""A release to render, and a copy of the environments to render it into."""

import copy
import functools
import json
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from checks.config.release_params import Serve
from checks.formats.pointer import Pointer
from checks.formats.serving import BaseImage, ImageReport, Layer
from checks.storage import digest, layout, plain_yaml
from release import runtimes
from release.overlay import edits, environment_file, kustomization, overlays
from release.verbs import monitor
from tests import kubernetes_tools
from tests.conftest import REPOSITORY, as_params, dumped, read_yaml, scaled_down

MODEL, IMAGE, EVIDENCE, OTHER = (f"sha256:{digit * 64}" for digit in "abce")
COMMIT = "98f0e61f0a1c4f3f6f0e3f9c2d9c1b7a5e4d3c2b"
SERVER = "registry.example/servers/server"  # of weights that come alone
GATEWAY = f"registry.example/lockstep@{OTHER}"
KINDS = ("deployment", "kserve", "kserve-llm")
BASE = layout.ENVIRONMENTS / "base"

Files = dict[Path, bytes]
load = functools.cache(runtimes.load)


@functools.cache
def serve(**changes: Any) -> Serve:
    document = scaled_down()
    document["serve"] |= {"name": "router"} | changes
    return as_params(document).serve


def pointer(**changes: str) -> Pointer:
    told = {
        "model": MODEL, "commit": COMMIT, "version": "v1.4.0", "image": f"registry.example/team/router@{IMAGE}",
        "evidence": EVIDENCE,
    }  # fmt: skip
    return Pointer.model_validate(told | changes)


def image(runtime: str = "tgi", shape: str = "baked", **changes: Any) -> ImageReport:
    """What the evidence says of a server with the weights in it, or of weights alone."""
    base = BaseImage(name="r.example/s:1", index=None, manifest=OTHER, platform="linux/amd64", layers=3, size=9)
    layer = Layer(digest=OTHER, size=4, files={"model.safetensors": OTHER})
    return ImageReport(
        image=IMAGE, place="registry.example/team/router", model=MODEL, verdict=OTHER, commit=COMMIT, runtime=runtime, path=f"/models/router-{'a' * 12}",
        base=base if shape == "baked" else None, layers=(layer,), size=13, tool="0.1.0",
    ).model_copy(update=changes)  # fmt: skip


def rendered(environment: str = "staging", runtime: str = "tgi", shape: str = "baked") -> Files:
    return overlays.render(environment, pointer(), image(runtime, shape), load(runtime), serve())


def put(tree: Path, files: Files) -> None:
    """Write files of the repository that has ``tree`` as its release/environments."""
    for path, data in files.items():
        target = tree / path.relative_to(layout.ENVIRONMENTS)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)


def edit(tree: Path, environment: str, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the knobs of an environment, as plain values, and render them."""
    path = tree / environment / environment_file.NAME
    knobs = read_yaml(path.read_text())
    change(knobs)
    path.write_text(dumped(knobs))
    file = environment_file.read(environment, {environment_file.path(environment): path.read_bytes()})
    path.with_name(kustomization.NAME).write_bytes(kustomization.render(environment, file))


def rewrite(tree: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the rendered kustomization.yaml of staging by hand, and write it as its renderer does."""
    path = tree / "staging" / kustomization.NAME
    header, _, text = path.read_text().partition("\n")
    value = read_yaml(text)
    change(value)
    path.write_text(f"{header}\n{plain_yaml.dump(json.loads(json.dumps(value)))}")


# What is said of a file of staging that no rendering gives.
UNRENDERED = re.compile(
    "(is not what environment.yaml gives|is not the file that Lockstep ships|is missing): run `lockstep render staging`$|"
    "no environment has such a file: keep it"
)


def pin(tree: Path, environment: str, **changes: Any) -> None:
    """Name the server that weights run in, and change other knobs."""
    edit(tree, environment, lambda knobs: knobs.update({"server": f"{SERVER}@{OTHER}"} | changes))


def watched(tree: Path, root: Path, environment: str) -> None:
    """Put a gateway before the environment, and the component monitoring that ``root``'s parameters give beside it."""
    monitor.write_component(root, environment)
    edit(tree, environment, lambda knobs: knobs.update(gateway={"image": GATEWAY}, monitoring=True))


def promoted(environment: str, runtime: str, shape: str, kind: str, *knobs: str) -> list[dict[str, Any]]:
    """What kustomize builds of the environment after a promotion, where nothing but release/environments is there.

    ``knobs``: those of ``KNOBS`` that the environment has too.
    """
    return copy.deepcopy(_promoted(environment, runtime, shape, kind, *knobs))


KNOBS: dict[str, dict[str, Any]] = {"gpu": {"gpus": 1}, "gateway": {"gateway": {"image": GATEWAY}}}


@functools.cache
def _promoted(environment: str, runtime: str, shape: str, kind: str, *knobs: str) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        tree = shutil.copytree(REPOSITORY / layout.ENVIRONMENTS, Path(folder) / "environments")
        put(tree, rendered(environment, runtime, shape))
        more = {name: value for knob in knobs for name, value in KNOBS[knob].items()}
        pin(tree, environment, variant=kind, **more)
        return kubernetes_tools.build(tree / environment)


def upgraded(monkeypatch: pytest.MonkeyPatch, folder: Path = BASE) -> None:
    """Make the installed Lockstep a later version, whose shared ``folder`` has other files."""
    changed = {path: data + b"# later\n" for path, data in edits.shared_folders()[folder].items()}
    folders = {**edits.shared_folders(), folder: changed}
    monkeypatch.setattr(edits, "EARLIER", {*edits.EARLIER, digest.of_tree(REPOSITORY / folder).digest})
    monkeypatch.setattr(edits, "shared_folders", lambda: folders)


def lying(tree: Path) -> dict[Path, bytes | None]:
    """All files below ``tree`` by their path in a repository; None for what is no regular file."""
    return {
        layout.ENVIRONMENTS / path.relative_to(tree): path.read_bytes() if not path.is_symlink() else None
        for path in tree.rglob("*")
        if path.is_symlink() or path.is_file()
    }


def failures(tree: Path, wanted: Files | None = None) -> list[str]:
    """What is said before a move of staging to a release, which is a baked server unless another is given."""
    return edits.failures("staging", lying(tree), wanted or rendered(), lambda: ())


def pod_of(item: dict[str, Any]) -> dict[str, Any]:
    """The specification of the pods of a workload."""
    return kubernetes_tools.pod([item])


def server_of(item: dict[str, Any]) -> dict[str, Any]:
    """The first container of these pods."""
    container = pod_of(item)["containers"][0]
    assert isinstance(container, dict)
    return container
