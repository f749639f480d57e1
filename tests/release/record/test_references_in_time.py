"""What main and production are after each step of a repository's life: every verb says the same, and a rerun nothing new.

The pipeline is a STAND-IN: the model is a digest of the parameters of data and training. git, params.yaml, dvc.lock and
the verbs are real.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from checks.formats import pointer
from checks.formats.evaluation_reports import ReferencesReport
from checks.formats.verdict import Verdict
from checks.storage import digest, files, layout
from release.adapters import dvc
from release.record import lock_check, references
from release.record.records import Records
from release.verbs import build, gate
from release.verbs import run as runs
from tests import build_tree, report_tree
from tests import pipeline_repository as repository
from tests.pipeline_repository import git
from tests.release.record import test_references as tree

pytestmark = pytest.mark.slow

Edit = Callable[[dict[str, Any]], object]


class Team:
    """A clone whose environments lie on main, on a branch of their own, or in another repository."""

    def __init__(self, home: Path, where: str) -> None:
        git(home, "init", "--quiet", "--bare", "--initial-branch=main", "origin.git")
        git(home, "clone", "--quiet", "origin.git", "clone")
        self.root, self.live = home / "clone", home / "clone"
        git(self.root, "checkout", "--quiet", "-b", "main")
        tree.name(self.root, "main", "production")
        if where != "here":
            shared = home / ("origin.git" if where == "a branch" else "live.git")
            git(home, "init", "--quiet", "--bare", "--initial-branch=main", str(shared))
            self.live = home / "live"
            git(home, "clone", "--quiet", str(shared), "live")
            git(self.live, "checkout", "--quiet", "--orphan", "environments")
            repository.commit(self.live, "no environment yet")
            git(self.live, "push", "--quiet", "origin", "environments")
            elsewhere = {"branch": "environments", "repository": None if where == "a branch" else str(shared)}
            tree.change(self.root, lambda value: value["promote"].update(elsewhere))
        self.save("begin")

    def save(self, message: str) -> None:
        for root in dict.fromkeys((self.root, self.live)):
            repository.commit(root, message)
            git(root, "push", "--quiet", "origin", "HEAD")
        git(self.root, "fetch", "--quiet")

    def run(self) -> None:
        runs.run(self.root, (), force=False)

    def edit(self, edit: Edit, message: str = "a change") -> None:
        """Change params.yaml, run, commit."""
        tree.change(self.root, edit)
        self.run()
        self.save(message)

    def model(self) -> str:
        return str(yaml.safe_load((self.root / layout.EVALUATION).read_text())["merged"])

    def point(self, data: bytes | None) -> None:
        path = self.live / references.PRODUCTION
        if data is None:
            path.unlink()
        else:
            files.write_text(path, data.decode())
        self.save("move production")

    def promote(self) -> None:
        """Production runs the model of main's record."""
        head = git(self.root, "rev-parse", "HEAD").strip()
        self.point(f"model: {self.model()}\ncommit: {head}\n{tree.REST}".encode())

    def ran(self) -> list[str]:
        """Every model that production ran, the last first."""
        log = git(self.live, "log", "--format=%H", "--", str(references.PRODUCTION)).split()
        found = []
        for commit in log:
            tip = git(self.live, "ls-tree", commit, str(references.PRODUCTION))
            if tip:
                found.append(git(self.live, "show", f"{commit}:{references.PRODUCTION}"))
        return found

    def back(self, steps: int = 1) -> None:
        """A rollback."""
        self.point(self.ran()[steps].encode())


def pipeline(root: Path, arguments: list[str], *_: object, **__: object) -> None:
    """A STAND-IN for `./lockstep run`: it makes a record where params.yaml is not what the last one ran with."""
    if "repro" not in arguments:
        return
    stored = files.read_json(root / layout.REFERENCES, ReferencesReport)
    seen = root / ".git" / "compared"
    if not lock_check.differences(Records(root).work_tree) and seen.read_text() == repr(stored):
        return
    value = yaml.safe_load((root / layout.PARAMS).read_text())
    tree.record(root, digest.of_json({name: value[name] for name in ("base", "data", "prepare", "train")}))
    seen.write_text(repr(stored))


def rate(value: float) -> Edit:
    return lambda document: document["train"].update(learning_rate=value)


def _serve(document: dict[str, Any]) -> None:
    document["serve"]["max_concurrent_requests"] += 1


def _gates(document: dict[str, Any]) -> None:
    document["gates"]["holds_against_main"]["margin"] += 0.01


def _data(document: dict[str, Any]) -> None:
    document["prepare"]["seed"] += 1


def _merged(how: str) -> Callable[[Team], None]:
    def merge(team: Team) -> None:
        """A pull request of two records, merged as ``how`` says."""
        git(team.root, "checkout", "--quiet", "-b", f"change{how}")
        for value in (0.031, 0.032):
            tree.change(team.root, rate(value))
            team.run()
            repository.commit(team.root, "a record")
            agree(team)
        git(team.root, "checkout", "--quiet", "main")
        git(team.root, "merge", "--quiet", how, f"change{how}")
        team.save("merged")

    return merge


def _reverted(team: Team) -> None:
    latest = git(team.root, "log", "-1", "--format=%H", "--", str(layout.EVALUATION)).strip()
    git(team.root, "revert", "--no-edit", latest)
    team.save("reverted")


STEPS: dict[str, Callable[[Team], None]] = {
    "train": lambda team: team.edit(rate(0.02)),
    "train again": lambda team: team.edit(rate(0.03)),
    "serve": lambda team: team.edit(_serve),
    "gates": lambda team: team.edit(_gates),
    "data": lambda team: team.edit(_data),
    "merge": _merged("--no-ff"),
    "fast-forward": _merged("--ff-only"),
    "squash": _merged("--squash"),
    "revert": _reverted,
    "promote": lambda team: team.promote(),
    "rollback": lambda team: team.back(),
    "roll two back": lambda team: team.back(2),
    "empty": lambda team: team.point(None),
}
# After these another model runs than the record was compared with: the record does not hold until the next run.
STALE = ("roll two back",)
# Another gate keeps what the model was compared with. Else evaluate ran again for a changed bound, and a model that was merged
# would be compared with itself.
KEEPING = ("gates",)


def agree(team: Team) -> None:
    """The record holds, a run changes nothing, and what production runs is said to run."""
    assert references.current(Records(team.root)) == []
    before = (team.root / layout.REFERENCES).read_bytes()
    written = references.write(Records(team.root))
    assert not written.changed
    team.run()
    assert (team.root / layout.REFERENCES).read_bytes() == before
    assert references.current(Records(team.root)) == []
    runs_now = written.now.found.get("production")
    last = team.ran()[:1]
    assert ([runs_now.merged] if runs_now else []) == [pointer.parse(text.encode(), "a pointer").model for text in last]


@pytest.mark.parametrize(
    ("where", "steps"),
    [
        pytest.param(
            "here", ("train", "promote", "serve", "serve", "data", "promote", "gates"), marks=pytest.mark.exhaustive
        ),
        pytest.param(
            "here",
            ("train", "promote", "merge", "promote", "serve", "rollback", "serve", "promote"),
            marks=pytest.mark.exhaustive,
        ),
        ("here", ("train", "promote", "train again", "promote", "fast-forward", "promote", "gates", "roll two back")),
        ("here", ("train", "fast-forward", "revert", "promote", "squash", "revert")),
        pytest.param(
            "here",
            ("train", "promote", "empty", "serve", "data", "promote", "empty", "promote", "rollback"),
            marks=pytest.mark.exhaustive,
        ),
        pytest.param(
            "a branch",
            ("train", "promote", "serve", "squash", "promote", "rollback", "empty"),
            marks=pytest.mark.exhaustive,
        ),
        ("a repository", ("train", "promote", "serve", "merge", "promote", "rollback", "empty", "data")),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_every_verb_says_the_same_after_every_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, steps: Sequence[str]
) -> None:
    monkeypatch.setattr(dvc, "python", pipeline)
    team = Team(tmp_path, where)
    for step in steps:
        before = (team.root / layout.REFERENCES).read_bytes() if step in KEEPING else b""
        STEPS[step](team)
        if step in KEEPING:
            assert (team.root / layout.REFERENCES).read_bytes() == before
        if step in STALE:
            (line,) = references.current(Records(team.root))
            assert "production is sha256:" in line
            team.run()
            team.save("compared again")
        agree(team)


def test_a_pointer_that_only_a_side_branch_had_never_ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dvc, "python", pipeline)
    team = Team(tmp_path, "a branch")
    STEPS["train"](team)
    git(team.live, "checkout", "--quiet", "-b", "side")
    team.promote()
    (team.live / references.PRODUCTION).unlink()
    team.save("taken back")
    git(team.live, "checkout", "--quiet", "environments")
    git(team.live, "merge", "--quiet", "--no-ff", "side")
    team.save("merged")
    assert (
        references.write(Records(team.root)).now.absent["production"] == "nothing has been promoted to production yet"
    )


def test_other_serve_settings_after_a_promotion_build_and_production_is_shown(tmp_path: Path) -> None:
    """On a real record: nothing is to be run again, every verb holds it, and the command says what runs."""
    root = tmp_path / "clone"
    build_tree.make(root)
    report_tree.promote(root, root)
    model = files.read_json(root / layout.VERDICT, Verdict).model
    assert model is not None
    tree.change(root, _serve)
    assert not references.write(Records(root)).changed
    repository.commit(root, "other serve settings")
    assert gate.gate(root).model == model
    assert build.build(root, build.BuildOptions()).model == model
    assert not references.write(Records(root)).changed
