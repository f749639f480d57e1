"""Remotes that hang, fail, refuse, lie or vanish: one refusal within the deadline, and the truth about what moved."""

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from checks.process.errors import Outrun, Refusal, RemoteRefused
from release.ledger import Change, Ledger, push
from tests import ledger_tree as tree
from tests.git_service import Fault, Service, hook
from tests.ledger_tree import PROMOTE, git, promote, refs

pytestmark = pytest.mark.slow

nobodys_configuration, work, remote, service = tree.nobodys_configuration, tree.work, tree.remote, tree.service


def refused(root: Path, label: str = "A", deadline: float = 60) -> Refusal:
    """What a move is refused with: one printable line."""
    with pytest.raises(Refusal) as found:
        promote(root, "staging", label, deadline=deadline)
    assert str(found.value).isprintable()
    assert not found.value.others
    return found.value


# Logins


def test_a_remote_that_asks_who_it_is_refuses_at_once_and_a_helper_answers(work: Path, remote: Path) -> None:
    with Service(remote.parent, "ada:hunter2") as running:
        git(work, "remote", "set-url", "origin", running.address("origin.git"))
        started = time.monotonic()
        assert "could not read Username" in str(refused(work))
        assert time.monotonic() - started < 15
        git(work, "config", "credential.helper", "!f() { echo username=ada; echo password=hunter2; }; f")
        promote(work, "staging", "A")
        git(work, "config", "credential.helper", "!f() { echo username=ada; echo password=wrong-secret; }; f")
        refusal = refused(work, "B")
        assert isinstance(refusal, RemoteRefused)
        assert "Authentication failed" in str(refusal)
        assert "secret" not in str(refusal)


def test_a_password_in_the_address_of_a_remote_is_in_no_message(work: Path, remote: Path) -> None:
    with Service(remote.parent, "ada:hunter2") as running:
        git(work, "remote", "set-url", "origin", running.address("origin.git", "ada:hunter2"))
        promote(work, "staging", "A")
        running.fault = "fail"
        refusals = [refused(work, "B")]
        running.fault = ""
        ledger, tip = tree.opened(work)
        wanted = tree.change(ledger, tip, "staging", "B")
        running.fault = "fail"
        with pytest.raises(RemoteRefused) as found:
            ledger.commit(tip, wanted)
        refusals.append(found.value)
    refusals.append(refused(work, "B"))  # nobody listens there any more
    assert all("127.0.0.1" in str(refusal) or "origin" in str(refusal) for refusal in refusals)
    assert not any("hunter2" in str(refusal) or "ada:" in str(refusal) for refusal in refusals)


def test_a_password_asked_for_by_ssh_opens_no_window(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = tmp_path / "asked"
    window = tmp_path / "window"
    window.write_text(f"#!/bin/sh\ntouch {asked}\n")
    window.chmod(0o755)
    monkeypatch.setenv("SSH_ASKPASS", str(window))
    git(work, "config", "core.askPass", str(window))
    with Service(work.parent / "remotes", "ada:hunter2") as running:
        git(work, "remote", "set-url", "origin", running.address("origin.git"))
        refused(work)
    assert not asked.exists()


# Refusals of the remote


GH006 = "printf 'GH006: production is \\033[31mprotected\\nask Eve\\n' >&2; exit 1"
REFUSING: dict[str, tuple[Callable[[Path], object], str]] = {
    "by a hook": (lambda remote: hook(remote, "pre-receive", GH006), "GH006: production is [31mprotected ask Eve [remote rejected] (pre-receive hook declined)"),
    "for want of transactions": (lambda remote: git(remote, "config", "receive.advertiseAtomic", "false"), "the receiving end does not support --atomic push"),
    "for a lock of a killed push": (lambda remote: (remote / "refs" / "heads" / "main.lock").touch(), "cannot lock ref 'refs/heads/main'"),
}  # fmt: skip


@pytest.mark.parametrize("why", REFUSING)
def test_a_remote_that_refuses_a_push_is_quoted_and_nothing_moves(
    work: Path, remote: Path, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(push, "time", SimpleNamespace(sleep=waits.append))
    make, says = REFUSING[why]
    make(remote)
    before = refs(remote)
    refusal = refused(work)
    assert isinstance(refusal, RemoteRefused)
    assert says in str(refusal)
    if why == "by a hook":
        assert "nothing was moved; do what the remote requires" in str(refusal)
    assert refs(remote) == before
    assert (sum(waits) > 6) == (why == "for a lock of a killed push")  # seconds: another push may be about to end


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_read_only_remote_refuses(work: Path, remote: Path) -> None:
    subprocess.run(["chmod", "-R", "a-w", str(remote)], check=True)
    assert isinstance(refused(work), RemoteRefused)


def test_a_remote_that_takes_no_pushes_refuses(work: Path, remote: Path) -> None:
    with Service(remote.parent) as running:
        git(remote, "config", "http.receivepack", "false")
        git(work, "remote", "set-url", "origin", running.address("origin.git"))
        before = refs(remote)
        refusal = refused(work)
    assert isinstance(refusal, RemoteRefused)
    assert "403" in str(refusal) or "not permitted" in str(refusal)
    assert refs(remote) == before


def test_a_remote_that_is_gone_refuses(work: Path, remote: Path) -> None:
    remote.rename(remote.parent / "gone")
    assert "does not appear to be a git repository" in str(refused(work))


# Faults


@pytest.mark.parametrize("fault", ["hang", "fail", "cut", "lie"])
def test_a_push_that_fails_is_reported_as_what_it_is(work: Path, remote: Path, service: Service, fault: Fault) -> None:
    ledger, tip = tree.opened(work, deadline=2)
    wanted = tree.change(ledger, tip, "staging", "A")
    before, started = refs(remote), time.monotonic()
    service.fault = fault
    with pytest.raises(RemoteRefused) as found:
        ledger.commit(tip, wanted)
    assert time.monotonic() - started < 20
    told = {
        "hang": "whether main of origin was moved is not known: no answer before the deadline",
        "fail": "whether main of origin was moved is not known",
        "cut": "nothing was moved; run it again: it finds out if it arrived after all",
        "lie": "said that it took",
    }[fault]
    assert told in str(found.value)
    assert refs(remote) == before
    service.fault = ""
    assert ledger.commit(ledger.tip(), wanted) == refs(remote)["refs/heads/main"]


def test_a_push_whose_answer_is_lost_has_happened(work: Path, remote: Path, service: Service) -> None:
    service.fault = "lost"
    made = promote(work, "staging", "A")
    assert refs(remote)["refs/heads/main"] == made


def test_a_push_whose_answer_is_lost_and_a_remote_that_then_fails_is_not_known_and_found_out(
    work: Path, remote: Path, service: Service
) -> None:
    service.fault, service.then = "lost", "fail"
    refusal = refused(work)
    assert "whether main of origin was moved is not known" in str(refusal)
    assert "run it again when the remote answers" in str(refusal)
    service.fault = ""
    ledger, tip = tree.opened(work)
    assert tip == refs(remote)["refs/heads/main"]
    assert [move.number for move in ledger.moves(tip, "staging")] == [1]


def test_a_push_that_arrives_after_the_deadline_is_found_by_the_next_run(
    work: Path, remote: Path, service: Service
) -> None:
    ledger, tip = tree.opened(work, deadline=2)
    wanted = tree.change(ledger, tip, "staging", "A")
    service.fault, service.slow = "slow", 4.0
    with pytest.raises(
        RemoteRefused, match="no answer before the deadline: nothing was moved; run it again: it finds out"
    ):
        ledger.commit(tip, wanted)
    limit = time.monotonic() + 20
    while refs(remote)["refs/heads/main"] == tip and time.monotonic() < limit:
        time.sleep(0.1)
    service.fault = ""
    with pytest.raises(Outrun, match=r"Ada <ada@example.org> committed .*staging runs v0.1.0"):
        ledger.commit(tip, wanted)
    assert len(ledger.moves(ledger.tip(), "staging")) == 1


def test_somebody_who_pushes_on_top_at_once_takes_nothing_away(work: Path, remote: Path) -> None:
    other = tree.clone(work.parent / "other", str(remote), "Bob")
    script = (
        f"unset $(git rev-parse --local-env-vars); cd '{other}' && git pull -q && git commit -q --allow-empty -m top"
    )
    hook(
        remote,
        "post-receive",
        f"[ -e '{work.parent}/once' ] || {{ touch '{work.parent}/once'; {script} && git push -q; }}",
    )
    made = promote(work, "staging", "A")
    assert refs(remote)["refs/heads/main"] != made
    assert git(remote, "rev-parse", "main^") == made


@pytest.mark.parametrize("fault", ["hang", "fail"])
def test_a_remote_that_does_not_say_where_it_is_refuses(work: Path, service: Service, fault: Fault) -> None:
    service.fault = fault
    started = time.monotonic()
    with pytest.raises(RemoteRefused, match=r"main of origin: .*; see that the remote is up"):
        Ledger.open(work, PROMOTE, deadline=2).tip()
    assert time.monotonic() - started < 15


def test_a_hook_that_hangs_is_left_at_the_deadline(work: Path, remote: Path) -> None:
    hook(remote, "pre-receive", "sleep 60")
    before, started = refs(remote), time.monotonic()
    assert "no answer before the deadline" in str(refused(work, deadline=2))
    assert time.monotonic() - started < 15
    assert refs(remote) == before


# History taken back


def test_a_branch_that_was_rewritten_refuses_and_names_the_way_out(work: Path, remote: Path) -> None:
    old = refs(remote)["refs/heads/main"]
    promote(work, "staging", "A")
    ledger = Ledger.open(work, PROMOTE)
    git(remote, "update-ref", "refs/heads/main", old)
    with pytest.raises(RemoteRefused, match="which is older: commits were taken from it"):
        ledger.tip()
    other = tree.clone(work.parent / "other", str(remote), "Bob")
    tree.keep(other, "another history")
    git(other, "push", "--quiet")
    with pytest.raises(
        RemoteRefused, match=r"its history was rewritten; restore the branch; .* git update-ref -d refs/lockstep/"
    ) as found:
        ledger.tip()
    git(work, *found.value.todo.partition("git ")[2].split())
    assert ledger.tip() == refs(remote)["refs/heads/main"]


def test_a_tag_called_like_what_was_seen_last_is_not_taken_for_it(work: Path, remote: Path) -> None:
    """Else nothing would be remembered, and a branch that was rewritten would not be told."""
    made = promote(work, "staging", "A")
    seen = git(work, "for-each-ref", "--format=%(refname)", "refs/lockstep")
    git(work, "update-ref", "-d", seen)
    git(work, "update-ref", f"refs/tags/{seen}", f"{made}^")
    Ledger.open(work, PROMOTE).tip()
    assert git(work, "for-each-ref", "--format=%(objectname)", seen) == made


def test_a_branch_that_is_rewritten_during_a_move_refuses(work: Path, remote: Path) -> None:
    promote(work, "staging", "A")
    ledger, tip = tree.opened(work)
    wanted = Change({Path("x"): b"x"}, "x")
    git(remote, "update-ref", "refs/heads/main", f"{tip}^")
    with pytest.raises(RemoteRefused, match="commits were taken from it"):
        ledger.commit(tip, wanted)
