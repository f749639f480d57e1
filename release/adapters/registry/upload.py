"""One blob to a registry: POST opens an upload, one streamed PATCH sends the bytes, PUT names them by their digest.

A blob whose upload breaks is sent again whole, in a new upload. The PATCH has no Content-Range. Docker, skopeo and
crane push in this way, so every registry that they push to takes it. With a Content-Range, GHCR takes no more than
4 MiB a request, and ECR drops what follows the first chunk (aws/containers-roadmap#2831).

Source: google/go-containerregistry, pkg/v1/remote/write.go; OCI distribution specification 1.1, "Pushing blobs".
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from urllib.parse import quote

from checks.process.errors import BuildRefused
from release.adapters.registry.documents import Blob, Seen
from release.adapters.registry.transport import HASHING, Transport
from release.adapters.retries import RequestError, Tries

_BINARY = {"Content-Type": "application/octet-stream"}
# With these statuses the registry lost the upload, or received other bytes than were sent.
_REJECTED = frozenset({400, 404, 410, 416})
_REJECTIONS = 2  # After so many the blob is sent again; the next one is final.
# The bytes of one send, which has the ten seconds of a connection: 26 kB/s is fast enough.
_PIECE = 256 << 10


def send(
    transport: Transport,
    name: str,
    scopes: Sequence[str],
    blob: Blob,
    digest: str | None,
    seen: Seen,
) -> str:
    """Upload ``blob`` to the repository ``name``; return its digest, which must be ``digest`` where that is given.

    ``seen`` is told every byte once, however often it is sent. Raises RequestError when the registry does not take the
    blob, and BuildRefused when the bytes are not those that they should be. An unfinished upload is cancelled.
    """
    tries, rejections, reported = Tries(transport.patience), 0, 0
    uploads = transport.url(f"{name}/blobs/uploads/")

    def tell(position: int) -> None:
        nonlocal reported
        if position > reported:
            before = reported
            reported = position
            seen(position - before)

    while True:
        opened = transport.ask("POST", uploads, (202,), scopes, tries=tries)
        location = transport.location(opened)
        try:
            body = _Body(blob, tell)
            # ECR answers 201 where others answer 202. requests sends an empty body only as bytes.
            taken = transport.once(
                "PATCH",
                location,
                (201, 202, 204),
                scopes,
                headers=_BINARY,
                body=body if blob.size else b"".join(body),
                read=HASHING,
            )
            location = transport.location(taken)
            sent = body.digest()
            if digest not in (None, sent):
                raise BuildRefused(
                    f"{name}: the bytes to be stored are {sent}, not {digest}",
                    "run it again: they changed meanwhile",
                )
            _finish(transport, name, location, scopes, sent, blob.size, tries)
        except RequestError as trouble:
            transport.cancel(location, scopes)
            rejections += trouble.status in _REJECTED
            trouble.temporary |= trouble.status in _REJECTED and rejections <= _REJECTIONS
            tries.failed(trouble)
        except BaseException:
            transport.cancel(location, scopes)
            raise
        else:
            return sent


def _finish(
    transport: Transport,
    name: str,
    location: str,
    scopes: Sequence[str],
    digest: str,
    size: int,
    tries: Tries,
) -> None:
    """Finish the upload. Where the answer was lost, and the blob is there, it is finished too."""
    url = f"{location}{'&' if '?' in location else '?'}digest={quote(digest, safe=':')}"
    try:
        stored = transport.ask(
            "PUT", url, (201, 204), scopes, headers=_BINARY, body=b"", read=HASHING, tries=tries
        )
    except RequestError:
        with suppress(RequestError):
            if transport.has_blob(name, digest, size, scopes, tries):
                return
        raise
    named = stored.headers.get("Docker-Content-Digest") or digest
    if named != digest:
        raise RequestError(
            f"stored {named[:80]!r} where {digest} was sent", todo="ask who runs the registry"
        )


class _Body:
    """All bytes of a blob, for one request, hashed as they are sent. ``sent`` is told how many were sent so far.

    requests sends it with a Content-Length, and urllib3 piece by piece.
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
        for block in self._blocks():
            block_wanted = memoryview(block)[: len(self) - count]
            for at in range(0, len(block_wanted), _PIECE):
                piece = block_wanted[at : at + _PIECE]
                self._hasher.update(piece)
                yield piece
                count += len(piece)
                self._sent(count)
            self._is_longer = len(block_wanted) < len(block)
            if self._is_longer:
                return
        if count < len(self):
            raise self._changed(f"ends at {count:,}")

    def digest(self) -> str:
        """Of all that was sent. Raises BuildRefused when the blob has more bytes than its size said."""
        if self._is_longer:
            raise self._changed("has more")
        return f"sha256:{self._hasher.hexdigest()}"

    def _blocks(self) -> Iterator[bytes]:
        try:
            yield from self._blob.blocks()
        except OSError as error:
            # As an OSError it would be taken for one of the connection.
            raise BuildRefused(
                f"a layer cannot be read: {error.strerror or error}", "fix that, and run it again"
            ) from error

    def _changed(self, how: str) -> BuildRefused:
        return BuildRefused(
            f"a layer of {len(self):,} bytes {how}", "run it again, and change no file meanwhile"
        )
