"""A repository of a registry as a place for images.

Source: OCI distribution specification 1.1, https://github.com/opencontainers/distribution-spec.
"""

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from urllib.parse import urlencode

import requests

from checks.process.errors import BuildRefused, RegistryRefused
from checks.storage import digest as digests
from release.adapters.registry import documents, limits, upload
from release.adapters.registry.documents import (
    DOCKER_INDEX,
    DOCKER_MANIFEST,
    INDEX,
    MANIFEST,
    Blob,
    Descriptor,
    Document,
    Seen,
    Store,
    StoreUnavailable,
    checked,
)
from release.adapters.registry.referrers import Referrers
from release.adapters.registry.replies import blocks
from release.adapters.registry.transport import HASHING, Transport
from release.adapters.retries import Patience, RequestError, Tries

_MANIFESTS = (INDEX, MANIFEST, DOCKER_INDEX, DOCKER_MANIFEST)
_BLOCK = 1 << 20
_NOT_GIVEN = (401, 403, 404)  # statuses for what this account may not have, or what is not there
# By the status, or the registry's own code.
_TODO: dict[int | str | None, str] = {
    "MANIFEST_BLOB_UNKNOWN": "run it again: it lost a layer that was there before",
    404: "check the name, and that it exists there",
    413: "lower merge.shard_mb in params.yaml, or raise the limit of the registry or the proxy before it",
}
_AGAIN = "run it again when it answers: what is there already is not sent again"


class Repository:
    """A Store: repository ``name`` of the registry at ``host`` (HOST[:PORT]; docker.io is Docker Hub).

    ``push``: ask for the right to write from the start; leave it out to read where one may not write. Registries are
    spoken to in https, on this machine also in http, with what `docker login` stored. ``patience`` bounds the retries.
    Safe to use from several threads.
    """

    def __init__(
        self, host: str, name: str, *, push: bool = False, patience: Patience | None = None
    ) -> None:
        self.name = f"{host}/{name}"
        self.host = host
        self.repository = name
        self._http = Transport(host, patience or Patience())
        self._write = (f"repository:{name}:pull,push",)
        self._read = self._write if push else (f"repository:{name}:pull",)
        self._referrers = Referrers(self._http, name, self._read, self._write)

    def has(self, digest: str, size: int) -> bool:
        """Tell whether the blob is there, whole."""
        with self._saying(f"looking for {digest}", "pull from"):
            return self._http.has_blob(self.repository, digest, size, self._read)

    def add(self, blob: Blob, digest: str | None, seen: Seen) -> str:
        """Send the blob, hashed on the way; return its digest. Bytes that the registry has are not sent."""
        if digest is not None and self.has(digest, blob.size):
            seen(blob.size)
            return digest
        limits.check(self.host, [blob.size])
        with self._saying(f"sending {digest or f'a layer of {blob.size:,} bytes'}", "push to"):
            return upload.send(self._http, self.repository, self._write, blob, digest, seen)

    def borrow(self, digest: str, size: int, source: Store) -> bool:
        """Mount the blob from another repository of this registry; False where that cannot be."""
        if not isinstance(source, Repository) or source.host != self.host:
            return False
        if source.repository == self.repository:
            return self.has(digest, size)
        scopes = (*self._write, f"repository:{source.repository}:pull")
        query = {"mount": digest, "from": source.repository}
        with self._saying(f"mounting {digest} from {source.repository}", "push to"):
            try:
                url = f"{self._url('blobs/uploads/')}?{urlencode(query)}"
                answer = self._http.ask("POST", url, (201, 202), scopes)
            except RequestError as trouble:
                if trouble.temporary or trouble.status is None:
                    raise
                return False  # not allowed to read there, or no mounts here: it can still be sent
            if answer.status == 202:
                self._http.cancel(self._http.location(answer), scopes)
                return False
        return self.has(digest, size)

    def blob(self, digest: str, size: int) -> Iterator[bytes]:
        """The blob's bytes, continued where a connection broke; the last block comes once digest and size are right."""

        def wrong(count: int, actual: str) -> RegistryRefused:
            what = f"{count:,} bytes, {actual}" if count <= size else f"more than {size:,} bytes"
            return RegistryRefused(
                f"{self.name}: holds {what} as {digest} of {size:,} bytes",
                "ask who runs the registry, or use another",
            )

        with self._saying(f"reading {digest}", "pull from"):
            yield from checked(self._stream(digest, size), digest, size, wrong)

    def document(self, reference: str) -> Document:
        """Return the manifest or index by tag or digest, checked against the digest where it is one."""
        headers = {"Accept": ", ".join(_MANIFESTS)}
        with self._saying(f"reading {reference}", "pull from"):
            url = self._url(f"manifests/{reference}")
            answer = self._http.ask("GET", url, (200,), self._read, headers=headers)
            digest = digests.of_bytes(answer.data)
            wanted = (
                reference
                if ":" in reference
                else answer.headers.get("Docker-Content-Digest") or digest
            )
            if digest != wanted:
                raise _lies(f"gives bytes with the digest {digest} as {wanted[:80]!r}")
            media_type = answer.headers.get("Content-Type", "").partition(";")[0].strip()
            try:
                kind = json.loads(answer.data).get("mediaType", media_type)
            except (ValueError, AttributeError, RecursionError):
                raise _lies(f"gives no manifest for {reference}: no JSON object") from None
            if kind != media_type or media_type not in _MANIFESTS:
                raise _lies(
                    f"gives {reference} as {media_type[:80]!r}, which calls itself {str(kind)[:80]!r}"
                )
        return Document(answer.data, media_type, digest)

    def put(self, data: bytes, media_type: str, tag: str | None) -> str:
        """Store a manifest under its digest and read it back; only then let ``tag`` name it. Return the digest."""
        if len(data) > documents.LARGEST:
            raise BuildRefused(
                f"the manifest has {len(data):,} bytes, and registries take {documents.LARGEST:,}",
                "use fewer layers: raise merge.shard_mb in params.yaml",
            )
        digest, noted = digests.of_bytes(data), False
        for reference in (digest, tag) if tag else (digest,):
            with self._saying(f"storing the manifest as {reference}", "push to"):
                answer = self._http.ask(
                    "PUT",
                    self._url(f"manifests/{reference}"),
                    (201,),
                    self._write,
                    headers={"Content-Type": media_type},
                    body=data,
                    read=HASHING,
                )
                stored = answer.headers.get("Docker-Content-Digest") or digest
                if stored != digest:
                    raise _lies(f"stored {stored[:80]!r} where {digest} was sent")
                noted = "OCI-Subject" in answer.headers
            if self.document(reference).data != data:
                raise RegistryRefused(
                    f"{self.name}: {reference} is not what was just stored there ({digest})",
                    "run it again, and see that nobody else moves that tag",
                )
        if not noted:
            self._name(Document(data, media_type, digest))
        return digest

    def referrers(self, digest: str) -> list[Descriptor]:
        """Return the manifests whose subject is ``digest``, as the registry or its stand-in tag lists them."""
        with self._saying(f"looking for what belongs to {digest}", "pull from"):
            return self._referrers.listed(digest)

    def _name(self, document: Document) -> None:
        """Let a manifest that has a subject be found where the registry keeps no list of referrers itself."""
        if document.media_type != MANIFEST:
            return
        manifest = documents.read(document, self.name)
        if isinstance(manifest, documents.Manifest) and manifest.subject:
            of = Descriptor(media_type=MANIFEST, digest=document.digest, size=len(document.data))
            with self._saying(
                f"noting that {document.digest} belongs to {manifest.subject.digest}", "push to"
            ):
                self._referrers.name(manifest.subject.digest, documents.referrer(manifest, of))

    def _stream(self, digest: str, size: int) -> Iterator[bytes]:
        """Yield the body of a blob over as many requests as it takes; no more than the first block too many."""
        url = self._url(f"blobs/{digest}")
        tries, position = Tries(self._http.patience), 0
        while True:
            before = position
            try:
                rest = {"Range": f"bytes={position}-"} if position else None
                with closing(self._http.send("GET", url, self._read, headers=rest)) as response:
                    skip = self._start(response, position)
                    for block in blocks(response, _BLOCK):
                        wanted = block[skip:]
                        skip = max(0, skip - len(block))
                        position += len(wanted)
                        if wanted:
                            yield wanted
                        if position > size:
                            return
                if position < size:
                    raise RequestError(f"ends at {position:,} of {size:,} bytes", temporary=True)
                return
            except RequestError as trouble:
                if position > before:
                    tries.progressed()
                tries.failed(trouble)

    def _start(self, response: requests.Response, position: int) -> int:
        """Return how many bytes of a body lie before ``position``."""
        if response.status_code == 200:
            return position  # from the start: not every storage knows ranges
        if response.status_code == 416 and position:
            raise _lies(f"has no more than {position:,} bytes")
        if response.status_code != 206 or not position:
            raise self._http.trouble(response)
        if not response.headers.get("Content-Range", "").startswith(f"bytes {position}-"):
            raise _lies("answers with another range than was asked for")
        return 0

    def _url(self, path: str) -> str:
        return self._http.url(f"{self.repository}/{path}")

    @contextmanager
    def _saying(self, doing: str, verb: str) -> Iterator[None]:
        """RequestError inside, as a refusal that says what was being done, and what to do."""
        try:
            yield
        except RequestError as trouble:
            kind = (
                StoreUnavailable
                if trouble.temporary or trouble.status in _NOT_GIVEN
                else RegistryRefused
            )
            refusal = kind(f"{self.name}: {doing}: {trouble.what}", self._todo(trouble, verb))
        else:
            return
        raise refusal

    def _todo(self, trouble: RequestError, verb: str) -> str:
        if trouble.status in (401, 403) and not trouble.todo:
            return self._http.auth.advice(verb, self.name)
        return trouble.todo or _TODO.get(trouble.code) or _TODO.get(trouble.status, _AGAIN)


def _lies(what: str) -> RequestError:
    return RequestError(what, todo="ask who runs the registry, or use another")
