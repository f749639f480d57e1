"""Logins: Docker's stored credentials, Basic and tokens against a real registry; and that no secret ever shows."""

import base64
import json
import logging
import os
import stat
import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest

from checks.errors import Refusal, RegistryRefused
from release.adapters.registry import auth
from release.adapters.registry.auth import Challenge, challenge
from release.adapters.registry.client import Repository
from release.adapters.registry.types import MANIFEST
from tests.faulty_proxy import Fault, faulty
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
    token_server,
)
from tests.test_registry import QUICK, Bytes, digest_of, ignore, manifest_of, noise, read

BASIC = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
SECRETS = (PASSWORD, IDENTITY, BASIC)


@pytest.fixture(scope="module")
def basic(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    folder = tmp_path_factory.mktemp("basic")
    with registry(folder / "r", auth=htpasswd(folder / "auth")) as running:
        yield running


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TokenServer]:
    with token_server(tmp_path_factory.mktemp("tokens")) as server:
        yield server


@pytest.fixture(scope="module")
def bearer(tmp_path_factory: pytest.TempPathFactory, tokens: TokenServer) -> Iterator[Registry]:
    with registry(tmp_path_factory.mktemp("bearer"), auth=tokens.auth) as running:
        yield running


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "no-config"))
    if "tokens" in request.fixturenames:
        server: TokenServer = request.getfixturevalue("tokens")
        server.asked.clear()
        server.allowed, server.life, server.valid, server.field = {"pull", "push"}, 300, 300, "token"


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


def _round_trip(host: str, seed: int) -> Repository:
    store, data = Repository(host, "a/model", push=True, patience=QUICK), noise(2_500_000, seed)
    layer = store.add(Bytes(data), None, ignore)
    store.put(manifest_of({layer: len(data)}, store.add(Bytes(b"{}"), None, ignore)), MANIFEST, f"v{seed}")
    assert read(Repository(host, "a/model", patience=QUICK), layer, len(data)) == data
    return store


def test_a_stored_password_opens_a_registry(basic: Registry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(docker_config(tmp_path / "docker", basic.host)))
    _round_trip(basic.host, 1)


def test_a_stored_password_and_tls_together(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made = certificate(tmp_path / "tls")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(made.ca))
    with registry(tmp_path / "r", tls=made, auth=htpasswd(tmp_path / "auth")) as running:
        monkeypatch.setenv("DOCKER_CONFIG", str(docker_config(tmp_path / "docker", running.host)))
        _round_trip(running.host, 2)


def test_the_engine_s_own_login_is_understood(basic: Registry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`skopeo login` writes the file here: it needs no daemon, and writes what `docker login` does."""
    file = tmp_path / "docker/config.json"
    file.parent.mkdir()
    subprocess.run(
        [
            "skopeo",
            "login",
            "--tls-verify=false",
            "--compat-auth-file",
            file,
            "-u",
            USER,
            "--password-stdin",
            basic.host,
        ],
        input=PASSWORD.encode(),
        check=True,
        capture_output=True,
    )
    monkeypatch.setenv("DOCKER_CONFIG", str(file.parent))
    _round_trip(basic.host, 3)


@pytest.mark.parametrize("work", ["add", "has", "document", "put", "blob", "borrow"])
@pytest.mark.parametrize("stored", ["nothing", "another password"])
def test_without_the_right_login_everything_is_refused(
    basic: Registry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, work: str, stored: str
) -> None:
    if stored != "nothing":
        monkeypatch.setenv("DOCKER_CONFIG", str(docker_config(tmp_path / "d", basic.host, password=PASSWORD + "x")))
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


def _helper(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    folder.mkdir(exist_ok=True)
    path = folder / "docker-credential-tests"
    path.write_text(f"#!{sys.executable}\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


@pytest.mark.parametrize("key", ["credsStore", "credHelpers"])
def test_a_credential_helper_is_asked(
    basic: Registry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, key: str
) -> None:
    answer = json.dumps({"ServerURL": basic.host, "Username": USER, "Secret": PASSWORD})
    _helper(tmp_path / "bin", monkeypatch, f"import sys\nassert sys.stdin.read() == {basic.host!r}\nprint({answer!r})")
    value = "tests" if key == "credsStore" else {basic.host: "tests"}
    (tmp_path / "config.json").write_text(json.dumps({key: value}))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    _round_trip(basic.host, 4)


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
    basic: Registry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str | None, says: str
) -> None:
    if script:
        _helper(tmp_path / "bin", monkeypatch, script)
    (tmp_path / "config.json").write_text(json.dumps({"credsStore": "tests" if script else "absent"}))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    refused = _refusal(lambda: Repository(basic.host, "a/b", patience=QUICK).has(digest_of(b""), 0))
    assert says in refused.what
    assert str(tmp_path / "config.json") in refused.what


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
def test_a_broken_configuration_is_refused_without_its_contents(
    basic: Registry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str
) -> None:
    (tmp_path / "config.json").write_text(text.replace("HOST", basic.host))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    refused = _refusal(lambda: Repository(basic.host, "a/b", patience=QUICK).has(digest_of(b""), 0))
    assert isinstance(refused, RegistryRefused)
    assert str(tmp_path / "config.json") in refused.what
    assert "docker login" in refused.todo


def test_docker_hub_has_its_own_api_host_and_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from release.adapters.registry import addresses

    docker_config(tmp_path, "https://index.docker.io/v1/")
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    found = auth.login("docker.io")
    assert found is not None
    assert (found.username, found.password) == (USER, PASSWORD)
    assert addresses.api_host("docker.io") == "registry-1.docker.io"
    assert repr(found) == object.__repr__(found)
    assert auth.login("example.org") is None


def test_tokens_are_asked_for_by_scope_and_kept(
    bearer: Registry, tokens: TokenServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(docker_config(tmp_path / "d", bearer.host)))
    store = _round_trip(bearer.host, 10)
    assert tokens.asked == [
        ("GET", ("repository:a/model:pull,push",)),
        ("GET", ("repository:a/model:pull",)),
    ]
    data = noise(2_500_000, 10)
    other = Repository(bearer.host, "a/other", push=True, patience=QUICK)
    assert other.borrow(digest_of(data), len(data), store)
    assert tokens.asked[2] == ("GET", ("repository:a/model:pull", "repository:a/other:pull,push"))


def test_an_identity_token_is_exchanged(
    bearer: Registry, tokens: TokenServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(docker_config(tmp_path / "d", bearer.host, identity=IDENTITY)))
    tokens.field = "access_token"
    _round_trip(bearer.host, 11)
    assert {method for method, _ in tokens.asked} == {"POST"}


def test_a_token_that_runs_out_is_renewed(
    bearer: Registry, tokens: TokenServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(docker_config(tmp_path / "d", bearer.host)))
    tokens.life = 0.001  # so that it is never kept
    _round_trip(bearer.host, 12)
    assert len(tokens.asked) > 5


def test_a_life_that_no_clock_counts_to_is_a_long_one(
    bearer: Registry, tokens: TokenServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(docker_config(tmp_path / "d", bearer.host)))
    tokens.life = 10**400
    _round_trip(bearer.host, 13)


def test_a_token_that_is_refused_is_renewed_once(
    bearer: Registry, tokens: TokenServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(docker_config(tmp_path / "d", bearer.host)))
    tokens.valid = -100  # run out before it is used, whatever the server says of its life
    store = Repository(bearer.host, "a/model", patience=QUICK)
    refused = _refusal(lambda: store.document("v1"))
    assert "401" in refused.what
    assert len(tokens.asked) == 2
    tokens.valid = 300
    assert not store.has(digest_of(b"nothing"), 7)


def test_a_token_refused_in_the_middle_of_an_upload_is_renewed_and_the_blob_is_sent_again(
    bearer: Registry, tokens: TokenServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    challenge_of = f'Bearer realm="{tokens.realm}",service="registry"'
    fault = Fault("PATCH", "status", 401, {"WWW-Authenticate": challenge_of})
    with faulty(bearer.host, fault) as proxy:
        monkeypatch.setenv("DOCKER_CONFIG", str(docker_config(tmp_path / "d", proxy.host)))
        store, data = Repository(proxy.host, "a/model", push=True, patience=QUICK), noise(3_500_000, 13)
        assert read(store, store.add(Bytes(data), None, ignore), len(data)) == data
        # At first, after the 401, and because this registry lets only who may delete cancel an upload.
        assert len(tokens.asked) == 3
        assert proxy.received == {"PATCH": 2 * len(data)}
        assert sum(line.startswith("POST") for line in proxy.asked) == 2


def test_a_right_that_the_account_lacks_is_refused(
    bearer: Registry, tokens: TokenServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(docker_config(tmp_path / "d", bearer.host)))
    tokens.allowed = {"pull"}
    store = Repository(bearer.host, "a/readonly", push=True, patience=QUICK)
    refused = _refusal(lambda: store.add(Bytes(b"x"), None, ignore))
    assert refused.todo == f"run `docker login {bearer.host}` with another account that may push to {store.name}"
    assert len(tokens.asked) == 2


@pytest.mark.parametrize("stored", ["nothing", "another password"])
def test_a_token_server_that_refuses_is_named(
    bearer: Registry, tokens: TokenServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stored: str
) -> None:
    if stored != "nothing":
        monkeypatch.setenv("DOCKER_CONFIG", str(docker_config(tmp_path / "d", bearer.host, password=PASSWORD + "x")))
    refused = _refusal(lambda: Repository(bearer.host, "a/b", patience=QUICK).has(digest_of(b""), 0))
    assert "the token server 127.0.0.1:" in refused.what
    assert "401 UNAUTHORIZED: incorrect username or password" in refused.what
    assert "docker login" in refused.todo


@pytest.mark.parametrize(
    "realm", ["http://192.0.2.1/token", "file:///etc/passwd", "/token", "http://127.0.0.1@192.0.2.1/", "https://u:p@h/"]
)
def test_a_token_server_in_the_clear_gets_nothing(
    basic: Registry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, realm: str
) -> None:
    with faulty(
        basic.host, Fault("GET", "status", 401, {"WWW-Authenticate": f'Bearer realm="{realm}"'}, times=-1)
    ) as proxy:
        monkeypatch.setenv("DOCKER_CONFIG", str(docker_config(tmp_path / "d", proxy.host)))
        refused = _refusal(lambda: Repository(proxy.host, "a/b", patience=QUICK).document("v1"))
        assert "which is no https" in refused.what


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"token": 7}',
        b'{"token": ""}',
        b'{"token": "a\\r\\nX-Evil: 1"}',
        b"[" * 100_000,
        b"x" * 9_000_000,
    ],
)
def test_a_token_server_that_gives_no_token_is_refused(
    basic: Registry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, body: bytes
) -> None:
    with faulty(basic.host) as proxy:
        realm = f"http://{proxy.host}/token"
        proxy.faults = [
            Fault("GET /token", "status", 200, body=body, times=-1),
            Fault("GET", "status", 401, {"WWW-Authenticate": f'Bearer realm="{realm}"'}, times=-1),
        ]
        monkeypatch.setenv("DOCKER_CONFIG", str(docker_config(tmp_path / "d", proxy.host)))
        refused = _refusal(lambda: Repository(proxy.host, "a/b", patience=QUICK).document("v1"))
        assert "the token server" in refused.what


def test_a_login_goes_to_no_other_host(basic: Registry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither with a redirect of a download, nor with an upload that is sent elsewhere, not even to another port."""
    data = noise(2_500_000, 20)
    with faulty(basic.host) as proxy, faulty(basic.host) as other:
        monkeypatch.setenv("DOCKER_CONFIG", str(docker_config(tmp_path / "d", proxy.host)))
        store = Repository(proxy.host, "a/model", push=True, patience=QUICK)
        layer = store.add(Bytes(data), None, ignore)
        elsewhere = f"http://{other.host}/v2/a/model/blobs/{layer}"
        proxy.faults = [Fault("GET .*blobs/sha256", "status", 307, {"Location": elsewhere}, times=-1)]
        _refusal(lambda: read(store, layer, len(data)))
        proxy.faults = [
            Fault("POST", "status", 202, {"Location": f"http://{other.host}/v2/a/model/blobs/uploads/x"}, times=-1)
        ]
        _refusal(lambda: store.add(Bytes(b"new"), None, ignore))
        assert {line.split()[0] for line in other.asked} >= {"GET", "PATCH"}
        assert [headers for headers in other.seen_headers if "Authorization" in headers] == []
        assert [headers for headers in proxy.seen_headers[1:] if "Authorization" not in headers] == []


def test_secrets_that_a_registry_sends_back_are_not_shown(
    basic: Registry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    echo = json.dumps(
        {"errors": [{"code": "DENIED", "message": f"no {PASSWORD} with Basic {BASIC}: https://u:pw@h/x?sig=1"}]}
    ).encode()
    with faulty(basic.host, Fault("POST", "status", 403, body=echo)) as proxy:
        monkeypatch.setenv("DOCKER_CONFIG", str(docker_config(tmp_path / "d", proxy.host)))
        refused = _refusal(
            lambda: Repository(proxy.host, "a/b", push=True, patience=QUICK).add(Bytes(b"x"), None, ignore)
        )
        assert "403 DENIED: no *** with Basic ***: https://h/x" in refused.what


def test_a_login_is_never_in_the_clear_to_a_proxy_of_the_environment(
    basic: Registry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """This machine is spoken to in plain http, and so never through another."""
    monkeypatch.setenv("DOCKER_CONFIG", str(docker_config(tmp_path / "d", basic.host)))
    with faulty(basic.host) as proxy:
        for name in ("http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, f"http://{proxy.host}")
        monkeypatch.setenv("no_proxy", "")
        _round_trip(basic.host, 21)
        assert proxy.asked == []


def test_other_hosts_are_asked_through_the_proxy_of_the_environment(
    basic: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    with faulty(basic.host) as proxy:
        monkeypatch.setenv("https_proxy", f"http://{proxy.host}")
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        refused = _refusal(lambda: Repository("registry.invalid", "a/b", patience=QUICK).has(digest_of(b""), 0))
        assert "registry.invalid through the proxy of the environment" in refused.what


def test_netrc_is_not_read(basic: Registry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "netrc").write_text(f"machine 127.0.0.1 login {USER} password {PASSWORD}\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert "401" in _refusal(lambda: Repository(basic.host, "a/b", patience=QUICK).has(digest_of(b""), 0)).what


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
