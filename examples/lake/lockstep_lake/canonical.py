"""Rows of a database or table as one file whose bytes depend on the rows alone: JSON lines in canonical form, ordered.

A line has sorted keys, no spaces, and UTF-8 as it is. A decimal number is text, so that no digit is lost; a time is
text by ISO 8601, in UTC where it has a zone. What has no such form, such as bytes or NaN, is refused with its row.
"""

import datetime
import decimal
import json
import math
import uuid
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from checks.process.errors import SourceRefused
from checks.storage import layout
from stages import progress
from stages.sources.location import Location

NAME = "rows.jsonl"
Key = Callable[[Mapping[str, Any]], Any]


class Rows(Location):
    """A table or a query, whose rows become one file."""

    @abstractmethod
    def rows(self, field: str) -> Iterator[dict[str, Any]]:
        """The rows by column, in any order. Raises as ``download``."""

    def key(self, field: str) -> Key | None:
        """Return what the rows are ordered by; None: their lines."""
        del field
        return None

    @property
    def name(self) -> str:
        """The name of the file that the rows become."""
        return NAME

    def download(self, work: Path, field: str) -> tuple[Path, bool]:
        """The rows as a file. Nothing is continued."""
        path = work / NAME
        write(self.rows(field), self.key(field), path, field)
        return path, False


def write(rows: Iterable[Mapping[str, Any]], key: Key | None, path: Path, field: str) -> None:
    """Write ``rows`` to ``path``, ordered by ``key``, or by their lines if it is None.

    ``field`` names the URI in refusals. Raises SourceRefused if there is no row, a value has no form in JSON, two rows
    have the same key, or keys cannot be compared. Holds all lines in memory.
    """
    lines: list[tuple[Any, str]] = []
    for number, row in enumerate(progress.of_rows("read rows", rows), 1):
        try:
            line = json.dumps(
                _plain(dict(row)), sort_keys=True, separators=(",", ":"), ensure_ascii=False
            )
            line.encode()
        except (TypeError, ValueError) as error:
            raise refused(
                field, f"row {number}: {error}", "make it text or a number in the query or table"
            ) from error
        lines.append((line if key is None else key(row), line))
    if not lines:
        raise refused(
            field, "gives no row", "fix the query, or name the table's version that has rows"
        )
    try:
        lines.sort(key=lambda pair: pair[0])
    except TypeError as error:
        raise refused(
            field, "keys are null or of several types", "name key columns that each row has"
        ) from error
    if key is not None:
        for (one, _), (other, _) in pairwise(lines):
            if one == other:
                raise refused(
                    field,
                    f"two rows have the key {one!r}",
                    "name key columns that tell all rows apart",
                )
    with path.open("w", encoding="utf-8", newline="\n") as stream:
        stream.writelines(f"{line}\n" for _, line in lines)


def refused(field: str, what: str, todo: str) -> SourceRefused:
    """A refusal of what a URI gives."""
    return SourceRefused(f"{layout.PARAMS}: {field}: {what}", todo)


def _plain(value: Any) -> Any:
    """A value as JSON has it. Raises TypeError or ValueError if it has none."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{value} is no number of JSON")
        return value
    if isinstance(value, Mapping):
        return {_key(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, datetime.datetime):
        return (value if value.tzinfo is None else value.astimezone(datetime.UTC)).isoformat()
    if isinstance(value, datetime.date):
        return value.isoformat()
    if isinstance(value, decimal.Decimal | uuid.UUID):
        return str(value)
    raise TypeError(f"a value of type {type(value).__name__} has no form in JSON")


def _key(name: Any) -> str:
    if not isinstance(name, str):
        raise TypeError(f"{name!r} names no column")
    return name
