"""Describes the data in the words of MLCommons Croissant 1.0, for catalogues and loaders: croissant.json.

https://docs.mlcommons.org/croissant/docs/croissant-spec-1.0.html. The splits are files, each with a record set of its
rows. Sources, rules, counts and the digests of the record are small record sets that carry their data. ``mlcroissant``,
which the tests read it with, brings pandas and rdflib: too much to write JSON with.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from checks.data import licenses
from checks.formats.data_reports import SourceRows
from checks.process.errors import EvidenceRefused
from release.cards.card_facts import CATALOGUE, DATA, CardFacts

VERSION = "http://mlcommons.org/croissant/1.0"
_CONTEXT = {  # the standard one, of appendix 1
    "@language": "en",
    "@vocab": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "dct": "http://purl.org/dc/terms/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "sc": "https://schema.org/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "conformsTo": "dct:conformsTo",
    **{
        name: f"cr:{name}"
        for name in (
            "citeAs", "column", "equivalentProperty", "extract", "field", "fileObject", "fileProperty", "fileSet",
            "format", "includes", "isLiveDataset", "jsonPath", "key", "md5", "parentField", "path", "recordSet",
            "references", "regex", "repeated", "replace", "samplingRate", "separator", "source", "subField",
            "transform",
        )
    },
}  # fmt: skip
_TYPES = {str: "sc:Text", int: "sc:Integer"}
_COLUMNS = {  # Columns of a row beside its messages, as checks/records/rows.py describes them.
    "id": "16 hex digits of the content's digest, unique in the data",
    "reference": "the answer",
    "group": "rows of one group are nearly alike, and are in one split",
    "slice": "the part of the domain that metrics are broken down by",
    "source": "where the row comes from: path:line below the raw data",
    "origin": "the name of its source; none for main",
}
_TEXT = r"(?s)\s*\S.*"
_SAID = {  # keys of the front matter: Croissant's name, the form of a value, and what to write
    "language": ("inLanguage", r"\S+", "a language's code, such as en"),
    "tags": ("keywords", _TEXT, "words"),
    "creator": ("creator", _TEXT, "the name of an organisation"),
    "url": ("url", r"https?://\S+", "the address of a page, with https://"),
    "date_published": (
        "datePublished",
        r"\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])",
        "a day, such as 2026-11-26",
    ),
    "cite_as": ("citeAs", _TEXT, "how to cite the data, as one text"),
}
_TURN = {"role": "system, user or assistant", "content": "what was said"}


def dataset(facts: CardFacts) -> str:
    """The text of croissant.json. The same record and prose give the same bytes.

    Raises EvidenceRefused if the front matter of docs/cards/data.md has a value that Croissant does not take.
    """
    splits, prose = facts.prepare.splits, facts.data_prose
    described = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": VERSION,
        "name": str(prose.front.get("pretty_name", f"Data of {facts.name}")),
        "description": prose.text,
        **({"version": facts.version.removeprefix("v")} if facts.version else {}),
        **_licenses([source.license for source in facts.fetch.all_data.values()]),
        **_said(prose.front),
        "distribution": [_file(facts, name) for name in splits],
        "recordSet": [
            *(_rows(facts, name) for name, split in splits.items() if split.rows),
            *(_table(name, of, data) for name, (of, data) in _tables(facts).items() if data),
        ],
    }
    return f"{json.dumps(described, indent=2, ensure_ascii=False)}\n"


def _said(front: Mapping[str, Any]) -> dict[str, Any]:
    """Return what people say of the data in front matter. Raises EvidenceRefused for a value of another form."""
    stated: dict[str, Any] = {}
    for key, (name, form, wanted) in _SAID.items():
        if key not in front:
            continue
        values = front[key] if isinstance(front[key], list) else [front[key]]
        texts = [str(value) for value in values]
        if (key in CATALOGUE and len(texts) != 1) or not all(
            re.fullmatch(form, text) for text in texts
        ):
            raise EvidenceRefused(
                f"{DATA}: {key} is {str(front[key])[:100]!r}", f"write {wanted}, or leave it out"
            )
        stated[name] = texts[0] if len(texts) == 1 else texts
    if "creator" in stated:
        stated["creator"] = {"@type": "sc:Organization", "name": stated["creator"]}
    return stated


def _licenses(names: Sequence[str | None]) -> dict[str, Any]:
    """The licences of all sources, by SPDX's address where there is one; empty if one is not stated."""
    if None in names:
        return {}
    return {"license": list(dict.fromkeys(_license(name) for name in names if name))}


def _license(name: str) -> str:
    row = licenses.find(name)
    # The table has SPDX's identifiers as SPDX spells them, and other names in lower case.
    known = row is not None and row.name not in (row.name.lower(), licenses.OWN)
    return f"https://spdx.org/licenses/{row.name}" if row and known else name


def _file(facts: CardFacts, name: str) -> dict[str, Any]:
    split, path = facts.prepare.splits[name], f"{name}.jsonl"
    size = facts.sizes.get(path)
    return {
        "@type": "cr:FileObject",
        "@id": path,
        "name": path,
        "description": f"{split.rows} rows in {split.groups} groups",
        "contentUrl": path,
        **({} if size is None else {"contentSize": f"{size} B"}),
        "encodingFormat": "application/jsonlines",
        "sha256": split.sha256.removeprefix("sha256:"),
    }


def _rows(facts: CardFacts, split: str) -> dict[str, Any]:
    """The rows of a split. Only the rows of further sources have an ``origin``.

    The columns in ``extra`` are of a training method, so no type is named for them.
    """
    others = any(
        rows.splits[split]
        for name, rows in facts.prepare.sources.items()
        if name in facts.fetch.sources
    )
    turns = [
        _field(f"{split}/messages/{name}", text)
        | _from(split, "messages", transform={"jsonPath": name})
        for name, text in _TURN.items()
    ]
    prompt = {
        **_field(f"{split}/messages", "the prompt: the turns of a chat, without the answer"),
        "repeated": True,
    }
    del prompt["dataType"]  # its turns have one
    columns = {name: text for name, text in _COLUMNS.items() if others or name != "origin"}
    fields = [
        _field(f"{split}/{name}", text) | _from(split, name) for name, text in columns.items()
    ]
    return _record_set(
        split, f"The rows of {split}.jsonl", [*fields, prompt | {"subField": turns}], f"{split}/id"
    )


def _from(split: str, column: str, **further: Any) -> dict[str, Any]:
    return {
        "source": {
            "fileObject": {"@id": f"{split}.jsonl"},
            "extract": {"column": column},
            **further,
        }
    }


def _field(place: str, text: str, kind: type = str) -> dict[str, Any]:
    return {
        "@type": "cr:Field", "@id": place, "name": place.rpartition("/")[2], "description": text,
        "dataType": _TYPES[kind],
    }  # fmt: skip


def _record_set(
    name: str, text: str, fields: list[dict[str, Any]], key: str, **further: Any
) -> dict[str, Any]:
    return {
        "@type": "cr:RecordSet", "@id": name, "name": name, "description": text, "key": {"@id": key}, "field": fields,
        **further,
    }  # fmt: skip


def _table(name: str, text: str, data: list[dict[str, Any]]) -> dict[str, Any]:
    """A record set that carries its rows. The first column identifies a row."""
    place = f"lockstep/{name}"
    fields = [
        _field(f"{place}/{column}", column.replace("_", " "), type(value))
        for column, value in data[0].items()
    ]
    rows = [{f"{place}/{column}": value for column, value in row.items()} for row in data]
    return _record_set(place, text, fields, f"{place}/{next(iter(data[0]))}", data=rows)


def _tables(facts: CardFacts) -> dict[str, tuple[str, list[dict[str, Any]]]]:
    """Return what the record says of the data: by name, a sentence and the rows."""
    prepare, fetched = facts.prepare, facts.fetch.all_data
    whole = SourceRows(
        read=prepare.input_rows, splits={name: split.rows for name, split in prepare.splits.items()}
    )
    sources = [
        {
            "source": name, "address": source.uri, "sha256": source.sha256, "bytes": source.size,
            "license": source.license or "not stated", "rows_read": rows.read,
            **{f"rows_{split}": count for split, count in rows.splits.items()},
        }
        for name, source in fetched.items()
        for rows in [prepare.sources.get(name, whole)]
    ]  # fmt: skip
    return {
        "sources": ("What the rows were read from, pinned by SHA-256", sources),
        "rules": (
            "What each rule did, in their order",
            [{"rule": rule.rule, "does": rule.kind, "rows": rule.rows} for rule in prepare.rules],
        ),
        "splits": (
            f"{prepare.input_rows} rows were read, {prepare.kept_rows} kept and {prepare.dropped_rows} dropped",
            [
                {"split": name, "rows": split.rows, "groups": split.groups}
                for name, split in prepare.splits.items()
            ],
        ),
        "record": (
            "The files of the record that these figures are from",
            [
                {"file": path, "sha256": value.removeprefix("sha256:")}
                for path, value in facts.digests.items()
            ],
        ),
    }
