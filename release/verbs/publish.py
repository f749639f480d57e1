"""publish: a promoted release as one revision of a repository on the Hugging Face Hub, with a tag of its version."""

import re
from pathlib import Path
from typing import Literal

from checks.formats.report import Count
from checks.process.errors import EvidenceRefused, MachineRefused, RegistryRefused
from checks.records.rows import Record
from release.adapters.hub import Hub
from release.cards import publishing

_REPOSITORY = re.compile(r"hf://([A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95})")
_KEPT = (".gitattributes",)  # the hub's own


class Published(Record):
    """``files``: path to size. ``removed``: files of the revision before that the release does not have.

    ``commit``: of the hub; None for a plan.
    """

    repository: str
    version: str
    image: str
    files: dict[str, Count]
    removed: tuple[str, ...]
    commit: str | None
    done: Literal["published", "already", "planned"]


def publish(
    root: Path, repository: str, name: str | None = None, *, dry_run: bool = False
) -> Published:
    """Make one commit of exactly the release's files, compare what the hub then lists, and tag it with the version.

    ``dry_run`` asks no hub and needs no token. Raises EvidenceRefused as ``publishing.gather``, or if the version was
    published there with other files; RegistryRefused if the hub refuses, is silent, or lists other bytes than were
    sent; MachineRefused without a token.
    """
    match = _REPOSITORY.fullmatch(repository)
    if match is None:
        raise EvidenceRefused(
            f"{repository[:100]!r}: is not hf://ORGANISATION/NAME", "name a repository of the hub"
        )
    release = publishing.gather(root, name)
    plan = Published(
        repository=repository, version=release.version, image=release.image,
        files={path: file.size for path, file in release.files.items()}, removed=(), commit=None, done="planned",
    )  # fmt: skip
    if dry_run:
        return plan
    hub = Hub(match[1])
    if not hub.has_token():
        raise MachineRefused(
            "the hub needs a token that may write", "set HF_TOKEN, or run `hf auth login`"
        )
    if tagged := hub.tags().get(release.version):
        if others := hub.revision(tagged).differences(release.files):
            raise EvidenceRefused(
                f"{repository}: {release.version} was published there with another {others[0]}",
                "a published version is not changed: publish another release, or delete the tag there by hand",
            )
        return plan.model_copy(update={"commit": tagged, "done": "already"})
    before = hub.revision()
    gone = sorted(set(before.files) - set(release.files) - set(_KEPT))
    commit = before.commit  # a run that ended before the tag has made it
    if gone or before.differences(release.files):
        commit = hub.commit(release.files, gone, f"{release.name} {release.version}", before.commit)
    after = hub.revision(commit)
    wrong = [*after.differences(release.files), *(path for path in gone if path in after.files)]
    if wrong:
        raise RegistryRefused(
            f"{repository}: lists another {wrong[0]} at {commit[:12]} than was sent",
            "look at it there, then run it again",
        )
    hub.tag(release.version, commit, f"image {release.image}\nmodel {release.model}\n")
    return plan.model_copy(update={"removed": tuple(gone), "commit": commit, "done": "published"})
