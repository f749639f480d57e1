"""Compares local sources with their pins, without fetching. DVC tracks the pin in params.yaml but not the file.

In:  ``base`` with the file of its chat template, ``data`` with its ``sources``, the files of ``suites``, the encoder of
 ``validate`` and ``merge.draft`` in params.yaml, if they are local. A missing source is left to its stage: the outputs
 may come from the DVC remote.
Out: only ``.lockstep/sources.json``, so that an unchanged source is not hashed again:
 {"schema_version": 1, "sha256": {"sha256:<of paths, sizes, times, inodes>": "sha256:<of the bytes>"}}
Run: ``python -m stages.still_pinned``; `lockstep run` does so before it starts DVC. Refusals name fetch.
"""

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Literal

from checks.code import lock
from checks.config.params import Params, Source
from checks.process.errors import EvidenceRefused
from checks.records.record import Digest
from checks.records.rows import Record
from checks.storage import digest, files, layout
from stages import entry, sources
from stages.sources import parsing
from stages.weights import chat_template

MEMO = layout.STATE / "sources.json"
# Nanoseconds. What changed less than this before it was hashed is not remembered: it could change once more within
# one tick of the file system's clock, and look the same. Any later change shows, while it is hashed too.
SETTLED = 2 * 10**9


class _Memo(Record):
    schema_version: Literal[1] = 1
    sha256: dict[Digest, Digest]


def still_pinned(params: Params, root: Path) -> str:
    """Compare local sources with their pins. Raises SourceRefused as fetch does, and ParamsRefused as ``code``."""
    lock.refuse_left_out(params)
    chat_template.text_of(params.base, root)
    pinned: dict[str, Source] = {"base": params.base, **params.data.pinned}
    for name, suite in params.suites.items():
        pinned |= {f"suites.{name}.{key}": source for key, source in suite.sources.items()}
    if (meant := params.validate_.semantic_duplicates) is not None:
        pinned["validate.semantic_duplicates.model"] = meant.model
    if params.merge.draft is not None:
        pinned["merge.draft"] = params.merge.draft
    known, current = _read(root), dict[str, str]()
    digests: dict[str, str | None] = {}
    for section, source in pinned.items():
        local = parsing.parse(source.uri, f"{section}.uri", root).local
        if local is not None:
            path = sources.place(local)
            digests[section] = (
                _sha256(path, section, known, current)
                if sources.lies_there(path, section)
                else None
            )
    if current != known:
        with suppress(OSError):  # it is hashed again
            files.write_json(root / MEMO, _Memo(sha256=current))
    for section, sha256 in digests.items():
        if sha256 is not None:
            sources.hold(pinned[section], section, sha256.removeprefix("sha256:"))
    states = (
        f"{section} {'as pinned' if sha256 else 'not here'}" for section, sha256 in digests.items()
    )
    return f"local sources: {', '.join(states) or 'none'}"


def _sha256(path: Path, section: str, known: dict[str, str], current: dict[str, str]) -> str:
    """Return a source's digest, from ``known`` by its stamp, or of its bytes; add it to ``current`` if reusable."""
    started = time.time_ns()
    try:
        stamp, changed = _stamp(path)
        actual = known.get(stamp) or f"sha256:{sources.measure(path, section).sha256}"
        if stamp in known or changed < started - SETTLED:
            current[stamp] = actual
    except OSError as error:
        raise sources.unreadable(section, error) from error
    return actual


def _stamp(path: Path) -> tuple[str, int]:
    """Describe a file or folder with everything below it, without reading. Raises OSError.

    Return the digest of names, sizes, times and inodes, and the time of the latest change in nanoseconds since 1970.
    """
    seen = [(path_below, path_below.lstat()) for path_below in (path, *sorted(path.rglob("*")))]
    states = [
        (
            os.fspath(path_below),
            s.st_mode,
            s.st_size,
            s.st_mtime_ns,
            s.st_ctime_ns,
            s.st_ino,
            s.st_dev,
        )
        for path_below, s in seen
    ]
    return digest.of_bytes(ascii(states).encode()), max(s.st_ctime_ns for _, s in seen)


def _read(root: Path) -> dict[str, str]:
    """Return the stored digests; empty if damaged or of another version."""
    try:
        return files.read_json(root / MEMO, _Memo).sha256
    except EvidenceRefused:
        return {}


if __name__ == "__main__":
    entry.run("fetch", still_pinned)
