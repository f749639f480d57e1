"""prepare: turns raw data into train, valid and test splits; named rules fix or drop every defect, and count it.

In: data/raw, ``data``, ``prepare`` and ``train.method`` of params.yaml. Out: data/splits/{train,valid,test}.jsonl
(``checks.records.rows.Row``, ordered by id) and reports/prepare.json (``checks.formats.data_reports.PrepareReport``).
Same raw data, same parameters: same bytes.

    python -m stages.prepare
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from checks.config import data_sources, mixture, splits
from checks.config.data_sources import Part
from checks.config.params import Params
from checks.config.params import Prepare as Config
from checks.data import drafts
from checks.data.drafts import Draft
from checks.data.similar import normalised
from checks.formats.data_reports import MAIN_SOURCE, PrepareReport, RuleCount, SourceRows, Split
from checks.kinds.loader import LOADERS
from checks.kinds.method import METHODS
from checks.kinds.rule import RULES, all_rules, apply_rule, rows_dropped
from checks.process import imports
from checks.process.errors import DataRefused
from checks.records.rows import Row, earlier_requests, request
from checks.storage import digest, files, layout
from checks.training import steps
from stages import entry
from stages.quality import contract

_EXAMPLES = 5


@imports.uncollected()
def prepare(params: Params, root: Path) -> str:
    """Write the splits and the report.

    Raises DataRefused if rows cannot be read or break their contract, a split or a source is empty, train.method needs
    a column that the loader does not give or does not learn calls that rows have, or a source has too few rows for its
    share. Raises SourceRefused if a contract is not the pinned file.
    """
    config = params.prepare
    raw = root / layout.RAW
    tree = digest.of_tree(raw)
    parts = data_sources.parts(params.data, config.loader)
    contracts_held = contract.hold(parts, root)
    loaded = [draft for part in parts for draft in mixture.load(part, raw)]
    _refuse_without_columns(params, loaded)
    _refuse_calls(params, loaded)
    placed, counts = mixed(config, loaded, parts)
    kept = sum(map(len, placed.values()))
    empty = [name for name in layout.SPLIT_NAMES if not placed[name]]
    if empty:
        raise DataRefused(
            f"{layout.SPLITS}: {' and '.join(empty)} would be empty: {len(loaded):,} rows in, {kept:,} kept, "
            f"{len({row.group for rows in placed.values() for row in rows}):,} groups ({rows_dropped(counts)})",
            "add data, drop less in prepare.rules, or raise prepare.splits or prepare.near_duplicates.similarity",
        )
    of_sources = _of_sources(parts, loaded, placed)
    read = {name: rows.read for name, rows in of_sources.items()}
    lost = list(
        mixture.lost(
            parts, read, {name: sum(rows.splits.values()) for name, rows in of_sources.items()}
        )
    )
    if lost:
        (what, todo), *others = lost
        raise DataRefused(
            f"{what} ({rows_dropped(counts)})", todo, tuple(f"{one}; {two}" for one, two in others)
        )
    written = {
        name: _write(root / layout.SPLITS / f"{name}.jsonl", placed[name])
        for name in layout.SPLIT_NAMES
    }
    report = PrepareReport(
        raw=tree.digest,
        input_rows=len(loaded),
        kept_rows=kept,
        dropped_rows=len(loaded) - kept,
        rules=tuple(counts),
        splits=written,
        sources=of_sources,
        contracts=contracts_held,
        plugins=LOADERS.plugins([part.loader.kind for part in parts])
        | RULES.plugins(config.rules)
        | METHODS.plugins(steps.names(params.training)),
    )
    files.write_json(root / layout.PREPARE_REPORT, report)
    shares = ", ".join(f"{name} {one.rows:,}" for name, one in written.items())
    return f"{report.input_rows:,} rows in, {report.kept_rows:,} kept ({shares}), {rows_dropped(counts)}"


def mixed(
    config: Config, loaded: Sequence[Draft], parts: Sequence[Part]
) -> tuple[dict[str, "list[Placed]"], list[RuleCount]]:
    """The drafts of each split, ordered by id, and what each rule did. Raises DataRefused as ``prepare``."""
    only_train = {part.origin for part in parts if part.only_train}
    kept, counts = clean(
        config, [draft for draft in loaded if draft.origin not in only_train],
        [part for part in parts if not part.only_train],
    )  # fmt: skip
    placed = split(config, kept)
    if only_train:
        taught = [draft for draft in loaded if draft.origin in only_train]
        taught, more = clean(config, taught, [part for part in parts if part.only_train])
        held_out = [row.draft for name in ("valid", "test") for row in placed[name]]
        goes = mixture.resembling(taught, kept, held_out, config.near_duplicates)
        taught, gone = drafts.parted(taught, goes)
        counts = [*_summed([*counts, *more]), _counted(mixture.RESEMBLES, "drop", gone)]
        placed["train"] = _taught(config, taught, placed)
    if shares := {part.origin: part.share for part in parts if part.share is not None}:
        chosen = [
            mixture.Chosen(row.id, row.draft.origin)
            for row in placed["train"]
            if not row.draft.document
        ]
        beyond = mixture.beyond_shares(chosen, shares, config.seed)
        gone = [row.draft for row in placed["train"] if row.id in beyond]
        placed["train"] = [row for row in placed["train"] if row.id not in beyond]
        counts = [*counts, _counted(mixture.SHARE, "drop", gone)]
    return placed, counts


def clean(
    config: Config, loaded: Sequence[Draft], parts: Sequence[Part] = ()
) -> tuple[list[Draft], list[RuleCount]]:
    """The remaining drafts, and what each rule did, in the order in which the rules ran.

    A loader's own rules come first and last: help that it could not read, and rows beyond its parameters' limits. They
    see the rows of its source alone. ``parts``: the sources of the drafts; none: all are of data.uri.
    """
    known = all_rules(config)
    parts = parts or (Part("", Path(), config.loader, frozenset(), False, None),)
    order = [
        *((rule, {part.origin}) for part in parts for rule in part.loader.rules_before()),
        *(
            (known[name], {part.origin for part in parts if name not in part.skips})
            for name in config.rules
        ),
        *((rule, {part.origin}) for part in parts for rule in part.loader.rules_after(config.seed)),
    ]
    kept, counts = list(loaded), []
    for rule, origins in order:
        others, those = drafts.parted(kept, [draft.origin in origins for draft in kept])
        those, hit = apply_rule(rule, those)
        kept = [*others, *those]
        counts.append(_counted(rule.name, rule.kind, hit))
    return kept, _summed(counts)


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
            examples = (*first.examples, *count.examples)[:_EXAMPLES]
            count = RuleCount(
                rule=count.rule, kind=count.kind, rows=first.rows + count.rows, examples=examples
            )
        totals[count.rule] = count
    return list(totals.values())


def _of_sources(
    parts: Sequence[Part], loaded: Sequence[Draft], placed: Mapping[str, Sequence["Placed"]]
) -> dict[str, SourceRows]:
    """The rows of each source; empty if there is one."""
    if len(parts) == 1:
        return {}
    read = Counter(draft.origin for draft in loaded)
    kept = {
        name: Counter(row.draft.origin for row in of_split) for name, of_split in placed.items()
    }
    return {
        part.origin or MAIN_SOURCE: SourceRows(
            read=read[part.origin],
            splits={name: counted[part.origin] for name, counted in kept.items()},
        )
        for part in parts
    }


def _refuse_without_columns(params: Params, loaded: Sequence[Draft]) -> None:
    """Refuse a column that train.method needs and no row has; validate finds single rows without it."""
    needed = steps.columns(params.training)
    absent = [
        name for name in needed if loaded and not any(name in draft.extra for draft in loaded)
    ]
    if absent:
        raise DataRefused(
            f"prepare.loader: gives no column {' or '.join(map(repr, absent))}, which train.method "
            f"{steps.named(params.training)} needs",
            "name it in prepare.loader.columns.extra, use a loader that gives it, or another train.method",
        )


def _refuse_calls(params: Params, loaded: Sequence[Draft]) -> None:
    """Refuse rows with tools where a step of the training does not learn them."""
    unable = [
        step.method
        for step in steps.of(params.training)
        if not (step.learns_calls or step.of_documents)
    ]
    first = next((draft for draft in loaded if draft.has_calls), None) if unable else None
    if first is not None:
        raise DataRefused(
            f"{first.source}: has tools or tool calls, which train.method {unable[0]!r} does not learn",
            "use sft, dpo or kto, or take such rows out of the data source",
        )


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


def split(config: Config, kept: Sequence[Draft]) -> dict[str, list[Placed]]:
    """The drafts of each split, ordered by id. Raises DataRefused if two have the same id."""
    strata = splits.strata(
        [draft.full_reference for draft in kept], [draft.slice for draft in kept]
    )
    items = _items(config, kept, strata)
    group_of = splits.groups(items, config.near_duplicates)
    shares = {"test": config.splits.test, "valid": config.splits.valid}
    place = splits.assign(items, group_of, shares, config.seed)
    placed: dict[str, list[Placed]] = {name: [] for name in layout.SPLIT_NAMES}
    for row in _placed(items, kept, group_of):
        placed[place[row.id] or "train"].append(row)
    return placed


def _taught(
    config: Config, rows: Sequence[Draft], others: Mapping[str, Sequence[Placed]]
) -> list[Placed]:
    """The train rows together with ``rows``, which are for training alone, ordered by id."""
    items = _items(config, rows, [draft.slice for draft in rows])
    taken = {row.id: row.draft.source for of_split in others.values() for row in of_split}
    for item, draft in zip(items, rows, strict=True):
        if item.id in taken:
            raise _same_id(draft, taken[item.id])
    of_rows = [item for item, draft in zip(items, rows, strict=True) if not draft.document]
    group_of = {item.id: item.id for item in items} | splits.groups(of_rows, config.near_duplicates)
    # A document is a group of its own, so it is in train whatever it resembles.
    added = _placed(items, rows, group_of)
    return sorted([*others["train"], *added], key=lambda each: each.id)


def _items(config: Config, kept: Sequence[Draft], strata: Sequence[str]) -> list[splits.Item]:
    """Return what the split needs to know of each draft. Raises DataRefused if two have the same id."""
    ids = [draft.id if draft.id is not None else draft.content for draft in kept]
    first: dict[str, Draft] = {}
    for row_id, draft in zip(ids, kept, strict=True):
        if first.setdefault(row_id, draft) is not draft:
            raise _same_id(draft, first[row_id].source)
    items = []
    for row_id, draft, stratum in zip(ids, kept, strata, strict=True):
        text = request(draft.messages)
        key = row_id if config.placing == 1 or draft.id is not None else normalised(text)
        items.append(
            splits.Item(row_id, text, stratum, key, draft.group, earlier_requests(draft.messages))
        )
    return items


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


def _write(path: Path, placed: Sequence[Placed]) -> Split:
    files.write_jsonl(path, (row.row for row in placed))
    return Split(
        rows=len(placed),
        groups=len({row.group for row in placed}),
        sha256=digest.of_file(path).sha256,
    )


if __name__ == "__main__":
    entry.run("prepare", prepare)
