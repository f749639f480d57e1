"""Workflows of GitHub as signers: what release/policy/signers.yaml has to say of those that a repository starts."""

import re
from pathlib import Path

from checks.formats.signers import GITHUB, Role, Signer

FOLDER = Path(".github/workflows")
# The workflow that signs, or that calls the one that signs.
RELEASE = FOLDER / "release.yml"
SIGNING: tuple[tuple[str, Role], ...] = (("ci", "release"), ("verifier", "verify"))
# A thin workflow: it calls the one of Lockstep's repository at a commit.
_PINNED = re.compile(
    rf"^ +uses: ([\w.-]+/[\w.-]+)/{re.escape(FOLDER.as_posix())}/[\w.-]+@([0-9a-f]{{40}})\b",
    re.MULTILINE,
)


def pinned(release: bytes) -> tuple[str, str] | None:
    """Return repository and commit of the workflow that release.yml calls, None if it does the work itself."""
    called = _PINNED.search(release.decode(errors="replace"))
    return (called[1], called[2]) if called else None


def signer(name: str, role: Role, repository: str, branch: str, release: bytes) -> Signer:
    """Return the entry of the workflow that signs for ``role``: the repository's own, or the one that it calls.

    ``release``: its release.yml. The entry is not validated.
    """
    own, at = f"https://github.com/{repository}/{FOLDER}", f"@refs/heads/{branch}"
    if (called := pinned(release)) is None:
        return Signer.model_construct(
            name=name, may=(role,), identity=f"{own}/{role}.yml{at}", issuer=GITHUB
        )
    return Signer.model_construct(
        name=name,
        may=(role,),
        identity=f"https://github.com/{called[0]}/{FOLDER}/{role}.yml",
        issuer=GITHUB,
        commits=(called[1],),
        caller=f"{own}/{RELEASE.name}{at}",
    )
