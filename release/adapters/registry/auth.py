"""Who we are to a registry: Docker's stored logins, Basic, and Bearer tokens by scope.

Sources: RFC 7235; Docker's token and OAuth2 specifications (distribution.github.io/distribution/spec/auth).
"""

import base64
import json
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

from pydantic import BaseModel

from checks.process.errors import RegistryRefused
from release.adapters import http
from release.adapters.registry import addresses
from release.adapters.retries import RequestError

_CHALLENGE = re.compile(
    r'([A-Za-z0-9_-]+)\s*=\s*("(?:[^"\\]|\\.)*"|[^\s,"]+)|([A-Za-z][A-Za-z0-9-]*)'
)
_TOKEN = re.compile(r"[\x21-\x7e]{1,65536}")
_LIFE = 60  # seconds that a token lasts when its server does not say: the specification's
_LONGEST = 86_400  # seconds that any token is believed to live
_FRESH = 0.8  # A token is used for this share of its life.
_CLIENT = "lockstep"
_ASK = "ask who runs the registry"

# Method, URL, headers and form: the body of the reply 200. Raises RequestError.
Ask = Callable[[str, str, dict[str, str], bytes | None], bytes]


@dataclass(frozen=True, repr=False)
class Login:
    """A login that Docker stored for a registry: a user and password, or an identity token."""

    username: str
    password: str
    identity: str

    @property
    def basic(self) -> str:
        """Return the value of an Authorization header."""
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()


class _Token(BaseModel):
    """The reply of a token server."""

    token: str | None = None
    access_token: str | None = None
    expires_in: int | float | None = None


class Challenge(NamedTuple):
    """The demand of a 401: ``basic``, or a ``bearer`` token from ``realm``."""

    scheme: str
    realm: str = ""
    service: str = ""


def challenge(header: str) -> Challenge | None:
    """Return the best challenge of a WWW-Authenticate header that can be answered: Bearer before Basic."""
    challenges: list[tuple[str, dict[str, str]]] = []
    for key, value, scheme in _CHALLENGE.findall(header):
        if scheme:
            challenges.append((scheme.lower(), {}))
        elif challenges:
            challenges[-1][1].setdefault(key.lower(), re.sub(r"\\(.)", r"\1", value.strip('"')))
    for scheme, values in sorted(challenges, key=lambda pair: pair[0] != "bearer"):
        if scheme == "bearer" and values.get("realm"):
            return Challenge("bearer", values["realm"], values.get("service", ""))
        if scheme == "basic":
            return Challenge("basic")
    return None


def config_path() -> Path:
    """Docker's configuration of the user."""
    return Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker") / "config.json"


def login(host: str) -> Login | None:
    """Return what `docker login` stored for ``host`` (docker.io for Docker Hub); None when it stored nothing.

    Raises RegistryRefused when the configuration or its credential helper is broken.
    """
    from docker import auth as docker_auth  # when first needed: it takes a while
    from docker.errors import DockerException

    path = config_path()
    try:
        document = json.loads(path.read_bytes()) if path.exists() else {}
        if document == {}:
            return None
        config = docker_auth.load_config(config_dict=document)
        helper = config.get_credential_store(host)
        if not helper or shutil.which(f"docker-credential-{helper}"):
            return _login(docker_auth.resolve_authconfig(config, host) or {})
        problem = f"names docker-credential-{helper} for {host}, which is not on the PATH"
    except OSError as error:
        problem = f"cannot be read: {error.strerror or type(error).__name__}"
    except (
        DockerException,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        RecursionError,
    ) as error:
        # Neither text nor chain of these: they may quote what was decoded, or what a helper printed.
        problem = f"gives no credentials for {host}: its JSON, entry or helper is broken ({type(error).__name__})"
    raise RegistryRefused(
        f"{path}: {problem}", f"fix it, or run `docker logout {host}` and `docker login {host}`"
    )


def _login(stored: dict[str, Any]) -> Login | None:
    values = {str(key).lower(): value for key, value in stored.items() if isinstance(value, str)}
    names = ("username", "password", "identitytoken")
    login = Login(*(values.get(name, "") for name in names))
    return login if login.identity or login.username else None


class Authorization:
    """Headers for one registry, tokens kept by scope. Safe to use from several threads."""

    def __init__(self, host: str, ask: Ask) -> None:
        self._host = host
        self._ask = ask
        self._lock = threading.RLock()
        self._challenge: Challenge | None = None
        self._tokens: dict[tuple[str, ...], tuple[str, float]] = {}
        self._login: Login | None = None
        self._is_read = False
        self._secrets: set[str] = set()

    def header(self, scopes: Sequence[str]) -> str | None:
        """Return the Authorization header for these scopes; None when none is asked for, or there is nothing to show.

        Raises RequestError when the token server gives none, RegistryRefused when the stored login cannot be read.
        """
        with self._lock:
            if self._challenge is None:
                return None
            if self._challenge.scheme == "basic":
                stored = self._stored()
                return stored.basic if stored else None
            wanted = tuple(sorted(set(scopes)))
            token, until = self._tokens.get(wanted, ("", 0.0))
            if time.monotonic() >= until:
                token, life = self._fetch(self._challenge, wanted)
                self._secrets.add(token)
                self._tokens[wanted] = token, time.monotonic() + life * _FRESH
            return f"Bearer {token}"

    def challenged(self, header: str, scopes: Sequence[str], used: str | None) -> bool:
        """Take the challenge of a 401 that answered ``used``; whether another header may do better."""
        asked = challenge(header)
        with self._lock:
            if asked is None:
                return False
            self._challenge = asked
            if asked.scheme == "basic":
                return used is None and self._stored() is not None
            wanted = tuple(sorted(set(scopes)))
            if used == f"Bearer {self._tokens.get(wanted, ('', 0.0))[0]}":
                del self._tokens[wanted]
            return True

    def advice(self, verb: str, name: str) -> str:
        """Return what to do about a 401 or 403."""
        with self._lock:
            known = self._is_read and self._login is not None
        who = (
            f"another account that may {verb} {name}"
            if known
            else f"an account that may {verb} {name}"
        )
        return f"run `docker login {self._host}` with {who}"

    def redacted(self, text: str) -> str:
        """``text`` without the secrets that a server might send back."""
        with self._lock:
            for secret in sorted(self._secrets, key=len, reverse=True):
                text = text.replace(secret, "***")
        return text

    def _stored(self) -> Login | None:
        if not self._is_read:
            self._login = login(self._host)
            self._is_read = True
            if self._login:
                secrets = (self._login.password, self._login.identity, self._login.basic.split()[1])
                self._secrets |= {secret for secret in secrets if secret}
        return self._login

    def _fetch(self, asked: Challenge, scopes: tuple[str, ...]) -> tuple[str, float]:
        """Return a token and the seconds that it lasts."""
        parts = addresses.split(asked.realm)
        if parts is None or not addresses.is_private_way(asked.realm):
            raise RequestError(
                f"sends us to {asked.realm[:100]!r} for a token, which is no https", todo=_ASK
            )
        shown = parts.netloc
        stored = self._stored()
        try:
            body = self._request(asked, scopes, stored)
        except RequestError as trouble:
            trouble.what = f"the token server {shown}: {trouble.what}"
            raise
        reply = http.parsed(_Token, body) or _Token()
        token, life = reply.token or reply.access_token or "", reply.expires_in or 0
        if not _TOKEN.fullmatch(token):
            raise RequestError(f"the token server {shown} gives no token", todo=_ASK)
        return token, float(min(life, _LONGEST)) if life > 0 else _LIFE

    def _request(self, asked: Challenge, scopes: tuple[str, ...], stored: Login | None) -> bytes:
        service = {"service": asked.service} if asked.service else {}
        if stored and stored.identity:
            form = {
                "grant_type": "refresh_token",
                "client_id": _CLIENT,
                "refresh_token": stored.identity,
            } | service
            kind = {"Content-Type": "application/x-www-form-urlencoded"}
            return self._ask(
                "POST", asked.realm, kind, urlencode(form | {"scope": " ".join(scopes)}).encode()
            )
        query = urlencode([*service.items(), *(("scope", scope) for scope in scopes)])
        url = f"{asked.realm}{'&' if '?' in asked.realm else '?'}{query}"
        return self._ask("GET", url, {"Authorization": stored.basic} if stored else {}, None)
