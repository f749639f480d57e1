"""Applies the rules of prepare to more rows than one machine holds: first file by file, then request by request.

Two passes of independent tasks, which any engine can run (``stages.tools.reduce``):

1. ``read``: one raw file each. Loads it, applies the rules before the first that compares rows, and puts each row into
   one of PARTS by a hash of its request.
2. ``compare``: one part each. Applies the following rules, as long as they look at one row or at rows of one request
   (``Rule.within_request``), and writes the part.

A part's bytes depend on the raw files, the parameters and the rules, not on the engine or the number of workers. A task
holds the rows of one raw file, or of one part, in memory. All workers see all folders at the same paths.
"""

import glob
import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from checks.config.params import Params
from checks.config.pipeline_params import Prepare
from checks.data.drafts import Draft
from checks.formats.data_reports import RuleCount
from checks.kinds.rule import all_rules, apply_rule
from checks.process.errors import DataRefused
from checks.records.record import Digest
from checks.records.rows import Message, Record
from checks.storage import digest, files
from checks.storage.digest import FileDigest
from stages.loaders.table import Columns, Table

PARTS = 64
_NAMED = ("id", "slice", "group", "tools")
_SOURCE = "source"  # It is that of the raw row. prepare names the place in the part instead.


class Manifest(Record):
    """manifest.json beside the parts. ``raw``: digest of the raw files' manifest; ``left``: rules left to prepare."""

    schema_version: Literal[1] = 1
    raw: Digest
    input_rows: int
    kept_rows: int
    rules: tuple[RuleCount, ...]
    left: tuple[str, ...]


@dataclass(frozen=True)
class Job:
    """The input that all tasks share.

    ``work`` has the rows between the passes; ``loader`` reads them and the parts, so it is the next run's
    ``prepare.loader``; ``alone``, ``together`` and ``left`` name the rules of the passes and those left to prepare.
    """

    config: Prepare
    raw_loader: Table
    loader: Table
    raw: Path
    work: Path
    out: Path
    alone: tuple[str, ...]
    together: tuple[str, ...]
    left: tuple[str, ...]


class Done(NamedTuple):
    """The result of a task: rows read and kept, and how many each rule fixed or dropped. ``raw``: the file read."""

    read: int
    kept: int
    counts: tuple[int, ...]
    raw: tuple[str, FileDigest] | None = None


def job(params: Params, raw: Path, work: Path, out: Path) -> Job:
    """Assign each rule of prepare.rules to a pass, or leave it to prepare. Raises DataRefused for another loader.

    With several sources, rules that compare rows are left: prepare compares the rows of all sources.
    """
    config = params.prepare
    if not isinstance(config.loader, Table):
        raise DataRefused(
            f"prepare.loader: {config.loader.kind} does not read files one by one",
            "use kind: table",
        )
    known, names = all_rules(config), config.rules
    first = next((place for place, name in enumerate(names) if known[name].among), len(names))
    last = first
    if not params.data.sources:
        while last < len(names) and (known[names[last]].drop or known[names[last]].within_request):
            last += 1
    columns = config.loader.columns
    named = {name: name for name in _NAMED if getattr(columns, name) is not None}
    extra = {name: f"extra.{name}" for name in columns.extra} if columns.extra else None
    loader = Table(
        kind="table", files="*.jsonl", columns=Columns(messages="messages", extra=extra, **named)
    )
    return Job(
        config,
        config.loader,
        loader,
        raw,
        work,
        out,
        tuple(names[:first]),
        tuple(names[first:last]),
        tuple(names[last:]),
    )


def read(job: Job, task: tuple[int, str]) -> Done:
    """The first pass over a raw file: its number, and its path below ``job.raw``. Raises DataRefused."""
    number, name = task
    actual = digest.of_file(job.raw / name)
    loaded = job.raw_loader.model_copy(update={"files": glob.escape(name)}).load(job.raw)
    kept, counts = _applied(job, job.alone, loaded)
    parts: defaultdict[int, list[str]] = defaultdict(list)
    for draft in kept:
        # Rows that a rule of the second pass compares ask the same, and have the same part.
        asked = hashlib.sha256(json.dumps(draft.asked).encode()).digest()
        parts[int.from_bytes(asked[:8]) % PARTS].append(_line(job, draft))
    for part, lines in parts.items():
        path = job.work / str(part) / f"{number:06d}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        # An engine may run a task twice, even at once.
        unfinished = path.with_suffix(f".{os.getpid()}")
        unfinished.write_text("".join(lines), encoding="utf-8", newline="\n")
        unfinished.replace(path)
    return Done(len(loaded), len(kept), counts, (name, actual))


def compare(job: Job, part: int) -> Done:
    """The second pass over a part, which is written unless no row is left.

    Raises DataRefused if a rule would change a row again: prepare, which applies all rules, would then give other rows.
    """
    if not (folder := job.work / str(part)).is_dir():
        return Done(0, 0, (0,) * len(job.together))
    columns = job.loader.columns.model_copy(
        update={"extra": {**(job.loader.columns.extra or {}), _SOURCE: _SOURCE}}
    )
    loaded = [
        _traced(draft) for draft in job.loader.model_copy(update={"columns": columns}).load(folder)
    ]
    known = all_rules(job.config)
    for name in job.alone:
        if again := next((draft for draft in loaded if known[name].finds(draft)), None):
            raise DataRefused(
                f"{again.source}: {name} finds something in the row after all rules have run",
                "name the rules in an order in which none undoes another, or prepare the raw rows",
            )
    kept, counts = _applied(job, job.together, loaded)
    if kept:
        files.write_text(
            job.out / f"part-{part:02d}.jsonl", "".join(_line(job, draft) for draft in kept)
        )
    return Done(len(loaded), len(kept), counts)


def manifest(job: Job, first: Sequence[Done], second: Sequence[Done]) -> Manifest:
    """Return what both passes did."""
    known = all_rules(job.config)
    counted = [
        (name, sum(counts))
        for names, done in ((job.alone, first), (job.together, second))
        for name, counts in zip(
            names, zip(*(part.counts for part in done), strict=True), strict=True
        )
    ]
    return Manifest(
        raw=digest.of_manifest(dict(part.raw for part in first if part.raw)),
        input_rows=sum(part.read for part in first),
        kept_rows=sum(part.kept for part in second),
        rules=tuple(
            RuleCount(rule=name, kind=known[name].kind, rows=rows, examples=())
            for name, rows in counted
        ),
        left=job.left,
    )


def _applied(
    job: Job, names: Sequence[str], loaded: list[Draft]
) -> tuple[list[Draft], tuple[int, ...]]:
    known, counts = all_rules(job.config), []
    for name in names:
        loaded, hit = apply_rule(known[name], loaded)
        counts.append(len(hit))
    return loaded, tuple(counts)


def _line(job: Job, draft: Draft) -> str:
    """A row as ``job.loader`` reads it. Keys in cells keep their order: calls are learned as they are written."""
    answer = Message(role="assistant", content=draft.reference, tool_calls=draft.calls)
    turns = [turn.model_dump() for turn in (*draft.messages, answer)]
    row: dict[str, Any] = {
        name: getattr(draft, name) for name in _NAMED if getattr(job.loader.columns, name)
    }
    row |= {
        "messages": turns,
        _SOURCE: draft.source,
        **{f"extra.{name}": value for name, value in draft.extra.items()},
    }
    return json.dumps(dict(sorted(row.items())), separators=(",", ":"), ensure_ascii=False) + "\n"


def _traced(draft: Draft) -> Draft:
    """A draft of a part with the source of its raw row."""
    extra = {name: value for name, value in draft.extra.items() if name != _SOURCE}
    return replace(draft, source=str(draft.extra[_SOURCE]), extra=extra)
