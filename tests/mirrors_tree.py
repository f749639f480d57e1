"""A repository with released models and environments that run them, for tests of what mirrors git.

Everything is real: the record, the image (in a layout, or pushed), its signed evidence, the overlays, the ledger's moves.
"""

import functools
import shutil
from pathlib import Path
from typing import Literal, NamedTuple

import pytest

from checks.config import params_file
from checks.config.params import Params
from checks.formats import pointer, quarantine
from checks.formats.pointer import Pointer
from checks.formats.statement import Statement
from checks.storage import layout
from release import runtimes
from release.adapters.registry import reference
from release.evidence.keys import KEY
from release.image import stores
from release.ledger import Change, Ledger, compose, next_version, tags_for
from release.overlay import overlays
from release.verbs.build import BuildOptions, build
from release.verbs.sign import sign
from tests import build_tree, ledger_tree, overlay_sample, signing_tree
from tests.conftest import REPOSITORY, scaled_down, written
from tests.ledger_tree import git, keep

NAME = "azure-cli-router"  # serve.name of the tests' parameters


class World(NamedTuple):
    """A repository where production runs ``old`` and staging ``new``."""

    root: Path
    old: Pointer
    new: Pointer
    releases: tuple["Released", "Released"]


class Released(NamedTuple):
    """One image with its evidence; ``image`` names it as pointers do."""

    image: str
    model: str
    commit: str
    envelope: bytes
    evidence: str
    statement: Statement


def make(root: Path, **promote: object) -> Path:
    """A record in ``root`` with signers and environments, on main. ``promote`` changes rules of production."""
    document = scaled_down()
    document["promote"]["environments"]["production"] |= {"served_as_verified": False} | promote  # as a process
    document["serve"]["runtime"] = "transformers"
    root.parent.mkdir(parents=True, exist_ok=True)
    signing_tree.make(root)
    (root / layout.PARAMS).write_text(written(document))
    shutil.copytree(REPOSITORY / layout.ENVIRONMENTS, root / layout.ENVIRONMENTS)
    for name in document["promote"]["environments"]:
        overlay_sample.pin(root / layout.ENVIRONMENTS, name)
    git(root, "branch", "--move", "--force", "main")
    ledger_tree.identify(root, "Ada")
    build_tree.judge(root, load(root))
    keep(root, "environments")
    return root


def load(root: Path) -> Params:
    return params_file.load(root / layout.PARAMS)


def release(root: Path, seed: int, push: str | None = None) -> Released:
    """Train nothing: other weights by ``seed``, judged, committed, built, served on paper, signed."""
    build_tree.weigh(root, build_tree.shards(seed=seed))
    build_tree.judge(root, load(root))
    keep(root, f"model {seed}")
    # Each in a folder of its own: a new image takes the place of one that nothing runs.
    report = build(root, BuildOptions(push=push, output=None if push else root / layout.STATE / f"image{seed}"))
    signing_tree.served(root, report)
    where = reference.parse(f"{report.place}@{report.image}")
    signed = sign(root, stores.open_store(where, root, push=True), root / KEY)
    keep(root, f"reports {seed}")
    return Released(str(where), report.model, report.commit, signed.envelope, signed.evidence, signed.statement)


def move(
    root: Path, environment: str, to: Released, why: str = "it is better", kind: Literal["promote", "rollback"] = "promote"
) -> Pointer:  # fmt: skip
    """Move an environment as a promotion does: pointer, evidence, overlay and tags in one commit."""
    params = load(root)
    ledger = Ledger.open(root, params.promote)
    tip = ledger.tip()
    moves = [each for name in params.promote.ordered for each in ledger.moves(tip, name)]
    version = next_version(params.serve.name, ledger.tags(), moves, to.model, pointer_digest(to))
    after = Pointer(model=to.model, commit=to.commit, version=version, image=to.image, evidence=to.evidence)
    before, number = ledger.pointer(tip, environment), 1 + len(ledger.moves(tip, environment))
    home = layout.ENVIRONMENTS / environment
    built = to.statement.predicate.image
    changed: dict[Path, bytes | None] = {
        home / layout.POINTER: pointer.write(after), home / layout.EVIDENCE: to.envelope,
        **overlays.render(environment, after, built, runtimes.load(built.runtime), params.serve),
    }  # fmt: skip
    said = compose(environment, number, kind, before, after, why)
    tags = tags_for(params.serve.name, ledger.tags(), moves, environment, after)
    ledger.commit(tip, Change(changed, said, tags))
    return after


def pointer_digest(to: Released) -> str:
    return to.image.rpartition("@")[2]


def hold(root: Path, its: Pointer, why: str) -> None:
    """Put a release in quarantine."""
    path = root / layout.QUARANTINE
    there = quarantine.parse(path.read_bytes(), str(path)) if path.exists() else ()
    entry = quarantine.Entry(
        image=its.digest, model=its.model, version=its.version, by="Ada <ada@example.org>", why=why
    )
    path.write_bytes(quarantine.write(quarantine.add(there, entry)))
    keep(root, f"hold {its.version} back")


def edit(root: Path, path: Path, old: str, new: str) -> None:
    """Change a file in git by hand."""
    text = (root / path).read_text()
    assert old in text
    (root / path).write_text(text.replace(old, new))
    keep(root, "by hand")


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Two releases in layouts. Copy it before anything is changed."""
    return _made(tmp_path_factory.getbasetemp())


@functools.cache  # each file that takes the fixture has one of its own
def _made(home: Path) -> World:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ledger_tree.CLEAN.items():
            patch.setenv(name, value)
        return running(make(home / "made" / "root"))


def running(root: Path, push: str | None = None) -> World:
    """Two releases, and the moves that bring them where a World has them."""
    # Both before the first move: production would have to be evaluated.
    first, second = release(root, 1, push), release(root, 2, push)
    move(root, "staging", first)
    old = move(root, "production", first, "fewer wrong answers")
    new = move(root, "staging", second)
    ledger_tree.packed(root)
    return World(root, old, new, (first, second))


@pytest.fixture
def world(made: World, tmp_path: Path) -> World:
    """A copy of it."""
    return made._replace(root=shutil.copytree(made.root, tmp_path / "root"))
