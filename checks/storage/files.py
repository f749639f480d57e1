"""Reads and writes the files that steps exchange: atomic and strict; an invalid file is refused on one line."""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from pydantic import BaseModel, ValidationError

from checks.process.errors import EvidenceRefused

Model = TypeVar("Model", bound=BaseModel)

# Where a record, and a signed statement, say their format.
_FORMATS = (("schema_version",), ("predicateType",))
_FORMAT = re.compile(r"(.*?)([0-9]{1,9})", re.DOTALL)

LARGEST = 64 << 20  # bytes of a report
LONGEST = 16 << 20  # bytes of a line of rows; prepare takes rows of 1 MB


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Write to a temporary file beside ``path``, which replaces it only if the block succeeds.

    An OSError without a file name, as for a full disk, gets ``path``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        umask = os.umask(0)
        os.umask(umask)
        Path(name).chmod(0o666 & ~umask)
        Path(name).replace(path)
    except BaseException as error:
        Path(name).unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename = error.filename or str(path)
        raise


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Fill a directory beside ``path``, which replaces it only if the block succeeds.

    The old directory and leftovers of killed runs are deleted first, so a failure leaves nothing outdated.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for old in (path, *path.parent.glob(f".{path.name}.*")):
        if old.is_symlink() or old.is_file():
            old.unlink()
        elif old.exists():
            shutil.rmtree(old)
    home = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        folder = home / path.name  # its mode is this user's, not the private one of `home`
        folder.mkdir()
        yield folder
        folder.rename(path)
    finally:
        shutil.rmtree(home, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with replacing(path) as stream:
        stream.write(text.encode())


def write_json(path: Path, value: BaseModel | Any) -> None:
    """Write JSON atomically: two-space indent, final newline, NaN refused."""
    write_text(
        path,
        json.dumps(
            value.model_dump(mode="json") if isinstance(value, BaseModel) else value,
            indent=2,
            ensure_ascii=False,
            allow_nan=False,
        )
        + "\n",
    )


def _is_no_device(path: Path) -> None:
    """Refuse pipes and devices: a reader could wait for ever."""
    if path.exists() and not path.is_file() and not path.is_dir():
        raise EvidenceRefused(
            f"{path}: is not a regular file", "remove it, and run `./lockstep run` to make it"
        )


def read_json(path: Path, model: type[Model]) -> Model:
    """Read JSON into ``model``; raise EvidenceRefused if missing, malformed, too large or of another shape."""
    try:
        _is_no_device(path)
        if (size := path.stat().st_size) > LARGEST:
            raise EvidenceRefused(
                f"{path}: {size} bytes: a report has at most {LARGEST}",
                "run `./lockstep run` to make it",
            )
        return model.model_validate_json(path.read_bytes())
    except OSError as error:
        raise EvidenceRefused(
            f"{path}: {error.strerror or error}", "run `./lockstep run` to make it"
        ) from error
    except ValidationError as error:
        raise unfit(str(path), error, "run `./lockstep run` to make it again") from error


def write_jsonl(path: Path, rows: Iterable[BaseModel]) -> int:
    """Write one row per line, atomically; return the number of rows."""
    count = 0
    with replacing(path) as stream:
        for count, row in enumerate(rows, 1):  # noqa: B007 - the last value is the result
            stream.write(row.model_dump_json().encode() + b"\n")
    return count


def read_jsonl(path: Path, model: type[Model]) -> list[Model]:
    """Read all rows; raise EvidenceRefused with the line that is malformed or too long."""
    return list(each_of_jsonl(path, model))


def read_pinned(path: Path, model: type[Model], key: str, todo: str) -> list[Model]:
    """Read all rows of a file that params.yaml pins at ``key``, which EvidenceRefused names instead of the copy."""
    try:
        return read_jsonl(path, model)
    except EvidenceRefused as refused:
        what = refused.what.removeprefix(f"{path}:").strip()
        raise EvidenceRefused(f"{key}: {what}", todo) from refused


def each_of_jsonl(path: Path, model: type[Model]) -> Iterator[Model]:
    """Read row by row, as ``read_jsonl``: a million rows at once take gigabytes."""
    try:
        _is_no_device(path)
        with path.open("rb") as stream:
            for number, line in enumerate(iter(lambda: stream.readline(LONGEST + 1), b""), 1):
                if len(line) > LONGEST:
                    raise EvidenceRefused(
                        f"{path}:{number}: a line of more than {LONGEST} bytes",
                        "run `./lockstep run` to make the file again",
                    )
                try:
                    row = model.model_validate_json(line)
                except ValidationError as error:
                    raise unfit(
                        f"{path}:{number}", error, "run `./lockstep run` to make the file again"
                    ) from error
                yield row
    except OSError as error:
        raise EvidenceRefused(
            f"{path}: {error.strerror or error}", "run `./lockstep run` to make it"
        ) from error


def unfit(place: str, error: ValidationError, todo: str) -> EvidenceRefused:
    """Return the refusal of evidence by its first problem, with ``todo``. Raises as ``refuse_newer``."""
    refuse_newer(place, error)
    return EvidenceRefused(f"{place}: {first(error)}", todo)


def refuse_newer(place: str, error: ValidationError) -> None:
    """Raise EvidenceRefused if a newer Lockstep wrote the evidence, by the format that it names."""
    for detail in error.errors(include_url=False):
        if detail["type"] == "literal_error" and detail["loc"][-1:] in _FORMATS:
            refuse_format(place, str(detail["input"]), detail["ctx"]["expected"].strip("'"))


def refuse_format(place: str, given: str, known: str) -> None:
    """Raise EvidenceRefused if the format ``given`` is a later one than ``known``, by the number that ends both."""
    names = [_FORMAT.fullmatch(name) for name in (given, known)]
    (name, number), (known_name, known_number) = (
        match.groups() if match else ("", "0") for match in names
    )
    if name == known_name and int(number) > int(known_number):
        raise EvidenceRefused(
            f"{place}: has the format {given}, which a newer Lockstep reads: `lockstep upgrade`",
            "move to that version, then run this again",
        )


def first(error: ValidationError) -> str:
    """The first problem of a validation on one line: place and problem."""
    detail = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in detail["loc"])
    # Pydantic puts these words before those of a validator.
    what = str(detail["msg"]).removeprefix("Value error, ")
    return f"{key}: {what}" if key else what
