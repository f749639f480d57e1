"""keys: creates a key for signing, and adds its owner to the signers."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import yaml

from checks.formats import signers
from checks.process.errors import EvidenceRefused, MachineRefused
from checks.storage import files, layout, plain_yaml
from release.adapters import ignored, thin_files
from release.evidence import keys, workflow_signers


class New(NamedTuple):
    """The files of a new key pair, and the entry of release/policy/signers.yaml for its owner."""

    private: Path
    public: Path
    entry: str


def new(root: Path, name: str, roles: Sequence[signers.Role], output: Path | None = None) -> New:
    """Create a private key in ``output`` (default: ``KEY`` below ``root``), with the public key beside it as .pub.

    The private key is encrypted if LOCKSTEP_KEY_PASSWORD is set. Raises MachineRefused if a file exists or git would
    add the key, EvidenceRefused for an invalid ``name``.
    """
    private = root / keys.KEY if output is None else output
    if private.is_dir():
        raise MachineRefused(
            f"{private}: is a folder", "name the file of the private key, such as lockstep.key"
        )
    public = private.with_suffix(".pub")
    if public == private:
        raise MachineRefused(
            f"{private}: is the name of a public half", "choose another name, such as lockstep.key"
        )
    ignored.check(root, private)
    key = keys.generate()
    entry = _entry(name, roles, keys.pem(key.public_key))
    keys.write_new(key, private, public)
    return New(private, public, entry)


def add_signer(
    root: Path, name: str, roles: Sequence[signers.Role], public: Path | None = None
) -> Path:
    """Add the owner of a public key to release/policy/signers.yaml in the work tree. Returns its path below ``root``.

    The signer counts once the file is on the target branch. ``public`` is by default the public half of ``KEY``. Raises
    EvidenceRefused if the file or key is invalid or the name or key is already listed.
    """
    source = public or root / keys.KEY.with_suffix(".pub")
    try:
        pem = keys.pem(keys.public(source.read_text(encoding="utf-8"), str(source)))
    except (OSError, UnicodeDecodeError) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or "cannot be read"
        raise EvidenceRefused(f"{source}: {why}", "make a key with `lockstep keys new`") from error
    return _append(root, _entry(name, roles, pem))


def add_workflows(root: Path, repository: str, branch: str) -> Path:
    """Add the workflows that sign releases and verifications of a repository on GitHub to the signers.

    They are its own, or those that its release.yml calls at a commit. Returns and raises as ``add_signer``.
    """
    try:
        release = ((thin_files.top_of(root) or root) / workflow_signers.RELEASE).read_bytes()
    except OSError as error:
        raise EvidenceRefused(
            f"{workflow_signers.RELEASE}: {error.strerror}",
            "add the workflows: `lockstep upgrade --workflows OWNER/lockstep`",
        ) from error
    entries = [
        workflow_signers.signer(name, role, repository, branch, release).model_dump(
            mode="json", exclude_defaults=True
        )
        for name, role in workflow_signers.SIGNING
    ]
    return _append(
        root, yaml.safe_dump(entries, default_flow_style=None, sort_keys=False, width=10_000)
    )


def _append(root: Path, entries: str) -> Path:
    """Add entries to the file of signers in the work tree."""
    path = root / layout.SIGNERS
    if any(
        part.is_symlink()
        for part in (path, *(root / folder for folder in layout.SIGNERS.parents[:-1]))
    ):
        raise EvidenceRefused(
            f"{layout.SIGNERS}: is a symbolic link or below one",
            "replace it with what it points at",
        )
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    if not signers.parse(text, str(layout.SIGNERS)):
        text = "\n".join(line for line in text.splitlines() if line.lstrip().startswith("#"))
    text = text.rstrip("\n") + "\n" if text.strip() else ""
    text += entries
    keys.known(signers.parse(text, str(layout.SIGNERS)))
    files.write_text(path, text)
    return layout.SIGNERS


def _entry(name: str, roles: Sequence[signers.Role], pem: str) -> str:
    """The entry as YAML. Raises EvidenceRefused if it is invalid."""
    if not re.fullmatch(signers.NAME, name):
        raise EvidenceRefused(
            f"--name {name[:100]!r}: is not the name of a signer",
            "give a letter or digit, then letters, digits, dots, dashes, underscores and @, such as `--name ada`",
        )
    body = "".join(f"    {line}\n" for line in pem.strip().splitlines())
    text = f"- name: {plain_yaml.dump(name).partition(chr(10))[0]}\n"
    text += f"  may: [{', '.join(roles)}]\n  key: |\n{body}"
    signers.parse(text, "the new entry")
    return text
