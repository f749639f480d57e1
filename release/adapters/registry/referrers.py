"""Lists what belongs to an image in a registry: by the referrers API, or by the tag that stands in for it.

Source: OCI distribution specification 1.1, listing referrers, and the referrers tag schema.
"""

import random
import time
from collections.abc import Sequence

from requests.utils import parse_header_links

from checks.storage import digest as digests
from release.adapters.registry import documents
from release.adapters.registry.documents import INDEX, MANIFEST, Descriptor, Document
from release.adapters.registry.replies import Answer
from release.adapters.registry.transport import Transport
from release.adapters.retries import RequestError

_PAGES = 20
_TRIES = 40  # at naming a manifest under the tag, when others do the same
_READ_BACK = 2
_PAUSE = 0.1  # seconds between two readings, at most


class Referrers:
    """Of the images in one repository. A failure raises RequestError, a bad index RegistryRefused."""

    def __init__(
        self, http: Transport, repository: str, read: Sequence[str], write: Sequence[str]
    ) -> None:
        self._http = http
        self._repository = repository
        self._read = read
        self._write = write

    def listed(self, digest: str) -> list[Descriptor]:
        """Return the manifests that the registry, or else the tag, says to belong to ``digest``."""
        descriptors: list[Descriptor] = []
        url: str | None = self._url(f"referrers/{digest}")
        for page in range(_PAGES):
            assert url is not None
            answer = self._http.ask("GET", url, (200, 404), self._read)
            if answer.status == 404 and not page:
                return self._tagged(_tag(digest))
            descriptors += self._index(answer).manifests
            if (url := self._next(answer)) is None:
                return descriptors
        raise RequestError(f"lists more than {_PAGES} pages of what belongs to {digest}")

    def name(self, subject: str, manifest: Descriptor) -> None:
        """Add ``manifest`` to the tag of ``subject``, where the registry did not say that it has noted it itself.

        A tag cannot be compared and swapped. So what was put is read back, at once and after a pause in which a writer
        who had read before would have put its own; what others put there is kept, and what they dropped put again.
        """
        tag, wanted, seen = _tag(subject), [manifest], 0
        for trial in range(_TRIES):
            there = self._tagged(tag)
            known = {one.digest for one in there}
            missing = [one for one in wanted if one.digest not in known]
            wanted = [*there, *missing]
            if missing:
                self._put(tag, wanted)
                seen = 0
                continue
            seen += 1
            if not trial or seen == _READ_BACK:
                return
            time.sleep(random.uniform(_PAUSE / 2, _PAUSE))  # noqa: S311 - no secret
        raise RequestError(f"{tag} is moved by others again and again", temporary=True)

    def _tagged(self, tag: str) -> list[Descriptor]:
        headers = {"Accept": f"{INDEX}, {MANIFEST}"}  # else a tag of something else looks like none
        answer = self._http.ask(
            "GET", self._url(f"manifests/{tag}"), (200, 404), self._read, headers=headers
        )
        return [] if answer.status == 404 else list(self._index(answer).manifests)

    def _put(self, tag: str, manifests: list[Descriptor]) -> None:
        value = {
            "schemaVersion": 2,
            "mediaType": INDEX,
            "manifests": [one.plain() for one in manifests],
        }
        self._http.ask(
            "PUT", self._url(f"manifests/{tag}"), (201,), self._write,
            headers={"Content-Type": INDEX}, body=digests.canonical_json(value),
        )  # fmt: skip

    def _index(self, answer: Answer) -> documents.Index:
        kind = answer.headers.get("Content-Type", "").partition(";")[0].strip()
        if answer.status != 200 or kind != INDEX:
            raise RequestError(
                f"lists what belongs to an image as {kind[:80]!r}", todo="ask who runs the registry"
            )
        index = documents.read(
            Document(answer.data, kind, digests.of_bytes(answer.data)),
            f"{self._repository}: its list",
        )
        assert isinstance(index, documents.Index)  # Its media type was checked above.
        return index

    def _next(self, answer: Answer) -> str | None:
        for link in parse_header_links(answer.headers.get("Link", "")):
            if link.get("rel") == "next":
                return self._http.location(answer._replace(headers={"Location": link["url"]}))
        return None

    def _url(self, path: str) -> str:
        return self._http.url(f"{self._repository}/{path}")


def _tag(digest: str) -> str:
    return digest.replace(":", "-")
