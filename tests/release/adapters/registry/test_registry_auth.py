"""Logins: Docker's stored credentials, Basic and tokens against a real registry; and that no secret ever shows."""

import base64
import json
import logging
import os
import stat
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from checks.process.errors import Refusal, RegistryRefused
from release.adapters.registry import auth
from release.adapters.registry.auth import Challenge, challenge
from release.adapters.registry.client import Repository
from release.adapters.registry.documents import MANIFEST
from tests.faulty_proxy import Fault, FaultyProxy
from tests.registry_service import (
    IDENTITY,
    PASSWORD,
    USER,
    Registry,
    TokenServer,
    certificate,
    docker_config,
    htpasswd,
    registry,
)
from tests.release.adapters.registry.test_registry import QUICK, Bytes, digest_of, ignore, manifest_of, noise, read

BASIC = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
SECRETS = (PASSWORD, IDENTITY, BASIC)


@pytest.fixture(scope="module")
def basic(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    folder = tmp_path_factory.mktemp("basic")
    with registry(folder / "r", auth=htpasswd(folder / "auth")) as running:
        yield running


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TokenServer]:
    with TokenServer(tmp_path_factory.mktemp("tokens")) as server:
        yield server


@pytest.fixture(scope="module")
def bearer(tmp_path_factory: pytest.TempPathFactory, tokens: TokenServer) -> Iterator[Registry]:
    with registry(tmp_path_factory.mktemp("bearer"), auth=tokens.auth) as running:
        yield running


@pytest.fixture(autouse=True)
def docker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """The folder of Docker's configuration, where no login is stored yet. Helpers are looked for in its ``bin``."""
    if "tokens" in request.fixturenames:
        server: TokenServer = request.getfixturevalue("tokens")
        server.asked.clear()
        server.allowed, server.life, server.valid, server.field = {"pull", "push"}, 300, 300, "token"
    folder = tmp_path / "docker"
    (folder / "bin").mkdir(parents=True)
    monkeypatch.setenv("DOCKER_CONFIG", str(folder))
    monkeypatch.setenv("PATH", f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}")
    return folder


@pytest.fixture(autouse=True)
def no_secret_is_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level(logging.DEBUG)
    yield
    for when in ("setup", "call"):
        text = "\n".join(record.getMessage() for record in caplog.get_records(when))
        assert [secret for secret in SECRETS if secret in text] == []


def _refusal(work: object) -> Refusal:
    """The refusal of a call, after a look for secrets in all that it holds, and in all that led to it."""
    with pytest.raises(Refusal) as refused:
        work()  # type: ignore[operator]
    texts = traceback.format_exception(refused.value)
    links: list[BaseException | None] = [refused.value]
    while links:
        link = links.pop()
        if link is not None:
            texts += [repr(link), repr(vars(link)), repr(link.args)]
            links += [link.__cause__, link.__context__]
    assert [secret for secret in SECRETS if any(secret in text for text in texts)] == []
    assert str(refused.value).isprintable()
    return refused.value


def _asked(host: str) -> Refusal:
    """The refusal of the smallest question to a registry."""
    return _refusal(lambda: Repository(host, "a/b", patience=QUICK).has(digest_of(b""), 0))


def _round_trip(host: str, seed: int) -> Repository:
    store, data = Repository(host, "a/model", push=True, patience=QUICK), noise(2_500_000, seed)
    layer = store.add(Bytes(data), None, ignore)
    store.put(manifest_of({layer: len(data)}, store.add(Bytes(b"{}"), None, ignore)), MANIFEST, f"v{seed}")
    assert read(Repository(host, "a/model", patience=QUICK), layer, len(data)) == data
    return store


def _skopeo(docker: Path, host: str) -> None:
    """`skopeo login` needs no daemon, and writes the file that `docker login` writes."""
    command = ["skopeo", "login", "--tls-verify=false", f"--compat-auth-file={docker / 'config.json'}", "-u", USER]
    subprocess.run([*command, "--password-stdin", host], input=PASSWORD.encode(), check=True, capture_output=True)


def _helper(docker: Path, script: str) -> None:
    path = docker / "bin" / "docker-credential-tests"
    path.write_text(f"#!{sys.executable}\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def _helped(docker: Path, host: str, config: object) -> None:
    """A credential helper that tells the password to who asks for ``host``, and a configuration that names it."""
    answer = json.dumps({"ServerURL": host, "Username": USER, "Secret": PASSWORD})
    _helper(docker, f"import sys\nassert sys.stdin.read() == {host!r}\nprint({answer!r})")
    (docker / "config.json").write_text(json.dumps(config))


STORED: dict[str, Callable[[Path, str], object]] = {
    "a password": docker_config,
    "a login of the engine": _skopeo,
    "credsStore": lambda docker, host: _helped(docker, host, {"credsStore": "tests"}),
    "credHelpers": lambda docker, host: _helped(docker, host, {"credHelpers": {host: "tests"}}),
}


@pytest.mark.slow
@pytest.mark.parametrize("stored", STORED)
def test_a_stored_login_opens_a_registry(basic: Registry, docker: Path, stored: str) -> None:
    STORED[stored](docker, basic.host)
    _round_trip(basic.host, list(STORED).index(stored))


@pytest.mark.slow
def test_a_stored_password_and_tls_together(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, docker: Path) -> None:
    made = certificate(tmp_path / "tls")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(made.ca))
    with registry(tmp_path / "r", tls=made, auth=htpasswd(tmp_path / "auth")) as running:
        docker_config(docker, running.host)
        _round_trip(running.host, 2)


@pytest.mark.parametrize("work", ["add", "has", "document", "put", "blob", "borrow"])
@pytest.mark.parametrize("stored", ["nothing", "another password"])
def test_without_the_right_login_everything_is_refused(basic: Registry, docker: Path, work: str, stored: str) -> None:
    if stored != "nothing":
        docker_config(docker, basic.host, password=PASSWORD + "x")
    store, digest = Repository(basic.host, "a/model", push=True, patience=QUICK), digest_of(b"x")
    calls = {
        "add": lambda: store.add(Bytes(b"x"), None, ignore),
        "has": lambda: store.has(digest, 1),
        "document": lambda: store.document("v1"),
        "put": lambda: store.put(b"{}", MANIFEST, "v1"),
        "blob": lambda: list(store.blob(digest, 1)),
        "borrow": lambda: store.add(Bytes(b"x"), None, ignore),
    }
    if work == "borrow":  # not allowed to mount: the blob can still be sent
        assert not store.borrow(digest, 1, Repository(basic.host, "a/other", patience=QUICK))
    refused = _refusal(calls[work])
    assert f"docker login {basic.host}" in refused.todo
    assert ("another account" in refused.todo) == (stored != "nothing")
    assert "401" in refused.what


@pytest.mark.parametrize(
    ("script", "says"),
    [
        (f"print('{PASSWORD} is no JSON')", "helper is broken"),
        (f"import sys; print('{PASSWORD}'); sys.exit(3)", "helper is broken"),
        (f"print('[\"{PASSWORD}\"]')", "helper is broken"),
        (None, "not on the PATH"),
    ],
)
def test_a_broken_credential_helper_is_refused_without_what_it_printed(
    basic: Registry, docker: Path, script: str | None, says: str
) -> None:
    if script:
        _helper(docker, script)
    (docker / "config.json").write_text(json.dumps({"credsStore": "tests" if script else "absent"}))
    refused = _asked(basic.host)
    assert says in refused.what
    assert str(docker / "config.json") in refused.what


@pytest.mark.parametrize(
    "text",
    [
        f'{{"auths": {{"HOST": {{"auth": "{BASIC}"',
        f'["{BASIC}"]',
        f'{{"auths": {{"HOST": {{"auth": "not base64 {PASSWORD}"}}}}}}',
        f'{{"auths": {{"HOST": "{PASSWORD}"}}}}',
        f'{{"auths": {{"HOST": {{"auth": ["{PASSWORD}"]}}}}}}',
        '{"credsStore": 7}',
    ],
)
def test_a_broken_configuration_is_refused_without_its_contents(basic: Registry, docker: Path, text: str) -> None:
    (docker / "config.json").write_text(text.replace("HOST", basic.host))
    refused = _asked(basic.host)
    assert isinstance(refused, RegistryRefused)
    assert str(docker / "config.json") in refused.what
    assert "docker login" in refused.todo


def test_docker_hub_has_its_own_api_host_and_key(docker: Path) -> None:
    from release.adapters.registry import transport

    docker_config(docker, "https://index.docker.io/v1/")
    found = auth.login("docker.io")
    assert found is not None
    assert (found.username, found.password) == (USER, PASSWORD)
    assert transport.api_host("docker.io") == "registry-1.docker.io"
    assert repr(found) == object.__repr__(found)
    assert auth.login("example.org") is None


@pytest.mark.slow
def test_tokens_are_asked_for_by_scope_and_kept(bearer: Registry, tokens: TokenServer, docker: Path) -> None:
    docker_config(docker, bearer.host)
    store = _round_trip(bearer.host, 10)
    assert tokens.asked == [("GET", ("repository:a/model:pull,push",)), ("GET", ("repository:a/model:pull",))]
    data = noise(2_500_000, 10)
    other = Repository(bearer.host, "a/other", push=True, patience=QUICK)
    assert other.borrow(digest_of(data), len(data), store)
    assert tokens.asked[2] == ("GET", ("repository:a/model:pull", "repository:a/other:pull,push"))


Asked = list[tuple[str, tuple[str, ...]]]


@pytest.mark.parametrize(
    ("seed", "settings", "identity", "expected"),
    [
        pytest.param(11, {"field": "access_token"}, IDENTITY, lambda asked: {method for method, _ in asked} == {"POST"}, id="an identity token is exchanged"),
        pytest.param(12, {"life": 0.001}, "", lambda asked: len(asked) > 5, id="a token that is never kept is renewed"),
        pytest.param(13, {"life": 10**400}, "", lambda asked: len(asked) == 2, id="a life that no clock counts to is a long one"),
    ],
)  # fmt: skip
def test_a_token_of_any_life_or_form_opens_a_registry(
    bearer: Registry, tokens: TokenServer, docker: Path, seed: int, settings: dict[str, Any], identity: str, expected: Callable[[Asked], bool]
) -> None:  # fmt: skip
    docker_config(docker, bearer.host, identity=identity)
    vars(tokens).update(settings)
    _round_trip(bearer.host, seed)
    assert expected(tokens.asked), tokens.asked


def test_a_token_that_is_refused_is_renewed_once(bearer: Registry, tokens: TokenServer, docker: Path) -> None:
    docker_config(docker, bearer.host)
    tokens.valid = -100  # run out before it is used, whatever the server says of its life
    store = Repository(bearer.host, "a/model", patience=QUICK)
    refused = _refusal(lambda: store.document("v1"))
    assert "401" in refused.what
    assert len(tokens.asked) == 2
    tokens.valid = 300
    assert not store.has(digest_of(b"nothing"), 7)


@pytest.mark.slow
def test_a_token_refused_in_the_middle_of_an_upload_is_renewed_and_the_blob_is_sent_again(
    bearer: Registry, tokens: TokenServer, docker: Path
) -> None:
    challenge_of = f'Bearer realm="{tokens.realm}",service="registry"'
    fault = Fault("PATCH", "status", 401, {"WWW-Authenticate": challenge_of})
    with FaultyProxy(bearer.host, fault) as proxy:
        docker_config(docker, proxy.host)
        store, data = Repository(proxy.host, "a/model", push=True, patience=QUICK), noise(3_500_000, 13)
        assert read(store, store.add(Bytes(data), None, ignore), len(data)) == data
        # At first, after the 401, and because this registry lets only who may delete cancel an upload.
        assert len(tokens.asked) == 3
        assert proxy.received == {"PATCH": 2 * len(data)}
        assert sum(line.startswith("POST") for line in proxy.asked) == 2


def test_a_right_that_the_account_lacks_is_refused(bearer: Registry, tokens: TokenServer, docker: Path) -> None:
    docker_config(docker, bearer.host)
    tokens.allowed = {"pull"}
    store = Repository(bearer.host, "a/readonly", push=True, patience=QUICK)
    refused = _refusal(lambda: store.add(Bytes(b"x"), None, ignore))
    assert refused.todo == f"run `docker login {bearer.host}` with another account that may push to {store.name}"
    assert len(tokens.asked) == 2


@pytest.mark.parametrize("stored", ["nothing", "another password"])
def test_a_token_server_that_refuses_is_named(bearer: Registry, tokens: TokenServer, docker: Path, stored: str) -> None:
    if stored != "nothing":
        docker_config(docker, bearer.host, password=PASSWORD + "x")
    refused = _asked(bearer.host)
    assert "the token server 127.0.0.1:" in refused.what
    assert "401 UNAUTHORIZED: incorrect username or password" in refused.what
    assert "docker login" in refused.todo


@pytest.mark.parametrize(
    "realm", ["http://192.0.2.1/token", "file:///etc/passwd", "/token", "http://127.0.0.1@192.0.2.1/", "https://u:p@h/"]
)
def test_a_token_server_in_the_clear_gets_nothing(basic: Registry, docker: Path, realm: str) -> None:
    fault = Fault("GET", "status", 401, {"WWW-Authenticate": f'Bearer realm="{realm}"'}, times=-1)
    with FaultyProxy(basic.host, fault) as proxy:
        docker_config(docker, proxy.host)
        refused = _refusal(lambda: Repository(proxy.host, "a/b", patience=QUICK).document("v1"))
        assert "which is no https" in refused.what


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{}", b'{"token": 7}', b'{"token": ""}', b'{"token": "a\\r\\nX-Evil: 1"}', b"[" * 100_000, b"x" * 9_000_000],
    ids=["nothing", "a list", "no token", "a number", "an empty token", "a line break", "too deep", "too large"],
)  # fmt: skip
def test_a_token_server_that_gives_no_token_is_refused(basic: Registry, docker: Path, body: bytes) -> None:
    with FaultyProxy(basic.host) as proxy:
        realm = f"http://{proxy.host}/token"
        proxy.faults = [
            Fault("GET /token", "status", 200, body=body, times=-1),
            Fault("GET", "status", 401, {"WWW-Authenticate": f'Bearer realm="{realm}"'}, times=-1),
        ]
        docker_config(docker, proxy.host)
        refused = _refusal(lambda: Repository(proxy.host, "a/b", patience=QUICK).document("v1"))
        assert "the token server" in refused.what


@pytest.mark.slow
def test_a_login_goes_to_no_other_host(basic: Registry, docker: Path) -> None:
    """Neither with a redirect of a download, nor with an upload that is sent elsewhere, not even to another port."""
    data = noise(2_500_000, 20)
    with FaultyProxy(basic.host) as proxy, FaultyProxy(basic.host) as other:
        docker_config(docker, proxy.host)
        store = Repository(proxy.host, "a/model", push=True, patience=QUICK)
        layer = store.add(Bytes(data), None, ignore)
        elsewhere = f"http://{other.host}/v2/a/model/blobs/{layer}"
        proxy.faults = [Fault("GET .*blobs/sha256", "status", 307, {"Location": elsewhere}, times=-1)]
        _refusal(lambda: read(store, layer, len(data)))
        elsewhere = f"http://{other.host}/v2/a/model/blobs/uploads/x"
        proxy.faults = [Fault("POST", "status", 202, {"Location": elsewhere}, times=-1)]
        _refusal(lambda: store.add(Bytes(b"new"), None, ignore))
        assert {line.split()[0] for line in other.asked} >= {"GET", "PATCH"}
        assert [headers for headers in other.seen_headers if "Authorization" in headers] == []
        assert [headers for headers in proxy.seen_headers[1:] if "Authorization" not in headers] == []


def test_secrets_that_a_registry_sends_back_are_not_shown(basic: Registry, docker: Path) -> None:
    message = f"no {PASSWORD} with Basic {BASIC}: https://u:pw@h/x?sig=1"
    echo = json.dumps({"errors": [{"code": "DENIED", "message": message}]}).encode()
    with FaultyProxy(basic.host, Fault("POST", "status", 403, body=echo)) as proxy:
        docker_config(docker, proxy.host)
        store = Repository(proxy.host, "a/b", push=True, patience=QUICK)
        refused = _refusal(lambda: store.add(Bytes(b"x"), None, ignore))
        assert "403 DENIED: no *** with Basic ***: https://h/x" in refused.what


@pytest.mark.slow
def test_a_login_is_never_in_the_clear_to_a_proxy_of_the_environment(
    basic: Registry, docker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This machine is spoken to in plain http, and so never through another."""
    docker_config(docker, basic.host)
    with FaultyProxy(basic.host) as proxy:
        for name in ("http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, f"http://{proxy.host}")
        monkeypatch.setenv("no_proxy", "")
        _round_trip(basic.host, 21)
        assert proxy.asked == []


def test_other_hosts_are_asked_through_the_proxy_of_the_environment(
    basic: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FaultyProxy(basic.host) as proxy:
        monkeypatch.setenv("https_proxy", f"http://{proxy.host}")
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        assert "registry.invalid through the proxy of the environment" in _asked("registry.invalid").what


def test_netrc_is_not_read(basic: Registry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "netrc").write_text(f"machine 127.0.0.1 login {USER} password {PASSWORD}\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert "401" in _asked(basic.host).what


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ('Basic realm="x"', Challenge("basic")),
        ("Basic", Challenge("basic")),
        ('Bearer realm="https://h/t",service="s",scope="a:b:pull,push"', Challenge("bearer", "https://h/t", "s")),
        ('bearer service="s", realm="https://h/t"', Challenge("bearer", "https://h/t", "s")),
        ('Basic realm="x", Bearer realm="https://h/t"', Challenge("bearer", "https://h/t")),
        ('Negotiate, Basic realm="a, Bearer realm=b"', Challenge("basic")),
        ('Bearer realm="https://h/\\"t"', Challenge("bearer", 'https://h/"t')),
        ("Bearer", None),
        ("Negotiate abc==", None),
        ("", None),
        ('realm="x"', None),
    ],
)
def test_challenges_are_read(header: str, found: Challenge | None) -> None:
    assert challenge(header) == found
