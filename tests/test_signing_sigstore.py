"""Sigstore's keyless signatures, as far as they can be held to account without Sigstore: everything refuses.

What cannot be tested here: a signature by the live services, and so the way from a job's identity to a bundle that holds.
"""

import base64
import json
import logging
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from checks.errors import EvidenceRefused, MachineRefused
from checks.signers import Signer
from checks.statement import PAYLOAD, TREE
from release.signing import dsse, sigstore, strict, trust

OURS = "https://github.com/team/router/.github/workflows/release.yml@refs/heads/main"
ISSUER = "https://token.actions.githubusercontent.com"
CI = Signer(name="ci", may=("release",), identity=OURS, issuer=ISSUER)
STATEMENT = strict.write({"_type": "x", "subject": [{"name": "m", "digest": {TREE: "0" * 64}}]})


@pytest.fixture(autouse=True)
def nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No identity of a job, no network, and no roots of trust but those in the package."""
    for name in ("GITHUB_ACTIONS", "ACTIONS_ID_TOKEN_REQUEST_URL", "ACTIONS_ID_TOKEN_REQUEST_TOKEN", "GITLAB_CI", "CI"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("XDG_DATA_HOME", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))


def forged(identity: str = OURS, issuer: str = ISSUER, payload: bytes = STATEMENT) -> bytes:
    """A stand-in for a bundle: well formed, signed in truth, by a certificate that its own maker signed."""
    key = ec.generate_private_key(ec.SECP256R1())
    now, issued_by = datetime.now(UTC), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "sigstore-intermediate")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(issued_by)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + timedelta(minutes=9))
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(identity)]), critical=True)
        .add_extension(
            x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.1"), issuer.encode()), False
        )
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=False)
        .add_extension(x509.KeyUsage(True, *(False,) * 8), critical=True)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pae = f"DSSEv1 {len(PAYLOAD)} {PAYLOAD} {len(payload)} ".encode() + payload
    entry = {
        "logIndex": "0",
        "logId": {"keyId": _base64(bytes(32))},
        "kindVersion": {"kind": "dsse", "version": "0.0.1"},
        "integratedTime": str(int(now.timestamp())),
        "inclusionPromise": {"signedEntryTimestamp": _base64(b"x")},
        "inclusionProof": {
            "logIndex": "0", "rootHash": _base64(bytes(32)), "treeSize": "1", "hashes": [],
            "checkpoint": {"envelope": "rekor.sigstore.dev - 1\n1\n" + _base64(bytes(32)) + "\n\n— x AAAAAAAA\n"},
        },
        "canonicalizedBody": _base64(b"{}"),
    }  # fmt: skip
    bundle = {
        "mediaType": sigstore.BUNDLE,
        "verificationMaterial": {
            "certificate": {"rawBytes": _base64(certificate.public_bytes(serialization.Encoding.DER))},
            "tlogEntries": [entry],
        },
        "dsseEnvelope": {
            "payload": _base64(payload),
            "payloadType": PAYLOAD,
            "signatures": [{"sig": _base64(key.sign(pae, ec.ECDSA(hashes.SHA256())))}],
        },
    }
    return json.dumps(bundle).encode()


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.mark.parametrize(
    ("identity", "issuer"),
    [
        ("https://github.com/eve/router/.github/workflows/release.yml@refs/heads/main", ISSUER),
        (OURS.replace("main", "feature"), ISSUER),
        (OURS + "x", ISSUER),
        (OURS[:-1], ISSUER),
        (OURS.upper(), ISSUER),
        (OURS, "https://issuer.example"),
        (OURS, ISSUER + ".example"),
    ],
)
def test_another_identity_is_refused_without_the_network(identity: str, issuer: str) -> None:
    with pytest.raises(EvidenceRefused, match="an identity that is not ci"):
        trust.verify(forged(identity, issuer), (CI,), "release", "evidence")


def test_the_right_name_in_a_certificate_of_ones_own_is_no_identity() -> None:
    with pytest.raises(EvidenceRefused, match="bundle does not hold"):
        sigstore.verify(forged(), (CI,), "release", "evidence", offline=True)


def test_without_the_network_nothing_is_taken_on_trust() -> None:
    with pytest.raises(MachineRefused, match="Sigstore cannot be asked"):
        trust.verify(forged(), (CI,), "release", "evidence")


def test_where_no_identity_is_known_none_is_trusted() -> None:
    with pytest.raises(EvidenceRefused, match="none is known here"):
        trust.verify(forged(), (), "release", "evidence")


@pytest.mark.parametrize(
    "change",
    [
        {"verificationMaterial": {"certificate": {"rawBytes": "AAAA"}, "tlogEntries": []}},
        {"verificationMaterial": {"certificate": {}, "tlogEntries": [{}]}},
        {"verificationMaterial": {}},
        {"dsseEnvelope": {}},
        {"mediaType": "application/vnd.dev.sigstore.bundle+json;version=0.1"},
    ],
)
def test_a_bundle_that_is_none_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(EvidenceRefused):
        trust.verify(json.dumps(json.loads(forged()) | change).encode(), (CI,), "release", "evidence")


def test_a_machine_without_an_identity_signs_nothing() -> None:
    with pytest.raises(MachineRefused, match="no identity that Sigstore knows"):
        sigstore.sign([STATEMENT])


def test_a_job_whose_identity_cannot_be_had_signs_nothing_and_shows_no_token(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("ACTIONS_ID_TOKEN_REQUEST_URL", "http://127.0.0.1:9/token?x=1")
    monkeypatch.setenv("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "secret-request-token")
    with pytest.raises(MachineRefused, match="Sigstore cannot be asked") as caught:
        sigstore.sign([STATEMENT])
    assert "secret-request-token" not in str(caught.value) + caplog.text


def test_sigstores_package_signs_our_bytes_as_they_are_whatever_digests_they_name() -> None:
    from sigstore import dsse as theirs

    key = ec.generate_private_key(ec.SECP256R1())
    plain = json.loads(theirs._sign(key, sigstore._statement(STATEMENT)).to_json())
    assert base64.b64decode(plain["payload"]) == STATEMENT
    assert plain["payloadType"] == PAYLOAD
    pem = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    signer = Signer(name="ada", may=("release",), key=pem.decode())
    assert dsse.verify(json.dumps(plain).encode(), (signer,), "release").payload == STATEMENT


def test_the_package_is_asked_for_only_where_an_identity_counts() -> None:
    text = "import sys; import release.sign, release.evidence, release.keys; print('sigstore' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", text], check=True, capture_output=True, text=True)
    assert done.stdout == "False\n"


def test_without_the_package_a_key_is_offered_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sigstore", None)
    for call in (lambda: sigstore.sign([STATEMENT]), lambda: trust.verify(forged(), (CI,), "release", "evidence")):
        with pytest.raises(MachineRefused, match="sigstore is not installed"):
            call()
