"""The registry client against a real docker-registry."""

import hashlib
import json
import ssl
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import certifi
import pytest

from checks.process.errors import BuildRefused, RegistryRefused
from release.adapters.registry import limits, tls
from release.adapters.registry.client import Repository
from release.adapters.registry.documents import CONFIG, LAYER, MANIFEST, Blob, Store, StoreUnavailable
from release.adapters.retries import Patience, retry_after
from tests.faulty_proxy import FaultyProxy
from tests.registry_service import Registry, certificate, registry

QUICK = Patience(tries=5, in_all=20, first=0.01, longest=0.05, on_request=2)


class Bytes:
    """A blob in memory, in blocks that fit nothing; ``reads``: how often it was read."""

    def __init__(self, data: bytes, size: int | None = None, block: int = 700_001) -> None:
        self.data = data
        self.size = len(data) if size is None else size
        self.block = block
        self.reads = 0

    def blocks(self) -> Iterator[bytes]:
        self.reads += 1
        for at in range(0, len(self.data), self.block):
            yield self.data[at : at + self.block]


def noise(size: int, seed: int = 0) -> bytes:
    return hashlib.shake_256(str(seed).encode()).digest(size)


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def ignore(_: int) -> None:
    """Nobody watches."""


def read(store: Store, digest: str, size: int) -> bytes:
    return b"".join(store.blob(digest, size))


def manifest_of(layers: dict[str, int], config: str, **more: object) -> bytes:
    return json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"mediaType": CONFIG, "digest": config, "size": 2},
            "layers": [{"mediaType": LAYER, "digest": digest, "size": size} for digest, size in layers.items()],
            **more,
        }
    ).encode()


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with registry(tmp_path_factory.mktemp("plain")) as running:
        yield running


@pytest.fixture
def store(plain: Registry, request: pytest.FixtureRequest) -> Repository:
    """A repository of its own for each test."""
    name = f"t/{hashlib.sha256(request.node.name.encode()).hexdigest()[:12]}"
    return Repository(plain.host, name, push=True, patience=QUICK)


def test_a_repository_is_a_store(store: Repository) -> None:
    typed: Store = store
    blob: Blob = Bytes(b"x")
    assert typed.name.endswith(store.repository)
    assert blob.size == 1


@pytest.mark.parametrize("size", [0, 1 << 20, (4 << 20) + 17])
@pytest.mark.parametrize("known", [True, False])
def test_a_blob_comes_back_as_it_was_sent(store: Repository, size: int, known: bool) -> None:
    data, told = noise(size, int(known)), list[int]()
    assert not store.has(digest_of(data), size)
    assert store.add(Bytes(data), digest_of(data) if known else None, told.append) == digest_of(data)
    assert sum(told) == size
    assert store.has(digest_of(data), size)
    assert read(store, digest_of(data), size) == data


@pytest.mark.slow
def test_a_large_blob_is_read_once(store: Repository) -> None:
    blob = Bytes(noise(5 << 20, 2))
    store.add(blob, None, ignore)
    assert blob.reads == 1


@pytest.mark.slow
def test_a_blob_that_is_there_is_not_sent_again(plain: Registry, store: Repository) -> None:
    data = noise(3 << 20, 3)
    with FaultyProxy(plain.host) as proxy:
        through, told = Repository(proxy.host, store.repository, push=True, patience=QUICK), list[int]()
        through.add(Bytes(data), digest_of(data), ignore)
        sent = sum(proxy.received.values())
        assert sent == len(data)
        through.add(Bytes(data), digest_of(data), told.append)
        assert sum(proxy.received.values()) == sent
        assert told == [len(data)]


def test_a_blob_of_another_size_is_not_there(store: Repository) -> None:
    digest = store.add(Bytes(b"four"), None, ignore)
    assert not store.has(digest, 5)


@pytest.mark.parametrize("size", [1000, 3 << 20])
def test_bytes_that_are_not_what_they_should_be_are_never_stored(plain: Registry, store: Repository, size: int) -> None:
    data, wanted = noise(size, 4), digest_of(b"other")
    with pytest.raises(BuildRefused, match="the bytes to be stored are"):
        store.add(Bytes(data), wanted, ignore)
    assert {wanted, digest_of(data)} & plain.stored.keys() == set()
    assert list(plain.folder.glob(f"data/**/{store.repository}/_uploads/*/data")) == []


@pytest.mark.parametrize("size", [2_000_000, 2_000_002])
def test_a_file_that_changes_its_size_while_it_is_read_is_refused(
    plain: Registry, store: Repository, size: int
) -> None:
    with pytest.raises(BuildRefused, match=r"a layer of 2,000,001 bytes (ends at 2,000,000|has more)"):
        store.add(Bytes(noise(size, 5), 2_000_001), None, ignore)
    if size > 2_000_001:  # after a request cut short this registry lets no one cancel
        assert list(plain.folder.glob(f"data/**/{store.repository}/_uploads/*/data")) == []


def test_a_file_that_cannot_be_read_is_no_trouble_of_the_connection(store: Repository) -> None:
    class Broken(Bytes):
        def blocks(self) -> Iterator[bytes]:
            yield self.data[:1_500_000]
            raise OSError(5, "Input/output error")

    with pytest.raises(BuildRefused, match="Input/output error"):
        store.add(Broken(noise(2_000_000, 6)), None, ignore)


@pytest.mark.slow
def test_many_layers_at_once_share_one_client(store: Repository) -> None:
    blobs, lock, told = [noise(3 << 20, seed) for seed in range(10, 18)], threading.Lock(), [0]

    def count(size: int) -> None:
        with lock:
            told[0] += size

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda data: store.add(Bytes(data), None, count), blobs))
        assert found == [digest_of(data) for data in blobs]
        assert list(pool.map(lambda data: read(store, digest_of(data), len(data)), blobs)) == blobs
    assert told == [8 * (3 << 20)]


def test_a_blob_is_mounted_from_another_repository_without_being_sent(plain: Registry, store: Repository) -> None:
    data = noise(2 << 20, 20)
    store.add(Bytes(data), None, ignore)
    with FaultyProxy(plain.host) as proxy:
        source = Repository(proxy.host, store.repository, patience=QUICK)
        target = Repository(proxy.host, f"{store.repository}-b", push=True, patience=QUICK)
        assert target.borrow(digest_of(data), len(data), source)
        assert target.has(digest_of(data), len(data))
        assert sum(proxy.received.values()) == 0
        missing = digest_of(b"nowhere")
        assert not target.borrow(missing, 7, source)
        assert proxy.asked[-1].startswith("DELETE ")  # the upload that was opened instead
        elsewhere = Repository(plain.host, store.repository, patience=QUICK)
        assert not target.borrow(digest_of(data), len(data), elsewhere)


def test_a_manifest_is_stored_by_digest_and_by_tag(store: Repository) -> None:
    layer, config = store.add(Bytes(b"layer"), None, ignore), store.add(Bytes(b"{}"), None, ignore)
    data = manifest_of({layer: 5}, config)
    assert store.put(data, MANIFEST, "v1") == digest_of(data)
    for reference in ("v1", digest_of(data)):
        assert store.document(reference) == (data, MANIFEST, digest_of(data))


@pytest.mark.slow
def test_a_manifest_with_a_subject_is_stored(store: Repository) -> None:
    layer, config = store.add(Bytes(b"layer"), None, ignore), store.add(Bytes(b"{}"), None, ignore)
    first = manifest_of({layer: 5}, config)
    store.put(first, MANIFEST, None)
    subject = {"mediaType": MANIFEST, "digest": digest_of(first), "size": len(first)}
    second = manifest_of({}, config, subject=subject, artifactType="application/vnd.in-toto+json")
    store.put(second, MANIFEST, None)
    assert store.document(digest_of(second)).data == second


def test_a_manifest_whose_layers_are_absent_is_never_tagged(plain: Registry, store: Repository) -> None:
    config = store.add(Bytes(b"{}"), None, ignore)
    with pytest.raises(RegistryRefused, match="MANIFEST_BLOB_UNKNOWN"):
        store.put(manifest_of({digest_of(b"absent"): 6}, config), MANIFEST, "absent-layer")
    assert "absent-layer" not in plain.tags


@pytest.mark.parametrize("reference", ["no-such-tag", digest_of(b"no such manifest")])
def test_an_absent_manifest_is_refused_in_one_line(store: Repository, reference: str) -> None:
    with pytest.raises(StoreUnavailable, match=r"404 MANIFEST_UNKNOWN.*; check the name") as refused:
        store.document(reference)
    assert "\n" not in str(refused.value)
    assert store.name in str(refused.value)


def test_a_stored_blob_that_rots_is_refused_before_its_last_block(plain: Registry, store: Repository) -> None:
    data = noise(3 << 20, 30)
    digest = store.add(Bytes(data), None, ignore)
    (path,) = plain.folder.glob(f"data/docker/registry/v2/blobs/sha256/*/{digest[7:]}/data")
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    given: list[bytes] = []
    with pytest.raises(RegistryRefused, match="holds"):
        given.extend(store.blob(digest, len(data)))
    assert sum(map(len, given)) < len(data)


@pytest.mark.parametrize("size", [(3 << 20) - 1, (3 << 20) + 1])
def test_a_blob_of_another_size_than_announced_is_refused(store: Repository, size: int) -> None:
    digest = store.add(Bytes(noise(3 << 20, 31)), None, ignore)
    with pytest.raises(RegistryRefused, match=r"holds more than|has no more than"):
        read(store, digest, size)


@pytest.mark.slow
def test_an_independent_tool_pulls_what_was_pushed(store: Repository, tmp_path: Path) -> None:
    layer = noise(1 << 16, 32)
    config = json.dumps(
        {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [digest_of(layer)]}}
    )
    stored = store.add(Bytes(layer), None, ignore), store.add(Bytes(config.encode()), None, ignore)
    manifest = json.loads(manifest_of({stored[0]: len(layer)}, stored[1]))
    manifest["config"]["size"] = len(config)
    store.put(json.dumps(manifest).encode(), MANIFEST, "v1")
    copy = ["skopeo", "copy", "--src-tls-verify=false", f"docker://{store.name}:v1", f"dir:{tmp_path / 'copy'}"]
    subprocess.run(copy, check=True, capture_output=True)
    assert (tmp_path / "copy" / stored[0][7:]).read_bytes() == layer


def test_tls_with_an_unknown_authority_is_refused_and_never_becomes_http(tmp_path: Path) -> None:
    with registry(tmp_path / "r", tls=certificate(tmp_path / "tls")) as running:
        with pytest.raises(RegistryRefused, match="certificate is not trusted") as refused:
            Repository(running.host, "a/b", patience=QUICK).has(digest_of(b""), 0)
        assert f"/etc/docker/certs.d/{running.host}/ca.crt" in refused.value.todo
        assert not isinstance(refused.value, StoreUnavailable), "something else may answer there"


@pytest.mark.slow
@pytest.mark.parametrize("way", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "certs.d"])
def test_tls_with_an_authority_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    made = certificate(tmp_path / "tls")
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    with registry(tmp_path / "r", tls=made) as running:
        if way == "certs.d":
            monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
            folder = tmp_path / "config/docker/certs.d" / running.host
            folder.mkdir(parents=True)
            (folder / "ca.crt").write_bytes(made.ca.read_bytes())
        else:
            monkeypatch.setenv(way, str(made.ca))
        store, data = Repository(running.host, "a/b", push=True, patience=QUICK), noise(2 << 20, 40)
        assert read(store, store.add(Bytes(data), None, ignore), len(data)) == data
        localhost = Repository(running.host.replace("127.0.0.1", "localhost"), "a/b", patience=QUICK)
        if way != "certs.d":
            assert localhost.has(digest_of(data), len(data))


@pytest.mark.slow
def test_a_client_s_own_certificate_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = certificate(tmp_path / "tls")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    with registry(tmp_path / "r", tls=made, clients=True) as running:
        folder = tmp_path / "config/docker/certs.d" / running.host
        folder.mkdir(parents=True)
        (folder / "ca.crt").write_bytes(made.ca.read_bytes())
        with pytest.raises(RegistryRefused, match=r"alert .*certificate.*certs\.d"):
            Repository(running.host, "a/b", patience=QUICK).has(digest_of(b""), 0)
        (folder / "us.cert").write_bytes(made.certificate.read_bytes())
        (folder / "us.key").write_bytes(made.key.read_bytes())
        assert not Repository(running.host, "a/b", patience=QUICK).has(digest_of(b""), 0)
        (folder / "us.key").write_text("no key")
        (folder / "us.cert").rename(folder / "broken.cert")
        with pytest.raises(RegistryRefused, match=r"broken\.cert: cannot be used"):
            Repository(running.host, "a/b", patience=QUICK).has(digest_of(b""), 0)


def test_a_broken_authority_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken.crt").write_text("no certificate")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "broken.crt"))
    with pytest.raises(RegistryRefused, match=r"broken\.crt: cannot be used"):
        Repository("127.0.0.1:1", "a/b", patience=QUICK).has(digest_of(b""), 0)


@pytest.mark.parametrize("names", [(), ("4a6481c9.0",), ("ca-bundle.crt",)])
def test_a_folder_of_the_system_counts_only_where_openssl_finds_authorities_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...]
) -> None:
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
    for name in names:
        (tmp_path / name).touch()
    paths = ssl.get_default_verify_paths()._replace(cafile=None, capath=str(tmp_path))  # type: ignore[arg-type]
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: paths)
    tls._of_the_system.cache_clear()
    chosen, _ = tls.trust(None)
    tls._of_the_system.cache_clear()
    assert chosen == (str(tmp_path) if "4a6481c9.0" in names else certifi.where())


def test_of_two_authorities_in_one_folder_none_is_left_out_without_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    folder = tmp_path / "docker/certs.d/registry.example"
    folder.mkdir(parents=True)
    for name in ("ca.crt", "new-ca.crt"):
        (folder / name).touch()
    with pytest.raises(RegistryRefused, match=r"registry\.example: has more than one \*\.crt") as refused:
        tls.trust("registry.example")
    assert refused.value.todo == "put all authorities into one of them, such as ca.crt"


def test_a_setting_that_names_no_file_is_refused_and_nothing_else_is_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere/ca.pem")
    with pytest.raises(RegistryRefused, match=r"^/nowhere/ca\.pem: cannot be used as a certificate: No such file"):
        tls.trust(None)


@pytest.mark.parametrize("host", ["127.0.0.1:1", "[::1]:1", "localhost:1"])
def test_a_registry_that_does_not_run_is_refused_soon(host: str) -> None:
    with pytest.raises(StoreUnavailable, match=r"Connection refused|Cannot assign|unreachable") as refused:
        Repository(host, "a/b", patience=QUICK).has(digest_of(b""), 0)
    assert "\n" not in str(refused.value)


def test_other_hosts_are_spoken_to_in_https_alone(plain: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's own name or address would answer in http, and is not asked in it."""
    from release.adapters.registry import addresses

    monkeypatch.setattr(addresses, "is_loopback", lambda _: False)
    with pytest.raises(RegistryRefused, match=r"wrong version number|TLS|SSL|broke off|reset"):
        Repository(plain.host, "a/b", patience=QUICK).has(digest_of(b""), 0)


@pytest.mark.parametrize("host", ["user@127.0.0.1:5", "127.0.0.1:99999", "a/b", "", "h:0"])
def test_what_is_no_address_is_refused(host: str) -> None:
    with pytest.raises(RegistryRefused, match="no address"):
        Repository(host, "a/b")


@pytest.mark.parametrize(
    ("host", "largest"),
    [
        ("ghcr.io", 10_000_000_000),
        ("123456789012.dkr.ecr.eu-west-1.amazonaws.com", 52_000 << 20),
        ("123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn", 52_000 << 20),
        ("quay.io", 50_000_000_000),
        ("registry.gitlab.com", 10_000_000_000),
    ],
)
def test_a_layer_that_a_registry_is_known_not_to_take_is_refused_before_it_is_asked(host: str, largest: int) -> None:
    limits.check(host, [1, largest])
    with pytest.raises(BuildRefused, match=r"merge\.shard_mb"):
        limits.check(host, [largest + 1, 2])


@pytest.mark.parametrize("host", ["ghcr.io.example.org", "notquay.io", "example.org:5000", "docker.io"])
def test_other_registries_have_no_known_limit(host: str) -> None:
    limits.check(host, [10**12])


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 5 << 20])
def test_a_blob_is_sent_in_one_request_without_a_range(plain: Registry, store: Repository, size: int) -> None:
    """GHCR takes 4 MiB of a request with a Content-Range, and ECR the first such request alone."""
    with FaultyProxy(plain.host) as proxy:
        through = Repository(proxy.host, store.repository, push=True, patience=QUICK)
        through.add(Bytes(noise(size, 50)), None, ignore)
        sent = [line.partition(" ")[0] for line in proxy.asked if "/uploads/" in line]
        headers = [proxy.seen_headers[at] for at, line in enumerate(proxy.asked) if line.startswith("PATCH")]
    assert sent == ["POST", "PATCH", "PUT"]
    assert [(each.get("Content-Length"), each.get("Content-Range")) for each in headers] == [(str(size), None)]


def test_a_layer_too_large_is_refused_by_add(store: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_LIMITS", {r"127\.0\.0\.1": 9})
    with pytest.raises(BuildRefused, match="10 bytes"):
        store.add(Bytes(b"0123456789"), None, ignore)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("3", 3),
        (" 0 ", 0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0),
        ("soon", None),
        ("-1", None),
        ("", None),
        (None, None),
        ("1e9", None),
        ("Wed, 99 Foo 99999 99:99:99", None),
        ("9" * 5000, None),
    ],
)
def test_retry_after_is_read_as_a_number_or_a_date(value: str | None, seconds: float | None) -> None:
    assert retry_after(value) == seconds
