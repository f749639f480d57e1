"""Repositories whose model is recorded, built, served on paper and signed, with environments to move. No torch.

The serving report is written by hand (``signing_tree.served``): no server is asked here.
"""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from checks.config import params_file
from checks.formats.serving import ImageReport
from checks.formats.signers import Role
from checks.formats.statement import ENVELOPE, PAYLOAD
from checks.process.errors import Refusal
from checks.storage import digest, files, layout
from checks.storage.digest import canonical_json
from release.adapters import commits
from release.adapters.registry import reference
from release.adapters.registry.documents import MANIFEST
from release.evidence import attach, dsse, keys, sbom, statement, trust, verification
from release.image import stores
from release.image.layout import Bytes, Layout
from release.mirrors import mlflow
from release.mirrors.compare import WantedModel
from release.mirrors.types import MirrorUnavailable
from release.record import references
from release.record.records import Records
from release.verbs import keys as key_verbs
from release.verbs.build import BuildOptions, build
from release.verbs.promote import Promoted, promote
from release.verbs.sign import Signed, collect, sign
from tests import build_tree, ledger_tree, overlay_sample, signing_tree
from tests.build_tree import BaseLayout
from tests.conftest import REPOSITORY, read_yaml, scaled_down, written
from tests.ledger_tree import git, identify, keep
from tests.once import once
from tests.release.serving.test_verify_evidence import probed

BASE = layout.STATE / "base"  # an OCI layout with a base image, below the root and ignored by git
WHY = "better on rare services"
NOBODY = "http://127.0.0.1:9"
Edit = Callable[[dict[str, Any]], object]


class Release(NamedTuple):
    """An image, as pointers name it, with what was signed about it."""

    image: str
    report: ImageReport
    signed: Signed

    @property
    def digest(self) -> str:
        return self.report.image


def document() -> dict[str, Any]:
    """params.yaml as plain values: the tiny record, a server that serves it, environments that ask for little."""
    plain = scaled_down()
    plain["serve"] |= {"runtime": "transformers"}
    # The serving report is of a process: this is what a laptop without Docker sets to reach production.
    plain["promote"]["environments"]["production"] |= {"served_as_verified": False}
    plain["gates"] = {  # none that compares with what was released before: nobody evaluates here
        name: gate for name, gate in plain["gates"].items() if gate.get("against") not in ("main", "production")
    }
    return plain


def make(root: Path, edit: Edit = lambda _: None, *, base: bool = True, push: str | None = None) -> Release:
    """Lay out a clone on main with one release, ready to be promoted. ``edit`` changes params.yaml before."""
    prepare(root, edit, base=base)
    return release(root, push)


def prepare(root: Path, edit: Edit = lambda _: None, *, base: bool = True) -> None:
    """The same before anything is built."""
    root.mkdir(exist_ok=True)
    plain = document()
    if base:
        home = BaseLayout(root / BASE)
        pinned = home.tag(home.image(), "1").removeprefix(f"oci:{root}/")
        plain["serve"]["base"] = f"oci:{pinned}"
    edit(plain)
    params = build_tree.make(root, document=plain)
    identify(root, "Ada")
    shutil.copytree(REPOSITORY / layout.ENVIRONMENTS, root / layout.ENVIRONMENTS)
    if not base:
        for name in plain["promote"]["environments"]:
            overlay_sample.pin(root / layout.ENVIRONMENTS, name)
    people: dict[str, tuple[Role, ...]] = {
        "ada": ("verify", "release", "approve"), "bob": ("approve",), "cara": ("approve",),
    }  # fmt: skip
    for name, roles in people.items():
        made = key_verbs.new(root, name, roles, key(root, name))
        key_verbs.add_signer(root, name, roles, made.public)
    key_verbs.new(root, "mallory", ("release", "approve"), key(root, "mallory"))
    probed(root, params)
    keep(root, "signers and environments")


def key(root: Path, name: str) -> Path:
    """A person's private key. ada may do everything, bob and cara approve; nobody knows mallory."""
    return root / _place(name)


def _place(name: str) -> Path:
    return layout.STATE / "keys" / f"{name}.key"


def release(root: Path, push: str | None = None, by: str = "ada") -> Release:
    """Build, verify on paper and sign the record that lies in ``root``."""
    report = built(root, push)
    return Release(f"{report.place}@{report.image}", report, signed(root, report, by))


def built(root: Path, push: str | None = None) -> ImageReport:
    """Build, and verify on paper."""
    report = build(root, BuildOptions(push=push))
    served(root, report)
    return report


def served(root: Path, report: ImageReport, by: str = "ada", **facts: Any) -> None:
    """Verify on paper: a report of these facts, signed by somebody as who verified."""
    signing_tree.served(root, report, _place(by), **facts)


def signed(root: Path, report: ImageReport, by: str = "ada") -> Signed:
    where = reference.parse(f"{report.place}@{report.image}")
    return sign(root, stores.open_store(where, root, push=True), key(root, by))


def next_model(root: Path, seed: int, push: str | None = None, *, compared: bool = False) -> Release:
    """Other weights, judged, committed, released. ``compared``: with the models that git names, which answered alike."""
    build_tree.weigh(root, build_tree.shards(seed=seed))
    params = params_file.load(root / layout.PARAMS)
    build_tree.judge(root, params, references.write(Records(root)).report if compared else None)
    probed(root, params)
    keep(root, f"model {seed}")
    return release(root, push)


def move(root: Path, environment: str, **options: Any) -> Promoted:
    """Promote, with a reason."""
    return promote(root, environment, **({"why": WHY} | options))


def gaps(root: Path, environment: str, **options: Any) -> str:
    """What keeps a promotion from being made, one a line."""
    with pytest.raises(Refusal) as found:
        move(root, environment, **options)
    return "\n".join([str(found.value), *found.value.others])


def copy(source: Path, target: Path) -> Path:
    """A clone with all that lies in it; a bare remote beside it comes along and stays its origin."""
    shutil.copytree(source, target, symlinks=True)
    if (target / "origin.git").exists():
        git(target / "work", "remote", "set-url", "origin", str(target / "origin.git"))
    return target


def rewrite(root: Path, path: Path, change: Edit) -> None:
    """Change a YAML file as plain values, and commit that."""
    plain = read_yaml((root / path).read_text())
    change(plain)
    (root / path).write_text(written(plain))
    keep(root, f"change {path}")


def leave_alone(patch: pytest.MonkeyPatch) -> None:
    """Nobody's configuration of git plays a part, and the mirror is one that does not answer."""
    for name, value in ledger_tree.CLEAN.items():
        patch.setenv(name, value)
    for name in (*ledger_tree.ADA, "GITHUB_TOKEN", "GITHUB_REPOSITORY"):
        patch.delenv(name, raising=False)
    patch.setenv("MLFLOW_TRACKING_URI", NOBODY)
    patch.setattr(mlflow, "ask", asked)


def asked(uri: str, wanted: WantedModel, fix: bool, seconds: float, ask: Callable[..., Any] = mlflow.ask) -> Any:
    """As ``mlflow.ask``, which says this of ``NOBODY`` (tests/release/mirrors/test_mirrors_mlflow.py) and costs more than a move."""
    if uri == NOBODY:
        raise MirrorUnavailable("Connection refused")
    return ask(uri, wanted, fix, seconds)


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    leave_alone(monkeypatch)


Trio = tuple[Path, tuple[Release, Release, Release]]


@pytest.fixture(scope="session")
def trio(tmp_path_factory: pytest.TempPathFactory) -> Trio:
    """A laptop on which three releases went to staging, each but the last to production. Take ``root``, a copy."""
    folder = once(tmp_path_factory, "trio", _make_trio)
    return folder / "work", pickle.loads((folder / "releases").read_bytes())


def _make_trio(folder: Path) -> None:
    root, releases = folder / "work", list[Release]()
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        leave_alone(patch)
        for number in range(3):
            releases.append(next_model(root, 10 + number) if number else make(root))
            move(root, "staging")
            if number < 2:
                move(root, "production")
    ledger_tree.packed(root)
    (folder / "releases").write_bytes(pickle.dumps(tuple(releases)))


@pytest.fixture
def root(trio: Trio, tmp_path: Path) -> Path:
    return copy(trio[0], tmp_path / "work")


@pytest.fixture
def releases(trio: Trio) -> tuple[Release, Release, Release]:
    return trio[1]


# Tampering: whoever does it holds a key that counts, unless ``by`` says otherwise


def unsigned(root: Path) -> dict[str, Any]:
    """The statement of the release in ``root``, as plain values."""
    held, image, serving = collect(Records(root))
    bill = digest.of_bytes(sbom.make(held, image, commits.committed_at(root, image.commit)))
    verified = verification.read(root, serving, trust.known(root))
    plain: dict[str, Any] = json.loads(statement.make(root, held, image, serving, verified, bill))
    return plain


def envelope(root: Path, plain: dict[str, Any], by: str = "ada") -> bytes:
    return dsse.sign(canonical_json(plain), PAYLOAD, keys.load(key(root, by)))


def attach_to(root: Path, image: str, data: bytes, kind: str = ENVELOPE) -> None:
    """Attach an artifact to the image with this digest, in the layout of ``root``."""
    store = Layout(root / layout.IMAGE)
    with store.held():
        attach.attach(store, attach.subject(store, image), kind, data, "release.json")


def about(plain: dict[str, Any], image: str) -> dict[str, Any]:
    """The same statement, of another image."""
    plain["subject"][0]["digest"]["sha256"] = image.removeprefix("sha256:")
    plain["predicate"]["image"]["image"] = plain["predicate"]["serving"]["image"] = image
    return plain


def remade(root: Path, change: Callable[[Layout, dict[str, Any], dict[str, Any]], object]) -> str:
    """Another image, by a change of this one's manifest and config as plain values; its digest."""
    store = Layout(root / layout.IMAGE)
    report = files.read_json(root / layout.IMAGE_REPORT, ImageReport)
    manifest = json.loads(store.document(report.image).data)
    config = json.loads(b"".join(store.blob(manifest["config"]["digest"], manifest["config"]["size"])))
    with store.held():
        change(store, manifest, config)
        data = canonical_json(config)
        manifest["config"] |= {"digest": store.add(Bytes(data), None, lambda _: None), "size": len(data)}
        return store.put(canonical_json(manifest), MANIFEST, None)
