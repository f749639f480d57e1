"""history: every move, and what ran at a time."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from checks.formats import pointer
from checks.formats.pointer import Pointer
from checks.process.errors import EvidenceRefused, ParamsRefused, RemoteRefused
from checks.storage import layout
from release.cli import environment_tables
from release.ledger import compose
from release.verbs.history import History, history, moment
from tests import ledger_tree as tree
from tests.conftest import REPOSITORY
from tests.ledger_tree import at, git, keep, target

pytestmark = pytest.mark.slow

nobodys_configuration = tree.nobodys_configuration
A, B, C = (target(label, "1" * 40, f"v0.{n}.0") for n, label in enumerate("ABC", 1))
DAY = "2026-03-14"


@pytest.fixture
def laptop(tmp_path: Path) -> Path:
    """A repository of long ago."""
    root = tmp_path / "laptop"
    tree.begin(root)
    (root / layout.PARAMS).write_text((REPOSITORY / layout.PARAMS).read_text())
    git(root, "add", ".")
    git(root, "commit", "--quiet", "--amend", "--no-edit", env=dated("2026-01-01T00:00:00"))
    return root


def dated(when: str) -> dict[str, str]:
    return {"GIT_COMMITTER_DATE": f"{when}+00:00", "GIT_AUTHOR_DATE": f"{when}+00:00"}


def move(
    root: Path, environment: str, to: Pointer | None, when: str, kind: str = "promote", why: str = "better"
) -> None:
    """A move that landed at ``when``, UTC."""
    path = root / at(environment)
    before = pointer.parse(path.read_bytes(), "x") if path.exists() else None
    if to is None:
        path.unlink()
        keep(root, "Take it away", dated(when))
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pointer.write(to))
    number = 1 + len(git(root, "log", "--format=%H", "--", str(at(environment))).split())
    keep(root, compose(environment, number, kind, before, to, why), dated(when))  # type: ignore[arg-type]


@pytest.fixture
def moved(laptop: Path) -> Path:
    """Production: A on the 10th, B at the end of the 13th, back to A at noon of the 14th, C at the start of the 15th."""
    move(laptop, "staging", A, "2026-03-09T08:00:00")
    move(laptop, "production", A, "2026-03-10T09:00:00")
    move(laptop, "staging", B, "2026-03-12T08:00:00")
    move(laptop, "production", B, "2026-03-13T23:59:59")
    move(laptop, "production", A, "2026-03-14T12:00:00", "rollback", "answers in French")
    move(laptop, "production", C, "2026-03-15T00:00:00")
    return laptop


def versions(found: History, environment: str = "production") -> list[str | None]:
    return [ran.after.version if ran.after else None for ran in found.environments[environment]]


def test_every_move_says_who_when_from_to_why_and_by_which_evidence(moved: Path) -> None:
    found = history(moved)
    assert versions(found) == ["v0.3.0", "v0.1.0", "v0.2.0", "v0.1.0"]
    assert versions(found, "staging") == ["v0.2.0", "v0.1.0"]
    back = found.environments["production"][1]
    assert (back.number, back.kind, back.by, back.why) == (3, "rollback", "Ada <ada@example.org>", "answers in French")
    assert (back.before, back.after) == (B, A)
    assert (back.after and back.after.evidence) == A.evidence
    assert (back.at, back.until) == (datetime(2026, 3, 14, 12, tzinfo=UTC), datetime(2026, 3, 15, tzinfo=UTC))
    assert back.commit == git(moved, "rev-parse", "HEAD^")
    assert found.environments["production"][0].until is None
    assert found.tip == git(moved, "rev-parse", "HEAD")


def test_one_environment_can_be_asked_for(moved: Path) -> None:
    assert set(history(moved, "staging").environments) == {"staging"}
    with pytest.raises(EvidenceRefused, match="names no such one; use one of staging, production"):
        history(moved, "nowhere")


@pytest.mark.parametrize(
    ("on", "ran"),
    [
        ("2026-03-09", []),
        ("2026-03-10", ["v0.1.0"]),
        ("2026-03-12", ["v0.1.0"]),
        ("2026-03-13", ["v0.2.0", "v0.1.0"]),  # its last second
        (DAY, ["v0.1.0", "v0.2.0"]),  # and not what came as it ended
        ("2026-03-15", ["v0.3.0"]),  # and not what ended as it began
        ("2026-06-01", ["v0.3.0"]),
        ("2026-03-10T08:59:59", []),
        ("2026-03-10T09:00:00", ["v0.1.0"]),
        ("2026-03-14T11:59:59Z", ["v0.2.0"]),
        ("2026-03-14T12:00", ["v0.1.0"]),  # no zone: UTC
        ("2026-03-14 12:00", ["v0.1.0"]),
        ("2026-03-14T12:59+01:00", ["v0.2.0"]),
        ("2026-03-14T13:00+01:00", ["v0.1.0"]),
        ("2026-03-15T00:30:00+01:00", ["v0.1.0"]),
        ("2026-03-14T23:59:59.999", ["v0.1.0"]),
        ("2026-03-15T00:00:00", ["v0.3.0"]),
    ],
)
def test_what_ran_at_a_time_is_what_the_last_move_before_it_says(moved: Path, on: str, ran: list[str]) -> None:
    found = history(moved, "production", on)
    assert versions(found) == ran
    assert found.on == on


def test_a_day_on_which_nothing_ran_says_so(laptop: Path) -> None:
    move(laptop, "production", A, "2026-03-10T09:00:00")
    move(laptop, "production", None, "2026-03-12T09:00:00")
    assert versions(history(laptop, "production", "2026-03-13")) == [None]
    assert (
        environment_tables.history(history(laptop, "production", "2026-03-13"))
        .splitlines()[0]
        .endswith("v0.1.0 → nothing  by Ada <ada@example.org>: Take it away")
    )
    assert environment_tables.history(history(laptop, "production", "2026-03-01")).splitlines() == [
        "production: nothing ran"
    ]
    assert environment_tables.history(history(laptop, "staging")).splitlines() == ["staging: nothing was ever promoted"]


def test_two_moves_in_one_second_both_ran_that_day(laptop: Path) -> None:
    for its in (A, B):
        move(laptop, "production", its, "2026-03-14T00:00:00")
    assert versions(history(laptop, "production", DAY)) == ["v0.2.0", "v0.1.0"]
    assert versions(history(laptop, "production", f"{DAY}T00:00:00")) == ["v0.2.0"]
    assert versions(history(laptop, "production", "2026-03-13")) == []


def test_a_date_that_is_not_believed_is_told_with_its_move(laptop: Path) -> None:
    move(laptop, "production", A, "2026-03-14T12:00:00")
    move(laptop, "production", B, "2026-03-01T12:00:00")
    last = history(laptop, "production").environments["production"][0]
    assert last.at == datetime(2026, 3, 14, 12, tzinfo=UTC)
    assert "is dated 2026-03-01 12:00 UTC, and follows one of" in last.doubt
    assert any("! commit" in line for line in environment_tables.history(history(laptop)).splitlines())


@pytest.mark.parametrize("on", ["", "yesterday", "2026-13-01", "2026-02-30", "14.03.2026", "20260314", "2026-W11-6", "2026-3-14", "12:00", "2026-03-14T25:00", "2026-03-14T12:00+99:00", "9999-99-99", "0001-01-01T00:00+23:00", "\x1b[31m2026", "2026-03-14\n", "x" * 900])  # fmt: skip
def test_what_is_no_time_is_refused(on: str) -> None:
    with pytest.raises(
        EvidenceRefused, match=r"is neither a date nor a time; write it as 2026-03-14, or 2026-03-14T15:09"
    ) as caught:
        moment(on)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 250


def test_a_time_that_has_not_come_is_refused() -> None:
    now = datetime(2026, 3, 14, 23, 30, tzinfo=UTC)
    for on in ("2026-03-15", "2026-03-14T23:31", "2026-03-15T00:15+00:30"):
        with pytest.raises(EvidenceRefused, match="has not come yet, in UTC"):
            moment(on, now)
    for on in (DAY, "2026-03-14T23:30", "2026-03-15T00:15+01:00"):
        assert moment(on, now).start <= now
    assert moment(DAY, now).end - moment(DAY, now).start == timedelta(days=1)


@pytest.mark.parametrize(
    ("spoil", "refusal", "words"),
    [
        (lambda root: git(root, "remote", "add", "origin", str(root.parent / "gone.git")), RemoteRefused, "main of origin"),
        (lambda root: (root / layout.PARAMS).write_text("a: 1\n"), ParamsRefused, "params.yaml"),
        (lambda root: git(root, "checkout", "--quiet", "-b", "other") + git(root, "branch", "-D", "main"), EvidenceRefused, r"there is no such branch; make it \(git branch main"),
        (lambda root: git(root, "update-ref", "-d", "HEAD"), EvidenceRefused, r"there is no such branch; make it \(git add -A && git commit"),
    ],
)  # fmt: skip
def test_a_history_that_cannot_be_read_is_refused(
    moved: Path, spoil: Callable[[Path], object], refusal: type[Exception], words: str
) -> None:
    spoil(moved)
    with pytest.raises(refusal, match=words):
        history(moved)


def test_the_answer_is_plain_json(moved: Path) -> None:
    assert History.model_validate_json(history(moved).model_dump_json()) == history(moved)
