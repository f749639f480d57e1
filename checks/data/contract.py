"""A data contract, as its owner wrote it: the part of the Open Data Contract Standard (ODCS) 3 that Lockstep checks.

https://bitol-io.github.io/open-data-contract-standard. Keys that only describe are ignored. A key that is neither
checked nor a description of the standard is refused by name, so that nothing that the owner wanted is left out unseen.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Any, Literal, NamedTuple

import yaml

from checks.records.record import problems
from checks.storage import plain_yaml

Kind = Literal["string", "date", "timestamp", "number", "integer", "boolean", "object", "array"]
Bound = tuple[Any, bool]  # a limit, and whether the limit itself is outside

_ABOUT = {
    "id",
    "name",
    "description",
    "businessName",
    "tags",
    "authoritativeDefinitions",
    "customProperties",
}
_ROOT = _ABOUT | {
    "version", "kind", "apiVersion", "tenant", "status", "servers", "dataProduct", "domain", "support", "price", "team",
    "roles", "slaDefaultElement", "slaProperties", "contractCreatedTs", "schema",
}  # fmt: skip
_TABLE = _ABOUT | {
    "logicalType",
    "physicalType",
    "physicalName",
    "dataGranularityDescription",
    "properties",
    "quality",
}
_COLUMN = _ABOUT | {
    "primaryKey", "primaryKeyPosition", "logicalType", "logicalTypeOptions", "physicalType", "physicalName", "required",
    "unique", "partitioned", "partitionKeyPosition", "classification", "encryptedName", "transformSourceObjects",
    "transformLogic", "transformDescription", "examples", "criticalDataElement", "quality",
}  # fmt: skip
_QUALITY = _ABOUT | {
    "businessImpact", "dimension", "method", "schedule", "scheduler", "severity", "type", "unit", "metric", "arguments",
    "mustBe", "mustBeGreaterThan", "mustBeGreaterOrEqualTo", "mustBeLessThan", "mustBeLessOrEqualTo",
}  # fmt: skip
_BOUNDS = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}
_OPTIONS: dict[Kind, set[str]] = {
    "string": {"minLength", "maxLength", "pattern"},
    "date": _BOUNDS, "timestamp": _BOUNDS, "number": _BOUNDS, "integer": _BOUNDS,
    "boolean": set(), "object": set(), "array": set(),
}  # fmt: skip


class Column(NamedTuple):
    """The contract of one column. ``options``: minLength, maxLength, pattern, minimum and so on."""

    name: str
    kind: Kind | None
    required: bool
    unique: bool
    options: Mapping[str, Any]
    values: tuple[Any, ...] | None  # the only valid ones


class Contract(NamedTuple):
    """A contract. ``key``: the columns of the primary key. ``rows``: fewest and most, None where it has no limit."""

    id: str
    version: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    rows: tuple[int | None, int | None]
    contacts: tuple[str, ...]


def parse(text: str) -> Contract:
    """The contract in ``text``. Raises ValueError, which names the key, for what is malformed or not understood."""
    try:
        document = plain_yaml.load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"is not YAML: {' '.join(str(error).split())[:200]}") from error
    root = _mapping(document, "", _ROOT)
    if root.get("kind") != "DataContract" or not str(root.get("apiVersion")).startswith("v3."):
        raise ValueError(
            "kind and apiVersion: are not DataContract and v3.x of the Open Data Contract Standard"
        )
    tables = _list(root.get("schema"), "schema")
    if len(tables) != 1:
        raise ValueError(
            f"schema: has {len(tables)} tables, and a source is one: write a contract for each"
        )
    place = "schema[0]"
    table = _mapping(tables[0], place, _TABLE)
    entries = [
        (f"{place}.properties[{number}]", _mapping(entry, f"{place}.properties[{number}]"))
        for number, entry in enumerate(_list(table.get("properties"), f"{place}.properties"))
    ]
    columns = tuple(_column(entry, at) for at, entry in entries)
    names = [column.name for column in columns]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"{place}.properties: has no column, or one twice")
    return Contract(
        id=_text(root, "id", "id"),
        version=_text(root, "version", "version"),
        columns=columns,
        key=tuple(
            name for name, (_, entry) in zip(names, entries, strict=True) if entry.get("primaryKey")
        ),
        rows=_row_count(table, place),
        contacts=tuple(_contacts(root)),
    )


def _column(column: Mapping[str, Any], at: str) -> Column:
    _mapping(column, at, _COLUMN)
    name = str(column.get("physicalName") or _text(column, "name", f"{at}.name"))
    kind = column.get("logicalType")
    if kind is not None and kind not in tuple(_OPTIONS):
        raise ValueError(
            f"{at}.logicalType: {kind!r} is not understood; one of {', '.join(_OPTIONS)}"
        )
    options = _mapping(
        column.get("logicalTypeOptions") or {},
        f"{at}.logicalTypeOptions",
        _OPTIONS[kind] if kind else (),
    )
    required, unique, values = _flag(column, "required", at), _flag(column, "unique", at), None
    for number, rule in enumerate(_list(column.get("quality") or [], f"{at}.quality")):
        rule_place = f"{at}.quality[{number}]"
        if (
            metric := _metric(rule, rule_place, {"nullValues", "duplicateValues", "invalidValues"})
        ) is None:
            continue
        if rule.get("mustBe") != 0:
            raise ValueError(f"{rule_place}: {metric} is understood with mustBe: 0 alone")
        arguments = _mapping(
            rule.get("arguments") or {},
            f"{rule_place}.arguments",
            {"validValues"} if metric == "invalidValues" else (),
        )
        required, unique = required or metric == "nullValues", unique or metric == "duplicateValues"
        if metric == "invalidValues":
            if values is not None:
                raise ValueError(
                    f"{rule_place}: invalidValues is there twice, and one of the two would not be checked"
                )
            values = tuple(
                _list(arguments.get("validValues"), f"{rule_place}.arguments.validValues")
            )
    key = _flag(column, "primaryKey", at)
    return Column(name, kind, required or key, unique, dict(options), values)


def _row_count(table: Mapping[str, Any], place: str) -> tuple[int | None, int | None]:
    low: int | None = None
    high: int | None = None
    for number, rule in enumerate(_list(table.get("quality") or [], f"{place}.quality")):
        rule_place = f"{place}.quality[{number}]"
        if _metric(rule, rule_place, {"rowCount"}) is None:
            continue
        _mapping(rule.get("arguments") or {}, f"{rule_place}.arguments", ())
        for operator, value in rule.items():
            if not operator.startswith("mustBe"):
                continue
            if not isinstance(value, int) or isinstance(value, bool):
                raise ValueError(f"{rule_place}.{operator}: {value!r} is not a whole number")
            if operator in ("mustBe", "mustBeGreaterThan", "mustBeGreaterOrEqualTo"):
                least = value + (operator == "mustBeGreaterThan")
                low = least if low is None else max(low, least)
            if operator in ("mustBe", "mustBeLessThan", "mustBeLessOrEqualTo"):
                most = value - (operator == "mustBeLessThan")
                high = most if high is None else min(high, most)
    return low, high


def _metric(rule: Any, place: str, known: set[str]) -> str | None:
    """Return the metric of a quality rule; None for a rule that is text for people."""
    rule = _mapping(rule, place, _QUALITY)
    if rule.get("type") == "text":
        return None
    of_library = rule.get("type", "library") == "library"
    metric = rule.get("metric") if of_library else f"type {rule['type']}"
    for problem in problems(
        (
            not of_library or metric not in tuple(known),
            f": {metric} is not understood here; one of {', '.join(sorted(known))}",
        ),
        (
            rule.get("unit", "rows") != "rows",
            f".unit: {rule.get('unit')!r} is not understood; rows",
        ),
        (
            not any(key.startswith("mustBe") for key in rule),
            ": says no mustBe, so nothing can be checked",
        ),
    ):
        raise ValueError(f"{place}{problem}")
    return str(metric)


def _contacts(root: Mapping[str, Any]) -> Iterator[str]:
    """Whom to ask: the channels of support, then the members of the team that are still in it."""
    for contact in _list(root.get("support") or [], "support"):
        channel = _mapping(contact, "support")
        yield " ".join(str(channel[key]) for key in ("channel", "url") if channel.get(key))
    team = root.get("team") or []
    members = team.get("members") or [] if isinstance(team, dict) else team
    for entry in _list(members, "team"):
        member = _mapping(entry, "team")
        if not member.get("dateOut") and member.get("username"):
            yield f"{member['username']}{' (' + str(member['role']) + ')' if member.get('role') else ''}"


def _mapping(value: Any, place: str, known: Collection[str] | None = None) -> Mapping[str, Any]:
    """Return ``value``, a mapping. Raises ValueError for another value, and for a key that is not ``known``."""
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise ValueError(f"{place or 'the file'}: is not a mapping")
    for key in value:
        if known is not None and key not in known:
            at = f"{place}.{key}" if place else key
            raise ValueError(f"{at}: is not understood, so it would not be checked")
    return value


def _list(value: Any, place: str) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{place}: is not a list")
    return value


def _text(mapping: Mapping[str, Any], key: str, place: str) -> str:
    if not isinstance(mapping.get(key), str) or not mapping[key]:
        raise ValueError(f"{place}: is missing, or not text")
    return str(mapping[key])


def _flag(mapping: Mapping[str, Any], key: str, place: str) -> bool:
    if not isinstance(value := mapping.get(key, False), bool):
        raise ValueError(f"{place}.{key}: {value!r} is not true or false")
    return value
