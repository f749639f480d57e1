"""Who signs: the owner of a key on disk, or the identity of this CI job."""

from pathlib import Path
from typing import NamedTuple

from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined] # it has no __all__

from checks.formats.signers import Role, Signers
from checks.formats.statement import PAYLOAD
from release.evidence import bundles, dsse, keys, sigstore, trust


class Signatory(NamedTuple):
    """Who signs. ``key``: None for the identity of this CI job. ``known``: the signers of the target branch."""

    key: CryptoSigner | None
    known: Signers

    def own(self, role: Role) -> Signers:
        """Return the entries of the signers that this one may be: the key's owner, or for an identity all of them."""
        if self.key is None:
            return self.known
        name = trust.owner(self.key, self.known, role)
        return tuple(signer for signer in self.known if signer.name == name)

    def sign(self, statement: bytes) -> bytes:
        """Sign an in-toto statement: a key makes an envelope, which git keeps, and an identity a bundle.

        Raises MachineRefused if there is no identity or Sigstore cannot be reached.
        """
        if self.key is None:
            return sigstore.sign([statement])[0]
        return dsse.sign(statement, PAYLOAD, self.key)

    def bundle(self, statement: bytes) -> bytes:
        """Sign an in-toto statement and return a Sigstore bundle, which other programs read. Raises as ``sign``."""
        signed = self.sign(statement)
        return signed if self.key is None else bundles.wrap(signed, self.key)


def load(path: Path | None, known: Signers, role: Role) -> Signatory:
    """Return who signs: the owner of the key in ``path``, or for None the identity of this CI job.

    Raises EvidenceRefused if the key is invalid or its owner lacks the role.
    """
    if path is None:
        return Signatory(None, known)
    key = keys.load(path)
    trust.owner(key, known, role)
    return Signatory(key, known)
