"""Who signs, and whose signatures are trusted, by key or by Sigstore identity; verification of what they signed."""

from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined] # it has no __all__

from checks.formats import signers
from checks.formats.signers import Role, Signers
from checks.formats.statement import PAYLOAD
from checks.process.errors import EvidenceRefused
from checks.storage import layout
from release.adapters import commits, projects
from release.evidence import attach, dsse, keys, sigstore, strict


class NoSigners(EvidenceRefused):
    """The target branch has no file of signers, so nobody may sign."""


class Signatory(NamedTuple):
    """Who signs. ``key``: None for the identity of this CI job. ``known``: the signers of the target branch."""

    key: CryptoSigner | None
    known: Signers

    def own(self, role: Role) -> Signers:
        """Return the entries of the signers that this one may be: the key's owner, or for an identity all of them."""
        if self.key is None:
            return self.known
        name = owner(self.key, self.known, role)
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
        return signed if self.key is None else attach.wrap(signed, self.key)


def known(root: Path, target: str | None = None, branch: str | None = None) -> Signers:
    """Return the signers in release/policy/signers.yaml on the target branch (``commits.target``).

    A project without that file has the signers of the git root.

    ``branch``: its name, if ``target`` is its commit. The file in the work tree counts only if git has no commit yet:
    whoever proposes a release must not choose who may sign it. Raises NoSigners if there is no file, EvidenceRefused if
    it is not valid.
    """
    todo = f"add a signer to {layout.SIGNERS} (`lockstep keys new` prints the entry), and commit it there"
    name, commit = commits.target(root, target) if commits.has_repository(root) else ("", None)
    if commit is not None:
        place = f"{branch or name}:{layout.SIGNERS}"
        home = projects.policy_home(root, commit, layout.SIGNERS)
        data = commits.read(home, commit, layout.SIGNERS)
        if (root / layout.SIGNERS).is_file():
            todo = f"merge the branch that adds it here into {branch or name}: only there it counts"
    else:
        place = str(layout.SIGNERS)
        path = root / layout.SIGNERS
        data = path.read_bytes() if path.is_file() and not path.is_symlink() else None
    if data is None:
        raise NoSigners(f"{place}: is missing, so nobody may sign", todo)
    try:
        return signers.parse(data.decode(), place)
    except UnicodeDecodeError as error:
        raise EvidenceRefused(f"{place}: is not UTF-8", todo) from error


def signers_or_why(root: Path) -> Signers | str:
    """As ``known``, or the reason why it is not known who may sign."""
    try:
        return known(root)
    except EvidenceRefused as refused:
        return refused.what


def signers_or_nobody(root: Path) -> Signers:
    """Return who may sign, as ``known``; nobody if that cannot be read."""
    signers = signers_or_why(root)
    return () if isinstance(signers, str) else signers


def owner(key: CryptoSigner, known: Signers, role: Role) -> str:
    """The name of a private key's owner. Raises EvidenceRefused if the key is unknown or its owner lacks the role."""
    for name, public in keys.known(known).items():
        if public.keyid == key.public_key.keyid:
            return dsse.allowed(next(one for one in known if one.name == name), role, "this key")
    raise EvidenceRefused(
        f"this key is not in {layout.SIGNERS} of the target branch",
        "add it with its owners' approval: `lockstep keys new`",
    )


def verify(
    data: bytes,
    known: Signers,
    role: Role,
    where: str,
    *,
    offline: bool = False,
    at: datetime | None = None,
) -> dsse.Verified:
    """Return the signed payload and its signer, one of ``known`` with the role ``role``.

    ``data`` is a DSSE envelope, or a Sigstore bundle with one. Raises EvidenceRefused if it is not valid,
    MachineRefused if Sigstore cannot be used. ``offline``: use the trust roots that were fetched last. ``at``: when the
    ledger recorded a move that relies on it (``Ledger.recorded``), for signers who are retired since.
    """
    plain = strict.read(data, where, dsse.LARGEST)
    if "mediaType" not in plain:
        return dsse.verify_plain(plain, known, role, where, at)
    material, envelope = plain.get("verificationMaterial"), plain.get("dsseEnvelope")
    if (
        plain["mediaType"] != sigstore.BUNDLE
        or not isinstance(material, dict)
        or not isinstance(envelope, dict)
    ):
        raise EvidenceRefused(
            f"{where}: is not a bundle {sigstore.BUNDLE} with an envelope", "sign it again"
        )
    if "publicKey" in material:
        return dsse.verify_plain(envelope, known, role, where, at)
    return sigstore.verify(data, known, role, where, offline=offline, at=at)


def signatory(path: Path | None, known: Signers, role: Role) -> Signatory:
    """Return who signs: the owner of the key in ``path``, or for None the identity of this CI job.

    Raises EvidenceRefused if the key is invalid or its owner lacks the role.
    """
    if path is None:
        return Signatory(None, known)
    key = keys.load(path)
    owner(key, known, role)
    return Signatory(key, known)
