"""The registry client against a real registry behind a proxy that breaks things: right in the end, or refused."""

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from checks.process.errors import Refusal, RegistryRefused
from release.adapters.registry import client, upload
from release.adapters.registry.client import Repository
from release.adapters.registry.documents import MANIFEST, StoreUnavailable
from release.adapters.registry.transport import Transport
from release.adapters.retries import RequestError
from tests.faulty_proxy import Fault, FaultyProxy
from tests.registry_service import Registry, registry
from tests.release.adapters.registry.test_registry import QUICK, Bytes, digest_of, ignore, manifest_of, noise, read

pytestmark = pytest.mark.slow

PIECE = 1 << 16  # bytes of one send
SIZE = 13 * PIECE + 12345


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with registry(tmp_path_factory.mktemp("upstream")) as running:
        yield running


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload, "_PIECE", PIECE)
    monkeypatch.setattr(client, "_BLOCK", 1 << 16)


def _push(proxy: FaultyProxy, seed: int, tag: str) -> str:
    """Push an image of one layer; return the layer's digest."""
    store, told = Repository(proxy.host, "f/model", push=True, patience=QUICK), list[int]()
    layer = store.add(Bytes(noise(SIZE, seed)), None, told.append)
    assert sum(told) == SIZE
    assert min(told) > 0
    store.put(manifest_of({layer: SIZE}, store.add(Bytes(b"{}"), None, ignore)), MANIFEST, tag)
    return layer


_looked_at: set[tuple[Path, int]] = set()


def _nothing_is_corrupt(upstream: Registry) -> None:
    for path in upstream.blobs:
        if (path, path.stat().st_mtime_ns) not in _looked_at:
            assert path.parent.name == digest_of(path.read_bytes())[7:]
            _looked_at.add((path, path.stat().st_mtime_ns))


ENDS_WELL = {
    "429 that says when": [Fault("PATCH", "status", 429, {"Retry-After": "0"}, times=2)],
    "429 to the opening": [Fault("POST", "status", 429, {"Retry-After": "1"})],
    "503 to the config": [Fault("PATCH", "status", 503, after=1)],
    "500 to the first request of all": [Fault("GET /v2/ ", "status", 500), Fault(r"GET /v2/$", "status", 500, times=2)],
    "502 of a proxy, not in JSON": [Fault("PATCH", "status", 502, body=b"<html>Bad gateway\n</html>")],
    "503 without reading": [Fault("PATCH", "early status", 503)],
    "201 to the bytes, as ECR answers": [Fault("PATCH", "other status", 201, times=-1)],
    "429 to looking": [Fault("HEAD", "status", 429, times=3)],
    "500 to the end of an upload": [Fault("PUT .*uploads", "status", 500, times=2)],
    "lost reply to the bytes": [Fault("PATCH", "lost reply", 502)],
    "lost reply to the end of an upload": [Fault("PUT .*uploads", "lost reply", 504)],
    "lost reply to a manifest": [Fault("PUT .*manifests", "lost reply", 500)],
    "reset at once": [Fault("PATCH", "reset request", at=0)],
    "reset in the first piece": [Fault("PATCH", "reset request", at=25_000)],
    "reset in a later piece": [Fault("PATCH", "reset request", at=600_000)],
    "resets again and again": [Fault("PATCH", "reset request", at=150_000 * n) for n in range(1, 4)],
    "reset of the end": [Fault("PUT .*uploads", "reset request")],
    "reset of a manifest": [Fault("PUT .*manifests", "reset request", at=10)],
    "the bytes cut short": [Fault("PATCH", "short request", at=25_000)],
    "the bytes cut to nothing": [Fault("PATCH", "short request", at=0)],
    "a bit flipped": [Fault("PATCH", "flipped request")],
    "bits flipped twice": [Fault("PATCH", "flipped request", times=2)],
    "slow reading": [Fault("PATCH", "slow request", pause=0.02)],
    "a reset while reading back": [Fault("GET .*blobs/sha256", "reset reply", at=125_000, times=3)],
    "a clean end too early": [Fault("GET .*blobs/sha256", "short reply", at=125_000)],
    "slow replies": [Fault("GET", "slow reply", pause=0.01, times=9)],
    "503 while reading back": [Fault("GET .*blobs/sha256", "status", 503, times=2)],
    "reset of a manifest that is read": [Fault("GET .*manifests", "reset reply", at=20)],
    "an upload that is forgotten: 404": [Fault("PATCH", "status", 404)],
    "a hiccup: 416": [Fault("PATCH", "status", 416)],
    "a hiccup: 400, without reading": [Fault("PATCH", "early status", 400, times=2)],
    "the bytes break, and the reply to the end is lost": [Fault("PATCH", "reset request", at=225_000), Fault("PUT .*uploads", "lost reply", 502)],
    "a Range that stays behind": [Fault("PATCH", "headers", headers={"Range": "0-262143"})],
    "no Range": [Fault("PATCH", "headers", headers={"Range": ""}, times=-1)],
    "a Range that runs ahead": [Fault("PATCH", "headers", headers={"Range": "0-99999999"})],
    "a smallest chunk": [Fault("POST", "headers", headers={"OCI-Chunk-Min-Length": "500000"}, times=-1)],
}  # fmt: skip


@pytest.mark.parametrize("name", ENDS_WELL)
@pytest.mark.parametrize("keeps", [False, True], ids=["forgets uploads", "keeps uploads"])
def test_a_fault_that_passes_ends_well(upstream: Registry, name: str, keeps: bool) -> None:
    seed, tag = 1000 + list(ENDS_WELL).index(name) * 2 + keeps, f"well-{list(ENDS_WELL).index(name)}-{keeps}"
    with FaultyProxy(upstream.host, *(Fault(**vars(fault)) for fault in ENDS_WELL[name])) as proxy:
        proxy.keeps_uploads = keeps
        layer = _push(proxy, seed, tag)
        assert layer == digest_of(noise(SIZE, seed))
        assert read(Repository(proxy.host, "f/model", patience=QUICK), layer, SIZE) == noise(SIZE, seed)
    assert tag in upstream.tags
    _nothing_is_corrupt(upstream)


REFUSED = {
    "500 for ever": ([Fault("PATCH|PUT", "status", 500, times=-1)], "500 TESTED: broken by the test"),
    "429 for hours": ([Fault("POST", "status", 429, {"Retry-After": "7200"}, times=-1)], "429 TESTED.*; run it again"),
    "resets for ever": ([Fault("PATCH|PUT", "reset request", at=25_000, times=-1)], "reset|broke off|Broken pipe"),
    "403": ([Fault("POST", "status", 403, times=-1)], "403 TESTED.*docker login 127"),
    "413": ([Fault("PATCH", "status", 413, times=-1)], r"413 TESTED.*merge\.shard_mb"),
    "every upload flipped": ([Fault("PATCH", "flipped request", times=-1)], "400 DIGEST_INVALID"),
    "no PATCH: 405": ([Fault("PATCH", "status", 405, times=-1)], "405 TESTED"),
    "no PATCH: 416": ([Fault("PATCH", "status", 416, times=-1)], "416 TESTED"),
    "no PATCH: 400, without reading": ([Fault("PATCH", "early status", 400, times=-1)], "400 TESTED"),
    "no PATCH: 501": ([Fault("PATCH", "status", 501, times=-1)], "501 TESTED"),
    "no PATCH: hangs up": ([Fault("PATCH", "reset request", at=0, times=-1)], "reset|broke off|Broken pipe"),
    "a lie about the stored digest": (
        [Fault("PUT .*uploads", "headers", headers={"Docker-Content-Digest": digest_of(b"lie")}, times=-1)],
        "where sha256:.* was sent; ask who runs",
    ),
    "a lie about the manifest's digest": (
        [Fault("PUT .*manifests", "headers", headers={"Docker-Content-Digest": digest_of(b"lie")}, times=-1)],
        "where sha256:.* was sent; ask who runs",
    ),
    "a manifest that comes back changed": ([Fault("GET .*manifests", "flipped reply", times=-1)], "gives bytes with the digest"),
    "a manifest that comes back cut": ([Fault("GET .*manifests", "short reply", at=40, times=-1)], "broke off"),
    "a manifest flipped on its way": ([Fault("PUT .*manifests", "flipped request", times=-1)], "MANIFEST_INVALID|DIGEST_INVALID"),
    "an upload sent elsewhere in the clear": (
        [Fault("POST", "headers", headers={"Location": "http://192.0.2.1/upload"}, times=-1)],
        r"sends us on to 192\.0\.2\.1, which is no https",
    ),
    "an upload sent to nowhere": ([Fault("POST", "headers", headers={"Location": ""}, times=-1)], "sends us on to nowhere"),
    "an upload sent to another protocol": (
        [Fault("POST", "headers", headers={"Location": "file:///etc/passwd"}, times=-1)],
        "sends us on to nowhere",
    ),
    "redirects without end": ([Fault("GET .*manifests", "status", 307, {"Location": "/v2/f/model/manifests/x"}, times=-1)], "redirects more"),
    "no registry at all": ([Fault("GET", "status", 404, times=-1)], "404 TESTED"),
    "errors that are no text": (
        [
            Fault(
                "POST",
                "status",
                400,
                body=b'{"errors":[{"code":"\\u001b[2J\\n","message":"' + b"x" * 999 + b'"}]}',
                times=-1,
            )
        ],
        r"400 \[2J : x{100}",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_fault_that_stays_is_refused_in_one_line(upstream: Registry, name: str) -> None:
    faults, says = REFUSED[name]
    tag = f"refused-{list(REFUSED).index(name)}"
    with FaultyProxy(upstream.host, *(Fault(**vars(fault)) for fault in faults)) as proxy:
        with pytest.raises(Refusal) as refused:
            _push(proxy, 5000 + list(REFUSED).index(name), tag)
        message = str(refused.value)
        assert isinstance(refused.value, RegistryRefused)
        assert re.search(says, message), message
        assert message.isprintable()
        assert len(message) < 600
        assert proxy.host in message
    assert tag not in upstream.tags
    _nothing_is_corrupt(upstream)


@pytest.mark.parametrize("known", [True, False])
def test_a_blob_whose_upload_broke_is_sent_again_whole_and_arrives(upstream: Registry, known: bool) -> None:
    data, told = noise(SIZE, 20 + known), list[int]()
    with FaultyProxy(upstream.host, Fault("PATCH", "reset request", at=500_000)) as proxy:
        proxy.keeps_uploads = True
        blob = Bytes(data)
        store = Repository(proxy.host, "f/model", push=True, patience=QUICK)
        layer = store.add(blob, digest_of(data) if known else None, told.append)
        assert blob.reads == 2
        methods = [line.partition(" ")[0] for line in proxy.asked if "/uploads/" in line]
        assert methods == ["POST", "PATCH", "DELETE", "POST", "PATCH", "PUT"]
        assert proxy.received["PATCH"] == SIZE + 500_000
    assert upstream.stored[layer] == data
    assert sum(told) == SIZE


def test_a_blob_whose_last_reply_was_lost_is_not_sent_again(upstream: Registry) -> None:
    with FaultyProxy(upstream.host, Fault("PUT .*uploads", "lost reply", 502)) as proxy:
        layer = Repository(proxy.host, "f/model", push=True, patience=QUICK).add(Bytes(noise(SIZE, 2)), None, ignore)
        assert proxy.received["PATCH"] == SIZE
    assert upstream.stored[layer] == noise(SIZE, 2)


def test_an_upload_that_is_given_up_is_cancelled(upstream: Registry) -> None:
    def stop(_: int) -> None:
        raise KeyboardInterrupt

    with FaultyProxy(upstream.host) as proxy:
        store = Repository(proxy.host, "f/stopped", push=True, patience=QUICK)
        with pytest.raises(KeyboardInterrupt):
            store.add(Bytes(noise(SIZE, 22)), None, stop)
        # The cut connection and the new one are read by two threads: the proxy may see the second one first.
        assert [asked for asked in proxy.asked if asked.startswith("DELETE ")]
    assert digest_of(noise(SIZE, 22)) not in upstream.stored


def test_an_interrupted_download_is_continued_and_not_begun_again(upstream: Registry) -> None:
    with FaultyProxy(upstream.host, Fault("GET .*blobs/sha256", "reset reply", at=8 * PIECE)) as proxy:
        store = Repository(proxy.host, "f/model", push=True, patience=QUICK)
        layer = store.add(Bytes(noise(SIZE, 3)), None, ignore)
        assert read(store, layer, SIZE) == noise(SIZE, 3)
        ranges = [headers.get("Range") for headers in proxy.seen_headers if "Range" in headers]
        assert len(ranges) == 1
        assert re.fullmatch(r"bytes=[1-9]\d*-", ranges[0] or "")


def test_a_storage_without_ranges_is_read_from_its_start_and_comes_out_right(upstream: Registry) -> None:
    with FaultyProxy(upstream.host, Fault("GET .*blobs/sha256", "reset reply", at=8 * PIECE)) as proxy:
        store = Repository(proxy.host, "f/model", push=True, patience=QUICK)
        layer = store.add(Bytes(noise(SIZE, 4)), None, ignore)
        proxy.drops = {"range"}
        assert read(store, layer, SIZE) == noise(SIZE, 4)


def test_a_flipped_bit_in_a_download_is_refused(upstream: Registry) -> None:
    with FaultyProxy(upstream.host, Fault("GET .*blobs/sha256", "flipped reply")) as proxy:
        store = Repository(proxy.host, "f/model", push=True, patience=QUICK)
        layer = store.add(Bytes(noise(SIZE, 6)), None, ignore)
        with pytest.raises(RegistryRefused, match="holds"):
            read(store, layer, SIZE)


@pytest.mark.parametrize("kind", ["application/vnd.oci.image.index.v1+json", "text/html", ""])
def test_a_manifest_under_another_type_is_refused(upstream: Registry, kind: str) -> None:
    with FaultyProxy(upstream.host) as proxy:
        _push(proxy, 7, "typed")
        proxy.faults.append(Fault("GET .*manifests", "headers", headers={"Content-Type": kind}))
        with pytest.raises(RegistryRefused, match="calls itself") as refused:
            Repository(proxy.host, "f/model", patience=QUICK).document("typed")
        assert not isinstance(refused.value, StoreUnavailable)


def test_a_tag_that_another_moves_meanwhile_is_noticed(upstream: Registry) -> None:
    with FaultyProxy(upstream.host) as proxy:
        _push(proxy, 8, "other")
        other = Repository(proxy.host, "f/model", patience=QUICK).document("other")
        lie = {"Docker-Content-Digest": ""}
        proxy.faults.append(Fault("GET .*manifests/mine", "status", 200, {"Content-Type": MANIFEST} | lie, other.data))
        with pytest.raises(RegistryRefused, match="nobody else moves that tag"):
            _push(proxy, 9, "mine")


def test_retry_after_is_waited_for(upstream: Registry) -> None:
    with FaultyProxy(upstream.host, Fault("POST", "status", 429, {"Retry-After": "1"})) as proxy:
        start = time.monotonic()
        Repository(proxy.host, "f/model", push=True, patience=QUICK).add(Bytes(b"waits"), None, ignore)
        assert time.monotonic() - start >= 1


def test_a_redirect_to_a_storage_is_followed_and_one_in_the_clear_is_not(upstream: Registry) -> None:
    with FaultyProxy(upstream.host) as storage, FaultyProxy(upstream.host) as proxy:
        store = Repository(proxy.host, "f/model", push=True, patience=QUICK)
        layer = store.add(Bytes(noise(SIZE, 10)), None, ignore)
        place = f"/v2/f/model/blobs/{layer}"
        proxy.faults.append(Fault("GET .*blobs/sha256", "status", 307, {"Location": f"http://{storage.host}{place}"}))
        assert read(store, layer, SIZE) == noise(SIZE, 10)
        assert storage.asked == [f"GET {place}"]
        proxy.faults.append(Fault("GET .*blobs/sha256", "status", 307, {"Location": f"http://192.0.2.1{place}"}))
        with pytest.raises(RegistryRefused, match=r"sends us on to 192\.0\.2\.1"):
            read(store, layer, SIZE)


@pytest.mark.parametrize("times", [1, -1])
def test_a_registry_that_falls_silent_is_left(upstream: Registry, times: int) -> None:
    with FaultyProxy(upstream.host, Fault("GET .*catalog", "slow reply", pause=1, times=times)) as proxy:
        http = Transport(proxy.host, QUICK._replace(tries=2))
        url = http.url("_catalog")
        if times == 1:
            assert http.ask("GET", url, (200,), (), read=0.2).status == 200
        else:
            with pytest.raises(RequestError, match="stops answering"):
                http.ask("GET", url, (200,), (), read=0.2)
