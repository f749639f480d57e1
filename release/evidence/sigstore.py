"""Keyless signatures through Sigstore: a CI job's OpenID Connect identity signs, and there is no key to lose.

The sigstore package is needed only if an identity signs or is trusted. Any failure refuses: no network, no identity, no
entry in the transparency log.
"""

import contextlib
from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING

from checks.formats.signers import Role, Signer, Signers
from checks.formats.statement import PAYLOAD
from checks.process import distribution
from checks.process.errors import EvidenceRefused, MachineRefused, Refusal
from checks.process.text import escape
from release.evidence import dsse, strict

if TYPE_CHECKING:
    from sigstore.dsse import Statement
    from sigstore.models import Bundle
    from sigstore.verify.policy import AllOf, VerificationPolicy

BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
_ONLINE = "try again with the network; or sign with a key: --key"


def identity() -> str:
    """Return the OpenID Connect token of this machine. Raises MachineRefused if it has none."""
    _require()
    from sigstore.oidc import detect_credential

    with _refusing("Sigstore"):
        raw = detect_credential()
    if raw is None:
        raise MachineRefused(
            "this machine has no identity that Sigstore knows",
            "run in a GitHub Actions job with `permissions: id-token: write`, or sign with a key: --key",
        )
    return raw


def sign(payloads: list[bytes]) -> list[bytes]:
    """Return a bundle for each in-toto statement, signed by this machine's identity (GitHub Actions: id-token: write).

    Raises MachineRefused if there is no identity or Sigstore cannot be reached.
    """
    _require()
    from sigstore.models import ClientTrustConfig
    from sigstore.oidc import IdentityToken
    from sigstore.sign import SigningContext

    with _refusing("Sigstore"):
        token = IdentityToken(identity())
        context = SigningContext.from_trust_config(ClientTrustConfig.production())
        with context.signer(token) as signer:
            return [
                signer.sign_dsse(_statement(payload)).to_json().encode() for payload in payloads
            ]


def verify(
    data: bytes,
    signers: Signers,
    role: Role,
    where: str,
    *,
    offline: bool = False,
    at: datetime | None = None,
) -> dsse.Verified:
    """Return the payload of a bundle signed by an identity of ``signers`` with the role ``role``.

    The sigstore package checks the certificate chain, the transparency log, the signature and the identity.
    ``offline``: use the trust roots that were fetched last. ``at`` is as in ``dsse.allowed``. Raises EvidenceRefused or
    MachineRefused.
    """
    strict.read(data, where, dsse.LARGEST)
    identities = [signer for signer in signers if signer.identity and signer.issuer]
    todo = "sign it again by an identity of release/policy/signers.yaml"
    if not identities:
        raise EvidenceRefused(f"{where}: is signed by an identity, and none is known here", todo)
    _require()
    from sigstore.errors import Error
    from sigstore.models import Bundle
    from sigstore.verify import Verifier

    try:
        bundle = Bundle.from_json(data)
    except (Error, ValueError) as error:
        raise EvidenceRefused(f"{where}: is not a Sigstore bundle: {_line(error)}", todo) from error
    # The claimed identity is compared first, so that bundles of strangers are refused without the network.
    claimed = [one for one in identities if _names(bundle, one)]
    if not claimed:
        names = ", ".join(signer.name for signer in identities)
        raise EvidenceRefused(f"{where}: is signed by an identity that is not {names}", todo)
    with _refusing(where):
        verifier = Verifier.production(offline=offline)
    signer = claimed[0]  # signers.yaml names an identity once
    try:
        kind, payload = verifier.verify_dsse(bundle, _policy(signer))
    except (Error, ValueError) as error:
        raise EvidenceRefused(
            f"{where}: Sigstore's bundle does not hold: {_line(error)}", todo
        ) from error
    if kind != PAYLOAD:
        raise EvidenceRefused(f"{where}: payloadType is {kind[:80]!r}, not {PAYLOAD}", todo)
    return dsse.Verified(payload, dsse.allowed(signer, role, where, at))


def _policy(signer: Signer) -> "AllOf":
    """Return the identities and the issuer to require; for a GitHub workflow also whose code ran.

    A reusable workflow has the identity of its file whoever calls it, from any repository or branch that can read the
    file, and the job checks out the caller's code. The certificate names the caller separately: its repository, the ref
    that ran, and the workflow file that was started.
    """
    from sigstore.verify.policy import (
        AllOf,
        AnyOf,
        Identity,
        OIDCBuildConfigURI,
        OIDCSourceRepositoryRef,
        OIDCSourceRepositoryURI,
    )

    policies: list[VerificationPolicy] = [
        AnyOf([Identity(identity=one, issuer=signer.issuer) for one in signer.identities])
    ]
    if source := signer.source:
        policies += [
            OIDCSourceRepositoryURI(source.repository),
            OIDCSourceRepositoryRef(source.ref),
        ]
    if signer.caller:
        policies.append(OIDCBuildConfigURI(signer.caller))
    return AllOf(policies)


def _names(bundle: "Bundle", signer: Signer) -> bool:
    """Tell whether the bundle's certificate, which is not verified yet, names this identity."""
    from cryptography.x509 import ExtensionNotFound
    from sigstore.errors import VerificationError

    # ValueError: an extension that cannot be decoded.
    try:
        _policy(signer).verify(bundle.signing_certificate)
    except (VerificationError, ExtensionNotFound, ValueError):
        return False
    return True


def _statement(payload: bytes) -> "Statement":
    """Return a statement of exactly these bytes.

    The package's own model accepts only file digests, and would refuse the digest of a directory
    (github.com/sigstore/sigstore-python, issue 1018).
    """
    from sigstore.dsse import Statement

    statement = Statement.__new__(Statement)
    statement._contents = payload
    return statement


def _require() -> None:
    try:
        import sigstore  # noqa: F401 - is it installed?
    except ImportError as error:
        raise MachineRefused(
            "the package sigstore is not installed",
            f"{distribution.install('keyless')}, or sign with a key: --key",
        ) from error


@contextlib.contextmanager
def _refusing(where: str) -> Iterator[None]:
    """Turn any error of the sigstore package, its trust roots or the network into a refusal without secrets."""
    try:
        yield
    except Refusal:
        raise
    except Exception as error:  # noqa: BLE001 - its clients raise exceptions of private classes; all of them refuse
        # The error's name only: its text may hold a token.
        raise MachineRefused(
            f"{where}: Sigstore cannot be used ({type(error).__name__})", _ONLINE
        ) from None


def _line(error: Exception) -> str:
    return escape(" ".join(str(error).split()))[:200] or type(error).__name__
