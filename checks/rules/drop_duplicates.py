"""Drops all rows but one with the same request and the same answer.

Rows that differ in further columns are kept, but for a row without any beside one that has some.
"""

from collections import defaultdict
from collections.abc import Sequence

from checks.data.drafts import Draft
from checks.kinds.rule import Rule
from checks.storage import digest


class DropDuplicates(Rule):
    """Drops all rows but one with the same request and the same answer."""

    does = "the same request and answer: one is kept"
    of_documents = True
    within_request = True

    def among(self, drafts: Sequence[Draft]) -> list[bool]:
        """Whether each draft has the defect, beside the others."""
        # Two rows of preferences can differ in their further columns alone.
        keys = [
            (
                *draft.asked,
                draft.full_reference,
                digest.of_json(dict(draft.extra)) if draft.extra else "",
            )
            for draft in drafts
        ]
        alike: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
        for index, key in enumerate(keys):
            alike[key].append(index)
        goes = [False] * len(drafts)
        for several in alike.values():
            if len(several) > 1:
                # The first by content is kept, then the first by where it is from.
                equal = [(drafts[index], index) for index in several]
                *_, best = min(
                    (
                        draft.content,
                        draft.slice,
                        draft.group or "",
                        draft.id or "",
                        draft.source,
                        index,
                    )
                    for draft, index in equal
                )
                for index in several:
                    goes[index] = index != best
        richer = {
            key[:-1] for key, draft in zip(keys, drafts, strict=True) if not _lacks_extra(draft)
        }
        return [
            gone or (_lacks_extra(draft) and key[:-1] in richer)
            for gone, draft, key in zip(goes, drafts, keys, strict=True)
        ]


def _lacks_extra(draft: Draft) -> bool:
    """Whether each further column is null."""
    return all(value is None for value in draft.extra.values())
