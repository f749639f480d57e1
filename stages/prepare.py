"""prepare: turns raw data into train, valid and test splits; named rules fix or drop every defect, and count it.

In: data/raw, ``data``, ``prepare`` and ``train.method`` of params.yaml. Out: data/splits/{train,valid,test}.jsonl
(``checks.records.rows.Row``, ordered by id) and reports/prepare.json (``checks.formats.data_reports.PrepareReport``).
Same raw data, same parameters: same bytes.

    python -m stages.prepare
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from checks.config import data_sources, mixture
from checks.config.data_sources import Part
from checks.config.params import Params
from checks.data.drafts import Draft
from checks.formats.data_reports import MAIN_SOURCE, PrepareReport, SourceRows, Split
from checks.kinds.loader import LOADERS
from checks.kinds.method import METHODS
from checks.kinds.rule import RULES, rows_dropped
from checks.process.errors import DataRefused
from checks.storage import digest, files, layout
from checks.training import steps
from stages import entry
from stages.quality import contract
from stages.splitting import Placed, Splitting


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
    placed, counts = Splitting(config, parts).divide(loaded)
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


def _of_sources(
    parts: Sequence[Part], loaded: Sequence[Draft], placed: Mapping[str, Sequence[Placed]]
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


def _write(path: Path, placed: Sequence[Placed]) -> Split:
    files.write_jsonl(path, (row.row for row in placed))
    return Split(
        rows=len(placed),
        groups=len({row.group for row in placed}),
        sha256=digest.of_file(path).sha256,
    )


if __name__ == "__main__":
    entry.run("prepare", prepare)
