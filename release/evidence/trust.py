"""Whose signatures are trusted, by key or by Sigstore identity, and verification of what they signed."""

from datetime import datetime
from pathlib import Path

from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined] # it has no __all__

from checks.formats import signers
from checks.formats.signers import Role, Signers
from checks.process.errors import EvidenceRefused
from checks.storage import layout
from release.adapters import commits, projects
from release.evidence import dsse, keys, sigstore, strict
from release.evidence.dsse import Verified


def known(root: Path, target: str | None = None, branch: str | None = None) -> Signers:
    """Return the signers in release/policy/signers.yaml on the target branch (``commits.target``).

    A project without that file has the signers of the git root.

    ``branch``: its name, if ``target`` is its commit. The file in the work tree counts only if git has no commit yet:
    whoever proposes a release must not choose who may sign it. Raises EvidenceRefused if there is no valid file.
    """
    todo = f"add a signer to {layout.SIGNERS} (`lockstep keys new` prints the entry), and commit it there"
    if commits.has_repository(root) and (found := commits.target(root, target))[1]:
        name, commit = found
        assert commit is not None
        where = f"{branch or name}:{layout.SIGNERS}"
        home = projects.policy_home(root, commit, layout.SIGNERS)
        data = commits.read(home, commit, layout.SIGNERS)
        if (root / layout.SIGNERS).is_file():
            todo = f"merge the branch that adds it here into {branch or name}: only there it counts"
    else:
        where = str(layout.SIGNERS)
        path = root / layout.SIGNERS
        data = path.read_bytes() if path.is_file() and not path.is_symlink() else None
    if data is None:
        raise EvidenceRefused(f"{where}: is missing, so nobody may sign", todo)
    try:
        return signers.parse(data.decode(), where)
    except UnicodeDecodeError as error:
        raise EvidenceRefused(f"{where}: is not UTF-8", todo) from error


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
) -> Verified:
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
