"""prepare: turns raw data into train, valid and test splits; named rules fix or drop every defect, and count it.

In: data/raw, ``prepare`` and ``train.method`` of params.yaml. Out: data/splits/{train,valid,test}.jsonl
(``checks.rows.Row``, ordered by id) and reports/prepare.json (``checks.evidence.PrepareReport``). Same raw data, same
parameters: same bytes.

    python -m stages.prepare
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from checks import digest, drafts, files, layout, rules, splits, steps
from checks.drafts import Draft
from checks.errors import DataRefused
from checks.evidence import PrepareReport, RuleCount, Split
from checks.loaders import LOADERS
from checks.methods import METHODS
from checks.params import Params
from checks.params import Prepare as Config
from checks.rows import Row, request
from stages import entry

_EXAMPLES = 5


def prepare(params: Params, root: Path) -> str:
    """Write the splits and the report.

    Raises DataRefused if rows cannot be read, a split is empty, or train.method needs a column that the loader does not
    give.
    """
    config = params.prepare
    raw = root / layout.RAW
    tree = digest.of_tree(raw)
    loaded = config.loader.load(raw)
    _refuse_without_columns(params, loaded)
    kept, counts = clean(config, loaded)
    placed = split(config, kept)
    empty = [name for name in layout.SPLIT_NAMES if not placed[name]]
    if empty:
        raise DataRefused(
            f"{layout.SPLITS}: {' and '.join(empty)} would be empty: {len(loaded):,} rows in, {len(kept):,} kept, "
            f"{len({each.group for rows in placed.values() for each in rows}):,} groups ({rules.dropped(counts)})",
            "add data, drop less in prepare.rules, or raise prepare.splits or prepare.near_duplicates.similarity",
        )
    written = {name: _write(root / layout.SPLITS / f"{name}.jsonl", placed[name]) for name in layout.SPLIT_NAMES}
    report = PrepareReport(
        raw=tree.digest,
        input_rows=len(loaded),
        kept_rows=len(kept),
        dropped_rows=len(loaded) - len(kept),
        rules=tuple(counts),
        splits=written,
        plugins=LOADERS.plugins([config.loader.kind])
        | rules.RULES.plugins(config.rules)
        | METHODS.plugins(steps.names(params.training)),
    )
    files.write_json(root / layout.PREPARE_REPORT, report)
    shares = ", ".join(f"{name} {one.rows:,}" for name, one in written.items())
    return f"{report.input_rows:,} rows in, {report.kept_rows:,} kept ({shares}), {rules.dropped(counts)}"


def clean(config: Config, loaded: Sequence[Draft]) -> tuple[list[Draft], list[RuleCount]]:
    """The remaining drafts, and what each rule did, in the order in which the rules ran.

    A loader's own rules come first and last: help that it could not read, and rows beyond its parameters' limits.
    """
    known = rules.of(config)
    kept, counts = list(loaded), []
    for rule in (
        *config.loader.rules_before(), *(known[name] for name in config.rules), *config.loader.rules_after(config.seed),
    ):  # fmt: skip
        kept, hit = drafts.apply(rule, kept)
        examples = tuple(draft.source for draft in hit[:_EXAMPLES])
        counts.append(RuleCount(rule=rule.name, kind=rule.kind, rows=len(hit), examples=examples))
    return kept, counts


def _refuse_without_columns(params: Params, loaded: Sequence[Draft]) -> None:
    """Refuse a column that train.method needs and no row has; validate finds single rows without it."""
    needed = steps.columns(params.training)
    absent = [name for name in needed if loaded and not any(name in draft.extra for draft in loaded)]
    if absent:
        raise DataRefused(
            f"prepare.loader: gives no column {' or '.join(map(repr, absent))}, which train.method "
            f"{steps.named(params.training)} needs",
            "name it in prepare.loader.columns.extra, use a loader that gives it, or another train.method",
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
            reference=self.draft.reference,
            group=self.group,
            slice=self.draft.slice,
            source=self.draft.source,
            extra=dict(self.draft.extra),
        )


def split(config: Config, kept: Sequence[Draft]) -> dict[str, list[Placed]]:
    """The drafts of each split, ordered by id. Raises DataRefused if two have the same id."""
    ids = [draft.id if draft.id is not None else draft.content for draft in kept]
    first: dict[str, Draft] = {}
    for row_id, draft in zip(ids, kept, strict=True):
        if first.setdefault(row_id, draft) is not draft:
            raise DataRefused(
                f"{draft.source}: same request and reference as {first[row_id].source}",
                "add drop-duplicates to prepare.rules",
            )
    strata = splits.strata([draft.reference for draft in kept], [draft.slice for draft in kept])
    items = [
        splits.Item(row_id, request(draft.messages), stratum, draft.group)
        for row_id, draft, stratum in zip(ids, kept, strata, strict=True)
    ]
    group_of = splits.groups(items, config.near_duplicates)
    shares = {"test": config.splits.test, "valid": config.splits.valid}
    place = splits.assign(items, group_of, shares, config.seed)
    placed: dict[str, list[Placed]] = {name: [] for name in layout.SPLIT_NAMES}
    for row_id, draft in sorted(zip(ids, kept, strict=True), key=lambda pair: pair[0]):
        placed[place[row_id] or "train"].append(Placed(row_id, group_of[row_id], draft))
    return placed


def _write(path: Path, placed: Sequence[Placed]) -> Split:
    files.write_jsonl(path, (each.row for each in placed))
    return Split(rows=len(placed), groups=len({each.group for each in placed}), sha256=digest.of_file(path).sha256)


if __name__ == "__main__":
    entry.run("prepare", prepare)
