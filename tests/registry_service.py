"""Starts Debian's `docker-registry` for tests: plain, with htpasswd, with TLS, or with tokens."""

import base64
import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import bcrypt
import yaml

from tests.http_standin import Handler, StandIn

USER, PASSWORD, IDENTITY = "ci-user", "hunter2-and-a-half", "identity-token-of-a-test"
ISSUER, SERVICE = "issuer", "registry"


class Registry(NamedTuple):
    """A registry that runs. ``host`` is HOST:PORT; ``folder`` holds its storage; ``ca`` its authority's certificate."""

    host: str
    folder: Path
    ca: Path | None = None

    @property
    def blobs(self) -> list[Path]:
        """The file of every blob and manifest that it holds."""
        return list(self.folder.glob("data/docker/registry/v2/blobs/sha256/*/*/data"))

    @property
    def stored(self) -> dict[str, bytes]:
        """Every blob and manifest that it holds, by the digest that it holds it under."""
        return {f"sha256:{path.parent.name}": path.read_bytes() for path in self.blobs}

    @property
    def tags(self) -> set[str]:
        return {path.parent.parent.name for path in self.folder.glob("data/**/_manifests/tags/*/current/link")}


class Certificate(NamedTuple):
    """A throw-away authority, and a key and certificate that it signed for this machine."""

    ca: Path
    certificate: Path
    key: Path


@contextmanager
def registry(
    folder: Path, *, tls: Certificate | None = None, clients: bool = False, auth: dict[str, Any] | None = None
) -> Iterator[Registry]:
    """Run a registry in ``folder`` on a free port of this machine. ``clients``: they need a certificate too."""
    http: dict[str, Any] = {"addr": "127.0.0.1:0"}
    if tls:
        http["tls"] = {"certificate": str(tls.certificate), "key": str(tls.key)}
        if clients:
            http["tls"]["clientcas"] = [str(tls.ca)]
    config: dict[str, Any] = {
        "version": 0.1,
        "log": {"level": "info", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(folder / "data")}, "delete": {"enabled": True}},
        "http": http,
    }
    if auth:
        config["auth"] = auth
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yml").write_text(yaml.safe_dump(config))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(["docker-registry", "serve", folder / "config.yml"], stdout=log, stderr=log)
    try:
        yield Registry(f"127.0.0.1:{_port(folder / 'log', process)}", folder, tls.ca if tls else None)
    finally:
        process.terminate()
        process.wait(20)


def _port(log: Path, process: subprocess.Popen[bytes]) -> int:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and process.poll() is None:
        for line in log.read_text().splitlines():
            _, found, rest = line.partition("listening on 127.0.0.1:")
            if found:
                return int(rest.split('"')[0].split(",")[0])
        time.sleep(0.02)
    raise AssertionError(f"docker-registry does not start: {log.read_text()}")


def htpasswd(folder: Path) -> dict[str, Any]:
    """Basic authentication for USER alone."""
    folder.mkdir(parents=True, exist_ok=True)
    password = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(rounds=5)).decode()
    (folder / "htpasswd").write_text(f"{USER}:{password}\n")
    return {"htpasswd": {"realm": "tests", "path": str(folder / "htpasswd")}}


def certificate(folder: Path) -> Certificate:
    """Made by openssl, valid for 127.0.0.1 and localhost."""
    folder.mkdir(parents=True, exist_ok=True)

    def openssl(*arguments: str | Path) -> None:
        subprocess.run(["openssl", *arguments], check=True, capture_output=True)

    ca, ca_key, key, request, signed = (folder / name for name in ("ca.crt", "ca.key", "key", "csr", "crt"))
    new = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    # Python 3.13 and later trust no authority without it.
    usage = ("-addext", "keyUsage=critical,keyCertSign,cRLSign")
    openssl(
        "req", "-x509", *new, *usage, "-keyout", ca_key, "-out", ca, "-days", "2", "-subj", "/CN=throw-away authority"
    )
    openssl("req", *new, "-keyout", key, "-out", request, "-subj", "/CN=registry")
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\nauthorityKeyIdentifier=keyid\n")
    signing = ("-CA", ca, "-CAkey", ca_key, "-CAcreateserial", "-days", "2", "-extfile", folder / "names")
    openssl("x509", "-req", "-in", request, *signing, "-out", signed)
    return Certificate(ca, signed, key)


def docker_config(folder: Path, host: str, *, password: str = PASSWORD, identity: str = "") -> Path:
    """A configuration as `docker login` leaves it, for DOCKER_CONFIG."""
    folder.mkdir(parents=True, exist_ok=True)
    entry = {"auth": base64.b64encode(f"{USER}:{password}".encode()).decode()}
    if identity:
        entry["identitytoken"] = identity
    (folder / "config.json").write_text(json.dumps({"auths": {host: entry}}))
    return folder


class TokenServer(StandIn):
    """A stand-in for a token server, by Docker's token specification: it signs what the real registry then checks.

    ``asked``: each request as (method, scopes). ``allowed``: actions that it grants. ``life``: seconds that it says a
    token lasts. ``realm`` is what a registry is told.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(_Tokens)
        folder.mkdir(parents=True, exist_ok=True)
        made = certificate(folder / "tls")
        self.bundle, self.key = made.certificate, made.key
        self.asked: list[tuple[str, tuple[str, ...]]] = []
        self.allowed = {"pull", "push"}
        self.life: float | None = 300
        self.valid = 300.0
        self.field = "token"
        self.realm = f"{self.url}/token"

    @property
    def auth(self) -> dict[str, Any]:
        """The registry's configuration."""
        return {
            "token": {
                "realm": self.realm,
                "service": SERVICE,
                "issuer": ISSUER,
                "rootcertbundle": str(self.bundle),
            }
        }

    def sign(self, scopes: tuple[str, ...]) -> str:
        """A JSON web token, its key named by its certificate (x5c)."""
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

        chain = x509.load_pem_x509_certificate(self.bundle.read_bytes()).public_bytes(serialization.Encoding.DER)
        header = {"typ": "JWT", "alg": "ES256", "x5c": [base64.b64encode(chain).decode()]}
        now = int(time.time())
        access = [
            {"type": kind, "name": name, "actions": sorted(set(actions.split(",")) & self.allowed)}
            for kind, name, actions in (scope.split(":") for scope in scopes)
        ]
        claims = {"iss": ISSUER, "sub": USER, "aud": SERVICE, "iat": now, "nbf": now - 5, "access": access}
        claims["exp"] = now + int(self.valid)
        text = ".".join(_base64(json.dumps(part).encode()) for part in (header, claims))
        key = serialization.load_pem_private_key(self.key.read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        r, s = decode_dss_signature(key.sign(text.encode(), ec.ECDSA(hashes.SHA256())))
        return f"{text}.{_base64(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


class _Tokens(Handler):
    server: TokenServer

    def do_GET(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        wanted = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        fine = self.headers.get("Authorization") == wanted and query.get("service") == [SERVICE]
        self._reply("GET", tuple(query.get("scope", [])), fine=fine)

    def do_POST(self) -> None:
        form = parse_qs(self.body().decode())
        fine = form.get("grant_type") == ["refresh_token"] and form.get("refresh_token") == [IDENTITY]
        scopes = tuple(form.get("scope", [""])[0].split())
        self._reply(
            "POST", scopes, fine=fine and form.get("service") == [SERVICE] and "Authorization" not in self.headers
        )

    def _reply(self, method: str, scopes: tuple[str, ...], *, fine: bool) -> None:
        self.server.asked.append((method, scopes))
        body: dict[str, Any] = {"errors": [{"code": "UNAUTHORIZED", "message": "incorrect username or password"}]}
        if fine:
            body = {self.server.field: self.server.sign(scopes)}
            if self.server.life is not None:
                body["expires_in"] = self.server.life
        self.reply(200 if fine else 401, body)


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
