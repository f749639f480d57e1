"""Loader of prepare: documents for continued pre-training, from JSONL, Parquet or CSV files, or from text files.

A document is one column of text in a row of a table, or a whole file (.md, .rst, .txt). It has no prompt and no answer.
It is for a source of ``data.sources`` with ``splits: [train]``: docs/how-to/documents.md. Faults of files and rows are
refused as by the loader ``table``.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from checks.data.drafts import Draft
from checks.kinds.loader import Loader
from checks.records.sections import problems
from stages.loaders import table


class Documents(Loader):
    """Documents, for a method that learns from them, such as cpt."""

    of_documents = True

    kind: Literal["documents"]
    files: Annotated[
        str,
        Field(
            description="glob below the data source: tables, or files of text; such as **/*.md",
            min_length=1,
        ),
    ]
    column: Annotated[
        str | None,
        Field(
            description="column of a table with the text; null: each file is a document, .md, .rst or .txt"
        ),
    ]
    id: Annotated[
        str | None,
        Field(
            description="column of a table with a unique id; without it ids are digests of the documents"
        ),
    ] = None

    def contradictions(self) -> Iterator[str]:
        """Yield each contradiction, as "problem|remedy"."""
        return problems(
            (
                self.id is not None and self.column is None,
                "id: is a column of a table, and column is null|name the column of the text too",
            )
        )

    def load(self, folder: Path) -> list[Draft]:
        """All documents, ordered by path and line."""
        return table.drafts_of(
            table.matching(self.files, folder, whole=self.column is None), folder, self._draft
        )

    def _draft(self, source: str, row: dict[str, Any]) -> Draft:
        text = table.text_of(row, self.column or table.TEXT)
        return Draft(
            before=(), prompt="", reference=text, answer=text, slice="all", source=source,
            id=None if self.id is None else table.id_of(row, self.id), document=True,
        )  # fmt: skip
