"""A stand-in for Sigstore: an authority, a certificate log and a transparency log of our own, to sign bundles with.

Everything in a bundle of it is real but the names: certificate with its log's timestamp (RFC 6962), log entry with its
inclusion proof, checkpoint and promise. Sigstore's package holds it to the roots of trust that ``trusted`` writes.
"""

import base64
import hashlib
import json
import struct
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from checks.formats.statement import PAYLOAD
from checks.storage import files
from checks.storage.digest import canonical_json
from release.evidence import sigstore

_HASH, _SCTS = hashes.SHA256(), x509.ObjectIdentifier("1.3.6.1.4.1.11129.2.4.2")
# fulcio: whose code ran, of which branch, and the workflow that was started
_STARTED = tuple(x509.ObjectIdentifier(f"1.3.6.1.4.1.57264.1.{number}") for number in (12, 14, 18))
# The same repository without its host, and the branch, where cosign looks for them.
_CALLED = tuple(x509.ObjectIdentifier(f"1.3.6.1.4.1.57264.1.{number}") for number in (5, 6))
_ISSUER = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.1")  # fulcio: OIDC issuer
_NAME = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "stand-in")])


class Standin:
    """Keys of the three: made anew, or those that another one left in ``folder``."""

    def __init__(self, folder: Path | None = None) -> None:
        self.now = datetime.now(UTC).replace(microsecond=0)
        kept = folder / "keys.pem" if folder else None
        if kept and kept.exists():
            parts = kept.read_bytes().split(b"\n\n")
            self.authority, self.certificates, self.log = map(_key, parts[:3])
            self.root = x509.load_pem_x509_certificate(parts[3])
            return
        self.authority, self.certificates, self.log = (ec.generate_private_key(ec.SECP256R1()) for _ in range(3))
        self.root = self._certificate(x509.Name([*_NAME]), self.authority.public_key(), ca=True).sign(
            self.authority, _HASH
        )
        if kept:
            secrets = [_pem(key) for key in (self.authority, self.certificates, self.log)]
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_bytes(b"\n\n".join([*secrets, self.root.public_bytes(serialization.Encoding.PEM)]))

    def bundle(self, payload: bytes, identity: str, issuer: str, caller: str | None = None, **change: Any) -> bytes:
        """``payload`` as an in-toto statement signed by ``identity``; ``change`` overrides parts of the log entry.

        ``caller``: the workflow that was started, at the ref whose code the job ran; None: the workflow itself.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._leaf(key, identity, issuer, identity if caller is None else caller)
        signature = key.sign(f"DSSEv1 {len(PAYLOAD)} {PAYLOAD} {len(payload)} ".encode() + payload, ec.ECDSA(_HASH))
        return canonical_json(
            {
                "mediaType": sigstore.BUNDLE,
                "verificationMaterial": {
                    "certificate": {"rawBytes": _base64(certificate.public_bytes(serialization.Encoding.DER))},
                    "tlogEntries": [self._entry(payload, signature, certificate) | change],
                },
                "dsseEnvelope": {
                    "payload": _base64(payload),
                    "payloadType": PAYLOAD,
                    "signatures": [{"sig": _base64(signature)}],
                },
            }
        )

    def trusted(self, path: Path) -> None:
        """Write the roots of trust as Sigstore publishes its own."""
        since = {"start": "2020-01-01T00:00:00Z"}

        def log(key: ec.EllipticCurvePrivateKey) -> dict[str, Any]:
            return {
                "baseUrl": "https://standin.invalid",
                "hashAlgorithm": "SHA2_256",
                "publicKey": {
                    "rawBytes": _base64(_der(key)),
                    "keyDetails": "PKIX_ECDSA_P256_SHA_256",
                    "validFor": since,
                },
                "logId": {"keyId": _base64(_id(key))},
            }

        root = _base64(self.root.public_bytes(serialization.Encoding.DER))
        authority = {
            "subject": {"organization": "standin", "commonName": "standin"}, "uri": "https://standin.invalid",
            "certChain": {"certificates": [{"rawBytes": root}]}, "validFor": since,
        }  # fmt: skip
        path.parent.mkdir(parents=True, exist_ok=True)
        roots = {
            "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
            "tlogs": [log(self.log)], "ctlogs": [log(self.certificates)],
            "certificateAuthorities": [authority], "timestampAuthorities": [],
        }  # fmt: skip
        # At once: a job reads this file while another one writes it.
        files.write_text(path, json.dumps(roots))

    def _certificate(self, subject: x509.Name, key: ec.EllipticCurvePublicKey, *, ca: bool) -> x509.CertificateBuilder:
        identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.authority.public_key())
        usage = x509.KeyUsage(not ca, False, False, False, False, ca, ca, False, False)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(_NAME)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(self.now - timedelta(minutes=1))
            .not_valid_after(self.now + (timedelta(days=1) if ca else timedelta(minutes=9)))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(identifier, critical=False)
        )

    def _leaf(self, key: ec.EllipticCurvePrivateKey, identity: str, issuer: str, caller: str) -> x509.Certificate:
        """A certificate for code, with the timestamp of the certificate log over all the rest of it."""
        builder = (
            self._certificate(x509.Name([]), key.public_key(), ca=False)
            .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(identity)]), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=False)
            .add_extension(x509.UnrecognizedExtension(_ISSUER, issuer.encode()), critical=False)
        )
        repository, _, workflow = caller.partition("/.github/workflows/")
        for name, value in zip(_STARTED, (repository, workflow.partition("@")[2], caller), strict=True):
            builder = builder.add_extension(x509.UnrecognizedExtension(name, _utf8(value)), critical=False)
        for name, value in zip(
            _CALLED, (repository.removeprefix("https://github.com/"), caller.partition("@")[2]), strict=True
        ):
            builder = builder.add_extension(x509.UnrecognizedExtension(name, value.encode()), critical=False)
        rest = builder.sign(self.authority, _HASH).tbs_certificate_bytes
        when = struct.pack(">Q", int(self.now.timestamp() * 1000))
        authority = hashlib.sha256(_der(self.authority)).digest()
        signed = b"\0\0" + when + b"\0\1" + authority + struct.pack(">I", len(rest))[1:] + rest + b"\0\0"
        signature = self.certificates.sign(signed, ec.ECDSA(_HASH))
        sct = b"\0" + _id(self.certificates) + when + b"\0\0\4\3" + struct.pack(">H", len(signature)) + signature
        listed = struct.pack(">HH", len(sct) + 2, len(sct)) + sct
        octets = b"\4" + (bytes([len(listed)]) if len(listed) < 128 else bytes([0x81, len(listed)])) + listed
        return builder.add_extension(x509.UnrecognizedExtension(_SCTS, octets), critical=False).sign(
            self.authority, _HASH
        )

    def _entry(self, payload: bytes, signature: bytes, certificate: x509.Certificate) -> dict[str, Any]:
        """The only entry of the transparency log."""
        pem = _base64(certificate.public_bytes(serialization.Encoding.PEM))
        hashed = {"algorithm": "sha256", "value": hashlib.sha256(payload).hexdigest()}
        signatures = [{"signature": _base64(signature), "verifier": pem}]
        spec = {"payloadHash": hashed, "envelopeHash": hashed, "signatures": signatures}
        body = canonical_json({"apiVersion": "0.0.1", "kind": "dsse", "spec": spec})
        root, at = hashlib.sha256(b"\0" + body).digest(), int(self.now.timestamp())
        note = f"standin.invalid - 1\n1\n{_base64(root)}\n"
        noted = _base64(_id(self.log)[:4] + self.log.sign(note.encode(), ec.ECDSA(_HASH)))
        promise = {"body": _base64(body), "integratedTime": at, "logID": _id(self.log).hex(), "logIndex": 7}
        return {
            # Of all shards of the log, which cosign wants above 0; the proof counts in its own shard.
            "logIndex": "7",
            "logId": {"keyId": _base64(_id(self.log))},
            "kindVersion": {"kind": "dsse", "version": "0.0.1"},
            "integratedTime": str(at),
            "inclusionPromise": {
                "signedEntryTimestamp": _base64(self.log.sign(canonical_json(promise), ec.ECDSA(_HASH)))
            },
            "inclusionProof": {
                "logIndex": "0", "rootHash": _base64(root), "treeSize": "1", "hashes": [],
                "checkpoint": {"envelope": f"{note}\n— standin.invalid {noted}\n"},
            },
            "canonicalizedBody": _base64(body),
        }  # fmt: skip


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Both halves."""
    kind = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, kind, serialization.NoEncryption()).strip()


def _key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    found = serialization.load_pem_private_key(pem, None)
    assert isinstance(found, ec.EllipticCurvePrivateKey)
    return found


def _der(key: ec.EllipticCurvePrivateKey) -> bytes:
    """The public half."""
    kind = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(serialization.Encoding.DER, kind)


def _id(key: ec.EllipticCurvePrivateKey) -> bytes:
    return hashlib.sha256(_der(key)).digest()


def _utf8(text: str) -> bytes:
    """As a UTF8String in DER."""
    data = text.encode()
    return b"\x0c" + (bytes([len(data)]) if len(data) < 128 else bytes([0x81, len(data)])) + data


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
