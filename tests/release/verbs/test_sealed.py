"""The sealed split: what a look needs, what counts as one, and what a promotion makes of it.

The rows are not asked here: a program in the stage's place says the bit. tests/stages/test_sealed_rows.py asks real models.
"""

import base64
import json
import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from checks.config import sealed
from checks.formats.statement import PAYLOAD
from checks.process.errors import EvidenceRefused, PromotionRefused, Refusal, VerdictFailed, VerdictInconclusive
from checks.storage import digest, layout
from release.adapters.dvc import StageRefused
from release.cli import main
from release.evidence import dsse, keys, statement
from release.promotion import checklist, context
from release.promotion import sealed as looks
from release.verbs import keys as key_verbs
from release.verbs import sealed as verb
from release.verbs.sealed import SealedAnswer
from tests import evidence_tree
from tests import promotion_tree as tree
from tests.killed import forked
from tests.ledger_tree import git, keep, packed
from tests.promotion_tree import move

pytestmark = pytest.mark.slow

alone = tree.alone
MOST = 2
GATES: dict[str, Any] = {
    "right": {"kind": "threshold", "metric": "exact-match", "at_least": 0.2, "confidence": 0.95, "resolution": 0.4},
    "unseen": {
        "kind": "contamination", "ngram": 13, "max_ngram_share": 0.0, "shingle": 5, "similarity": 0.8,
        "max_near_duplicate_share": 0.0,
    },
}  # fmt: skip
# In the stage's place: says what the file says, and counts how often it was asked.
STAGE = """import os, pathlib, signal
with open(".lockstep/asked", "a") as asked: asked.write("x")
said = pathlib.Path(".lockstep/bit").read_text()
if said == "kill": os.kill(os.getppid(), signal.SIGKILL)
if said == "silence": raise SystemExit(3)
print(said)
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A laptop with a release, and a staging that asks for the sealed split. sal may sign looks. Read-only."""
    from cryptography.fernet import Fernet

    root = tmp_path_factory.mktemp("sealed") / "work"

    def edit(plain: dict[str, Any]) -> None:
        data = sealed.encrypt(evidence_tree.rows("sealed", 30), Fernet.generate_key())
        (root / layout.SEALED).parent.mkdir(parents=True)
        (root / layout.SEALED).write_bytes(data)
        pin = digest.of_bytes(data).removeprefix("sha256:")
        plain["sealed"] = {"sha256": pin, "rows": 30, "max_looks": MOST, "gates": GATES}
        plain["promote"]["environments"]["staging"]["sealed"] = True

    with pytest.MonkeyPatch.context() as patch:
        tree.leave_alone(patch)
        tree.prepare(root, edit)
        new = key_verbs.new(root, "sal", ("sealed",), tree.key(root, "sal"))
        key_verbs.add_signer(root, "sal", ("sealed",), new.public)
        (root / "stages").mkdir(exist_ok=True)
        (root / "stages" / "__init__.py").touch()
        (root / "stages" / "sealed.py").write_text(STAGE)
        keep(root, "who signs looks")
        tree.release(root)
    return packed(root)


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    return tree.copy(made, tmp_path / "work")


def says(root: Path, bit: str) -> None:
    (root / layout.STATE / "bit").write_text(bit)


def ask(root: Path, bit: str = "pass", by: str = "sal") -> SealedAnswer:
    says(root, bit)
    return verb.ask(root, tree.key(root, by))


def times(root: Path) -> int:
    """How often the rows were asked."""
    path = root / layout.STATE / "asked"
    return len(path.read_text()) if path.exists() else 0


def file(root: Path) -> Path:
    """The only look there."""
    (found,) = (root / layout.SEALED_LOOKS).rglob("*.json")
    return found


def why_not(root: Path) -> str:
    """Why the release of the record cannot be moved to staging: the check of the sealed split alone fails."""
    with pytest.raises(PromotionRefused) as refused:
        move(root, "staging")
    assert not refused.value.others
    return str(refused.value)


def checked(root: Path) -> str:
    """What that check alone says of the model of the record."""
    check = checklist.run("sealed", partial(looks.passed, context.find(root), model(root)))
    (failure,) = check.failures
    return failure.line


def test_a_promotion_needs_a_look_which_is_one_bit_and_is_made_once(root: Path) -> None:
    assert "the sealed split was not asked about this model; `lockstep sealed ask`" in why_not(root)
    first = ask(root)
    assert (first.status, first.done, first.number, first.looks) == ("pass", "asked", 1, MOST)
    assert verb.refusal(first) is None
    again = ask(root, "fail")
    assert again == first.model_copy(update={"done": "already"})
    shown = CliRunner().invoke(main, ["-C", str(root), "sealed", "ask", "--key", str(tree.key(root, "sal"))])
    assert (shown.exit_code, shown.output) == (0, f"pass: {first.model}, look 1 of {MOST}, asked before\n")
    assert times(root) == 1
    done = move(root, "staging")
    assert done.done == "moved"
    note = next(check.note for check in done.checks if check.about == "sealed")
    assert note == f"passed by look 1 of {MOST}, signed by sal"
    said = json.loads(dsse.verify(file(root).read_bytes(), context.find(root).signers, "sealed").payload)
    assert set(said["predicate"]) == {"split", "asked", "number", "passed"}


def test_a_model_that_does_not_pass_stays_where_it_is_and_costs_a_look(root: Path) -> None:
    asked = ask(root, "fail")
    assert isinstance(verb.refusal(asked), VerdictFailed)
    assert "the sealed split says that the model does not pass (signed by sal)" in why_not(root)
    assert ask(root, "pass").status == "fail"
    tree.next_model(root, 12)
    assert ask(root).number == 2
    tree.next_model(root, 13)
    used_up = ask(root)
    assert (used_up.status, used_up.done, times(root)) == ("inconclusive", "refused", 2)
    refusal = verb.refusal(used_up)
    assert isinstance(refusal, VerdictInconclusive)
    assert "refresh the sealed split" in refusal.todo
    assert "inconclusive: the sealed split was not asked about this model, and 2 of 2 looks used; refresh" in checked(
        root
    )


def other_model(root: Path) -> None:
    """Another model's look in the place of this one's."""
    data = file(root).read_bytes()
    file(root).unlink()
    tree.next_model(root, 12)
    where = context.find(root)
    place = root / looks.place(looks.split(where), model(root))
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(data)


def model(root: Path) -> str:
    return str(json.loads((root / layout.VERDICT).read_bytes())["model"])


def flip(root: Path) -> None:
    """The bit is turned in what was signed."""
    plain = json.loads(file(root).read_bytes())
    said = base64.b64decode(plain["payload"]).replace(b'"passed":false', b'"passed":true')
    plain["payload"] = base64.b64encode(said).decode()
    file(root).write_text(json.dumps(plain))


def by_bob(root: Path) -> None:
    """Somebody signs a bit of his own who may sign no looks."""
    forge(root, "bob")


def of_another_split(root: Path) -> None:
    forge(root, "sal", split=digest.of_bytes(b"other"))


def of_other_gates(root: Path) -> None:
    forge(root, "sal", asked=digest.of_bytes(b"easier gates"))


def forge(root: Path, by: str, **change: Any) -> None:
    payload = dsse.verify(file(root).read_bytes(), context.find(root).signers, "sealed").payload
    looked = statement.parse_sealed_look(payload, model(root), "the look").predicate
    looked = looked.model_copy(update={"passed": True} | change)
    said = statement.sealed_look(model(root), looked)
    file(root).write_bytes(dsse.sign(said, PAYLOAD, keys.load(tree.key(root, by))))


TAMPERED: dict[str, tuple[Callable[[Path], None], str]] = {
    "another model's": (other_model, "is about another model"),
    "turned": (flip, "its signature is not by sal"),
    "by one who may not": (by_bob, "is signed by bob, who may approve and not sealed"),
    "of another split": (of_another_split, "is about another sealed split"),
    "of easier gates": (of_other_gates, "the sealed split was not asked about this model"),
}


@pytest.mark.parametrize("how", TAMPERED)
def test_a_bit_is_refused_that_is(how: str, root: Path) -> None:
    ask(root, "fail")
    tamper, cause = TAMPERED[how]
    tamper(root)
    keep(root, "a look by hand")
    assert cause in checked(root)


def test_a_look_that_was_taken_away_still_counts_and_a_rewound_history_is_noticed(root: Path) -> None:
    before = git(root, "rev-parse", "HEAD")
    first = ask(root, "fail")
    file(root).unlink()
    keep(root, "no look")
    assert "was not asked" in checked(root)
    assert ask(root).number == 2
    second = file(root).read_bytes()
    where = context.find(root)
    wanted = looks.split(where)
    assert looks.count(where, wanted) == 2
    git(root, "reset", "--quiet", "--hard", before)  # the history is rewritten, and the second look put back
    place = root / looks.place(wanted, first.model)
    place.parent.mkdir(parents=True)
    place.write_bytes(second)
    keep(root, "the second look alone")
    with pytest.raises(EvidenceRefused, match="has had 1 looks, and one of them is number 2: the history was rewound"):
        ask(root)


def test_a_killed_look_has_said_nothing_or_is_counted(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tip = git(root, "rev-parse", "HEAD")
    assert forked(lambda: ask(root, "kill")) == -signal.SIGKILL
    assert git(root, "rev-parse", "HEAD") == tip

    def late(*_: object) -> SealedAnswer:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError

    with monkeypatch.context() as patch:
        patch.setattr(verb, "_answer", late)  # after the look is counted, before the bit is said
        assert forked(lambda: ask(root, "fail")) == -signal.SIGKILL
    asked = ask(root)
    assert (asked.status, asked.done, asked.number, times(root)) == ("fail", "already", 1, 2)


def not_merged(root: Path) -> None:
    git(root, "checkout", "--quiet", "-b", "proposal")
    keep(root, "a proposal")


def uncommitted(root: Path) -> None:
    with (root / layout.PARAMS).open("a") as stream:
        stream.write("# a change\n")


def no_split(root: Path) -> None:
    def remove(plain: dict[str, Any]) -> None:
        del plain["sealed"]
        del plain["promote"]["environments"]["staging"]["sealed"]

    tree.rewrite(root, layout.PARAMS, remove)


def nothing(root: Path) -> None:
    del root


REFUSED: dict[str, tuple[Callable[[Path], None], str, str, type[Refusal], str]] = {
    "a proposal's model": (not_merged, "pass", "sal", EvidenceRefused, "answers only models that were merged"),
    "changed parameters": (uncommitted, "pass", "sal", EvidenceRefused, "answers only models that were merged"),
    "no sealed split": (no_split, "pass", "sal", EvidenceRefused, "main:params.yaml: has no section sealed"),
    "a signer without the role": (nothing, "pass", "ada", EvidenceRefused, "who may verify, release, approve and not"),
    "a stage that fails": (nothing, "silence", "sal", Refusal, "sealed ended with 3"),
    "a stage that says more": (nothing, "pass 0.93", "sal", Refusal, "said neither pass nor fail"),
}  # fmt: skip


@pytest.mark.parametrize("how", REFUSED)
def test_no_look_is_made_of(how: str, root: Path) -> None:
    spoil, bit, by, kind, cause = REFUSED[how]
    spoil(root)
    tip = git(root, "rev-parse", "main")
    with pytest.raises(kind, match=cause) as refused:
        ask(root, bit, by)
    assert not isinstance(refused.value, StageRefused)
    assert "\n" not in str(refused.value)
    assert git(root, "rev-parse", "main") == tip
    assert times(root) == (1 if how.startswith("a stage") else 0)
