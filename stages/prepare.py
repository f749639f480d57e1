"""Raw data to train, valid and test splits: every defect is mended or dropped by a named rule, and counted.

In: data/raw, ``prepare`` of params.yaml. Out: data/splits/{train,valid,test}.jsonl (``checks.rows.Row``, ordered by
id) and reports/prepare.json (``checks.evidence.PrepareReport``). Same raw data, same parameters: same bytes.

    python -m stages.prepare
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

from checks import digest, files, layout, rules, splits
from checks.errors import DataRefused
from checks.evidence import PrepareReport, RuleCount, Split
from checks.params import AzureCli, Params
from checks.params import Prepare as Config
from checks.rows import Row
from checks.rules import Draft
from stages import entry
from stages.loaders import azure_cli, table

_EXAMPLES = 5


def prepare(params: Params, root: Path) -> str:
    """Write the splits and the report; raise DataRefused for rows that cannot be read and for an empty split."""
    config = params.prepare
    raw = root / layout.RAW
    tree = digest.of_tree(raw)
    loader = config.loader
    drafts = azure_cli.load(loader, raw) if isinstance(loader, AzureCli) else table.load(loader, raw)
    kept, counts = clean(config, drafts)
    placed = split(config, kept)
    empty = [name for name in layout.SPLIT_NAMES if not placed[name]]
    if empty:
        raise DataRefused(
            f"{layout.SPLITS}: {' and '.join(empty)} would be empty: {len(drafts):,} rows in, {len(kept):,} kept, "
            f"{len({row.group for rows in placed.values() for row in rows}):,} groups ({rules.dropped(counts)})",
            "add data, drop less in prepare.rules, or raise prepare.splits or prepare.near_duplicates.similarity",
        )
    written = {name: _write(root / layout.SPLITS / f"{name}.jsonl", placed[name]) for name in layout.SPLIT_NAMES}
    report = PrepareReport(
        raw=tree.digest,
        input_rows=len(drafts),
        kept_rows=len(kept),
        dropped_rows=len(drafts) - len(kept),
        rules=tuple(counts),
        splits=written,
    )
    files.write_json(root / layout.PREPARE_REPORT, report)
    shares = ", ".join(f"{name} {one.rows:,}" for name, one in written.items())
    return f"{report.input_rows:,} rows in, {report.kept_rows:,} kept ({shares}), {rules.dropped(counts)}"


def clean(config: Config, drafts: Sequence[Draft]) -> tuple[list[Draft], list[RuleCount]]:
    """(Drafts that stay, what each rule did), the rules in the order in which they were applied.

    A loader has rules of its own: what it could not read goes first, and what its parameters do not ask for, last.
    """
    loader, known = config.loader, rules.of(config)
    kept, counts = list(drafts), []

    def drop(rule: str, goes: Callable[[Draft], bool]) -> None:
        nonlocal kept
        gone = [draft for draft in kept if goes(draft)]
        kept = [draft for draft in kept if not goes(draft)]
        counts.append(_count(rule, "drop", gone))

    if isinstance(loader, AzureCli):
        drop("drop-unreadable-help", lambda draft: draft.unreadable is not None)
    for name in config.rules:
        kept, hit = rules.apply(known[name], kept)
        counts.append(_count(name, known[name].kind, hit))
    if isinstance(loader, AzureCli):
        common = _commonest(kept, loader.services)
        drop("keep-commonest-services", lambda draft: draft.service not in common)
        capped = _beyond(kept, loader.rows_per_service, config.seed)
        drop("cap-rows-per-service", lambda draft: id(draft) in capped)
    return kept, counts


def _count(rule: str, kind: str, hit: Sequence[Draft]) -> RuleCount:
    return RuleCount.model_validate(
        {"rule": rule, "kind": kind, "rows": len(hit), "examples": tuple(draft.source for draft in hit[:_EXAMPLES])}
    )


def _commonest(drafts: Sequence[Draft], services: int) -> set[str]:
    """Services by their rows, most first, then by name; a draft without one has none."""
    counted = Counter(draft.service for draft in drafts if draft.service)
    return set(sorted(counted, key=lambda service: (-counted[service], service))[:services])


def _beyond(drafts: Sequence[Draft], rows_per_service: int, seed: int) -> set[int]:
    """``id()`` of the drafts beyond the cap: content and seed decide, so that a new row displaces one at most."""
    by_service: defaultdict[str, list[tuple[str, str, int]]] = defaultdict(list)
    for draft in drafts:
        rank = hashlib.sha256(f"{seed}:{draft.content}".encode()).hexdigest()
        by_service[draft.service].append((rank, draft.source, id(draft)))
    return {key for ranked in by_service.values() for _, _, key in sorted(ranked)[rows_per_service:]}


def split(config: Config, drafts: Sequence[Draft]) -> dict[str, list[Row]]:
    """The rows of each split, ordered by id. Raises DataRefused when two rows have one id."""
    ids = [draft.id if draft.id is not None else draft.content for draft in drafts]
    first: dict[str, Draft] = {}
    for row_id, draft in zip(ids, drafts, strict=True):
        if first.setdefault(row_id, draft) is not draft:
            raise DataRefused(
                f"{draft.source}: same request and reference as {first[row_id].source}",
                "add drop-duplicates to prepare.rules",
            )
    strata = splits.strata([draft.reference for draft in drafts], [draft.slice for draft in drafts])
    items = [
        splits.Item(row_id, splits.request(draft.messages), stratum, draft.group)
        for row_id, draft, stratum in zip(ids, drafts, strata, strict=True)
    ]
    group_of = splits.groups(items, config.near_duplicates)
    shares = {"test": config.splits.test, "valid": config.splits.valid}
    place = splits.assign(items, group_of, shares, config.seed)
    placed: dict[str, list[Row]] = {name: [] for name in layout.SPLIT_NAMES}
    for row_id, draft in sorted(zip(ids, drafts, strict=True), key=lambda pair: pair[0]):
        row = Row(
            id=row_id,
            messages=draft.messages,
            reference=draft.reference,
            group=group_of[row_id],
            slice=draft.slice,
            source=draft.source,
        )
        placed[place[row_id] or "train"].append(row)
    return placed


def _write(path: Path, rows: Sequence[Row]) -> Split:
    files.write_jsonl(path, rows)
    return Split(rows=len(rows), groups=len({row.group for row in rows}), sha256=digest.of_file(path).sha256)


if __name__ == "__main__":
    entry.run("prepare", prepare)
