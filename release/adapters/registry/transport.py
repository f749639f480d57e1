"""HTTP to one registry: its address, TLS, logins, redirects, deadlines, retries, and what its errors say."""

import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing, suppress
from urllib.parse import urljoin

import requests
from pydantic import AliasPath, BaseModel, Field
from requests.adapters import HTTPAdapter
from requests.utils import get_environ_proxies, select_proxy

from checks.process.errors import RegistryRefused
from checks.process.text import redact
from release.adapters import http
from release.adapters.registry import addresses, tls
from release.adapters.registry.auth import Authorization
from release.adapters.registry.replies import CONNECT, FAILURES, READ, Answer, NoTLS, failed, whole
from release.adapters.retries import TEMPORARY, Patience, RequestError, Tries, retry_after

HASHING = 900.0  # seconds that a registry may think about a whole layer
_CANCEL = 5.0  # seconds for what is only polite
_REDIRECTS = 5
_LONGEST = 200  # characters of what a registry says
_POOL = 32  # Idle connections that are kept: more than any number of threads that send.
_FIRST_TRIES = 4  # Tries of a registry that never answered: its name may be wrong.

# Docker Hub serves its API under another name.
_ALIASES = {"docker.io": "registry-1.docker.io", "index.docker.io": "registry-1.docker.io"}


class _Error(BaseModel):
    """The first error that a registry states for a request that failed."""

    code: str = Field("", validation_alias=AliasPath("errors", 0, "code"))
    message: str = Field("", validation_alias=AliasPath("errors", 0, "message"))


class Transport:
    """Safe to use from several threads. Everything that fails raises RequestError."""

    def __init__(self, host: str, patience: Patience) -> None:
        self.host = host
        self.patience = patience
        self.auth = Authorization(host, self._token)
        self._api = api_host(host)
        self._lock = threading.Lock()
        self._base: str | None = None
        self._adapter = HTTPAdapter(pool_maxsize=_POOL)

    def url(self, path: str) -> str:
        """The address of a path below /v2/. Asks the registry once whether it is there, and how it is spoken to."""
        with self._lock:
            if self._base is None:
                self._base = self._connect()
            return f"{self._base}/v2/{path}"

    def location(self, answer: Answer) -> str:
        """Return where a reply's Location header leads. Raises RequestError when it leads nowhere we would go."""
        return self._follow(answer.url, answer.headers.get("Location"))

    def ask(
        self,
        method: str,
        url: str,
        ok: Sequence[int],
        scopes: Sequence[str],
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        read: float = READ,
        tries: Tries | None = None,
    ) -> Answer:
        """Return a reply with one of the statuses ``ok``, tried again while that makes sense."""
        tries = tries or Tries(self.patience)
        return tries.until_answered(
            lambda: self.once(method, url, ok, scopes, headers=headers, body=body, read=read)
        )

    def once(
        self,
        method: str,
        url: str,
        ok: Sequence[int],
        scopes: Sequence[str],
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | Iterable[memoryview] | None = None,
        read: float = READ,
    ) -> Answer:
        """Return a reply with one of the statuses ``ok``, in one try."""
        with closing(
            self.send(method, url, scopes, headers=headers, body=body, read=read)
        ) as response:
            if response.status_code not in ok:
                raise self.trouble(response)
            return whole(response)

    def has_blob(
        self, name: str, digest: str, size: int, scopes: Sequence[str], tries: Tries | None = None
    ) -> bool:
        """Tell whether the repository ``name`` has the blob, whole."""
        url = self.url(f"{name}/blobs/{digest}")
        answer = self.ask("HEAD", url, (200, 404), scopes, tries=tries)
        return answer.status == 200 and answer.headers.get("Content-Length") == str(size)

    def cancel(self, location: str, scopes: Sequence[str]) -> None:
        """Cancel an upload. Failures are ignored: a registry forgets unfinished uploads by itself."""
        with suppress(RequestError):
            self.once("DELETE", location, (204, 202, 404), scopes, read=_CANCEL)

    def send(
        self,
        method: str,
        url: str,
        scopes: Sequence[str],
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | Iterable[memoryview] | None = None,
        read: float = READ,
    ) -> requests.Response:
        """Return a reply whose body is still to be read, whatever its status; redirects of GET and HEAD are followed.

        A login goes to the registry itself and nowhere else.
        """
        for _ in range(_REDIRECTS):
            response = self._authorized(method, url, scopes, headers or {}, body, read)
            if not response.is_redirect or method not in ("GET", "HEAD"):
                return response
            response.close()
            url = self._follow(url, response.headers.get("Location"))
        raise RequestError(f"redirects more than {_REDIRECTS} times")

    def trouble(self, response: requests.Response) -> RequestError:
        """Return what a reply says that was not asked for. Reads the rest of it."""
        status, error = response.status_code, _Error()
        # Not every proxy answers as a registry does, and the status says enough.
        with suppress(RequestError):
            error = http.parsed(_Error, whole(response).data) or error
        code, message = error.code, error.message or response.reason or ""
        message_shown = self.auth.redacted(
            f"{status} {code}: {message}" if code else f"{status} {message}"
        )
        return RequestError(
            redact(message_shown, _LONGEST),
            temporary=status in TEMPORARY,
            status=status,
            code=code,
            wait=retry_after(response.headers.get("Retry-After")),
        )

    def _authorized(
        self,
        method: str,
        url: str,
        scopes: Sequence[str],
        headers: Mapping[str, str],
        body: bytes | Iterable[memoryview] | None,
        read: float,
    ) -> requests.Response:
        """One request, with a login where it goes to the registry; a refused token is renewed once."""
        if self._base is None or addresses.origin(url) != addresses.origin(self._base):
            return self._bare(method, url, headers, body, read)
        shown = self.auth.header(scopes)
        response = self._bare(
            method, url, {**headers, "Authorization": shown} if shown else headers, body, read
        )
        if response.status_code != 401 or not self.auth.challenged(
            response.headers.get("WWW-Authenticate", ""), scopes, shown
        ):
            return response
        if body is not None and not isinstance(body, bytes):
            trouble = self.trouble(response)
            response.close()
            trouble.temporary = True  # a body can be sent once: the caller goes on with a new token
            raise trouble
        response.close()
        shown = self.auth.header(scopes)
        return self._bare(
            method, url, {**headers, "Authorization": shown} if shown else headers, body, read
        )

    def _bare(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | Iterable[memoryview] | None,
        read: float,
    ) -> requests.Response:
        parts = addresses.split(url)
        assert parts is not None
        local = addresses.is_loopback(parts.netloc)
        proxies = {} if local else get_environ_proxies(url, no_proxy=None)
        # Only the registry is trusted by its own authorities, and sees our certificate for it.
        verify, certificate = tls.trust(self._api if parts.netloc == self._api else None)
        try:
            # A request of its own, without a session: no cookies, no ~/.netrc. No compression: digests are of the bytes
            # as they are stored.
            request = requests.Request(
                method,
                url,
                headers={"User-Agent": "lockstep", "Accept-Encoding": "identity", **headers},
                data=body,
            )
            return self._adapter.send(
                request.prepare(),
                stream=True,
                timeout=(CONNECT, read),
                verify=verify,
                cert=certificate,
                proxies=proxies,
            )
        except FAILURES as error:
            # The error holds the request, and with it the login: it must not be chained.
            failure = failed(error, parts.netloc, select_proxy(url, proxies), read)
        raise failure

    def _connect(self) -> str:
        """https, or http on this machine alone where https is not spoken. Asks /v2/, and takes its challenge."""
        schemes = ("https", "http") if addresses.is_loopback(self._api) else ("https",)
        patience = self.patience._replace(tries=min(self.patience.tries, _FIRST_TRIES))
        for scheme in schemes:
            url, tries = f"{scheme}://{self._api}/v2/", Tries(patience)
            while True:
                try:
                    with closing(self._bare("GET", url, {}, None, READ)) as response:
                        if response.status_code not in (200, 401):
                            raise self.trouble(response)
                        self.auth.challenged(response.headers.get("WWW-Authenticate", ""), (), None)
                        return f"{scheme}://{self._api}"
                except RequestError as trouble:
                    if scheme != schemes[-1] and isinstance(trouble, NoTLS):
                        break
                    tries.failed(trouble)
        raise AssertionError("the last scheme returns or raises")

    def _token(self, method: str, url: str, headers: dict[str, str], form: bytes | None) -> bytes:
        def ask() -> bytes:
            with closing(self._bare(method, url, headers, form, READ)) as response:
                if response.status_code != 200:
                    raise self.trouble(response)
                return whole(response).data

        return Tries(self.patience).until_answered(ask)

    def _follow(self, url: str, location: str | None) -> str:
        target = urljoin(url, location or "").partition("#")[0]
        parts, base = addresses.split(target), addresses.split(url)
        if (
            location
            and parts
            and base
            and base.scheme == "https"
            and parts.scheme == "http"
            and parts.netloc == base.netloc
        ):
            return parts._replace(
                scheme="https"
            ).geturl()  # a registry that does not know of the TLS before it
        if not location or parts is None or not addresses.is_private_way(target):
            place = redact(parts.netloc, _LONGEST) if parts and location else "nowhere"
            raise RequestError(
                f"sends us on to {place}, which is no https address",
                todo="ask who runs the registry",
            )
        return target


def api_host(host: str) -> str:
    """HOST[:PORT] that answers the API of a registry. Raises RegistryRefused when it is no address."""
    if (parts := addresses.split(f"https://{host}/")) is None or parts.netloc != host:
        raise RegistryRefused(
            f"{host!r} is no address of a registry", "write it as HOST or HOST:PORT"
        )
    return _ALIASES.get(host.lower(), host)
