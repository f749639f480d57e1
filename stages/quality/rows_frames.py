"""The frames of the splits' rows: one for each split, one of all rows together, and one that counts them."""

import json
from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import JsonValue

from checks.config.pipeline_params import NearDuplicates
from checks.data import drafts, near_duplicates
from checks.formats.data_reports import PrepareReport
from checks.kinds.rule import Rule
from checks.records.rows import Row, earlier_requests, request
from checks.storage import files, layout
from stages import progress
from stages.quality.chat_tokens import Lengths
from stages.quality.expectations import CONTROL, COUNTED, ROW, Columns, Frame

_BATCH = 4096  # So many lines' tokens are counted at once.


class Read(NamedTuple):
    """The content of a split or a part of it. Rows are let go of, but for ``rows`` of preferences."""

    columns: Columns
    references: list[str]
    requests: list[str]  # what near-duplicates are judged by
    earlier: list[tuple[str, ...]]  # and what chats answer before their last turn
    defects: Columns  # Columns by rule, and CONTROL; None for a row without the defect.
    rows: list[Row]
    origins: list[str]

    def answers(self, without: Container[str]) -> list[str]:
        """Return the references of the rows that are not of these sources."""
        return [
            answer
            for answer, of in zip(self.references, self.origins, strict=True)
            if of not in without
        ]

    def extend(self, more: "Read") -> None:
        """Put the rows of ``more`` behind these."""
        fields: Iterable[tuple[Any, Any]] = zip(self, more, strict=True)
        for own, further in fields:
            if isinstance(own, dict):
                for column, values in own.items():
                    values.extend(further[column])
            else:
                own.extend(further)


class RowChecks(NamedTuple):
    """Counts and looks for defects in each row.

    ``defects``: the rules that may find something. ``wanted``: by source, the rules whose defects its rows must not
    have. ``needed``: further columns. ``whole``: keep the rows too. ``planted``: sources whose rows may be there more
    than once. ``control``: says which control token a row has, and where.
    """

    lengths: Callable[[Sequence[Row]], list[Lengths]]
    defects: Mapping[str, Rule]
    wanted: Mapping[str, frozenset[str]]
    needed: Sequence[str]
    whole: bool
    planted: Container[str]
    control: Callable[[Row], str | None]


def read(root: Path, name: str, checks: RowChecks) -> Read:
    """Read a split as columns. Raises EvidenceRefused or DataRefused for the first line at fault."""
    numbered = enumerate(files.each_of_jsonl(root / layout.SPLITS / f"{name}.jsonl", Row), 1)
    split = columns(name, [], checks)
    with progress.of_rows(f"read {name}", list[Read]()) as bar:
        while batch := list(islice(numbered, _BATCH)):
            split.extend(columns(name, batch, checks))
            bar.update(len(batch))
    return split


def columns(name: str, numbered: Iterable[tuple[int, Row]], checks: RowChecks) -> Read:
    """Return the rows of one split, each with its line, as columns; documents are left out (``quality.documents``)."""
    rows = [(line, row) for line, row in numbered if not row.document]
    names = (*ROW, *COUNTED, *checks.needed)
    defects = (*checks.defects, CONTROL)
    read = Read(
        {column: [] for column in names}, [], [], [], {defect: [] for defect in defects}, [], []
    )
    for (line, row), tokens in zip(rows, checks.lengths([row for _, row in rows]), strict=True):
        draft = drafts.draft_of(row)
        values = {
            "where": f"{layout.SPLITS}/{name}.jsonl:{line}",
            "id": row.id,
            "prompt": row.prompt if _said(row, "user") else None,
            "reference": row.reference
            if row.reference.strip() and _said(row, "assistant")
            else None,
            "group": row.group,
            "slice": row.slice,
            "source": row.source,
            "roles": " ".join(message.role for message in row.messages),
            "asked": None if row.origin in checks.planted else "\n".join(draft.asked),
            "prompt_tokens": tokens.prompt,
            "reference_tokens": tokens.reference,
            **{column: _written(row.extra.get(column)) for column in checks.needed},
        }
        for column, value in values.items():
            read.columns[column].append(value)
        read.references.append(row.reference)
        read.requests.append(request(row.messages))
        read.earlier.append(earlier_requests(row.messages))
        read.origins.append(row.origin)
        for defect, rule in checks.defects.items():
            is_found = defect in checks.wanted[row.origin] and rule.finds(draft)
            read.defects[defect].append(rule.shown(draft) if is_found else None)
        read.defects[CONTROL].append(checks.control(row))
    if checks.whole:
        read.rows.extend(row for _, row in rows)
    return read


def _said(row: Row, role: str) -> bool:
    """Whether no turn of this role is blank."""
    return all(message.text.strip() for message in row.messages if message.role == role)


def _written(value: JsonValue) -> str | None:
    """Return a further column as text; None if it is empty."""
    text = value if isinstance(value, str) else json.dumps(value)
    return None if value is None or not text.strip() else text


def together(read: Mapping[str, Read], near: NearDuplicates) -> Columns:
    """One entry for each row of any split; a column is null if there is nothing to object to."""
    home = [name for name, of_split in read.items() for _ in of_split.references]
    places, ids, asked, groups = (
        [value for of_split in read.values() for value in of_split.columns[column]]
        for column in ("where", "id", "asked", "group")
    )
    same: dict[str, int] = {}
    homes: defaultdict[str, set[str]] = defaultdict(set)
    for index, (name, group) in enumerate(zip(home, groups, strict=True)):
        homes[group].add(name)
        same.setdefault(asked[index], index)
    first = [same[request] for request in asked]
    texts = [text for of_split in read.values() for text in of_split.requests]
    roots = near_duplicates.groups(texts, near.shingle, near.similarity)
    alike = [
        None if home[other] == name else places[other]
        for name, other in zip(home, roots, strict=True)
    ]
    for index, chat in _answered_in_training(
        home, texts, [e for of in read.values() for e in of.earlier], near
    ):
        alike[index] = alike[index] or places[chat]
    return {
        "where": places,
        "id": ids,
        "same_prompt_as": [
            None if home[other] == name else places[other]
            for name, other in zip(home, first, strict=True)
        ],
        "near_duplicate_of": alike,
        "group_also_in": [
            ", ".join(sorted(homes[group] - {name})) or None
            for name, group in zip(home, groups, strict=True)
        ],
        **{
            defect: [value for of_split in read.values() for value in of_split.defects[defect]]
            for defect in next(iter(read.values())).defects
        },
    }


def _answered_in_training(
    home: Sequence[str],
    texts: Sequence[str],
    earlier: Sequence[tuple[str, ...]],
    near: NearDuplicates,
) -> Iterator[tuple[int, int]]:
    """Yield each held-out row that asks what a chat of train answers before its last turn, and that chat."""
    chats = [
        (index, text)
        for index, name in enumerate(home)
        if name == "train"
        for text in earlier[index]
    ]
    if not chats:
        return
    held_out = [index for index, name in enumerate(home) if name != "train"]
    asked, answered = [texts[index] for index in held_out], [text for _, text in chats]
    for one, other in near_duplicates.first_alike(asked, answered, near.shingle, near.similarity):
        yield held_out[one], chats[other][0]


def conservation(read: Mapping[str, Read], report: PrepareReport, documents: int = 0) -> Frame:
    """Compare numbers of rows and groups, counted here, with prepare's report. ``documents``: those of train."""
    more = {"train": documents}
    rows = {name: len(of_split.references) + more.get(name, 0) for name, of_split in read.items()}
    dropped = sum(rule.rows for rule in report.rules if rule.kind == "drop")
    counted = {
        "input rows": (sum(rows.values()) + dropped, report.input_rows),
        "kept rows": (sum(rows.values()), report.kept_rows),
        **{f"{name} rows": (rows[name], report.splits[name].rows) for name in read},
        **{
            f"{name} groups": (
                len(set(of_split.columns["group"])) + more.get(name, 0),
                report.splits[name].groups,
            )
            for name, of_split in read.items()
        },
    }
    return [
        {"where": str(layout.PREPARE_REPORT), "id": what, "counted": one, "reported": other}
        for what, (one, other) in counted.items()
    ]
