"""The weights' signature in the format of OpenSSF model signing 1.0, as `model_signing verify` reads it.

A Sigstore bundle around a DSSE envelope around an in-toto statement that names every file by its digest
(github.com/sigstore/model-transparency). The digests are those that the merge wrote and the verdict holds: the weights
are not read again, and neither the package nor what it needs is asked.
"""

import hashlib
from collections.abc import Mapping
from pathlib import PurePosixPath

from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined] # it has no __all__

from checks.errors import EvidenceRefused
from checks.serving import ImageReport
from checks.signers import Signers
from checks.statement import PAYLOAD, STATEMENT
from release.evidence import dsse, keys, sigstore, strict, trust

PREDICATE = "https://model_signing/signature/v1.0"
_IGNORED = (".git", ".gitattributes", ".github", ".gitignore")  # what the package leaves out unless told otherwise


def of_image(image: ImageReport) -> dict[str, str]:
    """The files that an image carries: path below the model's folder to digest."""
    return {path: value for layer in image.layers for path, value in layer.files.items()}


def payload(files: Mapping[str, str], name: str) -> bytes:
    """The statement that the model ``name`` is these files: path below its folder to digest.

    Raises EvidenceRefused when a file's name is one that verifiers leave out: it would not be signed.
    """
    ordered = sorted(files, key=PurePosixPath)
    for path in ordered:
        if PurePosixPath(path).parts[0] in _IGNORED:
            raise EvidenceRefused(
                f"{path}: is not covered by a signature of weights", "remove it from the merged model"
            )
    digests = [files[path].removeprefix("sha256:") for path in ordered]
    whole = hashlib.sha256(b"".join(map(bytes.fromhex, digests))).hexdigest()
    resources = [
        {"name": path, "algorithm": "sha256", "digest": value} for path, value in zip(ordered, digests, strict=True)
    ]
    serialization = {
        "method": "files", "hash_type": "sha256", "allow_symlinks": False, "ignore_paths": list(_IGNORED),
    }  # fmt: skip
    return strict.write(
        {
            "_type": STATEMENT,
            "subject": [{"name": name, "digest": {"sha256": whole}}],
            "predicateType": PREDICATE,
            "predicate": {"serialization": serialization, "resources": resources},
        }
    )


def sign(statement: bytes, key: CryptoSigner) -> bytes:
    """The bundle of ``statement``, signed by a key on disk."""
    envelope = strict.read(dsse.sign(statement, PAYLOAD, key), "the envelope", dsse.LARGEST)
    for signature in envelope["signatures"]:
        signature["keyid"] = ""  # the bundle's hint says it
    return strict.write(
        {
            "mediaType": sigstore.BUNDLE,
            "verificationMaterial": {"publicKey": {"hint": _hint(keys.pem(key.public_key))}, "tlogEntries": []},
            "dsseEnvelope": envelope,
        }
    )


def verify(data: bytes, statement: bytes, signers: Signers) -> str:
    """Who signed ``statement``, which ``payload`` made of the files as they are; one who may sign releases.

    Raises EvidenceRefused when nobody did: the signature does not hold, or is over other files.
    """
    where = "the weights' signature"
    found = trust.verify(data, signers, "release", where)
    if found.payload != statement:
        raise EvidenceRefused(f"{where}: is over other files", "sign the release again: `lockstep sign`")
    return found.signer


def _hint(pem: str) -> str:
    return hashlib.sha256(pem.encode()).hexdigest()
