"""status: what runs where, what is wrong about it in git, and what would be next."""

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from checks.formats import pointer
from checks.process.errors import Contradicted, RemoteRefused
from checks.storage import layout
from release.cli import environment_tables, main
from release.overlay.overlays import SERVER
from release.verbs.status import State, Status, refusal, status
from tests import ledger_tree, mirrors_tree
from tests.ledger_tree import git, keep
from tests.mirrors_tree import NAME, World, edit, hold, move

pytestmark = pytest.mark.slow

nobodys_configuration, made, world = ledger_tree.nobodys_configuration, mirrors_tree.made, mirrors_tree.world
STAGING, PRODUCTION = (layout.ENVIRONMENTS / name for name in ("staging", "production"))


def of(root: Path, environment: str) -> State:
    return next(state for state in status(root).environments if state.environment == environment)


def test_it_says_what_runs_where_since_when_and_by_whom(world: World) -> None:
    found = status(world.root)
    assert [state.environment for state in found.environments] == ["staging", "production"]
    runs = found.environments[1].runs
    assert runs is not None
    assert runs.pointer == world.old
    assert (runs.by, runs.why, runs.kind, runs.move) == ("Ada <ada@example.org>", "fewer wrong answers", "promote", 1)
    assert (runs.verdict, runs.quarantined, runs.doubt) == ("pass", None, "")
    moved = git(world.root, "log", "-1", "--format=%ct", "main", "--", PRODUCTION.as_posix())
    assert runs.since.timestamp() == int(moved)
    assert all(state.drift == () for state in found.environments)
    assert found.tags == ()
    assert (found.contradictions, found.quarantine, refusal(found)) == ((), (), None)
    assert found.tip == git(world.root, "rev-parse", "main")
    assert Status.model_validate_json(found.model_dump_json()) == found
    shown = environment_tables.status(found)
    assert found.environments[0].advice.headline == "runs v0.2.0, and nothing newer can follow"
    assert found.environments[1].advice.todo == "`lockstep promote production`"
    assert found.advice == ()
    can = "→ ✅ v0.2.0 of staging can follow: `lockstep promote production`"
    for word in (world.old.image, world.new.version, "verdict pass", "next: v0.2.0 of staging", can):
        assert word in shown


def test_an_environment_that_runs_nothing_says_so(tmp_path: Path) -> None:
    root = mirrors_tree.make(tmp_path / "root")
    found = status(root)
    assert [(state.runs, state.drift) for state in found.environments] == [(None, ()), (None, ())]
    assert environment_tables.status(found).splitlines()[0] == "staging     runs nothing"
    following = found.environments[0].next
    assert following is not None
    assert (following.source, following.version, following.waits) == ("the record in the work tree", None, ())
    (root / layout.IMAGE_REPORT).unlink()
    following = of(root, "staging").next
    assert following is not None
    assert (following.image, following.waits) == (None, ("`lockstep build`",))
    assert found.environments[1].next is None


def test_next_is_what_the_environment_before_runs(world: World) -> None:
    following = of(world.root, "production").next
    assert following is not None
    assert (following.version, following.model, following.image) == ("v0.2.0", world.new.model, world.new.digest)
    assert (following.source, following.waits) == ("staging", ())
    assert of(world.root, "staging").next is None, "the record here runs there"


@pytest.mark.parametrize(
    ("rules", "waits"),
    [
        ({"soak_hours": 24}, r"soaks in staging until \d{4}-\d\d-\d\d \d\d:\d\d UTC"),
        ({"approvals": 2}, "takes 2 approvals"),
        ({"approvals": 1}, "takes 1 approval$"),
        ({"signatures": 2}, "takes 2 signatures$"),
    ],
)
def test_next_says_what_it_waits_for(world: World, rules: dict[str, object], waits: str) -> None:
    path = world.root / layout.PARAMS
    document = yaml.safe_load(path.read_text())
    document["promote"]["environments"]["production"] |= rules
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    following = of(world.root, "production").next
    assert following is not None
    assert len(following.waits) == 1
    assert re.search(waits, following.waits[0])


def test_a_release_that_the_rules_forbid_as_it_was_verified_does_not_follow(world: World) -> None:
    path = world.root / layout.PARAMS
    document = yaml.safe_load(path.read_text())
    document["promote"]["environments"]["production"] |= {"served_as_verified": True}
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    production = of(world.root, "production")
    assert production.next is not None
    assert re.match("is not verified as it would serve: it ran as a process", production.next.waits[0])
    assert production.drift, "so was the release before it"


def test_what_is_in_quarantine_is_shown_where_it_runs_and_where_it_would_go(world: World) -> None:
    hold(world.root, world.new, "answers in French")
    runs = of(world.root, "staging").runs
    assert (runs and runs.quarantined) == "answers in French"
    following = of(world.root, "production").next
    assert (following and following.waits) == ("in quarantine: answers in French",)
    assert of(world.root, "staging").advice.todo.endswith("`lockstep rollback staging --why …`")
    assert of(world.root, "production").advice.headline == "v0.2.0 of staging must not follow"
    first, second = environment_tables.status(status(world.root)).splitlines()[:2]
    assert first.split("  ")[0] == "staging"
    assert first.endswith("✗ quarantined: answers in French")
    assert "v0.2.0" in second


Tamper = Callable[[World], object]


def restored(world: World) -> None:
    """The pointer of production as a merge might leave it: of one release, beside the evidence of another."""
    (world.root / PRODUCTION / layout.POINTER).write_bytes(pointer.write(world.new))
    keep(world.root, "by hand")


def linked(world: World) -> None:
    path = world.root / PRODUCTION / SERVER
    path.unlink()
    path.symlink_to("../../staging/release/deployment/server.yaml")
    keep(world.root, "by hand")


def removed(path: Path) -> Tamper:
    return lambda world: git(world.root, "rm", "--quiet", str(path)) + keep(world.root, "by hand")


def added(path: Path, text: str) -> Tamper:
    return lambda world: ((world.root / path).write_text(text), keep(world.root, "by hand"))


TAMPERS: dict[str, tuple[Tamper, str, str]] = {
    "the pointer edited": (lambda w: edit(w.root, PRODUCTION / layout.POINTER, "v0.1.0", "v0.9.0"), "release", "server.yaml: line"),
    "the pointer broken": (lambda w: edit(w.root, PRODUCTION / layout.POINTER, "model: ", "modell: "), "pointer", "is not the lines model"),
    "the pointer of another release": (restored, "evidence", "the pointer names"),
    "the evidence edited": (lambda w: edit(w.root, PRODUCTION / layout.EVIDENCE, '"payload"', '"payIoad"'), "evidence", "evidence.json: is sha256"),
    "the evidence gone": (removed(PRODUCTION / layout.EVIDENCE), "evidence", "evidence.json: is missing"),
    "the overlay gone": (removed(PRODUCTION / SERVER), "release", "server.yaml: is missing"),
    "the overlay edited": (lambda w: added(PRODUCTION / SERVER, "image: evil\n")(w), "release", "server.yaml: line 1 is 'image: evil'"),
    "a file more": (added(PRODUCTION / "release" / "more.yaml", "a: 1\n"), "release", "more.yaml: no promotion writes it"),
    "a link": (linked, "files", "is a link"),
}  # fmt: skip


def held_and_gone(world: World) -> None:
    hold(world.root, world.new, "bad")
    removed(layout.QUARANTINE)(world)


Wrong = tuple[Tamper, str]
# Beside TAMPERS: what else is no agreement. Each ends the command with its own code.
WRONG: dict[str, Wrong] = {
    **{name: (tamper, f"production: production: {what}") for name, (tamper, what, _) in TAMPERS.items()},
    "it runs what is held back": (lambda w: hold(w.root, w.new, "bad"), "staging: in quarantine: bad"),
    "the quarantine is gone": (held_and_gone, f"{layout.QUARANTINE}: v0.2.0"),
    "the quarantine is unreadable": (added(layout.QUARANTINE, "x: 1\n"), f"{layout.QUARANTINE} at "),
    "a commit of the future": (lambda w: future(w), "production: commit "),
    "a tag is missing": (lambda w: git(w.root, "tag", "-d", f"{NAME}#production#1"), f"tag {NAME}#production#1: is missing"),
    "a tag is foreign": (lambda w: git(w.root, "tag", f"{NAME}#production#9"), f"tag {NAME}#production#9: is not annotated"),
}  # fmt: skip


def future(world: World) -> None:
    (world.root / PRODUCTION / layout.POINTER).write_bytes(pointer.write(world.new))
    keep(world.root, "by hand", {"GIT_COMMITTER_DATE": "4000000000 +0000"})


@pytest.mark.parametrize("name", WRONG)
def test_every_contradiction_ends_the_command_with_its_own_code(world: World, name: str) -> None:
    tamper, words = WRONG[name]
    tamper(world)
    shown = CliRunner().invoke(main, ["-C", str(world.root), "status", "--json"])
    assert shown.exit_code == Contradicted.exit_code == 19
    found = Status.model_validate_json(shown.stdout)
    assert any(line.startswith(words) for line in found.contradictions), found.contradictions
    assert [state.advice.mark for state in found.environments].count("🚫") + len(found.advice) > 0, "advice says it too"
    marked = [line.strip() for line in environment_tables.status(found).splitlines() if line.strip().startswith("! ")]
    assert len(marked) == len(found.contradictions), "each is a line on the screen, and nothing else is"
    assert shown.stderr.startswith(f"lockstep: main: {len(marked)} contradiction")


@pytest.mark.parametrize("name", TAMPERS)
def test_what_git_contradicts_itself_about_is_drift(world: World, name: str) -> None:
    tamper, what, words = TAMPERS[name]
    tamper(world)
    drift = of(world.root, "production").drift
    assert drift
    assert drift[0].what == f"production: {what}"
    assert words in drift[0].mirror
    assert (drift[0].where, drift[0].severity, drift[0].fix) == ("environments", "drift", "")
    assert drift[0].todo
    if name != "a link":  # which no environment can be read beside
        assert of(world.root, "staging").drift == ()
    assert any(words in line for line in environment_tables.status(status(world.root)).splitlines())


def test_a_move_that_does_other_than_its_message_says_is_drift(world: World) -> None:
    text = git(world.root, "log", "-1", "--format=%B", "--", str(STAGING / layout.POINTER))
    move(world.root, "production", world.releases[1])
    git(world.root, "commit", "--quiet", "--amend", "-m", text)
    drift = of(world.root, "production").drift
    assert [finding.what for finding in drift] == ["production: move 2"]
    assert "its message is about staging#2" in drift[0].mirror


def test_tags_that_say_other_than_the_moves_are_told(world: World) -> None:
    git(world.root, "tag", "-d", f"{NAME}#production#1")
    git(world.root, "tag", "-a", "-m", "x", f"{NAME}@v7.0.0", "main")
    assert sorted(line.partition(": ")[0] for line in status(world.root).tags) == [
        f"tag {NAME}#production#1", f"tag {NAME}@v7.0.0",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("spoil", "verdict"),
    [
        (lambda _, its: its.model_copy(update={"commit": "1" * 40}), "not known: commit 111111111111 is not here"),
        (lambda _, its: its.model_copy(update={"model": ledger_tree.sha("x")}), "is about another model"),
        (lambda root, its: its.model_copy(update={"commit": unreadable(root)}), "cannot be read"),
    ],
)
def test_a_verdict_that_is_not_about_what_runs_is_not_shown(
    world: World, spoil: Callable[[Path, pointer.Pointer], pointer.Pointer], verdict: str
) -> None:
    (world.root / PRODUCTION / layout.POINTER).write_bytes(pointer.write(spoil(world.root, world.old)))
    keep(world.root, "by hand")
    runs = of(world.root, "production").runs
    assert runs is not None
    assert verdict in runs.verdict


def unreadable(root: Path) -> str:
    """A commit whose verdict is none."""
    (root / layout.VERDICT).write_text("{}")
    return keep(root, "broken")


def test_the_work_tree_decides_nothing_of_what_runs(world: World) -> None:
    shutil.rmtree(world.root / layout.ENVIRONMENTS)
    assert of(world.root, "production").runs is not None


def test_a_remote_that_does_not_answer_is_refused(world: World) -> None:
    git(world.root, "remote", "add", "origin", os.devnull)
    with pytest.raises(RemoteRefused, match="main of origin"):
        status(world.root)
