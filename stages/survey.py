"""survey: what a data file holds, for `lockstep init`: its columns; or its rows as prepare will make them of it.

In: a file of rows, or a request (``checks.formats.survey.Request``) as JSON. Out: .lockstep/survey.json
(``checks.formats.survey.Contents``, or ``Measured``). It is no stage of dvc.yaml: nothing depends on it.

    python -m stages.survey FILE
    python -m stages.survey --request JSON
"""

import importlib.util
import json
import math
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from checks.config.params import Params
from checks.config.pipeline_params import Prepare
from checks.data import detectors
from checks.data.personal_data import PersonalData
from checks.formats.survey import SURVEY, Column, Contents, Measured, Request
from checks.process import distribution
from checks.process.errors import DataRefused, MachineRefused
from checks.records import chats
from checks.records.rows import Row
from checks.storage import files
from stages import entry, sources
from stages.inference import prompts
from stages.loaders import table
from stages.splitting import Splitting

_TURN = 8  # tokens that a chat template puts around a turn
_SYSTEM = 32  # those of a template's own system message
_STEP = 32  # bounds are multiples of it
_VALID_ROWS = 150  # parity, probes and the validation loss want this many
_SHOWN = 5


def contents(path: Path) -> Contents:
    """Return the columns of a file.

    Raises DataRefused for a file that cannot be read, or that holds no row; MachineRefused for Parquet without pyarrow.
    """
    if path.suffix.lower() == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise MachineRefused(
            f"{path.name}: Parquet needs pyarrow, which is not installed",
            f"{distribution.install('parquet')}; or save the rows as CSV or JSONL",
        )
    seen: dict[str, list[Any]] = {}
    rows = 0
    for rows, (_, row) in enumerate(table.rows(path), 1):  # noqa: B007 - the last number counts the rows
        for name, value in row.items():
            seen.setdefault(name, []).append(value)
    if not rows:
        raise DataRefused(f"{path.name}: holds no row", "give a file of rows")
    return Contents(
        rows=rows, columns=tuple(_column(name, values, rows) for name, values in seen.items())
    )


def _column(name: str, values: list[Any], rows: int) -> Column:
    present = [value for value in values if value not in (None, "")]
    kind = "text" if present and all(isinstance(value, str) for value in present) else "other"
    if present and chats.is_chat(present[0]):
        kind, present = "chat", [_answer(value) for value in present]
    distinct = len(
        {value if isinstance(value, str) else json.dumps(value, default=str) for value in present}
    )
    return Column(
        name=name, kind=kind, distinct=distinct, in_all=len(present) == rows,
        closed=kind != "other" and 1 < distinct <= min(prompts.MAX_LABELS, rows / 2),
        sample=str(present[0])[:60] if present else "",
    )  # fmt: skip


def _answer(value: Any) -> str:
    """The last turn's text; what is no chat counts as an answer of its own, and the loader will refuse it."""
    last = value[-1] if chats.is_chat(value) else None
    return str(last.get("content", last.get("value"))) if isinstance(last, dict) else str(value)


def measure(request: Request, root: Path) -> Measured:
    """Prepare the rows of ``request`` and measure the splits.

    The share of the test split is chosen so that its rows count as much as the rows that are wanted, up to
    ``max_test_share``. Raises DataRefused for rows that cannot be prepared; and, with all problems at once, for labels
    that a split lacks and for prompts that are too long.
    """
    config = Prepare.model_validate(request.prepare)
    path = root / request.file
    kept, counts = Splitting(config).clean(config.loader.load(path.parent))
    if not kept:
        raise DataRefused(
            f"{path.name}: the rules drop every row", "name other columns, or add data"
        )
    placed = Splitting(config).split(kept)
    size = _size([row.group for rows in placed.values() for row in rows])
    valid = min(0.15, max(0.06, math.ceil(100 * _VALID_ROWS / len(kept)) / 100))
    # It has 5 % more, because splits are uneven.
    test = min(request.max_test_share, math.ceil(105 * request.test_rows / size) / 100)
    shares = config.splits.model_copy(update={"valid": valid, "test": max(test, 0.05)})
    placed = Splitting(config.model_copy(update={"splits": shares})).split(kept)
    splits = {name: [row.row for row in rows] for name, rows in placed.items()}
    if empty := [name for name, rows in splits.items() if not rows]:
        raise DataRefused(
            f"{path.name}: {len(kept)} rows leave {' and '.join(empty)} empty", "add data"
        )
    rows = [row for of_split in splits.values() for row in of_split]
    problems = [
        *(_rare_labels(splits, path.name) if request.labels else ()),
        *_long_prompts(rows, request.longest),
    ]
    if problems:
        raise DataRefused(problems[0].what, problems[0].todo, tuple(map(str, problems[1:])))
    by_split = [
        Counter(row.reference for row in of_split) for of_split in splits.values() if request.labels
    ]
    labels = [count / counts.total() for counts in by_split for count in counts.values()] or [
        0.0,
        1.0,
    ]
    sought = PersonalData(detectors=detectors.KINDS)
    personal = {
        row.draft.source: sought.count(row.draft)
        for of_split in placed.values()
        for row in of_split
    }
    commonest = Counter(row.reference.strip() for row in splits["test"]).most_common(1)[0][1]
    return Measured(
        sha256=sources.measure(path, "data").sha256, base_sha256=_pin(request.base, root),
        rows=len(kept) + sum(count.rows for count in counts if count.kind == "drop"),
        dropped={count.rule: count.rows for count in counts if count.kind == "drop" and count.rows},
        valid=shares.valid, test=shares.test, split_rows={name: len(rows) for name, rows in splits.items()},
        test_size=_size([row.group for row in splits["test"]]), distinct=len({row.reference.strip() for row in rows}),
        label_shares=(min(labels), max(labels)), majority=commonest / len(splits["test"]),
        words=max(len(row.prompt.split()) for row in rows),
        prompt_tokens=_rounded(_SYSTEM + max(map(_prompt_tokens, rows))),
        reference_tokens=_rounded(1 + max(tokens(row.reference) for row in rows)),
        personal=dict(sum(personal.values(), Counter[str]())),
        personal_rows=tuple(source for source, counts in personal.items() if counts),
    )  # fmt: skip


def _size(groups: list[str]) -> int:
    """Groups of one size that would be as even as these: rows² over the sum of the squared sizes (Kish, 1965)."""
    return round(len(groups) ** 2 / sum(count**2 for count in Counter(groups).values()))


def tokens(text: str) -> int:
    """Tokens of ``text`` at most, for tokenizers of usual size: two letters, or one other character, are a token.

    English has some four letters a token. Letters beyond ASCII count by their bytes.
    """
    letters = sum(math.ceil(len(run) / 2) for run in re.findall(r"[A-Za-z]+", text))
    others = re.sub(r"[A-Za-z\s]+", "", text)
    return letters + len(others.encode()) + text.count("\n")


def _prompt_tokens(row: Row) -> int:
    listed = tokens(json.dumps(row.schemas, ensure_ascii=False)) if row.tools else 0
    return listed + sum(_TURN + tokens(message.text) for message in row.messages)


def _rounded(count: int) -> int:
    return math.ceil(count / _STEP) * _STEP


def _rare_labels(splits: dict[str, list[Row]], name: str) -> Iterator[DataRefused]:
    """The refusal of answers that are no labels, or of labels that a split lacks; none if all is well."""
    if not prompts.labels([row.reference for row in splits["train"]]):
        distinct = len({row.reference.strip() for row in splits["train"]})
        yield DataRefused(
            f"{name}: {distinct} distinct answers in {len(splits['train'])} training rows are no list of labels "
            f"(2 to {prompts.MAX_LABELS}, two rows each)",
            "give --answers text",
        )
        return
    counts = {split: Counter(row.reference for row in rows) for split, rows in splits.items()}
    first = {row.reference: row.source for rows in splits.values() for row in reversed(rows)}
    if rare := [
        label
        for label in sorted(first)
        if not all(counts_of_split[label] for counts_of_split in counts.values())
    ]:
        shown = ", ".join(f"{label!r} ({first[label]})" for label in rare[:_SHOWN])
        shown += f" and {len(rare) - _SHOWN} more" if len(rare) > _SHOWN else ""
        yield DataRefused(
            f"{name}: too few rows for each of train, valid and test to have the label {shown}",
            "add rows of it, write the label in one way, or give --answers text",
        )


def _long_prompts(rows: list[Row], longest: int) -> Iterator[DataRefused]:
    """The refusal of prompts with more than ``longest`` tokens, with a limit in words that leaves none; else none."""
    long = {
        row.source: len(row.prompt.split())
        for row in rows
        if _rounded(_SYSTEM + _prompt_tokens(row)) > longest
    }
    if long:
        source, words = max(long.items(), key=lambda item: item[1])
        limit = max(1, min(long.values()) - 1)
        dropped = sum(len(row.prompt.split()) > limit for row in rows)
        yield DataRefused(
            f"{source}: the longest prompt has {words:,} words; {len(long):,} rows have more than {longest:,} tokens, "
            "the most that a prompt may have",
            f"shorten them, or give --max-prompt-words {limit}, which drops {dropped:,} of {len(rows):,} rows",
        )


def _pin(base: str | None, root: Path) -> str | None:
    """The digest of a base on this machine; None for an address, which the stage fetch downloads."""
    if base is None or "://" in base or not (root / base).exists():
        return None
    return sources.measure(root / base, "base").sha256


def _main(arguments: list[str]) -> None:
    def survey(params: Params, root: Path) -> str:
        del params
        if arguments[:1] == ["--request"]:
            result: Contents | Measured = measure(Request.model_validate_json(arguments[1]), root)
        else:
            result = contents(root / arguments[0])
        files.write_json(root / SURVEY, result)
        return f"{result.rows:,} rows"

    entry.run("survey", survey)


if __name__ == "__main__":
    _main(sys.argv[1:])
