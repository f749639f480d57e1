"""Several sources in one run: their rows as drafts, what is kept out of training, and their shares of the train rows.

Rows of a source that is for training alone never change the valid and test splits. So they are cleaned apart, and a row
of it that resembles a row of another source is dropped.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from decimal import ROUND_FLOOR, Context, Decimal
from pathlib import Path
from typing import NamedTuple

from checks.config.data_sources import Part
from checks.config.pipeline_params import NearDuplicates
from checks.data import near_duplicates
from checks.data.documents import passages
from checks.data.drafts import Draft
from checks.process.errors import DataRefused
from checks.records.rows import earlier_requests, request

RESEMBLES = "drop-row-of-other-source"  # the rule that prepare counts such rows under
SHARE = "cut-to-share"  # and the one for rows beyond a source's share
REPLACED = "replace-test"  # The rule for test rows of other sources where one source is the whole test split.

_FLOOR = Context(prec=3, rounding=ROUND_FLOOR)  # Three significant digits, rounded down.


class Chosen(NamedTuple):
    """A train row: its id, and the source that it is from."""

    id: str
    origin: str


def load(part: Part, raw: Path) -> list[Draft]:
    """Return the rows of a source below ``raw``, each with the source's name. Raises DataRefused as its loader."""
    if not part.origin:
        return part.loader.load(raw / part.folder)
    try:
        drafts = part.loader.load(raw / part.folder)
    except DataRefused as refusal:
        what, todo = (
            text.replace("prepare.loader", f"{part.section}.loader").replace(
                "data.uri", f"{part.section}.uri"
            )
            for text in (refusal.what, refusal.todo)
        )
        raise DataRefused(f"{part.section}: {what}", todo, refusal.others) from refusal
    return [
        replace(
            draft,
            origin=part.origin,
            slice=_slice(part, draft),
            source=f"{part.origin}/{draft.source}",
        )
        for draft in drafts
    ]


def _slice(part: Part, draft: Draft) -> str:
    """Return the slice of a row. A source that is the whole test split has its own slices, as data.uri has."""
    if part.split == "test":
        return draft.slice
    return part.origin if draft.slice == "all" else f"{part.origin}/{draft.slice}"


def resembling(
    drafts: Sequence[Draft],
    others: Sequence[Draft],
    held_out: Sequence[Draft],
    near: NearDuplicates,
) -> list[bool]:
    """Whether each draft is a near-duplicate of one of ``others``, or in the owner's group of one that is held out.

    A chat is a near-duplicate of what is like any request that it answers. A document may have texts of train rows, but
    no passage that is a near-duplicate of a request that is held out.
    """
    goes = [False] * len(drafts)
    for of_documents, those in ((False, others), (True, held_out)):
        known = [request(draft.messages) for draft in those]
        answered = [_answered(draft) if draft.document == of_documents else () for draft in drafts]
        asked = [text for texts in answered for text in texts]
        of_draft = [i for i, texts in enumerate(answered) for _ in texts]
        for index, _ in (
            near_duplicates.first_alike(asked, known, near.shingle, near.similarity)
            if asked
            else ()
        ):
            goes[of_draft[index]] = True
    groups = {draft.group for draft in held_out} - {None}
    return [gone or draft.group in groups for gone, draft in zip(goes, drafts, strict=True)]


def _answered(draft: Draft) -> tuple[str, ...]:
    """Return what it gives away: the requests that it answers, or the passages of a document."""
    if draft.document:
        return passages(draft.reference)
    return (request(draft.messages), *earlier_requests(draft.messages))


def beyond_shares(rows: Sequence[Chosen], shares: Mapping[str, float], seed: int) -> set[str]:
    """Return the ids of the rows that are left out, so that each source in ``shares`` has its share of the train rows.

    Sources without a share keep all their rows. Which rows of the others stay depends on the seed and on their ids: by
    the smallest hashes. So more rows of a source move few, and their order moves none. Raises DataRefused if a source
    has too few rows for its share.
    """
    whole = sum(row.origin not in shares for row in rows)
    total = whole / (1 - sum(shares.values()))
    too_much: set[str] = set()
    for origin, share in sorted(shares.items()):
        own = sorted(
            (row.id for row in rows if row.origin == origin),
            key=lambda row_id: (
                hashlib.sha256(f"{seed}:share:{row_id}".encode()).digest(),
                row_id,
            ),
        )
        wanted = max(1, round(total * share))
        if wanted > len(own):
            left = 1 - sum(other for name, other in shares.items() if name != origin)
            possible = Decimal(left * len(own) / (whole + len(own))).normalize(_FLOOR)
            raise DataRefused(
                f"data.sources.{origin}.share: {share:g} of the train rows are {wanted:,} rows, it has {len(own):,}",
                f"bring more rows, lower it to {possible:f} or less, or remove it: "
                "then all its rows are taken",
            )
        too_much |= set(own[wanted:])
    return too_much


def lost(
    parts: Sequence[Part], read: Mapping[str, int], kept: Mapping[str, int]
) -> Iterator[tuple[str, str]]:
    """Yield what is wrong, and what to do, for each source of which no row is left."""
    for part in parts:
        if part.origin and not kept.get(part.origin):
            yield (
                f"{part.section}: none of its {read[part.origin]:,} rows is left",
                f"name the rules that do not fit its rows in {part.section}.skip_rules",
            )
