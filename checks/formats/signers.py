"""Who may sign: release/policy/signers.yaml, a file that code owners guard. It is read on the target branch.

- name: verifier
  may: [verify]
  identity: https://github.com/team/router/.github/workflows/verify.yml@refs/heads/main
  issuer: https://token.actions.githubusercontent.com
- name: ci
  may: [release]
  identity: https://github.com/OWNER/lockstep/.github/workflows/release.yml
  commits: [0123456789abcdef0123456789abcdef01234567]
  caller: https://github.com/team/router/.github/workflows/release.yml@refs/heads/main
  issuer: https://token.actions.githubusercontent.com
- name: ada
  may: [verify, release, approve]
  until: 2026-12-31
  key: |
    -----BEGIN PUBLIC KEY-----
    …
"""

import re
from collections.abc import Iterator
from datetime import UTC, date, datetime
from typing import Annotated, Literal, NamedTuple

import yaml
from pydantic import Field, TypeAdapter, ValidationError

from checks.process.errors import EvidenceRefused
from checks.records.record import Consistent, Record, problems
from checks.storage import files, plain_yaml

NAME = r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,99}$"
# One for each step that is signed: a server was verified, an image is a release, a release may run somewhere, the
# history of the environments is whole, the sealed split was asked, harvested rows may be trained on.
Role = Literal["verify", "release", "approve", "checkpoint", "sealed", "harvest"]
GITHUB = "https://token.actions.githubusercontent.com"
_WORKFLOW = r"(?P<repository>https://github\.com/[^/@\s]+/[^/@\s]+)/\.github/workflows/[^/@\s]+"
# A branch: no workflow that signs runs on a tag, which anybody who may push could make or move.
_AT_REF = re.compile(_WORKFLOW + r"@(?P<ref>refs/heads/\S+)")


class Source(NamedTuple):
    """The repository (its address) and the ref whose code a job of GitHub ran."""

    repository: str
    ref: str


class Signer(Record, Consistent):
    """A person or a machine, known by a public key (PEM) or by an identity that Sigstore certifies.

    A workflow that is pinned by commit has the same identity in the jobs of everybody who calls it. So its signer names
    the ``commits`` that count, and with ``caller`` the one workflow that may call it.
    """

    name: Annotated[str, Field(pattern=NAME)]
    may: Annotated[tuple[Role, ...], Field(min_length=1)]
    # Never the private half by mistake: that is refused, and not shown.
    key: (
        Annotated[str, Field(max_length=4000, pattern=r"^\s*-----BEGIN PUBLIC KEY-----\n")] | None
    ) = None
    identity: Annotated[str, Field(min_length=1, max_length=500)] | None = None
    issuer: Annotated[str, Field(pattern=r"^https://[^\s]{1,300}$")] | None = None
    commits: tuple[Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")], ...] = ()
    caller: Annotated[str, Field(pattern=f"^{_AT_REF.pattern}$", max_length=500)] | None = None
    # The last day, in UTC. Later its signatures count only for moves that the ledger had by then.
    until: Annotated[date, Field(strict=True)] | None = None

    def contradictions(self) -> Iterator[str]:
        """Yield each contradiction."""
        has_identity = self.identity is not None
        return problems(
            (
                (self.key is None) != has_identity or (self.issuer is not None) != has_identity,
                f"{self.name}: has a key, or an identity with its issuer",
            ),
            (len(set(self.may)) < len(self.may), f"{self.name}: a role is written twice"),
            (len(set(self.commits)) < len(self.commits), f"{self.name}: a commit is written twice"),
            (
                (self.commits or self.caller or self.of_github) and not self._is_workflow(),
                (
                    f"{self.name}: a workflow of GitHub has the issuer {GITHUB} and as identity"
                    " https://github.com/OWNER/NAME/.github/workflows/FILE@refs/heads/BRANCH; one that is pinned by"
                    " commit has no @, and names `commits` and `caller`, since everybody who calls it has its identity"
                ),
            ),
        )

    def _is_workflow(self) -> bool:
        """Tell whether nobody but the source of this workflow can have its identity."""
        if not self.of_github or bool(self.commits) != bool(self.caller):
            return False
        return bool(re.fullmatch(_WORKFLOW if self.commits else _AT_REF, self.identity or ""))

    @property
    def of_github(self) -> bool:
        """Whether GitHub says whose the identity is. An enterprise has an issuer below GitHub's."""
        return f"{self.issuer}/".startswith(f"{GITHUB}/")

    @property
    def identities(self) -> tuple[str, ...]:
        """Return what a certificate may name: the identity, at each commit if there are any."""
        if self.identity is None:
            return ()
        return tuple(f"{self.identity}@{commit}" for commit in self.commits) or (self.identity,)

    @property
    def source(self) -> Source | None:
        """Return whose code a job with this identity must have run, None for a signer that is no workflow of GitHub."""
        workflow = _AT_REF.fullmatch(self.caller or self.identity or "") if self.of_github else None
        return Source(workflow["repository"], workflow["ref"]) if workflow else None

    def retired(self, at: datetime | None = None) -> bool:
        """Whether its last day is over, at that time or now."""
        return (
            self.until is not None and (at or datetime.now(UTC)).astimezone(UTC).date() > self.until
        )


Signers = tuple[Signer, ...]
_ALL: TypeAdapter[Signers] = TypeAdapter(Signers)


def parse(text: str, place: str) -> Signers:
    """Read the file; ``place`` is what messages call it. Raises EvidenceRefused when it is anything else."""
    todo = "fix it on the target branch, with the approval of its owners"
    try:
        signers = _ALL.validate_python(plain_yaml.load(text) or ())
    except ValidationError as error:
        raise EvidenceRefused(f"{place}: {files.first(error)}", todo) from error
    except (ValueError, yaml.YAMLError) as error:
        raise EvidenceRefused(
            f"{place}: is not YAML: {str(error).splitlines()[0]}", todo
        ) from error
    # Two names for one signer would count as two people.
    for what, seen in (
        ("name", [signer.name.casefold() for signer in signers]),
        ("key", ["".join(signer.key.split()) for signer in signers if signer.key]),
        (
            "identity",
            [
                (identity, signer.caller, signer.issuer)
                for signer in signers
                for identity in signer.identities
            ],
        ),
        (
            "workflow and caller, and no last day",
            [
                (signer.identity, signer.caller, signer.issuer)
                for signer in signers
                if signer.commits and not signer.until
            ],
        ),
    ):
        if len(set(seen)) < len(seen):
            raise EvidenceRefused(f"{place}: two signers have the same {what}", todo)
    return signers


def with_commit(text: str, repository: str, commit: str) -> str:
    """Return a valid file in which the pinned workflows of ``repository`` (OWNER/NAME) count at this commit, too.

    Entries with a last day stay as they are. So does one whose ``commits`` are not written as ``[A, B]``.
    """
    home, signers = f"https://github.com/{repository}/", parse(text, "signers")
    head, *entries = re.split(r"^(?=- )", text, flags=re.MULTILINE)
    for number, (signer, entry) in enumerate(zip(signers, entries, strict=False)):
        of_repository = bool(signer.commits) and f"{signer.identity}".startswith(home)
        if of_repository and signer.until is None and commit not in signer.commits:
            entries[number] = re.sub(
                r"(commits:\s*\[[^\]#]*[^\]#\s])(?=\s*\])", rf"\g<1>, '{commit}'", entry, count=1
            )
    return head + "".join(entries)
