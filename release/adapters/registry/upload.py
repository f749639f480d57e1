"""One blob to a registry: POST opens an upload, one streamed PATCH sends the bytes, PUT names them by their digest.

A blob whose upload breaks is sent again whole, in a new upload. The PATCH has no Content-Range. Docker, skopeo and
crane push in this way, so every registry that they push to takes it. With a Content-Range, GHCR takes no more than
4 MiB a request, and ECR drops what follows the first chunk (aws/containers-roadmap#2831).

Source: google/go-containerregistry, pkg/v1/remote/write.go; OCI distribution specification 1.1, "Pushing blobs".
"""

from collections.abc import Sequence
from urllib.parse import quote

from checks.process.errors import BuildRefused
from release.adapters.registry.bodies import Body
from release.adapters.registry.transport import CANCEL, HASHING, Transport
from release.adapters.registry.types import Blob, Seen
from release.adapters.retries import RequestError, Tries

_BINARY = {"Content-Type": "application/octet-stream"}
# The registry lost the upload, or received other bytes than were sent.
_REJECTED = frozenset({400, 404, 410, 416})
_REJECTIONS = 2  # after so many the blob is sent again; the next one is final


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
    tries, rejections, told = Tries(transport.patience), 0, 0

    def tell(position: int) -> None:
        nonlocal told
        if position > told:
            before, told = told, position
            seen(position - before)

    while True:
        upload = _Upload(transport, name, scopes, tries)
        try:
            body = Body(blob, tell)
            upload.patch(body)
            found = body.digest()
            if found != (digest or found):
                raise BuildRefused(
                    f"{name}: the bytes to be stored are {found}, not {digest}",
                    "run it again: they changed meanwhile",
                )
            upload.put(found, blob.size)
        except RequestError as trouble:
            upload.cancel()
            rejections += trouble.status in _REJECTED
            trouble.temporary |= trouble.status in _REJECTED and rejections <= _REJECTIONS
            tries.failed(trouble)
        except BaseException:
            upload.cancel()
            raise
        else:
            return found


class _Upload:
    """One upload, opened. Everything but the PATCH is asked again while that makes sense, as ``tries`` allows."""

    def __init__(
        self, transport: Transport, name: str, scopes: Sequence[str], tries: Tries
    ) -> None:
        self._transport = transport
        self._name = name
        self._scopes = scopes
        self._tries = tries
        opened = transport.ask(
            "POST", transport.url(f"{name}/blobs/uploads/"), (202,), scopes, tries=tries
        )
        self._location = transport.location(opened)

    def patch(self, body: Body) -> None:
        """Send all bytes. ECR answers 201 where others answer 202."""
        sent = body if len(body) else b"".join(body)
        taken = self._transport.once(
            "PATCH",
            self._location,
            (201, 202, 204),
            self._scopes,
            headers=_BINARY,
            body=sent,
            read=HASHING,
        )
        self._location = self._transport.location(taken)

    def put(self, digest: str, size: int) -> None:
        """Finish the upload. Where the answer was lost, and the blob is there, it is finished too."""
        url = f"{self._location}{'&' if '?' in self._location else '?'}digest={quote(digest, safe=':')}"
        try:
            stored = self._transport.ask(
                "PUT",
                url,
                (201, 204),
                self._scopes,
                headers=_BINARY,
                body=b"",
                read=HASHING,
                tries=self._tries,
            )
        except RequestError:
            if not self._is_there(digest, size):
                raise
        else:
            named = stored.headers.get("Docker-Content-Digest") or digest
            if named != digest:
                raise RequestError(
                    f"stored {named[:80]!r} where {digest} was sent",
                    todo="ask who runs the registry",
                )

    def cancel(self) -> None:
        """Best effort: a registry forgets unfinished uploads by itself."""
        try:
            self._transport.once(
                "DELETE", self._location, (204, 202, 404), self._scopes, read=CANCEL
            )
        except RequestError:
            return

    def _is_there(self, digest: str, size: int) -> bool:
        url = self._transport.url(f"{self._name}/blobs/{digest}")
        try:
            answer = self._transport.once("HEAD", url, (200, 404), self._scopes)
        except RequestError:
            return False
        return answer.status == 200 and answer.headers.get("Content-Length") == str(size)
