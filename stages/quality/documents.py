"""The documents of the train split: their frame, what is expected of them, and their statistics.

They have no prompt and no answer, so the expectations on rows are not about them.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from checks.config.data_sources import Part
from checks.config.pipeline_params import NearDuplicates, Prepare
from checks.data import near_duplicates
from checks.data.documents import passages
from checks.data.drafts import draft_of
from checks.formats.data_reports import PrepareReport
from checks.formats.data_statistics import Documents
from checks.kinds.rule import Rule
from checks.process.errors import EvidenceRefused
from checks.records.rows import Row
from checks.storage import digest, files, layout
from stages.quality import statistics
from stages.quality.expectations import (
    DOCUMENTS,
    Columns,
    Expected,
    Suite,
    by_rules,
    great_expectations,
)
from stages.quality.rows_frames import Read
from stages.training import windows

_SHOWN = 80  # characters of a document that a report shows


class Texts(NamedTuple):
    """The documents: where each stands, its tokens as training sees it, and which rules find a defect in it.

    ``written``: how many prepare wrote.
    """

    places: list[str]
    ids: list[str]
    texts: list[str]
    defects: dict[str, list[str | None]]
    tokens: list[int]
    written: int


def read(
    root: Path,
    parts: Sequence[Part],
    report: PrepareReport,
    defects: Mapping[str, Rule],
    wanted: Mapping[str, frozenset[str]],
) -> Texts:
    """Return the documents of the train split, which is not read again where no source has any. Raises EvidenceRefused.

    ``wanted``: as in ``rows_frames.RowChecks``.
    """
    sources = [part.origin for part in parts if part.loader.of_documents]
    written = sum(
        report.sources[name].splits["train"] for name in sources if name in report.sources
    )
    read_texts = Texts([], [], [], {name: [] for name in defects}, [], written)
    path = layout.SPLITS / "train.jsonl"
    for line, row in enumerate(files.each_of_jsonl(root / path, Row) if sources else (), 1):
        if not row.document:
            continue
        read_texts.places.append(f"{path.as_posix()}:{line}")
        read_texts.ids.append(row.id)
        read_texts.texts.append(row.reference)
        draft = draft_of(row)
        for name, rule in defects.items():
            is_found = name in wanted[row.origin] and rule.finds(draft)
            read_texts.defects[name].append(rule.shown(draft)[:_SHOWN] if is_found else None)
    if read_texts.texts:
        read_texts.tokens.extend(_tokens(read_texts.texts, root / layout.BASE))
    return read_texts


def _tokens(texts: Sequence[str], base: Path) -> Iterator[int]:
    """Yield tokens of each text as training sees it, the end-of-sequence token included."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True)
    except (OSError, ValueError) as error:
        raise EvidenceRefused(
            f"{base}: holds no tokenizer", "run `./lockstep run fetch` to make it again"
        ) from error
    yield from map(len, windows.encoded(tokenizer, texts))


def frames(documents: Texts, read: Mapping[str, Read], near: NearDuplicates) -> dict[str, Columns]:
    """Return the frame of the documents; none if there are none and none were prepared."""
    if not documents.texts and not documents.written:
        return {}
    given = [
        (place, text)
        for place, text_read in enumerate(documents.texts)
        for text in passages(text_read)
    ]
    held_out = [
        (name, place) for name in ("valid", "test") for place in range(len(read[name].requests))
    ]
    alike: list[str | None] = [None] * len(documents.texts)
    asked = [read[name].requests[place] for name, place in held_out]
    for index, other in near_duplicates.first_alike(
        [text for _, text in given], asked, near.shingle, near.similarity
    ):
        name, place = held_out[other]
        alike[given[index][0]] = read[name].columns["where"][place]
    return {
        DOCUMENTS: {
            "where": [*documents.places],
            "id": [*documents.ids],
            "tokens": [*documents.tokens],
            "content": [digest.of_bytes(text.encode()) for text in documents.texts],
            "near_duplicate_of": alike,
            **documents.defects,
        }
    }


def suites(documents: Texts, config: Prepare, defects: Sequence[str]) -> dict[str, Suite]:
    """Return what is expected of the frame."""
    if not documents.texts and not documents.written:
        return {}
    gxe = great_expectations().expectations
    return {
        DOCUMENTS: {
            "has the documents that prepare wrote": Expected(
                gxe.ExpectTableRowCountToEqual(value=documents.written),
                "run `./lockstep run prepare`, which writes the splits and the report together",
            ),
            "no document is empty": Expected(
                gxe.ExpectColumnValuesToBeBetween(column="tokens", min_value=2),
                by_rules(config, "drop-empty-reference"),
            ),
            "documents are unique": Expected(
                gxe.ExpectColumnValuesToBeUnique(column="content"),
                by_rules(config, "drop-duplicates"),
            ),
            "no passage is a near-duplicate of a held-out row": Expected(
                gxe.ExpectColumnValuesToBeNull(column="near_duplicate_of"),
                "run `./lockstep run prepare`, which drops such documents",
            ),
            **{
                f"{defect} finds nothing": Expected(
                    gxe.ExpectColumnValuesToBeNull(column=defect), by_rules(config, defect)
                )
                for defect in defects
            },
        }
    }


def described(documents: Texts) -> Documents | None:
    """Their statistics; None if there are none."""
    if not documents.texts:
        return None
    return Documents(
        tokens=sum(documents.tokens),
        lengths=statistics.lengths(documents.places, documents.ids, documents.tokens),
        writing=statistics.writing(documents.places, documents.ids, documents.texts),
    )
