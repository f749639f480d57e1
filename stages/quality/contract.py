"""Holds the raw rows of a source to the contract of their owner: ``data.contract``, checked by Great Expectations.

In:  a contract (``checks.data.contract``) and the files of a loader ``table``, with all their columns. Out: what was
held, for the report of prepare. A broken contract is refused with row, column, value, rule, and whom to ask.
"""

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

from checks.config.data_sources import Part
from checks.data import contract as contracts
from checks.data.contract import Column, Contract, Kind
from checks.formats.data_reports import MAIN_SOURCE, Expectation, HeldContract
from checks.process.errors import DataRefused
from checks.process.text import escape
from checks.storage import digest, layout
from stages import pinned_text
from stages.loaders import table
from stages.loaders.table import Table
from stages.quality import expectations
from stages.quality.expectations import SHOWN, Columns, Expected, great_expectations

_FRAME = "contract"
_INTEGER = re.compile(r"[+-]?\d{1,400}")
_TRUTH = {"true": True, "false": False}


def hold(parts: Sequence[Part], root: Path) -> dict[str, HeldContract]:
    """Return the contracts of the sources that have one, by source. Raises SourceRefused or DataRefused."""
    return {
        part.origin or MAIN_SOURCE: _hold(part, root) for part in parts if part.contract is not None
    }


def _hold(part: Part, root: Path) -> HeldContract:
    assert part.contract is not None
    place = f"{layout.PARAMS}: {part.section}.contract"
    file = part.contract.file
    text = pinned_text.read(
        root, file, part.contract.sha256, place, "YAML of the Open Data Contract Standard"
    )
    if not isinstance(part.loader, Table):
        raise DataRefused(
            f"{place}: is about the columns of a table, and the loader is {part.loader.kind}",
            "remove it, or use the loader table",
        )
    try:
        parsed = contracts.parse(text.decode())
        rules = _rules(parsed)
    except ValueError as error:
        raise DataRefused(
            escape(f"{file}: {error}"),
            "write it in the part of the standard that docs/how-to/data.md names",
        ) from error
    frame, missing, raw = _frame(parsed, part.loader, root / layout.RAW / part.folder)
    if missing:
        raise _broken(parsed, [f"{file}: column {name!r}: no row has it" for name in missing])
    suite = {str(number): Expected(rule.of, rule.words) for number, rule in enumerate(rules)}
    outcomes = expectations.run({_FRAME: suite}, {_FRAME: frame}, None)
    failed = [
        (rule, outcome)
        for rule, outcome in zip(rules, outcomes, strict=True)
        if not outcome.success
    ]
    if failed:
        raise _broken(
            parsed,
            [line for failure in failed for line in _lines(*failure, file, frame["where"], raw)],
        )
    return HeldContract(
        id=parsed.id, version=parsed.version, sha256=digest.of_bytes(text), expectations=len(outcomes),
        rows=len(frame["where"]),
    )  # fmt: skip


def _broken(contract: Contract, lines: Sequence[str]) -> DataRefused:
    who = "; ".join(contract.contacts)
    first, *others = (escape(line) for line in lines)
    return DataRefused(
        f"{first} (contract {escape(contract.id)} {escape(contract.version)})",
        f"fix the data source, or ask the owner of the data: {escape(who) if who else 'the contract names nobody'}",
        tuple(others[:SHOWN]),
    )


def _lines(
    rule: "_Rule",
    outcome: Expectation,
    file: str,
    places: Sequence[str],
    raw: Mapping[str, Sequence[Any]],
) -> Iterator[str]:
    """Yield a failed expectation: each offending row with its value, or what was observed of the whole table."""
    if not outcome.rows:
        yield f"{file}: must {rule.words}: observed {outcome.observed}"
    for row in outcome.rows:
        value = (
            f"column {rule.column!r}: {_cut(raw[rule.column][places.index(row['where'])])}: "
            if rule.column
            else ""
        )
        yield f"{row['where']}: {value}must {rule.words}"


class _Rule(NamedTuple):
    column: str | None  # None: it is about the whole table
    words: str  # after "must"
    of: Any  # of Great Expectations


def _rules(contract: Contract) -> list[_Rule]:
    """Return what the contract says; raises ValueError for a bound that is malformed."""
    gxe = great_expectations().expectations
    low, high = contract.rows
    rules = [
        _Rule(column.name, words, of)
        for column in contract.columns
        for words, of in _of_column(column, contract.key == (column.name,), gxe).items()
    ]
    if low is not None or high is not None:
        most = "more" if high is None else f"{high:,}"
        of = gxe.ExpectTableRowCountToBeBetween(min_value=low, max_value=high)
        rules.append(_Rule(None, f"have {low or 0:,} to {most} rows", of))
    if len(contract.key) > 1:
        of = gxe.ExpectCompoundColumnsToBeUnique(
            column_list=[f"raw {name}" for name in contract.key]
        )
        rules.append(_Rule(None, f"be unique in {', '.join(contract.key)}", of))
    return rules


def _of_column(column: Column, is_key: bool, gxe: Any) -> dict[str, Any]:
    typed, raw = f"typed {column.name}", f"raw {column.name}"
    checks_of_column: dict[str, Any] = {}
    if column.required:
        checks_of_column["not be null"] = gxe.ExpectColumnValuesToNotBeNull(column=raw)
    if column.unique or is_key:
        checks_of_column["be unique"] = gxe.ExpectColumnValuesToBeUnique(column=raw)
    if column.kind is not None:
        checks_of_column[f"be of type {column.kind}"] = gxe.ExpectColumnValuesToBeNull(
            column=f"wrong {column.name}"
        )
    if column.values is not None:
        of = typed if column.kind in ("integer", "number", "boolean") else raw
        values = ", ".join(map(str, column.values))
        checks_of_column[f"be one of {_short(values)}"] = gxe.ExpectColumnValuesToBeInSet(
            column=of, value_set=list(column.values)
        )
    for name, value in column.options.items():
        at = f"{column.name}: logicalTypeOptions.{name}"
        if name == "pattern":
            try:
                _unmatched([""], value)
            except (ValueError, TypeError) as error:
                why = str(error).removeprefix("Invalid regular expression: ")
                raise ValueError(
                    f"{at}: {_short(repr(value))} is no regular expression of RE2: {why}"
                ) from error
            checks_of_column[f"match {value}"] = gxe.ExpectColumnValuesToBeNull(
                column=f"unmatched {column.name}"
            )
            continue
        lower = name in ("minLength", "minimum", "exclusiveMinimum")
        strict = name.startswith("exclusive")
        bound = _bound(column.kind, name, value, at)
        limits = {
            "min_value" if lower else "max_value": bound,
            "strict_min" if lower else "strict_max": strict,
        }
        what = (
            gxe.ExpectColumnValueLengthsToBeBetween
            if "Length" in name
            else gxe.ExpectColumnValuesToBeBetween
        )
        checks_of_column[f"have {name} {value}"] = what(column=typed, **limits)
    return checks_of_column


def _bound(kind: Kind | None, name: str, value: Any, at: str) -> Any:
    wanted: Kind | None = "integer" if "Length" in name else kind
    if isinstance(value, date):  # YAML reads an unquoted date as one
        value = value.isoformat()
    number = _typed(wanted, value, False) if wanted is not None else None
    if number is None or _parsed(float, number) is None:  # Great Expectations compares with a float
        raise ValueError(f"{at}: {_short(repr(value))} is no {wanted}")
    return number


def _frame(
    contract: Contract, loader: Table, folder: Path
) -> tuple[Columns, list[str], dict[str, list[Any]]]:
    """Return the columns that are checked, the columns that no row has, and the values as they are in the files."""
    names = [column.name for column in contract.columns]
    raw: dict[str, list[Any]] = {name: [] for name in names}
    frame: Columns = {
        "where": [],
        "id": [],
        **{f"{of} {name}": [] for name in names for of in ("raw", "typed", "wrong")},
    }
    seen: set[str] = set()
    for path in table.matching(loader.files, folder):
        as_text = path.suffix.lower() == ".csv"
        for place, row in table.rows(path, path.relative_to(folder).as_posix()):
            frame["where"].append(place)
            frame["id"].append(place)
            seen |= row.keys()
            for column in contract.columns:
                value = row.get(column.name)
                if isinstance(value, float) and math.isnan(value):  # pandas writes null so.
                    value = None
                # Frames are UTF-8, which has no half of a surrogate pair; the loader refuses it.
                if isinstance(value, str):
                    value = value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
                typed = None if value is None else _typed(column.kind, value, as_text)
                raw[column.name].append(value)
                frame[f"raw {column.name}"].append(_text(value))
                frame[f"typed {column.name}"].append(typed)
                frame[f"wrong {column.name}"].append(
                    None if value is None or typed is not None else _text(value)
                )
    for column in contract.columns:
        if "pattern" in column.options:
            frame[f"unmatched {column.name}"] = _unmatched(
                frame[f"typed {column.name}"], column.options["pattern"]
            )
    return frame, [name for name in names if name not in seen], raw


def _unmatched(values: Sequence[str | None], pattern: str) -> list[str | None]:
    """Return the values in which the pattern is nowhere found, with None in place of the others.

    By RE2 (https://github.com/google/re2), which takes time in proportion to a value's length, whatever the pattern.
    Raises ValueError for a pattern that it does not know.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    matches = pc.match_substring_regex(pa.array(values, pa.large_string()), pattern).to_pylist()
    return [value if match is False else None for value, match in zip(values, matches, strict=True)]


def _typed(kind: Kind | None, value: Any, as_text: bool) -> Any:
    """Return the value as what is compared: dates as days, times as seconds of UTC. None if it is not of this type."""
    if kind is None:
        return _text(value)
    if as_text and kind == "integer":
        return int(value) if _INTEGER.fullmatch(value) else None
    if as_text and kind in ("number", "boolean"):
        return _TRUTH.get(value.casefold()) if kind == "boolean" else _parsed(float, value)
    return _READ[kind](value)


def _number(value: Any) -> float | None:
    is_one = isinstance(value, int | float | Decimal) and not isinstance(value, bool)
    return _parsed(float, value) if is_one else None


def _date(value: Any) -> float | None:
    if isinstance(value, str):
        value = _parsed(date.fromisoformat, value)
    return (
        value.toordinal() if isinstance(value, date) and not isinstance(value, datetime) else None
    )


def _timestamp(value: Any) -> float | None:
    if isinstance(value, str):
        value = _parsed(datetime.fromisoformat, value)
    if not isinstance(value, datetime):
        return None
    return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()


def _parsed(read: Callable[[Any], Any], value: Any) -> Any:
    try:
        read_value = read(value)
    except (ValueError, OverflowError, ArithmeticError):
        return None
    return None if isinstance(read_value, float) and not math.isfinite(read_value) else read_value


_READ: dict[Kind, Callable[[Any], Any]] = {
    "string": lambda value: value if isinstance(value, str) else None,
    "integer": lambda value: (
        value if isinstance(value, int) and not isinstance(value, bool) else None
    ),
    "number": _number,
    "boolean": lambda value: value if isinstance(value, bool) else None,
    "date": _date,
    "timestamp": _timestamp,
    "object": lambda value: _text(value) if isinstance(value, dict) else None,
    "array": lambda value: _text(value) if isinstance(value, list) else None,
}


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    try:
        return json.dumps(value, default=str, sort_keys=True)
    except (ValueError, TypeError, RecursionError):
        return repr(type(value))


def _cut(value: Any) -> str:
    return _short(
        "null" if value is None else repr(value) if isinstance(value, str) else str(_text(value))
    )


def _short(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:79]}…"
