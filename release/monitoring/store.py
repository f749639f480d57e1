"""The folder with captured requests and the labels that came for them: on this machine, or at an address of fsspec."""

import codecs
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import Field, ValidationError

from checks.formats import captures, harvest
from checks.process.errors import EvidenceRefused, MachineRefused
from checks.process.text import redact
from checks.records.rows import Record
from checks.storage import digest, files
from release.monitoring.gateway.answers import object_in

_FEEDBACK = "feedback"
_STORED = "%Y%m%dT%H%M%S.%fZ"  # how the name of a file of labels begins, in UTC
_LARGEST = 1 << 30  # bytes of one file


class Label(Record):
    """The answer that a request should have had, as somebody says."""

    request_id: captures.Name
    label: Annotated[str, Field(max_length=1_000_000)]


class GivenLabel(NamedTuple):
    """The first label of a request, and when it was stored."""

    label: str
    stored: datetime


class Task(Record):
    """A request in a file that `lockstep watch --pr` queues for labelling. ``label``: null until somebody writes it."""

    request_id: captures.Name
    label: Annotated[str | None, Field(max_length=1_000_000)]
    prompt: str = ""
    answer: str = ""  # The model's answer.


class Erasing(NamedTuple):
    """How many lines go, and what is left of each file that had some of them."""

    lines: int
    left: Mapping[str, bytes]


class CaptureStore:
    """The folder at ``address``: a path, or an address such as s3://bucket/captures."""

    def __init__(self, address: str) -> None:
        self.shown = redact(address)
        self._files: Any = None
        self._top = self._address = address.rstrip("/")
        if "://" in address:
            try:
                from fsspec.core import url_to_fs

                self._files, self._top = url_to_fs(address)
            except (ImportError, ValueError) as error:
                raise MachineRefused(
                    f"{self.shown}: {redact(str(error))}",
                    "install what reads it (the extra s3 or gs), or copy the captures to a folder",
                ) from error

    def requests(
        self, environment: str, since: datetime, until: datetime
    ) -> Iterator[captures.Capture]:
        """The captured requests that arrived from ``since`` on and before ``until``. Raises EvidenceRefused."""
        for name in self._names(environment):
            if not captures.may_hold(name, since, until):
                continue
            for row in captures.parse(self._read(name), redact(name)):
                if row.environment == environment and since <= row.time < until:
                    yield row

    def documents(self) -> Iterator[tuple[str, bytes]]:
        """The name and the bytes of the file at this address, or of each file below it. Raises EvidenceRefused."""
        alone = self._files is None and Path(self._top).is_file()
        names = [self._top] if alone else self._names("")
        if not names:
            raise EvidenceRefused(
                f"{self.shown}: there is no file", "name a file, or a folder of files"
            )
        for name in names:
            yield redact(name), self._read(name)

    def add_requests(
        self, environment: str, requests: Sequence[captures.Capture], writer: str
    ) -> tuple[list[str], int]:
        """Store requests that another tool captured, a file for each hour in which some arrived.

        Returns the names of these files, and how many requests are new.

        A request that is stored already is left out, so the same ones again change nothing. Raises EvidenceRefused.
        """
        times = [request.time for request in requests]
        there = self.requests(environment, min(times), max(times) + timedelta(microseconds=1))
        known = {(request.time, request.request_id) for request in there}
        hours = defaultdict[str, list[str]](list)
        for request in sorted(requests, key=lambda request: (request.time, request.request_id)):
            if (key := (request.time, request.request_id)) not in known:
                known.add(key)
                hours[f"{request.time:%Y-%m-%d/%H}"].append(f"{request.model_dump_json()}\n")
        names = []
        for hour, lines in hours.items():
            data = "".join(lines)
            digits = digest.of_bytes(data.encode()).removeprefix("sha256:")[:16]
            names.append(f"{environment}/{hour}-{writer}-{digits}{captures.CLOSED}")
            self._write(names[-1], data)
        return names, sum(map(len, hours.values()))

    def labels(self) -> Iterator[Label]:
        """Every label that was given, in the order in which they were stored. Raises EvidenceRefused."""
        for name in self._names(_FEEDBACK):
            yield from parse(self._read(name), redact(name))

    def first_labels(self) -> dict[str, GivenLabel]:
        """The first label of each request, in the order in which they were stored.

        A test that is looked at again and again must not take back what it has read. Raises EvidenceRefused, also for a
        file whose name does not begin with the time at which it was stored.
        """
        given: dict[str, GivenLabel] = {}
        for name in self._names(_FEEDBACK):
            stored = _stored(name)
            for label in parse(self._read(name), redact(name)):
                given.setdefault(label.request_id, GivenLabel(label.label, stored))
        return given

    def add(self, labels: list[Label], stored: datetime | None = None) -> str:
        """Store ``labels``; the same ones again change nothing. Returns the name of their file.

        ``stored``: when they became known; None: now.
        """
        data = "".join(
            f"{json.dumps(label.model_dump(), ensure_ascii=False)}\n" for label in labels
        )
        end = f"-{digest.of_bytes(data.encode()).removeprefix('sha256:')[:32]}.jsonl"
        if there := next((name for name in self._names(_FEEDBACK) if name.endswith(end)), None):
            return f"{_FEEDBACK}/{there.rpartition('/')[2]}"
        time = stored or datetime.now(UTC)
        name = f"{_FEEDBACK}/{time:{_STORED}}{end}"
        self._write(name, data)
        return name

    def keep(self, name: str, data: bytes) -> str:
        """Store a file below the folder, and return its address."""
        self._write(name, data.decode())
        return f"{self._top}/{name}" if self._files is None else f"{self._address}/{name}"

    def read(self, name: str) -> bytes:
        """Return the bytes of a file below the folder. Raises EvidenceRefused."""
        return self._read(f"{self._top}/{name}")

    def has(self, name: str) -> bool:
        """Return whether there is a file below the folder with this name."""
        path = f"{self._top}/{name}"
        return Path(path).is_file() if self._files is None else bool(self._files.exists(path))

    def without(self, request: str) -> Erasing:
        """Return the files that have lines of a request, by the digest of its id, as they are without these lines.

        A source with a row of the request is left out whole. Raises EvidenceRefused if a gateway still writes one of
        these files, or for a file that is none of captures, because it could have the request.
        """
        left, removed = dict[str, bytes](), 0
        for name in self._every_name():
            if not name.endswith((captures.CLOSED, captures.OPEN)):
                raise EvidenceRefused(
                    f"{redact(name)}: is no file of captures, and could have the request",
                    "unpack it, or move it away, and erase again",
                )
            lines = self._read(name).splitlines(keepends=True)
            kept = [line for line in lines if not is_about(line, request)]
            if len(kept) == len(lines):
                continue
            if name.endswith(captures.OPEN):
                raise EvidenceRefused(
                    f"{redact(name)}: a gateway still writes it", "erase again in an hour"
                )
            removed += len(lines) - len(kept)
            # Captures lie deeper: a folder for the environment, and one for the day.
            is_source = name.rpartition("/")[0] == f"{self._top}/{harvest.FOLDER}"
            left[name] = b"" if is_source else b"".join(kept)
        return Erasing(removed, left)

    def replace(self, erasing: Erasing) -> None:
        """Replace the files of ``without``. One without bytes is removed."""
        for name, data in erasing.left.items():
            if self._files is not None:
                self._files.pipe_file(name, data) if data else self._files.rm_file(name)
            elif data:
                with files.replacing(Path(name).resolve()) as stream:
                    stream.write(data)
            else:
                Path(name).resolve().unlink()

    def _every_name(self) -> list[str]:
        """All files, those below links to folders of environments too, each once."""
        if self._files is not None:
            return self._names("")
        top = Path(self._top)
        folders = [path.name for path in sorted(top.iterdir())] if top.is_dir() else []
        names = [*self._names(""), *(name for folder in folders for name in self._names(folder))]
        return list({Path(name).resolve(): name for name in reversed(names)}.values())

    def _write(self, name: str, text: str) -> None:
        if self._files is None:
            files.write_text(Path(self._top) / name, text)
        else:
            self._files.makedirs(f"{self._top}/{name}".rpartition("/")[0], exist_ok=True)
            self._files.pipe_file(f"{self._top}/{name}", text.encode())

    def _names(self, folder: str) -> list[str]:
        """All files below ``folder``, sorted."""
        if self._files is None:
            below = Path(self._top) / folder
            return sorted(path.as_posix() for path in below.rglob("*") if path.is_file())
        try:
            return sorted(self._files.find(f"{self._top}/{folder}"))
        except FileNotFoundError:
            return []
        except Exception as error:
            raise EvidenceRefused(
                f"{self.shown}: {redact(str(error))}", "make it readable from here"
            ) from error

    def _read(self, name: str) -> bytes:
        try:
            if self._files is not None:
                data: bytes = self._files.cat_file(name)
                return data
            if (size := Path(name).stat().st_size) > _LARGEST:
                raise EvidenceRefused(
                    f"{name}: {size} bytes are no file of a gateway", "move it out of the captures"
                )
            return Path(name).read_bytes()
        except OSError as error:
            raise EvidenceRefused(
                f"{redact(name)}: {error.strerror or error}", "make it readable"
            ) from error


def _stored(name: str) -> datetime:
    """When the file of labels ``name`` was stored."""
    try:
        return datetime.strptime(name.rpartition("/")[2].partition("-")[0], _STORED).replace(
            tzinfo=UTC
        )
    except ValueError as error:
        raise EvidenceRefused(
            f"{redact(name)}: its name does not begin with the time at which its labels were stored",
            "store the labels with `lockstep feedback FILE`, and remove this file",
        ) from error


def is_about(line: bytes, request: str) -> bool:
    """Whether a line is a capture, a label or a harvested row of the request whose id has this digest."""
    row = object_in(line)
    name = row.get("lockstep.request_id", row.get("request_id"))
    own = harvest.request_digest(name) if isinstance(name, str) else row.get("id")
    return own == request


def parse(data: bytes, where: str) -> Iterator[Label]:
    """The labels in JSON lines, without tasks that have none yet. Raises EvidenceRefused for a line that is neither."""
    # Some editors begin a file with a mark of its encoding.
    for number, line in enumerate(data.removeprefix(codecs.BOM_UTF8).splitlines(), 1):
        try:
            task = Task.model_validate_json(line)
            if task.label is not None:
                yield Label(request_id=task.request_id, label=task.label)
        except ValidationError as error:
            raise EvidenceRefused(
                f"{where}:{number}: {files.first(error)}",
                'write each line as {"request_id": "…", "label": "…"}',
            ) from error
