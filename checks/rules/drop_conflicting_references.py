"""Drops all rows of a request that has different answers."""

from collections import defaultdict
from collections.abc import Sequence

from checks.data.drafts import Draft
from checks.kinds.rule import Rule


class DropConflictingReferences(Rule):
    """Drops all rows of a request that has different answers."""

    does = "the same request has different answers: all are dropped"
    within_request = True

    def among(self, drafts: Sequence[Draft]) -> list[bool]:
        """Whether each draft has the defect, beside the others."""
        answers: defaultdict[tuple[str, ...], set[str]] = defaultdict(set)
        asked = [draft.asked for draft in drafts]
        for key, draft in zip(asked, drafts, strict=True):
            answers[key].add(draft.full_reference)
        return [len(answers[key]) > 1 for key in asked]
