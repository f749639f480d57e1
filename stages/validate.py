"""The splits held to a suite of expectations: nothing is trained on bad data.

In: data/splits, reports/prepare.json, models/base (its tokenizer and chat template), ``validate`` and
``prepare.rules`` of params.yaml. Out: reports/data.json (``checks.evidence.DataReport``), Data Docs as HTML in
data/data_docs, and, only when every expectation held, data/validated.json (``checks.evidence.Seal``).

    python -m stages.validate
"""

import shutil
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from checks import digest, files, layout, rules, similar, splits
from checks.errors import DataRefused, EvidenceRefused
from checks.evidence import DataReport, Expectation, PrepareReport, Seal
from checks.params import NearDuplicates, Params, RuleName
from checks.rows import Row
from stages import chat_tokens, entry, expectations
from stages.expectations import ALL, Frame

Splits = Mapping[str, Sequence[Row]]
_ALWAYS: tuple[RuleName, ...] = ("strip-control-characters", "trim-ends")  # defects under any prepare.rules


def validate(params: Params, root: Path) -> str:
    """Write report, Data Docs and seal. Raises DataRefused when an expectation fails: then there is no seal.

    Raises EvidenceRefused when the splits are not the bytes that prepare wrote.
    """
    for path in (layout.SEAL, layout.DATA_REPORT):  # what an earlier run found is about other splits
        (root / path).unlink(missing_ok=True)
    shutil.rmtree(root / layout.DATA_DOCS, ignore_errors=True)
    report = files.read_json(root / layout.PREPARE_REPORT, PrepareReport)
    digests = _as_prepared(root, report)
    rows = {name: files.read_jsonl(_file(root, name), Row) for name in layout.SPLIT_NAMES}
    defects = _defects(params.prepare.rules)
    frames = _frames(rows, report, chat_tokens.counter(root / layout.BASE), defects, params.prepare.near_duplicates)
    outcomes = expectations.run(expectations.suites(params.validate_, report, defects), frames, root / layout.DATA_DOCS)
    failed = [outcome for outcome in outcomes if not outcome.success]
    counts = {name: len(of_split) for name, of_split in rows.items()}
    files.write_json(
        root / layout.DATA_REPORT,
        DataReport(success=not failed, splits=digests, rows=counts, expectations=tuple(outcomes)),
    )
    if failed:
        first, *others = [_line(outcome) for outcome in failed]
        raise DataRefused(
            f"{len(failed)} of {len(outcomes)} expectations failed: {first}",
            f"mend the data, or add a rule to prepare.rules that does; see {layout.DATA_REPORT} and "
            f"{layout.DATA_DOCS}/index.html",
            tuple(others),
        )
    files.write_json(root / layout.SEAL, Seal(splits=digests))
    return f"{len(outcomes)} expectations hold on {sum(counts.values()):,} rows"


def _file(root: Path, name: str) -> Path:
    return root / layout.SPLITS / f"{name}.jsonl"


def _as_prepared(root: Path, report: PrepareReport) -> dict[str, str]:
    """Digest of each split; EvidenceRefused names every one that is not as prepare wrote it."""
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
        todo = "change the raw data or prepare.rules, not the splits, and run `dvc repro prepare`"
        raise EvidenceRefused(wrong[0], todo, tuple(wrong[1:]))
    return found


def _defects(listed: Sequence[RuleName]) -> list[RuleName]:
    """Rules whose defect a finished row would show: those of prepare.rules, and what is a defect anywhere."""
    names = dict.fromkeys((*listed, *_ALWAYS))
    return [name for name in names if rules.RULES[name].in_rows and rules.RULES[name].among is None]


def _frames(
    rows: Splits, report: PrepareReport, count: Any, defects: Sequence[RuleName], near: NearDuplicates
) -> dict[str, Frame]:
    frames: dict[str, Frame] = {name: _split_frame(name, of_split, count) for name, of_split in rows.items()}
    frames[ALL] = _all_frame(rows, [entry for name in rows for entry in frames[name]], defects, near)
    frames["labels"] = _label_frame(rows)
    frames["conservation"] = _conservation_frame(rows, report)
    return frames


def _split_frame(name: str, rows: Sequence[Row], count: Any) -> Frame:
    frame = []
    for line, (row, tokens) in enumerate(zip(rows, count(rows), strict=True), 1):
        draft = rules.draft_of(row)
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
            }
        )
    return frame


def _all_frame(rows: Splits, entries: Frame, defects: Sequence[RuleName], near: NearDuplicates) -> Frame:
    """One entry per row of any split; a column is null where there is nothing to object to."""
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
    roots = similar.components(len(texts), similar.similar_pairs(texts, near.shingle, near.similarity))
    close = {index: root for index, root in enumerate(roots) if together[root][0] != together[index][0]}
    frame = []
    for index, (name, row) in enumerate(together):
        draft = rules.draft_of(row)
        frame.append(
            {
                "where": entries[index]["where"],
                "id": row.id,
                "same_prompt_as": entries[twins[index]]["where"] if index in twins else None,
                "near_duplicate_of": entries[close[index]]["where"] if index in close else None,
                "group_also_in": ", ".join(sorted(homes[row.group] - {name})) or None,
                **{str(rule): _shown(draft) if rules.RULES[rule].finds(draft) else None for rule in defects},
            }
        )
    return frame


def _label_frame(rows: Splits) -> Frame:
    counts = {name: Counter(row.reference for row in of_split) for name, of_split in rows.items()}
    return [
        {
            "where": f"{layout.SPLITS}/{name}.jsonl",
            "id": label,
            "label": label,
            "rows": counted[label],
            "share": counted[label] / max(1, counted.total()),
        }
        for name, counted in counts.items()
        for label in sorted(set().union(*counts.values()))
    ]


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


def _shown(draft: rules.Draft) -> str:
    return f"{draft.prompt!r} → {draft.reference!r}"


def _line(outcome: Expectation) -> str:
    """One failed expectation: its name, what was seen, and the rows."""
    shown = []
    for row in outcome.rows:
        values = ", ".join(f"{key} {value!r}"[:120] for key, value in row.items() if key not in ("where", "id"))
        shown.append(f"{row['where']} (id {row['id']}{': ' if values else ''}{values})")
    return f"{outcome.name}: {outcome.observed}{': ' if shown else ''}{', '.join(shown)}"


if __name__ == "__main__":
    entry.run("validate", validate)
