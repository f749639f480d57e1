"""Groups of rows that must stay together, and a deterministic, stratified split of the groups.

The split of a row depends on the seed and on placing keys, not on the order of the rows, and a new row moves few
others: groups are taken in the order of the hashes of their keys.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, pairwise
from typing import NamedTuple

from checks.config.pipeline_params import NearDuplicates
from checks.data import near_duplicates

MAX_LABELS = 100  # more distinct references than this, or fewer than five rows each, are free text


class Item(NamedTuple):
    """The part of a row that the split reads."""

    id: str
    text: str  # Near-duplicates are judged by it: ``rows.request``.
    stratum: str
    # Places the row if it is the smallest of its group; ``prepare.placing`` says how it is made.
    key: str
    group: str | None = None  # a group that the row's owner named
    earlier: tuple[str, ...] = ()  # ``rows.earlier_requests``: a chat trains their answers too


def strata(references: Sequence[str], slices: Sequence[str]) -> Sequence[str]:
    """Return the references if they are a small set of labels, else the slices."""
    distinct = len(set(references))
    return references if distinct <= MAX_LABELS and 5 * distinct <= len(references) else slices


def groups(items: Sequence[Item], near: NearDuplicates) -> dict[str, str]:
    """Row id to group: rows connected by near-duplicate requests or by the owner's group.

    A chat and a row that asks what the chat answers earlier are connected too; two chats that only begin alike are not.
    A group is named by its smallest id. Ids must be unique.
    """
    # Sorted, so that the smallest index is the smallest id.
    ordered = sorted(items, key=lambda item: item.id)
    texts = [item.text for item in ordered]
    roots = near_duplicates.groups(
        texts,
        near.shingle,
        near.similarity,
        chain(_named_alike(ordered), _answered_earlier(ordered, near)),
    )
    return {item.id: ordered[root].id for item, root in zip(ordered, roots, strict=True)}


def _named_alike(items: Sequence[Item]) -> Iterator[tuple[int, int]]:
    named: defaultdict[str, list[int]] = defaultdict(list)
    for index, item in enumerate(items):
        if item.group is not None:
            named[item.group].append(index)
    for members in named.values():
        yield from pairwise(members)


def _answered_earlier(items: Sequence[Item], near: NearDuplicates) -> Iterator[tuple[int, int]]:
    """Pairs that connect each chat with the rows that ask one of its earlier requests."""
    chats = [index for index, item in enumerate(items) for _ in item.earlier]
    if not chats:
        return
    earlier = [text for item in items for text in item.earlier]
    texts = [item.text for item in items]
    answered, asked = near_duplicates.connected(earlier, texts, near.shingle, near.similarity)
    last = {group: index for index, group in enumerate(asked)}
    yield from ((index, last[group]) for index, group in enumerate(asked) if last[group] != index)
    yield from (
        (index, last[group]) for index, group in zip(chats, answered, strict=True) if group in last
    )


def assign(
    items: Iterable[Item], group_of: Mapping[str, str], shares: Mapping[str, float], seed: int
) -> dict[str, str | None]:
    """Row id to the name of its split; None for the rest.

    ``shares`` are of all rows, in (0, 1). Each stratum contributes its share to each split, as nearly as groups allow;
    the next stratum compensates for the difference. A group belongs to the stratum of most of its rows.
    """
    members: defaultdict[str, list[Item]] = defaultdict(list)
    for item in items:
        members[group_of[item.id]].append(item)
    pools: defaultdict[str, list[str]] = defaultdict(list)
    for group, rows in members.items():
        counted = Counter(row.stratum for row in rows)
        pools[min(counted, key=lambda name: (-counted[name], name))].append(group)
    size = {group: len(rows) for group, rows in members.items()}
    rank = {
        group: (hashlib.sha256(f"{seed}:{min(row.key for row in rows)}".encode()).digest(), group)
        for group, rows in members.items()
    }
    placed: dict[str, str | None] = {}
    owed = dict.fromkeys(shares, 0.0)  # rows that earlier strata gave too few of
    for stratum in sorted(pools):
        pool = sorted(pools[stratum], key=rank.__getitem__)
        rows_here = sum(size[group] for group in pool)
        for name, share in shares.items():
            wanted = share * rows_here + owed[name]
            taken = _nearest([group for group in pool if group not in placed], size, wanted)
            placed |= dict.fromkeys(taken, name)
            owed[name] = wanted - sum(size[group] for group in taken)
    return {row.id: placed.get(group) for group, rows in members.items() for row in rows}


def _nearest(pool: Sequence[str], size: Mapping[str, int], wanted: float) -> list[str]:
    """Groups, in order, whose number of rows is as close to ``wanted`` as one pass allows."""
    taken, left = [], wanted
    for group in pool:
        if size[group] <= left:
            taken.append(group)
            left -= size[group]
    used = set(taken)
    rest = [group for group in pool if group not in used]
    best = min(rest, key=lambda group: abs(size[group] - left), default=None)  # the first of equals
    if best is not None and abs(size[best] - left) < left:
        taken.append(best)
    return taken
