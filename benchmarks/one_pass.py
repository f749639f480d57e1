"""Uploads files to a registry in one pass: each byte is read, hashed and sent once, one file after the other.

    python -m benchmarks.one_pass http://HOST/v2/NAME/blobs/uploads/ FILE...

In:  files, and where a repository opens uploads.
Out: a blob for each file in the registry. `benchmarks.build` compares `lockstep build --push` to this.
"""

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path

import requests

BLOCK = 1 << 20


class Body:
    """The bytes of a file, hashed as they are sent. With a length, requests sends a Content-Length."""

    def __init__(self, path: Path) -> None:
        self.hasher = hashlib.sha256()
        self._path = path

    def __len__(self) -> int:
        return self._path.stat().st_size

    def __iter__(self) -> Iterator[bytes]:
        with self._path.open("rb", buffering=0) as stream:
            while block := stream.read(BLOCK):
                self.hasher.update(block)
                yield block


def main(uploads: str, *paths: str) -> None:
    """Upload every file: POST opens an upload, PATCH sends the bytes, PUT names them by their digest."""
    with requests.Session() as session:
        for path in paths:
            body = Body(Path(path))
            opened = session.post(uploads)
            sent = session.patch(opened.headers["Location"], data=body)
            digest = {"digest": f"sha256:{body.hasher.hexdigest()}"}
            stored = session.put(sent.headers["Location"], params=digest)
            stored.raise_for_status()


if __name__ == "__main__":
    main(*sys.argv[1:])
