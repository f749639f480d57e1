"""Defines personal data and secrets in rows: the section ``prepare.personal_data`` and the gate ``privacy``.

Both find it by ``checks.data.detectors`` in every text of a row that training reads: messages and reference, with the
calls in them, tools, and further columns.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, JsonValue

from checks.data import detectors
from checks.data.detectors import Finding
from checks.data.drafts import Draft
from checks.records.sections import Section, Strings, stricter

if TYPE_CHECKING:
    Detector = str
else:
    Detector = Literal[detectors.KINDS]


class PersonalData(Section):
    """The kinds of personal data and secrets that count. Names and postal addresses are not found."""

    detectors: Annotated[
        tuple[Detector, ...],
        Field(
            strict=False,
            min_length=1,
            description="the kinds that are looked for: docs/how-to/privacy.md",
        ),
        stricter("more"),
    ]
    allow: Annotated[
        Strings,
        Field(
            description="what is nobody's, in any case: a whole text such as a@b.example, or @domain of addresses"
        ),
        stricter("fewer"),
    ] = ()

    def find(self, text: str) -> list[Finding]:
        """Where ``text`` has such data, in order and without overlaps."""
        return [
            finding
            for finding in detectors.find(text, frozenset(self.detectors))
            if not self.allow or not self._allowed(text[finding.start : finding.end].casefold())
        ]

    def mask(self, text: str) -> str:
        """``text`` with ``[kind]`` in place of each finding."""
        return detectors.redact(text, self.find(text))[0]

    def count(self, row: Draft) -> Counter[str]:
        """How many of each kind all texts of a row have."""
        return Counter(finding.kind for text in _texts(row) for finding in self.find(text))

    def _allowed(self, text: str) -> bool:
        entries = [entry.casefold() for entry in self.allow]
        return text in entries or any(
            entry.startswith("@") and text.endswith(entry) for entry in entries
        )


def _texts(row: Draft) -> Iterator[str]:
    """Every text of a row that training reads."""
    yield from (message.text for message in row.messages)
    yield row.full_reference
    for tool in row.tools:
        yield from strings(tool)
    yield from strings(row.extra)


def strings(value: JsonValue | Mapping[str, JsonValue]) -> Iterator[str]:
    """Yield the strings in a JSON value, keys left out."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from strings(item)
