"""Versions and tags of a long history."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from release.ledger import Move, disagreements, missing
from release.ledger.types import TagNames, TagRef
from tests import ledger_tree


class Counted(list[Move]):
    """Moves that count how often somebody went through them."""

    passes = 0

    def __iter__(self) -> Iterator[Move]:
        self.passes += 1
        return super().__iter__()


class CountedTags(dict[str, TagRef]):
    """Tags that count how often somebody went through them."""

    passes = 0

    def __iter__(self) -> Iterator[str]:
        self.passes += 1
        return super().__iter__()


def history(length: int) -> tuple[CountedTags, Counted]:
    """So many releases to staging, and all of their tags but the last move's."""
    moves, tags = Counted(), CountedTags()
    for number in range(1, length + 1):
        commit, after = f"{number:040x}", ledger_tree.target(str(number), "1" * 40, f"v0.{number}.0")
        moves.append(
            Move(
                environment="staging",
                number=number,
                kind="promote",
                by="Ada",
                why="",
                before=None,
                after=after,
                at=datetime(2026, 1, 1, tzinfo=UTC) + timedelta(hours=number),
                commit=commit,
                landed=commit,
            )
        )
        tags[f"router@{after.version}"] = TagRef(commit, annotated=True)
        tags[f"router#staging#{number}"] = TagRef(commit, annotated=True)
    del tags[f"router#staging#{length}"]
    return tags, moves


@pytest.mark.parametrize("ask", [disagreements, missing])
def test_moves_and_tags_are_gone_through_as_often_whatever_their_number(ask: object) -> None:
    assert callable(ask)
    passes = []
    for length in (2, 200):
        tags, moves = history(length)
        assert len(ask("router", tags, moves)) == 1
        passes.append((tags.passes, moves.passes))
    assert passes[0] == passes[1]


@pytest.mark.parametrize(
    ("tag", "taken"),
    [
        ("router", "router/a"),
        ("router/a", "router/a"),
        ("router/a/b", "router/a"),
        ("router/b", None),
        ("route", None),
        ("router/c", "router/c/2"),
    ],
)
def test_a_tag_is_taken_by_one_of_its_name_above_it_or_below_it(tag: str, taken: str | None) -> None:
    assert TagNames(["router/a", "router/c/2", "router/c/1"]).taken(tag) == taken
