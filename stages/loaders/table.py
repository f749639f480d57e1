"""Loader of prepare: a team's own rows from JSONL, Parquet or CSV files below data/raw.

A row is ``prompt`` and ``reference``, or ``messages``: an optional system turn, then user and assistant in turn,
and the last assistant turn is the reference. As TRL has it, the prompt may be a list of turns too, and an answer a list
of one. The assistant's turns may call functions, and ``tools`` describes which. CSV means commas and UTF-8. Files may
have more columns than params.yaml names. A null prompt, reference or turn is empty text, which the rules
drop-empty-prompt and drop-empty-reference count; in CSV a cell is null when it is empty, and every other cell is text
("NA" is). Any other fault refuses, with file, row and column. So does a line, cell or Parquet row above LARGEST, before
all of it is in memory: no model here reads as much, and one missing quote makes a whole file one cell.
"""

import csv
import json
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import repeat
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal

from pydantic import Field, JsonValue, TypeAdapter

from checks.data.drafts import Draft
from checks.kinds.loader import Loader
from checks.process import distribution
from checks.process.errors import DataRefused, MachineRefused
from checks.process.text import escape
from checks.records import call_columns, chats
from checks.records.call_columns import Bad, as_text, cut, shown, unique
from checks.records.rows import Message, calls_in
from checks.records.sections import Name, Section, problems

LARGEST = 1 << 20  # bytes of a line or Parquet row, characters of a CSV cell
_BATCH = 256  # rows of a Parquet file that are read at once
_RETURNS = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")
_OTHER_MARKS = {";": "semicolons", "\t": "tabs"}  # Marks that part cells in place of commas.
_SHOWN = 5  # further bad rows that a refusal lists
_JSON: TypeAdapter[JsonValue] = TypeAdapter(JsonValue)
Found = tuple[str, dict[str, Any]]  # path:line (Parquet: path:row), and the row


class Columns(Section):
    """Names of the table's columns: either ``messages``, or ``prompt`` and ``reference``."""

    prompt: Annotated[str | None, Field(description="column with the prompt")] = None
    reference: Annotated[str | None, Field(description="column with the expected answer")] = None
    messages: Annotated[
        str | None,
        Field(description="column with a chat; its last assistant turn is the reference"),
    ] = None
    system: Annotated[
        str | None,
        Field(
            description="column with the row's system message; where it is null, loader.instruction"
        ),
    ] = None
    tools: Annotated[
        str | None,
        Field(
            description="column with the functions that a chat can call: a list, or its JSON text"
        ),
    ] = None
    id: Annotated[
        str | None,
        Field(description="column with a unique id; without it ids are digests of the rows"),
    ] = None
    slice: Annotated[
        str | None, Field(description="column by whose values results are reported and judged")
    ] = None
    group: Annotated[
        str | None,
        Field(description="column whose equal values are kept in one split, such as one customer"),
    ] = None
    extra: Annotated[
        dict[Name, str] | None,
        Field(
            description="further columns that train.method needs: the method's name to the table's name"
        ),
    ] = None

    def contradictions(self) -> Iterator[str]:
        """Yield each contradiction, as "problem|remedy"."""
        pair = (self.prompt is not None, self.reference is not None)
        return problems(
            (
                self.messages is not None and any(pair),
                "has both messages and prompt/reference|keep messages, or prompt and reference",
            ),
            (
                self.messages is None and not all(pair),
                "lacks prompt or reference|name both columns, or the one of messages",
            ),
        )


class Table(Loader):
    """Your own rows from JSONL, Parquet or CSV files."""

    kind: Literal["table"]
    files: Annotated[
        str, Field(description="glob below the data source, for example **/*.jsonl", min_length=1)
    ]
    columns: Columns
    instruction: Annotated[
        str | None, Field(description="the system message for rows without one")
    ] = None

    def load(self, folder: Path) -> list[Draft]:
        """Return all rows of the files, ordered by path and line. Raises DataRefused for rows and files at fault."""
        # All rows share this message.
        system = Message(role="system", content=self.instruction) if self.instruction else None
        return drafts_of(
            matching(self.files, folder),
            folder,
            lambda source, row: _draft(self, system, source, row),
        )


def drafts_of(
    paths: Sequence[Path], folder: Path, draft: Callable[[str, dict[str, Any]], Draft]
) -> list[Draft]:
    """The rows of these files as drafts: ``draft`` makes one of a place and a row. Raises DataRefused as above."""
    drafts: list[Draft] = []
    bad: list[str] = []
    for path in paths:
        name = path.relative_to(folder).as_posix()
        before = len(drafts) + len(bad)
        try:
            for source, row in (_READERS | _TEXTS)[path.suffix.lower()](path, name):
                try:
                    drafts.append(draft(source, row))
                except Bad as reason:
                    bad.append(f"{source}: {reason}")
        except Bad as reason:  # the rest of the file cannot be read
            bad.append(str(reason))
        if len(drafts) + len(bad) == before:
            bad.append(f"{name}: holds no row")
    bad.extend(_repeated_ids(drafts))
    if bad:
        # Names of columns and messages of readers are as the file has them.
        bad = [escape(line) for line in bad]
        more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
        raise DataRefused(
            f"{bad[0]}{more}",
            "fix the data source, or prepare.loader in params.yaml where it names the wrong column",
            tuple(bad[1 : _SHOWN + 1]),
        )
    return drafts


def rows(path: Path, name: str | None = None) -> Iterator[Found]:
    """The rows of one file with all their columns; raise DataRefused for a file that cannot be read.

    ``name``: what it is called in places; None: the name of the file.
    """
    if path.suffix.lower() not in _READERS:
        raise DataRefused(
            f"{path.name}: {path.suffix or 'no suffix'} is not a known format",
            f"use one of {', '.join(_READERS)}",
        )
    try:
        yield from _READERS[path.suffix.lower()](path, name or path.name)
    except Bad as reason:
        raise DataRefused(escape(str(reason)), "fix the file") from reason


def matching(pattern: str, folder: Path, whole: bool = False) -> list[Path]:
    """The files below ``folder`` that a glob names, ordered by path; raise DataRefused if none or another format.

    ``whole``: files of plain text, each as one row, in place of tables.
    """
    known = _TEXTS if whole else _READERS
    if Path(pattern).is_absolute() or ".." in Path(pattern).parts:
        raise DataRefused(
            f"prepare.loader.files: {pattern!r} leaves the data source", "give a glob below it"
        )
    try:
        paths = sorted(
            (p for p in folder.glob(pattern) if p.is_file()),
            key=lambda p: p.relative_to(folder).as_posix(),
        )
    except (ValueError, IndexError) as error:  # Python 3.11 raises IndexError for "."
        raise DataRefused(
            f"prepare.loader.files: {pattern!r} is no glob of files",
            "write a glob such as **/*.jsonl",
        ) from error
    if not paths:
        present = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
        listed = ", ".join(present[:5]) or "nothing"
        if len(present) > 5:
            listed += ", …"
        raise DataRefused(
            f"prepare.loader.files: {pattern!r} matches no file below {folder}",
            f"it holds {listed}: change the glob or data.uri",
        )
    for path in paths:
        if path.suffix.lower() not in known:
            raise DataRefused(
                f"{path.relative_to(folder)}: {path.suffix or 'no suffix'} is not a known format",
                f"use one of {', '.join(sorted(known))}, or narrow prepare.loader.files",
            )
    return paths


def _jsonl(path: Path, name: str) -> Iterator[Found]:
    decoder = json.JSONDecoder(object_pairs_hook=unique)  # json.loads would make one for each row
    with path.open("rb") as stream:
        for number, line in enumerate(_lines(stream, name), 1):
            source = f"{name}:{number}"
            if not line.strip():
                continue
            try:
                row = decoder.decode(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except UnicodeDecodeError as error:
                raise Bad(f"{source}: is not UTF-8 at byte {error.start} of the line") from error
            except (ValueError, RecursionError) as error:
                raise Bad(f"{source}: is not JSON: {error}") from error
            if not isinstance(row, dict):
                raise Bad(f"{source}: {shown(row)} is not an object")
            yield source, row


def _lines(stream: BinaryIO, name: str) -> Iterator[bytes]:
    """The lines of a file, each up to LARGEST; of a longer line only its length is kept."""
    number = 0
    while line := stream.readline(LARGEST + 1):
        number += 1
        if len(line) > LARGEST:
            size = len(line)
            while not line.endswith(b"\n") and (line := stream.readline(LARGEST)):
                size += len(line)
            raise _too_large(f"{name}:{number}", f"a line of {size} bytes")
        yield line


def _too_large(source: str, what: str) -> Bad:
    return Bad(f"{source}: {what}: rows are at most {LARGEST} long")


def _csv(path: Path, name: str) -> Iterator[Found]:
    csv.field_size_limit(LARGEST)
    with path.open("rb") as stream:
        reader = csv.reader(_texts(stream, name), strict=True)
        header: list[str] | None = None
        while True:
            source = f"{name}:{reader.line_num + 1}"  # where the row starts: a quoted cell may hold line ends
            try:
                cells = next(reader, None)
            except csv.Error as error:
                if "field limit" in str(error):
                    raise _too_large(
                        source,
                        f"a cell of more than {LARGEST} characters, or without its last quote",
                    ) from error
                raise Bad(f"{source}: is not CSV: {error}") from error
            if cells is None:
                return
            if not cells:
                continue
            if header is None:
                header = cells
                if len(header) == 1 and (
                    parted := [name for mark, name in _OTHER_MARKS.items() if mark in header[0]]
                ):
                    raise Bad(
                        f"{source}: has one column, {shown(header[0])}: {parted[0]} seem to part its cells, and CSV "
                        "means commas and UTF-8"
                    )
                if len(set(header)) < len(header):
                    raise Bad(f"{source}: a column is named twice: {shown(header)}")
                continue
            if len(cells) != len(header):
                raise Bad(f"{source}: {len(cells)} cells under {len(header)} columns")
            yield source, {column: cell or None for column, cell in zip(header, cells, strict=True)}


def _texts(stream: BinaryIO, name: str) -> Iterator[str]:
    """The lines of a file as text, as ``open`` gives them with ``newline=""``: a carriage return ends one too."""
    for number, line in enumerate(_lines(stream, name), 1):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise Bad(f"{name}:{number}: is not UTF-8 at byte {error.start} of the line") from error
        yield from _RETURNS.findall(text) if "\r" in text[:-2] else [text]


def _parquet(path: Path, name: str) -> Iterator[Found]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise MachineRefused(
            f"{name}: Parquet needs pyarrow, which is not installed",
            f"{distribution.install('parquet')}; or save the rows as CSV or JSONL",
        ) from error
    number = 0
    try:
        with pq.ParquetFile(path) as file:
            # Of two columns with one name, to_pylist would take the last.
            if len(set(names := file.schema_arrow.names)) < len(names):
                raise Bad(f"{name}: a column is named twice: {shown(names)}")
            _hold_groups(file.metadata, name)
            for batch in file.iter_batches(batch_size=_BATCH):
                for part in (
                    [batch]
                    if _size(batch) <= LARGEST
                    else map(batch.slice, range(batch.num_rows), repeat(1))
                ):
                    if part is not batch and (size := _size(part)) > LARGEST:
                        raise _too_large(f"{name}:{number + 1}", f"a row of {size} bytes")
                    for row in part.to_pylist():
                        number += 1
                        yield f"{name}:{number}", row
    except OverflowError as error:  # Arrow's times reach further than Python's
        raise Bad(f"{name}: has a time after row {number} that is out of range: {error}") from error
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise Bad(
            f"{name}: is not Parquet after row {number}: {str(error).splitlines()[0]}"
        ) from error


def _hold_groups(metadata: Any, name: str) -> None:
    """Refuse a row group whose metadata says that its rows are too large, before any of it is read."""
    first = 1
    for index in range(metadata.num_row_groups):
        group = metadata.row_group(index)
        if group.num_rows and group.total_byte_size > LARGEST * group.num_rows:
            raise _too_large(
                f"{name}:{first}",
                f"{group.num_rows} rows of {group.total_byte_size} bytes from here",
            )
        first += group.num_rows


def _size(batch: Any) -> int:
    """Bytes of an Arrow batch, with dictionaries expanded."""
    columns = (
        column.dictionary_decode() if hasattr(column, "dictionary_decode") else column
        for column in batch.columns
    )
    return sum(column.nbytes for column in columns)


def _plain_text(path: Path, name: str) -> Iterator[Found]:
    """A file of text, whole, under the column ``text``; its lines end in a line feed, as ``open`` gives them."""
    with path.open("rb") as stream:
        data = stream.read(LARGEST + 1)
    if len(data) > LARGEST:
        raise _too_large(f"{name}:1", f"a file of {path.stat().st_size} bytes")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Bad(f"{name}: is not UTF-8 at byte {error.start}") from error
    yield f"{name}:1", {TEXT: text.replace("\r\n", "\n").replace("\r", "\n")}


TEXT = "text"  # the column of a file of plain text
_TEXTS = dict.fromkeys((".md", ".rst", ".txt"), _plain_text)
_READERS = {".jsonl": _jsonl, ".ndjson": _jsonl, ".csv": _csv, ".parquet": _parquet}


def _draft(loader: Table, system: Message | None, source: str, row: dict[str, Any]) -> Draft:
    columns = loader.columns
    if columns.messages is not None:
        *chat, answer = _turns(_cell(row, columns.messages), columns.messages, chats.CHAT)
    elif chats.is_chat(cell := _cell(row, columns.prompt)):
        chat, answer = _turns(cell, columns.prompt, chats.PROMPT), _answer(row, columns.reference)
    else:
        chat = [Message(role="user", content=text_of(row, columns.prompt))]
        answer = _answer(row, columns.reference)
    last = max(place for place, turn in enumerate(chat) if turn.role == "user")
    before, question, after = chat[:last], chat[last], chat[last + 1 :]
    tools = _tools(row, columns.tools, (*chat, answer))
    asked, known = _said(chat), bool(tools) or calls_in((*chat, answer))
    own = text_of(row, columns.system) if columns.system is not None else ""
    if before and before[0].role == "system":
        if own:
            raise Bad(f"column {columns.system!r}: has a system message, and so has the row's chat")
    elif (head := Message(role="system", content=own) if own else system) is not None:
        before.insert(0, head)
    return Draft(
        before=tuple(before),
        prompt=question.content,
        reference=answer.content,
        answer=answer.content,
        slice=_label(row, columns.slice, "slice") or "all",
        source=source,
        id=_label(row, columns.id, "id"),
        group=_label(row, columns.group, "group"),
        extra={
            name: _further(row, column, asked, known)
            for name, column in (columns.extra or {}).items()
        },
        after=tuple(after),
        calls=answer.tool_calls,
        tools=tools,
    )


def _tools(
    row: dict[str, Any], column: str | None, chat: Sequence[Message]
) -> tuple[dict[str, JsonValue], ...]:
    """The row's tools, of which each call is one. Without a column of them, any function can be called."""
    if column is None and row.get("tools") and calls_in(chat):
        raise Bad(
            "calls tools, and prepare.loader.columns names no column of them: add tools: tools"
        )
    try:
        tools = call_columns.tools(_cell(row, column)) if column is not None else ()
        call_columns.refuse_unknown((call for turn in chat for call in turn.tool_calls), tools)
    except ValueError as error:
        raise Bad(f"column {column!r}: {error}") from error
    return tools


def _cell(row: dict[str, Any], column: str | None) -> Any:
    if column not in row:
        raise Bad(f"has no column {column!r}; it has {cut(', '.join(map(str, row)))}")
    return row[column]


def _plain(value: Any, column: str) -> JsonValue:
    """A cell of a further column: text, a number, or lists and mappings of these. NaN becomes null."""
    if isinstance(value, str):
        return as_text(value, f"column {column!r}")
    if isinstance(value, float) and value != value:
        return None
    try:
        plain = _JSON.validate_python(value)
        # The value must be one that a line of a split can hold.
        _JSON.validate_json(json.dumps([[plain]], allow_nan=False, ensure_ascii=False).encode())
    except (
        ValueError,
        RecursionError,
    ) as error:  # a type, infinity, half of a surrogate pair, or nested too deeply
        raise Bad(f"column {column!r}: {shown(value)} is not JSON") from error
    return plain


def _further(row: dict[str, Any], column: str, asked: Sequence[str], known: bool) -> JsonValue:
    """A cell of a further column. Of a list of turns it is the last answer: TRL writes worse answers so.

    It may call functions, those too that no tool describes, if they are ``known``: if the row has tools or calls.
    """
    cell = _cell(row, column)
    if not chats.is_chat(cell):
        return _plain(cell, column)
    *before, answer = _turns(cell, column, chats.CHAT if len(cell) > 1 else chats.ANSWER)
    if before and _said(before) != asked:
        raise Bad(
            f"column {column!r}: its turns before the last answer are not those of the row's prompt"
        )
    if answer.tool_calls and not known:
        raise Bad(
            f"column {column!r}: its answer calls tools, and the row has none: name their column, tools: tools"
        )
    return answer.text


def _said(turns: Sequence[Message]) -> list[str]:
    """Return what all but the system say in turn."""
    return [turn.text for turn in turns if turn.role != "system"]


def _answer(row: dict[str, Any], column: str | None) -> Message:
    cell = _cell(row, column)
    if chats.is_chat(cell):
        return _turns(cell, column, chats.ANSWER)[0]
    return Message(role="assistant", content=text_of(row, column))


def id_of(row: dict[str, Any], column: str) -> str:
    """A cell with a row's id, text or a whole number. For the function that ``drafts_of`` calls."""
    return str(_label(row, column, "id"))


def text_of(row: dict[str, Any], column: str | None) -> str:
    """Return a cell of text; an empty one if it is null. For the function that ``drafts_of`` calls."""
    return as_text(_cell(row, column), f"column {column!r}")


def _label(row: dict[str, Any], column: str | None, field: str) -> str | None:
    if column is None:
        return None
    value = _cell(row, column)
    text = str(value) if isinstance(value, int) else as_text(value, f"column {column!r}")
    if not text and field == "id":
        raise Bad(f"column {column!r}: is null: a row without its id")
    return text or None


def _turns(value: Any, column: str | None, shape: chats.Shape) -> list[Message]:
    column_named = f"column {column!r}"
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise Bad(f"{column_named}: {shown(value)} is not a list of turns: {error}") from error
    if not isinstance(value, list) or not all(isinstance(turn, dict) for turn in value):
        raise Bad(f"{column_named}: {shown(value)} is not a list of turns")
    try:
        return chats.turns(value, shape)
    except ValueError as error:
        raise Bad(f"{column_named}: {error}") from error


def _repeated_ids(drafts: list[Draft]) -> Iterator[str]:
    first: dict[str, str] = {}
    for draft in drafts:
        if draft.id is not None and first.setdefault(draft.id, draft.source) != draft.source:
            yield f"{draft.source}: id {shown(draft.id)} is taken by {first[draft.id]}"
