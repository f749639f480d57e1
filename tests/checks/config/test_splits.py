"""Near-duplicate groups and the split: exact, whole, balanced, and the same whatever the order of the rows."""

from collections import Counter
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from checks.config import splits
from checks.config.pipeline_params import NearDuplicates
from checks.data import similar
from checks.records.rows import Message, request
from tests import similarity_definition

NEAR = NearDuplicates(shingle=3, similarity=0.5)
SHARES = {"test": 0.25, "valid": 0.1}

# Few characters and few words, so that near-duplicates and chains of them are common.
texts = st.lists(
    st.text("abc d", max_size=14) | st.sampled_from(["list vms", "list all vms", "List VMs."]), max_size=40
)


@st.composite
def items(draw: st.DrawFn) -> list[splits.Item]:
    prompts = draw(texts)
    return [
        splits.Item(
            id=f"{i:04d}",
            text=prompt,
            stratum=draw(st.sampled_from("xyz")),
            key=f"{i * 7919 % 100:04d}",
            group=draw(st.none() | st.sampled_from(["mine", "yours"])) if i % 7 == 0 else None,
            earlier=tuple(draw(texts)[:2]) if i % 6 == 0 else (),
        )
        for i, prompt in enumerate(prompts)
    ]


@pytest.mark.slow
@given(items())
@settings(deadline=None)  # the first example loads scipy
def test_no_group_and_no_near_duplicate_crosses_a_split_and_no_row_is_lost(rows: list[splits.Item]) -> None:
    group_of = splits.groups(rows, NEAR)
    placed = splits.assign(rows, group_of, SHARES, seed=1)
    assert placed.keys() == {row.id for row in rows}
    homes: dict[str, set[str | None]] = {}
    for row in rows:
        homes.setdefault(group_of[row.id], set()).add(placed[row.id])
    assert all(len(home) == 1 for home in homes.values())
    for one in rows:
        for other in rows:
            pair = similarity_definition.shingles(one.text, 3), similarity_definition.shingles(other.text, 3)
            if similarity_definition.alike(*pair, 0.5) or (one.group is not None and one.group == other.group):
                assert placed[one.id] == placed[other.id]
            if any(
                similarity_definition.alike(similarity_definition.shingles(text, 3), pair[1], 0.5)
                for text in one.earlier
            ):
                assert placed[one.id] == placed[other.id]


def test_a_chat_stays_with_a_row_that_asks_what_it_answers_and_not_with_each_that_begins_alike() -> None:
    def chat(name: str, *questions: str) -> splits.Item:
        asked = ["\n".join(questions[: count + 1]) for count in range(len(questions))]
        return splits.Item(name, asked[-1], "x", name, earlier=tuple(asked[:-1]))

    rows = [
        chat("a", "good morning", "which disks have I got in zone two?"),
        chat("b", "Good  morning!", "rotate every key of the vault, please"),
        chat("c", "who reads this queue", "and since when does he do so?", "stop it"),
        chat("d", "Who reads this  queue?", "and since when does he do so?"),
    ]
    assert splits.groups(rows, NEAR) == {"a": "a", "b": "b", "c": "c", "d": "c"}
    assert splits.groups([*rows, chat("e", "good morning")], NEAR) == {"a": "a", "b": "a", "e": "a", "c": "c", "d": "c"}


@pytest.mark.slow
@given(items(), st.randoms(use_true_random=False), st.integers(0, 5))
@settings(max_examples=40, deadline=None)
def test_the_order_of_the_rows_changes_nothing(rows: list[splits.Item], random: Random, seed: int) -> None:
    shuffled = list(rows)
    random.shuffle(shuffled)
    groups = splits.groups(rows, NEAR)
    assert splits.groups(shuffled, NEAR) == groups
    assert splits.assign(shuffled, groups, SHARES, seed) == splits.assign(rows, groups, SHARES, seed)


def _spread(count: int, start: int = 0) -> list[splits.Item]:
    return [
        splits.Item(f"{i:05d}", f"{i * 7919:x} {i:b}", "xyz"[i % 3], f"{i:05d}") for i in range(start, start + count)
    ]


@given(st.integers(30, 200), st.integers(0, 1000))
@settings(max_examples=30)
def test_shares_are_met_in_every_stratum_to_within_a_row(count: int, seed: int) -> None:
    rows = _spread(count)
    placed = splits.assign(rows, {row.id: row.id for row in rows}, SHARES, seed)
    for name, share in SHARES.items():
        assert abs(sum(1 for home in placed.values() if home == name) - share * count) <= 1
        for stratum in "xyz":
            size = sum(1 for row in rows if row.stratum == stratum)
            here = sum(1 for row in rows if row.stratum == stratum and placed[row.id] == name)
            assert abs(here - share * size) <= 1.5


def test_groups_larger_than_a_share_are_left_to_training_unless_that_is_nearer() -> None:
    rows = _spread(100)
    tens = {row.id: rows[10 * (i // 10)].id for i, row in enumerate(rows)}
    placed = splits.assign([row._replace(stratum="x") for row in rows], tens, {"test": 0.26, "valid": 0.04}, seed=3)
    assert Counter(placed.values()) == {None: 70, "test": 30}


def test_a_new_row_moves_few_others() -> None:
    rows = _spread(300)
    before = splits.assign(rows, {row.id: row.id for row in rows}, SHARES, seed=2)
    for extra in _spread(20, start=300):
        more = [*rows, extra]
        after = splits.assign(more, {row.id: row.id for row in more}, SHARES, seed=2)
        assert sum(1 for row in rows if before[row.id] != after[row.id]) <= 6


@pytest.mark.slow
def test_one_per_cent_more_rows_move_few_others() -> None:
    rows, more = _spread(20_000), _spread(200, start=20_000)
    own = {row.id: row.id for row in (*rows, *more)}
    # Every tenth new row is a near-duplicate of an old one, and its id, the smaller one, names their group from then on.
    joined = {old.id: f"-{new.id}" for old, new in zip(rows[::1000], more[::10], strict=True)}
    named = {new.id: f"-{new.id}" for new in more[::10]}
    before = splits.assign(rows, own, SHARES, seed=4)
    after = splits.assign([*rows, *more], own | joined | named, SHARES, seed=4)
    moved = sum(1 for row in rows if before[row.id] != after[row.id])
    assert 0 < moved <= 100  # of 20,000: where each split ends in the order of hashes, and the rows of renamed groups


def test_another_seed_is_another_split() -> None:
    rows = _spread(100)
    own = {row.id: row.id for row in rows}
    assert splits.assign(rows, own, SHARES, 1) == splits.assign(rows, own, SHARES, 1)
    assert splits.assign(rows, own, SHARES, 1) != splits.assign(rows, own, SHARES, 2)


def test_a_named_group_joins_near_duplicates_of_its_members() -> None:
    rows = [
        splits.Item("d", "delete the storage account", "x", "d"),
        splits.Item("c", "delete the storage accounts", "x", "c", group="mine"),
        splits.Item("b", "what a different thing", "x", "b", group="mine"),
        splits.Item("a", "nothing of the kind", "x", "a"),
    ]
    assert splits.groups(rows, NEAR) == {"d": "b", "c": "b", "b": "b", "a": "a"}


@pytest.mark.parametrize("one", ["List VMs", "list  vms.", "\nLIST VMS?!", "list vms"])
def test_case_width_white_space_and_final_punctuation_do_not_make_another_request(one: str) -> None:
    assert similar.normalised(one) == "list vms"
    assert similar.normalised("?") == "?"


def test_few_references_are_strata_and_free_text_is_split_by_slice() -> None:
    assert splits.strata(["vm", "sql"] * 10, ["a"] * 20) == ["vm", "sql"] * 10
    assert splits.strata([f"az {i}" for i in range(20)], ["a", "b"] * 10) == ["a", "b"] * 10


def test_a_request_is_every_turn_but_the_systems() -> None:
    chat = (
        Message(role="system", content="Route."),
        Message(role="user", content="hi"),
        Message(role="assistant", content="yes?"),
        Message(role="user", content="list vms"),
    )
    assert request(chat) == "hi\nyes?\nlist vms"
