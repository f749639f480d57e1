"""validate: checks the splits against a suite of expectations. Nothing is trained on data that fails.

In:  data/splits, reports/prepare.json, models/base (its tokenizer and chat template), ``validate``, ``prepare``
 and ``train.method`` of params.yaml.
Out: reports/data.json (``checks.evidence.DataReport``), Data Docs as HTML in data/data_docs, and, only if every
 expectation held, data/validated.json (``checks.evidence.Seal``).
Run: python -m stages.validate
"""

import json
import shutil
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from checks import digest, drafts, files, layout, near_duplicates, rules, splits, steps
from checks.drafts import Draft, Rule
from checks.errors import DataRefused, EvidenceRefused
from checks.evidence import DataReport, Expectation, PrepareReport, Seal
from checks.loaders import LOADERS
from checks.methods import METHODS
from checks.params import NearDuplicates, Params, Prepare
from checks.preferences import learned
from checks.rows import Row
from stages import entry
from stages.quality import chat_tokens, expectations, labels, preferences
from stages.quality.expectations import ALL, LABELS, Frame

Splits = Mapping[str, Sequence[Row]]
Defects = Mapping[str, Rule]
# Always defects, so that a missing rule is noticed. A loader adds the defects of its own data.
_ALWAYS = ("strip-control-characters", "trim-ends")


def validate(params: Params, root: Path) -> str:
    """Write report, Data Docs and seal. Raises DataRefused, without a seal, if an expectation fails.

    Raises EvidenceRefused if the splits are not the bytes that prepare wrote.
    """
    for path in (layout.SEAL, layout.DATA_REPORT):  # what an earlier run found is about other splits
        (root / path).unlink(missing_ok=True)
    shutil.rmtree(root / layout.DATA_DOCS, ignore_errors=True)
    report = files.read_json(root / layout.PREPARE_REPORT, PrepareReport)
    digests = _as_prepared(root, report)
    rows = {name: files.read_jsonl(_file(root, name), Row) for name in layout.SPLIT_NAMES}
    defects = _defects(params.prepare)
    needed, some = steps.columns(params.training), steps.in_some_rows(params.training)
    count = chat_tokens.counter(root / layout.BASE)
    frames = _frames(rows, report, count, defects, params.prepare.near_duplicates, needed)
    judged = learned(needed)
    frames |= preferences.frames(rows, judged, count, some)
    suites = expectations.suites(params.validate_, params.prepare, report, list(defects), needed, some)
    suites |= preferences.suites(judged, params.validate_.preferences, params.validate_.max_reference_tokens)
    outcomes = expectations.run(suites, frames, root / layout.DATA_DOCS)
    failed = [outcome for outcome in outcomes if not outcome.success]
    counts = {name: len(of_split) for name, of_split in rows.items()}
    files.write_json(
        root / layout.DATA_REPORT,
        DataReport(
            success=not failed,
            splits=digests,
            rows=counts,
            expectations=tuple(outcomes),
            plugins=LOADERS.plugins([params.prepare.loader.kind])
            | rules.RULES.plugins(defects)
            | METHODS.plugins(steps.names(params.training)),
        ),
    )
    if failed:
        todos = {f"{frame}: {words}": each.todo for frame, suite in suites.items() for words, each in suite.items()}
        (first, todo), *others = [(_line(outcome, frames), todos[outcome.name]) for outcome in failed]
        raise DataRefused(
            f"{len(failed)} of {len(outcomes)} expectations failed: {first}",
            f"{todo}; see {layout.DATA_REPORT} and {layout.DATA_DOCS}/index.html",
            tuple(f"{line}; {remedy}" for line, remedy in others),
        )
    files.write_json(root / layout.SEAL, Seal(splits=digests))
    return f"{len(outcomes)} expectations hold on {sum(counts.values()):,} rows"


def _file(root: Path, name: str) -> Path:
    return root / layout.SPLITS / f"{name}.jsonl"


def _as_prepared(root: Path, report: PrepareReport) -> dict[str, str]:
    """The digest of each split; EvidenceRefused names every split that differs from what prepare wrote."""
    found = {name: digest.of_file(_file(root, name)).sha256 for name in layout.SPLIT_NAMES}
    wrong = [
        f"{layout.SPLITS}/{name}.jsonl: is {found.get(name, 'unknown')}, but prepare wrote "
        f"{report.splits[name].sha256 if name in report.splits else 'no such split'}"
        for name in sorted({*found, *report.splits})
        if name not in report.splits or found.get(name) != report.splits[name].sha256
    ]
    held = {f"{name}.jsonl" for name in layout.SPLIT_NAMES}
    wrong += [
        f"{layout.SPLITS}/{path.name}: is not of prepare"
        for path in sorted((root / layout.SPLITS).iterdir())
        if path.name not in held
    ]
    if wrong:
        todo = "change the raw data or prepare.rules, not the splits, and run `./lockstep run prepare`"
        raise EvidenceRefused(wrong[0], todo, tuple(wrong[1:]))
    return found


def _defects(config: Prepare) -> Defects:
    """Rules whose defect a finished row would show: those of prepare.rules, and those that always apply."""
    known = rules.of(config)
    names = dict.fromkeys((*config.rules, *_ALWAYS, *config.loader.defects))
    return {name: known[name] for name in names if known[name].in_rows and known[name].among is None}


def _frames(
    rows: Splits, report: PrepareReport, count: Any, defects: Defects, near: NearDuplicates, needed: Sequence[str]
) -> dict[str, Frame]:
    frames: dict[str, Frame] = {name: _split_frame(name, of_split, count, needed) for name, of_split in rows.items()}
    frames[ALL] = _all_frame(rows, [entry for name in rows for entry in frames[name]], defects, near)
    frames[LABELS] = labels.frame(rows)
    frames["conservation"] = _conservation_frame(rows, report)
    return frames


def _split_frame(name: str, rows: Sequence[Row], count: Any, needed: Sequence[str]) -> Frame:
    frame = []
    for line, (row, tokens) in enumerate(zip(rows, count(rows), strict=True), 1):
        draft = drafts.draft_of(row)
        frame.append(
            {
                "where": f"{layout.SPLITS}/{name}.jsonl:{line}",
                "id": row.id,
                "prompt": row.prompt if row.prompt.strip() else None,
                "reference": row.reference if row.reference.strip() else None,
                "group": row.group,
                "slice": row.slice,
                "source": row.source,
                "roles": " ".join(message.role for message in row.messages),
                "asked": "\n".join(draft.asked),
                "prompt_tokens": tokens.prompt,
                "reference_tokens": tokens.reference,
                **{column: _written(row.extra.get(column)) for column in needed},
            }
        )
    return frame


def _written(value: JsonValue) -> str | None:
    """A further column as text; None if it is empty."""
    text = value if isinstance(value, str) else json.dumps(value)
    return None if value is None or not text.strip() else text


def _all_frame(rows: Splits, entries: Frame, defects: Defects, near: NearDuplicates) -> Frame:
    """One entry for each row of any split; a column is null if there is nothing to object to."""
    together = [(name, row) for name, of_split in rows.items() for row in of_split]
    same: dict[str, int] = {}
    twins: dict[int, int] = {}
    homes: defaultdict[str, set[str]] = defaultdict(set)
    for index, (name, row) in enumerate(together):
        homes[row.group].add(name)
        earlier = same.setdefault(entries[index]["asked"], index)
        if together[earlier][0] != name:
            twins[index] = earlier
    texts = [splits.request(row.messages) for _, row in together]
    roots = near_duplicates.groups(texts, near.shingle, near.similarity)
    close = {index: root for index, root in enumerate(roots) if together[root][0] != together[index][0]}
    frame = []
    for index, (name, row) in enumerate(together):
        draft = drafts.draft_of(row)
        frame.append(
            {
                "where": entries[index]["where"],
                "id": row.id,
                "same_prompt_as": entries[twins[index]]["where"] if index in twins else None,
                "near_duplicate_of": entries[close[index]]["where"] if index in close else None,
                "group_also_in": ", ".join(sorted(homes[row.group] - {name})) or None,
                **{name: _shown(draft) if rule.finds(draft) else None for name, rule in defects.items()},
            }
        )
    return frame


def _conservation_frame(rows: Splits, report: PrepareReport) -> Frame:
    dropped = sum(rule.rows for rule in report.rules if rule.kind == "drop")
    counted = {
        "input rows": (sum(map(len, rows.values())) + dropped, report.input_rows),
        "kept rows": (sum(map(len, rows.values())), report.kept_rows),
        **{f"{name} rows": (len(of_split), report.splits[name].rows) for name, of_split in rows.items()},
        **{
            f"{name} groups": (len({row.group for row in of_split}), report.splits[name].groups)
            for name, of_split in rows.items()
        },
    }
    return [
        {"where": str(layout.PREPARE_REPORT), "id": what, "counted": one, "reported": other}
        for what, (one, other) in counted.items()
    ]


def _shown(draft: Draft) -> str:
    return f"{draft.prompt!r} → {draft.reference!r}"


def _line(outcome: Expectation, frames: Mapping[str, Frame]) -> str:
    """A failed expectation on one line: its name, the observed value, and the rows or labels."""
    if outcome.name.startswith(f"{LABELS}: "):
        said = labels.describe(outcome, frames[LABELS])
        return f"{outcome.name}: {outcome.observed}{': ' if said else ''}{said}"
    shown = []
    for row in outcome.rows:
        values = ", ".join(f"{key} {value!r}"[:120] for key, value in row.items() if key not in ("where", "id"))
        shown.append(f"{row['where']} (id {row['id']}{': ' if values else ''}{values})")
    return f"{outcome.name}: {outcome.observed}{': ' if shown else ''}{', '.join(shown)}"


if __name__ == "__main__":
    # jsonschema would compile a grammar of addresses, which nothing is compared with.
    entry.run("validate", validate, unneeded=("rfc3987_syntax",))
