"""A blob's bytes on their way into requests: hashed as they are taken, in pieces, never copied."""

import hashlib
from collections.abc import Iterator

from checks.errors import BuildRefused
from release.adapters.registry.types import Blob, Seen

_PIECE = 256 << 10  # bytes of one send, which has the ten seconds of a connection: 26 kB/s is fast enough


class Source:
    """A blob's bytes from ``start`` on; ``hasher`` has those before, and is continued."""

    def __init__(self, blob: Blob, start: int = 0, hasher: "hashlib._Hash | None" = None) -> None:
        self.hasher = hasher or hashlib.sha256()
        self.position = start
        self._blob = blob
        self._blocks = blob.blocks(start)
        self._rest = memoryview(b"")

    def take(self, count: int) -> Iterator[memoryview]:
        """The next ``count`` bytes in pieces, none copied."""
        while count:
            while not self._rest:
                self._rest = memoryview(self._next())
            piece = self._rest[: min(count, _PIECE)]
            self._rest = self._rest[len(piece) :]
            self.hasher.update(piece)
            self.position += len(piece)
            count -= len(piece)
            yield piece

    @property
    def digest(self) -> str:
        """Of all that was taken, and what was before."""
        return f"sha256:{self.hasher.hexdigest()}"

    def skip(self, count: int) -> None:
        """Hash ``count`` bytes that are not sent."""
        for _ in self.take(count):
            pass

    def end(self) -> None:
        """Raise BuildRefused when there is more than the size said."""
        if self._rest or self._next(none_is_fine=True):
            self._changed("has more")
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        close = getattr(self._blocks, "close", None)
        if close:
            close()

    def _next(self, *, none_is_fine: bool = False) -> bytes:
        try:
            block = next(self._blocks, None)
        except OSError as error:
            # As an OSError it would be taken for one of the connection.
            raise BuildRefused(
                f"a layer cannot be read: {error.strerror or error}", "mend that, and run it again"
            ) from error
        if block is None and not none_is_fine:
            self._changed(f"ends at {self.position:,}")
        return block or b""

    def _changed(self, how: str) -> None:
        raise BuildRefused(f"a layer of {self._blob.size:,} bytes {how}", "run it again, and change no file meanwhile")


class Body:
    """A body that requests sends with Content-Length, and urllib3 piece by piece as it comes."""

    def __init__(self, pieces: Iterator[memoryview], size: int, sent: Seen) -> None:
        self._pieces = pieces
        self._size = size
        self._sent = sent

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[memoryview]:
        count = 0
        for piece in self._pieces:
            yield piece
            count += len(piece)
            self._sent(count)
