"""The signature of the weights in the format of OpenSSF model signing 1.0, which `model_signing verify` reads.

It is a Sigstore bundle with a DSSE envelope of an in-toto statement that lists every file by digest
(github.com/sigstore/model-transparency). The digests come from the merge and are in the verdict, so the weights are not
read again. The model-signing package is not needed.
"""

from collections.abc import Mapping
from pathlib import PurePosixPath

from checks.formats.serving import ImageReport
from checks.formats.signers import Signers
from checks.formats.statement import STATEMENT
from checks.process.errors import EvidenceRefused
from checks.storage.digest import canonical_json, of_bytes
from release.evidence import trust

PREDICATE = "https://model_signing/signature/v1.0"
# The package model-signing leaves these out unless told otherwise.
_IGNORED = (".git", ".gitattributes", ".github", ".gitignore")


def of_image(image: ImageReport) -> dict[str, str]:
    """Return the files of the model in an image: path below the model's folder to digest."""
    return {path: value for layer in image.layers for path, value in layer.files.items()}


def payload(files: Mapping[str, str], name: str) -> bytes:
    """Return the statement that the model ``name`` consists of these files: path below its folder to digest.

    Raises EvidenceRefused if verifiers would ignore a file because of its name, so that it would not be signed.
    """
    ordered = sorted(files, key=PurePosixPath)
    for path in ordered:
        if PurePosixPath(path).parts[0] in _IGNORED:
            raise EvidenceRefused(
                f"{path}: is not covered by a signature of weights",
                "remove it from the merged model",
            )
    digests = [files[path].removeprefix("sha256:") for path in ordered]
    whole = of_bytes(b"".join(map(bytes.fromhex, digests))).removeprefix("sha256:")
    resources = [
        {"name": path, "algorithm": "sha256", "digest": value}
        for path, value in zip(ordered, digests, strict=True)
    ]
    serialization = {
        "method": "files", "hash_type": "sha256", "allow_symlinks": False, "ignore_paths": list(_IGNORED),
    }  # fmt: skip
    return canonical_json(
        {
            "_type": STATEMENT,
            "subject": [{"name": name, "digest": {"sha256": whole}}],
            "predicateType": PREDICATE,
            "predicate": {"serialization": serialization, "resources": resources},
        }
    )


def verify(data: bytes, statement: bytes, signers: Signers) -> str:
    """Return the signer of ``statement`` (from ``payload``), who must have the role `release`.

    Raises EvidenceRefused if the signature is invalid or about other files.
    """
    name = "the weights' signature"
    verified = trust.verify(data, signers, "release", name)
    if verified.payload != statement:
        raise EvidenceRefused(
            f"{name}: is over other files", "sign the release again: `lockstep sign`"
        )
    return verified.signer
