"""A blob's bytes on their way into a request: hashed as they are sent, in pieces, never copied."""

import hashlib
from collections.abc import Iterator

from checks.process.errors import BuildRefused
from release.adapters.registry.types import Blob, Seen

# The bytes of one send. A send may take the ten seconds of CONNECT, so 26 kB/s is fast enough.
_PIECE = 256 << 10


class Body:
    """All bytes of a blob, for one request. requests sends it with a Content-Length, and urllib3 piece by piece.

    ``sent`` is told how many bytes were sent so far.
    """

    def __init__(self, blob: Blob, sent: Seen) -> None:
        self._blob = blob
        self._sent = sent
        self._hasher = hashlib.sha256()
        self._is_longer = False

    def __len__(self) -> int:
        return self._blob.size

    def __iter__(self) -> Iterator[memoryview]:
        """Raises BuildRefused when the blob cannot be read, or ends before its size."""
        count = 0
        for block in _read(self._blob):
            rest = len(self) - count
            self._is_longer = len(block) > rest
            wanted = memoryview(block)[:rest]
            for at in range(0, len(wanted), _PIECE):
                piece = wanted[at : at + _PIECE]
                self._hasher.update(piece)
                yield piece
                count += len(piece)
                self._sent(count)
            if self._is_longer:
                return
        if count < len(self):
            raise _changed(self._blob, f"ends at {count:,}")

    def digest(self) -> str:
        """Of all that was sent. Raises BuildRefused when the blob has more bytes than its size said."""
        if self._is_longer:
            raise _changed(self._blob, "has more")
        return f"sha256:{self._hasher.hexdigest()}"


def _read(blob: Blob) -> Iterator[bytes]:
    try:
        yield from blob.blocks()
    except OSError as error:
        # As an OSError it would be taken for one of the connection.
        raise BuildRefused(
            f"a layer cannot be read: {error.strerror or error}", "fix that, and run it again"
        ) from error


def _changed(blob: Blob, how: str) -> BuildRefused:
    return BuildRefused(
        f"a layer of {blob.size:,} bytes {how}", "run it again, and change no file meanwhile"
    )
