"""The quarantine: a file that says what no promotion moves, and nothing else."""

from typing import Any

import pytest
import yaml

from checks.formats import quarantine
from checks.formats.quarantine import Entry
from checks.process.errors import EvidenceRefused
from tests.ledger_tree import sha

ONE = Entry(
    image=sha("i"), model=sha("m"), version="v0.1.0", by="Ada <ada@example.org>", why="réponses: [en] 'français' #1"
)
TWO = Entry(image=sha("j"), model=sha("n"), version="v0.2.0", by="Bob", why="yes")


def test_entries_come_back_as_they_were_written() -> None:
    for entries in ((), (ONE,), (ONE, TWO)):
        assert quarantine.parse(quarantine.write(entries), "x") == entries
    assert quarantine.write(()) == b"[]\n"


@pytest.mark.parametrize(
    "why",
    ["4815e16", "1e-3", ".5", "0o17", "0x1F", "1_000", "1:30:00", "yes", "null", "~", "2026-11-25", "<<", "=", "- a", "a: b",
     "# a", "'", '"', "\\", "{a: 1}", "&a", "*a", "!a", "%a", "@a", "`a`", "|", ">", "?", "é \U0001f600", "x" * 500],
)  # fmt: skip
def test_any_reason_comes_back_as_it_was_given(why: str) -> None:
    entry = ONE.model_copy(update={"why": why, "by": why})
    assert quarantine.parse(quarantine.write((entry,)), "x") == (entry,)


def test_an_entry_holds_back_its_image_and_its_weights_in_any_other() -> None:
    assert quarantine.find((ONE, TWO), sha("i"), sha("z")) == ONE
    assert quarantine.find((ONE, TWO), sha("z"), sha("n")) == TWO
    assert quarantine.find((ONE, TWO), sha("z"), sha("z")) is None


def test_an_image_is_held_once_and_the_first_reason_stays() -> None:
    again = ONE.model_copy(update={"why": "another"})
    assert quarantine.add((), ONE) == (ONE,)
    assert quarantine.add((ONE,), again) == (ONE,)
    assert quarantine.add((ONE,), TWO) == (ONE, TWO)


def test_weights_that_turn_out_bad_are_held_beside_their_image() -> None:
    """It was rolled back to an image of the same weights, and then further."""
    image = ONE.model_copy(update={"model": None})
    assert quarantine.add((image, TWO), ONE.model_copy(update={"why": "another"})) == (ONE, TWO)
    assert quarantine.add((ONE,), image) == (ONE,)


@pytest.mark.parametrize("name", [ONE.image, ONE.model, ONE.version])
def test_what_is_released_is_named(name: str) -> None:
    assert quarantine.release((ONE, TWO), name) == (TWO,)


@pytest.mark.parametrize("name", ["", "v0", sha("z"), ONE.image[:20], "*", "\x1b[2J"])
def test_nothing_is_released_by_another_name(name: str) -> None:
    with pytest.raises(EvidenceRefused, match=r"is not in quarantine; name what is, .*: v0.1.0 \(sha256:") as refused:
        quarantine.release((ONE, TWO), name)
    assert str(refused.value).isprintable()


def spoiled(**change: Any) -> bytes:
    return yaml.safe_dump([ONE.model_dump() | change]).encode()


@pytest.mark.parametrize(
    "text",
    [
        b"", b"null\n", b"# nothing\n", b"{}\n", b"- x\n", b"[", b"\xff", b"- &a {}\n- *a\n", b"!!python/none\n",
        spoiled(why=""), spoiled(why="a\nb"), spoiled(by="a\u202eb"), spoiled(why=" x"), spoiled(image="sha256:1"),
        spoiled(version="1"), spoiled(more=1), spoiled(why="x" * 501), quarantine.write((ONE, ONE)),
    ],
)  # fmt: skip
def test_anything_else_refuses(text: bytes) -> None:
    with pytest.raises(EvidenceRefused, match=r"^x: "):
        quarantine.parse(text, "x")
