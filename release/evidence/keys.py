"""Signing keys on disk: ECDSA P-256, as cosign reads them (PKCS #8 PEM and SubjectPublicKeyInfo PEM).

There is one algorithm only, so nothing can be downgraded. A private key is used for signing only and never leaves this
module. Its password comes from the environment, never from an argument; no message contains any part of either.
"""

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from securesystemslib.signer import CryptoSigner, SSlibKey  # type: ignore[attr-defined] # it has no __all__

from checks.formats.signers import Signers
from checks.process.errors import EvidenceRefused, MachineRefused
from checks.storage import layout

KEY = layout.STATE / "keys" / "lockstep.key"  # private to the machine, ignored by git
PASSWORD = "LOCKSTEP_KEY_PASSWORD"  # noqa: S105 - the name of the variable that holds it
_LARGEST = 16 << 10  # bytes of a key's file
_MAKE = "name a key that `lockstep keys new` made"


def generate() -> CryptoSigner:
    """Generate a private key."""
    return CryptoSigner.generate_ecdsa()


def write_new(key: CryptoSigner, private: Path, public: Path) -> None:
    """Write both halves to new files; the private one has mode 0600.

    It is encrypted if the environment has a password. Raises MachineRefused if a file exists or cannot be written; then
    neither file is left.
    """
    password = _password()
    encryption = (
        serialization.BestAvailableEncryption(password)
        if password
        else serialization.NoEncryption()
    )
    secret = key._private_key.private_bytes(  # CryptoSigner.private_bytes knows no password
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
    )
    private.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _created(private, secret, 0o600), _created(public, pem(key.public_key).encode(), 0o644):
        pass


def load(path: Path) -> CryptoSigner:
    """Return the private key in ``path``.

    Raises EvidenceRefused if it is missing, readable by others, not a P-256 key, or if its encryption does not match
    the environment's password.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        with os.fdopen(handle, "rb") as stream:
            mode = os.fstat(handle).st_mode
            if not stat.S_ISREG(mode) or mode & 0o077:
                raise EvidenceRefused(
                    f"{path}: others than its owner may use this key", f"chmod 600 {path}"
                )
            data = stream.read(_LARGEST)
    except OSError as error:
        raise EvidenceRefused(
            f"{path}: {error.strerror or error}", "make a key with `lockstep keys new`"
        ) from error
    password = _password()
    try:
        key = serialization.load_pem_private_key(data, password)
    except TypeError:
        problem = (
            f"is not encrypted, and {PASSWORD} is set"
            if password
            else f"is encrypted, and {PASSWORD} is not set"
        )
        raise EvidenceRefused(
            f"{path}: {problem}", f"set {PASSWORD} to the key's password, if it has one"
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        what = (
            "is not a private key, or has another password"
            if password
            else "is not a private key in PEM"
        )
        raise EvidenceRefused(f"{path}: {what}", _MAKE) from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise EvidenceRefused(f"{path}: is not an ECDSA key on the curve P-256", _MAKE)
    return CryptoSigner(key)


def public(text: str, where: str) -> SSlibKey:
    """Return a public key from PEM. Raises EvidenceRefused if it is invalid or of another algorithm."""
    todo = "write the public half of an ECDSA P-256 key: `lockstep keys new` prints it"
    try:
        key = serialization.load_pem_public_key(text.encode())
    except (ValueError, UnsupportedAlgorithm):
        raise EvidenceRefused(f"{where}: is not a public key in PEM", todo) from None
    if not isinstance(key, ec.EllipticCurvePublicKey):
        size = f" of {key.key_size} bits" if hasattr(key, "key_size") else ""
        kind = type(key).__name__.removesuffix("PublicKey").lstrip("_")
        raise EvidenceRefused(f"{where}: is a {kind} key{size}, not ECDSA on the curve P-256", todo)
    if not isinstance(key.curve, ec.SECP256R1):
        raise EvidenceRefused(f"{where}: is on the curve {key.curve.name}, not P-256", todo)
    return SSlibKey.from_crypto(key)


def known(signers: Signers) -> dict[str, SSlibKey]:
    """Return the public keys of all signers that have one, by name.

    Raises EvidenceRefused if one is invalid, or if two names have the same key: its approval would count twice.
    """
    public_keys: dict[str, SSlibKey] = {}
    names: dict[str, str] = {}
    for signer in signers:
        if signer.key is None:
            continue
        key = public(signer.key, f"signer {signer.name}")
        if key.keyid in names:
            raise EvidenceRefused(
                f"signers {names[key.keyid]} and {signer.name}: have the same key",
                "give each a key of their own",
            )
        names[key.keyid] = signer.name
        public_keys[signer.name] = key
    return public_keys


def pem(key: SSlibKey) -> str:
    """Return the public key as PEM, in one form whatever form it was read from."""
    text: str = key.keyval["public"]
    return text


def _password() -> bytes | None:
    return os.fsencode(os.environ.get(PASSWORD, "")) or None


@contextlib.contextmanager
def _created(path: Path, data: bytes, mode: int) -> Iterator[None]:
    """Create a file that must not exist; it is removed if the block fails."""
    try:
        handle = os.open(
            path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, mode
        )
    except FileExistsError:
        raise MachineRefused(
            f"{path}: already exists", "name another file: no key is ever overwritten"
        ) from None
    except OSError as error:
        raise MachineRefused(
            f"{path}: {error.strerror or error}", "name a file that can be written"
        ) from error
    try:
        with os.fdopen(handle, "wb") as stream:
            os.fchmod(handle, mode)
            stream.write(data)
            stream.flush()
            os.fsync(handle)
        yield
    except BaseException as error:
        path.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise MachineRefused(
                f"{path}: {error.strerror or error}", "free some disk space"
            ) from error
        raise
