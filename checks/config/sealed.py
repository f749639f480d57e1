"""The sealed split: encrypted test rows that no pull request, laptop or report reads: section ``sealed``.

The rows are encrypted in git. Only the job that `lockstep sealed ask` runs in has the key. It answers each model once,
by one bit: all gates pass, or they do not. docs/how-to/sealed.md
"""

from collections.abc import Iterable, Sequence
from typing import Annotated

from pydantic import ConfigDict, Field, JsonValue, ValidationError, field_validator

from checks.config.params import Sealed
from checks.process.errors import EvidenceRefused
from checks.records.record import Record
from checks.records.rows import Message, Row, ToolCall, in_the_reference
from checks.storage import digest, layout

VARIABLE = "LOCKSTEP_SEALED_KEY"
REFRESH = "refresh the sealed split: `lockstep sealed new` with fresh rows, and a new sealed.sha256"


def asked(split: Sealed) -> str:
    """The digest of the section: split, gates and looks. A bit for other gates, or another split, does not count."""
    return digest.of_json(split.model_dump(mode="json"))


class SealedLine(Record):
    """One row as a person writes it: as a line of data/splits/test.jsonl, of which other keys are not read."""

    model_config = ConfigDict(extra="ignore")

    messages: Annotated[tuple[Message, ...], Field(min_length=1)]
    reference: str
    calls: tuple[ToolCall, ...] = ()
    tools: tuple[dict[str, JsonValue], ...] = ()
    slice: Annotated[str, Field(min_length=1)] = "all"
    group: Annotated[str, Field(min_length=1)] | None = None

    _calls_are_in_the_reference = field_validator("calls")(in_the_reference)


def rows_of(lines: Sequence[SealedLine], groups: Sequence[int]) -> list[Row]:
    """The rows of a split. ``groups``: for each line the first line that it is alike to, its cluster if it names none.

    Raises EvidenceRefused where two lines are the same.
    """
    rows = dict[str, Row]()
    for number, (line, first) in enumerate(zip(lines, groups, strict=True), 1):
        content = [
            line.model_dump(include={"messages"}),
            line.reference,
            *([list(line.tools)] if line.tools else []),
        ]
        identity = digest.of_json(content).removeprefix("sha256:")[:16]
        if (same := rows.get(identity)) is not None:
            raise EvidenceRefused(
                f"line {number}: is the same as {same.source}", "keep one of them"
            )
        rows[identity] = Row(
            id=identity, messages=line.messages, reference=line.reference, group=line.group or f"line:{first + 1}",
            slice=line.slice, source=f"line:{number}", calls=line.calls, tools=line.tools,
        )  # fmt: skip
    return list(rows.values())


def encrypt(rows: Iterable[Row], key: bytes) -> bytes:
    """Return the rows as one Fernet token: AES-128-CBC and HMAC-SHA-256 (github.com/fernet/spec)."""
    from cryptography.fernet import Fernet

    return Fernet(key).encrypt("".join(f"{row.model_dump_json()}\n" for row in rows).encode())


def decrypt(data: bytes, keys: str, wanted: Sealed) -> list[Row]:
    """Return the rows of the file ``data``. Refusals never show any of them.

    ``keys``: a key a line, of this file and of others. The one that opens the file is found by trying. Raises
    EvidenceRefused if the file is another one, none of the keys opens it, or it does not hold the rows.
    """
    from cryptography.fernet import Fernet, InvalidToken, MultiFernet

    if digest.of_bytes(data) != f"sha256:{wanted.sha256}":
        raise EvidenceRefused(
            f"{layout.SEALED}: is not the file that sealed.sha256 pins",
            "check out the target branch",
        )
    try:
        known = MultiFernet([Fernet(key.encode()) for key in keys.split()])
        lines = known.decrypt(data).splitlines()
        rows = [Row.model_validate_json(line) for line in lines]
    except (ValueError, InvalidToken) as error:
        what = (
            "does not hold rows"
            if isinstance(error, ValidationError)
            else f"{VARIABLE} does not have its key"
        )
        raise EvidenceRefused(
            f"{layout.SEALED}: {what}",
            "add the key that `lockstep sealed new` wrote with this file, as a line of its own",
        ) from None
    if len(rows) != wanted.rows:
        raise EvidenceRefused(
            f"{layout.SEALED}: has {len(rows)} rows, and sealed.rows is {wanted.rows}",
            "set it to that number",
        )
    return rows
