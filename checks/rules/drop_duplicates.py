"""Drops all rows but one with the same request and the same answer.

Rows that differ in further columns are kept, but for a row without any beside one that has some.
"""

from collections.abc import Sequence

from checks import digest
from checks.drafts import Draft, Rule


class DropDuplicates(Rule):
    """Drops all rows but one with the same request and the same answer."""

    name = "drop-duplicates"
    does = "the same request and answer: one is kept"

    def among(self, drafts: Sequence[Draft]) -> list[bool]:
        """Whether each draft has the defect, beside the others."""
        best: dict[tuple[str, ...], tuple[str | int, ...]] = {}
        ranked = [(d.content, d.slice, d.group or "", d.id or "", d.source, i) for i, d in enumerate(drafts)]
        keys = [(*draft.asked, draft.reference, _extra(draft)) for draft in drafts]
        for key, rank in zip(keys, ranked, strict=True):
            best[key] = min(rank, best.get(key, rank))
        richer = {(*draft.asked, draft.reference) for draft in drafts if not _lacks_extra(draft)}
        return [
            best[key] != rank or (_lacks_extra(draft) and (*draft.asked, draft.reference) in richer)
            for draft, key, rank in zip(drafts, keys, ranked, strict=True)
        ]


def _lacks_extra(draft: Draft) -> bool:
    """Whether each further column is null."""
    return all(value is None for value in draft.extra.values())


def _extra(draft: Draft) -> str:
    """The further columns as text: two rows of preferences can differ in these alone."""
    return digest.of_json(dict(draft.extra)) if draft.extra else ""
