"""One blob to a registry: in chunks that are hashed as they are sent and resumed where they broke, or in one request.

Source: OCI distribution specification 1.1, "Pushing blobs".
"""

import re
from collections.abc import Sequence
from urllib.parse import quote

from checks.errors import BuildRefused
from release.adapters.registry.bodies import Body, Source
from release.adapters.registry.replies import READ, Answer
from release.adapters.registry.transport import CANCEL, HASHING, Transport
from release.adapters.registry.types import Blob, Seen
from release.adapters.retries import RequestError, Tries

CHUNK = 32 << 20  # bytes of one request: measured, larger ones are no faster
_ONE_REQUEST = 1 << 20  # a blob of this size is not worth three requests
_NO_CHUNKS = frozenset({400, 404, 405, 411, 415, 416, 501})  # replies to a first chunk by registries that take none
_GONE = frozenset({400, 404, 410, 416})  # replies of registries that lost an upload, or hold other bytes than were sent
_REJECTED = 2  # times that all is sent anew because the registry says that what it got is wrong
_BINARY = {"Content-Type": "application/octet-stream"}
_RANGE = re.compile(r"(?:bytes=)?0-([0-9]{1,18})")


class _Lost(Exception):  # noqa: N818 - the upload starts again
    """The session cannot be continued; the trouble says why. ``waited``: it has been counted and waited for."""

    def __init__(self, trouble: RequestError, *, waited: bool = False) -> None:
        super().__init__(trouble.what)
        self.trouble = trouble
        self.waited = waited


class Upload:
    """Sends ``blob`` to repository ``name``. ``run`` may raise RequestError; then nothing is left but by bad luck."""

    def __init__(
        self,
        transport: Transport,
        name: str,
        scopes: Sequence[str],
        blob: Blob,
        digest: str | None,
        seen: Seen,
        *,
        chunks: bool,
    ) -> None:
        self._transport = transport
        self._name = name
        self._scopes = scopes
        self._blob = blob
        self._digest = digest
        self._seen = seen
        self._told = 0
        self._tries = Tries(transport.patience)
        self._chunks = chunks and blob.size > _ONE_REQUEST
        self._chunk = CHUNK
        self._location = ""
        self._stored = 0  # bytes that the registry has in this session
        self._furthest = 0  # in any session

    def run(self) -> str:
        """Upload it all; return its digest."""
        in_vain = rejected = 0
        while True:
            try:
                self._open()
                return self._in_chunks() if self._chunks else self._at_once()
            except _Lost as lost:
                self._cancel()
                rejected += lost.trouble.status in _GONE
                if rejected > _REJECTED:
                    raise lost.trouble from None
                if not lost.waited:
                    self._tries.failed(lost.trouble)
                # Some registries that take no chunks say so by hanging up.
                in_vain += not self._furthest and lost.trouble.status is None
                self._chunks = self._chunks and in_vain < 3
            except BaseException:
                self._cancel()
                raise

    def _open(self) -> None:
        url = self._transport.url(f"{self._name}/blobs/uploads/")
        answer = self._ask("POST", url, (202,))
        self._location, self._stored = self._transport.location(answer), 0
        smallest = answer.headers.get("OCI-Chunk-Min-Length", "")
        self._chunk = max(CHUNK, int(smallest[:18])) if smallest.isascii() and smallest.isdigit() else CHUNK

    def _cancel(self) -> None:
        """Best effort: a registry forgets unfinished uploads by itself."""
        location, self._location = self._location, ""
        if location:
            try:
                self._transport.once("DELETE", location, (204, 202, 404), self._scopes, read=CANCEL)
            except RequestError:
                return

    def _in_chunks(self) -> str:
        source = Source(self._blob)
        while self._stored < self._blob.size:
            start, before = self._stored, source.hasher.copy()
            count = min(self._chunk, self._blob.size - start)
            headers = {**_BINARY, "Content-Range": f"{start}-{start + count - 1}"}
            try:
                answer = self._send("PATCH", self._location, headers, source, start, count, (202,))
                self._take_range(answer, start, count)
            except RequestError as trouble:
                if not self._furthest and trouble.status in _NO_CHUNKS:
                    self._chunks = False
                    raise _Lost(_again(trouble)) from None
                if trouble.status in _GONE:
                    raise _Lost(_again(trouble)) from None
                self._tries.failed(trouble)
                self._resume(start, count, trouble)
            if self._stored > self._furthest:
                self._furthest = self._stored
                self._tries.progressed()
            if self._stored != source.position or self._stored < start + count:
                source.close()
                source = Source(self._blob, start, before)
                source.skip(self._stored - start)
        source.end()
        self._check(source.digest, self._digest or source.digest)
        return self._finish(source.digest)

    def _take_range(self, answer: Answer, start: int, count: int) -> None:
        """How far a chunk got. A registry that says nothing has taken it whole."""
        self._location = self._transport.location(answer)
        end = _end(answer)
        self._stored = start + count if end is None else end
        if not start < self._stored <= start + count:
            raise _Lost(RequestError(f"has {self._stored:,} bytes after {start + count:,} were sent", temporary=True))

    def _resume(self, start: int, count: int, trouble: RequestError) -> None:
        """Ask how much of a broken chunk arrived."""
        try:
            answer = self._ask("GET", self._location, (204, 202, 200))
        except RequestError as lost:
            if lost.status in _GONE:
                raise _Lost(trouble, waited=True) from None
            raise
        end = _end(answer)
        # After no byte and after one, registries say 0-0: too little to be worth a guess.
        if end is None or end <= 1 or not start <= end <= start + count:
            raise _Lost(trouble, waited=True)
        self._location = self._transport.location(answer)
        self._stored = end

    def _finish(self, digest: str) -> str:
        while True:
            try:
                answer = self._once("PUT", _with_digest(self._location, digest), (201, 204), _BINARY)
            except RequestError as trouble:
                if self._is_there(digest):
                    return self._done(digest)
                if trouble.status in _GONE:
                    raise _Lost(_again(trouble)) from None
                self._tries.failed(trouble)
                self._resume(self._blob.size, 0, trouble)
            else:
                return self._settled(answer, digest)

    def _at_once(self) -> str:
        """One request, whose address holds the digest: where it is not known, the blob is read once more before."""
        digest = self._digest
        if digest is None:
            first = Source(self._blob)
            first.skip(self._blob.size)
            first.end()
            digest = first.digest
        source = Source(self._blob)
        url = _with_digest(self._location, digest)
        try:
            answer = self._send("PUT", url, _BINARY, source, 0, self._blob.size, (201, 204), HASHING)
        except RequestError as trouble:
            if source.position == self._blob.size:
                self._check(source.digest, digest)
            if self._is_there(digest):
                return self._done(digest)
            if trouble.temporary or trouble.status in _GONE:
                raise _Lost(_again(trouble)) from None
            raise
        source.end()
        self._check(source.digest, digest)
        return self._settled(answer, digest)

    def _send(
        self,
        method: str,
        url: str,
        headers: dict[str, str],
        source: Source,
        start: int,
        count: int,
        ok: Sequence[int],
        read: float = READ,
    ) -> Answer:
        """``count`` bytes of the source in one request. Bytes are told once, however often they are sent."""
        if not count:
            return self._once(method, url, ok, headers, read)
        body = Body(source.take(count), count, lambda sent: self._tell(start + sent))
        return self._transport.once(method, url, ok, self._scopes, headers=headers, body=body, read=read)

    def _once(self, method: str, url: str, ok: Sequence[int], headers: dict[str, str], read: float = HASHING) -> Answer:
        return self._transport.once(method, url, ok, self._scopes, headers=headers, body=b"", read=read)

    def _ask(self, method: str, url: str, ok: Sequence[int]) -> Answer:
        return self._transport.ask(method, url, ok, self._scopes, tries=self._tries)

    def _is_there(self, digest: str) -> bool:
        """Whether the blob is there after all: the reply alone may have been lost."""
        url = self._transport.url(f"{self._name}/blobs/{digest}")
        try:
            answer = self._transport.once("HEAD", url, (200, 404), self._scopes)
        except RequestError:
            return False
        return answer.status == 200 and answer.headers.get("Content-Length") == str(self._blob.size)

    def _check(self, found: str, wanted: str) -> None:
        if found != wanted:
            raise BuildRefused(
                f"{self._name}: the bytes to be stored are {found}, not {wanted}",
                "run it again: they changed meanwhile",
            )

    def _settled(self, answer: Answer, digest: str) -> str:
        said = answer.headers.get("Docker-Content-Digest") or digest
        if said != digest:
            raise RequestError(f"stored {said[:80]!r} where {digest} was sent", todo="ask who runs the registry")
        return self._done(digest)

    def _done(self, digest: str) -> str:
        self._location = ""
        self._tell(self._blob.size)
        return digest

    def _tell(self, position: int) -> None:
        if position > self._told:
            told, self._told = self._told, position
            self._seen(position - told)


def _again(trouble: RequestError) -> RequestError:
    """The same trouble, as one that a new session may not have."""
    return RequestError(
        trouble.what, temporary=True, status=trouble.status, code=trouble.code, wait=trouble.wait, todo=trouble.todo
    )


def _end(answer: Answer) -> int | None:
    """How many bytes a Range header ``0-LAST`` says are there; None without one."""
    found = _RANGE.fullmatch(answer.headers.get("Range", "").strip())
    return int(found[1]) + 1 if found else None


def _with_digest(location: str, digest: str) -> str:
    return f"{location}{'&' if '?' in location else '?'}digest={quote(digest, safe=':')}"
