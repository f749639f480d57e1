"""Signed checkpoints of the ledger: what a fresh clone accepts of a remote, and what it refuses."""

import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from checks.formats.signers import Role
from checks.formats.statement import PAYLOAD
from checks.process.errors import EvidenceRefused, PromotionRefused, Refusal, RemoteRefused
from checks.storage import layout
from release.evidence import dsse, freshness, keys, statement, trust
from release.ledger import Ledger
from release.ledger.checkpoints import FILE
from release.mirrors import desired
from release.promotion import context
from release.verbs import history
from release.verbs import keys as key_verbs
from release.verbs.checkpoint import checkpoint
from tests import ledger_tree as tree
from tests.conftest import REPOSITORY
from tests.ledger_tree import PROMOTE, git

pytestmark = pytest.mark.slow

nobodys_configuration = tree.nobodys_configuration
HOURS = 24
RULES = PROMOTE.model_copy(update={"checkpoint_hours": HOURS})
PEOPLE: dict[str, Role] = {"ada": "checkpoint", "bob": "approve"}
READERS: dict[str, Callable[[Path], object]] = {
    "promote, rollback, approve, quarantine, drill, admission": context.find,
    "status, reconcile": desired.read,
    "history": history.history,
    "page, card, publish": lambda root: freshness.tip(root, Ledger.open(root, RULES), RULES),
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a clone, its bare remote, and the keys of ada, who signs checkpoints, and bob, who may not."""
    home = tmp_path_factory.mktemp("checkpoint")
    work = home / "work"
    work.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in tree.CLEAN.items():
            patch.setenv(name, value)
        tree.begin(work)
        text = (REPOSITORY / layout.PARAMS).read_text()
        before = "  branch: main\n"
        assert text.count(before) == 1
        (work / layout.PARAMS).write_text(text.replace(before, f"{before}  checkpoint_hours: {HOURS}\n"))
        for name, role in PEOPLE.items():
            made = key_verbs.new(work, name, (role,), home / f"{name}.key")
            key_verbs.add_signer(work, name, (role,), made.public)
        tree.keep(work, "rules and signers")
        tree.bare(home / "origin.git", work)
        tree.promote(work, "staging", "A")
    return home


@pytest.fixture
def home(prepared: Path, tmp_path: Path) -> Path:
    shutil.copytree(prepared, tmp_path / "home")
    git(tmp_path / "home" / "work", "remote", "set-url", "origin", str(tmp_path / "home" / "origin.git"))
    return tmp_path / "home"


def fresh(home: Path) -> Path:
    """A clone that has seen nothing before, as in a CI job."""
    number = len(list(home.iterdir()))
    return tree.clone(home / f"clone {number}", str(home / "origin.git"), "Cara")


def signed(home: Path, by: str = "ada", hours: float = 0, branch: str = "main", number: int = 1) -> str:
    """Push a checkpoint of the current commit, however old."""
    ledger, tip = tree.opened(fresh(home))
    at = datetime.now(UTC) - timedelta(hours=hours)
    data = dsse.sign(statement.checkpoint(branch, tip, number, at), PAYLOAD, keys.load(home / f"{by}.key"))
    return ledger.add_checkpoint(tip, data, "a checkpoint\n")


def rewind(home: Path) -> None:
    """Take the last commit of the branch from the remote."""
    git(home / "origin.git", "update-ref", "refs/heads/main", "refs/heads/main~1")


def refused(read: Callable[[Path], object], root: Path, cause: str, kind: type[Refusal] = RemoteRefused) -> Refusal:
    with pytest.raises(kind, match=cause) as found:
        read(root)
    assert str(found.value).isprintable()
    assert not found.value.others
    return found.value


@pytest.mark.parametrize("reader", READERS)
def test_a_fresh_clone_accepts_what_a_checkpoint_confirms_and_no_rewound_history(reader: str, home: Path) -> None:
    read = READERS[reader]
    assert "lockstep checkpoint --key" in str(refused(read, fresh(home), "has no checkpoint").todo)
    checkpoint(home / "work", home / "ada.key")
    read(fresh(home))
    tree.promote(home / "work", "production", "A")
    read(fresh(home))  # what came after a checkpoint contains it
    made = checkpoint(home / "work", home / "ada.key")
    assert (made.number, made.signer) == (2, "ada")
    rewind(home)
    refused(
        read, fresh(home), f"lacks {made.head[:12]}, of checkpoint 2 that ada signed on .*: its history was rewound"
    )
    refused(lambda root: checkpoint(root, home / "ada.key"), fresh(home), "its history was rewound")


def garbage(home: Path) -> None:
    ledger, tip = tree.opened(home / "work")
    ledger.add_checkpoint(tip, b"{}", "no checkpoint\n")


def put_back(home: Path) -> None:
    """Whoever may push writes the first checkpoint again, and rewinds the branch to it."""
    old = signed(home)
    tree.promote(home / "work", "production", "A")
    signed(home, number=2)
    data = git(home / "origin.git", "show", f"{old}:{FILE}")
    ledger, tip = tree.opened(home / "work")
    ledger.add_checkpoint(tip, data.encode(), "an old checkpoint\n")
    rewind(home)


def taken_away(home: Path) -> None:
    signed(home)
    git(home / "origin.git", "update-ref", "-d", "refs/heads/lockstep/checkpoint/main")


REFUSED: dict[str, tuple[Callable[[Path], object], type[Refusal], str]] = {
    "too old": (lambda home: signed(home, hours=HOURS + 0.1), RemoteRefused, "main of origin: its last checkpoint, 1 of .* UTC, is older than 24 hours"),
    "of the future": (lambda home: signed(home, hours=-1), RemoteRefused, "checkpoint 1 is of .* UTC, which is in the future"),
    "by one who may not": (lambda home: signed(home, "bob"), EvidenceRefused, "is signed by bob, who may approve and not checkpoint"),
    "of another branch": (lambda home: signed(home, branch="release"), EvidenceRefused, "is about the branch 'release'"),
    "an older one": (put_back, EvidenceRefused, "is number 1, and 3 were written: an older one was put in place of the last"),
    "not signed": (garbage, EvidenceRefused, "is not a DSSE envelope"),
    "taken away": (taken_away, RemoteRefused, "has no checkpoint"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_a_checkpoint_is_refused_if_it_is(what: str, home: Path) -> None:
    make, kind, cause = REFUSED[what]
    make(home)
    refused(context.find, fresh(home), cause, kind)


def test_a_checkpoint_that_expired_is_replaced_by_the_next(home: Path) -> None:
    signed(home, hours=HOURS - 0.1)
    context.find(fresh(home))
    signed(home, hours=HOURS + 0.1, number=2)
    refused(context.find, fresh(home), "older than 24 hours")
    assert checkpoint(fresh(home), home / "ada.key").number == 3
    context.find(fresh(home))


def test_a_remote_that_shows_an_old_branch_with_its_checkpoint_is_noticed_by_a_clone_that_saw_more(home: Path) -> None:
    """A fresh clone notices it when that checkpoint is too old."""
    old = signed(home)
    seen = fresh(home)
    tree.promote(home / "work", "production", "A")
    signed(home, number=2)
    context.find(seen)
    rewind(home)
    git(home / "origin.git", "update-ref", "refs/heads/lockstep/checkpoint/main", old)
    refused(context.find, seen, "main of origin: was .* which is older: commits were taken from it")
    context.find(fresh(home))
    git(seen, "update-ref", "-d", Ledger.open(seen, RULES)._place.seen)
    refused(context.find, seen, "lockstep/checkpoint/main of origin: was .* which is older: commits were taken from it")


def test_a_branch_that_moves_while_it_is_read_is_not_called_rewound(home: Path) -> None:
    ledger, tip = tree.opened(fresh(home))
    tree.promote(home / "work", "production", "A")
    signed(home)
    signers = trust.known(home / "work")
    refused(lambda _: freshness.check(ledger, tip, RULES, signers), home, "moved while it was read")


def test_nothing_is_asked_of_a_ledger_without_a_remote_or_without_the_parameter(home: Path) -> None:
    freshness.tip(fresh(home), Ledger.open(fresh(home), PROMOTE), PROMOTE)
    git(home / "work", "remote", "remove", "origin")
    context.find(home / "work")
    refused(lambda root: checkpoint(root, home / "ada.key"), home / "work", "has no remote", PromotionRefused)


def test_who_may_not_sign_checkpoints_signs_none(home: Path) -> None:
    refused(lambda root: checkpoint(root, home / "bob.key"), home / "work", "who may approve and not", EvidenceRefused)
    refused(lambda root: checkpoint(root), home / "work", "by a key or by an identity", EvidenceRefused)
