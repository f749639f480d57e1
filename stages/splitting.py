"""Cleans the rows of all sources, and divides them among the splits: the work of ``stages.prepare``.

Rows of a source that is for training alone are cleaned apart, and never change the valid and test splits. The same
holds for a source that is the whole test split: rows like its own leave the other splits, and nothing else moves.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

from checks.config import mixture, splits
from checks.config.data_sources import Part
from checks.config.pipeline_params import Prepare
from checks.data import drafts
from checks.data.drafts import Draft
from checks.data.similar import normalised
from checks.formats.data_reports import RuleCount
from checks.kinds.rule import all_rules, apply_rule
from checks.process.errors import DataRefused
from checks.records.rows import Row, earlier_requests, request
from checks.storage import layout

_EXAMPLES = 5


class Placed(NamedTuple):
    """A draft that is kept, in its split."""

    id: str
    group: str
    draft: Draft

    @property
    def row(self) -> Row:
        """The row that is written: it takes more memory than the draft, so only one is made at a time."""
        return Row(
            id=self.id,
            messages=self.draft.messages,
            reference=self.draft.full_reference,
            group=self.group,
            slice=self.draft.slice,
            source=self.draft.source,
            extra=dict(self.draft.extra),
            origin=self.draft.origin,
            calls=self.draft.calls,
            tools=self.draft.tools,
            document=self.draft.document,
        )


@dataclass(frozen=True)
class Splitting:
    """How rows become splits: the section prepare, and the sources of the rows; none: all are of data.uri."""

    config: Prepare
    parts: Sequence[Part] = ()

    def divide(self, loaded: Sequence[Draft]) -> tuple[dict[str, list[Placed]], list[RuleCount]]:
        """Return the rows of each split, ordered by id, and what each rule did.

        Raises DataRefused if two rows have the same id, or a source has too few for its share.
        """
        apart = {part.split for part in self.parts if part.split}
        kept, counts = self._cleaned(loaded, None)
        placed = self.split(kept)
        gone = list[Draft]()
        if "test" in apart:
            fresh, more = self._cleaned(loaded, "test")
            replaced = [row.draft for row in placed["test"]]
            counts = [*_summed([*counts, *more]), _counted(mixture.REPLACED, "drop", replaced)]
            gone = self._replace_test(placed, fresh)
            kept = [*kept, *fresh]
        if "train" in apart:
            taught, more = self._cleaned(loaded, "train")
            held_out = [row.draft for name in ("valid", "test") for row in placed[name]]
            taught, like_others = drafts.parted(
                taught, mixture.resembling(taught, kept, held_out, self.config.near_duplicates)
            )
            counts, gone = _summed([*counts, *more]), [*gone, *like_others]
            placed["train"] = self._with(placed, taught, "train")
        if apart:
            counts = [*counts, _counted(mixture.RESEMBLES, "drop", gone)]
        shares = {part.origin: part.share for part in self.parts if part.share is not None}
        if shares:
            chosen = [
                mixture.Chosen(row.id, row.draft.origin)
                for row in placed["train"]
                if not row.draft.document
            ]
            beyond = mixture.beyond_shares(chosen, shares, self.config.seed)
            cut = [row.draft for row in placed["train"] if row.id in beyond]
            placed["train"] = [row for row in placed["train"] if row.id not in beyond]
            counts = [*counts, _counted(mixture.SHARE, "drop", cut)]
        return placed, counts

    def _cleaned(
        self, loaded: Sequence[Draft], split: str | None
    ) -> tuple[list[Draft], list[RuleCount]]:
        """Clean the rows of the sources that are for ``split`` alone; None: of those that are for all splits."""
        others = {part.origin for part in self.parts if part.split != split}
        own = replace(self, parts=[part for part in self.parts if part.split == split])
        return own.clean([draft for draft in loaded if draft.origin not in others])

    def _replace_test(self, placed: dict[str, list[Placed]], fresh: Sequence[Draft]) -> list[Draft]:
        """Make ``fresh`` the whole test split. Take rows like these out of train and valid, and return them."""
        placed["test"], gone = [], list[Draft]()
        for name in ("train", "valid"):
            of_split = [row.draft for row in placed[name]]
            goes = mixture.resembling(of_split, fresh, fresh, self.config.near_duplicates)
            gone += drafts.parted(of_split, goes)[1]
            placed[name] = [row for row, out in zip(placed[name], goes, strict=True) if not out]
        placed["test"] = self._with(placed, fresh, "test")
        return gone

    def clean(self, loaded: Sequence[Draft]) -> tuple[list[Draft], list[RuleCount]]:
        """Return the remaining drafts, and what each rule did, in the order in which the rules ran.

        A loader's own rules come first and last: help that it could not read, and rows beyond its parameters' limits.
        They see the rows of its source alone.
        """
        config = self.config
        known = all_rules(config)
        parts = self.parts or (Part("", Path(), config.loader, frozenset(), None, None),)
        order = [
            *((rule, {part.origin}) for part in parts for rule in part.loader.rules_before()),
            *(
                (known[name], {part.origin for part in parts if not part.skips(name)})
                for name in config.rules
            ),
            *(
                (rule, {part.origin})
                for part in parts
                for rule in part.loader.rules_after(config.seed)
            ),
        ]
        kept = list(loaded)
        counts = []
        for rule, origins in order:
            others, those = drafts.parted(kept, [draft.origin in origins for draft in kept])
            those, hit = apply_rule(rule, those)
            kept = [*others, *those]
            counts.append(_counted(rule.name, rule.kind, hit))
        return kept, _summed(counts)

    def split(self, kept: Sequence[Draft]) -> dict[str, list[Placed]]:
        """Return the drafts of each split, ordered by id. Raises DataRefused if two have the same id."""
        config = self.config
        references = [draft.full_reference for draft in kept]
        strata = splits.strata(references, [draft.slice for draft in kept])
        items = self._items(kept, strata)
        group_of = splits.groups(items, config.near_duplicates)
        split_of = splits.assign(
            items, group_of, {"test": config.splits.test, "valid": config.splits.valid}, config.seed
        )
        placed: dict[str, list[Placed]] = {name: [] for name in layout.SPLIT_NAMES}
        for row in _placed(items, kept, group_of):
            placed[split_of[row.id] or "train"].append(row)
        return placed

    def _with(
        self, placed: Mapping[str, Sequence[Placed]], more: Sequence[Draft], split: str
    ) -> list[Placed]:
        """Return the rows of ``split`` together with ``more``, which are for it alone, ordered by id."""
        items = self._items(more, [draft.slice for draft in more])
        taken = {row.id: row.draft.source for of_split in placed.values() for row in of_split}
        for item, draft in zip(items, more, strict=True):
            if item.id in taken:
                raise _same_id(draft, taken[item.id])
        of_rows = [item for item, draft in zip(items, more, strict=True) if not draft.document]
        near = self.config.near_duplicates
        # A document is a group of its own: it is in train whatever it resembles.
        group_of = {item.id: item.id for item in items} | splits.groups(of_rows, near)
        added = _placed(items, more, group_of)
        return sorted([*placed[split], *added], key=lambda row: row.id)

    def _items(self, kept: Sequence[Draft], strata: Sequence[str]) -> list[splits.Item]:
        """Return what the split needs to know of each draft. Raises DataRefused if two have the same id."""
        items = []
        first: dict[str, Draft] = {}
        for draft, stratum in zip(kept, strata, strict=True):
            row_id = draft.id if draft.id is not None else draft.content
            if first.setdefault(row_id, draft) is not draft:
                raise _same_id(draft, first[row_id].source)
            text = request(draft.messages)
            by_id = self.config.placing == 1 or draft.id is not None
            items.append(
                splits.Item(
                    row_id,
                    text,
                    stratum,
                    row_id if by_id else normalised(text),
                    draft.group,
                    earlier_requests(draft.messages),
                )
            )
        return items


def _counted(rule: str, kind: Literal["fix", "drop"], hit: Sequence[Draft]) -> RuleCount:
    return RuleCount(
        rule=rule,
        kind=kind,
        rows=len(hit),
        examples=tuple(draft.source for draft in hit[:_EXAMPLES]),
    )


def _summed(counts: Iterable[RuleCount]) -> list[RuleCount]:
    """One count for each rule: two sources may have loaders with the same rules of their own."""
    totals: dict[str, RuleCount] = {}
    for count in counts:
        if (first := totals.get(count.rule)) is not None:
            count = RuleCount(
                rule=count.rule,
                kind=count.kind,
                rows=first.rows + count.rows,
                examples=(*first.examples, *count.examples)[:_EXAMPLES],
            )
        totals[count.rule] = count
    return list(totals.values())


def _same_id(draft: Draft, other: str) -> DataRefused:
    if draft.id is None:
        return DataRefused(
            f"{draft.source}: same request and reference as {other}",
            "add drop-duplicates to prepare.rules",
        )
    return DataRefused(
        f"{draft.source}: id {draft.id!r} is taken by {other}",
        "name another column of ids, or none: then ids are digests of the rows",
    )


def _placed(
    items: Sequence[splits.Item], kept: Sequence[Draft], group_of: Mapping[str, str]
) -> list[Placed]:
    together = sorted(zip(items, kept, strict=True), key=lambda pair: pair[0].id)
    return [Placed(item.id, group_of[item.id], draft) for item, draft in together]
