"""Envelopes: what one signer signed, and nothing else; checked by openssl as well."""

import base64
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from checks.formats.signers import Signer
from checks.formats.statement import PAYLOAD
from checks.process.errors import EvidenceRefused
from checks.storage.digest import canonical_json
from release.evidence import dsse, keys, strict, trust

ADA, BOB, EVE = (keys.generate() for _ in range(3))
SIGNERS = (
    Signer(name="ada", may=("release",), key=keys.pem(ADA.public_key)),
    Signer(name="bob", may=("approve",), key=keys.pem(BOB.public_key)),
)
STATEMENT = canonical_json({"_type": "x", "subject": ["ü"]})


def test_what_a_signer_signed_comes_back_with_its_name() -> None:
    assert dsse.verify(dsse.sign(STATEMENT, PAYLOAD, ADA), SIGNERS, "release") == (STATEMENT, "ada")
    assert dsse.verify(dsse.sign(STATEMENT, PAYLOAD, BOB), SIGNERS, "approve") == (STATEMENT, "bob")


def test_openssl_verifies_the_signature_by_itself(tmp_path: Path) -> None:
    plain = json.loads(dsse.sign(STATEMENT, PAYLOAD, ADA))
    pae = f"DSSEv1 {len(PAYLOAD)} {PAYLOAD} {len(STATEMENT)} ".encode() + STATEMENT
    (tmp_path / "pae").write_bytes(pae)
    (tmp_path / "sig").write_bytes(base64.b64decode(plain["signatures"][0]["sig"]))
    (tmp_path / "pub").write_text(keys.pem(ADA.public_key))
    command = ["openssl", "dgst", "-sha256", "-verify", "pub", "-signature", "sig", "pae"]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, text=True).stdout == "Verified OK\n"
    (tmp_path / "pae").write_bytes(pae + b" ")
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode == 1


def test_a_signature_that_openssl_made_is_read(tmp_path: Path) -> None:
    from release.verbs import keys as key_verbs

    made = key_verbs.new(tmp_path, "olga", ("release",))
    (tmp_path / "pae").write_bytes(f"DSSEv1 {len(PAYLOAD)} {PAYLOAD} {len(STATEMENT)} ".encode() + STATEMENT)
    command = ["openssl", "dgst", "-sha256", "-sign", str(made.private), "-out", "sig", "pae"]
    subprocess.run(command, check=True, capture_output=True, cwd=tmp_path)
    envelope = {
        "payload": base64.b64encode(STATEMENT).decode(),
        "payloadType": PAYLOAD,
        "signatures": [{"sig": base64.b64encode((tmp_path / "sig").read_bytes()).decode()}],
    }
    signer = Signer(name="olga", may=("release",), key=made.public.read_text())
    assert dsse.verify(json.dumps(envelope, indent=2).encode(), (*SIGNERS, signer), "release").signer == "olga"


def _signed(key: Any = ADA, payload: bytes = STATEMENT, kind: str = PAYLOAD) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(dsse.sign(payload, kind, key))
    return found


def _bytes(change: Callable[[dict[str, Any]], object]) -> bytes:
    plain = _signed()
    change(plain)
    return json.dumps(plain).encode()


def _set(**values: object) -> Callable[[dict[str, Any]], object]:
    return lambda plain: plain.update(values)


def _signature(**values: object) -> Callable[[dict[str, Any]], object]:
    return lambda plain: plain["signatures"][0].update(values)


def _encoded(text: bytes) -> str:
    return base64.b64encode(text).decode()


def _twice(key: bytes) -> bytes:
    """A second value of a key in front of the first: some readers take the one, some the other."""
    text = dsse.sign(STATEMENT, PAYLOAD, ADA)
    value = {b"payload": _encoded(b'{"evil":1}'), b"payloadType": "text/plain", b"signatures": []}.get(key, "x")
    where = text.index(b'"' + key + b'"')
    return text[:where] + b'"' + key + b'":' + json.dumps(value).encode() + b"," + text[where:]


GOOD = dsse.sign(STATEMENT, PAYLOAD, ADA)
SIG = _signed()["signatures"][0]["sig"]
TAMPERS: list[tuple[str, bytes, str]] = [
    ("payload changed", _bytes(_set(payload=_encoded(STATEMENT + b" "))), "not by ada over this payload"),
    ("payload of another envelope", _bytes(_set(payload=_signed(payload=b"{}")["payload"])), "not by ada over this"),
    ("signed by an unknown key", json.dumps(_signed(EVE)).encode(), "unknown here"),
    ("signed without the role", json.dumps(_signed(BOB)).encode(), "bob, who may approve and not release"),
    ("keyid of another signer", _bytes(_signature(keyid=BOB.public_key.keyid)), "not by bob over this payload"),
    ("keyid of nobody", _bytes(_signature(keyid="0" * 64)), "unknown here"),
    ("keyid of ada, signature of eve", _bytes(_signature(sig=_signed(EVE)["signatures"][0]["sig"])), "not by ada"),
    ("keyid is a number", _bytes(_signature(keyid=1)), "keyid is not text"),
    ("no signature", _bytes(_set(signatures=[])), "has 0 signatures"),
    ("signatures are none", _bytes(_set(signatures=None)), "has no list of signatures"),
    ("two signatures", _bytes(lambda plain: plain["signatures"].append(_signed(EVE)["signatures"][0])), "has 2 sig"),
    ("an empty signature", _bytes(_signature(sig="")), "signature: is not base64"),
    ("a signature of zeros", _bytes(_signature(sig=_encoded(bytes(70)))), "not by ada"),
    ("a signature cut short", _bytes(_signature(sig=_encoded(base64.b64decode(SIG)[:-1]))), "not by ada"),
    ("a signature with more behind it", _bytes(_signature(sig=_encoded(base64.b64decode(SIG) + b"\0"))), "not by ada"),
    ("a field in the signature", _bytes(_signature(cert="x")), "not one of sig and keyid"),
    ("payloadType swapped", _bytes(_set(payloadType="application/json")), "payloadType is 'application/json'"),
    ("payloadType in other case", _bytes(_set(payloadType=PAYLOAD.upper())), "payloadType is"),
    ("payloadType missing", _bytes(lambda plain: plain.pop("payloadType")), "'payloadType'"),
    ("signed as another type", json.dumps(_signed(kind="text/plain")).encode(), "payloadType is 'text/plain'"),
    ("another type, called a statement", json.dumps(_signed(kind="text/plain") | {"payloadType": PAYLOAD}).encode(), "not by ada over this payload"),
    ("a field too many", _bytes(_set(threshold=0)), "'threshold'"),
    ("base64 with garbage", _bytes(_set(payload="!" + _signed()["payload"])), "payload: is not base64"),
    ("base64 with line breaks", _bytes(_set(payload=_signed()["payload"][:8] + "\n" + _signed()["payload"][8:])), "base64"),
    ("base64 without padding", _bytes(_set(payload=_encoded(b"{}  ").rstrip("="))), "payload: is not base64"),
    ("base64 with stray bits", _bytes(_set(payload="e31=")), "payload: is not base64"),
    ("base64 of URLs", _bytes(_signature(sig="-_" + SIG[2:])), "signature: is not base64"),
    ("payload is not text", _bytes(_set(payload=[1])), "payload: is not base64"),
    ("payload is empty", _bytes(_set(payload="")), "payload: is not base64"),
    ("payload twice", _twice(b"payload"), "writes the key 'payload' twice"),
    ("payloadType twice", _twice(b"payloadType"), "writes the key 'payloadType' twice"),
    ("signatures twice", _twice(b"signatures"), "writes the key 'signatures' twice"),
    ("sig twice", _twice(b"sig"), "writes the key 'sig' twice"),
    ("keyid twice", _twice(b"keyid"), "writes the key 'keyid' twice"),
    ("two envelopes", GOOD + GOOD, "is not JSON"),
    ("two envelopes, line by line", GOOD + b"\n" + GOOD, "is not JSON"),
    ("a list of envelopes", b"[" + GOOD + b"]", "is not a JSON object"),
    ("10 MB", _bytes(_set(payload=_encoded(bytes(10_000_000)))), "at most 1,048,576 are read"),
    ("UTF-16", GOOD.decode().encode("utf-16"), "is not JSON"),
    ("a byte order mark", b"\xef\xbb\xbf" + GOOD, "is not JSON"),
    ("half a surrogate pair", _bytes(_set(payload="\ud800")), "is not JSON"),
    ("nested without end", b'{"payload":' * 50_000, "is not JSON"),
    ("not a number", GOOD.replace(b'"signatures"', b'"x":NaN,"signatures"'), "is not JSON"),
    ("nothing", b"", "is not JSON"),
]  # fmt: skip


@pytest.mark.parametrize(("what", "data", "cause"), TAMPERS, ids=[what for what, _, _ in TAMPERS])
def test_a_tampered_envelope_is_refused_by_its_cause(what: str, data: bytes, cause: str) -> None:
    for verify in (dsse.verify, trust.verify):
        with pytest.raises(EvidenceRefused) as caught:
            verify(data, SIGNERS, "release", "envelope")
        assert cause in str(caught.value)
        assert len(str(caught.value).splitlines()) == 1
        assert len(str(caught.value)) < 600


def test_nothing_is_read_of_a_payload_whose_signature_is_not_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[bytes] = []
    real = strict.read

    def watched(data: bytes, where: str, largest: int) -> dict[str, Any]:
        read.append(data)
        return real(data, where, largest)

    monkeypatch.setattr(strict, "read", watched)
    data = json.dumps(_signed(EVE)).encode()
    with pytest.raises(EvidenceRefused):
        trust.verify(data, SIGNERS, "release", "envelope")
    assert read == [data]


def test_where_nobody_is_known_nothing_verifies() -> None:
    for data in (GOOD, _bytes(_signature(keyid=""))):
        with pytest.raises(EvidenceRefused, match="unknown here"):
            dsse.verify(data, (), "release")


def test_a_signature_without_a_keyid_is_tried_with_every_key() -> None:
    assert dsse.verify(_bytes(_signature(keyid="")), SIGNERS, "release").signer == "ada"
    assert dsse.verify(_bytes(lambda plain: plain["signatures"][0].pop("keyid")), SIGNERS, "release").signer == "ada"


@pytest.mark.parametrize("position", range(0, len(STATEMENT), 5))
def test_every_bit_of_the_payload_is_signed(position: int) -> None:
    payload = bytearray(STATEMENT)
    payload[position] ^= 1
    with pytest.raises(EvidenceRefused, match="not by ada"):
        dsse.verify(_bytes(_set(payload=_encoded(bytes(payload)))), SIGNERS, "release")
